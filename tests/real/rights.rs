//! Least privilege: the daemon uses exactly the permissions that the chart grants for its values.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::control_plane::{HOME, NAMESPACE, Role};
use super::stage::{Daemon, Stage};
use super::{authority, chart, tools};

/// Group, resource, verb.
type Right = (String, String, String);

fn granted(stage: &Stage) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for role in [
        &["role", "rollcall"][..],
        &["role", "rollcall-leader-election", "-n", HOME],
        &["clusterrole", "rollcall"],
    ] {
        let get = [&["get", "-o", "json"], role].concat();
        let role: Value = serde_json::from_str(&stage.admin(&get, "")).unwrap();
        let of = |rule: &Value, field: &str| {
            let list = rule[field].as_array().unwrap().iter();
            list.map(|one| one.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for rule in role["rules"].as_array().unwrap() {
            for group in of(rule, "apiGroups") {
                for resource in of(rule, "resources") {
                    let with = |verb| (group.clone(), resource.clone(), verb);
                    rights.extend(of(rule, "verbs").into_iter().map(with));
                }
            }
        }
    }
    rights
}

fn used(stage: &Stage, daemon: &Daemon) -> BTreeSet<Right> {
    let token = stage.token_id(&daemon.name);
    let ours = stage.requests().into_iter().filter(|request| request.token == token);
    ours.map(|request| (request.group, request.resource, request.verb)).collect()
}

/// An executor sends a heartbeat with its pod's token.
fn beat(daemon: &Daemon, token: &str) -> String {
    let body = json!({"beats": [{"fleet": "rights", "executor": 1}]}).to_string();
    let length = body.len();
    let request = format!(
        "POST /v1/heartbeats HTTP/1.1\r\nHost: rollcall\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    daemon.http(&request).unwrap()
}

/// Installs the chart over the manifests that the control plane has, and returns the daemon's flags in its Deployment.
fn install(stage: &Stage, helm: &Path) -> Vec<String> {
    let kubeconfig = stage.plane.kubeconfig(Role::Admin);
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let release = ["install", "rollcall", "chart", "--namespace", HOME, "--values=-", &kubeconfig];
    let adopt = ["--take-ownership", "--force-conflicts"];
    // One with objects, and one with tokens of executors.
    let values = json!({"fleetNamespaces": [NAMESPACE], "reviewTokens": true, "authorize": true});
    let notes = chart::run(helm, &[&release[..], &adopt].concat(), &values).unwrap();
    assert!(notes.contains(&format!("It may manage executors in: {NAMESPACE}.")), "{notes}");
    let deployment = stage.admin(&["get", "deployment", "rollcall", "-n", HOME, "-o", "json"], "");
    let deployment: Value = serde_json::from_str(&deployment).unwrap();
    // The first is `run`.
    chart::arguments(&deployment["spec"]["template"]).split_off(1)
}

#[test]
fn what_is_granted_is_used_and_what_is_used_is_granted() {
    let (Some(tools), Some(helm)) = (tools(), chart::helm()) else { return };
    let stage = Stage::shared(&tools);
    let flags = install(&stage, &helm);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    stage.admin(&["create", "serviceaccount", "executor"], "");
    let fleet = stage.fleet("rights", 2, |document| {
        document["spec"]["template"]["spec"]["serviceAccountName"] = json!("executor");
    });
    // It fails repeatedly: an Event that repeats becomes a series.
    let invalid = stage.fleet("invalid", 1, |document| {
        // The type is a string, but the API server does not know the value.
        document["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Sometimes".into();
    });
    let failing = stage.fleet("failing", 2, |document| {
        document["spec"]["recovery"] = json!({"maxExecutorFailures": 1, "failedDeletesDriver": true});
    });
    // One of them is an object.
    stage.admin(&["apply", "-f", fleet.document.to_str().unwrap()], "");
    let daemon = stage.daemon(&[&invalid, &failing], &flags);
    stage.at_strength(&daemon, &fleet, "started");
    stage.at_strength(&daemon, &failing, "started");

    let token = ["create", "token", "executor", "--audience=rollcall-heartbeat"];
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=rights-exec-1"];
    let answer = beat(&daemon, stage.admin(&[&token[..], &bound].concat(), "").trim());
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#""accepted":1"#), "{answer}");

    // May it command?
    let stranger = stage.admin(&["create", "token", "executor", "--audience=rollcall"], "");
    assert_eq!(authority::pause(&daemon, "rights", stranger.trim()).0, 403);

    daemon.order(&["kill", "rights", "2", "--replace", "--force"]);
    stage.at_strength(&daemon, &fleet, "one killed");
    daemon.order(&["roll", "rights", "1"]);
    stage.until("rolled", || {
        let status = daemon.status(&fleet).unwrap_or_default();
        if status["counts"]["removed"]["roll"] == 1 { Ok(()) } else { Err(status) }
    });
    for executor in [1, 2] {
        stage.patch_status(&format!("pod/failing-exec-{executor}"), &json!({"phase": "Failed", "containerStatuses": [{
            "name": "spark-kubernetes-executor", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        }]}));
    }
    stage.until("ended with its driver", || {
        let get = ["get", "pod", "failing-driver", "--ignore-not-found", "-o", "name"];
        let driver = stage.admin(&get, "");
        if driver.is_empty() { Ok(()) } else { Err(driver) }
    });

    // A class, which is edited, and then deleted.
    stage.driver(NAMESPACE, "classed", "spark-classed");
    let class = |interval: &str| {
        json!({
            "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleetClass", "metadata": {"name": "classed"},
            "spec": {
                "selector": {"matchLabels": {"spark-app-selector": "spark-classed"}}, "namespaces": [NAMESPACE],
                "fleet": {"mode": "Observe", "roll": {"policies": ["ID"], "interval": interval}},
            },
        })
    };
    let get =
        ["get", "fleet", "classed-driver", "--ignore-not-found", "-o", "jsonpath={.spec.roll.interval}"];
    let becomes = |expected: &str| {
        stage.until(&format!("the interval of its fleet is {expected:?}"), || {
            let found = stage.admin(&get, "");
            if found == expected { Ok(()) } else { Err(found) }
        });
    };
    for interval in ["1h", "2h"] {
        stage.admin(&["apply", "-f", "-"], &class(interval).to_string());
        becomes(interval);
    }
    stage.admin(&["delete", "fleetclass", "classed"], "");
    becomes("");

    let granted = granted(&stage);
    stage.until("using all of its rights", || {
        let used = used(&stage, &daemon);
        assert_eq!(used.difference(&granted).next(), None, "used, and not granted");
        let unused: Vec<&Right> = granted.difference(&used).collect();
        if unused.is_empty() { Ok(()) } else { Err(format!("unused: {unused:?}")) }
    });
    println!("{} rights, all used, and no others asked for: {granted:?}", granted.len());
    stage.judge(&fleet);
    stage.judge(&failing);
}
