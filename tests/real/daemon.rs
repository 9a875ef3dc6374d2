//! The fleet returns to strength after every failure of the control plane and of the daemon, in the middle of its work:
//! executors are lost right before.

use std::thread::sleep;
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::control_plane::NAMESPACE;
use super::history::encode;
use super::stage::{Daemon, Fleet, PATIENCE, Stage, runs, sum};
use super::tools;

const TARGET: usize = 5;
/// Determines when the daemon is killed, and what work it has then.
const SEED: u64 = 1;
const LIVES: u64 = 10;

/// Executors' pods that are not being deleted.
fn running(stage: &Stage, fleet: &Fleet) -> Vec<String> {
    let pods = stage.pods(fleet).unwrap();
    let running = pods.values().filter(|pod| runs(pod));
    running.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Deletes the first `count` executors, or as many as there are, without waiting. Returns their number.
fn delete(stage: &Stage, fleet: &Fleet, count: usize) -> usize {
    let mut names = running(stage, fleet);
    names.truncate(count);
    if !names.is_empty() {
        let delete = ["delete", "pod", "--wait=false", "--ignore-not-found"];
        stage.admin(&delete.into_iter().chain(names.iter().map(String::as_str)).collect::<Vec<_>>(), "");
    }
    names.len()
}

/// Waits until every created executor runs or has ended. Returns how many were created, and how many were lost.
fn balanced(stage: &Stage, daemon: &Daemon, fleet: &Fleet) -> (u64, u64) {
    let mut counted = (0, 0);
    stage.until("balanced", || {
        let status = daemon.status(fleet).ok_or("no answer")?;
        let counts = &status["counts"];
        counted = (counts["created"].as_u64().unwrap(), sum(&counts["lost"]));
        let gone = counted.1 + sum(&counts["removed"]);
        let live = running(stage, fleet).len();
        if counted.0 == live as u64 + gone { Ok(()) } else { Err(format!("{live} run: {counts}")) }
    });
    counted
}

/// Waits until this many were lost, in total, and replaced.
fn made_good(stage: &Stage, daemon: &Daemon, fleet: &Fleet, lost: u64, what: &str) {
    stage.until(&format!("{what}: {lost} lost"), || {
        let counts = daemon.status(fleet).ok_or("no answer")?["counts"].take();
        if sum(&counts["lost"]) == lost { Ok(()) } else { Err(counts.to_string()) }
    });
    stage.at_strength(daemon, fleet, what);
}

#[test]
fn the_daemon_keeps_its_fleet_on_a_real_control_plane() {
    let Some(tools) = tools() else { return };
    let mut stage = Stage::start(&tools);
    let fleet = stage.fleet("real", TARGET, |_| {});
    let mut daemon = stage.daemon(&[&fleet], &[]);
    stage.at_strength(&daemon, &fleet, "started");
    delete(&stage, &fleet, 1);
    made_good(&stage, &daemon, &fleet, 1, "one deleted");

    delete(&stage, &fleet, 2);
    stage.plane.stop_apiserver();
    sleep(Duration::from_secs(3));
    stage.plane.start_apiserver().unwrap();
    made_good(&stage, &daemon, &fleet, 3, "two deleted, API server down for 3 s");

    let vanishes = running(&stage, &fleet).pop().unwrap();
    delete(&stage, &fleet, 1);
    stage.plane.stop_apiserver();
    // No watch event ever reports this deletion: only a complete list shows it.
    let key = encode(&format!("/registry/pods/{NAMESPACE}/{vanishes}"));
    let gone = stage.plane.ask_etcd("/v3/kv/deleterange", &json!({ "key": key })).unwrap();
    assert_eq!(gone["deleted"], "1", "{gone}");
    stage.record();
    stage.plane.compact_etcd().unwrap();
    stage.plane.start_apiserver().unwrap();
    let what = "one deleted, one gone without a word, API server restarted over a compacted etcd";
    made_good(&stage, &daemon, &fleet, 5, what);
    let executor = vanishes.rsplit('-').next().unwrap().parse().unwrap();
    let history = daemon.explain(&fleet, executor).unwrap()["history"].to_string();
    assert!(history.contains("lost: PodMissing"), "{vanishes}: {history}");

    delete(&stage, &fleet, 2);
    stage.plane.pause_etcd().unwrap();
    sleep(Duration::from_secs(4));
    stage.plane.resume_etcd().unwrap();
    made_good(&stage, &daemon, &fleet, 7, "two deleted, etcd paused for 4 s");
    assert!(daemon.ended().is_none(), "it survived all of that");

    // It cannot renew its Lease before the deadline: it ends, as it must, and is restarted.
    delete(&stage, &fleet, 2);
    stage.plane.pause_etcd().unwrap();
    let ended = daemon.wait(PATIENCE);
    stage.plane.resume_etcd().unwrap();
    assert_eq!(ended.code(), Some(1), "it does not lead any more");
    daemon = stage.daemon(&[&fleet], &[]);
    made_good(&stage, &daemon, &fleet, 9, "two deleted, etcd paused until the daemon gave up, started again");
    let (before, _) = balanced(&stage, &daemon, &fleet);
    drop(daemon);

    let mut dice = ChaCha8Rng::seed_from_u64(SEED);
    for life in 1..=LIVES {
        let daemon = stage.daemon(&[&fleet], &["--no-leader-election"]);
        // During its start, and during replacements.
        let (first, lives_ms) = (dice.random_range(1..=3), dice.random_range(0..2_000));
        let first = delete(&stage, &fleet, first);
        sleep(Duration::from_millis(lives_ms));
        let (second, works_ms) = (dice.random_range(0..=2), dice.random_range(0..150));
        let second = delete(&stage, &fleet, second);
        sleep(Duration::from_millis(works_ms));
        drop(daemon);
        println!(
            "seed {SEED}, life {life}: {first} deleted, {second} more after {lives_ms} ms, killed {works_ms} ms later"
        );
    }
    let daemon = stage.daemon(&[&fleet], &["--no-leader-election"]);
    stage.at_strength(&daemon, &fleet, "killed ten times");
    let (created, lost) = balanced(&stage, &daemon, &fleet);
    println!("{before} executors created before that, {created} in all; {lost} lost");
    assert!(created >= before + LIVES, "there was something to do: {before} before, {created} in all");
    drop(daemon);
    stage.judge(&fleet);
}
