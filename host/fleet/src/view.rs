//! From what was told to what is: pods, drivers and signs of life.
//!
//! Everything here is level-triggered. A pod's state is taken for what it is, not for how it came to be:
//! `Failed` means lost whether it arrives as ADDED, MODIFIED or in a list. What is older than what is
//! known is dropped, by revision. What is missing is concluded only from a complete list that is at
//! least as new as the pod that it misses.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::Reason;
use crate::event::{Beat, DriverRow, Impairment, NodeView, Phase as PodPhase, PodView, Relist};
use crate::executor::{Executor, Facts, Removal, Stage, Then};
use crate::fleet::{ATTENDED_MAX, Fleet, OTHER_STORE_MS, Phase, RESTORED_MS};
use crate::heartbeat::{Detector, Hearing};
use crate::id::{ExecutorId, IdSet, Uid};
use crate::ledger::{End, RESERVED_MAX};
use crate::plant::Plant;
use crate::question::Trigger;
use crate::removal::LOOK_AFTER_MS;
use crate::time::Instant;

/// Columns beyond this many are dropped: 100 is what an executor reports with all sources on, twice.
const METRICS_MAX: usize = 200;
/// Pods that are told of before the first list: 5 KB each, 50 MB. Beyond that another list is needed.
const EARLY_MAX: usize = 10_000;
/// More than go while one list is under way. Whoever is missed here is found out by the list after that.
const BURIED_MAX: usize = 1_000;
/// So far beyond the reserved ids a pod that is not ours is taken for one that was.
const STRANGER_AHEAD_MAX: u64 = 100_000;
/// Executors of the ledger that are missing are found out about so many at a time: 1 KB each, 1 MB.
const ABSENT_AT_ONCE: u32 = 1_000;

/// By UID; whether it is gone.
pub(crate) type Early = BTreeMap<Uid, (PodView, bool)>;

impl Fleet {
    pub(crate) fn relisted(&mut self, list: Relist) {
        // Who is gone stays gone, also in a list that is too old to tell of pods.
        self.driver_is(list.driver.clone(), list.revision);
        if list.revision < self.revision.min(list.known) && !self.planted(Plant::OldListBelieved) {
            // From a replica that lags: it says what was.
            if !self.believes_past(RESTORED_MS) {
                return self.relisted_past(list.revision);
            }
            self.roster.forget_revisions();
            (self.revision, self.driver_revision) = (0, 0);
            self.buried.clear();
        }
        let first = self.phase == Phase::AwaitingRelist;
        // Earlier leaders' pods are older than our claim: a list that is older may lack them.
        let older = first && list.revision < self.book.revision() && !self.planted(Plant::OldListBelieved);
        if older && !self.believes_past(OTHER_STORE_MS) {
            return self.relisted_past(list.revision);
        }
        self.revision = self.revision.max(list.revision);
        self.relist_done();
        self.driver_is(list.driver, list.revision);
        if first {
            self.phase = Phase::Active;
            self.listens = true;
            let from = if self.planted(Plant::NoGrace) { Instant::START } else { self.now.instant };
            self.hearing = Hearing::new(from);
            // Once there was an executor, the driver was up.
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
        if self.planted(Plant::MissingIsKept) {
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

    /// Told of a pod before the first list. Also of one that is not ours: it may be no longer.
    pub(crate) fn early(&mut self, pod: PodView, gone: bool) {
        self.revision = self.revision.max(pod.revision);
        let known = self.early.get(&pod.uid).map_or(0, |(known, _)| known.revision);
        if known < pod.revision && self.early.len() < EARLY_MAX {
            self.early.insert(pod.uid.clone(), (pod, gone));
        }
    }

    /// One that is gone is of interest for as long as there is somebody to ask why it was lost with it.
    pub(crate) fn node_changed(&mut self, node: NodeView) {
        let gone = node.state.gone && self.phase == Phase::Active;
        if gone && !self.roster.iter().any(|(_, executor)| executor.node() == Some(&node.state.name)) {
            self.nodes.remove(&*node.state.name);
        } else {
            self.nodes.insert(node.state.name.as_str().into(), node);
        }
    }

    /// Is the ledger older than the world? Then ids beyond it may have been used.
    fn check_restored(&mut self, pods: &[PodView]) {
        if !self.owns() {
            return;
        }
        let highest = self.highest_named(pods).max(self.driver_named);
        let ledger = self.book.get();
        // Where there was no record and there are no pods, there was no fleet.
        let distrusts = self.book.distrusts();
        let fresh = ledger.reserved == ExecutorId(0) && highest == ExecutorId(0) && !distrusts;
        if fresh && ledger.suspect {
            self.book.edit().suspect = false;
        } else if highest > ledger.reserved || ledger.suspect || distrusts {
            self.restored(highest);
        }
    }

    /// The highest id in use. Whoever owns it now: a pod with the name of an executor's was one.
    pub(crate) fn highest_named(&self, pods: &[PodView]) -> ExecutorId {
        // What a stranger calls its pod must not use up the ids.
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

    /// Executors that the ledger knows and the first list does not: they ended while nobody looked.
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

    /// Finds out what became of those, some at a time: a record may name many more than there ever were.
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

    /// Is there somebody to find out about, and room for it?
    pub(crate) fn has_absent(&self) -> bool {
        !self.absent.is_empty() && self.roster.tally().reason_pending < ABSENT_AT_ONCE
    }

    /// Executors that the driver tells of, ended ones included: their ids are taken.
    pub(crate) fn driver_names(&mut self, rows: &[DriverRow]) {
        let near = self.book.get().reserved.0.saturating_add(STRANGER_AHEAD_MAX).min(RESERVED_MAX);
        let named = rows.iter().map(|row| row.executor).filter(|id| id.0 <= near).max();
        self.driver_named = self.driver_named.max(named.unwrap_or_default());
    }

    /// Is it one of ours, and does it call itself what we would have called it?
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
                // Another incarnation under the same id, which none of ours ever is. The one that we knew
                // is gone if this is the later and has its name, whosever it is; what becomes of this one
                // is seen when ours is forgotten.
                if known.revision < pod.revision && (ours || known.name == pod.name) {
                    self.vanished(id, Trigger::PodMissing);
                }
            }
            Some(known) if known.revision >= pod.revision || executor.gone => {}
            Some(_) if !ours => self.vanished(id, Trigger::PodDeleted),
            // It will be listed no more: it is as good as lost, and in the way.
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
                    // Its time to start begins now.
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

    /// A pod of ours that this host did not know: from before its time, or created at the last moment of
    /// an earlier one.
    fn adopt(&mut self, pod: PodView) {
        let id = pod.executor;
        let ledger = self.book.get();
        if ledger.settled.contains(id) {
            let is_kept = ledger.kept.contains(id);
            if !self.owns() {
                return;
            } // Its end is counted. That this is how it is now is not certain: look before it is deleted.
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
            // It ran before this host did: it had its time to register.
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

    /// Its pod exists for certain.
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
            // Its driver may have known it for longer, but its heartbeats were nothing until now.
            self.roster.change(id, |executor| executor.detector = Detector::new(now));
        }
    }

    /// Its stage follows its pod.
    pub(crate) fn follow(&mut self, id: ExecutorId) {
        let Some(executor) = self.roster.get(id) else { return };
        let Some(pod) = &executor.pod else { return };
        let unseen = self.planted(Plant::EndedUnseen);
        let ended = if unseen { pod.ended() } else { pod.executor_ended() };
        let (phase, terminating) = (pod.phase, pod.terminating());
        let trigger = if pod.executor_succeeded() { Trigger::PodSucceeded } else { Trigger::PodFailed };
        let again = phase == PodPhase::Pending && !self.planted(Plant::PendingAgainUnseen);
        // It came to be Pending while it was to go, and stays after all.
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

    /// Its pod ran and is Pending again: its node was restarted, and its containers have to be. What was heard of it
    /// before says nothing of what comes.
    fn pending_again(&mut self, id: ExecutorId) {
        let now = self.now.instant;
        self.log.add(self.now, Some(id), "its pod is Pending again");
        self.enter(id, Stage::AwaitingStart, now);
        self.roster.change(id, |executor| {
            executor.rolling = false;
            executor.detector = Detector::new(now);
        });
    }

    /// The pod runs: listen for the executor.
    fn running(&mut self, id: ExecutorId) {
        let now = self.now.instant;
        self.enter(id, Stage::AwaitingRegistration, now);
        let disabled = self.spec.heartbeat.disabled;
        let from = if self.planted(Plant::NoGrace) { Instant::START } else { now };
        let interval_ms = self.spec.heartbeat.interval_ms;
        let registered = self.roster.change(id, |executor| {
            // Its heartbeats may be faster than the watch. Those of long before it ever ran are not its own.
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
            // Of an earlier incarnation, of a node that we lost sight of, or not there yet.
            return;
        }
        if self.hearing.heard(now) {
            // Silence can be believed again.
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

    /// Signs of life may have been lost on our side: all silence begins now.
    pub(crate) fn hearing_impaired(&mut self, why: Impairment) {
        let ignored = match why {
            Impairment::Paused => Plant::StandstillIgnored,
            Impairment::Refused | Impairment::Dropped | Impairment::Unattributed => Plant::DeafnessIgnored,
        };
        if self.spec.heartbeat.disabled || self.planted(ignored) {
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

    /// For as long as silence was excused, no sign of life was lost.
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
        // It expires its executors' heartbeats itself, but takes its time: its word counts while nobody
        // speaks for himself. Otherwise only what has changed since its last report is a sign of life.
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
                // A driver cannot remove whom it never had: that was another of this id, long ago.
                let serves = executor.stage.serves() && executor.registered;
                // What would have kept it takes it back.
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

/// Its last state. A deletion may be told with an older one than was seen: that it had ended, and why, is kept.
fn last(known: PodView, gone: &PodView) -> PodView {
    let older = known.ended() && !gone.ended()
        || known.executor_ended() && !gone.executor_ended()
        || known.disrupted() && !gone.disrupted();
    if older { PodView { revision: gone.revision, ..known } } else { gone.clone() }
}

/// As it is held: whose it is was checked, and its owner need not be known ten thousand times.
pub(crate) fn kept(pod: PodView) -> Box<PodView> {
    Box::new(PodView { owner: None, ..pod })
}
