//! What a record of ours never is.
//!
//! The bounds are far above what any fleet comes to and low enough that whatever passes can be gone on from: sets are
//! kept as runs, and what is enumerated (`born`, `kept`, `leaving`) is counted. The sums are those that every version
//! of ours satisfies; one number that is changed by hand contradicts the others.
//!
//! Not here: that ids are at most `reserved`. With mode Observe nothing is reserved, and with mode Own an executor of a
//! lost record is taken in above it. An id that is in the record is never used again, wherever it stands. Nor whether
//! failures are of the future: clocks go wrong by years, and what is of the future does not count.

use std::fmt;

use super::Ledger;
use crate::id::{ExecutorId, IdSet};

/// Epochs and writes: 2^53, as much as every reader of JSON reads exactly. A leader a second makes 2^25 in a year.
pub(crate) const COUNT_MAX: u64 = 1 << 53;
/// A million ids have to be left: at one a second they last for twelve days, and a fleet whose ids are used up would
/// stand still. A host that goes on from a record just below it may come to write one above it, which the next start
/// refuses: its ids are used up, or somebody has seen to it that they seem to be. A reset does not take that number over.
pub(crate) const RESERVED_MAX: u64 = ExecutorId::MAX.0 - 1_000_000;
/// etcd counts revisions in 63 bits.
const REVISION_MAX: u64 = i64::MAX as u64;
/// Twice as many executors as the largest fleet that a document can ask for.
const BORN_MAX: u64 = 100_000;
/// Ids are handed out in order: 100,000 live ones in no order at all are 50,000 runs. 40 bytes each, 2.6 MB.
pub const RUNS_MAX: usize = 1 << 16;
/// Our own kinds, and a hundred of the policies'.
const KINDS_MAX: usize = 128;
/// From so many on, further kinds count as unknown when they are written.
pub(super) const KINDS_WRITTEN_MAX: usize = 100;
/// Sixty steps of the window of failures, and those of the windows that the spec had before.
const FAILURES_MAX: usize = 1_000;
/// From so many on, the oldest step is dropped when another is written.
pub(crate) const FAILURES_WRITTEN_MAX: usize = 240;
const NAME_BYTES_MAX: usize = 256;
/// Fields that a newer version wrote: they are handed on with every write.
const OTHERS_MAX: usize = 64;
const OTHERS_BYTES_MAX: usize = 32 << 10;

/// What is wrong with a record: a field, and which bound or sum it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub field: &'static str,
    pub what: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.field, self.what)
    }
}

fn at_most<T: PartialOrd + fmt::Display>(field: &'static str, number: T, max: T) -> Result<(), Flaw> {
    unless(number > max, field, || format!("is {number}, and at most {max} is plausible"))
}

fn unless(wrong: bool, field: &'static str, what: impl FnOnce() -> String) -> Result<(), Flaw> {
    if wrong { Err(Flaw { field, what: what() }) } else { Ok(()) }
}

impl Ledger {
    /// Can it be one of ours, and be gone on from?
    pub fn check(&self) -> Result<(), Flaw> {
        at_most("epoch", self.epoch, COUNT_MAX)?;
        at_most("writes", self.writes, COUNT_MAX)?;
        at_most("reserved", self.reserved.0, RESERVED_MAX)?;
        at_most("revision", self.revision, REVISION_MAX)?;
        for (field, set) in [("born", &self.born), ("settled", &self.settled), ("kept", &self.kept)] {
            ids(field, set)?;
        }
        for (field, len) in [("born", self.born.len()), ("kept", self.kept.len())] {
            unless(len > BORN_MAX, field, || format!("has {len} ids, and at most {BORN_MAX} are plausible"))?;
        }
        unless(!self.born.is_disjoint(&self.settled), "born", || "shares ids with `settled`".to_owned())?;
        unless(!self.kept.is_subset(&self.settled), "kept", || {
            "has ids that are not in `settled`".to_owned()
        })?;
        let stray = self.leaving.keys().find(|id| !self.born.contains(**id));
        unless(stray.is_some(), "leaving", || "has ids that are not in `born`".to_owned())?;
        self.sums()?;
        others(&self.others)
    }

    fn sums(&self) -> Result<(), Flaw> {
        let kinds = self.lost.len();
        unless(kinds > KINDS_MAX, "lost", || {
            format!("has {kinds} kinds, and at most {KINDS_MAX} are plausible")
        })?;
        let long = self.lost.keys().any(|kind| kind.name().len() > NAME_BYTES_MAX);
        unless(long, "lost", || format!("has a kind whose name is longer than {NAME_BYTES_MAX} bytes"))?;
        let lost = self.lost.values().copied().try_fold(0, u64::checked_add);
        let removed = self.removed.values().copied().try_fold(0, u64::checked_add);
        let (settled, created) = (self.settled.len(), self.created);
        let ended = lost.zip(removed).and_then(|(lost, removed)| lost.checked_add(removed));
        unless(ended != Some(settled), "settled", || {
            format!("has {settled} ids, and `lost` and `removed` add up to another number")
        })?;
        let born = self.born.len();
        unless(born.checked_add(settled) != Some(created), "created", || {
            format!("is {created}, and {born} are in `born` and {settled} in `settled`")
        })?;
        let steps = self.failures.len();
        unless(steps > FAILURES_MAX, "failures", || {
            format!("has {steps} entries, and at most {FAILURES_MAX} are plausible")
        })?;
        // A thousand 32-bit numbers do not overflow.
        let failures: u64 = self.failures.iter().map(|(_, count)| u64::from(*count)).sum();
        unless(lost.is_none_or(|lost| failures > lost), "failures", || {
            format!("add up to {failures}, which is more than were lost")
        })
    }
}

fn ids(field: &'static str, set: &IdSet) -> Result<(), Flaw> {
    let runs = set.runs_len();
    unless(runs > RUNS_MAX, field, || format!("has {runs} runs, and at most {RUNS_MAX} are plausible"))?;
    let last = set.last().filter(|last| *last > ExecutorId::MAX);
    unless(last.is_some(), field, || format!("has ids above {}, which Spark cannot read", ExecutorId::MAX))
}

/// What a newer version may have left.
pub(super) fn others(others: &[(Box<str>, Box<str>)]) -> Result<(), Flaw> {
    let bytes = others.iter().fold(0_usize, |sum, (name, value)| sum + name.len() + value.len());
    let field = "fields that this version does not know";
    unless(others.len() > OTHERS_MAX, field, || {
        format!("are {}, and at most {OTHERS_MAX} are plausible", others.len())
    })?;
    unless(bytes > OTHERS_BYTES_MAX, field, || {
        format!("have {bytes} bytes, and at most {OTHERS_BYTES_MAX} are plausible")
    })
}
