//! Which connections stay open when not all can.
//!
//! A new connection is never rejected: when all slots are taken, the least useful connection is evicted. There are
//! three reserved shares: strangers, addresses of known pods, and connections that have shown a valid token. The class
//! that exceeds its share most loses a slot; within it, the address that has most connections; of these, the connection
//! that was silent for longest. So one address displaces its own connections, many addresses displace each other's, and
//! a request that is answered within milliseconds is never the oldest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::eviction::greediest;

/// In ascending rank; a connection's rank only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Stranger,
    /// From an address of a known pod.
    Neighbour,
    /// It has shown a valid token.
    Proven,
}

const STANDINGS: usize = 3;

/// The limits. Where all connections are from strangers, there is one share.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub connections_max: usize,
    /// Of these, from one address.
    pub of_one_max: usize,
    /// A quarter is for strangers, and three eighths for each of the other classes.
    pub shared: bool,
}

impl Room {
    fn shares(self) -> [usize; STANDINGS] {
        if !self.shared {
            return [self.connections_max, 0, 0];
        }
        let other = self.connections_max * 3 / 8;
        [self.connections_max - 2 * other, other, other]
    }
}

#[derive(Debug)]
pub struct Places {
    start: Instant,
    room: Room,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: HashMap<u64, Arc<Open>>,
}

/// One connection, shared by its task and its requests.
#[derive(Debug)]
pub struct Open {
    pub ip: IpAddr,
    start: Instant,
    standing: AtomicU8,
    /// Milliseconds since `start` at the last write to it, or at its acceptance.
    useful_ms: AtomicU64,
    /// It was read from and not answered yet, or never read from.
    unanswered: AtomicBool,
    leave: Notify,
}

impl Open {
    /// It has shown a valid token.
    pub fn prove(&self) {
        self.standing.store(Standing::Proven as u8, Ordering::Relaxed);
    }

    pub fn was_read(&self) {
        self.unanswered.store(true, Ordering::Relaxed);
    }

    pub fn was_written(&self) {
        self.unanswered.store(false, Ordering::Relaxed);
        self.useful_ms.store(millis_since(self.start), Ordering::Relaxed);
    }

    /// Closing it may lose a request.
    pub fn is_unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Evicts it.
    pub fn dismiss(&self) {
        self.leave.notify_one();
    }

    /// Resolves when it is evicted.
    pub async fn leave(&self) {
        self.leave.notified().await;
    }

    fn standing(&self) -> usize {
        usize::from(self.standing.load(Ordering::Relaxed))
    }
}

/// A slot, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
    pub open: Arc<Open>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().open.remove(&self.number);
    }
}

impl Places {
    pub fn new(room: Room) -> Arc<Places> {
        Arc::new(Places { start: Instant::now(), room, inner: Mutex::default() })
    }

    /// Takes a slot, and returns the connection that is evicted for it.
    pub fn take(self: &Arc<Places>, ip: IpAddr, is_neighbour: bool) -> (Place, Option<Arc<Open>>) {
        let standing = if is_neighbour { Standing::Neighbour } else { Standing::Stranger };
        let open = Arc::new(Open {
            ip,
            start: self.start,
            standing: AtomicU8::new(standing as u8),
            useful_ms: AtomicU64::new(millis_since(self.start)),
            unanswered: AtomicBool::new(true),
            leave: Notify::new(),
        });
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        let of_one = inner.open.values().filter(|other| other.ip == ip).count();
        let victim = if of_one >= self.room.of_one_max {
            let own = inner.open.iter().filter(|(_, other)| other.ip == ip);
            own.min_by_key(|(number, other)| (other.standing(), age(other), **number))
                .map(|(number, _)| *number)
        } else if inner.open.len() >= self.room.connections_max {
            most_useless(&inner.open, self.room.shares(), Some(&open))
        } else {
            None
        };
        let evicted = victim.and_then(|number| inner.dismiss(number));
        inner.open.insert(number, Arc::clone(&open));
        drop(inner);
        (Place { places: Arc::clone(self), number, open }, evicted)
    }

    /// Evicts a connection because another resource, for instance file descriptors, is exhausted.
    pub fn make_room(&self) -> Option<Arc<Open>> {
        let mut inner = self.lock();
        let victim = most_useless(&inner.open, self.room.shares(), None)?;
        inner.dismiss(victim)
    }

    // The map is consistent after every statement, so a panic elsewhere does not corrupt it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn dismiss(&mut self, number: u64) -> Option<Arc<Open>> {
        let open = self.open.remove(&number)?;
        open.dismiss();
        Some(open)
    }
}

/// Scans all of them: at most 512, in some 10 µs, and only when all slots are taken.
fn most_useless(
    open: &HashMap<u64, Arc<Open>>,
    shares: [usize; STANDINGS],
    newcomer: Option<&Arc<Open>>,
) -> Option<u64> {
    let mut used = [0_usize; STANDINGS];
    open.values().chain(newcomer).for_each(|one| used[one.standing()] += 1);
    let over = |standing: &usize| used[*standing].cast_signed() - shares[*standing].cast_signed();
    let has_one = |standing: &usize| open.values().any(|one| one.standing() == *standing);
    let standing = (0..STANDINGS).rev().filter(has_one).max_by_key(over)?;
    let of_kind = |one: &Arc<Open>| one.standing() == standing;
    let held =
        open.iter().filter(|(_, one)| of_kind(one)).map(|(number, one)| (one.ip, 1, (age(one), *number)));
    let newcomer = newcomer.filter(|one| of_kind(one)).map(|one| (one.ip, 1));
    greediest(held, newcomer).map(|(_, (_, number))| number)
}

/// The smallest has been silent longest.
fn age(open: &Open) -> u64 {
    open.useful_ms.load(Ordering::Relaxed)
}

fn millis_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    fn places(connections_max: usize, of_one_max: usize) -> Arc<Places> {
        Places::new(Room { connections_max, of_one_max, shared: true })
    }

    async fn tick() {
        tokio::time::advance(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_displaces_itself_when_it_has_its_share() {
        let places = places(16, 4);
        let mut held: Vec<Place> = Vec::new();
        for _ in 0..4 {
            tick().await;
            held.push(places.take(ip(1), false).0);
        }
        tick().await;
        held[0].open.was_written();
        held[1].open.prove();
        let (_fifth, evicted) = places.take(ip(1), false);
        assert!(
            Arc::ptr_eq(&evicted.unwrap(), &held[2].open),
            "the oldest that neither proved nor got anything"
        );
        assert!(places.take(ip(2), false).1.is_none(), "others have room");
    }

    #[tokio::test(start_paused = true)]
    async fn the_greediest_makes_room_and_then_the_oldest() {
        let places = places(16, 12);
        let quiet = places.take(ip(1), false).0;
        let mut held = Vec::new();
        for number in 0..15 {
            tick().await;
            held.push(places.take(ip(2 + number % 2), false).0);
        }
        let evicted = places.take(ip(9), false).1.unwrap();
        assert_eq!(evicted.ip, ip(2), "it has eight; the other seven, and the oldest of all only one");
        assert!(!Arc::ptr_eq(&evicted, &quiet.open));
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_finds_a_place_among_many_addresses_and_stays_for_long() {
        let places = places(64, 8);
        let mut held: HashMap<u32, Place> = HashMap::new();
        for number in 0..1_300 {
            tick().await;
            held.insert(number, places.take(ip(number), false).0);
        }
        let (probe, evicted) = places.take(ip(5_000), false);
        assert!(evicted.is_some_and(|evicted| evicted.ip == ip(1_300 - 64)));
        for number in 2_000..2_063 {
            tick().await;
            let (place, evicted) = places.take(ip(number), false);
            assert!(!Arc::ptr_eq(&evicted.unwrap(), &probe.open), "at {number}");
            held.insert(number, place);
        }
        assert!(places.lock().open.len() <= 64);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_take_no_place_of_pods_or_of_the_proven_nor_the_other_way_round() {
        let places = places(64, 64);
        let pods: Vec<_> = (0..24).map(|number| places.take(ip(100 + number), true).0).collect();
        let proven: Vec<_> = (0..24).map(|number| places.take(ip(200 + number), false).0).collect();
        proven.iter().for_each(|place| place.open.prove());
        let mut strangers = Vec::new();
        for number in 0..2_000 {
            tick().await;
            let (place, evicted) = places.take(ip(1_000 + number % 700), false);
            let spared = evicted.is_none_or(|evicted| evicted.standing() == Standing::Stranger as usize);
            assert!(spared, "at {number}");
            strangers.push(place);
        }
        let before = places.lock().open.len();
        let (_pod, evicted) = places.take(ip(150), true);
        assert_eq!(evicted.unwrap().standing(), Standing::Neighbour as usize, "their own share is full");
        assert_eq!(places.lock().open.len(), before);
        drop((pods, proven));
        let many: Vec<_> = (0..200).map(|number| places.take(ip(3_000 + number), true).0).collect();
        let left = places.lock().open.values().filter(|one| one.standing() == 0).count();
        assert_eq!(left, 16, "a quarter stays with strangers, however many pods come");
        drop((many, strangers));
        assert_eq!(places.lock().open.len(), 0);
    }
}
