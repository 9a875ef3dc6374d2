//! Combines the lines of one executor into one heartbeat.
//!
//! Spark's sink writes some 130 lines with one timestamp and then nothing for a period. The first line determines the
//! sender and whether it is accepted; the others are only compared with its head, so that a line costs a comparison and
//! a look-up of its metric, and no allocation. A batch ends with another timestamp or executor, with silence, with the
//! connection, or by age.

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

/// Silence after which a batch ends.
const GAP: Duration = Duration::from_millis(200);
/// Maximum age of a batch that trickles in.
const AGE_MAX: Duration = Duration::from_secs(1);
/// The minimum interval between two notes about one sender's lines.
const NOTE_PAUSE: Duration = Duration::from_secs(1);

/// Collects the lines of one sender.
pub struct Gatherer {
    /// Canonical: an IPv4-mapped IPv6 address is converted to IPv4.
    peer: IpAddr,
    /// Memory: its head (at most one line), and 8 bytes for each of at most 110 columns.
    batch: Option<Batch>,
    /// When the last note about its lines was recorded: thousands may be wrong for the same reason.
    noted: Option<Instant>,
}

struct Batch {
    /// The beginning of its names: `<prefix.><namespace>.<executor id>.`
    head: Box<[u8]>,
    time_s: u64,
    first: Instant,
    last: Instant,
    /// `None`: the batch was rejected, and that was counted.
    sender: Option<Sender>,
}

struct Sender {
    fleet: Arc<Fleet>,
    executor: ExecutorId,
    uid: Option<Uid>,
    /// By the fleet's columns; NaN for no value.
    values: Vec<f64>,
}

/// The result of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It began a batch.
    First,
    /// It belongs to the batch.
    More,
    /// It began a batch that is rejected.
    Refused,
    /// It cannot be parsed, matches no executor, or belongs to a rejected batch.
    Nothing,
}

impl Gatherer {
    pub fn new(peer: IpAddr) -> Gatherer {
        Gatherer { peer: peer.to_canonical(), batch: None, noted: None }
    }

    /// Suppresses notes about its lines for a while.
    pub fn hush(&mut self, now: Instant) {
        self.noted = Some(now);
    }

    /// Is there a batch that will be a heartbeat?
    pub fn is_open(&self) -> bool {
        self.speaks_for().is_some()
    }

    /// The fleet of the batch.
    pub fn speaks_for(&self) -> Option<&Arc<Fleet>> {
        self.batch.as_ref().and_then(|batch| batch.sender.as_ref()).map(|sender| &sender.fleet)
    }

    /// Is its fleet one that accepts reports through relays?
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

    /// Lines of this sender were delayed or dropped. This impairs the fleets that have a pod at its address, and the
    /// one that it reports for; `relays`: the lines may belong to any fleet that accepts reports through relays.
    pub fn impair(&self, intake: &Intake, why: Impairment, relays: bool) {
        let directory = &intake.directory;
        let here = if relays { directory.concerned(self.peer) } else { directory.at(self.peer) };
        let speaks = self.speaks_for().filter(|fleet| here.iter().all(|other| other.name != fleet.name));
        here.iter().chain(speaks).for_each(|fleet| intake.impaired(fleet, why));
    }

    /// Processes a line without its newline.
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

    /// A line that exceeds the maximum length, and of which this is the beginning.
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
                "a line on the Graphite port is refused; further ones from this address are only counted"
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
            // These fleets record that.
            here.iter().for_each(|fleet| intake.impaired(fleet, Impairment::Unattributed));
            return Heard::Nothing;
        }
        if directory.overheard.may_log(About::UnknownApplication, peer, now) {
            tracing::warn!(
                %peer, name = %head.name,
                "a Graphite line names no fleet's application, and comes from no fleet's pod; further ones from \
                 this address are only counted"
            );
        }
        directory.overheard.unknown(head, peer, now);
        Heard::Nothing
    }

    /// May a note be recorded now?
    fn notes_now(&mut self, now: Instant) -> bool {
        let due = self.noted.is_none_or(|noted| now - noted >= NOTE_PAUSE);
        if due {
            self.noted = Some(now);
        }
        due
    }
}

fn keep(fleet: &Fleet, values: &mut [f64], metric: &[u8], value: f64) {
    // A value that is not finite still counts as a heartbeat, but is not stored.
    if value.is_finite()
        && let Some(column) = fleet.columns.of_graphite(metric)
    {
        values[column] = value;
    }
}

#[cfg(test)]
mod tests;
