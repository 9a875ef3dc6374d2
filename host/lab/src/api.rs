//! A model of the API server: what it stores, checks and reports.
//!
//! One counter numbers every write, as etcd does. The store holds the true state; every reader learns of it
//! from the [log](watch), with some lag. Preconditions, refusals and the two phases of a pod's removal (first
//! `deletionTimestamp`, then the object is gone) are those of the real server. Faults are not made here but in
//! front of it: by the network, by admission and by operators.
//!
//! Outcomes use the core's vocabulary. An adapter that serves this model over HTTP has to map each of them to
//! one status. Rejected: modelling JSON objects. The core reads twelve fields of a pod, and nothing would read
//! the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::election::{ElectionOutcome, Lease};
use fleet::event::PodView;
use fleet::id::{Uid, Version};

pub mod apps;
pub mod pods;
pub mod records;
pub mod watch;

pub use apps::{Application, NAMESPACES};
pub use pods::{NewPod, PodObject};
pub use records::Patch;
pub use watch::{Change, Entry};

/// A pod's position in the order of creation; its UID is derived from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Serial(pub u64);

impl Serial {
    pub fn uid(self) -> Uid {
        Uid(format!("00000000-0000-4000-8000-{:012x}", self.0).into())
    }

    /// The pod with this UID.
    pub fn of(uid: &Uid) -> Option<Serial> {
        let number = uid.0.rsplit('-').next()?;
        u64::from_str_radix(number, 16).ok().map(Serial)
    }
}

/// What happened in the store, for the parts that react to it: scheduler, kubelets, garbage collector,
/// checkers. They are part of the cluster and see it at once; each models its own delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Created(Serial),
    /// `deletionTimestamp` was set, or moved to an earlier time.
    Terminating(Serial),
    Removed(Serial),
    DriverGone(usize),
}

#[derive(Debug)]
pub struct Api {
    /// The time of the API server's own clock, ms since the start of the world.
    pub now_ms: u64,
    /// What that clock shows: ms since the epoch at the start of the world.
    pub wall_base_ms: i64,
    revision: u64,
    pods: BTreeMap<Serial, PodObject>,
    names: BTreeMap<Box<str>, Serial>,
    serials: u64,
    /// The last state of pods that are gone.
    graves: BTreeMap<Serial, Arc<PodView>>,
    /// By namespace.
    logs: [Vec<Entry>; NAMESPACES.len()],
    compacted: u64,
    apps: Vec<Application>,
    lease: Option<(Lease, u64)>,
    /// ResourceQuota: how many pods there may be.
    pub quota: Option<usize>,
    pub namespace_terminating: bool,
    /// PodDisruptionBudgets: how many ready pods of its application an eviction must leave.
    pub budget: Option<usize>,
    /// More than one PodDisruptionBudget matches.
    pub budgets_overlap: bool,
    news: Vec<News>,
}

impl Api {
    pub fn new(wall_base_ms: i64) -> Api {
        Api {
            now_ms: 0,
            wall_base_ms,
            revision: 100,
            pods: BTreeMap::new(),
            names: BTreeMap::new(),
            serials: 0,
            graves: BTreeMap::new(),
            logs: Default::default(),
            compacted: 0,
            apps: Vec::new(),
            lease: None,
            quota: None,
            namespace_terminating: false,
            budget: None,
            budgets_overlap: false,
            news: Vec::new(),
        }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn wall_ms(&self) -> i64 {
        self.wall_base_ms.saturating_add_unsigned(self.now_ms)
    }

    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    // -------------------------------------------------------------------------------------- lease --

    pub fn lease(&self) -> Option<&(Lease, u64)> {
        self.lease.as_ref()
    }

    pub fn read_lease(&self) -> ElectionOutcome {
        match &self.lease {
            Some((lease, at)) => ElectionOutcome::Read(lease.clone(), records::version(*at)),
            None => ElectionOutcome::NotFound,
        }
    }

    /// A PUT with `metadata.resourceVersion`, which creates the Lease if it has been deleted; or, without a
    /// version, a POST.
    pub fn write_lease(&mut self, lease: Lease, over: Option<&Version>) -> ElectionOutcome {
        match (&self.lease, over) {
            (None, _) => {}
            (Some(_), None) => return ElectionOutcome::AlreadyExists,
            (Some((_, at)), Some(over)) if records::version(*at) != *over => {
                return ElectionOutcome::Conflict;
            }
            (Some(_), Some(_)) => {}
        }
        let at = self.next_revision();
        self.lease = Some((lease, at));
        ElectionOutcome::Written(records::version(at))
    }

    pub fn delete_lease(&mut self) {
        self.next_revision();
        self.lease = None;
    }

    /// An operator clears the Lease's holder.
    pub fn clear_lease(&mut self) {
        let at = self.next_revision();
        if let Some((lease, version)) = &mut self.lease {
            lease.holder = "".into();
            *version = at;
        }
    }
}
