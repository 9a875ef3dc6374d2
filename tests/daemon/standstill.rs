//! A process is stopped and continued: executors' reports accumulate in its sockets meanwhile, and no executor is lost.
//!
//! Before the fix, half of them were lost: the loop found expired deadlines before it read a socket.

use std::time::Duration;

use embedded::Chaos;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::real::{Process, Town};

const TARGET: u32 = 6;
/// Twice the heartbeat timeout of `support`'s document, in the same ratio as 40 s to 20 s.
const FROZEN: Duration = Duration::from_secs(10);
/// The timeout itself, and then the checks of a loss.
const FOUND: Duration = Duration::from_secs(5 + 10);

async fn freeze(process: &Process) {
    process.signal("STOP");
    sleep(FROZEN).await;
    process.signal("CONT");
}

fn impaired(fleet: &Value) -> bool {
    fleet["conditions"].to_string().contains("HearingImpaired")
}

/// No executor was lost or replaced, according to all sources.
async fn none_was_lost(town: &Town, process: &Process) {
    town.at_rest(process, TARGET as usize, 60).await;
    let (fleet, truth) = (town.fleet(process).await.expect("an answer"), town.world.truth());
    let log = process.log().join("\n");
    assert_eq!(truth.created, u64::from(TARGET), "{fleet} {truth:?}\n{log}");
    assert!(fleet["counts"]["lost"].as_object().is_some_and(serde_json::Map::is_empty), "{fleet}\n{log}");
    assert_eq!(town.world.wrong(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_leads_alone_goes_on_and_loses_none() {
    let town = Town::start(31, Chaos::None, TARGET).await;
    let mut process = Process::start(&town);
    process.listens().await;
    town.at_rest(&process, TARGET as usize, 60).await;
    let before = process.log().len();
    freeze(&process).await;
    process.logs(before, &["this host stood still", "stood_ms"]).await;
    process.logs(before, &["HearingImpaired", "(paused)"]).await;
    town.until(&process, 5, "impaired", |fleet, _| impaired(fleet)).await;
    // The impairment ends by itself, and by then a lost executor would have been noticed.
    town.until(&process, 20, "not impaired any more", |fleet, _| !impaired(fleet)).await;
    sleep(FOUND).await;
    assert!(!process.has_ended());
    none_was_lost(&town, &process).await;
    let metrics = town.get(&process, "/metrics").await.expect("it answers").1;
    let counted = "rollcall_hearing_impaired_total{namespace=\"spark\",fleet=\"etl\",cause=\"paused\"}";
    let count = metrics.lines().find_map(|line| line.strip_prefix(counted)?.trim().parse::<u64>().ok());
    assert!(count > Some(0), "{metrics}");
    assert_eq!(process.terminate().await.0, Some(0));
}

/// It may have lost its Lease meanwhile: then it ends, and is restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_competes_for_a_lease_loses_none_either() {
    let town = Town::start(32, Chaos::None, TARGET).await;
    let mut process = Process::replica(&town);
    process.listens().await;
    town.at_rest(&process, TARGET as usize, 60).await;
    freeze(&process).await;
    let begun = Instant::now();
    while begun.elapsed() < FOUND {
        if process.has_ended() {
            process = Process::replica(&town);
            process.listens().await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    none_was_lost(&town, &process).await;
    sleep(FOUND).await;
    none_was_lost(&town, &process).await;
}
