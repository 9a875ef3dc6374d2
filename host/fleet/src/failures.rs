//! Which losses count as failures, and how many are too many.
//!
//! Spark counts every pod that becomes `Failed` towards `spark.executor.maxNumFailures`. But the limit exists
//! to end an application that cannot work, and a node restart, a spot reclaim or a preemption says nothing
//! about the application. So only losses count for which the application or the fleet's own document is to
//! blame. Other losses still reach the breaker, the mass-loss rule and the avoidance of nodes.
//!
//! When a driver's container restarts, its executors exit by themselves, some before the container's end is
//! reported and some after. Both are excused for a time around that end, as far as one leader sees it.

use std::collections::VecDeque;

use crate::ledger::{FAILURES_WRITTEN_MAX, Ledger};
use crate::question::{LossKind, LossReason};
use crate::time::{Instant, Now};

/// Losses reported up to this long before the end of the driver's container are caused by it: the status
/// updates of two pods can overtake each other by seconds.
const BEFORE_MS: u64 = 30_000;
/// And up to this long after it: executors notice at once, or when Spark's network timeout is over.
const AFTER_MS: u64 = 120_000;

/// Failures in a sliding window, stored in the ledger; this type holds what is needed to take some back.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// Failures that the driver may have caused: when they were counted, and in which step of the window.
    recent: VecDeque<(Instant, i64)>,
    driver_ended: Option<Instant>,
    /// When a failure that the driver may have caused made the fleet fail.
    failed_at: Option<Instant>,
}

impl Failures {
    /// Does the end of the driver's container excuse the loss?
    pub(crate) fn excuses(&self, kind: &LossKind, now: Instant) -> bool {
        let ended = self.driver_ended.is_some_and(|ended| now.since_ms(ended) <= AFTER_MS);
        ended && may_follow_driver(kind)
    }

    /// Counts one failure. Returns the total, if it exceeds `max` for the first time.
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
        // Steps in the future were recorded before the wall clock went back.
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

    /// Takes back the failures counted just before the driver's container ended, and the failure of the fleet
    /// if they caused it. Returns whether they did.
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

/// Executors whose driver ends exit with codes that say little.
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

/// What caused a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The application, or the fleet's own document: image, configuration, resources.
    Fleet,
    /// The cluster: nodes, evictions, preemption, admission. The next executor may fail the same way.
    Cluster,
    /// A request of the driver, of a user or of Rollcall, or an unknown end.
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
