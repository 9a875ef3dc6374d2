//! The pure core of Rollcall: it takes events and returns actions.
//!
//! ```text
//!  Event ──► Fleet::step(event, now) ──► Actions        Fleet::deadline() ──► (instant, why)
//! ```
//!
//! The core uses no clock, thread, socket, file, random source or hash order: the caller passes events in, and
//! the core returns the actions to carry out. The same events produce the same actions, in production, in tests
//! and in the simulator.
//!
//! Read [`event`] and [`action`] first: they are the whole interface of the core. Then read [`heartbeat`],
//! which shows the pattern of a small state machine here, and then [`Fleet`], which combines the state
//! machines:
//!
//! | machine | decides |
//! |---|---|
//! | [`heartbeat`] | which executors are silent, and whether the silence can be trusted |
//! | [`standstill`] | whether the host itself was stalled; one for all fleets |
//! | `executor` | the stages of one executor's life, and the totals over all executors |
//! | `view` | how pods, drivers and heartbeats are interpreted |
//! | `recovery` | which executors are lost, why, and what happens to their pods |
//! | `failures` | which losses count towards the failure limit of the fleet |
//! | `allocation` | how many executors are created, and when |
//! | `roll` | which executors are rolled, and when their pods may be removed |
//! | `removal` | how a pod is deleted or evicted |
//! | [`guardrail`], `breaker`, `bucket` | limits that apply to every change, regardless of who requests it |
//! | [`ledger`] | what survives a restart, and which ids may be used |
//! | `parked` | what happens to a fleet whose ledger is invalid or another leader's |
//! | `ask` | which policy is asked, and what happens if it does not answer |
//! | `command` | what operators can request |
//! | [`election`] | whether this host leads; one for all fleets |
//! | [`snapshot`] | the read model that users see |

pub mod action;
mod allocation;
mod ask;
pub mod backoff;
mod breaker;
pub mod bucket;
mod command;
mod counters;
pub mod election;
mod ending;
pub mod event;
mod executor;
mod failures;
mod fleet;
pub mod guardrail;
pub mod heartbeat;
pub mod id;
pub mod injected_bug;
pub mod ledger;
pub mod log;
mod named;
mod observed;
mod outcome;
mod pace;
mod parked;
pub mod question;
mod recovery;
mod removal;
mod roll;
mod rolls;
pub mod snapshot;
pub mod spec;
pub mod standstill;
pub mod time;
mod timing;
mod view;
pub mod window;

pub use fleet::{Fleet, Why};
