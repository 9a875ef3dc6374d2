//! The state of one executor.
//!
//! ```text
//!  AwaitingCreate ─► AwaitingStart ─► AwaitingRegistration ─► Available       counts towards the target
//!    │     ▲                 │                  │                 │
//!    ▼     │                 └───────┬──────────┴─────────────────┤
//!  AwaitingConfirmation              │ lost                       │ ours: roll, scale-down
//!    ▼                               ▼                            ▼
//!  CreateUnknown             AwaitingReason              AwaitingAnnouncement
//!                                    ▼                            ▼
//!                             AwaitingRecord ◄───────────── Terminating ◄── others' deletion
//!                                    ▼
//!                      AwaitingRemoval, Kept, forgotten
//! ```
//!
//! One way back is not drawn: from AwaitingReason to Available, for an executor that was lost by its silence
//! alone and is heard again.
//!
//! `Rolling` is not drawn either: it is `Available` with a roll that waits for its replacement.
//!
//! Most stages are named for what they await. Whether an executor counts as serving, live or terminating is never
//! stored: it follows from stage and pod, and the table of executors updates its sums on every change. So the
//! sums always match the executors.

use crate::backoff::Backoff;
use crate::event::Counters;
use crate::heartbeat::HeartbeatTimer;
use crate::id::{ActionId, ExecutorId};
use crate::injected_bug::{Bugs, InjectedBug};
use crate::observed::{Phase, PodView};
use crate::question::{DeletionCause, Trigger};
use crate::time::Instant;
use crate::timing::VERIFY_AFTER_MS;

#[derive(Debug)]
pub(crate) struct Executor {
    pub stage: Stage,
    /// When the executor entered this stage.
    pub since: Instant,
    /// Its pod as last seen.
    pub pod: Option<Box<PodView>>,
    /// The pod is gone from the API server.
    pub gone: bool,
    pub timer: HeartbeatTimer,
    /// It was heard, or its driver knows it, under this host or an earlier one.
    pub registered: bool,
    /// It has been available before.
    pub proven: bool,
    /// When this host or an earlier one created it, as far as this host knows.
    pub created: Instant,
    /// The lost executor that it replaces, until its pod exists.
    pub replaces: Option<ExecutorId>,
    pub driver_said: Option<Box<str>>,
    pub facts: Option<Box<Facts>>,
    /// A GET in flight that shows whether the pod is stuck, or only our view of it.
    pub verifying: Option<ActionId>,
    /// When this host first requested its removal: wall clock.
    pub removal_sent_ms: Option<i64>,
    /// When it needs attention next.
    pub wake: Instant,
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
    CreateUnknown,
    /// The pod is pending.
    AwaitingStart,
    /// The pod runs; the executor has not been heard yet.
    AwaitingRegistration,
    Available,
    /// It serves, and was picked to be rolled: its removal waits for its replacement.
    Rolling,
    /// The fleet decided to remove it; that has to be recorded in the ledger first, with the write of this mark.
    AwaitingAnnouncement {
        cause: DeletionCause,
        mark: u64,
    },
    /// The pod is being removed.
    Terminating(Exit),
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

/// Who removes a pod.
#[derive(Debug)]
pub(crate) enum Exit {
    /// Rollcall does.
    Ours { cause: DeletionCause, removal: Removal },
    /// Another client deleted the pod. `rolling`: it had been picked to be rolled, and that roll is not over.
    Foreign { rolling: bool },
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
            Stage::CreateUnknown => "create-unknown",
            Stage::AwaitingStart => "awaiting-start",
            Stage::AwaitingRegistration => "awaiting-registration",
            Stage::Available => "available",
            Stage::Rolling => "rolling",
            Stage::AwaitingAnnouncement { .. } => "awaiting-announcement",
            Stage::Terminating(Exit::Foreign { rolling: true }) => "rolling",
            Stage::Terminating(_) => "terminating",
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
            | Stage::Available
            | Stage::Rolling => true,
            Stage::CreateUnknown
            | Stage::AwaitingAnnouncement { .. }
            | Stage::Terminating(_)
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
            | Stage::CreateUnknown
            | Stage::AwaitingReason(_)
            | Stage::AwaitingRecord { .. }
            | Stage::AwaitingRemoval(_)
            | Stage::Kept => false,
            Stage::AwaitingStart
            | Stage::AwaitingRegistration
            | Stage::Available
            | Stage::Rolling
            | Stage::AwaitingAnnouncement { .. }
            | Stage::Terminating(_) => true,
        }
    }

    /// The deletion in progress.
    pub(crate) fn removal(&self) -> Option<&Removal> {
        if let Stage::Terminating(Exit::Ours { removal, .. }) | Stage::AwaitingRemoval(removal) = self {
            Some(removal)
        } else {
            None
        }
    }

    pub(crate) fn removal_mut(&mut self) -> Option<&mut Removal> {
        if let Stage::Terminating(Exit::Ours { removal, .. }) | Stage::AwaitingRemoval(removal) = self {
            Some(removal)
        } else {
            None
        }
    }

    /// It is to be removed as surplus, and its removal has not been requested yet.
    pub(crate) fn can_be_recalled(&self) -> bool {
        match self {
            Stage::AwaitingAnnouncement { cause, .. } => *cause == DeletionCause::ScaleDown,
            Stage::Terminating(Exit::Ours { cause, removal }) => {
                *cause == DeletionCause::ScaleDown && !removal.was_asked_for()
            }
            Stage::Terminating(Exit::Foreign { .. })
            | Stage::AwaitingCreate(_)
            | Stage::AwaitingConfirmation(_)
            | Stage::CreateUnknown
            | Stage::AwaitingStart
            | Stage::AwaitingRegistration
            | Stage::Available
            | Stage::Rolling
            | Stage::AwaitingReason(_)
            | Stage::AwaitingRecord { .. }
            | Stage::AwaitingRemoval(_)
            | Stage::Kept => false,
        }
    }

    /// Is only the end of its pod awaited, regardless of who requested it?
    pub(crate) fn awaits_end(&self) -> bool {
        matches!(self, Stage::Terminating(_) | Stage::AwaitingRemoval(_))
    }

    /// The cause of its removal, if Rollcall removes it.
    pub(crate) fn leaving(&self) -> Option<DeletionCause> {
        if let Stage::Terminating(Exit::Ours { cause, .. }) = self { Some(*cause) } else { None }
    }

    /// Is it not known whether its pod exists?
    pub(crate) fn is_unseen(&self) -> bool {
        matches!(self, Stage::AwaitingCreate(_) | Stage::AwaitingConfirmation(_) | Stage::CreateUnknown)
    }

    /// Was it picked to be rolled, and its removal not requested yet?
    pub(crate) fn is_rolling(&self) -> bool {
        matches!(self, Stage::Rolling | Stage::Terminating(Exit::Foreign { rolling: true }))
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
            timer: HeartbeatTimer::new(now),
            registered: false,
            proven: false,
            created: now,
            replaces: None,
            driver_said: None,
            facts: None,
            verifying: None,
            removal_sent_ms: None,
            wake: Instant::NEVER,
        }
    }

    /// Its pod was running and is Pending again: heartbeats that arrive are from before the restart.
    pub(crate) fn pends_again(&self) -> bool {
        self.proven && self.pod.as_ref().is_some_and(|pod| pod.phase == Phase::Pending)
    }

    /// Its pod is held back by a scheduling gate.
    pub(crate) fn is_gated(&self) -> bool {
        self.is_live() && self.pod.as_ref().is_some_and(|pod| pod.gated())
    }

    /// Move to a stage, and attend to it at `wake`.
    pub(crate) fn enter(&mut self, stage: Stage, now: Instant, wake: Instant) {
        self.stage = stage;
        self.since = now;
        self.wake = wake;
    }

    /// The API server accepted the pod's deletion. The watch reports the pod's end; if it does not, the pod is
    /// verified at that time.
    pub(crate) fn removal_accepted(&mut self, now: Instant) {
        if let Some(removal) = self.stage.removal_mut() {
            removal.accepted = true;
            removal.call = None;
        }
        self.wake = now + VERIFY_AFTER_MS;
    }

    /// The question why it was lost is in flight.
    pub(crate) fn asked(&mut self, question: ActionId) {
        if let Stage::AwaitingReason(loss) = &mut self.stage {
            loss.asked = Some(question);
        }
    }

    /// The roll is over, and the executor stays.
    pub(crate) fn end_roll(&mut self) {
        match &mut self.stage {
            Stage::Terminating(Exit::Foreign { rolling }) => *rolling = false,
            stage @ Stage::Rolling => *stage = Stage::Available,
            Stage::AwaitingCreate(_)
            | Stage::AwaitingConfirmation(_)
            | Stage::CreateUnknown
            | Stage::AwaitingStart
            | Stage::AwaitingRegistration
            | Stage::Available
            | Stage::AwaitingAnnouncement { .. }
            | Stage::Terminating(Exit::Ours { .. })
            | Stage::AwaitingReason(_)
            | Stage::AwaitingRecord { .. }
            | Stage::AwaitingRemoval(_)
            | Stage::Kept => {}
        }
    }

    /// Its pod exists and has not ended.
    pub(crate) fn is_live(&self) -> bool {
        !self.gone && self.pod.as_ref().is_some_and(|pod| !pod.ended())
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.is_live() && self.pod.as_ref().is_some_and(|pod| pod.terminating())
    }

    /// When the removal of its pod was requested, by the wall clock: by this host, or, as the pod tells, by another.
    pub(crate) fn removal_asked_ms(&self) -> Option<i64> {
        let told = || {
            let status = &self.pod.as_deref()?.status;
            // The timestamp includes the grace period.
            Some(status.deletion_at_ms?.saturating_sub_unsigned(status.deletion_grace_ms.unwrap_or(0)))
        };
        self.removal_sent_ms.or_else(told)
    }

    pub(crate) fn node(&self) -> Option<&str> {
        self.pod.as_ref().and_then(|pod| pod.node.as_deref())
    }

    /// It ran, or was heard: it is useful, or will be again.
    pub(crate) fn is_useful(&self) -> bool {
        self.proven || self.registered || self.timer.last_heard().is_some()
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
        matches!(self.stage, Stage::Available | Stage::Rolling)
    }

    pub(crate) fn tally(&self) -> Tally {
        let one = |is: bool| u32::from(is);
        let terminating = self.is_terminating();
        // A create that was sent may have been applied already; one that may still arrive keeps its place.
        let unseen = self.stage.is_unseen();
        let live = unseen || self.is_live();
        let born = !unseen && !self.stage.is_settled();
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
            rolling: one(self.stage.is_rolling()),
            kept: one(matches!(self.stage, Stage::Kept)),
            recallable: one(self.stage.can_be_recalled()),
            reason_pending: one(pending_reason),
            born_terminating: one(born && !pending_reason && terminating),
            born_live: one(born && !pending_reason && !terminating),
        }
    }
}

/// What one executor, or a number of them, counts for.
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

impl Tally {
    /// Number of available executors, for voluntary disruptions.
    pub(crate) fn available_count(&self, bugs: Bugs) -> u32 {
        let leaving =
            if bugs.has(InjectedBug::FloorOverLeaving) { self.occupying + self.terminating } else { 0 };
        self.available.max(leaving)
    }

    /// Creates that count towards no limit: none.
    pub(crate) fn uncounted(&self, bugs: Bugs) -> u32 {
        if bugs.has(InjectedBug::NoExpectations) { self.creating } else { 0 }
    }
}

/// The stored form of a pod: its owner was checked, and need not be kept ten thousand times.
pub(crate) fn kept(pod: PodView) -> Box<PodView> {
    Box::new(PodView { owner: None, ..pod })
}
