//! Side by side: how soon an executor's pod that is gone is followed by another one in the API, with Rollcall and with
//! Spark's own allocator. The same API server, the same kwok node, one after the other; both as they come, with
//! batches of 20 a second.
//!
//! Executors are kwok's: they run as far as Kubernetes knows, and register nowhere. Spark's allocator counts pods.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use super::control_plane::{GUARDED, NAMESPACE, Role};
use super::observer::{End, Observer};
use super::spark::{home, spark};
use super::stage::{NODE, Stage};
use super::tools;
use crate::support::root;

const EXECUTORS: usize = 60;
/// How many are lost at once, how, and how often it is tried: a quick look, and for the table with `ROLLCALL_ROUNDS=full`.
const ROUNDS: [(usize, End, usize, usize); 5] = [
    (1, End::Killed, 5, 20),
    (5, End::Killed, 2, 10),
    (50, End::Killed, 1, 5),
    (1, End::Vanished, 1, 5),
    (50, End::Vanished, 1, 3),
];
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two rounds: whatever has its own rhythm is anywhere in it.
const PAUSE: Duration = Duration::from_millis(2_300);

#[test]
fn side_by_side_with_sparks_allocator() {
    let (Some(tools), Some(spark)) = (tools(), spark()) else { return };
    let stage = Stage::start(&tools);
    let fleet = stage.fleet("versus", EXECUTORS, |_| {});
    let mut observer = Observer::start(&stage.plane.kubeconfig(Role::Admin), NAMESPACE, "spark-versus");
    let daemon = stage.daemon(&[&fleet], &[]);
    let ours = measured(&mut observer);
    let our_peak_mb = peak_mb(daemon.pid());
    drop((daemon, observer));

    let mut observer = Observer::start(&stage.plane.kubeconfig(Role::Admin), NAMESPACE, "spark-own");
    let driver = driver(&stage, &spark);
    let theirs = measured(&mut observer);
    let their_peak_mb = peak_mb(driver.0.id());

    println!("| lost at once | how | rounds | Rollcall p50 | max | Spark p50 | max |");
    println!("|---|---|---|---|---|---|---|");
    for ((lost, how, rounds), (ours, theirs)) in rounds().zip(ours.iter().zip(&theirs)) {
        let [ours, theirs] =
            [ours, theirs].map(|all| format!("{} ms | {} ms", all[all.len() / 2], all[all.len() - 1]));
        println!("| {lost} | {how:?} | {rounds} | {ours} | {theirs} |");
    }
    println!("peak RSS: Rollcall {our_peak_mb} MB, Spark's driver {their_peak_mb} MB");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!(ours.last() <= theirs.last(), "{ours:?} {theirs:?}");
    }
}

fn rounds() -> impl Iterator<Item = (usize, End, usize)> {
    let full = std::env::var("ROLLCALL_ROUNDS").is_ok_and(|rounds| rounds == "full");
    ROUNDS.into_iter().map(move |(lost, how, few, many)| (lost, how, if full { many } else { few }))
}

/// For each kind of round all that was measured, ascending, in ms.
fn measured(observer: &mut Observer) -> Vec<Vec<u128>> {
    observer.until_running(EXECUTORS, PATIENCE);
    let kind = |(lost, how, rounds)| {
        let mut all = Vec::new();
        for _ in 0..rounds {
            sleep(PAUSE);
            observer.until_running(EXECUTORS, PATIENCE);
            all.extend(observer.replaced(lost, how, PATIENCE).iter().map(Duration::as_millis));
            observer.until_running(EXECUTORS, PATIENCE);
        }
        all.sort_unstable();
        all
    };
    rounds().map(kind).collect()
}

/// Resident memory at its greatest.
pub fn peak_mb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Spark's driver, which keeps its own executors.
fn driver(stage: &Stage, spark: &std::path::Path) -> Driver {
    let directory = stage.plane.directory();
    let template = directory.join("executor.yaml");
    fs::write(&template, json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": NODE}}).to_string())
        .unwrap();
    let log = fs::File::create(directory.join("driver.log")).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", GUARDED, "guard"]).arg(spark.join("bin/spark-submit"));
    let mut settings = super::spark::authentication(&stage.plane);
    let own = [
        ("spark.kubernetes.namespace", NAMESPACE),
        ("spark.app.id", "spark-own"),
        ("spark.driver.memory", "512m"),
        ("spark.executor.memory", "512m"),
        ("spark.ui.enabled", "false"),
        ("spark.kubernetes.container.image", "spark"),
        ("spark.kubernetes.executor.podTemplateFile", template.to_str().unwrap()),
        // What a test does to it is no failure of the application's.
        ("spark.executor.maxNumFailures", "1000000"),
    ];
    settings.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    for (key, value) in settings {
        command.args(["--conf".to_owned(), format!("{key}={value}")]);
    }
    command.arg(root().join("tests/real/spark/app.py"));
    command
        .env("INSTANCES", EXECUTORS.to_string())
        .env("SPARK_LOCAL_IP", "127.0.0.1")
        .env("SPARK_HOME", home(spark));
    command.env("PATH", format!("{}:{}", spark.join("bin").display(), std::env::var("PATH").unwrap()));
    let mut child = command
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    // The guard reads what nobody writes.
    child.stdin.as_mut().unwrap().flush().unwrap();
    Driver(child)
}
