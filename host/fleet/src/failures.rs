//! Which losses count as failures, and how many are too many.
//!
//! Spark counts every pod that becomes `Failed` towards `spark.executor.maxNumFailures`. But the limit is there to end an
//! application that cannot work, and a node that is restarted, a spot market or a preemption says nothing of the
//! application. So only that counts for which the application or the fleet's own document is to blame. What does not
//! count is still seen by the breaker, by the mass-loss rule and by the avoidance of nodes.
//!
//! A driver whose container is restarted takes its executors along: they exit by themselves, some before its end is told
//! and some after. Both are excused for a time around that end, as far
//! as one leader sees it.

use std::collections::VecDeque;

use crate::ledger::{FAILURES_WRITTEN_MAX, Ledger};
use crate::question::{LossKind, LossReason};
use crate::time::{Instant, Now};

/// Losses that are told up to this long before the end of the driver's container are its doing: status updates of two
/// pods take seconds to overtake each other.
const BEFORE_MS: u64 = 30_000;
/// And up to this long after it: executors find out at once, or when Spark's network timeout is over.
const AFTER_MS: u64 = 120_000;

/// Failures of a sliding window, kept in the ledger; here is what must be known to take some back.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// Those that may turn out to be the driver's doing: when they were counted, and in which step of the window.
    recent: VecDeque<(Instant, i64)>,
    driver_ended: Option<Instant>,
    /// When a failure that may be the driver's doing ended the fleet.
    failed_at: Option<Instant>,
}

impl Failures {
    /// Is it excused by the end of the driver's container?
    pub(crate) fn excuses(&self, kind: &LossKind, now: Instant) -> bool {
        let ended = self.driver_ended.is_some_and(|ended| now.since_ms(ended) <= AFTER_MS);
        ended && may_follow_driver(kind)
    }

    /// Counts one. How many there are, if it makes them more than `max` for the first time.
    pub(crate) fn count(
        &mut self,
        kind: &LossKind,
        now: Now,
        ledger: &mut Ledger,
        window_ms: u64,
        max: u32,
    ) -> Option<u32> {
        // Sixty steps to a window, so that the record stays small.
        let step_ms = i64::try_from(window_ms / 60).unwrap_or(i64::MAX).max(1);
        let step = now.wall_ms.div_euclid(step_ms).saturating_mul(step_ms);
        let oldest = now.wall_ms.saturating_sub(i64::try_from(window_ms).unwrap_or(i64::MAX));
        // Steps of the future are left from before the wall clock went back.
        ledger.failures.retain(|(at, _)| (oldest..=step).contains(at));
        match ledger.failures.back_mut() {
            Some((at, count)) if *at == step => *count = count.saturating_add(1),
            _ => ledger.failures.push_back((step, 1)),
        }
        if ledger.failures.len() > FAILURES_WRITTEN_MAX {
            ledger.failures.pop_front();
        }
        self.recent.retain(|(at, _)| now.instant.since_ms(*at) <= BEFORE_MS);
        if may_follow_driver(kind) {
            self.recent.push_back((now.instant, step));
        }
        let failures = total(ledger);
        let fails = failures > max && !ledger.failed;
        if fails {
            ledger.failed = true;
            self.failed_at = may_follow_driver(kind).then_some(now.instant);
        }
        fails.then_some(failures)
    }

    /// The driver's container has ended. Was anything counted just before?
    pub(crate) fn driver_ended(&mut self, now: Instant) -> bool {
        self.driver_ended = Some(now);
        self.recent.retain(|(at, _)| now.since_ms(*at) <= BEFORE_MS);
        !self.recent.is_empty()
    }

    /// Takes back what was counted just before the driver's container ended, and the end of the fleet if that was its
    /// reason. Whether it was.
    pub(crate) fn take_back(&mut self, now: Instant, ledger: &mut Ledger, max: u32) -> bool {
        for (_, step) in self.recent.drain(..) {
            if let Some((_, count)) = ledger.failures.iter_mut().find(|(at, count)| *at == step && *count > 0)
            {
                *count -= 1;
            }
        }
        ledger.failures.retain(|(_, count)| *count > 0);
        let lately = self.failed_at.take().is_some_and(|at| now.since_ms(at) <= BEFORE_MS);
        let revived = lately && ledger.failed && total(ledger) <= max;
        ledger.failed &= !revived;
        revived
    }
}

fn total(ledger: &Ledger) -> u32 {
    ledger.failures.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

/// Executors whose driver goes away exit with codes that say little.
fn may_follow_driver(kind: &LossKind) -> bool {
    match kind {
        LossKind::ExitStatus
        | LossKind::AppFailure
        | LossKind::DriverConnection
        | LossKind::Killed
        | LossKind::StartFailed => true,
        LossKind::Released
        | LossKind::Deleted
        | LossKind::DriverGone
        | LossKind::Completed
        | LossKind::MemoryLimit
        | LossKind::OutOfMemory
        | LossKind::NativeCrash
        | LossKind::Disk
        | LossKind::Evicted
        | LossKind::Preempted
        | LossKind::NodeLost
        | LossKind::NotAdmitted
        | LossKind::Image
        | LossKind::Config
        | LossKind::HeartbeatLost
        | LossKind::Unknown
        | LossKind::Other(_) => false,
    }
}

/// Whom a loss is to be laid to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The application, or the fleet's own document: image, configuration, resources.
    Fleet,
    /// The cluster: nodes, evictions, preemption, admission. The next executor may meet the same.
    Cluster,
    /// A wish of the driver, of a person or of Rollcall, or an end that is not known.
    Nothing,
}

/// `explained`: the executor's node explains that it was killed.
pub(crate) fn blame(reason: &LossReason, explained: bool) -> Blame {
    match &reason.kind {
        LossKind::Killed if explained => Blame::Cluster,
        LossKind::MemoryLimit
        | LossKind::OutOfMemory
        | LossKind::AppFailure
        | LossKind::NativeCrash
        | LossKind::ExitStatus
        | LossKind::Killed
        | LossKind::Disk
        | LossKind::DriverConnection
        | LossKind::Image
        | LossKind::Config
        | LossKind::StartFailed => Blame::Fleet,
        LossKind::Evicted | LossKind::Preempted | LossKind::NodeLost | LossKind::NotAdmitted => {
            Blame::Cluster
        }
        LossKind::Released
        | LossKind::Deleted
        | LossKind::DriverGone
        | LossKind::Completed
        | LossKind::HeartbeatLost
        | LossKind::Unknown => Blame::Nothing,
        LossKind::Other(_) if reason.exit_caused_by_app => Blame::Fleet,
        LossKind::Other(_) => Blame::Nothing,
    }
}
