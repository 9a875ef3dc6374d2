//! What lines cost: a token bucket for each connection, and over UDP for each address.

use std::time::Duration;

use tokio::time::Instant;

use super::Limits;
use super::batch::Heard;

/// The cost of a new batch, in lines: it takes locks, allocates, and ends as a message. So one connection makes at most
/// 100 heartbeats a second on average.
const BATCH_LINES: u32 = 20;
/// For a relay, which reports for many executors (`heartbeat.checkPeer: false`), this many lines cost as much as one,
/// and so does a new batch: 40,000 lines a second, about 3,000 executors that report every 10 s.
const RELAY_LINES: u32 = 20;

/// What lines cost.
#[derive(Debug, Default)]
pub struct Price {
    relayed_lines: u32,
}

impl Price {
    /// `relayed`: the batch belongs to a fleet that accepts lines from any address.
    pub fn of(&mut self, heard: Heard, relayed: bool) -> u32 {
        match heard {
            Heard::First if relayed => 1,
            Heard::First | Heard::Refused => BATCH_LINES,
            Heard::More if relayed => {
                self.relayed_lines = (self.relayed_lines + 1) % RELAY_LINES;
                u32::from(self.relayed_lines == 0)
            }
            Heard::More | Heard::Nothing => 1,
        }
    }
}

/// Lines per second, with a burst: a token bucket, stored as the time at which it will be full.
#[derive(Debug)]
pub struct Bucket {
    per_line: Duration,
    burst: Duration,
    full_at: Instant,
}

impl Bucket {
    pub fn new(limits: &Limits, now: Instant) -> Bucket {
        let per_line = Duration::from_secs(1) / limits.lines_per_s.max(1);
        Bucket { per_line, burst: per_line * limits.burst_lines, full_at: now }
    }

    /// How long to wait before reading more. One buffer costs at most 9,000 lines, so at the default rate at most 5 s.
    pub fn charge(&mut self, lines: u32, now: Instant) -> Duration {
        self.full_at = self.full_at.max(now) + self.per_line * lines;
        (self.full_at - now).saturating_sub(self.burst)
    }

    /// Is it empty?
    pub fn is_empty(&self, now: Instant) -> bool {
        self.full_at.saturating_duration_since(now) >= self.burst
    }

    /// Is it full, and so equal to a new one?
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_the_rate() {
        let now = Instant::now();
        let limits = Limits { lines_per_s: 100, burst_lines: 10, ..Limits::default() };
        let mut bucket = Bucket::new(&limits, now);
        assert_eq!(bucket.charge(10, now), Duration::ZERO);
        assert_eq!(bucket.charge(5, now), Duration::from_millis(50));
        assert_eq!(bucket.charge(0, now + Duration::from_millis(50)), Duration::ZERO);
        assert_eq!(bucket.charge(10, now + Duration::from_secs(9)), Duration::ZERO);
    }
}
