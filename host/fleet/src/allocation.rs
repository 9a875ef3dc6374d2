//! Allocation: as many executors as there should be, created once each.
//!
//! Each step compares what serves with what should, and creates the difference as far as every limit
//! allows. Nothing is queued to be created; what could not be created now is simply missing still. So
//! one pod that never starts, one create that fails, one delete that is refused takes one place and
//! holds up nobody: SAR stopped creating altogether while a single executor was pending, and for ever
//! after a create that threw.
//!
//! An id is used for one request, ever. A request whose fate is unknown is never repeated: a GET looks
//! for the pod, and if it is not there the executor gets a *new* id, for the old request may still be on
//! its way. Its place under the ceiling is kept until it cannot arrive any more, and a last look shows
//! that it has not. An id whose request was
//! refused for certain was never used, and is the next one again.

use crate::action::{Cause, Reason, Verb};
use crate::backoff::Backoff;
use crate::breaker::Turn;
use crate::event::{Done, Outcome, PodView};
use crate::executor::{Confirmation, Executor, Stage};
use crate::fleet::{ATTENDED_MAX, Fleet, Phase};
use crate::guardrail::{Refusal, unless_dry};
use crate::id::ExecutorId;
use crate::plant::Plant;
use crate::question::{DeletionCause, Trigger};
use crate::spec::AllocationSpec;
use crate::time::Instant;
use crate::view::kept;

/// A request that was sent longer ago than this will not be applied any more: the API server gives a
/// request a minute at most.
pub(crate) const LATE_REQUEST_MS: u64 = 60_000;

/// How many creates may be under way. All of them, until one fails; then one, and twice as many with
/// every round that succeeds: the slow start of ReplicaSets, which keeps a full quota from being hammered.
#[derive(Debug)]
pub(crate) struct Pace {
    /// None: no limit.
    limit: Option<u32>,
    not_before: Instant,
    backoff: Backoff,
}

impl Pace {
    pub(crate) fn new(spec: &AllocationSpec) -> Pace {
        let backoff = Backoff::new(1_000, spec.backoff_last_ms.max(1_000));
        Pace { limit: None, not_before: Instant::START, backoff }
    }

    /// Begin with one.
    pub(crate) fn restart(&mut self) {
        self.limit = Some(1);
    }

    /// Something has changed that may have been in the way: one more try need not wait.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.not_before = self.not_before.min(now);
    }

    fn permits(&self, under_way: u32, now: Instant) -> u32 {
        if now < self.not_before {
            return 0;
        }
        self.limit.map_or(u32::MAX, |limit| limit.saturating_sub(under_way))
    }

    pub(crate) fn succeeded(&mut self, batch: u32) {
        self.backoff.reset();
        self.limit = self.limit.map(|limit| limit + 1).filter(|limit| *limit < batch);
    }
}

impl Fleet {
    pub(crate) fn allocate(&mut self) {
        if !self.owns() {
            return;
        }
        self.shrinking = false;
        let bounds = self.bounds();
        let tally = *self.roster.tally();
        let unseen = if self.planted(Plant::NoExpectations) { tally.creating } else { 0 };
        let wanted = bounds.target.saturating_add(unseen).saturating_add(tally.rolling.min(bounds.surge));
        if tally.serving > wanted {
            self.shrink(tally.serving - wanted);
        }
        if tally.serving < wanted && tally.recallable > 0 {
            self.recall(wanted - tally.serving);
        }
        let was_held = self.held.take();
        let tally = *self.roster.tally();
        let mut missing = wanted.saturating_sub(tally.serving);
        if missing == 0 {
            self.owed.clear();
            // At full strength there is nothing to probe.
            if tally.starting == 0 && self.breaker.rested(self.now.instant) {
                self.publish(Reason::BreakerClosed, None, "the fleet is at strength".to_owned());
            }
        }
        self.reserve(bounds.target, missing);
        while missing > 0 {
            if let Err(refusal) = self.may_create() {
                self.held = Some(refusal);
                break;
            }
            let Some(id) = self.book.take_spare() else {
                self.held = Some(Refusal::NoIds);
                break;
            };
            self.create(id);
            missing -= 1;
        }
        if let Some(refusal) = self.held.filter(|refusal| was_held != Some(*refusal)) {
            self.refused(refusal);
        }
    }

    /// May one more be created now?
    fn may_create(&mut self) -> Result<(), Refusal> {
        self.may_change_pods()?;
        if self.book.get().failed {
            return Err(Refusal::FleetFailed);
        }
        if self.driver_gone() {
            return Err(Refusal::DriverGone);
        }
        if self.driver_starts_until().is_some() {
            return Err(Refusal::DriverStarting);
        }
        let bounds = self.bounds();
        let tally = self.roster.tally();
        let unseen = if self.planted(Plant::NoExpectations) { tally.creating } else { 0 };
        if tally.occupying - unseen >= bounds.ceiling() {
            return Err(Refusal::MaxSurge);
        }
        if tally.occupying + tally.terminating >= bounds.ceiling().saturating_add(bounds.terminating) {
            return Err(Refusal::MaxTerminating);
        }
        if tally.pending >= self.spec.allocation.pending_max {
            return Err(Refusal::MaxPending);
        }
        let now = self.now.instant;
        if self.pace.permits(tally.creating, now) == 0 {
            return Err(Refusal::SlowStart);
        }
        if self.breaker.permits(now) == 0 {
            return Err(Refusal::BreakerOpen);
        }
        let allocation = &self.spec.allocation;
        if self.planted(Plant::NoRateLimit) {
            return Ok(());
        }
        if self.creates.level(now, allocation.batch_size, allocation.batch_delay_ms) == 0 {
            return Err(Refusal::RateLimit);
        }
        Ok(())
    }

    /// When what holds creation back now will hold it back no more, as far as time is what it waits for.
    pub(crate) fn allocation_deadline(&self) -> Option<Instant> {
        let allocation = &self.spec.allocation;
        let Some(held) = self.held else {
            return self.breaker.deadline().filter(|at| *at > self.now.instant);
        };
        if held == Refusal::RateLimit {
            Some(self.creates.next(allocation.batch_size, allocation.batch_delay_ms))
        } else if held == Refusal::SlowStart {
            Some(self.pace.not_before).filter(|at| *at > self.now.instant)
        } else if held == Refusal::BreakerOpen {
            self.breaker.deadline()
        } else if held == Refusal::DriverStarting {
            self.driver_starts_until()
        } else {
            None
        }
    }

    /// Keep at least half a batch of ids ready, so that a loss is answered in the step that learns of it.
    fn reserve(&mut self, target: u32, missing: u32) {
        if self.phase != Phase::Active || target == 0 && missing == 0 || self.may_change_pods().is_err() {
            return;
        }
        let batch = u64::from(self.spec.allocation.batch_size);
        let ahead = self.book.reserved_ahead();
        if ahead < batch.div_ceil(2).max(u64::from(missing).min(batch)) {
            self.book.reserve(batch - ahead, ExecutorId(1));
            if self.planted(Plant::CreateBeforeReserve) {
                self.book.use_unwritten();
            }
        }
    }

    fn create(&mut self, id: ExecutorId) {
        let nodes = self.nodes.values().filter(|node| !node.state.gone).count();
        let avoid_nodes = self.node_losses.avoided(self.now.instant, &self.spec.allocation, nodes);
        let replaces = self.owed.pop_front();
        let verb = Verb::CreatePod { executor: id, pod: self.spec.pod_name(id), avoid_nodes };
        let action = self.act(Cause::Shortfall { replaces }, verb);
        self.insert(id, Stage::AwaitingCreate(action), Instant::NEVER);
        let allocation = &self.spec.allocation;
        self.creates.take(self.now.instant, allocation.batch_size, allocation.batch_delay_ms);
        self.breaker.created(id);
        self.roster.change(id, |executor| executor.replaces = replaces);
        self.log.add(self.now, Some(id), "created");
    }

    pub(crate) fn create_finished(&mut self, id: ExecutorId, outcome: Outcome) {
        match outcome {
            Outcome::Ok(Done::Pod(pod)) => self.created(id, *pod),
            // Something is there already. That our request was not applied is certain only of this one.
            Outcome::AlreadyExists if self.planted(Plant::TakenIsOurs) => self.born(id),
            Outcome::AlreadyExists => self.doubt(id, true),
            Outcome::Unknown(_) if self.planted(Plant::CreateRepeated) => self.not_created(id, None, None),
            Outcome::Unknown(why) => {
                if self.create_failed(None) {
                    self.publish(Reason::CreateFailed, Some(id), format!("it may exist or not: {why}"));
                }
                self.doubt(id, false);
            }
            Outcome::Throttled { after_ms } => self.not_created(id, after_ms, None),
            Outcome::Forbidden(why) | Outcome::Invalid(why) => self.not_created(id, None, Some(why)),
            Outcome::Conflict => {
                let why = "another change at the same moment, of a ResourceQuota for instance";
                self.not_created(id, None, Some(why.to_owned()));
            }
            Outcome::NotFound => {
                self.not_created(id, None, Some("its namespace does not exist".to_owned()));
            }
            Outcome::Budget
            | Outcome::Ok(
                Done::Ledger { .. } | Done::LedgerRefused { .. } | Done::Written(_) | Done::Deleted,
            ) => {
                self.not_created(id, None, Some("an answer that no create has".to_owned()));
            }
        }
    }

    pub(crate) fn created(&mut self, id: ExecutorId, pod: PodView) {
        let foreign = !self.is_ours(&pod) || !pod.selected;
        self.revision = self.revision.max(pod.revision);
        self.roster.change(id, |executor| executor.pod = Some(kept(pod)));
        self.born(id);
        if foreign {
            let why = "admission changed its owner, name or labels: it cannot be looked after";
            self.publish(Reason::CreateFailed, Some(id), why.to_owned());
            self.create_failed(None);
            self.lose(id, Trigger::PodMissing);
        } else {
            self.pace.succeeded(self.spec.allocation.batch_size);
            self.follow(id);
        }
    }

    /// Refused for certain: the id was never used.
    fn not_created(&mut self, id: ExecutorId, after_ms: Option<u64>, why: Option<String>) {
        self.breaker.forget(id);
        self.roster.remove(id);
        self.book.give_back(id);
        self.create_failed(after_ms);
        if let Some(why) = why {
            self.publish(Reason::CreateFailed, Some(id), why);
        }
    }

    /// Whether it is the first: creates that failed together are one failure.
    fn create_failed(&mut self, after_ms: Option<u64>) -> bool {
        let now = self.now.instant;
        let first = now >= self.pace.not_before;
        if first {
            let wait_ms = self.pace.backoff.failed_ms(&mut self.seed);
            self.pace.not_before = now + wait_ms;
        }
        self.pace.not_before = self.pace.not_before.max(now + after_ms.unwrap_or(0));
        self.pace.limit = Some(1);
        first
    }

    // ------------------------------------------------------------------------------------- doubt --

    fn doubt(&mut self, id: ExecutorId, taken: bool) {
        let confirmation = Confirmation { taken, get: None, backoff: Backoff::new(1_000, 30_000) };
        self.enter(id, Stage::AwaitingConfirmation(confirmation), self.now.instant);
    }

    /// Look whether it exists.
    pub(crate) fn confirm(&mut self, id: ExecutorId) {
        let waits = |executor: &&Executor| matches!(&executor.stage, Stage::AwaitingConfirmation(confirmation) if confirmation.get.is_none());
        if self.roster.get(id).filter(waits).is_none() {
            return;
        }
        let verb = Verb::GetPod { executor: id, pod: self.spec.pod_name(id) };
        let action = self.act(Cause::Doubt(id), verb);
        self.roster.change(id, |executor| {
            if let Stage::AwaitingConfirmation(confirmation) = &mut executor.stage {
                confirmation.get = Some(action);
            }
        });
    }

    pub(crate) fn confirmed(&mut self, id: ExecutorId, outcome: Outcome) {
        let Some(executor) = self.roster.get(id) else { return };
        let Stage::AwaitingConfirmation(Confirmation { taken, .. }) = executor.stage else { return };
        match outcome {
            Outcome::Ok(Done::Pod(pod)) if self.is_ours(&pod) => self.created(id, *pod),
            Outcome::Ok(Done::Pod(_)) => {
                self.publish(Reason::CreateFailed, Some(id), "its name is taken by another pod".to_owned());
                self.breaker.forget(id);
                self.forget(id);
            }
            Outcome::NotFound if taken => {
                self.breaker.forget(id);
                self.forget(id);
            }
            Outcome::NotFound if self.planted(Plant::LateCreateForgotten) => self.forget(id),
            Outcome::NotFound => {
                self.breaker.forget(id);
                self.enter(id, Stage::AwaitingLateCreate, self.now.instant + LATE_REQUEST_MS);
            }
            Outcome::Ok(_)
            | Outcome::AlreadyExists
            | Outcome::Conflict
            | Outcome::Throttled { .. }
            | Outcome::Budget
            | Outcome::Forbidden(_)
            | Outcome::Invalid(_)
            | Outcome::Unknown(_) => {
                let seed = &mut self.seed;
                let wait_ms = self.roster.change(id, |executor| {
                    let Stage::AwaitingConfirmation(confirmation) = &mut executor.stage else { return 0 };
                    confirmation.get = None;
                    confirmation.backoff.failed_ms(seed)
                });
                self.roster.wake_at(id, self.now.instant + wait_ms.unwrap_or(0));
            }
        }
    }

    pub(crate) fn wait_for_late_create(&mut self, id: ExecutorId) {
        let Some(executor) = self.roster.get(id) else { return };
        let until = executor.since + LATE_REQUEST_MS;
        if self.now.instant < until {
            self.roster.wake_at(id, until);
        } else {
            // Had it arrived, our watch may not have said so yet.
            self.look(id);
        }
    }

    // ------------------------------------------------------------------------------------ shrink --

    /// May executors be let go because there are too many?
    pub(crate) fn may_shrink(&self) -> Result<(), Refusal> {
        unless_dry(self.may_change_pods(), || {
            if !self.view_fresh {
                Err(Refusal::ViewStale)
            } else if self.driver_gone() {
                Err(Refusal::DriverGone)
            } else {
                Ok(())
            }
        })
    }

    /// Too many serve: let the least useful go. First those that do not run, then the idle, then the
    /// youngest.
    fn shrink(&mut self, excess: u32) {
        if self.may_shrink().is_err() {
            return;
        }
        let floor = self.bounds().floor;
        let usefulness = |(id, executor): (ExecutorId, &Executor)| {
            let rank = if executor.is_available() {
                2
            } else if matches!(executor.stage, Stage::AwaitingRegistration) {
                1
            } else {
                0
            };
            // What is not there yet cannot be removed, what is rolled goes by itself, and what may be of use soon
            // would have to stay after all.
            let unseen = matches!(executor.stage, Stage::AwaitingCreate(_) | Stage::AwaitingConfirmation(_));
            let needed = rank < 2 && executor.is_useful() && self.available_count() < floor;
            if unseen || executor.rolling || !executor.stage.serves() || needed {
                return None;
            }
            let counters = executor.facts.as_ref().and_then(|facts| facts.counters.as_ref());
            let tasks = counters.map_or(0, |counters| counters.active_tasks);
            Some((rank, tasks, u64::MAX - id.0, id))
        };
        let mut candidates: Vec<_> = self.roster.iter().filter_map(usefulness).collect();
        candidates.sort_unstable();
        self.shrinking = candidates.len().min(excess as usize) > ATTENDED_MAX;
        for (rank, .., id) in candidates.into_iter().take((excess as usize).min(ATTENDED_MAX)) {
            if rank == 2 && self.available_count() <= floor {
                self.shrinking = false;
                break;
            }
            self.announce(id, DeletionCause::ScaleDown);
        }
    }

    /// Too few serve, and some were only about to go: they stay.
    fn recall(&mut self, missing: u32) {
        let about_to_go =
            |(id, executor): (ExecutorId, &Executor)| executor.stage.can_be_recalled().then_some(id);
        let ids: Vec<ExecutorId> =
            self.roster.iter().filter_map(about_to_go).take(missing as usize).collect();
        for id in ids {
            self.stay(id, "wanted again");
        }
    }

    // ----------------------------------------------------------------------------------- breaker --

    /// An executor became available for the first time.
    pub(crate) fn started(&mut self, id: ExecutorId) {
        self.pending.reset();
        self.pending_from = Instant::START;
        self.log.add(self.now, Some(id), "available");
        if self.breaker.started() == Turn::Closed {
            self.publish(Reason::BreakerClosed, Some(id), "an executor became available".to_owned());
        }
    }

    /// It failed before it was ever available.
    pub(crate) fn start_failed(&mut self, id: ExecutorId) {
        let max = self.spec.allocation.start_failures_max;
        // When observing, nothing of ours would close it again.
        if self.owns() && self.breaker.failed(id, self.now.instant, max, &mut self.seed) == Turn::Opened {
            let count = self.breaker.failed_in_a_row();
            let message = format!("{count} executors in a row failed as they started");
            self.publish(Reason::BreakerOpened, Some(id), message);
        }
    }

    /// It ended; its start says nothing any more.
    pub(crate) fn start_forgotten(&mut self, id: ExecutorId) {
        self.breaker.forget(id);
    }
}
