//! The sandbox: a question goes in, a policy's answer comes out, and nothing else gets out.
//!
//! *Intuition.* A policy is a pure function that somebody else wrote. Each call gets a fresh instance
//! with its own memory, a budget, and facts; it gives an answer or one of a closed set of [`Fault`]s,
//! and is dropped. Nothing survives a call, so nothing can leak from one fleet to the next, a trap
//! needs no recovery, and the same facts give the same answer.
//!
//! *Rule.* [`Sandbox::load`] does everything that is slow or can be refused: size, format, the world's
//! types, the module's own description, its settings schemas. What it returns is ready: a call is an
//! instantiation (microseconds) and the guest's own work. What a policy answers is checked here for
//! form; whether it is *allowed* is the core's business. Before that a module costs what its author likes: so
//! foreign ones are compiled and tried in a process with limits of its own, see [`Compiler`].
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

mod bindings;
mod builtin;
mod cache;
mod child;
mod convert;
mod fault;
mod fence;
mod guest_log;
mod limits;
mod module;
mod regular;
mod sandbox;
mod settings;
mod ticker;
mod wasi;
mod world;

pub use builtin::Builtin;
pub use cache::{Cache, CacheCounts, CacheError};
pub use child::{ChildLimits, Compiler, compile_child};
pub use convert::Complaint;
pub use fault::{Blame, Fault, InvalidAnswer};
pub use guest_log::{LogLevel, LogLine, printable};
pub use limits::Limits;
pub use module::{Module, Needs, Policy, Question, Refusal, SettingsError};
pub use regular::read_regular;
pub use sandbox::{Cost, Evaluation, Mode, Sandbox, SandboxConfig, SandboxError};
pub use settings::{Settings, SettingsProblem};
