//! What Rollcall itself asked for.

use rollcall_policy::{DeletionCause, Evidence, LossKind, Trigger};

use crate::exit::Exit;
use crate::{Cause, Fault, start, words};

/// Rollcall let it go: a roll, a kill, a scale-down, a pod pending for too long.
pub(crate) fn released(e: &Evidence) -> Option<Cause> {
    let request = Request::of(e)?;
    let why = match request.why {
        DeletionCause::Lost => return None,
        DeletionCause::PendingTimeout => return start::stuck(e).or_else(|| Some(pending(e))),
        DeletionCause::Roll => "a roll",
        DeletionCause::ScaleDown => "a scale-down",
        DeletionCause::Kill => "a kill",
        DeletionCause::FleetRemoved => "the fleet's removal",
        DeletionCause::Other(why) => why,
    };
    if Exit::of(e).is_some_and(|exit| exit.tells() && !request.ended(&exit)) {
        return None;
    }
    let message = format!(
        "Container in pod {} exited from explicit termination request. Rollcall asked for it: {}.{}",
        e.pod_name,
        words::quote(why),
        words::exit_note(e),
    );
    Some(Cause { kind: LossKind::Released, fault: Fault::Outside, message })
}

/// A deletion that Rollcall asked for, or is about to.
pub(crate) struct Request<'a> {
    pub(crate) why: &'a DeletionCause,
    at_ms: i64,
}

impl Request<'_> {
    pub(crate) fn of(e: &Evidence) -> Option<Request<'_>> {
        if let Some(deletion) = &e.our_deletion {
            return Some(Request { why: &deletion.why, at_ms: deletion.at_ms });
        }
        let why = match e.trigger {
            Trigger::OperatorKill => &DeletionCause::Kill,
            Trigger::PendingTimeout => &DeletionCause::PendingTimeout,
            Trigger::HeartbeatTimeout
            | Trigger::PodFailed
            | Trigger::PodSucceeded
            | Trigger::PodDeleted
            | Trigger::PodMissing
            | Trigger::DriverRemoved
            | Trigger::Other(_) => return None,
        };
        Some(Request { why, at_ms: e.now_ms })
    }

    /// Did the request end it? Only what finished in an earlier second had ended before.
    pub(crate) fn ended(&self, exit: &Exit) -> bool {
        exit.finished_at_ms.is_none_or(|finished| second(finished) >= second(self.at_ms))
    }
}

/// Kubernetes cuts its timestamps to whole seconds: only so are they comparable with ours.
pub(crate) fn second(ms: i64) -> i64 {
    ms.div_euclid(1000)
}

fn pending(e: &Evidence) -> Cause {
    let unscheduled = e
        .pod
        .iter()
        .flat_map(|pod| &pod.conditions)
        .find(|condition| condition.name == "PodScheduled" && condition.status == "False")
        .map(|condition| words::because(&condition.reason, &condition.message));
    let message =
        format!("Pod {} was pending for too long{}.", e.pod_name, unscheduled.as_deref().unwrap_or_default());
    Cause { kind: LossKind::Released, fault: Fault::Outside, message }
}
