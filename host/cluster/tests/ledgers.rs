//! Ledgers written by a tenant: many thousands of valid records, changed at random.
//!
//! Any content of the ConfigMap is read in little time and memory, and does not harm the reader. An accepted
//! record satisfies the core's own check, is the same after it is written and read again, and can be continued
//! from: a fleet claims it, compares it with its first list and handles the differences, in steps of bounded
//! work, and what it then writes is a valid record again.
//!
//! `ROLLCALL_FUZZ_CASES` sets the number of cases; `ROLLCALL_FUZZ_SEED` the first seed.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "what goes wrong in a test panics")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "dice"
)]

use std::time::{Duration, Instant as Clock};

use cluster::ledger::{decode, encode};
use fleet::Fleet;
use fleet::action::Verb;
use fleet::backoff::Seed;
use fleet::event::{Done, DriverView, Event, Outcome, Relist, finished};
use fleet::id::{ExecutorId, IdSet, Version};
use fleet::ledger::{Ledger, Requested};
use fleet::question::{DeletionCause, LossKind};
use fleet::spec::{FleetSpec, Mode};
use fleet::time::{Instant, Now};
use serde_json::{Value, json};

/// Takes some seconds without optimisation.
const CASES: u64 = 20_000;
/// Per case, on a machine that is busy with other work.
const CASE_MAX: Duration = Duration::from_secs(2);
/// The largest text is 1 MB, and takes about 40 MB while it is read.
const MEMORY_KB_MAX: u64 = 256 << 10;
/// At least a million ids have to be left, and a jump is 10,000.
const NEARLY_ALL: u64 = ExecutorId::MAX.0 - 1_020_000;
const WALL_MS: i64 = 1_793_577_600_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().expect("a number"))
}

#[test]
fn whatever_is_in_the_ledger_it_is_refused_or_can_be_gone_on_from() {
    let (cases, first) = (setting("ROLLCALL_FUZZ_CASES", CASES), setting("ROLLCALL_FUZZ_SEED", 0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8) as u64;
    let (taken, slowest) = std::thread::scope(|scope| {
        let part = |thread| (first + thread..first + cases).step_by(threads as usize);
        let parts: Vec<_> = (0..threads).map(|thread| scope.spawn(move || all(part(thread)))).collect();
        parts.into_iter().fold((0, Duration::ZERO), |(taken, slowest), part| {
            let (more, slow) = part.join().expect("what it says above");
            (taken + more, slowest.max(slow))
        })
    });
    println!("{cases} ledgers, {taken} taken, {slowest:?} at most, {:?} KB", peak_kb());
    assert!(taken > cases / 20 && taken < cases * 19 / 20, "{taken} of {cases} say little");
    assert!(peak_kb().is_none_or(|kb| kb < MEMORY_KB_MAX), "{:?} KB", peak_kb());
}

/// The number of accepted records, and the time of the slowest.
fn all(cases: impl Iterator<Item = u64>) -> (u64, Duration) {
    let (mut taken, mut slowest) = (0, Duration::ZERO);
    for case in cases {
        let mut dice = Seed::new(case);
        let text = mutate(&ours(&mut dice), &mut dice);
        let begun = Clock::now();
        if let Ok(ledger) = decode(&text) {
            taken += 1;
            assert_eq!(ledger.check(), Ok(()), "case {case}");
            assert_eq!(decode(&encode(&ledger)).as_ref(), Ok(&ledger), "case {case}");
            go_on_from(ledger, &mut dice, case);
        }
        slowest = slowest.max(begun.elapsed());
        assert!(slowest < CASE_MAX, "case {case} took {slowest:?}: {text:.300}");
    }
    (taken, slowest)
}

/// The peak memory of this process, if the system reports it.
fn peak_kb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// A record as a fleet writes it.
fn ours(dice: &mut Seed) -> Ledger {
    let reserved = dice.below(60);
    let mut ledger = Ledger {
        epoch: 1 + dice.below(9),
        leader: dice.draw(),
        writes: dice.below(1_000),
        reserved: ExecutorId(reserved),
        revision: dice.below(100_000),
        failed: dice.below(9) == 0,
        paused: dice.below(9) == 0,
        suspect: dice.below(9) == 0,
        ..Ledger::default()
    };
    let (mut born, mut settled, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for id in (1..=reserved).map(ExecutorId) {
        match dice.below(5) {
            0 | 1 => {
                born.push(id);
                if dice.below(4) == 0 {
                    ledger.leaving.insert(id, DeletionCause::Roll);
                }
            }
            2 | 3 => {
                settled.push(id);
                if dice.below(2) == 0 {
                    *ledger.removed.entry(DeletionCause::ScaleDown).or_default() += 1;
                } else {
                    *ledger
                        .lost
                        .entry(LossKind::named(["disk", "unknown", "mine"][id.0 as usize % 3]))
                        .or_default() += 1;
                    ledger.failures.push_back((WALL_MS - dice.below(4_000_000) as i64, 1));
                    if dice.below(4) == 0 {
                        kept.push(id);
                    }
                }
            }
            _ => {}
        }
    }
    ledger.created = (born.len() + settled.len()) as u64;
    let set = |ids: Vec<ExecutorId>| ids.into_iter().collect::<IdSet>();
    (ledger.born, ledger.settled, ledger.kept) = (set(born), set(settled), set(kept));
    if dice.below(3) == 0 {
        ledger.requested = Some(Requested { total: 5, spec_target: 3 });
    }
    if dice.below(3) == 0 {
        ledger.others.push(("newer".into(), "{\"a\":[1]}".into()));
    }
    ledger
}

/// Numbers at boundaries.
fn edge(dice: &mut Seed) -> String {
    let numbers =
        ["0", "1", "-1", "2147483647", "2147483648", "4294967295", "9007199254740993", "9223372036854775807"];
    let more = [
        "18446744073709551615",
        "18446744073709551616",
        "1e308",
        "1e999",
        "0.5",
        "100000",
        "100001",
        "2146483647",
    ];
    let all = [numbers, more].concat();
    all[dice.below(all.len() as u64) as usize].to_owned()
}

fn mutate(ledger: &Ledger, dice: &mut Seed) -> String {
    let mut text = match dice.below(10) {
        0..4 => encode(ledger),
        4..8 => restructured(ledger, dice),
        _ => balanced(ledger, dice),
    };
    for _ in 0..dice.below(3) {
        text = spoiled(text, dice);
    }
    text
}

/// Changes bytes.
fn spoiled(text: String, dice: &mut Seed) -> String {
    let mut bytes = text.into_bytes();
    let at = |dice: &mut Seed, bytes: &[u8]| dice.below(bytes.len() as u64 + 1) as usize;
    match dice.below(7) {
        // Flips bits.
        0 | 1 => {
            for _ in 0..=dice.below(4) {
                let place = at(dice, &bytes);
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << dice.below(8);
                }
            }
        }
        // Replaces a number by another.
        2..5 => {
            let from = at(dice, &bytes);
            if let Some(start) = bytes[from..].iter().position(u8::is_ascii_digit).map(|start| from + start) {
                let len = bytes[start..].iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(0);
                bytes.splice(start..start + len, edge(dice).into_bytes());
            }
        }
        5 => {
            let (from, to) = (at(dice, &bytes), at(dice, &bytes));
            let piece = bytes[from.min(to)..from.max(to)].to_vec();
            let place = at(dice, &bytes);
            bytes.splice(place..place, piece);
        }
        _ => bytes.truncate(at(dice, &bytes)),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Replaces the value of a field, or the field.
fn restructured(ledger: &Ledger, dice: &mut Seed) -> String {
    let mut object: Value = serde_json::from_str(&encode(ledger)).unwrap();
    let object = object.as_object_mut().unwrap();
    for _ in 0..=dice.below(2) {
        let names: Vec<String> = object.keys().cloned().collect();
        let pick = |dice: &mut Seed| names[dice.below(names.len() as u64) as usize].clone();
        let (name, other) = (pick(dice), pick(dice));
        // Few are long: those take time.
        let long = if dice.below(100) == 0 { 1 } else { 100 };
        let value = match dice.below(9) {
            0 => object.get(&other).cloned().unwrap_or_default(),
            1 => serde_json::from_str(&edge(dice)).unwrap_or_default(),
            2 => json!(format!("{}-{}", edge(dice), edge(dice))),
            3 => (0..dice.below(150)).fold(json!(1), |inner, _| json!([inner])),
            4 => json!("1,3,5,7,".repeat(dice.below(40_000 / long) as usize)),
            5 => json!(vec![0; dice.below(200_000 / long) as usize]),
            6 => {
                let names = (0..dice.below(300)).map(|number| (format!("k{number}"), json!(number)));
                Value::Object(names.collect())
            }
            7 => json!([[edge(dice), 1], [WALL_MS + dice.draw() as i64 / 2, 1], [i64::MIN, u32::MAX]]),
            _ => {
                object.remove(&name);
                continue;
            }
        };
        object.insert(name, value);
    }
    Value::Object(object.clone()).to_string()
}

/// The counts balance, but do not match the cluster.
fn balanced(ledger: &Ledger, dice: &mut Seed) -> String {
    let mut ledger = ledger.clone();
    let free = ledger.born.last().max(ledger.settled.last()).unwrap_or_default().0 + 2;
    let count = [1, 200, 5_000, 99_000, 3_000_000, 2_000_000_000][dice.below(6) as usize];
    // Long ones are slow.
    let count = if count > 1_000 && dice.below(30) > 0 { 3 } else { count };
    let run = Some((ExecutorId(free), ExecutorId(free + count - 1)));
    let with = |set: &IdSet| IdSet::from_runs(set.runs().chain(run).collect::<Vec<_>>()).unwrap();
    ledger.created += count;
    match dice.below(4) {
        0 => ledger.born = with(&ledger.born),
        1 => {
            ledger.settled = with(&ledger.settled);
            *ledger.lost.entry(LossKind::Disk).or_default() += count;
        }
        2 => {
            (ledger.settled, ledger.kept) = (with(&ledger.settled), with(&ledger.kept));
            *ledger.lost.entry(LossKind::Unknown).or_default() += count;
        }
        _ => {
            ledger.created -= count;
            ledger.reserved = ExecutorId(dice.below(ExecutorId::MAX.0));
            ledger.epoch = dice.draw() >> dice.below(64);
            ledger.revision = dice.draw() >> dice.below(64);
            ledger.writes = dice.draw() >> dice.below(64);
            ledger.failures.push_back((dice.draw() as i64, dice.below(3) as u32));
        }
    }
    encode(&ledger)
}

/// A fleet claims it and handles the differences, until it rests or the step limit is reached.
fn go_on_from(ledger: Ledger, dice: &mut Seed, case: u64) {
    let mode = if dice.below(4) == 0 { Mode::Observe } else { Mode::Own };
    let spec = FleetSpec::new("f", "app", mode, "driver".into(), 3);
    let mut fleet = Fleet::new(spec, &[], case).unwrap();
    let mut now_ms = 0;
    let first = ledger.reserved;
    let mut record = Box::new(ledger);
    let mut version = record.revision.min(1 << 40) + 1;
    let mut events = vec![Event::LeadershipGained { term: 1 + dice.below(3) }];
    for _ in 0..60 {
        let event = events.pop().unwrap_or(Event::Deadline);
        let now = Now { instant: Instant::from_ms(now_ms), wall_ms: WALL_MS };
        let actions = fleet.step(event, now);
        fleet.audit().unwrap_or_else(|why| panic!("case {case}: {why}"));
        assert!(actions.len() < 2_000, "case {case}: {} actions in a step", actions.len());
        for action in actions {
            let named = |number: u64| Version(number.to_string().into());
            match &action.verb {
                Verb::ReadLedger => {
                    let done =
                        Done::Ledger { ledger: record.clone(), version: named(version), edited: false };
                    events.push(finished(&action, Outcome::Ok(done)));
                }
                Verb::WriteLedger { ledger, .. } => {
                    if let Err(flaw) = ledger.check() {
                        // Its ids are nearly used up.
                        assert!(
                            flaw.field == "reserved" && first.0 > NEARLY_ALL,
                            "case {case}: our own: {flaw}"
                        );
                    }
                    (record, version) = (ledger.clone(), version + 1);
                    events.push(finished(&action, Outcome::Ok(Done::Written(named(version)))));
                }
                Verb::Relist { known } => {
                    let driver = DriverView::Running { uid: "driver".into(), ends: 0 };
                    let revision = version.max(*known);
                    events.push(Event::Relisted(Relist {
                        known: *known,
                        revision,
                        pods: Vec::new(),
                        driver,
                    }));
                }
                Verb::CreatePod { executor, .. } => {
                    let used = record.born.contains(*executor) || record.settled.contains(*executor);
                    assert!(
                        !used && executor.0 > 0 && *executor <= ExecutorId::MAX,
                        "case {case}: id {executor}"
                    );
                    events.push(finished(&action, Outcome::Forbidden("no".to_owned())));
                }
                _ => {}
            }
        }
        match fleet.deadline() {
            Some((at, _)) if events.is_empty() => now_ms = now_ms.max(at.as_ms()),
            Some(_) => {}
            None if events.is_empty() => break,
            None => {}
        }
    }
}
