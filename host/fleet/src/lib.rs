//! The pure core of Rollcall: it takes events and returns actions.
//!
//! ```text
//!  Event ──► Fleet::step(event, now) ──► Actions        Fleet::deadline() ──► (instant, why)
//! ```
//!
//! The core uses no clock, thread, socket, file, random source or hash order: the caller passes events in,
//! and the core returns the actions to carry out. The same events produce the same actions, in production, in
//! tests and in the simulator.
//!
//! # The contract of `Fleet`
//!
//! A [`Fleet`] is a state machine. It never waits and never calls back: its *host*, the program around it,
//! does that and tells it what happened. There are four kinds of methods:
//!
//! - [`Fleet::new`] makes a fleet from settings, which it checks.
//! - [`Fleet::step`] is the only method that changes it: an event goes in, the actions to carry out now come
//!   out.
//! - [`Fleet::deadline`] says when the next step is due if no event comes, and why.
//! - All others are getters: [`Fleet::snapshot`], [`Fleet::explain`], [`Fleet::counts`] and more. They may be
//!   called at any time.
//!
//! One task owns the fleet, and repeats:
//!
//! 1. Wait for an event, or until the last `deadline()`; then the event is [`Event::Deadline`]. A step that
//!    comes too early or too late does no harm, but late work is late.
//! 2. Call `step` with the event and the time.
//! 3. Hand over the actions that it returns, in their order, without waiting for their outcomes.
//! 4. Call `deadline()` again: the step may have moved it in either direction. [`Why::Backlog`] means that
//!    work was left over to keep the step short. Its deadline is now; other events may go first.
//!
//! **The clock.** The only time is [`Now`](time::Now), which the host reads just before each step. `instant`
//! is from one monotonic clock; a time that goes back counts as the latest one. `wall_ms` may jump. The same
//! settings, seed, events and times give the same actions.
//!
//! **Leadership.** A fleet does nothing, and has no deadline, until [`Event::LeadershipGained`]. The host
//! sends it once, and only while it leads. After [`Event::LeadershipLost`] the fleet never acts again; a host
//! that leads again makes a new one, with another seed. What has to survive is in the ledger.
//!
//! **Actions.** Each has a number, under which its outcome comes back exactly once, at any time and in any
//! order:
//!
//! | action | outcome |
//! |---|---|
//! | `Relist` | [`Event::Relisted`]; if it fails, [`Event::Finished`] |
//! | `Ask` | [`Event::Answered`], also with a fault. The fleet has a deadline of its own for it |
//! | `CheckLease` | [`Event::LeadershipConfirmed`] if this host leads |
//! | `Reply`, `Publish` | none |
//! | all others | [`Event::Finished`]. The fleet waits without a deadline: the host sets a timeout |
//!
//! The host neither retries an action nor decides what a failure means. A request that may have been applied
//! is [`Outcome::Unknown`](event::Outcome::Unknown). One that was not sent is `Throttled`: the fleet decides
//! again. Before a host sends an action that had to wait and that [changes pods](action::Verb::mutates), it
//! checks that it still leads and that [`Fleet::stands_still`] is false. If the process dies, outcomes need
//! not come at all.
//!
//! **Events** from the cluster may be repeated, reordered or lost. The host passes on what it receives, and
//! says when its view may be stale ([`Event::ViewStale`]) and when it may have lost heartbeats
//! ([`Event::HearingImpaired`]).
//!
//! # Example
//!
//! A fleet of two, from the first leadership until it creates its executors:
//!
//! ```
//! use fleet::Fleet;
//! use fleet::action::{Action, Verb};
//! use fleet::event::{Done, DriverView, Event, Outcome, Relist, finished};
//! use fleet::id::Version;
//! use fleet::spec::{FleetSpec, Mode};
//! use fleet::time::{Instant, Now};
//!
//! let spec = FleetSpec::new("etl", "spark-1", Mode::Own, "uid-of-the-driver".into(), 2);
//! let mut fleet = Fleet::new(spec, &[], 1).expect("the settings are valid");
//! assert_eq!(fleet.deadline(), None, "without leadership it waits for no time");
//!
//! let now = Now { instant: Instant::from_ms(5_000), wall_ms: 1_793_577_600_000 };
//! let only = |actions: Vec<Action>| <[Action; 1]>::try_from(actions).expect("one action");
//!
//! // It begins with what an earlier leader left behind. There is no ledger yet.
//! let [read] = only(fleet.step(Event::LeadershipGained { term: 1 }, now));
//! assert_eq!(read.verb, Verb::ReadLedger);
//! let [claim] = only(fleet.step(finished(&read, Outcome::NotFound), now));
//! assert!(matches!(claim.verb, Verb::WriteLedger { over: None, .. }));
//!
//! // The ledger is its own. Now it needs a complete list of its pods: there are none.
//! let written = |version: &str| Outcome::Ok(Done::Written(Version(version.into())));
//! let [list] = only(fleet.step(finished(&claim, written("7")), now));
//! let Verb::Relist { known } = list.verb else { panic!("{list:?}") };
//! let driver = DriverView::Running { uid: "uid-of-the-driver".into(), ends: 0 };
//! let listed = Relist { known, revision: 42, pods: vec![], driver };
//!
//! // Two executors are missing. It reserves their ids first, then it creates them.
//! let [reserve] = only(fleet.step(Event::Relisted(listed), now));
//! assert!(matches!(reserve.verb, Verb::WriteLedger { over: Some(_), .. }));
//! let actions = fleet.step(finished(&reserve, written("8")), now);
//! let pods: Vec<&str> = actions
//!     .iter()
//!     .filter_map(|action| match &action.verb {
//!         Verb::CreatePod { pod, .. } => Some(&**pod),
//!         _ => None,
//!     })
//!     .collect();
//! assert_eq!(pods, ["etl-exec-1", "etl-exec-2"]);
//!
//! // It waits for the outcomes as long as the host does. In doubt it looks, and does not create again.
//! assert_eq!(fleet.deadline(), None);
//! let doubt = fleet.step(finished(&actions[0], Outcome::Unknown("timed out".into())), now);
//! assert!(doubt.iter().any(|action| matches!(action.verb, Verb::GetPod { .. })));
//! assert!(!doubt.iter().any(|action| action.verb.mutates()));
//! ```
//!
//! # The code
//!
//! Read [`event`] and [`action`] first: they are the whole interface of the core. Then read `heartbeat`,
//! which shows the pattern of a small state machine here, and then [`Fleet`], which combines the state
//! machines:
//!
//! | machine | decides |
//! |---|---|
//! | `heartbeat` | which executors are silent, and whether the silence can be trusted |
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
//! | [`supervisor`] | which fleets there are and what each is told; one for all fleets |
//! | [`classes`] | which drivers have a fleet although no document names them |
//! | [`identity`] | whose heartbeats are whose, when two fleets claim a name |
//! | [`election`] | whether this host leads; one for all fleets |
//! | [`snapshot`] | the read model that users see |
//!
//! [`Event::Answered`]: event::Event::Answered
//! [`Event::Deadline`]: event::Event::Deadline
//! [`Event::Finished`]: event::Event::Finished
//! [`Event::HearingImpaired`]: event::Event::HearingImpaired
//! [`Event::LeadershipConfirmed`]: event::Event::LeadershipConfirmed
//! [`Event::LeadershipGained`]: event::Event::LeadershipGained
//! [`Event::LeadershipLost`]: event::Event::LeadershipLost
//! [`Event::Relisted`]: event::Event::Relisted
//! [`Event::ViewStale`]: event::Event::ViewStale

#![warn(missing_docs)]

pub mod action;
mod ask;
pub mod backoff;
mod breaker;
pub mod bucket;
pub mod classes;
mod counters;
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
mod heartbeat;
pub mod id;
pub mod identity;
pub mod injected_bug;
pub mod ledger;
mod lifecycle;
pub mod log;
mod losses;
mod named;
pub mod observed;
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
pub mod supervisor;
mod table;
pub mod time;
mod timing;
mod view;
pub mod window;

pub use fleet::Fleet;
pub use phase::Why;
