//! Which surplus executors to remove, and which removals to cancel.

use crate::env::Env;
use crate::executor::{Executor, Stage};
use crate::id::ExecutorId;
use crate::table::{ATTENDED_MAX, ExecutorTable};

/// The executors to remove now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removals {
    pub executors: Vec<ExecutorId>,
    /// There are more than one step may remove.
    pub more: bool,
}

/// Too many executors serve: the least useful of them. First those that do not run, then the idle, then the
/// youngest. `floor`: the number of available executors that have to stay.
pub(crate) fn shrink(excess: u32, floor: u32, table: &ExecutorTable, env: Env<'_>) -> Removals {
    let mut tally = *table.tally();
    let available = tally.available_count(env.bugs);
    let usefulness = |(id, executor): (ExecutorId, &Executor)| {
        let rank = if executor.is_available() {
            2
        } else if matches!(executor.stage, Stage::AwaitingRegistration) {
            1
        } else {
            0
        };
        // An executor without a pod cannot be removed, one that is rolled ends anyway, and one that may
        // become useful soon would have to be kept.
        let needed = rank < 2 && executor.is_useful() && available < floor;
        let stage = &executor.stage;
        if stage.is_unseen() || stage.is_rolling() || !stage.serves() || needed {
            return None;
        }
        let counters = executor.facts.as_ref().and_then(|facts| facts.counters.as_ref());
        let tasks = counters.map_or(0, |counters| counters.active_tasks);
        Some((rank, tasks, u64::MAX - id.0, id))
    };
    let mut candidates: Vec<_> = table.iter().filter_map(usefulness).collect();
    candidates.sort_unstable();
    let mut removals =
        Removals { executors: Vec::new(), more: candidates.len().min(excess as usize) > ATTENDED_MAX };
    for (rank, .., id) in candidates.into_iter().take((excess as usize).min(ATTENDED_MAX)) {
        if rank == 2 {
            if tally.available_count(env.bugs) <= floor {
                removals.more = false;
                break;
            }
            tally.available -= 1;
        }
        removals.executors.push(id);
    }
    removals
}

/// Too few executors serve, and the removal of some has not been requested yet: those to keep.
pub(crate) fn recall(missing: u32, table: &ExecutorTable) -> Vec<ExecutorId> {
    let about_to_go =
        |(id, executor): (ExecutorId, &Executor)| executor.stage.can_be_recalled().then_some(id);
    table.iter().filter_map(about_to_go).take(missing as usize).collect()
}
