//! A minute of a real application, at its real pace.
//!
//! The Graphite lines of Spark 4.3.0's executors are sent again, over one TCP connection for each executor, to a daemon
//! in Observe mode. The pods are made by hand to match: 1, 2 and 3 start; 2 goes silent after 28 s while its pod seems
//! to run; 4 joins after 49 s; 1 is decommissioned after 52 s. A tee between the listener and the loop records what the
//! loop receives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use embedded::server::Server;
use fleet::id::ExecutorId;
use fleet::question::LossKind;
use rollcall::config::FleetConfig;
use rollcall::heartbeat::{Counters, Directory, Intake, Sign, graphite, intake};
use rollcall::listen::Listener;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::support::{APPLICATION, DRIVER, Daemon, FLEET, How, NAMESPACE};
use crate::support::root;

const TIMEOUT: Duration = Duration::from_secs(12);
/// How much of the stream is played.
const LENGTH: Duration = Duration::from_secs(71);

/// For each executor: the arrival time of each report, relative to the very first, and its lines.
type Reports = BTreeMap<u64, Vec<(Duration, String)>>;

fn reports() -> Reports {
    let file = root().join("tests/fixtures/graphite-arrivals.txt");
    let stream = std::fs::read_to_string(file).expect("the captured stream");
    let mut first = None;
    let mut reports = Reports::new();
    for line in stream.lines() {
        let (at, line) = line.split_once(' ').expect("when it arrived");
        let at: f64 = at.parse().expect("seconds");
        let at = Duration::from_secs_f64(at - *first.get_or_insert(at));
        let executor = line.split('.').nth(1).and_then(|id| id.parse().ok()).expect("an executor");
        let of: &mut Vec<(Duration, String)> = reports.entry(executor).or_default();
        if of.last().is_none_or(|(last, _)| *last != at) {
            of.push((at, String::new()));
        }
        let (_, lines) = of.last_mut().expect("there is one");
        lines.push_str(line);
        lines.push('\n');
    }
    for of in reports.values_mut() {
        of.retain(|(at, _)| *at < LENGTH);
    }
    reports
}

/// The columns of a report, by their Graphite names.
fn values(lines: &str) -> BTreeMap<&str, f64> {
    let parts = lines.lines().map(|line| line.split_once(' ').expect("a name and the rest"));
    parts
        .map(|(path, rest)| {
            let name = path.splitn(3, '.').nth(2).expect("a name behind the executor's id");
            (name, rest.split(' ').next().and_then(|value| value.parse().ok()).expect("a value"))
        })
        .collect()
}

// ---------------------------------------------------------------------------------------- the pods --

pub fn pod(server: &Server, executor: u64, owner: &Value) {
    let pod = json!({
        "metadata": {
            "name": format!("app-exec-{executor}"),
            "labels": {
                "spark-role": "executor", "spark-app-selector": APPLICATION, "spark-exec-id": executor.to_string(),
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Pod", "name": DRIVER, "uid": owner, "controller": true,
            }],
        },
        "spec": {
            "restartPolicy": "Never", "nodeName": "node-1",
            "containers": [{ "name": "spark-kubernetes-executor", "image": "apache/spark:4.3.0" }],
        },
    });
    server.create("pods", NAMESPACE, pod).expect("a new name");
}

fn set(server: &Server, name: &str, phase: &str, state: Value) {
    server.change("pods", NAMESPACE, name, |pod| {
        pod["status"] = json!({
            "phase": phase, "podIP": "127.0.0.1", "podIPs": [{ "ip": "127.0.0.1" }],
            "containerStatuses": [{
                "name": "spark-kubernetes-executor", "image": "apache/spark:4.3.0", "imageID": "",
                "ready": phase == "Running",
                "restartCount": 0, "state": state,
            }],
        });
    });
}

pub fn runs(server: &Server, name: &str) {
    set(server, name, "Running", json!({ "running": { "startedAt": server.timestamp() } }));
}

/// A cluster with a running clock and a driver. Returns the UID of the driver's pod.
pub fn cluster() -> (Server, Value) {
    let server = Server::new(1);
    server.set_wall_clock(jiff::Timestamp::now().as_millisecond());
    server.create("namespaces", "", json!({ "metadata": { "name": NAMESPACE } })).expect("a namespace");
    let driver = json!({
        "metadata": { "name": DRIVER, "labels": { "spark-role": "driver", "spark-app-selector": APPLICATION } },
        "spec": { "containers": [{ "name": "spark-kubernetes-driver", "image": "apache/spark:4.3.0" }] },
    });
    let driver = server.create("pods", NAMESPACE, driver).expect("the driver");
    runs(&server, DRIVER);
    let (clock, begun) = (server.clone(), Instant::now());
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            clock.advance(u64::try_from(begun.elapsed().as_millis()).expect("no test runs for so long"));
        }
    });
    (server, driver["metadata"]["uid"].clone())
}

// -------------------------------------------------------------------------------------- the daemon --

/// What the loop received: the last columns of each executor.
type Told = Arc<Mutex<BTreeMap<u64, BTreeMap<String, f64>>>>;

/// A listener, a tee, and a daemon in Observe mode.
async fn observe(server: &Server) -> (Daemon, Told, std::net::SocketAddr) {
    let directory = Arc::new(Directory::default());
    let (sender, mut heard) = intake::channel();
    let (ear, signs) = intake::channel();
    let intake = Intake::new(Arc::clone(&directory), Arc::new(Counters::default()), sender);
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(graphite::run(listener, intake, graphite::Limits::default()));
    let told = Told::default();
    let tee = Arc::clone(&told);
    tokio::spawn(async move {
        while let Some(sign) = heard.recv().await {
            if let Sign::Beat { beat, .. } = &sign {
                let metrics = beat.metrics.iter().map(|(name, value)| (name.to_string(), *value));
                let mut told = tee.lock().unwrap_or_else(PoisonError::into_inner);
                told.entry(beat.executor.0).or_default().extend(metrics);
            }
            let _ = ear.send(sign);
        }
    });
    let fleet = json!({
        "apiVersion": "rollcall.dev/v1alpha1",
        "kind": "ExecutorFleet",
        "metadata": { "name": FLEET, "namespace": NAMESPACE },
        "spec": {
            "mode": "Observe",
            "executors": 3,
            "driver": { "podName": DRIVER, "startTimeout": "0s" },
            "heartbeat": { "timeout": "12s", "interval": "5s" },
            // The loss of 2 is one failure; with another, the fleet has failed.
            "recovery": { "maxExecutorFailures": 1 },
        },
    });
    let config = FleetConfig {
        file: "replay".into(),
        document: 1,
        generation: None,
        old_names: Vec::new(),
        fleet: serde_json::from_value(fleet).expect("a document"),
    };
    let client = cluster::Client::new(server.clone(), NAMESPACE);
    let daemon = Daemon::run(How { config, client, lease: false, number: 1 }, directory, signs);
    (daemon, told, address)
}

/// An executor's stage in the daemon's view. `None`: it does not exist.
async fn stage(daemon: &Daemon, executor: u64) -> Option<&'static str> {
    let snapshot = daemon.handle.snapshot(FLEET).await.expect("an answer").expect("the fleet");
    snapshot.executors.iter().find(|row| row.executor == ExecutorId(executor)).map(|row| row.stage)
}

/// Waits until the executor's stage satisfies this, and returns the time.
async fn until(
    daemon: &Daemon,
    executor: u64,
    by: Instant,
    what: &str,
    is: impl Fn(Option<&str>) -> bool,
) -> Instant {
    loop {
        let now = stage(daemon, executor).await;
        if is(now) {
            return Instant::now();
        }
        assert!(
            Instant::now() < by,
            "executor {executor} is {now:?} and not {what}: {:#?}",
            daemon.overview().await
        );
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_of_a_real_application() {
    let reports = reports();
    let (server, owner) = cluster();
    let (daemon, told, address) = observe(&server).await;
    let available = |stage: Option<&str>| stage == Some("available");
    // The pods of the first three exist; each runs for a second before its first report.
    (1..=3).for_each(|executor| pod(&server, executor, &owner));
    let begun = Instant::now() + Duration::from_secs(2);
    let at = move |after: Duration| begun + after;
    let (first, last) = (
        |executor: u64| reports[&executor][0].0,
        |executor: u64| reports[&executor].last().expect("it speaks").0,
    );
    for (executor, of) in reports.clone() {
        let server = server.clone();
        let owner = owner.clone();
        tokio::spawn(async move {
            sleep_until(at(of[0].0) - Duration::from_secs(1)).await;
            if executor == 4 {
                pod(&server, executor, &owner);
            }
            runs(&server, &format!("app-exec-{executor}"));
            let mut stream = None;
            for (after, lines) in of {
                sleep_until(at(after)).await;
                if stream.is_none() {
                    stream = TcpStream::connect(address).await.ok();
                }
                stream.as_mut().expect("it listens").write_all(lines.as_bytes()).await.expect("it is read");
            }
            // It stays open, like the connection of a stopped process.
            std::future::pending::<()>().await;
        });
    }
    let soon = Duration::from_secs(1);
    for executor in 1..=3 {
        let seen = until(&daemon, executor, at(first(executor)) + soon, "available", available).await;
        assert!(seen >= at(first(executor)), "{executor} is available before its first report");
    }

    // 2 is declared lost neither too early nor too late.
    let silent = at(last(2));
    let lost =
        until(&daemon, 2, silent + TIMEOUT + Duration::from_secs(2), "lost", |stage| !available(stage)).await;
    assert!(lost >= silent + TIMEOUT, "lost {:?} after its last report", lost - silent);
    assert_eq!((stage(&daemon, 1).await, stage(&daemon, 3).await), (Some("available"), Some("available")));

    until(&daemon, 4, at(first(4)) + soon, "available", available).await;

    // 1 exits successfully, and its driver deletes it.
    sleep_until(at(last(1)) + Duration::from_millis(100)).await;
    let ended = json!({ "terminated": { "exitCode": 0, "reason": "Completed" } });
    set(&server, "app-exec-1", "Succeeded", ended);
    sleep(Duration::from_secs(1)).await;
    server.delete("pods", NAMESPACE, "app-exec-1", Some(0)).expect("it is there");
    until(&daemon, 1, Instant::now() + Duration::from_secs(12), "gone", |stage| stage.is_none()).await;

    sleep_until(at(LENGTH)).await;
    let overview = daemon.overview().await.expect("an answer");
    assert_eq!((stage(&daemon, 3).await, stage(&daemon, 4).await), (Some("available"), Some("available")));
    assert_eq!((overview.counts.available, overview.counts.created), (2, 4), "{overview:#?}");
    assert_eq!(overview.counts.lost.get(&LossKind::HeartbeatLost), Some(&1), "{overview:#?}");
    assert_eq!(overview.counts.lost.values().sum::<u64>(), 2, "{overview:#?}");
    assert!(!overview.counts.lost.contains_key(&LossKind::AppFailure), "{overview:#?}");
    assert!(overview.conditions.is_empty(), "the end of 1 is no failure: {overview:#?}");
    // In Observe mode the daemon changes no pod.
    let changes = |(verb, about): &(String, String)| {
        about.starts_with("pods") && !matches!(&**verb, "get" | "list" | "watch")
    };
    let requests = server.requests();
    assert!(!requests.keys().any(changes), "{requests:?}");
    columns(&reports, &told.lock().unwrap_or_else(PoisonError::into_inner));
}

/// The loop ends with the last values of the stream, and they agree with Spark's REST API.
fn columns(reports: &Reports, told: &BTreeMap<u64, BTreeMap<String, f64>>) {
    // The same three metrics: their names in Graphite, in Rollcall, and in the REST API.
    let both = [
        ("executor.threadpool.completeTasks", "threadpool.completeTasks"),
        ("executor.succeededTasks.count", "succeededTasks"),
        ("executor.jvmGCTime.count", "jvmGCTime"),
        ("executor.runTime.count", "runTime"),
        ("ExecutorMetrics.JVMHeapMemory", "JVMHeapMemory"),
        ("ExecutorMetrics.TotalGCTime", "TotalGCTime"),
    ];
    for executor in [1, 3, 4] {
        let (_, lines) = reports[&executor].last().expect("it speaks");
        let said = values(lines);
        for (graphite, column) in both {
            assert_eq!(told[&executor].get(column), said.get(graphite), "{executor}: {column}");
        }
    }
    let file = root().join("tests/fixtures/allexecutors/060s.json");
    let rest: Value = serde_json::from_slice(&std::fs::read(file).expect("the capture")).expect("JSON");
    for row in rest.as_array().expect("rows").iter().filter(|row| row["id"] != "driver" && row["id"] != "2") {
        let executor: u64 = row["id"].as_str().and_then(|id| id.parse().ok()).expect("a number");
        let ended =
            ["completedTasks", "failedTasks"].iter().filter_map(|field| row[*field].as_f64()).sum::<f64>();
        let asked = [
            ("executor.threadpool.completeTasks", ended),
            ("executor.succeededTasks.count", row["completedTasks"].as_f64().expect("a number")),
            ("executor.jvmGCTime.count", row["totalGCTime"].as_f64().expect("a number")),
        ];
        // The REST API was polled during the 61st second: after the previous report, and before the next one.
        let asked_at = Duration::from_secs(61);
        let around = |name: &str| {
            let of = &reports[&executor];
            let before = of.iter().rev().find(|(at, _)| *at < asked_at).expect("a report before");
            let after = of.iter().find(|(at, _)| *at >= asked_at).unwrap_or(before);
            (values(&before.1)[name], values(&after.1)[name])
        };
        for (name, count) in asked {
            let (before, after) = around(name);
            assert!(before <= count && count <= after, "{executor}: {name}: {before} <= {count} <= {after}");
        }
    }
}
