//! Short scenarios, in which every single request can be made to fail.
//!
//! A campaign samples: it finds what is likely. Whether a host may die between *any* two requests is not a
//! question of probability, so for these few scenarios the crash points are enumerated, each with the request
//! lost and with the request applied and its answer lost, and again without a crash.

use fleet::id::Uid;
use fleet::spec::{Amount, FleetSpec, Mode, RollSpec};

use crate::fault::{Fault, Swarm};
use crate::run::Options;

/// A scenario's name and the options to run it.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub options: Options,
}

type Tweak = fn(&mut FleetSpec);

/// Name, target, faults with their strength, and the differences from a plain fleet.
type Row = (&'static str, u32, &'static [(Fault, u32)], Tweak);

const SCENARIOS: [Row; 24] = [
    ("a fleet starts", 3, &[], |_| {}),
    ("a fleet of one", 1, &[(Fault::Exits, 20)], |_| {}),
    ("one at a time", 3, &[], |spec| spec.allocation.batch_size = 1),
    ("executors exit", 3, &[(Fault::Exits, 40)], |_| {}),
    ("executors run out of memory", 2, &[(Fault::OomKilled, 30)], |spec| spec.recovery.max_kept_pods = 1),
    ("a user deletes pods", 3, &[(Fault::DeletedByHuman, 40)], |_| {}),
    ("executors fall silent", 3, &[(Fault::FallsSilent, 30)], |_| {}),
    ("executors are never heard", 3, &[(Fault::Silent, 300)], |_| {}),
    ("pods stay pending", 3, &[(Fault::Unschedulable, 300)], |_| {}),
    ("an image cannot be pulled", 2, &[(Fault::ImageError, 400)], |spec| {
        spec.allocation.max_pending_pods = 1
    }),
    ("executors crash as they start", 2, &[(Fault::CrashAtStart, 500)], |spec| {
        spec.allocation.max_start_failures = 2;
    }),
    ("spot nodes vanish", 5, &[(Fault::SpotReclaim, 20)], |_| {}),
    ("nodes are lost", 4, &[(Fault::NodeNotReady, 20)], |_| {}),
    ("a roll with surge", 2, &[], |spec| spec.roll = Some(rolls())),
    ("a roll without surge", 3, &[], |spec| {
        spec.limits.max_surge = Amount::Count(0);
        spec.limits.max_unavailable = Amount::Count(1);
        spec.roll = Some(rolls());
    }),
    ("a roll that a budget refuses", 2, &[(Fault::BudgetRefuses, 60)], |spec| spec.roll = Some(rolls())),
    ("a roll while executors exit", 3, &[(Fault::Exits, 30)], |spec| spec.roll = Some(rolls())),
    ("the target changes", 3, &[(Fault::TargetChanges, 40)], |_| {}),
    ("the target goes to nothing and back", 3, &[(Fault::TargetToZero, 30)], |_| {}),
    ("an operator kills", 3, &[(Fault::OperatorKills, 40)], |_| {}),
    ("a fleet is paused", 3, &[(Fault::Paused, 30), (Fault::Exits, 30)], |_| {}),
    ("the driver replaces", 3, &[(Fault::Exits, 20)], |spec| {
        spec.mode = Mode::Observe;
        spec.limits.max_unavailable = Amount::Count(1);
        spec.roll = Some(rolls());
    }),
    ("policies fail", 2, &[(Fault::PolicyTraps, 400), (Fault::Exits, 40)], |_| {}),
    ("pods do not go away", 3, &[(Fault::TerminatingForever, 300), (Fault::DeletedByHuman, 30)], |_| {}),
];

fn rolls() -> RollSpec {
    RollSpec { interval_ms: 15_000, timeout_ms: 45_000, ..RollSpec::new("OLDEST") }
}

pub fn all() -> impl Iterator<Item = Scenario> {
    SCENARIOS.into_iter().map(|(name, target, faults, tweak)| {
        let mut spec = FleetSpec::new("f", "app-1", Mode::Own, Uid::from("driver-uid-1"), target);
        spec.heartbeat.interval_ms = 2_000;
        spec.heartbeat.timeout_ms = 10_000;
        spec.recovery.max_checks = 2;
        spec.recovery.max_kept_pods = 0;
        spec.recovery.kept_pods_ms = 20_000;
        spec.recovery.max_executor_failures = Some(1_000);
        spec.allocation.pending_timeout_ms = 30_000;
        spec.allocation.initial_backoff_ms = 1_000;
        spec.allocation.max_backoff_ms = 10_000;
        spec.limits.max_surge = Amount::Count(1);
        tweak(&mut spec);
        let options = Options {
            spec: Some(spec),
            swarm: Some(Swarm::only(faults)),
            chaos_ms: Some(60_000),
            ..Options::default()
        };
        Scenario { name, options }
    })
}
