//! Recovery: detect that an executor is lost, determine why, and remove or keep its pod. SAR's design, with its
//! bugs fixed.
//!
//! A loss has three steps. *Lost*: the executor no longer counts, and its replacement is due at once; the
//! replacement waits for none of the next steps. *Why*: the classifier is asked at once, and again after each
//! check interval while it cannot tell; when the checks are used up the loss is settled as unknown. *Settled*:
//! the verdict is in the ledger; now the pod is removed, or kept for debugging.
//!
//! Until it is settled, a loss by silence is only a suspicion: if the executor is heard again, it returns to
//! service, its question is dropped, and a replacement that already exists is surplus like any other executor.
//! Once its end is being written to the ledger, the loss is final.
//!
//! A second report of the same loss finds the executor lost and changes nothing. SAR counted the second report
//! as a second loss, ignored pods that became `Failed`, and delayed the replacement of a pod whose deletion was
//! refused.

use crate::action::{Cause, Question, Reason, Verb};
use crate::ask::{About, Open};
use crate::event::{Answer, Fault};
use crate::executor::{Executor, Loss, Removal, Stage, Then};
use crate::failures::{Blame, blame};
use crate::fleet::Fleet;
use crate::id::{ActionId, ExecutorId};
use crate::injected_bug::InjectedBug;
use crate::ledger::End;
use crate::observed::PodView;
use crate::outcome::{Done, Outcome};
use crate::question::{Deletion, Driver, Evidence, LossKind, LossReason, Trigger, Verdict};
use crate::spec::LAST_CLASSIFIER;
use crate::time::Instant;
use crate::timing::LOOK_AFTER_MS;

/// Executors that no longer serve and are remembered by id until they are replaced. Only the explanation of a
/// create depends on it.
const OWED_MAX: usize = 1_024;
/// A failed pod check is repeated after this.
const LOOK_AGAIN_MS: u64 = 5_000;

impl Fleet {
    // -------------------------------------------------------------------------------------- lost --

    /// The executor's pod is gone from the API server.
    pub(crate) fn vanished(&mut self, id: ExecutorId, trigger: Trigger) {
        self.roster.change(id, |executor| executor.gone = true);
        // Its share of a quota is free again.
        self.pace.hurry(self.now.instant);
        let Some(executor) = self.roster.get(id) else { return };
        match &executor.stage {
            Stage::AwaitingExit { cause: Some(cause), removal } => {
                let asked = removal.as_ref().is_some_and(Removal::was_asked_for);
                let cause = *cause;
                if asked {
                    self.settle(id, End::Removed(cause), Then::Clear);
                } else {
                    self.lose(id, trigger);
                }
            }
            Stage::AwaitingStart
            | Stage::AwaitingRegistration
            | Stage::Available
            | Stage::AwaitingAnnouncement { .. }
            | Stage::AwaitingExit { cause: None, .. } => self.announced_or_lost(id, trigger),
            Stage::AwaitingRemoval(_) if self.has_bug(InjectedBug::SettledTwice) => self.lose(id, trigger),
            Stage::AwaitingRemoval(_) | Stage::Kept => self.forget(id),
            Stage::AwaitingCreate(_)
            | Stage::AwaitingConfirmation(_)
            | Stage::AwaitingLateCreate
            | Stage::AwaitingReason(_)
            | Stage::AwaitingRecord { .. } => {}
        }
    }

    /// The pod was gone before this process asked for its deletion: an earlier host that announced it will have
    /// asked.
    fn announced_or_lost(&mut self, id: ExecutorId, trigger: Trigger) {
        let unseen = self.roster.get(id).is_some_and(|executor| executor.pod.is_none());
        match self.book.get().leaving.get(&id).copied() {
            Some(cause) if unseen => self.settle(id, End::Removed(cause), Then::Clear),
            Some(_) | None => self.lose(id, trigger),
        }
    }

    /// The executor is lost: find out why. Does nothing if it is already lost.
    pub(crate) fn lose(&mut self, id: ExecutorId, trigger: Trigger) {
        let again = self.has_bug(InjectedBug::SettledTwice);
        let may = |executor: &&Executor| executor.stage.can_be_lost() || again;
        let Some(executor) = self.roster.get(id).filter(may) else {
            return;
        };
        let served = executor.stage.serves();
        let ours = matches!(trigger, Trigger::OperatorKill | Trigger::PendingTimeout);
        let released = !self.owns() && is_release(executor, trigger);
        let kill = trigger == Trigger::OperatorKill;
        if !kill && self.book.get().leaving.contains_key(&id) {
            // The executor ended for another reason before we removed it.
            self.book.edit().leaving.remove(&id);
        }
        if served {
            self.owe(id);
        }
        let target = self.target();
        if trigger == Trigger::HeartbeatTimeout {
            self.mass_silence.lost(self.now.instant, &self.spec.limits, target);
        }
        if !ours && !released && self.mass_loss.lost(self.now.instant, &self.spec.limits, target) {
            self.pace.restart();
            let message = format!("more than {} of {target} executors at once", self.spec.limits.mass_loss);
            self.publish(Reason::MassLoss, None, message);
        }
        self.log.add(self.now, Some(id), format!("lost: {trigger:?}"));
        self.roster.change(id, |executor| executor.rolling = false);
        let heard = self.roster.get(id).and_then(|executor| executor.detector.last_heard());
        let loss = Loss { trigger, heard, checks: 0, asked: None };
        self.enter(id, Stage::AwaitingReason(loss), Instant::NEVER);
        self.asks.push_back(id);
    }

    /// An executor that was given up for its silence is heard before its loss is settled: it is not lost.
    pub(crate) fn heard_again(&mut self, id: ExecutorId) {
        let Some(executor) = self.roster.get(id).filter(|executor| executor.is_silent()) else { return };
        if self.has_bug(InjectedBug::SilenceStands) {
            return;
        }
        let Stage::AwaitingReason(loss) = &executor.stage else { return };
        let lost = executor.since;
        let silence = loss.heard.map(|heard| format!(" after {} ms", self.now.instant.since_ms(heard)));
        let message = format!("heard again{}: it is not lost", silence.unwrap_or_default());
        self.mass_silence.take_back(lost);
        self.mass_loss.take_back(lost);
        self.owed.retain(|owed| *owed != id);
        self.available(id);
        self.publish(Reason::ExecutorHeardAgain, Some(id), message);
    }

    /// The executor no longer serves: a replacement is due.
    pub(crate) fn owe(&mut self, id: ExecutorId) {
        if self.owed.len() == OWED_MAX {
            self.owed.pop_front();
        }
        self.owed.push_back(id);
    }

    pub(crate) fn check_heartbeat(&mut self, id: ExecutorId) {
        let Some(executor) = self.roster.get(id).filter(|_| !self.spec.heartbeat.disabled) else { return };
        let silent_at = executor.detector.silent_at(&self.spec.heartbeat, self.hearing.excused());
        if self.now.instant < silent_at {
            self.roster.wake_at(id, silent_at);
            return;
        }
        // Correlated heartbeat loss points at the network or the listener, not at the executors: wait.
        if let Some(calm) = self.mass_silence.ends().filter(|calm| *calm > self.now.instant) {
            return self.roster.wake_at(id, calm);
        }
        match self.hearing.may_give_up(self.now.instant, &self.spec.heartbeat, self.owns()) {
            Ok(()) => self.lose(id, Trigger::HeartbeatTimeout),
            Err(later) => self.roster.wake_at(id, later),
        }
    }

    /// The executor has not started, or not registered, for too long. In mode Observe the driver handles that.
    pub(crate) fn check_pending(&mut self, id: ExecutorId) {
        let Some(executor) = self.roster.get(id) else { return };
        let runs = matches!(executor.stage, Stage::AwaitingRegistration);
        if runs && self.spec.heartbeat.disabled {
            return self.available(id);
        }
        if !self.owns() {
            return;
        }
        if runs && executor.registered {
            // An earlier host heard it, so its silence counts.
            return self.check_heartbeat(id);
        }
        if executor.is_gated() && !self.has_bug(InjectedBug::GatedIsLate) {
            // The pod waits for admission, and a replacement would wait as long. Its start timeout begins at
            // admission.
            return;
        }
        let due = self.start_due(executor);
        if self.now.instant < due {
            self.roster.wake_at(id, due);
            return;
        }
        let may = if runs {
            self.hearing.may_give_up(self.now.instant, &self.spec.heartbeat, true)
        } else {
            Ok(())
        };
        match may {
            // Either the pod is late or our watch is. Check the pod before giving it up. Give up one executor
            // after another, with growing delays: if many cannot start, replacing them does not help.
            Ok(()) if self.now.instant < self.pending_from => self.roster.wake_at(id, self.pending_from),
            Ok(()) => self.look(id),
            Err(later) => self.roster.wake_at(id, later),
        }
    }

    /// Until when the executor has time to start, or to send its first heartbeat. Heartbeats that we may have
    /// rejected do not count as silence.
    fn start_due(&self, executor: &Executor) -> Instant {
        let runs = matches!(executor.stage, Stage::AwaitingRegistration);
        let from = if runs { executor.since.max(self.hearing.excused()) } else { executor.since };
        from + self.spec.allocation.pending_timeout_ms + 1
    }

    pub(crate) fn look(&mut self, id: ExecutorId) {
        if self.roster.get(id).is_none_or(|executor| executor.look.is_some()) {
            return;
        }
        let verb = Verb::GetPod { executor: id, pod: self.pod_name(id) };
        let action = self.act(Cause::Doubt(id), verb);
        self.roster.change(id, |executor| executor.look = Some(action));
    }

    /// The API server's answer about a pod that is late.
    pub(crate) fn looked(&mut self, id: ExecutorId, outcome: Outcome) {
        self.roster.change(id, |executor| executor.look = None);
        let late = self.roster.get(id).is_some_and(|e| matches!(e.stage, Stage::AwaitingLateCreate));
        match outcome {
            Outcome::Ok(Done::Pod(pod)) if late && self.is_ours(&pod) => self.created(id, *pod),
            Outcome::Ok(Done::Pod(_)) | Outcome::NotFound if late => self.forget(id),
            Outcome::Ok(Done::Pod(pod)) => {
                let ran = self.runs_unheard(id);
                self.pod_changed(*pod);
                let pends = self.roster.get(id).is_some_and(|e| matches!(e.stage, Stage::AwaitingStart));
                let gated = self.roster.get(id).is_some_and(Executor::is_gated);
                // A pod that turns out to run gets its time to register, and a gated one its time to be admitted.
                let unheard = ran && self.runs_unheard(id);
                // Its heartbeats may have been rejected during the check.
                let due = self.roster.get(id).map_or(Instant::NEVER, |executor| self.start_due(executor));
                if unheard && self.now.instant < due {
                    self.roster.wake_at(id, due);
                } else if pends && (!gated || self.has_bug(InjectedBug::GatedIsLate)) || unheard {
                    self.pending_from = self.now.instant + self.pending.failed_ms(&mut self.seed);
                    self.lose(id, Trigger::PendingTimeout);
                } else if self.roster.get(id).is_some_and(|executor| executor.stage.awaits_end()) {
                    self.wait_for_end(id);
                }
            }
            Outcome::NotFound => self.vanished(id, Trigger::PodMissing),
            Outcome::Ok(
                Done::Ledger { .. } | Done::LedgerRefused { .. } | Done::Written(_) | Done::Deleted,
            )
            | Outcome::AlreadyExists
            | Outcome::Conflict
            | Outcome::Throttled { .. }
            | Outcome::Budget
            | Outcome::Forbidden(_)
            | Outcome::Invalid(_)
            | Outcome::Unknown(_) => {
                self.roster.wake_at(id, self.now.instant + LOOK_AGAIN_MS);
            }
        }
    }

    /// The pod was checked while its end is awaited: it is still terminating, or its deletion was never requested.
    fn wait_for_end(&mut self, id: ExecutorId) {
        let wait_ms = self.roster.change(id, |executor| {
            let going = executor.pod.as_deref().is_some_and(|pod| pod.terminating());
            let removal = executor.stage.removal_mut()?;
            removal.accepted = going;
            (!going).then_some(0)
        });
        self.roster.wake_at(id, self.now.instant + wait_ms.flatten().unwrap_or(LOOK_AFTER_MS));
    }

    fn runs_unheard(&self, id: ExecutorId) -> bool {
        self.roster.get(id).is_some_and(|executor| matches!(executor.stage, Stage::AwaitingRegistration))
    }

    // --------------------------------------------------------------------------------------- why --

    /// Ask the first available classifier of the chain.
    pub(crate) fn ask_why(&mut self, id: ExecutorId) {
        let waits = |executor: &&Executor| matches!(&executor.stage, Stage::AwaitingReason(loss) if loss.asked.is_none());
        if self.roster.get(id).filter(waits).is_some() {
            self.ask_why_from(id, 0);
        }
    }

    fn ask_why_from(&mut self, id: ExecutorId, place: usize) {
        let Some(evidence) = self.evidence(id) else { return };
        let chain = self.spec.recovery.policies.iter().map(String::as_str).chain([LAST_CLASSIFIER]);
        let Some((place, policy)) = self.asker.next(chain, place, self.now.instant) else {
            self.undetermined(id);
            return;
        };
        let question = Question::Loss(Box::new(evidence));
        let action = self.act(Cause::Loss(id), Verb::Ask { policy: policy.clone(), question });
        self.asker.asked(action, About::Loss(id), place, policy, self.now.instant);
        self.roster.change(id, |executor| {
            if let Stage::AwaitingReason(loss) = &mut executor.stage {
                loss.asked = Some(action);
            }
        });
    }

    /// All evidence about the executor's loss.
    fn evidence(&self, id: ExecutorId) -> Option<Evidence> {
        let executor = self.roster.get(id)?;
        let Stage::AwaitingReason(loss) = &executor.stage else { return None };
        // Use one clock: a wall clock that jumps between two questions must not change how long it was silent.
        let lost_ms = i64::try_from(self.now.instant.since_ms(executor.since)).unwrap_or(i64::MAX);
        let heard = match loss.trigger {
            Trigger::HeartbeatTimeout => loss.heard,
            Trigger::PodFailed
            | Trigger::PodSucceeded
            | Trigger::PodDeleted
            | Trigger::PodMissing
            | Trigger::DriverRemoved
            | Trigger::PendingTimeout
            | Trigger::OperatorKill => executor.detector.last_heard(),
        };
        let driver = match &self.driver {
            None => Driver::Unknown,
            Some(_) if self.driver_gone() => Driver::Gone,
            Some(_) => Driver::Running,
        };
        let pod = executor.pod.as_deref().map(|pod| {
            let mut status = (*pod.status).clone();
            status.gone = executor.gone;
            status.node_name = pod.node.as_deref().map(str::to_owned);
            status
        });
        let why = self.book.get().leaving.get(&id).copied();
        Some(Evidence {
            fleet: self.spec.name.clone(),
            application_id: self.spec.application_id.clone(),
            executor_id: id.0,
            pod_name: self.pod_name(id).into(),
            now_ms: self.now.wall_ms,
            trigger: loss.trigger,
            lost_at_ms: self.now.wall_ms.saturating_sub(lost_ms),
            checks_made: loss.checks,
            checks_max: self.spec.recovery.checks_max,
            // Without heartbeats no executor registers, and a running one counts as available.
            ever_registered: executor.registered || executor.proven,
            since_heartbeat_ms: heard.map(|heard| self.now.instant.since_ms(heard)),
            our_deletion: why.map(|why| Deletion { why, at_ms: self.now.wall_ms }),
            driver,
            driver_remove_reason: executor.driver_said.as_deref().map(str::to_owned),
            pod,
            node: executor.node().and_then(|node| self.nodes.get(node)).map(|node| node.state.clone()),
        })
    }

    pub(crate) fn answered(&mut self, action: ActionId, answer: Result<Answer, Fault>) {
        let Some(open) = self.asker.close(action) else { return };
        match (open.about, answer) {
            (About::Loss(id), Ok(Answer::Loss(verdict))) => {
                self.asker.answered(&open.policy);
                if !self.is_asked(id, action) {
                    return;
                }
                match verdict {
                    Verdict::Known(reason) => self.verdict(id, reason),
                    Verdict::Undetermined => self.undetermined(id),
                    Verdict::Abstain => self.ask_why_from(id, open.place + 1),
                }
            }
            (About::Roll, Ok(Answer::Roll(selection))) => {
                self.asker.answered(&open.policy);
                self.selected(action, &open, selection);
            }
            (_, Err(fault)) => self.faulted(action, &open, &fault),
            (About::Loss(_), Ok(Answer::Roll(_))) | (About::Roll, Ok(Answer::Loss(_))) => {
                self.faulted(action, &open, &Fault::Host("the answer to another question".to_owned()));
            }
        }
    }

    /// The time for an answer is over.
    pub(crate) fn unanswered(&mut self, action: ActionId, open: Open) {
        self.faulted(action, &open, &Fault::Host("no answer in time".to_owned()));
    }

    fn faulted(&mut self, action: ActionId, open: &Open, fault: &Fault) {
        let (Fault::Policy(message) | Fault::Host(message)) = fault;
        let reason = match fault {
            Fault::Policy(_) => Reason::PolicyFault,
            // The policy is not to blame for it.
            Fault::Host(_) => Reason::PolicyNotAsked,
        };
        self.publish(reason, None, format!("{}: {message}", open.policy));
        if self.asker.failed(&open.policy, fault, self.now.instant) {
            self.publish(Reason::PolicyQuarantined, None, format!("{} is skipped for a while", open.policy));
        }
        match open.about {
            About::Loss(id) if self.is_asked(id, action) => self.ask_why_from(id, open.place + 1),
            About::Loss(_) => {}
            About::Roll => self.roll_unanswered(action, open.place + 1),
        }
    }

    fn is_asked(&self, id: ExecutorId, action: ActionId) -> bool {
        let executor = self.roster.get(id);
        executor.is_some_and(
            |executor| matches!(&executor.stage, Stage::AwaitingReason(loss) if loss.asked == Some(action)),
        )
    }

    /// This check was inconclusive. Ask again after the interval, or settle the loss as unknown.
    fn undetermined(&mut self, id: ExecutorId) {
        let max = self.spec.recovery.checks_max;
        let again = self.roster.change(id, |executor| {
            let Stage::AwaitingReason(loss) = &mut executor.stage else { return false };
            loss.asked = None;
            let again = loss.checks < max;
            loss.checks += 1;
            again
        });
        if again == Some(true) {
            self.roster.wake_at(id, self.now.instant + self.spec.recovery.check_interval_ms);
        } else {
            // The wording of SAR.
            let message = "Executor lost for unknown reasons.".to_owned();
            let kind = LossKind::Unknown;
            let reason =
                LossReason { kind, message, exit_caused_by_app: false, exit_code: None, keep_pod: false };
            self.verdict(id, reason);
        }
    }

    fn verdict(&mut self, id: ExecutorId, reason: LossReason) {
        let ours = self.book.get().leaving.get(&id).copied();
        let Some(executor) = self.roster.get(id) else { return };
        let pod = executor.pod.as_deref();
        let disrupted = pod.is_some_and(PodView::disrupted);
        let node = executor.node().map(Box::<str>::from);
        let (proven, registered) = (executor.proven, executor.registered);
        let ended = pod.is_some_and(PodView::executor_ended);
        // A pod whose sidecar still runs is not kept: it would hold its place and its node's memory.
        let whole = pod.is_some_and(PodView::ended) && !executor.gone && !executor.is_terminating();
        // A failure must be observed: an executor that vanished has not failed, regardless of the verdict.
        let late =
            matches!(&executor.stage, Stage::AwaitingReason(loss) if loss.trigger == Trigger::PendingTimeout);
        let seen = ended || late;
        let explained = node
            .as_deref()
            .and_then(|node| self.nodes.get(node))
            .is_some_and(|node| node.explains_a_kill() && !self.has_bug(InjectedBug::ReclaimsAreFailures));
        let always = self.has_bug(InjectedBug::RemovalsAreFailures);
        if ours.is_none() || always {
            let blame = blame(&reason, explained);
            let failed = always || blame == Blame::Fleet && seen && !disrupted;
            let excused = self.failures.excuses(&reason.kind, self.now.instant);
            if failed && !excused {
                self.count_failure(&reason.kind);
            }
            let at_its_start = match blame {
                Blame::Fleet => failed || disrupted,
                // An executor that started under an earlier leader did not fail at its start.
                Blame::Cluster => !registered,
                Blame::Nothing => false,
            };
            if at_its_start && !proven {
                self.start_failed(id);
            }
            if let Some(node) = node.filter(|_| !reason.exit_caused_by_app && !excused) {
                self.node_losses.lost(&node, self.now.instant, &self.spec.allocation);
            }
        }
        self.start_forgotten(id);
        let message = format!("{}: {}", reason.kind.name(), reason.message);
        self.publish(Reason::ExecutorLost, Some(id), message);
        let end = ours.map_or(End::Lost(reason.kind), End::Removed);
        // In mode Observe the driver removes the pod, unless an operator asked for it.
        let then = if !self.owns() && ours.is_none() {
            Then::Forget
        } else if reason.keep_pod && whole && self.spec.recovery.kept_pods_max > 0 {
            Then::Keep
        } else {
            Then::Clear
        };
        self.settle(id, end, then);
    }

    // ----------------------------------------------------------------------------------- settled --

    /// Count the executor's end, and continue when that is recorded.
    pub(crate) fn settle(&mut self, id: ExecutorId, end: End, then: Then) {
        if let End::Removed(cause) = &end {
            let message = format!("removed: {}", cause.name());
            self.publish(Reason::ExecutorRemoved, Some(id), message);
            self.start_forgotten(id);
        }
        let again = self.has_bug(InjectedBug::SettledTwice);
        let ledger = self.book.edit();
        ledger.settle(id, end, again);
        if then == Then::Keep {
            ledger.kept.insert(id);
        }
        let mark = self.record(id);
        self.enter(id, Stage::AwaitingRecord { mark, then }, Instant::NEVER);
        if self.has_bug(InjectedBug::ActBeforeRecord) {
            self.recorded(id);
        }
    }

    /// The ledger write that the executor waited for is done.
    pub(crate) fn recorded(&mut self, id: ExecutorId) {
        let Some(executor) = self.roster.get(id) else { return };
        if let Stage::AwaitingAnnouncement { cause, mark } = executor.stage {
            if self.book.is_confirmed(mark) {
                self.leave_on(id, cause);
            }
            return;
        }
        let Stage::AwaitingRecord { mark, then } = executor.stage else { return };
        if !self.book.is_confirmed(mark) && !self.has_bug(InjectedBug::ActBeforeRecord) {
            return;
        }
        match (then, executor.pod.as_deref().filter(|_| !executor.gone)) {
            (Then::Forget, _) | (_, None) => self.forget(id),
            (Then::Keep, Some(_)) => {
                self.enter(id, Stage::Kept, self.now.instant + self.spec.recovery.kept_pods_ms);
                self.keep_within_limit();
            }
            (Then::Clear, Some(pod)) => {
                let mut removal = Removal::new(false);
                removal.accepted = pod.terminating();
                let wait_ms = if removal.accepted { LOOK_AFTER_MS } else { 0 };
                self.enter(id, Stage::AwaitingRemoval(removal), self.now.instant + wait_ms);
            }
        }
    }

    pub(crate) fn forget(&mut self, id: ExecutorId) {
        self.roster.remove(id);
        if self.book.get().kept.contains(id) {
            self.book.edit().kept.remove(id);
        }
    }

    pub(crate) fn check_kept(&mut self, id: ExecutorId) {
        let Some(executor) = self.roster.get(id) else { return };
        let until = executor.since + self.spec.recovery.kept_pods_ms;
        if self.now.instant < until {
            self.roster.wake_at(id, until);
            self.keep_within_limit();
        } else {
            self.keep_no_more(id);
        }
    }

    fn keep_within_limit(&mut self) {
        while self.roster.tally().kept > self.spec.recovery.kept_pods_max {
            let kept =
                |(id, executor): (ExecutorId, &Executor)| matches!(executor.stage, Stage::Kept).then_some(id);
            let Some(oldest) = self.roster.iter().find_map(kept) else { return };
            self.keep_no_more(oldest);
        }
    }

    fn keep_no_more(&mut self, id: ExecutorId) {
        self.book.edit().kept.remove(id);
        self.enter(id, Stage::AwaitingRemoval(Removal::new(false)), self.now.instant);
    }

    pub(crate) fn pod_name(&self, id: ExecutorId) -> Box<str> {
        let known = self.roster.get(id).and_then(|executor| executor.pod.as_ref());
        known.map_or_else(|| self.spec.pod_name(id), |pod| pod.name.clone())
    }

    /// Count a failure against the fleet's limit.
    fn count_failure(&mut self, kind: &LossKind) {
        let window_ms = self.spec.recovery.failures_window_ms;
        let max = self.spec.failures_max(self.target());
        if let Some(failures) = self.failures.count(kind, self.now, self.book.edit(), window_ms, max) {
            let message = format!("{failures} executors failed; {max} are allowed");
            self.publish(Reason::FleetFailed, None, message);
        }
    }

    /// If its spec says so, a failed fleet ends its application: repeats until the driver's pod is gone.
    pub(crate) fn end_application(&mut self) {
        if self.ending_deadline().is_some_and(|due| due <= self.now.instant) {
            let uid = self.spec.driver.clone();
            self.ending.call = Some(self.act(Cause::Failed, Verb::DeleteDriver { uid }));
        }
    }

    pub(crate) fn ending_finished(&mut self, outcome: &Outcome) {
        self.ending.call = None;
        if let Outcome::Forbidden(why) | Outcome::Invalid(why) = outcome {
            self.publish(Reason::FailedDelete, None, format!("the driver: {why}"));
        }
        self.ending.due = self.now.instant + self.ending.backoff.failed_ms(&mut self.seed);
    }

    /// When the driver's deletion is requested, or requested again.
    pub(crate) fn ending_deadline(&self) -> Option<Instant> {
        let wanted = self.book.get().failed && self.spec.recovery.failed_deletes_driver;
        let free = self.ending.call.is_none() && !self.driver_gone() && self.may_change_pods().is_ok();
        (wanted && free).then_some(self.ending.due)
    }
}

/// A driver that releases idle executors ends them successfully or deletes their pods. A pod that Kubernetes
/// deletes has a disruption condition.
fn is_release(executor: &Executor, trigger: Trigger) -> bool {
    let disrupted = executor.pod.as_deref().is_some_and(PodView::disrupted);
    trigger == Trigger::PodSucceeded || trigger == Trigger::PodDeleted && !disrupted
}
