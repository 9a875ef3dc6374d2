//! What the API server reports: a log with revisions, read at any lag.
//!
//! A list is the state *at* a revision; a watch is the log *after* one. A replica that lags reads the same log
//! up to an earlier revision, so a stale list is made by folding the log. Rejected: a copy of the store per
//! replica, which costs memory for lags at which nothing is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::event::{DriverView, PodView, Relist};
use fleet::observed::DriverPod;

use super::Api;

#[derive(Clone, Debug)]
pub struct Entry {
    pub revision: u64,
    pub at_ms: u64,
    /// The application of the driver, or whose label the pod has.
    pub app: usize,
    pub change: Change,
}

/// An event as a watch of a namespace reports it, with a selector for Spark's pods.
#[derive(Clone, Debug)]
pub enum Change {
    /// ADDED or MODIFIED.
    Put(Arc<PodView>),
    /// DELETED, or no longer selected; with the revision at which that happened.
    Gone(Arc<PodView>),
    Driver(Box<DriverPod>),
}

impl Api {
    pub(super) fn push(&mut self, app: usize, change: Change) {
        let revision = match &change {
            Change::Put(pod) | Change::Gone(pod) => pod.revision,
            Change::Driver(_) => self.next_revision(),
        };
        let namespace = self.apps[app].namespace;
        self.logs[namespace].push(Entry { revision, at_ms: self.now_ms, app, change });
    }

    /// The entries after this revision, the oldest first.
    pub fn since(&self, namespace: usize, revision: u64) -> &[Entry] {
        let log = &self.logs[namespace];
        if log.last().is_none_or(|last| last.revision <= revision) {
            return &[];
        }
        let from = log.partition_point(|entry| entry.revision <= revision);
        &log[from..]
    }

    /// The last revision that a replica with this lag shows of a namespace.
    pub fn revision_at(&self, namespace: usize, at_ms: u64) -> u64 {
        let log = &self.logs[namespace];
        let after = log.partition_point(|entry| entry.at_ms <= at_ms);
        match log.get(after) {
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
    pub fn list(&self, app: usize) -> Relist {
        let pods = self.pods.values().filter(|pod| pod.view.selected && self.shares_label(app, pod.app));
        Relist {
            known: u64::MAX,
            revision: self.revision,
            pods: pods.map(|pod| PodView::clone(&pod.view)).collect(),
            driver: self.apps[app].driver(),
        }
    }

    /// A complete list as it was at an earlier revision. Its driver is never shown as it was before it existed.
    pub fn list_at(&self, app: usize, revision: u64) -> Relist {
        let mut pods: BTreeMap<&str, &Arc<PodView>> = BTreeMap::new();
        let it = &self.apps[app];
        let mut driver = DriverView::Running { uid: it.driver_uid().clone(), ends: 0 };
        for entry in self.logs[it.namespace].iter().take_while(|entry| entry.revision <= revision) {
            match &entry.change {
                Change::Put(pod) if self.shares_label(app, entry.app) => {
                    pods.insert(&pod.uid.0, pod);
                }
                Change::Gone(pod) => {
                    pods.remove(&*pod.uid.0);
                }
                Change::Driver(pod) if entry.app == app => driver = pod.view(),
                Change::Put(_) | Change::Driver(_) => {}
            }
        }
        let pods = pods.into_values().map(|pod| PodView::clone(pod)).collect();
        Relist { known: u64::MAX, revision, pods, driver }
    }

    fn shares_label(&self, app: usize, other: usize) -> bool {
        app == other || self.apps[app].shares_label(&self.apps[other])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Application, NewPod, Serial};
    use fleet::id::{ExecutorId, Uid};

    #[test]
    fn a_list_at_now_is_the_list_and_an_earlier_one_is_what_was() {
        let mut api = Api::new(0);
        api.add(Application::new(0, "app-1", "driver", Uid::from("driver")));
        let new = |executor| NewPod {
            app: 0,
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
        let before = api.list(0);
        assert_eq!(api.list_at(0, api.revision()), before);
        api.now_ms = 4000;
        api.delete("f-exec-2", None, None);
        // Labels that are edited away look like a deletion, though the pod still exists.
        api.change(Serial(3), |pod| pod.selected = false);
        assert_eq!(api.list(0).pods.len(), 1);
        assert_eq!(api.list_at(0, api.revision()), api.list(0));
        assert_eq!(api.list_at(0, api.revision_at(0, 3999)), before);
        // It was on no node: one event for its `deletionTimestamp`, one for its removal.
        assert_eq!(api.since(0, before.revision).len(), 3);
        assert!(matches!(api.since(0, before.revision)[2].change, Change::Gone(_)));
    }
}
