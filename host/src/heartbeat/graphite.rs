//! Executors push metrics: Spark's GraphiteSink over TCP or UDP, without any change to Spark.
//!
//! The protocol has no sender, no authentication and no answer. So a line is accepted only if the directory knows the
//! executor and, if the fleet requires it, the address is its pod's (`attribution`); and every resource that a sender
//! can use up has a limit (`places`). Spark opens a connection for each report, so many short connections are the
//! normal case, and few long ones (a relay's) are another. A replica that stands by forwards all connections to the leader
//! (`forward`), or rejects them while it cannot: it would discard the heartbeats.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fleet::bucket::Rate;
use fleet::event::Impairment;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::batch::Gatherer;
pub(crate) use self::line::executor_id;
use self::places::{Evicted, Places, Seat};
pub use self::udp::run_udp;
use super::notes::Why;
use super::{Fate, Intake, Source};
use crate::hush::Hush;
use crate::listen::Listener;
use crate::relay::Leader;

mod attribution;
mod batch;
mod connection;
mod forward;
mod line;
mod places;
mod price;
mod udp;

/// Limits for senders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections. Beyond this, one is evicted; unknown addresses have at most half of them.
    pub connections_max: usize,
    /// Of these, connections from one address, unless it has so many pods that they need more.
    pub connections_per_ip_max: usize,
    /// A connection of which no line has been accepted yet is closed after this time.
    pub unproven_ms: u64,
    /// A connection without an accepted line for this time is closed.
    pub idle_ms: u64,
    /// A connection that does not finish a line within this time, or never begins one, is closed.
    pub unfinished_ms: u64,
    /// Lines per second of one connection. It is read no faster, so its peer sees a slow receiver.
    pub lines_per_s: u32,
    /// Lines that a connection may send at once before the rate applies.
    pub burst_lines: u32,
}

impl Limits {
    fn rate(&self) -> Rate {
        Rate { size: self.burst_lines, every: Duration::from_secs(1) / self.lines_per_s.max(1) }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 4_096,
            connections_per_ip_max: 64,
            unproven_ms: 10_000,
            idle_ms: 300_000,
            unfinished_ms: 30_000,
            lines_per_s: 2_000,
            burst_lines: 10_000,
        }
    }
}

/// How long accepting pauses when no connection can be accepted.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Listens over TCP until it is dropped, together with every connection.
pub async fn run(mut listener: Listener, intake: Intake, limits: Limits) {
    let mut connections = JoinSet::new();
    let places = Places::new(limits.clone());
    let limits = Arc::new(limits);
    let doorman = Doorman { intake, hush: Hush::default() };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let now = Instant::now();
        match accepted {
            Ok((stream, peer)) => {
                let ip = peer.ip().to_canonical();
                let intake = &doorman.intake;
                let open = intake.directory.is_open();
                let leader = if open { None } else { intake.relay.leader() };
                if !open && leader.is_none() {
                    forward::turn_away(stream, ip, intake);
                } else if let Some(seat) = doorman.admit(&places, ip, now) {
                    let (intake, limits) = (intake.clone(), Arc::clone(&limits));
                    connections.spawn(serve(stream, seat, ip, leader, intake, limits));
                }
            }
            Err(error) if is_exhausted(&error) => {
                doorman.exhausted(&places, &error, now);
                sleep(EXHAUSTED_PAUSE).await;
            }
            // The peer has disconnected. Each failure costs it a connection, so this is no busy loop.
            Err(error) => tracing::debug!(%error, "a Graphite connection ended before it was accepted"),
        }
        if listener.has_lost() {
            doorman.lost();
        }
        while connections.try_join_next().is_some() {}
    }
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM: Linux numbers. On a system with other numbers, an error at least causes a pause.
fn is_exhausted(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(code) => matches!(code, 24 | 23 | 105 | 12),
        None => true,
    }
}

/// Admits connections, and reports rejected ones to their fleets.
struct Doorman {
    intake: Intake,
    /// Limits the log lines about connections that are not accepted.
    hush: Hush,
}

impl Doorman {
    fn admit(&self, places: &Arc<Places>, ip: IpAddr, now: Instant) -> Option<Seat> {
        let admission = places.admit(ip, &self.intake.directory.pods_at(ip), now);
        if let Some(evicted) = &admission.evicted {
            self.made_room(evicted, now);
        }
        if admission.seat.is_none() {
            self.intake.counters.add(Source::Graphite, Fate::TooManyConnections);
            self.refused(ip, now);
        }
        admission.seat
    }

    fn made_room(&self, evicted: &Evicted, now: Instant) {
        self.intake.counters.add(Source::Graphite, Fate::TooManyConnections);
        if evicted.had_no_chance || !self.intake.directory.pods_at(evicted.ip).is_empty() {
            self.refused(evicted.ip, now);
        }
    }

    fn refused(&self, ip: IpAddr, now: Instant) {
        self.intake.directory.trouble_of(ip, &Why::TooManyConnections, now);
        self.intake.refused(ip);
    }

    /// The kernel has dropped connections before they were accepted.
    fn lost(&self) {
        if let Some(left_out) = self.hush.may_say(None) {
            tracing::warn!(
                left_out,
                "connections came faster than they are accepted, and some were lost: until that ends executors' \
                 silence proves nothing"
            );
        }
        self.intake.impaired_all(Impairment::Refused);
    }

    /// No new connection can be accepted.
    fn exhausted(&self, places: &Places, error: &io::Error, now: Instant) {
        if let Some(left_out) = self.hush.may_say(None) {
            tracing::error!(
                %error,
                left_out,
                "no Graphite connection can be accepted: raise the limit of open files. Until then executors' silence \
                 proves nothing"
            );
        }
        self.intake.impaired_all(Impairment::Refused);
        if let Some(evicted) = places.evict_one(now) {
            self.made_room(&evicted, now);
        }
    }
}

/// Hears a connection, or passes it on to the leader.
async fn serve(
    stream: TcpStream,
    seat: Seat,
    peer: IpAddr,
    leader: Option<Arc<Leader>>,
    intake: Intake,
    limits: Arc<Limits>,
) {
    let evicted = seat.evicted();
    let serving = async {
        match leader {
            None => connection::serve(stream, Gatherer::new(peer), seat, &intake, &limits).await,
            Some(leader) => {
                forward::forward(stream, peer, seat, &leader, &intake, limits.unproven_ms).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = serving => {}
        () = evicted => {}
    }
}

/// Processes one line that arrives now from this address.
#[cfg(test)]
pub fn hear_line(intake: &Intake, peer: IpAddr, line: &[u8]) {
    Gatherer::new(peer).feed(intake, line, Instant::now());
}

#[cfg(test)]
mod tests;
