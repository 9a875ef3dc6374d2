//! Standing still: a host that did nothing for a while finds that out, and says it before it does anything else.
//!
//! A process is stopped and goes on, a machine is starved of CPU, a turn of the loop takes long. Meanwhile
//! signs of life lie in socket buffers and queues, and the first thing that a loop would do when it comes
//! round is to find deadlines that have passed. So the loop looks at its clock with every turn and before
//! every step, and comes round at least once a *pulse* even when nothing happens. A gap of more than two
//! pulses is a standstill, and every fleet is told of it as an impairment of its hearing.
//!
//! Why a standstill that is not seen does no harm by itself: the pulse is at most an eighth of the shortest
//! timeout, so what goes unseen is at most a quarter of a timeout. A timeout is at least two intervals, so
//! between two heartbeats of a healthy executor there is at most half of it. Both together are three
//! quarters, and the last quarter is for the network. A beat that was lost on its way besides may still find
//! its executor given up, and takes that back when it is read (`recovery`).
//!
//! What it cannot see: a machine that is suspended stops the monotonic clock with everything else, so nothing is
//! late by it; and a starved listener beside a loop that comes round in time is only seen by what it drops.
//!
//! Rejected: comparing with the deadline that the loop slept for. A loop that comes round a moment after
//! its deadline may have slept through all the beats before it.

use crate::time::Instant;

/// The loop of a host with the default timeout of 120 s comes round every two seconds.
const PULSE_MAX_MS: u64 = 2_000;
/// An eighth of the shortest timeout that a spec may have: two intervals of 500 ms.
const PULSE_MIN_MS: u64 = 125;
/// So many pulses in a timeout, at least.
const PULSES: u64 = 8;

/// Watches over one loop.
#[derive(Clone, Copy, Debug)]
pub struct Standstill {
    last: Instant,
    pulse_ms: u64,
}

impl Standstill {
    /// The loop begins.
    pub fn new(now: Instant) -> Standstill {
        Standstill { last: now, pulse_ms: PULSE_MAX_MS }
    }

    /// The shortest heartbeat timeout of all fleets; `None`: there is none.
    pub fn follow(&mut self, timeout_ms: Option<u64>) {
        let eighth = timeout_ms.map_or(PULSE_MAX_MS, |timeout_ms| timeout_ms / PULSES);
        self.pulse_ms = eighth.clamp(PULSE_MIN_MS, PULSE_MAX_MS);
    }

    /// The loop comes round at least so often.
    pub fn pulse_ms(&self) -> u64 {
        self.pulse_ms
    }

    /// A shorter gap is none.
    pub fn unseen_max_ms(&self) -> u64 {
        2 * self.pulse_ms
    }

    /// To be said before anything is done. For how long nothing was done, if that was too long.
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

    /// The arithmetic of the opening text, for every timeout that a spec may have.
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
