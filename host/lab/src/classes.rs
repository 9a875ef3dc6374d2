//! Classes of fleets: a document that is there for as long as a host believes that the driver lives.
//!
//! In a world with several fleets, some have no document of their own: a class matches their driver. Each host learns of
//! drivers by a watch of its own, which lags and starts again, and asks the core which fleets follow (`fleet::classes`).
//! So documents come and go beside everything else that hosts are told of drivers. A second class matches every driver
//! too, is less specific, and asks for far too many executors: the bounds show if it is ever chosen.

use std::collections::BTreeMap;

use fleet::classes::{Class, Driver, Is, Requirement, Taken, fleets};
use fleet::supervisor::{Input, Judged};

use crate::api::NAMESPACES;
use crate::fault::Fault;
use crate::host::HostTask;
use crate::world::World;

/// The label by which classes match.
const LABEL: &str = "fleet";
const BROAD: &str = "a-broad-class";
/// What the broad class asks for.
const FAR_TOO_MANY: u32 = 40;

/// What a host was told of the drivers that classes match, by the names of their fleets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drivers {
    known: BTreeMap<String, (u64, bool)>,
}

impl Drivers {
    /// A newer state than the known one.
    fn take(&mut self, fleet: String, at_ms: u64, live: bool) -> bool {
        let known = self.known.entry(fleet).or_insert((0, false));
        let newer = known.0 < at_ms;
        if newer {
            *known = (at_ms, live);
        }
        newer
    }

    pub(crate) fn live(&self, fleet: &str) -> bool {
        self.known.get(fleet).is_some_and(|(_, live)| *live)
    }
}

impl World<'_> {
    /// The documents in force, as this host knows them.
    pub(crate) fn documents(&self, at: usize) -> Input {
        Input::Documents(self.judged(at))
    }

    /// The documents in force, but for one that is still there.
    pub(crate) fn documents_but(&self, at: usize, other: Judged) -> Input {
        let mut all = self.judged(at);
        if let Some(one) = all.iter_mut().find(|one| one.document.fleet == other.document.fleet) {
            *one = other;
        }
        Input::Documents(all)
    }

    fn judged(&self, at: usize) -> Vec<Judged> {
        let classed = |app: &&usize| self.apps[**app].operator.classed;
        let current = self.current();
        let requirement =
            |name: &str| Requirement { key: LABEL.to_owned(), is: Is::In(vec![name.to_owned()]) };
        let mut classes = vec![Class { name: BROAD.to_owned(), ..Class::default() }];
        let mut drivers = Vec::new();
        for app in current.iter().filter(classed) {
            let operator = &self.apps[*app].operator;
            let name = operator.spec.name.clone();
            let namespace = NAMESPACES[operator.namespace].to_owned();
            if operator.withdrawn {
                // The class is deleted, and the broad one is not for this driver.
                continue;
            }
            classes.push(Class {
                name: name.clone(),
                namespaces: vec![namespace.clone()],
                requirements: vec![requirement(&name)],
            });
            let (pod, live) = (operator.driver_pod(), self.hosts[at].drivers.live(&name));
            drivers.push(Driver { namespace, pod, labels: [(LABEL.to_owned(), name)].into(), live });
        }
        let made: BTreeMap<String, String> = fleets(&classes, &drivers, &Taken::default())
            .into_iter()
            .map(|made| (made.driver.labels[LABEL].clone(), made.choice.class.name.clone()))
            .collect();
        let document = |app: &usize| {
            let operator = &self.apps[*app].operator;
            let judged = operator.judged()?;
            if !operator.classed {
                return Some(judged);
            }
            let mut judged = Some(judged).filter(|_| made.contains_key(&operator.spec.name))?;
            if made[&operator.spec.name] == BROAD {
                judged.document.spec.target = FAR_TOO_MANY;
            }
            Some(judged)
        };
        current.iter().filter_map(document).collect()
    }

    /// Every second: hosts learn which drivers there are, each at its own time.
    pub(crate) fn tell_of_drivers(&mut self) {
        let late = !self.healed && self.sim.strikes(Fault::DriversLate);
        for app in self.current() {
            let live = self.api.is_driver_running(app);
            let operator = &mut self.apps[app].operator;
            if !operator.classed || operator.told_live == Some((app, live)) {
                continue;
            }
            operator.told_live = Some((app, live));
            for at in 0..self.hosts.len() {
                let ms = self.sim.choices.between(10, if late { 60_000 } else { 3_000 });
                self.tell_of_driver(at, app, ms);
            }
        }
    }

    /// A host that starts lists the drivers.
    pub(crate) fn list_drivers(&mut self, at: usize) {
        for app in self.current() {
            if self.apps[app].operator.classed {
                let ms = self.sim.choices.between(10, 3_000);
                self.tell_of_driver(at, app, ms);
            }
        }
    }

    fn tell_of_driver(&mut self, at: usize, app: usize, ms: u64) {
        let fleet = self.apps[app].operator.spec.name.clone();
        let (at_ms, live) = (self.sim.now_ms + 1, self.api.is_driver_running(app));
        self.post(at, ms, HostTask::Driver { fleet, at_ms, live });
    }

    pub(crate) fn told_of_driver(&mut self, at: usize, fleet: String, at_ms: u64, live: bool) {
        if self.hosts[at].drivers.take(fleet, at_ms, live) {
            let documents = self.documents(at);
            self.step(at, documents);
        }
    }

    /// S26: a fleet that a class makes begins only where its driver is known to live.
    pub(crate) fn check_class(&mut self, at: usize, app: usize) {
        let operator = &self.apps[app].operator;
        if operator.classed && !self.hosts[at].drivers.live(&operator.spec.name) {
            let name = operator.spec.name.clone();
            self.object("S26", format!("{name} begins on host {at}, which knows of no live driver"));
        }
    }

    /// A class is edited while a driver that it matches comes.
    pub(crate) fn edit_class(&mut self) {
        let app = self.random_app();
        if self.apps[app].operator.classed {
            let target = u32::try_from(self.sim.choices.below(13)).expect("small");
            self.set_target(app, target);
            self.replace_driver(app);
        }
    }
}
