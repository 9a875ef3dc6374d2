//! What was done to the pod from outside: by the kubelet, by controllers, by the loss of its node.

use rollcall_policy::{Container, ContainerRole, ContainerState, DepartureKind, LossKind, NodeState};

use crate::exit::Exit;
use crate::facts::Facts;
use crate::{Cause, Fault, text};

/// The kubelet says why it ended or refused the pod, or the driver says that it did.
pub(crate) fn pod_reason(f: &Facts) -> Option<Cause> {
    let (kind, fault, what) = match f.reason? {
        "Evicted" if f.message.is_some_and(over_its_own_limit) => own_storage(f, f.message),
        "Evicted" => (LossKind::Evicted, Fault::Outside, "was evicted"),
        // `activeDeadlineSeconds`, which the kubelet enforces by an eviction.
        "DeadlineExceeded" => (LossKind::Evicted, Fault::Outside, "was evicted at its deadline"),
        "Preempting" | "Preempted" => (LossKind::Preempted, Fault::Outside, "was preempted"),
        "Terminated" | "NodeShutdown" | "Shutdown" => {
            (LossKind::NodeLost, Fault::Outside, "was ended by the shutdown of its node")
        }
        "NodeLost" => (LossKind::NodeLost, Fault::Outside, "was lost with its node"),
        reason if refuses_admission(reason) || nothing_ran(f) => {
            (LossKind::NotAdmitted, Fault::Outside, "was not admitted by the kubelet")
        }
        _ => return None,
    };
    let message = format!("Pod {} {what}{}.", f.e.pod_name, text::because(f.reason, f.message));
    Some(Cause { kind, fault, message })
}

/// The pod failed for a reason that only a later Kubernetes knows, and nothing else says why.
pub(crate) fn failed_for(f: &Facts) -> Option<Cause> {
    if !f.phase_is("Failed") || f.was_given_up() {
        return None;
    }
    let because = text::because(Some(f.reason?), f.message);
    let started = f.containers().any(|container| {
        container.role == ContainerRole::Executor && !matches!(container.state, ContainerState::Waiting(_))
    });
    let (kind, what) = match started || f.e.ever_registered {
        true => (LossKind::Unknown, "failed"),
        false => (LossKind::StartFailed, "failed before its executor was started"),
    };
    let message = format!("Pod {} {what}{because}.", f.e.pod_name);
    Some(Cause { kind, fault: Fault::Outside, message })
}

/// A controller marked the pod, and it did end.
pub(crate) fn disrupted(f: &Facts) -> Option<Cause> {
    // The mark comes before the deletion and stays for a while when that is given up.
    let mark = f.mark.filter(|_| f.is_ending())?;
    let (reason, words) = (mark.reason.as_deref(), mark.message.as_deref());
    let says = |text: &str| {
        [reason, words].into_iter().flatten().any(|said| said.to_ascii_lowercase().contains(text))
    };
    let mut fault = Fault::Outside;
    let (kind, what) = match reason {
        // The kubelet writes why into `status.reason` too, unless its node goes before it can.
        Some("TerminationByKubelet") if says("node shutdown") => {
            (LossKind::NodeLost, "was ended by the shutdown of its node")
        }
        Some("TerminationByKubelet") if words.is_some_and(over_its_own_limit) => {
            let (kind, whose, what) = own_storage(f, words);
            fault = whose;
            (kind, what)
        }
        Some("PreemptionByScheduler") => (LossKind::Preempted, "was preempted"),
        Some("DeletionByTaintManager") if f.e.node.as_ref().is_some_and(is_fine) => {
            (LossKind::Evicted, "was evicted for a taint of its node")
        }
        Some("DeletionByTaintManager" | "DeletionByPodGC") => (LossKind::NodeLost, "was lost with its node"),
        // Kueue's are WorkloadEvictedDueTo…, and StoppedByKueue with a message before 0.9.
        Some(reason) if reason.ends_with("DueToNodeFailures") => {
            (LossKind::NodeLost, "was lost with a node of its workload")
        }
        _ if says("preempt") => (LossKind::Preempted, "was preempted"),
        _ => (LossKind::Evicted, "was evicted"),
    };
    let message = format!("Pod {} {what}{}.", f.e.pod_name, text::because(reason, words));
    Some(Cause { kind, fault, message })
}

/// Evicted for going over a limit of its own: a sidecar's is not the application's doing.
fn own_storage(f: &Facts, message: Option<&str>) -> (LossKind, Fault, &'static str) {
    let names = |container: &Container| {
        message.is_some_and(|message| message.contains(&format!("ontainer {} exceeded", container.name)))
    };
    if f.containers().any(|container| container.role != ContainerRole::Executor && names(container)) {
        return (LossKind::Disk, Fault::Setup, "was evicted for a sidecar's use of storage");
    }
    (LossKind::Disk, Fault::App, "was evicted for its own use of storage")
}

/// The node is gone, unreachable or shutting down.
pub(crate) fn node_lost(f: &Facts) -> Option<Cause> {
    let node = f.e.node.as_ref()?;
    let trouble = trouble(node)?;
    // Of a node that was well until it went it says nothing.
    let reason = node.reason.as_deref().filter(|_| node.ready != "True");
    let message = format!(
        "Pod {} was lost with its node: {} {trouble}{}.",
        f.e.pod_name,
        text::quote(&node.name),
        text::because(reason, None),
    );
    Some(Cause { kind: LossKind::NodeLost, fault: Fault::Outside, message })
}

/// It was announced that the node would go, and the pod was killed or deleted, which is how that begins.
pub(crate) fn departed(f: &Facts) -> Option<Cause> {
    let killed = f.exit.as_ref().is_some_and(Exit::is_killed) || init_killed(f);
    // By dynamic allocation. "Deleted by a user or the framework" is what Spark says of every deleted pod.
    let released = f.driver_says(&["killed by driver"]);
    if !(killed || f.is_deleted()) || released || f.was_given_up() {
        return None;
    }
    departure(f)
}

/// It fell silent on a node of which was announced that it would go.
pub(crate) fn departed_silently(f: &Facts) -> Option<Cause> {
    departure(f)
}

fn departure(f: &Facts) -> Option<Cause> {
    let departure = f.departure?;
    let (kind, what, why) = match departure.kind {
        DepartureKind::Reclaimed => (LossKind::NodeLost, "was lost with its node", "taken away"),
        DepartureKind::Drained => (LossKind::Evicted, "was evicted", "drained"),
        DepartureKind::Cordoned => return None,
    };
    let node = f.e.node.as_ref().map(|node| text::quote(&node.name)).unwrap_or_default();
    let message = format!(
        "Pod {} {what}: {node} was announced to be {why} ({}).",
        f.e.pod_name,
        text::quote(&departure.sign)
    );
    Some(Cause { kind, fault: Fault::Outside, message })
}

/// The messages of the kubelet's evictions for an `emptyDir` or a container over its own limit.
/// Pressure on the node reads otherwise: "The node was low on resource: …".
fn over_its_own_limit(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "usage of emptydir volume",
        "pod ephemeral local storage usage exceeds",
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
                | "VolumeAttachmentLimitExceeded"
                | "SysctlForbidden"
                | "AppArmor"
        )
}

/// A pod that fails before any of its containers ran was refused, for whichever reason.
fn nothing_ran(f: &Facts) -> bool {
    let ran = f.containers().any(|container| {
        !matches!(container.state, ContainerState::Waiting(_)) || container.last_terminated.is_some()
    });
    let failed = f.phase_is("Failed") || f.told.as_ref().is_some_and(|told| told.nothing_ran());
    failed && !ran && f.exit.is_none()
}

fn init_killed(f: &Facts) -> bool {
    f.containers().any(|container| match &container.state {
        ContainerState::Terminated(end) => {
            container.role == ContainerRole::Init && Exit::of(end, None, false).is_killed()
        }
        ContainerState::Waiting(_) | ContainerState::Running(_) => false,
    }) && f.phase_is("Failed")
}

fn is_fine(node: &NodeState) -> bool {
    let reclaimed = node.departures.iter().any(|departure| departure.kind == DepartureKind::Reclaimed);
    node.ready == "True" && trouble(node).is_none() && !reclaimed
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
