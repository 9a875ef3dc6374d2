//! Many executors: kwok runs the pods, and one thread sends the reports of all their GraphiteSinks, in Spark's own
//! format.
//!
//! `ROLLCALL_SCALE` is their number; `ROLLCALL_BINARY` is the daemon to measure, preferably a release build.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::control_plane::{NAMESPACE, Role};
use super::observer::{End, Observer};
use super::stage::{Daemon, Fleet, Stage, sum};
use super::tools;
use super::versus::peak_mb;

const EXECUTORS: usize = 300;
/// The period of GraphiteSink: one batch each time.
const PERIOD: Duration = Duration::from_secs(10);
/// A relay may send 40,000 lines a second over one connection, and these send 12,700.
const EXECUTORS_PER_CONNECTION: usize = 1_000;
/// How long the idle state is measured.
const STEADY: Duration = Duration::from_secs(15);

struct Rate {
    name: &'static str,
    batch: u32,
    flags: &'static [&'static str],
}

const RATES: [Rate; 2] = [
    Rate { name: "default: 20/s", batch: 20, flags: &[] },
    Rate {
        name: "raised: 500/s",
        batch: 500,
        flags: &["--changes-per-second", "500", "--changes-burst", "500"],
    },
];

#[test]
fn many_executors() {
    let Some(tools) = tools() else { return };
    let executors = std::env::var("ROLLCALL_SCALE").map_or(EXECUTORS, |text| text.parse().unwrap());
    let patience = Duration::from_secs(60 + executors as u64 / 5);
    println!(
        "| rate | executors | all run | available | steady CPU | steady requests/s | steady RSS | lost at once | all run again | peak RSS |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    // With few executors only the rate matters: the raised one shows the same in less time.
    let rates = if executors > EXECUTORS { &RATES[..] } else { &RATES[1..] };
    for rate in rates {
        let stage = Stage::start(&tools);
        let fleet = stage.fleet("scale", executors, |document| {
            let spec = &mut document["spec"];
            spec["heartbeat"] = json!({"interval": "10s", "timeout": "60s", "checkPeer": false});
            spec["allocation"] = json!({"batchSize": rate.batch});
        });
        let mut observer = Observer::start(&stage.plane.kubeconfig(Role::Admin), NAMESPACE, "spark-scale");
        let begun = Instant::now();
        let daemon = stage.daemon(&[&fleet], rate.flags);
        let _speaker =
            Speaker::start(daemon.graphite, executors.div_ceil(EXECUTORS_PER_CONNECTION), observer.live());
        let full = observer.until_running(executors, patience) - begun;
        let available = all_available(&daemon, &fleet, patience, begun);

        let (requests, cpu, begun) = (stage.requests().len(), cpu_ms(daemon.pid()), Instant::now());
        thread::sleep(STEADY);
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = cpu_ms(daemon.pid()).saturating_sub(cpu) as f64 / seconds / 10.0;
        let requests = (stage.requests().len() - requests) as f64 / seconds;
        let resident_mb = resident_mb(daemon.pid());

        let lost = executors * 3 / 10;
        let begun = Instant::now();
        let _ = observer.replaced(lost, End::Vanished, patience);
        let again = observer.until_running(executors, patience) - begun;
        all_available(&daemon, &fleet, patience, begun);
        println!(
            "| {} | {executors} | {:.1} s | {:.1} s | {cpu:.1} % | {requests:.1} | {resident_mb} MB | {lost} | {:.1} s | {} MB |",
            rate.name,
            full.as_secs_f64(),
            available.as_secs_f64(),
            again.as_secs_f64(),
            peak_mb(daemon.pid()),
        );
        let counts = daemon.status(&fleet).unwrap()["counts"].take();
        assert_eq!(sum(&counts["lost"]), lost as u64, "{counts}");
        assert_eq!(counts["created"], executors + lost, "needless creations or losses: {counts}");
    }
}

/// Drivers of a class with this many executors each.
const DRIVERS: usize = 30;
const EXECUTORS_OF_DRIVER: usize = 10;

/// Drivers come by the hundred, and one class observes them all. `ROLLCALL_DRIVERS` is their number.
#[test]
fn many_drivers() {
    let Some(tools) = tools() else { return };
    let drivers = std::env::var("ROLLCALL_DRIVERS").map_or(DRIVERS, |text| text.parse().unwrap());
    println!(
        "| class | drivers | created in | all adopted after the last | executors | all available | steady CPU | steady requests/s | RSS | peak RSS |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for objects in [false, true] {
        let stage = Stage::start(&tools);
        let class = json!({
            "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleetClass", "metadata": {"name": "everything"},
            "spec": {
                "namespaces": [NAMESPACE],
                "fleet": {"mode": "Observe", "dryRun": true, "heartbeat": {"disabled": true}},
            },
        });
        let file = stage.plane.directory().join("class.json");
        fs::write(&file, class.to_string()).unwrap();
        let file = file.to_str().unwrap();
        let flags = if objects {
            stage.admin(&["apply", "-f", file], "");
            vec!["--watch-fleets"]
        } else {
            vec!["-f", file]
        };
        let daemon = stage.daemon(&[], &flags);
        let patience = Duration::from_secs(60 + drivers as u64);
        let begun = Instant::now();
        create_all(&stage, (0..drivers).map(|driver| pod(driver, None)).collect());
        let (created, begun) = (begun.elapsed(), Instant::now());
        let fleets = || {
            let status = daemon.json(&["status"]).unwrap_or_default();
            status["fleets"].as_array().cloned().unwrap_or_default()
        };
        wait(patience, || {
            let adopted = fleets().iter().filter(|fleet| fleet["applicationId"].is_string()).count();
            if adopted == drivers { Ok(()) } else { Err(adopted) }
        });
        let adopted = begun.elapsed();

        let list = ["get", "pods", "-n", NAMESPACE, "-l", "spark-role=driver", "-o", "json"];
        let list: Value = serde_json::from_str(&stage.admin(&list, "")).unwrap();
        let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap().to_owned();
        let number = |pod: &Value| {
            let name = pod["metadata"]["name"].as_str().unwrap();
            name.split('-').nth(1).unwrap().parse::<usize>().unwrap()
        };
        let owners: Vec<(usize, String)> =
            list["items"].as_array().unwrap().iter().map(|pod| (number(pod), uid(pod))).collect();
        let executors = owners.iter().flat_map(|(driver, uid)| {
            (1..=EXECUTORS_OF_DRIVER).map(move |executor| pod(*driver, Some((executor, uid))))
        });
        let begun = Instant::now();
        create_all(&stage, executors.collect());
        let expected = (drivers * EXECUTORS_OF_DRIVER) as u64;
        wait(patience, || {
            let available: u64 = fleets().iter().filter_map(|one| one["counts"]["available"].as_u64()).sum();
            if available == expected { Ok(()) } else { Err(available) }
        });
        let available = begun.elapsed();

        // What follows of the changes, statuses for instance, is over.
        thread::sleep(STEADY);
        let (requests, cpu, begun) = (stage.requests().len(), cpu_ms(daemon.pid()), Instant::now());
        thread::sleep(STEADY);
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "| {} | {drivers} | {:.1} s | {:.1} s | {expected} | {:.1} s | {:.1} % | {:.1} | {} MB | {} MB |",
            if objects { "an object" } else { "a file" },
            created.as_secs_f64(),
            adopted.as_secs_f64(),
            available.as_secs_f64(),
            cpu_ms(daemon.pid()).saturating_sub(cpu) as f64 / seconds / 10.0,
            (stage.requests().len() - requests) as f64 / seconds,
            resident_mb(daemon.pid()),
            peak_mb(daemon.pid()),
        );
    }
}

/// A driver's pod, or that of an executor with its owner's UID.
fn pod(driver: usize, executor: Option<(usize, &String)>) -> Value {
    let application = format!("spark-{driver}");
    let name = format!("app-{driver}-9f3c-driver");
    let spec = json!({"nodeName": super::stage::NODE, "containers": [{"name": "c", "image": "spark"}]});
    let Some((executor, uid)) = executor else {
        let labels = json!({"spark-role": "driver", "spark-app-selector": application});
        let metadata = json!({"name": name, "namespace": NAMESPACE, "labels": labels});
        return json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    };
    let labels = json!({
        "spark-role": "executor", "spark-app-selector": application, "spark-exec-id": executor.to_string(),
    });
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "controller": true});
    json!({
        "apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {
            "name": format!("app-{driver}-exec-{executor}"), "namespace": NAMESPACE, "labels": labels,
            "ownerReferences": [owner],
        },
    })
}

/// kubectl limits its own rate: several of them create the pods.
fn create_all(stage: &Stage, pods: Vec<Value>) {
    thread::scope(|scope| {
        for some in pods.chunks(pods.len().div_ceil(8)) {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": some}).to_string();
            scope.spawn(move || stage.admin(&["create", "-f", "-"], &list));
        }
    });
}

fn wait<E: std::fmt::Debug>(patience: Duration, look: impl Fn() -> Result<(), E>) {
    let begun = Instant::now();
    while let Err(found) = look() {
        assert!(begun.elapsed() < patience, "not after {patience:?}: {found:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Waits until the daemon has received a heartbeat of each. Returns how long that took.
fn all_available(daemon: &Daemon, fleet: &Fleet, patience: Duration, begun: Instant) -> Duration {
    let all = |status: &Value| status["counts"]["available"] == fleet.target;
    while !daemon.status(fleet).as_ref().is_some_and(all) {
        assert!(begun.elapsed() < patience, "{:?}", daemon.status(fleet).map(|it| it["counts"].clone()));
        thread::sleep(Duration::from_millis(500));
    }
    begun.elapsed()
}

fn cpu_ms(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The process name before it may contain any character. A tick is 10 ms.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}

fn resident_mb(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    // In pages of 4 KiB.
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() / 256
}

/// Sends heartbeats for every running executor.
struct Speaker {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

/// One report of an executor of Spark 4.3: names and values of 127 metrics.
fn batch() -> Vec<&'static str> {
    let arrivals = include_str!("../fixtures/graphite-arrivals.txt");
    let (first, _) = arrivals.split_once(' ').unwrap();
    let lines = arrivals.lines().take_while(|line| line.starts_with(first));
    // The part between the application and executor, and the time.
    lines.map(|line| line.split_once(".1.").unwrap().1.rsplit_once(' ').unwrap().0).collect()
}

impl Speaker {
    fn start(graphite: SocketAddr, connections: usize, live: Arc<Mutex<BTreeSet<String>>>) -> Speaker {
        const SLICES: u64 = 100;
        /// A connection that is not read for this long is reopened; this also bounds how long the end of the test
        /// takes.
        const WRITE_MAX: Duration = Duration::from_secs(5);
        let connect = move || {
            let stream = TcpStream::connect_timeout(&graphite, WRITE_MAX).ok()?;
            stream.set_write_timeout(Some(WRITE_MAX)).ok()?;
            Some(stream)
        };
        let batch = batch();
        assert_eq!(batch.len(), 127, "one batch of one executor");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut streams: Vec<Option<TcpStream>> = (0..connections).map(|_| None).collect();
            for slice in (0..SLICES).cycle() {
                let mut texts = vec![String::new(); connections];
                let seconds = jiff::Timestamp::now().as_second();
                for name in live.lock().unwrap().iter() {
                    let id: u64 = name.rsplit('-').next().unwrap().parse().unwrap();
                    if id % SLICES != slice {
                        continue;
                    }
                    let text = &mut texts[(id / SLICES) as usize % connections];
                    for metric in &batch {
                        writeln!(text, "spark-scale.{id}.{metric} {seconds}").unwrap();
                    }
                }
                for (stream, text) in streams.iter_mut().zip(&texts).filter(|(_, text)| !text.is_empty()) {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    if stream.is_none() {
                        *stream = connect();
                    }
                    if stream.as_mut().is_some_and(|stream| stream.write_all(text.as_bytes()).is_err()) {
                        *stream = None;
                    }
                }
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(PERIOD / SLICES as u32);
            }
        });
        Speaker { stop, thread: Some(thread) }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
