//! The outcome of a call about a pod reaches the executor that waits for it, converted to the outcomes of its kind.

use crate::env::Env;
use crate::executor::Stage;
use crate::executors::Executors;
use crate::id::{ActionId, ExecutorId};
use crate::lifecycle::removal::remove_finished;
use crate::lifecycle::{create, due};
use crate::observed::{Phase, PodView};
use crate::outbox::{PodCall, PodCallKind};
use crate::outcome::Outcome;
use crate::outcomes::{CreateOutcome, GetOutcome, RemoveOutcome};
use crate::view::ClusterView;

/// What an outcome works with.
pub(crate) struct PodCalls<'a> {
    pub executors: &'a mut Executors,
    pub view: &'a mut ClusterView,
    pub env: Env<'a>,
}

impl PodCalls<'_> {
    pub(crate) fn finished(&mut self, call: PodCall, action: ActionId, outcome: Outcome) {
        let id = call.executor;
        match call.kind {
            PodCallKind::Create => self.create_finished(id, action, outcome.into()),
            PodCallKind::Get => self.get_finished(id, action, outcome.into()),
            PodCallKind::Remove => self.remove_finished(id, action, outcome.into()),
        }
    }

    fn create_finished(&mut self, id: ExecutorId, action: ActionId, outcome: CreateOutcome) {
        let Some(executor) = self.executors.table.get(id) else { return };
        if matches!(executor.stage, Stage::AwaitingCreate(call) if call == action) {
            if let CreateOutcome::Created(pod) = &outcome {
                self.view.saw(pod.revision);
            }
            self.executors
                .change(id, self.env, |executor, cx| create::create_finished(executor, outcome, cx));
        } else if let CreateOutcome::Created(pod) = outcome {
            self.seen_before_answer(id, &pod);
        }
    }

    fn get_finished(&mut self, id: ExecutorId, action: ActionId, outcome: GetOutcome) {
        let Some(executor) = self.executors.table.get(id) else { return };
        let confirms =
            matches!(&executor.stage, Stage::AwaitingConfirmation(doubt) if doubt.get == Some(action));
        let (verifies, stage) = (executor.verifying == Some(action), &executor.stage);
        if let GetOutcome::Found(pod) = &outcome {
            let late = matches!(stage, Stage::CreateUnknown);
            let counts =
                if verifies { !late || self.env.is_ours(pod) } else { confirms && self.env.is_ours(pod) };
            if counts {
                self.view.saw(pod.revision);
            }
        }
        if verifies {
            self.executors.change(id, self.env, |executor, cx| due::pod_verified(executor, outcome, cx));
        } else if confirms {
            self.executors.change(id, self.env, |executor, cx| create::confirmed(executor, outcome, cx));
        } else if let GetOutcome::Found(pod) = outcome {
            self.seen_before_answer(id, &pod);
        }
    }

    /// The watch event arrived before the answer to the create.
    fn seen_before_answer(&mut self, id: ExecutorId, pod: &PodView) {
        let doubted = matches!(
            self.executors.table.get(id).map(|executor| &executor.stage),
            Some(Stage::AwaitingConfirmation(_))
        );
        if pod.phase == Phase::Pending && !doubted {
            self.executors.creation.pace.succeeded(self.env.spec.allocation.batch_size);
        }
    }

    fn remove_finished(&mut self, id: ExecutorId, action: ActionId, outcome: RemoveOutcome) {
        self.executors.change(id, self.env, |executor, cx| {
            if executor.stage.removal().is_some_and(|removal| removal.call == Some(action)) {
                remove_finished(executor, outcome, cx);
            }
        });
    }
}
