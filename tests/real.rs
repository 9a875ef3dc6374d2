//! The daemon against the software that it is for: a real kube-apiserver over a real etcd, with kwok as all kubelets.
//!
//! Needs what `tests/tools/build.sh` builds; without it these tests say that they were skipped.

#![allow(clippy::unwrap_used, reason = "a test may panic; what went wrong is in the error")]

use std::path::PathBuf;

mod anywhere;
mod budget;
mod conformance;
mod control_plane;
mod credentials;
mod daemon;
mod history;
mod judge;
mod kubelet;
mod leaders;
mod losses;
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
    let tools = std::env::var_os("ROLLCALL_CONTROL_PLANE").map(PathBuf::from);
    if tools.is_none() {
        println!(
            "skipped: export ROLLCALL_CONTROL_PLANE=$(tests/tools/build.sh) to run it on a real control plane"
        );
    }
    tools
}
