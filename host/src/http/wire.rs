//! The JSON of `/v1`. One set of types serves both ends: the daemon writes them, the command line reads
//! them. A reader ignores fields that it does not know, so that the daemon may be newer; what people send
//! is read strictly, so that a misspelt field is an error and not a surprise.

use std::collections::BTreeMap;

use fleet::guardrail::Refusal;
use fleet::id::ExecutorId;
use fleet::snapshot::{Explanation, Snapshot};
use serde::{Deserialize, Serialize};

use crate::handle;

// --------------------------------------------------------------------------------------- answers --

#[derive(Debug, Serialize, Deserialize)]
pub struct Fleets {
    /// In order of their names.
    pub fleets: Vec<Fleet>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    pub fleet: String,
    pub namespace: String,
    /// `own` or `observe`.
    pub mode: String,
    /// What it waits for as a whole, for instance `active`.
    pub phase: String,
    pub target: u32,
    pub counts: Counts,
    /// Code of a guard-rail -> how often it said no, since this host leads.
    pub refusals: BTreeMap<String, u64>,
    /// Those that hold.
    pub conditions: Vec<Condition>,
}

/// Numbers of executors, as [`fleet::snapshot::Counts`] says.
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
    /// By our cause, since the fleet began.
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
    /// In order of their ids.
    pub executors: Vec<Executor>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Executor {
    pub executor: u64,
    pub pod: String,
    pub node: Option<String>,
    /// What it waits for, for instance `available` or `awaiting-reason`.
    pub stage: String,
    /// `null`: it was not heard yet.
    pub since_heartbeat_ms: Option<u64>,
}

/// Why an executor is where it is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    pub executor: u64,
    /// `null`: it is not here any more.
    pub stage: Option<String>,
    /// Why it is not rolled, or why its roll does not go on. `null`: nothing is in the way.
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

/// A code for machines, and words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub code: String,
    pub message: String,
}

/// A command was taken on.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Accepted {
    /// Of those that were named: not every one need have been taken on. Empty where none was named.
    #[serde(default)]
    pub executors: Vec<ExecutorResult>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ExecutorResult {
    pub executor: u64,
    /// `null`: it was taken on.
    pub refused: Option<Reason>,
}

/// Every answer that is none.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    pub error: Reason,
    /// Of a kill of which nothing was taken on: why not, one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub executors: Vec<ExecutorResult>,
}

/// An event of `/v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Since the Unix epoch.
    pub at_ms: i64,
    pub fleet: String,
    /// For instance `ExecutorLost`.
    pub kind: String,
    pub executor: Option<u64>,
    pub message: String,
}

/// An event `lagged`: so many were missed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lagged {
    pub missed: u64,
}

// -------------------------------------------------------------------------------------- commands --

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roll {
    /// Without one: whom the policy picks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    pub executors: Vec<u64>,
    /// Without it the target goes down by as many as are killed.
    #[serde(default)]
    pub replace: bool,
    /// Without it executors with running tasks are spared.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// How many there should be.
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
            // The condition says it in words.
            impairments: _,
        } = overview;
        Fleet {
            fleet,
            namespace,
            mode: mode.to_owned(),
            phase: phase.to_owned(),
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
            kind: told.kind.to_owned(),
            executor: told.executor.map(|executor| executor.0),
            message: told.message.clone(),
        }
    }
}
