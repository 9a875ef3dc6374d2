//! At strength whatever befalls the control plane and the daemon itself.

use std::thread::sleep;
use std::time::Duration;

use super::stage::{Daemon, Fleet, PATIENCE, Stage, sum};
use super::tools;

const TARGET: usize = 5;

/// Somebody deletes an executor, and it is noticed.
fn lose_one(stage: &Stage, daemon: &Daemon, fleet: &Fleet) {
    let lost = || Some(sum(&daemon.status(fleet)?["counts"]["lost"]));
    let mut before = 0;
    stage.until(daemon, "able to say how many are lost", || {
        before = lost().ok_or("no answer")?;
        Ok::<_, &str>(())
    });
    let (_, pod) = stage.pods(fleet).unwrap().into_iter().next().unwrap();
    stage.admin(&["delete", "pod", "--wait=false", pod["metadata"]["name"].as_str().unwrap()], "");
    stage.until(daemon, "noticed that one is lost", || if lost() > Some(before) { Ok(()) } else { Err("") });
}

#[test]
fn the_daemon_keeps_its_fleet_on_a_real_control_plane() {
    let Some(tools) = tools() else { return };
    let mut stage = Stage::start(&tools);
    let fleet = stage.fleet("real", TARGET, |_| {});
    let mut daemon = stage.daemon(&[&fleet], &[]);
    stage.at_strength(&daemon, &fleet, "started");
    lose_one(&stage, &daemon, &fleet);
    stage.at_strength(&daemon, &fleet, "one deleted");

    stage.plane.stop_apiserver();
    sleep(Duration::from_secs(3));
    stage.plane.start_apiserver().unwrap();
    lose_one(&stage, &daemon, &fleet);
    stage.at_strength(&daemon, &fleet, "API server down for 3 s, one deleted");

    stage.plane.stop_apiserver();
    stage.record();
    stage.plane.compact_etcd().unwrap();
    stage.plane.start_apiserver().unwrap();
    lose_one(&stage, &daemon, &fleet);
    stage.at_strength(&daemon, &fleet, "API server restarted over a compacted etcd, one deleted");

    stage.plane.pause_etcd().unwrap();
    sleep(Duration::from_secs(4));
    stage.plane.resume_etcd().unwrap();
    lose_one(&stage, &daemon, &fleet);
    stage.at_strength(&daemon, &fleet, "etcd paused for 4 s, one deleted");
    assert!(daemon.ended().is_none(), "it lived through all of that");

    // It cannot renew its Lease for longer than it may lead: it ends, as it must, and is started again.
    stage.plane.pause_etcd().unwrap();
    let ended = daemon.wait(PATIENCE);
    stage.plane.resume_etcd().unwrap();
    assert_eq!(ended.code(), Some(1), "it leads no more");
    daemon = stage.daemon(&[&fleet], &[]);
    stage.at_strength(&daemon, &fleet, "etcd paused until it gave up, started again");
    drop(daemon);

    for life in 1..=10_u64 {
        let daemon = stage.daemon(&[&fleet], &["--no-leader-election"]);
        sleep(Duration::from_millis(150 * life));
        drop(daemon);
    }
    let daemon = stage.daemon(&[&fleet], &["--no-leader-election"]);
    stage.at_strength(&daemon, &fleet, "killed ten times");
    let status = daemon.status(&fleet).unwrap();
    let counts = &status["counts"];
    let ended = sum(&counts["lost"]) + sum(&counts["removed"]);
    assert_eq!(counts["created"].as_u64().unwrap(), TARGET as u64 + ended, "{status}");
    drop(daemon);
    stage.judge(&fleet);
}
