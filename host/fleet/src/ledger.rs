//! The ledger: what survives a restart.
//!
//! A host may die between any two calls, so whatever must not happen twice is written down *before* it
//! is done. Ids are reserved, then used. A verdict is recorded, then acted on. A removal of ours is
//! announced, then asked for, so that the next host knows it for ours. Writes compare and swap: a host
//! that was deposed finds that its copy is old, and with that its reservations end. This, and not the
//! Lease, is what fences it.
//!
//! Every executor is in exactly one place: not born yet, `born`, or `settled`. Settled means that its
//! end was counted, once, under a kind of loss or a cause of removal. Hence the books balance:
//! `created = born + lost + removed`, in every version ever written.
//!
//! What goes wrong with the record itself is mended from memory. An older version (somebody restored a
//! backup) is overwritten; of an older one that another leader wrote the Lease says first who leads, because terms begin
//! again with a deleted Lease. Rejected: merging two leaders' records. Two leaders' decisions cannot be
//! merged, only ended.
//!
//! The record is input, although it is ours: a tenant that may write ConfigMaps may write this one. What
//! cannot be one of ours (`check`) is *refused*, and what carries a later epoch may be another
//! leader's. Both park the fleet: it changes nothing until the record is good again or, of another
//! epoch, until an operator says that the record is not to be believed (`Book::reset`). Whether this
//! host leads is never the record's to say: that is the Lease's.

use std::collections::{BTreeMap, VecDeque};

use crate::backoff::{Backoff, Seed};
use crate::event::{Done, Outcome};
use crate::id::{ActionId, ExecutorId, IdSet, Version};
use crate::question::{DeletionCause, LossKind};
use crate::time::Instant;

mod check;

pub(crate) use check::{FAILURES_WRITTEN_MAX, RESERVED_MAX};
pub use check::{Flaw, RUNS_MAX};

/// The record, as it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// The leader's term, or one more than the last leader's epoch where that is higher. So a later
    /// leader's is higher, even if what it read was an old backup.
    pub epoch: u64,
    /// Who wrote it: a number of this leader's own. Two may have one epoch where terms began anew, with a Lease
    /// that somebody deleted.
    pub leader: u64,
    /// Counts this leader's writes.
    pub writes: u64,
    /// Ids up to this one have been reserved: a later leader begins above it.
    pub reserved: ExecutorId,
    /// The newest pod revision that is taken into account here.
    pub revision: u64,
    /// Executors that came to be.
    pub created: u64,
    /// Those whose end has not been counted.
    pub born: IdSet,
    /// Those whose end has.
    pub settled: IdSet,
    /// Settled executors whose pods are kept for debugging.
    pub kept: IdSet,
    /// Born executors that we removed or are about to remove, and why.
    pub leaving: BTreeMap<ExecutorId, DeletionCause>,
    pub lost: BTreeMap<LossKind, u64>,
    pub removed: BTreeMap<DeletionCause, u64>,
    /// Failures by time: (wall clock in ms since the epoch, how many).
    pub failures: VecDeque<(i64, u32)>,
    /// The fleet failed: it allocates nothing until somebody resets it.
    pub failed: bool,
    pub paused: bool,
    /// The record that was claimed may be older than the world: ids must jump before any is used.
    pub suspect: bool,
    /// What an operator asked for with `requestTotalExecutors`, and the spec's target at that time.
    pub requested: Option<Requested>,
    /// Fields that a newer version of Rollcall wrote; handed on untouched.
    pub others: Vec<(Box<str>, Box<str>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requested {
    pub total: u32,
    pub spec_target: u32,
}

impl Ledger {
    /// How many executors have ended, in any way.
    pub fn ended(&self) -> u64 {
        self.lost.values().chain(self.removed.values()).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// An executor came to be.
    pub(crate) fn bear(&mut self, executor: ExecutorId) {
        if !self.settled.contains(executor) && self.born.insert(executor) {
            self.created += 1;
        }
    }

    /// Count its end. Whether this was the first time.
    pub(crate) fn settle(&mut self, executor: ExecutorId, end: End, again: bool) -> bool {
        if !self.settled.insert(executor) && !again {
            return false;
        }
        if !self.born.remove(executor) {
            self.created += 1;
        }
        self.leaving.remove(&executor);
        *match end {
            // What a policy calls it is its own: of names there are not more than a record may have.
            End::Lost(LossKind::Other(name))
                if self.lost.len() >= check::KINDS_WRITTEN_MAX
                    && !self.lost.contains_key(&LossKind::Other(name.clone())) =>
            {
                self.lost.entry(LossKind::Unknown)
            }
            End::Lost(kind) => self.lost.entry(kind),
            End::Removed(cause) => {
                *self.removed.entry(cause).or_default() += 1;
                return true;
            }
        }
        .or_default() += 1;
        true
    }
}

/// How an executor ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Lost(LossKind),
    Removed(DeletionCause),
}

/// Ids that a revision stands for, and up to which revision.
const STEEP: u64 = 20;
const STEEP_UNTIL: u64 = 1_000_000;
/// Beyond this, ids are not derived from revisions: there would be too few left.
const JUMP_MAX: u64 = ExecutorId::MAX.0 / 2;
/// How far ids jump then: more than a leader could have handed out unseen.
const JUMP: u64 = 10_000;

/// Keeps the record written. One write is under way at a time; what happens meanwhile goes into the
/// next.
#[derive(Debug)]
pub(crate) struct Book {
    ledger: Ledger,
    version: Option<Version>,
    state: State,
    /// This leader has read the record and counted itself.
    claimed: bool,
    /// Epoch and writes of the record that it went on from.
    base: (u64, u64),
    /// Something has changed since the last write was made up.
    dirty: bool,
    /// Ids reserved with the write of this number, from..=to.
    reserving: VecDeque<(u64, ExecutorId, ExecutorId)>,
    /// Reserved for good and not used yet, in order.
    spare: VecDeque<ExecutorId>,
    /// The number of the last write that is known to be applied.
    confirmed: u64,
    backoff: Backoff,
    /// Why the record that is there is not gone on from.
    refused: Option<Refused>,
    /// A record was refused: it is not known which ids it stood for, so they have to jump.
    distrusts: bool,
    /// The next record that is read is to be written over.
    resets: bool,
    believes_all: bool,
}

/// Why the record that is there is not gone on from.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It is none of ours, or was changed into one that is none. It is read again.
    Implausible(String),
    /// It is another leader's, or says so. It is not read again.
    Usurped(String),
    /// It is an older one of another leader: of one that we followed, or of one whose terms began again with a deleted
    /// Lease. It is written over once the Lease is known to be ours.
    Doubted(String),
}

/// What may be taken from a record that is not believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    pub epoch: u64,
    pub reserved: ExecutorId,
}

impl Salvage {
    /// Of what is plausible by itself: the next epoch is later, and the next id higher.
    pub fn new(epoch: Option<u64>, reserved: Option<u64>) -> Salvage {
        let epoch = epoch.filter(|epoch| *epoch <= check::COUNT_MAX).unwrap_or(0);
        let reserved = reserved.filter(|reserved| *reserved <= check::RESERVED_MAX).unwrap_or(0);
        Salvage { epoch, reserved: ExecutorId(reserved) }
    }
}

#[derive(Debug)]
enum State {
    /// Not the leader.
    Closed,
    /// A read is due then.
    ReadDue(Instant),
    AwaitingRead(ActionId),
    /// Nothing is under way. Not before then is anything written.
    Idle(Instant),
    /// The write with the number in `ledger.writes`.
    AwaitingWrite(ActionId),
    /// Another leader's record is there: nothing is read or written until it is to be written over.
    Parked,
}

/// What the owner has to do.
pub(crate) enum Request {
    Read,
    Write { ledger: Box<Ledger>, over: Option<Version> },
}

/// What an outcome meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing yet.
    Waiting,
    /// The record was read and is claimed: everything up to here is to be written first.
    Opened,
    /// Writes up to this number are applied.
    Confirmed(u64),
    /// The record is another leader's, or says so.
    Deposed,
    /// The record is an older one of another leader: only the Lease tells who leads.
    Doubted,
    /// The record is none of ours. It is read again later.
    Refused,
    /// The record is not believed, and is written over.
    Reset,
    /// It failed, and is tried again later.
    Failing(String),
}

impl Book {
    pub(crate) fn new(leader: u64) -> Book {
        Book {
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
        }
    }

    pub(crate) fn get(&self) -> &Ledger {
        &self.ledger
    }

    /// Change the record. What is changed is recorded once [`Book::mark`] is confirmed.
    pub(crate) fn edit(&mut self) -> &mut Ledger {
        self.dirty = true;
        &mut self.ledger
    }

    /// The number of the write that will hold everything edited so far.
    pub(crate) fn mark(&self) -> u64 {
        self.ledger.writes + u64::from(self.dirty)
    }

    /// The number of the write that will be the next.
    pub(crate) fn next_write(&self) -> u64 {
        self.ledger.writes + 1
    }

    /// Planted: whatever is there is gone on from.
    #[cfg(feature = "plants")]
    pub(crate) fn believe_all(&mut self) {
        self.believes_all = true;
    }

    pub(crate) fn is_confirmed(&self, mark: u64) -> bool {
        mark <= self.confirmed
    }

    /// The revision of the record as it is in the store, where versions are revisions.
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

    pub(crate) fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }

    /// Must ids jump, whatever the record says?
    pub(crate) fn distrusts(&self) -> bool {
        self.distrusts
    }

    /// The record that is there is not to be believed: what is known here is written over it, or a new one.
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

    /// The next call to make, if it is time for one. `sent` must follow.
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

    /// Is this action ours?
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

    /// The outcome of the call under way.
    pub(crate) fn finished(&mut self, outcome: Outcome, now: Instant, seed: &mut Seed) -> Progress {
        let reading = matches!(self.state, State::AwaitingRead(_));
        match outcome {
            Outcome::Ok(Done::Ledger { ledger, version, .. })
                if reading && self.resets && (self.confirmed > 0 || self.flaw(&ledger).is_some()) =>
            {
                let salvage = Salvage::new(Some(ledger.epoch), Some(ledger.reserved.0));
                self.write_over(salvage, Some(version), now)
            }
            Outcome::Ok(Done::LedgerRefused { salvage, version, .. }) if reading && self.resets => {
                self.write_over(salvage, Some(version), now)
            }
            Outcome::NotFound if reading && self.resets => self.write_over(Salvage::default(), None, now),
            Outcome::Ok(Done::Ledger { ledger, version, edited }) if reading && self.resets => {
                // Nothing of ours was ever written, and a good record is better than none.
                (self.resets, self.claimed) = (false, false);
                self.read(*ledger, Some(version), edited, now)
            }
            Outcome::Ok(Done::Ledger { ledger, version, edited }) if reading => match self.flaw(&ledger) {
                None => self.read(*ledger, Some(version), edited, now),
                Some(why) => self.refuse(why, now, seed),
            },
            Outcome::Ok(Done::LedgerRefused { why, .. }) if reading => self.refuse(why, now, seed),
            Outcome::NotFound if reading && self.claimed => {
                // Somebody deleted it: ours goes out as a new one.
                self.refused = None;
                self.version = None;
                self.state = State::Idle(now);
                self.dirty = true;
                Progress::Waiting
            }
            Outcome::NotFound if reading => self.read(Ledger::default(), None, true, now),
            Outcome::Ok(Done::Written(version)) => {
                self.version = Some(version);
                self.state = State::Idle(now);
                self.applied(self.ledger.writes)
            }
            // Changed under us, gone, or not known: look.
            Outcome::Conflict | Outcome::AlreadyExists | Outcome::NotFound | Outcome::Unknown(_)
                if !reading =>
            {
                self.state = State::ReadDue(now + self.backoff.failed_ms(seed));
                Progress::Waiting
            }
            refused @ (Outcome::Ok(_)
            | Outcome::AlreadyExists
            | Outcome::Conflict
            | Outcome::NotFound
            | Outcome::Throttled { .. }
            | Outcome::Budget
            | Outcome::Forbidden(_)
            | Outcome::Invalid(_)
            | Outcome::Unknown(_)) => {
                let why = refused.to_string();
                let hinted_ms = if let Outcome::Throttled { after_ms: Some(ms) } = refused { ms } else { 0 };
                let at = now + self.backoff.failed_ms(seed).max(hinted_ms);
                self.dirty |= !reading;
                self.state = if reading { State::ReadDue(at) } else { State::Idle(at) };
                Progress::Failing(why)
            }
        }
    }

    /// Why it cannot be gone on from.
    fn flaw(&self, theirs: &Ledger) -> Option<String> {
        if self.believes_all {
            return None;
        }
        let ours = &self.ledger;
        let by_us = self.claimed && theirs.epoch == ours.epoch && theirs.leader == ours.leader;
        if by_us && theirs.writes > ours.writes {
            // To believe it would make everything count as written that still is to be.
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

    /// What is known here goes out over the record that is there: where none was ever claimed, an empty one. Its ids
    /// have to jump before any is used.
    fn write_over(&mut self, there: Salvage, version: Option<Version>, now: Instant) -> Progress {
        (self.resets, self.refused, self.distrusts) = (false, None, true);
        self.version = version;
        self.state = State::Idle(now);
        self.claimed = true;
        self.backoff.reset();
        // Whatever was under way: who wrote the record that is there may have used these ids.
        self.reserving.clear();
        self.spare.clear();
        let ledger = self.edit();
        ledger.epoch = ledger.epoch.max(there.epoch.saturating_add(1)).min(check::COUNT_MAX);
        // Not 0: a record that has reserved none, in a cluster without executors, is that of a new fleet.
        ledger.reserved = ledger.reserved.max(there.reserved).max(ExecutorId(1));
        (ledger.revision, ledger.suspect) = (0, true);
        Progress::Reset
    }

    fn read(&mut self, theirs: Ledger, version: Option<Version>, suspect: bool, now: Instant) -> Progress {
        self.state = State::Idle(now);
        self.version = version;
        self.refused = None;
        if self.claimed {
            // Of a newer version of Rollcall. The other field of a name goes: both would be
            // too much for a record some day.
            let ours = &mut self.ledger.others;
            ours.retain(|(name, _)| !theirs.others.iter().any(|(other, _)| other == name));
            ours.extend(theirs.others.iter().cloned());
            if check::others(ours).is_err() {
                ours.clone_from(&theirs.others);
            }
        }
        let ours = &mut self.ledger;
        let same = theirs.epoch == ours.epoch;
        let by_us = same && theirs.leader == ours.leader;
        // Of two in one epoch who has written nothing yet can still begin another.
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
        // An older record that one of ours wrote is no backup: it is a leader's whose terms began again.
        let newer = !self.claimed || (theirs.epoch, theirs.writes) > self.base || !suspect && !by_us;
        if self.confirmed == 0 && !applied && newer {
            // Nothing of ours was ever written: what is there now is what we go on from.
            self.base = (theirs.epoch, theirs.writes);
            self.claimed = true;
            let (epoch, writes) =
                (ours.epoch.max(theirs.epoch.saturating_add(1)).min(check::COUNT_MAX), ours.writes);
            // Where one was refused before, or another than Rollcall wrote this one, nothing is known of ids; see
            // `write_over`.
            self.distrusts |= suspect && self.version.is_some();
            let least = ExecutorId(u64::from(self.distrusts));
            let reserved = ours.reserved.max(theirs.reserved).max(least);
            let suspect = theirs.suspect || suspect || self.distrusts;
            self.ledger = Ledger { epoch, leader: ours.leader, writes, reserved, suspect, ..theirs };
            self.dirty = true;
            return Progress::Opened;
        }
        // Every attempt has a number of its own, so what is there tells which one was applied.
        if applied {
            let all = theirs.writes == ours.writes;
            self.dirty |= !all;
            return self.applied(theirs.writes);
        }
        // Our write was lost, or somebody restored a backup: the record as it is now goes out again.
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

    /// The Lease is ours.
    pub(crate) fn affirmed(&mut self, now: Instant) {
        if matches!(self.refused, Some(Refused::Doubted(_))) {
            self.refused = None;
            self.state = State::Idle(now);
        }
    }

    fn applied(&mut self, number: u64) -> Progress {
        self.confirmed = number;
        self.backoff.reset();
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

    pub(crate) fn reserve(&mut self, count: u64, first: ExecutorId) {
        let from = self.ledger.reserved.0.saturating_add(1).max(first.0);
        let to = from.saturating_add(count).min(ExecutorId::MAX.0 + 1) - 1;
        if to < from {
            return;
        }
        self.edit().reserved = ExecutorId(to);
        self.reserving.push_back((self.mark(), ExecutorId(from), ExecutorId(to)));
    }

    /// Planted: use them before they are written.
    pub(crate) fn use_unwritten(&mut self) {
        while let Some((_, from, to)) = self.reserving.pop_front() {
            self.spare.extend((from.0..=to.0).map(ExecutorId));
        }
    }

    /// An id that nobody has used. One that was seen in use is none: two leaders may have reserved it, when
    /// somebody restored a backup between them.
    pub(crate) fn take_spare(&mut self) -> Option<ExecutorId> {
        loop {
            let id = self.spare.pop_front()?;
            if !self.ledger.born.contains(id) && !self.ledger.settled.contains(id) {
                return Some(id);
            }
        }
    }

    /// An id that was refused for certain was never used: it is the next one again.
    pub(crate) fn give_back(&mut self, executor: ExecutorId) {
        let at = self.spare.partition_point(|spare| *spare < executor);
        self.spare.insert(at, executor);
    }

    /// The record may be older than the world: ids jump beyond whatever the lost one may have handed out.
    ///
    /// Every write has a later revision, and every reservation is a write, as is every creation. So ids do
    /// not outrun a line that rises with the revision: by a usual batch for each at first, by one for each
    /// once there are many. A later jump lands higher than an earlier one and all that followed it. Where
    /// the line ends, in a store with a billion writes, ids leave behind what was seen, and more than a
    /// leader hands out unseen.
    pub(crate) fn jump(&mut self, seen: ExecutorId, revision: u64) {
        let highest = self.ledger.reserved.max(seen).0;
        let line = STEEP * revision.min(STEEP_UNTIL) + revision.saturating_sub(STEEP_UNTIL);
        let reserved = if line <= JUMP_MAX { line.max(highest) } else { highest.saturating_add(JUMP) };
        self.edit().reserved = ExecutorId(reserved.min(ExecutorId::MAX.0));
        self.edit().suspect = false;
        self.distrusts = false;
        self.spare.clear();
        self.reserving.clear();
    }
}
