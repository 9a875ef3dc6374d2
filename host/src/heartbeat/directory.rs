//! Who may be heard: fleets by name, application and Graphite head; their executors' pods; tokens.
//!
//! It is closed until this host leads: then nobody may be heard, and who speaks is turned away.
//!
//! Written by the daemon's loop with every pod event, read with every heartbeat. A reader takes the
//! fleet's entry out of the map with one short read lock and then works on an immutable entry; only the
//! executors change under a lock of their own. Rejected: one lock around everything, because a thousand
//! pod events in a mass loss would then stop the hearing just when it matters.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fleet::id::{ExecutorId, Uid};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What the daemon says about a fleet.
#[derive(Clone, Debug, Default)]
pub struct FleetEntry {
    /// Never the same twice: what was said in an earlier life, and is still on its way, is nobody's.
    pub life: u64,
    /// Spark's application id, and so the first part of its metrics' names (`spark.metrics.namespace`).
    pub application_id: String,
    /// `spark.metrics.conf.executor.sink.graphite.prefix`, where it is set.
    pub graphite_prefix: Option<String>,
    /// Metrics that policies want beside the known ones, by their Graphite names without the head
    /// (`jvm.pools.G1-Old-Gen.usage`). Columns have the same name. At most [`EXTRA_COLUMNS_MAX`].
    pub extra_columns: Vec<String>,
    /// A bearer token that may speak for every executor of the fleet.
    pub token: Option<Secret>,
    pub driver: Option<DriverEntry>,
    /// Graphite lines about an executor are only taken from its pod's IP. Off where a relay or NAT is
    /// between.
    pub check_peer: bool,
}

impl FleetEntry {
    /// What its metrics' names begin with, before the executor id.
    fn head(&self) -> String {
        match &self.graphite_prefix {
            Some(prefix) => format!("{prefix}.{}", self.application_id),
            None => self.application_id.clone(),
        }
    }
}

/// Where the driver's REST API is, and how often it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverEntry {
    /// The driver's pod IP and the port of its UI (`spark.ui.port`, 4040).
    pub address: SocketAddr,
    pub interval_ms: u64,
    /// It may be on this machine: for tests and demonstrations.
    pub loopback: bool,
}

/// The pod that is the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorEntry {
    pub uid: Uid,
    /// `status.podIP`, once it has one.
    pub pod_ip: Option<IpAddr>,
}

/// A token, of which only the digest is kept: comparing digests in constant time says nothing about the
/// token, not even its length.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    pub fn new(token: &str) -> Secret {
        Secret(Sha256::digest(token).into())
    }

    pub(super) fn matches(&self, other: &Secret) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A fleet was not taken; what the directory knew before stays.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    #[error("{field}: {value:?} must be 1 to {NAME_MAX} of `A-Z a-z 0-9 . _ -`, and not only dots")]
    Name { field: &'static str, value: String },
    #[error("applicationId: {head:?} is already that of fleet {fleet}; an application has one fleet")]
    Taken { head: String, fleet: Arc<str> },
    #[error("columns: {count} beside the known ones; at most {EXTRA_COLUMNS_MAX}")]
    Columns { count: usize },
}

/// Columns of a fleet beside the known ones: more than policies can use; each costs 8 bytes for each executor.
pub const EXTRA_COLUMNS_MAX: usize = 64;
/// Bytes of an application id, a prefix or a column's name.
pub const NAME_MAX: usize = 253;

#[derive(Debug, Default)]
pub struct Directory(RwLock<Maps>);

#[derive(Debug, Default)]
struct Maps {
    open: bool,
    fleets: HashMap<Arc<str>, Arc<Fleet>>,
    applications: HashMap<Box<str>, Arc<Fleet>>,
    /// `<prefix>.<application id>`, or without prefix the application id alone.
    heads: HashMap<Box<[u8]>, Arc<Fleet>>,
    /// The longest head, in bytes: what comes after it need not be searched for one.
    head_max: usize,
}

/// A fleet as the witnesses see it.
#[derive(Debug)]
pub struct Fleet {
    pub name: Arc<str>,
    pub entry: FleetEntry,
    pub(super) columns: Columns,
    /// Outlives the entry when it is replaced.
    executors: Arc<RwLock<HashMap<ExecutorId, ExecutorEntry>>>,
}

impl Fleet {
    pub fn executor(&self, id: ExecutorId) -> Option<ExecutorEntry> {
        read(&self.executors).get(&id).cloned()
    }

    /// Is this the fleet's own token?
    pub(super) fn trusts(&self, token: &Secret) -> bool {
        self.entry.token.as_ref().is_some_and(|own| own.matches(token))
    }
}

impl Directory {
    pub fn open(&self) {
        write(&self.0).open = true;
    }

    pub fn close(&self) {
        write(&self.0).open = false;
    }

    pub fn is_open(&self) -> bool {
        read(&self.0).open
    }

    /// Adds a fleet or replaces what is known of it. Its executors stay, unless the application is another.
    pub fn set_fleet(&self, name: &str, entry: FleetEntry) -> Result<(), DirectoryError> {
        check_name("applicationId", &entry.application_id)?;
        if let Some(prefix) = &entry.graphite_prefix {
            check_name("graphitePrefix", prefix)?;
        }
        if entry.extra_columns.len() > EXTRA_COLUMNS_MAX {
            return Err(DirectoryError::Columns { count: entry.extra_columns.len() });
        }
        for column in &entry.extra_columns {
            check_name("columns", column)?;
        }
        let mut maps = write(&self.0);
        let head = entry.head();
        let application = maps.applications.get(&*entry.application_id);
        for other in [application, maps.heads.get(head.as_bytes())].into_iter().flatten() {
            if *other.name != *name {
                return Err(DirectoryError::Taken { head, fleet: Arc::clone(&other.name) });
            }
        }
        let before =
            maps.fleets.get(name).filter(|before| before.entry.application_id == entry.application_id);
        let executors = before.map_or_else(Arc::default, |before| Arc::clone(&before.executors));
        let columns = Columns::new(&entry.extra_columns);
        let fleet = Arc::new(Fleet { name: name.into(), entry, columns, executors });
        maps.fleets.insert(Arc::clone(&fleet.name), fleet);
        maps.index();
        Ok(())
    }

    pub fn remove_fleet(&self, name: &str) {
        let mut maps = write(&self.0);
        maps.fleets.remove(name);
        maps.index();
    }

    /// The pod that an executor is now. Nothing happens where the fleet is not known.
    pub fn set_executor(&self, fleet: &str, id: ExecutorId, entry: ExecutorEntry) {
        if let Some(fleet) = self.fleet(fleet) {
            write(&fleet.executors).insert(id, entry);
        }
    }

    /// The pod is gone. One that has taken its place meanwhile stays.
    pub fn remove_executor(&self, fleet: &str, id: ExecutorId, uid: &Uid) {
        if let Some(fleet) = self.fleet(fleet) {
            let mut executors = write(&fleet.executors);
            if executors.get(&id).is_some_and(|entry| entry.uid == *uid) {
                executors.remove(&id);
            }
        }
    }

    pub fn fleet(&self, name: &str) -> Option<Arc<Fleet>> {
        read(&self.0).fleets.get(name).cloned()
    }

    pub fn application(&self, id: &str) -> Option<Arc<Fleet>> {
        read(&self.0).applications.get(id).cloned()
    }

    /// All fleets, in no order.
    pub fn fleets(&self) -> Vec<Arc<Fleet>> {
        read(&self.0).fleets.values().cloned().collect()
    }

    /// Whose Graphite metric this is: the fleet, and the length of its head. Prefix and application id may
    /// have dots themselves, so every part is tried that ends at a dot, up to the longest head there is.
    /// Of two the longer wins.
    pub(super) fn head(&self, name: &[u8]) -> Option<(Arc<Fleet>, usize)> {
        let maps = read(&self.0);
        let searched = &name[..name.len().min(maps.head_max + 1)];
        let mut ends = (0..searched.len()).rev().filter(|&at| searched[at] == b'.');
        ends.find_map(|end| maps.heads.get(&name[..end]).map(|fleet| (Arc::clone(fleet), end)))
    }
}

impl Maps {
    /// Builds what follows from `fleets`: there are few, and they seldom change.
    fn index(&mut self) {
        self.applications.clear();
        self.heads.clear();
        for fleet in self.fleets.values() {
            self.applications.insert(fleet.entry.application_id.as_str().into(), Arc::clone(fleet));
            self.heads.insert(fleet.entry.head().into_bytes().into(), Arc::clone(fleet));
        }
        self.head_max = self.heads.keys().map(|head| head.len()).max().unwrap_or(0);
    }
}

/// Which metrics are kept, and what policies call them.
#[derive(Debug)]
pub(super) struct Columns {
    graphite: HashMap<Box<[u8]>, usize>,
    pub names: Vec<Box<str>>,
}

impl Columns {
    fn new(extra: &[String]) -> Columns {
        let mut columns = Columns { graphite: HashMap::new(), names: Vec::new() };
        for name in KNOWN {
            columns.add(name, column_name(name));
        }
        for name in extra {
            columns.add(name, name);
        }
        columns
    }

    fn add(&mut self, graphite: &str, column: &str) {
        if !self.graphite.contains_key(graphite.as_bytes()) {
            self.graphite.insert(graphite.as_bytes().into(), self.names.len());
            self.names.push(column.into());
        }
    }

    /// The place of a Graphite metric among `names`.
    pub fn of_graphite(&self, name: &[u8]) -> Option<usize> {
        self.graphite.get(name).copied()
    }

    pub fn contains(&self, column: &str) -> bool {
        self.names.iter().any(|name| **name == *column)
    }
}

/// `ExecutorMetrics.JVMHeapMemory` is `JVMHeapMemory`, `executor.runTime.count` is `runTime`: as Spark
/// calls them elsewhere.
fn column_name(graphite: &str) -> &str {
    let name = graphite.strip_prefix("ExecutorMetrics.").or_else(|| graphite.strip_prefix("executor."));
    let name = name.unwrap_or(graphite);
    name.strip_suffix(".count").unwrap_or(name)
}

/// What Spark 4.3 says about an executor and a policy could want to know. `jvm.` needs the JvmSource.
const KNOWN: [&str; 46] = [
    "ExecutorMetrics.ConcurrentGCCount",
    "ExecutorMetrics.ConcurrentGCTime",
    "ExecutorMetrics.DirectPoolMemory",
    "ExecutorMetrics.JVMHeapMemory",
    "ExecutorMetrics.JVMOffHeapMemory",
    "ExecutorMetrics.MajorGCCount",
    "ExecutorMetrics.MajorGCTime",
    "ExecutorMetrics.MappedPoolMemory",
    "ExecutorMetrics.MinorGCCount",
    "ExecutorMetrics.MinorGCTime",
    "ExecutorMetrics.OffHeapExecutionMemory",
    "ExecutorMetrics.OffHeapStorageMemory",
    "ExecutorMetrics.OffHeapUnifiedMemory",
    "ExecutorMetrics.OnHeapExecutionMemory",
    "ExecutorMetrics.OnHeapStorageMemory",
    "ExecutorMetrics.OnHeapUnifiedMemory",
    "ExecutorMetrics.ProcessTreeJVMRSSMemory",
    "ExecutorMetrics.ProcessTreeJVMVMemory",
    "ExecutorMetrics.ProcessTreeOtherRSSMemory",
    "ExecutorMetrics.ProcessTreeOtherVMemory",
    "ExecutorMetrics.ProcessTreePythonRSSMemory",
    "ExecutorMetrics.ProcessTreePythonVMemory",
    "ExecutorMetrics.TotalGCTime",
    "JVMCPU.jvmCpuTime",
    "executor.bytesRead.count",
    "executor.bytesWritten.count",
    "executor.cpuTime.count",
    "executor.deserializeTime.count",
    "executor.diskBytesSpilled.count",
    "executor.jvmGCTime.count",
    "executor.memoryBytesSpilled.count",
    "executor.resultSize.count",
    "executor.runTime.count",
    "executor.shuffleBytesWritten.count",
    "executor.shuffleFetchWaitTime.count",
    "executor.shuffleTotalBytesRead.count",
    "executor.shuffleWriteTime.count",
    "executor.succeededTasks.count",
    "executor.threadpool.activeTasks",
    "executor.threadpool.completeTasks",
    "executor.threadpool.currentPool_size",
    "executor.threadpool.startedTasks",
    "jvm.heap.max",
    "jvm.heap.usage",
    "jvm.heap.used",
    "jvm.non-heap.used",
];

/// Can this be an application id, a prefix or a column's name?
pub fn is_name(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    // Only dots would be a step up in a URL.
    let dots = value.bytes().all(|byte| byte == b'.');
    !dots && value.len() <= NAME_MAX && value.bytes().all(plain)
}

fn check_name(field: &'static str, value: &str) -> Result<(), DirectoryError> {
    let refused = || DirectoryError::Name { field, value: value.chars().take(NAME_MAX).collect() };
    is_name(value).then_some(()).ok_or_else(refused)
}

// What is behind these locks is whole after every statement, so a panic elsewhere does not spoil it.

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(application: &str, prefix: Option<&str>) -> FleetEntry {
        FleetEntry {
            application_id: application.to_owned(),
            graphite_prefix: prefix.map(str::to_owned),
            ..FleetEntry::default()
        }
    }

    fn head(directory: &Directory, name: &str) -> Option<(String, usize)> {
        directory.head(name.as_bytes()).map(|(fleet, end)| (fleet.name.to_string(), end))
    }

    #[test]
    fn a_metric_belongs_to_the_fleet_with_the_longest_head() {
        let directory = Directory::default();
        directory.set_fleet("plain", entry("spark-1", None)).unwrap();
        directory.set_fleet("dotted", entry("a.b", Some("team.x"))).unwrap();
        directory.set_fleet("inner", entry("spark-1.7", None)).unwrap();
        assert_eq!(head(&directory, "spark-1.3.executor.runTime"), Some(("plain".to_owned(), 7)));
        assert_eq!(head(&directory, "team.x.a.b.3.executor"), Some(("dotted".to_owned(), 10)));
        assert_eq!(head(&directory, "spark-1.7.3.executor"), Some(("inner".to_owned(), 9)));
        for name in ["a.b.3.executor", "spark-1", "spark-12.3.x", "x.spark-1.3.y", "", ".", "...."] {
            assert_eq!(head(&directory, name), None, "{name}");
        }
        directory.remove_fleet("dotted");
        assert_eq!(head(&directory, "team.x.a.b.3.executor"), None);
    }

    #[test]
    fn executors_outlive_a_new_entry_but_not_a_new_application() {
        let directory = Directory::default();
        let one = ExecutorEntry { uid: Uid::from("u1"), pod_ip: None };
        directory.set_fleet("f", entry("spark-1", None)).unwrap();
        directory.set_executor("f", ExecutorId(1), one.clone());
        directory.set_fleet("f", entry("spark-1", Some("p"))).unwrap();
        assert_eq!(directory.fleet("f").unwrap().executor(ExecutorId(1)), Some(one));
        // The deletion of a pod that was replaced under the same id says nothing about the new one.
        directory.remove_executor("f", ExecutorId(1), &Uid::from("u0"));
        assert!(directory.application("spark-1").unwrap().executor(ExecutorId(1)).is_some());
        directory.remove_executor("f", ExecutorId(1), &Uid::from("u1"));
        assert_eq!(directory.fleet("f").unwrap().executor(ExecutorId(1)), None);
        directory.set_executor("f", ExecutorId(2), ExecutorEntry { uid: Uid::from("u2"), pod_ip: None });
        directory.set_fleet("f", entry("spark-2", None)).unwrap();
        assert_eq!(directory.fleet("f").unwrap().executor(ExecutorId(2)), None);
        assert!(directory.application("spark-1").is_none());
    }

    #[test]
    fn a_bad_entry_is_refused_and_the_old_one_stays() {
        let directory = Directory::default();
        directory.set_fleet("f", entry("spark-1", None)).unwrap();
        for bad in ["", "..", "a/b", "a b", "a\nb", &"x".repeat(NAME_MAX + 1)] {
            assert!(matches!(directory.set_fleet("f", entry(bad, None)), Err(DirectoryError::Name { .. })));
            assert!(directory.set_fleet("f", entry("spark-1", Some(bad))).is_err());
        }
        let taken = directory.set_fleet("g", entry("spark-1", None));
        assert_eq!(taken, Err(DirectoryError::Taken { head: "spark-1".to_owned(), fleet: "f".into() }));
        directory.set_fleet("g", entry("b.c", Some("a"))).unwrap();
        assert!(
            directory.set_fleet("h", entry("c", Some("a.b"))).is_err(),
            "metrics of both begin with a.b.c"
        );
        let many = vec!["jvm.x".to_owned(); EXTRA_COLUMNS_MAX + 1];
        let many = FleetEntry { extra_columns: many, ..entry("spark-1", None) };
        assert_eq!(directory.set_fleet("f", many), Err(DirectoryError::Columns { count: 65 }));
        assert!(directory.application("spark-1").is_some());
    }

    #[test]
    fn a_secret_is_compared_and_not_shown() {
        let secret = Secret::new("s3cret");
        assert!(secret.matches(&Secret::new("s3cret")));
        assert!(!secret.matches(&Secret::new("s3cre")));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn known_columns_have_names_of_their_own() {
        let columns = Columns::new(&["jvm.heap.used".to_owned(), "jvm.x".to_owned()]);
        assert_eq!(columns.names.len(), KNOWN.len() + 1);
        let mut names: Vec<_> = columns.names.iter().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), columns.names.len(), "two metrics share a column");
        let of = |name: &str| columns.of_graphite(name.as_bytes()).map(|place| &*columns.names[place]);
        assert_eq!(of("executor.succeededTasks.count"), Some("succeededTasks"));
        assert_eq!(of("ExecutorMetrics.JVMHeapMemory"), Some("JVMHeapMemory"));
        assert_eq!(of("jvm.x"), Some("jvm.x"));
        assert_eq!(of("succeededTasks"), None);
    }
}
