//! The breaker: stops creating executors when that only makes things worse.
//!
//! The executors of a fleet with a broken image fail as fast as they are started. The breaker counts
//! consecutive failed starts: executors that were lost before they were ever available, by their own failure.
//! At the limit it opens: nothing is created but one *probe* after each wait, and the waits double. A probe
//! that becomes available closes it. This combines the Job controller's back-off (10 s to 6 min) with the
//! half-open state of a circuit breaker.
//!
//! Only failures count. A pod that Rollcall removed, or that was preempted, evicted, or lost with its node,
//! says nothing about the next one.

use crate::backoff::{Backoff, Seed};
use crate::id::ExecutorId;
use crate::spec::AllocationSpec;
use crate::time::Instant;

#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    failed_in_a_row: u32,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    /// Nothing is created until then.
    Open(Instant),
    /// The probe may be created.
    AwaitingProbe,
    /// The start of this executor shows whether starts succeed again.
    AwaitingStart(ExecutorId),
}

/// The change that a report made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Nothing,
    Opened,
    Closed,
}

impl Breaker {
    pub(crate) fn new(spec: &AllocationSpec) -> Breaker {
        let backoff = Backoff::new(spec.initial_backoff_ms, spec.max_backoff_ms);
        Breaker { state: State::Closed, failed_in_a_row: 0, backoff }
    }

    /// How many executors the breaker permits to be created.
    pub(crate) fn permits(&self, now: Instant) -> u32 {
        match self.state {
            State::Closed => u32::MAX,
            State::Open(until) if until <= now => 1,
            State::AwaitingProbe => 1,
            State::Open(_) | State::AwaitingStart(_) => 0,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Open(until) => Some(until),
            State::Closed | State::AwaitingProbe | State::AwaitingStart(_) => None,
        }
    }

    pub(crate) fn failed_in_a_row(&self) -> u32 {
        self.failed_in_a_row
    }

    pub(crate) fn created(&mut self, executor: ExecutorId, now: Instant) {
        if self.is_open() && self.permits(now) > 0 {
            self.state = State::AwaitingStart(executor);
        }
    }

    /// A recently created executor is available.
    pub(crate) fn started(&mut self) -> Turn {
        let turn = if self.is_open() { Turn::Closed } else { Turn::Nothing };
        self.reset();
        turn
    }

    /// A start failed, by the executor's own failure.
    pub(crate) fn failed(&mut self, executor: ExecutorId, now: Instant, max: u32, seed: &mut Seed) -> Turn {
        self.failed_in_a_row = self.failed_in_a_row.saturating_add(1);
        match self.state {
            State::Closed if self.failed_in_a_row >= max => {
                self.open(now, seed);
                Turn::Opened
            }
            State::AwaitingStart(probe) if probe == executor => {
                self.open(now, seed);
                Turn::Nothing
            }
            State::Closed | State::Open(_) | State::AwaitingProbe | State::AwaitingStart(_) => Turn::Nothing,
        }
    }

    /// Nothing has to be started, and the wait is over: the breaker closes. Returns whether it was open.
    pub(crate) fn rested(&mut self, now: Instant) -> bool {
        let over = match self.state {
            State::Open(until) => until <= now,
            State::AwaitingProbe => true,
            State::Closed | State::AwaitingStart(_) => false,
        };
        if over {
            self.reset();
        }
        over
    }

    /// The executor ended without a failed start: if it was the probe, another is needed.
    pub(crate) fn forget(&mut self, executor: ExecutorId) {
        if self.state == State::AwaitingStart(executor) {
            self.state = State::AwaitingProbe;
        }
    }

    pub(crate) fn reset(&mut self) {
        self.state = State::Closed;
        self.failed_in_a_row = 0;
        self.backoff.reset();
    }

    fn open(&mut self, now: Instant, seed: &mut Seed) {
        self.state = State::Open(now + self.backoff.failed_ms(seed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{FleetSpec, Mode};

    fn at(seconds: u64) -> Instant {
        Instant::from_ms(seconds * 1_000)
    }

    #[test]
    fn it_opens_probes_and_closes() {
        let spec = FleetSpec::new("f", "app", Mode::Own, "driver".into(), 3).allocation;
        let mut breaker = Breaker::new(&spec);
        let mut seed = Seed::new(3);
        let mut fail = |breaker: &mut Breaker, id, now| breaker.failed(ExecutorId(id), now, 3, &mut seed);
        assert_eq!(fail(&mut breaker, 1, at(0)), Turn::Nothing);
        assert_eq!(breaker.started(), Turn::Nothing);
        assert_eq!(fail(&mut breaker, 2, at(0)), Turn::Nothing);
        assert_eq!(fail(&mut breaker, 3, at(0)), Turn::Nothing);
        assert_eq!(breaker.permits(at(0)), u32::MAX);
        assert_eq!(fail(&mut breaker, 4, at(0)), Turn::Opened, "three in a row");
        assert_eq!(breaker.permits(at(7)), 0);
        assert_eq!(breaker.permits(at(10)), 1);
        breaker.created(ExecutorId(5), at(10));
        assert_eq!(breaker.permits(at(10)), 0, "one probe");
        assert_eq!(fail(&mut breaker, 2, at(11)), Turn::Nothing, "an older one says nothing new");
        assert_eq!(breaker.permits(at(30)), 0);
        assert_eq!(fail(&mut breaker, 5, at(20)), Turn::Nothing);
        assert_eq!(breaker.permits(at(34)), 0, "twice the wait");
        assert_eq!(breaker.permits(at(40)), 1);
        breaker.created(ExecutorId(6), at(40));
        breaker.forget(ExecutorId(6));
        assert_eq!(breaker.permits(at(41)), 1, "a probe that was preempted says nothing");
        breaker.created(ExecutorId(7), at(41));
        assert_eq!(breaker.started(), Turn::Closed);
        assert_eq!(breaker.permits(at(41)), u32::MAX);
    }
}
