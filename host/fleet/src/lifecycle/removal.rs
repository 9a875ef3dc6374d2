//! Removing a pod: recorded in the ledger, requested until accepted, and only ever a pod of this fleet.
//!
//! Every deletion names the UID of its pod. Repeating one is therefore harmless, and a deletion with unknown
//! outcome is simply requested again. A refused deletion is retried with growing delays, and blocks nothing but
//! the pod's place under the ceiling. A voluntary disruption (a roll, a scale-down) is cancelled when it is
//! refused for too long; the removal of a lost executor's pod is not.

use crate::action::{Cause, Reason, Verb};
use crate::executor::{Executor, Removal};
use crate::guardrail::{Permits, Refusal};
use crate::injected_bug::InjectedBug;
use crate::lifecycle::effect::{Context, Effect};
use crate::lifecycle::pod::{cancel_removal, vanished};
use crate::outcomes::RemoveOutcome;
use crate::question::{DeletionCause, Trigger};
use crate::spec::RollSpec;
use crate::time::Instant;
use crate::timing::LATE_REQUEST_MS;

/// When to retry an eviction that a PodDisruptionBudget refused: the delay that the API server itself suggests.
const BUDGET_MS: u64 = 10_000;
/// When to check again a removal that a guard-rail postponed.
const RECONSIDER_MS: u64 = 1_000;

/// What a removal is checked against at the moment of its request.
#[derive(Clone, Copy)]
pub(crate) struct Clearance<'a> {
    pub permits: Permits,
    pub roll: &'a RollSpec,
    /// Number of available executors, and how many have to stay.
    pub available: u32,
    pub floor: u32,
    /// When the rate limit of deletions permits the next one.
    pub rate_permits_at: Instant,
}

/// Request the pod's deletion, if that is due.
pub(crate) fn remove(executor: &mut Executor, clearance: &Clearance<'_>, cx: &mut Context<'_>) {
    let now = cx.now();
    let Some(pod) = executor.pod.as_deref() else { return };
    let Some(removal) = executor.stage.removal() else {
        // Another client deleted the pod, and the watch did not report its end.
        return cx.add(Effect::VerifyPod);
    };
    let cause = executor.stage.leaving();
    if removal.call.is_some() || executor.gone {
        return;
    }
    if removal.accepted {
        return cx.add(Effect::VerifyPod);
    }
    let voluntary = cause.is_some_and(DeletionCause::is_voluntary);
    let certain = removal.doubtful_until <= now;
    if voluntary && now >= executor.since + clearance.roll.timeout_ms && certain {
        return cancel_removal(executor, "refused for too long", cx);
    }
    // Paused: every executor is woken when that ends.
    if clearance.permits.change.is_err() {
        return;
    }
    if clearance.rate_permits_at > now {
        executor.wake = clearance.rate_permits_at;
        return;
    }
    // It was decided one write ago: check again. A roll needs an undisturbed fleet; a scale-down does not.
    let rolled = cause == Some(DeletionCause::Roll);
    let peace = if rolled { clearance.permits.disrupt } else { clearance.permits.shrink };
    // The executor may have become available since: then the fleet may need it.
    let short = executor.is_useful() && clearance.available < clearance.floor;
    if voluntary && short && !removal.was_asked_for() {
        return cancel_removal(executor, "the fleet cannot do without it now", cx);
    }
    if voluntary && (peace.is_err() || short) {
        executor.wake = now + RECONSIDER_MS;
        return;
    }
    let uid = if cx.env.has_bug(InjectedBug::NoUid) { "".into() } else { pod.uid.clone() };
    let grace_ms = if voluntary { clearance.roll.grace_ms } else { None };
    let (id, pod) = (cx.id, pod.name.clone());
    let verb = if removal.evict {
        Verb::EvictPod { executor: id, pod, uid, grace_ms }
    } else {
        Verb::DeletePod { executor: id, pod, uid, grace_ms }
    };
    let cause = match cause {
        Some(DeletionCause::Roll) => Cause::Rolled(id),
        Some(DeletionCause::ScaleDown) => Cause::Excess,
        Some(_) | None => Cause::Settled(id),
    };
    executor.removal_sent_ms.get_or_insert(cx.env.now.wall_ms);
    cx.add(Effect::RequestRemoval { cause, verb });
}

/// A deletion or an eviction has finished.
pub(crate) fn remove_finished(executor: &mut Executor, outcome: RemoveOutcome, cx: &mut Context<'_>) {
    let now = cx.now();
    let Some(removal) = executor.stage.removal_mut() else { return };
    let was_over_budget = std::mem::replace(&mut removal.over_budget, outcome == RemoveOutcome::OverBudget);
    let retry_ms = match outcome {
        RemoveOutcome::Accepted => return executor.removal_accepted(now),
        RemoveOutcome::Gone => {
            removal.accepted = true;
            return vanished(executor, Trigger::PodDeleted, cx);
        }
        RemoveOutcome::OverBudget => {
            // Reported once, although the eviction is requested repeatedly.
            if !was_over_budget {
                let refusal = Refusal::DisruptionBudget;
                cx.add(Effect::Refused(refusal));
                cx.note(format!("not yet: {}", refusal.meaning()));
            }
            Some(BUDGET_MS)
        }
        RemoveOutcome::Unknown(why) => {
            if removal.backoff.tries() == 0 {
                cx.publish(Reason::FailedDelete, format!("it may be asked for or not: {why}"));
            }
            removal.doubtful_until = now + LATE_REQUEST_MS;
            None
        }
        RemoveOutcome::Refused { after_ms, why } => {
            if let Some(why) = why {
                cx.publish(Reason::FailedDelete, why);
            }
            after_ms
        }
    };
    executor.wake = now + retry(removal, retry_ms, cx);
}

/// A request that got a retry delay did not fail: the back-off does not grow.
fn retry(removal: &mut Removal, retry_ms: Option<u64>, cx: &mut Context<'_>) -> u64 {
    removal.call = None;
    retry_ms.unwrap_or_else(|| removal.backoff.failed_ms(cx.seed))
}
