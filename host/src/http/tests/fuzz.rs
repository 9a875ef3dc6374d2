//! For arbitrary input bytes: no command without the token is executed, no token is logged, and every connection ends.
//!
//! `ROLLCALL_HTTP_REQUESTS` sets the number of tries. Time advances only when nothing else can happen, so a connection
//! that never ends would be found at once.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;

use crate::handle::{Commanded, Handle, NoFleet, Request};
use crate::heartbeat::directory::{ExecutorEntry, FleetEntry, Secret};
use crate::heartbeat::{Counters, Directory, Fate, Intake, Source, api};
use crate::http::places::{Places, Room};
use crate::http::serve::{Limits, connection};
use crate::http::{Settings, router};
use crate::metrics::Metrics;

const OPERATORS: &str = "open-sesame";
const FLEETS: &str = "fleets-own-token";
const DEFAULT_REQUESTS: u64 = 10_000;

/// The tokens are in places where they have no effect.
const SEEDS: [&str; 11] = [
    "GET /livez HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n",
    "GET /v1/fleets/etl?token=open-sesame HTTP/1.1\r\nHost: 10.0.0.1\r\nCookie: fleets-own-token\r\n\r\n",
    "GET /v1/fleets/etl/executors/7 HTTP/1.1\r\nHost: rollcall\r\nOrigin: http://rollcall\r\n\r\n",
    "GET /metrics HTTP/1.0\r\n\r\n",
    "GET /v1/events?fleet=etl HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "POST /v1/fleets/etl/kill HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer open-sesam\r\n\
     Content-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"executors\":[1]}",
    "POST /v1/fleets/etl/roll HTTP/1.1\r\nHost: x\r\nAuthorization: Basic open-sesame\r\n\
     Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST /v1/fleets/etl/pause HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer Open-sesame\r\n\
     Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\nContent-Length: 43\r\n\r\n\
     {\"beats\":[{\"fleet\":\"etl\",\"executor\":1}]}   ",
    "POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer fleets-own-toke\r\n\
     Transfer-Encoding: chunked\r\n\r\n28\r\n{\"beats\":[{\"fleet\":\"etl\",\"executor\":1}]}\r\n0\r\n\r\n",
    "POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nX-Token: fleets-own-token\r\nExpect: 100-continue\r\n\
     Content-Length: 43\r\n\r\n{\"beats\":[{\"fleet\":\"etl\",\"executor\":1}]}   ",
];

const WORDS: [&str; 14] = [
    "\r\n",
    "\r\n\r\n",
    "\0",
    " ",
    ":",
    "Content-Length: 0\r\n",
    "Content-Length: 18446744073709551616\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked, identity\r\n",
    "ffffffffffffffff\r\n",
    "Host: evil.example\r\n",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "%00%ff/../",
];

fn mutate(random: &mut ChaCha8Rng) -> Vec<u8> {
    let seed = |random: &mut ChaCha8Rng| SEEDS[random.random_range(0..SEEDS.len())].as_bytes().to_vec();
    let mut bytes = seed(random);
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        let end = bytes.len().min(at + random.random_range(0..20));
        match random.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] = random.random(),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                drop(bytes.splice(at..at, word.bytes()));
            }
            3 => {
                let again = bytes[at..end].to_vec();
                let times = [1, 2, 50, 2_000][random.random_range(0..4)];
                drop(bytes.splice(at..at, again.repeat(times)));
            }
            4 => bytes.truncate(at),
            5 => {
                let other = seed(random);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.random_range(0..other.len())..]);
            }
            _ => bytes.extend(seed(random)),
        }
    }
    bytes
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

impl Log {
    fn holds_none_of(&self, secrets: &[&str]) {
        let text = String::from_utf8_lossy(&std::mem::take(&mut *self.0.lock().unwrap())).into_owned();
        for line in text.lines() {
            assert!(!secrets.iter().any(|secret| line.contains(secret)), "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_bytes_are_obeyed_without_the_token_and_every_connection_ends() {
    let given = std::env::var("ROLLCALL_HTTP_REQUESTS").ok();
    let count = given.map_or(DEFAULT_REQUESTS, |count| count.parse().unwrap());
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(log.clone()).finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let (handle, mut requests) = Handle::new(64, 4);
    let obeyed = Arc::new(AtomicU64::new(0));
    let commands = Arc::clone(&obeyed);
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            match request {
                Request::Overview(reply) => drop(reply.send(Vec::new())),
                Request::Snapshot { reply, .. } => drop(reply.send(Err(NoFleet::Unknown))),
                Request::Explain { reply, .. } => drop(reply.send(Err(NoFleet::Unknown))),
                Request::Command { reply, .. } => {
                    commands.fetch_add(1, Ordering::Relaxed);
                    drop(reply.send(Commanded::NoFleet(NoFleet::Unknown)));
                }
            }
        }
    });
    let (directory, counters) = (Arc::new(Directory::default()), Arc::new(Counters::default()));
    directory.open();
    let entry = FleetEntry {
        application_id: "spark-1".to_owned(),
        token: Some(Secret::new(FLEETS)),
        ..FleetEntry::default()
    };
    directory.set_fleet("etl", entry).unwrap();
    let executor = ExecutorEntry { uid: "u1".into(), pod_ip: None, runs: true };
    directory.set_executor("etl", fleet::id::ExecutorId(1), executor);
    let (signs, _signs) = crate::heartbeat::intake::channel();
    let intake = Intake::new(directory, Arc::clone(&counters), signs);
    let settings = Settings {
        token: Some(OPERATORS.to_owned()),
        extra: api::router(intake, None),
        ..Settings::default()
    };
    let router = router(handle, Metrics::new(None), settings);
    let places = Places::new(Room { connections_max: 8, of_one_max: 8, shared: true });
    let (_stop, stopped) = watch::channel(false);
    let send = async |bytes: Vec<u8>| {
        let (mut client, server) = duplex(64 << 10);
        let (place, _) = places.take([10, 0, 0, 1].into(), false);
        let task = connection(server, router.clone(), place, Limits::new(8), stopped.clone());
        let task = tokio::spawn(task);
        let mut answer = Vec::new();
        let exchange = async {
            // An error means that the connection is closed already.
            let _ = client.write_all(&bytes).await;
            let _ = client.read_to_end(&mut answer).await;
        };
        let ended = timeout(Duration::from_secs(200), exchange).await.is_ok();
        drop(client);
        let stream = answer.windows(17).any(|part| part == b"text/event-stream");
        assert!(ended || stream, "it is never closed: {}", bytes.escape_ascii());
        let task = timeout(Duration::from_secs(100), task).await;
        task.expect("it ends when the peer is gone").expect("no panic");
        answer
    };
    for number in 0..count {
        let bytes = mutate(&mut ChaCha8Rng::seed_from_u64(number));
        send(bytes.clone()).await;
        assert_eq!(obeyed.load(Ordering::Relaxed), 0, "{number}: {}", bytes.escape_ascii());
        let heard = counters.get(Source::Api, Fate::Accepted);
        assert_eq!(heard, 0, "{number}: {}", bytes.escape_ascii());
        if number % 256 == 0 {
            log.holds_none_of(&[OPERATORS, FLEETS]);
        }
    }
    log.holds_none_of(&[OPERATORS, FLEETS]);
    // The check can fail: with the valid tokens both are executed.
    let command = SEEDS[5].replace("open-sesam\r", "open-sesame\r");
    assert!(send(command.into_bytes()).await.starts_with(b"HTTP/1.1 404 "));
    let beat = SEEDS[9].replace("fleets-own-toke\r", "fleets-own-token\r");
    assert!(send(beat.into_bytes()).await.starts_with(b"HTTP/1.1 200 "));
    assert_eq!((obeyed.load(Ordering::Relaxed), counters.get(Source::Api, Fate::Accepted)), (1, 1));
}
