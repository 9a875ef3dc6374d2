//! `rollcall doctor` without a cluster: on what drivers answered, saved to files.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::root;

const ANSWERS: &str = "tests/fixtures/doctor";

fn rollcall(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rollcall"))
        .args(args)
        .current_dir(root())
        .output()
        .expect("the binary runs")
}

fn doctor(answer: &str, more: &[&str]) -> Output {
    let file = format!("--environment={ANSWERS}/{answer}");
    rollcall(&[&["doctor", "etl-driver", "--offline", &file], more].concat())
}

#[test]
fn findings_say_what_to_set() {
    let output = doctor("bad-4.3.0.json", &[]);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let begin = "\
error[decommission-disabled]: spark.decommission.enabled is off, which is Spark's default
  why: an executor that is rolled or evicted ends at once, and its running tasks fail
  set: spark.decommission.enabled=true
  from: Spark: internal.config.DECOMMISSION_ENABLED

error[rest-port-differs]: spark.ui.port is 4045, and Rollcall asks port 4040
  why: Rollcall gets no counters for roll policies
  in the fleet's document: spec.driver.restPort: 4045
";
    assert!(text.starts_with(begin), "{text}");
    let end = "\
not checked[driver-pod, executor-pods, warning-events, daemon, permissions, network-to-rollcall, network-to-driver]: \
--offline: the API server was not asked
not checked[rest-api]: the driver's REST API was not asked, because of --environment
not seen: policies of the network plugin's own kinds (Cilium, Calico) and of service meshes

default/etl-driver (Spark 4.3, mode Observe, no document: Rollcall's defaults): 4 errors, 5 warnings, 0 pieces of \
advice; 5 checks are ok, 8 could not run
";
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn json_has_every_check_and_the_exit_code_is_that_of_the_errors() {
    for (answer, code) in [("bad-3.5.9.json", 1), ("good-3.5.9.json", 0), ("good-4.3.0.json", 0)] {
        let output = doctor(answer, &["--output=json"]);
        assert_eq!(output.status.code(), Some(code), "{answer}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["ok"], json!(code == 0));
        let checks = report["checks"].as_array().expect("a list");
        assert_eq!(checks.len(), 22);
        assert!(
            checks.iter().all(|ran| ran["result"] != "not-checked" || ran["why"].is_string()),
            "{checks:?}"
        );
        for finding in report["findings"].as_array().expect("a list") {
            assert!(finding["set"].as_array().is_some_and(|set| !set.is_empty()), "{finding}");
        }
    }
}

#[test]
fn a_written_document_is_a_valid_one() {
    let output = doctor("good-3.5.9.json", &["-n", "spark", "--write=fleet"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(
        text,
        "\
apiVersion: rollcall.dev/v1alpha1
kind: ExecutorFleet
metadata:
  name: etl
  namespace: spark
spec:
  driver:
    podName: etl-driver
  dryRun: true
  executors: 4
  heartbeat:
    interval: 10s
    timeout: 2m
  limits:
    maxUnavailable: 1
  mode: Observe
  roll:
    grace: 5m
    interval: 1h
    policies:
    - OUTLIER
"
    );
    let file = std::env::temp_dir().join(format!("rollcall-doctor-{}.yaml", std::process::id()));
    fs::write(&file, text).expect("a file");
    let file_name = file.to_string_lossy();
    let checked = rollcall(&["check", "--deny-warnings", "-f", &file_name]);
    assert!(checked.status.success(), "{checked:?}");
    let class = doctor("good-3.5.9.json", &["-n", "spark", "--write=class"]);
    let class_file = file.with_extension("class.yaml");
    fs::write(&class_file, class.stdout).expect("a file");
    let checked = rollcall(&["check", "--deny-warnings", "-f", &class_file.to_string_lossy()]);
    assert!(checked.status.success(), "{checked:?}");
    let _ = fs::remove_file(class_file);
    // With the document, only Kubernetes' short grace period is left, and rolls have their own.
    let again = doctor("good-3.5.9.json", &["-f", &file_name, "--output=json"]);
    let report: Value = serde_json::from_slice(&again.stdout).expect("JSON");
    let codes: Vec<&Value> =
        report["findings"].as_array().expect("a list").iter().map(|finding| &finding["code"]).collect();
    assert_eq!(codes, ["short-termination-grace"]);
    let _ = fs::remove_file(file);
}

#[test]
fn what_cannot_be_examined_is_an_error() {
    for (args, message) in [
        (&["etl-driver", "--offline"][..], "--offline: the API server was not asked"),
        (&["--offline", "--environment=tests/fixtures/doctor/bad-4.3.0.json"], "name its pod"),
        (&["etl-driver", "--offline", "--environment=absent.json"], "absent.json"),
        (&["etl-driver", "--offline", "--environment=README.md"], "README.md is not JSON"),
        (
            &["etl-driver", "--offline", "--environment=tests/fixtures/allexecutors/040s.json"],
            "/environment answers",
        ),
        (&["../secrets", "--offline"], "a name has only"),
        (&["etl-driver", "--kubeconfig=absent.yaml"], "with --offline only files are read"),
    ] {
        let output = rollcall(&[&["doctor"], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {stderr}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
    }
    // What a pod was submitted with is in its command.
    let pod = json!({"metadata": {"name": "etl-driver"}, "spec": {"containers": [
        {"name": "driver", "command": ["spark-submit", "--conf", "spark.decommission.enabled=true"]},
    ]}});
    let file = std::env::temp_dir().join(format!("rollcall-doctor-pod-{}.json", std::process::id()));
    fs::write(&file, pod.to_string()).expect("a file");
    let output = rollcall(&["doctor", "--offline", "--output=json", "--pod", &file.to_string_lossy()]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("a list");
    let decommission = checks.iter().find(|ran| ran["check"] == "decommission").expect("it is there");
    assert_eq!(decommission["result"], "ok");
    assert!(report["limits"].to_string().contains("the application's code"), "{report}");
    let _ = fs::remove_file(file);
    // Its name is among the settings.
    let named = rollcall(&[
        "doctor",
        "--offline",
        "--environment=tests/fixtures/doctor/good-4.3.0.json",
        "--output=json",
    ]);
    let report: Value = serde_json::from_slice(&named.stdout).expect("JSON");
    assert_eq!(report["application"]["driver"], "doctor-driver");
}
