//! The pure core of Rollcall.

pub mod action;
pub mod backoff;
pub mod event;
pub mod guardrail;
pub mod id;
pub mod ledger;
pub mod question;
pub mod snapshot;
pub mod spec;
pub mod time;
pub mod window;
