//! Documents as data: what the supervisor needs of an ExecutorFleet document.

use crate::identity::{Claim, Identity, head, is_name, is_namespace};
use crate::observed::DriverPod;
use crate::spec::{FleetSpec, Mode};

/// One ExecutorFleet document.
#[derive(Clone, Debug)]
pub struct Document {
    /// `NAMESPACE/NAME`: unique among all documents.
    pub fleet: String,
    /// `metadata.namespace`: of the driver's pod and the executors' pods.
    pub namespace: String,
    /// `spec.driver.podName`.
    pub driver_pod: String,
    /// `spec.applicationId`. `None`: the driver's label `spark-app-selector` is used.
    pub application_id: Option<String>,
    /// The settings. The driver's UID and the application id are known only with the driver's pod.
    pub spec: FleetSpec,
    /// Executors are told the address of the driver's pod, so there can be none before it has one.
    pub needs_address: bool,
    /// `spec.heartbeat.metricsNamespace`. `None`: the application id. Spark: `spark.metrics.namespace`.
    pub metrics_namespace: Option<String>,
    /// `spec.heartbeat.graphitePrefix`: the prefix of Spark's GraphiteSink. `None`: no prefix.
    pub graphite_prefix: Option<String>,
    /// `spec.heartbeat.checkPeer`: metrics are accepted only from the addresses of the fleet's pods.
    pub check_peer: bool,
    /// Why no executor could be created from it, beside what the settings' own rules find.
    pub unusable: Option<String>,
    /// The same number, the same document, also in those parts that are not listed here.
    pub version: u64,
}

/// A document, and what is known of its validity.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The document, valid or not.
    pub document: Document,
    /// Why it is invalid. Empty: it is valid, as far as it is known.
    pub problems: Vec<String>,
    /// Why it is not known yet whether it is valid.
    pub pending: Option<String>,
    /// The policies that it names and that exist or may still be loaded.
    pub policies: Vec<String>,
}

impl Document {
    /// The settings, completed for this application.
    pub(super) fn spec_for(&self, driver: &DriverPod, application_id: &str) -> FleetSpec {
        FleetSpec {
            driver: driver.uid.clone(),
            application_id: application_id.to_owned(),
            ..self.spec.clone()
        }
    }

    /// Another pod is meant, or the pods have another owner: the fleet begins again.
    pub(super) fn is_another_fleet(&self, other: &Document) -> bool {
        (&self.namespace, &self.driver_pod, &self.application_id)
            != (&other.namespace, &other.driver_pod, &other.application_id)
            || (self.spec.mode, self.spec.ids) != (other.spec.mode, other.spec.ids)
    }

    /// From the document, else from the label of the driver's pod.
    pub(super) fn application_id_of(&self, driver: &DriverPod) -> Result<String, String> {
        let id = self.application_id.as_deref().or(driver.application_id.as_deref());
        id.map(str::to_owned).ok_or_else(|| {
            format!(
                "driver pod {} has no label spark-app-selector; set spec.applicationId, or label the pod",
                driver.name
            )
        })
    }

    /// What is still missing before executors can be created.
    pub(super) fn can_create(&self, driver: &DriverPod) -> Result<(), String> {
        if self.spec.mode == Mode::Own && self.needs_address && driver.address.is_none() {
            return Err(format!("driver pod {} has no address yet", driver.name));
        }
        self.unusable.clone().map_or(Ok(()), Err)
    }

    /// The names of its heartbeats.
    pub(super) fn identity(&self, application_id: &str) -> Result<Identity, String> {
        let name = |field: &str, value: &str| {
            let wrong =
                || format!("{field}: {value:?} must be 1 to 253 of `A-Z a-z 0-9 . _ -`, and not only dots");
            if is_name(value) { Ok(()) } else { Err(wrong()) }
        };
        name("applicationId", application_id)?;
        if let Some(prefix) = &self.graphite_prefix {
            name("graphitePrefix", prefix)?;
        }
        let namespace = self.metrics_namespace.as_deref();
        if let Some(value) = namespace.filter(|value| !is_namespace(value)) {
            return Err(format!(
                "metricsNamespace: {value:?} must be 1 to 253 bytes that are not all white space"
            ));
        }
        Ok(Identity {
            namespace: self.namespace.clone(),
            application_id: application_id.to_owned(),
            ids: self.spec.ids,
            head: head(self.graphite_prefix.as_deref(), namespace.unwrap_or(application_id)),
            check_peer: self.check_peer,
        })
    }

    pub(super) fn claim(&self, driver: &DriverPod) -> Claim {
        Claim {
            documented: self.application_id.is_some(),
            since_ms: driver.created_at_ms.unwrap_or(i64::MAX),
            driver: Some(driver.uid.clone()),
            fleet: self.fleet.clone(),
        }
    }
}
