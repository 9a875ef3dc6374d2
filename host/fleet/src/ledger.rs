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
//! backup) is overwritten; a later epoch means another leader, and we stop. Rejected: merging two
//! leaders' records. Two leaders' decisions cannot be merged, only ended.

use std::collections::{BTreeMap, VecDeque};

use crate::backoff::{Backoff, Seed};
use crate::event::{Done, Outcome};
use crate::id::{ActionId, ExecutorId, IdSet, Version};
use crate::question::{DeletionCause, LossKind};
use crate::time::Instant;

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
        self.lost.values().sum::<u64>() + self.removed.values().sum::<u64>()
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
    /// Somebody else leads.
    Deposed,
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

    pub(crate) fn open(&mut self, term: u64) {
        self.ledger.epoch = term;
        self.state = State::ReadDue(Instant::START);
    }

    /// The next call to make, if it is time for one. `sent` must follow.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Request> {
        match self.state {
            State::ReadDue(at) if at <= now => Some(Request::Read),
            State::Idle(from) if from <= now && self.dirty => {
                self.dirty = false;
                self.ledger.writes += 1;
                Some(Request::Write { ledger: Box::new(self.ledger.clone()), over: self.version.clone() })
            }
            State::Closed
            | State::ReadDue(_)
            | State::AwaitingRead(_)
            | State::Idle(_)
            | State::AwaitingWrite(_) => None,
        }
    }

    /// The call that `poll` asked for went out under this id.
    pub(crate) fn sent(&mut self, action: ActionId) {
        self.state = match self.state {
            State::ReadDue(_) => State::AwaitingRead(action),
            State::Closed | State::AwaitingRead(_) | State::Idle(_) | State::AwaitingWrite(_) => {
                State::AwaitingWrite(action)
            }
        };
    }

    /// Is this action ours?
    pub(crate) fn awaits(&self, id: ActionId) -> bool {
        match self.state {
            State::AwaitingRead(action) | State::AwaitingWrite(action) => action == id,
            State::Closed | State::ReadDue(_) | State::Idle(_) => false,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::ReadDue(at) => Some(at),
            State::Idle(from) => self.dirty.then_some(from),
            State::Closed | State::AwaitingRead(_) | State::AwaitingWrite(_) => None,
        }
    }

    /// The outcome of the call under way.
    pub(crate) fn finished(&mut self, outcome: Outcome, now: Instant, seed: &mut Seed) -> Progress {
        let reading = matches!(self.state, State::AwaitingRead(_));
        match outcome {
            Outcome::Ok(Done::Ledger { ledger, version, edited }) if reading => {
                self.read(*ledger, Some(version), edited, now)
            }
            Outcome::NotFound if reading && self.claimed => {
                // Somebody deleted it: ours goes out as a new one.
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

    fn read(&mut self, theirs: Ledger, version: Option<Version>, suspect: bool, now: Instant) -> Progress {
        self.state = State::Idle(now);
        self.version = version;
        for field in &theirs.others {
            // Of a newer version of Rollcall, whoever wrote the rest.
            if self.claimed && !self.ledger.others.contains(field) {
                self.ledger.others.push(field.clone());
            }
        }
        let ours = &mut self.ledger;
        let same = theirs.epoch == ours.epoch;
        let by_us = same && theirs.leader == ours.leader;
        // Of two in one epoch who has written nothing yet can still begin another.
        let twin = same && !by_us && self.confirmed > 0;
        if self.claimed && (theirs.epoch > ours.epoch || twin) {
            self.state = State::Closed;
            return Progress::Deposed;
        }
        let applied = self.claimed && by_us && theirs.writes > self.confirmed;
        let newer = !self.claimed || (theirs.epoch, theirs.writes) > self.base;
        if self.confirmed == 0 && !applied && newer {
            // Nothing of ours was ever written: what is there now is what we go on from.
            self.base = (theirs.epoch, theirs.writes);
            self.claimed = true;
            let (epoch, writes) = (ours.epoch.max(theirs.epoch.saturating_add(1)), ours.writes);
            let (reserved, suspect) = (ours.reserved.max(theirs.reserved), theirs.suspect || suspect);
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
        Progress::Waiting
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
        let from = (self.ledger.reserved.0 + 1).max(first.0);
        let to = (from + count).min(ExecutorId::MAX.0 + 1) - 1;
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
        self.spare.clear();
        self.reserving.clear();
    }
}
