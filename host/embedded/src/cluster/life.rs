//! A pod's life: scheduled, started, running, ended.
//!
//! Each step reads the pod from the API server, because any client may have changed it since.

use serde_json::Value;

use super::chaos::Fate;
use super::executor::Executor;
use super::kubelet::{Exit, Kubelet};
use super::{Cluster, Signal, nodes, uid};
use crate::server::gates::is_gated;

/// The true state of a pod.
#[derive(Debug)]
pub(super) struct Life {
    pub namespace: String,
    pub name: String,
    /// Application and executor id, if this is an executor.
    pub executor: Option<(String, String)>,
    pub stage: Stage,
    pub fate: Fate,
    /// A fault struck it.
    pub sick: bool,
    pub process: Option<Executor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// `told`: its status already says so.
    Unscheduled {
        told: bool,
    },
    Starting {
        at_ms: u64,
    },
    /// It cannot start until the cause is fixed.
    Stuck,
    Up {
        ends: Option<(u64, Exit)>,
    },
    /// `exit`: how its containers will end, if they ever ran.
    Stopping {
        at_ms: u64,
        exit: Option<Exit>,
    },
    Ended,
}

impl Cluster {
    /// A pod's next step: the scheduler's, then the kubelet's.
    pub(super) fn step(&mut self, uid_: &str, life: &mut Life) {
        let server = self.server.clone();
        let Some(pod) = server.get("pods", &life.namespace, &life.name).filter(|pod| uid(pod) == uid_) else {
            return;
        };
        let (namespace, name) = (life.namespace.clone(), life.name.clone());
        let kubelet = Kubelet { server: &server, namespace: &namespace, name: &name };
        let terminating = pod["metadata"].get("deletionTimestamp").is_some();
        if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
            life.stage = Stage::Ended;
            if let Some(process) = &mut life.process {
                let why = format!("The executor with id {} exited.", process.id);
                self.end(process, why);
            }
        }
        match life.stage {
            Stage::Ended if terminating => kubelet.remove(),
            Stage::Ended => {}
            Stage::Stopping { at_ms, exit } if self.now_ms >= at_ms => {
                if let Some(exit) = exit {
                    self.exit(life, &kubelet, exit, None);
                }
                kubelet.remove();
            }
            Stage::Stopping { .. } => {}
            Stage::Unscheduled { .. } | Stage::Starting { .. } | Stage::Stuck | Stage::Up { .. }
                if terminating =>
            {
                life.stage = self.stop(life, &pod);
            }
            // The scheduler ignores a gated pod: it does not even report that no node fits.
            Stage::Unscheduled { .. } if is_gated(&pod) => {}
            Stage::Unscheduled { told } => {
                let bound = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
                let node = match (life.fate, bound) {
                    (Fate::Unschedulable, _) => None,
                    (_, Some(node)) => Some(node.to_owned()),
                    (_, None) => nodes::place(&server, &mut self.dice, &pod),
                };
                if let Some(node) = node {
                    kubelet.bound(&node);
                    life.stage = Stage::Starting { at_ms: self.now_ms + self.dice.between(300, 1500) };
                } else if !told {
                    kubelet.unschedulable(server.list("nodes").len());
                    life.stage = Stage::Unscheduled { told: true };
                }
            }
            Stage::Starting { at_ms } if self.now_ms >= at_ms => self.start(life, &kubelet),
            Stage::Stuck if life.fate == Fate::Fine => self.start(life, &kubelet),
            Stage::Starting { .. } | Stage::Stuck => {}
            Stage::Up { ends: Some((at_ms, exit)) } if self.now_ms >= at_ms => {
                self.exit(life, &kubelet, exit, None);
            }
            Stage::Up { .. } => {}
        }
    }

    fn start(&mut self, life: &mut Life, kubelet: &Kubelet<'_>) {
        if life.fate == Fate::ImageMissing {
            kubelet.image_missing();
            life.stage = Stage::Stuck;
            return;
        }
        kubelet.running();
        let crash_ms = self.now_ms + self.dice.between(300, 1500);
        let crashes = life.fate == Fate::CrashAtStart;
        life.stage = Stage::Up { ends: crashes.then(|| (crash_ms, Exit::error(1))) };
        if let Some((app, id)) = life.executor.as_ref().filter(|_| !crashes) {
            let (wall_ms, period_ms) = (self.server.wall_ms(), self.options.heartbeat_ms);
            life.process = Some(Executor::start(&mut self.dice, app, id, self.now_ms, wall_ms, period_ms));
        }
    }

    /// The preStop hook asks the executor to leave, and it soon does. A stopped process does not react, and is
    /// killed when its grace period is over.
    fn stop(&mut self, life: &Life, pod: &Value) -> Stage {
        let grace_ms =
            pod["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0).saturating_mul(1000);
        if life.process.as_ref().is_some_and(|process| process.silent) {
            return Stage::Stopping { at_ms: self.now_ms.saturating_add(grace_ms), exit: Some(Exit::KILLED) };
        }
        let at_ms = self.now_ms + self.dice.between(200, 2000).min(grace_ms);
        let ran = matches!(life.stage, Stage::Up { .. });
        Stage::Stopping { at_ms, exit: ran.then_some(Exit::DECOMMISSIONED) }
    }

    pub(super) fn exit(&self, life: &mut Life, kubelet: &Kubelet<'_>, exit: Exit, why: Option<(&str, &str)>) {
        kubelet.ended(exit, why);
        life.stage = Stage::Ended;
        if let Some(process) = &mut life.process {
            let id = &process.id;
            let why = match exit.code {
                0 => format!("Executor decommission: Executor {id} is decommissioned."),
                137 => {
                    format!(
                        "The executor with id {id} exited with exit code 137(SIGKILL, possible container OOM)."
                    )
                }
                code => format!("The executor with id {id} exited with exit code {code}."),
            };
            self.end(process, why);
        }
    }

    pub(super) fn beat(&self, life: &mut Life, signals: &mut Vec<Signal>) {
        let Some(process) = &mut life.process else { return };
        if process.removed.is_some() {
            return;
        }
        process.work(self.now_ms);
        if self.now_ms >= process.next_beat_ms && !process.silent {
            process.next_beat_ms = self.now_ms + self.options.heartbeat_ms;
            let lines = process.graphite(self.server.wall_ms());
            signals.push(Signal::Graphite { pod: life.name.clone(), lines });
        }
    }
}
