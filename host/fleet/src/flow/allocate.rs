//! The fleet is brought to its target, as far as the plans of `plan::allocate` and `plan::shrink` permit it.

use crate::action::Reason;
use crate::driver::DriverState;
use crate::env::Env;
use crate::executor::Executor;
use crate::executors::Executors;
use crate::guardrail::Refusal;
use crate::id::ExecutorId;
use crate::injected_bug::InjectedBug;
use crate::lifecycle::{Context, end, pod};
use crate::permits::Situation;
use crate::phase::Phase;
use crate::plan::{allocate, shrink};
use crate::question::DeletionCause;
use crate::spec::ScaleDown;
use crate::view::ClusterView;

/// What allocation works with.
pub(crate) struct Allocating<'a> {
    pub executors: &'a mut Executors,
    pub view: &'a mut ClusterView,
    pub driver: &'a DriverState,
    pub phase: Phase,
    pub env: Env<'a>,
}

impl Allocating<'_> {
    /// Remove what is surplus, keep what is needed again, and create what is missing.
    pub(crate) fn run(&mut self) {
        if !self.env.owns() {
            return;
        }
        self.executors.creation.shrinking = false;
        let bounds = self.executors.bounds(self.env);
        let tally = *self.executors.table.tally();
        let wanted = allocate::wanted(&tally, &bounds, self.env);
        if tally.serving > wanted && self.situation().permits().shrink.is_ok() {
            let excess = tally.serving - wanted;
            let running =
                self.env.spec.scale_down == ScaleDown::Rollcall || self.executors.is_commanded(self.env);
            let removals = shrink::shrink(excess, bounds.floor, running, &self.executors.table, self.env);
            self.executors.creation.shrinking = removals.more;
            for id in removals.executors {
                self.change(id, |executor, cx| {
                    end::record_removal_intent(executor, DeletionCause::ScaleDown, cx);
                });
            }
        }
        if tally.serving < wanted && tally.recallable > 0 {
            for id in shrink::recall(wanted - tally.serving, &self.executors.table) {
                self.change(id, |executor, cx| pod::cancel_removal(executor, "wanted again", cx));
            }
        }
        let tally = *self.executors.table.tally();
        let missing = wanted.saturating_sub(tally.serving);
        if missing == 0 {
            self.executors.creation.is_complete();
            // At full strength the breaker has nothing to probe.
            if tally.starting == 0 && self.executors.losses.breaker.rested(self.env.now.instant) {
                let message = "the fleet is at strength".to_owned();
                self.executors.outbox.publish(self.env.now, Reason::BreakerClosed, message);
            }
        }
        self.reserve_ids(bounds.target, missing);
        let held = self.create(missing);
        if let Some(refusal) = self.executors.creation.hold(held) {
            self.executors.outbox.refused(refusal);
        }
    }

    fn reserve_ids(&mut self, target: u32, missing: u32) {
        if target == 0 && missing == 0 || self.situation().may_change_pods().is_err() {
            return;
        }
        let ledger = &mut self.executors.ledger;
        let count = allocate::ids_to_reserve(missing, ledger.reserved_ahead(), self.env);
        if count > 0 {
            ledger.reserve(count, self.env.spec.ids);
            if self.env.has_bug(InjectedBug::CreateBeforeReserve) {
                ledger.use_unwritten();
            }
        }
    }

    /// Create the missing executors, as far as that is permitted. Returns why not all.
    fn create(&mut self, missing: u32) -> Option<Refusal> {
        if missing == 0 {
            return None;
        }
        // One more than there are ids for shows that it is the ids that are missing.
        let ids = self.executors.ledger.spare_len();
        let planned = missing.min(ids.saturating_add(1));
        let creates = allocate::creates(planned, &self.situation().create_limits(), self.env);
        for _ in 0..creates.count {
            let Some(id) = self.executors.ledger.take_spare() else { return Some(Refusal::NoIds) };
            let avoided = self.executors.losses.avoided_nodes(self.view.nodes_len(), self.env);
            self.view.not_absent(id);
            self.executors.create(id, avoided, self.env);
        }
        creates.held
    }

    fn situation(&self) -> Situation<'_> {
        Situation {
            phase: self.phase,
            executors: self.executors,
            view: self.view,
            driver: self.driver,
            env: self.env,
        }
    }

    fn change(&mut self, id: ExecutorId, transition: impl FnOnce(&mut Executor, &mut Context<'_>)) {
        self.executors.change(id, self.env, transition);
    }
}
