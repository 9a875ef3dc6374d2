//! The executors, with everything that the effects of their transitions touch: the ledger, the outbox, the rates of
//! creation and the meaning of losses.
//!
//! [`Executors::change`] runs a transition of `lifecycle` on one executor, and `apply` carries out the effects that
//! it returned. No other code does either.

use crate::action::{Cause, Reason, Verb};
use crate::backoff::Seed;
use crate::breaker::Turn;
use crate::creation::Creation;
use crate::env::Env;
use crate::executor::{Executor, Stage, Then};
use crate::guardrail::Bounds;
use crate::id::ExecutorId;
use crate::injected_bug::InjectedBug;
use crate::ledger::{End, LedgerWriter};
use crate::lifecycle::{Context, Effect, end};
use crate::losses::Losses;
use crate::observed::NodeView;
use crate::outbox::Outbox;
use crate::plan::allocate::{Rates, wanted};
use crate::question::{DeletionCause, LossReason, Trigger};
use crate::signals::Signals;
use crate::spec::{ScaleDown, ValidatedSpec};
use crate::table::ExecutorTable;
use crate::time::Instant;

#[derive(Debug)]
pub(crate) struct Executors {
    pub table: ExecutorTable,
    pub ledger: LedgerWriter,
    pub outbox: Outbox,
    pub signals: Signals,
    pub losses: Losses,
    pub creation: Creation,
    pub seed: Seed,
}

impl Executors {
    pub(crate) fn new(spec: &ValidatedSpec, seed: u64) -> Executors {
        Executors {
            table: ExecutorTable::default(),
            ledger: LedgerWriter::new(seed),
            outbox: Outbox::default(),
            signals: Signals::new(),
            losses: Losses::new(&spec.allocation),
            creation: Creation::new(&spec.allocation),
            seed: Seed::new(seed),
        }
    }

    #[cfg(feature = "injected-bugs")]
    pub(crate) fn inject(&mut self, bug: InjectedBug) {
        if bug == InjectedBug::LeadersAlike {
            self.ledger = LedgerWriter::new(0);
        }
        if bug == InjectedBug::LedgerUnchecked {
            self.ledger.believe_all();
        }
    }

    /// The desired number of executors: the number an operator requested, until the spec's target changes. If
    /// the driver manages the executors and the spec has no target: the current number.
    pub(crate) fn target(&self, env: Env<'_>) -> u32 {
        let spec = env.spec;
        if !env.owns() && spec.target == 0 {
            return self.table.tally().serving;
        }
        let ledger = self.ledger.get();
        let requested = ledger.requested.filter(|_| self.is_commanded(env));
        requested.map_or(spec.target, |requested| requested.total).min(spec.limits.max_executors)
    }

    pub(crate) fn bounds(&self, env: Env<'_>) -> Bounds {
        Bounds::new(env.spec, self.target(env))
    }

    /// The limits of creates that end by time.
    pub(crate) fn rates(&self) -> Rates<'_> {
        Rates { pace: &self.creation.pace, breaker: &self.losses.breaker, creates: self.creation.creates() }
    }

    /// Did an operator's command set the target?
    pub(crate) fn is_commanded(&self, env: Env<'_>) -> bool {
        self.ledger.get().requested.is_some_and(|requested| requested.spec_target == env.spec.target)
    }

    /// Are there more executors than wanted, and does the driver remove those that run?
    fn is_superfluous(&self, env: Env<'_>) -> bool {
        env.owns() && env.spec.scale_down == ScaleDown::Driver && {
            let tally = self.table.tally();
            tally.serving > wanted(tally, &self.bounds(env), env)
        }
    }

    /// Runs a transition of one executor, and carries out its effects.
    pub(crate) fn change(
        &mut self,
        id: ExecutorId,
        env: Env<'_>,
        transition: impl FnOnce(&mut Executor, &mut Context<'_>),
    ) {
        let mut cx = Context {
            env,
            id,
            leaving: self.ledger.get().leaving.get(&id).copied(),
            mark: self.ledger.next_write(),
            target: self.target(env),
            superfluous: self.is_superfluous(env),
            excused: self.signals.liveness().excused(),
            effects: Vec::new(),
            seed: &mut self.seed,
        };
        let changed = self.table.change(id, |executor| transition(executor, &mut cx));
        let effects = cx.effects;
        if changed.is_some() {
            for effect in effects {
                self.apply(id, effect, env);
            }
        }
    }

    fn apply(&mut self, id: ExecutorId, effect: Effect, env: Env<'_>) {
        let now = env.instant();
        match effect {
            Effect::Forget => self.forget(id),
            Effect::RecordCreated => self.ledger.edit().record_created(id),
            Effect::RecordRemoval { cause, mark } => {
                self.ledger.edit().leaving.insert(id, cause);
                self.outbox.await_record(mark, id);
                self.outbox.note(env.now, Some(id), format!("to go: {cause:?}"));
            }
            Effect::CancelRemoval { cause, why } => self.removal_cancelled(id, cause, why, env),
            Effect::RecordEnd { end, keep, mark } => self.record_end(id, end, keep, mark, env),
            Effect::KeepNoMore => {
                self.ledger.edit().kept.remove(id);
            }
            Effect::LimitKept => self.limit_kept(env),
            Effect::OweReplacement => self.creation.owe_replacement(id),
            Effect::Lost { trigger, served, released, target } => {
                self.lost(id, trigger, served, released, target, env);
            }
            Effect::HeardAgain { lost } => {
                self.losses.take_back(lost);
                self.creation.not_owed(id);
            }
            Effect::Started => self.started(id, env),
            Effect::StartForgotten => self.losses.breaker.forget(id),
            Effect::QuotaFreed => self.creation.pace.hurry(now),
            Effect::CreateSucceeded => self.creation.pace.succeeded(env.spec.allocation.batch_size),
            Effect::CreateFailed => {
                self.creation.create_failed(None, now, &mut self.seed);
            }
            Effect::NotCreated { after_ms, why } => self.not_created(id, after_ms, why, env),
            Effect::CreateInDoubt(why) => {
                if self.creation.create_failed(None, now, &mut self.seed) {
                    self.publish(id, Reason::FailedCreate, format!("it may exist or not: {why}"), env);
                }
            }
            Effect::PendingTimeout => self.creation.pending_timed_out(now, &mut self.seed),
            Effect::Silent => self.silent(id, env),
            Effect::StartOverdue { unheard } => self.start_overdue(id, unheard, env),
            Effect::AskWhy => self.losses.ask_about(id),
            Effect::ConfirmCreate => self.confirm_create(id, env),
            Effect::VerifyPod => self.verify_pod(id, env),
            Effect::RequestRemoval { cause, verb } => {
                self.creation.take_delete(env);
                let action = self.outbox.act(cause, verb);
                let call = |executor: &mut Executor| {
                    executor.stage.removal_mut().map(|removal| removal.call = Some(action))
                };
                self.table.change(id, call);
            }
            Effect::Refused(refusal) => self.outbox.refused(refusal),
            Effect::Note(text) => self.outbox.note(env.now, Some(id), text),
            Effect::Publish(reason, message) => self.publish(id, reason, message, env),
        }
    }

    /// Publish a notice about an executor.
    pub(crate) fn publish(&mut self, id: ExecutorId, reason: Reason, message: String, env: Env<'_>) {
        let seen = self.table.get(id).is_some_and(|executor| executor.pod.is_some());
        let pod = (seen || env.owns()).then(|| self.table.pod_name(id, env.spec));
        self.outbox.publish_about(env.now, reason, Some(id), pod, message);
    }

    // ---------------------------------------------------------------------------------- creation --

    /// Send the create of an executor.
    pub(crate) fn create(&mut self, id: ExecutorId, avoid_nodes: Vec<Box<str>>, env: Env<'_>) {
        let replaces = self.creation.take_create(env);
        let verb = Verb::CreatePod { executor: id, pod: env.spec.pod_name(id), avoid_nodes };
        let action = self.outbox.act(Cause::Shortfall { replaces }, verb);
        let mut executor = Executor::new(Stage::AwaitingCreate(action), env.instant());
        executor.replaces = replaces;
        self.table.insert(id, executor);
        self.losses.breaker.created(id, env.instant());
        self.outbox.note(env.now, Some(id), "created");
    }

    /// Definitely refused: the id was never used.
    fn not_created(&mut self, id: ExecutorId, after_ms: Option<u64>, why: Option<String>, env: Env<'_>) {
        self.losses.breaker.forget(id);
        self.table.remove(id);
        self.ledger.give_back(id);
        self.creation.create_failed(after_ms, env.instant(), &mut self.seed);
        if let Some(why) = why {
            self.publish(id, Reason::FailedCreate, why, env);
        }
    }

    /// An executor became available for the first time.
    fn started(&mut self, id: ExecutorId, env: Env<'_>) {
        self.creation.started();
        self.outbox.note(env.now, Some(id), "available");
        if self.losses.breaker.started() == Turn::Closed {
            let message = "an executor became available".to_owned();
            self.publish(id, Reason::BreakerClosed, message, env);
        }
    }

    /// Check whether the pod of an unknown create exists.
    fn confirm_create(&mut self, id: ExecutorId, env: Env<'_>) {
        let verb = Verb::GetPod { executor: id, pod: env.spec.pod_name(id) };
        let action = self.outbox.act(Cause::Doubt(id), verb);
        self.table.change(id, |executor| {
            if let Stage::AwaitingConfirmation(confirmation) = &mut executor.stage {
                confirmation.get = Some(action);
            }
        });
    }

    /// Check whether a late pod is stuck, or only our view of it.
    fn verify_pod(&mut self, id: ExecutorId, env: Env<'_>) {
        if self.table.get(id).is_none_or(|executor| executor.verifying.is_some()) {
            return;
        }
        let verb = Verb::GetPod { executor: id, pod: self.table.pod_name(id, env.spec) };
        let action = self.outbox.act(Cause::Doubt(id), verb);
        self.table.change(id, |executor| executor.verifying = Some(action));
    }

    // ------------------------------------------------------------------------------------ losses --

    /// The executor is silent for longer than the timeout.
    fn silent(&mut self, id: ExecutorId, env: Env<'_>) {
        // Correlated heartbeat loss points at the network or the listener, not at the executors: wait.
        if let Some(calm) = self.losses.silence_ends(env.instant()) {
            return self.table.wake_at(id, calm);
        }
        match self.signals.may_give_up(env, env.owns()) {
            Ok(()) => self.mark_lost(id, Trigger::HeartbeatTimeout, env),
            Err(later) => self.table.wake_at(id, later),
        }
    }

    /// The executor did not start, or was not heard, in time. Either the pod is late or our watch is: verify the pod
    /// before giving it up.
    fn start_overdue(&mut self, id: ExecutorId, unheard: bool, env: Env<'_>) {
        let may = if unheard { self.signals.may_give_up(env, true) } else { Ok(()) };
        match may {
            Ok(()) if env.instant() < self.creation.pending_from() => {
                self.table.wake_at(id, self.creation.pending_from());
            }
            Ok(()) => self.verify_pod(id, env),
            Err(later) => self.table.wake_at(id, later),
        }
    }

    pub(crate) fn mark_lost(&mut self, id: ExecutorId, trigger: Trigger, env: Env<'_>) {
        self.change(id, env, |executor, cx| end::mark_lost(executor, trigger, cx));
    }

    fn lost(
        &mut self,
        id: ExecutorId,
        trigger: Trigger,
        served: bool,
        released: bool,
        target: u32,
        env: Env<'_>,
    ) {
        if trigger != Trigger::OperatorKill && self.ledger.get().leaving.contains_key(&id) {
            // The executor ended for another reason before we removed it.
            self.ledger.edit().leaving.remove(&id);
        }
        if served {
            self.creation.owe_replacement(id);
        }
        if self.losses.lost(trigger, released, target, env) {
            self.creation.pace.restart();
            let message = format!("more than {} of {target} executors at once", env.spec.limits.mass_loss);
            self.outbox.publish(env.now, Reason::MassLoss, message);
        }
        self.outbox.note(env.now, Some(id), format!("lost: {trigger:?}"));
    }

    /// The classifier's verdict about a lost executor. `node`: the executor's.
    pub(crate) fn verdict(
        &mut self,
        id: ExecutorId,
        reason: &LossReason,
        node: Option<&NodeView>,
        env: Env<'_>,
    ) {
        let ours = self.ledger.get().leaving.get(&id).copied();
        let Some(executor) = self.table.get(id) else { return };
        let judgement = self.losses.judge(executor, reason, ours, node, env);
        if judgement.counts {
            let max = env.spec.max_executor_failures(self.target(env));
            if let Some(failures) = self.losses.count_failure(reason, max, &mut self.ledger, env) {
                let message = format!("{failures} executors failed; {max} are allowed");
                self.outbox.publish(env.now, Reason::FleetFailed, message);
            }
        }
        if judgement.failed_at_start
            && let Some(count) = self.losses.start_failed(id, env, &mut self.seed)
        {
            let message = format!("{count} executors in a row failed as they started");
            self.publish(id, Reason::BreakerOpened, message, env);
        }
        if let Some(node) = &judgement.node {
            self.losses.lost_on(node, env);
        }
        self.losses.breaker.forget(id);
        self.publish(id, Reason::ExecutorLost, format!("{}: {}", reason.kind.name(), reason.message), env);
        self.settle(id, judgement.end, judgement.then, env);
    }

    fn settle(&mut self, id: ExecutorId, end: End, then: Then, env: Env<'_>) {
        self.change(id, env, |executor, cx| end::settle(executor, end, then, cx));
    }

    // -------------------------------------------------------------------------------------- ends --

    /// Count the executor's end, and continue when that is recorded.
    fn record_end(&mut self, id: ExecutorId, end: End, keep: bool, mark: u64, env: Env<'_>) {
        if let End::Removed(cause) = &end {
            self.publish(id, Reason::ExecutorRemoved, format!("removed: {}", cause.name()), env);
            self.losses.breaker.forget(id);
        }
        let again = env.has_bug(InjectedBug::SettledTwice);
        let ledger = self.ledger.edit();
        ledger.settle(id, end, again);
        if keep {
            ledger.kept.insert(id);
        }
        self.outbox.await_record(mark, id);
        if env.has_bug(InjectedBug::ActBeforeRecord) {
            self.recorded(id, env);
        }
    }

    /// A ledger write that the executor waited for is done.
    pub(crate) fn recorded(&mut self, id: ExecutorId, env: Env<'_>) {
        let confirmed = self.ledger.confirmed();
        self.change(id, env, |executor, cx| end::recorded(executor, confirmed, cx));
    }

    fn removal_cancelled(&mut self, id: ExecutorId, cause: Option<DeletionCause>, why: &str, env: Env<'_>) {
        self.ledger.edit().leaving.remove(&id);
        let message = format!("stays: {why}");
        // An executor that was removed as surplus is needed again: not worth a notice.
        match cause {
            Some(DeletionCause::Roll) => self.publish(id, Reason::RollAbandoned, message, env),
            Some(_) | None => self.outbox.note(env.now, Some(id), message),
        }
    }

    fn limit_kept(&mut self, env: Env<'_>) {
        while self.table.tally().kept > env.spec.recovery.max_kept_pods {
            let kept =
                |(id, executor): (ExecutorId, &Executor)| matches!(executor.stage, Stage::Kept).then_some(id);
            let Some(oldest) = self.table.iter().find_map(kept) else { return };
            self.change(oldest, env, end::stop_keeping);
        }
    }

    fn forget(&mut self, id: ExecutorId) {
        self.table.remove(id);
        if self.ledger.get().kept.contains(id) {
            self.ledger.edit().kept.remove(id);
        }
    }

    /// When the deletion of a failed fleet's driver may be requested, if its spec asks for that.
    pub(crate) fn ending_due(&self, env: Env<'_>) -> Option<Instant> {
        let wanted = self.ledger.get().failed && env.spec.recovery.failed_deletes_driver;
        self.losses.ending_due().filter(|_| wanted)
    }
}
