//! A fleet's executors: their pods, and facts about all of them together. A look-up takes constant time.

use std::collections::HashMap;
use std::net::IpAddr;

use fleet::id::{ExecutorId, Uid};
use tokio::time::Instant;

/// The executor's current pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorEntry {
    pub uid: Uid,
    /// `status.podIP`, once it is set.
    pub pod_ip: Option<IpAddr>,
    /// Its containers run: the first heartbeat is due soon.
    pub runs: bool,
}

impl ExecutorEntry {
    /// Canonical: an IPv4-mapped IPv6 address is converted to IPv4.
    pub fn address(&self) -> Option<IpAddr> {
        self.pod_ip.map(|ip| ip.to_canonical())
    }

    /// It runs, and its address is not known until the view has caught up.
    fn is_homeless(&self) -> bool {
        self.runs && self.pod_ip.is_none()
    }
}

#[derive(Debug, Default)]
pub struct Executors {
    pods: HashMap<ExecutorId, ExecutorEntry>,
    running: usize,
    homeless: usize,
    /// The time since which at least one has been running.
    running_since: Option<Instant>,
}

impl Executors {
    pub fn get(&self, id: ExecutorId) -> Option<&ExecutorEntry> {
        self.pods.get(&id)
    }

    pub fn len(&self) -> usize {
        self.pods.len()
    }

    pub fn running_since(&self) -> Option<Instant> {
        self.running_since
    }

    /// Does one of them run at an unknown address?
    pub fn has_homeless(&self) -> bool {
        self.homeless > 0
    }

    /// Returns the previous pod.
    pub fn insert(&mut self, id: ExecutorId, entry: ExecutorEntry) -> Option<ExecutorEntry> {
        self.running += usize::from(entry.runs);
        self.homeless += usize::from(entry.is_homeless());
        if self.running > 0 {
            self.running_since.get_or_insert_with(Instant::now);
        }
        // Afterwards, so that `running_since` is not reset when a running pod replaces another.
        let before = self.pods.insert(id, entry)?;
        self.forget(&before);
        Some(before)
    }

    /// Removes and returns the pod, if it has this UID.
    pub fn remove(&mut self, id: ExecutorId, uid: &Uid) -> Option<ExecutorEntry> {
        let gone = self.pods.remove(&id)?;
        if gone.uid != *uid {
            self.pods.insert(id, gone);
            return None;
        }
        self.forget(&gone);
        Some(gone)
    }

    /// Removes all pods and returns their addresses.
    pub fn clear(&mut self) -> Vec<IpAddr> {
        let gone = std::mem::take(self);
        gone.pods.values().filter_map(ExecutorEntry::address).collect()
    }

    fn forget(&mut self, entry: &ExecutorEntry) {
        self.running -= usize::from(entry.runs);
        self.homeless -= usize::from(entry.is_homeless());
        if self.running == 0 {
            self.running_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_pods_are_counted() {
        let mut executors = Executors::default();
        let at = |uid: &str, ip: Option<&str>, runs| ExecutorEntry {
            uid: Uid::from(uid),
            pod_ip: ip.map(|ip| ip.parse().unwrap()),
            runs,
        };
        assert_eq!(executors.insert(ExecutorId(1), at("a", Some("::ffff:10.0.0.1"), false)), None);
        executors.insert(ExecutorId(2), at("b", None, false));
        assert!(executors.running_since().is_none() && !executors.has_homeless());
        executors.insert(ExecutorId(2), at("b", None, true));
        assert!(executors.has_homeless());
        let since = executors.running_since();
        assert!(since.is_some());
        let before = executors.insert(ExecutorId(2), at("c", Some("10.0.0.2"), true));
        assert_eq!(before, Some(at("b", None, true)));
        assert_eq!(executors.running_since(), since, "one takes the other's place");
        assert!(!executors.has_homeless());
        assert_eq!(executors.remove(ExecutorId(2), &Uid::from("b")), None);
        assert_eq!(executors.len(), 2);
        assert!(executors.remove(ExecutorId(2), &Uid::from("c")).is_some());
        assert!(executors.running_since().is_none());
        assert_eq!(executors.clear(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(executors.len(), 0);
    }
}
