use std::net::Ipv4Addr;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::*;

fn ip(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn pods(fleet: &str, count: usize) -> Vec<Pods> {
    vec![Pods { fleet: fleet.into(), count }]
}

fn places(connections_max: usize, connections_per_ip_max: usize) -> Arc<Places> {
    Places::new(Limits { connections_max, connections_per_ip_max, ..Limits::default() })
}

impl Places {
    fn of(&self, share: &Share) -> usize {
        self.lock().shares.get(share).map_or(0, |members| members.count)
    }
}

fn of_fleet(name: &str) -> Share {
    Share::Fleet(name.into())
}

/// Ten times the attack of the review: 640 addresses with 64 connections each, one garbage line each, beside 60
/// executors that report every two seconds, as fast as they can connect.
#[test]
fn strangers_are_evicted_and_no_report_is_turned_away() {
    let places = places(4_096, 64);
    let start = Instant::now();
    let mut garbage = HashMap::new();
    let (mut refused, mut evicted_pods) = (0, 0);
    let mut number = 0;
    for round in 0..10_u64 {
        for address in 0..640 {
            for _ in 0..64 {
                number += 1;
                let now = start + Duration::from_micros(number * 100);
                let admission = places.admit(ip(100_000 + address), &[], now);
                evicted_pods += usize::from(admission.evicted.is_some_and(|evicted| evicted.ip < ip(1_000)));
                let seat = admission.seat.expect("there is always a less useful one");
                seat.useless();
                // An evicted client reconnects; until then its slot is free.
                garbage.insert((address, number % 64), seat);
            }
        }
        for executor in 0..60 {
            let now = start + Duration::from_micros(number * 100);
            let admission = places.admit(ip(executor), &pods("healthy", 1), now);
            match admission.seat {
                Some(mut seat) => seat.useful(false, now),
                None => refused += 1,
            }
        }
        assert_eq!(places.of(&Share::Strangers), 2_048, "round {round}");
    }
    assert_eq!((refused, evicted_pods), (0, 0));
    drop(garbage);
    let inner = places.lock();
    assert!(inner.seats.is_empty() && inner.shares.is_empty() && inner.sizes.is_empty());
}

#[test]
fn a_fleet_that_takes_all_that_is_left_gives_it_back() {
    let places = places(100, 64);
    let now = Instant::now();
    let mut greedy = Vec::new();
    // 64 addresses, 160 connections each, all of them useful.
    for number in 0..10_240_u32 {
        let admission = places.admit(ip(number % 64), &pods("greedy", 1), now);
        let mut seat = admission.seat.expect("its own connections are evicted");
        seat.useful(false, now + Duration::from_millis(number.into()));
        greedy.push(seat);
    }
    assert_eq!(places.of(&of_fleet("greedy")), 100);
    let mut healthy = Vec::new();
    for executor in 0..60 {
        let admission = places.admit(ip(1_000 + executor), &pods("healthy", 1), now);
        if executor < 50 {
            assert!(admission.evicted.is_some_and(|evicted| evicted.ip < ip(64)), "{executor}");
        }
        healthy.extend(admission.seat);
    }
    assert_eq!(places.of(&of_fleet("healthy")), 50, "half is as much as each of two can have");
    let stranger = places.admit(ip(5_000), &[], now);
    assert!(stranger.seat.is_some(), "a relay's: a share of its own is the smallest");
}

#[test]
fn the_unproven_go_first_then_the_longest_silent() {
    let places = places(4, 64);
    let now = Instant::now();
    let at = |ms| now + Duration::from_millis(ms);
    let fleet = pods("etl", 2);
    let mut seats: Vec<Seat> =
        (0..4).map(|number| places.admit(ip(number), &fleet, at(number.into())).seat.unwrap()).collect();
    seats[0].useful(false, at(50));
    seats[1].useful(false, at(20));
    seats[3].useless();
    let evicted = |ms, from: u32| {
        let admission = places.admit(ip(from), &fleet, at(ms));
        (admission.evicted.unwrap(), admission.seat.unwrap())
    };
    // Addresses 2 and 3 have one unproven connection each: a tie goes to the greater address.
    let (three, mut four) = evicted(100, 4);
    assert_eq!(three, Evicted { ip: ip(3), had_no_chance: false });
    four.useful(false, at(101));
    let (two, mut five) = evicted(200, 5);
    assert_eq!(two, Evicted { ip: ip(2), had_no_chance: true });
    five.useful(false, at(201));
    // All are proven: a tie goes to the greatest address.
    let (proven, _six) = evicted(10_000, 6);
    assert_eq!(proven, Evicted { ip: ip(5), had_no_chance: false });
    // At one address: the connection that was silent longest.
    let own = places.admit(ip(1), &fleet, at(10_001));
    assert_eq!(own.evicted, Some(Evicted { ip: ip(6), had_no_chance: true }));
    drop(own);
    let again = places.admit(ip(1), &fleet, at(10_002)).seat.unwrap();
    drop((seats, four, five, again));
    assert!(places.lock().seats.is_empty());
}

/// A relay has few addresses and many executors behind it: it is not evicted for garbage, and may have more
/// connections.
#[test]
fn a_relay_that_was_believed_keeps_its_places() {
    let places = places(512, 8);
    let now = Instant::now();
    let relay = ip(1);
    let mut seats = Vec::new();
    for _ in 0..64 {
        let mut seat = places.admit(relay, &[], now).seat.expect("an eighth of all");
        seat.useful(true, now);
        seats.push(seat);
    }
    assert!(places.admit(relay, &[], now).seat.is_none(), "no more than that");
    let mut garbage = Vec::new();
    for number in 0..4_000 {
        let admission = places.admit(ip(1_000 + number), &[], now);
        assert!(admission.evicted.is_none_or(|evicted| evicted.ip != relay));
        garbage.extend(admission.seat);
    }
    assert_eq!(places.of(&Share::Strangers), 256);
    seats.pop();
    garbage.extend(places.admit(ip(9_000), &[], now).seat);
    let admission = places.admit(relay, &[], now);
    assert!(admission.seat.is_some() && admission.evicted.is_some(), "it gets a place of the garbage");
}

#[tokio::test]
async fn who_is_evicted_is_told() {
    let places = places(2, 64);
    let seat = places.admit(ip(1), &[], Instant::now()).seat.unwrap();
    let told = seat.evicted();
    let _other = places.admit(ip(2), &[], Instant::now()).seat.unwrap();
    told.await;
}

/// With random arrivals and departures, the indexes stay consistent, limits hold, and a pod's connection is never
/// rejected.
#[test]
fn books_are_kept_whatever_happens() {
    for seed in 0..50 {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let max = dice.random_range(4..40);
        let per_ip = dice.random_range(1..6);
        let places = places(max, per_ip);
        let start = Instant::now();
        let mut seats: Vec<Seat> = Vec::new();
        for step in 0..2_000 {
            let now = start + Duration::from_millis(step * 10);
            match dice.random_range(0..6) {
                0 if !seats.is_empty() => drop(seats.swap_remove(dice.random_range(0..seats.len()))),
                1 if !seats.is_empty() => {
                    let at = dice.random_range(0..seats.len());
                    seats[at].useful(dice.random(), now);
                }
                _ => {
                    let address = dice.random_range(0..12_u32);
                    let here = match address {
                        0..=3 => pods("a", 1),
                        4..=5 => pods("b", 3),
                        6 => [pods("a", 1), pods("b", 2)].concat(),
                        _ => Vec::new(),
                    };
                    let admission = places.admit(ip(address), &here, now);
                    assert!(admission.seat.is_some() || here.is_empty(), "seed {seed} step {step}");
                    seats.extend(admission.seat);
                }
            }
            let inner = places.lock();
            assert!(inner.seats.len() <= max, "seed {seed}");
            let count: usize = inner.shares.values().map(|members| members.count).sum();
            assert_eq!(count, inner.seats.len(), "seed {seed}");
            assert_eq!(inner.sizes.len(), inner.shares.len(), "seed {seed}");
            for (share, members) in &inner.shares {
                assert!(inner.sizes.contains(&(members.count, share.clone())), "seed {seed}");
                let addresses: usize = members.addresses.values().map(Address::count).sum();
                let unproven: usize = members.unproven.iter().map(|(count, _)| count).sum();
                let proven: usize = members.proven.iter().map(|(count, _)| count).sum();
                assert_eq!((addresses, unproven + proven), (members.count, members.count), "seed {seed}");
            }
            let strangers = inner.shares.get(&Share::Strangers).map_or(0, |members| members.count);
            assert!(strangers <= max.div_ceil(2), "seed {seed}");
        }
        drop(seats);
        assert!(places.lock().shares.is_empty(), "seed {seed}");
    }
}
