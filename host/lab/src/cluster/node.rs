//! Nodes: lost, back again, or removed, and what Kubernetes does about their pods meanwhile.
//!
//! Kubernetes takes 40 s to call a node unreachable and tolerates that for 300 s before it evicts.
//! Here both are shorter, so that a run of minutes sees all of it; the order is what matters.

use super::{Process, Taker};
use crate::api::Serial;
use crate::fault::Fault;
use crate::world::{Task, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStep {
    /// The node controller has missed the kubelet's heartbeats.
    Unreachable,
    /// The taint manager evicts its pods.
    Evict,
    /// It works again.
    Back,
    /// Its Node object is deleted; PodGC removes its pods.
    Gone,
    /// A new node takes its place.
    Replaced,
    /// Its termination was announced, and happens.
    Reclaimed,
    /// Its termination was announced, and does not happen.
    Withdrawn,
}

impl World<'_> {
    /// A node stops working: its kubelet is silent, and its executors may be silent too.
    pub(crate) fn lose_node(&mut self, node: usize) {
        let it = &mut self.cluster.nodes[node];
        if !it.alive || it.gone {
            return;
        }
        it.alive = false;
        self.sim.say(|| format!("node-{node} is lost"));
        let power_lost = self.sim.choices.chance(500);
        let now_ms = self.sim.now_ms;
        for executor in self.cluster.executors.values_mut().filter(|executor| executor.node == Some(node)) {
            executor.down(now_ms);
            executor.hurt(now_ms);
            if power_lost && executor.process != Process::None {
                executor.process = Process::Ended;
            }
        }
        let noticed_ms = self.sim.choices.between(5_000, 20_000);
        self.sim.after(noticed_ms, Task::Node { node, step: NodeStep::Unreachable });
        let evicted_ms = noticed_ms + self.sim.choices.between(5_000, 30_000);
        self.sim.after(evicted_ms, Task::Node { node, step: NodeStep::Evict });
        let end_ms = self.sim.choices.between(20_000, 180_000);
        let step = if self.sim.choices.chance(500) { NodeStep::Gone } else { NodeStep::Back };
        self.sim.after(end_ms, Task::Node { node, step });
    }

    fn pods_on(&self, node: usize) -> Vec<Serial> {
        let name = &self.cluster.nodes[node].name;
        let on =
            |serial: &Serial| self.api.pod(*serial).is_some_and(|pod| pod.view.node.as_ref() == Some(name));
        self.api.pods().map(|(serial, _)| serial).filter(on).collect()
    }

    pub(crate) fn node_step(&mut self, node: usize, step: NodeStep) {
        let it = &mut self.cluster.nodes[node];
        match step {
            NodeStep::Unreachable if !it.alive => {
                it.ready = false;
                self.tell_node(node);
            }
            NodeStep::Evict if !it.alive && !it.gone => {
                it.ready = false;
                for serial in self.pods_on(node) {
                    self.disrupt(serial, "DeletionByTaintManager");
                    self.api.delete_serial(serial, None);
                }
            }
            NodeStep::Back => self.node_returns(node),
            NodeStep::Gone if !it.alive && !it.gone => {
                it.gone = true;
                it.ready = false;
                self.tell_node(node);
                for serial in self.pods_on(node) {
                    self.disrupt(serial, "DeletionByPodGC");
                    self.api
                        .change(serial, |pod| super::executor::set_phase(pod, fleet::event::Phase::Failed));
                    self.api.delete_serial(serial, Some(0));
                }
                let wait_ms = self.sim.choices.between(10_000, 60_000);
                self.sim.after(wait_ms, Task::Node { node, step: NodeStep::Replaced });
            }
            NodeStep::Reclaimed if it.announced && it.alive => {
                for serial in self.pods_on(node) {
                    if let Some(truth) = self.cluster.executors.get_mut(&serial) {
                        truth.taken_by = Some(Taker::AnnouncedNode);
                    }
                    self.pod_step(serial, super::PodStep::Exit(137));
                }
                self.lose_node(node);
            }
            NodeStep::Withdrawn if it.announced => {
                it.announced = false;
                self.tell_node(node);
            }
            NodeStep::Replaced if it.gone => {
                it.announced = false;
                it.gone = false;
                it.alive = true;
                it.ready = true;
                it.black_hole = false;
                self.tell_node(node);
            }
            NodeStep::Unreachable
            | NodeStep::Evict
            | NodeStep::Gone
            | NodeStep::Replaced
            | NodeStep::Reclaimed
            | NodeStep::Withdrawn => {}
        }
    }

    /// Its kubelet works again: it ends pods that were deleted meanwhile, and reports containers that ended.
    pub(crate) fn node_returns(&mut self, node: usize) {
        let it = &mut self.cluster.nodes[node];
        if it.gone || it.alive {
            return;
        }
        it.alive = true;
        it.ready = true;
        self.tell_node(node);
        for serial in self.pods_on(node) {
            let Some(pod) = self.api.pod(serial) else { continue };
            let (terminating, running) =
                (pod.view.terminating(), pod.view.phase == fleet::event::Phase::Running);
            let Some(truth) = self.cluster.executors.get_mut(&serial) else { continue };
            if terminating {
                self.stop(serial);
            } else if truth.process == Process::Ended && running {
                // The machine restarted under it.
                truth.process = Process::Running;
                self.pod_step(serial, super::PodStep::Exit(137));
            } else if truth.process == Process::Running {
                truth.down_ms = None;
            }
        }
    }

    fn tell_node(&mut self, node: usize) {
        let view = self.cluster.nodes[node].view();
        self.node_told(&view);
    }

    /// Faults of nodes, drawn each second.
    pub(crate) fn node_chaos(&mut self) {
        let count = self.cluster.nodes.len() as u64;
        if self.sim.strikes(Fault::NodeNotReady) {
            let node = usize::try_from(self.sim.choices.below(count)).expect("an index");
            self.lose_node(node);
        }
        if self.sim.strikes(Fault::ZoneLost) {
            let zone = self.sim.choices.below(3);
            let nodes =
                (0..self.cluster.nodes.len()).filter(|at| u64::from(self.cluster.nodes[*at].zone) == zone);
            for node in nodes.collect::<Vec<_>>() {
                self.lose_node(node);
            }
        }
        if self.sim.strikes(Fault::BlackHoleNode) {
            let node = usize::try_from(self.sim.choices.below(count)).expect("an index");
            self.cluster.nodes[node].black_hole = true;
        }
        if self.sim.strikes(Fault::NodeAnnounced) {
            let node = usize::try_from(self.sim.choices.below(count)).expect("an index");
            self.announce_node(node);
        }
        if self.sim.strikes(Fault::SpotReclaim) {
            let running = self.cluster.running();
            let count = running.len().div_ceil(3);
            for serial in running.into_iter().rev().take(count) {
                self.disrupt(serial, "TerminationByKubelet");
                self.api.delete_serial(serial, Some(2_000));
            }
        }
        if self.sim.strikes(Fault::NodePressure)
            && let Some(serial) = self.random_running()
        {
            self.disrupt(serial, "TerminationByKubelet");
            self.api.change(serial, |pod| {
                pod.status.reason = Some("Evicted".to_owned());
                pod.status.message = Some("The node was low on resource: memory.".to_owned());
            });
            self.pod_step(serial, super::PodStep::Exit(137));
        }
    }

    /// A node's termination is announced some time ahead, and then happens or not.
    fn announce_node(&mut self, node: usize) {
        let it = &mut self.cluster.nodes[node];
        if it.announced || !it.alive || it.gone {
            return;
        }
        it.announced = true;
        self.sim.say(|| format!("node-{node} is announced to go"));
        self.tell_node(node);
        let step = if self.sim.choices.chance(300) { NodeStep::Withdrawn } else { NodeStep::Reclaimed };
        let wait_ms = self.sim.choices.between(2_000, 60_000);
        self.sim.after(wait_ms, Task::Node { node, step });
    }

    pub(crate) fn random_running(&mut self) -> Option<Serial> {
        let running = self.cluster.running();
        self.sim.choices.pick(&running).copied()
    }
}
