//! What operators may request of one executor.

use crate::executor::{Executor, Stage};
use crate::guardrail::Refusal;

/// Spark's `killExecutors`: unknown executors are skipped, terminating ones are not killed twice, and busy
/// ones are spared unless forced.
pub(crate) fn may_kill(executor: Option<&Executor>, force: bool) -> Result<(), Refusal> {
    let executor = executor.ok_or(Refusal::UnknownExecutor)?;
    match executor.stage {
        Stage::AwaitingStart | Stage::AwaitingRegistration | Stage::Available | Stage::Rolling => {}
        // The pod does not exist yet: the outcome of its create is not known.
        Stage::AwaitingCreate(_) | Stage::AwaitingConfirmation(_) | Stage::AwaitingLateCreate => {
            return Err(Refusal::UnknownExecutor);
        }
        Stage::AwaitingAnnouncement { .. }
        | Stage::AwaitingExit(_)
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
