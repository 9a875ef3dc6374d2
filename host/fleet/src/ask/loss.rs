//! The question why an executor was lost, with all evidence.

use crate::driver::DriverState;
use crate::env::Env;
use crate::executor::Stage;
use crate::id::{ActionId, ExecutorId};
use crate::ledger::Ledger;
use crate::question::{Deletion, Evidence, LossKind, LossReason, Trigger};
use crate::table::ExecutorTable;
use crate::view::ClusterView;

/// What the evidence is taken from.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub table: &'a ExecutorTable,
    pub ledger: &'a Ledger,
    pub view: &'a ClusterView,
    pub driver: &'a DriverState,
}

/// All evidence about the executor's loss. `None` if it is not lost, or its end is being recorded already.
pub(crate) fn question(id: ExecutorId, from: Sources<'_>, env: Env<'_>) -> Option<Evidence> {
    let executor = from.table.get(id)?;
    let Stage::AwaitingReason(loss) = &executor.stage else { return None };
    let (now, spec) = (env.now, env.spec);
    // Use one clock: a wall clock that jumps between two questions must not change how long it was silent.
    let lost_ms = i64::try_from(now.instant.since_ms(executor.since)).unwrap_or(i64::MAX);
    let heard = match loss.trigger {
        Trigger::HeartbeatTimeout => loss.heard,
        Trigger::PodFailed
        | Trigger::PodSucceeded
        | Trigger::PodDeleted
        | Trigger::PodMissing
        | Trigger::DriverRemoved
        | Trigger::PendingTimeout
        | Trigger::OperatorKill => executor.timer.last_heard(),
    };
    let pod = executor.pod.as_deref().map(|pod| {
        let mut status = (*pod.status).clone();
        status.gone = executor.gone;
        status.node_name = pod.node.as_deref().map(str::to_owned);
        status
    });
    let why = from.ledger.leaving.get(&id).copied();
    let asked_ms = executor.removal_asked_ms();
    Some(Evidence {
        fleet: spec.name.clone(),
        application_id: spec.application_id.clone(),
        executor_id: id.0,
        pod_name: from.table.pod_name(id, spec).into(),
        now_ms: now.wall_ms,
        trigger: loss.trigger,
        lost_at_ms: now.wall_ms.saturating_sub(lost_ms),
        checks_made: loss.checks,
        checks_max: spec.recovery.max_checks,
        // Without heartbeats no executor registers, and a running one counts as available.
        ever_registered: executor.registered || executor.proven,
        since_heartbeat_ms: heard.map(|heard| now.instant.since_ms(heard)),
        our_deletion: why.map(|why| Deletion { why, at_ms: asked_ms.unwrap_or(now.wall_ms) }),
        driver: from.driver.as_evidence(env),
        driver_remove_reason: executor.driver_said.as_deref().map(str::to_owned),
        pod,
        node: from.view.node_of(executor).map(|node| node.state.clone()),
    })
}

/// Is the executor's loss waiting for an answer: to this question, or (`None`) for its question to be asked?
pub(crate) fn awaits(id: ExecutorId, asked: Option<ActionId>, table: &ExecutorTable) -> bool {
    let stage = table.get(id).map(|executor| &executor.stage);
    matches!(stage, Some(Stage::AwaitingReason(loss)) if loss.asked == asked)
}

/// The verdict when all checks were inconclusive, in the words of SAR.
pub(crate) fn unknown() -> LossReason {
    LossReason {
        kind: LossKind::Unknown,
        message: "Executor lost for unknown reasons.".to_owned(),
        exit_caused_by_app: false,
        exit_code: None,
        keep_pod: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Loss;
    use crate::fixtures::{at, executor, terminating, world};
    use crate::question::DeletionCause;
    use crate::time::Now;

    #[test]
    fn a_deletion_was_asked_for_when_it_was_asked_for() {
        let world = world(1);
        let now = Now { instant: at(90), wall_ms: 90_000 };
        let env = Env { now, ..world.env() };
        let mut ledger = Ledger::default();
        ledger.leaving.insert(ExecutorId(1), DeletionCause::Roll);
        let (view, driver) = (ClusterView::new(), DriverState::default());
        let asked = |sent_ms, deleted_ms: Option<i64>| {
            let loss = Loss { trigger: Trigger::PodFailed, heard: None, checks: 1, asked: None };
            let mut lost = executor(1, Stage::AwaitingReason(loss));
            let mut pod = terminating(1, 2);
            (pod.status.deletion_at_ms, pod.status.deletion_grace_ms) = (deleted_ms, Some(30_000));
            (lost.pod, lost.removal_sent_ms) = (Some(Box::new(pod)), sent_ms);
            let mut table = ExecutorTable::default();
            table.insert(ExecutorId(1), lost);
            let from = Sources { table: &table, ledger: &ledger, view: &view, driver: &driver };
            question(ExecutorId(1), from, env).and_then(|evidence| evidence.our_deletion)
        };
        let at = |at_ms| Some(Deletion { why: DeletionCause::Roll, at_ms });
        assert_eq!(asked(Some(20_000), Some(51_000)), at(20_000));
        assert_eq!(asked(None, Some(51_000)), at(21_000), "a host before this one sent it");
        assert_eq!(asked(None, None), at(90_000), "it is about to be sent");
    }
}
