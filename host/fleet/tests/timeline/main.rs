//! Timelines: inputs on the left, outputs indented below them.
//!
//! Each test is one text. A line `12s pod 1 failed exit=1` is passed to the core at that time; lines that begin
//! with `>` are the actions that it then requests, each with its own time if a deadline caused it. The harness
//! simulates a cluster in which nothing happens by itself, except for the ledger: it is stored, unless a line
//! says that writes fail.

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
