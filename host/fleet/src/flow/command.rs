//! The commands of operators: Spark's `ExecutorAllocationClient`.

use crate::action::Reply;
use crate::env::Env;
use crate::executor::{Executor, Stage};
use crate::executors::Executors;
use crate::guardrail::Refusal;
use crate::id::{CommandId, ExecutorId};
use crate::ledger::Requested;
use crate::question::{DeletionCause, Trigger};

/// Reply to a command, and count its refusals. A change that was confirmed to an operator must survive this host: the
/// reply waits until it is recorded.
pub(crate) fn answer(command: CommandId, reply: Reply, executors: &mut Executors) {
    let Executors { ledger, outbox, .. } = executors;
    match &reply {
        Reply::Done => {}
        Reply::Refused(refusal) => outbox.refused(*refusal),
        Reply::Executors(each) => {
            each.iter().filter_map(|(_, result)| result.err()).for_each(|refusal| outbox.refused(refusal));
        }
    }
    let mark = ledger.mark();
    if ledger.is_confirmed(mark) || matches!(reply, Reply::Refused(_)) {
        outbox.reply(command, reply);
    } else {
        outbox.reply_after(mark, command, reply);
    }
}

pub(crate) fn request_total(total: u32, executors: &mut Executors, env: Env<'_>) -> Result<(), Refusal> {
    if !env.owns() {
        return Err(Refusal::ObserveMode);
    }
    if total > env.spec.limits.max_executors {
        return Err(Refusal::AboveMaximum);
    }
    let spec_target = env.spec.target;
    executors.ledger.edit().requested = Some(Requested { total, spec_target });
    Ok(())
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill {
    /// The target stays as it is.
    pub replace: bool,
    /// Also executors with running tasks.
    pub force: bool,
}

/// Spark's `killExecutors`: unknown executors are skipped, terminating ones are not killed twice, and busy
/// ones are spared unless forced. `may`: may the fleet change pods?
pub(crate) fn kill(
    ids: &[ExecutorId],
    Kill { replace, force }: Kill,
    may: Result<(), Refusal>,
    executors: &mut Executors,
    env: Env<'_>,
) -> Reply {
    if let Err(refusal) = may {
        return Reply::Refused(refusal);
    }
    let mut results = Vec::new();
    for &id in ids {
        let result = may_kill(executors.table.get(id), force);
        if result.is_ok() {
            executors.ledger.edit().leaving.insert(id, DeletionCause::Kill);
            executors.mark_lost(id, Trigger::OperatorKill, env);
        }
        results.push((id, result));
    }
    let killed = results.iter().filter(|(_, result)| result.is_ok()).count();
    if !replace && killed > 0 && env.owns() {
        let total = executors.target(env).saturating_sub(u32::try_from(killed).unwrap_or(u32::MAX));
        let spec_target = env.spec.target;
        executors.ledger.edit().requested = Some(Requested { total, spec_target });
    }
    Reply::Executors(results)
}

fn may_kill(executor: Option<&Executor>, force: bool) -> Result<(), Refusal> {
    let executor = executor.ok_or(Refusal::UnknownExecutor)?;
    match executor.stage {
        Stage::AwaitingStart | Stage::AwaitingRegistration | Stage::Available | Stage::Rolling => {}
        // The pod does not exist yet: the outcome of its create is not known.
        Stage::AwaitingCreate(_) | Stage::AwaitingConfirmation(_) | Stage::CreateUnknown => {
            return Err(Refusal::UnknownExecutor);
        }
        Stage::AwaitingAnnouncement { .. }
        | Stage::Terminating(_)
        | Stage::AwaitingReason(_)
        | Stage::AwaitingRecord { .. }
        | Stage::AwaitingRemoval(_)
        | Stage::Kept => return Err(Refusal::AlreadyLeaving),
    }
    let counters = executor.facts.as_ref().and_then(|facts| facts.counters.as_ref());
    if !force && counters.is_some_and(|counters| counters.active_tasks > 0) {
        return Err(Refusal::Busy);
    }
    Ok(())
}
