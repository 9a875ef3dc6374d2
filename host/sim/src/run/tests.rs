use fleet::id::Uid;
use fleet::spec::{Amount, Draft, Mode};

use super::*;
use crate::stub::{Flaw, Stub};

fn calm() -> Options {
    let mut draft = Draft::new("f", "app-1", Mode::Own, Uid::from("driver-uid-1"), 4);
    draft.heartbeat.interval_ms = 5_000;
    draft.limits.surge = Amount::Count(0);
    draft.recovery.kept_pods_max = 0;
    Options { draft: Some(draft), swarm: Some(Swarm::calm()), chaos_ms: Some(300_000), ..Options::default() }
}

fn with(faults: &[(Fault, u32)]) -> Options {
    Options { swarm: Some(Swarm::only(faults)), ..calm() }
}

fn run_stub(seed: u64, options: &Options, flaw: Flaw) -> Report {
    run(seed, options, &|draft, policies, _| Stub::make(draft, policies, flaw))
}

/// The checker that objects first within some seeds.
fn bitten_by(options: &Options, flaw: Flaw) -> Option<&'static str> {
    (0..20).find_map(|seed| run_stub(seed, options, flaw).violation).map(|violation| violation.checker)
}

#[test]
fn a_calm_world_comes_to_rest() {
    for seed in 0..20 {
        let options = Options { timeline: true, ..calm() };
        let report = run_stub(seed, &options, Flaw::None);
        assert_eq!(report.violation, None, "seed {seed}:\n{}", report.timeline.join("\n"));
        assert!(report.mutations >= 4 && report.fleet_hours > 0.15);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..30 {
        let [first, second] = [false, true].map(|timeline| {
            run_stub(seed, &Options { timeline, ..Options::default() }, Flaw::None)
        });
        assert_eq!(first.hash, second.hash, "seed {seed}: words change nothing");
        assert_eq!(first.drawn, second.drawn);
        let replayed = Options { tape: Some(first.drawn.clone()), ..Options::default() };
        assert_eq!(run_stub(seed + 1, &replayed, Flaw::None).hash, first.hash, "seed {seed}: a tape is a run");
    }
    let hash = |seed| run_stub(seed, &Options::default(), Flaw::None).hash;
    assert_ne!(hash(1), hash(2));
}

#[test]
fn an_empty_tape_is_a_run_without_faults() {
    let options = Options { tape: Some(Vec::new()), ..Options::default() };
    let report = run_stub(0, &options, Flaw::None);
    assert_eq!(report.violation, None);
    assert!(report.fired.iter().all(|(_, count)| *count == 0));
}

#[test]
fn checkers_bite() {
    let restarts = with(&[(Fault::CrashAwaiting, 100)]);
    assert_eq!(bitten_by(&restarts, Flaw::ForgetsIds), Some("S2"));
    assert_eq!(bitten_by(&calm(), Flaw::ReservesNothing), Some("S2"));
    assert_eq!(bitten_by(&calm(), Flaw::Restless), Some("S17"));
    assert_eq!(bitten_by(&calm(), Flaw::NoFloor), Some("S5"));
    assert_eq!(bitten_by(&calm(), Flaw::Greedy), Some("S3"));
    assert_eq!(bitten_by(&calm(), Flaw::Spins), Some("SPIN"));
    assert_eq!(bitten_by(&with(&[(Fault::ForeignLabel, 20)]), Flaw::TakesAll), Some("S6"));
    assert_eq!(bitten_by(&with(&[(Fault::Paused, 20), (Fault::OomKilled, 50)]), Flaw::Deaf), Some("S14"));
    assert_eq!(bitten_by(&with(&[(Fault::OomKilled, 20)]), Flaw::MiscountsLosses), Some("S8"));
    assert_eq!(bitten_by(&with(&[(Fault::OomKilled, 20)]), Flaw::Lazy), Some("L1"));
}

/// Every kind of fault can strike: one that never does tests nothing.
#[test]
fn every_fault_strikes_within_some_runs() {
    let mut fired = vec![0; Fault::ALL.len()];
    for seed in 0..400 {
        let report = run_stub(seed, &Options::default(), Flaw::None);
        for (at, (_, count)) in report.fired.iter().enumerate() {
            fired[at] += count;
        }
    }
    let never: Vec<_> = Fault::ALL.iter().zip(&fired).filter(|(_, count)| **count == 0).map(|(f, _)| f.name()).collect();
    assert_eq!(never, [""; 0]);
}

#[test]
fn explore() {
    let rounds: u64 = std::env::var("ROUNDS").map_or(5, |t| t.parse().unwrap());
    for fault in Fault::ALL {
        let mut seen = std::collections::BTreeMap::new();
        for seed in 0..rounds {
            let options = Options { swarm: Some(Swarm::only(&[(*fault, fault.strength())])), ..Options::default() };
            if let Some(v) = run_stub(seed, &options, Flaw::None).violation {
                let e = seen.entry(v.checker).or_insert((0, String::new()));
                e.0 += 1;
                e.1 = format!("{seed}: {}", v.message);
            }
        }
        if !seen.is_empty() { println!("{} {:?}", fault.name(), seen); }
    }
}
#[test]
fn show() {
    let seed: u64 = std::env::var("SEED").map_or(5, |t| t.parse().unwrap());
    let name = std::env::var("FAULT").unwrap_or_default();
    let fault = Fault::ALL.iter().find(|f| f.name() == name);
    let swarm = fault.map(|f| Swarm::only(&[(*f, f.strength())]));
    let options = Options { swarm, timeline: true, ..Options::default() };
    let report = run_stub(seed, &options, Flaw::None);
    println!("{}", report.timeline.join("\n"));
    println!("{:?} {:?}", report.violation, report.draft);
}

#[test]
fn broad() {
    let rounds: u64 = std::env::var("ROUNDS").map_or(300, |t| t.parse().unwrap());
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..rounds {
        let report = run_stub(seed, &Options::default(), Flaw::None);
        if let Some(v) = report.violation {
            let f31 = report.fired.iter().any(|(f, n)| f.number() == "F31" && *n > 0);
            if f31 && std::env::var("NO31").is_ok() { continue; }
            if v.checker == "L1" && std::env::var("NOL1").is_ok() { continue; }
            if v.checker != "L1" && std::env::var("ONLYL1").is_ok() { continue; }
            let e: &mut (u32, Vec<String>) = seen.entry(v.checker).or_default();
            e.0 += 1;
            if e.1.len() < 24 { e.1.push(format!("{seed}: {:?} {}", report.swarm.iter().map(|(f, _)| f.name()).collect::<Vec<_>>().len(), v.message.chars().take(100).collect::<String>())); }
        }
    }
    for (c, (n, m)) in seen { println!("ALL {c} {n}"); for m in m { println!("ALL    {m}"); } }
}
