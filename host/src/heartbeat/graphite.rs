//! Executors push: Spark's GraphiteSink over TCP or UDP, with nothing changed in Spark.
//!
//! The protocol has no sender, no authentication and no answer. So a line is believed only where the
//! directory knows the executor and, if the fleet wants it, the address is its pod's; and everything that
//! a sender can make us spend has a limit. Spark opens a connection for each report, so many short
//! connections are the normal case, and few long ones (a relay's) are another. A host that stands by takes
//! none: what it heard would be lost.
//!
//! Memory of one connection: a buffer of 4 KiB, a batch of at most 2 KiB, and its task; with 4,096 of them
//! about 32 MiB. UDP: one datagram, and as many batches at most.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use self::batch::Gatherer;
use self::line::LINE_MAX;
pub(crate) use self::line::executor_id;
use super::notes::Why;
use super::{Fate, Intake, Source};

mod batch;
mod connection;
mod line;

/// What senders may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections. One more is closed at once.
    pub connections_max: usize,
    /// Of these, from one address. Executors on the host network and behind NAT share one.
    pub connections_per_ip_max: usize,
    /// A connection without a line of a known executor for so long is closed.
    pub idle_ms: u64,
    /// A connection that does not finish a line within this is closed, and one that never begins one.
    pub unfinished_ms: u64,
    /// Lines from one connection. It is read no faster than that, and sees a slow receiver.
    pub lines_per_s: u32,
    /// So many at once, before that.
    pub burst_lines: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 4_096,
            connections_per_ip_max: 64,
            idle_ms: 300_000,
            unfinished_ms: 30_000,
            lines_per_s: 2_000,
            burst_lines: 10_000,
        }
    }
}

/// Listens over TCP until it is dropped, and every connection with it.
pub async fn run(listener: TcpListener, intake: Intake, limits: Limits) {
    let mut connections = JoinSet::new();
    let mut peers = Peers::default();
    loop {
        let done = tokio::select! {
            accepted = listener.accept() => {
                match accepted {
                    Ok((stream, _)) if !intake.directory.is_open() => {
                        intake.counters.add(Source::Graphite, Fate::StandingBy);
                        // A reset, so that the sender's write fails: an orderly end would let it succeed. An
                        // error says that the sender is gone.
                        let _ = stream.set_zero_linger();
                    }
                    Ok((stream, peer)) => {
                        let ip = peer.ip().to_canonical();
                        if peers.has_room(ip, &limits) {
                            let task = serve(stream, ip, intake.clone(), limits.clone());
                            peers.enter(connections.spawn(task).id(), ip);
                        } else {
                            intake.counters.add(Source::Graphite, Fate::TooManyConnections);
                            intake.directory.trouble_of(ip, &Why::TooManyConnections, Instant::now());
                        }
                    }
                    Err(error) => {
                        // Out of file descriptors, or the peer is gone already.
                        tracing::warn!(%error, "a Graphite connection could not be accepted");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
                connections.try_join_next_with_id()
            }
            Some(done) = connections.join_next_with_id() => Some(done),
        };
        if let Some(done) = done {
            peers.leave(done.map_or_else(|error| error.id(), |(id, ())| id));
        }
    }
}

/// Who is connected, by task.
#[derive(Default)]
struct Peers {
    of: HashMap<Id, IpAddr>,
    per_ip: HashMap<IpAddr, usize>,
}

impl Peers {
    fn has_room(&self, ip: IpAddr, limits: &Limits) -> bool {
        let of_ip = self.per_ip.get(&ip).copied().unwrap_or(0);
        self.of.len() < limits.connections_max && of_ip < limits.connections_per_ip_max
    }

    fn enter(&mut self, id: Id, ip: IpAddr) {
        self.of.insert(id, ip);
        *self.per_ip.entry(ip).or_default() += 1;
    }

    fn leave(&mut self, id: Id) {
        if let Some(ip) = self.of.remove(&id)
            && let Entry::Occupied(mut count) = self.per_ip.entry(ip)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: IpAddr, intake: Intake, limits: Limits) {
    connection::serve(stream, Gatherer::new(peer), &intake, &limits).await;
}

/// Batches that are gathered at once over UDP. At more, all of them are over.
const SENDERS_MAX: usize = 4_096;
/// How often they are looked through: so much later than over TCP a batch may end.
const SWEEP: Duration = Duration::from_millis(100);
/// Every datagram may be a sender's only one: so seldom one of them may note what is wrong with it.
const HUSH: Duration = Duration::from_millis(10);

/// Listens over UDP until it is dropped. Spark sends every line as a datagram of its own; one with several
/// lines will do. What is more than one task can parse is lost in the socket's buffer. An address can be
/// forged here: prefer TCP.
pub async fn run_udp(socket: UdpSocket, intake: Intake) {
    let mut datagram = vec![0; 64 * 1024];
    let mut senders: HashMap<SocketAddr, Gatherer> = HashMap::new();
    let mut sweep_at = Instant::now() + SWEEP;
    let mut hushed_until = Instant::now();
    loop {
        match timeout_at(sweep_at, socket.recv_from(&mut datagram)).await {
            Ok(Ok(_)) if !intake.directory.is_open() => {
                intake.counters.add(Source::Graphite, Fate::StandingBy)
            }
            Ok(Ok((length, peer))) => {
                let known = senders.remove(&peer);
                let mut sender = known.unwrap_or_else(|| {
                    let mut sender = Gatherer::new(peer.ip());
                    let now = Instant::now();
                    if now < hushed_until {
                        sender.hush(now);
                    } else {
                        hushed_until = now + HUSH;
                    }
                    sender
                });
                hear(&mut sender, &intake, &datagram[..length]);
                if sender.is_open() {
                    senders.insert(peer, sender);
                }
            }
            // On some systems an ICMP message for an earlier answer; we never answer.
            Ok(Err(error)) => {
                tracing::warn!(%error, "a Graphite datagram could not be received");
                sleep(SWEEP).await;
            }
            Err(_) => {}
        }
        let now = Instant::now();
        if senders.len() >= SENDERS_MAX {
            senders.drain().for_each(|(_, mut sender)| sender.flush(&intake));
        }
        if now >= sweep_at {
            senders.retain(|_, sender| {
                sender.flush_due(&intake, now);
                sender.is_open()
            });
            sweep_at = now + SWEEP;
        }
    }
}

fn hear(sender: &mut Gatherer, intake: &Intake, datagram: &[u8]) {
    let now = Instant::now();
    for line in datagram.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        if line.len() > LINE_MAX {
            sender.too_long(intake, line, now);
        } else {
            sender.feed(intake, line, now);
        }
    }
}

/// A line that arrives now, from there.
#[cfg(test)]
pub fn hear_line(intake: &Intake, peer: IpAddr, line: &[u8]) {
    Gatherer::new(peer).feed(intake, line, Instant::now());
}

#[cfg(test)]
mod tests;
