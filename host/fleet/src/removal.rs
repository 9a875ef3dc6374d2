//! Removing a pod: recorded in the ledger, requested until accepted, and only ever a pod of this fleet.
//!
//! Every deletion names the UID of its pod. Repeating one is therefore harmless, and a deletion with unknown
//! outcome is simply requested again. A refused deletion is retried with growing delays, and blocks nothing but
//! the pod's place under the ceiling. A voluntary disruption (a roll, a scale-down) is cancelled when it is
//! refused for too long; the removal of a lost executor's pod is not.

use crate::action::{Cause, Reason, Verb};
use crate::executor::{Removal, Stage, Then};
use crate::fleet::Fleet;
use crate::guardrail::Refusal;
use crate::id::{ActionId, ExecutorId};
use crate::injected_bug::InjectedBug;
use crate::ledger::End;
use crate::observed::Phase as PodPhase;
use crate::outcome::{Done, Outcome};
use crate::question::{DeletionCause, Trigger};
use crate::time::Instant;
use crate::timing::{LATE_REQUEST_MS, LOOK_AFTER_MS};

/// When to retry an eviction that a PodDisruptionBudget refused: the delay that the API server itself suggests.
const BUDGET_MS: u64 = 10_000;
/// When to check again a removal that a guardrail postponed.
const RECONSIDER_MS: u64 = 1_000;

impl Fleet {
    /// The fleet decided to remove the executor: record that in the ledger first.
    pub(crate) fn announce(&mut self, id: ExecutorId, cause: DeletionCause) {
        self.book.edit().leaving.insert(id, cause);
        let mark = self.record(id);
        self.roster.change(id, |executor| executor.rolling = false);
        self.enter(id, Stage::AwaitingAnnouncement { cause, mark }, Instant::NEVER);
        self.log.add(self.now, Some(id), format!("to go: {cause:?}"));
    }

    /// The ledger has recorded the removal: request it.
    pub(crate) fn leave_on(&mut self, id: ExecutorId, cause: DeletionCause) {
        let Some(executor) = self.roster.get(id) else { return };
        let Some(pod) = executor.pod.as_deref() else { return };
        let (ended, terminating) = (pod.executor_ended(), pod.terminating());
        if ended && terminating {
            return self.settle(id, End::Removed(cause), Then::Clear);
        } else if ended {
            let trigger = if pod.executor_succeeded() { Trigger::PodSucceeded } else { Trigger::PodFailed };
            return self.lose(id, trigger);
        }
        let mut removal = Removal::new(cause == DeletionCause::Roll);
        removal.accepted = terminating;
        let wake = if removal.accepted { self.now.instant + LOOK_AFTER_MS } else { self.now.instant };
        self.enter(id, Stage::AwaitingExit { cause: Some(cause), removal: Some(removal) }, wake);
    }

    /// Request the pod's deletion, if that is due.
    pub(crate) fn remove_pod(&mut self, id: ExecutorId) {
        let Some(executor) = self.roster.get(id) else { return };
        let Some(pod) = executor.pod.as_deref() else { return };
        let Some(removal) = executor.stage.removal() else {
            // Another client deleted the pod, and the watch did not report its end.
            return self.look(id);
        };
        let cause = executor.stage.leaving();
        if removal.call.is_some() || executor.gone {
            return;
        }
        if removal.accepted {
            return self.look(id);
        }
        let voluntary = cause.is_some_and(DeletionCause::is_voluntary);
        let certain = removal.doubtful_until <= self.now.instant;
        if voluntary && self.now.instant >= executor.since + self.roll_spec().timeout_ms && certain {
            self.stay(id, "refused for too long");
            return;
        }
        // Paused: every executor is woken when that ends.
        if self.may_change_pods().is_err() {
            return;
        }
        let (size, per_ms) = (self.spec.allocation.batch_size, self.spec.allocation.batch_delay_ms);
        if self.deletes.level(self.now.instant, size, per_ms) == 0 {
            let at = self.deletes.next(size, per_ms);
            self.roster.wake_at(id, at);
            return;
        }
        // It was decided one write ago: check again. A roll needs an undisturbed fleet; a scale-down does not.
        let peace = if cause == Some(DeletionCause::Roll) { self.may_disrupt() } else { self.may_shrink() };
        // The executor may have become available since: then the fleet may need it.
        let short = executor.is_useful() && self.available_count() < self.bounds().floor;
        if voluntary && short && !removal.was_asked_for() {
            return self.stay(id, "the fleet cannot do without it now");
        }
        if voluntary && (peace.is_err() || short) {
            self.roster.wake_at(id, self.now.instant + RECONSIDER_MS);
            return;
        }
        let uid = if self.has_bug(InjectedBug::NoUid) { "".into() } else { pod.uid.clone() };
        let pod = pod.name.clone();
        let grace_ms = if voluntary { self.roll_spec().grace_ms } else { None };
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
        self.deletes.take(self.now.instant, size, per_ms);
        let action = self.act(cause, verb);
        self.removal(id, |removal| removal.call = Some(action));
    }

    fn removal(&mut self, id: ExecutorId, f: impl FnOnce(&mut Removal)) {
        self.roster.change(id, |executor| executor.stage.removal_mut().map(f));
    }

    pub(crate) fn removal_accepted(&mut self, id: ExecutorId) {
        self.removal(id, |removal| {
            removal.accepted = true;
            removal.call = None;
        });
        // The watch reports the pod's end. If it does not, the pod is checked at that time.
        self.roster.wake_at(id, self.now.instant + LOOK_AFTER_MS);
    }

    /// A create, a read, a deletion or an eviction has finished.
    pub(crate) fn pod_call_finished(&mut self, action: ActionId, outcome: Outcome) {
        let Some(id) = self.calls.remove(&action) else { return };
        let Some(executor) = self.roster.get(id) else { return };
        let awaited = matches!(executor.stage, Stage::AwaitingCreate(call) if call == action);
        let asked = executor.look == Some(action) || matches!(executor.stage, Stage::AwaitingConfirmation(_));
        if !awaited
            && !asked
            && matches!(&outcome, Outcome::Ok(Done::Pod(pod)) if pod.phase == PodPhase::Pending)
        {
            // The watch event arrived before the answer to the create.
            self.pace.succeeded(self.spec.allocation.batch_size);
        }
        if executor.look == Some(action) {
            self.looked(id, outcome);
        } else if let Stage::AwaitingCreate(call) = executor.stage {
            if call == action {
                self.create_finished(id, outcome);
            }
        } else if let Stage::AwaitingConfirmation(confirmation) = &executor.stage {
            if confirmation.get == Some(action) {
                self.confirmed(id, outcome);
            }
        } else if executor.stage.removal().is_some_and(|removal| removal.call == Some(action)) {
            self.removal_finished(id, outcome);
        }
    }

    fn removal_finished(&mut self, id: ExecutorId, outcome: Outcome) {
        if !matches!(outcome, Outcome::Budget) {
            self.removal(id, |removal| removal.over_budget = false);
        }
        let retry_ms = match outcome {
            Outcome::Ok(Done::Deleted) => {
                self.removal_accepted(id);
                return;
            }
            Outcome::NotFound => {
                self.removal(id, |removal| removal.accepted = true);
                self.vanished(id, Trigger::PodDeleted);
                return;
            }
            Outcome::Budget => {
                self.over_budget(id);
                Some(BUDGET_MS)
            }
            Outcome::Throttled { after_ms } => after_ms.filter(|ms| *ms > 0),
            Outcome::Unknown(why) => {
                let until = self.now.instant + LATE_REQUEST_MS;
                let mut first = false;
                self.removal(id, |removal| {
                    first = removal.backoff.tries() == 0;
                    removal.doubtful_until = until;
                });
                if first {
                    self.publish(
                        Reason::FailedDelete,
                        Some(id),
                        format!("it may be asked for or not: {why}"),
                    );
                }
                None
            }
            Outcome::Forbidden(why) | Outcome::Invalid(why) => {
                self.publish(Reason::FailedDelete, Some(id), why);
                None
            }
            // The name belongs to another pod by now, or two changes collided: the view will show whether ours
            // is gone.
            Outcome::Conflict
            | Outcome::AlreadyExists
            | Outcome::Ok(
                Done::Pod(_) | Done::Ledger { .. } | Done::LedgerRefused { .. } | Done::Written(_),
            ) => None,
        };
        let seed = &mut self.seed;
        let wait_ms = self.roster.change(id, |executor| {
            let removal = executor.stage.removal_mut()?;
            removal.call = None;
            // A request that got a retry delay did not fail: the back-off does not grow.
            Some(retry_ms.unwrap_or_else(|| removal.backoff.failed_ms(seed)))
        });
        self.roster.wake_at(id, self.now.instant + wait_ms.flatten().unwrap_or(0));
    }

    /// Published once, although the eviction is requested repeatedly.
    fn over_budget(&mut self, id: ExecutorId) {
        let mut first = false;
        self.removal(id, |removal| first = !std::mem::replace(&mut removal.over_budget, true));
        if first {
            let refusal = Refusal::DisruptionBudget;
            self.refused(refusal);
            self.log.add(self.now, Some(id), format!("not yet: {}", refusal.meaning()));
        }
    }

    /// Cancel the removal.
    pub(crate) fn stay(&mut self, id: ExecutorId, why: &str) {
        let message = format!("stays: {why}");
        // An executor that was removed as surplus is needed again: not worth a notice.
        match self.book.edit().leaving.remove(&id) {
            Some(DeletionCause::Roll) => self.publish(Reason::RollAbandoned, Some(id), message),
            Some(_) | None => self.log.add(self.now, Some(id), message),
        }
        self.enter(id, Stage::AwaitingStart, self.now.instant);
        self.follow(id);
    }
}
