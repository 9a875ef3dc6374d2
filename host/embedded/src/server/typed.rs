//! The server's in-process interface: for the controllers of an embedded cluster, and for tests, without HTTP.
//!
//! Resources are named by their plural. Unlike clients, these callers may change status and spec at once, and
//! leave no trace in `managedFields`.

use std::sync::Arc;

use serde_json::Value;

use super::ask::{Ask, Verb};
use super::removal::{self, Options};
use super::view::{Form, View};
use super::{Change, Deletion, Key, Kind, Server, Status, kinds, verbs};

impl Server {
    pub fn now_ms(&self) -> u64 {
        self.with(|store| store.now_ms)
    }

    /// The wall clock, in ms since 1970.
    pub fn wall_ms(&self) -> i64 {
        self.with(|store| store.wall_ms())
    }

    /// The wall clock in the format of object timestamps.
    pub fn timestamp(&self) -> String {
        self.with(|store| store.timestamp())
    }

    pub fn revision(&self) -> u64 {
        self.with(|store| store.revision())
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = Key::new(kind(resource)?.plural, namespace, name);
        self.with(|store| store.get(&key).cloned())
    }

    /// All objects of a resource, in order of namespace and name.
    pub fn list(&self, resource: &str) -> Vec<Arc<Value>> {
        let Some(kind) = kind(resource) else { return Vec::new() };
        self.with(|store| store.range(kind.plural, None).map(|(_, object)| Arc::clone(object)).collect())
    }

    /// As a POST would.
    pub fn create(&self, resource: &str, namespace: &str, object: Value) -> Result<Arc<Value>, Status> {
        let kind = kind(resource).ok_or_else(Status::no_such_path)?;
        let ask = Ask::internal(Verb::Create, kind, namespace);
        self.with(|store| verbs::create(store, &ask, object))
    }

    /// Changes an object in any way. `None`: it does not exist.
    pub fn change(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Option<Arc<Value>> {
        let key = Key::new(kind(resource)?.plural, namespace, name);
        self.with(|store| {
            let old = Arc::clone(store.get(&key)?);
            let mut new = Value::clone(&old);
            change(&mut new);
            if new == *old {
                return Some(old);
            }
            Some(removal::settle(store, &key, new))
        })
    }

    /// As a DELETE would; with grace period 0 the object is removed, unless a finalizer holds it. It has no
    /// precondition, and is not among the [deletions](Server::deletions) that clients requested.
    pub fn delete(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        grace_s: Option<u64>,
    ) -> Result<(), Status> {
        let kind = kind(resource).ok_or_else(Status::no_such_path)?;
        let key = Key::new(kind.plural, namespace, name);
        self.with(|store| removal::delete(store, kind, &key, &Options::grace(grace_s)).map(drop))
    }

    /// The changes of a resource after this revision, the oldest first, and the revision up to which they
    /// reach. `None`: they are compacted.
    pub fn changes(&self, resource: &str, since: u64) -> (u64, Option<Vec<Change>>) {
        self.with(|store| {
            let changes = store.since(since).map(|entries| {
                let entries = entries.filter(|entry| entry.key.resource == resource);
                entries.map(|entry| entry.change.clone()).collect()
            });
            (store.revision(), changes)
        })
    }

    /// The deletions that clients requested after the first `seen` ones, as far as they are kept, and how many
    /// there were in all.
    pub fn deletions(&self, seen: u64) -> (Vec<Deletion>, u64) {
        self.with(|store| {
            let new = usize::try_from(store.deletions_seen - seen.min(store.deletions_seen));
            let kept = store.deletions.len();
            let from = kept - new.unwrap_or(usize::MAX).min(kept);
            (store.deletions.range(from..).cloned().collect(), store.deletions_seen)
        })
    }
}

/// The kind under which the resource is stored: core before any other.
fn kind(resource: &str) -> Option<&'static Kind> {
    kinds::KINDS.into_iter().find(|kind| kind.plural == resource)
}

impl Ask {
    fn internal(verb: Verb, kind: &'static Kind, namespace: &str) -> Ask {
        Ask {
            verb,
            kind,
            namespace: namespace.to_owned(),
            name: String::new(),
            subresource: String::new(),
            query: Default::default(),
            content_type: "application/json".to_owned(),
            view: View { kind, form: Form::Whole },
            manager: "system".to_owned(),
        }
    }
}
