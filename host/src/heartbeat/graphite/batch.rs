//! Lines of one executor become one heartbeat.
//!
//! Spark's sink writes some 130 lines with one time stamp and then nothing for a period. The first line
//! decides whose they are and whether they may be believed; the others are only compared with what the
//! first began with, so that a line costs a comparison and a look-up of its metric, and no allocation.
//! A batch ends with another time stamp or executor, with silence, with the connection, or by age.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fleet::event::Beat;
use fleet::id::{ExecutorId, Uid};
use tokio::time::Instant;

use super::line::{self, Whose};
use crate::heartbeat::directory::Fleet;
use crate::heartbeat::{Fate, Intake, Source};

/// Silence after which a batch is over.
const GAP: Duration = Duration::from_millis(200);
/// A batch that trickles in is not waited for any longer.
const AGE_MAX: Duration = Duration::from_secs(1);

/// What one sender says.
pub struct Gatherer {
    /// Canonical: an IPv4 address is never dressed as IPv6.
    peer: IpAddr,
    /// Memory: its head (at most a line), and 8 bytes for each of at most 110 columns.
    batch: Option<Batch>,
}

struct Batch {
    /// What its names begin with: `<prefix.><application id>.<executor id>.`
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
        Gatherer { peer: peer.to_canonical(), batch: None }
    }

    /// Is there a batch that will be a heartbeat?
    pub fn is_open(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.sender.is_some())
    }

    /// Is the batch of a fleet whose executors a relay may speak for?
    pub fn is_relayed(&self) -> bool {
        let sender = self.batch.as_ref().and_then(|batch| batch.sender.as_ref());
        sender.is_some_and(|sender| !sender.fleet.entry.check_peer)
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
        let named = fleet.columns.names.iter().zip(values).filter(|(_, value)| !value.is_nan());
        let metrics = named.map(|(name, value)| (name.clone(), value)).collect();
        // A full queue was counted; there is nobody to tell.
        let _ = intake.beat(Source::Graphite, fleet.entry.life, Beat { executor, uid, metrics });
    }

    /// A line without its newline.
    pub fn feed(&mut self, intake: &Intake, line: &[u8], now: Instant) -> Heard {
        let Some(line) = line::parse(line) else {
            intake.counters.add(Source::Graphite, Fate::Malformed);
            return Heard::Nothing;
        };
        self.flush_due(intake, now);
        if let Some(batch) = &mut self.batch
            && batch.time_s == line.time_s
            && let Some(metric) = line.name.strip_prefix(&*batch.head)
        {
            batch.last = now;
            let Some(sender) = &mut batch.sender else { return Heard::Nothing };
            sender.keep(metric, line.value);
            return Heard::More;
        }
        let Some((fleet, end)) = intake.directory.head(line.name) else {
            intake.counters.add(Source::Graphite, Fate::UnknownApplication);
            return Heard::Nothing;
        };
        let Some((whose, length)) = line::whose(&line.name[end + 1..]) else {
            intake.counters.add(Source::Graphite, Fate::Malformed);
            return Heard::Nothing;
        };
        self.flush(intake);
        let (head, metric) = line.name.split_at(end + 1 + length);
        let sender = match self.believe(fleet, whose) {
            Ok(mut sender) => {
                sender.keep(metric, line.value);
                Some(sender)
            }
            Err(fate) => {
                intake.counters.add(Source::Graphite, fate);
                None
            }
        };
        let heard = if sender.is_some() { Heard::First } else { Heard::Refused };
        self.batch = Some(Batch { head: head.into(), time_s: line.time_s, first: now, last: now, sender });
        heard
    }

    fn believe(&self, fleet: Arc<Fleet>, whose: Whose) -> Result<Sender, Fate> {
        let Whose::Executor(executor) = whose else { return Err(Fate::Ignored) };
        let pod = fleet.executor(executor).ok_or(Fate::UnknownExecutor)?;
        let uid = match pod.pod_ip.filter(|_| fleet.entry.check_peer) {
            // An address is no proof against spoofing, but it does tell a pod from its predecessor.
            Some(ip) if ip.to_canonical() == self.peer => Some(pod.uid),
            Some(_) => return Err(Fate::WrongPeer),
            None => None,
        };
        let values = vec![f64::NAN; fleet.columns.names.len()];
        Ok(Sender { fleet, executor, uid, values })
    }
}

impl Sender {
    fn keep(&mut self, metric: &[u8], value: f64) {
        // What is not finite is a sign of life, but no fact.
        if value.is_finite()
            && let Some(column) = self.fleet.columns.of_graphite(metric)
        {
            self.values[column] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::heartbeat::Sign;
    use crate::heartbeat::directory::{ExecutorEntry, FleetEntry};
    use crate::heartbeat::tests::{fixture, intake};

    const LIFE: u64 = 7;
    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    fn hearing(application: &str, check_peer: bool) -> (Intake, mpsc::Receiver<Sign>) {
        let (intake, queue) = intake(1_000);
        let entry = FleetEntry {
            life: LIFE,
            application_id: application.to_owned(),
            check_peer,
            ..FleetEntry::default()
        };
        intake.directory.set_fleet("etl", entry).unwrap();
        for id in 1..=4 {
            let pod = ExecutorEntry { uid: Uid::from(&*format!("uid-{id}")), pod_ip: Some(PEER) };
            intake.directory.set_executor("etl", ExecutorId(id), pod);
        }
        (intake, queue)
    }

    fn beats(queue: &mut mpsc::Receiver<Sign>) -> Vec<Beat> {
        let mut beats = Vec::new();
        while let Ok(sign) = queue.try_recv() {
            match sign {
                Sign::Beat { life, beat } => {
                    assert_eq!(life, LIFE);
                    beats.push(beat);
                }
                Sign::Driver { .. } => panic!("{sign:?}"),
            }
        }
        beats
    }

    fn value(beat: &Beat, name: &str) -> Option<f64> {
        beat.metrics.iter().find(|(known, _)| **known == *name).map(|(_, value)| *value)
    }

    #[test]
    fn the_captured_stream_is_45_heartbeats_of_four_executors() {
        let (intake, mut queue) = hearing("spark-0123456789abcdef", true);
        let start = Instant::now();
        let stream = fixture("graphite-arrivals.txt");
        let mut senders: Vec<Gatherer> = (0..4).map(|_| Gatherer::new(PEER)).collect();
        let mut lines = 0;
        for arrival in stream.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let space = arrival.iter().position(|byte| *byte == b' ').unwrap();
            let at_s: f64 = str::from_utf8(&arrival[..space]).unwrap().parse().unwrap();
            let line = &arrival[space + 1..];
            let id = usize::from(line["spark-0123456789abcdef.".len()] - b'0');
            let now = start + Duration::from_secs_f64(at_s - 1_795_254_314.0);
            let heard = senders[id - 1].feed(&intake, line, now);
            assert!(matches!(heard, Heard::First | Heard::More), "{heard:?}");
            lines += 1;
        }
        senders.iter_mut().for_each(|sender| sender.flush(&intake));
        assert_eq!(lines, 5_842);
        let beats = beats(&mut queue);
        let of = |id| beats.iter().filter(move |beat| beat.executor == ExecutorId(id));
        // 46 reports; the last two of executor 1, which was decommissioned, are in the same second.
        assert_eq!([1, 2, 3, 4].map(|id| of(id).count()), [12, 6, 18, 9]);
        assert_eq!(beats.len(), 45);
        let last = of(4).next_back().unwrap();
        assert_eq!(last.uid, Some(Uid::from("uid-4")));
        // 46 known columns, of which this application has no JvmSource's.
        assert_eq!(last.metrics.len(), 42);
        for (name, number) in [
            ("succeededTasks", 352.0),
            ("threadpool.completeTasks", 368.0),
            ("threadpool.activeTasks", 1.0),
            ("runTime", 27_421.0),
            ("cpuTime", 4_448_521_879.0),
            ("JVMHeapMemory", 55_230_736.0),
            ("TotalGCTime", 711.0),
        ] {
            assert_eq!(value(last, name), Some(number), "{name}");
        }
        let last = of(3).next_back().unwrap();
        let says = |name: &str| {
            let line = stream.split(|byte| *byte == b'\n').rev();
            let mut line = line.filter_map(|line| str::from_utf8(line).ok()?.split_once(' '));
            let name = format!("spark-0123456789abcdef.3.{name} ");
            line.find_map(|(_, line)| line.strip_prefix(&name)?.split(' ').next()?.parse::<f64>().ok())
        };
        assert_eq!(value(last, "succeededTasks"), says("executor.succeededTasks.count"));
        assert_eq!(value(last, "JVMOffHeapMemory"), says("ExecutorMetrics.JVMOffHeapMemory"));
        assert!(value(last, "shuffleTotalBytesRead").is_some_and(|bytes| bytes > 0.0));
    }

    #[test]
    fn a_batch_ends_by_time_stamp_executor_silence_and_age() {
        let (intake, mut queue) = hearing("app", true);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut gatherer = Gatherer::new("::ffff:10.0.0.7".parse().unwrap());
        assert_eq!(gatherer.feed(&intake, b"app.1.executor.runTime.count 1 100", at(0)), Heard::First);
        assert_eq!(gatherer.feed(&intake, b"app.1.executor.runTime.count 2 100", at(10)), Heard::More);
        assert_eq!(gatherer.due(), Some(at(210)));
        assert_eq!(gatherer.feed(&intake, b"app.1.executor.runTime.count 3 105", at(20)), Heard::First);
        assert_eq!(gatherer.feed(&intake, b"app.2.x 3 105", at(30)), Heard::First);
        gatherer.flush_due(&intake, at(229));
        let heard = beats(&mut queue);
        assert_eq!(
            heard.iter().map(|beat| value(beat, "runTime")).collect::<Vec<_>>(),
            [Some(2.0), Some(3.0)]
        );
        gatherer.flush_due(&intake, at(230));
        assert_eq!(beats(&mut queue).len(), 1);
        assert_eq!(gatherer.due(), None);
        for ms in (1_000..=2_000).step_by(100) {
            gatherer.feed(&intake, b"app.1.executor.runTime.count 3 110", at(ms));
        }
        assert_eq!(beats(&mut queue).len(), 1, "it was a second old");
        assert!(gatherer.is_open(), "the line after that began another");
    }

    #[test]
    fn what_is_not_finite_is_alive_but_no_fact() {
        let (intake, mut queue) = hearing("app", false);
        let mut gatherer = Gatherer::new(PEER);
        for value in ["NaN", "Infinity", "-inf", "1e999"] {
            gatherer.feed(&intake, format!("app.1.jvm.heap.usage {value} 1").as_bytes(), Instant::now());
        }
        gatherer.flush(&intake);
        assert_eq!(beats(&mut queue), [Beat { executor: ExecutorId(1), uid: None, metrics: Vec::new() }]);
    }

    #[test]
    fn forgeries_are_counted_and_not_believed() {
        let (intake, mut queue) = hearing("app", true);
        let now = Instant::now();
        let mut stranger = Gatherer::new("10.0.0.8".parse().unwrap());
        for (line, heard) in [
            ("app.1.executor.runTime.count 1 1", Heard::Refused),
            ("app.1.executor.cpuTime.count 1 1", Heard::Nothing),
            ("app.9.executor.runTime.count 1 1", Heard::Refused),
            ("app.driver.jvm.heap.used 1 1", Heard::Refused),
            ("app.01.executor.runTime.count 1 1", Heard::Nothing),
            ("app.99999999999999999999.x 1 1", Heard::Nothing),
            ("app.1 1 1", Heard::Nothing),
            ("app2.1.executor.runTime.count 1 1", Heard::Nothing),
            ("GET / HTTP/1.1", Heard::Nothing),
        ] {
            assert_eq!(stranger.feed(&intake, line.as_bytes(), now), heard, "{line}");
        }
        stranger.flush(&intake);
        assert_eq!(beats(&mut queue), []);
        let count = |fate| intake.counters.get(Source::Graphite, fate);
        assert_eq!((count(Fate::WrongPeer), count(Fate::UnknownExecutor), count(Fate::Ignored)), (1, 1, 1));
        assert_eq!((count(Fate::Malformed), count(Fate::UnknownApplication)), (4, 1));
        // A pod whose address is not known yet is believed, but proves nothing.
        let pod = ExecutorEntry { uid: Uid::from("new"), pod_ip: None };
        intake.directory.set_executor("etl", ExecutorId(9), pod);
        stranger.feed(&intake, b"app.9.executor.runTime.count 1 2", now);
        stranger.flush(&intake);
        assert_eq!(beats(&mut queue)[0].uid, None);
    }

    /// `cargo test -- --ignored --nocapture lines_per_second`, optimised.
    #[test]
    #[ignore = "measures, and proves nothing"]
    fn lines_per_second() {
        let (intake, mut queue) = hearing("spark-0123456789abcdef", true);
        let stream = fixture("graphite-arrivals.txt");
        let lines = stream.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let lines: Vec<&[u8]> =
            lines.map(|line| &line[line.iter().position(|b| *b == b' ').unwrap() + 1..]).collect();
        let start = std::time::Instant::now();
        let mut gatherer = Gatherer::new(PEER);
        let (mut count, mut heard) = (0, 0);
        for round in 0..400_u32 {
            let now = Instant::now();
            for line in &lines {
                gatherer.feed(&intake, line, now);
            }
            count += lines.len();
            if round.is_multiple_of(10) {
                heard += beats(&mut queue).len();
            }
        }
        let elapsed_s = start.elapsed().as_secs_f64();
        println!("{count} lines, {heard} heartbeats: {:.0} lines/s", count as f64 / elapsed_s);
    }
}
