//! How many token reviews may run, and how they are shared among senders.
//!
//! A review costs a call of the API server but costs the sender nothing. So there are two bounds. *Concurrency*: tokens
//! that were valid before, known pods, and unknown senders have separate slots; when those are taken, the fleet (or the
//! unknown sender's address) that holds most of them gives one up. *Rate*: an allowance for each address and each
//! fleet, which only invalid tokens use up. So a fleet of thousands that starts is not slowed down, and bogus tokens
//! cost few calls: 5 in 10 s from one address, 5 a second from one fleet's pods, 10 a second from all unknown senders
//! together.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet::bucket::{Bucket, Rate};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Asker;
use crate::eviction::greediest;

/// Concurrent reviews: 10 ms each, so 4,800 a second at most, if all of them are of valid tokens.
const OF_GOOD_MAX: usize = 16;
const OF_PODS_MAX: usize = 24;
const OF_STRANGERS_MAX: usize = 8;
/// Concurrent reviews of one address, in either of the last two classes.
const OF_ADDRESS_MAX: usize = 8;

/// The interval between two invalid tokens, and the burst before it applies.
const ADDRESS: Rate = Rate { every: Duration::from_secs(2), size: 10 };
const FLEET: Rate = Rate { every: Duration::from_millis(200), size: 50 };
const STRANGERS: Rate = Rate { every: Duration::from_millis(100), size: 50 };
/// Maximum number of allowances that are tracked because they are not full; senders beyond that share one.
const ALLOWANCES_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct Shares(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    under_way: HashMap<u64, Review>,
    allowances: HashMap<Key, Bucket<Instant>>,
}

#[derive(Debug)]
struct Review {
    kind: Kind,
    ip: IpAddr,
    fleet: Option<Arc<str>>,
    leave: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    Pod,
    Stranger,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    Fleet(Arc<str>),
    Strangers,
    /// Shared by all senders that have no allowance of their own.
    Crowd,
}

/// A review in progress, until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    shares: Arc<Shares>,
    number: u64,
    used: Vec<(Key, Rate)>,
    leave: Arc<Notify>,
}

impl Ticket {
    /// Another sender has a stronger claim to the slot.
    pub async fn leave(&self) {
        self.leave.notified().await;
    }

    /// Refunds what an invalid token would have cost.
    pub fn was_good(mut self) {
        let mut inner = self.shares.lock();
        for (key, rate) in self.used.drain(..) {
            inner.give_back(&key, rate);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shares.lock().under_way.remove(&self.number);
    }
}

impl Shares {
    /// `None`: no review at this time.
    pub fn enter(self: &Arc<Shares>, asker: &Asker, was_good: bool) -> Option<Ticket> {
        let kind = match (was_good, &asker.fleet) {
            (true, _) => Kind::Good,
            (false, Some(_)) => Kind::Pod,
            (false, None) => Kind::Stranger,
        };
        let mut inner = self.lock();
        let of_kind = |inner: &Inner| inner.under_way.values().filter(|other| other.kind == kind).count();
        let mut used = Vec::new();
        if kind == Kind::Good {
            if of_kind(&inner) >= OF_GOOD_MAX {
                return None;
            }
        } else {
            let others = inner.under_way.values().filter(|other| other.kind != Kind::Good);
            if others.filter(|other| other.ip == asker.ip).count() >= OF_ADDRESS_MAX {
                return None;
            }
            used = inner.charge(asker)?;
            let room = match kind {
                Kind::Pod => inner.make_room(kind, OF_PODS_MAX, &asker.fleet, |other| other.fleet.clone()),
                Kind::Good | Kind::Stranger => {
                    inner.make_room(kind, OF_STRANGERS_MAX, &asker.ip, |other| other.ip)
                }
            };
            if !room {
                used.iter().for_each(|(key, rate)| inner.give_back(key, *rate));
                return None;
            }
        }
        let number = inner.next;
        inner.next += 1;
        let leave = Arc::new(Notify::new());
        let review = Review { kind, ip: asker.ip, fleet: asker.fleet.clone(), leave: Arc::clone(&leave) };
        inner.under_way.insert(number, review);
        Some(Ticket { shares: Arc::clone(self), number, used, leave })
    }

    // The maps are consistent after every statement, so a panic elsewhere does not corrupt them.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Is there a free slot for this sender, or can one be freed? Only a sender with at least two more slots than this
    /// one gives one up.
    fn make_room<K: Eq + Hash>(
        &mut self,
        kind: Kind,
        most: usize,
        own: &K,
        key: impl Fn(&Review) -> K,
    ) -> bool {
        let of_kind = || self.under_way.iter().filter(move |(_, other)| other.kind == kind);
        if of_kind().count() < most {
            return true;
        }
        let mine = of_kind().filter(|(_, other)| key(other) == *own).count();
        let held = of_kind().map(|(number, other)| (key(other), 1, *number));
        let victim = greediest(held, None).filter(|(count, _)| mine + 1 < *count);
        victim.and_then(|(_, number)| self.under_way.remove(&number)).is_some_and(|left| {
            left.leave.notify_one();
            true
        })
    }

    /// Charged as if the token were invalid.
    fn charge(&mut self, asker: &Asker) -> Option<Vec<(Key, Rate)>> {
        let group = match &asker.fleet {
            Some(fleet) => (Key::Fleet(Arc::clone(fleet)), FLEET),
            None => (Key::Strangers, STRANGERS),
        };
        let now = Instant::now();
        let mut used: Vec<(Key, Rate)> = Vec::new();
        for (key, rate) in [(Key::Address(asker.ip), ADDRESS), group] {
            let key = self.find(key, now);
            let bucket = self.allowances.entry(key.clone()).or_insert_with(|| Bucket::full(now));
            if !bucket.wait(1, rate, now).is_zero() {
                used.iter().for_each(|(key, rate)| self.give_back(key, *rate));
                return None;
            }
            bucket.spend(1, rate, now);
            used.push((key, rate));
        }
        Some(used)
    }

    /// The sender's own allowance, or the shared one if there are too many.
    fn find(&mut self, key: Key, now: Instant) -> Key {
        if self.allowances.len() >= ALLOWANCES_MAX && !self.allowances.contains_key(&key) {
            self.allowances.retain(|_, bucket| !bucket.is_full(now));
            if self.allowances.len() >= ALLOWANCES_MAX {
                return Key::Crowd;
            }
        }
        key
    }

    fn give_back(&mut self, key: &Key, rate: Rate) {
        if let Some(bucket) = self.allowances.get_mut(key) {
            bucket.give_back(1, rate, Instant::now());
        }
    }
}
