//! Rules that a document's types cannot express: which fields need each other, and which values are valid in Kubernetes
//! and in a JVM. The core judges the fleet's settings, not this module.

use std::collections::BTreeMap;

use embedded::server::names::{is_label, is_subdomain};
use serde_json::Value;
use tokio_rustls::rustls::pki_types::ServerName;

use super::document::{FIRST_EXECUTOR_ID_MAX, Mode, ScaleDown, Spark, Spec};
use super::{FleetConfig, Problem};
use crate::heartbeat::directory::{EXTRA_COLUMNS_MAX as COLUMNS_MAX, SHARED_REMEDY};
use crate::heartbeat::names::{self, NAME_MAX, is_name, is_namespace};

const WINDOWS_MAX: usize = 32;
const JAVA_OPTIONS_MAX: usize = 256;
const NODE_SIGNS_MAX: usize = 64;

/// Completes the document, and returns its problems.
pub(super) fn apply(config: &mut FleetConfig) -> Vec<Problem> {
    let spec = &mut config.fleet.spec;
    if spec.mode == Mode::Own && spec.executor_pod.is_none() {
        spec.spark.get_or_insert_with(Spark::default);
    }
    let mut rules = Rules { config, problems: Vec::new() };
    rules.names();
    rules.heartbeat();
    rules.roll();
    rules.nodes();
    rules.ids();
    match rules.spec().mode {
        Mode::Own => rules.own(),
        Mode::Observe => rules.observe(),
    }
    rules.problems
}

struct Rules<'a> {
    config: &'a FleetConfig,
    problems: Vec<Problem>,
}

impl<'a> Rules<'a> {
    fn spec(&self) -> &'a Spec {
        &self.config.fleet.spec
    }

    fn refuse_if(&mut self, wrong: bool, path: &str, message: &str, help: &str) {
        if wrong {
            self.problems.push(self.config.problem(path, message).help(help));
        }
    }

    fn names(&mut self) {
        let namespace = &self.config.fleet.metadata.namespace;
        self.refuse_if(
            !is_label(namespace),
            "metadata.namespace",
            &format!("{namespace:?} is not a namespace"),
            "1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends",
        );
        let driver = &self.spec().driver;
        self.refuse_if(
            !is_subdomain(&driver.pod_name),
            "spec.driver.podName",
            &format!("{:?} is not a pod's name", driver.pod_name),
            "write what `kubectl get pods` calls the driver",
        );
        let container = self.spec().executor_container.as_deref();
        self.refuse_if(
            container.is_some_and(|name| !is_label(name)),
            "spec.executorContainer",
            &format!("{:?} is not a container's name", container.unwrap_or_default()),
            "1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends",
        );
        self.refuse_if(
            driver.rest_interval.0 < 1_000,
            "spec.driver.restInterval",
            &format!("{} is less than 1s", driver.rest_interval),
            "the driver has other things to do",
        );
        let name = driver.rest_tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        self.refuse_if(
            name.is_some_and(|name| !is_dns_name(name)),
            "spec.driver.restTls.serverName",
            &format!("{:?} is not a DNS name", name.unwrap_or("")),
            "write a name that the driver's certificate is for; for its pod's IP address leave it out",
        );
    }

    fn heartbeat(&mut self) {
        let names = format!("1 to {NAME_MAX} of A-Z, a-z, 0-9, ., _ and -, and not only dots");
        let prefix = &self.spec().heartbeat.graphite_prefix;
        self.refuse_if(
            !prefix.is_empty() && !is_name(prefix),
            "spec.heartbeat.graphitePrefix",
            &format!("{prefix:?} is not what names of metrics begin with"),
            &names,
        );
        let namespace = self.spec().heartbeat.metrics_namespace.as_deref();
        let (path, shown) = ("spec.heartbeat.metricsNamespace", namespace.unwrap_or(""));
        let variable = shown.contains("${");
        self.refuse_if(
            variable,
            path,
            &format!("{shown:?} has a variable that only Spark knows"),
            "write what it stands for, for instance the application's name for ${spark.app.name}; for \
             ${spark.app.id} leave it out",
        );
        self.refuse_if(
            namespace.is_some_and(|namespace| !variable && !is_namespace(namespace)),
            path,
            &format!("{shown:?} cannot stand in a metric's name"),
            &format!(
                "1 to {NAME_MAX} bytes without control characters; where spark.metrics.namespace is not set, leave it out"
            ),
        );
        let columns = &self.spec().heartbeat.columns;
        self.refuse_if(
            columns.len() > COLUMNS_MAX,
            "spec.heartbeat.columns",
            &format!("{} columns", columns.len()),
            &format!("at most {COLUMNS_MAX}"),
        );
        for (at, name) in columns.iter().enumerate().take(COLUMNS_MAX) {
            let path = format!("spec.heartbeat.columns[{at}]");
            self.refuse_if(!is_name(name), &path, &format!("{name:?} is not the name of a metric"), &names);
            self.refuse_if(
                columns[..at].contains(name),
                &path,
                &format!("{name:?} is there twice"),
                "leave out one",
            );
        }
    }

    fn roll(&mut self) {
        let Some(roll) = &self.spec().roll else { return };
        self.refuse_if(
            roll.windows.len() > WINDOWS_MAX,
            "spec.roll.windows",
            &format!("{} windows", roll.windows.len()),
            &format!("at most {WINDOWS_MAX}"),
        );
        for (at, window) in roll.windows.iter().enumerate().take(WINDOWS_MAX) {
            self.refuse_if(
                !window.duration.0.is_multiple_of(60_000),
                &format!("spec.roll.windows[{at}].duration"),
                &format!("{} is not a number of whole minutes", window.duration),
                "write for instance 90m",
            );
        }
    }

    fn nodes(&mut self) {
        let nodes = &self.spec().nodes;
        for (field, count) in
            [("spotLabels", nodes.spot_labels.len()), ("departures", nodes.departures.len())]
        {
            self.refuse_if(
                count > NODE_SIGNS_MAX,
                &format!("spec.nodes.{field}"),
                &format!("{count} signs"),
                &format!("at most {NODE_SIGNS_MAX}"),
            );
        }
        for (at, sign) in nodes.departures.iter().enumerate().take(NODE_SIGNS_MAX) {
            self.refuse_if(
                sign.taint.is_some() == sign.label.is_some(),
                &format!("spec.nodes.departures[{at}]"),
                "needs either a taint or a label",
                "write for instance {taint: karpenter.sh/disrupted, kind: Drained}",
            );
        }
    }

    fn own(&mut self) {
        let help = "with mode Own Rollcall creates the pods, and needs a PodTemplateSpec to make them from";
        let Spec { template, executor_pod, .. } = self.spec();
        match (template, executor_pod) {
            (None, None) => self.refuse_if(true, "spec.template", "is required", help),
            (Some(template), None) => self.template(template, "spec.template"),
            (None, Some(pod)) => self.template(pod, "spec.executorPod"),
            (Some(_), Some(_)) => {
                let help = "executorPod is the whole pod, as Spark describes it: leave out one of the two";
                self.refuse_if(true, "spec.template", "cannot be combined with spec.executorPod", help);
            }
        }
        let help = "Spark has described the whole pod: leave it out";
        let both = executor_pod.is_some() && self.spec().spark.is_some();
        self.refuse_if(both, "spec.spark", "has no use with spec.executorPod", help);
        let profile = self.spec().resource_profile.filter(|_| executor_pod.is_none());
        self.refuse_if(
            profile.is_some(),
            "spec.resourceProfile",
            "has no use without spec.executorPod",
            "write spec.spark.resourceProfileId",
        );
        let Some(spark) = &self.spec().spark else { return };
        self.refuse_if(
            i32::try_from(spark.resource_profile_id).is_err(),
            "spec.spark.resourceProfileId",
            &format!("{} is more than {}", spark.resource_profile_id, i32::MAX),
            "0 is Spark's default profile",
        );
        self.refuse_if(
            i32::try_from(spark.executor_cores.get()).is_err(),
            "spec.spark.executorCores",
            &format!("{} is more than {}", spark.executor_cores, i32::MAX),
            "it is the number of tasks at a time",
        );
        let url = spark.driver_url.as_deref();
        self.refuse_if(
            url.is_some_and(|url| !url.starts_with("spark://CoarseGrainedScheduler@")),
            "spec.spark.driverUrl",
            &format!("{:?} is not where a driver listens", url.unwrap_or("")),
            "write spark://CoarseGrainedScheduler@HOST:PORT, or leave it out",
        );
        self.refuse_if(
            !spark.conf_dir.starts_with('/'),
            "spec.spark.confDir",
            &format!("{:?} is not an absolute path", spark.conf_dir),
            "Spark's images have it at /opt/spark/conf",
        );
        self.refuse_if(
            spark.java_options.len() > JAVA_OPTIONS_MAX,
            "spec.spark.javaOptions",
            &format!("{} options", spark.java_options.len()),
            &format!("at most {JAVA_OPTIONS_MAX}"),
        );
        for (at, option) in spark.java_options.iter().enumerate().take(JAVA_OPTIONS_MAX) {
            self.refuse_if(
                option.starts_with("-Xmx") || option.starts_with("-Xms"),
                &format!("spec.spark.javaOptions[{at}]"),
                &format!("{option:?} sets the heap"),
                "that is spec.spark.executorMemory",
            );
        }
    }

    fn ids(&mut self) {
        let first = self.spec().first_executor_id.unwrap_or(1);
        self.refuse_if(
            !(1..=FIRST_EXECUTOR_ID_MAX).contains(&first),
            "spec.firstExecutorId",
            &format!("{first} is not within 1 and {FIRST_EXECUTOR_ID_MAX}"),
            "write 1 + N x 1000000 for Spark's resource profile N",
        );
    }

    fn template(&mut self, template: &Value, path: &str) {
        let containers = template.pointer("/spec/containers").and_then(Value::as_array);
        self.refuse_if(
            containers.is_none_or(|containers| !containers.iter().any(Value::is_object)),
            &format!("{path}.spec.containers"),
            "there is no container",
            "write a PodTemplateSpec with the container that runs the executor",
        );
        let restart = template.pointer("/spec/restartPolicy");
        self.refuse_if(
            restart.is_some_and(|policy| policy != "Never"),
            &format!("{path}.spec.restartPolicy"),
            "must be Never, or left out",
            "an executor that ended is replaced by one with another id",
        );
    }

    fn observe(&mut self) {
        let help = "with mode Observe the driver creates the pods: leave it out, or use mode Own";
        self.refuse_if(self.spec().template.is_some(), "spec.template", "has no use", help);
        self.refuse_if(self.spec().spark.is_some(), "spec.spark", "has no use", help);
        self.refuse_if(self.spec().executor_pod.is_some(), "spec.executorPod", "has no use", help);
        self.refuse_if(self.spec().resource_profile.is_some(), "spec.resourceProfile", "has no use", help);
        let scales = self.spec().scale_down == ScaleDown::Driver;
        let help = "with mode Observe the driver removes executors in any case: leave it out";
        self.refuse_if(scales, "spec.scaleDown", "has no use", help);
    }
}

/// Documents whose executors' metric names begin alike, while one of them accepts lines from any address: their lines
/// could not be told apart.
pub(super) fn sharing(fleets: &[FleetConfig]) -> Vec<Problem> {
    let head = |config: &FleetConfig| {
        let heartbeat = &config.fleet.spec.heartbeat;
        let prefix = Some(&*heartbeat.graphite_prefix).filter(|prefix| !prefix.is_empty());
        let namespace =
            heartbeat.metrics_namespace.as_deref().or(config.fleet.spec.application_id.as_deref());
        namespace.map(|namespace| names::head(prefix, namespace))
    };
    let mut first: BTreeMap<String, &FleetConfig> = BTreeMap::new();
    let mut problems = Vec::new();
    for config in fleets {
        let Some(head) = head(config) else { continue };
        let Some(before) = first.get(&head) else {
            first.insert(head, config);
            continue;
        };
        if !(before.fleet.spec.heartbeat.check_peer && config.fleet.spec.heartbeat.check_peer) {
            let (name, file) = (&before.fleet.metadata.name, before.file.display());
            let field = if config.fleet.spec.heartbeat.metrics_namespace.is_some() {
                "spec.heartbeat.metricsNamespace"
            } else {
                "spec.applicationId"
            };
            let message = format!(
                "metrics of fleet {name} ({file}, document {}) begin with {head:?} as well, and one of the two takes \
                 them from any address",
                before.document
            );
            problems.push(config.problem(field, message).help(SHARED_REMEDY));
        }
    }
    problems
}

/// Neither a wildcard nor an address: what the TLS library takes as the name in a certificate.
fn is_dns_name(name: &str) -> bool {
    matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_)))
}
