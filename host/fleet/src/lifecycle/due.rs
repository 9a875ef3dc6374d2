//! The executor's wake time has come, and the GET that verifies a late pod.

use crate::executor::{Executor, Stage};
use crate::injected_bug::InjectedBug;
use crate::lifecycle::create::created;
use crate::lifecycle::effect::{Context, Effect};
use crate::lifecycle::end::{mark_lost, stop_keeping};
use crate::lifecycle::pod::{pod_changed, vanished};
use crate::lifecycle::start::available;
use crate::outcomes::GetOutcome;
use crate::question::Trigger;
use crate::time::Instant;
use crate::timing::{LATE_REQUEST_MS, VERIFY_AFTER_MS};

/// A failed GET is repeated after this.
const VERIFY_AGAIN_MS: u64 = 5_000;

/// Process an executor that is due.
pub(crate) fn attend(executor: &mut Executor, cx: &mut Context<'_>) {
    match &executor.stage {
        Stage::AwaitingCreate(_) | Stage::AwaitingAnnouncement { .. } | Stage::AwaitingRecord { .. } => {}
        Stage::AwaitingConfirmation(confirmation) => {
            if confirmation.get.is_none() {
                cx.add(Effect::ConfirmCreate);
            }
        }
        Stage::CreateUnknown => {
            let until = executor.since + LATE_REQUEST_MS;
            if cx.now() < until {
                executor.wake = until;
            } else {
                // If it had arrived, our watch may not have reported it yet.
                cx.add(Effect::VerifyPod);
            }
        }
        Stage::AwaitingStart | Stage::AwaitingRegistration => check_pending(executor, cx),
        Stage::Available | Stage::Rolling => check_heartbeat(executor, cx),
        Stage::AwaitingReason(_) => cx.add(Effect::AskWhy),
        // Whether its pod may be removed now depends on the rest of the fleet: see `removal`.
        Stage::Terminating(_) | Stage::AwaitingRemoval(_) => {}
        Stage::Kept => {
            let until = executor.since + cx.env.spec.recovery.kept_pods_ms;
            if cx.now() < until {
                executor.wake = until;
                cx.add(Effect::LimitKept);
            } else {
                stop_keeping(executor, cx);
            }
        }
    }
}

fn check_heartbeat(executor: &mut Executor, cx: &mut Context<'_>) {
    let heartbeat = &cx.env.spec.heartbeat;
    if heartbeat.disabled {
        return;
    }
    let silent_at = executor.timer.silent_at(heartbeat, cx.excused);
    if cx.now() < silent_at {
        executor.wake = silent_at;
    } else {
        cx.add(Effect::Silent);
    }
}

/// The executor has not started, or not registered, for too long. In mode Observe the driver handles that.
fn check_pending(executor: &mut Executor, cx: &mut Context<'_>) {
    let runs = matches!(executor.stage, Stage::AwaitingRegistration);
    if runs && cx.env.spec.heartbeat.disabled {
        return available(executor, cx);
    }
    if !cx.env.owns() {
        return;
    }
    if runs && executor.registered {
        // An earlier host heard it, so its silence counts.
        return check_heartbeat(executor, cx);
    }
    if executor.is_gated() && !cx.env.has_bug(InjectedBug::GatedIsLate) {
        // The pod waits for admission, and a replacement would wait as long. Its start timeout begins at
        // admission.
        return;
    }
    let due = start_due(executor, cx);
    if cx.now() < due {
        executor.wake = due;
    } else {
        cx.add(Effect::StartOverdue { unheard: runs });
    }
}

/// Until when the executor has time to start, or to send its first heartbeat. Heartbeats that we may have
/// rejected do not count as silence.
fn start_due(executor: &Executor, cx: &Context<'_>) -> Instant {
    let runs = matches!(executor.stage, Stage::AwaitingRegistration);
    let from = if runs { executor.since.max(cx.excused) } else { executor.since };
    from + cx.env.spec.allocation.pending_timeout_ms + 1
}

/// The API server's answer about a pod that is late.
pub(crate) fn pod_verified(executor: &mut Executor, outcome: GetOutcome, cx: &mut Context<'_>) {
    executor.verifying = None;
    let late = matches!(executor.stage, Stage::CreateUnknown);
    match outcome {
        GetOutcome::Found(pod) if late && cx.env.is_ours(&pod) => created(executor, *pod, cx),
        GetOutcome::Found(_) | GetOutcome::NotFound if late => cx.add(Effect::Forget),
        GetOutcome::Found(pod) => {
            let ran = matches!(executor.stage, Stage::AwaitingRegistration);
            pod_changed(executor, *pod, cx);
            still_late(executor, ran, cx);
        }
        GetOutcome::NotFound => vanished(executor, Trigger::PodMissing, cx),
        GetOutcome::Failed => executor.wake = cx.now() + VERIFY_AGAIN_MS,
    }
}

/// The pod exists: is the executor late, or was only our view of it? `ran`: its pod was known to run.
fn still_late(executor: &mut Executor, ran: bool, cx: &mut Context<'_>) {
    let pends = matches!(executor.stage, Stage::AwaitingStart);
    // A pod that turns out to run gets its time to register, and a gated one its time to be admitted.
    let gated = executor.is_gated() && !cx.env.has_bug(InjectedBug::GatedIsLate);
    let unheard = ran && matches!(executor.stage, Stage::AwaitingRegistration);
    // Its heartbeats may have been rejected in the meantime.
    let due = start_due(executor, cx);
    if unheard && cx.now() < due {
        executor.wake = due;
    } else if pends && !gated || unheard {
        cx.add(Effect::PendingTimeout);
        mark_lost(executor, Trigger::PendingTimeout, cx);
    } else if executor.stage.awaits_end() {
        // It is still terminating, or its deletion was never requested.
        let terminating = executor.pod.as_deref().is_some_and(|pod| pod.terminating());
        let mut wait_ms = VERIFY_AFTER_MS;
        if let Some(removal) = executor.stage.removal_mut() {
            removal.accepted = terminating;
            wait_ms = if terminating { VERIFY_AFTER_MS } else { 0 };
        }
        executor.wake = cx.now() + wait_ms;
    }
}
