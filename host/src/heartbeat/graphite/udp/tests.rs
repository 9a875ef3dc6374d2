use std::net::Ipv4Addr;

use fleet::id::{ExecutorId, Uid};

use super::*;
use crate::heartbeat::Sign;
use crate::heartbeat::directory::{ExecutorEntry, FleetEntry};
use crate::heartbeat::intake::Signs;
use crate::heartbeat::tests::intake;

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, last).into(), port)
}

/// Two fleets with an executor each, at 10.0.0.1 and 10.0.0.2.
fn ear(limits: Limits) -> (Ear, Signs) {
    let (intake, signs) = intake();
    for (life, name) in [(1, "one"), (2, "two")] {
        let application_id = name.to_owned();
        let entry = FleetEntry { life, application_id, check_peer: true, ..FleetEntry::default() };
        intake.directory.set_fleet(name, entry).unwrap();
        let pod_ip = Some(at(u8::try_from(life).unwrap(), 0).ip());
        let pod = ExecutorEntry { uid: Uid::from(name), pod_ip, runs: true };
        intake.directory.set_executor(name, ExecutorId(1), pod);
    }
    (Ear::new(intake, &limits), signs)
}

fn heard(signs: &mut Signs) -> Vec<String> {
    let sign = |sign| match sign {
        Sign::Beat { life, .. } => format!("beat {life}"),
        Sign::Impaired { life, why } => format!("{} {life}", why.name()),
        Sign::Driver { .. } => panic!("no driver was polled"),
    };
    std::iter::from_fn(|| signs.try_recv().ok()).map(sign).collect()
}

#[tokio::test(start_paused = true)]
async fn a_flood_from_one_address_is_thrown_away_and_impairs_its_own_fleet() {
    let (mut ear, mut signs) = ear(Limits::default());
    let now = Instant::now();
    // From a new port each time, and each line a report: as fast as possible.
    for number in 0..200_000_u32 {
        let port = u16::try_from(number % 60_000 + 1).unwrap();
        ear.hear(at(1, port), format!("one.1.executor.runTime.count 1 {number}").as_bytes(), now);
    }
    ear.hear(at(2, 9), b"two.1.executor.runTime.count 1 1", now);
    ear.sweep(now + Duration::from_secs(1));
    assert_eq!(heard(&mut signs), ["refused 1", "beat 2", "beat 1"]);
    let counters = &ear.intake.counters;
    let parsed = counters.get(Source::Graphite, Fate::Accepted);
    // 10,000 lines at once, and a report costs as much as 21.
    assert!((470..=480).contains(&parsed), "{parsed}");
    assert!(counters.get(Source::Graphite, Fate::RateLimited) > 199_000);
    assert!(ear.senders.len() < SENDERS_MAX);
    // Later it has its rate again.
    ear.hear(at(1, 9), b"one.1.executor.runTime.count 1 1", now + Duration::from_secs(1));
    assert_eq!(ear.senders.len(), 1);
    ear.sweep(now + Duration::from_secs(60));
    assert!(ear.known.is_empty() && ear.strangers.is_empty() && ear.senders.is_empty());
}

#[tokio::test(start_paused = true)]
async fn forged_addresses_are_bounded_and_take_nothing_from_pods() {
    let (mut ear, mut signs) = ear(Limits { lines_per_s: 10, burst_lines: 10, ..Limits::default() });
    let now = Instant::now();
    for number in 0..100_000_u32 {
        let from = SocketAddr::new(Ipv4Addr::from(0x0b00_0000 + number).into(), 7);
        ear.hear(from, b"unknown.1.x 1 1", now);
    }
    assert_eq!((ear.strangers.len(), ear.known.len(), ear.senders.len()), (STRANGERS_MAX, 0, 0));
    assert!(ear.intake.counters.get(Source::Graphite, Fate::RateLimited) > 90_000);
    assert_eq!(heard(&mut signs), [""; 0], "whose fleets are heard by address");
    ear.hear(at(2, 9), b"two.1.executor.runTime.count 1 1", now);
    ear.sweep(now + Duration::from_secs(1));
    assert_eq!(heard(&mut signs), ["beat 2"]);
    // The datagrams that the kernel dropped may have been from the fleets that have used UDP.
    ear.kernel_dropped(0);
    assert_eq!(heard(&mut signs), [""; 0]);
    ear.kernel_dropped(7);
    assert_eq!(heard(&mut signs), ["dropped 2"]);
    ear.intake.directory.remove_fleet("two");
    ear.kernel_dropped(7);
    assert_eq!((heard(&mut signs).len(), ear.heard.len()), (0, 0));
}

/// Malformed lines of a pod are always noted, regardless of what strangers send.
#[tokio::test(start_paused = true)]
async fn a_pods_garbage_is_not_lost_among_that_of_others() {
    let (mut ear, mut signs) = ear(Limits::default());
    let now = Instant::now();
    ear.hear(at(9, 1), b"garbage", now);
    ear.hear(at(1, 1), b"garbage", now);
    assert_eq!(heard(&mut signs), ["unattributed 1"]);
}
