//! Why an executor was lost: the classifiers are asked one after another, and the verdict settles the loss.
//!
//! A loss has three steps. *Lost*: the executor no longer counts, and its replacement is due at once; the
//! replacement waits for none of the next steps. *Why*: the classifier is asked at once, and again after each
//! check interval while it cannot tell; when the checks are used up the loss is settled as unknown. *Settled*:
//! the verdict is in the ledger; now the pod is removed, or kept for debugging.

use crate::action::{Cause, Question, Verb};
use crate::ask::{About, Asker, Open, loss};
use crate::driver::DriverState;
use crate::env::Env;
use crate::executors::Executors;
use crate::id::{ActionId, ExecutorId};
use crate::lifecycle::end;
use crate::question::{LossReason, Verdict};
use crate::spec::LAST_CLASSIFIER;
use crate::view::ClusterView;

/// What a classification works with.
pub(crate) struct Classifying<'a> {
    pub executors: &'a mut Executors,
    pub asker: &'a mut Asker,
    pub view: &'a ClusterView,
    pub driver: &'a DriverState,
    pub env: Env<'a>,
}

impl Classifying<'_> {
    /// Ask about the losses whose questions are due, while there is room for questions.
    pub(crate) fn run(&mut self) {
        while self.asker.has_room() {
            let Some(id) = self.executors.losses.next_to_ask() else { break };
            if loss::awaits(id, None, &self.executors.table) {
                self.ask_why(id, 0);
            }
        }
    }

    /// The classifier's answer.
    pub(crate) fn answered(&mut self, id: ExecutorId, question: ActionId, open: &Open, verdict: Verdict) {
        if !loss::awaits(id, Some(question), &self.executors.table) {
            return;
        }
        match verdict {
            Verdict::Known(reason) => self.verdict(id, &reason),
            Verdict::Undetermined => self.undetermined(id),
            Verdict::Abstain => self.ask_why(id, open.place + 1),
        }
    }

    /// The classifier gave no answer: ask the next one.
    pub(crate) fn unanswered(&mut self, id: ExecutorId, question: ActionId, open: &Open) {
        if loss::awaits(id, Some(question), &self.executors.table) {
            self.ask_why(id, open.place + 1);
        }
    }

    /// Ask the first available classifier of the chain, from `place` on.
    fn ask_why(&mut self, id: ExecutorId, place: usize) {
        let Executors { table, ledger, .. } = &self.executors;
        let from = loss::Sources { table, ledger: ledger.get(), view: self.view, driver: self.driver };
        let Some(evidence) = loss::question(id, from, self.env) else { return };
        let chain = self.env.spec.recovery.policies.iter().map(String::as_str).chain([LAST_CLASSIFIER]);
        let Some((place, policy)) = self.asker.next(chain, place, self.env.now.instant) else {
            return self.undetermined(id);
        };
        let question = Question::Loss(Box::new(evidence));
        let action =
            self.executors.outbox.act(Cause::Loss(id), Verb::Ask { policy: policy.clone(), question });
        self.asker.asked(action, About::Loss(id), place, policy, self.env.now.instant);
        self.executors.table.change(id, |executor| executor.asked(action));
    }

    /// This check was inconclusive. Check again after the interval, or settle the loss as unknown.
    fn undetermined(&mut self, id: ExecutorId) {
        let mut over = false;
        self.executors.change(id, self.env, |executor, cx| over = end::undetermined(executor, cx));
        if over {
            self.verdict(id, &loss::unknown());
        }
    }

    fn verdict(&mut self, id: ExecutorId, reason: &LossReason) {
        let node = self.executors.table.get(id).and_then(|executor| self.view.node_of(executor));
        self.executors.verdict(id, reason, node, self.env);
    }
}
