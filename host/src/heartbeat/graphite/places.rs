//! Which connections stay open: by use, and not by order of arrival.
//!
//! A connection is proven by its first accepted line. Until then it has a few seconds; and when slots run out, the
//! least useful connection is evicted, instead of rejecting the newest.
//!
//! - **Shares.** A connection belongs to the fleet that has a pod at its address, or if pods of several fleets have
//!   this address (hostNetwork), to the address. Connections from all other addresses, the strangers, share at most
//!   half of all slots. When slots run out, a connection of the largest share is evicted. So a fleet that opens 10,000
//!   connections has no more slots than are left over, and a connection from a pod's address is always admitted.
//! - **Addresses.** One address has [`Limits::connections_per_ip_max`], or two for each of its pods if that is more. An
//!   address with a relay whose lines were accepted has an eighth of all slots.
//! - **Use.** Within a share, unproven connections are evicted first: from the address with most of them, one that has
//!   sent useless lines, else the oldest. Next, in a fleet's share, the one that was silent longest. A stranger's
//!   proven connection is never evicted: it is a relay, and all of its fleets report through it.
//!
//! | what happens | the fleets that it impairs ([`Impairment::Refused`](fleet::event::Impairment)) |
//! |---|---|
//! | a connection from an address of a pod in the view is evicted | fleets with a pod there |
//! | a stranger's connection is evicted or rejected before it had time to send | fleets that accept lines from any address, or have a running pod whose address is not known yet |
//! | the same, after it sent useless lines or nothing for a while | none |
//! | a connection is closed because it sent nothing useful within its time | none: no line was dropped |
//! | a connection is throttled | fleets with a pod at the address, and the one that it reports for; for a relay, all that accept lines from any address |
//! | none can be accepted: the process is out of file descriptors | all |
//! | they arrive faster than they are accepted, and some are lost ([`Listener`](crate::listen::Listener)) | all |
//!
//! Memory: a slot and its entries take about 400 bytes. 4,096 connections with their buffers of 4 KiB, batches of at
//! most 2 KiB and tasks of 2 KiB are 34 MiB; strangers have at most half of that.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;
use crate::heartbeat::directory::Pods;

/// Connections per pod: Spark's sink opens one for a fraction of a second, and there may be two sinks.
const PER_POD: usize = 2;
/// How long an unproven connection is given to send: GraphiteSink writes as soon as it is connected.
const CHANCE: Duration = Duration::from_secs(2);

/// All connections.
#[derive(Debug)]
pub struct Places {
    limits: Limits,
    started: Instant,
    inner: Mutex<Inner>,
}

/// The owner of a share.
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
    /// Addresses by their number of unproven connections, and by that of proven ones.
    unproven: BTreeSet<(usize, IpAddr)>,
    proven: BTreeSet<(usize, IpAddr)>,
}

/// In order of arrival.
#[derive(Debug, Default)]
struct Address {
    unproven: BTreeSet<u64>,
    proven: BTreeSet<u64>,
}

/// What a connection's task publishes without a lock.
#[derive(Debug, Default)]
struct State {
    /// When a line was last accepted, in milliseconds since the start.
    useful_ms: AtomicU64,
    /// It sent lines, and none of them was accepted.
    useless: AtomicBool,
    /// It reports for a fleet that accepts lines from any address.
    relays: AtomicBool,
    evicted: Notify,
}

/// A connection's slot, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    places: Arc<Places>,
    number: u64,
    state: Arc<State>,
    proven: bool,
}

/// The decision about a new connection.
#[derive(Debug)]
pub struct Admission {
    /// `None`: it is rejected.
    pub seat: Option<Seat>,
    pub evicted: Option<Evicted>,
}

/// An evicted connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Evicted {
    pub ip: IpAddr,
    /// It may have had a heartbeat to send.
    pub had_no_chance: bool,
}

impl Seat {
    /// A line was accepted.
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

    /// It has reported for a fleet that accepts lines from any address, and so may report for other such fleets.
    pub fn relays(&self) -> bool {
        self.state.relays.load(Ordering::Relaxed)
    }

    /// Lines arrived, and none of them was accepted.
    pub fn useless(&self) {
        self.state.useless.store(true, Ordering::Relaxed);
    }

    /// Resolves when it is evicted.
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

    /// A connection arrived from an address that has these pods.
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

    /// Evicts the least useful connection.
    pub fn evict_one(&self, now: Instant) -> Option<Evicted> {
        let mut inner = self.lock();
        let shares = inner.sizes.iter().rev().map(|(_, share)| share.clone()).collect::<Vec<_>>();
        let number =
            shares.iter().find_map(|share| inner.shares.get(share)?.least_useful(share, &inner.seats))?;
        inner.evict(number, now)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The data is consistent after every method, and none of them panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// `Err`: only if this connection is evicted. `Err(None)`: not at all.
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
        // Strangers' relays are never evicted: continue with the next share.
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
        // A stored permit, if the task does not wait yet.
        seat.state.evicted.notify_one();
        self.leave(number);
        Some(evicted)
    }

    /// Changes the connections of an address, and every index that contains it.
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

/// Moves an entry in an index by size, which omits empty entries.
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
