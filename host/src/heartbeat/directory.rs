//! Whose heartbeats are accepted: fleets by name, application and Graphite head; their executors' pods; tokens.
//!
//! A name is only a claim: a user who may label a driver's pod may give it the name of another application. So pods
//! take precedence over names. Where a fleet's pods are checked, the sender is identified by the address of a pod in
//! the view; the name only has to match. If two fleets claim what only one of them can have, the better [`Claim`] wins.
//!
//! Until this replica leads, the directory is closed: all heartbeats are rejected.
//!
//! The daemon's loop writes it with every pod event; every heartbeat reads it. A reader takes the fleet's entry out of
//! the map under one short read lock and then works on an immutable entry; only the executors change under a lock of
//! their own. Rejected: one lock around everything, because a thousand pod events in a mass loss would then block
//! heartbeats at the worst moment.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fleet::id::{ExecutorId, IdRange, Uid};
pub use fleet::identity::{Claim, Contest, Identity, SHARED_REMEDY};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use self::addresses::Addresses;
pub use self::addresses::Pods;
pub use self::columns::Columns;
pub use self::executors::ExecutorEntry;
use self::executors::Executors;
use super::names::{self, NAME_MAX, is_name};
use super::notes::{Notes, Overheard, Why};

mod addresses;
mod columns;
mod executors;

/// What the daemon publishes about a fleet.
#[derive(Clone, Debug, Default)]
pub struct FleetEntry {
    /// Unique per fleet instance, so that in-flight messages for an earlier instance are discarded.
    pub life: u64,
    /// The Kubernetes namespace of its pods. Application ids are unique within a namespace.
    pub pods_namespace: String,
    /// How strong its claim to the id and the head is.
    pub claim: Claim,
    /// Spark's application id. Metric names begin with it, unless `spark.metrics.namespace` is set. Any user may label
    /// a driver with it, so another namespace may have the same.
    pub application_id: String,
    /// The ids of its executors. Another fleet of the application may have others.
    pub ids: IdRange,
    /// `spark.metrics.namespace`, if set. Not unique: executors of several applications may have it.
    pub metrics_namespace: Option<String>,
    /// `spark.metrics.conf.executor.sink.graphite.prefix`, if set.
    pub graphite_prefix: Option<String>,
    /// Metrics that policies need beside the known ones, by their Graphite names without the head
    /// (`jvm.pools.G1-Old-Gen.usage`). Columns have the same name. At most [`EXTRA_COLUMNS_MAX`].
    pub extra_columns: Vec<String>,
    /// A bearer token that is valid for every executor of the fleet.
    pub token: Option<Secret>,
    pub driver: Option<DriverEntry>,
    /// Accept Graphite lines about an executor only from its pod's IP. Off if there is a relay or NAT in between.
    pub check_peer: bool,
}

impl FleetEntry {
    /// The beginning of its metric names, before the executor id.
    pub fn head(&self) -> String {
        names::head(self.graphite_prefix.as_deref(), self.namespace())
    }

    pub fn identity(&self) -> Identity {
        Identity {
            namespace: self.pods_namespace.clone(),
            application_id: self.application_id.clone(),
            ids: self.ids,
            head: self.head(),
            check_peer: self.check_peer,
        }
    }

    /// The part of its metric names that identifies the application.
    pub fn namespace(&self) -> &str {
        self.metrics_namespace.as_deref().unwrap_or(&self.application_id)
    }
}

/// Where the driver's REST API is, and how often it is polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverEntry {
    /// The driver's pod IP and the port of its UI (`spark.ui.port`, 4040).
    pub address: SocketAddr,
    pub interval_ms: u64,
    /// Allow loopback addresses: for tests and demonstrations.
    pub loopback: bool,
    /// `None`: plain HTTP.
    pub tls: Option<DriverTls>,
    /// A file with the bearer token that the driver requires.
    pub token_file: Option<PathBuf>,
}

/// How the driver is authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverTls {
    /// PEM: the trusted certificate authorities, or the driver's own certificate.
    pub ca_file: PathBuf,
    /// The server name to verify. `None`: the address of the driver's pod.
    pub server_name: Option<String>,
}

/// A token, of which only the digest is stored: comparing digests in constant time reveals nothing about the token, not
/// even its length. `==` is for trusted values on both sides; compare values from outside with `matches`.
#[derive(Clone, PartialEq, Eq)]
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

/// A fleet was rejected; the directory is unchanged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    #[error("{field}: {value:?} must be 1 to {NAME_MAX} of `A-Z a-z 0-9 . _ -`, and not only dots")]
    Name { field: &'static str, value: String },
    #[error("metricsNamespace: {value:?} must be 1 to {NAME_MAX} bytes that are not all white space")]
    Namespace { value: String },
    #[error("{0}")]
    Contested(Contest),
    #[error("columns: {count} beside the known ones; at most {EXTRA_COLUMNS_MAX}")]
    Columns { count: usize },
}

/// Maximum columns of a fleet beside the known ones: more than policies can use; each costs 8 bytes per executor.
pub const EXTRA_COLUMNS_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Directory {
    maps: RwLock<Maps>,
    /// Changes with pods, and so has a lock of its own.
    addresses: RwLock<Addresses>,
    /// Notes on what was received and belongs to no fleet.
    pub overheard: Overheard,
}

#[derive(Debug, Default)]
struct Maps {
    open: bool,
    fleets: HashMap<Arc<str>, Arc<Fleet>>,
    /// The best claim first.
    applications: HashMap<Box<str>, Arc<[Arc<Fleet>]>>,
    /// By what follows the namespace in the fleet's name, as `applications`.
    called: HashMap<Box<str>, Arc<[Arc<Fleet>]>>,
    /// By [`FleetEntry::head`]; several fleets with the same head are in order of their names.
    heads: HashMap<Box<[u8]>, Arc<[Arc<Fleet>]>>,
    /// Lengths of heads in bytes, without duplicates, the longest first: a name is only looked up where a head could
    /// end.
    lengths: Vec<usize>,
}

/// A fleet as the heartbeat sources see it.
#[derive(Debug)]
pub struct Fleet {
    pub name: Arc<str>,
    pub entry: FleetEntry,
    /// [`FleetEntry::head`].
    pub(super) head: Box<[u8]>,
    pub(super) columns: Arc<Columns>,
    // These two outlive the entry when it is replaced.
    executors: Arc<RwLock<Executors>>,
    pub notes: Arc<Notes>,
}

impl Fleet {
    pub fn executor(&self, id: ExecutorId) -> Option<ExecutorEntry> {
        read(&self.executors).get(id).cloned()
    }

    /// The time since which one of its pods has been running. `None`: no pod runs.
    pub fn running_since(&self) -> Option<Instant> {
        read(&self.executors).running_since()
    }

    /// The number of its pods in the view.
    pub fn pods(&self) -> usize {
        read(&self.executors).len()
    }

    /// Could one of its executors send from an address that is no pod's in the view?
    fn may_be_strange(&self) -> bool {
        !self.entry.check_peer || read(&self.executors).has_homeless()
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

    /// Is this a valid fleet, regardless of the other fleets?
    pub fn check(entry: &FleetEntry) -> Result<(), DirectoryError> {
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
        Ok(())
    }

    /// Adds a fleet or replaces its entry. Its executors stay, unless the application changed.
    pub fn set_fleet(&self, name: &str, entry: FleetEntry) -> Result<(), DirectoryError> {
        Directory::check(&entry)?;
        let mut maps = write(&self.maps);
        if let Some(contest) = maps.contest(name, &entry) {
            return Err(DirectoryError::Contested(contest));
        }
        let (mut executors, mut notes, mut columns) = (Arc::default(), Arc::default(), None);
        let known = maps.fleets.get(name).cloned();
        match known.filter(|known| known.entry.application_id == entry.application_id) {
            Some(before) => {
                (executors, notes) = (Arc::clone(&before.executors), Arc::clone(&before.notes));
                let same = before.entry.extra_columns == entry.extra_columns;
                columns = same.then(|| Arc::clone(&before.columns));
            }
            None => self.forget(&mut maps, name),
        }
        let columns = columns.unwrap_or_else(|| Arc::new(Columns::new(&entry.extra_columns)));
        let head = entry.head().into_bytes().into();
        let fleet = Arc::new(Fleet { name: name.into(), entry, head, columns, executors, notes });
        maps.fleets.insert(Arc::clone(&fleet.name), fleet);
        maps.index();
        Ok(())
    }

    pub fn remove_fleet(&self, name: &str) {
        let mut maps = write(&self.maps);
        self.forget(&mut maps, name);
        maps.index();
    }

    fn forget(&self, maps: &mut Maps, name: &str) {
        let Some(fleet) = maps.fleets.remove(name) else { return };
        // A reader that still holds the entry finds no executor in it.
        let were_at = write(&fleet.executors).clear();
        let mut addresses = write(&self.addresses);
        for ip in were_at {
            addresses.moved(&fleet.name, Some(ip), None);
        }
    }

    /// Sets the current pod of an executor. Does nothing if the fleet is unknown.
    pub fn set_executor(&self, fleet: &str, id: ExecutorId, entry: ExecutorEntry) {
        if let Some(fleet) = self.fleet(fleet) {
            let to = entry.address();
            let before = write(&fleet.executors).insert(id, entry);
            write(&self.addresses).moved(&fleet.name, before.and_then(|before| before.address()), to);
        }
    }

    /// Removes the pod. A newer pod of the same executor stays.
    pub fn remove_executor(&self, fleet: &str, id: ExecutorId, uid: &Uid) {
        let Some(fleet) = self.fleet(fleet) else { return };
        let gone = write(&fleet.executors).remove(id, uid);
        if let Some(gone) = gone {
            write(&self.addresses).moved(&fleet.name, gone.address(), None);
        }
    }

    pub fn fleet(&self, name: &str) -> Option<Arc<Fleet>> {
        read(&self.maps).fleets.get(name).cloned()
    }

    /// Every fleet with this application id. Of those that may have the executor there is at most one in a namespace:
    /// only the sender shows which one is meant.
    pub fn applications(&self, id: &str) -> Arc<[Arc<Fleet>]> {
        read(&self.maps).applications.get(id).cloned().unwrap_or_else(|| Arc::from([]))
    }

    /// Every fleet that is called so: `NAMESPACE/NAME`, or NAME, which is unique only within a namespace.
    pub fn called(&self, name: &str) -> Arc<[Arc<Fleet>]> {
        let maps = read(&self.maps);
        match maps.fleets.get(name) {
            Some(fleet) => Arc::from([Arc::clone(fleet)]),
            None => maps.called.get(name).cloned().unwrap_or_else(|| Arc::from([])),
        }
    }

    pub(super) fn has_pod_at(&self, ip: IpAddr) -> bool {
        !read(&self.addresses).at(ip).is_empty()
    }

    /// Is this a fleet's own token?
    pub(super) fn trusts(&self, token: &Secret) -> bool {
        read(&self.maps).fleets.values().any(|fleet| fleet.trusts(token))
    }

    /// All fleets, in no particular order.
    pub fn fleets(&self) -> Vec<Arc<Fleet>> {
        read(&self.maps).fleets.values().cloned().collect()
    }

    /// Fleets that have a pod at this address.
    pub(super) fn at(&self, ip: IpAddr) -> Vec<Arc<Fleet>> {
        let maps = read(&self.maps);
        let addresses = read(&self.addresses);
        addresses.at(ip).iter().filter_map(|pods| maps.fleets.get(&pods.fleet).cloned()).collect()
    }

    /// The same, by name and number of pods.
    pub(super) fn pods_at(&self, ip: IpAddr) -> Vec<Pods> {
        read(&self.addresses).at(ip).to_vec()
    }

    /// Fleets for which a message from this address may have been a heartbeat: those with a pod there. If there are
    /// none, those that accept heartbeats from any address, and those with a running pod whose address is not known
    /// yet.
    pub(super) fn concerned(&self, ip: IpAddr) -> Vec<Arc<Fleet>> {
        let here = self.at(ip);
        if !here.is_empty() {
            return here;
        }
        let maps = read(&self.maps);
        maps.fleets.values().filter(|fleet| fleet.may_be_strange()).cloned().collect()
    }

    /// Fleets whose head is a prefix of this name, the longest head first, and the length of the head. Spark's prefix
    /// and namespace may contain dots, so a name alone does not show where its head ends.
    pub(super) fn heads_of(&self, name: &[u8]) -> Vec<(usize, Arc<[Arc<Fleet>]>)> {
        let maps = read(&self.maps);
        let ends = maps.lengths.iter().copied().filter(|&end| name.get(end) == Some(&b'.'));
        ends.filter_map(|end| Some((end, Arc::clone(maps.heads.get(&name[..end])?)))).collect()
    }

    /// Records this note for every fleet that has a pod at this address, and returns these fleets.
    pub(super) fn trouble_of(&self, peer: IpAddr, why: &Why, now: Instant) -> Vec<Arc<Fleet>> {
        let here = self.at(peer);
        for fleet in &here {
            fleet.notes.trouble(why.clone(), peer, now);
        }
        here
    }
}

impl Maps {
    fn contest(&self, name: &str, entry: &FleetEntry) -> Option<Contest> {
        let identity = entry.identity();
        let mut others = self.fleets.values().filter(|other| *other.name != *name);
        others.find_map(|other| identity.contest(&other.name, &other.entry.identity()))
    }

    /// Rebuilds the indexes derived from `fleets`: there are few fleets, and they rarely change.
    fn index(&mut self) {
        let mut heads: HashMap<Box<[u8]>, Vec<Arc<Fleet>>> = HashMap::new();
        let mut applications: HashMap<Box<str>, Vec<Arc<Fleet>>> = HashMap::new();
        let mut called: HashMap<Box<str>, Vec<Arc<Fleet>>> = HashMap::new();
        for fleet in self.fleets.values() {
            let id = fleet.entry.application_id.as_str().into();
            applications.entry(id).or_default().push(Arc::clone(fleet));
            let name = fleet.name.rsplit('/').next().unwrap_or_default();
            called.entry(name.into()).or_default().push(Arc::clone(fleet));
            heads.entry(fleet.head.clone()).or_default().push(Arc::clone(fleet));
        }
        let by_claim = |mut fleets: Vec<Arc<Fleet>>| -> Arc<[Arc<Fleet>]> {
            fleets.sort_unstable_by(|one, other| {
                let ranks = one.entry.claim.rank().cmp(&other.entry.claim.rank());
                ranks.then_with(|| one.name.cmp(&other.name))
            });
            fleets.into()
        };
        let by_name = |mut fleets: Vec<Arc<Fleet>>| -> Arc<[Arc<Fleet>]> {
            fleets.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            fleets.into()
        };
        self.applications = applications.into_iter().map(|(id, fleets)| (id, by_claim(fleets))).collect();
        self.called = called.into_iter().map(|(name, fleets)| (name, by_claim(fleets))).collect();
        self.heads = heads.into_iter().map(|(head, fleets)| (head, by_name(fleets))).collect();
        let lengths: BTreeSet<usize> = self.heads.keys().map(|head| head.len()).collect();
        self.lengths = lengths.into_iter().rev().collect();
    }
}

fn check_name(field: &'static str, value: &str) -> Result<(), DirectoryError> {
    let refused = || DirectoryError::Name { field, value: value.chars().take(NAME_MAX).collect() };
    is_name(value).then_some(()).ok_or_else(refused)
}

// The data behind these locks is consistent after every statement, so a panic elsewhere does not corrupt it.

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
