//! Applications: the pod of each driver, and its address.
//!
//! An application is one driver's pod and everything that it owns: its executors' pods, and its ledger. When a fleet
//! gets another driver, that is another application. Both may have the same Spark application id, which is only a
//! label: a list by label shows the pods of both.

use std::sync::Arc;

use fleet::event::{Done, DriverView, Outcome};
use fleet::id::Uid;
use fleet::ledger::Ledger;
use fleet::observed::DriverPod;

use super::records::Stored;
use super::{Api, Change, News};

/// The namespaces, by their index.
pub const NAMESPACES: [&str; 2] = ["n", "m"];

/// An application's objects, beside the pods of its executors.
#[derive(Debug)]
pub struct Application {
    /// The index of its namespace.
    pub namespace: usize,
    /// Spark's application id.
    pub id: Box<str>,
    /// The name of the driver's pod.
    pub pod: Box<str>,
    driver: Uid,
    running: bool,
    /// How often the driver's container has ended.
    ends: u32,
    /// The last byte of the driver's address.
    address: u8,
    /// The id is a label of the driver's pod.
    labelled: bool,
    created_at_ms: i64,
    pub(super) ledger: Option<Stored>,
    pub(super) ledgers: Vec<Arc<Ledger>>,
    pub(super) tampers: u64,
}

impl Application {
    pub fn new(namespace: usize, id: &str, pod: &str, driver: Uid) -> Application {
        Application {
            namespace,
            id: id.into(),
            pod: pod.into(),
            driver,
            running: true,
            ends: 0,
            address: 1,
            labelled: false,
            created_at_ms: 0,
            ledger: None,
            ledgers: Vec::new(),
            tampers: 0,
        }
    }

    /// The driver's pod has the id as its label.
    pub fn labelled(self) -> Application {
        Application { labelled: true, ..self }
    }

    /// Would a list by label show the pods of both?
    pub fn shares_label(&self, other: &Application) -> bool {
        (self.namespace, &self.id) == (other.namespace, &other.id)
    }

    pub fn driver_uid(&self) -> &Uid {
        &self.driver
    }

    pub fn driver(&self) -> DriverView {
        if self.running {
            DriverView::Running { uid: self.driver.clone(), ends: self.ends }
        } else {
            DriverView::Gone
        }
    }

    /// Where executors reach the driver.
    pub fn address(&self) -> u8 {
        self.address
    }
}

impl Api {
    /// A driver's pod appears. Its index is returned.
    pub fn add(&mut self, application: Application) -> usize {
        let app = self.apps.len();
        self.apps.push(Application { created_at_ms: self.wall_ms(), ..application });
        if app > 0 {
            self.push_driver(app);
        }
        app
    }

    pub fn app(&self, app: usize) -> &Application {
        &self.apps[app]
    }

    pub fn is_driver_running(&self, app: usize) -> bool {
        self.apps[app].running
    }

    pub fn driver_pod(&self, app: usize) -> DriverPod {
        let it = &self.apps[app];
        DriverPod {
            name: it.pod.clone(),
            uid: it.driver.clone(),
            application_id: it.labelled.then(|| it.id.clone()),
            app_name: None,
            spark_version: None,
            created_at_ms: Some(it.created_at_ms),
            revision: self.revision,
            live: it.running,
            ends: it.ends,
            address: Some([10, 0, 0, it.address].into()),
        }
    }

    /// The pod with this name, if it is a driver that runs.
    pub fn driver_named(&self, namespace: &str, pod: &str) -> Option<DriverPod> {
        let named = |it: &Application| NAMESPACES[it.namespace] == namespace && *it.pod == *pod && it.running;
        let app = (0..self.apps.len()).rev().find(|app| named(&self.apps[*app]))?;
        Some(self.driver_pod(app))
    }

    fn push_driver(&mut self, app: usize) {
        let driver = self.driver_pod(app);
        self.push(app, Change::Driver(Box::new(driver)));
    }

    pub fn delete_driver(&mut self, app: usize, uid: &Uid) -> Outcome {
        if !self.apps[app].running {
            return Outcome::NotFound;
        }
        if *uid != self.apps[app].driver {
            return Outcome::Conflict;
        }
        self.end_driver(app);
        Outcome::Ok(Done::Deleted)
    }

    /// The driver's container ends, and starts again in its pod, which may have got another address.
    pub fn restart_driver(&mut self, app: usize, moves: bool) {
        let it = &mut self.apps[app];
        if it.running {
            it.ends += 1;
            it.address = it.address.wrapping_add(u8::from(moves));
            self.push_driver(app);
        }
    }

    /// The driver's pod ends, for any reason.
    pub fn end_driver(&mut self, app: usize) {
        if self.apps[app].running {
            self.apps[app].running = false;
            self.push_driver(app);
            self.news.push(News::DriverGone(app));
        }
    }
}
