//! Which executors a daemon rolls, one after the other, and whether Spark's plugin would have rolled the same.
//!
//! There is no kubelet: a pod runs as soon as the test has seen it, and disappears as soon as it is evicted. The driver
//! reports the same for every executor.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use embedded::server::Server;
use fleet::event::{Counters, DriverRow};
use fleet::id::ExecutorId;
use rollcall::heartbeat::{Sign, intake};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::replay::{cluster, runs};
use super::support::{Daemon, How, NAMESPACE, document, policies};

const EXECUTORS: u32 = 12;
/// As many as in a past bug: a daemon that listed candidates in its own order rolled the newest one 16 times in a row.
const ROLLS: usize = 16;
const LIMIT: Duration = Duration::from_secs(1_800);

/// Executors' pods, by executor id.
fn pods(server: &Server) -> Vec<(u64, Arc<Value>)> {
    let executor = |pod: &Value| pod["metadata"]["labels"]["spark-exec-id"].as_str()?.parse().ok();
    server.list("pods").into_iter().filter_map(|pod| Some((executor(&pod)?, pod))).collect()
}

/// What Spark's driver reports about executors with equal work.
fn row(executor: u64) -> DriverRow {
    let counters = Counters {
        add_time_ms: 1_795_254_309_856,
        completed_tasks: 20,
        total_tasks: 20,
        total_duration_ms: 20_000,
        peak_jvm_onheap_bytes: -1,
        ..Counters::default()
    };
    DriverRow { executor: ExecutorId(executor), active: true, remove_reason: None, counters: Some(counters) }
}

#[tokio::test(start_paused = true)]
async fn equal_executors_are_rolled_in_the_order_of_sparks_plugin() {
    let (server, _) = cluster();
    let config = document(EXECUTORS, |document| {
        document["spec"]["heartbeat"] = json!({ "disabled": true });
        document["spec"]["roll"] =
            json!({ "policies": ["FAILED_TASKS"], "interval": "10s", "timeout": "60s" });
    });
    let (driver, signs) = intake::channel();
    let client = cluster::Client::new(server.clone(), NAMESPACE);
    let how = How { config, client, lease: false, number: 1 };
    let daemon = Daemon::with(how, policies(), Arc::default(), signs);

    let mut rolled: Vec<u64> = Vec::new();
    let mut expected: Vec<u64> = Vec::new();
    let mut known: BTreeSet<u64> = BTreeSet::new();
    let begun = Instant::now();
    while rolled.len() < ROLLS {
        assert!(begun.elapsed() < LIMIT, "only {rolled:?} after {LIMIT:?}: {:#?}", daemon.overview().await);
        let pods = pods(&server);
        let there: BTreeSet<u64> = pods.iter().map(|(executor, _)| *executor).collect();
        for gone in known.difference(&there) {
            // Among equals, each policy for the largest value picks the last of Spark's list, which has ids as text in
            // descending order. Here the replacement never has the smallest id as text.
            expected.extend(known.iter().min_by_key(|id| id.to_string()));
            rolled.push(*gone);
        }
        known = there;
        for (_, pod) in pods.iter().filter(|(_, pod)| pod["status"]["phase"] != "Running") {
            runs(&server, pod["metadata"]["name"].as_str().expect("a name"));
        }
        let rows = known.iter().map(|executor| row(*executor)).collect();
        driver.send(Sign::Driver { life: 1, rows }).expect("it listens");
        sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(rolled, expected);
    assert_eq!(rolled[..8], [1, 10, 11, 12, 13, 14, 15, 16], "by hand, the first of them");
    assert!(!daemon.has_ended());
}
