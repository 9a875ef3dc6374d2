//! The end of the pod as a whole.

use rollcall_policy::{Driver, LossKind, Trigger};

use crate::facts::Facts;
use crate::{Cause, Fault, text};

/// Executors end with their driver: their connection breaks, and their pods are its pod's children.
pub(crate) fn driver_gone(f: &Facts) -> Option<Cause> {
    if f.e.driver != Driver::Gone {
        return None;
    }
    let message = format!("Pod {} was lost with its driver.", f.e.pod_name);
    Some(Cause { kind: LossKind::DriverGone, fault: Fault::Outside, message })
}

/// It was deleted, and not by Rollcall.
pub(crate) fn deleted(f: &Facts) -> Option<Cause> {
    let completed = f.exit.as_ref().is_some_and(|exit| exit.code == 0);
    let let_go = f.is_deleted() || (driver_released(f) && !completed);
    if !let_go || f.was_given_up() {
        return None;
    }
    let message = format!("Pod {} deleted or lost.", f.e.pod_name);
    Some(Cause { kind: LossKind::Deleted, fault: Fault::Outside, message })
}

/// The pod failed, and not by its executor.
pub(crate) fn sidecar_failed(f: &Facts) -> Option<Cause> {
    let (container, end) = f.failed_sidecars().next()?;
    if !f.phase_is("Failed") || f.exit.is_some() || f.was_given_up() {
        return None;
    }
    let message = format!("Pod {}'s {}.", f.e.pod_name, text::failed(container, end));
    Some(Cause { kind: LossKind::ExitStatus, fault: Fault::Setup, message })
}

/// The pod ended well, though its container's status is not known.
pub(crate) fn succeeded(f: &Facts) -> Option<Cause> {
    let succeeded = f.e.trigger == Trigger::PodSucceeded || f.phase_is("Succeeded");
    if !succeeded || f.was_given_up() {
        return None;
    }
    let message = format!("Pod {} ended by itself.", f.e.pod_name);
    Some(Cause { kind: LossKind::Completed, fault: Fault::Outside, message })
}

/// It stopped sending heartbeats, and nothing says why.
pub(crate) fn silent(f: &Facts) -> Option<Cause> {
    if f.e.trigger != Trigger::HeartbeatTimeout && !f.was_given_up() {
        return None;
    }
    // When it was found, not when it is asked: that is later with each check.
    let later = f.e.now_ms.saturating_sub(f.e.lost_at_ms).max(0).unsigned_abs();
    let since = f.e.since_heartbeat_ms.map(|ms| format!(" after {} ms", ms.saturating_sub(later)));
    let phase = match &f.e.pod {
        Some(pod) if !pod.gone => format!("is {} as far as Kubernetes knows", text::quote(&pod.phase)),
        Some(_) => "is gone by now".into(),
        None => "has never been seen".into(),
    };
    let message =
        format!("Executor heartbeat timed out{}; pod {} {phase}.", since.unwrap_or_default(), f.e.pod_name);
    Some(Cause { kind: LossKind::HeartbeatLost, fault: Fault::Outside, message })
}

/// Did the driver let it go, or find it gone?
fn driver_released(f: &Facts) -> bool {
    f.driver_says(&[
        "executor decommission",
        "killed by driver",
        "deleted by a user or the framework",
        "not found in the cluster",
    ])
}
