//! Prometheus' metrics agree with the answers of a real API server, according to its audit log.

use std::collections::BTreeMap;

use serde_json::json;

use super::control_plane::NAMESPACE;
use super::stage::{Daemon, Stage};
use super::tools;

/// By method and code.
type Counts = BTreeMap<(String, String), u64>;

fn counted(daemon: &Daemon) -> Counts {
    let text = daemon.http("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut counts = Counts::new();
    for line in text.lines().filter(|line| line.starts_with("rest_client_requests_total{")) {
        let (series, value) = line.trim_end().rsplit_once(' ').unwrap();
        let label = |name: &str| {
            let rest = series.split_once(&format!("{name}=\"")).unwrap().1;
            rest.split('"').next().unwrap().to_owned()
        };
        assert!(label("host").starts_with("127.0.0.1:"), "{line}");
        *counts.entry((label("method"), label("code"))).or_default() += value.parse::<u64>().unwrap();
    }
    counts
}

/// The API server's answers to these credentials.
fn answered(stage: &Stage, token: &str) -> Counts {
    let mut counts = Counts::new();
    for request in stage.requests().iter().filter(|request| request.token == token) {
        let method = match &*request.verb {
            "get" | "list" | "watch" => "GET",
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            other => panic!("{other} of {}", request.resource),
        };
        *counts.entry((method.to_owned(), request.code.to_string())).or_default() += 1;
    }
    counts
}

fn count(counts: &Counts, method: &str, code: &str) -> u64 {
    counts.get(&(method.to_owned(), code.to_owned())).copied().unwrap_or_default()
}

#[test]
fn requests_are_counted_as_the_api_server_answered_them() {
    let Some(tools) = tools() else { return };
    // A separate stage: the test freezes its etcd.
    let stage = Stage::start(&tools);
    let fleet = stage.fleet("scraped", 2, |_| {});
    stage.create(&json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "scraped", "namespace": NAMESPACE},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"spark-app-selector": "spark-scraped", "spark-role": "executor"}}},
    }));
    let status = json!({
        "observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 2, "expectedPods": 2,
    });
    stage.patch_status("poddisruptionbudget/scraped", &status);
    // Without leader election: the Lease would be lost while etcd is frozen, and the counts with it.
    let daemon = stage.daemon(&[&fleet], &["--no-leader-election"]);
    stage.at_strength(&daemon, &fleet, "started");
    let rolled = *stage.pods(&fleet).unwrap().keys().next().unwrap();
    daemon.order(&["roll", "scraped", &rolled.to_string()]);
    let token = stage.token_id(&daemon.name);
    stage.until("counted as answered, a refused eviction among it", || {
        let (counted, answered) = (counted(&daemon), answered(&stage, &token));
        let refused = count(&counted, "POST", "429");
        if counted == answered && refused > 0 {
            println!("counted: {counted:?}");
            Ok(())
        } else {
            Err(format!("counted {counted:?}, answered {answered:?}"))
        }
    });
    let before = counted(&daemon);
    // Two executors, the replacement of the rolled one, and the ledger.
    assert!(count(&before, "POST", "201") >= 4, "{before:?}");
    assert!(count(&before, "GET", "200") > 0 && count(&before, "PUT", "200") > 0, "{before:?}");
    assert_eq!(before.keys().filter(|(_, code)| code == "<error>").count(), 0, "{before:?}");

    // No write completes while etcd is frozen: the retried eviction times out.
    stage.plane.pause_etcd().unwrap();
    let unanswered = |counts: &Counts| {
        let errors = counts.iter().filter(|((_, code), _)| code == "<error>");
        errors.map(|(_, count)| count).sum::<u64>()
    };
    stage.until("given up", || if unanswered(&counted(&daemon)) > 0 { Ok(()) } else { Err("not yet") });
    stage.plane.resume_etcd().unwrap();
    println!("counted: {:?}", counted(&daemon));
    stage.judge(&fleet);
}
