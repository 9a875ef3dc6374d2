//! Two replicas that are both ready, under heartbeats and reads, while the leader is killed, and while it ends in order.
//!
//! Executors report by turns to every replica, each from the address of its pod, as they would through a Service; and
//! another client reads by turns from every replica. What fails is counted, with the time from the first failure to the
//! last.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::stage::{Daemon, Fleet, PATIENCE, Stage, runs, sum};
use super::tools;

const TARGET: usize = 6;
/// Less than a takeover takes: if the new leader held the time without a leader against executors, they would be lost.
const SPEC: &str = r#"{"interval": "1s", "timeout": "10s", "checkPeer": true}"#;
/// The Lease's duration, a retry period, and a margin for a busy machine.
const TAKEOVER: Duration = Duration::from_secs(15 + 3 + 10);
const PERIOD: Duration = Duration::from_millis(200);

/// A replica that can be forwarded to.
fn replica(stage: &Stage, fleet: &Fleet) -> Daemon {
    stage.daemon(&[fleet], &["--lease=failover", "--advertise=127.0.0.1", "--relay=127.0.0.1:0"])
}

fn ready(daemon: &Daemon) -> String {
    get(daemon.http, "/readyz").unwrap_or_else(|error| error.to_string())
}

fn is_ready(stage: &Stage, daemon: &Daemon, how: &str) {
    stage.until(how, || {
        let said = ready(daemon);
        if said.starts_with("200 ") && said.contains(how) { Ok(()) } else { Err(said) }
    });
}

/// Status and body.
fn get(http: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&http, PATIENCE)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: rollcall\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(format!("{} {body}", head.split(' ').nth(1).unwrap_or_default()))
}

/// The address and the UID of each executor's pod. Both are there as soon as it runs.
fn pods(stage: &Stage, fleet: &Fleet) -> BTreeMap<u64, (Ipv4Addr, String)> {
    let pods = stage.pods(fleet).unwrap().into_iter().filter(|(_, pod)| runs(pod));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let place = |pod: &Value| (text(&pod["status"]["podIP"]).parse().unwrap(), text(&pod["metadata"]["uid"]));
    pods.map(|(id, pod)| (id, place(&pod))).collect()
}

/// Waits for the pods of these executors, and lets them report.
fn let_report(stage: &Stage, fleet: &Fleet, traffic: &Traffic, ids: &[u64]) {
    stage.until("running", || {
        let pods = pods(stage, fleet);
        let running: Vec<u64> = pods.keys().copied().collect();
        *traffic.executors.lock().unwrap() = pods.into_iter().map(|(id, (ip, _))| (id, ip)).collect();
        if running == ids { Ok(()) } else { Err(format!("{running:?}")) }
    });
}

/// What the replica at an address answered: when, and whether it succeeded.
type Log = Arc<Mutex<Vec<(SocketAddr, Instant, bool)>>>;

struct Traffic {
    replicas: Arc<Mutex<Vec<(SocketAddr, SocketAddr)>>>,
    executors: Arc<Mutex<Vec<(u64, Ipv4Addr)>>>,
    beats: Log,
    reads: Log,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Traffic {
    fn start(replica: &Daemon) -> Traffic {
        let mut traffic = Traffic {
            replicas: Arc::new(Mutex::new(vec![(replica.http, replica.graphite)])),
            executors: Arc::default(),
            beats: Arc::default(),
            reads: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let (replicas, executors) = (Arc::clone(&traffic.replicas), Arc::clone(&traffic.executors));
        let (log, stop) = (Arc::clone(&traffic.beats), Arc::clone(&traffic.stop));
        traffic.threads.push(thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for turn in 0_usize.. {
                let replicas = replicas.lock().unwrap().clone();
                let executors = executors.lock().unwrap().clone();
                for (executor, from) in executors {
                    let (_, graphite) = replicas[(turn + executor as usize) % replicas.len()];
                    let heard = runtime.block_on(report(executor, from, graphite, turn)).is_ok();
                    log.lock().unwrap().push((graphite, Instant::now(), heard));
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(PERIOD);
            }
        }));
        let replicas = Arc::clone(&traffic.replicas);
        let (log, stop) = (Arc::clone(&traffic.reads), Arc::clone(&traffic.stop));
        traffic.threads.push(thread::spawn(move || {
            for turn in 0_usize.. {
                let replicas = replicas.lock().unwrap().clone();
                let (http, _) = replicas[turn % replicas.len()];
                let read = get(http, "/v1/fleets/failover").is_ok_and(|said| said.starts_with("200 "));
                log.lock().unwrap().push((http, Instant::now(), read));
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(PERIOD);
            }
        }));
        traffic
    }

    fn between(&self, replicas: &[&Daemon]) {
        *self.replicas.lock().unwrap() = replicas.iter().map(|one| (one.http, one.graphite)).collect();
    }

    /// What happened at this replica since then: the longest time in which everything failed, of beats and of reads.
    fn told(&self, what: &str, daemon: &Daemon, since: Instant) -> [Duration; 2] {
        [("heartbeats", &self.beats, daemon.graphite), ("reads", &self.reads, daemon.http)].map(
            |(kind, log, at)| {
                let log = log.lock().unwrap();
                let ours: Vec<_> = log.iter().filter(|(to, when, _)| *to == at && *when >= since).collect();
                let failed: Vec<_> = ours.iter().filter(|(.., ok)| !ok).map(|(_, when, _)| *when).collect();
                let lasted =
                    failed.first().zip(failed.last()).map_or(Duration::ZERO, |(first, last)| *last - *first);
                println!(
                    "{what}: {} of {} {kind} failed within {:.1} s",
                    failed.len(),
                    ours.len(),
                    lasted.as_secs_f64()
                );
                assert!(ours.last().is_some_and(|(.., ok)| *ok), "{kind} fail still");
                lasted
            },
        )
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// One report, as GraphiteSink sends it. An error, if the connection was reset.
async fn report(executor: u64, from: Ipv4Addr, to: SocketAddr, turn: usize) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut stream = socket.connect(to).await?.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("spark-failover.{executor}.executor.runTime.count {turn} 1\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    stream.read(&mut [0]).map(drop)
}

fn counts(daemon: &Daemon, fleet: &Fleet) -> Value {
    daemon.status(fleet).unwrap()["counts"].take()
}

#[test]
fn nothing_is_lost_while_two_ready_replicas_change_places() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let fleet = stage.fleet("failover", TARGET, |document| {
        document["spec"]["heartbeat"] = serde_json::from_str(SPEC).unwrap();
    });
    let first = replica(&stage, &fleet);
    let traffic = Traffic::start(&first);
    let_report(&stage, &fleet, &traffic, &[1, 2, 3, 4, 5, 6]);
    stage.at_strength(&first, &fleet, "the first leads");
    let second = replica(&stage, &fleet);
    is_ready(&stage, &first, "this host leads");
    is_ready(&stage, &second, "stands by and forwards to 127.0.0.1:");

    let begun = Instant::now();
    traffic.between(&[&first, &second]);
    second.order(&["kill", &fleet.name, "6", "--replace", "--force"]);
    let_report(&stage, &fleet, &traffic, &[1, 2, 3, 4, 5, 7]);
    let before = pods(&stage, &fleet);
    stage.at_strength(&second, &fleet, "one killed by way of the standby");
    thread::sleep(Duration::from_secs(5));
    let removed = counts(&first, &fleet)["removed"].take();
    assert_eq!(removed, json!({"kill": 1}), "the command took effect once");
    for (daemon, what) in [(&first, "both ready, the leader"), (&second, "both ready, the standby")] {
        assert_eq!(traffic.told(what, daemon, begun), [Duration::ZERO; 2]);
    }

    // Its port is closed: a Service stops sending to it.
    let begun = Instant::now();
    traffic.between(&[&second]);
    drop(first);
    follows(&stage, &second);
    let killed = traffic.told("leader killed, the standby", &second, begun);
    assert!(killed.iter().all(|time| *time < TAKEOVER), "{killed:?}");

    let third = replica(&stage, &fleet);
    is_ready(&stage, &third, "stands by and forwards to 127.0.0.1:");
    let begun = Instant::now();
    traffic.between(&[&third]);
    let mut second = second;
    second.signal("TERM");
    assert!(second.wait(PATIENCE).success());
    follows(&stage, &third);
    let ended = traffic.told("leader ended in order, the standby", &third, begun);
    assert!(ended.iter().all(|time| *time < Duration::from_secs(10)), "{ended:?}");

    // Longer than the heartbeat timeout: an executor that was missed would have been lost by now.
    thread::sleep(Duration::from_secs(12));
    let after = counts(&third, &fleet);
    assert_eq!((sum(&after["lost"]), &after["created"]), (0, &json!(TARGET + 1)), "{after}");
    assert_eq!(pods(&stage, &fleet), before, "the same executors as before");
    stage.judge(&fleet);
}

/// It leads, and has been asked and has answered for a while.
fn follows(stage: &Stage, daemon: &Daemon) {
    let mut unready = 0;
    stage.until("leading", || {
        let said = ready(daemon);
        unready += u32::from(!said.starts_with("200 "));
        if said.starts_with("200 ok: this host leads") { Ok(()) } else { Err(said) }
    });
    // While it learns of its cluster.
    assert!(unready <= 10, "it was not ready in {unready} of the looks, of which there are five in a second");
    thread::sleep(Duration::from_secs(2));
}
