//! The cluster: nodes, the scheduler, kubelets, the garbage collector, and the true state of executors.
//!
//! An [`Executor`] here is the true state, beside the pod, which is what the API server reports. The two differ
//! in every interesting case: a process that runs on an unreachable node, a pod that is Running and silent.
//! Checkers read the true state from here; the core never does.

use std::collections::{BTreeMap, BTreeSet};

use fleet::event::NodeView;
use fleet::id::{ExecutorId, Uid};
use fleet::question::{Departure, DepartureKind, NodeState};

use crate::api::Serial;
use crate::check::CoreId;

pub mod driver;
pub mod executor;
mod executors;
pub mod node;

pub use executor::PodStep;
pub use executors::Executors;
pub use node::NodeStep;

#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    /// Every executor that ever existed.
    pub executors: Executors,
    avoid: BTreeMap<Serial, Vec<Box<str>>>,
    /// Where executors were told to reach their driver.
    pub(crate) addresses: BTreeMap<Serial, u8>,
    /// Pods whose creation took long to arrive.
    pub(crate) slow: BTreeSet<Serial>,
    /// Creator of the pods that are being created right now.
    pub(crate) making: Maker,
}

#[derive(Debug)]
pub struct Node {
    pub name: Box<str>,
    pub zone: u32,
    pub spot: bool,
    /// Its kubelet works.
    pub alive: bool,
    pub ready: bool,
    pub gone: bool,
    pub cordoned: bool,
    /// Every executor on it dies at once.
    pub black_hole: bool,
    /// Its termination is announced.
    pub announced: bool,
}

/// The creator of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    Core(CoreId),
    Driver,
    Operator,
}

/// What will happen to a pod when it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Fine,
    Unschedulable,
    ImageError,
    CrashAtStart,
    Silent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Process {
    /// Not started yet.
    #[default]
    None,
    Running,
    /// It runs and sends nothing.
    Silent,
    Ended,
}

/// The true state of an executor.
#[derive(Clone, Debug)]
pub struct Executor {
    pub serial: Serial,
    /// The application that it is an executor of.
    pub app: usize,
    pub executor: ExecutorId,
    pub maker: Maker,
    pub fate: Fate,
    pub node: Option<usize>,
    pub process: Process,
    /// A finalizer holds its pod.
    pub held: bool,
    pub started_ms: Option<u64>,
    pub registered_ms: Option<u64>,
    /// Since when it has not been useful; `None` while it is.
    pub down_ms: Option<u64>,
    /// When an event first happened to it that may be taken for a loss, and that the host did not cause.
    pub hurt_ms: Option<u64>,
    /// When a deletion or an eviction by a host was applied to it.
    pub removed_ms: Option<u64>,
    /// The core that wanted that.
    pub removed_by: Option<CoreId>,
    /// Its process keeps sending after its pod is gone.
    pub zombie: bool,
    pub exit_code: Option<i32>,
    /// It ended because of its node, or its driver's container: not a failure of the fleet.
    pub taken_by: Option<Taker>,
    pub created_ms: u64,
    pub created_revision: u64,
    /// From this revision on, its pod is no longer recognisable as the fleet's.
    pub tampered: Option<u64>,
    /// Its creator had already been replaced by another host, or that host's list did not show it.
    pub late: bool,
}

/// What ends executors together with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    AnnouncedNode,
    Driver,
}

impl Executor {
    pub fn runs(&self) -> bool {
        matches!(self.process, Process::Running | Process::Silent)
    }

    /// The executor works, as far as can be observed.
    pub fn available(&self) -> bool {
        self.started_ms.is_some() && self.registered_ms.is_some() && self.down_ms.is_none()
    }

    pub fn hurt(&mut self, now_ms: u64) {
        self.hurt_ms.get_or_insert(now_ms);
    }

    pub fn down(&mut self, now_ms: u64) {
        self.down_ms.get_or_insert(now_ms);
    }
}

const NODES: u32 = 8;

impl Cluster {
    pub fn new() -> Cluster {
        let node = |number: u32| Node {
            name: format!("node-{number}").into(),
            zone: number % 3,
            spot: number % 4 == 3,
            alive: true,
            ready: true,
            gone: false,
            cordoned: false,
            black_hole: false,
            announced: false,
        };
        Cluster {
            nodes: (0..NODES).map(node).collect(),
            executors: Executors::default(),
            avoid: BTreeMap::new(),
            addresses: BTreeMap::new(),
            slow: BTreeSet::new(),
            making: Maker::Operator,
        }
    }

    pub fn avoid(&mut self, serial: Serial, nodes: &[Box<str>]) {
        if !nodes.is_empty() {
            self.avoid.insert(serial, nodes.to_vec());
        }
    }

    /// Nodes on which the scheduler may place this pod; avoided nodes only if there are no others.
    pub fn fitting(&self, serial: Serial) -> Vec<usize> {
        let usable: Vec<usize> =
            (0..self.nodes.len()).filter(|at| self.nodes[*at].ready && !self.nodes[*at].cordoned).collect();
        let Some(avoid) = self.avoid.get(&serial) else { return usable };
        let liked: Vec<usize> =
            usable.iter().copied().filter(|at| !avoid.contains(&self.nodes[*at].name)).collect();
        if liked.is_empty() { usable } else { liked }
    }

    /// The application for which the pod with this UID was created.
    pub fn app_of(&self, uid: &Uid) -> Option<usize> {
        Some(self.executors.get(&Serial::of(uid)?)?.app)
    }

    /// Executors whose process runs, by serial.
    pub fn running(&self) -> Vec<Serial> {
        self.executors.values().filter(|executor| executor.runs()).map(|executor| executor.serial).collect()
    }

    pub fn running_of(&self, app: usize) -> Vec<Serial> {
        self.executors.of(app).filter(|executor| executor.runs()).map(|executor| executor.serial).collect()
    }
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster::new()
    }
}

impl Node {
    pub fn view(&self) -> NodeView {
        NodeView {
            state: NodeState {
                name: self.name.to_string(),
                gone: self.gone,
                ready: if self.ready { "True" } else { "Unknown" }.to_owned(),
                reason: (!self.ready).then(|| "NodeStatusUnknown".to_owned()),
                cordoned: self.cordoned,
                taints: if self.ready {
                    Vec::new()
                } else {
                    vec!["node.kubernetes.io/unreachable".to_owned()]
                },
                spot: self.spot,
                departures: if self.announced {
                    vec![Departure { kind: DepartureKind::Reclaimed, sign: "taint reclaim".to_owned() }]
                } else {
                    Vec::new()
                },
            },
            zone: Some(self.zone),
        }
    }
}
