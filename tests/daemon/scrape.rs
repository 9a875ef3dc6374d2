//! The metrics of a live daemon match the API server's answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use embedded::Chaos;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::real::{Answered, Process, Town, rollcall};
use super::support::{APPLICATION, FLEET, NAMESPACE};
use crate::support::root;

const TARGET: u32 = 3;
/// The daemon's own time limit, and the time until the failure is counted.
const UNANSWERED: Duration = Duration::from_secs(40);

/// The labels of a series, by name.
fn labels(series: &str) -> BTreeMap<&str, &str> {
    let (_, labels) = series.split_once('{').expect("labels");
    let pairs =
        labels.trim_end_matches('}').split("\",").map(|pair| pair.split_once("=\"").expect("a label"));
    pairs.map(|(name, value)| (name, value.trim_end_matches('"'))).collect()
}

/// The series of this name and their values, from an exposition.
fn series<'a>(text: &'a str, name: &str) -> Vec<(BTreeMap<&'a str, &'a str>, u64)> {
    let lines = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    let pairs = lines.map(|line| line.rsplit_once(' ').expect("a value"));
    pairs.map(|(series, value)| (labels(series), value.parse().expect("a number"))).collect()
}

/// By method and code. Every series has the API server's address.
fn requests(text: &str, host: &str) -> Answered {
    let all = series(text, "rest_client_requests_total").into_iter();
    all.map(|(labels, count)| {
        assert_eq!(labels["host"], host, "{text}");
        ((labels["method"].to_owned(), labels["code"].to_owned()), count)
    })
    .collect()
}

/// Waits until the daemon has counted all answers of the API server, and this many unanswered creates.
async fn agree(town: &Town, process: &Process, unanswered: u64) -> Answered {
    let (host, begun) = (town.api.to_string(), Instant::now());
    loop {
        let (_, text) = town.get(process, "/metrics").await.expect("it answers");
        let (counted, mut answered) = (requests(&text, &host), town.answered());
        if unanswered > 0 {
            answered.insert(("POST".to_owned(), "<error>".to_owned()), unanswered);
        }
        // Each request is timed once, with or without an answer.
        let mut timed = BTreeMap::<String, u64>::new();
        for (labels, count) in series(&text, "rest_client_request_duration_seconds_count") {
            *timed.entry(labels["verb"].to_owned()).or_default() += count;
        }
        let mut asked = BTreeMap::<String, u64>::new();
        for ((method, _), count) in &counted {
            *asked.entry(method.clone()).or_default() += count;
        }
        if counted == answered && timed == asked {
            return counted;
        }
        assert!(
            begun.elapsed() < UNANSWERED,
            "counted {counted:?}\nanswered {answered:?}\ntimed {timed:?}\n{}",
            process.log().join("\n")
        );
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_as_the_api_server_answered_them() {
    let town = Town::start(11, Chaos::None, TARGET).await;
    let process = Process::replica(&town);
    let http = process.listens().await;
    town.at_rest(&process, TARGET as usize, 60).await;
    let count = |counted: &Answered, method: &str, code: &str| {
        counted.get(&(method.to_owned(), code.to_owned())).copied().unwrap_or_default()
    };
    // Lists and watches, creates, and writes of Lease and ledger.
    let counted = agree(&town, &process, 0).await;
    let creates = count(&counted, "POST", "201");
    assert!(creates > u64::from(TARGET), "pods, Lease, ledger: {counted:?}");
    assert!(count(&counted, "GET", "200") > 0 && count(&counted, "PUT", "200") > 0, "{counted:?}");
    assert!(count(&counted, "GET", "404") > 0, "there was no ledger and no Lease: {counted:?}");

    // A budget that allows no disruption refuses a roll.
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "budget", "namespace": NAMESPACE },
        "spec": {
            "maxUnavailable": 0,
            "selector": { "matchLabels": { "spark-app-selector": APPLICATION, "spark-role": "executor" } },
        },
    });
    town.world.server.create("poddisruptionbudgets", NAMESPACE, budget).expect("it is created");
    let server = format!("--server=http://{http}");
    let output = rollcall(&town.dir, &["roll", FLEET, "1", "--token-file=token", &server]);
    assert!(output.status.success(), "{output:?}");
    let begun = Instant::now();
    while count(&town.answered(), "POST", "429") == 0 {
        assert!(begun.elapsed().as_secs() < 30, "no eviction was refused: {:?}", town.answered());
        sleep(Duration::from_millis(100)).await;
    }
    let counted = agree(&town, &process, 0).await;
    assert!(count(&counted, "POST", "429") > 0, "{counted:?}");

    // A create without an answer: the daemon times out.
    town.hang_a_create();
    let output = rollcall(&town.dir, &["scale", FLEET, "5", "--token-file=token", &server]);
    assert!(output.status.success(), "{output:?}");
    let counted = agree(&town, &process, 1).await;
    assert_eq!(count(&counted, "POST", "<error>"), 1, "{counted:?}");
    assert_eq!(town.world.wrong(), Vec::<String>::new());
}

/// Every series is documented: in a daemon that has exercised all features, each one has its own help text, and no two
/// share a name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_named_as_prometheus_names_them() {
    let town = Town::start(12, Chaos::None, TARGET).await;
    let process = Process::start(&town);
    process.listens().await;
    town.at_rest(&process, TARGET as usize, 60).await;
    let (_, text) = town.get(&process, "/metrics").await.expect("it answers");
    let mut helped = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').expect("a help text");
        assert!(help.len() > 10 && help.ends_with('.'), "{line}");
        assert!(helped.insert(name), "{name} comes twice");
        let ours = ["rollcall_", "rest_client_", "leader_election_", "workqueue_"];
        assert!(ours.iter().any(|prefix| name.starts_with(prefix)), "{name}");
    }
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let base = ["_total", "_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        let kind = types.get(base.unwrap_or(name)).or_else(|| types.get(name));
        match kind.copied() {
            Some("counter") => assert!(name.ends_with("_total"), "{name}"),
            Some("histogram") => assert!(base.is_some_and(|base| base.ends_with("_seconds")), "{name}"),
            Some("gauge") => {}
            other => panic!("{name} has the type {other:?}"),
        }
    }
    assert!(!text.contains("leader_election"), "it leads alone:\n{text}");
}

/// A read-only root filesystem has no other place for compiled policies.
#[test]
fn the_shipped_deployment_mounts_the_cache_where_the_daemon_looks_for_it() {
    let text = std::fs::read_to_string(root().join("deploy/rollcall.yaml")).expect("a manifest");
    let deployment =
        text.split("\n---\n").find(|one| one.contains("kind: Deployment")).expect("a Deployment");
    let deployment: Value = serde_saphyr::from_str(deployment).expect("YAML");
    let spec = &deployment["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let base = all(&container["env"]).into_iter().find(|one| one["name"] == "XDG_CACHE_HOME");
    let base = base.expect("XDG_CACHE_HOME")["value"].as_str().expect("a path").to_owned();
    // Below the mount, so that the daemon creates the directory itself, without permissions for other users.
    let path = format!("{base}/rollcall");
    let mounts = all(&container["volumeMounts"]);
    let mount = mounts.iter().find(|one| one["mountPath"] == *path).expect("a mount at the cache");
    assert_ne!(mount["readOnly"], true);
    let volumes = all(&spec["volumes"]);
    let volume = volumes.iter().find(|one| one["name"] == mount["name"]).expect("its volume");
    assert!(volume["emptyDir"]["sizeLimit"].is_string(), "{volume}");
}
