//! What became of the pod as a whole.

use rollcall_policy::{
    Container, ContainerRole, ContainerState, Driver, Evidence, LossKind, Terminated, Trigger,
};

use crate::exit::Exit;
use crate::request::{Request, second};
use crate::{Cause, Fault, words};

/// Executors end with their driver: their connection breaks, and their pods are its pod's children.
pub(crate) fn driver_gone(e: &Evidence) -> Option<Cause> {
    if e.driver != Driver::Gone {
        return None;
    }
    let message = format!("Pod {} was lost with its driver.{}", e.pod_name, words::exit_note(e));
    Some(Cause { kind: LossKind::DriverGone, fault: Fault::Outside, message })
}

/// Somebody else deleted it.
pub(crate) fn deleted(e: &Evidence) -> Option<Cause> {
    let exit = Exit::of(e);
    let completed = exit.as_ref().is_some_and(|exit| exit.code == 0);
    // A pod that is gone and never had a deletionTimestamp was removed after its end.
    let ended_first = completed || exit.as_ref().is_some_and(Exit::is_plain_failure);
    let claimed = is_terminating(e) && !exit.as_ref().is_some_and(|exit| ended_before_deletion(e, exit));
    let somebody = claimed || (is_gone(e) && !ended_first) || (words::driver_released(e) && !completed);
    if !somebody || was_given_up(e) {
        return None;
    }
    let message = format!("Pod {} deleted or lost.{}{}", e.pod_name, words::exit_note(e), words::notes(e));
    Some(Cause { kind: LossKind::Deleted, fault: Fault::Outside, message })
}

/// The pod failed, and not by its executor.
pub(crate) fn sidecar_failed(e: &Evidence) -> Option<Cause> {
    let (container, end) = failed_sidecar(e)?;
    if Exit::of(e).is_some() || was_given_up(e) {
        return None;
    }
    let message = format!("Pod {}'s {}.", e.pod_name, words::failed(container, end));
    Some(Cause { kind: LossKind::ExitStatus, fault: Fault::Setup, message })
}

/// The pod ended well, though its container's status is not known.
pub(crate) fn succeeded(e: &Evidence) -> Option<Cause> {
    let phase = e.pod.as_ref().map(|pod| pod.phase.as_str());
    let succeeded = e.trigger == Trigger::PodSucceeded || phase == Some("Succeeded");
    if !succeeded || was_given_up(e) {
        return None;
    }
    let message = format!("Pod {} ended by itself.", e.pod_name);
    Some(Cause { kind: LossKind::Completed, fault: Fault::Outside, message })
}

/// It stopped sending heartbeats, and nothing says why.
pub(crate) fn silent(e: &Evidence) -> Option<Cause> {
    if e.trigger != Trigger::HeartbeatTimeout && !was_given_up(e) {
        return None;
    }
    let since = e.since_heartbeat_ms.map(|ms| format!(" after {ms} ms")).unwrap_or_default();
    let phase = match &e.pod {
        Some(pod) if !pod.gone => format!("is {} as far as Kubernetes knows", words::quote(&pod.phase)),
        Some(_) => "is gone by now".into(),
        None => "has never been seen".into(),
    };
    let message = format!(
        "Executor heartbeat timed out{since}; pod {} {phase}.{}{}",
        e.pod_name,
        words::exit_note(e),
        words::notes(e),
    );
    Some(Cause { kind: LossKind::HeartbeatLost, fault: Fault::Outside, message })
}

/// Has the pod ended, or is it about to?
pub(crate) fn is_ending(e: &Evidence) -> bool {
    let ended = |phase: &str| matches!(phase, "Failed" | "Succeeded");
    is_gone(e) || is_terminating(e) || Exit::of(e).is_some() || e.pod.iter().any(|pod| ended(&pod.phase))
}

/// A sidecar that failed, in a pod that has failed.
pub(crate) fn failed_sidecar(e: &Evidence) -> Option<(&Container, &Terminated)> {
    let pod = e.pod.as_ref().filter(|pod| pod.phase == "Failed")?;
    pod.containers.iter().find_map(|container| match &container.state {
        ContainerState::Terminated(end) if container.role == ContainerRole::Sidecar && end.exit_code != 0 => {
            Some((container, end))
        }
        ContainerState::Terminated(_) | ContainerState::Waiting(_) | ContainerState::Running(_) => None,
    })
}

/// Rollcall or the driver clears away what it had given up as silent: the pod's end is the
/// consequence. Other requests of Rollcall's have been answered before this is asked.
fn was_given_up(e: &Evidence) -> bool {
    Request::of(e).is_some() || words::driver_gave_up(e)
}

fn is_gone(e: &Evidence) -> bool {
    matches!(e.trigger, Trigger::PodDeleted | Trigger::PodMissing)
        || e.pod.as_ref().is_some_and(|pod| pod.gone)
}

/// Had the container finished in a second before the one in which the deletion was asked for?
fn ended_before_deletion(e: &Evidence, exit: &Exit) -> bool {
    let asked_at_ms = e.pod.as_ref().and_then(|pod| {
        let grace = pod.deletion_grace_ms?;
        Some(pod.deletion_at_ms?.saturating_sub_unsigned(grace))
    });
    match (exit.finished_at_ms, asked_at_ms) {
        (Some(finished), Some(asked)) => second(finished) < second(asked),
        _ => false,
    }
}

fn is_terminating(e: &Evidence) -> bool {
    e.pod.as_ref().is_some_and(|pod| pod.deletion_at_ms.is_some())
}
