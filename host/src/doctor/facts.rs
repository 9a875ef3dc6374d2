//! What is known about one application and its surroundings. What could not be found out is a fact, too: the checks
//! that need it did not run, which is not the same as nothing found.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

pub use super::settings::Known;
use super::settings::Settings;
use crate::config::document::{Mode, Spec};

pub type Labels = BTreeMap<String, String>;

/// The label of Rollcall's own pods.
pub const ROLLCALL_LABEL: (&str, &str) = ("app.kubernetes.io/name", "rollcall");
/// The port of Rollcall's Graphite listener: `rollcall run --graphite`.
pub const GRAPHITE_PORT: u16 = 2003;

pub struct Facts {
    /// The name of the driver's pod.
    pub driver_name: String,
    pub driver: Known<Pod>,
    /// At most a few hundred of its live executors.
    pub executors: Known<Vec<Pod>>,
    pub settings: Known<Settings>,
    /// Whether the driver's REST API was asked, and answered.
    pub rest: Known<()>,
    pub fleet: Fleet,
    /// Warnings about the application's pods.
    pub warnings: Known<Vec<Warning>>,
    pub rights: Known<Vec<Right>>,
    /// Of the application.
    pub namespace: Namespace,
    /// Rollcall's own.
    pub home: Namespace,
    pub account: String,
    pub daemons: Known<Vec<Pod>>,
    pub services: Known<Vec<Service>>,
}

/// An Event of type Warning, as far as it is read.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
    pub count: Option<u32>,
    pub involved_object: Involved,
}

#[derive(Clone, Deserialize)]
pub struct Involved {
    #[serde(default)]
    pub name: String,
}

/// What Rollcall expects of the application.
pub struct Fleet {
    /// The document's; without one, the defaults.
    pub spec: Spec,
    /// Where the document is.
    pub document: Option<String>,
    /// It is an object of the API server.
    pub object: bool,
}

pub struct Namespace {
    pub name: String,
    pub labels: Known<Labels>,
    pub policies: Known<Vec<NetworkPolicy>>,
}

/// A permission of Rollcall's service account.
#[derive(Clone, Debug, PartialEq)]
pub struct Right {
    pub scope: Scope,
    pub group: &'static str,
    /// With its subresource: `pods/eviction`.
    pub resource: &'static str,
    pub verb: &'static str,
    pub allowed: bool,
}

/// Which manifest grants a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the application's namespace.
    Fleet,
    /// Notices for people, there.
    Events,
    /// The Lease, in Rollcall's own namespace.
    Lease,
    Nodes,
    /// ExecutorFleet objects.
    Objects,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It will not work.
    Error,
    /// It works badly.
    Warning,
    Advice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Advice => "advice",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub code: &'static str,
    pub severity: Severity,
    /// What is.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What to set: settings of Spark, fields of the fleet's document, or commands.
    pub set: Vec<String>,
    /// The class of Spark or the field of Kubernetes that it comes from.
    pub source: &'static str,
}

/// The findings of a check; an error says why it could not run.
pub type Checked = Known<Vec<Finding>>;

impl Finding {
    fn new(
        severity: Severity,
        code: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
    ) -> Finding {
        Finding { code, severity, what: what.into(), why: why.into(), set: Vec::new(), source: "" }
    }

    pub fn error(code: &'static str, what: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding::new(Severity::Error, code, what, why)
    }

    pub fn warning(code: &'static str, what: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, code, what, why)
    }

    pub fn advice(code: &'static str, what: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding::new(Severity::Advice, code, what, why)
    }

    pub fn set(mut self, line: impl Into<String>) -> Finding {
        self.set.push(line.into());
        self
    }

    pub fn set_all(mut self, lines: Vec<String>) -> Finding {
        self.set.extend(lines);
        self
    }

    pub fn source(mut self, source: &'static str) -> Finding {
        self.source = source;
        self
    }
}

impl Facts {
    pub fn own(&self) -> bool {
        self.fleet.spec.mode == Mode::Own
    }

    pub fn settings(&self) -> Known<&Settings> {
        self.settings.as_ref().map_err(Clone::clone)
    }

    pub fn driver(&self) -> Known<&Pod> {
        self.driver.as_ref().map_err(Clone::clone)
    }

    /// Live executors; there is at least one.
    pub fn executors(&self) -> Known<&[Pod]> {
        let executors = self.executors.as_ref().map_err(Clone::clone)?;
        if executors.is_empty() {
            Err("the application has no live executor".to_owned())
        } else {
            Ok(executors)
        }
    }

    /// Where executors reach Rollcall: `HOST`, as GraphiteSink should have it, and the port.
    pub fn graphite(&self) -> (String, u16) {
        let home = &self.home.name;
        let service = self.graphite_services().ok().and_then(|all| all.into_iter().next());
        service.map_or_else(
            || (format!("rollcall.{home}"), GRAPHITE_PORT),
            |(service, port)| (format!("{}.{home}", service.name_any()), port),
        )
    }

    /// Rollcall's Services with a port for Graphite.
    pub fn graphite_services(&self) -> Known<Vec<(&Service, u16)>> {
        let services = self.services.as_ref().map_err(Clone::clone)?;
        let port = |service: &Service| {
            let ports = service.spec.as_ref()?.ports.as_ref()?;
            let port = ports.iter().find(|port| {
                port.name.as_deref() == Some("graphite") || port.port == i32::from(GRAPHITE_PORT)
            })?;
            u16::try_from(port.port).ok()
        };
        Ok(services.iter().filter_map(|service| Some((service, port(service)?))).collect())
    }
}

pub fn ips(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let all =
        status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
    let one = status.and_then(|status| status.pod_ip.as_deref());
    let mut ips: Vec<IpAddr> = all.chain(one).filter_map(|ip| ip.parse().ok()).collect();
    ips.dedup();
    ips
}
