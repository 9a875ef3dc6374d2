//! The events that the core receives.
//!
//! The enum is closed: everything that can change the state of a fleet is on this page. The core does not
//! assume that an event arrives once, in order, or at all. Two facts make that safe. Every pod carries its
//! *revision*, so an older state can be told from a newer one whichever API server replica sent it. And a
//! complete list at a revision contains every pod that existed at that revision, so only a complete list may
//! conclude that a missing pod is gone.

use crate::action::Action;
pub use crate::counters::Counters;
use crate::id::{ActionId, CommandId, ExecutorId, Uid};
pub use crate::observed::{DriverView, NodeView, Phase, PodView};
pub use crate::outcome::{Done, Outcome};
use crate::question::{Selection, Verdict};
use crate::spec::FleetSpec;

/// Everything that a fleet can be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The host became the leader. Sent once; before it a fleet does nothing at all.
    LeadershipGained {
        /// Higher than that of any earlier leader: `leaseTransitions` of the Lease, plus one. 1 without a
        /// Lease.
        term: u64,
    },
    /// The host is no longer the leader, or cannot tell. A fleet that receives this never acts again.
    LeadershipLost,
    /// The Lease was read after [`Verb::CheckLease`](crate::action::Verb::CheckLease) was requested, and this
    /// host holds it.
    LeadershipConfirmed,
    /// A complete list: the answer to [`Verb::Relist`](crate::action::Verb::Relist), or the first list of a
    /// restarted watch.
    Relisted(Relist),
    /// A pod was created or changed: ADDED and MODIFIED are treated alike.
    PodChanged(Box<PodView>),
    /// A pod was deleted from the API server: its last state, with the revision of the deletion.
    PodGone(Box<PodView>),
    /// The state of a node that runs executors.
    NodeChanged(Box<NodeView>),
    /// The driver's pod, which owns every executor pod: they end with it.
    DriverChanged {
        /// Whether it is live.
        driver: DriverView,
        /// `metadata.resourceVersion` of that state: an older state does not replace a newer one.
        revision: u64,
    },
    /// The watch is broken, or silent for longer than its server would be: the view of the cluster may be stale.
    ViewStale,
    /// The watch delivers again.
    ViewFresh,
    /// A heartbeat of an executor.
    Heartbeat(Box<Beat>),
    /// Heartbeats of this fleet may have been lost on our side until now, so silence up to now proves nothing.
    HearingImpaired(Impairment),
    /// The driver's report about its executors. Spark: REST `/allexecutors`.
    DriverReported(Vec<DriverRow>),
    /// A policy answered, or failed to answer.
    Answered {
        /// The number of the [`Verb::Ask`](crate::action::Verb::Ask).
        action: ActionId,
        /// The answer, or why there is none.
        answer: Result<Answer, Fault>,
    },
    /// The outcome of an action.
    Finished {
        /// The action that has ended.
        action: ActionId,
        /// What the API server answered, or that its answer is not known.
        outcome: Outcome,
    },
    /// A new spec, with the names of the available policies.
    SpecChanged {
        /// The new spec. If it is invalid, the last valid one stays in force.
        spec: Box<FleetSpec>,
        /// Policies that exist or may still be loaded: a chain with any other name is invalid.
        policies: Vec<String>,
    },
    /// An operator's command.
    Commanded {
        /// The number that the reply carries.
        command: CommandId,
        /// What the operator requests.
        verb: Command,
    },
    /// The deadline of [`Fleet::deadline`](crate::Fleet::deadline) has come.
    Deadline,
}

/// Why heartbeats may have been lost on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Impairment {
    /// A connection, a datagram or a request was rejected or throttled.
    Refused,
    /// A heartbeat was parsed, but the queue had no room for it.
    Dropped,
    /// A line or a request arrived that could not be attributed to a fleet.
    Unattributed,
    /// This process was stalled.
    Paused,
}

impl Impairment {
    /// All variants, in the order of their declaration.
    pub const ALL: [Impairment; 4] =
        [Impairment::Refused, Impairment::Dropped, Impairment::Unattributed, Impairment::Paused];

    /// The name in conditions and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Impairment::Refused => "refused",
            Impairment::Dropped => "dropped",
            Impairment::Unattributed => "unattributed",
            Impairment::Paused => "paused",
        }
    }
}

/// The state of all pods of a fleet at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Relist {
    /// The newest revision known when the list was requested: the list must not be older. State that arrived in
    /// the meantime may be newer than the list, and is kept.
    pub known: u64,
    /// `metadata.resourceVersion` of the list. Kubernetes allows resource versions of one resource to be
    /// compared as integers (KEP-5504).
    pub revision: u64,
    /// All pods with the labels of the application's executors, including those that have another owner.
    pub pods: Vec<PodView>,
    /// The driver's pod. Read after the pods: its state is as new as the list, or newer.
    pub driver: DriverView,
}

/// One heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    /// The executor that is alive.
    pub executor: ExecutorId,
    /// UID of the pod that sent it, where the transport proves it.
    pub uid: Option<Uid>,
    /// The metrics that the executor reported, as columns for policies.
    pub metrics: Vec<(Box<str>, f64)>,
}

/// One executor as the driver reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct DriverRow {
    /// Spark: `id`. The row of the driver itself is left out.
    pub executor: ExecutorId,
    /// Spark: `isActive`.
    pub active: bool,
    /// Spark: `removeReason`.
    pub remove_reason: Option<Box<str>>,
    /// `None`: the driver did not report all of them.
    pub counters: Option<Counters>,
}

/// A policy's answer, by the kind of question.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Which executors should be rolled.
    Roll(Selection),
    /// Why the executor was lost.
    Loss(Verdict),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The policy's fault: a trap, an exceeded budget, invalid output. Repeated faults quarantine the policy.
    Policy(String),
    /// The host's fault: no sandbox was free, or there was no time to run it. Says nothing about the policy.
    Host(String),
}

/// What an operator can request: Spark's `ExecutorAllocationClient`, and Rollcall's own commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Set the number of executors. It holds across restarts, until the target in the spec changes. Spark:
    /// `requestTotalExecutors`.
    RequestTotalExecutors(u32),
    /// Spark: `killExecutors`. Executors that are unknown or leaving are skipped.
    Kill {
        /// Each gets its own result in the reply.
        executors: Vec<ExecutorId>,
        /// Keep the target. If false, it is lowered by the number of killed executors; in mode Observe it is
        /// the driver's.
        replace: bool,
        /// Also kill executors that run tasks (`activeTasks` of the driver's last report).
        force: bool,
    },
    /// Roll this executor, or the one that the policy picks, without waiting for the interval.
    Roll(Option<ExecutorId>),
    /// Change nothing in the cluster until `Resume`, also after a restart.
    Pause,
    /// End `Pause`. A fleet whose spec says `paused` stays paused.
    Resume,
    /// Try again: close the breaker, and let a failed fleet allocate again.
    ResetBreaker,
    /// Discard the stored ledger: overwrite it with what this host knows, or start a new one.
    ResetLedger,
}

/// The event that reports the outcome of an action.
pub fn finished(action: &Action, outcome: Outcome) -> Event {
    Event::Finished { action: action.id, outcome }
}
