//! A cluster behind the [`Server`]: nodes, a scheduler, kubelets, and in the pods
//! executors that work, report, and break.
//!
//! Like everything except the daemon itself it does no IO: [`Cluster::advance`] is given the time, reads what
//! clients did to the API server, does what a cluster would do, and returns what executors send. The caller
//! delivers that. With virtual time it is a test, with real time a demo.
//!
//! A `Life` is the true state of a pod, beside what its status reports. The two differ in the interesting
//! cases, and [`Judge`] needs the true state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use fleet::id::{ExecutorId, IdSet};
use serde_json::{Value, json};

use crate::server::{Server, Status};

mod chaos;
mod dice;
mod executor;
mod judge;
mod kubelet;
mod life;
mod nodes;
#[cfg(test)]
mod tests;

use chaos::{Fate, Weather};
use dice::Dice;
use executor::Executor;
use kubelet::Kubelet;
use life::{Life, Stage};

pub use chaos::Chaos;
pub use judge::Judge;

/// Number of dead executors that Spark's REST API still lists: `spark.ui.retainedDeadExecutors`.
const DEAD_MAX: usize = 100;
/// Deleted pods about which a judge may still ask.
const GRAVES_MAX: usize = 10_000;

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// Every third one is a spot machine.
    pub nodes: u64,
    pub chaos: Chaos,
    /// Period of GraphiteSink.
    pub heartbeat_ms: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { seed: 1, nodes: 6, chaos: Chaos::None, heartbeat_ms: 5_000 }
    }
}

/// Something that happened in the cluster, beside what the API server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A report of an executor's GraphiteSink: `<app id>.<executor id>.<metric> <value> <epoch s>` lines.
    Graphite { pod: String, lines: String },
    /// Chaos struck; for reports: `etl-exec-3` `was OOM-killed`.
    Fault { pod: String, what: &'static str },
}

/// The true state of the cluster, which the API server may not report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Executor pods that ever existed.
    pub created: u64,
    /// How many of those reused an earlier pod's id.
    pub ids_reused: u64,
    /// Executor pods that have not ended.
    pub live: usize,
    /// Executors that run, are not being deleted, and send heartbeats.
    pub available: usize,
    /// Executors that run and are silent.
    pub silent: usize,
    /// How often each fault struck.
    pub faults: BTreeMap<&'static str, u64>,
}

pub struct Cluster {
    server: Server,
    options: Options,
    dice: Dice,
    now_ms: u64,
    /// By UID.
    lives: BTreeMap<String, Life>,
    /// UIDs of the pods deleted last, and whether they were healthy.
    graves: VecDeque<(String, bool)>,
    /// By application id: every application that ever existed.
    apps: BTreeMap<String, App>,
    /// The changes up to this revision have been read.
    seen: u64,
    weather: Weather,
    truth: Truth,
}

#[derive(Debug, Default)]
struct App {
    driver_wall_ms: i64,
    ids: IdSet,
    /// Rows of executors whose pods are gone.
    dead: VecDeque<Value>,
}

impl Cluster {
    /// A cluster with its nodes, at the time of the server.
    pub fn new(server: Server, options: Options) -> Cluster {
        (1..=options.nodes).for_each(|serial| nodes::join(&server, serial));
        Cluster {
            dice: Dice::new(options.seed),
            now_ms: server.now_ms(),
            lives: BTreeMap::new(),
            graves: VecDeque::new(),
            apps: BTreeMap::new(),
            seen: 0,
            weather: Weather::new(options.chaos, options.nodes),
            truth: Truth::default(),
            server,
            options,
        }
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Starts a driver, in a namespace that is created if it does not exist. Returns its pod's UID.
    pub fn start_driver(&mut self, namespace: &str, name: &str, app_id: &str) -> Result<String, Status> {
        if self.server.get("namespaces", "", namespace).is_none() {
            self.server.create("namespaces", "", json!({ "metadata": { "name": namespace } }))?;
        }
        let pod = json!({
            "metadata": { "name": name, "labels": { "spark-role": "driver", "spark-app-selector": app_id } },
            "spec": {
                "restartPolicy": "Never",
                "containers": [{ "name": "spark-kubernetes-driver", "image": "apache/spark:4.3.0" }],
                // It has to outlive every spot machine.
                "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{ "matchExpressions": [{
                        "key": nodes::CAPACITY, "operator": "NotIn", "values": ["spot"],
                    }] }],
                } } },
            },
        });
        let pod = self.server.create("pods", namespace, pod)?;
        self.app(app_id).driver_wall_ms = self.server.wall_ms();
        // The driver starts without delay.
        let kubelet = Kubelet { server: &self.server, namespace, name };
        if let Some(node) = nodes::place(&self.server, &mut self.dice, &pod) {
            kubelet.bound(&node);
            kubelet.running();
        }
        Ok(uid(&pod).to_owned())
    }

    /// Sets the time, in ms since the start: everything that is due happens. Call it several times a second;
    /// what becomes due between two calls is late, never lost.
    pub fn advance(&mut self, now_ms: u64) -> Vec<Signal> {
        self.server.advance(now_ms);
        self.now_ms = self.now_ms.max(now_ms);
        let mut signals = Vec::new();
        self.hear(&mut signals);
        self.strike(&mut signals);
        let uids: Vec<String> = self.lives.keys().cloned().collect();
        for uid in uids {
            // Taken out of the map, so that both can be changed.
            if let Some(mut life) = self.lives.remove(&uid) {
                self.step(&uid, &mut life);
                self.beat(&mut life, &mut signals);
                self.lives.insert(uid, life);
            }
        }
        self.hear(&mut signals);
        signals
    }

    /// Answer of Spark's REST API at `/allexecutors` for an application.
    pub fn allexecutors(&self, app_id: &str) -> Value {
        let Some(app) = self.apps.get(app_id) else { return json!([]) };
        let mut rows: Vec<Value> = app.dead.iter().cloned().collect();
        let processes = self.lives.values().filter_map(|life| life.process.as_ref());
        rows.extend(processes.filter(|process| process.app == app_id).map(row));
        rows.push(executor::driver_row(app.driver_wall_ms));
        rows.into()
    }

    /// The true state.
    pub fn truth(&self) -> Truth {
        let executors = || self.lives.values().filter(|life| life.executor.is_some());
        let silent = |life: &&Life| life.process.as_ref().is_some_and(|process| process.silent);
        let up = |life: &&Life| matches!(life.stage, Stage::Up { .. });
        Truth {
            live: executors().filter(|life| life.stage != Stage::Ended).count(),
            available: executors().filter(|life| up(life) && !silent(life)).count(),
            silent: executors().filter(|life| up(life) && silent(life)).count(),
            ..self.truth.clone()
        }
    }

    /// Was this pod unaffected by chaos to its end? `None`: not known, or no longer.
    pub fn is_well(&self, uid: &str) -> Option<bool> {
        let grave = || self.graves.iter().find(|(grave, _)| grave == uid).map(|(_, well)| *well);
        self.lives.get(uid).map(|life| !life.sick).or_else(grave)
    }

    fn app(&mut self, id: &str) -> &mut App {
        let wall_ms = self.server.wall_ms();
        self.apps.entry(id.to_owned()).or_insert_with(|| App { driver_wall_ms: wall_ms, ..App::default() })
    }

    /// Reads what clients, and this cluster itself, did to pods.
    fn hear(&mut self, signals: &mut Vec<Signal>) {
        let (revision, changes) = self.server.changes("pods", self.seen);
        match changes {
            Some(changes) => {
                for change in changes {
                    match (&change.before, &change.after) {
                        (None, Some(pod)) => self.born(pod, signals),
                        (Some(pod), None) => self.gone(uid(pod)),
                        (Some(_), Some(_)) | (None, None) => {}
                    }
                }
            }
            None => {
                // The log was compacted: list everything again.
                let pods = self.server.list("pods");
                let there: Vec<&str> = pods.iter().map(|pod| uid(pod)).collect();
                let lost: Vec<String> =
                    self.lives.keys().filter(|uid| !there.contains(&uid.as_str())).cloned().collect();
                lost.iter().for_each(|uid| self.gone(uid));
                for pod in pods.iter().filter(|pod| !self.lives.contains_key(uid(pod))).collect::<Vec<_>>() {
                    self.born(pod, signals);
                }
            }
        }
        self.seen = revision;
    }

    fn born(&mut self, pod: &Arc<Value>, signals: &mut Vec<Signal>) {
        let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let executor = executor_of(pod).map(|(app, id)| (app.to_owned(), id.to_owned()));
        let mut fate = Fate::Fine;
        if let Some((app, id)) = &executor {
            self.truth.created += 1;
            let fresh = id.parse().is_ok_and(|id| self.app(app).ids.insert(ExecutorId(id)));
            self.truth.ids_reused += u64::from(!fresh);
            fate = self.weather.take_fate();
            if let Some(what) = fate.what() {
                self.fault(&name, what, signals);
            }
        }
        let sick = fate != Fate::Fine;
        let stage = Stage::Unscheduled { told: false };
        let life = Life { namespace, name, executor, stage, fate, sick, process: None };
        self.lives.insert(uid(pod).to_owned(), life);
    }

    fn gone(&mut self, uid: &str) {
        let Some(mut life) = self.lives.remove(uid) else { return };
        if let Some(mut process) = life.process.take() {
            let why = format!("The executor with id {} was deleted by a user or the framework.", process.id);
            self.end(&mut process, why);
            let dead = &mut self.app(&process.app).dead;
            dead.push_back(row(&process));
            if dead.len() > DEAD_MAX {
                dead.pop_front();
            }
        }
        self.graves.push_back((uid.to_owned(), !life.sick));
        if self.graves.len() > GRAVES_MAX {
            self.graves.pop_front();
        }
    }

    /// The driver removes the executor, unless it has done so already.
    fn end(&self, process: &mut Executor, why: String) {
        process.work(self.now_ms);
        let wall_ms = self.server.wall_ms();
        process.removed.get_or_insert((wall_ms, why));
    }

    fn fault(&mut self, pod: &str, what: &'static str, signals: &mut Vec<Signal>) {
        *self.truth.faults.entry(what).or_default() += 1;
        signals.push(Signal::Fault { pod: pod.to_owned(), what });
    }
}

fn row(process: &Executor) -> Value {
    // All executors share one machine, so each needs a port of its own.
    process.row(7080 + process.id.parse::<u64>().unwrap_or(0) % 50_000)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}

/// Application and executor id of an executor's pod.
fn executor_of(pod: &Value) -> Option<(&str, &str)> {
    let labels = &pod["metadata"]["labels"];
    let labelled = labels["spark-role"] == "executor";
    labels["spark-app-selector"].as_str().zip(labels["spark-exec-id"].as_str()).filter(|_| labelled)
}
