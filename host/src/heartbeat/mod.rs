//! Heartbeats from three sources: executors push metrics ([`graphite`]) or post heartbeats ([`api`]), and drivers are
//! polled about their executors ([`driver`]).
//!
//! All input comes from the network and is untrusted. A source checks it against the [`Directory`], in which the daemon
//! publishes whose heartbeats are accepted, and passes it on as a [`Sign`] into the [`intake`], where one fleet does
//! not block another. If input was rejected, throttled or not understood and may have been a fleet's heartbeat, the
//! fleet is told that heartbeat reception was impaired: silence proves something only while we listen.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fleet::event::{Beat, DriverRow, Impairment};
use fleet::id::{ExecutorId, Uid};

pub mod api;
pub mod directory;
pub mod driver;
pub mod graphite;
pub mod intake;
pub mod names;
pub mod notes;

pub use directory::Directory;
use directory::Fleet;
use intake::{Closed, Facts, Sender};

use crate::relay::Relay;

/// A message for the daemon's loop, to be passed as an event to the fleet with this life number
/// ([`FleetEntry::life`](directory::FleetEntry::life)).
#[derive(Clone, Debug, PartialEq)]
pub enum Sign {
    /// [`Event::Heartbeat`](fleet::event::Event::Heartbeat).
    Beat { life: u64, beat: Beat },
    /// [`Event::DriverReported`](fleet::event::Event::DriverReported).
    Driver { life: u64, rows: Vec<DriverRow> },
    /// [`Event::HearingImpaired`](fleet::event::Event::HearingImpaired).
    Impaired { life: u64, why: Impairment },
}

/// Shared by all sources: the directory, the channel for messages, and the counters.
#[derive(Clone, Debug)]
pub struct Intake {
    pub directory: Arc<Directory>,
    pub counters: Arc<Counters>,
    signs: Sender,
    /// The way to the leader, for a replica that stands by.
    relay: Relay,
}

impl Intake {
    pub fn new(directory: Arc<Directory>, counters: Arc<Counters>, signs: Sender) -> Intake {
        Intake { directory, counters, signs, relay: Relay::default() }
    }

    /// While this replica stands by, passes connections on.
    #[must_use]
    pub fn with_relay(self, relay: Relay) -> Intake {
        Intake { relay, ..self }
    }

    /// A beat of an executor that is in the directory.
    fn beat(&self, source: Source, life: u64, beat: Beat) -> Result<(), Closed> {
        self.send(source, Sign::Beat { life, beat })
    }

    /// A beat by the fleet's columns; NaN for no value.
    fn report(
        &self,
        source: Source,
        fleet: &Fleet,
        executor: ExecutorId,
        uid: Option<Uid>,
        values: Vec<f64>,
    ) {
        let facts = Facts::Of(Arc::clone(&fleet.columns), values);
        // If the daemon has ended, that has been counted.
        let _ = self.count(source, self.signs.beat(fleet.entry.life, executor, uid, facts));
    }

    fn send(&self, source: Source, sign: Sign) -> Result<(), Closed> {
        self.count(source, self.signs.send(sign))
    }

    /// Heartbeats of this fleet may have been lost on our side until now.
    fn impaired(&self, fleet: &Fleet, why: Impairment) {
        // If the daemon has ended, it declares no executor lost.
        let _ = self.signs.send(Sign::Impaired { life: fleet.entry.life, why });
    }

    /// A connection from this address was rejected or closed, and may have had a heartbeat to send. The directory of a
    /// replica that stands by is empty: the leader knows whom it concerns.
    fn refused(&self, ip: IpAddr) {
        if !self.directory.is_open() {
            self.relay.turned_away(ip);
        }
        self.directory.concerned(ip).iter().for_each(|fleet| self.impaired(fleet, Impairment::Refused));
    }

    /// The lost heartbeats may have been of any fleet.
    fn impaired_all(&self, why: Impairment) {
        if !self.directory.is_open() {
            self.relay.not_accepted();
        }
        self.directory.fleets().iter().for_each(|fleet| self.impaired(fleet, why));
    }

    fn count(&self, source: Source, sent: Result<(), Closed>) -> Result<(), Closed> {
        self.counters.add(source, if sent.is_ok() { Fate::Accepted } else { Fate::Dropped });
        sent
    }
}

fleet::named! {
    /// The source of a message.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Source {
        Graphite = "graphite",
        Api = "api",
        Driver = "driver",
    }
}

fleet::named! {
    /// The outcome.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fate {
        /// A message was passed on: a beat, or a driver's report.
        Accepted = "accepted",
        /// The daemon was shutting down.
        Dropped = "dropped",
        /// Cannot be parsed: a Graphite line, a request, a driver's answer or a row of it.
        Malformed = "malformed",
        /// A line, a request or an answer that exceeds its maximum length.
        Oversized = "oversized",
        /// No fleet has this application: a Graphite line or a beat.
        UnknownApplication = "unknown-application",
        /// The fleet has no pod for this executor: a batch or a beat.
        UnknownExecutor = "unknown-executor",
        /// A batch from another address than the pod's, or while the pod has none; or a beat with another pod's token or UID.
        WrongPeer = "wrong-peer",
        /// A batch that matches several fleets: they share the name and the address.
        Ambiguous = "ambiguous",
        /// A request without a valid token.
        Unauthorized = "unauthorized",
        /// More than one sender may send: a connection was throttled, or a request was rejected.
        RateLimited = "rate-limited",
        /// A connection was rejected or evicted.
        TooManyConnections = "too-many-connections",
        /// A connection was closed that had sent nothing useful for too long.
        IdleClosed = "idle-closed",
        /// Not about an executor: a batch of a driver's metrics.
        Ignored = "ignored",
        /// A connection, a datagram or a request to a standby replica that cannot forward it: rejected.
        StandingBy = "standing-by",
        /// A connection to a standby replica that was forwarded to the leader.
        Forwarded = "forwarded",
        /// The driver does not know the application (404).
        NotFound = "not-found",
        /// A driver, or the TokenReview, did not answer properly.
        Failed = "failed",
        /// A driver address that must not be polled.
        ForbiddenAddress = "forbidden-address",
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counts of each outcome, for `/metrics`.
#[derive(Debug, Default)]
pub struct Counters([[AtomicU64; Fate::ALL.len()]; Source::ALL.len()]);

impl Counters {
    pub fn add(&self, source: Source, fate: Fate) {
        self.add_many(source, fate, 1);
    }

    pub fn add_many(&self, source: Source, fate: Fate, count: u64) {
        self.0[source as usize][fate as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self, source: Source, fate: Fate) -> u64 {
        self.0[source as usize][fate as usize].load(Ordering::Relaxed)
    }

    /// Source, result, count: every pair, including zeroes, so that a series exists before it is needed.
    pub fn snapshot(&self) -> Vec<(&'static str, &'static str, u64)> {
        let row = |source: Source| {
            Fate::ALL.into_iter().map(move |fate| (source.name(), fate.name(), self.get(source, fate)))
        };
        Source::ALL.into_iter().flat_map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::intake::Signs;
    use super::*;

    /// A file captured from a real application.
    pub fn fixture(name: &str) -> Vec<u8> {
        let path = format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// An intake, and the receiving end of the loop.
    pub fn intake() -> (Intake, Signs) {
        let (sender, signs) = intake::channel();
        let directory = Directory::default();
        directory.open();
        (Intake::new(Arc::new(directory), Arc::default(), sender), signs)
    }

    #[test]
    fn a_daemon_that_has_ended_takes_nothing() {
        let (intake, mut signs) = intake();
        let beat = Beat { executor: ExecutorId(1), uid: None, metrics: Vec::new() };
        assert!(intake.beat(Source::Api, 1, beat.clone()).is_ok());
        assert_eq!(signs.try_recv(), Ok(Sign::Beat { life: 1, beat: beat.clone() }));
        drop(signs);
        assert!(intake.beat(Source::Api, 1, beat).is_err());
        let counts: Vec<_> =
            intake.counters.snapshot().into_iter().filter(|(.., count)| *count > 0).collect();
        assert_eq!(counts, [("api", "accepted", 1), ("api", "dropped", 1)]);
    }

    #[test]
    fn every_fate_is_counted_under_its_own_name() {
        for (place, fate) in Fate::ALL.into_iter().enumerate() {
            assert_eq!(fate as usize, place);
        }
        let mut names: Vec<_> = Fate::ALL.into_iter().map(Fate::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Fate::ALL.len());
    }
}
