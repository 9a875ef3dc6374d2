//! The namespace is deleted under the daemon, and recreated with another application.

use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::judge::Request;
use super::stage::{Daemon, Stage};
use super::tools;

const NAMESPACE: &str = "doomed";
/// How long the rate of its requests is observed.
const WATCHED: Duration = Duration::from_secs(10);

/// Creates the namespace and the permissions in it.
fn namespace(stage: &Stage) {
    stage.admin(&["create", "namespace", NAMESPACE], "");
    for kind in ["role", "rolebinding"] {
        let mut object: Value =
            serde_json::from_str(&stage.admin(&["get", kind, "rollcall", "-o", "json"], "")).unwrap();
        object["metadata"] = json!({"name": "rollcall", "namespace": NAMESPACE});
        stage.create(&object);
    }
}

/// Its requests in the namespace within this time.
fn within(stage: &Stage, daemon: &Daemon, time: Duration) -> Vec<Request> {
    let token = stage.token_id(&daemon.name);
    let asked = || {
        let mut requests = stage.requests();
        requests.retain(|request| request.token == token && request.namespace == NAMESPACE);
        requests
    };
    let before = asked().len();
    sleep(time);
    asked().split_off(before)
}

#[test]
fn a_namespace_may_go_and_come_back() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    namespace(&stage);
    let mut fleet = stage.fleet_in(NAMESPACE, "doomed", 3, |_| {});
    let mut daemon = stage.daemon(&[&fleet], &["--lease", "doomed"]);
    stage.at_strength(&daemon, &fleet, "started");

    // Its objects are deleted one by one, as the namespace controller does; none can be created any more.
    stage.admin(&["delete", "namespace", NAMESPACE, "--wait=false"], "");
    stage.admin(&["delete", "pod", "-n", NAMESPACE, "--wait=false", "doomed-exec-1"], "");
    let refusals = within(&stage, &daemon, WATCHED);
    let refusals: Vec<&Request> =
        refusals.iter().filter(|request| request.verb == "create" && request.resource == "pods").collect();
    println!("namespace terminating: {} creates refused in {} s", refusals.len(), WATCHED.as_secs());
    assert!((1..=8).contains(&refusals.len()), "retried, at growing intervals: {refusals:?}");
    assert!(refusals.iter().all(|request| request.code == 403), "{refusals:?}");
    let said = daemon.log().lines().find(|line| line.contains("being terminated")).map(str::to_owned);
    println!("{}", said.expect("it says why"));
    let status = daemon.status(&fleet).unwrap();
    assert!(
        status["conditions"].as_array().unwrap().iter().any(|is| is["type"] == "NotProgressing"),
        "{status}"
    );
    stage.judge(&fleet);

    fleet.judged.rights_go = true;
    stage.admin(
        &["delete", "pods,configmaps,roles,rolebindings", "-n", NAMESPACE, "--all", "--wait=false"],
        "",
    );
    let finalized = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}, "spec": {"finalizers": []}});
    let path = format!("--raw=/api/v1/namespaces/{NAMESPACE}/finalize");
    stage.admin(&["replace", &path, "-f", "-"], &finalized.to_string());
    let requests = within(&stage, &daemon, WATCHED);
    println!("namespace gone: {} requests in {} s", requests.len(), WATCHED.as_secs());
    assert!(requests.len() <= 40, "too many requests: {requests:?}");
    assert!(daemon.ended().is_none());

    namespace(&stage);
    fleet.judged.application = "spark-doomed-2".to_owned();
    stage.driver(NAMESPACE, "doomed", &fleet.judged.application);
    stage.at_strength(&daemon, &fleet, "the namespace came back");
    assert!(daemon.ended().is_none());
    stage.judge(&fleet);
}
