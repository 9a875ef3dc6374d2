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

use super::line::{self, Flaw, Whose};
use crate::heartbeat::directory::{ExecutorEntry, Fleet, Found};
use crate::heartbeat::names::{excerpt, unknown_head};
use crate::heartbeat::notes::{About, Head, Why, names};
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
            sender.keep(metric, parsed.value);
            return Heard::More;
        }
        intake.directory.overheard.line(now);
        let found = intake.directory.of_name(parsed.name, line::whose);
        let (fleets, end, (whose, length)) = match found {
            Found::Of(fleets, end, whose) => (fleets, end, whose),
            Found::HeadAlone => return self.malformed(intake, line, Flaw::NoExecutor, now),
            Found::Nothing => return self.unknown(intake, parsed.name, now),
        };
        self.flush(intake);
        let (head, metric) = parsed.name.split_at(end + 1 + length);
        let sender = match self.believe(&fleets, whose, now) {
            Ok(mut sender) => {
                sender.keep(metric, parsed.value);
                Some(sender)
            }
            Err(fate) => {
                intake.counters.add(Source::Graphite, fate);
                None
            }
        };
        let heard = if sender.is_some() { Heard::First } else { Heard::Refused };
        self.batch = Some(Batch { head: head.into(), time_s: parsed.time_s, first: now, last: now, sender });
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
        directory.trouble_of(peer, &why, now);
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
        if directory.trouble_of(peer, &Why::UnknownApplication(head.clone()), now) {
            // That is told with the fleet.
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

    fn believe(&self, fleets: &[Arc<Fleet>], whose: Whose, now: Instant) -> Result<Sender, Fate> {
        let Whose::Executor(executor) = whose else { return Err(Fate::Ignored) };
        let (fleet, uid) = match fleets {
            [fleet] => (fleet, self.believe_of(fleet, executor, now)?),
            several => self.believe_among(several, executor, now)?,
        };
        let values = vec![f64::NAN; fleet.columns.names.len()];
        Ok(Sender { fleet: Arc::clone(fleet), executor, uid, values })
    }

    /// The pod, where the address proves it.
    fn believe_of(&self, fleet: &Fleet, executor: ExecutorId, now: Instant) -> Result<Option<Uid>, Fate> {
        let Some(pod) = fleet.executor(executor) else {
            fleet.notes.trouble(Why::UnknownExecutor { executor }, self.peer, now);
            return Err(Fate::UnknownExecutor);
        };
        match pod.pod_ip.filter(|_| fleet.entry.check_peer) {
            // An address is no proof against spoofing, but it does tell a pod from its predecessor.
            Some(_) if self.is_of(&pod) => Ok(Some(pod.uid)),
            Some(pod_ip) => {
                fleet.notes.trouble(Why::WrongPeer { executor, pod_ip }, self.peer, now);
                Err(Fate::WrongPeer)
            }
            None => Ok(None),
        }
    }

    /// Several fleets have such names, and only the address of a pod tells whose it is: one that is not known yet
    /// does not.
    fn believe_among<'a>(
        &self,
        fleets: &'a [Arc<Fleet>],
        executor: ExecutorId,
        now: Instant,
    ) -> Result<(&'a Arc<Fleet>, Option<Uid>), Fate> {
        let pods = fleets.iter().filter_map(|fleet| Some((fleet, fleet.executor(executor)?)));
        let mut here: Vec<_> = pods.filter(|(_, pod)| self.is_of(pod)).collect();
        if here.len() > 1 {
            let fleets = names(here.iter().map(|(fleet, _)| &fleet.name));
            for (fleet, _) in here {
                let why = Why::SeveralFleets { executor, fleets: fleets.clone() };
                fleet.notes.trouble(why, self.peer, now);
            }
            return Err(Fate::Ambiguous);
        }
        if let Some((fleet, pod)) = here.pop() {
            return Ok((fleet, Some(pod.uid)));
        }
        let all = names(fleets.iter().map(|fleet| &fleet.name));
        for fleet in fleets {
            let why = Why::NoFleetsPod { executor, fleets: all.clone() };
            fleet.notes.trouble(why, self.peer, now);
        }
        Err(Fate::WrongPeer)
    }

    fn is_of(&self, pod: &ExecutorEntry) -> bool {
        pod.pod_ip.is_some_and(|ip| ip.to_canonical() == self.peer)
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
            let pod = ExecutorEntry { uid: Uid::from(&*format!("uid-{id}")), pod_ip: Some(PEER), runs: true };
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
                Sign::Driver { .. } | Sign::Impaired { .. } => panic!("{sign:?}"),
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
        let pod = ExecutorEntry { uid: Uid::from("new"), pod_ip: None, runs: true };
        intake.directory.set_executor("etl", ExecutorId(9), pod);
        stranger.feed(&intake, b"app.9.executor.runTime.count 1 2", now);
        stranger.flush(&intake);
        assert_eq!(beats(&mut queue)[0].uid, None);
    }

    /// Two applications with one name: whose pod is at the address, decides.
    #[test]
    fn a_shared_namespace_is_told_apart_by_addresses() {
        let (intake, mut queue) = intake(1_000);
        let ip = |last| IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, last));
        for (life, name, addresses) in [(1, "etl", [1, 2, 9]), (2, "web", [3, 4, 9])] {
            let entry = FleetEntry {
                life,
                application_id: format!("spark-{life}"),
                metrics_namespace: Some("Daily import".to_owned()),
                check_peer: true,
                ..FleetEntry::default()
            };
            intake.directory.set_fleet(name, entry).unwrap();
            for (id, last) in (1..).zip(addresses) {
                let pod = ExecutorEntry { uid: Uid::from(name), pod_ip: Some(ip(last)), runs: true };
                intake.directory.set_executor(name, ExecutorId(id), pod);
            }
        }
        let now = Instant::now();
        let mut says = |last, line: &str| {
            let mut gatherer = Gatherer::new(ip(last));
            gatherer.feed(&intake, line.as_bytes(), now);
            gatherer.flush(&intake);
            match queue.try_recv() {
                Ok(Sign::Beat { life, beat }) => Some((life, beat.executor.0, beat.metrics.len())),
                Ok(Sign::Driver { .. } | Sign::Impaired { .. }) | Err(_) => None,
            }
        };
        let line = |id: u64| format!("Daily-import.{id}.executor.runTime.count 1 1");
        assert_eq!(says(1, &line(1)), Some((1, 1, 1)));
        assert_eq!(says(3, &line(1)), Some((2, 1, 1)));
        assert_eq!(says(4, &line(2)), Some((2, 2, 1)));
        assert_eq!(says(2, &line(1)), None, "it is executor 2's address");
        assert_eq!(says(7, &line(1)), None, "no pod has that address");
        assert_eq!(says(9, &line(3)), None, "it is the address of both");
        assert_eq!(says(1, "spark-1.1.executor.runTime.count 1 1"), None, "the id is not in its names");
        let count = |fate| intake.counters.get(Source::Graphite, fate);
        assert_eq!((count(Fate::WrongPeer), count(Fate::Ambiguous)), (2, 1));
        assert_eq!(count(Fate::UnknownApplication), 1);
        let noted = |name: &str| intake.directory.fleet(name).unwrap().notes.worst_since(now).unwrap().why;
        assert!(matches!(noted("etl"), Why::UnknownApplication(head) if &*head.head == "spark-1"));
        assert!(matches!(noted("web"), Why::NoFleetsPod { fleets, .. } if &*fleets == "etl, web"));
    }

    #[test]
    fn what_is_refused_is_noted_with_the_fleet_that_it_came_from() {
        let (intake, _queue) = hearing("app", true);
        let now = Instant::now();
        let fleet = intake.directory.fleet("etl").unwrap();
        let mut fresh = now;
        let mut noted = |line: &str, peer: IpAddr| {
            fresh += Duration::from_secs(1);
            Gatherer::new(peer).feed(&intake, line.as_bytes(), fresh);
            fleet.notes.worst_since(fresh).map(|trouble| trouble.why)
        };
        let stranger = "10.0.0.8".parse().unwrap();
        let head = |head: &str, executor, name: &str| {
            Some(Why::UnknownApplication(Head { head: head.into(), executor, name: name.into() }))
        };
        assert_eq!(noted("carbon.agents.cpu 1 1", PEER), head("carbon", false, "carbon.agents.cpu"));
        let name = "my-app.3.ExecutorMetrics.JVMHeapMemory";
        assert_eq!(noted(&format!("{name} 1 1"), PEER), head("my-app", true, name));
        assert_eq!(noted("another.3.executor.x 1 1", stranger), None);
        let unknown = intake.directory.overheard.unknown_since(now).unwrap();
        assert_eq!((&*unknown.0.head, unknown.1), ("another", stranger));
        let wrong = Why::WrongPeer { executor: ExecutorId(1), pod_ip: PEER };
        assert_eq!(noted("app.1.executor.runTime.count 1 1", stranger), Some(wrong));
        let executor = ExecutorId(9);
        assert_eq!(noted("app.9.executor.x 1 1", PEER), Some(Why::UnknownExecutor { executor }));
        let malformed = |line: &str, why: &str| Some(Why::Malformed { line: line.into(), why: why.into() });
        let parts = "it is not `name value time`, with one space between";
        assert_eq!(noted("app.1.x:1|c\r", PEER), malformed("app.1.x:1|c\\r", parts));
        assert_eq!(noted("app.1.x:1|c", stranger), None, "it is none of the fleet's");
        let no_executor = "no executor id follows what the fleet's names begin with";
        assert_eq!(noted("app.x.y 1 1", PEER), malformed("app.x.y 1 1", no_executor));
    }

    /// A flood of bad lines costs two locks a second, and one line in the log.
    #[test]
    fn bad_lines_of_one_sender_are_noted_now_and_then() {
        let (intake, _queue) = hearing("app", true);
        let now = Instant::now();
        let fleet = intake.directory.fleet("etl").unwrap();
        let mut gatherer = Gatherer::new(PEER);
        for number in 0..1_000 {
            gatherer.feed(&intake, format!("bad line {number} x").as_bytes(), now);
        }
        let Some(Why::Malformed { line, .. }) = fleet.notes.worst_since(now).map(|trouble| trouble.why)
        else {
            panic!("nothing was noted")
        };
        assert_eq!(&*line, "bad line 0 x");
        assert!(!intake.directory.overheard.may_log(About::Malformed, PEER, now), "it was logged");
        assert_eq!(intake.counters.get(Source::Graphite, Fate::Malformed), 1_000);
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
