//! The daemon against the software that it is for: a real kube-apiserver over a real etcd, with kwok as all kubelets.
//!
//! Needs what `tests/tools/build.sh` builds; without it these tests do nothing and say so, in one line.

#![allow(clippy::unwrap_used, reason = "a test may panic; what went wrong is in the error")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

mod admission;
mod anywhere;
mod budget;
mod conformance;
mod control_plane;
mod credentials;
mod daemon;
mod evidence;
mod history;
mod judge;
mod kubelet;
mod leaders;
mod losses;
mod metrics;
mod namespace;
mod observer;
mod process;
mod rights;
mod scale;
mod spark;
mod stage;
mod versus;

/// Where the control plane's programs are.
fn tools() -> Option<PathBuf> {
    enabled(
        "a real control plane",
        "ROLLCALL_CONTROL_PLANE",
        "export ROLLCALL_CONTROL_PLANE=$(tests/tools/build.sh)",
    )
    .map(PathBuf::from)
}

/// What this variable says. Without it a tier is skipped, and how to enable it is said once for all of its tests: where
/// everybody reads it, because what a test prints that passes nobody does.
fn enabled(tier: &str, variable: &'static str, how: &str) -> Option<OsString> {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let value = std::env::var_os(variable);
    if value.is_none() && SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(variable) {
        // Unlike `eprintln!`, this is not captured; and one write is one line, whoever else writes.
        let line = format!("skipped: tests on {tier}; to run them, {how}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    value
}
