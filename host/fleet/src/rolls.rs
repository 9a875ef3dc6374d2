//! The rolls in progress, and when the next decision is due.

use std::collections::VecDeque;

use crate::guardrail::Refusal;
use crate::id::{ActionId, ExecutorId};
use crate::spec::RollSpec;
use crate::time::Instant;

pub(crate) const HOUR_MS: u64 = 3_600_000;
/// A decision that a guard-rail postponed is repeated after this.
const PUT_OFF_MS: u64 = 30_000;

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

    /// Is a roll in progress, or a decision due?
    pub(crate) fn has_work(&self, now: Instant) -> bool {
        !self.under_way.is_empty() || self.is_due(now)
    }

    /// Is a decision due?
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, State::Resting(due) if now >= due || self.forced)
    }

    /// The executors that the open question offers, if this action asked it.
    pub(crate) fn offered_by(&self, question: ActionId) -> Option<&[ExecutorId]> {
        match &self.state {
            State::AwaitingPicks { action, offered } if *action == question => Some(offered),
            State::AwaitingPicks { .. } | State::Off | State::Resting(_) => None,
        }
    }

    /// A decision is over: the next one follows after the interval.
    pub(crate) fn rest(&mut self, refused: Option<Refusal>, spec: Option<&RollSpec>, now: Instant) {
        self.refused = refused;
        self.state = spec.map_or(State::Off, |spec| State::Resting(now + spec.interval_ms));
    }

    /// No policy is asked now. Conditions that only time can change are checked again soon; an operator's request
    /// ends here. Returns whether the reason is new.
    pub(crate) fn put_off(&mut self, refusal: Refusal, spec: &RollSpec, now: Instant) -> bool {
        let wait_ms =
            if refusal == Refusal::NoCandidate { spec.interval_ms } else { PUT_OFF_MS.min(spec.interval_ms) };
        self.forced = false;
        self.state = State::Resting(now + wait_ms);
        self.refused.replace(refusal) != Some(refusal)
    }

    /// A roll begins, if `may`. A dry run proposes no more rolls than would be started.
    pub(crate) fn begin(
        &mut self,
        executor: ExecutorId,
        may: Result<(), Refusal>,
        by_hand: bool,
        now: Instant,
    ) -> Result<(), Refusal> {
        if may.is_ok() || may == Err(Refusal::DryRun) && !by_hand {
            self.begun.push_back(now);
        }
        may?;
        self.under_way.push(Roll { executor, since: now, held: None });
        Ok(())
    }

    /// Forgets rolls that count towards no limit any more.
    pub(crate) fn forget_old(&mut self, now: Instant) {
        self.begun.retain(|begun| now.since_ms(*begun) < HOUR_MS);
    }

    /// When a decision is due, or a roll in progress may continue. `waits_ms`: what rolls wait for, from their
    /// beginning. `calm`: when a mass loss ends.
    pub(crate) fn deadline(
        &self,
        waits_ms: [u64; 2],
        calm: Option<Instant>,
        now: Instant,
    ) -> Option<Instant> {
        let due = match self.state {
            State::Resting(due) => Some(due),
            State::Off | State::AwaitingPicks { .. } => None,
        };
        let expiry = self.under_way.iter().flat_map(|roll| waits_ms.map(|wait_ms| roll.since + wait_ms));
        let expiry = expiry.filter(|at| *at > now).min();
        let calm = calm.filter(|at| *at > now && !self.under_way.is_empty());
        due.into_iter().chain(expiry).chain(calm).min()
    }
}
