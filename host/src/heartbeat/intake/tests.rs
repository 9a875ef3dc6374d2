use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use tokio::time::{advance, timeout};

use super::*;

fn beat(life: u64, executor: u64, uid: Option<&str>, metrics: &[(&str, f64)]) -> Sign {
    let metrics = metrics.iter().map(|(name, value)| (Box::from(*name), *value)).collect();
    Sign::Beat { life, beat: Beat { executor: ExecutorId(executor), uid: uid.map(Uid::from), metrics } }
}

fn whose(sign: &Sign) -> u64 {
    match sign {
        Sign::Beat { life, .. } | Sign::Driver { life, .. } | Sign::Impaired { life, .. } => *life,
    }
}

#[test]
fn a_flood_of_one_fleet_costs_the_others_one_turn_each() {
    let (sender, mut signs) = channel();
    for _ in 0..1_000 {
        for executor in 0..500 {
            sender.send(beat(1, executor, None, &[])).unwrap();
        }
    }
    assert_eq!(signs.len(), 500, "one for each executor");
    for executor in 0..3 {
        sender.send(beat(2, executor, None, &[])).unwrap();
    }
    sender.send(beat(3, 0, None, &[])).unwrap();
    let mut order = Vec::new();
    for _ in 0..8 {
        // The flood continues.
        sender.send(beat(1, 7, None, &[])).unwrap();
        order.push(whose(&signs.try_recv().unwrap()));
    }
    assert_eq!(order, [1, 2, 3, 1, 2, 1, 2, 1]);
    while signs.try_recv().is_ok() {}
    let queue = signs.0.lock();
    assert!(queue.length == 0 && queue.fleets.is_empty() && queue.turns.is_empty());
}

#[test]
fn the_newest_fact_under_each_name_wins() {
    let (sender, mut signs) = channel();
    for sign in [
        beat(1, 1, Some("a"), &[("x", 1.0), ("y", 1.0)]),
        beat(1, 2, None, &[("x", 5.0)]),
        beat(1, 1, Some("a"), &[("y", 2.0), ("z", 2.0)]),
        beat(1, 1, None, &[("z", 3.0)]),
    ] {
        sender.send(sign).unwrap();
    }
    assert_eq!(signs.try_recv(), Ok(beat(1, 1, Some("a"), &[("x", 1.0), ("y", 2.0), ("z", 3.0)])));
    assert_eq!(signs.try_recv(), Ok(beat(1, 2, None, &[("x", 5.0)])));
    // From another pod of the same executor: the values of the earlier pod do not apply.
    sender.send(beat(1, 1, Some("a"), &[("x", 1.0)])).unwrap();
    sender.send(beat(1, 1, Some("b"), &[("y", 1.0)])).unwrap();
    assert_eq!(signs.try_recv(), Ok(beat(1, 1, Some("b"), &[("y", 1.0)])));
    for rows in [1, 2] {
        let row = DriverRow { executor: ExecutorId(rows), active: true, remove_reason: None, counters: None };
        sender.send(Sign::Driver { life: 1, rows: vec![row] }).unwrap();
    }
    let Ok(Sign::Driver { rows, .. }) = signs.try_recv() else { panic!("a report waits") };
    assert_eq!(rows[0].executor, ExecutorId(2));
    assert_eq!(signs.try_recv(), Err(Empty));
}

#[test]
fn facts_by_column_join_as_facts_by_name_do() {
    let (sender, mut signs) = channel();
    let columns = Arc::new(Columns::new(&[]));
    let values = |at: usize, value: f64| {
        let mut values = vec![f64::NAN; columns.names.len()];
        values[at] = value;
        Facts::Of(Arc::clone(&columns), values)
    };
    sender.beat(1, ExecutorId(1), None, values(0, 1.0)).unwrap();
    sender.beat(1, ExecutorId(1), None, values(1, 1.0)).unwrap();
    sender.beat(1, ExecutorId(1), None, values(1, 2.0)).unwrap();
    sender.send(beat(1, 1, None, &[(&*columns.names[0], 3.0), ("mine", 4.0)])).unwrap();
    let named = [(&*columns.names[0], 3.0), (&*columns.names[1], 2.0), ("mine", 4.0)];
    assert_eq!(signs.try_recv(), Ok(beat(1, 1, None, &named)));
}

#[tokio::test(start_paused = true)]
async fn an_impairment_is_told_once_a_second_and_the_last_is_never_swallowed() {
    let (sender, mut signs) = channel();
    let refused = Sign::Impaired { life: 1, why: Impairment::Refused };
    let start = Instant::now();
    // Ten seconds, one message each millisecond.
    let flood = tokio::spawn(async move {
        for _ in 0..10_000 {
            sender.send(Sign::Impaired { life: 1, why: Impairment::Refused }).unwrap();
            advance(Duration::from_millis(1)).await;
        }
        sender.send(Sign::Impaired { life: 1, why: Impairment::Dropped }).unwrap();
        sender
    });
    let mut at = Vec::new();
    while let Ok(Some(sign)) = timeout(Duration::from_secs(5), signs.recv()).await {
        if sign == refused {
            at.push(start.elapsed());
        }
    }
    assert!((10..=12).contains(&at.len()), "{at:?}");
    let early = Duration::from_millis(1);
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] + early >= IMPAIRMENT_PAUSE), "{at:?}");
    assert!(*at.last().unwrap() >= Duration::from_millis(9_999), "{at:?}: the last one is not told");
    assert_eq!(signs.0.lock().told.len(), 0, "it is forgotten");
    assert_eq!(signs.0.lock().pauses.len(), 0);
    drop(flood.await.unwrap());
    assert_eq!(signs.recv().await, None);
}

#[tokio::test]
async fn a_receiver_that_waits_is_woken_and_loses_nothing_when_it_gives_up() {
    let (sender, mut signs) = channel();
    assert!(timeout(Duration::from_millis(1), signs.recv()).await.is_err());
    let waits = tokio::spawn(async move { (signs.recv().await, signs) });
    tokio::task::yield_now().await;
    sender.send(beat(1, 1, None, &[])).unwrap();
    let (sign, signs) = waits.await.unwrap();
    assert_eq!(sign, Some(beat(1, 1, None, &[])));
    drop(signs);
    assert_eq!(sender.send(beat(1, 1, None, &[])), Err(Closed));
}

/// For every order of sending and receiving: a receiver that keeps the last value of each name ends with the same state
/// as one that received every message; no more beats wait than there are executors; and a fleet waits for at most one
/// turn of each other fleet.
#[test]
fn what_the_loop_ends_up_knowing_is_what_was_said() {
    type Known = BTreeMap<(u64, u64), BTreeMap<Box<str>, u64>>;
    fn learn(known: &mut Known, sign: &Sign) {
        if let Sign::Beat { life, beat } = sign {
            let facts = known.entry((*life, beat.executor.0)).or_default();
            facts.extend(beat.metrics.iter().map(|(name, value)| (name.clone(), value.to_bits())));
        }
    }
    for seed in 0..200 {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let (sender, mut signs) = channel();
        let (mut said, mut heard) = (Known::new(), Known::new());
        let (fleets, executors) = (dice.random_range(1..6_u64), dice.random_range(1..20_u64));
        let mut passed = BTreeMap::new();
        for _ in 0..2_000 {
            if dice.random_range(0..3) > 0 {
                let name = ["a", "b", "c", "d"][dice.random_range(0..4)];
                // One fleet sends as much as all the others.
                let life = if dice.random_range(0..2) == 0 { 0 } else { dice.random_range(0..fleets) };
                let sign = beat(life, dice.random_range(0..executors), None, &[(name, dice.random())]);
                learn(&mut said, &sign);
                passed.entry(life).or_insert(0);
                sender.send(sign).unwrap();
            } else if let Ok(sign) = signs.try_recv() {
                learn(&mut heard, &sign);
                let life = whose(&sign);
                for (_, waits) in passed.iter_mut().filter(|(other, _)| **other != life) {
                    *waits += 1;
                    assert!(*waits <= fleets, "seed {seed}");
                }
                passed.remove(&life);
                if signs.0.lock().fleets.contains_key(&life) {
                    passed.insert(life, 0);
                }
            }
            assert!(signs.len() as u64 <= fleets * executors, "seed {seed}");
        }
        while let Ok(sign) = signs.try_recv() {
            learn(&mut heard, &sign);
        }
        assert_eq!(said, heard, "seed {seed}");
        assert!(signs.is_empty(), "seed {seed}");
    }
}
