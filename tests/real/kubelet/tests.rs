//! The process kubelet behaves like a kubelet, as far as Spark's executors can tell.

use super::super::control_plane::{ControlPlane, NAMESPACE, Role};
use super::super::tools;
use super::*;

struct Node {
    kubelet: Kubelet,
    plane: ControlPlane,
}

impl Node {
    /// Creates a pod with this script, and with a finalizer, so that its last status can still be read.
    fn run(&self, name: &str, script: &str, hook: Option<&str>, grace_s: u64) {
        let mut container = json!({"name": "main", "image": "test", "command": ["sh", "-c", script], "env": [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "SCRATCH", "value": "/scratch/inside"},
        ], "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]});
        if let Some(hook) = hook {
            container["lifecycle"] = json!({"preStop": {"exec": {"command": ["sh", "-c", hook]}}});
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "finalizers": ["rollcall.test/read"]},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": grace_s, "containers": [container],
                "volumes": [{"name": "scratch", "emptyDir": {}}]}});
        self.plane.kubectl(Role::Admin, &["create", "-f", "-"], &pod.to_string()).unwrap();
    }

    fn delete(&self, name: &str) {
        self.plane.kubectl(Role::Admin, &["delete", "pod", "--wait=false", name], "").unwrap();
    }

    fn pod(&self, name: &str) -> Value {
        serde_json::from_str(
            &self.plane.kubectl(Role::Admin, &["get", "pod", name, "-o", "json"], "").unwrap(),
        )
        .unwrap()
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.kubelet.folder(name).join("log")).unwrap_or_default()
    }

    /// Waits for the phase, and returns the container's state.
    fn until(&self, name: &str, phase: &str) -> Value {
        let begun = std::time::Instant::now();
        loop {
            let pod = self.pod(name);
            if pod["status"]["phase"] == phase {
                return pod["status"]["containerStatuses"][0]["state"].clone();
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{name} is not {phase}: {pod:#}\n{}",
                self.log(name)
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the kubelet has released a deleted pod: only the finalizer holds it.
    fn removed(&self, name: &str) {
        let begun = std::time::Instant::now();
        while self.pod(name)["metadata"]["deletionGracePeriodSeconds"] != 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{name}: {:#}", self.pod(name));
            thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_pod_lives_and_ends_as_on_a_node() {
    let Some(tools) = tools() else { return };
    let plane = ControlPlane::start(&tools).unwrap();
    let image = Image {
        folder: plane.directory().join("image"),
        env: vec![("PATH".to_owned(), std::env::var("PATH").unwrap())],
    };
    let folder = plane.directory().join("pods");
    let kubelet = Kubelet::start(&plane.kubeconfig(Role::Kubelet), NAMESPACE, &folder, image).unwrap();
    let node = Node { kubelet, plane };

    node.run("well", "echo $NAME at $ADDRESS; mkdir $SCRATCH && echo written", None, 30);
    let state = node.until("well", "Succeeded");
    assert_eq!(
        (&state["terminated"]["exitCode"], &state["terminated"]["reason"]),
        (&json!(0), &json!("Completed"))
    );
    let pod = node.pod("well");
    let address = pod["status"]["podIP"].as_str().unwrap();
    assert_eq!(node.log("well"), format!("well at {address}\nwritten\n"));
    assert_eq!(pod["spec"]["nodeName"], NODE);
    assert!(pod["metadata"]["deletionTimestamp"].is_null(), "an ended pod exists until it is deleted");
    node.delete("well");
    node.removed("well");

    node.run("failing", "exit 7", None, 30);
    assert_eq!(node.until("failing", "Failed")["terminated"]["exitCode"], 7);

    node.run("killed", "exec sleep 1000", None, 30);
    node.until("killed", "Running");
    node.kubelet.signal("killed", "KILL").unwrap();
    assert_eq!(node.until("killed", "Failed")["terminated"]["exitCode"], 137);

    // First the hook, then SIGTERM.
    let script = "trap 'echo terminated; exit 3' TERM; while :; do sleep 0.1; done";
    node.run("polite", script, Some("echo hooked >> log; test $CONTAINER_PID -gt 1"), 30);
    node.until("polite", "Running");
    node.delete("polite");
    assert_eq!(node.until("polite", "Failed")["terminated"]["exitCode"], 3);
    node.removed("polite");
    assert_eq!(node.log("polite"), "hooked\nterminated\n");

    // The hook's time is part of the grace period; a process that ignores SIGTERM is killed when it ends.
    node.run("deaf", "trap '' TERM; while :; do sleep 0.1; done", Some("sleep 1000"), 3);
    node.until("deaf", "Running");
    let begun = std::time::Instant::now();
    node.delete("deaf");
    assert_eq!(node.until("deaf", "Failed")["terminated"]["exitCode"], 137);
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(5) && took < Duration::from_secs(20),
        "3 s, and the least of 2: {took:?}"
    );

    node.kubelet.hold_next("ErrImagePull");
    node.run("held", "true", None, 30);
    let begun = std::time::Instant::now();
    while node.pod("held")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] != "ErrImagePull" {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:#}", node.pod("held"));
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(node.pod("held")["status"]["phase"], "Pending");
    node.delete("held");
    node.removed("held");
}
