use fleet::id::Uid;
use fleet::spec::{Amount, FleetSpec, Mode};

use super::*;
use crate::campaign::core;

fn calm() -> Options {
    let mut spec = FleetSpec::new("f", "app-1", Mode::Own, Uid::from("driver-uid-1"), 4);
    spec.heartbeat.interval_ms = 5_000;
    spec.limits.max_surge = Amount::Count(0);
    spec.recovery.max_kept_pods = 0;
    Options { spec: Some(spec), swarm: Some(Swarm::calm()), chaos_ms: Some(300_000), ..Options::default() }
}

fn with(faults: &[(Fault, u32)]) -> Options {
    Options { swarm: Some(Swarm::only(faults)), ..calm() }
}

fn run_core(seed: u64, options: &Options) -> Report {
    run(seed, options, &core(None))
}

#[test]
fn a_calm_world_comes_to_rest() {
    for seed in 0..20 {
        let options = Options { timeline: true, ..calm() };
        let report = run_core(seed, &options);
        assert_eq!(report.violation, None, "seed {seed}:\n{}", report.timeline.join("\n"));
        // D3: without faults, only the difference between the actual and the desired state is changed.
        assert_eq!(report.mutations, 4 + u64::from(report.last_target.abs_diff(4)), "seed {seed}");
        assert!(report.fleet_hours > 0.15);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..30 {
        let [first, second] =
            [false, true].map(|timeline| run_core(seed, &Options { timeline, ..Options::default() }));
        assert_eq!(first.hash, second.hash, "seed {seed}: words change nothing");
        assert_eq!(first.drawn, second.drawn);
        let replayed = Options { choices: Some(first.drawn.clone()), ..Options::default() };
        assert_eq!(
            run_core(seed + 1, &replayed).hash,
            first.hash,
            "seed {seed}: the same choices are the same run"
        );
    }
    let hash = |seed| run_core(seed, &Options::default()).hash;
    assert_ne!(hash(1), hash(2));
}

#[test]
fn an_empty_tape_is_a_run_without_faults() {
    let options = Options { choices: Some(Vec::new()), ..Options::default() };
    let report = run_core(0, &options);
    assert_eq!(report.violation, None);
    assert!(report.fired.iter().all(|(_, count)| *count == 0));
}

/// Every kind of fault can strike: one that never does tests nothing.
#[test]
fn every_fault_strikes_within_some_runs() {
    let mut fired = vec![0; Fault::ALL.len()];
    for seed in 0..1_000 {
        let report = run_core(seed, &Options::default());
        for (at, (_, count)) in report.fired.iter().enumerate() {
            fired[at] += count;
        }
    }
    let never: Vec<_> =
        Fault::ALL.iter().zip(&fired).filter(|(_, count)| **count == 0).map(|(f, _)| f.name()).collect();
    assert_eq!(never, [""; 0]);
}

/// One kind of fault at a time, for as long as the chaos lasts: no checker objects to anything that a
/// controller could not have known.
#[test]
fn checkers_do_not_bite_for_a_single_fault() {
    for fault in Fault::ALL {
        for seed in 0..4 {
            let options = with(&[(*fault, fault.strengths()[1])]);
            let report = run_core(seed, &options);
            assert_eq!(report.violation, None, "{}, seed {seed}", fault.name());
        }
    }
}

/// The same beside other fleets, for the faults that are about one of several.
#[test]
fn checkers_do_not_bite_for_a_single_fault_beside_other_fleets() {
    for fault in Fault::ALL.iter().filter(|fault| fault.needs_fellows()) {
        for seed in 0..4 {
            let options = Options { fleets: Some(3), ..with(&[(*fault, fault.strengths()[2])]) };
            let report = run_core(seed, &options);
            assert_eq!(report.violation, None, "{}, seed {seed}", fault.name());
            let fired = report.fired.iter().any(|(fired, count)| fired == fault && *count > 0);
            assert!(fired, "{} never struck, seed {seed}", fault.name());
        }
    }
}
