//! What the daemon costs, as a process of its own against an API server on loopback: time from a pod's end
//! until its replacement is asked for, memory, requests and CPU when nothing happens, and the CPU that heartbeats cost.
//!
//! `cargo bench -p rollcall --bench daemon`, or `... -- heartbeats` for these alone. `ROLLCALL_BINARY` names another binary to measure.
//!
//! The API server is the one in memory, over HTTP; pods run as soon as they are created. Goals: a
//! replacement within 100 ms at the 99th percentile of 10,000 executors, 150 MB there, and nothing written
//! while idle but the Lease. Heartbeats are Spark's own batches of 127 lines, over one connection for each thousand
//! executors.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and may panic")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use embedded::server::{Server, Verdict};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const NAMESPACE: &str = "spark";
/// A small fleet is given time between them, so fewer.
const fn lost(executors: usize) -> usize {
    if executors < 100 { 40 } else { 200 }
}
const IDLE: Duration = Duration::from_secs(20);
/// The period of GraphiteSink.
const PERIOD: Duration = Duration::from_secs(10);
/// How many periods of heartbeats are measured.
const PERIODS: u32 = 6;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if !std::env::args().any(|arg| arg == "heartbeats") {
        losses().await;
    }
    heartbeats().await;
}

async fn losses() {
    println!(
        "{:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  idle requests in {} s",
        "executors",
        "full",
        "p50",
        "p99",
        "max",
        "RSS MB",
        "idle CPU",
        IDLE.as_secs()
    );
    for executors in [10, 1_000, 10_000] {
        run(executors).await;
    }
    println!();
}

async fn heartbeats() {
    println!("{:>9}  {:>9}  {:>9}  {:>14}", "executors", "lines/s", "CPU", "CPU of a line");
    for executors in [1_000, 5_000] {
        hear(executors).await;
    }
}

/// A daemon on an API server of its own, with all executors created.
struct Stage {
    server: Server,
    serving: JoinHandle<std::io::Result<()>>,
    directory: PathBuf,
    daemon: Killed,
    http: SocketAddr,
    graphite: SocketAddr,
    posts: mpsc::Receiver<Instant>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn stage(executors: usize, heartbeats: bool) -> Stage {
    let server = Server::new(1);
    server.set_wall_clock(jiff::Timestamp::now().as_millisecond());
    server.create("namespaces", "", json!({"metadata": {"name": NAMESPACE}})).unwrap();
    let driver = json!({
        "metadata": {"name": "driver", "labels": {"spark-role": "driver", "spark-app-selector": "spark-1"}},
        "spec": {"containers": [{"name": "driver", "image": "x"}]},
    });
    server.create("pods", NAMESPACE, driver).unwrap();
    start(&server, "driver");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = listener.local_addr().unwrap();
    let app = Router::new().fallback(serve).with_state(server.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let (posted, posts) = mpsc::channel();
    server.set_interceptor(Some(Box::new(move |request| {
        if request.method == "POST" && request.uri.path().ends_with("/pods") {
            let _ = posted.send(Instant::now());
        }
        Verdict::Pass
    })));
    let directory = std::env::temp_dir().join(format!("rollcall-bench-{}-{executors}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (daemon, http, graphite) = spawn(&directory, api, executors, heartbeats);
    Stage { server, serving, directory, daemon: Killed(daemon), http, graphite, posts }
}

async fn run(executors: usize) {
    let stage = stage(executors, false).await;
    let Stage { server, daemon, http, posts, .. } = &stage;
    let begun = Instant::now();
    let mut seen = 0;
    kubelet_until(server, &mut seen, || available(*http), executors).await;
    let full = begun.elapsed();
    while posts.try_recv().is_ok() {}

    let mut waits = Vec::new();
    let mut victims: Vec<String> =
        server.list("pods").iter().map(|pod| name(pod)).filter(|name| name != "driver").collect();
    victims.truncate(lost(executors).min(executors));
    for victim in victims.iter().cycle().take(lost(executors)) {
        // The first of that name, and then whichever is there.
        let lost = if server.get("pods", NAMESPACE, victim).is_some() {
            victim.clone()
        } else {
            server.list("pods").iter().map(|pod| name(pod)).find(|name| name != "driver").unwrap()
        };
        let at = Instant::now();
        server.delete("pods", NAMESPACE, &lost, Some(0)).unwrap();
        let replaced = loop {
            sleep(Duration::from_micros(200)).await;
            if let Ok(replaced) = posts.try_recv() {
                break replaced;
            }
            assert!(at.elapsed() < Duration::from_secs(60), "{lost} was not replaced");
        };
        waits.push(replaced.saturating_duration_since(at));
        kubelet_until(server, &mut seen, || available(*http), executors).await;
        // The next one is not one incident with this: a mass loss starts slowly, by design.
        sleep(Duration::from_millis(if executors < 100 { 3_500 } else { 20 })).await;
    }
    waits.sort();
    let at = |per_mille: usize| {
        format!("{:.1}ms", waits[(waits.len() - 1) * per_mille / 1_000].as_secs_f64() * 1e3)
    };
    // Kubernetes Events of what happened go out slowly.
    sleep(Duration::from_secs(60)).await;
    let (before, cpu) = (server.requests(), cpu_ms(&daemon.0));
    sleep(IDLE).await;
    let idle = cpu_ms(&daemon.0) - cpu;
    println!(
        "{executors:>9}  {:>8.1}s  {:>9}  {:>9}  {:>9}  {:>9.1}  {:>8.2}%  {}",
        full.as_secs_f64(),
        at(500),
        at(990),
        at(1_000),
        rss_mb(&daemon.0),
        idle as f64 / IDLE.as_millis() as f64 * 100.0,
        difference(&before, &server.requests()),
    );
}

/// The CPU that one line of a heartbeat costs.
async fn hear(executors: usize) {
    let stage = stage(executors, true).await;
    let batch = batch();
    let mut seen = 0;
    let created = async || stage.server.list("pods").len() - 1;
    kubelet_until(&stage.server, &mut seen, created, executors).await;
    kubelet_until(&stage.server, &mut seen, async || executors, executors).await;
    let mut connections: Vec<TcpStream> =
        (0..executors.div_ceil(1_000)).map(|_| TcpStream::connect(stage.graphite).unwrap()).collect();
    // A tenth of a period at a time, so that the daemon has a steady load.
    let mut slices = (0..10).cycle();
    let mut report = || {
        let (slice, seconds) = (slices.next().unwrap(), jiff::Timestamp::now().as_second());
        for (first, connection) in (1..).step_by(1_000).zip(&mut connections) {
            let mut text = String::new();
            for id in (first..first + 1_000).filter(|id| id % 10 == slice && *id <= executors) {
                for metric in &batch {
                    writeln!(text, "spark-1.{id}.{metric} {seconds}").unwrap();
                }
            }
            connection.write_all(text.as_bytes()).unwrap();
        }
    };
    let begun = Instant::now();
    while available(stage.http).await < executors {
        report();
        sleep(PERIOD / 10).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "not all executors are heard");
    }
    let (cpu, begun) = (cpu_ms(&stage.daemon.0), Instant::now());
    for slice in 0..PERIODS * 10 {
        report();
        sleep((PERIOD / 10 * (slice + 1)).saturating_sub(begun.elapsed())).await;
    }
    let (cpu, elapsed) = (cpu_ms(&stage.daemon.0) - cpu, begun.elapsed());
    assert_eq!(available(stage.http).await, executors);
    let lines = executors * batch.len() * PERIODS as usize;
    println!(
        "{executors:>9}  {:>9.0}  {:>8.2}%  {:>11.0} ns",
        lines as f64 / elapsed.as_secs_f64(),
        cpu as f64 / elapsed.as_millis() as f64 * 100.0,
        cpu as f64 * 1e6 / lines as f64,
    );
}

/// One report of an executor of Spark 4.3: names and values of 127 metrics, without application, executor and time.
fn batch() -> Vec<&'static str> {
    let arrivals = include_str!("../../tests/fixtures/graphite-arrivals.txt");
    let (first, _) = arrivals.split_once(' ').unwrap();
    let lines = arrivals.lines().take_while(|line| line.starts_with(first));
    lines.map(|line| line.split_once(".1.").unwrap().1.rsplit_once(' ').unwrap().0).collect()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn serve(State(server): State<Server>, request: Request) -> impl IntoResponse {
    server.answer(request).await.unwrap()
}

fn spawn(
    directory: &Path,
    api: SocketAddr,
    executors: usize,
    heartbeats: bool,
) -> (Child, SocketAddr, SocketAddr) {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": format!("http://{api}")}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench", "namespace": NAMESPACE}}],
        "users": [{"name": "bench", "user": {}}],
    });
    let fleet = json!({
        "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet",
        "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {
            "mode": "Own", "executors": executors,
            "driver": {"podName": "driver", "restInterval": "1h", "startTimeout": "0s"},
            "heartbeat": {"disabled": !heartbeats, "checkPeer": false},
            "allocation": {"batchSize": 1000, "batchDelay": "100ms"},
            "recovery": {"maxExecutorFailures": 1_000_000},
            "spark": {},
            "template": {"spec": {"containers": [{"name": "spark-kubernetes-executor", "image": "spark"}]}},
        },
    });
    std::fs::write(directory.join("kubeconfig"), kubeconfig.to_string()).unwrap();
    std::fs::write(directory.join("fleet.json"), fleet.to_string()).unwrap();
    let http: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let graphite = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let daemon =
        Command::new(std::env::var("ROLLCALL_BINARY").unwrap_or(env!("CARGO_BIN_EXE_rollcall").into()))
            .args(["run", "--changes-per-second", "2000", "--changes-burst", "2000"])
            .args(["--log-level", "warn"])
            .arg("--kubeconfig")
            .arg(directory.join("kubeconfig"))
            .arg("-f")
            .arg(directory.join("fleet.json"))
            .args(["--http", &http.to_string(), "--graphite", &graphite.to_string()])
            .arg("--probes=127.0.0.1:0")
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
    (daemon, http, graphite)
}

/// Starts whatever was created, until so many executors are available.
async fn kubelet_until<F: Future<Output = usize>>(
    server: &Server,
    seen: &mut u64,
    count: impl Fn() -> F,
    executors: usize,
) {
    let begun = Instant::now();
    loop {
        let (revision, changes) = server.changes("pods", *seen);
        *seen = revision;
        let created = changes.expect("the log is long enough");
        for change in created.iter().filter(|change| change.before.is_none()) {
            start(server, &name(change.after.as_ref().unwrap()));
        }
        server.advance(u64::try_from(begun.elapsed().as_millis()).unwrap());
        if count().await == executors {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "not at strength");
        sleep(Duration::from_millis(2)).await;
    }
}

fn start(server: &Server, name: &str) {
    server.change("pods", NAMESPACE, name, |pod| {
        pod["spec"]["nodeName"] = "node-1".into();
        pod["status"] = json!({"phase": "Running", "podIP": "127.0.0.1"});
    });
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

async fn available(http: SocketAddr) -> usize {
    let Ok(answer) = reqwest::get(format!("http://{http}/v1/fleets/bench")).await else { return 0 };
    let fleet: Value = answer.json().await.unwrap_or_default();
    usize::try_from(fleet["counts"]["available"].as_u64().unwrap_or_default()).unwrap()
}

fn difference(before: &BTreeMap<(String, String), u64>, after: &BTreeMap<(String, String), u64>) -> String {
    let mut text = String::new();
    for ((verb, resource), count) in after {
        let new = count - before.get(&(verb.clone(), resource.clone())).copied().unwrap_or_default();
        if new > 0 {
            write!(text, "{verb} {resource}: {new}  ").unwrap();
        }
    }
    text
}

fn rss_mb(daemon: &Child) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// User and system time, of 100 ticks a second.
fn cpu_ms(daemon: &Child) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}
