//! Objects, and the log of their changes.
//!
//! One revision counts all changes, as etcd's does. The log keeps each change with the state before and after
//! it. That is all a watch needs to tell ADDED from MODIFIED under any selector, and a list as of an earlier
//! revision is the current one with the log undone. Rejected: a queue per watch, which has to be bounded,
//! filled and woken one by one; a watch is a position in the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::clock;
use super::{Change, Deletion, TokenInfo};

/// Changes that are kept; a watch that is further behind gets a 410. Neighbouring entries share their states,
/// so that is one state for each: with pods of 10 KB, 1 GB at worst.
pub(super) const LOG_MAX: usize = 100_000;
/// Deletions that are kept for judges: a pointer and two words each.
pub(super) const DELETIONS_MAX: usize = 10_000;
/// Watches at one time.
pub(super) const WATCHES_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub resource: &'static str,
    /// Empty for cluster-scoped resources.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(resource: &'static str, namespace: &str, name: &str) -> Key {
        Key { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: Key,
    pub change: Change,
}

#[derive(Debug)]
struct Watcher {
    waker: Option<Waker>,
    due_ms: u64,
}

#[derive(Debug)]
pub(super) struct Store {
    /// Since the start.
    pub now_ms: u64,
    /// The wall clock at the start, in ms since 1970.
    pub wall_base_ms: i64,
    revision: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    log: VecDeque<Entry>,
    compacted: u64,
    watchers: BTreeMap<u64, Watcher>,
    watcher_ids: u64,
    rng: ChaCha8Rng,
    /// An object may have lost its owner, or its namespace.
    pub garbage: bool,
    pub tokens: BTreeMap<String, TokenInfo>,
    /// By verb and resource: bounded by the number of served resources.
    pub requests: BTreeMap<(String, String), u64>,
    pub deletions: VecDeque<Deletion>,
    /// How many there were in all.
    pub deletions_seen: u64,
}

impl Store {
    pub fn new(seed: u64, wall_base_ms: i64) -> Store {
        Store {
            now_ms: 0,
            wall_base_ms,
            // Never 0, which means "anything" to clients.
            revision: 1,
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            compacted: 0,
            watchers: BTreeMap::new(),
            watcher_ids: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            garbage: false,
            tokens: BTreeMap::new(),
            requests: BTreeMap::new(),
            deletions: VecDeque::new(),
            deletions_seen: 0,
        }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn wall_ms(&self) -> i64 {
        self.wall_base_ms.saturating_add_unsigned(self.now_ms)
    }

    pub fn timestamp(&self) -> String {
        clock::rfc3339(self.wall_ms())
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// In order of namespace and name.
    pub fn range(
        &self,
        resource: &'static str,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let first = Key::new(resource, namespace.unwrap_or_default(), "");
        self.objects.range(first..).take_while(move |(key, _)| {
            key.resource == resource && namespace.is_none_or(|namespace| key.namespace == namespace)
        })
    }

    pub fn objects(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    /// A resource as of a revision. `None`: that revision is compacted.
    pub fn at(&self, resource: &'static str, revision: u64) -> Option<BTreeMap<Key, Arc<Value>>> {
        if revision < self.compacted {
            return None;
        }
        let mut objects: BTreeMap<Key, Arc<Value>> =
            self.range(resource, None).map(|(key, object)| (key.clone(), Arc::clone(object))).collect();
        let later = self.log.iter().rev().take_while(|entry| entry.change.revision > revision);
        for entry in later.filter(|entry| entry.key.resource == resource) {
            match &entry.change.before {
                Some(before) => objects.insert(entry.key.clone(), Arc::clone(before)),
                None => objects.remove(&entry.key),
            };
        }
        Some(objects)
    }

    /// Stores a new state under the next revision.
    pub fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        self.garbage |= object["metadata"].get("ownerReferences").is_some() && before.is_none();
        self.record(key, before, Some(Arc::clone(&object)));
        object
    }

    /// Removes an object. Returns its last state, with the revision of the removal.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.revision += 1;
        self.garbage = true;
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.record(key.clone(), Some(before), None);
        Some(Arc::new(last))
    }

    fn record(&mut self, key: Key, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        let change = Change { revision: self.revision, at_ms: self.now_ms, before, after };
        self.log.push_back(Entry { key, change });
        if self.log.len() > LOG_MAX
            && let Some(oldest) = self.log.pop_front()
        {
            self.compacted = oldest.change.revision;
        }
        for watcher in self.watchers.values_mut() {
            watcher.due_ms = 0;
        }
    }

    /// The changes after this revision, the oldest first. `None`: that revision is compacted.
    pub fn since(&self, revision: u64) -> Option<impl Iterator<Item = &Entry>> {
        let from = self.log.partition_point(|entry| entry.change.revision <= revision);
        (revision >= self.compacted).then(|| self.log.range(from..))
    }

    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    pub fn compact(&mut self) {
        self.log.clear();
        self.compacted = self.revision;
    }

    /// `None`: there are too many watches.
    pub fn watch(&mut self) -> Option<u64> {
        if self.watchers.len() >= WATCHES_MAX {
            return None;
        }
        self.watcher_ids += 1;
        self.watchers.insert(self.watcher_ids, Watcher { waker: None, due_ms: u64::MAX });
        Some(self.watcher_ids)
    }

    pub fn unwatch(&mut self, id: u64) {
        self.watchers.remove(&id);
    }

    /// Wakes the watch at the next change, or at this time.
    pub fn sleep(&mut self, id: u64, waker: &Waker, due_ms: u64) {
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.waker = Some(waker.clone());
            watcher.due_ms = due_ms;
        }
    }

    /// The watches that have to be woken now; wake them without holding the lock.
    pub fn ripe(&mut self) -> Vec<Waker> {
        let now_ms = self.now_ms;
        let due = self.watchers.values_mut().filter(|watcher| watcher.due_ms <= now_ms);
        due.filter_map(|watcher| watcher.waker.take()).collect()
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.rng.next_u64() % end.max(1)
    }

    pub fn new_uid(&mut self) -> String {
        let (high, low) = (self.rng.next_u64(), self.rng.next_u64());
        let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xfff);
        let (d, e) = (low >> 48 & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
        format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
    }

    /// Five letters, as `generateName` appends them.
    pub fn new_suffix(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..5).map(|_| char::from(LETTERS[self.below(LETTERS.len() as u64) as usize])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn store() -> Store {
        let mut store = Store::new(1, 0);
        for name in ["a", "b", "c"] {
            store.put(Key::new("pods", "n", name), json!({ "metadata": { "name": name } }));
        }
        store
    }

    #[test]
    fn a_list_as_it_was_is_todays_with_the_log_undone() {
        let mut store = store();
        let then = store.revision();
        store.put(Key::new("pods", "n", "b"), json!({ "metadata": { "name": "b" }, "changed": true }));
        store.remove(&Key::new("pods", "n", "a"));
        store.put(Key::new("pods", "n", "d"), json!({ "metadata": { "name": "d" } }));
        let names = |revision| -> Option<Vec<(String, bool)>> {
            let objects = store.at("pods", revision)?;
            Some(objects.into_iter().map(|(key, it)| (key.name, it["changed"] == true)).collect())
        };
        let named = |names: [(&str, bool); 3]| Some(names.map(|(name, it)| (name.to_owned(), it)).to_vec());
        assert_eq!(names(then), named([("a", false), ("b", false), ("c", false)]));
        assert_eq!(names(store.revision()), named([("b", true), ("c", false), ("d", false)]));
        assert_eq!(names(then - 1).map(|names| names.len()), Some(2));
        store.compact();
        assert_eq!(store.at("pods", then), None);
        assert!(store.since(then).is_none() && store.since(store.revision()).is_some());
    }

    #[test]
    fn the_log_is_bounded() {
        let mut store = store();
        for _ in 0..LOG_MAX {
            store.put(Key::new("pods", "n", "a"), json!({ "metadata": {} }));
        }
        assert_eq!(store.log.len(), LOG_MAX);
        assert!(store.compacted() > 1 && store.since(1).is_none());
    }
}
