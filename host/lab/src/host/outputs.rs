//! What a supervisor wants done, carried out as the daemon does.

use std::net::IpAddr;

use fleet::action::{Action, Cause, Verb};
use fleet::election::ElectionAction;
use fleet::observed::DriverPod;
use fleet::supervisor::{OWN_LIST, Output};

use super::{HostTask, Placed, Shown, words};
use crate::api::NAMESPACES;
use crate::app::App;
use crate::network::Sought;
use crate::world::World;

impl World<'_> {
    pub(super) fn output(&mut self, at: usize, output: Output) {
        match output {
            Output::Act { life, action } => {
                self.sim.trace.number(action.id.0);
                self.sim.trace.number(words::verb_number(&action.verb));
                self.sim.trace.say(self.sim.now_ms, || {
                    let verb = words::verb(&action.verb);
                    format!("host {at} -> {life} {} {:?}: {verb}", action.id, action.cause)
                });
                if let Some(app) = self.hosts[at].app_of(life) {
                    self.check_action(app, self.hosts[at].core_id(life), &action);
                }
                self.act(at, life, action);
            }
            Output::List { life, known } => {
                let action = Action { id: OWN_LIST, cause: Cause::Start, verb: Verb::Relist { known } };
                self.act(at, life, action);
            }
            Output::FindDriver { fleet, namespace, pod } => {
                self.find_driver(at, Sought { fleet, namespace, pod });
            }
            Output::Watch { namespace } => {
                let named = NAMESPACES.iter().position(|name| **name == *namespace);
                self.watch_opens(at, named.expect("a document names it"));
            }
            Output::Begin { life, fleet, version, driver, .. } => {
                self.begins(at, life, &fleet, version, &driver);
            }
            Output::Election(action) => self.elected(at, action),
            Output::NotCommanded { .. } => {}
            Output::Place { life, driver, .. } => {
                self.sim.say(|| format!("host {at} -- {life} is placed: {:?}", driver.address));
                if let Some(placed) = self.hosts[at].lives.get_mut(&life) {
                    placed.address = address_of(&driver);
                }
            }
            Output::End { life, .. } => {
                self.sim.say(|| format!("host {at} -- {life} ends"));
                let host = &mut self.hosts[at];
                if let Some(app) = host.app_of(life) {
                    host.ended.push(app);
                    host.alive.remove(&app);
                }
            }
            Output::Still { .. } | Output::StoodStill { .. } | Output::Tell { .. } => {
                self.sim.trace.say(self.sim.now_ms, || format!("host {at} -- {output:?}"));
            }
        }
    }

    /// The application whose fleet and driver these are has a core.
    fn begins(&mut self, at: usize, life: u64, fleet: &str, version: u64, driver: &DriverPod) {
        let is = |app: &App| *app.operator.spec.name == *fleet && app.operator.spec.driver == driver.uid;
        let Some(app) = self.apps.iter().position(is) else {
            return self.object("S24", format!("{fleet} begins with a driver {} that never was", driver.uid));
        };
        self.check_begins(at, app);
        self.check_class(at, app);
        let host = &mut self.hosts[at];
        let address = address_of(driver);
        let told = (driver.revision, address);
        host.lives.insert(life, Placed { app, driver: driver.uid.clone(), address, told });
        host.alive.insert(app, life);
        host.views.insert(app, Shown::default());
        let core = host.core_id(life);
        let still = self.apps[app].operator.stood_still(version);
        self.apps[app].checks.core_begins(core, still);
        self.nodes_shown(at, app);
    }

    fn elected(&mut self, at: usize, action: ElectionAction) {
        match action {
            ElectionAction::ReadLease { request } => self.call_lease(at, request, None),
            ElectionAction::WriteLease { request, lease, over } => {
                self.call_lease(at, request, Some((lease, over)));
            }
            ElectionAction::Lead { .. } => self.lead(at),
            ElectionAction::Affirm => {}
            ElectionAction::Stop(_) => {
                self.hosts[at].leading = false;
                self.post(at, 300, HostTask::Exit);
            }
        }
    }
}

/// The last byte, which is the one that changes.
pub(super) fn address_of(driver: &DriverPod) -> u8 {
    driver.address.map_or(0, |address| match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    })
}
