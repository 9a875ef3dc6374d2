//! What the core wants done.
//!
//! An action is a wish with a number: whoever carries it out says what became of it with
//! [`Event::Finished`](crate::event::Event::Finished) under that number, exactly once and in any order,
//! or dies trying. Every action states the *cause* that justifies it, so that a log of actions explains
//! itself. Nothing here is ever repeated by whoever carries it out: after a failure the core decides
//! what comes next.

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
    /// [`Event::Relisted`](crate::event::Event::Relisted); fails with `Finished`. The newest revision that is known
    /// by now goes with it, and comes back in the list.
    Relist { known: u64 },
    /// Read the ledger. `NotFound`: there is none yet.
    ReadLedger,
    /// Write the ledger if it still has this version; without one, if there is none yet.
    WriteLedger { ledger: Box<Ledger>, over: Option<Version> },
    /// Create the pod of an executor from the fleet's template, owned by the driver's pod.
    CreatePod { executor: ExecutorId, pod: Box<str>, avoid_nodes: Vec<Box<str>> },
    /// Read a pod from the API server's store.
    GetPod { executor: ExecutorId, pod: Box<str> },
    /// Delete a pod, if it still is the one with this UID.
    DeletePod { executor: ExecutorId, pod: Box<str>, uid: Uid, grace_ms: Option<u64> },
    /// Evict a pod, if it still is the one with this UID: a deletion that PodDisruptionBudgets may
    /// refuse.
    EvictPod { executor: ExecutorId, pod: Box<str>, uid: Uid, grace_ms: Option<u64> },
    /// Delete the driver's pod: the fleet has failed, and its spec says that the application then has.
    DeleteDriver { uid: Uid },
    /// Ask a policy. Answered by [`Event::Answered`](crate::event::Event::Answered).
    Ask { policy: Box<str>, question: Question },
    /// Find out from the Lease whether this host leads: the ledger says that another does, or an operator wants it
    /// written over. Answered by [`Event::LeadershipConfirmed`](crate::event::Event::LeadershipConfirmed), if it does.
    CheckLease,
    /// Tell an operator what became of a command. Has no outcome.
    Reply { command: CommandId, reply: Reply },
    /// Tell people. Has no outcome; it may be lost, and the next leader may say it again.
    Publish(Notice),
}

impl Verb {
    /// The executor whose pod it calls about.
    pub(crate) fn pod_call(&self) -> Option<ExecutorId> {
        match self {
            Verb::CreatePod { executor, .. }
            | Verb::GetPod { executor, .. }
            | Verb::DeletePod { executor, .. }
            | Verb::EvictPod { executor, .. } => Some(*executor),
            Verb::Relist { .. }
            | Verb::ReadLedger
            | Verb::WriteLedger { .. }
            | Verb::DeleteDriver { .. }
            | Verb::Ask { .. }
            | Verb::CheckLease
            | Verb::Reply { .. }
            | Verb::Publish(_) => None,
        }
    }

    /// Does it change pods? What is paused, dry or not the leader's never does.
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
    /// The host became the leader, or has to see the world anew.
    Start,
    /// There are too few executors; this one replaces that one, where it replaces one.
    Shortfall { replaces: Option<ExecutorId> },
    /// There are too many.
    Excess,
    /// What became of the executor is to be recorded.
    Record,
    /// It has to be found out why the executor was lost.
    Loss(ExecutorId),
    /// The executor's loss is settled; its pod is cleared away.
    Settled(ExecutorId),
    /// An action's outcome is not known, and this finds out.
    Doubt(ExecutorId),
    /// The roll interval has come, or an operator asked for a roll.
    Roll,
    /// The executor is rolled.
    Rolled(ExecutorId),
    /// An operator's command.
    Command(CommandId),
    /// Too many executors failed.
    Failed,
}

impl Cause {
    /// Somebody's wish rather than somebody's fault: right only while the fleet can do without the executor.
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

/// What became of an operator's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// For each executor that was named: taken on, or why not.
    Executors(Vec<(ExecutorId, Result<(), Refusal>)>),
    Refused(Refusal),
}

/// Something that people should know. The reason is the `reason` of a Kubernetes Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub reason: Reason,
    pub executor: Option<ExecutorId>,
    /// The executor's pod, as it is called in the cluster. `None` where Spark names pods and this one was never seen.
    pub pod: Option<Box<str>>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    ExecutorReplaced,
    ExecutorLost,
    ExecutorRemoved,
    /// One that was given up for its silence spoke before its loss was written down.
    ExecutorHeardAgain,
    CreateFailed,
    DeleteFailed,
    RollStarted,
    /// A dry run.
    RollProposed,
    RollAbandoned,
    BreakerOpened,
    BreakerClosed,
    FleetFailed,
    MassLoss,
    /// Signs of life may be lost on our side: no executor is given up for its silence.
    HearingImpaired,
    PolicyFault,
    /// No answer for a reason of the host's own: no sandbox was free, or there was no time.
    PolicyNotAsked,
    PolicyQuarantined,
    SpecRefused,
    LedgerUnavailable,
    LedgerRestored,
    /// The record that is there is none of ours, or another leader's: the fleet is parked.
    LedgerRefused,
    /// It was written over, because an operator said so.
    LedgerReset,
}
