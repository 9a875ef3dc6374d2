//! Timelines: what is told on the left, what comes out indented below it.
//!
//! Each test is one text. A line `12s pod 1 failed exit=1` is told to the core at that time; lines that
//! begin with `>` are what it then wants done, each with its own time where a deadline brought it about.
//! The harness plays a cluster in which nothing happens by itself, except for the ledger: that is kept,
//! unless a line says that it fails.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "what goes wrong in a test panics")]

mod support;

mod allocation;
mod commands;
mod field;
mod ledger;
mod losses;
mod rolls;
mod sar;
mod silence;
mod specs;
