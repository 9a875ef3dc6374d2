//! The actions that the core requests.
//!
//! An action is a numbered request. The caller carries it out and reports its outcome with
//! [`Event::Finished`](crate::event::Event::Finished) under that number, exactly once and in any order, unless
//! the process dies first. Every action states the *cause* that justifies it, so that a log of actions explains
//! itself. The caller never retries an action: after a failure the core decides what comes next.

use crate::guardrail::Refusal;
use crate::id::{ActionId, CommandId, ExecutorId, Uid, Version};
use crate::ledger::Ledger;
use crate::question::{Evidence, RollQuestion};

/// What the core wants done, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// The number under which the outcome is reported. Each core counts from 1.
    pub id: ActionId,
    /// What justifies it. A host does not send a voluntary one that waited for too long.
    pub cause: Cause,
    /// What is to be done.
    pub verb: Verb,
}

/// What an action does, with the parameters that the core decides.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// List all pods of the fleet, from the API server's store and not from a cache. Answered by
    /// [`Event::Relisted`](crate::event::Event::Relisted); a failure is reported with `Finished`.
    Relist {
        /// The newest revision that is known at the time of the request. It comes back with the list.
        known: u64,
    },
    /// Read the ledger. `NotFound`: no ledger exists yet.
    ReadLedger,
    /// Write the ledger, as a compare-and-swap.
    WriteLedger {
        /// The record that replaces the stored one.
        ledger: Box<Ledger>,
        /// Write only if the stored ledger has this version; `None`: only if no ledger exists yet.
        over: Option<Version>,
    },
    /// Create the pod of an executor from the fleet's template, owned by the driver's pod.
    CreatePod {
        /// The executor that the pod is for. Label `spark-exec-id`.
        executor: ExecutorId,
        /// `metadata.name`: a function of fleet and executor,
        /// [`pod_name`](crate::spec::ValidatedSpec::pod_name).
        pod: Box<str>,
        /// Nodes that lost several executors lately. The host adds a required node affinity against them.
        avoid_nodes: Vec<Box<str>>,
    },
    /// Read a pod from the API server's store.
    GetPod {
        /// The executor whose pod is in doubt.
        executor: ExecutorId,
        /// `metadata.name`.
        pod: Box<str>,
    },
    /// Delete a pod, if it still has this UID.
    DeletePod {
        /// The executor that is removed.
        executor: ExecutorId,
        /// `metadata.name`.
        pod: Box<str>,
        /// Precondition of the deletion: no other pod of that name is deleted.
        uid: Uid,
        /// `gracePeriodSeconds`, in ms; the host rounds up. `None`: the pod's own.
        grace_ms: Option<u64>,
    },
    /// Evict a pod, if it still has this UID: a deletion that a PodDisruptionBudget may refuse.
    EvictPod {
        /// The executor that is rolled.
        executor: ExecutorId,
        /// `metadata.name`.
        pod: Box<str>,
        /// Precondition of the eviction: no other pod of that name is evicted.
        uid: Uid,
        /// `gracePeriodSeconds`, in ms; the host rounds up. `None`: the pod's own.
        grace_ms: Option<u64>,
    },
    /// Delete the driver's pod: the fleet has failed, and its spec requires that the application fails with it.
    DeleteDriver {
        /// Precondition of the deletion: no other driver's pod is deleted.
        uid: Uid,
    },
    /// Ask a policy. Answered by [`Event::Answered`](crate::event::Event::Answered).
    Ask {
        /// The policy's name, from the fleet's chain. The host knows its code and settings.
        policy: Box<str>,
        /// The question, with all facts.
        question: Question,
    },
    /// Read the Lease to find out whether this host leads, because the ledger indicates another leader or an
    /// operator asked to overwrite it. Answered by
    /// [`Event::LeadershipConfirmed`](crate::event::Event::LeadershipConfirmed) if it leads.
    CheckLease,
    /// Reply to an operator's command. Has no outcome.
    Reply {
        /// The command that is answered.
        command: CommandId,
        /// Whether it was carried out.
        reply: Reply,
    },
    /// Publish a notice for users. Has no outcome; it may be lost, and the next leader may publish it again.
    Publish(Notice),
}

impl Verb {
    /// Does it change pods? A paused, dry-run or not leading fleet never issues such a verb.
    pub fn mutates(&self) -> bool {
        match self {
            Verb::CreatePod { .. }
            | Verb::DeletePod { .. }
            | Verb::EvictPod { .. }
            | Verb::DeleteDriver { .. } => true,
            Verb::Relist { .. }
            | Verb::ReadLedger
            | Verb::WriteLedger { .. }
            | Verb::GetPod { .. }
            | Verb::Ask { .. }
            | Verb::CheckLease
            | Verb::Reply { .. }
            | Verb::Publish(_) => false,
        }
    }
}

/// What justifies an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The host became the leader, or needs a new complete view of the cluster.
    Start,
    /// There are too few executors.
    Shortfall {
        /// The executor that no longer serves and that the new one replaces. `None`: the fleet grows, or a
        /// roll wants its replacement first.
        replaces: Option<ExecutorId>,
    },
    /// There are too many.
    Excess,
    /// The executor's state has to be recorded in the ledger.
    Record,
    /// The reason for the executor's loss has to be determined.
    Loss(ExecutorId),
    /// The executor's loss is settled; its pod is removed.
    Settled(ExecutorId),
    /// The outcome of an action is unknown, and this call determines it.
    Doubt(ExecutorId),
    /// The roll interval has elapsed, or an operator requested a roll.
    Roll,
    /// The executor is rolled.
    Rolled(ExecutorId),
    /// An operator's command.
    Command(CommandId),
    /// Too many executors failed.
    Failed,
}

impl Cause {
    /// Is it a voluntary disruption? Such an action is allowed only while the fleet can do without the executor.
    pub fn is_voluntary(self) -> bool {
        match self {
            Cause::Excess | Cause::Rolled(_) => true,
            Cause::Start
            | Cause::Shortfall { .. }
            | Cause::Record
            | Cause::Loss(_)
            | Cause::Settled(_)
            | Cause::Doubt(_)
            | Cause::Roll
            | Cause::Command(_)
            | Cause::Failed => false,
        }
    }
}

/// A question to a policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Which executor should be rolled?
    Roll(Box<RollQuestion>),
    /// Why was this executor lost?
    Loss(Box<Evidence>),
}

/// The reply to an operator's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The command was accepted. If it changed the ledger, that is stored.
    Done,
    /// For each executor in the command: accepted, or why not.
    Executors(Vec<(ExecutorId, Result<(), Refusal>)>),
    /// The command as a whole was refused, and changed nothing.
    Refused(Refusal),
}

/// A message for users. The reason is the `reason` of a Kubernetes Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The kind of the notice.
    pub reason: Reason,
    /// The executor that it is about. `None`: the fleet.
    pub executor: Option<ExecutorId>,
    /// The name of the executor's pod. `None` where Spark names pods and this pod was never seen.
    pub pod: Option<Box<str>>,
    /// Text for users. It names neither the fleet nor the executor: the host adds them.
    pub message: String,
}

/// What a notice reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The pod of a new executor exists; the message names the executor that it replaces.
    ExecutorReplaced,
    /// The reason for an executor's loss is determined; the message begins with its kind.
    ExecutorLost,
    /// An executor ended because Rollcall removed it; the message has the cause.
    ExecutorRemoved,
    /// An executor that was given up for its silence sent a heartbeat before its loss was recorded.
    ExecutorHeardAgain,
    /// A create was refused, its outcome is unknown, its name is taken, or admission changed what makes the
    /// pod the fleet's.
    FailedCreate,
    /// The removal of an executor's pod or the driver's was refused, or its outcome is unknown. Not published
    /// for a PodDisruptionBudget's refusal.
    FailedDelete,
    /// A policy or an operator picked the executor, and it may be rolled. It still serves.
    RollStarted,
    /// A dry run.
    RollProposed,
    /// A roll took longer than its timeout, or its removal was cancelled: the executor stays.
    RollAbandoned,
    /// Several executors in a row failed as they started.
    BreakerOpened,
    /// An executor became available, or none is missing any more.
    BreakerClosed,
    /// More executors failed than `maxExecutorFailures` allows: no executor is created.
    FleetFailed,
    /// More executors were lost within seconds than `massLoss` allows.
    MassLoss,
    /// Heartbeats may be lost on our side: no executor is given up for its silence.
    HearingImpaired,
    /// A policy did not answer, by its own fault.
    PolicyFault,
    /// The host could not ask the policy: no sandbox was free, or there was no time.
    PolicyNotAsked,
    /// A policy had too many faults in a row, and is skipped for a while.
    PolicyQuarantined,
    /// The fleet's new spec is invalid. One notice for each error.
    SpecRefused,
    /// The third call in a row to read or write the ledger failed.
    LedgerUnavailable,
    /// The ledger may be older than the cluster: ids continue above all that may have been used.
    LedgerRestored,
    /// The stored ledger is invalid or another leader's: the fleet is parked.
    LedgerRefused,
    /// The ledger was overwritten on an operator's command.
    LedgerReset,
}
