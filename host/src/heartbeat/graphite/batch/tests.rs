use fleet::event::Beat;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::super::connection::Lines;
use super::*;
use crate::heartbeat::Sign;
use crate::heartbeat::directory::{ExecutorEntry, FleetEntry};
use crate::heartbeat::intake::Signs;
use crate::heartbeat::tests::{fixture, intake};

const LIFE: u64 = 7;
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

fn hearing(application: &str, check_peer: bool) -> (Intake, Signs) {
    let (intake, queue) = intake();
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

fn beats(queue: &mut Signs) -> Vec<Beat> {
    let mut beats = Vec::new();
    while let Ok(sign) = queue.try_recv() {
        match sign {
            Sign::Beat { life, beat } => {
                assert_eq!(life, LIFE);
                beats.push(beat);
            }
            Sign::Impaired { .. } => {}
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
    let (mut lines, mut heard_beats) = (0, Vec::new());
    for arrival in stream.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let space = arrival.iter().position(|byte| *byte == b' ').unwrap();
        let at_s: f64 = str::from_utf8(&arrival[..space]).unwrap().parse().unwrap();
        let line = &arrival[space + 1..];
        let id = usize::from(line["spark-0123456789abcdef.".len()] - b'0');
        let now = start + Duration::from_secs_f64(at_s - 1_795_254_314.0);
        let heard = senders[id - 1].feed(&intake, line, now);
        assert!(matches!(heard, Heard::First | Heard::More), "{heard:?}");
        lines += 1;
        heard_beats.extend(beats(&mut queue));
    }
    senders.iter_mut().for_each(|sender| sender.flush(&intake));
    assert_eq!(lines, 5_842);
    heard_beats.extend(beats(&mut queue));
    let beats = heard_beats;
    let of = |id| beats.iter().filter(move |beat| beat.executor == ExecutorId(id));
    // 46 reports; the last two of executor 1, which was decommissioned, have the same timestamp.
    assert_eq!([1, 2, 3, 4].map(|id| of(id).count()), [12, 6, 18, 9]);
    assert_eq!(beats.len(), 45);
    let last = of(4).next_back().unwrap();
    assert_eq!(last.uid, Some(Uid::from("uid-4")));
    // 46 known columns; this application lacks those of the JvmSource.
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
    let mut ends_with = |number: f64| match &*beats(&mut queue) {
        [beat] => assert_eq!(value(beat, "runTime"), Some(number)),
        other => panic!("{other:?}"),
    };
    assert_eq!(gatherer.feed(&intake, b"app.1.executor.runTime.count 3 105", at(20)), Heard::First);
    ends_with(2.0);
    assert_eq!(gatherer.feed(&intake, b"app.2.x 3 105", at(30)), Heard::First);
    ends_with(3.0);
    gatherer.flush_due(&intake, at(229));
    assert_eq!(beats(&mut queue).len(), 0);
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
    // Any sender could claim to be a pod whose address is not known yet.
    let pod = ExecutorEntry { uid: Uid::from("new"), pod_ip: None, runs: true };
    intake.directory.set_executor("etl", ExecutorId(9), pod);
    stranger.feed(&intake, b"app.9.executor.runTime.count 1 2", now);
    stranger.flush(&intake);
    let why = Impairment::Unattributed;
    assert_eq!(queue.try_recv(), Ok(Sign::Impaired { life: LIFE, why }), "it may have been the pod");
    assert!(queue.is_empty());
    assert_eq!(intake.counters.get(Source::Graphite, Fate::WrongPeer), 2);
}

/// Two applications with one name are distinguished by the pod at the address.
#[test]
fn a_shared_namespace_is_told_apart_by_addresses() {
    let (intake, mut queue) = intake();
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
        let mut heard = None;
        while let Ok(sign) = queue.try_recv() {
            if let Sign::Beat { life, beat } = sign {
                heard = Some((life, beat.executor.0, beat.metrics.len()));
            }
        }
        heard
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

/// A flood of bad lines costs two locks a second and one line in the log.
#[test]
fn bad_lines_of_one_sender_are_noted_now_and_then() {
    let (intake, _queue) = hearing("app", true);
    let now = Instant::now();
    let fleet = intake.directory.fleet("etl").unwrap();
    let mut gatherer = Gatherer::new(PEER);
    for number in 0..1_000 {
        gatherer.feed(&intake, format!("bad line {number} x").as_bytes(), now);
    }
    let Some(Why::Malformed { line, .. }) = fleet.notes.worst_since(now).map(|trouble| trouble.why) else {
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

/// 500,000 slightly corrupted lines, or as many as `ROLLCALL_FUZZ_LINES` says, go through the stream reader and the
/// gatherer, from four senders. Nothing panics, memory does not grow, and no heartbeat of a nonexistent executor is
/// accepted.
#[test]
fn mutated_lines_do_no_harm() {
    let lines =
        std::env::var("ROLLCALL_FUZZ_LINES").ok().and_then(|text| text.parse().ok()).unwrap_or(500_000);
    let mut dice = ChaCha8Rng::seed_from_u64(13);
    let (intake, mut queue) = hearing("spark-0123456789abcdef", true);
    let relayed = FleetEntry { life: 8, application_id: "relayed.7".to_owned(), ..FleetEntry::default() };
    intake.directory.set_fleet("relayed", relayed).unwrap();
    let pod = ExecutorEntry { uid: Uid::from("u"), pod_ip: None, runs: true };
    intake.directory.set_executor("relayed", ExecutorId(1), pod);
    let captured = fixture("graphite-arrivals.txt");
    let mut seeds: Vec<Vec<u8>> = captured
        .split(|byte| *byte == b'\n')
        .filter_map(|line| Some(line[line.iter().position(|byte| *byte == b' ')? + 1..].to_vec()))
        .step_by(37)
        .collect();
    seeds.extend(
        ["relayed.7.1.executor.x 1 1", "relayed.7.driver.y NaN 2", "a.b 1 1", "", ". . ."].map(Vec::from),
    );
    let peers = [PEER, "10.0.0.8".parse().unwrap(), "::1".parse().unwrap(), "10.0.0.9".parse().unwrap()];
    let mut senders = peers.map(|peer| (Gatherer::new(peer), Lines::default()));
    let start = Instant::now();
    let (mut heard, mut believed) = (0_u64, 0);
    for number in 0..lines {
        let mut line = seeds[dice.random_range(0..seeds.len())].clone();
        for _ in 0..dice.random_range(0..4) {
            mutate(&mut dice, &mut line);
        }
        line.push(b'\n');
        let now = start + Duration::from_millis(number / 50);
        let (gatherer, buffer) = &mut senders[dice.random_range(0..4)];
        let piece = dice.random_range(1..2_000);
        for bytes in line.chunks(piece) {
            let room = buffer.room();
            let length = bytes.len().min(room.len());
            room[..length].copy_from_slice(&bytes[..length]);
            buffer.take(length, |line| match line {
                Ok(line) => {
                    let what = gatherer.feed(&intake, line, now);
                    believed += u64::from(matches!(what, Heard::First | Heard::More));
                }
                Err(beginning) => drop(gatherer.too_long(&intake, beginning, now)),
            });
        }
        assert!(queue.len() <= 5 + 2 * Impairment::ALL.len(), "{} wait", queue.len());
        if number % 1_000 == 0 {
            while let Ok(sign) = queue.try_recv() {
                if let Sign::Beat { life, beat } = sign {
                    heard += 1;
                    assert!((1..=4).contains(&beat.executor.0), "{life} {beat:?}");
                    assert!(beat.metrics.iter().all(|(_, value)| value.is_finite()), "{beat:?}");
                }
            }
        }
    }
    assert!(believed > lines / 20 && heard > 0, "{believed} lines and {heard} beats: nothing was tried");
}

fn mutate(dice: &mut ChaCha8Rng, line: &mut Vec<u8>) {
    let at = dice.random_range(0..=line.len());
    match dice.random_range(0..7) {
        0 => line.truncate(at),
        1 => line.insert(at, dice.random()),
        2 => line.insert(at, b". \n\r0-"[dice.random_range(0..6)]),
        3 if at < line.len() => line[at] ^= 1 << dice.random_range(0..8),
        4 if at < line.len() => drop(line.remove(at)),
        5 => {
            let again: Vec<u8> = line[at..].to_vec();
            line.extend(again);
        }
        _ => line.extend(vec![b'x'; dice.random_range(0..1_500)]),
    }
}
