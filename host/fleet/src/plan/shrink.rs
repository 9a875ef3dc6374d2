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
/// youngest. `floor`: the number of available executors that have to stay. `running`: also executors that run.
pub(crate) fn shrink(
    excess: u32,
    floor: u32,
    running: bool,
    table: &ExecutorTable,
    env: Env<'_>,
) -> Removals {
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
        let spared = !running && (rank > 0 || executor.is_useful());
        if spared || stage.is_unseen() || stage.is_rolling() || !stage.serves() || needed {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{Exit, Removal};
    use crate::fixtures::{at, busy, executor, requested, world};
    use crate::question::DeletionCause;

    fn table(executors: impl IntoIterator<Item = Executor>) -> ExecutorTable {
        let mut table = ExecutorTable::default();
        for (id, executor) in (1..).zip(executors) {
            table.insert(ExecutorId(id), executor);
        }
        table
    }

    fn ids(removals: &Removals) -> Vec<u64> {
        removals.executors.iter().map(|id| id.0).collect()
    }

    #[test]
    fn the_least_useful_are_removed_first() {
        let world = world(1);
        let starting = Executor::new(Stage::AwaitingStart, at(1));
        let table = table([busy(1, 0), busy(2, 3), busy(3, 0), starting, requested()]);
        let all = shrink(9, 0, true, &table, world.env());
        assert_eq!(
            ids(&all),
            [4, 3, 1, 2],
            "not running, then idle, then the youngest; never one without a pod"
        );
        assert_eq!(ids(&shrink(2, 0, true, &table, world.env())), [4, 3]);
    }

    #[test]
    fn available_executors_stay_down_to_the_floor() {
        let world = world(1);
        let rolling = executor(4, Stage::Rolling);
        let table = table([busy(1, 0), busy(2, 0), busy(3, 0), rolling]);
        assert_eq!(ids(&shrink(9, 3, true, &table, world.env())), [3], "a rolled one ends anyway");
        let registers = executor(1, Stage::AwaitingRegistration);
        let table = self::table([registers, busy(2, 0)]);
        assert_eq!(ids(&shrink(1, 2, true, &table, world.env())), [], "it will be needed");
    }

    #[test]
    fn a_step_removes_a_limited_number() {
        let world = world(1);
        let table = table((0..200).map(|id| busy(id, 0)));
        let removals = shrink(150, 0, true, &table, world.env());
        assert_eq!((removals.executors.len(), removals.more), (ATTENDED_MAX, true));
        assert!(!shrink(ATTENDED_MAX as u32, 0, true, &table, world.env()).more);
    }

    #[test]
    fn removals_that_were_not_requested_are_recalled() {
        let removal = |accepted| Removal { accepted, ..Removal::new(false) };
        let leaving = |cause, accepted| {
            executor(1, Stage::Terminating(Exit::Ours { cause, removal: removal(accepted) }))
        };
        let table = table([
            leaving(DeletionCause::ScaleDown, true),
            leaving(DeletionCause::Roll, false),
            leaving(DeletionCause::ScaleDown, false),
            executor(4, Stage::AwaitingAnnouncement { cause: DeletionCause::ScaleDown, mark: 1 }),
        ]);
        assert_eq!(recall(5, &table), [ExecutorId(3), ExecutorId(4)]);
        assert_eq!(recall(1, &table), [ExecutorId(3)]);
    }
}
