//! Faults and how often they happen: executors that die, hang or never start, and nodes that leave.
//!
//! The more executors run, the more often one is struck. Some faults affect the start of a future pod; they
//! wait for the next one.

use serde_json::{Value, json};

use super::kubelet::{Exit, Kubelet};
use super::life::{Life, Stage};
use super::{Cluster, Signal, nodes};

/// How often a fault strikes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chaos {
    #[default]
    None,
    /// About every 8 s with 12 executors.
    Some,
    /// About every 3 s with 12 executors.
    Heavy,
}

/// What will happen to a pod when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Fine,
    Unschedulable,
    ImageMissing,
    CrashAtStart,
}

impl Fate {
    /// Its description; `None` when there is nothing to report.
    pub fn what(self) -> Option<&'static str> {
        match self {
            Fate::Fine => None,
            Fate::Unschedulable => Some("fits on no node"),
            Fate::ImageMissing => Some("cannot pull its image"),
            Fate::CrashAtStart => Some("crashes at its start"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Strike {
    OomKill,
    Exit,
    Silence,
    HumanDelete,
    NodePressure,
    SpotReclaim,
    Next(Fate),
}

/// Weight of each fault, out of 100 in all. The first ones strike at once.
const STRIKES: [(u64, Strike); 9] = [
    (20, Strike::OomKill),
    (20, Strike::Exit),
    (15, Strike::Silence),
    (10, Strike::HumanDelete),
    (10, Strike::NodePressure),
    (7, Strike::SpotReclaim),
    (6, Strike::Next(Fate::Unschedulable)),
    (6, Strike::Next(Fate::ImageMissing)),
    (6, Strike::Next(Fate::CrashAtStart)),
];
/// The share of those that strike at once.
const AT_ONCE: u64 = 82;

const EXITS: [(u32, &str); 5] = [
    (1, "exited with 1"),
    (50, "exited with 50, an uncaught exception"),
    (52, "exited with 52, an OutOfMemoryError"),
    (56, "exited with 56, it could not reach the driver"),
    (134, "exited with 134, SIGABRT"),
];

#[derive(Debug)]
pub(super) struct Weather {
    chaos: Chaos,
    /// `None` before the first executor runs.
    next_ms: Option<u64>,
    /// No fault has struck yet.
    fresh: bool,
    fate: Fate,
    /// A spot node that leaves, and when; one at a time.
    leaving: Option<(String, u64)>,
    /// When a node replaces it.
    joining_ms: Option<u64>,
    /// Nodes that ever existed.
    nodes: u64,
}

impl Weather {
    pub fn new(chaos: Chaos, nodes: u64) -> Weather {
        Weather {
            chaos,
            next_ms: None,
            fresh: true,
            fate: Fate::Fine,
            leaving: None,
            joining_ms: None,
            nodes,
        }
    }

    /// Takes what will happen to the next pod.
    pub fn take_fate(&mut self) -> Fate {
        std::mem::replace(&mut self.fate, Fate::Fine)
    }
}

impl Cluster {
    /// Ends all faults, and pods that could not start can start. Stopped processes stay stopped.
    pub fn heal(&mut self) {
        self.weather.chaos = Chaos::None;
        self.weather.fate = Fate::Fine;
        for life in self.lives.values_mut().filter(|life| !matches!(life.stage, Stage::Up { .. })) {
            life.fate = Fate::Fine;
        }
    }

    /// Applies the faults that are due.
    pub(super) fn strike(&mut self, signals: &mut Vec<Signal>) {
        self.move_nodes();
        let targets: Vec<String> =
            self.lives.iter().filter(|(_, life)| self.is_target(life)).map(|(uid, _)| uid.clone()).collect();
        let base_ms = match self.weather.chaos {
            Chaos::None => return,
            Chaos::Some => 8_000,
            Chaos::Heavy => 3_000,
        };
        let Some(uid) = self.dice.pick(&targets).cloned() else { return };
        let Some(next_ms) = self.weather.next_ms else {
            self.weather.next_ms = Some(self.now_ms + self.dice.between(2_000, 6_000));
            return;
        };
        if self.now_ms < next_ms {
            return;
        }
        let mean_ms = (base_ms * 12 / targets.len() as u64).clamp(500, 60_000);
        self.weather.next_ms = Some(self.now_ms + self.dice.between(mean_ms / 2, mean_ms * 3 / 2));
        let at_once = self.weather.fresh || self.weather.fate != Fate::Fine;
        self.weather.fresh = false;
        let mut left = self.dice.between(0, if at_once { AT_ONCE } else { 100 } - 1);
        for (weight, strike) in STRIKES {
            if left < weight {
                self.hit(&uid, strike, signals);
                return;
            }
            left -= weight;
        }
    }

    /// An executor that runs, and that no fault has struck yet.
    fn is_target(&self, life: &Life) -> bool {
        let pod = || self.server.get("pods", &life.namespace, &life.name);
        life.process.is_some()
            && !life.sick
            && life.stage == Stage::Up { ends: None }
            && pod().is_some_and(|pod| pod["metadata"].get("deletionTimestamp").is_none())
    }

    fn hit(&mut self, uid: &str, strike: Strike, signals: &mut Vec<Signal>) {
        let Some(mut life) = self.lives.remove(uid) else { return };
        let server = self.server.clone();
        let (namespace, name) = (life.namespace.clone(), life.name.clone());
        let kubelet = Kubelet { server: &server, namespace: &namespace, name: &name };
        life.sick = true;
        let what = match strike {
            Strike::OomKill => {
                self.exit(&mut life, &kubelet, Exit::OOM_KILLED, None);
                Some("was OOM-killed")
            }
            Strike::Exit => {
                let (code, what) = *self.dice.pick(&EXITS).expect("there are some");
                self.exit(&mut life, &kubelet, Exit::error(code), None);
                Some(what)
            }
            Strike::Silence => {
                if let Some(process) = &mut life.process {
                    process.work(self.now_ms);
                    process.silent = true;
                }
                Some("went silent")
            }
            Strike::HumanDelete => {
                // It was there a moment ago; if it is gone by now, that is the intended result.
                let _ = server.delete("pods", &namespace, &name, None);
                Some("was deleted by a user")
            }
            Strike::NodePressure => {
                let message = "The node was low on resource: memory.";
                kubelet.disrupted("TerminationByKubelet", message);
                self.exit(&mut life, &kubelet, Exit::KILLED, Some(("Evicted", message)));
                Some("was evicted, its node was low on memory")
            }
            Strike::SpotReclaim => {
                life.sick = false;
                None
            }
            Strike::Next(fate) => {
                life.sick = false;
                self.weather.fate = fate;
                None
            }
        };
        self.lives.insert(uid.to_owned(), life);
        match (strike, what) {
            (_, Some(what)) => self.fault(&name, what, signals),
            (Strike::SpotReclaim, None) => {
                if !self.reclaim(signals) {
                    self.hit(uid, Strike::OomKill, signals);
                }
            }
            (_, None) => {}
        }
    }

    /// A node's machine restarts under its pods: the container runtime loses their containers.
    pub fn reboot_node(&mut self, node: &str) {
        self.exit_on(node, Exit::LOST_BY_RUNTIME);
    }

    /// A node-termination handler announces that a node will terminate.
    pub fn announce_node(&self, node: &str) {
        self.server.change("nodes", "", node, |node| {
            let taint = json!({ "key": "aws-node-termination-handler/spot-itn", "effect": "NoSchedule" });
            node["spec"]["taints"] = json!([taint]);
            node["spec"]["unschedulable"] = true.into();
        });
    }

    /// The machine of a node is taken away, and a new one joins.
    pub fn take_node(&mut self, node: &str) {
        self.exit_on(node, Exit::KILLED);
        self.weather.leaving = Some((node.to_owned(), self.now_ms));
        self.move_nodes();
        self.weather.joining_ms = Some(self.now_ms);
        self.move_nodes();
    }

    fn exit_on(&mut self, node: &str, exit: Exit) {
        let server = self.server.clone();
        for uid in self.lives.keys().cloned().collect::<Vec<_>>() {
            let Some(mut life) = self.lives.remove(&uid) else { continue };
            let (namespace, name) = (life.namespace.clone(), life.name.clone());
            let kubelet = Kubelet { server: &server, namespace: &namespace, name: &name };
            let pod = server.get("pods", &namespace, &name);
            if life.process.is_some() && pod.is_some_and(|pod| pod["spec"]["nodeName"] == *node) {
                life.sick = true;
                self.exit(&mut life, &kubelet, exit, None);
            }
            self.lives.insert(uid, life);
        }
    }

    /// A spot node with executors leaves: its kubelet ends its pods, then the node is removed. `false`: no node
    /// qualifies.
    fn reclaim(&mut self, signals: &mut Vec<Signal>) -> bool {
        let server = self.server.clone();
        let all = server.list("nodes");
        let load = nodes::load(&server);
        let spot = all.iter().filter(|node| nodes::is_spot(node) && load.contains_key(nodes::name(node)));
        let spot: Vec<&str> = spot.map(|node| nodes::name(node)).collect();
        let busy = self.weather.leaving.is_some() || self.weather.joining_ms.is_some() || all.len() < 3;
        let Some(node) = self.dice.pick(&spot).filter(|_| !busy).map(|node| (*node).to_owned()) else {
            return false;
        };
        let mut struck = false;
        for uid in self.lives.keys().cloned().collect::<Vec<_>>() {
            let on = |life: &Life| {
                let pod = server.get("pods", &life.namespace, &life.name)?;
                Some(
                    pod["spec"]["nodeName"] == *node && life.executor.is_some() && life.stage != Stage::Ended,
                )
            };
            if self.lives.get(&uid).and_then(on) != Some(true) {
                continue;
            }
            let Some(mut life) = self.lives.remove(&uid) else { continue };
            let (namespace, name) = (life.namespace.clone(), life.name.clone());
            let kubelet = Kubelet { server: &server, namespace: &namespace, name: &name };
            let message = "Pod was terminated in response to imminent node shutdown.";
            kubelet.disrupted("TerminationByKubelet", message);
            life.sick = true;
            self.exit(&mut life, &kubelet, Exit::KILLED, Some(("Terminated", message)));
            self.lives.insert(uid, life);
            self.fault(&name, "went with its spot node", signals);
            struck = true;
        }
        server.change("nodes", "", &node, |node: &mut Value| node["spec"]["unschedulable"] = true.into());
        self.weather.leaving = Some((node, self.now_ms + 2_000));
        struck
    }

    /// The node that leaves is removed, PodGC deletes its pods, and a new node joins.
    fn move_nodes(&mut self) {
        if self.weather.joining_ms.is_some_and(|at_ms| self.now_ms >= at_ms) {
            self.weather.joining_ms = None;
            self.weather.nodes += 1;
            nodes::join(&self.server, self.weather.nodes);
        }
        let Some((node, _)) = self.weather.leaving.take_if(|(_, at_ms)| self.now_ms >= *at_ms) else {
            return;
        };
        // The node or its pods may have been deleted already.
        let _ = self.server.delete("nodes", "", &node, None);
        for pod in self.server.list("pods").iter().filter(|pod| pod["spec"]["nodeName"] == *node) {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
            let kubelet = Kubelet { server: &self.server, namespace: text("namespace"), name: text("name") };
            kubelet.disrupted("DeletionByPodGC", "PodGC: node no longer exists");
            kubelet.remove();
        }
        self.weather.joining_ms = Some(self.now_ms + self.dice.between(3_000, 6_000));
    }
}
