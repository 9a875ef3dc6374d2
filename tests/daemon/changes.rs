//! Changes under a running daemon: documents, policies, drivers, and what the watches report of them.
//!
//! There is no kubelet: the test writes the status of each pod, and an executor exists when its pod does.

use std::sync::Arc;
use std::time::Duration;

use embedded::server::{Server, Verdict};
use fleet::id::ExecutorId;
use policy::{ChildLimits, Compiler};
use rollcall::config::FleetConfig;
use rollcall::daemon::Policies;
use rollcall::heartbeat::intake::{self, Signs};
use rollcall::heartbeat::{Directory, Sign};
use rollcall::policy::modules::COMPILE;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::replay::{cluster, pod, runs};
use super::support::{APPLICATION, DRIVER, Daemon, FLEET, How, NAMESPACE, Wire, document, policies};
use crate::support::{answer, guest, roll_policy};

const TARGET: u32 = 3;
const LIMIT: Duration = Duration::from_secs(30);
const OTHER: &str = "spark-2";

/// A fleet of executors that never start, which makes no difference here.
fn fleet(change: impl FnOnce(&mut Value)) -> FleetConfig {
    document(TARGET, |document| {
        document["spec"]["heartbeat"] = json!({ "disabled": true });
        document["spec"]["allocation"] = json!({ "pendingTimeout": "24h", "maxStartFailures": 100 });
        change(document);
    })
}

fn daemon(server: &Server, config: FleetConfig, policies: Arc<Policies>) -> Daemon {
    let (_, signs) = intake::channel();
    hearing(server, config, policies, Arc::default(), signs)
}

fn hearing(
    server: &Server,
    config: FleetConfig,
    policies: Arc<Policies>,
    directory: Arc<Directory>,
    signs: Signs,
) -> Daemon {
    let client = cluster::Client::new(server.clone(), NAMESPACE);
    let how = How { config, client, lease: false, number: 1 };
    Daemon::with(how, policies, directory, signs)
}

/// Pods of an application's executors.
fn executors(server: &Server, application: &str) -> Vec<Arc<Value>> {
    let mut pods = server.list("pods");
    pods.retain(|pod| {
        let labels = &pod["metadata"]["labels"];
        labels["spark-role"] == "executor" && labels["spark-app-selector"] == application
    });
    pods
}

async fn strong(server: &Server, daemon: &Daemon, application: &str) {
    let begun = Instant::now();
    while executors(server, application).len() < TARGET as usize {
        let overview = daemon.overview().await;
        assert!(begun.elapsed() < LIMIT, "{application} has too few after {LIMIT:?}: {overview:#?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Deletes one executor, and waits for its replacement.
async fn replaces(server: &Server, daemon: &Daemon, application: &str) {
    let pods = executors(server, application);
    let name = pods[0]["metadata"]["name"].as_str().expect("a name");
    server.delete("pods", NAMESPACE, name, Some(0)).expect("it is there");
    strong(server, daemon, application).await;
}

/// Replaces the driver's pod by a new one, as it is right after its creation: not even scheduled.
fn another_driver(server: &Server, application: &str) {
    server.delete("pods", NAMESPACE, DRIVER, Some(0)).expect("it is there");
    let labels = json!({ "spark-role": "driver", "spark-app-selector": application });
    let driver = json!({
        "metadata": { "name": DRIVER, "labels": labels },
        "spec": { "containers": [{ "name": "spark-kubernetes-driver", "image": "apache/spark:4.3.0" }] },
    });
    server.create("pods", NAMESPACE, driver).expect("the name is free");
}

/// Refuses only watches.
fn refuse_watches(server: &Server) {
    server.set_interceptor(Some(Box::new(|parts| {
        let watches = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
        let refused = Verdict::Respond { status: 500, retry_after: None, message: String::new() };
        if watches { refused } else { Verdict::Pass }
    })));
}

async fn conditions(daemon: &Daemon) -> String {
    let overview = daemon.overview().await.expect("it answers");
    format!("{} {:?}", overview.phase, overview.conditions)
}

/// Gives the daemon a document that its core rejects.
async fn refused(daemon: &Daemon, config: FleetConfig, why: &str) {
    refused_by(daemon, &policies(), config, why).await;
}

async fn refused_by(daemon: &Daemon, policies: &Arc<Policies>, config: FleetConfig, why: &str) {
    daemon.give(policies, &[config]).await;
    is_refused(daemon, why).await;
}

async fn is_refused(daemon: &Daemon, why: &str) {
    sleep(Duration::from_secs(1)).await;
    let said = conditions(daemon).await;
    assert!(said.starts_with("active") && said.contains("SpecRefused") && said.contains(why), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_document_moves_nothing() {
    let (server, _) = cluster();
    let daemon = daemon(&server, fleet(|_| {}), policies());
    strong(&server, &daemon, APPLICATION).await;
    for (field, value) in [
        ("applicationId", json!("spark-other")),
        ("applicationId", json!("no label")),
        ("mode", json!("Observe")),
        ("driver", json!({ "podName": "another" })),
    ] {
        let moved = fleet(|document| {
            document["spec"][field] = value;
            document["spec"]["executors"] = 99_999_999.into();
        });
        refused(&daemon, moved, "spec.executors: 99999999").await;
        replaces(&server, &daemon, APPLICATION).await;
    }
    // Neither does a template that is no valid pod, which the core cannot check.
    let moved = fleet(|document| {
        document["spec"]["applicationId"] = "spark-other".into();
        document["spec"]["template"]["spec"]["containers"][0]["image"] = 7.into();
    });
    daemon.give(&policies(), &[moved]).await;
    sleep(Duration::from_secs(1)).await;
    replaces(&server, &daemon, APPLICATION).await;
    // A valid one does.
    let moved = fleet(|document| document["spec"]["applicationId"] = "spark-other".into());
    daemon.give(&policies(), &[moved]).await;
    strong(&server, &daemon, "spark-other").await;
    let said = conditions(&daemon).await;
    assert!(!said.contains("SpecRefused"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_document_keeps_the_last_good_one_for_another_driver() {
    let (server, _) = cluster();
    let daemon = daemon(&server, fleet(|_| {}), policies());
    strong(&server, &daemon, APPLICATION).await;
    let unknown = fleet(|document| document["spec"]["recovery"]["policies"] = json!(["NOBODYS"]));
    refused(&daemon, unknown, "NOBODYS").await;
    another_driver(&server, OTHER);
    runs(&server, DRIVER);
    strong(&server, &daemon, OTHER).await;
    is_refused(&daemon, "NOBODYS").await;
    daemon.give(&policies(), &[fleet(|_| {})]).await;
    sleep(Duration::from_secs(1)).await;
    let said = conditions(&daemon).await;
    assert!(!said.contains("SpecRefused"), "{said}");
}

fn compiler() -> Compiler {
    let (program, arguments) = (env!("CARGO_BIN_EXE_rollcall").into(), vec![COMPILE.into()]);
    Compiler::Child { program, arguments, limits: ChildLimits { cpu_s: 60, ..ChildLimits::default() } }
}

/// Files in the policy directory may take long to load. Meanwhile a fleet that names one of their policies stays at
/// strength, and reports what it waits for.
#[tokio::test(start_paused = true)]
async fn a_fleet_whose_policy_is_not_loaded_yet_is_kept_at_strength() {
    let dir = std::env::temp_dir().join(format!("rollcall-pending-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let policies = Arc::new(Policies::load(Some(dir.clone()), compiler()).expect("they load"));
    let (server, _) = cluster();
    let config = fleet(|document| {
        document["spec"]["roll"] = json!({ "policies": ["BAD"], "timeout": "30s" });
        document["spec"]["policies"] = json!({ "BAD": {} });
    });
    let daemon = daemon(&server, config.clone(), Arc::clone(&policies));
    strong(&server, &daemon, APPLICATION).await;
    replaces(&server, &daemon, APPLICATION).await;
    let said = conditions(&daemon).await;
    assert!(said.contains("PolicyPending") && said.contains("BAD is not loaded yet"), "{said}");
    // A document that cannot be judged yet changes nothing.
    let more = |document: &mut Value| document["spec"]["executors"] = 5.into();
    let other = fleet(|document| {
        document["spec"]["roll"] = json!({ "policies": ["OTHER"], "timeout": "30s" });
        more(document);
    });
    daemon.give(&policies, &[other]).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(executors(&server, APPLICATION).len(), TARGET as usize);
    assert!(conditions(&daemon).await.contains("the previous document stays in force"));
    // The policy exists.
    std::fs::write(dir.join("bad.wasm"), guest(&roll_policy("", "", &answer(&[])), "")).expect("a file");
    assert!(policies.refresh(), "there is one");
    daemon.give(&policies, &[config]).await;
    sleep(Duration::from_secs(1)).await;
    let said = conditions(&daemon).await;
    assert!(!said.contains("PolicyPending") && !said.contains("SpecRefused"), "{said}");
    // Or it does not exist, and never will.
    refused_by(
        &daemon,
        &policies,
        fleet(|document| {
            document["spec"]["roll"] = json!({ "policies": ["OTHER"], "timeout": "30s" });
            more(document);
        }),
        "OTHER",
    )
    .await;
    replaces(&server, &daemon, APPLICATION).await;
    std::fs::remove_dir_all(&dir).expect("it is there");
}

/// A policy whose file is deleted makes no more decisions, which is no reason to have no executors. A document waits
/// for a policy that is loaded later.
#[tokio::test(start_paused = true)]
async fn policies_that_go_and_come() {
    let dir = std::env::temp_dir().join(format!("rollcall-changes-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let file = dir.join("bad.wasm");
    let module = guest(&roll_policy("", "", &answer(&[])), "");
    std::fs::write(&file, &module).expect("a file");
    let policies = Arc::new(Policies::load(Some(dir.clone()), compiler()).expect("they load"));
    assert!(policies.refresh(), "there is one");
    let (server, _) = cluster();
    let config =
        fleet(|document| document["spec"]["roll"] = json!({ "policies": ["BAD"], "timeout": "30s" }));
    let daemon = daemon(&server, config.clone(), Arc::clone(&policies));
    strong(&server, &daemon, APPLICATION).await;
    let change = async || {
        assert!(policies.refresh(), "they have changed");
        daemon.give(&policies, std::slice::from_ref(&config)).await;
    };
    std::fs::remove_file(&file).expect("it is there");
    change().await;
    is_refused(&daemon, "BAD").await;
    another_driver(&server, OTHER);
    runs(&server, DRIVER);
    strong(&server, &daemon, OTHER).await;
    is_refused(&daemon, "BAD").await;

    std::fs::write(&file, &module).expect("a file");
    change().await;
    sleep(Duration::from_secs(1)).await;
    let said = conditions(&daemon).await;
    assert!(!said.contains("SpecRefused"), "{said}");
    std::fs::remove_dir_all(&dir).expect("it is there");
}

/// A driver's pod may get another address when the network of its node is recreated and its containers restart.
#[tokio::test(start_paused = true)]
async fn executors_are_told_where_their_driver_is_now() {
    let (server, _) = cluster();
    let daemon = daemon(&server, fleet(|_| {}), policies());
    strong(&server, &daemon, APPLICATION).await;
    let told = |address: &str| {
        let pods = executors(&server, APPLICATION);
        let url = json!({
            "name": "SPARK_DRIVER_URL", "value": format!("spark://CoarseGrainedScheduler@{address}:7078"),
        });
        let env = |pod: &Value| pod["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
        pods.iter().filter(|pod| env(pod).contains(&url)).count()
    };
    assert_eq!(told("127.0.0.1"), 3);
    server.change("pods", NAMESPACE, DRIVER, |pod| pod["status"]["podIP"] = "10.0.0.9".into());
    sleep(Duration::from_secs(1)).await;
    replaces(&server, &daemon, APPLICATION).await;
    assert_eq!((told("127.0.0.1"), told("10.0.0.9")), (2, 1));
}

/// The pod gets its address while every watch is refused, so no event reports it.
#[tokio::test(start_paused = true)]
async fn a_driver_without_an_address_is_not_forgotten() {
    let (server, _) = cluster();
    let daemon = daemon(&server, fleet(|_| {}), policies());
    strong(&server, &daemon, APPLICATION).await;
    another_driver(&server, OTHER);
    sleep(Duration::from_secs(1)).await;
    let said = conditions(&daemon).await;
    assert!(said.contains("has no address yet"), "{said}");
    refuse_watches(&server);
    // Existing watches end: the API server keeps a watch for 90 s.
    sleep(Duration::from_secs(100)).await;
    assert_eq!(executors(&server, OTHER).len(), 0);
    runs(&server, DRIVER);
    server.set_interceptor(None);
    strong(&server, &daemon, OTHER).await;
    // The daemon does not go on polling for it either.
    let gets = || server.requests()[&("get".to_owned(), "pods".to_owned())];
    let before = gets();
    sleep(Duration::from_secs(60)).await;
    assert!(gets() <= before + 2, "{} times", gets() - before);
}

/// A new application with the same id as the previous one, and executors with the same ids: those of the previous
/// driver may still exist for a while.
#[tokio::test(start_paused = true)]
async fn another_drivers_executors_do_not_speak_for_these() {
    let (server, owner) = cluster();
    let config = fleet(|document| {
        let spec = document["spec"].as_object_mut().expect("fields");
        spec["mode"] = "Observe".into();
        spec.retain(|field, _| !["spark", "template"].contains(&field.as_str()));
    });
    let (directory, (_, signs)) = (Arc::new(Directory::default()), intake::channel());
    let daemon = hearing(&server, config, policies(), Arc::clone(&directory), signs);
    let known = async || {
        sleep(Duration::from_secs(1)).await;
        let entry =
            directory.fleet(&format!("{NAMESPACE}/{FLEET}")).and_then(|fleet| fleet.executor(ExecutorId(1)));
        entry.map(|entry| entry.uid.to_string())
    };
    assert_eq!(known().await, None);
    pod(&server, 1, &owner);
    let ours = known().await;
    assert!(ours.is_some(), "{}", conditions(&daemon).await);
    let theirs = json!({
        "metadata": {
            "name": "theirs",
            "labels": {
                "spark-role": "executor", "spark-app-selector": APPLICATION, "spark-exec-id": "1",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Pod", "name": DRIVER, "uid": "another", "controller": true,
            }],
        },
        "spec": { "containers": [{ "name": "spark-kubernetes-executor", "image": "apache/spark:4.3.0" }] },
    });
    server.create("pods", NAMESPACE, theirs).expect("a new name");
    assert_eq!(known().await, ours);
    // Its owner is gone, and now the pod is, too.
    assert_eq!(executors(&server, APPLICATION).len(), 1);
}

/// No executors are created before this driver has answered; an answer of the previous one does not count.
#[tokio::test(start_paused = true)]
async fn what_was_asked_of_another_driver_is_not_this_ones_answer() {
    let (server, _) = cluster();
    let config = fleet(|document| document["spec"]["driver"]["startTimeout"] = "1h".into());
    let (said, signs) = intake::channel();
    let daemon = hearing(&server, config, policies(), Arc::default(), signs);
    let says = async |life: u64| {
        said.send(Sign::Driver { life, rows: Vec::new() }).expect("it listens");
        sleep(Duration::from_secs(5)).await;
    };
    sleep(Duration::from_secs(1)).await;
    says(1).await;
    strong(&server, &daemon, APPLICATION).await;
    another_driver(&server, OTHER);
    runs(&server, DRIVER);
    sleep(Duration::from_secs(1)).await;
    says(1).await;
    assert_eq!(executors(&server, OTHER).len(), 0, "{}", conditions(&daemon).await);
    says(2).await;
    strong(&server, &daemon, OTHER).await;
}

/// The document names another driver while the previous one is being looked up.
#[tokio::test(start_paused = true)]
async fn a_driver_that_is_wanted_no_more_begins_nothing() {
    let (server, _) = cluster();
    let client = Wire::new(1, 2_000).client(&server);
    let how = How { config: fleet(|_| {}), client, lease: false, number: 1 };
    let (_, signs) = intake::channel();
    let daemon = Daemon::run(how, Arc::default(), signs);
    let moved = fleet(|document| document["spec"]["driver"]["podName"] = "another".into());
    daemon.give(&policies(), &[moved]).await;
    for _ in 0..60 {
        sleep(Duration::from_millis(500)).await;
        let said = conditions(&daemon).await;
        assert!(said.starts_with("awaiting-driver"), "{said}");
    }
    let said = conditions(&daemon).await;
    assert!(said.contains("there is no pod another"), "{said}");
}

/// A successful list shows the current state; it does not show that later changes will be reported.
#[tokio::test(start_paused = true)]
async fn a_view_is_stale_as_long_as_its_watch_is_refused() {
    let (server, _) = cluster();
    refuse_watches(&server);
    // Without an address, so that the fleet begins between two attempts to watch.
    another_driver(&server, OTHER);
    let daemon = daemon(&server, fleet(|_| {}), policies());
    let stale = async || {
        let said = conditions(&daemon).await;
        said.starts_with("active").then(|| said.contains("ViewStale"))
    };
    sleep(Duration::from_secs(60)).await;
    assert_eq!(stale().await, None);
    runs(&server, DRIVER);
    let mut looked = 0;
    for _ in 0..1_200 {
        sleep(Duration::from_millis(100)).await;
        let stale = stale().await;
        assert_ne!(stale, Some(false), "after {looked} looks");
        looked += u32::from(stale.is_some());
    }
    assert!(looked > 1_000, "it was active for {looked} looks");
    assert!(daemon.handle.pulse().is_synced(), "heartbeats must be accepted all the same");
    server.set_interceptor(None);
    sleep(LIMIT + Duration::from_secs(10)).await;
    assert_eq!(stale().await, Some(false));
}
