//! Evidence of a loss as JSON: the contract's `evidence` record in camelCase, its enums in kebab-case.

use anyhow::Result;
use cluster::node::Signs;
use fleet::question as q;
use serde::Deserialize;
use serde_json::Value;

use super::input::{at, yes};

pub fn evidence(document: &Value, now_ms: i64) -> Result<q::Evidence> {
    let Evidence {
        fleet,
        application_id,
        executor_id,
        pod_name,
        now_ms: asked_ms,
        trigger,
        lost_at_ms,
        checks_made,
        checks_max,
        ever_registered,
        since_heartbeat_ms,
        our_deletion,
        driver,
        driver_remove_reason,
        pod,
        node,
    } = at(document, "")?;
    Ok(q::Evidence {
        fleet,
        application_id,
        executor_id,
        pod_name,
        now_ms: asked_ms.unwrap_or(now_ms),
        trigger: trigger.into(),
        lost_at_ms: lost_at_ms.or(asked_ms).unwrap_or(now_ms),
        checks_made,
        checks_max,
        ever_registered,
        since_heartbeat_ms,
        our_deletion: our_deletion.map(|Deletion { why, at_ms }| q::Deletion { why: why.into(), at_ms }),
        driver: driver.into(),
        driver_remove_reason,
        pod: pod.map(Into::into),
        node: node.map(Into::into),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Evidence {
    #[serde(default)]
    fleet: String,
    #[serde(default)]
    application_id: String,
    #[serde(default)]
    executor_id: u64,
    #[serde(default)]
    pod_name: String,
    now_ms: Option<i64>,
    trigger: Trigger,
    lost_at_ms: Option<i64>,
    #[serde(default)]
    checks_made: u32,
    #[serde(default = "checks_max")]
    checks_max: u32,
    #[serde(default = "yes")]
    ever_registered: bool,
    since_heartbeat_ms: Option<u64>,
    our_deletion: Option<Deletion>,
    #[serde(default)]
    driver: Driver,
    driver_remove_reason: Option<String>,
    pod: Option<Pod>,
    node: Option<NodeState>,
}

/// The number of checks that SAR made.
fn checks_max() -> u32 {
    10
}

/// A copy of a core enum that serde can read, and the conversion back.
macro_rules! mirror {
    ($name:ident { $($variant:ident),+ }) => {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum $name { $($variant),+ }

        impl From<$name> for q::$name {
            fn from(value: $name) -> Self {
                match value { $($name::$variant => q::$name::$variant),+ }
            }
        }
    };
}

mirror!(Trigger {
    HeartbeatTimeout,
    PodFailed,
    PodSucceeded,
    PodDeleted,
    PodMissing,
    DriverRemoved,
    PendingTimeout,
    OperatorKill
});
mirror!(DeletionCause { Roll, ScaleDown, Kill, PendingTimeout, Lost, FleetRemoved });
mirror!(Driver { Unknown, Running, Gone });
mirror!(ContainerRole { Executor, Sidecar, Init });
mirror!(DepartureKind { Reclaimed, Drained, Cordoned });

#[expect(clippy::derivable_impls, reason = "the macro cannot mark a default variant")]
impl Default for Driver {
    fn default() -> Self {
        Driver::Unknown
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Deletion {
    why: DeletionCause,
    at_ms: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Pod {
    phase: String,
    reason: Option<String>,
    message: Option<String>,
    #[serde(default)]
    gone: bool,
    created_at_ms: Option<i64>,
    deletion_at_ms: Option<i64>,
    deletion_grace_ms: Option<u64>,
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    containers: Vec<Container>,
    node_name: Option<String>,
    #[serde(default)]
    scheduling_gates: Vec<String>,
}

impl From<Pod> for q::Pod {
    fn from(pod: Pod) -> Self {
        let Pod {
            phase,
            reason,
            message,
            gone,
            created_at_ms,
            deletion_at_ms,
            deletion_grace_ms,
            conditions,
            containers,
            node_name,
            scheduling_gates,
        } = pod;
        let conditions = conditions.into_iter().map(|c| {
            let Condition { name, status, reason, message } = c;
            q::Condition { name, status, reason, message }
        });
        q::Pod {
            phase,
            reason,
            message,
            gone,
            created_at_ms,
            deletion_at_ms,
            deletion_grace_ms,
            conditions: conditions.collect(),
            containers: containers.into_iter().map(Into::into).collect(),
            node_name,
            scheduling_gates,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    name: String,
    status: String,
    reason: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Container {
    name: String,
    role: ContainerRole,
    state: ContainerState,
    last_terminated: Option<Terminated>,
    #[serde(default)]
    restart_count: u32,
}

impl From<Container> for q::Container {
    fn from(container: Container) -> Self {
        let Container { name, role, state, last_terminated, restart_count } = container;
        q::Container {
            name,
            role: role.into(),
            state: match state {
                ContainerState::Waiting { reason, message } => q::ContainerState::Waiting { reason, message },
                ContainerState::Running { started_at_ms } => q::ContainerState::Running { started_at_ms },
                ContainerState::Terminated(end) => q::ContainerState::Terminated(end.into()),
            },
            last_terminated: last_terminated.map(|ended| Box::new(ended.into())),
            restart_count,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
enum ContainerState {
    Waiting { reason: Option<String>, message: Option<String> },
    Running { started_at_ms: Option<i64> },
    Terminated(Terminated),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Terminated {
    exit_code: i32,
    signal: Option<i32>,
    reason: Option<String>,
    message: Option<String>,
    started_at_ms: Option<i64>,
    finished_at_ms: Option<i64>,
}

impl From<Terminated> for q::Terminated {
    fn from(end: Terminated) -> Self {
        let Terminated { exit_code, signal, reason, message, started_at_ms, finished_at_ms } = end;
        q::Terminated { exit_code, signal, reason, message, started_at_ms, finished_at_ms }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeState {
    name: String,
    #[serde(default)]
    gone: bool,
    #[serde(default = "unknown")]
    ready: String,
    reason: Option<String>,
    #[serde(default)]
    cordoned: bool,
    #[serde(default)]
    taints: Vec<String>,
    #[serde(default)]
    spot: bool,
    /// Without it, the default node patterns are applied to the taints and the cordon.
    departures: Option<Vec<Departure>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Departure {
    kind: DepartureKind,
    sign: String,
}

fn unknown() -> String {
    "Unknown".into()
}

impl From<NodeState> for q::NodeState {
    fn from(node: NodeState) -> Self {
        let NodeState { name, gone, ready, reason, cordoned, taints, spot, departures } = node;
        let departures = match departures {
            Some(given) => {
                let given = given.into_iter();
                given.map(|Departure { kind, sign }| q::Departure { kind: kind.into(), sign }).collect()
            }
            None => {
                let keys: Vec<_> = taints.iter().map(|taint| (key(taint), None)).collect();
                Signs::default().departures(&keys, &[], cordoned)
            }
        };
        q::NodeState { name, gone, ready, reason, cordoned, taints, spot, departures }
    }
}

/// A taint may also be written as kubectl writes it, `key=value:Effect`.
fn key(taint: &str) -> &str {
    taint.split(['=', ':']).next().unwrap_or_default()
}
