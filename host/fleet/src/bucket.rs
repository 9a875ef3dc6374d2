//! A token bucket: a burst size, and a rate.
//!
//! It is stored as the time at which it will be full, which is all that there is to know about it.

use std::ops::{Add, Sub};
use std::time::Duration;

use crate::time::Instant;

/// Up to `size` tokens, and one more every `every`.
///
/// In any span of time a bucket therefore gives at most `size` tokens, and one more for each `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The tokens of a full bucket: this many can be spent at once without debt.
    pub size: u32,
    /// How long it takes to gain one token.
    pub every: Duration,
}

/// A bucket of a [`Rate`]. `T` is an instant of its owner's clock, or the time since a start.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<T = Duration> {
    /// When it will be, or was, full.
    full_at: T,
}

impl<T: Copy + Ord + Add<Duration, Output = T> + Sub<Output = Duration>> Bucket<T> {
    /// A bucket with all its tokens.
    pub fn full(now: T) -> Bucket<T> {
        Bucket { full_at: now }
    }

    /// Has it all its tokens? Then a new bucket is the same.
    pub fn is_full(&self, now: T) -> bool {
        self.full_at <= now
    }

    /// How long until it has this many tokens; zero if it has them. It may owe tokens: then 0 tokens take time, too.
    pub fn wait(&self, tokens: u32, rate: Rate, now: T) -> Duration {
        (self.missing(now) + rate.every * tokens).saturating_sub(rate.every * rate.size)
    }

    /// Takes tokens. What it does not have, it owes.
    pub fn spend(&mut self, tokens: u32, rate: Rate, now: T) {
        self.full_at = self.full_at.max(now) + rate.every * tokens;
    }

    /// Returns tokens that were spent and not used.
    pub fn give_back(&mut self, tokens: u32, rate: Rate, now: T) {
        self.full_at = now + self.missing(now).saturating_sub(rate.every * tokens);
    }

    /// How long until it is full.
    fn missing(&self, now: T) -> Duration {
        self.full_at.max(now) - now
    }
}

/// For the core, whose rates are so many per so long, and may change while a bucket exists.
impl Bucket {
    pub(crate) fn new() -> Bucket {
        Bucket::full(Duration::ZERO)
    }

    /// The number of tokens.
    pub(crate) fn level(&self, now: Instant, size: u32, per_ms: u64) -> u32 {
        let every = rate(size, per_ms).every;
        let missing = self.missing(since_start(now)).as_micros().div_ceil(every.as_micros());
        size.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// Take one token; the owner has checked the level.
    pub(crate) fn take(&mut self, now: Instant, size: u32, per_ms: u64) {
        self.spend(1, rate(size, per_ms), since_start(now));
    }

    /// When the next token will be available.
    pub(crate) fn next(&self, size: u32, per_ms: u64) -> Instant {
        let others = rate(size, per_ms).every * size.saturating_sub(1);
        let at = self.full_at.saturating_sub(others);
        Instant::from_ms(u64::try_from(at.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX))
    }
}

/// In microseconds, so that sizes beyond `per_ms` stay exact enough.
fn rate(size: u32, per_ms: u64) -> Rate {
    let every_us = (per_ms * 1_000 / u64::from(size.max(1))).max(1);
    Rate { size, every: Duration::from_micros(every_us) }
}

fn since_start(now: Instant) -> Duration {
    Duration::from_millis(now.as_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_its_size_at_once_and_its_size_per_time() {
        let mut bucket = Bucket::new();
        let mut given = 0;
        let mut first_second = 0;
        for ms in 0..10_000 {
            let now = Instant::from_ms(ms);
            while bucket.level(now, 20, 1_000) > 0 {
                bucket.take(now, 20, 1_000);
                given += 1;
            }
            assert!(bucket.next(20, 1_000) > now && bucket.next(20, 1_000) <= now + 50);
            if ms == 0 {
                first_second = given;
            }
        }
        assert_eq!(first_second, 20);
        assert!((215..=220).contains(&given), "{given} in ten seconds");
    }

    #[test]
    fn it_owes_what_it_did_not_have_and_takes_back_what_was_not_used() {
        let rate = Rate { size: 10, every: Duration::from_millis(10) };
        let now = Duration::from_secs(1);
        let mut bucket = Bucket::full(now);
        bucket.spend(10, rate, now);
        assert_eq!(bucket.wait(0, rate, now), Duration::ZERO);
        assert_eq!(bucket.wait(1, rate, now), Duration::from_millis(10));
        bucket.spend(5, rate, now);
        assert_eq!(bucket.wait(0, rate, now), Duration::from_millis(50));
        bucket.give_back(6, rate, now);
        assert_eq!(bucket.wait(1, rate, now), Duration::ZERO);
        assert!(!bucket.is_full(now) && bucket.is_full(now + Duration::from_millis(90)));
        bucket.spend(10, rate, now + Duration::from_secs(9));
        assert_eq!(bucket.wait(0, rate, now + Duration::from_secs(9)), Duration::ZERO);
    }
}
