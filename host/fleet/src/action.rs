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

#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    pub id: ActionId,
    pub cause: Cause,
    pub verb: Verb,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// List all pods of the fleet, from the API server's store and not from a cache. Answered by
    /// [`Event::Relisted`](crate::event::Event::Relisted); a failure is reported with `Finished`. `known` is
    /// the newest revision known at the time of the request, and comes back with the list.
    Relist { known: u64 },
    /// Read the ledger. `NotFound`: no ledger exists yet.
    ReadLedger,
    /// Write the ledger if it still has this version; without a version, if no ledger exists yet.
    WriteLedger { ledger: Box<Ledger>, over: Option<Version> },
    /// Create the pod of an executor from the fleet's template, owned by the driver's pod.
    CreatePod { executor: ExecutorId, pod: Box<str>, avoid_nodes: Vec<Box<str>> },
    /// Read a pod from the API server's store.
    GetPod { executor: ExecutorId, pod: Box<str> },
    /// Delete a pod, if it still has this UID.
    DeletePod { executor: ExecutorId, pod: Box<str>, uid: Uid, grace_ms: Option<u64> },
    /// Evict a pod, if it still has this UID: a deletion that a PodDisruptionBudget may refuse.
    EvictPod { executor: ExecutorId, pod: Box<str>, uid: Uid, grace_ms: Option<u64> },
    /// Delete the driver's pod: the fleet has failed, and its spec requires that the application fails with it.
    DeleteDriver { uid: Uid },
    /// Ask a policy. Answered by [`Event::Answered`](crate::event::Event::Answered).
    Ask { policy: Box<str>, question: Question },
    /// Read the Lease to find out whether this host leads, because the ledger indicates another leader or an
    /// operator asked to overwrite it. Answered by
    /// [`Event::LeadershipConfirmed`](crate::event::Event::LeadershipConfirmed) if it leads.
    CheckLease,
    /// Reply to an operator's command. Has no outcome.
    Reply { command: CommandId, reply: Reply },
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
    /// There are too few executors. `replaces` names the lost executor that the new one replaces, if there is one.
    Shortfall { replaces: Option<ExecutorId> },
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

#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    Roll(Box<RollQuestion>),
    Loss(Box<Evidence>),
}

/// The reply to an operator's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// For each executor in the command: accepted, or why not.
    Executors(Vec<(ExecutorId, Result<(), Refusal>)>),
    Refused(Refusal),
}

/// A message for users. The reason is the `reason` of a Kubernetes Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub reason: Reason,
    pub executor: Option<ExecutorId>,
    /// The name of the executor's pod. `None` where Spark names pods and this pod was never seen.
    pub pod: Option<Box<str>>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    ExecutorReplaced,
    ExecutorLost,
    ExecutorRemoved,
    /// An executor that was given up for its silence sent a heartbeat before its loss was recorded.
    ExecutorHeardAgain,
    FailedCreate,
    FailedDelete,
    RollStarted,
    /// A dry run.
    RollProposed,
    RollAbandoned,
    BreakerOpened,
    BreakerClosed,
    FleetFailed,
    MassLoss,
    /// Heartbeats may be lost on our side: no executor is given up for its silence.
    HearingImpaired,
    PolicyFault,
    /// The host could not ask the policy: no sandbox was free, or there was no time.
    PolicyNotAsked,
    PolicyQuarantined,
    SpecRefused,
    LedgerUnavailable,
    LedgerRestored,
    /// The stored ledger is invalid or another leader's: the fleet is parked.
    LedgerRefused,
    /// The ledger was overwritten on an operator's command.
    LedgerReset,
}
