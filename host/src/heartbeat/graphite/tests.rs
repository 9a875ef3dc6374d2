//! Over real sockets on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use fleet::id::{ExecutorId, Uid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::heartbeat::Sign;
use crate::heartbeat::directory::{ExecutorEntry, FleetEntry};
use crate::heartbeat::intake::Signs;
use crate::heartbeat::tests::{fixture, intake};

struct Listener {
    intake: Intake,
    signs: Signs,
    at: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn told() -> (Intake, Signs) {
    let (intake, signs) = intake();
    let application_id = "spark-0123456789abcdef".to_owned();
    let entry = FleetEntry { application_id, check_peer: true, ..FleetEntry::default() };
    intake.directory.set_fleet("etl", entry).unwrap();
    for id in 1..=4 {
        let pod = ExecutorEntry { uid: Uid::from("u"), pod_ip: Some(Ipv4Addr::LOCALHOST.into()), runs: true };
        intake.directory.set_executor("etl", ExecutorId(id), pod);
    }
    (intake, signs)
}

async fn listen(limits: Limits) -> Listener {
    let (intake, signs) = told();
    let listener = crate::listen::Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let at = listener.local_addr().unwrap();
    let task = tokio::spawn(run(listener, intake.clone(), limits));
    Listener { intake, signs, at, task }
}

fn line(executor: u64, value: u64, time_s: u64) -> String {
    format!("spark-0123456789abcdef.{executor}.executor.runTime.count {value} {time_s}\n")
}

/// The captured stream without its arrival times.
fn stream() -> Vec<u8> {
    let fixture = fixture("graphite-arrivals.txt");
    let lines = fixture.split_inclusive(|byte| *byte == b'\n');
    lines.flat_map(|line| line[line.iter().position(|byte| *byte == b' ').unwrap() + 1..].to_vec()).collect()
}

async fn beat(signs: &mut Signs) -> fleet::event::Beat {
    loop {
        match timeout(Duration::from_secs(2), signs.recv()).await.expect("in time") {
            Some(Sign::Beat { beat, .. }) => return beat,
            Some(Sign::Impaired { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Has the listener closed the connection?
async fn closed(stream: &mut TcpStream) -> bool {
    let read = timeout(Duration::from_millis(1_900), stream.read(&mut [0])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..180 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 1.8 s: {what}");
}

#[tokio::test]
async fn a_host_that_stands_by_turns_senders_away_until_it_leads() {
    let mut listener = listen(Limits::default()).await;
    let directory = Arc::clone(&listener.intake.directory);
    directory.close();
    let mut refused = TcpStream::connect(listener.at).await.unwrap();
    let read = timeout(Duration::from_secs(2), refused.read(&mut [0])).await.expect("in time");
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "writing to it fails");
    let counters = Arc::clone(&listener.intake.counters);
    let counted = |fate| counters.get(Source::Graphite, fate);
    assert_eq!((counted(Fate::StandingBy), counted(Fate::Accepted)), (1, 0));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = socket.local_addr().unwrap();
    let datagrams = tokio::spawn(run_udp(socket, listener.intake.clone(), Limits::default()));
    let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    sender.send_to(line(2, 1, 1).as_bytes(), to).await.unwrap();
    eventually("the datagram is counted", || counted(Fate::StandingBy) == 2).await;
    directory.open();
    let mut heard = TcpStream::connect(listener.at).await.unwrap();
    heard.write_all(line(1, 1, 1).as_bytes()).await.unwrap();
    assert_eq!(beat(&mut listener.signs).await.executor, ExecutorId(1));
    sender.send_to(line(2, 2, 2).as_bytes(), to).await.unwrap();
    assert_eq!(beat(&mut listener.signs).await.executor, ExecutorId(2));
    datagrams.abort();
}

#[tokio::test]
async fn every_report_of_a_connection_is_one_heartbeat() {
    let mut listener = listen(Limits { lines_per_s: 10_000_000, ..Limits::default() }).await;
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    connection.write_all(&stream()).await.unwrap();
    connection.shutdown().await.unwrap();
    assert!(closed(&mut connection).await);
    assert_eq!(listener.intake.counters.get(Source::Graphite, Fate::Accepted), 45);
    // The loop was busy meanwhile: it receives one heartbeat of each executor, with all metrics.
    for _ in 0..4 {
        let beat = beat(&mut listener.signs).await;
        assert_eq!((beat.uid, beat.metrics.len()), (Some(Uid::from("u")), 42));
    }
    assert!(listener.signs.try_recv().is_err());
}

#[tokio::test]
async fn a_report_is_heard_while_its_connection_stays_open() {
    let mut listener = listen(Limits::default()).await;
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    let text = line(3, 7, 100);
    // Truncated in the middle of a number.
    connection.write_all(&text.as_bytes()[..text.len() - 3]).await.unwrap();
    sleep(Duration::from_millis(20)).await;
    connection.write_all(&text.as_bytes()[text.len() - 3..]).await.unwrap();
    let beat = beat(&mut listener.signs).await;
    assert_eq!((beat.executor, &*beat.metrics), (ExecutorId(3), &[("runTime".into(), 7.0)][..]));
    // A line without newline is not a line.
    connection.write_all(line(3, 1234, 105).trim_end().as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    assert!(closed(&mut connection).await);
    assert!(listener.signs.try_recv().is_err());
}

#[tokio::test]
async fn a_pod_that_is_elsewhere_is_not_believed() {
    let listener = listen(Limits::default()).await;
    let pod = ExecutorEntry { uid: Uid::from("u"), pod_ip: Some("10.0.0.9".parse().unwrap()), runs: true };
    listener.intake.directory.set_executor("etl", ExecutorId(1), pod);
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    connection.write_all(line(1, 1, 1).as_bytes()).await.unwrap();
    let counters = &listener.intake.counters;
    eventually("it is counted", || counters.get(Source::Graphite, Fate::WrongPeer) == 1).await;
    assert_eq!(counters.get(Source::Graphite, Fate::Accepted), 0);
}

#[tokio::test]
async fn an_endless_line_is_read_over_and_then_closed() {
    let listener = listen(Limits::default()).await;
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    let piece = vec![b'x'; 1024 * 1024];
    let mut sent = 0;
    // Of 64 MiB, only as much as fits into the sockets' buffers goes through.
    while sent < 64 && connection.write_all(&piece).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 64, "it was read to its end");
    let counters = &listener.intake.counters;
    eventually("it is counted once", || counters.get(Source::Graphite, Fate::Oversized) == 1).await;
}

/// 64 MiB in one line over a connection that cannot be throttled: constant memory, and little of it read.
#[tokio::test]
async fn an_endless_line_takes_no_memory() {
    let (intake, _signs) = told();
    let mut endless = tokio::io::repeat(b'x').take(64 * 1024 * 1024);
    let (peer, limits) = (Ipv4Addr::LOCALHOST.into(), Limits::default());
    let seat = Places::new(limits.clone()).admit(peer, &[], Instant::now()).seat.unwrap();
    connection::serve(&mut endless, Gatherer::new(peer), seat, &intake, &limits).await;
    let read = 64 * 1024 * 1024 - endless.limit();
    assert!(read < 80 * 1024, "{read} bytes were read");
}

#[tokio::test]
async fn garbage_does_not_hurt_the_lines_beside_it() {
    let mut listener = listen(Limits::default()).await;
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    let mut bytes = vec![0xff, 0, b'\n', b'\n', b' ', b'\n'];
    bytes.extend(vec![b'z'; 3_000]);
    bytes.extend(b"\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    bytes.extend(line(2, 9, 1).as_bytes());
    connection.write_all(&bytes).await.unwrap();
    assert_eq!(beat(&mut listener.signs).await.executor, ExecutorId(2));
    let count = |fate| listener.intake.counters.get(Source::Graphite, fate);
    assert_eq!((count(Fate::Malformed), count(Fate::Oversized)), (6, 1));
}

#[tokio::test]
async fn a_slow_loris_and_a_silent_connection_are_closed() {
    let listener = listen(Limits { unfinished_ms: 300, ..Limits::default() }).await;
    let mut silent = TcpStream::connect(listener.at).await.unwrap();
    let mut slow = TcpStream::connect(listener.at).await.unwrap();
    slow.write_all(line(1, 1, 1).as_bytes()).await.unwrap();
    let start = std::time::Instant::now();
    // A byte now and then does not keep an unfinished line alive.
    let loris = async {
        while slow.write_all(b"s").await.is_ok() && start.elapsed() < Duration::from_secs(2) {
            sleep(Duration::from_millis(20)).await;
        }
        start.elapsed()
    };
    let (loris, silent_closed) = tokio::join!(loris, closed(&mut silent));
    assert!(silent_closed);
    assert!(loris > Duration::from_millis(250) && loris < Duration::from_millis(1_500), "{loris:?}");
    assert_eq!(listener.intake.counters.get(Source::Graphite, Fate::IdleClosed), 2);
}

#[tokio::test]
async fn a_connection_that_has_no_more_to_say_is_closed() {
    let mut listener = listen(Limits { unfinished_ms: 100, idle_ms: 500, ..Limits::default() }).await;
    let mut idle = TcpStream::connect(listener.at).await.unwrap();
    let start = std::time::Instant::now();
    idle.write_all(line(1, 1, 1).as_bytes()).await.unwrap();
    assert!(closed(&mut idle).await);
    assert!(start.elapsed() >= Duration::from_millis(450), "it did not have its time");
    assert_eq!(beat(&mut listener.signs).await.executor, ExecutorId(1));
}

#[tokio::test]
async fn useless_lines_do_not_keep_a_connection() {
    let listener = listen(Limits { unproven_ms: 300, ..Limits::default() }).await;
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    let start = std::time::Instant::now();
    while connection.write_all(b"unknown.1.x 1 1\n").await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(2), "it is still open");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Sends these bytes from this address, in a connection that stays open.
async fn from(ip: [u8; 4], to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((ip, 0))).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    // The listener may close it while we write.
    let _ = stream.write_all(bytes).await;
    stream
}

/// One garbage line each from more connections than there are slots; then executors report, with a connection each.
#[tokio::test]
async fn garbage_takes_no_place_of_a_pods() {
    let limits = Limits { connections_max: 40, connections_per_ip_max: 4, ..Limits::default() };
    let mut listener = listen(limits).await;
    for id in 1..=4 {
        let ip = Ipv4Addr::new(127, 0, 1, u8::try_from(id).unwrap());
        let pod = ExecutorEntry { uid: Uid::from("u"), pod_ip: Some(ip.into()), runs: true };
        listener.intake.directory.set_executor("etl", ExecutorId(id), pod);
    }
    let mut garbage = Vec::new();
    for number in 0..120_u8 {
        garbage.push(from([127, 9, 0, number / 6 + 1], listener.at, b"unknown.1.x 1 1\n").await);
    }
    let counters = Arc::clone(&listener.intake.counters);
    let turned_away = || counters.get(Source::Graphite, Fate::TooManyConnections);
    eventually("strangers have half", || turned_away() == 100).await;
    for round in 0..5_u8 {
        for id in 1..=4_u8 {
            let text = line(u64::from(id), u64::from(round), u64::from(round));
            let mut stream = from([127, 0, 1, id], listener.at, text.as_bytes()).await;
            assert_eq!(beat(&mut listener.signs).await.executor, ExecutorId(u64::from(id)));
            stream.shutdown().await.unwrap();
        }
    }
    assert_eq!(turned_away(), 100, "a pod's was rejected or evicted");
    assert!(listener.signs.is_empty(), "a stranger's garbage must not impair a fleet whose pods are checked");
}

#[tokio::test]
async fn one_address_has_its_share_and_the_oldest_of_no_use_makes_room() {
    let listener = listen(Limits { connections_per_ip_max: 8, ..Limits::default() }).await;
    let mut connections = Vec::new();
    for _ in 0..10 {
        connections.push(TcpStream::connect(listener.at).await.unwrap());
    }
    let counters = &listener.intake.counters;
    eventually("two made room", || counters.get(Source::Graphite, Fate::TooManyConnections) == 2).await;
    let mut open = Vec::new();
    for connection in &mut connections {
        open.push(timeout(Duration::from_millis(100), connection.read(&mut [0])).await.is_err());
    }
    assert_eq!(open, [[false; 2].as_slice(), &[true; 8]].concat());
    let fleet = listener.intake.directory.fleet("etl").unwrap();
    let noted = fleet.notes.worst_since(Instant::now() - Duration::from_secs(5)).map(|trouble| trouble.why);
    assert_eq!(noted, Some(Why::TooManyConnections));
}

/// Rejected connections are reported to their fleet.
#[tokio::test]
async fn what_a_pod_could_not_say_impairs_its_fleet() {
    let limits = Limits { connections_per_ip_max: 1, lines_per_s: 100, burst_lines: 10, ..Limits::default() };
    let mut listener = listen(limits).await;
    let refused = Some(Sign::Impaired { life: 0, why: Impairment::Refused });
    // Two for each of its pods.
    let mut connections = Vec::new();
    for _ in 0..9 {
        connections.push(TcpStream::connect(listener.at).await.unwrap());
    }
    assert_eq!(timeout(Duration::from_secs(2), listener.signs.recv()).await.unwrap(), refused);
    drop(connections);
    // A throttled connection is reported, because the lines behind it may be heartbeats.
    let mut listener = listen(Limits { lines_per_s: 100, burst_lines: 10, ..Limits::default() }).await;
    let text: String = (0..50).map(|value| line(1, value, 5)).collect();
    let _fast = from([127, 0, 0, 1], listener.at, text.as_bytes()).await;
    assert_eq!(timeout(Duration::from_secs(2), listener.signs.recv()).await.unwrap(), refused);
    // A stranger's connection concerns no fleet.
    let mut listener = listen(Limits { lines_per_s: 100, burst_lines: 10, ..Limits::default() }).await;
    let _fast = from([127, 9, 0, 1], listener.at, "x.1.y 1 1\n".repeat(50).as_bytes()).await;
    let counters = Arc::clone(&listener.intake.counters);
    eventually("it is slowed down", || counters.get(Source::Graphite, Fate::RateLimited) > 0).await;
    assert!(listener.signs.try_recv().is_err());
}

#[tokio::test]
async fn who_sends_too_much_is_read_slowly() {
    let limits = Limits { lines_per_s: 1_000, burst_lines: 100, ..Limits::default() };
    let mut listener = listen(limits).await;
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    let start = std::time::Instant::now();
    let text: String = (0..1_000).map(|value| line(1, value, 5)).collect();
    connection.write_all(text.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut last = beat(&mut listener.signs).await;
    while last.metrics[0].1 < 999.0 {
        last = beat(&mut listener.signs).await;
    }
    assert!(start.elapsed() >= Duration::from_millis(800), "{:?}", start.elapsed());
    assert!(listener.intake.counters.get(Source::Graphite, Fate::RateLimited) > 0);
}

/// Without the discount, a hundred batches of twenty lines cost 3,900 lines.
#[tokio::test]
async fn a_relay_may_say_twenty_times_as_much() {
    let limits = Limits { lines_per_s: 1_000, burst_lines: 200, ..Limits::default() };
    let listener = listen(limits).await;
    let entry = FleetEntry {
        application_id: "spark-0123456789abcdef".to_owned(),
        check_peer: false,
        ..FleetEntry::default()
    };
    listener.intake.directory.set_fleet("etl", entry).unwrap();
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    let text: String =
        (0..100).flat_map(|time| (0..20).map(move |value| line(time % 4 + 1, value, time))).collect();
    connection.write_all(text.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    let counters = &listener.intake.counters;
    eventually("all are heard", || counters.get(Source::Graphite, Fate::Accepted) == 100).await;
    assert_eq!(counters.get(Source::Graphite, Fate::RateLimited), 0);
}

#[tokio::test]
async fn forged_ids_cost_as_much_as_a_batch_each() {
    let limits = Limits { lines_per_s: 10_000, burst_lines: 2_000, ..Limits::default() };
    let listener = listen(limits).await;
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    let text: String = (5..505).map(|executor| line(executor, 1, 1)).collect();
    connection.write_all(text.as_bytes()).await.unwrap();
    let counters = &listener.intake.counters;
    eventually("all are counted", || counters.get(Source::Graphite, Fate::UnknownExecutor) == 500).await;
    assert!(counters.get(Source::Graphite, Fate::RateLimited) > 0);
    assert_eq!(counters.get(Source::Graphite, Fate::Accepted), 0);
}

#[tokio::test]
async fn datagrams_of_one_sender_are_one_heartbeat() {
    let (intake, mut signs) = told();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let task = tokio::spawn(run_udp(socket, intake.clone(), Limits::default()));
    let (one, two) =
        (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    one.send_to(&[b'x'; 2_000], at).await.unwrap();
    one.send_to(b"", at).await.unwrap();
    // Every line is a datagram, and the lines of two executors interleave.
    for text in stream().split_inclusive(|byte| *byte == b'\n').take(254) {
        let executor = text["spark-0123456789abcdef.".len()];
        let socket = if executor == b'1' { &one } else { &two };
        socket.send_to(text, at).await.unwrap();
    }
    let beats = [beat(&mut signs).await, beat(&mut signs).await];
    assert!(beats.iter().all(|beat| beat.metrics.len() == 42), "{beats:?}");
    assert_ne!(beats[0].executor, beats[1].executor);
    assert_eq!(intake.counters.get(Source::Graphite, Fate::Oversized), 1);
    task.abort();
}

/// `cargo test -- --ignored --nocapture heartbeats_per_second`, optimised: as Spark sends them, with a connection for
/// each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, and proves nothing"]
async fn heartbeats_per_second() {
    let mut listener = listen(Limits::default()).await;
    let report: Vec<u8> =
        stream().split_inclusive(|byte| *byte == b'\n').take(127).flatten().copied().collect();
    let start = std::time::Instant::now();
    let at = listener.at;
    let mut senders = JoinSet::new();
    for _ in 0..20 {
        let report = report.clone();
        senders.spawn(async move {
            for _ in 0..500 {
                let mut connection = TcpStream::connect(at).await.unwrap();
                connection.write_all(&report).await.unwrap();
                connection.shutdown().await.unwrap();
                assert!(closed(&mut connection).await);
            }
        });
    }
    let counters = Arc::clone(&listener.intake.counters);
    while counters.get(Source::Graphite, Fate::Accepted) < 10_000 {
        listener.signs.recv().await;
    }
    println!("{:.0} heartbeats/s of 127 lines", 10_000.0 / start.elapsed().as_secs_f64());
}
