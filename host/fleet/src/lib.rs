//! The pure core of Rollcall: what is told to it, what it decides.
//!
//! ```text
//!  Event ──► Fleet::step(event, now) ──► Actions        Fleet::deadline() ──► (instant, why)
//! ```
//!
//! Nothing in here knows a clock, a thread, a socket, a file, a random source or a hash order: what
//! happens is told to it, and what should happen is what it returns. The same events make the same
//! actions, in production, in tests and in the simulator.
//!
//! Read [`event`] and [`action`] first: they are all that the core and the world say to each other. Then
//! [`heartbeat`], the model of a small machine here. Then [`Fleet`], where the machines meet:
//!
//! | machine | decides |
//! |---|---|
//! | [`heartbeat`] | who has gone silent, and whether silence can be believed |
//! | [`standstill`] | whether the host itself stood still; one for all fleets |
//! | `executor` | the stages of one executor's life, and the sums over all |
//! | `view` | what pods, drivers and signs of life mean |
//! | `recovery` | who is lost, why, and what becomes of its pod |
//! | `failures` | which losses count towards the end of the fleet |
//! | `allocation` | how many are created, and when |
//! | `roll` | who is rolled, and when it may go |
//! | `removal` | how a pod is got rid of |
//! | [`guardrail`], `breaker`, `bucket` | what may not be done, whoever asks |
//! | [`ledger`] | what survives a restart, and which ids may be used |
//! | `parked` | what becomes of a fleet whose ledger is none of ours |
//! | `ask` | which policy is asked, and what if it does not answer |
//! | `command` | what operators may ask for |
//! | [`election`] | whether this host leads; one for all fleets |
//! | [`snapshot`] | what people see |

pub mod action;
mod allocation;
mod ask;
pub mod backoff;
mod breaker;
mod bucket;
mod command;
pub mod election;
pub mod event;
mod executor;
mod failures;
mod fleet;
pub mod guardrail;
pub mod heartbeat;
pub mod id;
pub mod ledger;
pub mod log;
mod parked;
pub mod plant;
pub mod question;
mod recovery;
mod removal;
mod roll;
pub mod snapshot;
pub mod spec;
pub mod standstill;
pub mod time;
mod view;
pub mod window;

pub use fleet::{Fleet, Why};
