//! One fleet in the loop: its document, and, once its driver's pod is known, its core.
//!
//! A fleet's core begins with its driver: the driver's UID owns every pod, its application id labels them, and
//! executors register at its address. Another driver pod is another application, and so gets a new core with a ledger
//! of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cluster::call::{Calls, Place};
use cluster::node::Signs;
use cluster::pod::DriverSeen;
use cluster::queue::Still;
use fleet::Fleet;
use fleet::snapshot::{Condition, Counts, Snapshot};
use fleet::time::Instant;
use serde_json::Value;
use tokio::time::Instant as Clock;

use super::hearsay;
use super::policies::Judged;
use crate::config::document::Mode;
use crate::config::{FleetConfig, Problem};
use crate::handle::{DRIVER_MISSING, IDENTITY_CONTESTED, Overview, POLICY_PENDING};
use crate::heartbeat::Directory;
use crate::heartbeat::directory::{Claim, DriverEntry, DriverTls, FleetEntry, Secret};

/// Spark's `spark.driver.port` in cluster mode.
const DRIVER_PORT: u16 = 7_078;

pub struct Managed {
    /// The document in force: the newest one, or the last valid one.
    pub config: FleetConfig,
    /// The policies that existed when the document was accepted. One that has been removed since causes a fault on each
    /// call, and is no reason to have no executors.
    pub policies: Vec<String>,
    /// The token that is valid for its executors' heartbeats.
    pub token: Option<Secret>,
    /// Why it is not known yet whether the whole document is valid.
    pub pending: Option<String>,
    /// The document was valid, or a core has begun with it.
    pub good: bool,
    /// The newest document, if it is invalid and an earlier one was valid.
    pub refused: Option<FleetConfig>,
    /// The problems of that document, as logged.
    pub wrong: Vec<Problem>,
    pub life: Option<Life>,
    /// Why there is no core yet.
    pub waits: String,
    /// It waits because another fleet has what this one claims.
    pub contested: bool,
    /// Its driver's pod was looked for, and does not exist.
    pub looked: bool,
    /// A look-up is in flight or scheduled.
    pub seeking: bool,
}

/// A fleet's core, from one driver pod to the next.
pub struct Life {
    /// Unique in a process, so that answers for an earlier core are discarded.
    pub number: u64,
    pub fleet: Fleet,
    pub calls: Calls,
    /// Checked by requests in flight.
    pub still: Still,
    pub driver: DriverSeen,
    pub application_id: String,
    /// Settings of policies, by name.
    pub settings: Arc<BTreeMap<String, Value>>,
    /// The log said that the executor's container is a guess.
    pub guessed: bool,
    /// The patterns by which this fleet recognizes spot nodes, and nodes that will be removed.
    pub signs: Signs,
    /// The core's deadline, as registered in the loop.
    pub armed: Instant,
    /// A list that the loop itself requested is in flight.
    pub listing: bool,
    /// The watch restarted meanwhile.
    pub list_again: bool,
    /// At least one list was received, so the pods are known.
    pub listed: bool,
    /// Why no heartbeats arrive, as logged.
    pub unheard: Option<String>,
}

/// The core's condition.
const LEDGER_REFUSED: &str = "LedgerRefused";

impl Life {
    /// The core's message about the ledger, with the ledger's name.
    pub fn name_ledger(&self, message: &str) -> String {
        let place = self.calls.place();
        format!("{message} (ConfigMap {} in namespace {})", place.ledger_name(), place.namespace)
    }
}

impl Managed {
    pub fn new(judged: Judged) -> Managed {
        let waits = "its driver's pod was not looked up yet".to_owned();
        let (life, refused) = (None, None);
        let Judged { config, problems, pending, names: policies, token } = judged;
        let good = problems.is_empty();
        tell_warnings(&config);
        Managed {
            config,
            policies,
            token,
            pending,
            good,
            refused,
            wrong: Vec::new(),
            life,
            waits,
            contested: false,
            looked: false,
            seeking: false,
        }
    }

    /// Puts another document in force, and returns the previous one.
    pub fn take(&mut self, judged: Judged) -> FleetConfig {
        let Judged { config, problems, pending, names, token } = judged;
        if config.fleet != self.config.fleet {
            tell_warnings(&config);
        }
        (self.policies, self.token, self.pending) = (names, token, pending);
        (self.good, self.refused, self.wrong) = (problems.is_empty(), None, Vec::new());
        std::mem::replace(&mut self.config, config)
    }

    /// This document is in force already, and at most its pending reason is new.
    pub fn follows(&self, judged: &Judged) -> bool {
        self.good
            && judged.problems.is_empty()
            && self.refused.is_none()
            && self.config == judged.config
            && self.token == judged.token
    }

    /// There is no core yet, for this reason.
    pub fn wait(&mut self, why: String) {
        self.contested = false;
        if self.waits != why {
            tracing::warn!(fleet = self.name(), why, "the fleet has to wait for its driver");
            self.waits = why;
        }
    }

    /// There is no core, because another fleet has the better claim.
    pub fn give_way(&mut self, why: String) {
        self.contested = true;
        if self.waits != why {
            tracing::warn!(fleet = self.name(), why, "the fleet gives way to another");
            self.waits = why;
        }
    }

    pub fn name(&self) -> &str {
        &self.config.fleet.metadata.name
    }

    pub fn namespace(&self) -> &str {
        &self.config.fleet.metadata.namespace
    }

    pub fn driver_name(&self) -> &str {
        &self.config.fleet.spec.driver.pod_name
    }

    /// How long an executor may be silent before it is lost; `None` without heartbeats.
    pub fn timeout_ms(&self) -> Option<u64> {
        let heartbeat = &self.config.fleet.spec.heartbeat;
        (!heartbeat.disabled).then_some(heartbeat.timeout.0)
    }

    pub fn mode(&self) -> &'static str {
        match self.config.fleet.spec.mode {
            Mode::Own => "own",
            Mode::Observe => "observe",
        }
    }

    /// The application's id: from the document, else from the label of its driver's pod.
    pub fn application_id(&self, driver: &DriverSeen) -> Result<String, String> {
        let label = driver.application_id.as_deref();
        let id = self.config.fleet.spec.application_id.as_deref().or(label).map(str::to_owned);
        id.ok_or_else(|| {
            format!(
                "driver pod {} has no label {}; set spec.applicationId, or label the pod",
                driver.name,
                cluster::pod::APP
            )
        })
    }

    /// The parameters of calls, or what is still missing.
    pub fn place(&self, driver: &DriverSeen, application_id: &str) -> Result<Place, String> {
        let spec = &self.config.fleet.spec;
        let template = match spec.mode {
            Mode::Own => self.config.template(self.driver_url(driver)?, Some(driver)).map_err(|remarks| {
                let told = remarks.iter().map(|remark| format!("{}: {}", remark.path, remark.message));
                told.collect::<Vec<_>>().join("; ")
            })?,
            Mode::Observe => None,
        };
        Ok(Place {
            fleet: self.name().to_owned(),
            namespace: self.namespace().to_owned(),
            application_id: application_id.to_owned(),
            driver: driver.name.to_string(),
            driver_uid: driver.uid.clone(),
            executor_container: self.config.executor_container().map(str::to_owned),
            template,
        })
    }

    fn driver_url(&self, driver: &DriverSeen) -> Result<String, String> {
        let spark = self.config.fleet.spec.spark.as_ref();
        Ok(match (spark.and_then(|spark| spark.driver_url.clone()), driver.address) {
            (Some(url), _) => url,
            (None, Some(address)) => {
                let host = match address {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("[{address}]"),
                };
                format!("spark://CoarseGrainedScheduler@{host}:{DRIVER_PORT}")
            }
            (None, None) => return Err(format!("driver pod {} has no address yet", driver.name)),
        })
    }

    /// The directory entry that heartbeats are checked against.
    pub fn entry(&self, life: u64, driver: &DriverSeen, application_id: &str) -> FleetEntry {
        let spec = &self.config.fleet.spec;
        let heartbeat = &spec.heartbeat;
        FleetEntry {
            life,
            pods_namespace: self.namespace().to_owned(),
            claim: Claim {
                documented: spec.application_id.is_some(),
                since_ms: driver.created_at_ms.unwrap_or(i64::MAX),
                driver: Some(driver.uid.clone()),
                fleet: self.name().to_owned(),
            },
            application_id: application_id.to_owned(),
            metrics_namespace: heartbeat.metrics_namespace.clone(),
            graphite_prefix: Some(heartbeat.graphite_prefix.clone()).filter(|prefix| !prefix.is_empty()),
            extra_columns: heartbeat.columns.clone(),
            token: self.token.clone(),
            driver: driver.address.map(|ip| DriverEntry {
                address: SocketAddr::new(ip, spec.driver.rest_port.get()),
                interval_ms: spec.driver.rest_interval.0,
                loopback: spec.driver.allow_loopback,
                tls: spec.driver.rest_tls.as_ref().map(|tls| DriverTls {
                    ca_file: tls.ca_file.clone(),
                    server_name: tls.server_name.clone(),
                }),
                token_file: spec.driver.rest_token_file.clone(),
            }),
            check_peer: heartbeat.check_peer,
        }
    }

    /// Conditions from the core and from the heartbeat sources.
    fn conditions(&self, life: &Life, directory: &Directory) -> Vec<Condition> {
        let mut conditions = life.fleet.conditions();
        for condition in conditions.iter_mut().filter(|condition| condition.name == LEDGER_REFUSED) {
            condition.message = life.name_ledger(&condition.message);
        }
        conditions.extend(self.pending());
        hearsay::complete(conditions, &self.config, &life.driver, directory)
    }

    fn pending(&self) -> Option<Condition> {
        let message = self.pending.clone()?;
        Some(Condition { name: POLICY_PENDING, message })
    }

    /// Logs when no heartbeats arrive and why, and when they arrive again.
    pub fn tell_hearing(&mut self, directory: &Directory) {
        let Some(fleet) = directory.fleet(self.name()) else { return };
        let heartbeat = &self.config.fleet.spec.heartbeat;
        let why = hearsay::heartbeats(heartbeat, &fleet, directory, Clock::now());
        let Some(life) = &mut self.life else { return };
        let reason = why.as_deref().map(hearsay::reason);
        if life.unheard.as_deref() == reason {
            return;
        }
        life.unheard = reason.map(str::to_owned);
        match why {
            Some(why) => tracing::warn!(fleet = &*fleet.name, why, "no heartbeats of its executors arrive"),
            None => tracing::info!(fleet = &*fleet.name, "heartbeats of its executors arrive, or none runs"),
        }
    }

    pub fn overview(&self, directory: &Directory) -> Overview {
        let spec = &self.config.fleet.spec;
        let (fleet, namespace) = (self.name().to_owned(), self.namespace().to_owned());
        match &self.life {
            Some(life) => Overview {
                fleet,
                namespace,
                mode: self.mode(),
                phase: life.fleet.phase_name(),
                target: life.fleet.target(),
                counts: life.fleet.counts(),
                refusals: life.fleet.refusals().clone(),
                impairments: life.fleet.impairments(),
                conditions: self.conditions(life, directory),
            },
            None => Overview {
                fleet,
                namespace,
                mode: self.mode(),
                phase: "awaiting-driver",
                target: spec.executors,
                counts: Counts::default(),
                refusals: BTreeMap::new(),
                impairments: BTreeMap::new(),
                conditions: self.waiting(),
            },
        }
    }

    fn waiting(&self) -> Vec<Condition> {
        let name = if self.contested { IDENTITY_CONTESTED } else { DRIVER_MISSING };
        let waits = Condition { name, message: self.waits.clone() };
        std::iter::once(waits).chain(self.pending()).collect()
    }

    pub fn snapshot(&self, now: fleet::time::Now, directory: &Directory) -> Snapshot {
        match &self.life {
            Some(life) => {
                let conditions = self.conditions(life, directory);
                Snapshot { conditions, ..life.fleet.snapshot(now) }
            }
            None => Snapshot {
                fleet: self.name().to_owned(),
                phase: "awaiting-driver",
                target: self.config.fleet.spec.executors,
                counts: Counts::default(),
                refusals: BTreeMap::new(),
                conditions: self.waiting(),
                executors: Vec::new(),
            },
        }
    }
}

/// Once for each document that comes into force.
fn tell_warnings(config: &FleetConfig) {
    for warning in config.warnings() {
        tracing::warn!(fleet = config.fleet.metadata.name, %warning, "the document may not do what it says");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic holds it").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn judged(config: FleetConfig) -> Judged {
        Judged { config, problems: Vec::new(), pending: None, names: Vec::new(), token: None }
    }

    #[test]
    fn warnings_of_a_document_are_logged_once() {
        let config = |claim: &str| {
            FleetConfig {
            file: "f.yaml".into(),
            document: 1,
            old_names: Vec::new(),
            fleet: serde_json::from_value(json!({
                "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet", "metadata": {"name": "f"},
                "spec": {"mode": "Own", "executors": 1, "driver": {"podName": "d"}, "template": {"spec": {
                    "containers": [{"name": "x"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}},
            }))
            .expect("a document"),
        }
        };
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let times = |part: &str| {
            let bytes = log.0.lock().expect("no panic holds it").clone();
            String::from_utf8(bytes).expect("text").matches(part).count()
        };
        tracing::subscriber::with_default(subscriber, || {
            let mut managed = Managed::new(judged(config("OnDemand")));
            assert_eq!(times("volumes[0].persistentVolumeClaim.claimName"), 1);
            managed.take(judged(config("OnDemand")));
            assert_eq!(times("volumes[0].persistentVolumeClaim.claimName"), 1, "the same document");
            managed.take(judged(config("OnDemand-2")));
            assert_eq!(times("volumes[0].persistentVolumeClaim.claimName"), 2);
        });
    }
}
