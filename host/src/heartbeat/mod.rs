//! Signs of life, from three witnesses: executors push metrics ([`graphite`]) or post heartbeats
//! ([`api`]), and drivers are asked about their executors ([`driver`]).
//!
//! Everything heard is hearsay from the network. A witness checks it against the [`Directory`], where the
//! daemon says who may be heard, and what passes goes as a [`Sign`] into the [`intake`], in which one fleet does not
//! stand in another's way. Where something was turned away, slowed down or not understood that may have been a fleet's
//! sign of life, the fleet is told that its hearing was impaired: silence proves something only while we listen.

use std::fmt;
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

/// What the daemon's loop is told, to be handed as an event to the fleet in this life of it
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

/// What every witness has: who may be heard, where signs go, and the counts.
#[derive(Clone, Debug)]
pub struct Intake {
    pub directory: Arc<Directory>,
    pub counters: Arc<Counters>,
    signs: Sender,
}

impl Intake {
    pub fn new(directory: Arc<Directory>, counters: Arc<Counters>, signs: Sender) -> Intake {
        Intake { directory, counters, signs }
    }

    /// Of an executor that is in the directory.
    fn beat(&self, source: Source, life: u64, beat: Beat) -> Result<(), Closed> {
        self.send(source, Sign::Beat { life, beat })
    }

    /// A beat by the fleet's columns; NaN where nothing was said.
    fn report(
        &self,
        source: Source,
        fleet: &Fleet,
        executor: ExecutorId,
        uid: Option<Uid>,
        values: Vec<f64>,
    ) {
        let facts = Facts::Of(Arc::clone(&fleet.columns), values);
        // One that finds the daemon gone has been counted.
        let _ = self.count(source, self.signs.beat(fleet.entry.life, executor, uid, facts));
    }

    fn send(&self, source: Source, sign: Sign) -> Result<(), Closed> {
        self.count(source, self.signs.send(sign))
    }

    /// Signs of life of this fleet may have been lost on our side until now.
    fn impaired(&self, fleet: &Fleet, why: Impairment) {
        // If the daemon is gone, no executor is given up.
        let _ = self.signs.send(Sign::Impaired { life: fleet.entry.life, why });
    }

    /// It may be that of any fleet.
    fn impaired_all(&self, why: Impairment) {
        self.directory.fleets().iter().for_each(|fleet| self.impaired(fleet, why));
    }

    fn count(&self, source: Source, sent: Result<(), Closed>) -> Result<(), Closed> {
        self.counters.add(source, if sent.is_ok() { Fate::Accepted } else { Fate::Dropped });
        sent
    }
}

/// Who heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Graphite,
    Api,
    Driver,
}

impl Source {
    const ALL: [Source; 3] = [Source::Graphite, Source::Api, Source::Driver];

    fn name(self) -> &'static str {
        match self {
            Source::Graphite => "graphite",
            Source::Api => "api",
            Source::Driver => "driver",
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A sign was handed on: a beat, or a driver's report.
    Accepted,
    /// The daemon was on its way out.
    Dropped,
    /// Not understood: a Graphite line, a request, a driver's answer or a row of it.
    Malformed,
    /// A line, a request or an answer that is longer than may be.
    Oversized,
    /// No fleet has this application: a Graphite line or a beat.
    UnknownApplication,
    /// The fleet has no pod for this executor: a batch or a beat.
    UnknownExecutor,
    /// A batch from another address than the pod's, or while the pod has none; or a beat with another pod's token or UID.
    WrongPeer,
    /// A batch that may be of several fleets: they share the name and the address.
    Ambiguous,
    /// A request without a token that is good for anything.
    Unauthorized,
    /// More than one sender may send: a connection had to wait, or a request was turned away.
    RateLimited,
    /// A connection was turned away, or had to make room for another.
    TooManyConnections,
    /// A connection was closed that said nothing of use for too long.
    IdleClosed,
    /// Not about an executor: a batch of a driver's metrics.
    Ignored,
    /// A connection, a datagram or a request to a host that does not lead: turned away.
    StandingBy,
    /// The driver does not know the application (404).
    NotFound,
    /// A driver, or the reviewer of tokens, did not answer as it should.
    Failed,
    /// A driver's address that must not be asked.
    ForbiddenAddress,
}

impl Fate {
    const ALL: [Fate; 17] = [
        Fate::Accepted,
        Fate::Dropped,
        Fate::Malformed,
        Fate::Oversized,
        Fate::UnknownApplication,
        Fate::UnknownExecutor,
        Fate::WrongPeer,
        Fate::Ambiguous,
        Fate::Unauthorized,
        Fate::RateLimited,
        Fate::TooManyConnections,
        Fate::IdleClosed,
        Fate::Ignored,
        Fate::StandingBy,
        Fate::NotFound,
        Fate::Failed,
        Fate::ForbiddenAddress,
    ];

    /// As it is called in metrics and in answers.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Accepted => "accepted",
            Fate::Dropped => "dropped",
            Fate::Malformed => "malformed",
            Fate::Oversized => "oversized",
            Fate::UnknownApplication => "unknown-application",
            Fate::UnknownExecutor => "unknown-executor",
            Fate::WrongPeer => "wrong-peer",
            Fate::Ambiguous => "ambiguous",
            Fate::Unauthorized => "unauthorized",
            Fate::RateLimited => "rate-limited",
            Fate::TooManyConnections => "too-many-connections",
            Fate::IdleClosed => "idle-closed",
            Fate::Ignored => "ignored",
            Fate::StandingBy => "standing-by",
            Fate::NotFound => "not-found",
            Fate::Failed => "failed",
            Fate::ForbiddenAddress => "forbidden-address",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often what happened, for `/metrics`.
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

    /// Source, result, how often: every pair, zeroes too, so that a series is there before it is needed.
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

    /// A file that was captured from a real application.
    pub fn fixture(name: &str) -> Vec<u8> {
        let path = format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// An intake, and what a loop would take out of it.
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
