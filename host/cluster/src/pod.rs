//! The fields of `v1.Pod` that the core uses.
//!
//! A pod is mapped at once and dropped: 10,000 raw pods are hundreds of megabytes. Any client with write access
//! to pods can set labels and messages, so ids are parsed strictly and texts are truncated.

use std::net::IpAddr;

use fleet::event::{Phase, PodView};
use fleet::id::{ExecutorId, Uid};
use fleet::observed::DriverPod;
use fleet::question::{Condition, Container, ContainerRole, ContainerState, Pod as Status, Terminated};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::container::{self, Found};

pub const APP: &str = "spark-app-selector";
pub const ROLE: &str = "spark-role";
pub const EXECUTOR_ID: &str = "spark-exec-id";
pub const PROFILE_ID: &str = "spark-exec-resourceprofile-id";
pub const APP_NAME: &str = "spark-app-name";
pub const SPARK_VERSION: &str = "spark-version";
/// Label with which Spark's driver marks executors that it no longer tracks.
pub const INACTIVE: &str = "spark-exec-inactive";
pub const DO_NOT_ROLL: &str = "rollcall.dev/do-not-roll";
/// Selector of the watch on a fleet's pods.
pub const SELECTOR: &str = "spark-role in (driver,executor)";

/// Selector of drivers' pods.
pub const DRIVERS: &str = "spark-role=driver";

/// Maximum length of a text in a status; a policy needs no more.
const TEXT_MAX: usize = 1_024;
/// Further containers and conditions of a pod are dropped.
const PARTS_MAX: usize = 32;

/// An executor's pod of any application.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Label `spark-app-selector`.
    pub application_id: Box<str>,
    pub view: PodView,
    /// `status.podIP`: the source address of its heartbeats.
    pub address: Option<IpAddr>,
    /// How its executor's container was found.
    pub container: Found,
}

impl Seen {
    /// Treats the container with this name as the executor's, unless that one was identified by its process.
    pub fn name_executor(&mut self, name: &str) {
        let containers = &mut self.view.status.containers;
        let one = |container: &Container| container.role != ContainerRole::Init && container.name == name;
        if self.container == Found::ByProcess || !containers.iter().any(one) {
            return;
        }
        for container in containers.iter_mut().filter(|container| container.role != ContainerRole::Init) {
            let is = container.name == name;
            container.role = if is { ContainerRole::Executor } else { ContainerRole::Sidecar };
        }
        self.container = Found::ByName;
    }
}

/// The role of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    Executor(Box<Seen>),
    Driver(DriverPod),
    /// Not an executor: a label is missing or the executor id is invalid.
    Other,
}

pub fn role(pod: &k8s::Pod) -> Role {
    match pod.labels().get(ROLE).map(String::as_str) {
        Some("driver") => driver(pod).map_or(Role::Other, Role::Driver),
        Some(_) | None => executor(pod, None).map_or(Role::Other, |seen| Role::Executor(Box::new(seen))),
    }
}

pub fn driver(pod: &k8s::Pod) -> Option<DriverPod> {
    let ended = matches!(phase(pod), Phase::Succeeded | Phase::Failed);
    let ends = container::driver_ends(pod);
    let never = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("Never");
    let label = |name: &str| pod.labels().get(name).map(|value| Box::from(value.as_str()));
    Some(DriverPod {
        name: pod.metadata.name.as_deref()?.into(),
        uid: Uid::from(pod.metadata.uid.as_deref()?),
        application_id: label(APP),
        app_name: label(APP_NAME),
        spark_version: label(SPARK_VERSION),
        created_at_ms: ms(pod.metadata.creation_timestamp.as_ref()),
        revision: revision(pod.metadata.resource_version.as_deref()),
        // If the container is not restarted, its end is the pod's end, also beside a sidecar that keeps
        // running.
        live: !(ended || never && ends > 0 || pod.metadata.deletion_timestamp.is_some()),
        ends,
        address: address(pod),
    })
}

/// An executor's pod, even if it has lost a label; `None` if the executor id is unknown. `named`: the fleet's
/// setting for the executor's container.
pub fn executor(pod: &k8s::Pod, named: Option<&str>) -> Option<Seen> {
    let labels = pod.labels();
    let executor = executor_id(labels.get(EXECUTOR_ID)?)?;
    Some(Seen {
        application_id: labels.get(APP).map(String::as_str).unwrap_or_default().into(),
        view: view(pod, executor, named)?,
        address: address(pod),
        container: container::executor(pod, named).map_or(Found::ByName, |(_, found)| found),
    })
}

/// The pod of an executor whose id is known from the request: a create or a GET by name.
pub fn view(pod: &k8s::Pod, executor: ExecutorId, named: Option<&str>) -> Option<PodView> {
    let meta = &pod.metadata;
    let labels = pod.labels();
    let labelled = labels.get(EXECUTOR_ID).and_then(|id| executor_id(id)) == Some(executor);
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let status = pod.status.as_ref();
    Some(PodView {
        executor,
        name: meta.name.as_deref()?.into(),
        uid: Uid::from(meta.uid.as_deref()?),
        revision: revision(meta.resource_version.as_deref()),
        owner: owner.map(|owner| Uid::from(owner.uid.as_str())),
        selected: labelled
            && labels.contains_key(APP)
            && labels.get(ROLE).is_some_and(|role| role == "executor"),
        phase: phase(pod),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(Box::from),
        do_not_roll: pod.annotations().get(DO_NOT_ROLL).is_some_and(|value| value == "true"),
        status: Box::new(Status {
            phase: status.and_then(|status| status.phase.clone()).unwrap_or_default(),
            reason: text(status.and_then(|status| status.reason.as_ref())),
            message: text(status.and_then(|status| status.message.as_ref())),
            gone: false,
            created_at_ms: ms(meta.creation_timestamp.as_ref()),
            deletion_at_ms: ms(meta.deletion_timestamp.as_ref()),
            deletion_grace_ms: meta
                .deletion_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map(|seconds| seconds.saturating_mul(1_000)),
            conditions: conditions(status),
            containers: containers(pod, named),
            // The core gets the name from `node`.
            node_name: None,
            scheduling_gates: gates(pod),
        }),
    })
}

/// Conditions that explain an end, and unknown ones. `Ready` and similar ones change often and explain nothing.
fn conditions(status: Option<&k8s::PodStatus>) -> Vec<Condition> {
    let all = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let telling = all.filter(|condition| match &*condition.type_ {
        "Ready" | "ContainersReady" | "Initialized" | "PodReadyToStartContainers" => false,
        "PodScheduled" => condition.status != "True",
        _ => true,
    });
    let mapped = telling.take(PARTS_MAX).map(|condition| Condition {
        name: condition.type_.clone(),
        status: condition.status.clone(),
        reason: text(condition.reason.as_ref()),
        message: text(condition.message.as_ref()),
    });
    mapped.collect()
}

fn containers(pod: &k8s::Pod, named: Option<&str>) -> Vec<Container> {
    let Some(status) = &pod.status else { return Vec::new() };
    let executor = container::executor(pod, named).map_or(container::EXECUTOR_CONTAINER, |(name, _)| name);
    let role = |name: &str| if name == executor { ContainerRole::Executor } else { ContainerRole::Sidecar };
    let main = status.container_statuses.iter().flatten().map(|one| (role(&one.name), one));
    let init = status.init_container_statuses.iter().flatten().map(|one| (ContainerRole::Init, one));
    let mapped = main.chain(init).take(PARTS_MAX).map(|(role, one)| Container {
        name: one.name.clone(),
        role,
        state: state(one.state.as_ref()),
        last_terminated: one
            .last_state
            .as_ref()
            .and_then(|last| last.terminated.as_ref())
            .map(|ended| Box::new(terminated(ended))),
        restart_count: u32::try_from(one.restart_count).unwrap_or_default(),
    });
    mapped.collect()
}

fn gates(pod: &k8s::Pod) -> Vec<String> {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref()).into_iter().flatten();
    gates.take(PARTS_MAX).map(|gate| gate.name.clone()).collect()
}

fn state(state: Option<&k8s::ContainerState>) -> ContainerState {
    let Some(state) = state else { return ContainerState::Waiting { reason: None, message: None } };
    if let Some(ended) = &state.terminated {
        ContainerState::Terminated(terminated(ended))
    } else if let Some(running) = &state.running {
        ContainerState::Running { started_at_ms: ms(running.started_at.as_ref()) }
    } else {
        let waiting = state.waiting.as_ref();
        ContainerState::Waiting {
            reason: text(waiting.and_then(|waiting| waiting.reason.as_ref())),
            message: text(waiting.and_then(|waiting| waiting.message.as_ref())),
        }
    }
}

fn terminated(ended: &k8s::ContainerStateTerminated) -> Terminated {
    Terminated {
        exit_code: ended.exit_code,
        signal: ended.signal,
        reason: text(ended.reason.as_ref()),
        message: text(ended.message.as_ref()),
        started_at_ms: ms(ended.started_at.as_ref()),
        finished_at_ms: ms(ended.finished_at.as_ref()),
    }
}

/// Spark's ids are canonical decimal numbers of 31 bits.
pub fn executor_id(text: &str) -> Option<ExecutorId> {
    let canonical = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = ExecutorId(text.parse().ok().filter(|_| canonical)?);
    (id <= ExecutorId::MAX).then_some(id)
}

/// Kubernetes allows versions of one resource to be compared as integers (KEP-5504). A version that is not an
/// integer sorts first, so that it is never newer than a known one.
pub fn revision(version: Option<&str>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

fn phase(pod: &k8s::Pod) -> Phase {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        Some("Unknown") => Phase::Unknown,
        Some(_) | None => Phase::Pending,
    }
}

fn address(pod: &k8s::Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

fn text(text: Option<&String>) -> Option<String> {
    text.map(|text| text.chars().take(TEXT_MAX).collect())
}

pub(crate) fn ms(time: Option<&Time>) -> Option<i64> {
    time.map(|Time(time)| Timestamp::as_millisecond(*time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_in_one_spelling() {
        assert_eq!(executor_id("7"), Some(ExecutorId(7)));
        assert_eq!(executor_id("2147483647"), Some(ExecutorId::MAX));
        for wrong in
            ["", "0", "07", "+7", "-7", " 7", "7 ", "2147483648", "99999999999999999999", "EXECID", "٧"]
        {
            assert_eq!(executor_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_pod_becomes_a_view() {
        let pod: k8s::Pod = serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "f-exec-3", "uid": "u3", "resourceVersion": "41",
                "labels": {"spark-app-selector": "spark-1", "spark-role": "executor", "spark-exec-id": "3"},
                "annotations": {"rollcall.dev/do-not-roll": "true"},
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "no", "controller": false},
                    {"apiVersion": "v1", "kind": "Pod", "name": "d", "uid": "driver", "controller": true}
                ]
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "proxy"}, {"name": "spark-kubernetes-executor"}]},
            "status": {
                "phase": "Failed", "podIP": "10.0.0.7", "reason": "Evicted",
                "conditions": [
                    {"type": "Ready", "status": "False"},
                    {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
                ],
                "containerStatuses": [
                    {"name": "proxy", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
                    {"name": "spark-kubernetes-executor", "image": "", "imageID": "", "ready": false, "restartCount": 2,
                     "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
                ]
            }
        })).unwrap();
        let Role::Executor(seen) = role(&pod) else { panic!("an executor") };
        assert_eq!(&*seen.application_id, "spark-1");
        assert_eq!(seen.address, Some([10, 0, 0, 7].into()));
        let view = seen.view;
        assert_eq!((view.executor, view.revision, view.phase), (ExecutorId(3), 41, Phase::Failed));
        assert_eq!(view.owner, Some("driver".into()));
        assert!(view.selected && view.do_not_roll && view.disrupted());
        assert_eq!(view.status.conditions.len(), 1, "Ready says nothing");
        let [proxy, executor] = &view.status.containers[..] else { panic!("two") };
        assert_eq!(proxy.role, ContainerRole::Sidecar);
        assert_eq!((executor.role, executor.restart_count), (ContainerRole::Executor, 2));
        let ContainerState::Terminated(ended) = &executor.state else { panic!("ended") };
        assert_eq!((ended.exit_code, ended.reason.as_deref()), (137, Some("OOMKilled")));
        assert_eq!(view.status.created_at_ms, Some(1_767_323_045_000));
    }
}
