//! The whole network attacks the real binary at once, and the fleet stays at strength.
//!
//! On loopback every 127.x.y.z is a separate address: executors and the client that polls `/livez` are at 127.0.0.1,
//! and the attackers are elsewhere. Their actions are counted, and have no effect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use embedded::Chaos;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::real::{Process, Town};
use super::support::{APPLICATION, FLEET, NAMESPACE};

const TARGET: u32 = 6;
const ATTACK: Duration = Duration::from_secs(20);
/// From the end of a pod to its replacement.
const RECOVERY: Duration = Duration::from_secs(5);
/// Far enough apart not to be a mass loss.
const BETWEEN: Duration = Duration::from_secs(4);
/// kubelet's default is 1 s. Here two cores also run the attackers, unoptimised.
const PROBE: Duration = Duration::from_secs(3);

/// Attacking connections: 2,000, or as many as this process may have beside those that it needs.
fn many() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files: usize = files.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(1_024);
    2_000.min(files.saturating_sub(1_000) / 2).max(100)
}

fn stranger(number: usize) -> IpAddr {
    Ipv4Addr::new(
        127,
        1,
        u8::try_from(number / 250).expect("few"),
        u8::try_from(number % 250 + 1).expect("few"),
    )
    .into()
}

async fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

/// Sends this repeatedly, over connections that are reopened when they are closed.
async fn flood(number: usize, to: SocketAddr, bytes: Vec<u8>) {
    loop {
        if let Ok(mut stream) = connect(stranger(number), to).await {
            while stream.write_all(&bytes).await.is_ok() {}
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Holds connections open with a byte now and then.
async fn hold(first: usize, each: usize, count: usize, to: SocketAddr, bytes: &'static [u8]) {
    let mut streams = Vec::new();
    for number in 0..count {
        if let Ok(Ok(stream)) =
            timeout(Duration::from_secs(1), connect(stranger(first + number / each), to)).await
        {
            streams.push(stream);
        }
    }
    for byte in bytes.iter().cycle() {
        for stream in &mut streams {
            // Closed connections are not reopened: there are others.
            let _ = stream.try_write(&[*byte]);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Requests that are rejected.
async fn post(number: usize, to: SocketAddr, request: Vec<u8>) {
    loop {
        if let Ok(mut stream) = connect(stranger(number), to).await {
            let _ = stream.write_all(&request).await;
            let _ = timeout(Duration::from_secs(2), stream.read(&mut [0; 64])).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn request(token: &str, length: usize, body: &str) -> Vec<u8> {
    format!(
        "POST /v1/heartbeats HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

async fn datagrams(number: usize, to: SocketAddr) {
    let socket = UdpSocket::bind(SocketAddr::new(stranger(number), 0)).await.expect("a port");
    loop {
        for bytes in [&[0xff; 1_400][..], b"", b"a.b.c 1 1\n"] {
            let _ = socket.send_to(bytes, to).await;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// The sum of a metric's samples with all of these labels.
fn count(metrics: &str, labels: &[&str]) -> u64 {
    let of = metrics.lines().filter(|line| line.starts_with("rollcall_heartbeats_total{"));
    let of = of.filter(|line| labels.iter().all(|label| line.contains(label)));
    of.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_goes_on_whatever_the_network_does() {
    let town = Town::start(9, Chaos::None, TARGET).await;
    // A static token, so that there can be a wrong one.
    let file = town.dir.join("token");
    town.write(TARGET, |document| document["spec"]["heartbeat"]["tokenFile"] = file.to_str().into());
    let process = Process::start(&town);
    let (http, graphite) = (process.listens().await, town.graphite().expect("it listens"));
    town.at_rest(&process, TARGET as usize, 60).await;

    let mut garbage = vec![0; 16 << 10];
    let mut dice = ChaCha8Rng::seed_from_u64(9);
    dice.fill(&mut garbage[..]);
    let forged: String =
        (0..50).map(|id| format!("{APPLICATION}.{id}.executor.runTime.count 1 1\n")).collect();
    let beat = format!("{{\"beats\":[{{\"fleet\":\"{FLEET}\",\"executor\":1}}]}}");
    let many = many();
    let mut attack = JoinSet::new();
    for number in 0..4 {
        attack.spawn(flood(number, graphite, garbage.clone()));
        attack.spawn(flood(10 + number, graphite, vec![b'x'; 64 << 10]));
        attack.spawn(flood(20 + number, graphite, forged.clone().into_bytes()));
        attack.spawn(post(30 + number, http, request("wrong", beat.len(), &beat)));
        attack.spawn(post(40 + number, http, request("wrong", 1 << 30, &"x".repeat(100_000))));
        attack.spawn(post(50 + number, http, garbage.clone()));
        attack.spawn(datagrams(60 + number, graphite));
    }
    // More connections than one address may have, and fewer.
    attack.spawn(hold(100, 200, 200, graphite, b"x"));
    attack.spawn(hold(110, 50, many, graphite, b"spark-0123456789abcdef.1.x 1 1\n"));
    attack.spawn(hold(200, 50, 900, http, b"GET /livez HTTP/1.1\r\nx: y\r\n"));

    let (begun, mut probes, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    let mut victims = 0_u32;
    let mut lost: Option<(u64, Instant)> = None;
    while begun.elapsed() < ATTACK || lost.is_some() {
        let asked = Instant::now();
        let code = timeout(PROBE, town.get(&process, "/livez")).await.map(|got| got.map(|(code, _)| code));
        slowest = slowest.max(asked.elapsed());
        assert_eq!(
            code,
            Ok(Some(200)),
            "after {:?}, {probes} probes were answered: {}",
            begun.elapsed(),
            process.log().join("\n")
        );
        probes += 1;
        let created = town.world.truth().created;
        match lost {
            // Delete one of the executors.
            None if begun.elapsed() < ATTACK - RECOVERY && begun.elapsed() > BETWEEN * victims => {
                let pods = town.world.pods();
                let name = pods[0]["metadata"]["name"].as_str().expect("a name").to_owned();
                town.world.server.delete("pods", NAMESPACE, &name, Some(0)).expect("it is there");
                (lost, victims) = (Some((created, Instant::now())), victims + 1);
            }
            Some((before, _)) if created > before => lost = None,
            Some((_, at)) => assert!(
                at.elapsed() < RECOVERY,
                "not replaced after {RECOVERY:?}: {:?}",
                town.fleet(&process).await
            ),
            None => {}
        }
        sleep(Duration::from_millis(200)).await;
    }
    assert!(victims >= 3, "only {victims} had to be replaced");
    let (_, metrics) = town.get(&process, "/metrics").await.expect("an answer");
    attack.shutdown().await;

    for labels in [
        ["source=\"graphite\"", "result=\"malformed\""],
        ["source=\"graphite\"", "result=\"oversized\""],
        ["source=\"graphite\"", "result=\"wrong-peer\""],
        ["source=\"graphite\"", "result=\"unknown-executor\""],
        ["source=\"graphite\"", "result=\"too-many-connections\""],
        ["source=\"api\"", "result=\"unauthorized\""],
    ] {
        assert!(count(&metrics, &labels) > 0, "{labels:?} is not counted:\n{metrics}");
    }
    town.at_rest(&process, TARGET as usize, 30).await;
    let fleet = town.fleet(&process).await.expect("an answer");
    // No executor was declared lost, or kept alive, because of the attackers' traffic.
    assert_eq!(fleet["counts"]["lost"], serde_json::json!({ "deleted": victims }), "{FLEET}: {fleet:#}");
    assert_eq!(fleet["counts"]["created"], TARGET + victims);
    assert_eq!(town.world.wrong(), Vec::<String>::new());
    assert_eq!(process.terminate().await.0, Some(0));
}
