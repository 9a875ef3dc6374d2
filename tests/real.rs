//! The daemon against the software that it is for: a real kube-apiserver over a real etcd, with kwok as all kubelets.
//!
//! Needs what `tests/tools/build.sh` builds; without it these tests say that they were skipped.

use std::path::PathBuf;

mod control_plane;
mod daemon;

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
