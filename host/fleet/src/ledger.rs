//! The ledger: what survives a restart.
//!
//! A host may die between any two calls, so anything that must not happen twice is recorded *before* it is done. Ids
//! are reserved, then used. A verdict is recorded, then acted on. The removal of an executor is recorded, then
//! requested, so that the next host knows that Rollcall removed it. Writes compare and swap: the write of a
//! deposed host fails because its version is old, and with that its reservations end. This, and not the Lease,
//! is the fence against two leaders.
//!
//! Every executor is in exactly one place: not born yet, `born`, or `settled`. Settled means that its end was
//! counted, once, under a kind of loss or a cause of removal. Hence `created = born + lost + removed` holds in
//! every version ever written.
//!
//! Damage to the record itself is repaired from memory. An older version (a restored backup) is overwritten. If
//! another leader wrote the older version, the Lease is read first to determine who leads, because terms
//! restart after the Lease is deleted. Rejected: merging the records of two leaders. Decisions of two leaders
//! cannot be merged; one of the leaders has to stop.
//!
//! The record is untrusted input, although Rollcall writes it: a tenant that may write ConfigMaps may change
//! it. A record that Rollcall cannot have written (`check`) is *refused*, and a record with a later epoch may
//! be another leader's. Both park the fleet: it changes nothing until the record is valid again or, for another
//! epoch, until an operator resets the ledger (`LedgerWriter::reset`). The record never decides whether this host
//! leads: the Lease does.

use std::collections::VecDeque;

use crate::backoff::{Backoff, Seed};
use crate::id::{ActionId, ExecutorId, IdRange, Version};
use crate::outcomes::{LedgerReadOutcome, LedgerWriteOutcome};
use crate::time::Instant;

mod check;
pub(crate) mod record;

pub(crate) use check::FAILURES_WRITTEN_MAX;
pub use check::{Flaw, RUNS_MAX};
use record::COUNT_MAX;
pub(crate) use record::End;
pub use record::RESERVED_MAX;
pub use record::{Ledger, Requested, Salvage};

/// Ids skipped per etcd revision after a suspected restore, and up to which revision.
const STEEP: u64 = 20;
const STEEP_UNTIL: u64 = 1_000_000;
/// Where that would use up half of the ids, they are not derived from revisions but jump this far: more than a leader can have used without this host seeing it.
const JUMP: u64 = 10_000;
/// An outage is told after so many calls in a row that came to nothing.
const OUTAGE_CALLS: u32 = 3;

/// Keeps the record written. One write is in flight at a time; changes in the meantime go into the next one.
#[derive(Debug)]
pub(crate) struct LedgerWriter {
    ledger: Ledger,
    version: Option<Version>,
    state: State,
    /// This leader has read the record and counted itself.
    claimed: bool,
    /// Epoch and writes of the record that this host continued.
    base: (u64, u64),
    /// The ledger changed after the last write was prepared.
    dirty: bool,
    /// Ids reserved with the write of this number, from..=to.
    reserving: VecDeque<(u64, ExecutorId, ExecutorId)>,
    /// Reserved ids that are not used yet, in order; their reservation is written.
    spare: VecDeque<ExecutorId>,
    /// The number of the last write that is known to be applied.
    confirmed: u64,
    backoff: Backoff,
    /// Why the stored record is not continued.
    refused: Option<Refused>,
    /// A record was refused: the ids that it reserved are unknown, so ids have to jump.
    distrusts: bool,
    /// The next record that is read is to be overwritten.
    resets: bool,
    believes_all: bool,
    /// The outage that goes on was told.
    outage_told: bool,
}

/// Why the stored record is not continued.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The record is invalid, or was changed so that it is. It is read again.
    Implausible(String),
    /// The record is another leader's, or claims to be. It is not read again.
    Usurped(String),
    /// The record is an older one of another leader: of one before us, or of one whose terms restarted because
    /// the Lease was deleted. It is overwritten once the Lease is known to be ours.
    Doubted(String),
}

#[derive(Debug)]
enum State {
    /// This host is not the leader.
    Closed,
    /// A read is due at that time.
    ReadDue(Instant),
    AwaitingRead(ActionId),
    /// No call is in flight. Nothing is written before that time.
    Idle(Instant),
    /// The write with the number in `ledger.writes` is in flight.
    AwaitingWrite(ActionId),
    /// The stored record is another leader's: nothing is read or written until it is to be overwritten.
    Parked,
}

/// The call that the owner has to make.
pub(crate) enum Request {
    Read,
    Write { ledger: Box<Ledger>, over: Option<Version> },
}

/// The meaning of an outcome.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing yet.
    Waiting,
    /// The record was read and is claimed: everything edited so far has to be written first.
    Opened,
    /// Writes up to this number are applied.
    Confirmed(u64),
    /// The record is another leader's, or claims to be.
    Deposed,
    /// The record is an older one of another leader: only the Lease shows who leads.
    Doubted,
    /// The record is invalid. It is read again later.
    Refused,
    /// The record is discarded and overwritten.
    Reset,
    /// The call failed and is retried later.
    Failing(String),
}

impl LedgerWriter {
    pub(crate) fn new(leader: u64) -> LedgerWriter {
        LedgerWriter {
            ledger: Ledger { leader, ..Ledger::default() },
            version: None,
            state: State::Closed,
            claimed: false,
            base: (0, 0),
            dirty: false,
            reserving: VecDeque::new(),
            spare: VecDeque::new(),
            confirmed: 0,
            backoff: Backoff::new(500, 30_000),
            refused: None,
            distrusts: false,
            resets: false,
            believes_all: false,
            outage_told: false,
        }
    }

    pub(crate) fn get(&self) -> &Ledger {
        &self.ledger
    }

    /// Change the record. A change is recorded once [`LedgerWriter::mark`] is confirmed.
    pub(crate) fn edit(&mut self) -> &mut Ledger {
        self.dirty = true;
        &mut self.ledger
    }

    /// The number of the write that will hold everything edited so far.
    pub(crate) fn mark(&self) -> u64 {
        self.ledger.writes + u64::from(self.dirty)
    }

    /// The number of the next write.
    pub(crate) fn next_write(&self) -> u64 {
        self.ledger.writes + 1
    }

    /// Injected bug: accept every stored record.
    #[cfg(feature = "injected-bugs")]
    pub(crate) fn believe_all(&mut self) {
        self.believes_all = true;
    }

    /// The number of the last write that is known to be applied.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    pub(crate) fn is_confirmed(&self, mark: u64) -> bool {
        mark <= self.confirmed
    }

    /// The revision of the stored record, where versions are revisions.
    pub(crate) fn revision(&self) -> u64 {
        self.version.as_ref().and_then(|version| version.0.parse().ok()).unwrap_or(0)
    }

    /// Executors were seen before the record was claimed: their ids are taken.
    pub(crate) fn witness(&mut self, seen: ExecutorId) {
        if seen > self.ledger.reserved {
            let ledger = self.edit();
            (ledger.reserved, ledger.suspect) = (seen, true);
        }
    }

    /// How many consecutive calls have failed.
    pub(crate) fn failures(&self) -> u32 {
        self.backoff.tries()
    }

    /// Is this the first failure of an outage that is worth telling: after several calls that came to nothing?
    pub(crate) fn tell_outage(&mut self) -> bool {
        self.failures() >= OUTAGE_CALLS && !std::mem::replace(&mut self.outage_told, true)
    }

    pub(crate) fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }

    /// Must ids jump, regardless of the record?
    pub(crate) fn distrusts(&self) -> bool {
        self.distrusts
    }

    /// Discard the stored record: it is overwritten with what is known here, or with a new record.
    pub(crate) fn reset(&mut self) {
        self.resets = true;
        if matches!(self.state, State::Parked | State::ReadDue(_)) {
            self.state = State::ReadDue(Instant::START);
        }
    }

    pub(crate) fn open(&mut self, term: u64) {
        self.ledger.epoch = term;
        self.state = State::ReadDue(Instant::START);
    }

    /// The next call to make, if one is due. `sent` must follow.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Request> {
        match self.state {
            State::ReadDue(at) if at <= now => Some(Request::Read),
            State::Idle(from) if from <= now && self.resets => {
                self.state = State::ReadDue(from);
                Some(Request::Read)
            }
            State::Idle(from) if from <= now && self.dirty => {
                self.dirty = false;
                self.ledger.writes += 1;
                Some(Request::Write { ledger: Box::new(self.ledger.clone()), over: self.version.clone() })
            }
            State::Closed
            | State::ReadDue(_)
            | State::AwaitingRead(_)
            | State::Idle(_)
            | State::AwaitingWrite(_)
            | State::Parked => None,
        }
    }

    /// The call that `poll` asked for went out under this id.
    pub(crate) fn sent(&mut self, action: ActionId) {
        self.state = match self.state {
            State::ReadDue(_) => State::AwaitingRead(action),
            State::Closed
            | State::AwaitingRead(_)
            | State::Idle(_)
            | State::AwaitingWrite(_)
            | State::Parked => State::AwaitingWrite(action),
        };
    }

    /// Does this action belong to the ledger?
    pub(crate) fn awaits(&self, id: ActionId) -> bool {
        match self.state {
            State::AwaitingRead(action) | State::AwaitingWrite(action) => action == id,
            State::Closed | State::ReadDue(_) | State::Idle(_) | State::Parked => false,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::ReadDue(at) => Some(at),
            State::Idle(from) => (self.dirty || self.resets).then_some(from),
            State::Closed | State::AwaitingRead(_) | State::AwaitingWrite(_) | State::Parked => None,
        }
    }

    /// Is the call in flight a read?
    pub(crate) fn is_reading(&self) -> bool {
        matches!(self.state, State::AwaitingRead(_))
    }

    /// Process the outcome of the read in flight.
    pub(crate) fn read_finished(
        &mut self,
        outcome: LedgerReadOutcome,
        now: Instant,
        seed: &mut Seed,
    ) -> Progress {
        match outcome {
            LedgerReadOutcome::Found { ledger, version, .. }
                if self.resets && (self.confirmed > 0 || self.flaw(&ledger).is_some()) =>
            {
                let salvage = Salvage::new(Some(ledger.epoch), Some(ledger.reserved.0));
                self.write_over(salvage, Some(version), now)
            }
            LedgerReadOutcome::Invalid { salvage, version, .. } if self.resets => {
                self.write_over(salvage, Some(version), now)
            }
            LedgerReadOutcome::NotFound if self.resets => self.write_over(Salvage::default(), None, now),
            LedgerReadOutcome::Found { ledger, version, edited } if self.resets => {
                // This host has written nothing yet, and a valid record is better than none.
                (self.resets, self.claimed) = (false, false);
                self.read(*ledger, Some(version), edited, now)
            }
            LedgerReadOutcome::Found { ledger, version, edited } => match self.flaw(&ledger) {
                None => self.read(*ledger, Some(version), edited, now),
                Some(why) => self.refuse(why, now, seed),
            },
            LedgerReadOutcome::Invalid { why, .. } => self.refuse(why, now, seed),
            LedgerReadOutcome::NotFound if self.claimed => {
                // The record was deleted: ours is written as a new one.
                self.refused = None;
                self.version = None;
                self.state = State::Idle(now);
                self.dirty = true;
                Progress::Waiting
            }
            LedgerReadOutcome::NotFound => self.read(Ledger::default(), None, true, now),
            LedgerReadOutcome::Failed { why, after_ms } => {
                self.state = State::ReadDue(now + self.backoff.failed_ms(seed).max(after_ms));
                Progress::Failing(why)
            }
        }
    }

    /// Process the outcome of the write in flight.
    pub(crate) fn write_finished(
        &mut self,
        outcome: LedgerWriteOutcome,
        now: Instant,
        seed: &mut Seed,
    ) -> Progress {
        match outcome {
            LedgerWriteOutcome::Written(version) => {
                self.version = Some(version);
                self.state = State::Idle(now);
                self.applied(self.ledger.writes)
            }
            LedgerWriteOutcome::Doubtful => {
                self.state = State::ReadDue(now + self.backoff.failed_ms(seed));
                Progress::Waiting
            }
            LedgerWriteOutcome::Failed { why, after_ms } => {
                self.dirty = true;
                self.state = State::Idle(now + self.backoff.failed_ms(seed).max(after_ms));
                Progress::Failing(why)
            }
        }
    }

    /// Why the record cannot be continued.
    fn flaw(&self, theirs: &Ledger) -> Option<String> {
        if self.believes_all {
            return None;
        }
        let ours = &self.ledger;
        let by_us = self.claimed && theirs.epoch == ours.epoch && theirs.leader == ours.leader;
        if by_us && theirs.writes > ours.writes {
            // Accepting it would mark writes as applied that are still to be done.
            return Some(format!(
                "`writes` is {}, and this host has written {} times",
                theirs.writes, ours.writes
            ));
        }
        theirs.check().err().map(|flaw| flaw.to_string())
    }

    fn refuse(&mut self, why: String, now: Instant, seed: &mut Seed) -> Progress {
        self.state = State::ReadDue(now + self.backoff.failed_ms(seed));
        self.distrusts = true;
        self.refused = Some(Refused::Implausible(why));
        Progress::Refused
    }

    /// Overwrites the stored record with what is known here: with an empty record if none was ever claimed. Ids
    /// have to jump before any is used.
    fn write_over(&mut self, there: Salvage, version: Option<Version>, now: Instant) -> Progress {
        (self.resets, self.refused, self.distrusts) = (false, None, true);
        self.version = version;
        self.state = State::Idle(now);
        self.claimed = true;
        self.backoff.reset();
        self.outage_told = false;
        // Reservations in flight are dropped: the writer of the stored record may have used these ids.
        self.reserving.clear();
        self.spare.clear();
        let ledger = self.edit();
        ledger.epoch = ledger.epoch.max(there.epoch.saturating_add(1)).min(COUNT_MAX);
        // Not 0: a record without reservations, in a cluster without executors, is that of a new fleet.
        ledger.reserved = ledger.reserved.max(there.reserved).max(ExecutorId(1));
        (ledger.revision, ledger.suspect) = (0, true);
        Progress::Reset
    }

    fn read(&mut self, theirs: Ledger, version: Option<Version>, suspect: bool, now: Instant) -> Progress {
        self.state = State::Idle(now);
        self.version = version;
        self.refused = None;
        if self.claimed {
            self.preserve_others(&theirs.others);
        }
        let ours = &mut self.ledger;
        let same = theirs.epoch == ours.epoch;
        let by_us = same && theirs.leader == ours.leader;
        // Of two leaders in one epoch, the one that has written nothing yet can still start a new epoch.
        let twin = same && !by_us && self.confirmed > 0;
        if self.claimed && (theirs.epoch > ours.epoch || twin) {
            let why = format!(
                "it carries epoch {} of another leader, and this host's is {}",
                theirs.epoch, ours.epoch
            );
            self.state = State::Parked;
            self.distrusts = true;
            self.refused = Some(Refused::Usurped(why));
            return Progress::Deposed;
        }
        let applied = self.claimed && by_us && theirs.writes > self.confirmed;
        // An older record written by a Rollcall leader is not a backup: the terms of that leader restarted.
        let newer = !self.claimed || (theirs.epoch, theirs.writes) > self.base || !suspect && !by_us;
        if self.confirmed == 0 && !applied && newer {
            // This host has written nothing yet.
            self.continue_record(theirs, suspect);
            return Progress::Opened;
        }
        // Every attempt has its own number, so the stored record shows which attempt was applied.
        if applied {
            let all = theirs.writes == ours.writes;
            self.dirty |= !all;
            return self.applied(theirs.writes);
        }
        // Our write was lost, or a backup was restored: write the current record again.
        ours.reserved = ours.reserved.max(theirs.reserved);
        self.dirty = true;
        if !by_us && !suspect {
            let why = format!(
                "it carries the older epoch {} of another leader, and this host's is {}",
                theirs.epoch, ours.epoch
            );
            self.state = State::Parked;
            self.refused = Some(Refused::Doubted(why));
            return Progress::Doubted;
        }
        Progress::Waiting
    }

    /// Keeps fields of a newer version of Rollcall. They replace ours with the same name: keeping both would exceed
    /// the limit some day.
    fn preserve_others(&mut self, theirs: &[(Box<str>, Box<str>)]) {
        let ours = &mut self.ledger.others;
        ours.retain(|(name, _)| !theirs.iter().any(|(other, _)| other == name));
        ours.extend(theirs.iter().cloned());
        if check::others(ours).is_err() {
            *ours = theirs.to_vec();
        }
    }

    /// Continues the stored record.
    fn continue_record(&mut self, theirs: Ledger, suspect: bool) {
        self.base = (theirs.epoch, theirs.writes);
        self.claimed = true;
        let ours = &self.ledger;
        let (epoch, writes) = (ours.epoch.max(theirs.epoch.saturating_add(1)).min(COUNT_MAX), ours.writes);
        // If a record was refused before, or something other than Rollcall wrote this one, the used ids are
        // unknown; see `write_over`.
        self.distrusts |= suspect && self.version.is_some();
        let least = ExecutorId(u64::from(self.distrusts));
        let reserved = ours.reserved.max(theirs.reserved).max(least);
        let suspect = theirs.suspect || suspect || self.distrusts;
        self.ledger = Ledger { epoch, leader: ours.leader, writes, reserved, suspect, ..theirs };
        self.dirty = true;
    }

    /// The Lease confirms that this host leads.
    pub(crate) fn affirmed(&mut self, now: Instant) {
        if matches!(self.refused, Some(Refused::Doubted(_))) {
            self.refused = None;
            self.state = State::Idle(now);
        }
    }

    fn applied(&mut self, number: u64) -> Progress {
        self.confirmed = number;
        self.backoff.reset();
        self.outage_told = false;
        while self.reserving.front().is_some_and(|(with, ..)| *with <= number) {
            if let Some((_, from, to)) = self.reserving.pop_front() {
                self.spare.extend((from.0..=to.0).map(ExecutorId));
            }
        }
        Progress::Confirmed(number)
    }

    // ---------------------------------------------------------------------------------------- ids --

    /// Ids that can be used now or once a write is applied.
    pub(crate) fn reserved_ahead(&self) -> u64 {
        let coming: u64 = self.reserving.iter().map(|(_, from, to)| to.0 - from.0 + 1).sum();
        self.spare.len() as u64 + coming
    }

    pub(crate) fn reserve(&mut self, count: u64, ids: IdRange) {
        let from = self.ledger.reserved.0.saturating_add(1).max(ids.first.0);
        let to = from.saturating_add(count).min(ids.last.0 + 1) - 1;
        if to < from {
            return;
        }
        self.edit().reserved = ExecutorId(to);
        self.reserving.push_back((self.mark(), ExecutorId(from), ExecutorId(to)));
    }

    /// Injected bug: use ids before their reservation is written.
    pub(crate) fn use_unwritten(&mut self) {
        while let Some((_, from, to)) = self.reserving.pop_front() {
            self.spare.extend((from.0..=to.0).map(ExecutorId));
        }
    }

    /// At most this many ids can be used now.
    pub(crate) fn spare_len(&self) -> u32 {
        u32::try_from(self.spare.len()).unwrap_or(u32::MAX)
    }

    /// An unused id. Skips ids that were seen in use: if a backup was restored between two leaders, both may
    /// have reserved the same ids.
    pub(crate) fn take_spare(&mut self) -> Option<ExecutorId> {
        loop {
            let id = self.spare.pop_front()?;
            if !self.ledger.born.contains(id) && !self.ledger.settled.contains(id) {
                return Some(id);
            }
        }
    }

    /// An id whose create was definitely refused was never used: it becomes the next one again.
    pub(crate) fn give_back(&mut self, executor: ExecutorId) {
        let at = self.spare.partition_point(|spare| *spare < executor);
        self.spare.insert(at, executor);
    }

    /// The record may be older than the cluster: ids jump beyond all that the lost record may have handed out.
    ///
    /// Every write has a later revision, and every reservation and every creation is a write. So ids stay below
    /// a line that rises with the revision: by a usual batch per revision at first, by one per revision once
    /// there are many. A later jump lands higher than an earlier one and all ids that followed it. Where the
    /// line ends, in a store with a billion writes, ids jump beyond the ids seen, by more than a leader hands
    /// out unseen.
    pub(crate) fn jump(&mut self, seen: ExecutorId, revision: u64, ids: IdRange) {
        let before = ids.first.0 - 1;
        let highest = self.ledger.reserved.max(seen).0.max(before);
        let line = STEEP * revision.min(STEEP_UNTIL) + revision.saturating_sub(STEEP_UNTIL);
        let near = line <= (ids.last.0 - before) / 2;
        let reserved = if near { (before + line).max(highest) } else { highest.saturating_add(JUMP) };
        self.edit().reserved = ExecutorId(reserved.min(ids.last.0));
        self.edit().suspect = false;
        self.distrusts = false;
        self.spare.clear();
        self.reserving.clear();
    }
}
