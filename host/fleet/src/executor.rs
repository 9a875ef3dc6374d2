//! The state of one executor, and the table of all executors.
//!
//! ```text
//!  AwaitingCreate ─► AwaitingStart ─► AwaitingRegistration ─► Available       counts towards the target
//!    │     ▲                 │                  │                 │
//!    ▼     │                 └───────┬──────────┴─────────────────┤
//!  AwaitingConfirmation              │ lost                       │ ours: roll, scale-down
//!    ▼                               ▼                            ▼
//!  AwaitingLateCreate         AwaitingReason              AwaitingAnnouncement
//!                                    ▼                            ▼
//!                             AwaitingRecord ◄─────────────  AwaitingExit ◄── others' deletion
//!                                    ▼
//!                      AwaitingRemoval, Kept, forgotten
//! ```
//!
//! One way back is not drawn: from AwaitingReason to Available, for an executor that was lost by its silence
//! alone and is heard again.
//!
//! Stages are named for what they await. Whether an executor counts as serving, live or terminating is never
//! stored: it follows from stage and pod, and the roster updates the sums on every change. So the sums always
//! match the executors.

use std::collections::{BTreeMap, BTreeSet};

use crate::backoff::Backoff;
use crate::event::Counters;
use crate::heartbeat::Detector;
use crate::id::{ActionId, ExecutorId};
use crate::observed::{Phase, PodView};
use crate::question::{DeletionCause, Trigger};
use crate::time::Instant;

#[derive(Debug)]
pub(crate) struct Executor {
    pub stage: Stage,
    /// When the executor entered this stage.
    pub since: Instant,
    /// Its pod as last seen.
    pub pod: Option<Box<PodView>>,
    /// The pod is gone from the API server.
    pub gone: bool,
    pub detector: Detector,
    /// It was heard, or its driver knows it, under this host or an earlier one.
    pub registered: bool,
    /// It has been available before.
    pub proven: bool,
    /// It was picked to be rolled, and its removal was not requested yet.
    pub rolling: bool,
    /// When this host or an earlier one created it, as far as this host knows.
    pub created: Instant,
    /// The lost executor that it replaces, until its pod exists.
    pub replaces: Option<ExecutorId>,
    pub driver_said: Option<Box<str>>,
    pub facts: Option<Box<Facts>>,
    /// A GET in flight that shows whether the pod is stuck, or only our view of it.
    pub look: Option<ActionId>,
    /// When it needs attention next.
    wake: Instant,
}

/// Metrics that the executor reported about itself, and counters that the driver reported about it.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub counters: Option<Counters>,
    /// When the driver reported them.
    pub counted: Instant,
    /// Aligned with the fleet's metric names; NaN where there is none.
    pub metrics: Vec<f64>,
}

#[derive(Debug)]
pub(crate) enum Stage {
    /// The create was sent. From here on it counts as live.
    AwaitingCreate(ActionId),
    /// The create may or may not have been applied, or the name was taken: a GET tells.
    AwaitingConfirmation(Confirmation),
    /// A GET found nothing, yet the create may still arrive. The fleet does not wait for it, but the place
    /// under the ceiling stays reserved.
    AwaitingLateCreate,
    /// The pod is pending.
    AwaitingStart,
    /// The pod runs; the executor has not been heard yet.
    AwaitingRegistration,
    Available,
    /// The fleet decided to remove it; that has to be recorded in the ledger first, with the write of this mark.
    AwaitingAnnouncement {
        cause: DeletionCause,
        mark: u64,
    },
    /// The pod is being removed: by Rollcall if there is a cause, otherwise by another client.
    AwaitingExit {
        cause: Option<DeletionCause>,
        removal: Option<Removal>,
    },
    /// It is lost; the classifier is asked why.
    AwaitingReason(Loss),
    /// Its end is recorded in the ledger with the write of this mark.
    AwaitingRecord {
        mark: u64,
        then: Then,
    },
    /// Its end is recorded; its pod has to be removed.
    AwaitingRemoval(Removal),
    /// Its end is recorded; its pod is kept for debugging.
    Kept,
}

#[derive(Debug)]
pub(crate) struct Confirmation {
    /// The name was taken: our create was not applied, regardless of which pod has the name.
    pub taken: bool,
    /// The GET in flight; without one the next is due at the executor's wake time.
    pub get: Option<ActionId>,
    pub backoff: Backoff,
}

#[derive(Debug)]
pub(crate) struct Loss {
    pub trigger: Trigger,
    /// When it was last heard at that time: a later heartbeat does not belong to the silence for which it was
    /// given up.
    pub heard: Option<Instant>,
    /// Checks that ended undetermined.
    pub checks: u32,
    /// The question in flight.
    pub asked: Option<ActionId>,
}

/// What happens to the pod of a settled executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The pod is gone, or the driver removes it.
    Forget,
    Clear,
    Keep,
}

/// The deletion of a pod: requested until it is accepted.
#[derive(Debug)]
pub(crate) struct Removal {
    /// Use the eviction API, which honours PodDisruptionBudgets.
    pub evict: bool,
    /// The call in flight; without one the next is due at the executor's wake time.
    pub call: Option<ActionId>,
    /// The API server accepted it: only the pod's end is awaited.
    pub accepted: bool,
    /// A PodDisruptionBudget refused it.
    pub over_budget: bool,
    /// The outcome of an earlier call is unknown: until this time it may still be applied.
    pub doubtful_until: Instant,
    pub backoff: Backoff,
}

impl Removal {
    pub(crate) fn new(evict: bool) -> Removal {
        let backoff = Backoff::new(1_000, 360_000);
        Removal {
            evict,
            call: None,
            accepted: false,
            over_budget: false,
            doubtful_until: Instant::START,
            backoff,
        }
    }
}

impl Removal {
    /// May the pod be gone because of our request?
    pub(crate) fn was_asked_for(&self) -> bool {
        self.accepted || self.call.is_some() || self.doubtful_until > Instant::START
    }
}

impl Stage {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Stage::AwaitingCreate(_) => "awaiting-create",
            Stage::AwaitingConfirmation(_) => "awaiting-confirmation",
            Stage::AwaitingLateCreate => "awaiting-late-create",
            Stage::AwaitingStart => "awaiting-start",
            Stage::AwaitingRegistration => "awaiting-registration",
            Stage::Available => "available",
            Stage::AwaitingAnnouncement { .. } => "awaiting-announcement",
            Stage::AwaitingExit { .. } => "awaiting-exit",
            Stage::AwaitingReason(_) => "awaiting-reason",
            Stage::AwaitingRecord { .. } => "awaiting-record",
            Stage::AwaitingRemoval(_) => "awaiting-removal",
            Stage::Kept => "kept",
        }
    }

    /// Does it count towards the target?
    pub(crate) fn serves(&self) -> bool {
        match self {
            Stage::AwaitingCreate(_)
            | Stage::AwaitingConfirmation(_)
            | Stage::AwaitingStart
            | Stage::AwaitingRegistration
            | Stage::Available => true,
            Stage::AwaitingLateCreate
            | Stage::AwaitingAnnouncement { .. }
            | Stage::AwaitingExit { .. }
            | Stage::AwaitingReason(_)
            | Stage::AwaitingRecord { .. }
            | Stage::AwaitingRemoval(_)
            | Stage::Kept => false,
        }
    }

    /// Can it still become lost?
    pub(crate) fn can_be_lost(&self) -> bool {
        match self {
            Stage::AwaitingCreate(_)
            | Stage::AwaitingConfirmation(_)
            | Stage::AwaitingLateCreate
            | Stage::AwaitingReason(_)
            | Stage::AwaitingRecord { .. }
            | Stage::AwaitingRemoval(_)
            | Stage::Kept => false,
            Stage::AwaitingStart
            | Stage::AwaitingRegistration
            | Stage::Available
            | Stage::AwaitingAnnouncement { .. }
            | Stage::AwaitingExit { .. } => true,
        }
    }

    /// The deletion in progress.
    pub(crate) fn removal(&self) -> Option<&Removal> {
        if let Stage::AwaitingExit { removal: Some(removal), .. } | Stage::AwaitingRemoval(removal) = self {
            Some(removal)
        } else {
            None
        }
    }

    pub(crate) fn removal_mut(&mut self) -> Option<&mut Removal> {
        if let Stage::AwaitingExit { removal: Some(removal), .. } | Stage::AwaitingRemoval(removal) = self {
            Some(removal)
        } else {
            None
        }
    }

    /// It is to be removed as surplus, and its removal has not been requested yet.
    pub(crate) fn can_be_recalled(&self) -> bool {
        match self {
            Stage::AwaitingAnnouncement { cause, .. } => *cause == DeletionCause::ScaleDown,
            Stage::AwaitingExit { cause, removal: Some(removal) } => {
                *cause == Some(DeletionCause::ScaleDown) && !removal.was_asked_for()
            }
            Stage::AwaitingExit { removal: None, .. }
            | Stage::AwaitingCreate(_)
            | Stage::AwaitingConfirmation(_)
            | Stage::AwaitingLateCreate
            | Stage::AwaitingStart
            | Stage::AwaitingRegistration
            | Stage::Available
            | Stage::AwaitingReason(_)
            | Stage::AwaitingRecord { .. }
            | Stage::AwaitingRemoval(_)
            | Stage::Kept => false,
        }
    }

    /// Is only the end of its pod awaited, regardless of who requested it?
    pub(crate) fn awaits_end(&self) -> bool {
        matches!(self, Stage::AwaitingExit { .. } | Stage::AwaitingRemoval(_))
    }

    /// The cause of its removal, if Rollcall removes it.
    pub(crate) fn leaving(&self) -> Option<DeletionCause> {
        if let Stage::AwaitingExit { cause, .. } = self { *cause } else { None }
    }

    /// Has its pod been created, as far as this host knows?
    fn is_born(&self) -> bool {
        !matches!(self, Stage::AwaitingCreate(_) | Stage::AwaitingConfirmation(_) | Stage::AwaitingLateCreate)
    }

    /// Is its end counted in the ledger?
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self, Stage::AwaitingRecord { .. } | Stage::AwaitingRemoval(_) | Stage::Kept)
    }
}

impl Executor {
    pub(crate) fn new(stage: Stage, now: Instant) -> Executor {
        Executor {
            stage,
            since: now,
            pod: None,
            gone: false,
            detector: Detector::new(now),
            registered: false,
            proven: false,
            rolling: false,
            created: now,
            replaces: None,
            driver_said: None,
            facts: None,
            look: None,
            wake: Instant::NEVER,
        }
    }

    /// The name of the stage for users.
    pub(crate) fn stage_name(&self) -> &'static str {
        if self.rolling { "rolling" } else { self.stage.name() }
    }

    /// Its pod was running and is Pending again: heartbeats that arrive are from before the restart.
    pub(crate) fn pends_again(&self) -> bool {
        self.proven && self.pod.as_ref().is_some_and(|pod| pod.phase == Phase::Pending)
    }

    /// Its pod is held back by a scheduling gate.
    pub(crate) fn is_gated(&self) -> bool {
        self.is_live() && self.pod.as_ref().is_some_and(|pod| pod.gated())
    }

    pub(crate) fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.since = now;
    }

    /// Its pod exists and has not ended.
    pub(crate) fn is_live(&self) -> bool {
        !self.gone && self.pod.as_ref().is_some_and(|pod| !pod.ended())
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.is_live() && self.pod.as_ref().is_some_and(|pod| pod.terminating())
    }

    pub(crate) fn node(&self) -> Option<&str> {
        self.pod.as_ref().and_then(|pod| pod.node.as_deref())
    }

    /// It ran, or was heard: it is useful, or will be again.
    pub(crate) fn is_useful(&self) -> bool {
        self.proven || self.registered || self.detector.last_heard().is_some()
    }

    /// It was given up only for its silence, and according to Kubernetes it runs: if it is heard, it is not lost.
    pub(crate) fn is_silent(&self) -> bool {
        let by_silence = |loss: &Loss| loss.trigger == Trigger::HeartbeatTimeout;
        let runs = |pod: &PodView| {
            pod.selected && pod.phase != Phase::Pending && !pod.executor_ended() && !pod.terminating()
        };
        matches!(&self.stage, Stage::AwaitingReason(loss) if by_silence(loss))
            && !self.gone
            && self.pod.as_deref().is_some_and(runs)
    }

    /// Would its removal be a voluntary disruption, i.e. is it useful now?
    pub(crate) fn is_available(&self) -> bool {
        matches!(self.stage, Stage::Available)
    }

    fn tally(&self) -> Tally {
        let one = |is: bool| u32::from(is);
        let terminating = self.is_terminating();
        // A create that was sent may have been applied already; one that may still arrive keeps its place.
        let unseen = !self.stage.is_born();
        let live = unseen || self.is_live();
        let born = self.stage.is_born() && !self.stage.is_settled();
        let pending_reason = matches!(self.stage, Stage::AwaitingReason(_));
        Tally {
            serving: one(self.stage.serves()),
            occupying: one(live && !terminating),
            terminating: one(live && terminating),
            available: one(self.is_available()),
            pending: one(matches!(
                self.stage,
                Stage::AwaitingCreate(_) | Stage::AwaitingConfirmation(_) | Stage::AwaitingStart
            )),
            starting: one(self.stage.serves() && !self.is_available()),
            creating: one(matches!(self.stage, Stage::AwaitingCreate(_))),
            rolling: one(self.rolling),
            kept: one(matches!(self.stage, Stage::Kept)),
            recallable: one(self.stage.can_be_recalled()),
            reason_pending: one(pending_reason),
            born_terminating: one(born && !pending_reason && terminating),
            born_live: one(born && !pending_reason && !terminating),
        }
    }
}

/// Sums over all executors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Counts towards the target.
    pub serving: u32,
    /// Counts towards the ceiling: every pod that is or may be live and is not being deleted.
    pub occupying: u32,
    pub terminating: u32,
    pub available: u32,
    /// Not running yet.
    pub pending: u32,
    /// Serving, but not available.
    pub starting: u32,
    /// Creates in flight.
    pub creating: u32,
    pub rolling: u32,
    pub kept: u32,
    /// To be removed, but the removal has not been requested yet.
    pub recallable: u32,
    pub reason_pending: u32,
    /// The subset that is born and neither settled nor being classified.
    pub born_terminating: u32,
    pub born_live: u32,
}

macro_rules! each_field {
    ($sum:expr, $other:ident, $op:tt) => {{
        $sum.serving $op $other.serving;
        $sum.occupying $op $other.occupying;
        $sum.terminating $op $other.terminating;
        $sum.available $op $other.available;
        $sum.pending $op $other.pending;
        $sum.starting $op $other.starting;
        $sum.creating $op $other.creating;
        $sum.rolling $op $other.rolling;
        $sum.kept $op $other.kept;
        $sum.recallable $op $other.recallable;
        $sum.reason_pending $op $other.reason_pending;
        $sum.born_terminating $op $other.born_terminating;
        $sum.born_live $op $other.born_live;
    }};
}

/// All executors that are still relevant, their sums, and when each needs attention.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    /// Boxed: ids only rise, which leaves the nodes of the tree half empty.
    executors: BTreeMap<ExecutorId, Box<Executor>>,
    tally: Tally,
    wakes: BTreeSet<(Instant, ExecutorId)>,
}

impl Roster {
    pub(crate) fn get(&self, id: ExecutorId) -> Option<&Executor> {
        self.executors.get(&id).map(|executor| &**executor)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ExecutorId, &Executor)> {
        self.executors.iter().map(|(id, executor)| (*id, &**executor))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.executors.is_empty()
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The store was restored: every later state counts as newer than the known one.
    pub(crate) fn forget_revisions(&mut self) {
        for pod in self.executors.values_mut().filter_map(|executor| executor.pod.as_mut()) {
            pod.revision = 0;
        }
    }

    pub(crate) fn insert(&mut self, id: ExecutorId, executor: Executor) {
        self.remove(id);
        let added = executor.tally();
        each_field!(self.tally, added, +=);
        if executor.wake < Instant::NEVER {
            self.wakes.insert((executor.wake, id));
        }
        self.executors.insert(id, Box::new(executor));
    }

    pub(crate) fn remove(&mut self, id: ExecutorId) -> Option<Executor> {
        let executor = self.executors.remove(&id)?;
        let gone = executor.tally();
        each_field!(self.tally, gone, -=);
        self.wakes.remove(&(executor.wake, id));
        Some(*executor)
    }

    /// Change one executor. The only way to do so.
    pub(crate) fn change<T>(&mut self, id: ExecutorId, f: impl FnOnce(&mut Executor) -> T) -> Option<T> {
        let executor = self.executors.get_mut(&id)?;
        let before = executor.tally();
        let result = f(executor);
        let after = executor.tally();
        if before != after {
            each_field!(self.tally, before, -=);
            each_field!(self.tally, after, +=);
        }
        Some(result)
    }

    /// Process it at that time.
    pub(crate) fn wake_at(&mut self, id: ExecutorId, at: Instant) {
        let Some(executor) = self.executors.get_mut(&id) else { return };
        if executor.wake == at {
            return;
        }
        self.wakes.remove(&(executor.wake, id));
        executor.wake = at;
        if at < Instant::NEVER {
            self.wakes.insert((at, id));
        }
    }

    /// The next executor that is due; it is not due again until a new wake time is set.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<ExecutorId> {
        let &(at, id) = self.wakes.first()?;
        if at > now {
            return None;
        }
        self.wake_at(id, Instant::NEVER);
        Some(id)
    }

    pub(crate) fn first_wake(&self) -> Option<Instant> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Do the sums match the executors? For tests: it visits every executor.
    pub(crate) fn audit(&self) -> bool {
        let mut sum = Tally::default();
        for executor in self.executors.values() {
            let one = executor.tally();
            each_field!(sum, one, +=);
        }
        sum == self.tally
    }
}

/// The stored form of a pod: its owner was checked, and need not be kept ten thousand times.
pub(crate) fn kept(pod: PodView) -> Box<PodView> {
    Box::new(PodView { owner: None, ..pod })
}
