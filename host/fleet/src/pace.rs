//! How fast executors are created.

use crate::backoff::Backoff;
use crate::spec::AllocationSpec;
use crate::time::Instant;

/// How many creates may be in flight. No limit until one fails; then one, and twice as many with every round
/// that succeeds: the slow start of ReplicaSets, which avoids hammering an exhausted quota.
#[derive(Debug)]
pub(crate) struct Pace {
    /// None: no limit.
    pub limit: Option<u32>,
    pub not_before: Instant,
    pub backoff: Backoff,
}

impl Pace {
    pub(crate) fn new(spec: &AllocationSpec) -> Pace {
        let backoff = Backoff::new(1_000, spec.max_backoff_ms.max(1_000));
        Pace { limit: None, not_before: Instant::START, backoff }
    }

    /// Restart with one create.
    pub(crate) fn restart(&mut self) {
        self.limit = Some(1);
    }

    /// A possible obstacle was removed: the next try need not wait.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.not_before = self.not_before.min(now);
    }

    pub(crate) fn permits(&self, under_way: u32, now: Instant) -> u32 {
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
