//! The read model: what HTTP, the command line and the status show.

use std::collections::BTreeMap;

use crate::id::ExecutorId;
use crate::question::{DeletionCause, LossKind};

/// A fleet at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub fleet: String,
    /// What the fleet waits for as a whole, for instance `active` or `awaiting-ledger`.
    pub phase: &'static str,
    /// How many executors there should be now: the spec's or an operator's number.
    pub target: u32,
    pub counts: Counts,
    /// What people should know, in order of their names.
    pub conditions: Vec<Condition>,
    pub executors: Vec<ExecutorRow>,
}

/// Numbers of executors. They add up at any moment:
/// `created = live + terminating + reason_pending + sum(lost) + sum(removed)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that came to be.
    pub created: u64,
    /// Of those: neither terminating nor lost nor removed.
    pub live: u64,
    /// A deletion was asked for, and the pod has not gone yet.
    pub terminating: u64,
    /// Lost, and the reason is still being asked for or recorded.
    pub reason_pending: u64,
    pub lost: BTreeMap<LossKind, u64>,
    pub removed: BTreeMap<DeletionCause, u64>,
    /// Running, registered, heartbeats fresh, not lost, not decommissioning.
    pub available: u64,
    /// Asked for, and not available yet.
    pub pending: u64,
    /// Being rolled.
    pub rolling: u64,
}

/// Something that holds of the fleet: a Kubernetes condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// CamelCase, for instance `BreakerOpen`.
    pub name: &'static str,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExecutorRow {
    pub executor: ExecutorId,
    pub pod: Box<str>,
    pub node: Option<Box<str>>,
    /// What it waits for, for instance `available` or `awaiting-reason`.
    pub stage: &'static str,
    pub since_heartbeat_ms: Option<u64>,
}
