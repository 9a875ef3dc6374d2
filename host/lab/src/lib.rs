//! A simulated world in memory, in which the real core runs.
//!
//! Everything a fleet can meet is here in a few thousand lines: an API server with watches, nodes, executors, a
//! driver, operators, policies, hosts that crash. One sequence of [`Choices`](choices::Choices) decides everything that rules do
//! not decide, so a run is a function of its seed, and a failing run is identified by a number. The
//! [checkers](check) keep their own account of the true state and never ask the core.
//!
//! Rejected: taking over the scheduler and the clock of the real daemon. The core is a function of event and
//! time; the code around it has tests of its own, against the same [`Api`](api::Api).
//!
//! Reading order: [`run`], [`world`], [`app`], [`host`], [`api`], [`cluster`], [`check`].

pub mod api;
pub mod app;
pub mod campaign;
pub mod check;
pub mod choices;
pub mod cluster;
pub mod fault;
pub mod host;
pub mod lease;
pub mod policies;
pub mod run;
pub mod scenarios;
pub mod trace;
pub mod world;

mod chaos;
mod classes;
mod fleets;
mod network;
mod operator;
