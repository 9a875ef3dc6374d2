//! Allocation: creates the desired number of executors, each exactly once.
//!
//! Each step compares the serving executors with the target, and creates the difference as far as every limit
//! allows. Creates are not queued; an executor that could not be created now is simply still missing in the
//! next step. So one pod that never starts, one create that fails, or one delete that is refused takes one
//! place and does not block other executors: SAR stopped creating executors while a single one was pending, and
//! permanently after a create that threw an exception.
//!
//! An id is used for a single create request. A create with unknown outcome is never repeated: a GET looks for
//! the pod, and if it does not exist the executor gets a *new* id, because the old request may still arrive.
//! Its place under the ceiling stays reserved until it cannot arrive any more, and a last GET confirms that it
//! has not. An id whose create was definitely refused was never used, and becomes the next one again.

use crate::action::{Cause, Reason, Verb};
use crate::backoff::Backoff;
use crate::breaker::Turn;
use crate::executor::{Confirmation, Executor, Stage, kept};
use crate::fleet::{ATTENDED_MAX, Fleet, Phase};
use crate::guardrail::{Refusal, unless_dry};
use crate::id::ExecutorId;
use crate::injected_bug::InjectedBug;
use crate::observed::PodView;
use crate::outcome::{Done, Outcome};
use crate::question::{DeletionCause, Trigger};
use crate::time::Instant;
use crate::timing::LATE_REQUEST_MS;

impl Fleet {
    pub(crate) fn allocate(&mut self) {
        if !self.owns() {
            return;
        }
        self.shrinking = false;
        let bounds = self.bounds();
        let tally = *self.roster.tally();
        let unseen = if self.has_bug(InjectedBug::NoExpectations) { tally.creating } else { 0 };
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
            // At full strength the breaker has nothing to probe.
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

    /// May one more executor be created now?
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
        let unseen = if self.has_bug(InjectedBug::NoExpectations) { tally.creating } else { 0 };
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
        if self.has_bug(InjectedBug::NoRateLimit) {
            return Ok(());
        }
        if self.creates.level(now, allocation.batch_size, allocation.batch_delay_ms) == 0 {
            return Err(Refusal::RateLimit);
        }
        Ok(())
    }

    /// When the limit that holds creation back ends, if it ends by time.
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

    /// Keep at least half a batch of ids ready, so that a loss is answered in the step that detects it.
    fn reserve(&mut self, target: u32, missing: u32) {
        if self.phase != Phase::Active || target == 0 && missing == 0 || self.may_change_pods().is_err() {
            return;
        }
        let batch = u64::from(self.spec.allocation.batch_size);
        let ahead = self.book.reserved_ahead();
        if ahead < batch.div_ceil(2).max(u64::from(missing).min(batch)) {
            self.book.reserve(batch - ahead, ExecutorId(1));
            if self.has_bug(InjectedBug::CreateBeforeReserve) {
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
            // A pod with the name exists. It is only certain that this create was not applied.
            Outcome::AlreadyExists if self.has_bug(InjectedBug::TakenIsOurs) => self.born(id),
            Outcome::AlreadyExists => self.doubt(id, true),
            Outcome::Unknown(_) if self.has_bug(InjectedBug::CreateRepeated) => {
                self.not_created(id, None, None)
            }
            Outcome::Unknown(why) => {
                if self.create_failed(None) {
                    self.publish(Reason::FailedCreate, Some(id), format!("it may exist or not: {why}"));
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
            self.publish(Reason::FailedCreate, Some(id), why.to_owned());
            self.create_failed(None);
            self.lose(id, Trigger::PodMissing);
        } else {
            self.pace.succeeded(self.spec.allocation.batch_size);
            self.follow(id);
        }
    }

    /// Definitely refused: the id was never used.
    fn not_created(&mut self, id: ExecutorId, after_ms: Option<u64>, why: Option<String>) {
        self.breaker.forget(id);
        self.roster.remove(id);
        self.book.give_back(id);
        self.create_failed(after_ms);
        if let Some(why) = why {
            self.publish(Reason::FailedCreate, Some(id), why);
        }
    }

    /// Returns whether it is the first failure: creates that failed together are one failure.
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

    /// Check whether the pod exists.
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
                self.publish(Reason::FailedCreate, Some(id), "its name is taken by another pod".to_owned());
                self.breaker.forget(id);
                self.forget(id);
            }
            Outcome::NotFound if taken => {
                self.breaker.forget(id);
                self.forget(id);
            }
            Outcome::NotFound if self.has_bug(InjectedBug::LateCreateForgotten) => self.forget(id),
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
            // If it had arrived, our watch may not have reported it yet.
            self.look(id);
        }
    }

    // ------------------------------------------------------------------------------------ shrink --

    /// May surplus executors be removed?
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

    /// Too many executors serve: remove the least useful. First those that do not run, then the idle, then the
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
            // An executor without a pod cannot be removed, one that is rolled ends anyway, and one that may
            // become useful soon would have to be kept.
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

    /// Too few executors serve, and the removal of some has not been requested yet: keep them.
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

    /// The executor failed before it was ever available.
    pub(crate) fn start_failed(&mut self, id: ExecutorId) {
        let max = self.spec.allocation.start_failures_max;
        // In mode Observe, no start by Rollcall would close the breaker again.
        if self.owns() && self.breaker.failed(id, self.now.instant, max, &mut self.seed) == Turn::Opened {
            let count = self.breaker.failed_in_a_row();
            let message = format!("{count} executors in a row failed as they started");
            self.publish(Reason::BreakerOpened, Some(id), message);
        }
    }

    /// The executor ended; its start does not count any more.
    pub(crate) fn start_forgotten(&mut self, id: ExecutorId) {
        self.breaker.forget(id);
    }
}
