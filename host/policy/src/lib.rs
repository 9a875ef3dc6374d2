//! The sandbox: it takes a question and returns a policy's answer; the policy has no other effect.
//!
//! *Intuition.* A policy is a pure function from a third party. Each call gets a fresh instance with its own
//! memory, a budget, and facts; it returns an answer or one of a closed set of [`Fault`]s, and is dropped. No
//! state survives a call, so nothing can leak from one fleet to the next, a trap needs no recovery, and the
//! same facts give the same answer.
//!
//! *Rule.* [`Sandbox::load`] does everything that is slow or can be refused: size, format, the world's types,
//! the module's own description, its settings schemas. The module that it returns is ready: a call is an
//! instantiation (microseconds) and the guest's own work. The form of a policy's answer is checked here; the
//! core checks whether it is *allowed*. The cost of loading depends on the module's author, so untrusted
//! modules are compiled and run for the first time in a process with limits of its own, see [`Compiler`].
//!
//! *Rejected:* long-lived instances (state leaks, and one trap poisons them), WASI by default (clocks
//! and randomness make answers irreproducible), fuel in production (deterministic, but costs more than
//! epochs; [`Mode::Lab`] uses it for tests).
//!
//! ```no_run
//! use policy::{Builtin, Sandbox, SandboxConfig};
//!
//! let sandbox = Sandbox::new(SandboxConfig::default())?;
//! let module = sandbox.load(Builtin::SPARK_ROLL.component)?;
//! let settings = module.settings("OUTLIER", &serde_json::json!({}))?;
//! # let question = fleet::question::RollQuestion::default();
//! let evaluation = sandbox.select(&module, "OUTLIER", &settings, &question);
//! println!("{:?} in {:?}", evaluation.answer, evaluation.cost.wall);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]

mod bindings;
mod builtin;
mod cache;
mod child;
mod compiling;
mod convert;
mod engine;
mod fault;
mod fence;
mod guest;
mod guest_log;
mod limits;
mod module;
mod refusal;
mod regular;
mod sandbox;
mod settings;
mod ticker;
mod world;

pub use builtin::Builtin;
pub use cache::{Cache, CacheCounts, CacheError};
pub use child::{ChildLimits, Compiler};
pub use compiling::compile_child;
pub use convert::Complaint;
pub use engine::Mode;
pub use fault::{Blame, Fault, InvalidAnswer};
pub use guest_log::{LogLevel, LogLine, printable};
pub use limits::Limits;
pub use module::{Module, Needs, Policy, Question, SettingsError};
pub use refusal::Refusal;
pub use regular::read_regular;
pub use sandbox::{Cost, Evaluation, Sandbox, SandboxConfig, SandboxError};
pub use settings::{Settings, SettingsProblem};
