//! A fleet's executors: their pods, and what all of them together tell. A look-up costs the same however many.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use fleet::id::{ExecutorId, Uid};
use tokio::time::Instant;

/// The pod that is the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorEntry {
    pub uid: Uid,
    /// `status.podIP`, once it has one.
    pub pod_ip: Option<IpAddr>,
    /// Its containers run: it is about to speak.
    pub runs: bool,
}

#[derive(Debug, Default)]
pub struct Executors {
    pods: HashMap<ExecutorId, ExecutorEntry>,
    /// How many of them have this address.
    addresses: HashMap<IpAddr, usize>,
    running: usize,
    /// Since when at least one runs.
    running_since: Option<Instant>,
}

impl Executors {
    pub fn get(&self, id: ExecutorId) -> Option<&ExecutorEntry> {
        self.pods.get(&id)
    }

    pub fn running_since(&self) -> Option<Instant> {
        self.running_since
    }

    /// Is it the address of one of them?
    pub fn are_at(&self, ip: IpAddr) -> bool {
        self.addresses.contains_key(&ip)
    }

    pub fn insert(&mut self, id: ExecutorId, entry: ExecutorEntry) {
        if let Some(ip) = entry.pod_ip {
            *self.addresses.entry(ip.to_canonical()).or_default() += 1;
        }
        self.running += usize::from(entry.runs);
        if self.running > 0 {
            self.running_since.get_or_insert_with(Instant::now);
        }
        // Afterwards: one that takes another's place leaves no gap.
        if let Some(before) = self.pods.insert(id, entry) {
            self.forget(&before);
        }
    }

    pub fn remove(&mut self, id: ExecutorId) {
        if let Some(entry) = self.pods.remove(&id) {
            self.forget(&entry);
        }
    }

    fn forget(&mut self, entry: &ExecutorEntry) {
        if let Some(ip) = entry.pod_ip
            && let Entry::Occupied(mut count) = self.addresses.entry(ip.to_canonical())
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.running -= usize::from(entry.runs);
        if self.running == 0 {
            self.running_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_running_pods_are_counted() {
        let mut executors = Executors::default();
        let at = |uid: &str, ip: &str, runs| ExecutorEntry {
            uid: Uid::from(uid),
            pod_ip: Some(ip.parse().unwrap()),
            runs,
        };
        let are_at = |executors: &Executors, ip: &str| executors.are_at(ip.parse().unwrap());
        executors.insert(ExecutorId(1), at("a", "::ffff:10.0.0.1", false));
        executors.insert(ExecutorId(2), at("b", "10.0.0.1", false));
        assert!(are_at(&executors, "10.0.0.1") && executors.running_since().is_none());
        executors.insert(ExecutorId(2), at("b", "10.0.0.2", true));
        let since = executors.running_since();
        assert!(since.is_some() && are_at(&executors, "10.0.0.1") && are_at(&executors, "10.0.0.2"));
        executors.insert(ExecutorId(2), at("c", "10.0.0.2", true));
        assert_eq!(executors.running_since(), since, "one takes the other's place");
        executors.remove(ExecutorId(1));
        executors.remove(ExecutorId(1));
        executors.remove(ExecutorId(2));
        assert!(!are_at(&executors, "10.0.0.1") && !are_at(&executors, "10.0.0.2"));
        assert!(executors.running_since().is_none() && executors.addresses.is_empty());
    }
}
