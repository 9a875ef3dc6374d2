//! S1 unique, S2 never reused, S3 the ceiling, S4 the ceiling including terminating pods.
//!
//! All are checked when a creation is applied, because only that can break them. A pod is *late* if its
//! creator's ledger had meanwhile been claimed by another host, or if the claimant's list did not show it: the
//! claimant could not have known of it, so it does not count for the ceilings. It has to be removed in the end
//! (L1).

use super::{CoreId, REACH_MS};
use crate::api::Serial;
use crate::cluster::Maker;
use crate::world::World;

impl World<'_> {
    pub(crate) fn check_created(&mut self, app: usize, serial: Serial) {
        let now_ms = self.sim.now_ms;
        let Some(truth) = self.cluster.executors.get(&serial) else { return };
        let Maker::Core(core) = truth.maker else { return };
        let executor = truth.executor;
        let twins = self
            .api
            .ours(app)
            .filter(|(other, pod)| *other != serial && pod.live() && pod.view.executor == executor);
        if twins.count() > 0 {
            self.apps[app].checks.object("S1", now_ms, || format!("two live pods have id {executor}"));
        }
        let forgotten = self.apps[app].checks.forgotten.contains(&core);
        if !forgotten && !self.apps[app].checks.issued.insert(executor.0) {
            self.apps[app]
                .checks
                .object("S2", now_ms, || format!("a pod came to be under id {executor} once before"));
        }
        if !self.apps[app].checks.is_newest(core) {
            if let Some(truth) = self.cluster.executors.get_mut(&serial) {
                truth.late = true;
            }
            return;
        }
        let (mut up, mut all) = (0_u32, 0_u32);
        for (other, pod) in self.api.ours(app).filter(|(_, pod)| pod.live()) {
            let counts = self.cluster.executors.get(&other);
            if counts.is_none_or(|truth| truth.late || truth.maker == Maker::Operator) {
                continue;
            }
            all += 1;
            up += u32::from(!pod.view.terminating());
        }
        let limits = &self.apps[app].checks.spec.limits;
        let target = self.apps[app].checks.targets_now(now_ms).1;
        let ceiling = target.saturating_add(limits.max_surge.rounded_up(target));
        let quota = ceiling.saturating_add(limits.max_terminating.rounded_up(target));
        if up > ceiling {
            self.apps[app].checks.object("S3", now_ms, || {
                format!("{up} live pods with id {executor}: more than {ceiling} for a target of {target}")
            });
        }
        if all > quota {
            self.apps[app].checks.object("S4", now_ms, || {
                format!("{all} pods with id {executor} and what is being deleted: more than {quota}")
            });
        }
    }

    /// A host was given a complete list as of this revision. It cannot know of pods that the list does not
    /// show.
    pub(crate) fn check_listed(&mut self, app: usize, core: CoreId, revision: u64) {
        let now_ms = self.sim.now_ms;
        if !self.apps[app].checks.is_newest(core) {
            return;
        }
        let me = Maker::Core(core);
        let mut highest = 0;
        for truth in self.cluster.executors.values_mut() {
            if truth.app == app && truth.maker != me && truth.created_revision > revision {
                truth.late = true;
            }
        }
        for (_, pod) in self.api.ours(app).filter(|(_, pod)| pod.view.revision <= revision) {
            highest = highest.max(pod.view.executor.0);
        }
        let checks = &mut self.apps[app].checks;
        let Some(knows) = checks.life(core) else { return };
        let evident = highest > knows.base || knows.claimed_born;
        if !std::mem::take(&mut checks.unsure) {
            return;
        }
        // Ids for which no pod was ever created are no longer known to any host; their late creations find the
        // name taken.
        let issued = std::mem::take(&mut checks.issued);
        checks.asked.retain(|id, _| issued.contains(id));
        if evident {
            checks.issued = issued;
            checks.aware = Some(core);
        } else {
            let others = checks.lives.keys().filter(|other| **other != core);
            checks.forgotten.extend(others.copied());
            // A ledger older than the world, and nothing in the world that shows it: undetectable.
            checks.asked.clear();
            checks.reserved = 0;
            checks.amnesty_until_ms = now_ms + REACH_MS;
        }
    }

    /// There is nothing to check here; only the trace records that a pod was removed.
    pub(crate) fn check_removed(&mut self, serial: Serial) {
        self.sim.trace.number(serial.0);
    }
}
