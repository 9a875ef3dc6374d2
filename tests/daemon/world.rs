//! A cluster that runs on its own: it ticks in a task, receives executors' reports, and records the verdicts of its
//! judge on the daemons.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use embedded::server::Server;
use embedded::{Chaos, Cluster, Judge, Options, Signal, Truth};
use fleet::event::{Beat, Counters, DriverRow};
use fleet::id::ExecutorId;
use rollcall::heartbeat::Sign;
use rollcall::heartbeat::intake::{self, Sender, Signs};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use super::support::{APPLICATION, DRIVER, NAMESPACE, lock};

const TICK: Duration = Duration::from_millis(100);
/// How often the driver reports.
const REPORT_MS: u64 = 1_000;
/// The first life of a daemon.
const LIFE: u64 = 1;

pub struct World {
    /// Printed when a test fails.
    pub seed: u64,
    pub server: Server,
    inner: Arc<Mutex<Inner>>,
    ticking: JoinHandle<()>,
}

struct Inner {
    cluster: Cluster,
    judge: Judge,
    /// Receivers of the messages of executors and the driver.
    ears: Vec<Sender>,
    /// The receiver of executors' reports as Graphite lines.
    lines: Option<mpsc::Sender<String>>,
    wrong: Vec<String>,
    compact: bool,
}

impl World {
    /// A cluster with a driver, and a judge with the document's default limits.
    pub fn start(seed: u64, chaos: Chaos, executors: u32) -> World {
        let server = Server::new(seed);
        server.set_wall_clock(jiff::Timestamp::now().as_millisecond());
        let mut cluster =
            Cluster::new(server.clone(), Options { seed, nodes: 6, chaos, heartbeat_ms: 1_000 });
        cluster.start_driver(NAMESPACE, DRIVER, APPLICATION).expect("the driver's pod is created");
        let target = executors as usize;
        // A surge of a quarter, and as many again that are terminating; a quarter fewer by voluntary disruption.
        let ceiling = (target + target.div_ceil(4)) * 2;
        let judge = Judge::new(server.clone(), APPLICATION, ceiling, target - target / 4);
        let inner =
            Inner { cluster, judge, ears: Vec::new(), lines: None, wrong: Vec::new(), compact: false };
        let inner = Arc::new(Mutex::new(inner));
        let ticking = tokio::spawn(tick(Arc::clone(&inner)));
        World { seed, server, inner, ticking }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub fn truth(&self) -> Truth {
        self.inner().cluster.truth()
    }

    /// The violations that the judge has found so far.
    pub fn wrong(&self) -> Vec<String> {
        self.inner().wrong.clone()
    }

    /// Applies a change to the cluster now.
    pub fn happen<T>(&self, what: impl FnOnce(&mut Cluster) -> T) -> T {
        what(&mut self.inner().cluster)
    }

    /// The nodes that executors' pods run on, without duplicates.
    pub fn busy_nodes(&self) -> BTreeSet<String> {
        let live =
            |pod: &Arc<Value>| !matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        let node = |pod: Arc<Value>| pod["spec"]["nodeName"].as_str().map(str::to_owned);
        self.pods().into_iter().filter(live).filter_map(node).collect()
    }

    /// Ends the chaos.
    pub fn heal(&self) {
        self.inner().cluster.heal();
    }

    /// The API server drops its history with the next tick: between two, so that the judge misses nothing.
    pub fn compact(&self) {
        self.inner().compact = true;
    }

    /// All further messages of executors and the driver, as the daemon's loop receives them.
    pub fn signs(&self) -> Signs {
        let (ear, signs) = intake::channel();
        self.inner().ears.push(ear);
        signs
    }

    /// All further reports of executors, as lines of GraphiteSink.
    pub fn lines(&self) -> mpsc::Receiver<String> {
        let (sender, lines) = mpsc::channel(1_000);
        self.inner().lines = Some(sender);
        lines
    }

    /// The driver's REST API: its answer at each call.
    pub fn rest(&self) -> impl Fn() -> Value + Clone + Send + Sync + 'static {
        let inner = Arc::clone(&self.inner);
        move || lock(&inner).cluster.allexecutors(APPLICATION)
    }

    /// Existing executors' pods, including ended ones.
    pub fn pods(&self) -> Vec<Arc<Value>> {
        let mut pods = self.server.list("pods");
        pods.retain(|pod| pod["metadata"]["labels"]["spark-role"] == "executor");
        pods
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.ticking.abort();
    }
}

async fn tick(inner: Arc<Mutex<Inner>>) {
    let start = Instant::now();
    let mut ticks = interval(TICK);
    let mut reported_ms = 0;
    loop {
        ticks.tick().await;
        let now_ms = u64::try_from(start.elapsed().as_millis()).expect("no test runs for so long");
        let mut inner = lock(&inner);
        let Inner { cluster, judge, ears, lines, wrong, compact } = &mut *inner;
        let signals = cluster.advance(now_ms);
        let mut signs: Vec<Sign> = signals.iter().filter_map(beat).collect();
        for signal in signals {
            if let (Signal::Graphite { lines: said, .. }, Some(lines)) = (signal, &*lines) {
                // Never wait for a slow receiver.
                let _ = lines.try_send(said);
            }
        }
        if now_ms >= reported_ms + REPORT_MS {
            reported_ms = now_ms;
            signs.push(Sign::Driver { life: LIFE, rows: rows(&cluster.allexecutors(APPLICATION)) });
        }
        // Until the daemon has ended.
        ears.retain(|ear| signs.iter().all(|sign| ear.send(sign.clone()).is_ok()));
        wrong.extend(judge.look(cluster));
        if std::mem::take(compact) {
            cluster.server().compact();
        }
    }
}

fn beat(signal: &Signal) -> Option<Sign> {
    let Signal::Graphite { lines, .. } = signal else { return None };
    let executor = lines.split('.').nth(1)?.parse().ok()?;
    let beat = Beat { executor: ExecutorId(executor), uid: None, metrics: Vec::new() };
    Some(Sign::Beat { life: LIFE, beat })
}

/// The rows of the driver's REST API.
fn rows(all: &Value) -> Vec<DriverRow> {
    let row = |row: &Value| {
        let number = |field: &str| row[field].as_i64().unwrap_or_default();
        let count = |field: &str| i32::try_from(number(field)).unwrap_or(i32::MAX);
        let counters = Counters {
            active_tasks: count("activeTasks"),
            failed_tasks: count("failedTasks"),
            completed_tasks: count("completedTasks"),
            total_tasks: count("totalTasks"),
            total_duration_ms: number("totalDuration"),
            total_gc_time_ms: number("totalGCTime"),
            ..Counters::default()
        };
        Some(DriverRow {
            executor: ExecutorId(row["id"].as_str()?.parse().ok()?),
            active: row["isActive"] == true,
            remove_reason: row["removeReason"].as_str().map(Into::into),
            counters: Some(counters),
        })
    };
    all.as_array().into_iter().flatten().filter_map(row).collect()
}
