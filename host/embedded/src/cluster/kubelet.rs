//! The parts of a pod's status that kubelets write.

use serde_json::{Value, json};

use crate::server::Server;
use crate::server::view::object_at;

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub code: u32,
    /// `status.containerStatuses[].state.terminated.reason`.
    pub reason: &'static str,
}

impl Exit {
    pub const DECOMMISSIONED: Exit = Exit { code: 0, reason: "Completed" };
    pub const KILLED: Exit = Exit { code: 137, reason: "Error" };
    pub const OOM_KILLED: Exit = Exit { code: 137, reason: "OOMKilled" };
    /// What containerd reports for a container that it had lost.
    pub const LOST_BY_RUNTIME: Exit = Exit { code: 255, reason: "Unknown" };

    pub fn error(code: u32) -> Exit {
        Exit { code, reason: "Error" }
    }
}

/// A pod, and the clock for its timestamps.
pub(super) struct Kubelet<'a> {
    pub server: &'a Server,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Kubelet<'_> {
    fn change(&self, change: impl FnOnce(&mut Value, &str)) {
        let time = self.server.timestamp();
        self.server.change("pods", self.namespace, self.name, |pod| change(pod, &time));
    }

    /// No node fits.
    pub fn unschedulable(&self, nodes: usize) {
        self.change(|pod, time| {
            let message = format!("0/{nodes} nodes are available: {nodes} Insufficient memory.");
            condition(pod, "PodScheduled", Some(("Unschedulable", &message)), time);
        });
    }

    /// The scheduler has bound the pod, and its containers are being created.
    pub fn bound(&self, node: &str) {
        self.change(|pod, time| {
            object_at(pod, &["spec"]).insert("nodeName".to_owned(), node.into());
            condition(pod, "PodScheduled", None, time);
            condition(pod, "Initialized", None, time);
            for name in ["Ready", "ContainersReady"] {
                condition(pod, name, Some(("ContainersNotReady", "containers with unready status")), time);
            }
            object_at(pod, &["status"]).insert("startTime".to_owned(), time.into());
            containers(pod, &json!({ "waiting": { "reason": "ContainerCreating" } }), false);
        });
    }

    pub fn image_missing(&self) {
        self.change(|pod, _| {
            let message = "Back-off pulling image";
            let state = json!({ "waiting": { "reason": "ImagePullBackOff", "message": message } });
            containers(pod, &state, false);
        });
    }

    pub fn running(&self) {
        self.change(|pod, time| {
            for name in ["Ready", "ContainersReady"] {
                condition(pod, name, None, time);
            }
            containers(pod, &json!({ "running": { "startedAt": time } }), true);
            let status = object_at(pod, &["status"]);
            status.insert("phase".to_owned(), "Running".into());
            status.insert("hostIP".to_owned(), "127.0.0.1".into());
            status.insert("podIP".to_owned(), "127.0.0.1".into());
            status.insert("podIPs".to_owned(), json!([{ "ip": "127.0.0.1" }]));
        });
    }

    /// Its containers have ended, and with them the pod. `why`: reason and message, if the kubelet ended them
    /// itself.
    pub fn ended(&self, exit: Exit, why: Option<(&str, &str)>) {
        self.change(|pod, time| {
            for name in ["Ready", "ContainersReady"] {
                condition(pod, name, Some(("PodFailed", "")), time);
            }
            let started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].clone();
            let state = json!({ "terminated": {
                "exitCode": exit.code, "reason": exit.reason, "startedAt": started, "finishedAt": time,
            } });
            containers(pod, &state, false);
            let status = object_at(pod, &["status"]);
            let phase = if exit.code == 0 { "Succeeded" } else { "Failed" };
            status.insert("phase".to_owned(), phase.into());
            if let Some((reason, message)) = why {
                status.insert("phase".to_owned(), "Failed".into());
                status.insert("reason".to_owned(), reason.into());
                status.insert("message".to_owned(), message.into());
            }
        });
    }

    /// Removes the object, unless a finalizer holds it.
    pub fn remove(&self) {
        // The only possible refusal is that the object is already gone, which does not matter.
        let _ = self.server.delete("pods", self.namespace, self.name, Some(0));
    }

    /// Sets the condition by which Kubernetes reports that it ends the pod itself.
    pub fn disrupted(&self, reason: &str, message: &str) {
        self.change(|pod, time| crate::server::eviction::disrupt(pod, reason, message, time));
    }
}

/// Sets a condition to true, or to false with a reason.
fn condition(pod: &mut Value, name: &str, not: Option<(&str, &str)>, time: &str) {
    let mut new = json!({
        "type": name, "status": if not.is_none() { "True" } else { "False" }, "lastProbeTime": null,
        "lastTransitionTime": time,
    });
    if let Some((reason, message)) = not {
        new["reason"] = reason.into();
        new["message"] = message.into();
    }
    let conditions = object_at(pod, &["status"]).entry("conditions").or_insert(Value::Null);
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|condition| condition["type"] != name);
        conditions.push(new);
    }
}

/// Sets the same state for all containers.
fn containers(pod: &mut Value, state: &Value, ready: bool) {
    let specs = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let statuses: Vec<Value> = specs
        .iter()
        .map(|spec| {
            json!({
                "name": spec["name"], "image": spec["image"], "imageID": "", "state": state, "lastState": {},
                "ready": ready, "started": ready, "restartCount": 0,
            })
        })
        .collect();
    object_at(pod, &["status"]).insert("containerStatuses".to_owned(), statuses.into());
}
