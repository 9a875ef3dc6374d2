//! Drivers with arbitrary answers, on loopback.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fleet::id::{ExecutorId, Uid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::heartbeat::directory::{DriverEntry, ExecutorEntry, FleetEntry};
use crate::heartbeat::intake::Signs;
use crate::heartbeat::tests::{fixture, intake};

mod tls;
mod troubles;

/// A driver: `answer` handles a connection that has sent a request. Also counts the connections.
async fn driver<F, R>(mut answer: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: FnMut(TcpStream, String) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            let mut head = vec![0; 4_096];
            let length = stream.read(&mut head).await.unwrap_or(0);
            head.truncate(length);
            tokio::spawn(answer(stream, String::from_utf8_lossy(&head).into_owned()));
        }
    });
    (at, asked)
}

/// A driver that sends this answer and closes.
async fn says(answer: impl Into<Vec<u8>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let answer: Arc<[u8]> = answer.into().into();
    driver(move |mut stream, _| {
        let answer = Arc::clone(&answer);
        async move {
            // The client may have stopped reading.
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

struct Running {
    intake: Intake,
    signs: Signs,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Settings {
    interval_ms: u64,
    timeout_ms: u64,
    loopback: bool,
}

fn run(drivers: &[SocketAddr], settings: Settings) -> Running {
    let (intake, signs) = intake();
    for (index, driver) in (0..).zip(drivers) {
        let entry = FleetEntry {
            life: index,
            application_id: format!("app-{index}"),
            driver: Some(DriverEntry {
                interval_ms: settings.interval_ms,
                loopback: settings.loopback,
                ..entry(*driver)
            }),
            ..FleetEntry::default()
        };
        intake.directory.set_fleet(&format!("fleet-{index}"), entry).unwrap();
    }
    let poller = Poller::new(intake.clone(), Duration::from_millis(settings.timeout_ms));
    Running { intake, signs, task: tokio::spawn(poller.run()) }
}

fn entry(address: SocketAddr) -> DriverEntry {
    DriverEntry { address, interval_ms: 50, loopback: true, tls: None, token_file: None }
}

const QUICK: Settings = Settings { interval_ms: 50, timeout_ms: 300, loopback: true };

impl Running {
    /// The life that the report is for, and its number of rows.
    async fn report(&mut self) -> (u64, usize) {
        match timeout(Duration::from_secs(2), self.signs.recv()).await.expect("in time") {
            Some(Sign::Driver { life, rows }) => (life, rows.len()),
            other => panic!("{other:?}"),
        }
    }

    async fn counted(&self, fate: Fate) {
        for _ in 0..190 {
            if self.intake.counters.get(Source::Driver, fate) > 0 {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 1.9 s: {fate}; {:?}", self.intake.counters.snapshot());
    }
}

#[tokio::test]
async fn a_driver_is_asked_again_and_again() {
    let body = ok(&fixture("allexecutors/060s.json"));
    let (at, _) = driver(move |mut stream, head| {
        let body = body.clone();
        async move {
            assert!(head.starts_with("GET /api/v1/applications/app-0/allexecutors HTTP/1.1\r\n"), "{head}");
            stream.write_all(&body).await.unwrap();
        }
    })
    .await;
    let mut running = run(&[at], QUICK);
    for _ in 0..3 {
        assert_eq!(running.report().await, (0, 4));
    }
    running.intake.directory.remove_fleet("fleet-0");
    sleep(Duration::from_millis(150)).await;
    while running.signs.try_recv().is_ok() {}
    sleep(Duration::from_millis(150)).await;
    assert!(running.signs.try_recv().is_err(), "its fleet is gone");
}

#[tokio::test]
async fn what_is_not_an_answer_is_counted_and_affects_no_other_driver() {
    let (good, _) = says(ok(b"[{\"id\": \"1\"}, {\"id\": \"x\"}]")).await;
    let (elsewhere, asked) = says(ok(b"[]")).await;
    let redirect =
        format!("HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n");
    for (answer, fate) in [
        (redirect.into_bytes(), Fate::Failed),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(), Fate::NotFound),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec(), Fate::Failed),
        (b"\x00\xff\x16\x03 garbage\r\n\r\n".to_vec(), Fate::Failed),
        (ok(b"<html>Spark is still starting</html>"), Fate::Malformed),
        (ok(b"[{\"id\": 1}]"), Fate::Malformed),
        (ok(b"[{\"id\": \"1\", \"totalTasks\": 2147483648}]"), Fate::Malformed),
        (ok(b"[{\"id\": \"1\"}, {\"id\": \"1\"}]"), Fate::Malformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[".to_vec(), Fate::Failed),
        (Vec::new(), Fate::Failed),
    ] {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let (bad, _) = says(answer).await;
        let running = run(&[bad], QUICK);
        running.counted(fate).await;
        assert_eq!(running.intake.counters.get(Source::Driver, Fate::Accepted), 0, "{shown}");
        let (silent, _) = driver(|stream, _| async move {
            sleep(Duration::from_secs(5)).await;
            drop(stream);
        })
        .await;
        let mut running = run(&[silent, bad, good], QUICK);
        assert_eq!(running.report().await, (2, 1));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0, "the redirect was followed");
}

#[tokio::test]
async fn one_that_says_nothing_is_given_up_and_asked_more_rarely() {
    let answered = Arc::new(AtomicBool::new(false));
    let (silent, asked) = driver(move |mut stream, _| {
        let first = !answered.swap(true, Ordering::Relaxed);
        async move {
            if first {
                stream.write_all(&ok(b"[]")).await.unwrap();
            } else {
                sleep(Duration::from_secs(5)).await;
            }
        }
    })
    .await;
    let running = run(&[silent], Settings { timeout_ms: 20, ..QUICK });
    running.counted(Fate::Failed).await;
    sleep(Duration::from_millis(1_000)).await;
    // A driver that has answered once is no longer in its start phase. Tries after 50, 100, 200, 400 and 400 ms;
    // without back-off there would be 20.
    let asked = asked.load(Ordering::Relaxed);
    assert!((3..=7).contains(&asked), "{asked}");
}

#[tokio::test]
async fn an_endless_answer_is_read_up_to_its_limit() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let (at, _) = driver(move |mut stream, _| {
        let counter = Arc::clone(&counter);
        async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[").await.unwrap();
            let piece = vec![b' '; 1024 * 1024];
            for _ in 0..100 {
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
                counter.fetch_add(piece.len(), Ordering::Relaxed);
            }
        }
    })
    .await;
    let running = run(&[at], Settings { interval_ms: 60_000, timeout_ms: 10_000, loopback: true });
    running.counted(Fate::Oversized).await;
    let sent = sent.load(Ordering::Relaxed);
    // Beyond the limit only as much as fits into the sockets' buffers.
    assert!((BODY_BASE..BODY_BASE + 16 * 1024 * 1024).contains(&sent), "{sent}");
}

/// Three hundred drivers that never answer, and three hundred that trickle a body that never ends: a driver that
/// answers is polled as if they did not exist.
#[tokio::test]
async fn slow_drivers_hold_up_no_other() {
    let (silent, asked) = driver(|stream, _| async move {
        sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let (trickles, trickled) = driver(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[").await;
        while stream.write_all(b" ").await.is_ok() {
            sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    let (good, _) = says(ok(b"[{\"id\": \"1\"}]")).await;
    let drivers: Vec<_> = [silent; 150].into_iter().chain([trickles; 150]).chain([good]).collect();
    let mut running = run(&drivers, Settings { interval_ms: 50, timeout_ms: 10_000, loopback: true });
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(running.report().await, (300, 1));
    }
    // At most every 100 ms; with 32 slots for all it would not have been polled once.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!((asked.load(Ordering::Relaxed), trickled.load(Ordering::Relaxed)), (150, 150));
}

#[tokio::test]
async fn rows_beyond_what_a_fleet_can_have_are_refused() {
    let rows: Vec<String> = (0..=ROWS_BASE + ROWS_PER_POD).map(|id| format!("{{\"id\":\"{id}\"}}")).collect();
    let (at, _) = says(ok(format!("[{}]", rows.join(",")).as_bytes())).await;
    let mut running = run(&[at], QUICK);
    running.counted(Fate::Oversized).await;
    let pod = |id| {
        let entry = ExecutorEntry { uid: Uid::from("u"), pod_ip: None, runs: true };
        running.intake.directory.set_executor("fleet-0", ExecutorId(id), entry);
    };
    (0..2).for_each(pod);
    assert_eq!(running.report().await, (0, rows.len()));
}

#[tokio::test]
async fn forbidden_addresses_are_not_asked() {
    let (loopback, asked) = says(ok(b"[]")).await;
    let metadata = "169.254.169.254:80".parse().unwrap();
    let mapped = "[::ffff:169.254.169.254]:80".parse().unwrap();
    let running = run(&[loopback, metadata, mapped], Settings { loopback: false, ..QUICK });
    sleep(Duration::from_millis(100)).await;
    let count = running.intake.counters.get(Source::Driver, Fate::ForbiddenAddress);
    assert!(count >= 3, "{count}");
    assert_eq!(running.intake.counters.get(Source::Driver, Fate::Failed), 0);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[test]
fn a_url_is_an_address_and_an_id() {
    let application_id = "spark-1_a.b..c";
    let url = |driver: &str| ask::url(&entry(driver.parse().unwrap()), application_id);
    let path = "/api/v1/applications/spark-1_a.b..c/allexecutors";
    assert_eq!(url("10.0.0.7:4040"), format!("http://10.0.0.7:4040{path}"));
    assert_eq!(url("[fd00::7]:4040"), format!("http://[fd00::7]:4040{path}"));
}

/// During its start a driver is polled each second, however long its interval.
#[tokio::test]
async fn a_driver_that_has_not_answered_yet_is_asked_soon() {
    let mut first = true;
    let (at, _) = driver(move |mut stream, _| {
        let starting = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let answer = if std::mem::replace(&mut first, false) { starting.to_vec() } else { ok(b"[]") };
        async move {
            let _ = stream.write_all(&answer).await;
        }
    })
    .await;
    let mut running = run(&[at], Settings { interval_ms: 60_000, timeout_ms: 300, loopback: true });
    assert_eq!(running.report().await.1, 0);
}

/// An application was restarted: its driver is polled at once, regardless of the previous driver's schedule.
#[tokio::test]
async fn another_driver_of_a_fleet_is_asked_at_once() {
    let (first, _) = says(ok(b"[]")).await;
    let mut running = run(&[first], Settings { interval_ms: 60_000, timeout_ms: 300, loopback: true });
    running.report().await;
    // Also if only the pod changed.
    let driver = DriverEntry { interval_ms: 60_000, ..entry(first) };
    let application_id = "app-0".to_owned();
    let entry = FleetEntry { life: 1, application_id, driver: Some(driver), ..FleetEntry::default() };
    running.intake.directory.set_fleet("fleet-0", entry).unwrap();
    assert_eq!(running.report().await.0, 1);
}
