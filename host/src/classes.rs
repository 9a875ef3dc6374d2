//! Classes of fleets: which drivers there are, and the fleets that they have by their classes.
//!
//! The core decides which class has a driver ([`fleet::classes`]). Here classes and drivers are kept as they were last
//! told, and the fleets of classes from files become documents in memory; [`apply()`] writes those of classes that are
//! objects as ExecutorFleet objects, which the driver's pod owns.

mod apply;
mod drivers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use cluster::watch::Driver;
use fleet::classes::{self, Made, Taken};
use tokio::sync::watch;

pub use apply::apply;
pub use drivers::follow;

use crate::config::class::CLASS_LABEL;
use crate::config::{ClassConfig, Documents, FleetConfig};
use crate::resource::{Known, Objects, lock};

/// Shared by the watches, the task that judges documents, and the one that writes objects.
#[derive(Debug)]
pub struct Classes {
    /// The last valid documents from files.
    filed: Mutex<Documents>,
    /// From objects; `None`: they are not watched.
    objects: Option<Arc<Objects<ClassConfig>>>,
    drivers: Mutex<BTreeMap<(String, String), Driver>>,
    /// Scopes of the watches of drivers whose first list was received.
    listed: Mutex<BTreeSet<Option<String>>>,
    /// What was logged about a driver's fleet.
    logged: Mutex<BTreeMap<(String, String), Vec<String>>>,
    changes: watch::Sender<u64>,
}

/// A fleet that a driver has by its class.
pub struct Fleet {
    pub config: FleetConfig,
    pub driver: Driver,
    pub class: String,
    /// The class is an object.
    pub of_object: bool,
    /// What is to be said about it: other classes that match, annotations without effect.
    pub remarks: Vec<String>,
    /// Names of the other classes that match the driver.
    pub others: Vec<String>,
}

impl Classes {
    pub fn new(filed: Documents, objects: Option<Arc<Objects<ClassConfig>>>) -> Classes {
        Classes {
            filed: Mutex::new(filed),
            objects,
            drivers: Mutex::default(),
            listed: Mutex::default(),
            logged: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Notifies about changes of drivers and of classes from files.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn set_filed(&self, documents: Documents) {
        *lock(&self.filed) = documents;
        self.changed();
    }

    /// The fleets of documents from files.
    pub fn filed(&self) -> Vec<FleetConfig> {
        lock(&self.filed).fleets.clone()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// All classes. One from a file takes precedence over an object with its name.
    fn all(&self) -> Vec<ClassConfig> {
        let mut all = lock(&self.filed).classes.clone();
        let of_objects = self.objects.iter().flat_map(|objects| objects.documents());
        for class in of_objects {
            if !all.iter().any(|one| one.name() == class.name()) {
                all.push(class);
            }
        }
        all
    }

    /// The fleets of all drivers that have one by a class. `objects` are all ExecutorFleets of the API server.
    pub fn fleets(&self, objects: &[Arc<Known<FleetConfig>>]) -> Vec<Fleet> {
        let configs = self.all();
        if configs.is_empty() {
            return Vec::new();
        }
        let classes: Vec<classes::Class> = configs.iter().map(|config| config.class.clone()).collect();
        let by_name: BTreeMap<&str, &ClassConfig> =
            configs.iter().map(|config| (config.name(), config)).collect();
        let known = lock(&self.drivers);
        let drivers = known.values().map(|driver| &driver.driver);
        let made = classes::fleets(&classes, drivers, &taken(&lock(&self.filed).fleets, objects));
        let fleet = |made: Made<'_>| {
            let named = (made.driver.namespace.clone(), made.driver.pod.clone());
            let (driver, config) = (known.get(&named)?.clone(), by_name.get(&*made.choice.class.name)?);
            let class = made.choice.class;
            let (fleet, mut remarks) = config.fleet_of(&named.0, &named.1, &driver.annotations);
            for other in &made.choice.others {
                let why = class.advantage(other);
                let (name, other) = (&class.name, &other.name);
                remarks.push(format!(
                    "classes {name} and {other} match this driver; {name} has it, because it {why}"
                ));
            }
            Some(Fleet {
                config: fleet,
                driver,
                class: class.name.clone(),
                of_object: config.fleet.generation.is_some(),
                remarks,
                others: made.choice.others.iter().map(|other| other.name.clone()).collect(),
            })
        };
        let fleets: Vec<Fleet> = made.into_iter().filter_map(fleet).collect();
        drop(known);
        self.log(&fleets);
        fleets
    }

    /// Each remark once.
    fn log(&self, fleets: &[Fleet]) {
        let mut logged = lock(&self.logged);
        let mut before = std::mem::take(&mut *logged);
        for fleet in fleets {
            let key = (fleet.driver.driver.namespace.clone(), fleet.driver.driver.pod.clone());
            let old = before.remove(&key).unwrap_or_default();
            for remark in fleet.remarks.iter().filter(|remark| !old.contains(remark)) {
                tracing::warn!(namespace = key.0, driver = key.1, class = fleet.class, "{remark}");
            }
            logged.insert(key, fleet.remarks.clone());
        }
    }
}

/// What documents have taken. An object that a class made is none.
fn taken(filed: &[FleetConfig], objects: &[Arc<Known<FleetConfig>>]) -> Taken {
    let written = objects.iter().filter(|known| class_of(known).is_none());
    let configs = filed.iter().chain(written.filter_map(|known| known.config.as_ref()));
    let mut taken = Taken::default();
    for config in configs {
        let (metadata, driver) = (&config.fleet.metadata, &config.fleet.spec.driver);
        taken.drivers.insert((metadata.namespace.clone(), driver.pod_name.clone()));
        taken.fleets.insert(config.key());
    }
    taken
}

/// The class that made the object.
fn class_of(known: &Known<FleetConfig>) -> Option<&str> {
    known.object.value["metadata"]["labels"][CLASS_LABEL].as_str()
}

#[cfg(test)]
mod tests;
