//! `rollcall doctor` on a real API server: an application that is configured badly, and the same one mended.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};

use serde_json::{Value, json};

use super::control_plane::{HOME, Role};
use super::stage::{LOOK, Stage, binary};
use super::tools;
use crate::support::root;

/// Without permissions for Rollcall.
const NAMESPACE: &str = "doctor";
const DRIVER: &str = "etl-5ad0769f1e2b3c4d-driver";
const APPLICATION: &str = "spark-etl";
const FLEETS: &str = include_str!("../../deploy/fleets.yaml");

/// The driver's REST API: it answers with this environment.
struct Rest {
    port: u16,
    environment: Arc<Mutex<String>>,
    /// What it was asked.
    asked: Arc<Mutex<String>>,
}

impl Rest {
    fn start() -> Rest {
        let listener = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let rest = Rest { port, environment: Arc::default(), asked: Arc::default() };
        let (environment, asked) = (Arc::clone(&rest.environment), Arc::clone(&rest.asked));
        spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        break;
                    }
                    head.extend(byte);
                }
                let head = String::from_utf8_lossy(&head);
                let body = match head.split(' ').nth(1) {
                    Some("/api/v1/applications") => json!([{"id": APPLICATION}]).to_string(),
                    Some(path) if path == format!("/api/v1/applications/{APPLICATION}/environment") => {
                        environment.lock().unwrap().clone()
                    }
                    _ => String::new(),
                };
                asked.lock().unwrap().push_str(&head);
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                );
            }
        });
        rest
    }

    /// Answers with this fixture from now on.
    fn answers(&self, fixture: &str, port: &str) {
        let text = std::fs::read_to_string(root().join("tests/fixtures/doctor").join(fixture)).unwrap();
        let mut environment: Value = serde_json::from_str(&text).unwrap();
        let properties = environment["sparkProperties"].as_array_mut().unwrap();
        properties.retain(|pair| pair[0] != "spark.ui.port");
        properties.push(json!(["spark.ui.port", port]));
        *self.environment.lock().unwrap() = environment.to_string();
    }
}

/// An address of this machine to which the API server connects: it refuses loopback.
fn address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

fn doctor(stage: &Stage, role: Role, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("doctor").args(arguments).arg("--kubeconfig").arg(stage.plane.kubeconfig(role));
    command.output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Severity and code of each finding.
fn codes(report: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|finding| format!("{} {}", text(&finding["severity"]), text(&finding["code"]))).collect()
}

fn result<'a>(report: &'a Value, check: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|ran| ran["check"] == check).unwrap()["result"].as_str().unwrap()
}

/// Creates a pod that runs on no node, and gives it an address. Returns its UID.
fn run(stage: &Stage, pod: &Value, ip: Option<IpAddr>) -> String {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    let name = pod["metadata"]["name"].as_str().unwrap();
    stage.create(pod);
    let ip = ip.map(|ip| ip.to_string());
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": ip.as_ref().map(|ip| [json!({"ip": ip})])}});
    let patch = [
        "patch",
        "pod",
        name,
        "-n",
        namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ];
    stage.admin(&patch, "");
    stage.admin(&["get", "pod", name, "-n", namespace, "-o", "jsonpath={.metadata.uid}"], "")
}

fn driver(port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": DRIVER, "namespace": NAMESPACE,
            "labels": {"spark-role": "driver", "spark-app-selector": APPLICATION, "spark-app-name": "etl"},
        },
        "spec": {"containers": [{
            "name": "spark-kubernetes-driver", "image": "spark", "ports": [{"name": "spark-ui", "containerPort": port}],
        }]},
    })
}

fn executor(uid: &str, grace_s: u32, more: Value) -> Value {
    let mut container = json!({"name": "spark-kubernetes-executor", "image": "spark"});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": DRIVER, "uid": uid, "controller": true});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "etl-exec-1", "namespace": NAMESPACE, "ownerReferences": [owner],
            "labels": {"spark-role": "executor", "spark-app-selector": APPLICATION, "spark-exec-id": "1"},
        },
        "spec": {"terminationGracePeriodSeconds": grace_s, "containers": [container]},
    })
}

fn remove(stage: &Stage, kind: &str, name: &str) {
    stage.admin(&["delete", kind, name, "-n", NAMESPACE, "--grace-period=0", "--force"], "");
}

#[test]
fn a_bad_application_is_told_what_to_set_and_the_mended_one_is_well() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    stage.admin(&["create", "namespace", NAMESPACE], "");
    let rest = Rest::start();
    let port = rest.port.to_string();
    let deny = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny", "namespace": NAMESPACE},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{"ports": [{"port": 53}]}]},
    });
    stage.create(&deny);

    rest.answers("bad-3.5.9.json", "4045");
    let proxied = address();
    let uid = run(&stage, &driver(rest.port), proxied.or("127.0.0.1".parse().ok()));
    run(&stage, &executor(&uid, 30, json!({})), None);
    let output = doctor(&stage, Role::Admin, &["-n", NAMESPACE, "--output=json"]);
    let bad = report(&output);
    assert_eq!((output.status.code(), &bad["ok"]), (Some(1), &json!(false)), "{output:?}");
    assert_eq!(
        codes(&bad),
        [
            "error decommission-disabled",
            "error rest-port-differs",
            "error graphite-sink-elsewhere",
            "error metrics-namespace-differs",
            "error fleet-permissions-missing",
            "error network-blocks-heartbeats",
            "error network-blocks-heartbeats",
            "error network-blocks-rest-api",
            "error network-blocks-rest-api",
            "warning driver-name-generated",
            "warning rollcall-not-running",
            "warning storage-decommission-disabled",
            "warning decommission-fetch-failures-count",
            "warning executor-roll-plugin-on",
            "warning executor-heartbeat-interval-long",
            "warning short-termination-grace",
            "warning force-kill-before-grace",
            "warning event-permissions-missing",
        ]
    );
    let asked = rest.asked.lock().unwrap().clone();
    assert!(!asked.contains("Bearer"), "no token for the driver: {asked}");
    if proxied.is_some() {
        assert!(asked.contains("X-Forwarded-For"), "through the API server: {asked}");
    }
    println!("{}", String::from_utf8_lossy(&doctor(&stage, Role::Admin, &["-n", NAMESPACE]).stdout));

    // Everything that it said.
    stage.admin(&["apply", "-n", NAMESPACE, "-f", "-"], FLEETS);
    stage.admin(&["label", "namespace", NAMESPACE, "rollcall.dev/fleets=true"], "");
    remove(&stage, "networkpolicy", "deny");
    remove(&stage, "pod", "etl-exec-1");
    remove(&stage, "pod", DRIVER);
    rest.answers("good-4.3.0.json", &port);
    // The API server does not connect to this address; the command itself does.
    let uid = run(&stage, &driver(rest.port), "127.0.0.1".parse().ok());
    let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["/opt/decom.sh"]}}}});
    run(&stage, &executor(&uid, 120, hook), None);
    let labels = json!({"app.kubernetes.io/name": "rollcall", "app.kubernetes.io/instance": "rollcall"});
    run(
        &stage,
        &json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "doctors-daemon", "namespace": HOME, "labels": labels},
            "spec": {
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "rollcall", "image": "rollcall",
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        }),
        None,
    );

    let written = doctor(&stage, Role::Admin, &[DRIVER, "-n", NAMESPACE, "--write=fleet"]);
    assert!(written.status.success(), "{written:?}");
    let file = stage.plane.directory().join("doctor.yaml");
    std::fs::write(&file, &written.stdout).unwrap();
    let checked =
        Command::new(binary()).args(["check", "--deny-warnings", "-f"]).arg(&file).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    // The Service's policy allows port 4040 alone.
    let port_rule =
        json!([{"op": "replace", "path": "/spec/egress/0/ports/0/port", "value": rest.port}]).to_string();
    let patch = |rule: &str| {
        stage.admin(&["patch", "networkpolicy", "rollcall", "-n", HOME, "--type=json", "-p", rule], "")
    };
    patch(&port_rule);
    // RBAC takes a moment.
    let mended = loop {
        let with_file = ["-f", file.to_str().unwrap(), "--output=json"];
        let mended = doctor(&stage, Role::Admin, &with_file);
        if result(&report(&mended), "permissions") == "ok" {
            break mended;
        }
        sleep(LOOK);
    };
    assert_eq!(codes(&report(&mended)), ["warning driver-name-generated"], "{mended:?}");
    assert_eq!(mended.status.code(), Some(0));
    let report_of_mended = report(&mended);
    let ran = |ran: &&Value| ran["result"] == "not-checked";
    assert_eq!(report_of_mended["checks"].as_array().unwrap().iter().find(ran), None);

    // As Rollcall itself, which may read neither policies nor Services, and asks about its own rights.
    let own = report(&doctor(&stage, Role::Rollcall, &["-f", file.to_str().unwrap(), "--output=json"]));
    assert_eq!(result(&own, "permissions"), "ok");
    assert_eq!(result(&own, "graphite-sink"), "ok");
    for check in ["network-to-rollcall", "network-to-driver", "daemon", "warning-events"] {
        assert_eq!(result(&own, check), "not-checked");
    }
    patch(&json!([{"op": "replace", "path": "/spec/egress/0/ports/0/port", "value": 4040}]).to_string());
    stage.admin(&["delete", "pod", "doctors-daemon", "-n", HOME, "--grace-period=0", "--force"], "");
}

#[test]
fn what_cannot_be_asked_is_an_error_with_a_remedy() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let refused = |arguments: &[&str]| {
        let output = doctor(&stage, Role::Admin, arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["-n", "default"]).contains("name the driver's pod"));
    assert!(refused(&["absent", "-n", "default"]).contains("pods \"absent\" not found"));
    assert!(refused(&["--fleet", "absent", "-n", "default"]).contains("no fleet default/absent"));

    // A driver without a REST API: what it was submitted with is in Spark's ConfigMap and in its command.
    let place = json!({"name": "spark-drv-1-conf-map", "namespace": "default"});
    let properties =
        "#Java properties\nspark.ui.enabled=false\nspark.decommission.enabled=true\nspark.secret=hunter2\n";
    stage.create(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": place, "data": {"spark.properties": properties},
    }));
    let volume = json!({"name": "spark-conf-volume-driver", "configMap": {"name": "spark-drv-1-conf-map"}});
    let command =
        ["spark-submit", "--conf", "spark.plugins=org.apache.spark.scheduler.cluster.k8s.ExecutorRollPlugin"];
    stage.create(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "silent-driver", "namespace": "default"},
        "spec": {"volumes": [volume], "containers": [{"name": "driver", "image": "spark", "command": command}]},
    }));
    let output = doctor(&stage, Role::Admin, &["silent-driver", "-n", "default", "--output=json"]);
    let silent = report(&output);
    let codes = codes(&silent);
    assert_eq!((result(&silent, "decommission"), result(&silent, "rest-api")), ("ok", "found"));
    for code in ["error ui-disabled", "advice executor-roll-plugin-idle", "error no-graphite-sink"] {
        assert!(codes.iter().any(|found| found == code), "{codes:?}");
    }
    assert!(silent["limits"].to_string().contains("the application's code"), "{silent}");
    assert!(!String::from_utf8(output.stdout).unwrap().contains("hunter2"));
}
