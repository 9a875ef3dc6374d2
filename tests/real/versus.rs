//! Side by side: how soon an executor's pod that is gone is replaced in the API, by Rollcall and by Spark's own
//! allocator. The same API server, the same kwok node, one after the other; both with default settings, with batches of
//! 20 a second.
//!
//! Executors are kwok's: they run as far as Kubernetes knows, and register nowhere. Spark's allocator counts pods.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use super::control_plane::{NAMESPACE, Role};
use super::evidence::{self, Shown};
use super::kubelet::TMPDIR;
use super::observer::{End, Observer};
use super::process::{Process, guarded};
use super::spark::{JAVA_TOOL_OPTIONS, home, spark};
use super::stage::{NODE, Stage};
use super::tools;
use crate::support::root;

const EXECUTORS: usize = 60;
/// How many are lost at once, how, and the number of repetitions: for a quick look, and for the table with
/// `ROLLCALL_ROUNDS=full`.
const ROUNDS: [(usize, End, usize, usize); 5] = [
    (1, End::Killed, 5, 20),
    (5, End::Killed, 2, 10),
    (1, End::Vanished, 0, 5),
    (50, End::Killed, 1, 5),
    (50, End::Vanished, 1, 3),
];
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two rounds, so that periodic activity is at a random phase.
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
    let (driver, _shown) = driver(&stage, &spark);
    let theirs = measured(&mut observer);
    let their_peak_mb = peak_mb(driver.child.id());

    println!("| lost at once | how | rounds | Rollcall p50 | max | Spark p50 | max |");
    println!("|---|---|---|---|---|---|---|");
    for ((lost, how, rounds), (ours, theirs)) in rounds().zip(ours.iter().zip(&theirs)) {
        let [ours, theirs] =
            [ours, theirs].map(|all| format!("{} ms | {} ms", all[all.len() / 2], all[all.len() - 1]));
        println!("| {lost} | {how:?} | {rounds} | {ours} | {theirs} |");
    }
    println!("peak RSS: Rollcall {our_peak_mb} MB, Spark's driver {their_peak_mb} MB");
    // With 20 a second the difference is random.
    for ((lost, how, _), (ours, theirs)) in rounds().zip(ours.iter().zip(&theirs)) {
        let sooner = match how {
            End::Killed => lost > 1 || ours[ours.len() / 2] <= theirs[theirs.len() / 2],
            End::Vanished => ours.last() <= theirs.last(),
        };
        assert!(sooner, "{lost} at once, {how:?}: {ours:?} {theirs:?}");
    }
}

fn rounds() -> impl Iterator<Item = (usize, End, usize)> {
    let full = std::env::var("ROLLCALL_ROUNDS").is_ok_and(|rounds| rounds == "full");
    let times = move |(lost, how, few, many)| (lost, how, if full { many } else { few });
    ROUNDS.into_iter().map(times).filter(|(.., rounds)| *rounds > 0)
}

/// All measurements of each kind of round, ascending, in ms.
fn measured(observer: &mut Observer) -> Vec<Vec<u128>> {
    observer.until_running(EXECUTORS, PATIENCE);
    let kind = |(lost, how, rounds)| {
        let mut all = Vec::new();
        for _ in 0..rounds {
            sleep(PAUSE);
            observer.settle(EXECUTORS);
            all.extend(observer.replaced(lost, how, PATIENCE).iter().map(Duration::as_millis));
            observer.until_running(EXECUTORS, PATIENCE);
        }
        all.sort_unstable();
        all
    };
    rounds().map(kind).collect()
}

/// Peak resident memory.
pub fn peak_mb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Spark's driver, which manages its own executors.
fn driver(stage: &Stage, spark: &Path) -> (Process, Shown) {
    let directory = stage.plane.directory();
    let template = directory.join("executor.yaml");
    fs::write(&template, json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": NODE}}).to_string())
        .unwrap();
    let mut command = guarded(spark.join("bin/spark-submit"));
    let mut settings = super::spark::authentication(&stage.plane);
    let own = [
        ("spark.kubernetes.namespace", NAMESPACE),
        ("spark.app.id", "spark-own"),
        ("spark.driver.memory", "512m"),
        ("spark.executor.memory", "512m"),
        ("spark.ui.enabled", "false"),
        ("spark.kubernetes.container.image", "spark"),
        ("spark.kubernetes.executor.podTemplateFile", template.to_str().unwrap()),
        // The losses that the test causes must not fail the application.
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
    // Leave nothing in the machine's directory for temporary files.
    let java = JAVA_TOOL_OPTIONS.replace(TMPDIR, directory.to_str().unwrap());
    command.env("TMPDIR", directory).env("JAVA_TOOL_OPTIONS", java).current_dir(directory);
    let log = directory.join("driver.log");
    let shown = evidence::show_tail(&log);
    (Process::start(command, log).unwrap(), shown)
}
