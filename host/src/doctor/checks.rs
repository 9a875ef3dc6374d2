//! The checks: each is a pure function of the facts.

mod heartbeats;
mod network;
mod pods;
mod rest;
mod rights;
mod spark;
mod timeouts;

use super::facts::{Checked, Facts};

pub use heartbeats::{metrics_namespace, rollcall_sink};
pub use rest::port as rest_port;
pub use rights::needed as needed_rights;
pub use spark::{Creates, creates};
pub use timeouts::driver_timeout;

pub type Check = fn(&Facts) -> Checked;

/// All checks, by the names that the report gives them.
pub const ALL: &[(&str, Check)] = &[
    ("driver-pod", pods::driver),
    ("executor-pods", pods::executors),
    ("warning-events", pods::warnings),
    ("daemon", pods::daemon),
    ("decommission", spark::decommission),
    ("storage-decommission", spark::storage_decommission),
    ("fetch-failures", spark::fetch_failures),
    ("fallback-storage", spark::fallback_storage),
    ("executor-roll-plugin", spark::roll_plugin),
    ("executor-instances", spark::instances),
    ("own-mode-settings", spark::own_mode),
    ("rest-api", rest::api),
    ("rest-settings", rest::settings),
    ("graphite-sink", heartbeats::sink),
    ("metrics-namespace", heartbeats::namespace),
    ("heartbeat-timeout", timeouts::heartbeat),
    ("executor-heartbeat-interval", timeouts::interval),
    ("termination-grace", timeouts::grace),
    ("decommission-timeouts", timeouts::decommission),
    ("permissions", rights::all),
    ("network-to-rollcall", network::to_rollcall),
    ("network-to-driver", network::to_driver),
];
