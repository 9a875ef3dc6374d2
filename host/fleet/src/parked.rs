//! How a fleet reacts to outcomes of ledger calls, and how it is parked and resumed.
//!
//! A record that is invalid or another leader's parks the fleet: it receives events, and changes nothing. The
//! other fleets of this host continue, and the Lease decides whether the host leads. An invalid record is read
//! again, and when it is valid the fleet resumes. A record with another epoch is never continued automatically,
//! because two leaders that compete for a record would overwrite each other's record endlessly.
//!
//! An operator's reset starts the fleet as the host's start did: claim, list, act. This host keeps what it
//! knows, but ids jump, because the writer of the stored record may have used some.

use crate::action::{Cause, Reason, Verb};
use crate::fleet::{Fleet, Phase};
use crate::id::ExecutorId;
use crate::injected_bug::InjectedBug;
use crate::ledger::{Progress, Refused};
use crate::outcome::Outcome;

/// A replica of the API server may lag for a few seconds; lists that stay older than the known state for longer
/// than this are reported.
const PAST_TOLD_MS: u64 = 15_000;

impl Fleet {
    /// Why the fleet is parked, and what resolves it. `None` if its ledger is in order.
    pub(crate) fn parked(&self) -> Option<String> {
        let fleet = &self.spec.name;
        let reset = format!("`rollcall reset-ledger {fleet}` replaces it");
        match self.book.refused() {
            Some(Refused::Implausible(why)) => Some(format!(
                "the ledger is refused: {why}. Nothing is changed until it is good again: restore or delete it, or {reset}"
            )),
            Some(Refused::Usurped(why)) => {
                Some(format!("the ledger is refused: {why}. Nothing is changed any more; {reset}"))
            }
            Some(Refused::Doubted(why)) => {
                Some(format!("the ledger is refused: {why}. Nothing is changed until the Lease says who leads; {reset}"))
            }
            None => self.past_told().map(|(known, listed)| {
                format!(
                    "the ledger knows of revision {known}, and the API server lists revision {listed}: the ledger was \
                     changed, or the API server's store was restored from a backup. Nothing is changed for ten minutes; \
                     {reset} at once"
                )
            }),
        }
    }

    pub(crate) fn may_reset_ledger(&self) -> bool {
        let past = self.phase == Phase::AwaitingRelist && self.relist.past_since.is_some();
        past || self.book.refused().is_some()
    }

    fn past_told(&self) -> Option<(u64, u64)> {
        let listed = self.relist.past_told.filter(|_| self.phase == Phase::AwaitingRelist)?;
        Some((self.revision.max(self.book.revision()), listed))
    }

    /// A list is older than the known state. For the first list the reason may be a ledger that is newer than
    /// the cluster.
    pub(crate) fn relisted_past(&mut self, revision: u64) {
        self.relist_again();
        let since_ms = self.relist.past_since.map_or(0, |since| self.now.instant.since_ms(since));
        if self.phase == Phase::AwaitingRelist && since_ms > PAST_TOLD_MS {
            let first = self.relist.past_told.replace(revision).is_none();
            if first {
                self.tell_parked();
            }
        }
    }

    fn tell_parked(&mut self) {
        if let Some(why) = self.parked() {
            self.publish(Reason::LedgerRefused, None, why);
        }
    }

    pub(crate) fn booked(&mut self, outcome: Outcome) {
        let was_parked = self.book.refused().is_some();
        match self.book.finished(outcome, self.now.instant, &mut self.seed) {
            Progress::Waiting => {}
            Progress::Opened => {
                self.phase = Phase::AwaitingClaim;
                self.book.witness(self.witness);
                self.forget_requested();
                if self.has_bug(InjectedBug::IdsInMemory) {
                    self.book.edit().reserved = ExecutorId(0);
                }
            }
            Progress::Deposed => {
                self.tell_parked();
                self.act(Cause::Start, Verb::CheckLease);
            }
            Progress::Doubted => {
                self.log.add(self.now, None, "the ledger is another leader's: the Lease is asked");
                self.act(Cause::Start, Verb::CheckLease);
            }
            Progress::Refused => {
                if !was_parked {
                    self.tell_parked();
                }
            }
            Progress::Reset => self.begin_again(),
            Progress::Failing(why) => {
                if self.book.failures() == 3 {
                    self.publish(Reason::LedgerUnavailable, None, why);
                }
            }
            Progress::Confirmed(number) => self.written(number),
        }
        if was_parked && self.book.refused().is_none() {
            self.log.add(self.now, None, "the ledger is in order again");
            self.wake_all();
        }
    }

    fn written(&mut self, number: u64) {
        if self.phase == Phase::AwaitingClaim {
            self.phase = Phase::AwaitingRelist;
            self.revision = self.revision.max(self.book.get().revision);
            self.relist.due = Some(self.now.instant);
        }
        while self.recording.front().is_some_and(|(mark, _)| *mark <= number) {
            if let Some((_, id)) = self.recording.pop_front() {
                self.recorded(id);
            }
        }
        while self.replies.front().is_some_and(|(mark, ..)| *mark <= number) {
            if let Some((_, command, reply)) = self.replies.pop_front() {
                self.act(Cause::Command(command), Verb::Reply { command, reply });
            }
        }
    }

    pub(crate) fn leadership_confirmed(&mut self) {
        self.book.affirmed(self.now.instant);
        self.wake_all();
        if std::mem::take(&mut self.resets_ledger) {
            self.book.reset();
        }
    }

    /// The stored record is being overwritten.
    fn begin_again(&mut self) {
        if self.relist.past_since.is_some() && self.phase == Phase::AwaitingRelist {
            // Discard what came from the record.
            self.roster.forget_revisions();
            (self.revision, self.driver_revision) = (0, 0);
            self.buried.clear();
        }
        self.phase = Phase::AwaitingClaim;
        self.relist_done();
        let message = "the ledger is replaced".to_owned();
        self.publish(Reason::LedgerReset, None, message);
    }
}
