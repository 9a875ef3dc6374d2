//! The observed state of the cluster: pods, nodes, the driver.

use std::net::IpAddr;

use crate::id::{ExecutorId, Uid};
use crate::question::{ContainerRole, ContainerState, NodeState, Pod};

/// The parts of a `v1.Pod` that the core uses. The pod is converted on arrival; the rest is dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Label `spark-exec-id`.
    pub executor: ExecutorId,
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub revision: u64,
    /// UID of the controller in `metadata.ownerReferences`.
    pub owner: Option<Uid>,
    /// It carries the labels by which the fleet's pods are listed and watched.
    pub selected: bool,
    /// `status.phase`. A pod without a status is Pending.
    pub phase: Phase,
    /// `spec.nodeName`.
    pub node: Option<Box<str>>,
    /// Annotation `rollcall.dev/do-not-roll: "true"`.
    pub do_not_roll: bool,
    /// Everything else, as evidence for policies.
    pub status: Box<Pod>,
}

impl PodView {
    /// `metadata.deletionTimestamp` is set.
    pub fn terminating(&self) -> bool {
        self.status.deletion_at_ms.is_some()
    }

    /// Have all of its containers ended permanently?
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Has the executor ended, alone or with its pod? A sidecar may keep the pod `Running` after it (SPARK-33874).
    pub fn executor_ended(&self) -> bool {
        self.ended() || self.executor_exit().is_some()
    }

    /// Did the executor end successfully? Only meaningful if it has ended.
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

    /// Is Kubernetes or Kueue about to end the pod? Condition `DisruptionTarget` or `TerminationTarget` is `True`.
    pub fn disrupted(&self) -> bool {
        self.status.conditions.iter().any(|condition| {
            matches!(&*condition.name, "DisruptionTarget" | "TerminationTarget") && condition.status == "True"
        })
    }

    /// The scheduler ignores the pod while it has `spec.schedulingGates`: Kueue removes them when there is quota.
    pub fn gated(&self) -> bool {
        !self.status.scheduling_gates.is_empty()
    }
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have been started yet: it waits for a node, an image or an init container.
    Pending,
    /// Its containers were started. They may have ended since, and be restarted.
    Running,
    /// All containers ended with exit code 0, and are not restarted.
    Succeeded,
    /// All containers ended, at least one of them with an error, and are not restarted.
    Failed,
    /// The kubelet does not report the pod's state.
    Unknown,
}

/// The parts of a `v1.Node` that the core uses. Which labels and taints mark spot capacity or announce a
/// removal is the fleet's setting.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// The node's state, as evidence for loss classifiers.
    pub state: NodeState,
    /// Equal numbers denote the same zone.
    pub zone: Option<u32>,
}

impl NodeView {
    /// Does the node explain that an executor on it was killed? The node is gone or not ready, its end was
    /// announced, or it is spot capacity, whose end is not always announced. The price of the last rule: an
    /// application whose executors are killed on spot nodes for a reason of its own never reaches its failure
    /// limit.
    pub fn explains_a_kill(&self) -> bool {
        let state = &self.state;
        state.gone || state.ready != "True" || state.spot || !state.departures.is_empty()
    }
}

/// The driver's pod, as far as its fleet needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverView {
    /// Its pod is live.
    Running {
        /// `metadata.uid`. If it is not the UID in the spec, the fleet's own driver is gone.
        uid: Uid,
        /// Number of times its container has ended: the executors are not to blame for a restart of the driver.
        ends: u32,
    },
    /// Its pod has ended, is being deleted, or does not exist.
    Gone,
}

/// A driver's pod, as far as fleets need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverPod {
    /// `metadata.name`; a document names the driver's pod by it (`spec.driver.podName`).
    pub name: Box<str>,
    /// `metadata.uid`. Another pod under the same name is another application.
    pub uid: Uid,
    /// Label `spark-app-selector`.
    pub application_id: Option<Box<str>>,
    /// Label `spark-app-name`. Executors get the same.
    pub app_name: Option<Box<str>>,
    /// Label `spark-version`. Executors get the same.
    pub spark_version: Option<Box<str>>,
    /// `creationTimestamp`. If two drivers claim the same thing, the older one wins.
    pub created_at_ms: Option<i64>,
    /// `metadata.resourceVersion`: an older state does not replace a newer one.
    pub revision: u64,
    /// It has not ended and is not being deleted.
    pub live: bool,
    /// How often the driver's container has ended.
    pub ends: u32,
    /// `status.podIP`.
    pub address: Option<IpAddr>,
}

impl DriverPod {
    /// The state that a fleet is told with [`Event::DriverChanged`](crate::event::Event::DriverChanged).
    pub fn view(&self) -> DriverView {
        if self.live {
            DriverView::Running { uid: self.uid.clone(), ends: self.ends }
        } else {
            DriverView::Gone
        }
    }
}
