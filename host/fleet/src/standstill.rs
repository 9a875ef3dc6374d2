//! Detection of a stalled host: a host that did nothing for a while reports that before it does anything else.
//!
//! A process is stopped and continued, a machine is starved of CPU, or one iteration of the loop takes long. In
//! the meantime heartbeats wait in socket buffers and queues, and the first thing that the loop would do
//! afterwards is to find deadlines that have passed. So the loop checks its clock in every iteration and before
//! every step, and iterates at least once per *pulse* even when nothing happens. A gap of more than two pulses
//! is a standstill, and every fleet is notified of it as an impairment of the heartbeat path.
//!
//! Why an undetected standstill does no harm by itself: the pulse is at most an eighth of the shortest timeout,
//! so an undetected gap is at most a quarter of a timeout. A timeout is at least two intervals, so the time
//! between two heartbeats of a healthy executor is at most half of it. Together they are three quarters, and
//! the last quarter is for the network. If a heartbeat is lost in addition, the executor may still be given up;
//! that is reverted when the next heartbeat is read (`lifecycle::start`).
//!
//! What it cannot detect: a suspended machine stops the monotonic clock as well, so nothing is late by that
//! clock; and a starved listener beside a loop that is on time is only detected by the heartbeats that it
//! drops.
//!
//! Rejected: comparing with the deadline that the loop slept for. A loop that wakes shortly after its deadline
//! may have slept through all the heartbeats before it.

use crate::time::Instant;

/// With the default timeout of 120 s the loop iterates every two seconds.
const PULSE_MAX_MS: u64 = 2_000;
/// An eighth of the shortest timeout that a spec may have: two intervals of 500 ms.
const PULSE_MIN_MS: u64 = 125;
/// Minimum number of pulses in a timeout.
const PULSES: u64 = 8;

/// Watches one loop.
#[derive(Clone, Copy, Debug)]
pub struct Standstill {
    last: Instant,
    pulse_ms: u64,
}

impl Standstill {
    /// The loop starts.
    pub fn new(now: Instant) -> Standstill {
        Standstill { last: now, pulse_ms: PULSE_MAX_MS }
    }

    /// The shortest heartbeat timeout of all fleets; `None`: there is no fleet with heartbeats.
    pub fn follow(&mut self, timeout_ms: Option<u64>) {
        let eighth = timeout_ms.map_or(PULSE_MAX_MS, |timeout_ms| timeout_ms / PULSES);
        self.pulse_ms = eighth.clamp(PULSE_MIN_MS, PULSE_MAX_MS);
    }

    /// Maximum period of the loop.
    pub fn pulse_ms(&self) -> u64 {
        self.pulse_ms
    }

    /// A gap that is not longer than this is not a standstill.
    pub fn unseen_max_ms(&self) -> u64 {
        2 * self.pulse_ms
    }

    /// To be called before anything else. Returns how long the loop did nothing, if that was too long.
    pub fn look(&mut self, now: Instant) -> Option<u64> {
        let gap_ms = now.since_ms(self.last);
        self.last = self.last.max(now);
        (gap_ms > self.unseen_max_ms()).then_some(gap_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_ms(ms)
    }

    #[test]
    fn a_gap_of_more_than_two_pulses_is_a_standstill_and_is_said_once() {
        let mut standstill = Standstill::new(at(0));
        standstill.follow(Some(120_000));
        assert_eq!(standstill.look(at(2_000)), None, "nothing happened for a pulse");
        assert_eq!(standstill.look(at(6_000)), None);
        assert_eq!(standstill.look(at(10_001)), Some(4_001));
        assert_eq!(standstill.look(at(10_001)), None, "it was said");
        assert_eq!(standstill.look(at(9_000)), None, "time does not go back");
        assert_eq!(standstill.look(at(14_001)), None);
    }

    /// The arithmetic of the module documentation, for every timeout that a spec may have.
    #[test]
    fn what_goes_unseen_is_at_most_a_quarter_of_a_timeout() {
        let mut standstill = Standstill::new(at(0));
        for timeout_ms in [1_000, 1_001, 1_999, 5_000, 15_999, 16_000, 20_000, 120_000, u64::MAX] {
            standstill.follow(Some(timeout_ms));
            assert!(standstill.unseen_max_ms() <= timeout_ms / 4, "{timeout_ms}");
            assert!((125..=2_000).contains(&standstill.pulse_ms()), "{timeout_ms}");
        }
        standstill.follow(None);
        assert_eq!(standstill.pulse_ms(), 2_000);
    }
}
