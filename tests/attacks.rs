//! Tenants attack the real binary, and other tenants lose no executor.
//!
//! A [`Street`](street::Street) is a cluster of tenants, each with a driver and executors at addresses of their own on
//! loopback, before one daemon. [`attackers`] are processes of their own: so many connections do not fit into one.
//! The attacks are those of a security review, ten times as strong; figures go to standard output.
//!
//! They take minutes and both cores: `ROLLCALL_ATTACKS=1 cargo test -p rollcall --test all attacks:: -- --test-threads=1
//! --show-output`.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use self::attackers::{Attack, Attackers};
use self::street::{Daemon, Street, Tenant};

mod attackers;
mod street;

/// The ratio of the defaults, 120 s to 10 s or less.
const TIMEOUT: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_secs(2);
/// So long an executor has to be silenced to be lost, and once more.
const SIEGE: Duration = Duration::from_secs(45);
const HEALTHY: u32 = 60;

fn enabled() -> bool {
    let enabled = std::env::var_os("ROLLCALL_ATTACKS").is_some();
    if !enabled {
        println!("skipped: attacks on the binary; to run them, export ROLLCALL_ATTACKS=1");
    }
    enabled
}

/// Two tenants of 60 executors that speak Graphite and HTTP, and one that is hostile.
async fn street(more: impl FnOnce(&mut Street)) -> (Street, Daemon) {
    let mut street = Street::start().await;
    street.tenant(Tenant::new("healthy", 1).executors(HEALTHY));
    street.tenant(Tenant::new("posting", 2).executors(HEALTHY).over_http());
    street.tenant(Tenant::new("mallory", 3).executors(4));
    more(&mut street);
    let daemon = street.daemon(&["--no-leader-election"]).await;
    for (name, executors) in [("healthy", HEALTHY), ("posting", HEALTHY), ("mallory", 4)] {
        street.at_strength(&daemon, name, executors).await;
    }
    (street, daemon)
}

/// One attack for a while, and what it cost.
async fn under(attack: &[Attack], more: impl FnOnce(&mut Street)) {
    let (street, mut daemon) = street(more).await;
    let watch = daemon.watch();
    let before = street.reports();
    let attackers = Attackers::start(attack, daemon.places());
    sleep(SIEGE).await;
    let done = attackers.stop();
    let after = street.reports();
    let (probes, peak) = (watch.stop().await, daemon.peak_mb());
    let lost = street.lost(&daemon).await;
    let names: Vec<&str> = attack.iter().map(Attack::name).collect();
    println!(
        "{}: {done}; {} of {} reports of healthy executors got through, lost {lost}; livez failed {} of {}, {} in a row \
         at most; peak RSS {peak} MB",
        names.join(" and "),
        after.good - before.good,
        after.all - before.all,
        probes.failed,
        probes.all,
        probes.in_a_row,
    );
    assert!(!daemon.has_ended(), "the daemon ended: {}", daemon.tail());
    assert_eq!(lost, json!({"healthy": {}, "posting": {}}), "{}", daemon.tail());
    assert!(probes.in_a_row < 2, "{probes:?}: {}", daemon.tail());
    assert!(peak <= 128, "{peak} MB");
    assert!(after.good - before.good > 0);
}

macro_rules! attacks {
    ($($name:ident: $attack:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            if enabled() {
                under(&$attack, |_| {}).await;
            }
        }
    )*};
}

attacks! {
    bodies_that_never_end: [Attack::Bodies];
    tokens_that_are_not_genuine: [Attack::Tokens];
    connections_with_a_line_of_garbage: [Attack::Garbage];
    datagrams_of_one_executor: [Attack::Datagrams];
    lines_of_one_tenant: [Attack::Lines];
    connections_to_the_probes: [Attack::Probes];
    everything_at_once: [Attack::Bodies, Attack::Tokens, Attack::Garbage, Attack::Datagrams, Attack::Lines, Attack::Probes];
}

/// Drivers that answer slowly, and one beside them that does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drivers_that_take_their_time() {
    if !enabled() {
        return;
    }
    let (street, mut daemon) = street(|street| {
        for number in 0..300 {
            street.tenant(Tenant::new(&format!("slow-{number}"), 10 + number).slow());
        }
    })
    .await;
    let asked = street.asked("healthy");
    sleep(SIEGE).await;
    let (asked, lost) = (street.asked("healthy") - asked, street.lost(&daemon).await);
    println!(
        "300 slow drivers: the healthy one was asked {asked} times in {SIEGE:?}; peak RSS {} MB",
        daemon.peak_mb()
    );
    // Once in a second, as its document says; a busy machine may be late.
    assert!(asked >= SIEGE.as_secs() * 8 / 10, "{asked}");
    assert_eq!(lost, json!({"healthy": {}, "posting": {}}), "{}", daemon.tail());
    assert!(!daemon.has_ended() && daemon.peak_mb() <= 128);
}

/// Drivers with other drivers' names, in a namespace of their own, before and after restarts of the daemon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drivers_that_borrow_names() {
    if !enabled() {
        return;
    }
    let (street, mut daemon) = street(|street| {
        street.tenant(Tenant::new("alias", 4).calls_itself("spark-healthy"));
        street.tenant(Tenant::new("longer", 5).calls_itself("spark-healthy.1"));
        street.tenant(Tenant::new("aaa", 6).calls_itself("spark-posting"));
    })
    .await;
    for _ in 0..3 {
        sleep(TIMEOUT + INTERVAL).await;
        let lost = street.lost(&daemon).await;
        assert_eq!(lost, json!({"healthy": {}, "posting": {}}), "{}", daemon.tail());
        daemon.kill();
        daemon = street.daemon(&["--no-leader-election"]).await;
        for name in ["healthy", "posting"] {
            street.at_strength(&daemon, name, HEALTHY).await;
        }
    }
    println!("drivers that borrow names: nothing lost over three restarts");
}

/// The record of a tenant's own fleet, as the tenant likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_tenants_write() {
    if !enabled() {
        return;
    }
    let (street, mut daemon) = street(|_| {}).await;
    let watch = daemon.watch();
    let patches = [
        json!({"born": "1-2147483647"}),
        json!({"epoch": 99}),
        json!({"epoch": 100}),
        json!({"reserved": 18_446_744_073_709_551_615_u64}),
        json!({"revision": 9_000_000_000_000_000_000_u64}),
        json!({"epoch": 18_446_744_073_709_551_615_u64}),
        json!({"settled": "1-2000000000", "created": 18_446_744_073_709_551_615_u64}),
        json!({"leaving": {"1": "roll"}, "failed": true}),
    ];
    for (number, patch) in patches.iter().enumerate() {
        street.patch_ledger("mallory", patch);
        // A write of ours finds the other record.
        street.end_an_executor("mallory");
        sleep(Duration::from_secs(8)).await;
        assert!(!daemon.has_ended(), "{patch} ended the daemon: {}", daemon.tail());
        street.replaces(&daemon, "healthy").await;
        if number % 3 == 2 {
            // A start reads it, too.
            daemon.kill();
            daemon = street.daemon(&["--no-leader-election"]).await;
            street.at_strength(&daemon, "healthy", HEALTHY).await;
        }
    }
    let probes = watch.stop().await;
    println!(
        "records that tenants write: {} patches; peak RSS {} MB; {probes:?}",
        patches.len(),
        daemon.peak_mb()
    );
    println!("mallory: {}", street.conditions(&daemon, "mallory").await);
    assert!(daemon.peak_mb() <= 128);
}

/// The daemon stands still, and what executors said meanwhile lies in its sockets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_was_frozen() {
    if !enabled() {
        return;
    }
    let (street, mut daemon) = street(|_| {}).await;
    for seconds in [25, 40] {
        daemon.signal("STOP");
        sleep(Duration::from_secs(seconds)).await;
        daemon.signal("CONT");
        let thawed = Instant::now();
        while thawed.elapsed() < TIMEOUT + INTERVAL {
            let lost = street.lost(&daemon).await;
            assert_eq!(lost, json!({"healthy": {}, "posting": {}}), "{}", daemon.tail());
            sleep(INTERVAL).await;
        }
        println!("frozen for {seconds} s: nothing lost");
    }
    assert!(!daemon.has_ended());
}
