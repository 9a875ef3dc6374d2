//! The driver: whether its pod is live, whether its container was restarted, and whether it answers.

use crate::env::Env;
use crate::event::DriverRow;
use crate::id::ExecutorId;
use crate::ledger::RESERVED_MAX;
use crate::observed::DriverView;
use crate::question::Driver;
use crate::time::Instant;

/// A pod of another owner counts as a former executor if its id is at most this far above the reserved ids.
pub(crate) const STRANGER_AHEAD_MAX: u64 = 100_000;

#[derive(Debug, Default)]
pub(crate) struct DriverState {
    view: Option<DriverView>,
    /// The revision of `view`.
    revision: u64,
    /// The lowest and the highest number of ends of the driver's container that were reported.
    ends: Option<(u32, u32)>,
    answered: bool,
    /// Since when executors wait for the driver to answer: those of a new fleet, or those after its container ended.
    awaited_since: Option<Instant>,
    /// The highest id that the driver reported.
    named: ExecutorId,
}

impl DriverState {
    /// Updates the driver's state. State that is older than the known one does not replace it. Returns whether the
    /// driver's container has ended, and its pod lives on.
    pub(crate) fn update(&mut self, driver: DriverView, revision: u64, env: Env<'_>) -> bool {
        let ended = match &driver {
            // An older state, too, shows that the container has ended since.
            DriverView::Running { uid, ends } if *uid == env.spec.driver => {
                let (least, most) = *self.ends.get_or_insert((*ends, *ends));
                self.ends = Some((least.min(*ends), most.max(*ends)));
                *ends < least || *ends > most
            }
            DriverView::Running { .. } | DriverView::Gone => false,
        };
        if revision >= self.revision {
            (self.view, self.revision) = (Some(driver), revision);
        }
        if ended {
            // New executors cannot register until the driver answers.
            self.answered = false;
            self.awaited_since = Some(env.now.instant);
        }
        ended
    }

    /// The store was restored: every later state counts as newer.
    pub(crate) fn forget_revision(&mut self) {
        self.revision = 0;
    }

    /// The application is new: its first executors wait for the driver to answer.
    pub(crate) fn await_answer(&mut self, now: Instant) {
        self.awaited_since = Some(now);
    }

    pub(crate) fn gone(&self, env: Env<'_>) -> bool {
        match &self.view {
            Some(DriverView::Running { uid, .. }) => *uid != env.spec.driver,
            Some(DriverView::Gone) => true,
            None => false,
        }
    }

    /// As evidence for the loss classifier.
    pub(crate) fn as_evidence(&self, env: Env<'_>) -> Driver {
        match &self.view {
            None => Driver::Unknown,
            Some(_) if self.gone(env) => Driver::Gone,
            Some(_) => Driver::Running,
        }
    }

    /// Until when executors wait for the driver to answer.
    pub(crate) fn starts_until(&self, env: Env<'_>) -> Option<Instant> {
        let since = self.awaited_since.filter(|_| !self.answered)?;
        Some(since + env.spec.driver_start_ms).filter(|until| env.now.instant < *until)
    }

    /// The driver reports its executors, ended ones included: their ids are taken.
    pub(crate) fn reported(&mut self, rows: &[DriverRow], reserved: ExecutorId) {
        let near = reserved.0.saturating_add(STRANGER_AHEAD_MAX).min(RESERVED_MAX);
        let named = rows.iter().map(|row| row.executor).filter(|id| id.0 <= near).max();
        self.named = self.named.max(named.unwrap_or_default());
        self.answered = true;
    }

    pub(crate) fn named(&self) -> ExecutorId {
        self.named
    }
}
