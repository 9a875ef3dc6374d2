//! Daemons in a [`World`], and assertions about them.
//!
//! A [`Daemon`] is what `rollcall run` starts, without listeners: heartbeats come directly from the world. Between a
//! daemon and the API server is a [`Wire`] with latency that can be cut: after that, no call of the daemon has any
//! effect, as after `kill -9`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use cluster::Clients;
use cluster::queue::Rates;
use embedded::Truth;
use embedded::server::Server;
use fleet::election::ElectionSettings;
use policy::Compiler;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rollcall::config::FleetConfig;
use rollcall::daemon::{self, Change, Ended, Judge, LeaseConfig, Parts, Policies};
use rollcall::handle::{Handle, Overview};
use rollcall::heartbeat::Directory;
use rollcall::heartbeat::intake::Signs;
use rollcall::metrics::Metrics;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::world::World;

pub const NAMESPACE: &str = "spark";
pub const FLEET: &str = "etl";
pub const APPLICATION: &str = "spark-0123456789abcdef";
pub const DRIVER: &str = "etl-driver";

const LOOK: Duration = Duration::from_millis(100);

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Built once: they have to be compiled, and are the same for all tests.
pub fn policies() -> Arc<Policies> {
    static POLICIES: OnceLock<Arc<Policies>> = OnceLock::new();
    Arc::clone(
        POLICIES.get_or_init(|| {
            Arc::new(Policies::load(None, Compiler::Here).expect("the built-in policies load"))
        }),
    )
}

/// A fleet with short times: seconds where real ones have minutes.
pub fn document(executors: u32, change: impl FnOnce(&mut Value)) -> FleetConfig {
    let mut document = json!({
        "apiVersion": "rollcall.dev/v1alpha1",
        "kind": "ExecutorFleet",
        "metadata": { "name": FLEET, "namespace": NAMESPACE },
        "spec": {
            "mode": "Own",
            "executors": executors,
            "driver": { "podName": DRIVER, "startTimeout": "0s" },
            "heartbeat": { "timeout": "5s", "interval": "1s" },
            "recovery": { "maxExecutorFailures": 1_000_000, "maxKeptPods": 2, "keptPodsFor": "10s" },
            "allocation": {
                "pendingTimeout": "8s", "initialBackoff": "1s", "maxBackoff": "4s", "maxStartFailures": 20,
            },
            "spark": {},
            "template": { "spec": { "containers": [
                { "name": "spark-kubernetes-executor", "image": "apache/spark:4.3.0" },
            ] } },
        },
    });
    change(&mut document);
    let fleet = serde_json::from_value(document).expect("a document");
    FleetConfig { file: "test".into(), document: 1, fleet, generation: None, old_names: Vec::new() }
}

// --------------------------------------------------------------------------------------- the wire --

/// The connection between a daemon and the API server.
#[derive(Debug)]
pub struct Wire {
    cut: AtomicBool,
    dice: Mutex<ChaCha8Rng>,
    /// Maximum latency of a request, and of its answer.
    latency_ms: u64,
    start: Instant,
    /// When pods were last changed over it, in ms; 0: never.
    acted_ms: AtomicU64,
}

impl Wire {
    pub fn new(seed: u64, latency_ms: u64) -> Arc<Wire> {
        let (cut, acted_ms) = (AtomicBool::new(false), AtomicU64::new(0));
        let dice = Mutex::new(ChaCha8Rng::seed_from_u64(seed));
        Arc::new(Wire { cut, dice, latency_ms, start: Instant::now(), acted_ms })
    }

    /// Stops all traffic in both directions.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
    }

    /// When pods were last changed over it.
    pub fn acted_at(&self) -> Option<Instant> {
        let ms = self.acted_ms.load(Ordering::Acquire);
        (ms > 0).then(|| self.start + Duration::from_millis(ms))
    }

    /// kube's client, with the server at the other end.
    pub fn client(self: &Arc<Wire>, server: &Server) -> cluster::Client {
        let (wire, server) = (Arc::clone(self), server.clone());
        let carry = move |request: Request| carry(Arc::clone(&wire), server.clone(), request);
        cluster::Client::new(axum::Router::new().fallback(carry), NAMESPACE)
    }

    async fn pass(&self) {
        let delay_ms = lock(&self.dice).random_range(0..=self.latency_ms);
        if delay_ms > 0 {
            sleep(Duration::from_millis(delay_ms)).await;
        }
        if self.cut.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }
}

async fn carry(wire: Arc<Wire>, server: Server, request: Request) -> Response {
    wire.pass().await;
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 8 << 20).await.expect("a body of our own client");
    if parts.method != Method::GET && parts.uri.path().contains("/pods") {
        let ms = u64::try_from(wire.start.elapsed().as_millis()).expect("no test runs for so long");
        wire.acted_ms.store(ms.max(1), Ordering::Release);
    }
    let response = server.call(Request::from_parts(parts, body));
    wire.pass().await;
    response.map(Body::new)
}

// ------------------------------------------------------------------------------------- the daemon --

/// The options of a daemon.
pub struct How {
    pub config: FleetConfig,
    pub client: cluster::Client,
    pub lease: bool,
    /// Distinguishes the replicas.
    pub number: u64,
}

pub struct Daemon {
    pub handle: Handle,
    stop: watch::Sender<bool>,
    task: JoinHandle<Ended>,
    changes: mpsc::Sender<Change>,
}

impl Daemon {
    /// A daemon that receives the world's heartbeats.
    pub fn start(world: &World, how: How) -> Daemon {
        Daemon::run(how, Arc::default(), world.signs())
    }

    pub fn run(how: How, directory: Arc<Directory>, signs: Signs) -> Daemon {
        Daemon::with(how, policies(), directory, signs)
    }

    pub fn with(how: How, policies: Arc<Policies>, directory: Arc<Directory>, signs: Signs) -> Daemon {
        let (handle, requests) = Handle::new(256, 4_096);
        let (changes, heard) = mpsc::channel(4);
        let (stop, stopped) = watch::channel(false);
        let lease = how.lease.then(|| LeaseConfig {
            namespace: NAMESPACE.to_owned(),
            name: "rollcall".to_owned(),
            settings: ElectionSettings::default(),
        });
        let metrics = Metrics::new(how.lease.then_some("rollcall"));
        let task = tokio::spawn(daemon::run(Parts {
            clients: Clients::over(how.client, "kubernetes:443", Arc::new(metrics.clone())),
            fleets: Judge::patient(Arc::clone(&policies)).judge(&[how.config]),
            policies,
            lease,
            notes: None,
            rates: Rates::default(),
            instance: format!("rollcall-{}", how.number),
            directory,
            signs,
            handle: handle.clone(),
            requests,
            metrics,
            watch_nodes: true,
            changes: heard,
            stop: stopped,
            random: u128::from(how.number) << 64 | 0x9e37_79b9_7f4a_7c15,
        }));
        Daemon { handle, stop, task, changes }
    }

    /// Gives it these documents, judged by these policies.
    pub async fn give(&self, policies: &Arc<Policies>, configs: &[FleetConfig]) {
        let judged = Judge::patient(Arc::clone(policies)).judge(configs);
        assert!(self.changes.send(Change::Fleets(judged)).await.is_ok(), "the daemon has ended");
    }

    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub fn leads(&self) -> bool {
        self.handle.pulse().is_leading()
    }

    /// Ends the task at its current await point.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// As SIGTERM does.
    pub async fn stop(self) -> Ended {
        self.stop.send_replace(true);
        self.task.await.expect("no panic")
    }

    /// The fleet in the daemon's view. `None`: no answer.
    pub async fn overview(&self) -> Option<Overview> {
        self.handle.overview().await.ok()?.into_iter().next()
    }
}

/// Is the fleet at strength, in the daemon's view and in fact? A rolling fleet is, too.
pub fn at_strength(overview: &Overview, truth: &Truth) -> bool {
    let stale = overview.conditions.iter().any(|condition| condition.name == "ViewStale");
    let target = u64::from(overview.target);
    truth.available as u64 >= target && overview.counts.available >= target && !stale
}

/// In addition, no executor is silent, surplus or being removed, and no pod is left over.
pub fn at_rest(overview: &Overview, truth: &Truth, pods: usize) -> bool {
    let counts = &overview.counts;
    at_strength(overview, truth)
        && (truth.available, truth.live, truth.silent) == (overview.target as usize, truth.available, 0)
        && (counts.available, counts.live) == (u64::from(overview.target), counts.available)
        && (counts.terminating, counts.reason_pending, counts.rolling) == (0, 0, 0)
        && pods == truth.live
}

/// Waits until the fleet is at strength, and returns how long it took.
pub async fn strong(world: &World, daemon: &Daemon, limit: Duration) -> Duration {
    wait(world, daemon, limit, "at strength", at_strength).await
}

/// Waits until the fleet is at rest, too.
pub async fn calm(world: &World, daemon: &Daemon, limit: Duration) -> Duration {
    wait(world, daemon, limit, "at rest", |overview, truth| at_rest(overview, truth, world.pods().len()))
        .await
}

async fn wait(
    world: &World,
    daemon: &Daemon,
    limit: Duration,
    what: &str,
    holds: impl Fn(&Overview, &Truth) -> bool,
) -> Duration {
    let begun = Instant::now();
    loop {
        let (overview, truth) = (daemon.overview().await, world.truth());
        if overview.as_ref().is_some_and(|overview| holds(overview, &truth)) {
            return begun.elapsed();
        }
        assert!(!daemon.has_ended(), "seed {}: the daemon has ended and is not {what}", world.seed);
        assert!(
            begun.elapsed() < limit,
            "seed {}: not {what} after {limit:?}\n{overview:#?}\n{truth:?}\n{} pods\n{:?}",
            world.seed,
            world.pods().len(),
            world.wrong()
        );
        sleep(LOOK).await;
    }
}

/// Pods that disappeared while there was no leader, or before a leader that lost its lease could record it.
#[derive(Default)]
pub struct Unseen {
    pub count: u64,
    /// The number of pods ever created, and the existing pods, when a ledger last knew of them.
    last: Option<(u64, BTreeSet<String>)>,
    /// Some have disappeared since: the ledger at the time when that was noticed.
    noticed: Option<Arc<Value>>,
    led: bool,
}

impl Unseen {
    /// Call it often, and right before and after a daemon is ended.
    pub fn look(&mut self, world: &World, leads: bool) {
        let names = |pod: &Arc<Value>| pod["metadata"]["uid"].as_str().expect("a UID").to_owned();
        let (created, now) = (world.truth().created, world.pods().iter().map(names).collect::<BTreeSet<_>>());
        if leads
            && !self.led
            && let Some((before, were)) = &self.last
        {
            // The truth is sampled in ticks: a pod that was created may already be gone.
            self.count += were.difference(&now).count() as u64 + (created - before);
        }
        let gone = self.last.as_ref().is_some_and(|(_, were)| !were.is_subset(&now));
        let ledger = world.server.list("configmaps").pop().unwrap_or_default();
        let begins = leads && !self.led;
        if leads && (begins || !gone || *self.noticed.get_or_insert_with(|| Arc::clone(&ledger)) != ledger) {
            self.last = Some((created, now));
            self.noticed = None;
        }
        self.led = leads;
    }
}

/// The invariants of a fleet at rest. At most this many pods disappeared while there was no leader, which the ledger
/// cannot know.
pub async fn balanced(world: &World, daemon: &Daemon, unseen: u64) {
    let overview = daemon.overview().await.expect("the daemon answers");
    let (counts, truth) = (&overview.counts, world.truth());
    let ended = counts.lost.values().sum::<u64>() + counts.removed.values().sum::<u64>();
    let there = counts.live + counts.terminating + counts.reason_pending;
    assert_eq!(counts.created, there + ended, "seed {}: the books do not balance: {counts:?}", world.seed);
    let known = counts.created..=counts.created + unseen;
    assert!(
        known.contains(&truth.created),
        "seed {}: {unseen} may be unseen; the books and the world: {counts:?} {truth:?}",
        world.seed
    );
    assert_eq!(truth.ids_reused, 0, "seed {}: {truth:?}", world.seed);
    assert_eq!(world.wrong(), Vec::<String>::new(), "seed {}", world.seed);
}
