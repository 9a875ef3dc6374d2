//! What losses mean for the fleet: incidents, failures, failed starts, bad nodes, and the end of the application.

use std::collections::VecDeque;

use crate::action::{Cause, Reason, Verb};
use crate::backoff::Seed;
use crate::breaker::{Breaker, Turn};
use crate::ending::Ending;
use crate::env::Env;
use crate::executor::{Executor, Stage, Then};
use crate::failures::{Blame, Failures, blame};
use crate::guardrail::{MassLoss, NodeLosses};
use crate::id::{ActionId, ExecutorId};
use crate::injected_bug::InjectedBug;
use crate::ledger::{End, LedgerWriter};
use crate::observed::{NodeView, PodView};
use crate::outbox::Outbox;
use crate::outcomes::DriverDeleteOutcome;
use crate::question::{DeletionCause, LossReason, Trigger};
use crate::spec::AllocationSpec;
use crate::time::Instant;

#[derive(Debug)]
pub(crate) struct Losses {
    pub breaker: Breaker,
    /// Losses to be classified when the asker has room.
    asks: VecDeque<ExecutorId>,
    mass_loss: MassLoss,
    /// The subset of losses that are known only by silence.
    mass_silence: MassLoss,
    node_losses: NodeLosses,
    ending: Ending,
    failures: Failures,
}

/// What a verdict means, apart from the end of its executor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judgement {
    /// It counts against the fleet's failure limit.
    pub counts: bool,
    /// The executor failed before it was ever available.
    pub failed_at_start: bool,
    /// The node on which it is counted.
    pub node: Option<Box<str>>,
    pub end: End,
    pub then: Then,
}

impl Losses {
    pub(crate) fn new(spec: &AllocationSpec) -> Losses {
        Losses {
            breaker: Breaker::new(spec),
            asks: VecDeque::new(),
            mass_loss: MassLoss::default(),
            mass_silence: MassLoss::default(),
            node_losses: NodeLosses::default(),
            ending: Ending::new(),
            failures: Failures::default(),
        }
    }

    // -------------------------------------------------------------------------------------- asks --

    /// The classifier has to be asked about the executor.
    pub(crate) fn ask_about(&mut self, id: ExecutorId) {
        self.asks.push_back(id);
    }

    pub(crate) fn next_to_ask(&mut self) -> Option<ExecutorId> {
        self.asks.pop_front()
    }

    // --------------------------------------------------------------------------------- incidents --

    /// An executor was lost. Returns whether an incident begins with it. `released`: its driver released it.
    pub(crate) fn lost(&mut self, trigger: Trigger, released: bool, target: u32, env: Env<'_>) -> bool {
        let (now, limits) = (env.now.instant, &env.spec.limits);
        if trigger == Trigger::HeartbeatTimeout {
            self.mass_silence.lost(now, limits, target);
        }
        let ours = matches!(trigger, Trigger::OperatorKill | Trigger::PendingTimeout);
        !ours && !released && self.mass_loss.lost(now, limits, target)
    }

    /// An executor that was given up for its silence at `lost` is heard again.
    pub(crate) fn take_back(&mut self, lost: Instant) {
        self.mass_silence.take_back(lost);
        self.mass_loss.take_back(lost);
    }

    pub(crate) fn mass_loss(&self) -> &MassLoss {
        &self.mass_loss
    }

    /// When a mass loss by silence ends, while there is one.
    pub(crate) fn silence_ends(&self, now: Instant) -> Option<Instant> {
        self.mass_silence.ends().filter(|calm| *calm > now)
    }

    /// The nodes to avoid, of this many.
    pub(crate) fn avoided_nodes(&self, nodes: usize, env: Env<'_>) -> Vec<Box<str>> {
        self.node_losses.avoided(env.now.instant, &env.spec.allocation, nodes)
    }

    // ---------------------------------------------------------------------------------- verdicts --

    /// What the verdict about an executor means. `ours`: why Rollcall removed it.
    pub(crate) fn judge(
        &self,
        executor: &Executor,
        reason: &LossReason,
        ours: Option<DeletionCause>,
        node: Option<&NodeView>,
        env: Env<'_>,
    ) -> Judgement {
        let pod = executor.pod.as_deref();
        let disrupted = pod.is_some_and(PodView::disrupted);
        let always = env.has_bug(InjectedBug::RemovalsAreFailures);
        let explained =
            node.is_some_and(NodeView::explains_a_kill) && !env.has_bug(InjectedBug::ReclaimsAreFailures);
        let blame = blame(reason, explained);
        // A failure must be observed: an executor that vanished has not failed, regardless of the verdict.
        let late =
            matches!(&executor.stage, Stage::AwaitingReason(loss) if loss.trigger == Trigger::PendingTimeout);
        let seen = pod.is_some_and(PodView::executor_ended) || late;
        let involuntary = ours.is_none() || always;
        let failed = always || blame == Blame::Fleet && seen && !disrupted;
        let excused = self.failures.excuses(&reason.kind, env.now.instant);
        let at_its_start = match blame {
            Blame::Fleet => failed || disrupted,
            // An executor that started under an earlier leader did not fail at its start.
            Blame::Cluster => !executor.registered,
            Blame::Nothing => false,
        };
        let counted_on = executor.node().filter(|_| involuntary && !reason.exit_caused_by_app && !excused);
        // A pod whose sidecar still runs is not kept: it would hold its place and its node's memory.
        let whole = pod.is_some_and(PodView::ended) && !executor.gone && !executor.is_terminating();
        // In mode Observe the driver removes the pod, unless an operator asked for it.
        let then = if !env.owns() && ours.is_none() {
            Then::Forget
        } else if reason.keep_pod && whole && env.spec.recovery.max_kept_pods > 0 {
            Then::Keep
        } else {
            Then::Clear
        };
        Judgement {
            counts: involuntary && failed && !excused,
            failed_at_start: involuntary && at_its_start && !executor.proven,
            node: counted_on.map(Box::from),
            end: ours.map_or_else(|| End::Lost(reason.kind.clone()), End::Removed),
            then,
        }
    }

    /// Count a failure against the fleet's limit. Returns how many there are, if the fleet fails with this one.
    pub(crate) fn count_failure(
        &mut self,
        reason: &LossReason,
        max: u32,
        ledger: &mut LedgerWriter,
        env: Env<'_>,
    ) -> Option<u32> {
        let window_ms = env.spec.recovery.failures_validity_interval_ms;
        self.failures.count(&reason.kind, env.now, ledger.edit(), window_ms, max)
    }

    /// The executor failed before it was ever available. Returns how many did so in a row, if the breaker opens.
    pub(crate) fn start_failed(&mut self, id: ExecutorId, env: Env<'_>, seed: &mut Seed) -> Option<u32> {
        let max = env.spec.allocation.max_start_failures;
        // In mode Observe, no start by Rollcall would close the breaker again.
        let opened = env.owns() && self.breaker.failed(id, env.now.instant, max, seed) == Turn::Opened;
        opened.then(|| self.breaker.failed_in_a_row())
    }

    pub(crate) fn lost_on(&mut self, node: &str, env: Env<'_>) {
        self.node_losses.lost(node, env.now.instant, &env.spec.allocation);
    }

    /// The driver's container has ended. Its executors end with it, which is not their failure. Returns whether the
    /// fleet, which had failed by it, goes on.
    pub(crate) fn driver_ended(&mut self, max: u32, ledger: &mut LedgerWriter, env: Env<'_>) -> bool {
        let now = env.now.instant;
        if env.has_bug(InjectedBug::DriverEndsAreFailures) || !self.failures.driver_ended(now) {
            return false;
        }
        self.failures.take_back(now, ledger.edit(), max)
    }

    // ------------------------------------------------------------------------------------ ending --

    /// When the deletion of a failed fleet's driver may be requested, or requested again.
    pub(crate) fn ending_due(&self) -> Option<Instant> {
        self.ending.call.is_none().then_some(self.ending.due)
    }

    /// If its spec says so, a failed fleet ends its application: repeats until the driver's pod is gone.
    pub(crate) fn end_application(&mut self, env: Env<'_>, outbox: &mut Outbox) {
        let uid = env.spec.driver.clone();
        self.ending.call = Some(outbox.act(Cause::Failed, Verb::DeleteDriver { uid }));
    }

    pub(crate) fn awaits(&self, action: ActionId) -> bool {
        self.ending.call == Some(action)
    }

    pub(crate) fn ending_finished(
        &mut self,
        outcome: DriverDeleteOutcome,
        env: Env<'_>,
        seed: &mut Seed,
        outbox: &mut Outbox,
    ) {
        self.ending.call = None;
        if let DriverDeleteOutcome::Refused(why) = outcome {
            outbox.publish(env.now, Reason::FailedDelete, format!("the driver: {why}"));
        }
        self.ending.due = env.now.instant + self.ending.backoff.failed_ms(seed);
    }
}
