//! The two policy questions, as data: *which executor to roll* and *why was this executor lost*.
//!
//! The core asks; the host, which holds the policies, answers. These types mirror the contract in
//! `wit/1.0.0/policy.wit`, which says more about the facts. Times (`..._at_ms`, `now_ms`) are wall-clock
//! milliseconds since the Unix epoch: they come from Spark and Kubernetes, are passed through to policies,
//! and are never compared with the core's own clock.

use crate::counters::Counters;

/// Which executor should be rolled? Contains the fleet and its candidates: exactly the executors that may be rolled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RollQuestion {
    /// `metadata.name` of the ExecutorFleet.
    pub fleet: String,
    /// Spark's application id (label `spark-app-selector`).
    pub application_id: String,
    /// How many executors there should be.
    pub target: u32,
    /// How many executors are available now, candidates or not.
    pub available: u32,
    /// The time of the question.
    pub now_ms: i64,
    /// Randomness for a policy that wants some: the same seed and facts give the same answer.
    pub seed: u64,
    /// How many picks can be acted upon: `spec.roll.maxPicks`, less the rolls in progress. At least 1.
    pub picks_max: u32,
    /// The executors to choose from, in the order in which Spark's plugin sees them: by id as a string,
    /// descending.
    pub candidates: Candidates,
    /// The nodes of the fleet's executors. Candidates refer to them by index.
    pub nodes: Vec<Node>,
    /// Facts from heartbeats that have no column. Each has one value per candidate.
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
            /// The executor's id (label `spark-exec-id`).
            pub id: u64,
            $(#[doc = concat!("[`Counters::", stringify!($counter), "`].")] pub $counter: $type,)*
            /// Time since its pod was created (`metadata.creationTimestamp`), but not less than this host has
            /// known it.
            pub age_ms: u64,
            /// Time since its last heartbeat. `None`: no heartbeat has been seen.
            pub since_heartbeat_ms: Option<u64>,
            /// An index into [`RollQuestion::nodes`]; `None`: not known.
            pub node: Option<u32>,
        }

        /// The columns of [`Candidates`], borrowed.
        #[derive(Clone, Copy, Debug)]
        pub struct Columns<'a> {
            /// [`Candidate::id`].
            pub id: &'a [u64],
            $(#[doc = concat!("[`Counters::", stringify!($counter), "`].")] pub $counter: &'a [$type],)*
            /// [`Candidate::age_ms`].
            pub age_ms: &'a [u64],
            /// [`Candidate::since_heartbeat_ms`]; `u64::MAX`: no heartbeat has been seen.
            pub since_heartbeat_ms: &'a [u64],
            /// [`Candidate::node`]; `u32::MAX`: not known.
            pub node: &'a [u32],
        }

        /// A candidate of which only the counters are known.
        impl From<&Counters> for Candidate {
            fn from(counters: &Counters) -> Candidate {
                Candidate { $($counter: counters.$counter,)* ..Candidate::default() }
            }
        }

        impl Candidates {
            /// Adds a candidate as the last one.
            pub fn push(&mut self, row: Candidate) {
                self.id.push(row.id);
                $(self.$counter.push(row.$counter);)*
                self.age_ms.push(row.age_ms);
                self.since_heartbeat_ms.push(row.since_heartbeat_ms.unwrap_or(UNKNOWN_MS));
                self.node.push(row.node.unwrap_or(UNKNOWN_NODE));
            }

            /// All columns, for code that passes them on.
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
    /// The number of candidates: the length of each column.
    pub fn len(&self) -> usize {
        self.id.len()
    }

    /// Is there no candidate?
    pub fn is_empty(&self) -> bool {
        self.id.is_empty()
    }

    /// The executor id of each candidate.
    pub fn ids(&self) -> &[u64] {
        &self.id
    }
}

/// A node that executors run on.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Equal numbers are the same zone (label `topology.kubernetes.io/zone`). `None`: not known.
    pub zone: Option<u32>,
    /// By the labels of spot capacity that the fleet's document names. False if the node is not known.
    pub spot: bool,
    /// Condition `Ready` is `True`. True if the node is not known.
    pub ready: bool,
    /// `spec.unschedulable`. False if the node is not known.
    pub cordoned: bool,
    /// A taint, a label or a cordon announces that the node will be removed. False if it is not known.
    pub departing: bool,
}

/// One more fact about each candidate, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// As heartbeats name it, for instance `jvm.heap.usage`.
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
    /// Why, in a few words, for users.
    pub reason: String,
}

/// Why was this executor lost? Contains everything that is known about it; absent means not known.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// `metadata.name` of the ExecutorFleet.
    pub fleet: String,
    /// Spark's application id (label `spark-app-selector`).
    pub application_id: String,
    /// Label `spark-exec-id`.
    pub executor_id: u64,
    /// `metadata.name` of its pod: as seen, or as Rollcall names it.
    pub pod_name: String,
    /// The time of the question.
    pub now_ms: i64,
    /// What showed the loss.
    pub trigger: Trigger,
    /// When the host considered it lost: `now_ms`, less the time since then by the monotonic clock.
    pub lost_at_ms: i64,
    /// How many earlier checks of this loss were undetermined. 0: it is asked for the first time.
    pub checks_made: u32,
    /// When `checks_made` has reached this and the answer is undetermined, the loss is settled as unknown.
    pub checks_max: u32,
    /// Its heartbeats or its driver showed that it registered; without heartbeats, that its pod ran.
    pub ever_registered: bool,
    /// Time since its last heartbeat. `None`: none is known.
    pub since_heartbeat_ms: Option<u64>,
    /// Set if an operator killed it. Any other loss came before a removal that Rollcall had decided.
    pub our_deletion: Option<Deletion>,
    /// The state of the driver's pod.
    pub driver: Driver,
    /// Why the driver says that it removed the executor. Spark: `removeReason`.
    pub driver_remove_reason: Option<String>,
    /// The pod as last seen. `None`: it was never seen.
    pub pod: Option<Pod>,
    /// The node that the pod ran on.
    pub node: Option<NodeState>,
}

/// The event that made Rollcall consider the executor lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// No heartbeat for longer than the fleet's timeout.
    HeartbeatTimeout,
    /// `status.phase` is `Failed`; or the executor's container ended with another exit code than 0, and a
    /// sidecar keeps the pod `Running`.
    PodFailed,
    /// `status.phase` is `Succeeded`; or the executor's container ended with exit code 0, and a sidecar keeps
    /// the pod `Running`.
    PodSucceeded,
    /// The pod was deleted, ended after its deletion was requested, or lost the labels or the owner that make
    /// it the fleet's.
    PodDeleted,
    /// The pod is missing from a complete list, a GET did not find it, another pod has its name, or admission
    /// changed what makes it the fleet's.
    PodMissing,
    /// The driver reports the executor as not active. Spark: `isActive`.
    DriverRemoved,
    /// The pod was Pending, or ran without a heartbeat, for longer than `spec.allocation.pendingTimeout`.
    PendingTimeout,
    /// An operator killed it ([`Command::Kill`](crate::event::Command::Kill)).
    OperatorKill,
}

/// A removal by Rollcall itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Why the executor is removed.
    pub why: DeletionCause,
    /// When it was asked for. The core does not keep that time, and has the time of the question here.
    pub at_ms: i64,
}

crate::named! {
    /// Why Rollcall requested a pod's deletion.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum DeletionCause {
        /// A roll: it is decommissioned, and replaced.
        Roll = "roll",
        /// The target was lowered, or there are more executors than the target for another reason.
        ScaleDown = "scale-down",
        /// An operator's kill.
        Kill = "kill",
        /// It was pending for too long. The core never records it: it is a loss,
        /// [`Trigger::PendingTimeout`].
        PendingTimeout = "pending-timeout",
        /// It was lost, and its pod is cleared away. The core never records it: the loss is what counts.
        Lost = "lost",
        /// Its fleet is removed. The core never records it: a fleet that is removed leaves its pods alone.
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

/// What is known of the driver's pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// Nothing.
    #[default]
    Unknown,
    /// It is live.
    Running,
    /// It has ended, is being deleted, does not exist, or was replaced by another pod: executors end with it.
    Gone,
}

/// A pod, from `v1.Pod`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// `status.phase`.
    pub phase: String,
    /// `status.reason`, for instance `Evicted`.
    pub reason: Option<String>,
    /// `status.message`.
    pub message: Option<String>,
    /// It is gone from the API server, and the rest is its last known state.
    pub gone: bool,
    /// `metadata.creationTimestamp`.
    pub created_at_ms: Option<i64>,
    /// `metadata.deletionTimestamp`: its deletion was requested, and this is when the grace period *ends*.
    pub deletion_at_ms: Option<i64>,
    /// `metadata.deletionGracePeriodSeconds`, in ms: how long before `deletion_at_ms` the deletion was
    /// requested.
    pub deletion_grace_ms: Option<u64>,
    /// `status.conditions`, without those that say nothing about an end, such as `Ready`.
    pub conditions: Vec<Condition>,
    /// `status.containerStatuses`, then `status.initContainerStatuses`.
    pub containers: Vec<Container>,
    /// `spec.nodeName`. Set in evidence only: a [`PodView`](crate::observed::PodView) has its own.
    pub node_name: Option<String>,
    /// Names of `spec.schedulingGates`: while there are any, the scheduler ignores the pod.
    pub scheduling_gates: Vec<String>,
}

/// A pod condition, from `v1.PodCondition`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// `type`, for instance `DisruptionTarget`.
    pub name: String,
    /// `status`: `True`, `False` or `Unknown`.
    pub status: String,
    /// `reason`, for instance `EvictionByEvictionAPI`.
    pub reason: Option<String>,
    /// `message`.
    pub message: Option<String>,
}

/// A container of the pod, from `v1.ContainerStatus`.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// `name`.
    pub name: String,
    /// What it runs.
    pub role: ContainerRole,
    /// `state`.
    pub state: ContainerState,
    /// `lastState.terminated`: how its previous run ended. Boxed: few containers have one, and otherwise
    /// every executor would reserve the space.
    pub last_terminated: Option<Box<Terminated>>,
    /// `restartCount`.
    pub restart_count: u32,
}

/// What a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRole {
    /// Spark's executor: by its environment or arguments, else by the name in the document, else by Spark's.
    Executor,
    /// Any other container.
    Sidecar,
    /// An init container.
    Init,
}

/// The state of a container, from `v1.ContainerState`.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    /// It waits to be started, or to be started again. Also if the status has no state.
    Waiting {
        /// `reason`, for instance `ImagePullBackOff`.
        reason: Option<String>,
        /// `message`.
        message: Option<String>,
    },
    /// It runs.
    Running {
        /// `startedAt`.
        started_at_ms: Option<i64>,
    },
    /// It has ended, and is not running again yet.
    Terminated(Terminated),
}

/// The end of a container, from `v1.ContainerStateTerminated`.
#[derive(Clone, Debug, PartialEq)]
pub struct Terminated {
    /// `exitCode`.
    pub exit_code: i32,
    /// `signal`.
    pub signal: Option<i32>,
    /// `reason`, for instance `OOMKilled`.
    pub reason: Option<String>,
    /// `message`.
    pub message: Option<String>,
    /// `startedAt`.
    pub started_at_ms: Option<i64>,
    /// `finishedAt`.
    pub finished_at_ms: Option<i64>,
}

/// A node, from `v1.Node`.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeState {
    /// `metadata.name`.
    pub name: String,
    /// It is gone from the API server, and the rest is its last known state.
    pub gone: bool,
    /// Status of the condition `Ready`: `True`, `False` or `Unknown`. `Unknown` without the condition.
    pub ready: String,
    /// Reason of the condition `Ready`.
    pub reason: Option<String>,
    /// `spec.unschedulable`.
    pub cordoned: bool,
    /// Keys of `spec.taints`.
    pub taints: Vec<String>,
    /// By the labels of spot capacity that the fleet's document names.
    pub spot: bool,
    /// The most urgent first; by the taints and labels that the fleet's document names.
    pub departures: Vec<Departure>,
}

/// A sign that a node will be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// What will be done with the node.
    pub kind: DepartureKind,
    /// The taint, the label or the cordon, for users: `taint karpenter.sh/disrupted`.
    pub sign: String,
}

/// What will be done with a node. The most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DepartureKind {
    /// It is taken away or shut down, regardless of what runs there: spot capacity, maintenance.
    Reclaimed,
    /// It is emptied first, by an autoscaler or an operator.
    Drained,
    /// It is closed for new pods. Often a drain follows.
    Cordoned,
}

/// The answer about an [`Evidence`].
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The loss is settled with this reason.
    Known(LossReason),
    /// Ask again after the check interval.
    Undetermined,
    /// Ask the next policy of the chain.
    Abstain,
}

/// Why an executor was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct LossReason {
    /// The kind under which the loss is counted.
    pub kind: LossKind,
    /// One sentence for users, with the evidence.
    pub message: String,
    /// Does the application bear the blame? Then the loss does not count against its node. Spark:
    /// `ExecutorExited.exitCausedByApp`.
    pub exit_caused_by_app: bool,
    /// Exit code of the executor's container, if known.
    pub exit_code: Option<i32>,
    /// Keep the pod for debugging, as far as `spec.recovery.maxKeptPods` allows.
    pub keep_pod: bool,
}

macro_rules! loss_kinds {
    ($($(#[$of_kind:meta])* $kind:ident = $name:literal,)*) => {
        /// The kinds of loss, under which losses are counted.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum LossKind {
            $($(#[$of_kind])* $kind,)*
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
    /// Rollcall itself asked for its end, or its pod was pending for too long and does not say why.
    Released = "released",
    /// Another client deleted the pod.
    Deleted = "deleted",
    /// The driver ended, and its executors with it.
    DriverGone = "driver-gone",
    /// It ended by itself with exit code 0.
    Completed = "completed",
    /// The kernel killed it for exceeding the container's memory limit (`OOMKilled`).
    MemoryLimit = "memory-limit",
    /// The JVM ran out of memory. Spark: `SparkExitCode.OOM`, 52.
    OutOfMemory = "out-of-memory",
    /// The application's own failure: an uncaught exception, a stuck task, a missing class.
    AppFailure = "app-failure",
    /// Native code crashed: SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE.
    NativeCrash = "native-crash",
    /// It ended with an exit code that says no more.
    ExitStatus = "exit-status",
    /// A signal killed it, and nothing shows who sent it.
    Killed = "killed",
    /// Local disks are full, missing or broken.
    Disk = "disk",
    /// It could not reach the driver, or the driver refused it.
    DriverConnection = "driver-connection",
    /// Evicted: pressure on the node, a drain, or the eviction API.
    Evicted = "evicted",
    /// Preempted by pods of a higher priority.
    Preempted = "preempted",
    /// The node is gone, unreachable or shutting down.
    NodeLost = "node-lost",
    /// The kubelet refused to admit the pod.
    NotAdmitted = "not-admitted",
    /// The image cannot be pulled, or does not exist.
    Image = "image",
    /// The pod's configuration is wrong.
    Config = "config",
    /// The container could not be started.
    StartFailed = "start-failed",
    /// It runs as far as Kubernetes knows, and is silent.
    HeartbeatLost = "heartbeat-lost",
    /// No policy could tell, or not before the checks were used up.
    Unknown = "unknown",
}
