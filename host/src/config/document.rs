//! The ExecutorFleet document, field by field. The comments of the fields are what users read in the
//! schema, and the `Default`s are what holds when they write nothing.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;

use cluster::node::{Place, Sign, Signs};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::value::{Amount, JvmSize, Millis, NodePattern, TimeOfDay, TimeZone};

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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    pub mode: Mode,
    /// How many executors there should be. When observing: how many the driver is asked for; 0 with dynamic allocation,
    /// and whatever limits and rolls count is what there is.
    pub executors: u32,
    pub driver: Driver,
    /// Spark's application id. Without it: label spark-app-selector of the driver's pod.
    #[serde(default)]
    pub application_id: Option<String>,
    /// Change nothing in the cluster.
    #[serde(default)]
    pub paused: bool,
    /// Ask the policies and tell whom they would roll (Event RollProposed), but change no pod.
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
    /// What says that a node is spot capacity, or that it will go.
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
    /// The PodTemplateSpec that executors are made from. Required with mode Own, and only there. Its fields are
    /// Kubernetes' own, and one that Kubernetes does not know is refused.
    #[serde(default)]
    #[schemars(schema_with = "pod_template")]
    pub template: Option<Value>,
}

fn pod_template(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["object", "null"], "x-kubernetes-preserve-unknown-fields": true })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Rollcall creates the executors' pods. The driver has spark.executor.instances=0.
    Own,
    /// Spark's driver does. Rollcall classifies losses and rolls.
    Observe,
}

/// The application's driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Driver {
    /// Name of its pod, which owns every executor's.
    pub pod_name: String,
    /// Port of its REST API. Spark: spark.ui.port.
    #[serde(default = "default_rest_port")]
    pub rest_port: NonZeroU16,
    /// How often the REST API is asked for the executors' task counters.
    #[serde(default = "default_rest_interval")]
    pub rest_interval: Millis,
    /// An application's first executors are not created before its REST API has answered, nor later than
    /// this: one that is still starting has nowhere for them to register. 0s: at once.
    #[serde(default = "default_start_timeout")]
    pub start_timeout: Millis,
    /// The driver may have a loopback address. For development.
    #[serde(default)]
    pub allow_loopback: bool,
    /// The REST API speaks TLS. Spark: spark.ssl.ui.enabled, and restPort is spark.ssl.ui.port.
    #[serde(default)]
    pub rest_tls: Option<RestTls>,
    /// A file with a bearer token that the REST API wants, for instance for Spark's JWSFilter; read again with each
    /// question. Without restTls it goes over the network in clear.
    #[serde(default)]
    pub rest_token_file: Option<PathBuf>,
}

/// How the driver's REST API proves that it is the driver's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestTls {
    /// PEM: the CA of the driver's certificate, or the certificate itself if it is self-signed. Read again with each
    /// question.
    pub ca_file: PathBuf,
    /// The DNS name that the certificate is for. It is not looked up: the connection goes to the driver's pod. Without
    /// it the certificate has to be for the pod's IP address.
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
    Millis(10_000)
}

/// How executors say that they are alive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Heartbeat {
    /// Silent for longer than this is lost. Spark: spark.network.timeout.
    pub timeout: Millis,
    /// How often executors report: the period of Spark's GraphiteSink.
    pub interval: Millis,
    /// No heartbeats are expected: a running pod is an available executor.
    pub disabled: bool,
    /// What stands before the application id in GraphiteSink's metric names: its prefix.
    pub graphite_prefix: String,
    /// What stands there instead of the application id. Spark: spark.metrics.namespace, as it is after Spark has filled
    /// in variables. Fleets may have the same, if checkPeer is on in all of them.
    pub metrics_namespace: Option<String>,
    /// Metrics that policies get beside the usual ones, by their names behind the executor id.
    pub columns: Vec<String>,
    /// A heartbeat must come from the address of the pod that it speaks for. Off, a relay may speak for all: at
    /// most 40,000 lines a second over one connection.
    pub check_peer: bool,
    /// A file with a bearer token that the HTTP heartbeat API takes. For development.
    pub token_file: Option<PathBuf>,
}

impl Default for Heartbeat {
    fn default() -> Heartbeat {
        Heartbeat {
            timeout: Millis(120_000),
            interval: Millis(10_000),
            disabled: false,
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
    /// Loss classifiers, asked in order. The last resort is always SPARK.
    pub policies: Vec<String>,
    /// How many checks may end undetermined before the loss is settled as unknown.
    pub checks_max: u32,
    /// Time between two checks.
    pub check_interval: Millis,
    /// How many pods of app-caused losses are kept for debugging.
    pub kept_pods_max: u32,
    /// And for how long.
    pub kept_pods_for: Millis,
    /// More failures than this within the window, and the fleet is Failed. Without it: the larger of 3 and
    /// twice the target. Spark: spark.executor.maxNumFailures.
    pub failures_max: Option<u32>,
    /// Spark: spark.executor.failuresValidityInterval.
    pub failures_window: Millis,
    /// Delete the driver's pod when the fleet has failed.
    pub failed_deletes_driver: bool,
}

impl Default for Recovery {
    fn default() -> Recovery {
        Recovery {
            policies: Vec::new(),
            checks_max: 10,
            check_interval: Millis(1_000),
            kept_pods_max: 10,
            kept_pods_for: Millis(3_600_000),
            failures_max: None,
            failures_window: Millis(3_600_000),
            failed_deletes_driver: false,
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
    /// Pending, or running without a heartbeat, for longer than this: deleted and replaced. Spark:
    /// spark.kubernetes.allocation.executor.timeout.
    pub pending_timeout: Millis,
    /// How many may be pending at once. Without it: all. Spark: spark.kubernetes.allocation.maxPendingPods.
    pub pending_max: Option<u32>,
    /// After this many starts in a row that came to nothing only one is tried at a time.
    pub start_failures_max: u32,
    /// How long between such tries at first; it doubles.
    pub backoff_first: Millis,
    /// And at last.
    pub backoff_last: Millis,
    /// A node that lost this many executors within the window is avoided.
    pub node_losses_max: u32,
    pub node_window: Millis,
    /// How many nodes may be avoided at once: a number, or a share of all.
    pub avoided_nodes_max: Amount,
}

impl Default for Allocation {
    fn default() -> Allocation {
        Allocation {
            batch_size: 20,
            batch_delay: Millis(1_000),
            pending_timeout: Millis(600_000),
            pending_max: None,
            start_failures_max: 5,
            backoff_first: Millis(10_000),
            backoff_last: Millis(360_000),
            node_losses_max: 3,
            node_window: Millis(1_800_000),
            avoided_nodes_max: Amount::percent(20),
        }
    }
}

/// What no policy can widen. An amount is a number of executors, or a share of the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Live pods beyond the target. Shares round up, as Deployments' maxSurge.
    pub surge: Amount,
    /// Executors short of the target that a voluntary removal may cause. Shares round down, as Deployments'
    /// maxUnavailable.
    pub unavailable: Amount,
    /// Available executors that a voluntary removal must leave. Shares round up.
    pub available_min: Amount,
    /// Pods that are being deleted, beyond the target and the surge. Shares round up.
    pub terminating: Amount,
    /// The target may never be above this, whoever asks.
    pub executors_max: u32,
    /// Losses within the window beyond this are one incident: slow start, no rolls. At least 3.
    pub mass_loss: Amount,
    pub mass_loss_window: Millis,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            surge: Amount::percent(25),
            unavailable: Amount::percent(25),
            available_min: Amount::count(0),
            terminating: Amount::percent(100),
            executors_max: 10_000,
            mass_loss: Amount::percent(30),
            mass_loss_window: Millis(10_000),
        }
    }
}

/// When and how executors are rolled: decommissioned, and replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Roll {
    /// Roll policies, asked in order. When none answers, nobody is rolled.
    #[schemars(required, length(min = 1))]
    pub policies: Vec<String>,
    /// Spark: spark.kubernetes.executor.rollInterval.
    pub interval: Millis,
    /// How many executors a single decision may roll.
    pub picks_max: u32,
    /// How many may be rolled in any hour.
    pub per_hour_max: u32,
    /// Executors with fewer tasks are not rolled. Spark:
    /// spark.kubernetes.executor.minTasksPerExecutorBeforeRolling.
    pub tasks_min: u32,
    /// Younger executors are not rolled.
    pub age_min: Millis,
    /// Time between the end of a roll and the next decision.
    pub cool_down: Millis,
    /// How long a decommission may take. Without it: terminationGracePeriodSeconds of the pod.
    pub grace: Option<Millis>,
    /// A roll that is not through after this is given up.
    pub timeout: Millis,
    /// Rolls start only inside of these. None at all: always.
    pub windows: Vec<Window>,
}

impl Default for Roll {
    fn default() -> Roll {
        Roll {
            policies: Vec::new(),
            interval: Millis(3_600_000),
            picks_max: 1,
            per_hour_max: 60,
            tasks_min: 0,
            age_min: Millis(0),
            cool_down: Millis(0),
            grace: None,
            timeout: Millis(900_000),
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

/// What says that a node is spot capacity, or that it will go. A list that is given replaces the one that holds
/// without it. PATTERN is KEY, KEY=VALUE, or PREFIX* for any key that begins so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Nodes {
    /// A node with one of these labels is spot capacity.
    pub spot_labels: Vec<NodePattern>,
    /// A node with one of these taints or labels will go.
    pub departures: Vec<Departure>,
    /// A cordoned node (spec.unschedulable) is named in what is said of its executors' losses, too.
    pub cordon: bool,
}

/// A sign that a node will go: one of taint and label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Departure {
    /// A taint's key, and its value if that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint: Option<NodePattern>,
    /// A label's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<NodePattern>,
    pub kind: DepartureKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DepartureKind {
    /// The cloud takes it back.
    Reclaimed,
    /// An autoscaler or a person empties it.
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
                // A cordon has a setting of its own, and no pattern.
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

/// How executors are started, when Rollcall does it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Spark {
    /// Where the driver listens for executors. Without it: spark://CoarseGrainedScheduler@<IP of the driver's pod>:7078.
    /// Spark uses that port in cluster mode; in client mode set spark.driver.port to it.
    pub driver_url: Option<String>,
    /// Tasks at a time. Spark: spark.executor.cores.
    pub executor_cores: NonZeroU32,
    /// The JVM's heap. Spark: spark.executor.memory.
    pub executor_memory: JvmSize,
    /// Who executors are to HDFS and the like: SPARK_USER.
    pub user: Option<String>,
    /// SPARK_CONF_DIR in the container.
    pub conf_dir: String,
    /// More options of the JVM, each an item. `{{APP_ID}}` and `{{EXECUTOR_ID}}` are substituted. Spark:
    /// spark.executor.extraJavaOptions.
    pub java_options: Vec<String>,
    /// Spark's resource profile of the executors.
    #[schemars(range(max = i32::MAX))]
    pub resource_profile_id: u32,
    /// Executors that are removed hand over their blocks first, in a preStop hook. Spark:
    /// spark.decommission.enabled.
    pub decommission: bool,
    /// The volume for shuffle files is in memory, where the template mounts none called spark-local-dir-*. Spark:
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
