//! The two policy questions, as data: *which executor to roll* and *why was this executor lost*.
//!
//! The core asks; the host, which holds the policies, answers. These types mirror the contract in
//! `wit/1.0.0/policy.wit`, which documents every field with its unit and its source; only differences are
//! documented here. Times are wall-clock milliseconds since the Unix epoch: they come from Spark and
//! Kubernetes, are passed through to policies, and are never compared with the core's own clock.

use crate::counters::Counters;

/// Which executor should be rolled? Contains the fleet and its candidates: exactly the executors that may be rolled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RollQuestion {
    pub fleet: String,
    pub application_id: String,
    pub target: u32,
    pub available: u32,
    pub now_ms: i64,
    pub seed: u64,
    pub picks_max: u32,
    pub candidates: Candidates,
    pub nodes: Vec<Node>,
    /// Each has one value per candidate.
    pub metrics: Vec<Metric>,
}

/// The largest value of a column's type means "not known".
const UNKNOWN_MS: u64 = u64::MAX;
const UNKNOWN_NODE: u32 = u32::MAX;

macro_rules! candidates {
    ($($counter:ident: $type:ident = $how:ident($name:literal),)*) => {
        /// The candidates, with one column per fact. All columns have the same length: only [`Candidates::push`] adds
        /// to them.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Candidates {
            id: Vec<u64>,
            $($counter: Vec<$type>,)*
            age_ms: Vec<u64>,
            since_heartbeat_ms: Vec<u64>,
            node: Vec<u32>,
        }

        /// One candidate.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Candidate {
            pub id: u64,
            $(pub $counter: $type,)*
            pub age_ms: u64,
            /// `None`: no heartbeat has been seen.
            pub since_heartbeat_ms: Option<u64>,
            /// An index into [`RollQuestion::nodes`]; `None`: not known.
            pub node: Option<u32>,
        }

        /// The columns, borrowed, for code that passes them on.
        #[derive(Clone, Copy, Debug)]
        pub struct Columns<'a> {
            pub id: &'a [u64],
            $(pub $counter: &'a [$type],)*
            pub age_ms: &'a [u64],
            /// `u64::MAX`: no heartbeat has been seen.
            pub since_heartbeat_ms: &'a [u64],
            /// `u32::MAX`: not known.
            pub node: &'a [u32],
        }

        /// A candidate of which only the counters are known.
        impl From<&Counters> for Candidate {
            fn from(counters: &Counters) -> Candidate {
                Candidate { $($counter: counters.$counter,)* ..Candidate::default() }
            }
        }

        impl Candidates {
            pub fn push(&mut self, row: Candidate) {
                self.id.push(row.id);
                $(self.$counter.push(row.$counter);)*
                self.age_ms.push(row.age_ms);
                self.since_heartbeat_ms.push(row.since_heartbeat_ms.unwrap_or(UNKNOWN_MS));
                self.node.push(row.node.unwrap_or(UNKNOWN_NODE));
            }

            pub fn columns(&self) -> Columns<'_> {
                Columns {
                    id: &self.id,
                    $($counter: &self.$counter,)*
                    age_ms: &self.age_ms,
                    since_heartbeat_ms: &self.since_heartbeat_ms,
                    node: &self.node,
                }
            }
        }
    };
}

crate::with_counters!(candidates);

impl Candidates {
    pub fn len(&self) -> usize {
        self.id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.id.is_empty()
    }

    /// The executor id of each candidate.
    pub fn ids(&self) -> &[u64] {
        &self.id
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub zone: Option<u32>,
    pub spot: bool,
    pub ready: bool,
    pub cordoned: bool,
    pub departing: bool,
}

/// One more fact about each candidate, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    pub name: String,
    /// NaN where a candidate has no value.
    pub values: Vec<f64>,
}

/// The answer to a [`RollQuestion`].
#[derive(Clone, Debug, PartialEq)]
pub enum Selection {
    /// Roll these, the most urgent first. Never empty.
    Roll(Vec<Pick>),
    /// Roll no executor, with the reason.
    Nothing(String),
    /// Ask the next policy of the chain.
    Abstain,
}

/// One executor to roll.
#[derive(Clone, Debug, PartialEq)]
pub struct Pick {
    /// Index of the candidate.
    pub index: usize,
    /// Finite; larger is more urgent.
    pub score: f64,
    pub reason: String,
}

/// Why was this executor lost? Contains everything that is known about it; absent means not known.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    pub fleet: String,
    pub application_id: String,
    pub executor_id: u64,
    pub pod_name: String,
    pub now_ms: i64,
    pub trigger: Trigger,
    pub lost_at_ms: i64,
    pub checks_made: u32,
    pub checks_max: u32,
    pub ever_registered: bool,
    pub since_heartbeat_ms: Option<u64>,
    pub our_deletion: Option<Deletion>,
    pub driver: Driver,
    pub driver_remove_reason: Option<String>,
    pub pod: Option<Pod>,
    pub node: Option<NodeState>,
}

/// The event that made Rollcall consider the executor lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    HeartbeatTimeout,
    PodFailed,
    PodSucceeded,
    PodDeleted,
    PodMissing,
    DriverRemoved,
    PendingTimeout,
    OperatorKill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    pub why: DeletionCause,
    pub at_ms: i64,
}

crate::named! {
    /// Why Rollcall requested a pod's deletion.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum DeletionCause {
        Roll = "roll",
        ScaleDown = "scale-down",
        Kill = "kill",
        PendingTimeout = "pending-timeout",
        Lost = "lost",
        FleetRemoved = "fleet-removed",
    }
}

impl DeletionCause {
    /// Is the removal a voluntary disruption: for the benefit of the fleet, of a healthy executor? Then it can wait.
    pub fn is_voluntary(self) -> bool {
        match self {
            DeletionCause::Roll | DeletionCause::ScaleDown => true,
            DeletionCause::Kill
            | DeletionCause::PendingTimeout
            | DeletionCause::Lost
            | DeletionCause::FleetRemoved => false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    #[default]
    Unknown,
    Running,
    Gone,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub phase: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub gone: bool,
    pub created_at_ms: Option<i64>,
    pub deletion_at_ms: Option<i64>,
    pub deletion_grace_ms: Option<u64>,
    pub conditions: Vec<Condition>,
    pub containers: Vec<Container>,
    pub node_name: Option<String>,
    pub scheduling_gates: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub name: String,
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub name: String,
    pub role: ContainerRole,
    pub state: ContainerState,
    /// Boxed: few containers have one, and otherwise every executor would reserve the space.
    pub last_terminated: Option<Box<Terminated>>,
    pub restart_count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRole {
    Executor,
    Sidecar,
    Init,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    Waiting { reason: Option<String>, message: Option<String> },
    Running { started_at_ms: Option<i64> },
    Terminated(Terminated),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Terminated {
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub started_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NodeState {
    pub name: String,
    pub gone: bool,
    pub ready: String,
    pub reason: Option<String>,
    pub cordoned: bool,
    pub taints: Vec<String>,
    pub spot: bool,
    pub departures: Vec<Departure>,
}

/// A sign that a node will be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    pub kind: DepartureKind,
    pub sign: String,
}

/// The most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DepartureKind {
    Reclaimed,
    Drained,
    Cordoned,
}

/// The answer about an [`Evidence`].
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Known(LossReason),
    /// Ask again after the check interval.
    Undetermined,
    /// Ask the next policy of the chain.
    Abstain,
}

/// Why an executor was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct LossReason {
    pub kind: LossKind,
    pub message: String,
    pub exit_caused_by_app: bool,
    pub exit_code: Option<i32>,
    pub keep_pod: bool,
}

macro_rules! loss_kinds {
    ($($kind:ident = $name:literal,)*) => {
        /// The kinds of loss, under which losses are counted.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum LossKind {
            $($kind,)*
            /// A kind of a user's classifier: kebab-case, at most 64 bytes.
            Other(String),
        }

        impl LossKind {
            /// The kind with this name; a name that is not built in is a user's.
            pub fn named(name: &str) -> LossKind {
                match name {
                    $($name => LossKind::$kind,)*
                    other => LossKind::Other(other.to_owned()),
                }
            }

            /// The kind's name in JSON, records and messages.
            pub fn name(&self) -> &str {
                match self {
                    $(LossKind::$kind => $name,)*
                    LossKind::Other(name) => name,
                }
            }
        }
    };
}

loss_kinds! {
    Released = "released",
    Deleted = "deleted",
    DriverGone = "driver-gone",
    Completed = "completed",
    MemoryLimit = "memory-limit",
    OutOfMemory = "out-of-memory",
    AppFailure = "app-failure",
    NativeCrash = "native-crash",
    ExitStatus = "exit-status",
    Killed = "killed",
    Disk = "disk",
    DriverConnection = "driver-connection",
    Evicted = "evicted",
    Preempted = "preempted",
    NodeLost = "node-lost",
    NotAdmitted = "not-admitted",
    Image = "image",
    Config = "config",
    StartFailed = "start-failed",
    HeartbeatLost = "heartbeat-lost",
    Unknown = "unknown",
}
