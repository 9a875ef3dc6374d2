//! How executors end: lost or removed, recorded in the ledger, and then cleared away.
//!
//! A second report of the same loss finds the executor lost and changes nothing. SAR counted the second report
//! as a second loss, ignored pods that became `Failed`, and delayed the replacement of a pod whose deletion was
//! refused.

use crate::executor::{Executor, Exit, Loss, Removal, Stage, Then};
use crate::injected_bug::InjectedBug;
use crate::ledger::End;
use crate::lifecycle::effect::{Context, Effect};
use crate::observed::PodView;
use crate::question::{DeletionCause, Trigger};
use crate::spec::ScaleDown;
use crate::time::Instant;
use crate::timing::VERIFY_AFTER_MS;

/// The executor is lost: find out why. Does nothing if it is already lost.
pub(crate) fn mark_lost(executor: &mut Executor, trigger: Trigger, cx: &mut Context<'_>) {
    if !executor.stage.can_be_lost() && !cx.env.has_bug(InjectedBug::SettledTwice) {
        return;
    }
    if is_scale_down(executor, trigger, cx) {
        return settle(executor, End::Removed(DeletionCause::ScaleDown), Then::Clear, cx);
    }
    let served = executor.stage.serves();
    let released = !cx.env.owns() && is_release(executor, trigger);
    cx.add(Effect::Lost { trigger, served, released, target: cx.target });
    let heard = executor.timer.last_heard();
    let loss = Loss { trigger, heard, checks: 0, asked: None };
    executor.enter(Stage::AwaitingReason(loss), cx.now(), Instant::NEVER);
    cx.add(Effect::AskWhy);
}

/// Did the driver that scales the fleet end the executor? It is superfluous, or about to be removed as such; or it ended
/// successfully after it had registered, which only its driver tells it to. By then the driver may want more executors
/// again.
pub(crate) fn is_scale_down(executor: &Executor, trigger: Trigger, cx: &Context<'_>) -> bool {
    if !cx.env.owns() || cx.env.spec.scale_down == ScaleDown::Rollcall {
        return false;
    }
    let told = trigger == Trigger::PodSucceeded && executor.is_useful();
    match cx.leaving {
        None => told || cx.superfluous && is_release(executor, trigger),
        Some(cause) => cause == DeletionCause::ScaleDown && is_release(executor, trigger),
    }
}

/// A driver that releases idle executors ends them successfully or deletes their pods. A pod that Kubernetes
/// deletes has a disruption condition.
fn is_release(executor: &Executor, trigger: Trigger) -> bool {
    let disrupted = executor.pod.as_deref().is_some_and(PodView::disrupted);
    trigger == Trigger::PodSucceeded || trigger == Trigger::PodDeleted && !disrupted
}

/// A check was inconclusive. Check again after the interval. Returns whether the checks are used up.
pub(crate) fn undetermined(executor: &mut Executor, cx: &mut Context<'_>) -> bool {
    let recovery = &cx.env.spec.recovery;
    let Stage::AwaitingReason(loss) = &mut executor.stage else { return true };
    loss.asked = None;
    let over = loss.checks >= recovery.max_checks;
    loss.checks += 1;
    if !over {
        executor.wake = cx.now() + recovery.check_interval_ms;
    }
    over
}

/// Count the executor's end, and continue when that is recorded.
pub(crate) fn settle(executor: &mut Executor, end: End, then: Then, cx: &mut Context<'_>) {
    cx.add(Effect::RecordEnd { end, keep: then == Then::Keep, mark: cx.mark });
    executor.enter(Stage::AwaitingRecord { mark: cx.mark, then }, cx.now(), Instant::NEVER);
}

/// The fleet decided to remove the executor: record that in the ledger first.
pub(crate) fn record_removal_intent(executor: &mut Executor, cause: DeletionCause, cx: &mut Context<'_>) {
    cx.add(Effect::RecordRemoval { cause, mark: cx.mark });
    let stage = Stage::AwaitingAnnouncement { cause, mark: cx.mark };
    executor.enter(stage, cx.now(), Instant::NEVER);
}

/// The ledger has recorded the removal: request it.
pub(crate) fn start_removal(executor: &mut Executor, cause: DeletionCause, cx: &mut Context<'_>) {
    let Some(pod) = executor.pod.as_deref() else { return };
    let (ended, terminating) = (pod.executor_ended(), pod.terminating());
    if ended && terminating {
        return settle(executor, End::Removed(cause), Then::Clear, cx);
    } else if ended {
        let trigger = if pod.executor_succeeded() { Trigger::PodSucceeded } else { Trigger::PodFailed };
        return mark_lost(executor, trigger, cx);
    }
    let mut removal = Removal::new(cause == DeletionCause::Roll);
    removal.accepted = terminating;
    let wait_ms = if terminating { VERIFY_AFTER_MS } else { 0 };
    let now = cx.now();
    executor.enter(Stage::Terminating(Exit::Ours { cause, removal }), now, now + wait_ms);
}

/// A ledger write that the executor waited for is done: all writes up to `confirmed` are.
pub(crate) fn recorded(executor: &mut Executor, confirmed: u64, cx: &mut Context<'_>) {
    if let Stage::AwaitingAnnouncement { cause, mark } = executor.stage {
        if mark <= confirmed {
            start_removal(executor, cause, cx);
        }
        return;
    }
    let Stage::AwaitingRecord { mark, then } = executor.stage else { return };
    if mark > confirmed && !cx.env.has_bug(InjectedBug::ActBeforeRecord) {
        return;
    }
    let now = cx.now();
    match (then, executor.pod.as_deref().filter(|_| !executor.gone)) {
        (Then::Forget, _) | (_, None) => cx.add(Effect::Forget),
        (Then::Keep, Some(_)) => {
            executor.enter(Stage::Kept, now, now + cx.env.spec.recovery.kept_pods_ms);
            cx.add(Effect::LimitKept);
        }
        (Then::Clear, Some(pod)) => {
            let mut removal = Removal::new(false);
            removal.accepted = pod.terminating();
            let wait_ms = if removal.accepted { VERIFY_AFTER_MS } else { 0 };
            executor.enter(Stage::AwaitingRemoval(removal), now, now + wait_ms);
        }
    }
}

/// Its pod was kept for debugging, and has to go.
pub(crate) fn stop_keeping(executor: &mut Executor, cx: &mut Context<'_>) {
    cx.add(Effect::KeepNoMore);
    executor.enter(Stage::AwaitingRemoval(Removal::new(false)), cx.now(), cx.now());
}
