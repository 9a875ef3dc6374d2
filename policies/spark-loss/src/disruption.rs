//! What was done to the pod from outside: by the kubelet, by controllers, by the loss of its node.

use rollcall_policy::{Evidence, LossKind, NodeState};

use crate::{Cause, Fault, pod, words};

/// The kubelet says why it ended or refused the pod.
pub(crate) fn pod_reason(e: &Evidence) -> Option<Cause> {
    let pod = e.pod.as_ref()?;
    let (kind, fault, what) = match pod.reason.as_deref()? {
        "Evicted" if pod.message.as_deref().is_some_and(over_its_own_limit) => {
            (LossKind::Disk, Fault::App, "was evicted for its own use of storage")
        }
        "Evicted" => (LossKind::Evicted, Fault::Outside, "was evicted"),
        // `activeDeadlineSeconds`, which the kubelet enforces by an eviction.
        "DeadlineExceeded" => (LossKind::Evicted, Fault::Outside, "was evicted at its deadline"),
        "Preempting" | "Preempted" => (LossKind::Preempted, Fault::Outside, "was preempted"),
        "Terminated" | "NodeShutdown" | "Shutdown" => {
            (LossKind::NodeLost, Fault::Outside, "was ended by the shutdown of its node")
        }
        "NodeLost" => (LossKind::NodeLost, Fault::Outside, "was lost with its node"),
        reason if refuses_admission(reason) => {
            (LossKind::NotAdmitted, Fault::Outside, "was not admitted by the kubelet")
        }
        _ => return None,
    };
    let message = format!("Pod {} {what}{}.", e.pod_name, words::because(&pod.reason, &pod.message));
    Some(Cause { kind, fault, message })
}

/// A controller marked the pod, and it did end.
pub(crate) fn disrupted(e: &Evidence) -> Option<Cause> {
    let marks = &e.pod.as_ref()?.conditions;
    let mark = marks.iter().find(|mark| mark.name == "DisruptionTarget" && mark.status == "True")?;
    // The mark comes before the deletion and stays for a while when that is given up.
    if !pod::is_ending(e) {
        return None;
    }
    let (kind, what) = match mark.reason.as_deref() {
        Some("PreemptionByScheduler") => (LossKind::Preempted, "was preempted"),
        Some("DeletionByTaintManager") if e.node.as_ref().is_some_and(is_fine) => {
            (LossKind::Evicted, "was evicted for a taint of its node")
        }
        Some("DeletionByTaintManager" | "DeletionByPodGC") => (LossKind::NodeLost, "was lost with its node"),
        _ => (LossKind::Evicted, "was evicted"),
    };
    let because = words::because(&mark.reason, &mark.message);
    let message = format!("Pod {} {what}{because}.{}", e.pod_name, words::exit_note(e));
    Some(Cause { kind, fault: Fault::Outside, message })
}

/// The node is gone, unreachable or shutting down.
pub(crate) fn node_lost(e: &Evidence) -> Option<Cause> {
    let node = e.node.as_ref()?;
    let trouble = trouble(node)?;
    // Of a node that was well until it went it says nothing.
    let reason = node.reason.clone().filter(|_| node.ready != "True");
    let message = format!(
        "Pod {} was lost with its node: {} {trouble}{}.{}",
        e.pod_name,
        words::quote(&node.name),
        words::because(&reason, &None),
        words::exit_note(e),
    );
    Some(Cause { kind: LossKind::NodeLost, fault: Fault::Outside, message })
}

/// The messages of the kubelet's evictions for an `emptyDir` or a container over its own limit.
/// Pressure on the node reads otherwise: "The node was low on resource: …".
fn over_its_own_limit(message: &str) -> bool {
    [
        "Usage of EmptyDir volume",
        "Pod ephemeral local storage usage exceeds",
        "exceeded its local ephemeral storage limit",
    ]
    .iter()
    .any(|text| message.contains(text))
}

/// The reasons by which kubelets refuse pods.
fn refuses_admission(reason: &str) -> bool {
    // OutOfcpu, OutOfmemory, OutOfpods, OutOfephemeral-storage, OutOfnvidia.com/gpu …
    reason.starts_with("OutOf")
        || matches!(
            reason,
            "UnexpectedAdmissionError"
                | "UnexpectedPredicateFailureType"
                | "NodeAffinity"
                | "NodeName"
                | "NodePorts"
                | "TaintToleration"
                | "TopologyAffinityError"
                | "SMTAlignmentError"
                | "InvalidNodeInfo"
                | "PodOSSelectorNodeLabelDoesNotMatch"
                | "PodOSNotSupported"
                | "InitContainerRestartPolicyForbidden"
                | "SupplementalGroupsPolicyNotSupported"
                | "SysctlForbidden"
                | "AppArmor"
        )
}

fn is_fine(node: &NodeState) -> bool {
    node.ready == "True" && trouble(node).is_none()
}

/// The taints `not-ready` and `unreachable` say nothing: they follow the condition, and outlive it for a while.
fn trouble(node: &NodeState) -> Option<&'static str> {
    let tainted = |key: &str| node.taints.iter().any(|taint| taint == key);
    if node.gone {
        Some("is gone")
    } else if tainted("node.kubernetes.io/out-of-service") {
        Some("is out of service")
    } else if tainted("node.cloudprovider.kubernetes.io/shutdown") {
        Some("is shut down")
    } else if node.ready == "Unknown" {
        Some("is unreachable")
    } else if node.ready == "False" {
        Some("is not ready")
    } else {
        None
    }
}
