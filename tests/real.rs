//! The daemon against the real software: a kube-apiserver with etcd, and kwok as all kubelets.
//!
//! Needs the output of `tests/tools/build.sh`; without it these tests are skipped, and print one line about that.

#![allow(clippy::unwrap_used, reason = "a test may panic; what went wrong is in the error")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

mod admission;
mod anywhere;
mod authority;
mod budget;
mod chart;
mod conformance;
mod control_plane;
mod credentials;
mod daemon;
mod doctor;
mod evidence;
mod failover;
mod history;
mod judge;
mod kubelet;
mod leaders;
mod losses;
mod metrics;
mod namespace;
mod observer;
mod process;
mod resources;
mod rights;
mod scale;
mod spark;
mod stage;
mod versus;

/// The directory of the control plane's programs.
fn tools() -> Option<PathBuf> {
    enabled(
        "a real control plane",
        "ROLLCALL_CONTROL_PLANE",
        "export ROLLCALL_CONTROL_PLANE=$(tests/tools/build.sh)",
    )
    .map(PathBuf::from)
}

/// The value of this variable. Without it a tier is skipped, and how to enable it is printed once for all of its tests,
/// and not into the captured output, because that of a passed test is not shown.
fn enabled(tier: &str, variable: &'static str, how: &str) -> Option<OsString> {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let value = std::env::var_os(variable);
    if value.is_none() && SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(variable) {
        // Unlike `eprintln!`, this is not captured; and one write is one line, even with concurrent writers.
        let line = format!("skipped: tests on {tier}; to run them, {how}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    value
}
