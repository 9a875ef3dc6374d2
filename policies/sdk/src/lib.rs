//! Write a policy for Rollcall.
//!
//! A policy is a pure function in a sandbox: facts in, an answer out. It has no clock, no files, no
//! network, no randomness and no memory of the last call; time and a seed are among the facts. The
//! host checks every answer against its guard-rails, so a policy can be wrong but not dangerous.
//!
//! ```
//! use rollcall_policy::{Fleet, RollPolicy, Selection, pick, settings};
//!
//! settings! {
//!     /// Field docs and defaults become the JSON Schema that users' settings are checked against.
//!     pub struct Limits {
//!         /// Roll an executor once it is older than this many hours.
//!         pub max_age_hours: u64 = 24,
//!     }
//! }
//!
//! pub struct Oldest;
//!
//! impl RollPolicy for Oldest {
//!     const NAME: &str = "OLDEST";
//!     const DOCS: &str = "The oldest executor, once it is older than maxAgeHours.";
//!     type Settings = Limits;
//!
//!     fn select(limits: Limits, fleet: &Fleet) -> Result<Selection, String> {
//!         let oldest = fleet.iter().max_by_key(|executor| executor.age_ms);
//!         Ok(match oldest {
//!             Some(e) if e.age_ms > limits.max_age_hours * 3_600_000 => {
//!                 Selection::Roll(vec![pick(&e, e.age_ms as f64, "too old")])
//!             }
//!             _ => Selection::Nothing("nobody is too old".into()),
//!         })
//!     }
//! }
//!
//! rollcall_policy::export!(roll: Oldest);
//! ```
//!
//! The crate that holds this is an ordinary library (`crate-type = ["cdylib", "rlib"]`): its logic
//! is tested natively with `cargo test`, and `rollcall policy build` turns it into a component.

#![warn(missing_docs)]

// The macros name this crate by the name that their users know it by.
extern crate self as rollcall_policy;

#[doc(hidden)]
pub mod bindings;
mod fleet;
pub mod log;
#[doc(hidden)]
pub mod module;

pub use bindings::base::rollcall::policy::types::*;
pub use fleet::Executor;
pub use module::{LossClassifier, NoSettings, RollPolicy};
pub use {schemars, serde, serde_json};

/// A pick of this executor.
pub fn pick(executor: &Executor, score: f64, reason: impl Into<String>) -> Pick {
    Pick { index: executor.index, score, reason: reason.into() }
}
