//! What is observed reaches the view, the driver and the executors.
//!
//! Only a complete list may conclude that an executor without a pod has ended.

use crate::action::Reason;
use crate::driver::DriverState;
use crate::env::Env;
use crate::event::{Beat, DriverRow};
use crate::executor::{Executor, Stage};
use crate::executors::Executors;
use crate::id::{ExecutorId, IdSet};
use crate::injected_bug::InjectedBug;
use crate::lifecycle::{Context, pod, start};
use crate::observed::{DriverView, PodView};
use crate::question::Trigger;
use crate::table::ATTENDED_MAX;
use crate::view::{ClusterView, missing};

/// What an observation works with.
pub(crate) struct Observing<'a> {
    pub executors: &'a mut Executors,
    pub view: &'a mut ClusterView,
    pub driver: &'a mut DriverState,
    pub env: Env<'a>,
}

impl Observing<'_> {
    /// The pods of a complete list. `first`: it is the first one of this host.
    pub(crate) fn listed(&mut self, pods: Vec<PodView>, revision: u64, first: bool) {
        let ours = pods.iter().filter(|pod| self.env.is_ours(pod));
        let mut listed: Vec<ExecutorId> = ours.map(|pod| pod.executor).collect();
        listed.sort_unstable();
        for pod in pods {
            if self.executors.table.get(pod.executor).is_some() || !self.view.is_buried(&pod) {
                self.pod_changed(pod);
            }
        }
        if !self.env.has_bug(InjectedBug::MissingIsKept) {
            for id in missing(revision, &listed, &self.executors.table) {
                self.change(id, |executor, cx| pod::vanished(executor, Trigger::PodMissing, cx));
            }
        }
        if first {
            self.first_listed(&listed, revision);
        }
        self.view.prune_nodes(&self.executors.table);
    }

    /// The first list was applied: what does it lack, and what was reported before it?
    fn first_listed(&mut self, listed: &[ExecutorId], revision: u64) {
        let ledger = self.executors.ledger.get();
        self.view.find_absent(listed, ledger, &self.executors.table);
        let kept: IdSet = listed.iter().copied().filter(|id| ledger.kept.contains(*id)).collect();
        if kept != ledger.kept {
            self.executors.ledger.edit().kept = kept;
        }
        self.take_absent();
        let (early, overflowed) = self.view.take_early(revision);
        if overflowed {
            self.view.relist_again(self.env.now.instant, &mut self.executors.seed);
        }
        for (pod, gone) in early {
            if gone { self.pod_gone(&pod) } else { self.pod_changed(pod) }
        }
    }

    /// Classifies executors that the first list lacked, some at a time.
    pub(crate) fn take_absent(&mut self) {
        for _ in 0..ATTENDED_MAX {
            let Some(id) = self.view.next_absent(&self.executors.table) else { return };
            let known = self.executors.table.get(id).is_some();
            if !known && self.executors.ledger.get().born.contains(id) {
                self.executors.table.insert(id, Executor::new(Stage::AwaitingStart, self.env.now.instant));
                self.change(id, |executor, cx| pod::vanished(executor, Trigger::PodMissing, cx));
            }
        }
    }

    pub(crate) fn pod_changed(&mut self, pod: PodView) {
        let id = pod.executor;
        self.view.saw(pod.revision);
        if self.executors.table.get(id).is_some() {
            self.change(id, |executor, cx| pod::pod_changed(executor, pod, cx));
        } else if self.env.is_ours(&pod) {
            let found = pod::found(id, pod, self.executors.ledger.get(), self.env);
            let Some(executor) = found else { return };
            self.view.not_absent(id);
            self.executors.table.insert(id, executor);
            self.change(id, pod::adopt);
        }
    }

    pub(crate) fn pod_gone(&mut self, pod: &PodView) {
        self.view.saw(pod.revision);
        self.view.bury(pod);
        self.change(pod.executor, |executor, cx| pod::pod_gone(executor, pod, cx));
    }

    pub(crate) fn driver_is(&mut self, driver: DriverView, revision: u64) {
        if !self.driver.update(driver, revision, self.env) {
            return;
        }
        self.note("the driver's container has ended");
        let max = self.env.spec.max_executor_failures(self.executors.target(self.env));
        let Executors { losses, ledger, .. } = &mut self.executors;
        if losses.driver_ended(max, ledger, self.env) {
            self.note("its failures were the driver's: the fleet goes on");
        }
    }

    /// The report of the driver about its executors; the driver itself has been told of it.
    pub(crate) fn driver_reported(&mut self, rows: Vec<DriverRow>) {
        // The driver remembers executors that the ledger may have forgotten.
        let ids = rows.iter().map(|row| row.executor).filter(|id| *id <= ExecutorId::MAX);
        let highest = ids.max().unwrap_or_default();
        if self.env.owns() && highest > self.executors.ledger.get().reserved {
            self.restored(highest);
        }
        // The driver expires heartbeats itself, but late: `isActive` counts as a sign of life only while no
        // executor is heard directly. Otherwise only counters that changed since its last report do.
        let liveness = self.executors.signals.liveness();
        let believed = !liveness.hears(self.env.instant(), &self.env.spec.heartbeat);
        for row in rows {
            self.change(row.executor, |executor, cx| start::driver_reported(executor, row, believed, cx));
        }
    }

    pub(crate) fn heard(&mut self, beat: Beat) {
        let Some(executor) = self.executors.table.get(beat.executor) else { return };
        let other = |known: &PodView| beat.uid.as_ref().is_some_and(|uid| *uid != known.uid);
        if executor.gone || executor.pod.as_deref().is_none_or(other) {
            // From an earlier pod with this id, from a pod that was deleted with its lost node, or from one
            // that is not known yet.
            return;
        }
        if self.executors.signals.heard(self.env.now.instant) {
            // Silence can be trusted again.
            self.executors.table.wake_all(self.env.now.instant);
        }
        let metrics = self.executors.signals.indexed(beat.metrics);
        self.change(beat.executor, |executor, cx| start::heard(executor, metrics, cx));
    }

    pub(crate) fn highest_named(&self, pods: &[PodView]) -> ExecutorId {
        ClusterView::highest_named(pods, self.executors.ledger.get().reserved, self.env)
    }

    /// Is the ledger older than the cluster? Then ids beyond it may have been used.
    pub(crate) fn check_restored(&mut self, pods: &[PodView]) {
        if !self.env.owns() {
            return;
        }
        let highest = self.highest_named(pods).max(self.driver.named());
        let ledger = self.executors.ledger.get();
        // Without a ledger and without pods, the fleet is new.
        let distrusts = self.executors.ledger.distrusts();
        let fresh = ledger.reserved == ExecutorId(0) && highest == ExecutorId(0) && !distrusts;
        if fresh && ledger.suspect {
            self.executors.ledger.edit().suspect = false;
        } else if highest > ledger.reserved || ledger.suspect || distrusts {
            self.restored(highest);
        }
    }

    fn restored(&mut self, highest: ExecutorId) {
        self.executors.ledger.jump(highest, self.view.revision(), self.env.spec.ids);
        let message = "the ledger may be older than the world: ids jump ahead".to_owned();
        self.executors.outbox.publish(self.env.now, Reason::LedgerRestored, message);
    }

    fn change(&mut self, id: ExecutorId, transition: impl FnOnce(&mut Executor, &mut Context<'_>)) {
        self.executors.change(id, self.env, transition);
    }

    fn note(&mut self, text: &str) {
        self.executors.outbox.note(self.env.now, None, text);
    }
}
