//! Lines of one executor become one heartbeat.
//!
//! Spark's sink writes some 130 lines with one time stamp and then nothing for a period. The first line
//! decides whose they are and whether they may be believed; the others are only compared with what the
//! first began with, so that a line costs a comparison and a look-up of its metric, and no allocation.
//! A batch ends with another time stamp or executor, with silence, with the connection, or by age.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fleet::event::Impairment;
use fleet::id::{ExecutorId, Uid};
use tokio::time::Instant;

use super::attribution::{Attribution, Believed, Refused, attribute};
use super::line::{self, Flaw};
use crate::heartbeat::directory::Fleet;
use crate::heartbeat::names::{excerpt, unknown_head};
use crate::heartbeat::notes::{About, Head, Why};
use crate::heartbeat::{Fate, Intake, Source};

/// Silence after which a batch is over.
const GAP: Duration = Duration::from_millis(200);
/// A batch that trickles in is not waited for any longer.
const AGE_MAX: Duration = Duration::from_secs(1);
/// Between two notes of what is wrong with one sender's lines.
const NOTE_PAUSE: Duration = Duration::from_secs(1);

/// What one sender says.
pub struct Gatherer {
    /// Canonical: an IPv4 address is never dressed as IPv6.
    peer: IpAddr,
    /// Memory: its head (at most a line), and 8 bytes for each of at most 110 columns.
    batch: Option<Batch>,
    /// When it was noted last what is wrong with its lines: thousands may be, and all for one reason.
    noted: Option<Instant>,
}

struct Batch {
    /// What its names begin with: `<prefix.><namespace>.<executor id>.`
    head: Box<[u8]>,
    time_s: u64,
    first: Instant,
    last: Instant,
    /// `None`: it is not believed, which was counted.
    sender: Option<Sender>,
}

struct Sender {
    fleet: Arc<Fleet>,
    executor: ExecutorId,
    uid: Option<Uid>,
    /// By the fleet's columns; NaN where nothing was said.
    values: Vec<f64>,
}

/// What came of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It began a batch.
    First,
    /// It belongs to the batch.
    More,
    /// It began a batch that is not believed.
    Refused,
    /// Not understood, of nobody known, or of a batch that is not believed.
    Nothing,
}

impl Gatherer {
    pub fn new(peer: IpAddr) -> Gatherer {
        Gatherer { peer: peer.to_canonical(), batch: None, noted: None }
    }

    /// What is wrong with its lines need not be noted for a while.
    pub fn hush(&mut self, now: Instant) {
        self.noted = Some(now);
    }

    /// Is there a batch that will be a heartbeat?
    pub fn is_open(&self) -> bool {
        self.speaks_for().is_some()
    }

    /// The fleet of which the batch is.
    pub fn speaks_for(&self) -> Option<&Arc<Fleet>> {
        self.batch.as_ref().and_then(|batch| batch.sender.as_ref()).map(|sender| &sender.fleet)
    }

    /// Is it one whose executors a relay may speak for?
    pub fn is_relayed(&self) -> bool {
        self.speaks_for().is_some_and(|fleet| !fleet.entry.check_peer)
    }

    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// When [`flush_due`](Gatherer::flush_due) has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.batch.as_ref().map(|batch| (batch.last + GAP).min(batch.first + AGE_MAX))
    }

    pub fn flush_due(&mut self, intake: &Intake, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.flush(intake);
        }
    }

    /// Ends the batch, if there is one.
    pub fn flush(&mut self, intake: &Intake) {
        let Some(sender) = self.batch.take().and_then(|batch| batch.sender) else { return };
        let Sender { fleet, executor, uid, values } = sender;
        intake.report(Source::Graphite, &fleet, executor, uid, values);
    }

    /// Something of this sender's was held up or thrown away. It concerns the fleets that have a pod at its address, and
    /// the one for which it speaks; `relays`: what is held up may be of any fleet that relays speak for.
    pub fn impair(&self, intake: &Intake, why: Impairment, relays: bool) {
        let directory = &intake.directory;
        let here = if relays { directory.concerned(self.peer) } else { directory.at(self.peer) };
        let speaks = self.speaks_for().filter(|fleet| here.iter().all(|other| other.name != fleet.name));
        here.iter().chain(speaks).for_each(|fleet| intake.impaired(fleet, why));
    }

    /// A line without its newline.
    pub fn feed(&mut self, intake: &Intake, line: &[u8], now: Instant) -> Heard {
        let parsed = match line::parse(line) {
            Ok(parsed) => parsed,
            Err(flaw) => return self.malformed(intake, line, flaw, now),
        };
        self.flush_due(intake, now);
        if let Some(batch) = &mut self.batch
            && batch.time_s == parsed.time_s
            && let Some(metric) = parsed.name.strip_prefix(&*batch.head)
        {
            batch.last = now;
            let Some(sender) = &mut batch.sender else { return Heard::Nothing };
            keep(&sender.fleet, &mut sender.values, metric, parsed.value);
            return Heard::More;
        }
        intake.directory.overheard.line(now);
        let (length, sender) = match attribute(&intake.directory, self.peer, parsed.name) {
            Attribution::HeadAlone => return self.malformed(intake, line, Flaw::NoExecutor, now),
            Attribution::Unknown => return self.unknown(intake, parsed.name, now),
            Attribution::Believed(Believed { fleet, executor, uid, length }) => {
                let mut values = vec![f64::NAN; fleet.columns.names.len()];
                keep(&fleet, &mut values, &parsed.name[length..], parsed.value);
                (length, Some(Sender { fleet, executor, uid, values }))
            }
            Attribution::Refused(Refused { fate, length, notes, impairs }) => {
                intake.counters.add(Source::Graphite, fate);
                notes.into_iter().for_each(|(fleet, why)| fleet.notes.trouble(why, self.peer, now));
                impairs.iter().for_each(|fleet| intake.impaired(fleet, Impairment::Unattributed));
                (length, None)
            }
        };
        self.flush(intake);
        let heard = if sender.is_some() { Heard::First } else { Heard::Refused };
        let head = parsed.name[..length].into();
        self.batch = Some(Batch { head, time_s: parsed.time_s, first: now, last: now, sender });
        heard
    }

    /// A line that is too long to be one, of which this is the beginning.
    pub fn too_long(&mut self, intake: &Intake, beginning: &[u8], now: Instant) -> Heard {
        intake.counters.add(Source::Graphite, Fate::Oversized);
        self.note_malformed(intake, beginning, Flaw::TooLong, now);
        Heard::Nothing
    }

    fn malformed(&mut self, intake: &Intake, line: &[u8], flaw: Flaw, now: Instant) -> Heard {
        intake.counters.add(Source::Graphite, Fate::Malformed);
        self.note_malformed(intake, line, flaw, now);
        Heard::Nothing
    }

    fn note_malformed(&mut self, intake: &Intake, line: &[u8], flaw: Flaw, now: Instant) {
        if !self.notes_now(now) {
            return;
        }
        let (peer, line, directory) = (self.peer, excerpt(line), &intake.directory);
        if directory.overheard.may_log(About::Malformed, peer, now) {
            tracing::warn!(
                %peer, line, why = %flaw,
                "a line that arrived on the Graphite port is refused; further ones from there are only counted"
            );
        }
        let why = Why::Malformed { line: line.into(), why: flaw.to_string().into() };
        for fleet in directory.trouble_of(peer, &why, now) {
            intake.impaired(&fleet, Impairment::Unattributed);
        }
    }

    fn unknown(&mut self, intake: &Intake, name: &[u8], now: Instant) -> Heard {
        intake.counters.add(Source::Graphite, Fate::UnknownApplication);
        if !self.notes_now(now) {
            return Heard::Nothing;
        }
        let head = unknown_head(name);
        let first_part = name.split(|byte| *byte == b'.').next().unwrap_or_default();
        let head = Head {
            executor: head.is_some(),
            head: excerpt(head.unwrap_or(first_part)).into(),
            name: excerpt(name).into(),
        };
        let (peer, directory) = (self.peer, &intake.directory);
        let here = directory.trouble_of(peer, &Why::UnknownApplication(head.clone()), now);
        if !here.is_empty() {
            // That is told with the fleet.
            here.iter().for_each(|fleet| intake.impaired(fleet, Impairment::Unattributed));
            return Heard::Nothing;
        }
        if directory.overheard.may_log(About::UnknownApplication, peer, now) {
            tracing::warn!(
                %peer, name = %head.name,
                "a Graphite line names no fleet's application, and comes from no fleet's pod; further ones from \
                 there are only counted"
            );
        }
        directory.overheard.unknown(head, peer, now);
        Heard::Nothing
    }

    /// Is it time to note what is wrong?
    fn notes_now(&mut self, now: Instant) -> bool {
        let due = self.noted.is_none_or(|noted| now - noted >= NOTE_PAUSE);
        if due {
            self.noted = Some(now);
        }
        due
    }
}

fn keep(fleet: &Fleet, values: &mut [f64], metric: &[u8], value: f64) {
    // What is not finite is a sign of life, but no fact.
    if value.is_finite()
        && let Some(column) = fleet.columns.of_graphite(metric)
    {
        values[column] = value;
    }
}

#[cfg(test)]
mod tests;
