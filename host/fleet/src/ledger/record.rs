//! The record as it is stored.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{ExecutorId, IdSet};
use crate::question::{DeletionCause, LossKind};

/// Limit of epochs and writes: 2^53, the largest integer that every JSON reader handles exactly. One leader per
/// second makes 2^25 in a year.
pub(crate) const COUNT_MAX: u64 = 1 << 53;
/// At least a million ids have to be left: at one per second they last for twelve days, and a fleet without
/// free ids cannot create executors. A host that continues a record just below the limit may write one above
/// it, which the next start refuses: its ids are used up, or the record was edited to look so. A reset does not
/// take that number over.
pub const RESERVED_MAX: u64 = ExecutorId::MAX.0 - 1_000_000;
/// From this many on, further kinds are counted as unknown when they are written.
const KINDS_WRITTEN_MAX: usize = 100;

/// The record as it is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// The leader's term, or one more than the last leader's epoch where that is higher. So a later
    /// leader's is higher, even if what it read was an old backup.
    pub epoch: u64,
    /// The writer: a random number of this leader. Two leaders may have the same epoch if terms restarted
    /// because the Lease was deleted.
    pub leader: u64,
    /// Counts this leader's writes.
    pub writes: u64,
    /// The highest reserved id: a later leader begins above it.
    pub reserved: ExecutorId,
    /// The newest pod revision that is taken into account here.
    pub revision: u64,
    /// Number of executors ever created.
    pub created: u64,
    /// Executors whose end has not been counted.
    pub born: IdSet,
    /// Executors whose end has been counted.
    pub settled: IdSet,
    /// Settled executors whose pods are kept for debugging.
    pub kept: IdSet,
    /// Born executors that Rollcall removed or is about to remove, and why.
    pub leaving: BTreeMap<ExecutorId, DeletionCause>,
    /// How many executors were lost, by kind. Only settled losses count.
    pub lost: BTreeMap<LossKind, u64>,
    /// How many executors Rollcall removed, by cause. Only settled ends count.
    pub removed: BTreeMap<DeletionCause, u64>,
    /// Failures by time: (wall clock in ms since the epoch, how many).
    pub failures: VecDeque<(i64, u32)>,
    /// The fleet failed: it allocates nothing until an operator resets it.
    pub failed: bool,
    /// An operator paused the fleet. Independent of `paused` in the spec.
    pub paused: bool,
    /// The claimed record may be older than the cluster: ids must jump before any is used.
    pub suspect: bool,
    /// The target that an operator set with `requestTotalExecutors`, and the spec's target at that time.
    pub requested: Option<Requested>,
    /// Fields that a newer version of Rollcall wrote; preserved unchanged.
    pub others: Vec<(Box<str>, Box<str>)>,
}

/// A target that an operator set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The target: how many executors there should be.
    pub total: u32,
    /// The spec's target when the operator set this one, which ends when the spec's target changes.
    pub spec_target: u32,
}

impl Ledger {
    /// Number of executors that have ended, for any reason.
    pub fn ended(&self) -> u64 {
        self.lost.values().chain(self.removed.values()).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Record that an executor was created.
    pub(crate) fn record_created(&mut self, executor: ExecutorId) {
        if !self.settled.contains(executor) && self.born.insert(executor) {
            self.created += 1;
        }
    }

    /// Count the executor's end. Returns whether this was the first time.
    pub(crate) fn settle(&mut self, executor: ExecutorId, end: End, again: bool) -> bool {
        if !self.settled.insert(executor) && !again {
            return false;
        }
        if !self.born.remove(executor) {
            self.created += 1;
        }
        self.leaving.remove(&executor);
        *match end {
            // A policy may use any name, but a record holds only a limited number of names.
            End::Lost(LossKind::Other(name))
                if self.lost.len() >= KINDS_WRITTEN_MAX
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

/// The values that may be taken from a record that is discarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// The epoch of the discarded record; 0: it had no plausible one. The next epoch is higher.
    pub epoch: u64,
    /// The highest reserved id of the discarded record; 0: it had no plausible one. New ids are above it.
    pub reserved: ExecutorId,
}

impl Salvage {
    /// Uses each value that is plausible by itself: the next epoch must be later, and the next id higher.
    pub fn new(epoch: Option<u64>, reserved: Option<u64>) -> Salvage {
        let epoch = epoch.filter(|epoch| *epoch <= COUNT_MAX).unwrap_or(0);
        let reserved = reserved.filter(|reserved| *reserved <= RESERVED_MAX).unwrap_or(0);
        Salvage { epoch, reserved: ExecutorId(reserved) }
    }
}
