//! Who may be connected: by use, and not by who came first.
//!
//! A connection proves itself with the first line that is believed. Until then it has seconds; and when places run
//! out, the one of least use makes room; the newest is not turned away.
//!
//! - **Shares.** Connections belong to the fleet that has a pod at their address, or where pods of several fleets have
//!   it (hostNetwork), to that address; those from any other address belong to the strangers, who have half of all
//!   places at most. When places run out, a connection of the largest share goes. So a fleet that opens 10,000 has no
//!   more places than are left over, and a connection from a pod's address always gets one.
//! - **Addresses.** One address has [`Limits::connections_per_ip_max`], or two for each pod there, whichever is more.
//!   An address from which a relay was believed has an eighth of all.
//! - **Use.** Within a share the unproven go first: of the address that has most of them, one that has sent lines of
//!   no use, else the oldest. Then, of a fleet's, the one that was silent longest. A stranger's that has proved itself
//!   never makes room: it is a relay, and all of its fleets speak through it.
//!
//! | what happens | whose hearing it impairs ([`Impairment::Refused`](fleet::event::Impairment)) |
//! |---|---|
//! | a connection from an address of a pod in the view makes room | fleets with a pod there |
//! | one from another address makes room, or is turned away, before it had its chance | fleets that take lines from any address, or have a pod that runs at an address not known yet |
//! | the same, after it sent lines of no use or nothing for a while | none |
//! | one is closed because it said nothing of use for its time | none: nothing of it was thrown away |
//! | one is slowed down | fleets with a pod at the address, and the one for which it speaks; of a relay's all that are heard from any address |
//! | none can be accepted: no file descriptors are left | all |
//! | they come faster than they are accepted, and some are lost ([`Listener`](crate::listen::Listener)) | all |
//!
//! Memory: a place and its entries take about 400 bytes. 4,096 connections with their buffers of 4 KiB, batches of at
//! most 2 KiB and tasks of 2 KiB are 34 MiB; of these strangers' are half.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;
use crate::heartbeat::directory::Pods;

/// Connections that one pod may have: Spark's sink has one, for a fraction of a second, and there may be two sinks.
const PER_POD: usize = 2;
/// An unproven connection has had its chance after so long: GraphiteSink writes as soon as it is connected.
const CHANCE: Duration = Duration::from_secs(2);

/// All connections.
#[derive(Debug)]
pub struct Places {
    limits: Limits,
    started: Instant,
    inner: Mutex<Inner>,
}

/// Whose places they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Share {
    Fleet(Arc<str>),
    /// Several fleets have pods there.
    Address(IpAddr),
    Strangers,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    seats: HashMap<u64, Taken>,
    shares: HashMap<Share, Members>,
    /// Every share by its size.
    sizes: BTreeSet<(usize, Share)>,
}

#[derive(Debug)]
struct Taken {
    share: Share,
    ip: IpAddr,
    since: Instant,
    proven: bool,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct Members {
    count: usize,
    addresses: HashMap<IpAddr, Address>,
    /// Addresses by how many of their connections are unproven, and how many proven.
    unproven: BTreeSet<(usize, IpAddr)>,
    proven: BTreeSet<(usize, IpAddr)>,
}

/// In the order in which they came.
#[derive(Debug, Default)]
struct Address {
    unproven: BTreeSet<u64>,
    proven: BTreeSet<u64>,
}

/// What a connection's task tells without a lock.
#[derive(Debug, Default)]
struct State {
    /// When a line was believed last, in milliseconds since the start.
    useful_ms: AtomicU64,
    /// It sent lines, of which none was of use.
    useless: AtomicBool,
    /// It speaks for a fleet that is heard from any address.
    relays: AtomicBool,
    evicted: Notify,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    places: Arc<Places>,
    number: u64,
    state: Arc<State>,
    proven: bool,
}

/// What came of a connection.
#[derive(Debug)]
pub struct Admission {
    /// `None`: it is turned away.
    pub seat: Option<Seat>,
    pub evicted: Option<Evicted>,
}

/// A connection that made room.
#[derive(Debug, PartialEq, Eq)]
pub struct Evicted {
    pub ip: IpAddr,
    /// It may have had something to say.
    pub had_no_chance: bool,
}

impl Seat {
    /// A line was believed.
    pub fn useful(&mut self, relayed: bool, now: Instant) {
        let ms = now.saturating_duration_since(self.places.started).as_millis();
        self.state.useful_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
        if relayed {
            self.state.relays.store(true, Ordering::Relaxed);
        }
        if !std::mem::replace(&mut self.proven, true) {
            self.places.lock().prove(self.number);
        }
    }

    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// It has spoken for a fleet that is heard from any address: it may for others of these.
    pub fn relays(&self) -> bool {
        self.state.relays.load(Ordering::Relaxed)
    }

    /// Lines came of which none was believed.
    pub fn useless(&self) {
        self.state.useless.store(true, Ordering::Relaxed);
    }

    /// Returns when it has to make room.
    pub fn evicted(&self) -> impl Future<Output = ()> + use<> {
        let state = Arc::clone(&self.state);
        async move { state.evicted.notified().await }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.places.lock().leave(self.number);
    }
}

impl Places {
    pub fn new(limits: Limits) -> Arc<Places> {
        Arc::new(Places { limits, started: Instant::now(), inner: Mutex::default() })
    }

    /// A connection has come from there, where these pods are.
    pub fn admit(self: &Arc<Places>, ip: IpAddr, pods: &[Pods], now: Instant) -> Admission {
        let share = match pods {
            [] => Share::Strangers,
            [one] => Share::Fleet(Arc::clone(&one.fleet)),
            [_, _, ..] => Share::Address(ip),
        };
        let pods = pods.iter().map(|pods| pods.count).sum();
        let mut inner = self.lock();
        let evicted = match inner.room(&self.limits, &share, ip, pods) {
            Ok(()) => None,
            Err(None) => return Admission { seat: None, evicted: None },
            Err(Some(number)) => inner.evict(number, now),
        };
        let state = Arc::new(State::default());
        let number = inner.enter(Taken { share, ip, since: now, proven: false, state: Arc::clone(&state) });
        Admission { seat: Some(Seat { places: Arc::clone(self), number, state, proven: false }), evicted }
    }

    /// The connection of least use has to go.
    pub fn evict_one(&self, now: Instant) -> Option<Evicted> {
        let mut inner = self.lock();
        let shares = inner.sizes.iter().rev().map(|(_, share)| share.clone()).collect::<Vec<_>>();
        let number =
            shares.iter().find_map(|share| inner.shares.get(share)?.least_useful(share, &inner.seats))?;
        inner.evict(number, now)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is behind it is whole after every method, and none of them panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// `Err`: not without this one's. `Err(None)`: not at all.
    fn room(&self, limits: &Limits, share: &Share, ip: IpAddr, pods: usize) -> Result<(), Option<u64>> {
        let own = self.shares.get(share);
        let here = own.and_then(|own| own.addresses.get(&ip));
        if let Some(here) = here {
            let mut cap = limits.connections_per_ip_max.max(PER_POD * pods);
            let relays = |number: &u64| {
                self.seats.get(number).is_some_and(|seat| seat.state.relays.load(Ordering::Relaxed))
            };
            if here.count() >= cap && here.proven.iter().any(relays) {
                cap = cap.max(limits.connections_max / 8);
            }
            if here.count() >= cap {
                return Err(here.least_useful(share, &self.seats));
            }
        }
        let count = own.map_or(0, |own| own.count);
        if *share == Share::Strangers && count >= limits.connections_max.div_ceil(2) {
            return Err(own.and_then(|own| own.least_useful(share, &self.seats)));
        }
        if self.seats.len() < limits.connections_max {
            return Ok(());
        }
        // Relays of strangers make no room: then it is the next share's turn.
        let larger = self.sizes.iter().rev().take_while(|(size, _)| *size > count).map(|(_, share)| share);
        let mut victims = larger.chain([share]).filter_map(|share| {
            self.shares.get(share).and_then(|members| members.least_useful(share, &self.seats))
        });
        Err(victims.next())
    }

    fn enter(&mut self, taken: Taken) -> u64 {
        self.next += 1;
        let (number, ip) = (self.next, taken.ip);
        self.change(&taken.share, ip, |address| address.unproven.insert(number));
        self.seats.insert(number, taken);
        number
    }

    fn prove(&mut self, number: u64) {
        let Some(seat) = self.seats.get_mut(&number) else { return };
        seat.proven = true;
        let (share, ip) = (seat.share.clone(), seat.ip);
        self.change(&share, ip, |address| address.unproven.remove(&number) && address.proven.insert(number));
    }

    fn leave(&mut self, number: u64) {
        let Some(seat) = self.seats.remove(&number) else { return };
        self.change(&seat.share, seat.ip, |address| {
            address.unproven.remove(&number) || address.proven.remove(&number)
        });
    }

    fn evict(&mut self, number: u64, now: Instant) -> Option<Evicted> {
        let seat = self.seats.get(&number)?;
        let young = !seat.proven && now.saturating_duration_since(seat.since) < CHANCE;
        let had_no_chance = young && !seat.state.useless.load(Ordering::Relaxed);
        let evicted = Evicted { ip: seat.ip, had_no_chance };
        // A permit, if it does not wait for it yet.
        seat.state.evicted.notify_one();
        self.leave(number);
        Some(evicted)
    }

    /// Changes who is connected from an address, and every order in which it stands.
    fn change(&mut self, share: &Share, ip: IpAddr, change: impl FnOnce(&mut Address) -> bool) {
        let members = self.shares.entry(share.clone()).or_default();
        let address = members.addresses.entry(ip).or_default();
        let (unproven, proven) = (address.unproven.len(), address.proven.len());
        change(address);
        let (unproven_now, proven_now) = (address.unproven.len(), address.proven.len());
        move_on(&mut members.unproven, ip, unproven, unproven_now);
        move_on(&mut members.proven, ip, proven, proven_now);
        let before = members.count;
        members.count = before - unproven - proven + unproven_now + proven_now;
        let count = members.count;
        if unproven_now + proven_now == 0 {
            members.addresses.remove(&ip);
        }
        if count == 0 {
            self.shares.remove(share);
        }
        move_on(&mut self.sizes, share.clone(), before, count);
    }
}

/// In an order by size, without those that have nothing.
fn move_on<T: Ord + Clone>(order: &mut BTreeSet<(usize, T)>, who: T, before: usize, now: usize) {
    if before != now {
        order.remove(&(before, who.clone()));
        if now > 0 {
            order.insert((now, who));
        }
    }
}

impl Members {
    fn least_useful(&self, share: &Share, seats: &HashMap<u64, Taken>) -> Option<u64> {
        let first = self.unproven.last().or_else(|| self.proven.last());
        first.and_then(|(_, ip)| self.addresses.get(ip)?.least_useful(share, seats))
    }
}

impl Address {
    fn count(&self) -> usize {
        self.unproven.len() + self.proven.len()
    }

    fn least_useful(&self, share: &Share, seats: &HashMap<u64, Taken>) -> Option<u64> {
        let state = |number: &u64| seats.get(number).map(|seat| &seat.state);
        let useless =
            |number: &&u64| state(number).is_some_and(|state| state.useless.load(Ordering::Relaxed));
        if let Some(number) = self.unproven.iter().find(useless).or_else(|| self.unproven.first()) {
            return Some(*number);
        }
        match share {
            Share::Fleet(_) | Share::Address(_) => {
                let useful_ms =
                    |number: &&u64| state(number).map(|state| state.useful_ms.load(Ordering::Relaxed));
                self.proven.iter().min_by_key(useful_ms).copied()
            }
            Share::Strangers => None,
        }
    }
}

#[cfg(test)]
mod tests;
