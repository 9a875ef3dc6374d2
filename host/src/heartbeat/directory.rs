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
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fleet::id::{ExecutorId, Uid};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

pub use self::executors::ExecutorEntry;
use self::executors::Executors;
use super::names::{self, NAME_MAX, is_name};
use super::notes::{Notes, Overheard, Why};

mod executors;

/// What the daemon says about a fleet.
#[derive(Clone, Debug, Default)]
pub struct FleetEntry {
    /// Never the same twice: what was said in an earlier life, and is still on its way, is nobody's.
    pub life: u64,
    /// Spark's application id. Metrics' names begin with it, unless there is a namespace.
    pub application_id: String,
    /// `spark.metrics.namespace`, where it is set. Not unique: executors of several applications may have it.
    pub metrics_namespace: Option<String>,
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
    pub fn head(&self) -> String {
        names::head(self.graphite_prefix.as_deref(), self.namespace())
    }

    /// What stands for the application in its metrics' names.
    pub fn namespace(&self) -> &str {
        self.metrics_namespace.as_deref().unwrap_or(&self.application_id)
    }
}

/// Where the driver's REST API is, and how often it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverEntry {
    /// The driver's pod IP and the port of its UI (`spark.ui.port`, 4040).
    pub address: SocketAddr,
    pub interval_ms: u64,
    /// It may be on this machine: for tests and demonstrations.
    pub loopback: bool,
    /// `None`: it is asked in clear.
    pub tls: Option<DriverTls>,
    /// A file with a bearer token that it wants to see.
    pub token_file: Option<PathBuf>,
}

/// How a driver proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverTls {
    /// PEM: who may vouch for it, or its own certificate.
    pub ca_file: PathBuf,
    /// The name that its certificate is for. `None`: the address of its pod.
    pub server_name: Option<String>,
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
    #[error(
        "applicationId: {application_id:?} is already that of fleet {fleet}; an application has one fleet"
    )]
    Taken { application_id: String, fleet: Arc<str> },
    #[error("metricsNamespace: {value:?} must be 1 to {NAME_MAX} bytes that are not all white space")]
    Namespace { value: String },
    #[error(
        "metrics of fleet {fleet} begin with {head:?} as well, and one of the two takes them from any address: {SHARED_REMEDY}"
    )]
    Shared { head: String, fleet: Arc<str> },
    #[error("columns: {count} beside the known ones; at most {EXTRA_COLUMNS_MAX}")]
    Columns { count: usize },
}

/// Where two fleets have the same names.
pub const SHARED_REMEDY: &str = "leave heartbeat.checkPeer: true in both, so that their pods' addresses tell them \
                                 apart, or give one application another spark.metrics.namespace or sink prefix";

/// Columns of a fleet beside the known ones: more than policies can use; each costs 8 bytes for each executor.
pub const EXTRA_COLUMNS_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Directory {
    maps: RwLock<Maps>,
    /// What was heard that belongs to no fleet.
    pub overheard: Overheard,
}

#[derive(Debug, Default)]
struct Maps {
    open: bool,
    fleets: HashMap<Arc<str>, Arc<Fleet>>,
    applications: HashMap<Box<str>, Arc<Fleet>>,
    /// By [`FleetEntry::head`]; in order of their names, where several have the same.
    heads: HashMap<Box<[u8]>, Arc<[Arc<Fleet>]>>,
    /// The longest head, in bytes: what comes after it need not be searched for one.
    head_max: usize,
}

/// A fleet as the witnesses see it.
#[derive(Debug)]
pub struct Fleet {
    pub name: Arc<str>,
    pub entry: FleetEntry,
    pub(super) columns: Columns,
    // These two outlive the entry when it is replaced.
    executors: Arc<RwLock<Executors>>,
    pub notes: Arc<Notes>,
}

impl Fleet {
    pub fn executor(&self, id: ExecutorId) -> Option<ExecutorEntry> {
        read(&self.executors).get(id).cloned()
    }

    /// Since when one of its pods runs. `None`: none does.
    pub fn running_since(&self) -> Option<Instant> {
        read(&self.executors).running_since()
    }

    /// Is it an address of one of its pods?
    fn is_at(&self, ip: IpAddr) -> bool {
        read(&self.executors).are_at(ip)
    }

    /// Is this the fleet's own token?
    pub(super) fn trusts(&self, token: &Secret) -> bool {
        self.entry.token.as_ref().is_some_and(|own| own.matches(token))
    }
}

impl Directory {
    pub fn open(&self) {
        write(&self.maps).open = true;
    }

    pub fn close(&self) {
        write(&self.maps).open = false;
    }

    pub fn is_open(&self) -> bool {
        read(&self.maps).open
    }

    /// Adds a fleet or replaces what is known of it. Its executors stay, unless the application is another.
    pub fn set_fleet(&self, name: &str, entry: FleetEntry) -> Result<(), DirectoryError> {
        check_name("applicationId", &entry.application_id)?;
        if let Some(prefix) = &entry.graphite_prefix {
            check_name("graphitePrefix", prefix)?;
        }
        if let Some(value) = entry.metrics_namespace.as_ref().filter(|value| !names::is_namespace(value)) {
            return Err(DirectoryError::Namespace { value: value.chars().take(NAME_MAX).collect() });
        }
        if entry.extra_columns.len() > EXTRA_COLUMNS_MAX {
            return Err(DirectoryError::Columns { count: entry.extra_columns.len() });
        }
        for column in &entry.extra_columns {
            check_name("columns", column)?;
        }
        let mut maps = write(&self.maps);
        let head = entry.head();
        let application = maps.applications.get(&*entry.application_id);
        if let Some(other) = application.filter(|other| *other.name != *name) {
            let (application_id, fleet) = (entry.application_id, Arc::clone(&other.name));
            return Err(DirectoryError::Taken { application_id, fleet });
        }
        let sharing = maps.heads.get(head.as_bytes()).map_or(&[][..], |fleets| fleets);
        let mut others = sharing.iter().filter(|other| *other.name != *name);
        if let Some(other) = others.find(|other| !(other.entry.check_peer && entry.check_peer)) {
            return Err(DirectoryError::Shared { head, fleet: Arc::clone(&other.name) });
        }
        let before =
            maps.fleets.get(name).filter(|before| before.entry.application_id == entry.application_id);
        let executors = before.map_or_else(Arc::default, |before| Arc::clone(&before.executors));
        let notes = before.map_or_else(Arc::default, |before| Arc::clone(&before.notes));
        let columns = Columns::new(&entry.extra_columns);
        let fleet = Arc::new(Fleet { name: name.into(), entry, columns, executors, notes });
        maps.fleets.insert(Arc::clone(&fleet.name), fleet);
        maps.index();
        Ok(())
    }

    pub fn remove_fleet(&self, name: &str) {
        let mut maps = write(&self.maps);
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
            if executors.get(id).is_some_and(|entry| entry.uid == *uid) {
                executors.remove(id);
            }
        }
    }

    pub fn fleet(&self, name: &str) -> Option<Arc<Fleet>> {
        read(&self.maps).fleets.get(name).cloned()
    }

    pub fn application(&self, id: &str) -> Option<Arc<Fleet>> {
        read(&self.maps).applications.get(id).cloned()
    }

    /// All fleets, in no order.
    pub fn fleets(&self) -> Vec<Arc<Fleet>> {
        read(&self.maps).fleets.values().cloned().collect()
    }

    /// Whose Graphite metric this is: the fleets with such names, the length of their head, and what `whose` says
    /// of the rest. Prefix and namespace may have dots themselves, so every part is tried that ends at a dot, up to
    /// the longest head there is. Of two that `whose` understands the longer wins.
    pub(super) fn of_name<T>(&self, name: &[u8], whose: impl Fn(&[u8]) -> Option<T>) -> Found<T> {
        let maps = read(&self.maps);
        let searched = &name[..name.len().min(maps.head_max + 1)];
        let mut found = Found::Nothing;
        for end in (0..searched.len()).rev().filter(|&at| searched[at] == b'.') {
            let Some(fleets) = maps.heads.get(&name[..end]) else { continue };
            match whose(&name[end + 1..]) {
                Some(whose) => return Found::Of(Arc::clone(fleets), end, whose),
                None => found = Found::HeadAlone,
            }
        }
        found
    }

    /// Notes it with every fleet that has a pod at this address. Whether there is one.
    pub(super) fn trouble_of(&self, peer: IpAddr, why: &Why, now: Instant) -> bool {
        let maps = read(&self.maps);
        let concerned = maps.fleets.values().filter(|fleet| fleet.is_at(peer));
        concerned.map(|fleet| fleet.notes.trouble(why.clone(), peer, now)).count() > 0
    }
}

/// What a metric's name says about whose it is.
#[derive(Debug)]
pub(super) enum Found<T> {
    Of(Arc<[Arc<Fleet>]>, usize, T),
    /// It begins as a fleet's names do, and does not go on like them.
    HeadAlone,
    Nothing,
}

impl Maps {
    /// Builds what follows from `fleets`: there are few, and they seldom change.
    fn index(&mut self) {
        self.applications.clear();
        let mut heads: HashMap<Box<[u8]>, Vec<Arc<Fleet>>> = HashMap::new();
        for fleet in self.fleets.values() {
            self.applications.insert(fleet.entry.application_id.as_str().into(), Arc::clone(fleet));
            heads.entry(fleet.entry.head().into_bytes().into()).or_default().push(Arc::clone(fleet));
        }
        let sorted = |mut fleets: Vec<Arc<Fleet>>| {
            fleets.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            fleets.into()
        };
        self.heads = heads.into_iter().map(|(head, fleets)| (head, sorted(fleets))).collect();
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
        match directory.of_name(name.as_bytes(), |rest| (!rest.starts_with(b"executor")).then_some(())) {
            Found::Of(fleets, end, ()) => {
                let names: Vec<&str> = fleets.iter().map(|fleet| &*fleet.name).collect();
                Some((names.join(" "), end))
            }
            Found::HeadAlone | Found::Nothing => None,
        }
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
        let one = ExecutorEntry { uid: Uid::from("u1"), pod_ip: None, runs: false };
        directory.set_fleet("f", entry("spark-1", None)).unwrap();
        directory.set_executor("f", ExecutorId(1), one.clone());
        directory.set_fleet("f", entry("spark-1", Some("p"))).unwrap();
        assert_eq!(directory.fleet("f").unwrap().executor(ExecutorId(1)), Some(one));
        // The deletion of a pod that was replaced under the same id says nothing about the new one.
        directory.remove_executor("f", ExecutorId(1), &Uid::from("u0"));
        assert!(directory.application("spark-1").unwrap().executor(ExecutorId(1)).is_some());
        directory.remove_executor("f", ExecutorId(1), &Uid::from("u1"));
        assert_eq!(directory.fleet("f").unwrap().executor(ExecutorId(1)), None);
        let two = ExecutorEntry { uid: Uid::from("u2"), pod_ip: None, runs: false };
        directory.set_executor("f", ExecutorId(2), two);
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
        let application_id = "spark-1".to_owned();
        assert_eq!(taken, Err(DirectoryError::Taken { application_id, fleet: "f".into() }));
        directory.set_fleet("g", entry("b.c", Some("a"))).unwrap();
        let shared = directory.set_fleet("h", entry("c", Some("a.b")));
        assert_eq!(shared, Err(DirectoryError::Shared { head: "a.b.c".to_owned(), fleet: "g".into() }));
        let many = vec!["jvm.x".to_owned(); EXTRA_COLUMNS_MAX + 1];
        let many = FleetEntry { extra_columns: many, ..entry("spark-1", None) };
        assert_eq!(directory.set_fleet("f", many), Err(DirectoryError::Columns { count: 65 }));
        assert!(directory.application("spark-1").is_some());
    }

    #[test]
    fn fleets_share_a_namespace_only_where_addresses_tell_them_apart() {
        let directory = Directory::default();
        let named = |application: &str, check_peer| FleetEntry {
            metrics_namespace: Some("Daily import".to_owned()),
            check_peer,
            ..entry(application, None)
        };
        directory.set_fleet("b", named("spark-1", true)).unwrap();
        directory.set_fleet("a", named("spark-2", true)).unwrap();
        assert_eq!(head(&directory, "Daily-import.7.executor.runTime"), Some(("a b".to_owned(), 12)));
        // The application's id is not what its names begin with.
        assert_eq!(head(&directory, "spark-1.7.executor.runTime"), None);
        let refused = directory.set_fleet("c", named("spark-3", false)).unwrap_err().to_string();
        assert!(refused.contains("fleet a begin with \"Daily-import\" as well"), "{refused}");
        assert!(directory.set_fleet("a", named("spark-2", false)).is_err(), "b is there");
        directory.remove_fleet("b");
        directory.set_fleet("a", named("spark-2", false)).unwrap();
        assert!(directory.set_fleet("b", named("spark-1", true)).is_err(), "any address may speak for a");
    }

    #[test]
    fn a_shorter_head_wins_where_the_longer_is_none() {
        let directory = Directory::default();
        directory.set_fleet("short", entry("etl", None)).unwrap();
        directory.set_fleet("long", entry("etl.7", None)).unwrap();
        assert_eq!(head(&directory, "etl.7.executor.runTime"), Some(("short".to_owned(), 3)));
        assert_eq!(head(&directory, "etl.7.1.executor.runTime"), Some(("long".to_owned(), 5)));
        assert!(matches!(directory.of_name(b"etl.x", |_| None::<()>), Found::HeadAlone));
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
