//! An application in the world: one driver, the fleet of its executors, the operators of that fleet, and the accounts
//! that the checkers keep of it.
//!
//! A world has one, or a few that share the API server, the nodes, the hosts and the Lease. A fleet that gets another
//! driver gets another application here, with accounts of its own: executor ids and the ledger begin again with it.
//! The former one is *over*: its executors end, and no host may act for it any more.

use fleet::id::Uid;
use fleet::spec::FleetSpec;

use crate::api::Application;
use crate::check::Checks;
use crate::cluster::driver::Driver;
use crate::operator::Operator;

#[derive(Debug)]
pub struct App {
    pub operator: Operator,
    pub driver: Driver,
    pub checks: Checks,
    /// Its driver was replaced by another one: the fleet is another application now.
    pub over: bool,
}

/// The names of the fleets; the first one is alone in most worlds.
const FLEETS: [&str; 4] = ["f", "g", "h", "i"];
pub const FLEETS_MAX: usize = FLEETS.len();

impl App {
    /// `last_target`: after the faults are over.
    pub(crate) fn new(spec: FleetSpec, namespace: usize, last_target: u32) -> App {
        App {
            checks: Checks::new(&spec),
            operator: Operator::new(spec, namespace, last_target),
            driver: Driver::default(),
            over: false,
        }
    }

    /// Its driver's pod, for the API server.
    pub(crate) fn application(&self) -> Application {
        let spec = &self.operator.spec;
        let pod = self.operator.driver_pod();
        let it = Application::new(self.operator.namespace, &spec.application_id, &pod, spec.driver.clone());
        if self.operator.documented { it } else { it.labelled() }
    }

    /// The fleet's next application, with the `number`th driver of the world.
    pub(crate) fn succeed(&mut self, number: usize) -> App {
        self.over = true;
        let mut operator = self.operator.clone();
        operator.spec.driver = driver_uid(number);
        if !operator.documented {
            operator.spec.application_id = format!("app-of-{number}");
        }
        let driver = Driver {
            beats_prove: self.driver.beats_prove,
            cleans: self.driver.cleans,
            creates: self.driver.creates,
            ..Driver::default()
        };
        App { checks: self.checks.succeed(&operator.spec), operator, driver, over: false }
    }
}

/// Names what a drawn spec leaves open, for the `number`th fleet, which is the `nth` of its namespace.
pub(crate) fn name(spec: &mut FleetSpec, number: usize, nth: usize) {
    spec.name = FLEETS[number].into();
    // Application ids are unique in a namespace only.
    spec.application_id = format!("app-{}", nth + 1);
    spec.driver = driver_uid(number);
}

/// The UID of the `number`th driver of the world.
pub(crate) fn driver_uid(number: usize) -> Uid {
    Uid(format!("driver-uid-{}", number + 1).into())
}
