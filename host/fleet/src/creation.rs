//! How fast executors are created and removed: rate limits, slow start, back-off, and which losses are still to be
//! replaced.

use std::collections::VecDeque;

use crate::backoff::{Backoff, Seed};
use crate::bucket::Bucket;
use crate::env::Env;
use crate::guardrail::Refusal;
use crate::id::ExecutorId;
use crate::pace::Pace;
use crate::spec::AllocationSpec;
use crate::time::Instant;

/// Executors that no longer serve and are remembered by id until they are replaced. Only the explanation of a
/// create depends on it.
const OWED_MAX: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Creation {
    pub pace: Pace,
    creates: Bucket,
    deletes: Bucket,
    /// Back-off between executors that are given up as pending for too long.
    pending: Backoff,
    pending_from: Instant,
    /// Executors that no longer serve and have no replacement yet.
    owed: VecDeque<ExecutorId>,
    /// Why no executor is created although executors are missing.
    held: Option<Refusal>,
    /// More executors have to be removed than one step may remove.
    pub shrinking: bool,
}

impl Creation {
    pub(crate) fn new(spec: &AllocationSpec) -> Creation {
        Creation {
            pace: Pace::new(spec),
            creates: Bucket::new(),
            deletes: Bucket::new(),
            pending: Backoff::new(spec.initial_backoff_ms, spec.max_backoff_ms),
            pending_from: Instant::START,
            owed: VecDeque::new(),
            held: None,
            shrinking: false,
        }
    }

    /// Counts that were taken with the old settings do not apply to the new ones.
    pub(crate) fn reset_rates(&mut self) {
        (self.creates, self.deletes) = (Bucket::new(), Bucket::new());
    }

    // -------------------------------------------------------------------------------------- rates --

    pub(crate) fn creates(&self) -> &Bucket {
        &self.creates
    }

    /// A create is sent.
    pub(crate) fn take_create(&mut self, env: Env<'_>) -> Option<ExecutorId> {
        let allocation = &env.spec.allocation;
        self.creates.take(env.now.instant, allocation.batch_size, allocation.batch_delay_ms);
        self.owed.pop_front()
    }

    /// A deletion is sent.
    pub(crate) fn take_delete(&mut self, env: Env<'_>) {
        let allocation = &env.spec.allocation;
        self.deletes.take(env.now.instant, allocation.batch_size, allocation.batch_delay_ms);
    }

    /// When the rate limit permits the next deletion.
    pub(crate) fn deletes_from(&self, env: Env<'_>) -> Instant {
        let (size, per_ms) = (env.spec.allocation.batch_size, env.spec.allocation.batch_delay_ms);
        if self.deletes.level(env.now.instant, size, per_ms) > 0 {
            Instant::START
        } else {
            self.deletes.next(size, per_ms)
        }
    }

    // ------------------------------------------------------------------------------------ results --

    /// A create failed. Returns whether it is the first failure: creates that failed together are one failure.
    pub(crate) fn create_failed(&mut self, after_ms: Option<u64>, now: Instant, seed: &mut Seed) -> bool {
        let first = now >= self.pace.not_before;
        if first {
            let wait_ms = self.pace.backoff.failed_ms(seed);
            self.pace.not_before = now + wait_ms;
        }
        self.pace.not_before = self.pace.not_before.max(now + after_ms.unwrap_or(0));
        self.pace.limit = Some(1);
        first
    }

    /// An executor did not start in time. Give up one executor after another, with growing delays: if many cannot
    /// start, replacing them does not help.
    pub(crate) fn pending_timed_out(&mut self, now: Instant, seed: &mut Seed) {
        self.pending_from = now + self.pending.failed_ms(seed);
    }

    /// An executor became available for the first time.
    pub(crate) fn started(&mut self) {
        self.pending.reset();
        self.pending_from = Instant::START;
    }

    /// When the next executor may be given up as pending for too long.
    pub(crate) fn pending_from(&self) -> Instant {
        self.pending_from
    }

    // ------------------------------------------------------------------------------------ missing --

    /// The executor no longer serves: a replacement is due.
    pub(crate) fn owe_replacement(&mut self, id: ExecutorId) {
        if self.owed.len() == OWED_MAX {
            self.owed.pop_front();
        }
        self.owed.push_back(id);
    }

    /// The executor serves again.
    pub(crate) fn not_owed(&mut self, id: ExecutorId) {
        self.owed.retain(|owed| *owed != id);
    }

    /// No executor is missing.
    pub(crate) fn is_complete(&mut self) {
        self.owed.clear();
    }

    /// Why executors are missing. Returns the refusal if it is new.
    pub(crate) fn hold(&mut self, held: Option<Refusal>) -> Option<Refusal> {
        let was = std::mem::replace(&mut self.held, held);
        held.filter(|refusal| was != Some(*refusal))
    }

    pub(crate) fn held(&self) -> Option<Refusal> {
        self.held
    }
}
