//! Translation to and from Kubernetes: a watch event becomes an [`Event`](fleet::event::Event), an
//! [`Action`](fleet::action::Action) becomes an API call, and its answer becomes an
//! [`Outcome`](fleet::event::Outcome).
//!
//! This crate makes no decisions and repeats no calls: kube's own retries are off, because the effect of a POST
//! that may have been applied must be checked before it is sent again, and only the core knows that. Every call
//! has a time limit; a silent connection is an outcome too (`Unknown`).
//!
//! | module | translates |
//! |---|---|
//! | [`client`] | a kubeconfig, or the pod's ServiceAccount, into two clients |
//! | [`container`] | a pod's containers into the Spark container |
//! | [`pod`], [`node`] | `v1.Pod` and `v1.Node` into views; no other fields are kept |
//! | [`watch`] | a namespace's watch into events |
//! | [`call`] | actions into calls |
//! | [`queue`] | many fleets' actions into few calls at a time, fairly |
//! | [`template`] | a fleet's pod template into an executor's pod |
//! | [`ledger`] | the ledger into a ConfigMap, and back |
//! | [`lease`] | the election's requests into calls about a Lease |
//! | [`metrics`] | requests into client-go's metrics |
//! | [`notice`] | notices for users into Kubernetes Events |
//! | [`resource`] | ExecutorFleet objects into JSON with a name, and their status into a patch |
//! | [`review`] | a bearer token into the pod that it was issued to, or a user and its rights |

pub mod call;
pub mod client;
pub mod container;
pub mod lease;
pub mod ledger;
pub mod metrics;
pub mod node;
pub mod notice;
mod outcome;
pub mod pod;
pub mod queue;
pub mod resource;
pub mod review;
pub mod template;
pub mod watch;

pub use client::Clients;
pub use kube::Client;

/// The field manager under which the API server records our writes (`metadata.managedFields`).
pub const FIELD_MANAGER: &str = "rollcall";
