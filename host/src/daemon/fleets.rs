//! The documents behind the supervisor's numbers, and what each life of a fleet needs to be carried out: clients, the
//! settings of its policies, its node patterns; and how a fleet looks from outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cluster::call::{Calls, Place};
use cluster::node::Signs;
use cluster::queue::Still;
use cluster::template::Template;
use fleet::identity::Claim;
use fleet::observed::DriverPod;
use fleet::snapshot::{Condition, Counts, Snapshot};
use fleet::supervisor::{self, Managed, Supervisor};
use serde_json::Value;
use tokio::time::Instant as Clock;

use super::hearsay;
use super::policies::Judged;
use crate::config::FleetConfig;
use crate::config::document::Mode;
use crate::handle::{DRIVER_MISSING, IDENTITY_CONTESTED, Overview, POLICY_PENDING};
use crate::heartbeat::Directory;
use crate::heartbeat::directory::{DriverEntry, DriverTls, FleetEntry, Secret};

/// Spark's `spark.driver.port` in cluster mode.
const DRIVER_PORT: u16 = 7_078;
/// The core's condition.
const LEDGER_REFUSED: &str = "LedgerRefused";

/// A document as it was read, with the token that is valid for its executors' heartbeats.
#[derive(Debug, PartialEq)]
pub struct Source {
    pub config: FleetConfig,
    pub token: Option<Secret>,
}

/// The documents that are in force, or may come into force, by fleet and version.
#[derive(Debug, Default)]
pub struct Sources {
    all: BTreeMap<String, BTreeMap<u64, Arc<Source>>>,
    versions: u64,
}

impl Sources {
    /// Takes documents in, and returns them as the supervisor needs them. The same document keeps its version.
    pub fn take(&mut self, judged: Vec<Judged>) -> Vec<supervisor::Judged> {
        judged.into_iter().map(|judged| self.take_one(judged)).collect()
    }

    fn take_one(&mut self, judged: Judged) -> supervisor::Judged {
        let Judged { config, problems, pending, names, token } = judged;
        let source = Source { config, token };
        let known = self.all.entry(source.config.key()).or_default();
        let same = known.iter().find(|(_, known)| ***known == source).map(|(version, _)| *version);
        let version = same.unwrap_or_else(|| {
            self.versions += 1;
            self.versions
        });
        let document = source.config.document(version);
        known.entry(version).or_insert_with(|| Arc::new(source));
        let problems = problems.iter().map(ToString::to_string).collect();
        supervisor::Judged { document, problems, pending, policies: names }
    }

    /// Forgets documents that can no longer come into force: all but the one in force, the refused one, and the newest.
    pub fn prune(&mut self, supervisor: &Supervisor) {
        self.all.retain(|name, versions| {
            let Some(managed) = supervisor.fleet(name) else { return false };
            let newest = versions.last_key_value().map(|(version, _)| *version);
            versions.retain(|version, _| {
                let used = [Some(managed.version()), managed.refused_version(), newest];
                used.contains(&Some(*version))
            });
            true
        });
    }

    pub fn get(&self, fleet: &str, version: u64) -> Option<&Arc<Source>> {
        self.all.get(fleet)?.get(&version)
    }

    /// The document in force.
    pub fn of(&self, managed: &Managed) -> Option<&Arc<Source>> {
        self.get(managed.name(), managed.version())
    }
}

/// What a life of a fleet needs to be carried out.
pub struct Alive {
    /// `NAMESPACE/NAME`.
    pub fleet: String,
    pub source: Arc<Source>,
    pub calls: Calls,
    /// Checked by requests in flight.
    pub still: Still,
    /// Settings of policies, by name.
    pub settings: Arc<BTreeMap<String, Value>>,
    /// The patterns by which this fleet recognizes spot nodes, and nodes that will be removed.
    pub signs: Signs,
    /// The log said that the executor's container is a guess.
    pub guessed: bool,
    /// Why no heartbeats arrive, as logged.
    unheard: Option<String>,
}

impl Alive {
    pub fn new(fleet: String, source: Arc<Source>, calls: Calls) -> Alive {
        let (settings, signs) = (settings(&source.config), source.config.signs());
        Alive {
            fleet,
            source,
            calls,
            still: Still::default(),
            settings,
            signs,
            guessed: false,
            unheard: None,
        }
    }

    /// Follows another document. Returns whether its node patterns differ.
    pub fn follow(&mut self, source: Arc<Source>) -> bool {
        self.settings = settings(&source.config);
        let signs = source.config.signs();
        self.source = source;
        std::mem::replace(&mut self.signs, signs) != self.signs
    }

    /// The core's message about the ledger, with the ledger's name.
    pub fn name_ledger(&self, message: &str) -> String {
        let place = self.calls.place();
        format!("{message} (ConfigMap {} in namespace {})", place.ledger_name(), place.namespace)
    }

    /// Logs when no heartbeats arrive and why, and when they arrive again.
    pub fn tell_hearing(&mut self, directory: &Directory) {
        let Some(fleet) = directory.fleet(&self.fleet) else { return };
        let heartbeat = &self.source.config.fleet.spec.heartbeat;
        let why = hearsay::heartbeats(heartbeat, &fleet, directory, Clock::now());
        let reason = why.as_deref().map(hearsay::reason);
        if self.unheard.as_deref() == reason {
            return;
        }
        self.unheard = reason.map(str::to_owned);
        match why {
            Some(why) => tracing::warn!(fleet = &*fleet.name, why, "no heartbeats of its executors arrive"),
            None => tracing::info!(fleet = &*fleet.name, "heartbeats of its executors arrive, or none runs"),
        }
    }
}

fn settings(config: &FleetConfig) -> Arc<BTreeMap<String, Value>> {
    let all = &config.fleet.spec.policies;
    Arc::new(all.iter().map(|(name, settings)| (name.clone(), settings.clone().into())).collect())
}

impl Source {
    /// The parameters of calls. The error says what keeps executors from being created.
    pub fn place(&self, driver: &DriverPod, application_id: &str) -> Result<Place, String> {
        let spec = &self.config.fleet.spec;
        let template = match spec.mode {
            Mode::Own => self.config.template(self.driver_url(driver)?, Some(driver)).map_err(|remarks| {
                let told = remarks.iter().map(|remark| format!("{}: {}", remark.path, remark.message));
                told.collect::<Vec<_>>().join("; ")
            })?,
            Mode::Observe => None,
        };
        Ok(self.place_with(template, driver, application_id))
    }

    /// Without a template no executor can be created.
    pub fn place_with(&self, template: Option<Template>, driver: &DriverPod, application_id: &str) -> Place {
        Place {
            fleet: self.config.fleet.metadata.name.clone(),
            namespace: self.config.fleet.metadata.namespace.clone(),
            application_id: application_id.to_owned(),
            driver: driver.name.to_string(),
            driver_uid: driver.uid.clone(),
            executor_container: self.config.executor_container().map(str::to_owned),
            template,
        }
    }

    fn driver_url(&self, driver: &DriverPod) -> Result<String, String> {
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
    pub fn entry(&self, life: u64, driver: &DriverPod, application_id: &str, claim: Claim) -> FleetEntry {
        let spec = &self.config.fleet.spec;
        let heartbeat = &spec.heartbeat;
        FleetEntry {
            ids: self.config.ids(),
            life,
            pods_namespace: self.config.fleet.metadata.namespace.clone(),
            claim,
            application_id: application_id.to_owned(),
            metrics_namespace: heartbeat.metrics_namespace.clone(),
            graphite_prefix: self.config.graphite_prefix(),
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
}

/// A fleet as people see it.
pub struct Face<'a> {
    pub managed: &'a Managed,
    /// The document in force.
    pub source: &'a Source,
    /// The newest document: the one in force, or the refused one.
    pub newest: &'a Source,
    pub alive: Option<&'a Alive>,
    pub directory: &'a Directory,
}

impl Face<'_> {
    fn name(&self) -> &str {
        &self.source.config.fleet.metadata.name
    }

    pub fn overview(&self) -> Overview {
        let spec = &self.source.config.fleet.spec;
        let (fleet, namespace) = (self.name().to_owned(), self.managed.namespace().to_owned());
        let mode = match spec.mode {
            Mode::Own => "own",
            Mode::Observe => "observe",
        };
        let before_its_driver = Overview {
            fleet,
            namespace,
            mode,
            phase: "awaiting-driver",
            target: spec.executors,
            counts: Counts::default(),
            refusals: BTreeMap::new(),
            impairments: BTreeMap::new(),
            conditions: self.conditions(),
            application_id: None,
            generation: self.newest.config.generation,
            problems: self.managed.problems().to_vec(),
        };
        let Some(life) = self.managed.life() else { return before_its_driver };
        let core = life.fleet();
        Overview {
            phase: core.phase_name(),
            target: core.target(),
            counts: core.counts(),
            refusals: core.refusals().clone(),
            impairments: core.impairments(),
            application_id: Some(life.application_id().to_owned()),
            ..before_its_driver
        }
    }

    pub fn snapshot(&self, now: fleet::time::Now) -> Snapshot {
        let conditions = self.conditions();
        match self.managed.life() {
            Some(life) => Snapshot { conditions, ..life.fleet().snapshot(now) },
            None => Snapshot {
                fleet: self.name().to_owned(),
                phase: "awaiting-driver",
                target: self.source.config.fleet.spec.executors,
                counts: Counts::default(),
                refusals: BTreeMap::new(),
                conditions,
                executors: Vec::new(),
            },
        }
    }

    /// Conditions from the core, from the supervisor and from the heartbeat sources.
    fn conditions(&self) -> Vec<Condition> {
        let message = self.managed.pending().map(str::to_owned);
        let pending = message.map(|message| Condition { name: POLICY_PENDING, message });
        let (Some(life), Some(alive)) = (self.managed.life(), self.alive) else {
            let (why, contested) = self.managed.waits();
            let name = if contested { IDENTITY_CONTESTED } else { DRIVER_MISSING };
            let waits = Condition { name, message: why.to_owned() };
            return std::iter::once(waits).chain(pending).collect();
        };
        let mut conditions = life.fleet().conditions();
        for condition in conditions.iter_mut().filter(|condition| condition.name == LEDGER_REFUSED) {
            condition.message = alive.name_ledger(&condition.message);
        }
        conditions.extend(pending);
        hearsay::complete(conditions, &self.source.config, life.driver(), self.directory)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_document_keeps_its_version_and_old_ones_are_forgotten() {
        let judged = |executors: u32| Judged {
            config: FleetConfig {
                file: "f.yaml".into(),
                document: 1,
                generation: None,
                old_names: Vec::new(),
                fleet: serde_json::from_value(json!({
                    "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet", "metadata": {"name": "f"},
                    "spec": {"mode": "Observe", "executors": executors, "driver": {"podName": "d"}},
                }))
                .expect("a document"),
            },
            problems: Vec::new(),
            pending: None,
            names: Vec::new(),
            token: None,
        };
        let (mut sources, mut supervisor) = (Sources::default(), Supervisor::new(None, 1));
        let mut version = |executors| {
            let judged = sources.take(vec![judged(executors)]);
            let version = judged[0].document.version;
            let now = fleet::time::Now::default();
            supervisor.step(fleet::supervisor::Input::Documents(judged), now);
            sources.prune(&supervisor);
            (version, sources.all["default/f"].len())
        };
        assert_eq!(version(1), (1, 1));
        assert_eq!(version(1), (1, 1));
        assert_eq!(version(2), (2, 1), "the one in force is the newest");
        assert_eq!(version(1), (3, 1), "the first was forgotten");
    }
}
