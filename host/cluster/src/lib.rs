//! Kubernetes, translated: what a watch says becomes an [`Event`](fleet::event::Event), an
//! [`Action`](fleet::action::Action) becomes an API call, and its answer an
//! [`Outcome`](fleet::event::Outcome).
//!
//! Nothing here decides anything, and nothing is repeated here: kube's own retries are off, because a
//! POST that may have been applied must be looked at before it is sent again, and only the core knows
//! that. Every call has a time limit; a silent connection is an outcome too (`Unknown`).
//!
//! | module | translates |
//! |---|---|
//! | [`client`] | a kubeconfig, or the pod's own account, into two clients |
//! | [`container`] | a pod's containers into the one that is Spark's |
//! | [`pod`], [`node`] | `v1.Pod` and `v1.Node` into views; nothing else of them is kept |
//! | [`watch`] | a namespace's watch into events |
//! | [`call`] | actions into calls |
//! | [`queue`] | many fleets' actions into few calls at a time, fairly |
//! | [`template`] | a fleet's pod template into an executor's pod |
//! | [`ledger`] | the ledger into a ConfigMap, and back |
//! | [`lease`] | the election's requests into calls about a Lease |
//! | [`metrics`] | every request into what client-go would count |
//! | [`notice`] | what people should know into Kubernetes Events |
//! | [`review`] | a bearer token into the pod that it was given to |

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
pub mod review;
pub mod template;
pub mod watch;

pub use client::Clients;
pub use kube::Client;

/// Under this name the API server remembers what we wrote (`metadata.managedFields`).
pub const FIELD_MANAGER: &str = "rollcall";
