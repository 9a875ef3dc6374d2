//! `deploy/chart`: what Helm makes of it, and what the API server says to that.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::control_plane::{NAMESPACE, Role};
use super::stage::{Stage, binary};
use super::{enabled, tools};
use crate::support::root;

/// The namespace of the rendered releases, in which Pod Security admission enforces `restricted`.
const RESTRICTED: &str = "charts";

/// Helm's program, if these tests are enabled.
pub fn helm() -> Option<PathBuf> {
    enabled("Helm", "ROLLCALL_HELM", "export ROLLCALL_HELM=$(tests/tools/helm/build.sh)").map(PathBuf::from)
}

/// Runs Helm with these values on its standard input, which `--values=-` reads.
pub fn run(helm: &Path, arguments: &[&str], values: &Value) -> Result<String, String> {
    let mut child = Command::new(helm)
        .args(arguments)
        .current_dir(root().join("deploy"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended without reading: then its error output says why.
    let _ = child.stdin.take().unwrap().write_all(values.to_string().as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
}

/// The objects of a release with these values, `helm test` included.
fn render(helm: &Path, values: &Value) -> Result<Vec<Value>, String> {
    let arguments =
        ["template", "some", "chart", "--namespace", RESTRICTED, "--kube-version=1.36.0", "--values=-"];
    Ok(serde_saphyr::from_multiple(&run(helm, &arguments, values)?).unwrap())
}

/// The arguments of a pod's container.
pub fn arguments(pod: &Value) -> Vec<String> {
    let arguments = pod["spec"]["containers"][0]["args"].as_array().unwrap();
    arguments.iter().map(|argument| argument.as_str().unwrap().to_owned()).collect()
}

/// A name, values, and what is rendered because of them.
fn variants() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let everything: Value = serde_saphyr::from_str(include_str!("chart/everything.yaml")).unwrap();
    let fleet = everything["fleets"][0].clone();
    vec![
        (
            "the defaults",
            json!({}),
            &["--watch-fleets", "--lease=some-rollcall", "status.podIP", "rollcall:0.1.0"],
        ),
        (
            "everything",
            everything,
            &[
                "ServiceMonitor",
                "subjectaccessreviews",
                "tokenreviews",
                "--token-file=/etc/rollcall/token/token",
                "--policies=/etc/rollcall/policies",
                "rollcall@sha256:00",
                r#""matchLabels":{"mine":"yes"}"#,
            ],
        ),
        (
            "documents alone, one replica that leads without a Lease, and no nodes",
            json!({"watchFleets": false, "fleets": [fleet], "leaderElection": {"enabled": false}, "replicas": 1,
                   "watchNodes": false}),
            &["--file=/etc/rollcall/fleets", "--no-leader-election", "--no-nodes", r#""type":"Recreate""#],
        ),
        (
            "one namespace",
            json!({"fleetNamespaces": [NAMESPACE]}),
            &["pods/eviction", r#""values":["spark"]"#],
        ),
        (
            "policies of a claim",
            json!({"policies": {"existingClaim": "policies"}}),
            &[r#""persistentVolumeClaim":{"claimName":"policies","readOnly":true}"#],
        ),
        (
            "policies of an image",
            json!({"policies": {"image": "registry.example/policies:1"}}),
            &[r#""image":{"reference":"registry.example/policies:1"}"#],
        ),
        (
            "what others made",
            json!({"serviceAccount": {"create": false, "name": "theirs"}, "rbac": {"create": false},
                   "admissionPolicies": {"enabled": false}, "networkPolicy": {"enabled": false},
                   "podDisruptionBudget": {"enabled": false}, "strategy": {"type": "Recreate"}}),
            &[r#""serviceAccountName":"theirs""#, r#""strategy":{"type":"Recreate"}"#],
        ),
    ]
}

#[test]
fn the_manifests_are_those_of_the_chart() {
    let Some(helm) = helm() else { return };
    let folder = std::env::temp_dir().join(format!("rollcall-manifests-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let render = root().join("deploy/render.sh");
    let output = Command::new(render).arg(&folder).env("HELM", &helm).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for file in ["rollcall.yaml", "fleets.yaml"] {
        let [rendered, committed] =
            [&folder, &root().join("deploy")].map(|folder| fs::read_to_string(folder.join(file)).unwrap());
        assert!(
            rendered == committed,
            "deploy/{file} differs from the chart: run HELM={} deploy/render.sh",
            helm.display()
        );
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn lint_finds_nothing() {
    let Some(helm) = helm() else { return };
    for (name, values, _) in variants() {
        let lint = ["lint", "--strict", "--quiet", "chart", "--values=-"];
        run(&helm, &lint, &values).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn what_is_wrong_is_named() {
    let Some(helm) = helm() else { return };
    let fleet = |kind: &str| json!([{"apiVersion": "rollcall.dev/v1alpha1", "kind": kind, "metadata": {"name": "a"}, "spec": {}}]);
    for (values, said) in [
        (json!({"replica": 2}), "additional properties 'replica' not allowed"),
        (json!({"image": {"repo": "a"}}), "at '/image': additional properties 'repo' not allowed"),
        (json!({"replicas": "two"}), "at '/replicas': got string, want integer"),
        (json!({"watchFleets": "yes"}), "at '/watchFleets': got string, want boolean"),
        (json!({"fleetNamespaces": ["Spark"]}), "at '/fleetNamespaces/0': 'Spark' does not match pattern"),
        (json!({"fleetNamespaces": "spark"}), "at '/fleetNamespaces': got string, want array"),
        (
            json!({"fleets": fleet("Deployment")}),
            "at '/fleets/0/kind': value must be one of 'ExecutorFleet', 'ExecutorFleetClass'",
        ),
        (json!({"fleets": fleet("ExecutorFleet")}), "at '/fleets/0/metadata': missing property 'namespace'"),
        (json!({"image": {"digest": "latest"}}), "at '/image/digest': 'latest' does not match pattern"),
        (json!({"log": {"format": "xml"}}), "at '/log/format': value must be one of 'json', 'text'"),
        (json!({"networkPolicy": {"driverPorts": [0]}}), "at '/networkPolicy/driverPorts/0': minimum"),
        (json!({"podLabels": {"a": 1}}), "at '/podLabels/a': got number, want string"),
        (json!({"watchFleets": false}), "there are no fleets: set watchFleets=true"),
        (
            json!({"leaderElection": {"enabled": false}}),
            "without leader election all replicas would lead: set replicas=1",
        ),
        (json!({"policies": {"configMap": "a", "image": "b"}}), "policies come from one place"),
    ] {
        let refused = render(&helm, &values).expect_err(&values.to_string());
        assert!(refused.contains(said), "{values}: {refused}");
    }
}

/// The pods that a rendered object describes.
fn pod(object: &Value) -> Option<Value> {
    let (metadata, spec) = match object["kind"].as_str()? {
        "Deployment" => (&object["spec"]["template"]["metadata"], &object["spec"]["template"]["spec"]),
        "Pod" => (&object["metadata"], &object["spec"]),
        _ => return None,
    };
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    pod["metadata"]["name"] = "pod".into();
    pod["metadata"]["namespace"] = RESTRICTED.into();
    Some(pod)
}

#[test]
fn the_api_server_accepts_every_variant() {
    let (Some(tools), Some(helm)) = (tools(), helm()) else { return };
    let stage = Stage::shared(&tools);
    stage.admin(&["create", "namespace", RESTRICTED], "");
    stage.admin(&["label", "namespace", RESTRICTED, "pod-security.kubernetes.io/enforce=restricted"], "");
    stage.create(&service_monitors());
    stage.admin(&["wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com"], "");
    let dry_run = |object: &Value| {
        let create = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        stage.plane.kubectl(Role::Admin, &create, &object.to_string())
    };
    for example in ["own", "observe"] {
        let document = fs::read_to_string(root().join(format!("examples/{example}.yaml"))).unwrap();
        stage.admin(&["create", "--dry-run=server", "--validate=strict", "-f", "-"], &document);
    }
    for (name, values, expected) in variants() {
        let objects = render(&helm, &values).unwrap_or_else(|why| panic!("{name}: {why}"));
        let text = json!(objects).to_string();
        for part in expected {
            assert!(text.contains(part), "{name}: {part} is not rendered");
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let accepted = dry_run(&list).unwrap_or_else(|why| panic!("{name}: {why}"));
        let pods: Vec<Value> = objects.iter().filter_map(pod).collect();
        assert_eq!(pods.len(), 2, "{name}: that of the Deployment, and that of the test");
        for mut pod in pods {
            dry_run(&pod).unwrap_or_else(|why| panic!("{name}: {why}"));
            the_daemon_takes(name, arguments(&pod));
            pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
            let refused = dry_run(&pod).expect_err("the namespace is restricted");
            assert!(refused.contains("violates PodSecurity \"restricted:latest\""), "{refused}");
        }
        println!("{name}: {} objects accepted", accepted.lines().count());
        if let Some(documents) = objects.iter().find(|object| object["kind"] == "ConfigMap") {
            the_daemon_reads(name, documents);
        }
    }
}

/// The binary knows these arguments.
fn the_daemon_takes(name: &str, arguments: Vec<String>) {
    let help = Command::new(binary()).args(arguments).arg("--help").output().unwrap();
    assert!(help.status.success(), "{name}: {}", String::from_utf8_lossy(&help.stderr));
}

/// The documents in a ConfigMap are valid.
fn the_daemon_reads(name: &str, documents: &Value) {
    let path = std::env::temp_dir().join(format!("rollcall-fleets-{}.yaml", std::process::id()));
    fs::write(&path, documents["data"]["fleets.yaml"].as_str().unwrap()).unwrap();
    let check = Command::new(binary()).arg("check").arg("-f").arg(&path).output().unwrap();
    fs::remove_file(&path).unwrap();
    assert!(check.status.success(), "{name}: {}", String::from_utf8_lossy(&check.stderr));
}

/// The fields of the Prometheus operator's definition that the chart sets.
fn service_monitors() -> Value {
    let text = json!({"type": "string"});
    let labels = json!({"type": "object", "additionalProperties": text});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "servicemonitors.monitoring.coreos.com", "annotations": {
            "api-approved.kubernetes.io": "unapproved"}},
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {
                    "selector": {"type": "object", "properties": {"matchLabels": labels}},
                    "endpoints": {"type": "array", "items": {"type": "object", "properties": {
                        "port": text, "path": text, "interval": text, "scrapeTimeout": text}}},
                }}},
            }}}],
        },
    })
}
