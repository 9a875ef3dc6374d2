//! Identifiers of executors, pods and actions, and sets of executor ids.

use std::collections::BTreeMap;
use std::fmt;

/// An executor id (label `spark-exec-id`): a number that is never used twice within an application.
/// Peers remember an executor's blocks by its id, so a second executor with the same id is taken for
/// the first, and stages die with `FetchFailed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutorId(pub u64);

impl ExecutorId {
    /// Spark parses ids as a 32-bit `Int`.
    pub const MAX: ExecutorId = ExecutorId(i32::MAX as u64);
}

impl fmt::Display for ExecutorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The ids that a fleet's executors may have. Fleets of one application, for instance one for each of Spark's resource
/// profiles, have ranges that do not overlap: an executor's id says which fleet it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdRange {
    /// The least id.
    pub first: ExecutorId,
    /// The greatest id.
    pub last: ExecutorId,
}

impl Default for IdRange {
    fn default() -> IdRange {
        IdRange { first: ExecutorId(1), last: ExecutorId::MAX }
    }
}

impl IdRange {
    /// Is it one of these ids?
    pub fn contains(self, id: ExecutorId) -> bool {
        self.first <= id && id <= self.last
    }

    /// Is there an id that both have?
    pub fn overlaps(self, other: IdRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A `metadata.uid`: opaque, never reused. A name may be reused; a UID is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uid(pub Box<str>);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for Uid {
    fn from(text: &str) -> Uid {
        Uid(text.into())
    }
}

/// A `metadata.resourceVersion` of the ledger: opaque, passed back to compare and swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub Box<str>);

/// An action's number. Its outcome is reported under it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActionId(pub u64);

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// An operator's command. The reply carries it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// A set of executor ids, stored as runs of consecutive ids. Ids are handed out in order and most executors are
/// long gone, so a fleet of 10,000 with a long history has a few hundred runs, small enough for a record.
/// (10,000 live ids in random order are about 5,000 runs.)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdSet {
    /// First id of a run -> its last.
    runs: BTreeMap<u64, u64>,
    len: u64,
}

impl IdSet {
    /// Builds a set from ordered runs that do not touch, as [`IdSet::runs`] returns them; `None` for other input.
    pub fn from_runs(runs: impl IntoIterator<Item = (ExecutorId, ExecutorId)>) -> Option<IdSet> {
        let mut set = IdSet::default();
        let mut free = 0;
        for (ExecutorId(first), ExecutorId(last)) in runs {
            if first < free || last < first || last == u64::MAX {
                return None;
            }
            free = last + 2;
            set.len += last - first + 1;
            set.runs.insert(first, last);
        }
        Some(set)
    }

    /// The number of ids.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Does it have no id?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Is the id in one of the runs?
    pub fn contains(&self, ExecutorId(id): ExecutorId) -> bool {
        self.run_at(id).is_some()
    }

    /// The greatest id.
    pub fn last(&self) -> Option<ExecutorId> {
        self.runs.last_key_value().map(|(_, last)| ExecutorId(*last))
    }

    /// Removes and returns the least id.
    pub fn pop_first(&mut self) -> Option<ExecutorId> {
        let first = self.runs.first_key_value().map(|(first, _)| ExecutorId(*first))?;
        self.remove(first);
        Some(first)
    }

    /// Are all of its ids in the other set? Compares runs, not ids.
    pub fn is_subset(&self, other: &IdSet) -> bool {
        let holds = |first: u64, last: u64| other.run_at(last).is_some_and(|(from, _)| from <= first);
        self.runs.iter().all(|(first, last)| holds(*first, *last))
    }

    /// Is none of its ids in the other set? Compares runs, not ids.
    pub fn is_disjoint(&self, other: &IdSet) -> bool {
        let meets =
            |first: u64, last: u64| other.runs.range(..=last).next_back().is_some_and(|run| first <= *run.1);
        !self.runs.iter().any(|(first, last)| meets(*first, *last))
    }

    /// The run that contains this id.
    fn run_at(&self, id: u64) -> Option<(u64, u64)> {
        self.runs
            .range(..=id)
            .next_back()
            .filter(|(_, last)| id <= **last)
            .map(|(first, last)| (*first, *last))
    }

    /// The number of runs.
    pub fn runs_len(&self) -> usize {
        self.runs.len()
    }

    /// Returns whether the id was absent before.
    pub fn insert(&mut self, ExecutorId(id): ExecutorId) -> bool {
        if self.contains(ExecutorId(id)) {
            return false;
        }
        let before = self
            .runs
            .range(..id)
            .next_back()
            .filter(|(_, last)| last.checked_add(1) == Some(id))
            .map(|run| *run.0);
        let after = id.checked_add(1).and_then(|next| self.runs.remove(&next));
        self.runs.insert(before.unwrap_or(id), after.unwrap_or(id));
        self.len += 1;
        true
    }

    /// Returns whether the id was present before.
    pub fn remove(&mut self, ExecutorId(id): ExecutorId) -> bool {
        let Some((first, last)) = self.run_at(id) else { return false };
        self.runs.remove(&first);
        if first < id {
            self.runs.insert(first, id - 1);
        }
        if id < last {
            self.runs.insert(id + 1, last);
        }
        self.len -= 1;
        true
    }

    /// All ids, in order.
    pub fn iter(&self) -> impl Iterator<Item = ExecutorId> {
        self.runs().flat_map(|(first, last)| (first.0..=last.0).map(ExecutorId))
    }

    /// The runs, each with its first and last id.
    pub fn runs(&self) -> impl Iterator<Item = (ExecutorId, ExecutorId)> {
        self.runs.iter().map(|(first, last)| (ExecutorId(*first), ExecutorId(*last)))
    }
}

impl FromIterator<ExecutorId> for IdSet {
    fn from_iter<T: IntoIterator<Item = ExecutorId>>(ids: T) -> IdSet {
        let mut set = IdSet::default();
        for id in ids {
            set.insert(id);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Compares the set with a plain set, over every operation on ids that touch.
    #[test]
    fn an_id_set_is_a_set() {
        let mut set = IdSet::default();
        let mut model = BTreeSet::new();
        let mut state = 7_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let id = ExecutorId((state >> 33) % 40);
            if (state >> 60).is_multiple_of(2) {
                assert_eq!(set.insert(id), model.insert(id));
            } else {
                assert_eq!(set.remove(id), model.remove(&id));
            }
            assert_eq!(set.len(), model.len() as u64);
            assert!(set.iter().eq(model.iter().copied()));
            assert_eq!(set.contains(ExecutorId(13)), model.contains(&ExecutorId(13)));
            let ends: Vec<_> = set.runs().collect();
            assert_eq!(IdSet::from_runs(ends.iter().copied()), Some(set.clone()));
            let other: IdSet = [state >> 50 & 31, 13, 14, 15].into_iter().map(ExecutorId).collect();
            assert_eq!(set.is_disjoint(&other), !other.iter().any(|id| set.contains(id)));
            assert_eq!(other.is_subset(&set), other.iter().all(|id| set.contains(id)));
            assert_eq!(set.last(), model.last().copied());
            let mut rest = set.clone();
            assert_eq!(rest.pop_first(), model.first().copied());
            assert_eq!(rest.len(), set.len().saturating_sub(1));
            assert!(ends.windows(2).all(|pair| pair[0].1.0 + 1 < pair[1].0.0), "runs touch: {ends:?}");
        }
    }
}
