//! The ExecutorFleet document, field by field. The comments of the fields are the descriptions in the schema, and the
//! `Default`s are the values of omitted fields: the core's, where the core knows the field.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;

use cluster::node::{Place, Sign, Signs};
use fleet::ledger::RESERVED_MAX;
use fleet::spec::{self, AllocationSpec, DRIVER_REPORT_MS, HeartbeatSpec, RecoverySpec, RollSpec};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::value::{Amount, JvmSize, Millis, NodePattern, TimeOfDay, TimeZone};
use crate::resource::Status;

/// The executors of one Spark application, kept at strength by Rollcall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecutorFleet {
    pub api_version: ApiVersion,
    pub kind: Kind,
    pub metadata: Metadata,
    pub spec: Spec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    #[serde(rename = "rollcall.dev/v1alpha1")]
    V1Alpha1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    ExecutorFleet,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The fleet's name: 1 to 46 of a-z, 0-9 and -. Executors are called NAME-exec-ID.
    pub name: String,
    /// The namespace of the driver's pod and the executors'.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// For other tools.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// For other tools.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "rollcall.dev",
    version = "v1alpha1",
    kind = "ExecutorFleet",
    root = "FleetResource",
    namespaced,
    status = "Status",
    doc = "The executors of one Spark application, kept at strength by Rollcall.",
    shortname = "fleets",
    shortname = "fleet",
    shortname = "ef",
    category = "rollcall",
    scale(
        spec_replicas_path = ".spec.executors",
        status_replicas_path = ".status.executors",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Target", type_ = "integer", json_path = ".status.target"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.available"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending", priority = "1"),
    printcolumn(name = "Terminating", type_ = "integer", json_path = ".status.terminating", priority = "1"),
    printcolumn(name = "Lost", type_ = "integer", json_path = ".status.lost"),
    printcolumn(name = "Rolled", type_ = "integer", json_path = ".status.rolled"),
    printcolumn(name = "Driver", type_ = "string", json_path = ".spec.driver.podName", priority = "1"),
    printcolumn(name = "Application", type_ = "string", json_path = ".status.applicationId", priority = "1"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[allow(clippy::duplicated_attributes, reason = "each column has a type, a path and a priority")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    pub mode: Mode,
    /// How many executors there should be. With mode Observe: how many the driver requests; 0 with dynamic allocation,
    /// and limits and rolls then count the existing executors.
    pub executors: u32,
    pub driver: Driver,
    /// Spark's application id. Without it: label spark-app-selector of the driver's pod.
    #[serde(default)]
    pub application_id: Option<String>,
    /// The id of the first executor. Only needed where an application has several fleets, for instance one for each of
    /// Spark's resource profiles: a fleet with this setting has 1,000,000 ids, a fleet without it has all.
    #[serde(default)]
    #[schemars(range(min = 1, max = FIRST_EXECUTOR_ID_MAX))]
    pub first_executor_id: Option<u64>,
    /// Who removes running executors when there are more than `executors`. Only with mode Own.
    #[serde(default)]
    pub scale_down: ScaleDown,
    /// Change nothing in the cluster.
    #[serde(default)]
    pub paused: bool,
    /// Evaluate the policies and report which executors they would roll (Event RollProposed), but change no pod.
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default)]
    pub heartbeat: Heartbeat,
    #[serde(default)]
    pub recovery: Recovery,
    #[serde(default)]
    pub allocation: Allocation,
    #[serde(default)]
    pub limits: Limits,
    /// When and how executors are rolled. Without it: never.
    #[serde(default)]
    pub roll: Option<Roll>,
    /// How a node is recognized as spot capacity, or as one that will be removed.
    #[serde(default)]
    pub nodes: Nodes,
    /// Settings of policies, by the policy's name.
    #[serde(default)]
    pub policies: BTreeMap<String, Map<String, Value>>,
    /// The name of the executor's container in its pod. Without it: the one with SPARK_EXECUTOR_ID in its environment,
    /// the one with the argument `executor`, the one called spark-kubernetes-executor, the only one. Spark:
    /// spark.kubernetes.executor.podTemplateContainerName.
    #[serde(default)]
    pub executor_container: Option<String>,
    /// How executors are started. Only with mode Own.
    #[serde(default)]
    pub spark: Option<Spark>,
    /// The PodTemplateSpec that executors are made from. Its fields are those of Kubernetes, and a field that Kubernetes
    /// does not know is rejected. Mode Own needs either this or executorPod; with mode Observe neither is allowed.
    #[serde(default)]
    #[schemars(schema_with = "pod_template")]
    pub template: Option<Value>,
    /// An executor's pod as Spark itself describes it: metadata with labels and annotations, and spec. Rollcall adds
    /// nothing to it but name, owner and the nodes to avoid, and substitutes `{{EXECUTOR_ID}}` in every text. Written by
    /// Rollcall's pods allocator for Spark's driver.
    #[serde(default)]
    #[schemars(schema_with = "pod_template")]
    pub executor_pod: Option<Value>,
    /// Spark's resource profile of the executors. Only with executorPod; with a template it is spark.resourceProfileId.
    #[serde(default)]
    #[schemars(range(max = i32::MAX))]
    pub resource_profile: Option<u32>,
}

/// Executor ids of a fleet with `firstExecutorId`.
pub const EXECUTOR_IDS: u64 = 1_000_000;
/// So that all of them are ids that the ledger accepts.
pub const FIRST_EXECUTOR_ID_MAX: u64 = RESERVED_MAX - EXECUTOR_IDS + 1;

fn pod_template(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["object", "null"], "x-kubernetes-preserve-unknown-fields": true })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Rollcall creates the executors' pods. The driver has spark.executor.instances=0.
    Own,
    /// Spark's driver creates them. Rollcall classifies losses and rolls.
    Observe,
}

/// Who removes running executors when there are too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScaleDown {
    /// Rollcall does, at once: first those that do not run, then the idle, then the youngest.
    #[default]
    Rollcall,
    /// Spark's driver does, when they are idle. Rollcall removes only those that do not run yet, and what the command
    /// `scale` makes superfluous. An executor that the driver ends while there are too many is not lost.
    Driver,
}

/// The application's driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Driver {
    /// Name of its pod, which owns all executors' pods.
    pub pod_name: String,
    /// Port of its REST API. Spark: spark.ui.port.
    #[serde(default = "default_rest_port")]
    pub rest_port: NonZeroU16,
    /// How often the REST API is polled for the executors' task counters.
    #[serde(default = "default_rest_interval")]
    pub rest_interval: Millis,
    /// An application's first executors are created when its REST API has answered, and at the latest after this time:
    /// executors cannot register with a driver that is still starting. 0s: at once.
    #[serde(default = "default_start_timeout")]
    pub start_timeout: Millis,
    /// Allow the driver to have a loopback address. For development.
    #[serde(default)]
    pub allow_loopback: bool,
    /// The REST API uses TLS. Spark: spark.ssl.ui.enabled, and restPort is spark.ssl.ui.port.
    #[serde(default)]
    pub rest_tls: Option<RestTls>,
    /// A file with a bearer token that the REST API requires, for instance for Spark's JWSFilter; read again for each
    /// request. Without restTls it is sent unencrypted.
    #[serde(default)]
    pub rest_token_file: Option<PathBuf>,
}

/// How the driver's REST API is authenticated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestTls {
    /// PEM: the CA of the driver's certificate, or the certificate itself if it is self-signed. Read again for each
    /// request.
    pub ca_file: PathBuf,
    /// The DNS name in the certificate. It is not resolved: the connection goes to the driver's pod. Without it the
    /// certificate must be for the pod's IP address.
    #[serde(default)]
    pub server_name: Option<String>,
}

fn default_rest_port() -> NonZeroU16 {
    NonZeroU16::new(4040).expect("4040 is not 0")
}

fn default_start_timeout() -> Millis {
    Millis(60_000)
}

fn default_rest_interval() -> Millis {
    Millis(DRIVER_REPORT_MS)
}

/// How executors report that they are alive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Heartbeat {
    /// An executor that is silent for longer than this is lost. Spark: spark.network.timeout.
    pub timeout: Millis,
    /// How often executors report: the period of Spark's GraphiteSink.
    pub interval: Millis,
    /// No heartbeats are expected: a running pod is an available executor.
    pub disabled: bool,
    /// The part before the application id in GraphiteSink's metric names: its prefix.
    pub graphite_prefix: String,
    /// The part that replaces the application id there. Spark: spark.metrics.namespace, as it is after Spark has
    /// substituted variables. Several fleets may have the same, if checkPeer is on in all of them.
    pub metrics_namespace: Option<String>,
    /// Additional metrics for policies, by their names after the executor id.
    pub columns: Vec<String>,
    /// A heartbeat must come from the address of the executor's pod. If off, a relay may send for all executors: at
    /// most 40,000 lines a second over one connection.
    pub check_peer: bool,
    /// A file with a bearer token that the HTTP heartbeat API accepts. For development.
    pub token_file: Option<PathBuf>,
}

impl Default for Heartbeat {
    fn default() -> Heartbeat {
        let core = HeartbeatSpec::default();
        Heartbeat {
            timeout: Millis(core.timeout_ms),
            interval: Millis(core.interval_ms),
            disabled: core.disabled,
            graphite_prefix: String::new(),
            metrics_namespace: None,
            columns: Vec::new(),
            check_peer: true,
            token_file: None,
        }
    }
}

/// What happens when executors are lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Recovery {
    /// Loss classifiers, asked in order. The last one is always SPARK.
    pub policies: Vec<String>,
    /// How many checks may be undetermined before the loss is classified as unknown.
    #[serde(alias = "checksMax")]
    pub max_checks: u32,
    /// Time between two checks.
    pub check_interval: Millis,
    /// How many pods of app-caused losses are kept for debugging.
    #[serde(alias = "keptPodsMax")]
    pub max_kept_pods: u32,
    /// How long they are kept.
    pub kept_pods_for: Millis,
    /// The fleet is Failed after more failures than this within the interval. Without it: the larger of 3 and twice the
    /// target. Spark: spark.executor.maxNumFailures.
    #[serde(alias = "failuresMax")]
    pub max_executor_failures: Option<u32>,
    /// Spark: spark.executor.failuresValidityInterval.
    #[serde(alias = "failuresWindow")]
    pub failures_validity_interval: Millis,
    /// Delete the driver's pod when the fleet has failed.
    pub failed_deletes_driver: bool,
}

impl Default for Recovery {
    fn default() -> Recovery {
        let core = RecoverySpec::default();
        Recovery {
            policies: core.policies,
            max_checks: core.max_checks,
            check_interval: Millis(core.check_interval_ms),
            max_kept_pods: core.max_kept_pods,
            kept_pods_for: Millis(core.kept_pods_ms),
            max_executor_failures: core.max_executor_failures,
            failures_validity_interval: Millis(core.failures_validity_interval_ms),
            failed_deletes_driver: core.failed_deletes_driver,
        }
    }
}

/// How executors are created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Allocation {
    /// Spark: spark.kubernetes.allocation.batch.size.
    pub batch_size: u32,
    /// Spark: spark.kubernetes.allocation.batch.delay.
    pub batch_delay: Millis,
    /// An executor that is pending, or running without a heartbeat, for longer than this is deleted and replaced.
    /// Spark: spark.kubernetes.allocation.executor.timeout.
    pub pending_timeout: Millis,
    /// How many may be pending at once. Without it: no limit. Spark: spark.kubernetes.allocation.maxPendingPods.
    #[serde(alias = "pendingMax")]
    pub max_pending_pods: Option<u32>,
    /// After this many failed starts in a row, executors are started one at a time.
    #[serde(alias = "startFailuresMax")]
    pub max_start_failures: u32,
    /// The first delay between such starts; it doubles.
    #[serde(alias = "backoffFirst")]
    pub initial_backoff: Millis,
    /// The maximum of that delay.
    #[serde(alias = "backoffLast")]
    pub max_backoff: Millis,
    /// A node that lost this many executors within the window is avoided.
    #[serde(alias = "nodeLossesMax")]
    pub max_node_losses: u32,
    pub node_window: Millis,
    /// How many nodes may be avoided at once: a number, or a share of all nodes.
    #[serde(alias = "avoidedNodesMax")]
    pub max_avoided_nodes: Amount,
}

impl Default for Allocation {
    fn default() -> Allocation {
        let core = AllocationSpec::default();
        Allocation {
            batch_size: core.batch_size,
            batch_delay: Millis(core.batch_delay_ms),
            pending_timeout: Millis(core.pending_timeout_ms),
            max_pending_pods: None,
            max_start_failures: core.max_start_failures,
            initial_backoff: Millis(core.initial_backoff_ms),
            max_backoff: Millis(core.max_backoff_ms),
            max_node_losses: core.max_node_losses,
            node_window: Millis(core.node_window_ms),
            max_avoided_nodes: Amount(core.max_avoided_nodes),
        }
    }
}

/// Limits that no policy can exceed. An amount is a number of executors, or a share of the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Live pods beyond the target. Shares round up, as Deployments' maxSurge.
    #[serde(alias = "surge")]
    pub max_surge: Amount,
    /// Executors short of the target that a voluntary removal may cause. Shares round down, as Deployments'
    /// maxUnavailable.
    #[serde(alias = "unavailable")]
    pub max_unavailable: Amount,
    /// Available executors that a voluntary removal must leave. Shares round up.
    #[serde(alias = "availableMin")]
    pub min_available: Amount,
    /// Pods that are being deleted, beyond the target and the surge. Shares round up.
    #[serde(alias = "terminating")]
    pub max_terminating: Amount,
    /// The maximum target, also for commands and the driver.
    #[serde(alias = "executorsMax")]
    pub max_executors: u32,
    /// More losses than this within the window are one incident: slow start, no rolls. At least 3.
    pub mass_loss: Amount,
    pub mass_loss_window: Millis,
}

impl Default for Limits {
    fn default() -> Limits {
        let core = spec::Limits::default();
        Limits {
            max_surge: Amount(core.max_surge),
            max_unavailable: Amount(core.max_unavailable),
            min_available: Amount(core.min_available),
            max_terminating: Amount(core.max_terminating),
            max_executors: core.max_executors,
            mass_loss: Amount(core.mass_loss),
            mass_loss_window: Millis(core.mass_loss_window_ms),
        }
    }
}

/// When and how executors are rolled: decommissioned, and replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Roll {
    /// Roll policies, asked in order. If none of them picks an executor, none is rolled.
    #[schemars(required, length(min = 1))]
    pub policies: Vec<String>,
    /// Spark: spark.kubernetes.executor.rollInterval.
    pub interval: Millis,
    /// How many executors a single decision may roll.
    #[serde(alias = "picksMax")]
    pub max_picks: u32,
    /// How many may be rolled in any hour.
    #[serde(alias = "perHourMax")]
    pub max_per_hour: u32,
    /// Executors with fewer tasks are not rolled. Spark:
    /// spark.kubernetes.executor.minTasksPerExecutorBeforeRolling.
    #[serde(alias = "tasksMin")]
    pub min_tasks: u32,
    /// Younger executors are not rolled.
    #[serde(alias = "ageMin")]
    pub min_age: Millis,
    /// Time between the end of a roll and the next decision.
    pub cool_down: Millis,
    /// How long a decommission may take. Without it: terminationGracePeriodSeconds of the pod.
    pub grace: Option<Millis>,
    /// A roll that has not finished after this time is abandoned.
    pub timeout: Millis,
    /// Rolls start only inside these windows. Without any: always.
    pub windows: Vec<Window>,
}

impl Default for Roll {
    fn default() -> Roll {
        let core = RollSpec::default();
        Roll {
            policies: core.policies,
            interval: Millis(core.interval_ms),
            max_picks: core.max_picks,
            max_per_hour: core.max_per_hour,
            min_tasks: core.min_tasks,
            min_age: Millis(core.min_age_ms),
            cool_down: Millis(core.cool_down_ms),
            grace: None,
            timeout: Millis(core.timeout_ms),
            windows: Vec::new(),
        }
    }
}

/// A daily or weekly span of local time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Window {
    /// Days on which it starts. Without them: every day.
    #[serde(default = "every_day")]
    pub days: Vec<Day>,
    /// Local time at which it starts, HH:MM.
    pub start: TimeOfDay,
    /// How long it is open: whole minutes, at most 24h. It may reach into the next day.
    pub duration: Millis,
    /// IANA name, for instance Europe/Berlin.
    #[serde(default = "TimeZone::utc")]
    pub time_zone: TimeZone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

fn every_day() -> Vec<Day> {
    vec![Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun]
}

/// How a node is recognized as spot capacity, or as one that will be removed. A list replaces its default. PATTERN is
/// KEY, KEY=VALUE, or PREFIX* for any key that begins with PREFIX.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Nodes {
    /// A node with one of these labels is spot capacity.
    pub spot_labels: Vec<NodePattern>,
    /// A node with one of these taints or labels will be removed.
    pub departures: Vec<Departure>,
    /// Mention a cordoned node (spec.unschedulable) in the losses of its executors, too.
    pub cordon: bool,
}

/// A pattern for a node that will be removed: either a taint or a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Departure {
    /// The taint's key, optionally with its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint: Option<NodePattern>,
    /// The label's key, optionally with its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<NodePattern>,
    pub kind: DepartureKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DepartureKind {
    /// The cloud provider reclaims it.
    Reclaimed,
    /// An autoscaler or an operator drains it.
    Drained,
}

impl Default for Nodes {
    fn default() -> Nodes {
        let Signs { spot, departures, cordon } = Signs::default();
        let departure = |sign: Sign| {
            let pattern = Some(NodePattern(sign.pattern));
            let (taint, label) = match sign.place {
                Place::Taint => (pattern, None),
                Place::Label => (None, pattern),
            };
            let kind = match sign.kind {
                fleet::question::DepartureKind::Reclaimed => DepartureKind::Reclaimed,
                // A cordon has its own setting, and no pattern.
                fleet::question::DepartureKind::Drained | fleet::question::DepartureKind::Cordoned => {
                    DepartureKind::Drained
                }
            };
            Departure { taint, label, kind }
        };
        Nodes {
            spot_labels: spot.into_iter().map(NodePattern).collect(),
            departures: departures.into_iter().map(departure).collect(),
            cordon,
        }
    }
}

/// How Rollcall starts executors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Spark {
    /// The driver's URL for executors. Without it: spark://CoarseGrainedScheduler@<IP of the driver's pod>:7078. Spark
    /// uses that port in cluster mode; in client mode set spark.driver.port to it.
    pub driver_url: Option<String>,
    /// Concurrent tasks. Spark: spark.executor.cores.
    pub executor_cores: NonZeroU32,
    /// The JVM's heap. Spark: spark.executor.memory.
    pub executor_memory: JvmSize,
    /// The user name for HDFS and similar services: SPARK_USER.
    pub user: Option<String>,
    /// SPARK_CONF_DIR in the container.
    pub conf_dir: String,
    /// Additional options of the JVM, one per item. `{{APP_ID}}` and `{{EXECUTOR_ID}}` are substituted. Spark:
    /// spark.executor.extraJavaOptions.
    pub java_options: Vec<String>,
    /// Spark's resource profile of the executors.
    #[schemars(range(max = i32::MAX))]
    pub resource_profile_id: u32,
    /// Executors migrate their blocks before they are removed, in a preStop hook. Spark: spark.decommission.enabled.
    pub decommission: bool,
    /// Keep the volume for shuffle files in memory, unless the template mounts one called spark-local-dir-*. Spark:
    /// spark.kubernetes.local.dirs.tmpfs.
    pub local_dirs_tmpfs: bool,
}

impl Default for Spark {
    fn default() -> Spark {
        Spark {
            driver_url: None,
            executor_cores: NonZeroU32::MIN,
            executor_memory: JvmSize::parse("1g").expect("1g is a JVM size"),
            user: None,
            conf_dir: "/opt/spark/conf".to_owned(),
            java_options: Vec::new(),
            resource_profile_id: 0,
            decommission: true,
            local_dirs_tmpfs: false,
        }
    }
}
