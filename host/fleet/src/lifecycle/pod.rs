//! The executor's stage follows its pod.
//!
//! A pod's state counts, not the way it arrived: `Failed` means lost whether it arrives as ADDED, MODIFIED or in
//! a list. State that is older than the known state is dropped, by revision.

use crate::env::Env;
use crate::executor::{Executor, Exit, Removal, Stage, Then, kept};
use crate::heartbeat::HeartbeatTimer;
use crate::id::ExecutorId;
use crate::injected_bug::InjectedBug;
use crate::ledger::{End, Ledger};
use crate::lifecycle::effect::{Context, Effect};
use crate::lifecycle::end::{is_scale_down, mark_lost, record_removal_intent, settle, start_removal};
use crate::lifecycle::start::{pod_exists, running};
use crate::observed::{Phase, PodView};
use crate::question::{DeletionCause, Trigger};
use crate::timing::VERIFY_AFTER_MS;

/// A pod with the executor's id, as it is now.
pub(crate) fn pod_changed(executor: &mut Executor, pod: PodView, cx: &mut Context<'_>) {
    let ours = cx.env.is_ours(&pod);
    match &executor.pod {
        Some(known) if known.uid != pod.uid => {
            // A different pod with the same id; Rollcall itself never creates one. The pod that we knew is gone
            // if this one is newer and has its name, regardless of the owner; the new pod is handled when ours
            // is forgotten.
            if known.revision < pod.revision && (ours || known.name == pod.name) {
                vanished(executor, Trigger::PodMissing, cx);
            }
        }
        Some(known) if known.revision >= pod.revision || executor.gone => {}
        Some(_) if !ours => vanished(executor, Trigger::PodDeleted, cx),
        // The pod no longer has the labels, so no list will contain it: treat it as lost, and remove it.
        Some(_) if !pod.selected && executor.stage.serves() => {
            mark_lost(executor, Trigger::PodDeleted, cx);
        }
        None if !ours => {}
        Some(_) | None => {
            let seen = executor.pod.is_some();
            let admitted = executor.is_gated() && !pod.gated();
            executor.pod = Some(kept(pod));
            if !seen {
                pod_exists(executor, cx);
            }
            if admitted && matches!(executor.stage, Stage::AwaitingStart) {
                // The pod was admitted: its time to start begins now.
                executor.enter(Stage::AwaitingStart, cx.now(), cx.now());
            }
            follow(executor, cx);
        }
    }
}

/// A pod with the executor's id was deleted from the API server; this is its last state.
pub(crate) fn pod_gone(executor: &mut Executor, pod: &PodView, cx: &mut Context<'_>) {
    match &executor.pod {
        Some(known) if known.uid != pod.uid || executor.gone || known.revision > pod.revision => {}
        None if !cx.env.is_ours(pod) => {}
        Some(_) | None => {
            let known = executor.pod.take();
            let seen = known.is_some();
            executor.pod = Some(Box::new(known.map_or_else(|| pod.clone(), |known| last(*known, pod))));
            if !seen {
                pod_exists(executor, cx);
            }
            vanished(executor, Trigger::PodDeleted, cx);
        }
    }
}

/// The last state of a pod. A deletion may carry an older state than was seen: keep that the pod had ended, and why.
fn last(known: PodView, gone: &PodView) -> PodView {
    let older = known.ended() && !gone.ended()
        || known.executor_ended() && !gone.executor_ended()
        || known.disrupted() && !gone.disrupted();
    if older { PodView { revision: gone.revision, ..known } } else { gone.clone() }
}

/// The executor of a pod of this fleet that this host did not know: created before this host started, or at the
/// last moment of an earlier leader. `None`: the pod is left alone.
pub(crate) fn found(id: ExecutorId, pod: PodView, ledger: &Ledger, env: Env<'_>) -> Option<Executor> {
    let now = env.now.instant;
    let ran = pod.phase == Phase::Running;
    let mut executor = Executor::new(Stage::AwaitingStart, now);
    if ledger.settled.contains(id) {
        if !env.owns() {
            return None;
        }
        // Its end is already counted. This state of the pod may be stale: verify it before deleting it.
        let is_kept = ledger.kept.contains(id) && pod.ended();
        let removal = Removal { accepted: true, ..Removal::new(false) };
        executor.stage = if is_kept { Stage::Kept } else { Stage::AwaitingRemoval(removal) };
        executor.wake = now;
    } else {
        // It ran before this host started, so it had time to register.
        executor.registered = ran;
        executor.proven = ran && ledger.leaving.contains_key(&id);
    }
    executor.pod = Some(kept(pod));
    Some(executor)
}

/// The executor was found, and is in the table of executors now.
pub(crate) fn adopt(executor: &mut Executor, cx: &mut Context<'_>) {
    if executor.stage.is_settled() {
        return;
    }
    cx.add(Effect::RecordCreated);
    cx.note("found");
    match cx.leaving {
        Some(cause) => start_removal(executor, cause, cx),
        None => follow(executor, cx),
    }
}

/// The executor's pod is gone from the API server.
pub(crate) fn vanished(executor: &mut Executor, trigger: Trigger, cx: &mut Context<'_>) {
    executor.gone = true;
    cx.add(Effect::QuotaFreed);
    match &executor.stage {
        Stage::Terminating(Exit::Ours { cause, removal }) => {
            let cause = *cause;
            if removal.was_asked_for() {
                settle(executor, End::Removed(cause), Then::Clear, cx);
            } else {
                mark_lost(executor, trigger, cx);
            }
        }
        Stage::AwaitingStart
        | Stage::AwaitingRegistration
        | Stage::Available
        | Stage::Rolling
        | Stage::AwaitingAnnouncement { .. }
        | Stage::Terminating(Exit::Foreign { .. }) => match cx.leaving {
            // The pod was gone before this process asked for its deletion: an earlier host that recorded the
            // removal will have asked.
            Some(cause) if executor.pod.is_none() => {
                settle(executor, End::Removed(cause), Then::Clear, cx);
            }
            Some(_) | None => mark_lost(executor, trigger, cx),
        },
        Stage::AwaitingRemoval(_) if cx.env.has_bug(InjectedBug::SettledTwice) => {
            mark_lost(executor, trigger, cx);
        }
        Stage::AwaitingRemoval(_) | Stage::Kept => cx.add(Effect::Forget),
        Stage::AwaitingCreate(_)
        | Stage::AwaitingConfirmation(_)
        | Stage::CreateUnknown
        | Stage::AwaitingReason(_)
        | Stage::AwaitingRecord { .. } => {}
    }
}

/// Update the executor's stage from the state of its pod.
pub(crate) fn follow(executor: &mut Executor, cx: &mut Context<'_>) {
    let Some(pod) = &executor.pod else { return };
    let ended = if cx.env.has_bug(InjectedBug::EndedUnseen) { pod.ended() } else { pod.executor_ended() };
    let terminating = pod.terminating();
    let trigger = match (terminating, pod.executor_succeeded()) {
        (true, _) => Trigger::PodDeleted,
        (false, true) => Trigger::PodSucceeded,
        (false, false) => Trigger::PodFailed,
    };
    match &executor.stage {
        Stage::AwaitingStart | Stage::AwaitingRegistration | Stage::Available | Stage::Rolling => {
            if ended {
                mark_lost(executor, trigger, cx);
            } else if terminating && is_scale_down(executor, trigger, cx) {
                record_removal_intent(executor, DeletionCause::ScaleDown, cx);
            } else if terminating {
                cx.add(Effect::OweReplacement);
                let exit = Exit::Foreign { rolling: executor.stage.is_rolling() };
                executor.enter(Stage::Terminating(exit), cx.now(), cx.now() + VERIFY_AFTER_MS);
            } else {
                follow_serving(executor, cx);
            }
        }
        Stage::Terminating(Exit::Ours { cause, removal }) if terminating => {
            if ended {
                settle(executor, End::Removed(*cause), Then::Clear, cx);
            } else if !removal.accepted {
                executor.removal_accepted(cx.now());
            }
        }
        Stage::Terminating(_) | Stage::AwaitingAnnouncement { .. } if ended => {
            mark_lost(executor, trigger, cx);
        }
        Stage::Terminating(_)
        | Stage::AwaitingAnnouncement { .. }
        | Stage::AwaitingCreate(_)
        | Stage::AwaitingConfirmation(_)
        | Stage::CreateUnknown
        | Stage::AwaitingReason(_)
        | Stage::AwaitingRecord { .. }
        | Stage::AwaitingRemoval(_)
        | Stage::Kept => {}
    }
}

/// The pod of a serving executor has neither ended nor been deleted.
fn follow_serving(executor: &mut Executor, cx: &mut Context<'_>) {
    let phase = executor.pod.as_deref().map(|pod| pod.phase);
    let starts = matches!(executor.stage, Stage::AwaitingStart);
    // The pod became Pending again while its removal was planned, and the removal was cancelled.
    let heard_before = executor.pends_again() && executor.timer.last_heard().is_some();
    let pending = phase == Some(Phase::Pending) && !cx.env.has_bug(InjectedBug::PendingAgainUnseen);
    if phase == Some(Phase::Running) && starts {
        running(executor, cx);
    } else if pending && (heard_before || !starts) {
        // The pod ran and is Pending again: its node was restarted, and its containers have to be restarted.
        // Earlier heartbeats say nothing about the restarted executor.
        cx.note("its pod is Pending again");
        executor.enter(Stage::AwaitingStart, cx.now(), cx.now());
        executor.timer = HeartbeatTimer::new(cx.now());
    } else {
        executor.wake = cx.now();
    }
}

/// Cancel the removal.
pub(crate) fn cancel_removal(executor: &mut Executor, why: &'static str, cx: &mut Context<'_>) {
    let cause: Option<DeletionCause> = cx.leaving.take();
    cx.add(Effect::CancelRemoval { cause, why });
    executor.enter(Stage::AwaitingStart, cx.now(), cx.now());
    follow(executor, cx);
}
