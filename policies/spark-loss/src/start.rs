//! What keeps an executor from starting. Replacing the pod does not heal it.

use rollcall_policy::{Container, ContainerRole, ContainerState, Evidence, LossKind, Terminated};

use crate::exit::Exit;
use crate::request::Request;
use crate::{Cause, Fault, words};

/// A container cannot start: its image, its configuration, the runtime, an init container before it.
pub(crate) fn stuck(e: &Evidence) -> Option<Cause> {
    waiting(e).or_else(|| init_failed(e))
}

/// The reasons are those of `pkg/kubelet/images` and `pkg/kubelet/kuberuntime`.
fn waiting(e: &Evidence) -> Option<Cause> {
    // A sidecar may wait for its image while the executor runs.
    let holds_up = |container: &&Container| container.role != ContainerRole::Sidecar || !e.ever_registered;
    e.pod.as_ref()?.containers.iter().filter(holds_up).find_map(|container| {
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
            "CreateContainerError"
            | "RunContainerError"
            | "PreCreateHookError"
            | "PreStartHookError"
            | "PostStartHookError" => (LossKind::StartFailed, "cannot be started"),
            _ => return None,
        };
        let because = words::because(&waiting.reason, &waiting.message);
        let message = format!("Pod {}'s {} {what}{because}.", e.pod_name, words::name(container));
        Some(Cause { kind, fault: Fault::Outside, message })
    })
}

/// The executor's container never had its turn because an init container failed before it.
fn init_failed(e: &Evidence) -> Option<Cause> {
    let pod = e.pod.as_ref()?;
    let had_its_turn = pod.containers.iter().any(|container| {
        container.role == ContainerRole::Executor && !matches!(container.state, ContainerState::Waiting(_))
    });
    if had_its_turn || Exit::of(e).is_some() {
        return None;
    }
    let (container, end) = pod
        .containers
        .iter()
        .filter(|container| container.role == ContainerRole::Init)
        .find_map(|container| Some((container, failure(container)?)))?;
    let exit = Exit::from(end);
    let killed = matches!(exit.meaning(), (LossKind::Killed, ..));
    let ours = Request::of(e).is_some_and(|request| request.ended(&exit));
    if killed && (ours || pod.deletion_at_ms.is_some()) {
        return None;
    }
    let fault = if pod.phase == "Failed" { Fault::Setup } else { Fault::Outside };
    let message = format!("Pod {}'s {}.", e.pod_name, words::failed(container, end));
    Some(Cause { kind: LossKind::StartFailed, fault, message })
}

/// How an init container failed, unless it has been restarted since and may yet succeed.
fn failure(container: &Container) -> Option<&Terminated> {
    let end = match &container.state {
        ContainerState::Terminated(end) => Some(end),
        ContainerState::Waiting(_) => container.last_terminated.as_ref(),
        ContainerState::Running(_) => None,
    };
    end.filter(|end| end.exit_code != 0)
}
