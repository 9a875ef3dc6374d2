//! What the API server reports: a log with revisions, read at any lag.
//!
//! A list is the state *at* a revision; a watch is the log *after* one. A replica that lags reads the same log
//! up to an earlier revision, so a stale list is made by folding the log. Rejected: a copy of the store per
//! replica, which costs memory for lags at which nothing is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::event::{DriverView, PodView, Relist};

use super::Api;

#[derive(Clone, Debug)]
pub struct Entry {
    pub revision: u64,
    pub at_ms: u64,
    pub change: Change,
}

/// An event as a watch with the fleet's selector reports it.
#[derive(Clone, Debug)]
pub enum Change {
    /// ADDED or MODIFIED.
    Put(Arc<PodView>),
    /// DELETED, or no longer selected; with the revision at which that happened.
    Gone(Arc<PodView>),
    Driver(DriverView),
}

impl Api {
    pub(super) fn push(&mut self, change: Change) {
        let revision = match &change {
            Change::Put(pod) | Change::Gone(pod) => pod.revision,
            Change::Driver(_) => self.next_revision(),
        };
        self.log.push(Entry { revision, at_ms: self.now_ms, change });
    }

    /// The entries after this revision, the oldest first.
    pub fn since(&self, revision: u64) -> &[Entry] {
        let from = self.log.partition_point(|entry| entry.revision <= revision);
        &self.log[from..]
    }

    /// The last revision that a replica with this lag shows.
    pub fn revision_at(&self, at_ms: u64) -> u64 {
        let after = self.log.partition_point(|entry| entry.at_ms <= at_ms);
        match self.log.get(after) {
            None => self.revision,
            Some(entry) => entry.revision - 1,
        }
    }

    /// Drops the log up to here: watches that are further behind get a 410.
    pub fn compact(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision);
    }

    pub fn is_compacted(&self, revision: u64) -> bool {
        revision < self.compacted
    }

    /// A complete list from the store, delivered at once: everything it shows was known when it was requested.
    pub fn list(&self) -> Relist {
        let pods = self.pods.values().filter(|pod| pod.view.selected);
        Relist {
            known: u64::MAX,
            revision: self.revision,
            pods: pods.map(|pod| PodView::clone(&pod.view)).collect(),
            driver: self.driver(),
        }
    }

    /// A complete list as it was at an earlier revision.
    pub fn list_at(&self, revision: u64) -> Relist {
        let mut pods: BTreeMap<&str, &Arc<PodView>> = BTreeMap::new();
        let mut driver = DriverView::Running { uid: self.driver.clone(), ends: 0 };
        for entry in self.log.iter().take_while(|entry| entry.revision <= revision) {
            match &entry.change {
                Change::Put(pod) => {
                    pods.insert(&pod.uid.0, pod);
                }
                Change::Gone(pod) => {
                    pods.remove(&*pod.uid.0);
                }
                Change::Driver(view) => driver = view.clone(),
            }
        }
        let pods = pods.into_values().map(|pod| PodView::clone(pod)).collect();
        Relist { known: u64::MAX, revision, pods, driver }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{NewPod, Serial};
    use fleet::id::{ExecutorId, Uid};

    #[test]
    fn a_list_at_now_is_the_list_and_an_earlier_one_is_what_was() {
        let mut api = Api::new(Uid::from("driver"), 0);
        let new = |executor| NewPod {
            name: format!("f-exec-{executor}").into(),
            executor: ExecutorId(executor),
            owner: None,
            selected: true,
            finalizer: false,
            sidecar: false,
        };
        for executor in 1..=3 {
            api.now_ms = executor * 1000;
            api.create(new(executor));
        }
        let before = api.list();
        assert_eq!(api.list_at(api.revision()), before);
        api.now_ms = 4000;
        api.delete("f-exec-2", None, None);
        // Labels that are edited away look like a deletion, though the pod still exists.
        api.change(Serial(3), |pod| pod.selected = false);
        assert_eq!(api.list().pods.len(), 1);
        assert_eq!(api.list_at(api.revision()), api.list());
        assert_eq!(api.list_at(api.revision_at(3999)), before);
        // It was on no node: one event for its `deletionTimestamp`, one for its removal.
        assert_eq!(api.since(before.revision).len(), 3);
        assert!(matches!(api.since(before.revision)[2].change, Change::Gone(_)));
    }
}
