//! The view of the cluster: how events about pods, drivers and heartbeats become the current state.
//!
//! Everything here is level-triggered. A pod's state counts, not the way it arrived: `Failed` means lost
//! whether it arrives as ADDED, MODIFIED or in a list. State that is older than the known state is dropped, by
//! revision. A pod is concluded to be missing only from a complete list that is at least as new as that pod.

use std::collections::BTreeSet;

use crate::action::Reason;
use crate::event::{Beat, DriverRow, Impairment, Relist};
use crate::executor::{Executor, Facts, Removal, Stage, Then, kept};
use crate::fleet::{ATTENDED_MAX, Fleet, OTHER_STORE_MS, Phase, RESTORED_MS};
use crate::heartbeat::{Detector, Hearing};
use crate::id::{ExecutorId, IdSet, Uid};
use crate::injected_bug::InjectedBug;
use crate::ledger::{End, RESERVED_MAX};
use crate::observed::{NodeView, Phase as PodPhase, PodView};
use crate::question::Trigger;
use crate::time::Instant;
use crate::timing::LOOK_AFTER_MS;

/// Columns beyond this many are dropped: an executor with all metric sources enabled reports 100, and this is
/// twice that.
const METRICS_MAX: usize = 200;
/// Maximum number of pods kept before the first list: 5 KB each, 50 MB. Beyond that another list is needed.
const EARLY_MAX: usize = 10_000;
/// More pods than are deleted while one list is in flight. A deletion that does not fit is detected by the next list.
const BURIED_MAX: usize = 1_000;
/// A pod of another owner counts as a former executor if its id is at most this far above the reserved ids.
const STRANGER_AHEAD_MAX: u64 = 100_000;
/// How many missing executors of the ledger are classified at a time: 1 KB each, 1 MB.
const ABSENT_AT_ONCE: u32 = 1_000;

impl Fleet {
    pub(crate) fn relisted(&mut self, list: Relist) {
        // A driver that is gone stays gone, also if the list is too old to be used for pods.
        self.driver_is(list.driver.clone(), list.revision);
        if list.revision < self.revision.min(list.known) && !self.has_bug(InjectedBug::OldListBelieved) {
            // From a replica that lags: the list shows an earlier state.
            if !self.believes_past(RESTORED_MS) {
                return self.relisted_past(list.revision);
            }
            self.roster.forget_revisions();
            (self.revision, self.driver_revision) = (0, 0);
            self.buried.clear();
        }
        let first = self.phase == Phase::AwaitingRelist;
        // Pods of earlier leaders were created before our claim: a list that is older than the claim may lack them.
        let older =
            first && list.revision < self.book.revision() && !self.has_bug(InjectedBug::OldListBelieved);
        if older && !self.believes_past(OTHER_STORE_MS) {
            return self.relisted_past(list.revision);
        }
        self.revision = self.revision.max(list.revision);
        self.relist_done();
        self.driver_is(list.driver, list.revision);
        if first {
            self.phase = Phase::Active;
            self.listens = true;
            let from = if self.has_bug(InjectedBug::NoGrace) { Instant::START } else { self.now.instant };
            self.hearing = Hearing::new(from);
            // If an executor was ever created, the driver was up.
            if self.book.get().created == 0 {
                self.driver_awaited_since = Some(self.now.instant);
            }
            self.rolls.start(self.spec.roll.as_ref(), self.now.instant);
            self.check_restored(&list.pods);
        }
        let ours = list.pods.iter().filter(|pod| self.is_ours(pod));
        let mut listed: Vec<ExecutorId> = ours.map(|pod| pod.executor).collect();
        listed.sort_unstable();
        for pod in list.pods {
            let is_this = |(uid, revision): &(Uid, u64)| *uid == pod.uid && *revision >= pod.revision;
            if self.roster.get(pod.executor).is_some() || !self.buried.iter().any(is_this) {
                self.pod_changed(pod);
            }
        }
        let missing = |(id, executor): (ExecutorId, &Executor)| {
            let known = executor.pod.as_ref().filter(|_| !executor.gone)?;
            (known.revision <= list.revision && listed.binary_search(&id).is_err()).then_some(id)
        };
        let mut missing: Vec<ExecutorId> = self.roster.iter().filter_map(missing).collect();
        if self.has_bug(InjectedBug::MissingIsKept) {
            missing.clear();
        }
        for id in missing {
            self.vanished(id, Trigger::PodMissing);
        }
        if first {
            self.find_the_unborn(&listed);
            let early = std::mem::take(&mut self.early);
            if early.len() >= EARLY_MAX {
                self.relist_again();
            }
            for (pod, gone) in early.into_values().filter(|(pod, _)| pod.revision > list.revision) {
                if gone { self.pod_gone(pod) } else { self.pod_changed(pod) }
            }
        }
        if self.nodes.values().any(|node| node.state.gone) {
            let used: BTreeSet<&str> =
                self.roster.iter().filter_map(|(_, executor)| executor.node()).collect();
            self.nodes.retain(|name, node| !node.state.gone || used.contains(&**name));
        }
    }

    /// A pod reported before the first list. Also recorded if it is not ours, because that may change.
    pub(crate) fn early(&mut self, pod: PodView, gone: bool) {
        self.revision = self.revision.max(pod.revision);
        let known = self.early.get(&pod.uid).map_or(0, |(known, _)| known.revision);
        if known < pod.revision && self.early.len() < EARLY_MAX {
            self.early.insert(pod.uid.clone(), (pod, gone));
        }
    }

    /// A node that is gone is kept as long as an executor on it may be classified as lost with it.
    pub(crate) fn node_changed(&mut self, node: NodeView) {
        let gone = node.state.gone && self.phase == Phase::Active;
        if gone && !self.roster.iter().any(|(_, executor)| executor.node() == Some(&node.state.name)) {
            self.nodes.remove(&*node.state.name);
        } else {
            self.nodes.insert(node.state.name.as_str().into(), node);
        }
    }

    /// Is the ledger older than the cluster? Then ids beyond it may have been used.
    fn check_restored(&mut self, pods: &[PodView]) {
        if !self.owns() {
            return;
        }
        let highest = self.highest_named(pods).max(self.driver_named);
        let ledger = self.book.get();
        // Without a ledger and without pods, the fleet is new.
        let distrusts = self.book.distrusts();
        let fresh = ledger.reserved == ExecutorId(0) && highest == ExecutorId(0) && !distrusts;
        if fresh && ledger.suspect {
            self.book.edit().suspect = false;
        } else if highest > ledger.reserved || ledger.suspect || distrusts {
            self.restored(highest);
        }
    }

    /// The highest id in use. Counts every pod that matches the naming pattern of executor pods, regardless of
    /// its owner.
    pub(crate) fn highest_named(&self, pods: &[PodView]) -> ExecutorId {
        // A pod of another owner must not use up the ids with its name.
        let near = self.book.get().reserved.0.saturating_add(STRANGER_AHEAD_MAX);
        let named = pods.iter().filter(|pod| {
            let known = pod.executor.0 <= near || self.is_ours(pod) && pod.executor.0 <= RESERVED_MAX;
            self.owns() && known && self.spec.is_pod_name(&pod.name, pod.executor)
        });
        named.map(|pod| pod.executor).max().unwrap_or_default()
    }

    fn restored(&mut self, highest: ExecutorId) {
        self.book.jump(highest, self.revision);
        let message = "the ledger may be older than the world: ids jump ahead".to_owned();
        self.publish(Reason::LedgerRestored, None, message);
    }

    /// Finds executors that are in the ledger but not in the first list: they ended while no host was watching.
    fn find_the_unborn(&mut self, listed: &[ExecutorId]) {
        let ledger = self.book.get();
        let mut absent = ledger.born.clone();
        for id in listed.iter().copied().chain(self.roster.iter().map(|(id, _)| id)) {
            absent.remove(id);
        }
        let kept: IdSet = listed.iter().copied().filter(|id| ledger.kept.contains(*id)).collect();
        if kept != ledger.kept {
            self.book.edit().kept = kept;
        }
        self.absent = absent;
        self.take_absent();
    }

    /// Classifies those executors, some at a time: a record may name many more than ever existed.
    pub(crate) fn take_absent(&mut self) {
        for _ in 0..ATTENDED_MAX {
            if !self.has_absent() {
                return;
            }
            let Some(id) = self.absent.pop_first() else { return };
            if self.roster.get(id).is_none() && self.book.get().born.contains(id) {
                self.insert(id, Stage::AwaitingStart, Instant::NEVER);
                self.vanished(id, Trigger::PodMissing);
            }
        }
    }

    /// Is there a missing executor to classify, and room for it?
    pub(crate) fn has_absent(&self) -> bool {
        !self.absent.is_empty() && self.roster.tally().reason_pending < ABSENT_AT_ONCE
    }

    /// Executors that the driver reports, ended ones included: their ids are taken.
    pub(crate) fn driver_names(&mut self, rows: &[DriverRow]) {
        let near = self.book.get().reserved.0.saturating_add(STRANGER_AHEAD_MAX).min(RESERVED_MAX);
        let named = rows.iter().map(|row| row.executor).filter(|id| id.0 <= near).max();
        self.driver_named = self.driver_named.max(named.unwrap_or_default());
    }

    /// Does the pod belong to this fleet, and does it have the name that Rollcall would have given it?
    pub(crate) fn is_ours(&self, pod: &PodView) -> bool {
        let owned = pod.owner.as_ref() == Some(&self.spec.driver) && pod.executor <= ExecutorId::MAX;
        owned && (!self.owns() || self.spec.is_pod_name(&pod.name, pod.executor))
    }

    pub(crate) fn pod_changed(&mut self, pod: PodView) {
        let id = pod.executor;
        self.revision = self.revision.max(pod.revision);
        let ours = self.is_ours(&pod);
        let Some(executor) = self.roster.get(id) else {
            if ours {
                self.adopt(pod);
            }
            return;
        };
        match &executor.pod {
            Some(known) if known.uid != pod.uid => {
                // A different pod with the same id; Rollcall itself never creates one. The pod that we knew is
                // gone if this one is newer and has its name, regardless of the owner; the new pod is handled
                // when ours is forgotten.
                if known.revision < pod.revision && (ours || known.name == pod.name) {
                    self.vanished(id, Trigger::PodMissing);
                }
            }
            Some(known) if known.revision >= pod.revision || executor.gone => {}
            Some(_) if !ours => self.vanished(id, Trigger::PodDeleted),
            // The pod no longer has the labels, so no list will contain it: treat it as lost, and remove it.
            Some(_) if !pod.selected && executor.stage.serves() => self.lose(id, Trigger::PodDeleted),
            None if !ours => {}
            Some(_) | None => {
                let born = executor.pod.is_some();
                let admitted = executor.is_gated() && !pod.gated();
                self.roster.change(id, |executor| executor.pod = Some(kept(pod)));
                if !born {
                    self.born(id);
                }
                if admitted
                    && self.roster.get(id).is_some_and(|one| matches!(one.stage, Stage::AwaitingStart))
                {
                    // The pod was admitted: its time to start begins now.
                    self.enter(id, Stage::AwaitingStart, self.now.instant);
                }
                self.follow(id);
            }
        }
    }

    pub(crate) fn pod_gone(&mut self, pod: PodView) {
        let id = pod.executor;
        self.revision = self.revision.max(pod.revision);
        if self.buried.len() == BURIED_MAX {
            self.buried.pop_front();
        }
        self.buried.push_back((pod.uid.clone(), pod.revision));
        let Some(executor) = self.roster.get(id) else { return };
        match &executor.pod {
            Some(known) if known.uid != pod.uid || executor.gone || known.revision > pod.revision => {}
            None if !self.is_ours(&pod) => {}
            Some(_) | None => {
                let born = executor.pod.is_some();
                self.roster.change(id, |executor| {
                    let known = executor.pod.take();
                    executor.pod =
                        Some(Box::new(known.map_or_else(|| pod.clone(), |known| last(*known, &pod))));
                });
                if !born {
                    self.born(id);
                }
                self.vanished(id, Trigger::PodDeleted);
            }
        }
    }

    /// Takes over a pod of this fleet that this host did not know: created before this host started, or at the last
    /// moment of an earlier leader.
    fn adopt(&mut self, pod: PodView) {
        let id = pod.executor;
        let ledger = self.book.get();
        if ledger.settled.contains(id) {
            let is_kept = ledger.kept.contains(id);
            if !self.owns() {
                return;
            }
            // Its end is already counted. This state of the pod may be stale: check it before deleting it.
            let mut removal = Removal::new(false);
            removal.accepted = true;
            let stage = if is_kept && pod.ended() { Stage::Kept } else { Stage::AwaitingRemoval(removal) };
            self.insert(id, stage, self.now.instant);
            self.roster.change(id, |executor| executor.pod = Some(kept(pod)));
            return;
        }
        let running = pod.phase == PodPhase::Running;
        let leaving = ledger.leaving.get(&id).copied();
        self.insert(id, Stage::AwaitingStart, Instant::NEVER);
        self.roster.change(id, |executor| {
            // It ran before this host started, so it had time to register.
            executor.registered = running;
            executor.proven = running && leaving.is_some();
            executor.pod = Some(kept(pod));
        });
        self.book.edit().bear(id);
        self.log.add(self.now, Some(id), "found");
        match leaving {
            Some(cause) => self.leave_on(id, cause),
            None => self.follow(id),
        }
    }

    /// The pod is known to exist.
    pub(crate) fn born(&mut self, id: ExecutorId) {
        self.book.edit().bear(id);
        let unseen = self.roster.get(id).is_some_and(|executor| {
            matches!(
                executor.stage,
                Stage::AwaitingCreate(_) | Stage::AwaitingConfirmation(_) | Stage::AwaitingLateCreate
            )
        });
        if unseen {
            let now = self.now.instant;
            self.enter(id, Stage::AwaitingStart, now);
            if let Some(lost) = self.roster.change(id, |executor| executor.replaces.take()).flatten() {
                self.publish(Reason::ExecutorReplaced, Some(id), format!("in place of {lost}"));
            }
            // The driver may have known the executor for longer, but its heartbeats were ignored until now.
            self.roster.change(id, |executor| executor.detector = Detector::new(now));
        }
    }

    /// Update the executor's stage from the state of its pod.
    pub(crate) fn follow(&mut self, id: ExecutorId) {
        let Some(executor) = self.roster.get(id) else { return };
        let Some(pod) = &executor.pod else { return };
        let unseen = self.has_bug(InjectedBug::EndedUnseen);
        let ended = if unseen { pod.ended() } else { pod.executor_ended() };
        let (phase, terminating) = (pod.phase, pod.terminating());
        let trigger = if pod.executor_succeeded() { Trigger::PodSucceeded } else { Trigger::PodFailed };
        let again = phase == PodPhase::Pending && !self.has_bug(InjectedBug::PendingAgainUnseen);
        // The pod became Pending again while its removal was planned, and the removal was cancelled.
        let heard_before = executor.pends_again() && executor.detector.last_heard().is_some();
        match &executor.stage {
            Stage::AwaitingStart | Stage::AwaitingRegistration | Stage::Available => {
                if ended {
                    let trigger = if terminating { Trigger::PodDeleted } else { trigger };
                    self.lose(id, trigger);
                } else if terminating {
                    self.owe(id);
                    let wake = self.now.instant + LOOK_AFTER_MS;
                    self.enter(id, Stage::AwaitingExit { cause: None, removal: None }, wake);
                } else if phase == PodPhase::Running && matches!(executor.stage, Stage::AwaitingStart) {
                    self.running(id);
                } else if again && (heard_before || !matches!(executor.stage, Stage::AwaitingStart)) {
                    self.pending_again(id);
                } else {
                    self.roster.wake_at(id, self.now.instant);
                }
            }
            Stage::AwaitingExit { cause, removal } => {
                if let (Some(cause), true) = (*cause, terminating) {
                    let accepted = removal.as_ref().is_some_and(|removal| removal.accepted);
                    if ended {
                        self.settle(id, End::Removed(cause), Then::Clear);
                    } else if !accepted {
                        self.removal_accepted(id);
                    }
                } else if ended {
                    self.lose(id, if terminating { Trigger::PodDeleted } else { trigger });
                }
            }
            Stage::AwaitingAnnouncement { .. } => {
                if ended {
                    self.lose(id, if terminating { Trigger::PodDeleted } else { trigger });
                }
            }
            Stage::AwaitingCreate(_)
            | Stage::AwaitingConfirmation(_)
            | Stage::AwaitingLateCreate
            | Stage::AwaitingReason(_)
            | Stage::AwaitingRecord { .. }
            | Stage::AwaitingRemoval(_)
            | Stage::Kept => {}
        }
    }

    /// The pod ran and is Pending again: its node was restarted, and its containers have to be restarted.
    /// Earlier heartbeats say nothing about the restarted executor.
    fn pending_again(&mut self, id: ExecutorId) {
        let now = self.now.instant;
        self.log.add(self.now, Some(id), "its pod is Pending again");
        self.enter(id, Stage::AwaitingStart, now);
        self.roster.change(id, |executor| {
            executor.rolling = false;
            executor.detector = Detector::new(now);
        });
    }

    /// The pod runs: wait for the executor's heartbeats.
    fn running(&mut self, id: ExecutorId) {
        let now = self.now.instant;
        self.enter(id, Stage::AwaitingRegistration, now);
        let disabled = self.spec.heartbeat.disabled;
        let from = if self.has_bug(InjectedBug::NoGrace) { Instant::START } else { now };
        let interval_ms = self.spec.heartbeat.interval_ms;
        let registered = self.roster.change(id, |executor| {
            // Heartbeats may arrive before the watch event. Heartbeats from long before the pod ran are from
            // another executor.
            let lately = |at| executor.proven || now.since_ms(at) <= interval_ms;
            let heard = executor.detector.last_heard().is_some_and(lately);
            if !heard {
                executor.detector = Detector::new(from);
            }
            heard || disabled
        });
        if registered == Some(true) {
            self.available(id);
        }
    }

    pub(crate) fn available(&mut self, id: ExecutorId) {
        self.enter(id, Stage::Available, self.now.instant);
        let proven = self.roster.change(id, |executor| std::mem::replace(&mut executor.proven, true));
        if proven == Some(false) {
            self.started(id);
        }
    }

    pub(crate) fn heard(&mut self, beat: Beat) {
        let now = self.now.instant;
        let Some(executor) = self.roster.get(beat.executor) else { return };
        let other = |known: &PodView| beat.uid.as_ref().is_some_and(|uid| *uid != known.uid);
        if executor.gone || executor.pod.as_deref().is_none_or(other) {
            // From an earlier pod with this id, from a pod that was deleted with its lost node, or from one
            // that is not known yet.
            return;
        }
        if self.hearing.heard(now) {
            // Silence can be trusted again.
            self.wake_all();
        }
        let facts: Vec<(usize, f64)> = beat
            .metrics
            .into_iter()
            .filter_map(|(name, value)| self.metric_index(name).map(|index| (index, value)))
            .collect();
        let change = self.roster.change(beat.executor, |executor| {
            if !executor.pends_again() {
                executor.detector.heard(now);
            }
            executor.registered = true;
            if !facts.is_empty() {
                let metrics = &mut executor.facts.get_or_insert_default().metrics;
                for (index, value) in facts {
                    if metrics.len() <= index {
                        metrics.resize(index + 1, f64::NAN);
                    }
                    metrics[index] = value;
                }
            }
            (matches!(executor.stage, Stage::AwaitingRegistration), executor.is_silent())
        });
        let Some((waits, silent)) = change else { return };
        if waits {
            self.available(beat.executor);
        } else if silent {
            self.heard_again(beat.executor);
        }
    }

    /// Heartbeats may have been lost on our side: silence of all executors counts from now.
    pub(crate) fn hearing_impaired(&mut self, why: Impairment) {
        let ignored = match why {
            Impairment::Paused => InjectedBug::StandstillIgnored,
            Impairment::Refused | Impairment::Dropped | Impairment::Unattributed => {
                InjectedBug::DeafnessIgnored
            }
        };
        if self.spec.heartbeat.disabled || self.has_bug(ignored) {
            return;
        }
        self.hearing.excuse(self.now.instant);
        if self.impairments.told(why, self.now.instant) {
            let timeout_ms = self.spec.heartbeat.timeout_ms;
            let message = format!(
                "signs of life may have been lost on our side ({}): until {timeout_ms} ms after the last time no executor is \
                 given up for its silence",
                why.name()
            );
            self.publish(Reason::HearingImpaired, None, message);
        }
    }

    /// Ends the impairment: no heartbeat was lost for as long as silence was excused.
    pub(crate) fn hear_well_again(&mut self) {
        if let Some(lasted_ms) = self.impairments.end(self.now.instant, &self.spec.heartbeat) {
            self.log.add(self.now, None, format!("hearing is not impaired any more, after {lasted_ms} ms"));
        }
    }

    fn metric_index(&mut self, name: Box<str>) -> Option<usize> {
        if let Some(index) = self.metric_names.iter().position(|known| *known == name) {
            return Some(index);
        }
        if self.metric_names.len() == METRICS_MAX {
            return None;
        }
        self.metric_names.push(name);
        Some(self.metric_names.len() - 1)
    }

    pub(crate) fn driver_reported(&mut self, rows: Vec<DriverRow>) {
        // The driver remembers executors that the ledger may have forgotten.
        let ids = rows.iter().map(|row| row.executor).filter(|id| *id <= ExecutorId::MAX);
        let highest = ids.max().unwrap_or_default();
        if self.owns() && highest > self.book.get().reserved {
            self.restored(highest);
        }
        self.driver_answered = true;
        let now = self.now.instant;
        // The driver expires heartbeats itself, but late: `isActive` counts as a sign of life only while no
        // executor is heard directly. Otherwise only counters that changed since its last report do.
        let believed = !self.hearing.hears(now, &self.spec.heartbeat);
        for row in rows {
            let id = row.executor;
            let change = self.roster.change(id, |executor| {
                let facts = executor.facts.get_or_insert_with(|| Box::new(Facts::default()));
                let mut moved = false;
                if let Some(counters) = row.counters {
                    moved = facts.counters.as_ref() != Some(&counters);
                    (facts.counters, facts.counted) = (Some(counters), now);
                }
                let mut alive = false;
                if row.active {
                    executor.registered = true;
                    alive = (believed || moved) && !executor.pends_again();
                    if alive {
                        executor.detector.heard(now);
                    }
                } else {
                    executor.driver_said = row.remove_reason.or(executor.driver_said.take());
                }
                // A driver cannot remove an executor that never registered: the row is about an earlier
                // executor with this id.
                let serves = executor.stage.serves() && executor.registered;
                // A sign of life that would have prevented the loss also reverts it.
                let silent = alive && executor.is_silent();
                (matches!(executor.stage, Stage::AwaitingRegistration), serves, silent)
            });
            let Some((waits, serves, silent)) = change else { continue };
            if row.active && waits {
                self.available(id);
            } else if silent {
                self.heard_again(id);
            } else if !row.active && serves {
                self.lose(id, Trigger::DriverRemoved);
            }
        }
    }
}

/// The last state of a pod. A deletion may carry an older state than was seen: keep that the pod had ended, and why.
fn last(known: PodView, gone: &PodView) -> PodView {
    let older = known.ended() && !gone.ended()
        || known.executor_ended() && !gone.executor_ended()
        || known.disrupted() && !gone.disrupted();
    if older { PodView { revision: gone.revision, ..known } } else { gone.clone() }
}
