//! The rolls in progress, and when the next decision is due.

use std::collections::VecDeque;

use crate::guardrail::Refusal;
use crate::id::{ActionId, ExecutorId};
use crate::spec::RollSpec;
use crate::time::Instant;

#[derive(Debug)]
pub(crate) struct Rolls {
    pub state: State,
    /// Executors that were picked and are not gone, in the order of the picks.
    pub under_way: Vec<Roll>,
    /// Start times of rolls within the last hour.
    pub begun: VecDeque<Instant>,
    pub ended: Option<Instant>,
    /// An operator requested it: the interval, windows and cool-down do not apply.
    pub forced: bool,
    /// Why the last decision rolled no executor.
    pub refused: Option<Refusal>,
    /// Used by operators' rolls of fleets that have no roll policy.
    pub by_hand: RollSpec,
}

#[derive(Debug)]
pub(crate) enum State {
    /// Rolling is disabled.
    Off,
    /// The next decision is due at that time.
    Resting(Instant),
    AwaitingPicks {
        action: ActionId,
        offered: Vec<ExecutorId>,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Roll {
    pub executor: ExecutorId,
    pub since: Instant,
    /// Why the roll is held back.
    pub held: Option<Refusal>,
}

impl Rolls {
    pub(crate) fn new() -> Rolls {
        Rolls {
            state: State::Off,
            under_way: Vec::new(),
            begun: VecDeque::new(),
            ended: None,
            forced: false,
            refused: None,
            by_hand: RollSpec::new(""),
        }
    }

    pub(crate) fn start(&mut self, spec: Option<&RollSpec>, now: Instant) {
        self.state = spec.map_or(State::Off, |spec| State::Resting(now + spec.interval_ms));
    }

    /// Applies a new spec: rolls in progress continue; the next decision follows the new interval.
    pub(crate) fn respec(&mut self, spec: Option<&RollSpec>, now: Instant) {
        match (&self.state, spec) {
            (_, None) => self.state = State::Off,
            (State::Off, Some(spec)) => self.state = State::Resting(now + spec.interval_ms),
            (State::Resting(due), Some(spec)) => {
                self.state = State::Resting((*due).min(now + spec.interval_ms));
            }
            (State::AwaitingPicks { .. }, Some(_)) => {}
        }
    }
}
