//! The cluster: nodes, the scheduler, kubelets, the garbage collector, and the truth about executors.
//!
//! An [`Executor`] here is what *is*, beside the pod, which is what the API server says. The two differ
//! in every interesting moment: a process that runs on a node nobody reaches, a pod that is Running and
//! says nothing. Checkers read the truth from here; the core never does.

use std::collections::{BTreeMap, BTreeSet};

use fleet::event::NodeView;
use fleet::id::ExecutorId;
use fleet::question::{Departure, DepartureKind, NodeState};

use crate::api::Serial;

pub mod driver;
pub mod executor;
pub mod node;

pub use executor::PodStep;
pub use node::NodeStep;

#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    /// Every executor that ever was.
    pub executors: BTreeMap<Serial, Executor>,
    avoid: BTreeMap<Serial, Vec<Box<str>>>,
    /// Pods whose creation took long to arrive.
    pub(crate) slow: BTreeSet<Serial>,
    /// Heartbeats prove which pod sent them.
    pub beats_prove: bool,
    /// The driver deletes executors that have ended, as Spark does.
    pub driver_cleans: bool,
    /// The driver makes the executors itself: the fleet is observed.
    pub driver_creates: bool,
    pub(crate) driver_ids: u64,
    /// Until then its REST API does not answer, or leaves out rows and counters.
    pub(crate) mute_until_ms: u64,
    pub(crate) partial_until_ms: u64,
    /// Whose hand the pods that are being created right now come from.
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
    /// It is announced to go.
    pub announced: bool,
}

/// Who made a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    Host { host: usize, life: u32 },
    Driver,
    Human,
}

/// What a pod will meet when it starts.
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
    /// It runs and says nothing.
    Silent,
    Ended,
}

/// The truth about an executor.
#[derive(Clone, Debug)]
pub struct Executor {
    pub serial: Serial,
    pub executor: ExecutorId,
    pub maker: Maker,
    pub fate: Fate,
    pub node: Option<usize>,
    pub process: Process,
    /// A finalizer holds its pod.
    pub held: bool,
    pub started_ms: Option<u64>,
    pub registered_ms: Option<u64>,
    /// Since when it is not of use any more; meanwhile `None`.
    pub down_ms: Option<u64>,
    /// When first something happened to it that may be taken for a loss, and was not our doing.
    pub hurt_ms: Option<u64>,
    /// When a deletion or an eviction of ours was applied to it.
    pub removed_ms: Option<u64>,
    /// Which host did that, in which of its lives.
    pub removed_by: Option<(usize, u32)>,
    /// Its process goes on sending after its pod is gone.
    pub zombie: bool,
    pub exit_code: Option<i32>,
    /// Its node, or its driver's container, took it along: no failure of the fleet's.
    pub taken_by: Option<Taker>,
    pub created_ms: u64,
    pub created_revision: u64,
    /// From this revision on its pod is not recognisably ours.
    pub tampered: Option<u64>,
    /// It was created by a host that somebody else had already taken over from, or unseen by its list.
    pub late: bool,
}

/// What takes executors along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    AnnouncedNode,
    Driver,
}

impl Executor {
    /// Does its work, as far as anybody could tell.
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
            executors: BTreeMap::new(),
            avoid: BTreeMap::new(),
            slow: BTreeSet::new(),
            beats_prove: false,
            driver_cleans: false,
            driver_creates: false,
            driver_ids: 0,
            mute_until_ms: 0,
            partial_until_ms: 0,
            making: Maker::Human,
        }
    }

    pub fn avoid(&mut self, serial: Serial, nodes: &[Box<str>]) {
        if !nodes.is_empty() {
            self.avoid.insert(serial, nodes.to_vec());
        }
    }

    /// Where the scheduler may put this pod; avoided nodes only when there are no others.
    pub fn fitting(&self, serial: Serial) -> Vec<usize> {
        let usable: Vec<usize> =
            (0..self.nodes.len()).filter(|at| self.nodes[*at].ready && !self.nodes[*at].cordoned).collect();
        let Some(avoid) = self.avoid.get(&serial) else { return usable };
        let liked: Vec<usize> =
            usable.iter().copied().filter(|at| !avoid.contains(&self.nodes[*at].name)).collect();
        if liked.is_empty() { usable } else { liked }
    }

    /// Executors whose process runs, by serial.
    pub fn running(&self) -> Vec<Serial> {
        let up = |executor: &&Executor| matches!(executor.process, Process::Running | Process::Silent);
        self.executors.values().filter(up).map(|executor| executor.serial).collect()
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
