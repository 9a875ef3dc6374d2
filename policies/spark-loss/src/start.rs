//! What keeps an executor from starting. Replacing the pod does not heal it.

use rollcall_policy::{Condition, Container, ContainerRole, ContainerState, LossKind, Terminated};

use crate::exit::Exit;
use crate::facts::Facts;
use crate::{Cause, Fault, phrases, text};

/// A container cannot start: its image, its configuration, the runtime, an init container before it.
pub(crate) fn stuck(f: &Facts) -> Option<Cause> {
    waiting(f).or_else(|| init_failed(f))
}

/// It waited for too long, and no container says that it cannot start: who waits for what, and where.
pub(crate) fn pending(f: &Facts) -> Cause {
    let Some(pod) = &f.e.pod else {
        let message = format!("Pod {} was pending for too long, and has never been seen.", f.e.pod_name);
        return Cause { kind: LossKind::Released, fault: Fault::Outside, message };
    };
    let node = pod.node_name.as_deref().or(f.e.node.as_ref().map(|node| &*node.name));
    let mut message = match node {
        Some(node) => format!("Pod {} was pending for too long on node {}", f.e.pod_name, text::quote(node)),
        None => format!("Pod {} was pending for too long", f.e.pod_name),
    };
    let because = pod.conditions.iter().filter(|condition| holds_up(condition));
    let because = because.map(|c| text::because(c.reason.as_deref(), c.message.as_deref()));
    message.extend(because);
    let mut parts = Vec::new();
    if !pod.scheduling_gates.is_empty() {
        let gates: Vec<String> = pod.scheduling_gates.iter().map(|gate| text::quote(gate)).collect();
        parts.push(format!("scheduling gates hold it: {}", gates.join(", ")));
    }
    parts.extend(pod.containers.iter().enumerate().filter_map(|(at, container)| match &container.state {
        ContainerState::Waiting(waiting) => {
            let because = text::because(waiting.reason.as_deref(), waiting.message.as_deref());
            Some(format!("{} waits{because}", text::name(container)))
        }
        ContainerState::Running(since) if container.role == ContainerRole::Init && !is_passed(f, at) => {
            let how_long = running_for(f, *since);
            Some(format!("{} has been running{how_long}", text::name(container)))
        }
        ContainerState::Running(since) if container.role == ContainerRole::Executor => {
            let how_long = running_for(f, *since);
            Some(format!("{} has been running{how_long} and has not registered", text::name(container)))
        }
        ContainerState::Running(_) | ContainerState::Terminated(_) => None,
    }));
    if !parts.is_empty() {
        message += ": ";
        message += &parts.join("; ");
    }
    message.push('.');
    Cause { kind: LossKind::Released, fault: Fault::Outside, message }
}

fn running_for(f: &Facts, since: Option<i64>) -> String {
    let seconds = since.map(|ms| f.e.now_ms.saturating_sub(ms).max(0) / 1000);
    seconds.map(|seconds| format!(" for {seconds} s")).unwrap_or_default()
}

/// Not the conditions that only sum up the containers.
fn holds_up(condition: &Condition) -> bool {
    condition.status == "False" && !matches!(&*condition.name, "Ready" | "ContainersReady" | "Initialized")
}

/// The reasons are those of `pkg/kubelet/images` and `pkg/kubelet/kuberuntime`.
fn waiting(f: &Facts) -> Option<Cause> {
    // A sidecar may wait for its image while the executor runs.
    let holds_up = |container: &&Container| container.role != ContainerRole::Sidecar || !f.e.ever_registered;
    f.containers().filter(holds_up).find_map(|container| {
        let ContainerState::Waiting(waiting) = &container.state else { return None };
        let (kind, what) = match waiting.reason.as_deref()? {
            "ImagePullBackOff"
            | "ErrImagePull"
            | "ErrImageNeverPull"
            | "InvalidImageName"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed" => (LossKind::Image, "cannot get its image"),
            "CreateContainerConfigError" => (LossKind::Config, "is configured wrongly"),
            "CreateContainerError" | "RunContainerError"
                if waiting.message.as_deref().is_some_and(phrases::no_executable) =>
            {
                (LossKind::Config, "has no such executable")
            }
            "CreateContainerError"
            | "RunContainerError"
            | "PreCreateHookError"
            | "PreStartHookError"
            | "PostStartHookError" => (LossKind::StartFailed, "cannot be started"),
            _ => return None,
        };
        let because = text::because(waiting.reason.as_deref(), waiting.message.as_deref());
        let message = format!("Pod {}'s {} {what}{because}.", f.e.pod_name, text::name(container));
        Some(Cause { kind, fault: Fault::Outside, message })
    })
}

/// The executor's container never had its turn because an init container failed before it.
fn init_failed(f: &Facts) -> Option<Cause> {
    let had_its_turn = f.containers().any(|container| {
        container.role == ContainerRole::Executor && !matches!(container.state, ContainerState::Waiting(_))
    });
    if had_its_turn || f.exit.is_some() {
        return None;
    }
    let failures = || {
        f.containers().enumerate().filter_map(|(at, container)| {
            let end =
                failure(container).filter(|_| container.role == ContainerRole::Init && !is_passed(f, at));
            end.map(|end| (container, end))
        })
    };
    // One that ended with exit code 0 and was killed for its memory all the same may have been passed.
    let (container, end) = failures().find(|(_, end)| end.exit_code != 0).or_else(|| failures().next())?;
    let exit = Exit::of(end, None, false);
    // `departed` answers for those killed with the node.
    let explained = f.is_ours(&exit) || f.terminating || f.departure.is_some();
    if exit.is_killed() && explained {
        return None;
    }
    let (kind, fault) = if exit.kind == LossKind::NodeLost {
        // The kubelet or the runtime lost track of it, as when a node boots again.
        (LossKind::NodeLost, Fault::Outside)
    } else if f.phase_is("Failed") {
        (LossKind::StartFailed, Fault::Setup)
    } else {
        (LossKind::StartFailed, Fault::Outside)
    };
    let message = format!("Pod {}'s {}.", f.e.pod_name, text::failed(container, end));
    Some(Cause { kind, fault, message })
}

/// How an init container failed, unless it has been restarted since and may yet succeed. Runtimes have been seen to
/// report exit code 0 of a container that was killed for its memory.
fn failure(container: &Container) -> Option<&Terminated> {
    let end = match &container.state {
        ContainerState::Terminated(end) => Some(end),
        ContainerState::Waiting(_) => container.last_terminated.as_ref(),
        ContainerState::Running(_) => None,
    };
    end.filter(|end| end.exit_code != 0 || end.reason.as_deref().is_some_and(|reason| reason != "Completed"))
}

/// Has a later init container had its turn? Then this one, which has not completed, is a restartable one, a sidecar
/// in all but name, and holds nothing up. Kubernetes lists them in the order in which they run.
fn is_passed(f: &Facts, at: usize) -> bool {
    f.containers().skip(at + 1).any(|later| {
        later.role == ContainerRole::Init
            && (!matches!(later.state, ContainerState::Waiting(_)) || later.last_terminated.is_some())
    })
}
