//! A controller of two hundred lines, for the simulator's own tests: good enough to keep a fleet at
//! strength in a calm world, and with flaws on demand so that checkers can be seen to bite.

#![expect(clippy::wildcard_enum_match_arm, reason = "a stub leaves out most of what there is")]

use std::collections::{BTreeMap, VecDeque};

use fleet::action::{Action, Cause, Notice, Reason, Verb};
use fleet::event::{Done, DriverView, Outcome, PodView};
use fleet::id::{ActionId, ExecutorId, Uid, Version};
use fleet::ledger::Ledger;
use fleet::question::{DeletionCause, LossKind};
use fleet::spec::{Draft, Mode, Spec, SpecError};
use fleet::time::Instant;

use crate::world::Core;

mod step;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// Counts ids from 1 in every life, in memory.
    ForgetsIds,
    /// Uses ids without reserving them.
    ReservesNothing,
    /// Deletes executors for no reason.
    Restless,
    /// Deletes all that is there when the target changes, and says that it rolls.
    NoFloor,
    /// Creates one more than it may.
    Greedy,
    /// Wakes up for nothing.
    Spins,
    /// Deletes pods whether they are its own or not.
    TakesAll,
    /// Does not listen to Pause.
    Deaf,
    /// Counts a loss twice.
    MiscountsLosses,
    /// Replaces nothing that is lost.
    Lazy,
}

pub struct Stub {
    draft: Draft,
    flaw: Flaw,
    state: State,
    ledger: Ledger,
    version: Option<Version>,
    dirty: bool,
    writing: Option<ActionId>,
    claimed: bool,
    reread: Option<Instant>,
    reading: Option<ActionId>,
    asked_at: Instant,
    actions: u64,
    pods: BTreeMap<ExecutorId, PodView>,
    foreign: Vec<PodView>,
    beats: BTreeMap<ExecutorId, Instant>,
    seen: u64,
    creating: BTreeMap<ActionId, ExecutorId>,
    deleting: BTreeMap<ExecutorId, Instant>,
    spare: VecDeque<ExecutorId>,
    reserving: Option<(u64, u64)>,
    driver_gone: bool,
    due: Instant,
    batch_at: Instant,
    out: Vec<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Reading(Instant),
    Listing(Instant),
    Active,
    Over,
}

impl Stub {
    pub fn make(draft: Draft, policies: &[String], flaw: Flaw) -> Result<Box<dyn Core>, Vec<SpecError>> {
        Spec::check(draft.clone(), policies)?;
        Ok(Box::new(Stub {
            draft,
            flaw,
            state: State::Idle,
            ledger: Ledger::default(),
            version: None,
            dirty: false,
            writing: None,
            claimed: false,
            reread: None,
            reading: None,
            asked_at: Instant::START,
            actions: 0,
            pods: BTreeMap::new(),
            foreign: Vec::new(),
            beats: BTreeMap::new(),
            seen: 0,
            creating: BTreeMap::new(),
            deleting: BTreeMap::new(),
            spare: VecDeque::new(),
            reserving: None,
            driver_gone: false,
            due: Instant::START,
            batch_at: Instant::START,
            out: Vec::new(),
        }))
    }

    fn want(&mut self, cause: Cause, verb: Verb) -> ActionId {
        self.actions += 1;
        let id = ActionId(self.actions);
        self.out.push(Action { id, cause, verb });
        id
    }

    fn target(&self) -> usize {
        let requested = self.ledger.requested.filter(|asked| asked.spec_target == self.draft.target);
        requested.map_or(self.draft.target, |asked| asked.total) as usize
    }

    fn saw(&mut self, pod: PodView) {
        if pod.owner.as_ref() != Some(&self.draft.driver) {
            if self.pods.get(&pod.executor).is_some_and(|ours| ours.uid == pod.uid) {
                self.gone(pod.executor);
            }
            self.foreign.push(pod);
            return;
        }
        let newer = self.pods.get(&pod.executor).is_none_or(|old| old.revision <= pod.revision);
        if newer && !self.ledger.settled.contains(pod.executor) {
            if self.ledger.born.insert(pod.executor) {
                self.ledger.created += 1;
                self.dirty = true;
            }
            self.pods.insert(pod.executor, pod);
        }
    }

    fn gone(&mut self, executor: ExecutorId) {
        self.pods.remove(&executor);
        self.deleting.remove(&executor);
        if !self.ledger.born.remove(executor) || !self.ledger.settled.insert(executor) {
            return;
        }
        self.dirty = true;
        match self.ledger.leaving.remove(&executor) {
            Some(cause) => *self.ledger.removed.entry(cause).or_default() += 1,
            None => *self.ledger.lost.entry(LossKind::Unknown).or_default() += 1,
        }
        if self.flaw == Flaw::MiscountsLosses {
            *self.ledger.lost.entry(LossKind::Unknown).or_default() += 1;
        }
    }

    fn relisted(&mut self, list: fleet::event::Relist) {
        self.driver_gone |= list.driver == DriverView::Gone;
        self.seen = list.revision;
        let missing: Vec<ExecutorId> = self
            .ledger
            .born
            .iter()
            .filter(|executor| !list.pods.iter().any(|pod| pod.executor == *executor))
            .filter(|executor| self.pods.get(executor).is_none_or(|pod| pod.revision <= list.revision))
            .collect();
        missing.into_iter().for_each(|executor| self.gone(executor));
        list.pods.into_iter().for_each(|pod| self.saw(pod));
        if matches!(self.state, State::Listing(_)) {
            self.state = State::Active;
        }
    }

    fn finished(&mut self, action: ActionId, outcome: Outcome, now: Instant) {
        if self.writing == Some(action) {
            self.writing = None;
            match outcome {
                Outcome::Ok(Done::Written(version)) => {
                    self.claimed = true;
                    self.version = Some(version);
                    if let Some((from, to)) = self.reserving.take() {
                        self.spare.extend((from..=to).map(ExecutorId));
                    }
                    if self.state == State::Reading(Instant::NEVER) {
                        self.state = State::Listing(now);
                    }
                }
                // Look what is there, and write again.
                _ => self.reread = Some(now + 700),
            }
            return;
        }
        if let Some(executor) = self.creating.remove(&action) {
            match outcome {
                Outcome::Ok(Done::Pod(pod)) => self.saw(*pod),
                Outcome::AlreadyExists | Outcome::Ok(_) => {}
                _ => self.spare.push_front(executor),
            }
            return;
        }
        if self.reading == Some(action) {
            self.reading = None;
            match outcome {
                Outcome::Ok(Done::Ledger(theirs, _)) if theirs.epoch > self.ledger.epoch => {
                    self.state = State::Over;
                    let message = "somebody else leads".to_owned();
                    let notice = Notice { reason: Reason::Deposed, executor: None, message };
                    self.want(Cause::Start, Verb::Publish(notice));
                }
                Outcome::Ok(Done::Ledger(theirs, version)) => {
                    let mine = theirs.epoch == self.ledger.epoch && theirs.writes == self.ledger.writes;
                    if !self.claimed && !mine {
                        return self.claim(*theirs, Some(version));
                    }
                    self.version = Some(version);
                    self.dirty = true;
                }
                Outcome::NotFound => {
                    self.version = None;
                    self.dirty = true;
                }
                _ => self.reread = Some(now + 700),
            }
            return;
        }
        match (self.state, outcome) {
            (State::Reading(_), Outcome::Ok(Done::Ledger(ledger, version))) => {
                self.claim(*ledger, Some(version))
            }
            (State::Reading(_), Outcome::NotFound) => self.claim(Ledger::default(), None),
            (State::Reading(_), _) => self.state = State::Reading(now + 1_000),
            (State::Listing(_), Outcome::Unknown(_)) => self.state = State::Listing(now + 1_000),
            _ => {}
        }
    }

    fn claim(&mut self, theirs: Ledger, version: Option<Version>) {
        self.ledger = Ledger { epoch: theirs.epoch + 1, writes: 0, ..theirs };
        self.version = version;
        self.dirty = true;
        self.state = State::Reading(Instant::NEVER);
        if self.flaw == Flaw::ForgetsIds || self.flaw == Flaw::ReservesNothing {
            self.spare = (1..100).map(ExecutorId).collect();
        }
    }

    fn is_recorded(&self) -> bool {
        !self.dirty && self.writing.is_none() && self.reread.is_none() && self.reading.is_none()
    }

    /// Written down first, and done when that is applied.
    fn delete(&mut self, executor: ExecutorId, why: DeletionCause, cause: Cause, now: Instant) {
        self.ledger.leaving.entry(executor).or_insert_with(|| {
            self.dirty = true;
            why
        });
        let Some(pod) = self.pods.get(&executor).filter(|_| self.is_recorded()) else { return };
        let (name, uid): (Box<str>, Uid) = (pod.name.clone(), pod.uid.clone());
        self.deleting.insert(executor, now + 20_000);
        // By turns, so that both are exercised and neither can be refused for ever.
        let verb = if (now.as_ms() / 1_000).is_multiple_of(2) {
            Verb::EvictPod { executor, pod: name, uid, grace_ms: Some(5_000) }
        } else {
            Verb::DeletePod { executor, pod: name, uid, grace_ms: Some(5_000) }
        };
        self.want(cause, verb);
    }

    fn reconcile(&mut self, now: Instant) {
        if self.state == State::Active && self.asked_at <= now {
            self.asked_at = now + 10_000;
            self.ask();
        }
        if self.state == State::Over {
            return;
        }
        let still =
            (self.ledger.paused && self.flaw != Flaw::Deaf) || self.draft.paused || self.draft.dry_run;
        if self.state == State::Active && !still && self.draft.mode == Mode::Own {
            self.shape(now);
        }
        if self.reread.is_some_and(|at| at <= now) {
            self.reread = None;
            self.reading = Some(self.want(Cause::Start, Verb::ReadLedger));
        }
        let read = !matches!(self.state, State::Idle) && self.ledger.epoch > 0;
        if read && self.dirty && self.writing.is_none() && self.reread.is_none() && self.reading.is_none() {
            self.dirty = false;
            self.ledger.writes += 1;
            let (ledger, over) = (Box::new(self.ledger.clone()), self.version.clone());
            self.writing = Some(self.want(Cause::Record, Verb::WriteLedger { ledger, over }));
        }
    }

    fn shape(&mut self, now: Instant) {
        self.deleting.retain(|_, until| *until > now);
        let ended: Vec<ExecutorId> = self
            .pods
            .values()
            .filter(|pod| pod.ended() && !pod.terminating())
            .map(|pod| pod.executor)
            .collect();
        for executor in ended {
            if !self.deleting.contains_key(&executor) {
                self.delete(executor, DeletionCause::Lost, Cause::Settled(executor), now);
            }
        }
        let timeout_ms = self.draft.heartbeat.timeout_ms;
        let silent: Vec<ExecutorId> = self
            .pods
            .values()
            .filter(|pod| pod.phase == fleet::event::Phase::Running && !pod.terminating())
            .map(|pod| pod.executor)
            .filter(|executor| now.since_ms(*self.beats.entry(*executor).or_insert(now)) > timeout_ms)
            .collect();
        for executor in silent {
            if !self.deleting.contains_key(&executor) {
                self.delete(executor, DeletionCause::Lost, Cause::Settled(executor), now);
            }
        }
        let live: Vec<ExecutorId> = self
            .pods
            .values()
            .filter(|pod| !pod.ended() && !pod.terminating() && !self.deleting.contains_key(&pod.executor))
            .map(|pod| pod.executor)
            .collect();
        let target =
            if self.driver_gone { 0 } else { self.target() + usize::from(self.flaw == Flaw::Greedy) * 5 };
        for executor in live.iter().rev().take(live.len().saturating_sub(target)) {
            self.delete(*executor, DeletionCause::ScaleDown, Cause::Excess, now);
        }
        if self.flaw == Flaw::Restless || self.flaw == Flaw::NoFloor {
            let cause =
                |executor| if self.flaw == Flaw::Restless { Cause::Settled(executor) } else { Cause::Excess };
            let wanted: Vec<_> = live.iter().map(|executor| (*executor, cause(*executor))).collect();
            if now > Instant::from_ms(200_000) {
                for (executor, cause) in wanted {
                    self.delete(executor, DeletionCause::Lost, cause, now);
                }
            }
        }
        if self.flaw == Flaw::TakesAll {
            for pod in std::mem::take(&mut self.foreign) {
                let (executor, name, uid) = (pod.executor, pod.name, pod.uid);
                self.want(Cause::Excess, Verb::DeletePod { executor, pod: name, uid, grace_ms: None });
            }
        }
        if now < self.batch_at || (self.flaw == Flaw::Lazy && self.ledger.ended() > 0) {
            return;
        }
        let missing = target.saturating_sub(live.len() + self.creating.len() + self.deleting.len());
        let limits = &self.draft.limits;
        let wanted = self.draft.target;
        let most = wanted + limits.surge.rounded_up(wanted) + limits.terminating.rounded_up(wanted);
        let there = self.pods.values().filter(|pod| !pod.ended()).count() + self.creating.len();
        let room = (most as usize).saturating_sub(there);
        let room = if self.flaw == Flaw::Greedy { missing } else { room };
        let batch = missing.min(room).min(self.draft.allocation.batch_size as usize);
        for _ in 0..batch {
            let Some(executor) = self.spare.pop_front() else {
                if self.reserving.is_none() && self.writing.is_none() {
                    let from = self.ledger.reserved.0 + 1;
                    self.reserving = Some((from, from + 3));
                    self.ledger.reserved = ExecutorId(from + 3);
                    self.dirty = true;
                }
                break;
            };
            self.batch_at = now + self.draft.allocation.batch_delay_ms;
            let pod = format!("{}-exec-{executor}", self.draft.name).into();
            let verb = Verb::CreatePod { executor, pod, avoid_nodes: Vec::new() };
            let id = self.want(Cause::Shortfall { replaces: None }, verb);
            self.creating.insert(id, executor);
        }
    }
}
