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
//! | `executor`, `table` | the stages of one executor's life, and the totals over all executors |
//! | `lifecycle` | how one executor moves from stage to stage, and what follows from it |
//! | `executors` | what those effects do to the ledger, the rates and the other parts |
//! | `plan` | how many executors are created, which are removed, which are rolled |
//! | `view`, `driver`, `signals` | what is known of the cluster, of the driver, and of heartbeats |
//! | `losses`, `failures` | what losses mean: incidents, failures, bad nodes |
//! | `rolls` | the rolls in progress, and when the next decision is due |
//! | `flow` | how observations, answers, outcomes and commands reach these parts, and what is done then |
//! | `creation` | how fast executors are created and removed |
//! | `outcomes` | what each kind of call can answer |
//! | [`guardrail`], `breaker`, `bucket` | limits that apply to every change, regardless of who requests it |
//! | [`ledger`] | what survives a restart, and which ids may be used |
//! | `parked` | why a fleet changes nothing: its ledger is invalid or another leader's |
//! | `ask` | which policy is asked, and what happens if it does not answer |
//! | [`election`] | whether this host leads; one for all fleets |
//! | [`snapshot`] | the read model that users see |

pub mod action;
mod ask;
pub mod backoff;
mod breaker;
mod bucket;
mod creation;
mod driver;
pub mod election;
mod ending;
mod env;
pub mod event;
mod executor;
mod executors;
mod failures;
#[cfg(test)]
mod fixtures;
mod fleet;
mod flow;
pub mod guardrail;
pub mod heartbeat;
pub mod id;
pub mod injected_bug;
pub mod ledger;
mod lifecycle;
pub mod log;
mod losses;
mod observed;
mod outbox;
mod outcome;
mod outcomes;
mod pace;
mod parked;
mod permits;
mod phase;
mod plan;
pub mod question;
mod rolls;
mod signals;
pub mod snapshot;
pub mod spec;
pub mod standstill;
mod table;
pub mod time;
mod timing;
mod view;
pub mod window;

pub use fleet::Fleet;
pub use phase::Why;
