//! `status` of an ExecutorFleet.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What Rollcall last saw and did. Written by the leader alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// `metadata.generation` of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// For instance active, awaiting-driver, paused.
    pub phase: String,
    /// Executors that are neither terminating, lost nor removed.
    pub executors: u32,
    /// Labels of their pods: the selector of the scale subresource.
    pub selector: String,
    /// How many there should be, after commands and the driver's own wishes.
    pub target: u32,
    /// Executors that run, are registered, send heartbeats and are not leaving.
    pub available: u32,
    /// Executors that were requested and are not available yet.
    pub pending: u32,
    /// Executors whose deletion was requested.
    pub terminating: u32,
    /// Executors lost, since the fleet began.
    pub lost: u64,
    /// Executors rolled, since the fleet began.
    pub rolled: u64,
    /// Spark's application id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_id: Option<String>,
    /// The last losses, the newest first.
    pub last_losses: Vec<Loss>,
    /// The last roll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_roll: Option<Loss>,
    /// In Kubernetes' form.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// `status` of an ExecutorFleetClass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClassStatus {
    /// `metadata.generation` of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Drivers that have a fleet by this class.
    pub fleets: u32,
    /// Accepted; Overlapping: drivers match another class as well, and which of the two has them.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// An executor that is gone, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    pub executor: u64,
    /// RFC 3339.
    pub time: String,
    /// As in the Event.
    pub message: String,
}

/// As `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// CamelCase, for machines.
    pub reason: String,
    pub message: String,
    /// RFC 3339: when the status last changed.
    pub last_transition_time: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub observed_generation: Option<i64>,
}
