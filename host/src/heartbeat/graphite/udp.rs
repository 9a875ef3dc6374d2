//! Lines over UDP, if enabled (`--graphite-udp`). Spark sends every line as a datagram of its own; a datagram with
//! several lines is accepted, too.
//!
//! Source addresses of datagrams can be forged, and all senders share one socket: a flood makes the kernel drop other
//! senders' datagrams. So UDP is off by default, and TCP is preferable. Each address has a token bucket, as each TCP
//! connection has, and datagrams beyond it are dropped before they are parsed. Every address of a pod in the view has
//! its own bucket; at most [`STRANGERS_MAX`] other addresses (strangers) have one, and all further ones share one.
//!
//! A dropped datagram impairs the fleets with a pod at the sender's address, and if there are none, those that accept
//! lines from any address or have a running pod whose address is not known yet. A flood may carry the forged address of
//! a fleet's pod: then the pod's own lines are dropped with it. Datagrams that the kernel drops may belong to any fleet
//! that has used UDP.
//!
//! Memory: one datagram of 64 KiB; one batch of at most 2 KiB per sender, at most 4,096: 8 MiB; buckets of about 100
//! bytes, one for each address in the view and for each stranger.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fleet::bucket::{Bucket, Rate};
use fleet::event::Impairment;
use tokio::net::UdpSocket;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};

use self::drops::Drops;
use super::Limits;
use super::batch::Gatherer;
use super::line::LINE_MAX;
use super::price::Price;
use crate::heartbeat::{Fate, Intake, Source};

mod drops;

/// Maximum batches that are collected at once. Beyond that, all of them are ended.
const SENDERS_MAX: usize = 4_096;
/// How often batches are checked: they may end this much later than over TCP.
const SWEEP: Duration = Duration::from_millis(100);
/// The minimum interval between notes. Each datagram may be from a new sender, so this bounds them all.
const HUSH: Duration = Duration::from_millis(10);
/// Maximum buckets of addresses without a pod in the view.
const STRANGERS_MAX: usize = 1_024;
/// Datagrams after which the task yields to others on this thread, even if more are waiting.
const TURN: u32 = 64;
/// How often the kernel's drop counter is read.
const DROPS_PAUSE: Duration = Duration::from_secs(1);

/// Listens over UDP until it is dropped.
pub async fn run_udp(socket: UdpSocket, intake: Intake, limits: Limits) {
    let mut datagram = vec![0; 64 * 1024];
    let mut drops = Drops::of(&socket);
    let mut ear = Ear::new(intake, &limits);
    let mut sweep_at = Instant::now() + SWEEP;
    let mut drops_at = Instant::now() + DROPS_PAUSE;
    let mut turn = 0;
    loop {
        match timeout_at(sweep_at, socket.recv_from(&mut datagram)).await {
            Ok(Ok((length, peer))) => ear.hear(peer, &datagram[..length], Instant::now()),
            // On some systems this is an ICMP error for an earlier answer; we never answer.
            Ok(Err(error)) => {
                tracing::warn!(%error, "a Graphite datagram could not be received");
                sleep(SWEEP).await;
            }
            Err(_) => {}
        }
        let now = Instant::now();
        if now >= sweep_at {
            ear.sweep(now);
            sweep_at = now + SWEEP;
        }
        if now >= drops_at {
            ear.kernel_dropped(drops.more());
            drops_at = now + DROPS_PAUSE;
        }
        turn += 1;
        if turn >= TURN {
            turn = 0;
            yield_now().await;
        }
    }
}

struct Ear {
    intake: Intake,
    /// Of each address.
    rate: Rate,
    senders: HashMap<SocketAddr, Gatherer>,
    /// Allowances of addresses with a pod in the view.
    known: HashMap<IpAddr, Allowance>,
    strangers: HashMap<IpAddr, Allowance>,
    /// Shared by all strangers beyond the maximum.
    others: Allowance,
    hushed_until: Instant,
    /// Fleets that have used UDP, by life.
    heard: HashMap<u64, Arc<str>>,
}

#[derive(Debug)]
struct Allowance {
    bucket: Bucket<Instant>,
    price: Price,
    /// When the fleets were last told that datagrams were dropped.
    told_at: Option<Instant>,
}

impl Allowance {
    fn new(now: Instant) -> Allowance {
        Allowance { bucket: Bucket::full(now), price: Price::default(), told_at: None }
    }
}

impl Ear {
    fn new(intake: Intake, limits: &Limits) -> Ear {
        let now = Instant::now();
        Ear {
            others: Allowance::new(now),
            intake,
            rate: limits.rate(),
            senders: HashMap::new(),
            known: HashMap::new(),
            strangers: HashMap::new(),
            hushed_until: now,
            heard: HashMap::new(),
        }
    }

    fn hear(&mut self, peer: SocketAddr, datagram: &[u8], now: Instant) {
        if !self.intake.directory.is_open() {
            return self.intake.counters.add(Source::Graphite, Fate::StandingBy);
        }
        let ip = peer.ip().to_canonical();
        let has_pods = !self.intake.directory.pods_at(ip).is_empty();
        let allowance = if has_pods {
            self.known.entry(ip).or_insert_with(|| Allowance::new(now))
        } else if self.strangers.contains_key(&ip) || self.strangers.len() < STRANGERS_MAX {
            self.strangers.entry(ip).or_insert_with(|| Allowance::new(now))
        } else {
            &mut self.others
        };
        if !allowance.bucket.wait(1, self.rate, now).is_zero() {
            self.intake.counters.add(Source::Graphite, Fate::RateLimited);
            // The intake tells a fleet at most once a second; this only saves the look-up.
            if allowance.told_at.is_none_or(|at| now - at >= SWEEP) {
                allowance.told_at = Some(now);
                for fleet in self.intake.directory.concerned(ip) {
                    self.intake.impaired(&fleet, Impairment::Refused);
                }
            }
            return;
        }
        let mut sender = self.senders.remove(&peer).unwrap_or_else(|| Gatherer::new(ip));
        if !has_pods && !sender.is_open() {
            if now < self.hushed_until {
                sender.hush(now);
            } else {
                self.hushed_until = now + HUSH;
            }
        }
        // An empty datagram costs a line, too.
        let mut cost_lines = 1;
        for line in datagram.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let heard = if line.len() > LINE_MAX {
                sender.too_long(&self.intake, line, now)
            } else {
                sender.feed(&self.intake, line, now)
            };
            cost_lines += allowance.price.of(heard, sender.is_relayed());
        }
        allowance.bucket.spend(cost_lines, self.rate, now);
        if let Some(fleet) = sender.speaks_for() {
            self.heard.entry(fleet.entry.life).or_insert_with(|| Arc::clone(&fleet.name));
            self.senders.insert(peer, sender);
        }
        if self.senders.len() >= SENDERS_MAX {
            self.senders.drain().for_each(|(_, mut sender)| sender.flush(&self.intake));
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.senders.retain(|_, sender| {
            sender.flush_due(&self.intake, now);
            sender.is_open()
        });
        self.known.retain(|_, allowance| !allowance.bucket.is_full(now));
        self.strangers.retain(|_, allowance| !allowance.bucket.is_full(now));
    }

    /// The kernel dropped `count` more datagrams. Their senders are unknown.
    fn kernel_dropped(&mut self, count: u64) {
        self.intake.counters.add_many(Source::Graphite, Fate::Dropped, count);
        let directory = &self.intake.directory;
        self.heard.retain(|life, name| {
            match directory.fleet(name).filter(|fleet| fleet.entry.life == *life) {
                Some(fleet) => {
                    if count > 0 {
                        self.intake.impaired(&fleet, Impairment::Dropped);
                    }
                    true
                }
                None => false,
            }
        });
    }
}

#[cfg(test)]
mod tests;
