//! The JSON of `/v1`. Server and client share one set of types: the daemon writes them, the command line reads them. A
//! reader ignores unknown fields, so that the daemon may be newer; requests are parsed strictly, so that a misspelt
//! field is an error.

use std::collections::BTreeMap;

use fleet::guardrail::Refusal;
use fleet::id::ExecutorId;
use fleet::snapshot::{Explanation, Snapshot};
use serde::{Deserialize, Serialize};

use crate::handle;

// --------------------------------------------------------------------------------------- answers --

#[derive(Debug, Serialize, Deserialize)]
pub struct Fleets {
    /// Ordered by name.
    pub fleets: Vec<Fleet>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    pub fleet: String,
    pub namespace: String,
    /// `own` or `observe`.
    pub mode: String,
    /// The state of the whole fleet, for instance `active`.
    pub phase: String,
    pub target: u32,
    pub counts: Counts,
    /// Code of a guard-rail -> number of its rejections since this replica leads.
    pub refusals: BTreeMap<String, u64>,
    /// The conditions that are true.
    pub conditions: Vec<Condition>,
    /// Spark's application id; `null`: the driver is not known yet.
    #[serde(default)]
    pub application_id: Option<String>,
    /// Why its newest document is refused. Empty: it is in force.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Numbers of executors, as in [`fleet::snapshot::Counts`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub created: u64,
    pub live: u64,
    pub available: u64,
    pub pending: u64,
    pub rolling: u64,
    pub terminating: u64,
    pub reason_pending: u64,
    /// By kind of loss, since the fleet began.
    pub lost: BTreeMap<String, u64>,
    /// By Rollcall's cause, since the fleet began.
    pub removed: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Condition {
    /// CamelCase, for instance `BreakerOpen`.
    #[serde(rename = "type")]
    pub name: String,
    pub message: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Executors {
    pub fleet: String,
    /// Ordered by id.
    pub executors: Vec<Executor>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Executor {
    pub executor: u64,
    pub pod: String,
    pub node: Option<String>,
    /// The stage, for instance `available` or `awaiting-reason`.
    pub stage: String,
    /// `null`: no heartbeat yet.
    pub since_heartbeat_ms: Option<u64>,
}

/// Why an executor is in its state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    pub executor: u64,
    /// `null`: the executor is gone.
    pub stage: Option<String>,
    /// Why it is not rolled, or why its roll does not continue. `null`: nothing prevents it.
    pub not_rolled: Option<Reason>,
    /// The oldest first.
    pub history: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Since the Unix epoch.
    pub at_ms: i64,
    pub text: String,
}

/// A code for machines, and a message for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub code: String,
    pub message: String,
}

/// A command was accepted.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Accepted {
    /// The result for each named executor: some may be rejected. Empty if none was named.
    #[serde(default)]
    pub executors: Vec<ExecutorResult>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ExecutorResult {
    pub executor: u64,
    /// `null`: accepted.
    pub refused: Option<Reason>,
}

/// The body of every error, as `http::error` writes it.
#[derive(Debug, Deserialize)]
pub struct Failure {
    pub error: Reason,
    /// If a kill was rejected completely: the reason for each executor.
    #[serde(default)]
    pub executors: Vec<ExecutorResult>,
}

/// An event of `/v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Since the Unix epoch.
    pub at_ms: i64,
    pub fleet: String,
    #[serde(default)]
    pub namespace: String,
    /// For instance `ExecutorLost`.
    pub kind: String,
    pub executor: Option<u64>,
    pub message: String,
}

/// An event `lagged`: the number of events missed at this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lagged {
    pub missed: u64,
}

// -------------------------------------------------------------------------------------- commands --

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roll {
    /// `None`: the policy picks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    pub executors: Vec<u64>,
    /// If false, the target is reduced by the number of killed executors.
    #[serde(default)]
    pub replace: bool,
    /// If false, executors with running tasks are spared.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The new target.
    pub executors: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

// --------------------------------------------------------------------- from what the loop says --

impl From<handle::Overview> for Fleet {
    fn from(overview: handle::Overview) -> Fleet {
        let handle::Overview {
            fleet,
            namespace,
            mode,
            phase,
            target,
            counts,
            refusals,
            conditions,
            // The condition describes them.
            impairments: _,
            application_id,
            // Of objects, whose status shows them.
            generation: _,
            problems,
        } = overview;
        Fleet {
            fleet,
            namespace,
            mode: mode.to_owned(),
            phase: phase.to_owned(),
            application_id,
            problems,
            target,
            counts: counts.into(),
            refusals: refusals.into_iter().map(|(why, count)| (why.code().to_owned(), count)).collect(),
            conditions: conditions
                .into_iter()
                .map(|condition| Condition { name: condition.name.to_owned(), message: condition.message })
                .collect(),
        }
    }
}

impl From<fleet::snapshot::Counts> for Counts {
    fn from(counts: fleet::snapshot::Counts) -> Counts {
        let fleet::snapshot::Counts {
            created,
            live,
            terminating,
            reason_pending,
            lost,
            removed,
            available,
            pending,
            rolling,
        } = counts;
        Counts {
            created,
            live,
            available,
            pending,
            rolling,
            terminating,
            reason_pending,
            lost: lost.into_iter().map(|(kind, count)| (kind.name().to_owned(), count)).collect(),
            removed: removed.into_iter().map(|(why, count)| (why.name().to_owned(), count)).collect(),
        }
    }
}

impl From<Snapshot> for Executors {
    fn from(snapshot: Snapshot) -> Executors {
        let rows = snapshot.executors.into_iter().map(|row| Executor {
            executor: row.executor.0,
            pod: row.pod.into(),
            node: row.node.map(String::from),
            stage: row.stage.to_owned(),
            since_heartbeat_ms: row.since_heartbeat_ms,
        });
        Executors { fleet: snapshot.fleet, executors: rows.collect() }
    }
}

impl From<Explanation> for Explained {
    fn from(explanation: Explanation) -> Explained {
        let entry = |entry: fleet::log::Entry| Entry { at_ms: entry.at.wall_ms, text: entry.text.into() };
        Explained {
            executor: explanation.executor.0,
            stage: explanation.stage.map(str::to_owned),
            not_rolled: explanation.not_rolled.map(Reason::from),
            history: explanation.history.into_iter().map(entry).collect(),
        }
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Reason {
        Reason { code: refusal.code().to_owned(), message: refusal.meaning().to_owned() }
    }
}

impl From<(ExecutorId, Result<(), Refusal>)> for ExecutorResult {
    fn from((executor, result): (ExecutorId, Result<(), Refusal>)) -> ExecutorResult {
        ExecutorResult { executor: executor.0, refused: result.err().map(Reason::from) }
    }
}

impl From<&handle::Told> for Told {
    fn from(told: &handle::Told) -> Told {
        Told {
            at_ms: told.at_ms,
            fleet: told.fleet.clone(),
            namespace: told.namespace.clone(),
            kind: told.kind.to_owned(),
            executor: told.executor.map(|executor| executor.0),
            message: told.message.clone(),
        }
    }
}
