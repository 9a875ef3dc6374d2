//! The checks that a stored record must pass.
//!
//! The bounds are far above what any fleet reaches, and low enough that a record that passes can be continued:
//! sets are stored as runs, and sets that are enumerated (`born`, `kept`, `leaving`) are bounded. Every version
//! that Rollcall writes satisfies the sums; if one number is changed by hand it contradicts the others.
//!
//! Not checked: that ids are at most `reserved`. In mode Observe nothing is reserved, and in mode Own an
//! executor of a lost record is accepted above it. An id that is in the record is never used again, regardless
//! of the set that contains it. Nor is it checked that failures are not in the future: clocks can be wrong by
//! years, and failures in the future do not count.

use std::fmt;

use super::record::{COUNT_MAX, Ledger, RESERVED_MAX};
use crate::id::{ExecutorId, IdSet};

/// etcd counts revisions in 63 bits.
const REVISION_MAX: u64 = i64::MAX as u64;
/// Twice the number of executors of the largest fleet that a document can request.
const BORN_MAX: u64 = 100_000;
/// Ids are handed out in order: 100,000 live ones in random order are 50,000 runs. 40 bytes each, 2.6 MB.
pub const RUNS_MAX: usize = 1 << 16;
/// Built-in kinds, and a hundred kinds of policies.
const KINDS_MAX: usize = 128;
/// Sixty steps of the failure window, and those of the windows that the spec had before.
const FAILURES_MAX: usize = 1_000;
/// From this many on, the oldest step is dropped when another is written.
pub(crate) const FAILURES_WRITTEN_MAX: usize = 240;
const NAME_BYTES_MAX: usize = 256;
/// Fields that a newer version wrote: they are preserved in every write.
const OTHERS_MAX: usize = 64;
const OTHERS_BYTES_MAX: usize = 32 << 10;

/// What is wrong with a record: a field, and which bound or sum it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The field's name in the stored JSON, or a description of several fields: the message begins with it.
    pub field: &'static str,
    /// The rest of the message: which bound or sum it breaks.
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
    /// Can Rollcall have written the record, and can it be continued?
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

/// Checks the fields that a newer version wrote.
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
