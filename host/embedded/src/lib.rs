//! Kubernetes in memory, for `rollcall demo` and for tests.
//!
//! [`server`] is an API server that a real `kube::Client` talks to, without a socket or with one. [`Cluster`] is what
//! stands behind it: nodes, a scheduler, kubelets, and executors that work, report and break. Neither knows what
//! Rollcall decides, and neither does any IO; the caller gives the time.

mod cluster;
pub mod server;

pub use cluster::{Chaos, Cluster, Judge, Options, Signal, Truth};
