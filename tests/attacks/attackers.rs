//! Attacking processes. Each one runs this test binary again, and its environment selects the attack.

use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::street::Places;

const ORDER: &str = "ROLLCALL_ATTACKER";
const WAIT: Duration = Duration::from_secs(2);

/// The attacks of the security review, multiplied by the strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// From one address, bodies that never end over 90 connections, with arbitrary bearer tokens.
    Bodies,
    /// From 16 addresses, one beat with a different token each time.
    Tokens,
    /// From 64 addresses with 64 connections each: one line of garbage, and then nothing.
    Garbage,
    /// From the address of mallory's first executor: valid lines about it, in datagrams.
    Datagrams,
    /// From mallory's four executors: endless valid lines, over 5 connections each.
    Lines,
    /// From 130 addresses, a connection to each of the HTTP ports, and half a request.
    Probes,
    /// From one address, repeated requests for lists, metrics and events over 30 connections, whose answers are never
    /// read.
    Readers,
}

impl Attack {
    pub fn name(&self) -> &'static str {
        match self {
            Attack::Bodies => "bodies",
            Attack::Tokens => "tokens",
            Attack::Garbage => "garbage",
            Attack::Datagrams => "datagrams",
            Attack::Lines => "lines",
            Attack::Probes => "probes",
            Attack::Readers => "readers",
        }
    }

    /// More than one if the connections do not fit into one process.
    fn processes(self, strength: u32) -> u32 {
        if self == Attack::Garbage { strength.div_ceil(4) } else { 1 }
    }
}

pub struct Attackers(Vec<(&'static str, Child)>);

/// How often each attack completed its step.
pub struct Done(Vec<(&'static str, u64)>);

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(name, count)| format!("{count} {name}")).collect();
        f.write_str(&parts.join(", "))
    }
}

impl Attackers {
    pub fn start(attacks: &[Attack], strength: u32, to: Places) -> Attackers {
        let exe = std::env::current_exe().expect("this is a program");
        let mut children = Vec::new();
        for attack in attacks {
            let parts = attack.processes(strength);
            for part in 0..parts {
                let Places { http, graphite, probes } = to;
                let order = format!("{} {strength} {part} {parts} {http} {graphite} {probes}", attack.name());
                // A real attacker runs on other machines: here it must not take the daemon's processors.
                let child = Command::new("nice")
                    .args(["-n", "10"])
                    .arg(&exe)
                    .args(["attacks::attackers::attacker", "--exact", "--nocapture"])
                    .env(ORDER, order)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("this program runs once more");
                children.push((attack.name(), child));
            }
        }
        Attackers(children)
    }

    pub fn stop(self) -> Done {
        let mut done: Vec<(&str, u64)> = Vec::new();
        for (name, mut child) in self.0 {
            // It ends at the end of its input.
            drop(child.stdin.take());
            let mut said = String::new();
            let _ = child.stdout.take().expect("a pipe").read_to_string(&mut said);
            let _ = child.wait();
            let count = said.lines().find_map(|line| line.split("done=").nth(1)?.trim().parse::<u64>().ok());
            let count = count.unwrap_or_else(|| panic!("{name} says nothing: {said}"));
            match done.iter_mut().find(|(of, _)| *of == name) {
                Some((_, all)) => *all += count,
                None => done.push((name, count)),
            }
        }
        assert!(done.iter().all(|(_, count)| *count > 0), "an attack did nothing: {done:?}");
        Done(done)
    }
}

/// Not a test, but the main function of an attacking process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attacker() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let words: Vec<&str> = order.split(' ').collect();
    let number = |at: usize| words[at].parse::<u32>().expect("a number");
    let address = |at: usize| words[at].parse::<SocketAddr>().expect("an address");
    let (strength, part, parts) = (number(1), number(2), number(3));
    let (http, graphite, probes) = (address(4), address(5), address(6));
    let done = Arc::new(AtomicU64::new(0));
    match words[0] {
        "bodies" => {
            let head = "POST /v1/heartbeats HTTP/1.1\r\nhost: x\r\nauthorization: Bearer any\r\n\
                        content-type: application/json\r\ncontent-length: 3000\r\n\r\n{";
            for number in 0..90 * strength {
                tokio::spawn(hold(stranger(number / 90), http, head.to_owned(), " ", Arc::clone(&done)));
            }
        }
        "tokens" => {
            for number in 0..16 * strength {
                tokio::spawn(post(1_000 + number, http, Arc::clone(&done)));
            }
        }
        "garbage" => {
            for number in 0..64 * 64 * strength {
                if number % parts == part {
                    let line = "a line of garbage\n".to_owned();
                    tokio::spawn(hold(stranger(2_000 + number / 64), graphite, line, "", Arc::clone(&done)));
                }
            }
        }
        "datagrams" => {
            for _ in 0..strength {
                tokio::spawn(datagrams(graphite, Arc::clone(&done)));
            }
        }
        "lines" => {
            for number in 0..4 * 5 * strength {
                tokio::spawn(lines(1 + number % 4, graphite, Arc::clone(&done)));
            }
        }
        "probes" => {
            for number in 0..130 * strength {
                let half = || "GET /livez HTTP/1.1\r\nx: y\r\n".to_owned();
                tokio::spawn(hold(stranger(4_000 + number), http, half(), "", Arc::clone(&done)));
                tokio::spawn(hold(stranger(4_000 + number), probes, half(), "", Arc::clone(&done)));
            }
        }
        "readers" => {
            for number in 0..30 * strength {
                tokio::spawn(ask(stranger(6_000 + number / 30), http, number, Arc::clone(&done)));
            }
        }
        other => panic!("{other}"),
    }
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .expect("no panic")
        .expect("a pipe");
    println!("done={}", done.load(Ordering::Relaxed));
    std::process::exit(0);
}

fn stranger(number: u32) -> IpAddr {
    let [high, low] = [number / 250, number % 250 + 1].map(|part| u8::try_from(part).expect("few"));
    Ipv4Addr::new(127, 200, high, low).into()
}

async fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    timeout(WAIT, socket.connect(to)).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Sends `first`, and then `then` at intervals, until the connection is closed; and again.
async fn hold(from: IpAddr, to: SocketAddr, first: String, then: &'static str, done: Arc<AtomicU64>) {
    loop {
        if let Ok(mut stream) = connect(from, to).await
            && stream.write_all(first.as_bytes()).await.is_ok()
        {
            done.fetch_add(1, Ordering::Relaxed);
            let mut said = [0; 64];
            while !matches!(
                timeout(Duration::from_secs(1), tokio::io::AsyncReadExt::read(&mut stream, &mut said)).await,
                Ok(Ok(0) | Err(_))
            ) {
                let _ = stream.try_write(then.as_bytes());
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn post(number: u32, to: SocketAddr, done: Arc<AtomicU64>) {
    let body = "{\"beats\":[{\"fleet\":\"posting\",\"executor\":1}]}";
    for count in 0_u64.. {
        let request = format!(
            "POST /v1/heartbeats HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer bogus-{number}-{count}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if let Ok(mut stream) = connect(stranger(number), to).await
            && stream.write_all(request.as_bytes()).await.is_ok()
        {
            let mut said = Vec::new();
            let _ = timeout(WAIT, tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut said)).await;
            done.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Sends requests until the other side accepts no more, and leaves the answers unread until the connection is closed.
async fn ask(from: IpAddr, to: SocketAddr, number: u32, done: Arc<AtomicU64>) {
    let paths = ["/v1/fleets", "/v1/fleets/healthy/executors", "/metrics", "/v1/events"];
    let request = |at: u32| format!("GET {} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", paths[(at % 4) as usize]);
    loop {
        if let Ok(mut stream) = connect(from, to).await {
            for at in number.. {
                // A connection that is not read blocks, and is abandoned for the next one.
                let written = timeout(10 * WAIT, stream.write_all(request(at).as_bytes())).await;
                if !matches!(written, Ok(Ok(()))) {
                    break;
                }
                done.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The address of one of mallory's executors in the street.
fn mallory(executor: u32) -> IpAddr {
    Ipv4Addr::new(127, 3, 0, u8::try_from(executor + 1).expect("few")).into()
}

fn line(executor: u32, number: u64) -> String {
    format!("spark-mallory.{executor}.executor.runTime.count {number} {}\n", 1_700_000_000 + number)
}

async fn datagrams(to: SocketAddr, done: Arc<AtomicU64>) {
    let socket = UdpSocket::bind(SocketAddr::new(mallory(1), 0)).await.expect("a port");
    for number in 0_u64.. {
        let _ = socket.send_to(line(1, number).as_bytes(), to).await;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

async fn lines(executor: u32, to: SocketAddr, done: Arc<AtomicU64>) {
    loop {
        if let Ok(mut stream) = connect(mallory(executor), to).await {
            for number in 0_u64.. {
                let text: String = (0..100).map(|at| line(executor, 100 * number + at)).collect();
                if stream.write_all(text.as_bytes()).await.is_err() {
                    break;
                }
                done.fetch_add(100, Ordering::Relaxed);
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}
