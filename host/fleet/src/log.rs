//! The decisions of a fleet, kept for `explain`: a bounded tail, as text.

use std::collections::VecDeque;

use crate::id::ExecutorId;
use crate::time::Now;

/// Number of decisions kept per fleet: at about 100 bytes each, 500 fleets take 25 MB.
const KEPT: usize = 512;

/// One decision or observation.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When it was decided or observed.
    pub at: Now,
    /// The executor that it is about. `None`: the fleet.
    pub executor: Option<ExecutorId>,
    /// What was decided or observed, for users.
    pub text: Box<str>,
}

#[derive(Debug, Default)]
pub(crate) struct Log(VecDeque<Entry>);

impl Log {
    pub(crate) fn add(&mut self, at: Now, executor: Option<ExecutorId>, text: impl Into<Box<str>>) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Entry { at, executor, text: text.into() });
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.0.iter()
    }
}
