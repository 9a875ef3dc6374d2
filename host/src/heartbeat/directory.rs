//! Who may be heard: fleets by name, application and Graphite head; their executors' pods; tokens.
//!
//! Names are claims: a user who may label a driver's pod may call it as another application is called. So pods come
//! before names. Where a fleet's pods are checked, who speaks is known by the address of a pod in the view; names only have to
//! agree. What two fleets cannot both have goes to the better [`Claim`].
//!
//! It is closed until this host leads: then nobody may be heard, and who speaks is turned away.
//!
//! Written by the daemon's loop with every pod event, read with every heartbeat. A reader takes the
//! fleet's entry out of the map with one short read lock and then works on an immutable entry; only the
//! executors change under a lock of their own. Rejected: one lock around everything, because a thousand
//! pod events in a mass loss would then stop the hearing just when it matters.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fleet::id::{ExecutorId, Uid};
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

/// What the daemon says about a fleet.
#[derive(Clone, Debug, Default)]
pub struct FleetEntry {
    /// Never the same twice: what was said in an earlier life, and is still on its way, is nobody's.
    pub life: u64,
    /// The Kubernetes namespace of its pods. Within it an application id is one fleet's.
    pub pods_namespace: String,
    /// How good its claim to the id and the head is.
    pub claim: Claim,
    /// Spark's application id. Metrics' names begin with it, unless there is a namespace. Anybody may label a driver
    /// with it: another namespace may have the same.
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
/// token, not even its length. Equality is for what is ours on both sides; what comes from outside is compared with
/// `matches`.
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

/// How good a fleet's claim to its names is. The same after every restart, and in whatever order they come: an id that
/// a document names outranks one from a label, and the older driver's pod the younger. A fleet that lives already has no
/// advantage: after a restart none does. Where pods are as old, their UIDs decide, and
/// between two documents that name one driver their names do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// `spec.applicationId`, and not the label of the driver's pod.
    pub documented: bool,
    /// When the driver's pod was created.
    pub since_ms: i64,
    pub driver: Option<Uid>,
    /// Two documents may name one driver.
    pub fleet: String,
}

impl Claim {
    pub fn outranks(&self, other: &Claim) -> bool {
        self.rank() < other.rank()
    }

    /// The least is the best.
    fn rank(&self) -> (bool, i64, Option<&Uid>, &str) {
        (!self.documented, self.since_ms, self.driver.as_ref(), &self.fleet)
    }

    /// What it has that the other has not.
    pub fn advantage(&self, other: &Claim) -> &'static str {
        if self.documented != other.documented {
            "has the id from its document, and not from a label"
        } else if self.since_ms != other.since_ms {
            "has the older driver pod"
        } else if self.driver == other.driver {
            "has the same driver, and the name that comes first"
        } else {
            "has the driver pod with the lesser UID"
        }
    }
}

/// A fleet was not taken; what the directory knew before stays.
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

/// What two fleets cannot both have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contest {
    #[error(
        "application id {id:?} is also that of fleet {fleet} in the same namespace; an application has one fleet"
    )]
    Application { id: String, fleet: Arc<str> },
    #[error(
        "metrics of fleet {fleet} begin with {head:?} as well, and both take them from any address: {SHARED_REMEDY}"
    )]
    Head { head: String, fleet: Arc<str> },
}

impl Contest {
    /// The same with another fleet.
    pub fn with(self, name: &str) -> Contest {
        let fleet = name.into();
        match self {
            Contest::Application { id, .. } => Contest::Application { id, fleet },
            Contest::Head { head, .. } => Contest::Head { head, fleet },
        }
    }

    pub fn what(&self) -> String {
        match self {
            Contest::Application { id, .. } => format!("application id {id:?}"),
            Contest::Head { head, .. } => format!("metrics that begin with {head:?}"),
        }
    }
}

/// Where two fleets have the same names.
pub const SHARED_REMEDY: &str = "leave heartbeat.checkPeer: true in both, so that their pods' addresses tell them \
                                 apart, or give one application another spark.metrics.namespace or sink prefix";

/// Columns of a fleet beside the known ones: more than policies can use; each costs 8 bytes for each executor.
pub const EXTRA_COLUMNS_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Directory {
    maps: RwLock<Maps>,
    /// Written with pods, and so behind a lock of its own.
    addresses: RwLock<Addresses>,
    /// What was heard that belongs to no fleet.
    pub overheard: Overheard,
}

#[derive(Debug, Default)]
struct Maps {
    open: bool,
    fleets: HashMap<Arc<str>, Arc<Fleet>>,
    /// The best claim first.
    applications: HashMap<Box<str>, Arc<[Arc<Fleet>]>>,
    /// By [`FleetEntry::head`]; in order of their names, where several have the same.
    heads: HashMap<Box<[u8]>, Arc<[Arc<Fleet>]>>,
    /// Of heads, in bytes, each once and the longest first: a name is only looked up where one of them could end.
    lengths: Vec<usize>,
}

/// A fleet as the witnesses see it.
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

    /// Since when one of its pods runs. `None`: none does.
    pub fn running_since(&self) -> Option<Instant> {
        read(&self.executors).running_since()
    }

    /// So many pods are in the view.
    pub fn pods(&self) -> usize {
        read(&self.executors).len()
    }

    /// Could one of its executors speak from an address that is no pod's in the view?
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

    /// Can this be a fleet, whichever others there are?
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

    /// Adds a fleet or replaces what is known of it. Its executors stay, unless the application is another.
    pub fn set_fleet(&self, name: &str, entry: FleetEntry) -> Result<(), DirectoryError> {
        Directory::check(&entry)?;
        let mut maps = write(&self.maps);
        if let Some((_, contest)) = maps.rivals(name, &entry).pop() {
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
        // A reader that still has it finds no executor.
        let were_at = write(&fleet.executors).clear();
        let mut addresses = write(&self.addresses);
        for ip in were_at {
            addresses.moved(&fleet.name, Some(ip), None);
        }
    }

    /// Fleets that claim what this one would have, and what that is.
    pub fn rivals(&self, name: &str, entry: &FleetEntry) -> Vec<(Arc<Fleet>, Contest)> {
        read(&self.maps).rivals(name, entry)
    }

    /// The pod that an executor is now. Nothing happens where the fleet is not known.
    pub fn set_executor(&self, fleet: &str, id: ExecutorId, entry: ExecutorEntry) {
        if let Some(fleet) = self.fleet(fleet) {
            let to = entry.address();
            let before = write(&fleet.executors).insert(id, entry);
            write(&self.addresses).moved(&fleet.name, before.and_then(|before| before.address()), to);
        }
    }

    /// The pod is gone. One that has taken its place meanwhile stays.
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

    /// Every fleet with this id, one for each namespace at most: only who speaks tells which is meant.
    pub fn applications(&self, id: &str) -> Arc<[Arc<Fleet>]> {
        read(&self.maps).applications.get(id).cloned().unwrap_or_else(|| Arc::from([]))
    }

    pub(super) fn has_pod_at(&self, ip: IpAddr) -> bool {
        !read(&self.addresses).at(ip).is_empty()
    }

    /// Is this a fleet's own token?
    pub(super) fn trusts(&self, token: &Secret) -> bool {
        read(&self.maps).fleets.values().any(|fleet| fleet.trusts(token))
    }

    /// All fleets, in no order.
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

    /// Fleets for which something from this address may have been a sign of life: those with a pod there. Where there is
    /// none, those that take signs from any address, and those with a pod that runs at an address not known yet.
    pub(super) fn concerned(&self, ip: IpAddr) -> Vec<Arc<Fleet>> {
        let here = self.at(ip);
        if !here.is_empty() {
            return here;
        }
        let maps = read(&self.maps);
        maps.fleets.values().filter(|fleet| fleet.may_be_strange()).cloned().collect()
    }

    /// Fleets with whose head this name begins, the longest head first, and how long it is. Prefix and namespace may have
    /// dots themselves, so a name alone does not say where its head ends.
    pub(super) fn heads_of(&self, name: &[u8]) -> Vec<(usize, Arc<[Arc<Fleet>]>)> {
        let maps = read(&self.maps);
        let ends = maps.lengths.iter().copied().filter(|&end| name.get(end) == Some(&b'.'));
        ends.filter_map(|end| Some((end, Arc::clone(maps.heads.get(&name[..end])?)))).collect()
    }

    /// Notes it with every fleet that has a pod at this address. Which they are.
    pub(super) fn trouble_of(&self, peer: IpAddr, why: &Why, now: Instant) -> Vec<Arc<Fleet>> {
        let here = self.at(peer);
        for fleet in &here {
            fleet.notes.trouble(why.clone(), peer, now);
        }
        here
    }
}

impl Maps {
    /// The application id is unique in its namespace, because labels with it select the executors' pods. A head is
    /// unique only among fleets that are heard from any address: all others are told apart by their pods'.
    fn rivals(&self, name: &str, entry: &FleetEntry) -> Vec<(Arc<Fleet>, Contest)> {
        let others = self.fleets.values().filter(|other| *other.name != *name);
        let contest = |other: &Arc<Fleet>| {
            let (them, fleet) = (&other.entry, Arc::clone(&other.name));
            if (&them.pods_namespace, &them.application_id) == (&entry.pods_namespace, &entry.application_id)
            {
                return Some(Contest::Application { id: entry.application_id.clone(), fleet });
            }
            let head = entry.head();
            let shared = *other.head == *head.as_bytes() && !them.check_peer && !entry.check_peer;
            shared.then_some(Contest::Head { head, fleet })
        };
        others.filter_map(|other| Some((Arc::clone(other), contest(other)?))).collect()
    }

    /// Builds what follows from `fleets`: there are few, and they seldom change.
    fn index(&mut self) {
        let mut heads: HashMap<Box<[u8]>, Vec<Arc<Fleet>>> = HashMap::new();
        let mut applications: HashMap<Box<str>, Vec<Arc<Fleet>>> = HashMap::new();
        for fleet in self.fleets.values() {
            let id = fleet.entry.application_id.as_str().into();
            applications.entry(id).or_default().push(Arc::clone(fleet));
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
        self.heads = heads.into_iter().map(|(head, fleets)| (head, by_name(fleets))).collect();
        let lengths: BTreeSet<usize> = self.heads.keys().map(|head| head.len()).collect();
        self.lengths = lengths.into_iter().rev().collect();
    }
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
mod tests;
