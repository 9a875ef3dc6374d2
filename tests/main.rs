//! All integration tests in one binary, because linking the runtime is slow.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it expects, the rest is a failure")]
#![allow(clippy::print_stdout, reason = "measurements, shown with --nocapture")]

mod attacks;
mod builtin;
mod check;
mod circles;
mod cli;
mod daemon;
mod doctor;
mod hostile;
mod loss_cases;
mod real;
mod sandbox;
mod support;
mod tidy;
