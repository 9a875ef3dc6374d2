//! Over real sockets on loopback.

use std::net::Ipv4Addr;
use std::sync::Arc;

use fleet::id::{ExecutorId, Uid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::heartbeat::Sign;
use crate::heartbeat::directory::{ExecutorEntry, FleetEntry};
use crate::heartbeat::tests::{fixture, intake};

struct Listener {
    intake: Intake,
    signs: mpsc::Receiver<Sign>,
    at: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn told() -> (Intake, mpsc::Receiver<Sign>) {
    let (intake, signs) = intake(100_000);
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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

async fn beat(signs: &mut mpsc::Receiver<Sign>) -> fleet::event::Beat {
    match timeout(Duration::from_secs(2), signs.recv()).await.expect("in time") {
        Some(Sign::Beat { beat, .. }) => beat,
        other => panic!("{other:?}"),
    }
}

/// Has the listener closed it?
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
    let datagrams = tokio::spawn(run_udp(socket, listener.intake.clone()));
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
    let mut executors = [0; 5];
    for _ in 0..45 {
        let beat = beat(&mut listener.signs).await;
        assert_eq!(beat.uid, Some(Uid::from("u")));
        executors[usize::try_from(beat.executor.0).unwrap()] += 1;
    }
    assert_eq!(executors, [0, 12, 6, 18, 9]);
    assert!(closed(&mut connection).await);
    assert!(listener.signs.try_recv().is_err());
}

#[tokio::test]
async fn a_report_is_heard_while_its_connection_stays_open() {
    let mut listener = listen(Limits::default()).await;
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    let text = line(3, 7, 100);
    // Cut in the middle of a number.
    connection.write_all(&text.as_bytes()[..text.len() - 3]).await.unwrap();
    sleep(Duration::from_millis(20)).await;
    connection.write_all(&text.as_bytes()[text.len() - 3..]).await.unwrap();
    let beat = beat(&mut listener.signs).await;
    assert_eq!((beat.executor, &*beat.metrics), (ExecutorId(3), &[("runTime".into(), 7.0)][..]));
    // A line that never ends is not a line.
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
    // Of 64 MiB, what fits into the sockets' buffers goes through.
    while sent < 64 && connection.write_all(&piece).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 64, "it was read to its end");
    let counters = &listener.intake.counters;
    eventually("it is counted once", || counters.get(Source::Graphite, Fate::Oversized) == 1).await;
}

/// 64 MiB of a line in a connection that cannot be slowed down: constant memory, and little of it read.
#[tokio::test]
async fn an_endless_line_takes_no_memory() {
    let (intake, _signs) = told();
    let mut endless = tokio::io::repeat(b'x').take(64 * 1024 * 1024);
    connection::serve(&mut endless, Gatherer::new(Ipv4Addr::LOCALHOST.into()), &intake, &Limits::default())
        .await;
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
    // A byte now and then keeps no line alive.
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
async fn who_has_left_is_forgotten() {
    let limits = Limits { connections_max: 3, connections_per_ip_max: 2, ..Limits::default() };
    let [one, two] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
    let ids = [0, 1, 2].map(|_| tokio::spawn(async {}).id());
    let mut peers = Peers::default();
    peers.enter(ids[0], one);
    peers.enter(ids[1], one);
    assert!(!peers.has_room(one, &limits) && peers.has_room(two, &limits));
    peers.enter(ids[2], two);
    assert!(!peers.has_room(two, &limits), "three in all");
    for id in ids {
        peers.leave(id);
    }
    assert!(peers.has_room(one, &limits) && peers.of.is_empty() && peers.per_ip.is_empty());
}

#[tokio::test]
async fn useless_lines_do_not_keep_a_connection() {
    let listener = listen(Limits { idle_ms: 300, ..Limits::default() }).await;
    let mut connection = TcpStream::connect(listener.at).await.unwrap();
    let start = std::time::Instant::now();
    while connection.write_all(b"nobody.1.x 1 1\n").await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(2), "it is still open");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn many_connections_are_served_and_the_next_is_not() {
    many_connections(300).await;
}

#[tokio::test]
#[ignore = "needs more than 4,000 open files: ulimit -n 8192"]
async fn two_thousand_connections_are_served_and_the_next_is_not() {
    many_connections(2_000).await;
}

async fn many_connections(many: usize) {
    let limits = Limits { connections_max: many, connections_per_ip_max: many, ..Limits::default() };
    let mut listener = listen(limits).await;
    let mut connections = Vec::new();
    for _ in 0..many {
        connections.push(TcpStream::connect(listener.at).await.unwrap());
    }
    let mut one_more = TcpStream::connect(listener.at).await.unwrap();
    assert!(closed(&mut one_more).await);
    for connection in &mut connections {
        connection.write_all(line(4, 1, 1).as_bytes()).await.unwrap();
    }
    for _ in 0..many {
        assert_eq!(beat(&mut listener.signs).await.executor, ExecutorId(4));
    }
    let counters = &listener.intake.counters;
    assert_eq!(counters.get(Source::Graphite, Fate::TooManyConnections), 1);
    // Those that end make room.
    drop(connections);
    let mut served = false;
    for _ in 0..50 {
        let mut connection = TcpStream::connect(listener.at).await.unwrap();
        // It may be closed while we write: then there was no room yet.
        let _ = connection.write_all(line(1, 1, 2).as_bytes()).await;
        served = timeout(Duration::from_millis(400), listener.signs.recv()).await.is_ok();
        if served {
            break;
        }
    }
    assert!(served);
}

#[tokio::test]
async fn one_address_has_its_share_of_the_connections() {
    let listener = listen(Limits { connections_per_ip_max: 3, ..Limits::default() }).await;
    let mut connections = Vec::new();
    for _ in 0..5 {
        connections.push(TcpStream::connect(listener.at).await.unwrap());
    }
    let mut open = 0;
    for connection in &mut connections {
        open += u32::from(timeout(Duration::from_millis(100), connection.read(&mut [0])).await.is_err());
    }
    assert_eq!(open, 3);
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

/// A hundred batches of twenty lines cost 3,900 lines otherwise.
#[tokio::test]
async fn a_relay_may_say_twenty_times_as_much() {
    let limits = Limits { lines_per_s: 1_000, burst_lines: 200, ..Limits::default() };
    let mut listener = listen(limits).await;
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
    for _ in 0..100 {
        beat(&mut listener.signs).await;
    }
    assert_eq!(listener.intake.counters.get(Source::Graphite, Fate::RateLimited), 0);
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
    let task = tokio::spawn(run_udp(socket, intake.clone()));
    let (one, two) =
        (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    one.send_to(&[b'x'; 2_000], at).await.unwrap();
    one.send_to(b"", at).await.unwrap();
    // Every line is a datagram, and two executors are in each other's way.
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

/// `cargo test -- --ignored --nocapture heartbeats_per_second`, optimised: as Spark sends them, a
/// connection for each.
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
    for _ in 0..10_000 {
        beat(&mut listener.signs).await;
    }
    println!("{:.0} heartbeats/s of 127 lines", 10_000.0 / start.elapsed().as_secs_f64());
}
