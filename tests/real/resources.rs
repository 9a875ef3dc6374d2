//! Fleets that are objects of the API server: their definition, their status, and their scale.

use serde_json::{Value, json};

use super::control_plane::NAMESPACE;
use super::stage::{Fleet, Stage};
use super::tools;

fn object(stage: &Stage, fleet: &Fleet) -> Value {
    let get = ["get", "executorfleet", &fleet.name, "-n", NAMESPACE, "-o", "json"];
    serde_json::from_str(&stage.admin(&get, "")).unwrap()
}

/// Waits until a condition has this status, and returns it.
fn condition(stage: &Stage, fleet: &Fleet, kind: &str, status: &str) -> Value {
    let mut found = Value::Null;
    stage.until(&format!("{}, {kind} is {status}", fleet.name), || {
        let object = object(stage, fleet);
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let one = conditions.iter().find(|one| one["type"] == kind && one["status"] == status);
        found = one.cloned().unwrap_or_default();
        if found.is_null() { Err(object["status"].clone()) } else { Ok(()) }
    });
    found
}

#[test]
fn a_fleet_is_an_object_with_a_status_and_a_scale() {
    let Some(tools) = tools() else { return };
    // Other tests' daemons have the same account, and see no objects: they do not watch them.
    let stage = Stage::start(&tools);
    let mut fleet = stage.fleet("scaled", 2, |_| {});
    let daemon = stage.daemon(&[], &["--watch-fleets", "--fleet-namespace", NAMESPACE]);
    stage.admin(&["apply", "-f", fleet.document.to_str().unwrap()], "");
    stage.at_strength(&daemon, &fleet, "as an object");
    assert_eq!(condition(&stage, &fleet, "Accepted", "True")["reason"], "Valid");
    assert_eq!(condition(&stage, &fleet, "Available", "True")["reason"], "AtStrength");
    // The test's driver is at a loopback address, which an object cannot allow.
    assert_eq!(condition(&stage, &fleet, "Degraded", "True")["reason"], "DriverRestUnavailable");
    let status = &object(&stage, &fleet)["status"];
    assert_eq!(
        (&status["observedGeneration"], &status["executors"], &status["target"]),
        (&json!(1), &json!(2), &json!(2))
    );

    // What people type.
    let wide = stage.admin(&["get", "fleets", "-n", NAMESPACE, "-o", "wide"], "");
    println!("$ kubectl get fleets -o wide\n{wide}");
    for column in ["MODE", "TARGET", "AVAILABLE", "PENDING", "LOST", "ROLLED", "APPLICATION", "PHASE", "AGE"]
    {
        assert!(wide.contains(column), "{wide}");
    }
    let explained = stage.admin(&["explain", "executorfleet.spec.limits"], "");
    println!("$ kubectl explain executorfleet.spec.limits\n{explained}");
    assert!(
        explained.contains("maxUnavailable") && explained.contains("Live pods beyond the target"),
        "{explained}"
    );

    // The scale subresource.
    stage.admin(&["scale", "executorfleet/scaled", "-n", NAMESPACE, "--replicas=4"], "");
    fleet.target = 4;
    fleet.judged.live_max = 5;
    let took = stage.at_strength(&daemon, &fleet, "scaled by kubectl");
    let scale = [
        "get",
        "--raw",
        &format!("/apis/rollcall.dev/v1alpha1/namespaces/{NAMESPACE}/executorfleets/scaled/scale"),
    ];
    stage.until("told by the scale subresource", || {
        let scale: Value = serde_json::from_str(&stage.admin(&scale, "")).unwrap();
        let selector = scale["status"]["selector"] == "spark-app-selector=spark-scaled,spark-role=executor";
        if scale["status"]["replicas"] == 4 && selector { Ok(()) } else { Err(scale) }
    });
    println!("kubectl scale to 4: at strength after {:.1} s", took.as_secs_f64());

    // A loss, seen in the object.
    stage.patch_status("pod/scaled-exec-1", &json!({"phase": "Failed", "containerStatuses": [{
        "name": "spark-kubernetes-executor", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }]}));
    stage.until("one lost and replaced", || {
        let status = &object(&stage, &fleet)["status"];
        let told = status["lastLosses"][0]["executor"] == 1 && status["lost"] == 1;
        if told && status["available"] == 4 { Ok(()) } else { Err(status.clone()) }
    });

    // A spec that is refused keeps the last valid one in force, and says why. What the API server's schema allows, the
    // daemon may still refuse.
    let patch = |spec: Value| {
        let patch = json!({ "spec": spec }).to_string();
        stage.admin(&["patch", "executorfleet", "scaled", "-n", NAMESPACE, "--type=merge", "-p", &patch], "");
    };
    patch(json!({"recovery": {"policies": ["NO_SUCH_POLICY"]}}));
    let refused = condition(&stage, &fleet, "Accepted", "False");
    assert!(refused["message"].as_str().unwrap().contains("NO_SUCH_POLICY"), "{refused}");
    assert_eq!(object(&stage, &fleet)["status"]["available"], 4);
    patch(json!({"recovery": {"policies": ["SPARK"]}}));
    condition(&stage, &fleet, "Accepted", "True");
    patch(json!({"paused": true}));
    assert_eq!(condition(&stage, &fleet, "Paused", "True")["reason"], "Paused");
    patch(json!({"paused": false}));
    condition(&stage, &fleet, "Paused", "False");

    // What the API server itself refuses.
    for (what, spec) in [
        ("driver", json!({"driver": {"podName": "another"}})),
        ("mode", json!({"mode": "Observe"})),
        ("executors", json!({"executors": -1})),
    ] {
        let patch = json!({ "spec": spec }).to_string();
        let arguments = ["patch", "executorfleet", "scaled", "-n", NAMESPACE, "--type=merge", "-p", &patch];
        let refused = stage.plane.kubectl(super::control_plane::Role::Admin, &arguments, "").unwrap_err();
        println!("refused by the API server, {what}: {}", refused.to_string().trim());
    }

    // Deleted, and made again under its name: another fleet object, the same application.
    stage.admin(&["delete", "executorfleet", "scaled", "-n", NAMESPACE], "");
    stage.until("forgotten", || {
        daemon.status(&fleet).map_or(
            Ok(()),
            |status| {
                if status["error"].is_object() { Ok(()) } else { Err(status) }
            },
        )
    });
    stage.admin(&["apply", "-f", fleet.document.to_str().unwrap()], "");
    stage.admin(&["scale", "executorfleet/scaled", "-n", NAMESPACE, "--replicas=4"], "");
    stage.at_strength(&daemon, &fleet, "made again");
    condition(&stage, &fleet, "Available", "True");
    stage.judge(&fleet);
}
