//! Two replicas in one process, over real sockets on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fleet::event::Impairment;
use fleet::id::{ExecutorId, Uid};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::replica::Replica;
use super::*;
use crate::handle::{Forwarding, Handle, Told};
use crate::heartbeat::directory::{ExecutorEntry, FleetEntry};
use crate::heartbeat::intake::Signs;
use crate::heartbeat::{Directory, Fate, Intake, Sign, Source, graphite, intake};
use crate::http::fake::{TOKEN, leader};
use crate::http::{self, BODY_MAX};
use crate::listen::Listener;
use crate::metrics::Metrics;

const POD: [u8; 4] = [127, 0, 0, 1];
const ANOTHER_POD: [u8; 4] = [127, 0, 0, 2];

/// A replica with its listeners.
struct Side {
    handle: Handle,
    metrics: Metrics,
    intake: Intake,
    signs: Signs,
    graphite: SocketAddr,
    http: SocketAddr,
    relay: SocketAddr,
    notes: cluster::lease::Notes,
    forwards: Relay,
    _tasks: JoinSet<()>,
}

fn listener() -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

fn side(handle: Handle, key: u128) -> Side {
    let replica = Replica::bind(Ipv4Addr::LOCALHOST.into(), "127.0.0.1:0".parse().unwrap(), 32, key).unwrap();
    let (sender, signs) = intake::channel();
    let intake = Intake::new(Arc::new(Directory::default()), Arc::default(), sender);
    let intake = intake.with_relay(replica.relay.clone());
    let ((lines, graphite), (web, http)) = (listener(), listener());
    let (relay, notes, forwards) = (replica.address, replica.notes.clone(), replica.relay.clone());
    let metrics = Metrics::new(Some("rollcall"));
    let token = Some(TOKEN.to_owned());
    let settings = http::Settings { token, relay: forwards.clone(), ..http::Settings::default() };
    let router = http::router(handle.clone(), metrics.clone(), settings);
    let (lines, web, both) = replica.start(&handle, true, Arc::new(intake.clone()), lines, web);
    let mut tasks = JoinSet::new();
    for task in both {
        // Aborted with the set.
        let task = Abort(task);
        tasks.spawn(async move {
            let _task = task;
            std::future::pending().await
        });
    }
    tasks.spawn(graphite::run(lines, intake.clone(), graphite::Limits::default()));
    let neighbours = Arc::new(intake.clone());
    tasks.spawn(async move {
        let limits = http::serve::Limits::new(64);
        let _ = http::serve(web, router, limits, neighbours, std::future::pending()).await;
    });
    Side { handle, metrics, intake, signs, graphite, http, relay, notes, forwards, _tasks: tasks }
}

struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The leader, which knows two executors of a fleet, and a replica that stands by and is linked to it.
async fn pair() -> (Side, Side) {
    let leader = side(leader(), 1);
    leader.intake.directory.open();
    let application_id = "spark-1".to_owned();
    let entry = FleetEntry { application_id, check_peer: true, ..FleetEntry::default() };
    leader.intake.directory.set_fleet("etl", entry).unwrap();
    for (id, ip) in [(1, POD), (2, ANOTHER_POD)] {
        let pod = ExecutorEntry { uid: Uid::from("u"), pod_ip: Some(ip.into()), runs: true };
        leader.intake.directory.set_executor("etl", ExecutorId(id), pod);
    }
    let (handle, _requests) = Handle::new(1, 1);
    let standby = side(handle, 2);
    standby.notes.seen.send_replace(leader.notes.ours.clone());
    eventually("linked", || standby.forwards.leader().is_some()).await;
    (leader, standby)
}

impl Side {
    fn counted(&self, fate: Fate) -> u64 {
        self.intake.counters.get(Source::Graphite, fate)
    }

    async fn sign(&mut self) -> Sign {
        timeout(Duration::from_secs(6), self.signs.recv()).await.expect("in time").unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..300 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 3 s: {what}");
}

fn line(executor: u64, value: u64) -> String {
    format!("spark-1.{executor}.executor.runTime.count {value} 1\n")
}

/// A connection from this address.
async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::from(from), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// One report, as GraphiteSink sends it.
async fn report(from: [u8; 4], to: SocketAddr, executor: u64) {
    connect(from, to).await.write_all(line(executor, 1).as_bytes()).await.unwrap();
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

#[tokio::test]
async fn a_forwarded_report_is_its_senders_own() {
    let (mut leader, standby) = pair().await;
    report(POD, standby.graphite, 1).await;
    let Sign::Beat { beat, .. } = leader.sign().await else { panic!("no beat") };
    assert_eq!((beat.executor, beat.uid), (ExecutorId(1), Some(Uid::from("u"))), "by the address of its pod");
    report(ANOTHER_POD, standby.graphite, 1).await;
    eventually("refused", || leader.counted(Fate::WrongPeer) == 1).await;
    assert!(leader.signs.try_recv().is_err(), "one executor cannot send for another by way of a standby");
    assert_eq!((standby.counted(Fate::Forwarded), standby.counted(Fate::StandingBy)), (2, 0));
    assert_eq!(leader.counted(Fate::Forwarded), 0);
}

#[tokio::test]
async fn only_one_that_knows_the_key_may_say_for_whom_it_connects() {
    let (mut leader, _standby) = pair().await;
    let forged = hello::connect(leader.relay, &Key::new(3), Kind::Graphite, POD.into()).await;
    assert!(forged.is_err());
    // A greeting that was overheard is good for one connection alone.
    let (mut spy, at) = listener();
    let overheard =
        tokio::spawn(async move { hello::connect(at, &Key::new(1), Kind::Graphite, POD.into()).await });
    let (mut client, _) = spy.accept().await.unwrap();
    let mut server = TcpStream::connect(leader.relay).await.unwrap();
    let (mut nonce, mut greeting, mut proof) = ([0; 32], [0; 81], [0; 32]);
    server.read_exact(&mut nonce).await.unwrap();
    client.write_all(&nonce).await.unwrap();
    client.read_exact(&mut greeting).await.unwrap();
    server.write_all(&greeting).await.unwrap();
    server.read_exact(&mut proof).await.unwrap();
    client.write_all(&proof).await.unwrap();
    drop(overheard.await.unwrap().unwrap());
    let mut again = TcpStream::connect(leader.relay).await.unwrap();
    again.read_exact(&mut nonce).await.unwrap();
    again.write_all(&greeting).await.unwrap();
    let _ = again.write_all(line(1, 1).as_bytes()).await;
    assert!(again.read_exact(&mut proof).await.is_err(), "the same greeting again");
    assert!(leader.signs.try_recv().is_err());
    // Who has the leader's address but not the key is sent nothing: a pod may have the address of a leader that is gone.
    let (mut false_leader, at) = listener();
    let forwarding =
        tokio::spawn(async move { hello::connect(at, &Key::new(1), Kind::Http, POD.into()).await });
    let (mut client, _) = false_leader.accept().await.unwrap();
    client.write_all(&[7; 32]).await.unwrap();
    client.read_exact(&mut greeting).await.unwrap();
    client.write_all(&[7; 32]).await.unwrap();
    assert_eq!(forwarding.await.unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn connections_end_with_the_leader_and_a_new_leader_serves_its_own() {
    let (leader, mut standby) = pair().await;
    let mut held = connect(POD, standby.graphite).await;
    held.write_all(line(1, 1).as_bytes()).await.unwrap();
    eventually("heard", || leader.counted(Fate::Accepted) == 1).await;
    let mut events = client().get(standby.url("/v1/events")).send().await.unwrap();
    leader.handle.pulse().stand_by(None);
    let read = timeout(Duration::from_secs(3), held.read(&mut [0])).await.expect("in time");
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "so that the sender connects again");
    assert!(timeout(Duration::from_secs(3), events.chunk()).await.expect("in time").is_err());
    assert!(matches!(standby.handle.pulse().forwarding(), Forwarding::Until(_)));
    let response = client().get(standby.url("/v1/fleets")).send().await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "no-leader");
    let mut refused = connect(POD, standby.graphite).await;
    assert!(refused.read(&mut [0]).await.is_err());
    assert_eq!(standby.counted(Fate::StandingBy), 1);
    // It leads.
    let entry =
        FleetEntry { application_id: "spark-1".to_owned(), check_peer: true, ..FleetEntry::default() };
    standby.intake.directory.open();
    standby.intake.directory.set_fleet("etl", entry).unwrap();
    let pod = ExecutorEntry { uid: Uid::from("u"), pod_ip: Some(POD.into()), runs: true };
    standby.intake.directory.set_executor("etl", ExecutorId(1), pod);
    report(POD, standby.graphite, 1).await;
    assert!(matches!(standby.sign().await, Sign::Beat { .. }));
}

#[tokio::test]
async fn the_leader_learns_of_what_a_standby_turned_away_and_when_it_is_silent() {
    let (mut leader, standby) = pair().await;
    let impaired = |sign| matches!(sign, Sign::Impaired { why: Impairment::Refused, .. });
    standby.forwards.turned_away(IpAddr::from([127, 0, 0, 9]));
    sleep(Duration::from_millis(100)).await;
    assert!(leader.signs.try_recv().is_err(), "no pod has that address");
    standby.forwards.turned_away(IpAddr::from(POD));
    assert!(impaired(leader.sign().await));
    standby.forwards.not_accepted();
    assert!(impaired(leader.sign().await));
    // Executors may be talking to a replica that hangs.
    let hanging = hello::connect(leader.relay, &Key::new(1), Kind::Link, POD.into()).await.unwrap();
    assert!(impaired(leader.sign().await));
    drop(hanging);
}

#[tokio::test]
async fn a_standby_answers_as_the_leader_does() {
    let (leader, standby) = pair().await;
    let client = client();
    let text = async |url: String| client.get(url).send().await.unwrap().text().await.unwrap();
    assert_eq!(text(standby.url("/v1/fleets/etl")).await, text(leader.url("/v1/fleets/etl")).await);
    let roll = || client.post(standby.url("/v1/fleets/etl/kill")).json(&json!({"executors": [1]}));
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    assert_eq!(status(roll()).await, 401, "the leader wants its token");
    assert_eq!(status(roll().bearer_auth(TOKEN)).await, 200);
    let killed: Value = serde_json::from_str(&text(leader.url("/v1/fleets/etl")).await).unwrap();
    assert_eq!(killed["counts"]["removed"], json!({"kill": 1}), "once: {killed}");
    let foreign = client.get(standby.url("/v1/fleets")).header("host", "evil.example");
    assert_eq!(status(foreign).await, 421);
    let long = client.post(standby.url("/v1/fleets/etl/kill")).bearer_auth(TOKEN);
    let long = long.header("content-type", "application/json").body(" ".repeat(BODY_MAX + 1));
    assert_eq!(status(long).await, 413);
    assert_eq!(status(client.get(standby.url("/nowhere"))).await, 404);
    let mut events = client.get(standby.url("/v1/events")).send().await.unwrap();
    let told = Told {
        namespace: "jobs".to_owned(),
        at_ms: 5,
        fleet: "etl".to_owned(),
        kind: "ExecutorLost",
        executor: None,
        message: "now".to_owned(),
    };
    leader.handle.tell(told);
    let chunk = timeout(Duration::from_secs(2), events.chunk()).await.expect("at once").unwrap().unwrap();
    assert!(chunk.starts_with(b"data: "), "{chunk:?}");
    // Of this replica alone.
    assert!(
        text(standby.url("/readyz")).await.starts_with("ok: this host stands by and forwards to 127.0.0.1:")
    );
    let metrics = text(standby.url("/metrics")).await;
    assert!(metrics.contains("\nrollcall_forwarding 1\n"), "{metrics}");
    assert!(metrics.contains("rollcall_forwarded_requests_total{result=\"answered\"} 7\n"), "{metrics}");
    assert!(standby.metrics.text(&[], standby.handle.pulse()).is_ok());
}
