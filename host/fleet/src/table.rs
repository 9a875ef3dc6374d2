//! The table of all executors: their sums, and when each needs attention.

use std::collections::{BTreeMap, BTreeSet};

use crate::executor::{Executor, Stage, Tally};
use crate::id::ExecutorId;
use crate::spec::ValidatedSpec;
use crate::time::Instant;

macro_rules! each_field {
    ($sum:expr, $other:ident, $op:tt) => {{
        $sum.serving $op $other.serving;
        $sum.occupying $op $other.occupying;
        $sum.terminating $op $other.terminating;
        $sum.available $op $other.available;
        $sum.pending $op $other.pending;
        $sum.starting $op $other.starting;
        $sum.creating $op $other.creating;
        $sum.rolling $op $other.rolling;
        $sum.kept $op $other.kept;
        $sum.recallable $op $other.recallable;
        $sum.reason_pending $op $other.reason_pending;
        $sum.born_terminating $op $other.born_terminating;
        $sum.born_live $op $other.born_live;
    }};
}

/// Number of executors processed in one step: at a few microseconds each, under a millisecond.
pub(crate) const ATTENDED_MAX: usize = 128;

/// All executors that are still relevant, their sums, and when each needs attention.
#[derive(Debug, Default)]
pub(crate) struct ExecutorTable {
    /// Boxed: ids only rise, which leaves the nodes of the tree half empty.
    executors: BTreeMap<ExecutorId, Box<Executor>>,
    tally: Tally,
    wakes: BTreeSet<(Instant, ExecutorId)>,
}

impl ExecutorTable {
    pub(crate) fn get(&self, id: ExecutorId) -> Option<&Executor> {
        self.executors.get(&id).map(|executor| &**executor)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ExecutorId, &Executor)> {
        self.executors.iter().map(|(id, executor)| (*id, &**executor))
    }

    /// The name of the executor's pod: as seen, or the one that Rollcall gives it.
    pub(crate) fn pod_name(&self, id: ExecutorId, spec: &ValidatedSpec) -> Box<str> {
        let known = self.get(id).and_then(|executor| executor.pod.as_ref());
        known.map_or_else(|| spec.pod_name(id), |pod| pod.name.clone())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.executors.is_empty()
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The store was restored: every later state counts as newer than the known one.
    pub(crate) fn forget_revisions(&mut self) {
        for pod in self.executors.values_mut().filter_map(|executor| executor.pod.as_mut()) {
            pod.revision = 0;
        }
    }

    pub(crate) fn insert(&mut self, id: ExecutorId, executor: Executor) {
        self.remove(id);
        let added = executor.tally();
        each_field!(self.tally, added, +=);
        if executor.wake < Instant::NEVER {
            self.wakes.insert((executor.wake, id));
        }
        self.executors.insert(id, Box::new(executor));
    }

    pub(crate) fn remove(&mut self, id: ExecutorId) -> Option<Executor> {
        let executor = self.executors.remove(&id)?;
        let gone = executor.tally();
        each_field!(self.tally, gone, -=);
        self.wakes.remove(&(executor.wake, id));
        Some(*executor)
    }

    /// Change one executor. The only way to do so.
    pub(crate) fn change<T>(&mut self, id: ExecutorId, f: impl FnOnce(&mut Executor) -> T) -> Option<T> {
        let executor = self.executors.get_mut(&id)?;
        let (before, woken) = (executor.tally(), executor.wake);
        let result = f(executor);
        let (after, wake) = (executor.tally(), executor.wake);
        if wake != woken {
            self.wakes.remove(&(woken, id));
            if wake < Instant::NEVER {
                self.wakes.insert((wake, id));
            }
        }
        if before != after {
            each_field!(self.tally, before, -=);
            each_field!(self.tally, after, +=);
        }
        Some(result)
    }

    /// A change that was held back may be possible now: check every executor again.
    pub(crate) fn wake_all(&mut self, now: Instant) {
        // A loss keeps its check interval, and an awaited pod end its own timer.
        let sleeper = |(id, executor): (ExecutorId, &Executor)| {
            let rhythm = matches!(executor.stage, Stage::AwaitingReason(_))
                || executor.stage.removal().is_some_and(|removal| removal.accepted);
            (!rhythm).then_some(id)
        };
        let ids: Vec<ExecutorId> = self.iter().filter_map(sleeper).collect();
        for id in ids {
            self.wake_at(id, now);
        }
    }

    /// Process it at that time.
    pub(crate) fn wake_at(&mut self, id: ExecutorId, at: Instant) {
        let Some(executor) = self.executors.get_mut(&id) else { return };
        if executor.wake == at {
            return;
        }
        self.wakes.remove(&(executor.wake, id));
        executor.wake = at;
        if at < Instant::NEVER {
            self.wakes.insert((at, id));
        }
    }

    /// The next executor that is due; it is not due again until a new wake time is set.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<ExecutorId> {
        let &(at, id) = self.wakes.first()?;
        if at > now {
            return None;
        }
        self.wake_at(id, Instant::NEVER);
        Some(id)
    }

    pub(crate) fn first_wake(&self) -> Option<Instant> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Do the sums match the executors? For tests: it visits every executor.
    pub(crate) fn audit(&self) -> bool {
        let mut sum = Tally::default();
        for executor in self.executors.values() {
            let one = executor.tally();
            each_field!(sum, one, +=);
        }
        sum == self.tally
    }
}
