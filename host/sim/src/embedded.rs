//! A cluster behind the [`Server`]: nodes, a scheduler, kubelets, and in the pods
//! executors that work, report, and break.
//!
//! Like all that is not the daemon itself it does no IO: [`Cluster::advance`] is told the time, looks at what
//! clients did to the API server, does what a cluster would, and hands out what executors say. Whoever
//! runs it carries that to wherever it belongs. With virtual time it is a test, with real time a demo.
//!
//! A `Life` is the truth about a pod, beside what its status says. The two differ in the interesting
//! moments, and [`Judge`] needs the truth.

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

/// What Spark's REST API still shows of dead executors: `spark.ui.retainedDeadExecutors`.
const DEAD_MAX: usize = 100;
/// Pods that are gone and still spoken of by a judge.
const GRAVES_MAX: usize = 10_000;

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// Every third is a spot machine.
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
    /// Chaos struck, for whoever tells the story: `etl-exec-3` `was OOM-killed`.
    Fault { pod: String, what: &'static str },
}

/// What is so, whatever anybody believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Executor pods that ever were.
    pub created: u64,
    /// Of those, how many had the id of one before.
    pub ids_reused: u64,
    /// Executor pods that have not ended.
    pub live: usize,
    /// Executors that run, are not being deleted, and are heard.
    pub available: usize,
    /// Executors that run and are silent.
    pub silent: usize,
    /// How often which fault struck.
    pub faults: BTreeMap<&'static str, u64>,
}

pub struct Cluster {
    server: Server,
    options: Options,
    dice: Dice,
    now_ms: u64,
    /// By UID.
    lives: BTreeMap<String, Life>,
    /// UIDs of the last that are gone, and whether they were well.
    graves: VecDeque<(String, bool)>,
    /// By application id: one for each that there ever was.
    apps: BTreeMap<String, App>,
    /// The changes up to this revision are known.
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

    /// A driver that runs, in a namespace that is made where there is none. Its pod's UID.
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
        // Nobody has to wait for it.
        let kubelet = Kubelet { server: &self.server, namespace, name };
        if let Some(node) = nodes::place(&self.server, &mut self.dice, &pod) {
            kubelet.bound(&node);
            kubelet.running();
        }
        Ok(uid(&pod).to_owned())
    }

    /// It is now so late, in ms since the start: everything that is due happens. Call it some times a
    /// second; what is due between two calls is late, never lost.
    pub fn advance(&mut self, now_ms: u64) -> Vec<Signal> {
        self.server.advance(now_ms);
        self.now_ms = self.now_ms.max(now_ms);
        let mut signals = Vec::new();
        self.hear(&mut signals);
        self.strike(&mut signals);
        let uids: Vec<String> = self.lives.keys().cloned().collect();
        for uid in uids {
            // Out of the map, so that it and the rest can be changed both.
            if let Some(mut life) = self.lives.remove(&uid) {
                self.step(&uid, &mut life);
                self.beat(&mut life, &mut signals);
                self.lives.insert(uid, life);
            }
        }
        self.hear(&mut signals);
        signals
    }

    /// What Spark's REST API says of an application at `/allexecutors`.
    pub fn allexecutors(&self, app_id: &str) -> Value {
        let Some(app) = self.apps.get(app_id) else { return json!([]) };
        let mut rows: Vec<Value> = app.dead.iter().cloned().collect();
        let processes = self.lives.values().filter_map(|life| life.process.as_ref());
        rows.extend(processes.filter(|process| process.app == app_id).map(row));
        rows.push(executor::driver_row(app.driver_wall_ms));
        rows.into()
    }

    /// What is so.
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

    /// Was this pod untouched by chaos, to its end? `None`: it is not known, or not any more.
    pub fn is_well(&self, uid: &str) -> Option<bool> {
        let grave = || self.graves.iter().find(|(grave, _)| grave == uid).map(|(_, well)| *well);
        self.lives.get(uid).map(|life| !life.sick).or_else(grave)
    }

    fn app(&mut self, id: &str) -> &mut App {
        let wall_ms = self.server.wall_ms();
        self.apps.entry(id.to_owned()).or_insert_with(|| App { driver_wall_ms: wall_ms, ..App::default() })
    }

    /// What clients, and we ourselves, did to pods.
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
                // The log is forgotten: everything anew.
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

    /// The driver has removed it, if it had not before.
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
    // One machine has them all, so each needs a port of its own.
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
