//! A roll uses the eviction API: if a PodDisruptionBudget refuses, it waits, visibly, until it is allowed.

use serde_json::{Value, json};

use super::control_plane::NAMESPACE;
use super::stage::{Stage, runs};
use super::tools;

/// What the disruption controller would write.
fn allow(stage: &Stage, disruptions: u32) {
    let status = json!({
        "observedGeneration": 1, "disruptionsAllowed": disruptions, "currentHealthy": 3, "desiredHealthy": 3,
        "expectedPods": 4,
    });
    stage.patch_status("poddisruptionbudget/budget", &status);
}

#[test]
fn a_roll_waits_for_the_budget() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let fleet = stage.fleet("budget", 3, |_| {});
    stage.create(&json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "budget", "namespace": NAMESPACE},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"spark-app-selector": "spark-budget", "spark-role": "executor"}}},
    }));
    allow(&stage, 0);
    let daemon = stage.daemon(&[&fleet], &["--lease", "budget"]);
    stage.at_strength(&daemon, &fleet, "started");
    let rolled = *stage.pods(&fleet).unwrap().keys().next().unwrap();
    let name = format!("budget-exec-{rolled}");
    daemon.order(&["roll", "budget", &rolled.to_string()]);

    let evictions = || {
        let ours =
            |request: &&super::judge::Request| request.resource == "pods/eviction" && request.name == name;
        stage.requests().iter().filter(ours).map(|request| request.code).collect::<Vec<_>>()
    };
    stage.until("refused twice", || {
        let codes = evictions();
        if codes.starts_with(&[429, 429]) { Ok(()) } else { Err(format!("{codes:?}")) }
    });
    // The replacement exists, the executor too, and its status shows what it waits for.
    let pods = stage.pods(&fleet).unwrap();
    assert_eq!(pods.values().filter(|pod| runs(pod)).count(), 4, "{pods:?}");
    let explained = daemon.explain(&fleet, rolled).unwrap();
    assert_eq!(explained["notRolled"]["code"], "disruption-budget", "{explained}");
    println!("explain: {}", explained["notRolled"]["message"]);
    let status = daemon.status(&fleet).unwrap();
    assert_eq!(status["refusals"]["disruption-budget"], 1, "{status}");

    allow(&stage, 1);
    stage.until("rolled", || {
        let gone = !stage.pods(&fleet).unwrap().contains_key(&rolled);
        let status = daemon.status(&fleet).unwrap();
        if gone && status["counts"]["removed"] == json!({"roll": 1}) { Ok(()) } else { Err(status) }
    });
    stage.at_strength(&daemon, &fleet, "the budget allows it");
    let deleted = |request: &super::judge::Request| request.verb == "delete" && request.name == name;
    assert!(!stage.requests().iter().any(deleted), "nothing went behind the budget's back");
    let codes = evictions();
    let (last, refused) = codes.split_last().unwrap();
    let refused = refused.len() >= 2 && refused.iter().all(|code| *code == 429);
    assert!(refused && *last == 201, "refused as long as it must, then granted: {codes:?}");
    assert_eq!(daemon.status(&fleet).unwrap()["counts"]["lost"], Value::Object(Default::default()));
    stage.judge(&fleet);
}
