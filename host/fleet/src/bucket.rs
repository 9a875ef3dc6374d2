//! A token bucket: a burst size, and a rate.

use crate::time::Instant;

/// Holds up to `size` tokens, and regains `size` of them per `per_ms`.
///
/// In any span of time it therefore gives at most `size` tokens, and `size` more for each `per_ms`.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// When the bucket will be, or was, full: each token taken moves this by `per_ms / size`. Stored in
    /// microseconds, so that sizes beyond `per_ms` stay exact enough.
    full_at_us: u64,
}

impl Bucket {
    pub(crate) fn new() -> Bucket {
        Bucket { full_at_us: 0 }
    }

    /// The number of tokens.
    pub(crate) fn level(&self, now: Instant, size: u32, per_ms: u64) -> u32 {
        let missing_us = self.full_at_us.saturating_sub(now.as_ms() * 1_000);
        let missing = missing_us.div_ceil(step_us(size, per_ms));
        size.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// Take one token; the owner has checked the level.
    pub(crate) fn take(&mut self, now: Instant, size: u32, per_ms: u64) {
        self.full_at_us = self.full_at_us.max(now.as_ms() * 1_000) + step_us(size, per_ms);
    }

    /// When the next token will be available.
    pub(crate) fn next(&self, size: u32, per_ms: u64) -> Instant {
        let others_us = step_us(size, per_ms) * u64::from(size.saturating_sub(1));
        Instant::from_ms(self.full_at_us.saturating_sub(others_us).div_ceil(1_000))
    }
}

fn step_us(size: u32, per_ms: u64) -> u64 {
    (per_ms * 1_000 / u64::from(size.max(1))).max(1)
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
}
