//! What the core is told.
//!
//! The enum is closed: everything that can move a fleet is on this page. No event is trusted to arrive
//! once, in order, or at all. Two facts make that bearable. Every pod carries its *revision*, so an
//! older state is told from a newer one whichever replica it came from; and a complete list at a
//! revision says what was there at that revision, so only it may conclude that missing means gone.

use std::fmt;

use crate::action::Action;
use crate::id::{ActionId, CommandId, ExecutorId, Uid, Version};
use crate::ledger::{Ledger, Salvage};
use crate::question::{ContainerRole, ContainerState, NodeState, Pod, Selection, Verdict};
use crate::spec::Draft;

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The host became the leader. Said once; before it a fleet does nothing at all. The term is higher
    /// than that of any leader before: the Lease's `leaseTransitions`.
    LeadershipGained { term: u64 },
    /// It is the leader no more, or cannot tell. A fleet that hears it never acts again.
    LeadershipLost,
    /// The Lease was read since [`Verb::CheckLease`](crate::action::Verb::CheckLease) was asked for, and is this host's.
    LeadershipConfirmed,
    /// A complete list, the answer to [`Verb::Relist`](crate::action::Verb::Relist) or a watch that
    /// started anew.
    Relisted(Relist),
    /// A pod came to be or changed: ADDED and MODIFIED are one.
    PodChanged(Box<PodView>),
    /// A pod is gone from the API server; this was its last state, with the revision of its deletion.
    PodGone(Box<PodView>),
    /// What is known of a node that holds executors.
    NodeChanged(Box<NodeView>),
    /// The driver's pod: every executor is owned by it and ends with it.
    DriverChanged { driver: DriverView, revision: u64 },
    /// The watch is broken, or silent for longer than its server would be: what is known grows old.
    ViewStale,
    /// The watch delivers again.
    ViewFresh,
    /// An executor is alive.
    Heartbeat(Box<Beat>),
    /// Signs of life of this fleet may have been lost on our side until now: what was not heard proves nothing.
    HearingImpaired(Impairment),
    /// What the driver says of its executors. Spark: REST `/allexecutors`.
    DriverReported(Vec<DriverRow>),
    /// A policy answered, or did not.
    Answered { action: ActionId, answer: Result<Answer, Fault> },
    /// What became of an action.
    Finished { action: ActionId, outcome: Outcome },
    /// A new spec, with the policies that there are.
    SpecChanged { draft: Box<Draft>, policies: Vec<String> },
    /// An operator's command.
    Commanded { command: CommandId, verb: Command },
    /// The deadline of [`Fleet::deadline`](crate::Fleet::deadline) has come.
    Deadline,
}

/// Why signs of life may have been lost on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Impairment {
    /// A connection, a datagram or a request was turned away, or slowed down.
    Refused,
    /// A sign was understood, and had no room.
    Dropped,
    /// A line or a request arrived of which could not be told whose it is.
    Unattributed,
    /// This process stood still.
    Paused,
}

impl Impairment {
    pub const ALL: [Impairment; 4] =
        [Impairment::Refused, Impairment::Dropped, Impairment::Unattributed, Impairment::Paused];

    /// As it is called in conditions and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Impairment::Refused => "refused",
            Impairment::Dropped => "dropped",
            Impairment::Unattributed => "unattributed",
            Impairment::Paused => "paused",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Relist {
    /// The newest revision that was known when it was asked for: the list must not be older. What came to be known
    /// meanwhile may be newer than the list, and stays.
    pub known: u64,
    /// `metadata.resourceVersion` of the list. Kubernetes lets versions of one resource be compared
    /// as integers (KEP-5504).
    pub revision: u64,
    pub pods: Vec<PodView>,
    pub driver: DriverView,
}

/// A pod, as far as the core cares. Mapped at once from `v1.Pod`; the rest is dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Label `spark-exec-id`.
    pub executor: ExecutorId,
    pub name: Box<str>,
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub revision: u64,
    /// UID of the controller in `metadata.ownerReferences`.
    pub owner: Option<Uid>,
    /// It carries the labels by which the fleet's pods are listed and watched.
    pub selected: bool,
    pub phase: Phase,
    /// `spec.nodeName`.
    pub node: Option<Box<str>>,
    /// Annotation `rollcall.dev/do-not-roll: "true"`.
    pub do_not_roll: bool,
    /// Everything else, as evidence.
    pub status: Box<Pod>,
}

impl PodView {
    /// `metadata.deletionTimestamp` is set.
    pub fn terminating(&self) -> bool {
        self.status.deletion_at_ms.is_some()
    }

    /// Has its last container ended, for good?
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Has the executor ended, alone or with its pod? A sidecar may keep the pod `Running` after it (SPARK-33874).
    pub fn executor_ended(&self) -> bool {
        self.ended() || self.executor_exit().is_some()
    }

    /// Did the executor end well? Of one that has ended.
    pub fn executor_succeeded(&self) -> bool {
        self.phase == Phase::Succeeded || !self.ended() && self.executor_exit() == Some(0)
    }

    /// Exit code of the executor's container.
    fn executor_exit(&self) -> Option<i32> {
        let executor = self.status.containers.iter().find(|one| one.role == ContainerRole::Executor)?;
        match &executor.state {
            ContainerState::Terminated(end) => Some(end.exit_code),
            ContainerState::Waiting { .. } | ContainerState::Running { .. } => None,
        }
    }

    /// Kubernetes or Kueue itself is about to end it: condition `DisruptionTarget` or `TerminationTarget` is `True`.
    pub fn disrupted(&self) -> bool {
        self.status.conditions.iter().any(|condition| {
            matches!(&*condition.name, "DisruptionTarget" | "TerminationTarget") && condition.status == "True"
        })
    }

    /// The scheduler leaves it alone while it has `spec.schedulingGates`: Kueue admits it when there is quota.
    pub fn gated(&self) -> bool {
        !self.status.scheduling_gates.is_empty()
    }
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    pub state: NodeState,
    /// Equal numbers are the same zone.
    pub zone: Option<u32>,
}

impl NodeView {
    /// Does the node explain that an executor on it was killed? It is gone or not ready, it was announced to go, or it is
    /// spot capacity, of which not every end is announced. The price of the last: an application whose executors are
    /// killed on spot nodes for a reason of its own never comes to its limit of failures.
    pub fn explains_a_kill(&self) -> bool {
        let state = &self.state;
        state.gone || state.ready != "True" || state.spot || !state.departures.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverView {
    /// Its pod is live.
    Running {
        uid: Uid,
        /// How often its container has ended: a restart of it is not the executors' failure.
        ends: u32,
    },
    /// Its pod has ended, is being deleted, or does not exist.
    Gone,
}

/// One sign of life.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    pub executor: ExecutorId,
    /// Of the pod that sent it, where the transport proves it.
    pub uid: Option<Uid>,
    /// What it said about itself, as columns for policies.
    pub metrics: Vec<(Box<str>, f64)>,
}

/// One executor in the driver's eyes.
#[derive(Clone, Debug, PartialEq)]
pub struct DriverRow {
    pub executor: ExecutorId,
    /// Spark: `isActive`.
    pub active: bool,
    /// Spark: `removeReason`.
    pub remove_reason: Option<Box<str>>,
    /// `None`: it has not said them all.
    pub counters: Option<Counters>,
}

/// Spark's counters of an executor (`ExecutorSummary`), under the names of
/// [`Candidate`](crate::question::Candidate).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub add_time_ms: i64,
    pub active_tasks: i32,
    pub failed_tasks: i32,
    pub completed_tasks: i32,
    pub total_tasks: i32,
    pub total_duration_ms: i64,
    pub total_gc_time_ms: i64,
    pub total_input_bytes: i64,
    pub total_shuffle_read_bytes: i64,
    pub total_shuffle_write_bytes: i64,
    pub memory_used_bytes: i64,
    pub disk_used_bytes: i64,
    pub peak_jvm_onheap_bytes: i64,
    pub peak_jvm_offheap_bytes: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Roll(Selection),
    Loss(Verdict),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The policy's: a trap, an exceeded budget, garbage. Enough of them and it is quarantined.
    Policy(String),
    /// The host's: no sandbox was free, or it had no time to run. Says nothing about the policy.
    Host(String),
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Ok(Done),
    /// 409: the name is taken.
    AlreadyExists,
    /// 409: another version, or another UID, than the one we spoke of.
    Conflict,
    /// 404.
    NotFound,
    /// 429: not now, too many requests. With `Retry-After` where it was given.
    Throttled {
        after_ms: Option<u64>,
    },
    /// 429 to an eviction, with cause `DisruptionBudget`: a PodDisruptionBudget says no.
    Budget,
    /// 403 and 401: a missing permission, a quota, a namespace that is being deleted.
    Forbidden(String),
    /// 422: the API server or an admission webhook does not take it.
    Invalid(String),
    /// Time-out, reset, 5xx: *it may have been applied, or still will be*. Look before you repeat.
    Unknown(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Ok(_) => f.write_str("done"),
            Outcome::AlreadyExists => f.write_str("it exists already"),
            Outcome::Conflict => f.write_str("it has changed meanwhile"),
            Outcome::NotFound => f.write_str("it does not exist"),
            Outcome::Throttled { .. } => f.write_str("too many requests"),
            Outcome::Budget => f.write_str("a PodDisruptionBudget does not allow it"),
            Outcome::Forbidden(why) => write!(f, "forbidden: {why}"),
            Outcome::Invalid(why) => write!(f, "invalid: {why}"),
            Outcome::Unknown(why) => write!(f, "no answer: {why}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// A created or read pod.
    Pod(Box<PodView>),
    /// A read ledger.
    Ledger {
        ledger: Box<Ledger>,
        version: Version,
        /// Somebody else wrote to it since our kind last did (`metadata.managedFields`): it may be a
        /// backup that was restored.
        edited: bool,
    },
    /// The ledger's object is there, and what it holds is no record of ours. `why` says which field and what of it.
    LedgerRefused { why: String, version: Version, salvage: Salvage },
    /// A written ledger's new version.
    Written(Version),
    /// A deletion or an eviction that was accepted.
    Deleted,
}

/// What an operator may ask for. Spark's `ExecutorAllocationClient`, and our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// How many executors there should be, from now on and across restarts, until the spec's own
    /// target changes. Spark: `requestTotalExecutors`.
    RequestTotalExecutors(u32),
    /// Spark: `killExecutors`. Without `replace` the target goes down by as many as are killed.
    /// Executors with running tasks are spared unless `force` is set.
    Kill {
        executors: Vec<ExecutorId>,
        replace: bool,
        force: bool,
    },
    /// Roll this executor, or whichever the policy picks, without waiting for the interval.
    Roll(Option<ExecutorId>),
    /// Change nothing in the cluster until further notice, across restarts.
    Pause,
    Resume,
    /// Try again: closes the breaker, and lets a failed fleet allocate again.
    ResetBreaker,
    /// Do not believe the ledger that is there: write what this host knows over it, or begin another.
    ResetLedger,
}

/// An action's outcome, addressed to it.
pub fn finished(action: &Action, outcome: Outcome) -> Event {
    Event::Finished { action: action.id, outcome }
}
