//! The parameters of a run: the spec, the cluster's behaviour, and how long recovery may take.
//!
//! Timeouts are a tenth of what users would set, so that minutes cover what otherwise takes hours.

use fleet::id::Uid;
use fleet::spec::{Amount, FleetSpec, Mode, RollSpec, ValidatedSpec};
use fleet::window::{Window, Zone};

use crate::app::{self, App, FLEETS_MAX};
use crate::choices::Choices;
use crate::policies;
use crate::world::World;

/// The greatest target of a fleet beside the first one.
const SMALL: u32 = 5;

fn one_of<T: Copy>(choices: &mut Choices, from: &[T]) -> T {
    *choices.pick(from).expect("something to choose from")
}

fn all_policies() -> Vec<String> {
    policies::NAMES.map(str::to_owned).to_vec()
}

/// A valid spec.
pub fn spec(choices: &mut Choices, target_max: u32) -> FleetSpec {
    let mode = if choices.chance(150) { Mode::Observe } else { Mode::Own };
    let target = one_of(choices, &[3, 2, 5, 8, 1, 12, 4, 6, 0, 10, 30]).min(target_max);
    let mut spec = FleetSpec::new("f", "app-1", mode, Uid::from("driver-uid-1"), target);
    spec.heartbeat.interval_ms = one_of(choices, &[5_000, 2_000, 10_000]);
    spec.heartbeat.timeout_ms = spec.heartbeat.interval_ms * choices.between(3, 6);
    let recovery = &mut spec.recovery;
    recovery.policies = one_of(choices, &[&[][..], &["CLASSIFIER"], &["CLASSIFIER", "SPARK"]])
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    recovery.max_checks = one_of(choices, &[10, 3, 1, 0]);
    recovery.max_kept_pods = one_of(choices, &[2, 0, 5]);
    recovery.kept_pods_ms = one_of(choices, &[60_000, 20_000, 120_000]);
    recovery.max_executor_failures = one_of(choices, &[None, Some(1_000), Some(5)]);
    recovery.failures_validity_interval_ms = one_of(choices, &[60_000, 300_000, 1_800_000]);
    recovery.failed_deletes_driver = choices.chance(50);
    let allocation = &mut spec.allocation;
    allocation.batch_size = one_of(choices, &[5, 20, 1, 2]);
    allocation.batch_delay_ms = one_of(choices, &[1_000, 500, 3_000]);
    allocation.pending_timeout_ms = one_of(choices, &[60_000, 30_000]);
    allocation.max_pending_pods = one_of(choices, &[u32::MAX, 3, 1]);
    allocation.max_start_failures = one_of(choices, &[5, 2]);
    allocation.initial_backoff_ms = one_of(choices, &[1_000, 5_000]);
    allocation.max_backoff_ms = one_of(choices, &[10_000, 30_000]);
    allocation.max_node_losses = one_of(choices, &[3, 1]);
    allocation.node_window_ms = one_of(choices, &[60_000, 300_000]);
    spec.driver_start_ms = one_of(choices, &[0, 20_000]);
    let limits = &mut spec.limits;
    limits.max_surge =
        one_of(choices, &[Amount::Percent(25), Amount::Count(1), Amount::Count(0), Amount::Count(3)]);
    limits.max_unavailable =
        one_of(choices, &[Amount::Percent(25), Amount::Count(1), Amount::Count(0), Amount::Percent(50)]);
    limits.min_available = one_of(choices, &[Amount::Count(0), Amount::Percent(50), Amount::Count(1)]);
    limits.max_terminating = one_of(choices, &[Amount::Percent(100), Amount::Count(2), Amount::Percent(50)]);
    if choices.chance(600) {
        spec.roll = Some(roll(choices));
    }
    spec.paused = choices.chance(20);
    spec.dry_run = choices.chance(20);
    if ValidatedSpec::check(spec.clone(), &all_policies()).is_err() {
        // Mostly a roll without any room for it.
        spec.limits.max_surge = Amount::Count(1);
        spec.limits.max_unavailable = Amount::Count(1);
        spec.limits.min_available = Amount::Count(0);
    }
    spec
}

fn roll(choices: &mut Choices) -> RollSpec {
    let policy = one_of(choices, &["OLDEST", "MOST_GC"]);
    let mut roll = RollSpec::new(policy);
    if choices.chance(300) {
        roll.policies = vec!["OLDEST".to_owned(), "MOST_GC".to_owned()];
    }
    roll.interval_ms = one_of(choices, &[30_000, 10_000, 60_000]);
    roll.max_picks = one_of(choices, &[1, 2, 5]);
    roll.max_per_hour = one_of(choices, &[60, 10, 3]);
    roll.min_age_ms = one_of(choices, &[0, 30_000]);
    roll.min_tasks = one_of(choices, &[0, 0, 0, 20]);
    if choices.chance(100) {
        let start_minute = one_of(choices, &[1, 3, 5]);
        roll.windows = vec![Window { days: [true; 7], start_minute, length_minutes: 4, zone: Zone::utc() }];
    }
    roll.cool_down_ms = one_of(choices, &[0, 5_000]);
    roll.grace_ms = one_of(choices, &[None, Some(5_000), Some(20_000)]);
    roll.timeout_ms = one_of(choices, &[90_000, 45_000]);
    roll
}

/// The target after healing, with which the spec is valid.
pub fn last_target(choices: &mut Choices, spec: &FleetSpec, max: u32) -> u32 {
    let target = one_of(choices, &[4, 3, 1, 8, 0, 13]).min(max);
    let mut last = spec.clone();
    last.target = target;
    if ValidatedSpec::check(last, &all_policies()).is_ok() { target } else { spec.target }
}

/// How many hosts and how many fleets there are. One number decides both, so that a world with one fleet draws what it
/// drew when all worlds had one.
pub fn size(choices: &mut Choices) -> (usize, usize) {
    match choices.below(1_000) {
        0..300 => (1, 1),
        300..720 => (2, 1),
        720..870 => (2, 2),
        870..950 => (2, 3),
        _ => (2, FLEETS_MAX),
    }
}

/// The fleets beside the first one. They are small, for the sake of a campaign's time; namespaces and labels are what
/// they can be mistaken by.
pub fn fellows(choices: &mut Choices, count: usize) -> Vec<App> {
    let mut members = [1, 0];
    let one = |number: usize| {
        let mut spec = spec(choices, SMALL);
        let last_target = last_target(choices, &spec, SMALL);
        let namespace = usize::from(choices.chance(500));
        app::name(&mut spec, number, members[namespace]);
        members[namespace] += 1;
        App::new(spec, namespace, last_target)
    };
    (1..=count).map(one).collect()
}

/// Which documents name the application id, and which leave it to the label of the driver's pod; and which fleets have no
/// document, because a class makes it.
pub fn documented(choices: &mut Choices, apps: &mut [App]) {
    for app in apps {
        app.operator.documented = !choices.chance(400);
        app.operator.classed = !app.operator.documented && choices.chance(600);
    }
}

/// The behaviour of the cluster and its drivers.
pub fn cluster(world: &mut World<'_>) {
    for app in 0..world.apps.len() {
        let observes = world.observes(app);
        let driver = &mut world.apps[app].driver;
        driver.beats_prove = world.sim.choices.chance(500);
        driver.creates = observes;
        driver.cleans = observes || world.sim.choices.chance(400);
    }
    if world.sim.choices.chance(200) {
        world.api.budget = Some(1);
    }
}

/// How long it may take from healing until the fleet has reached its target: everything that can be in progress
/// then, one after the other.
pub fn bound_ms(spec: &FleetSpec) -> u64 {
    let recovery = &spec.recovery;
    let allocation = &spec.allocation;
    // A crashed host restarts (20 s), takes the lease (15 s) and receives its commands (5 s); a client waits
    // 10 s for a last answer, and a request is in transit for 60 s; a frozen host stands still for 60 s.
    let host_ms = 20_000 + 15_000 + 5_000 + 10_000 + 60_000 + 60_000;
    // A hung watch is detected after 60 s, the core's retries back off to 30 s.
    let view_ms = 60_000 + 30_000 + 10_000;
    // A node is removed after 180 s, its pods with it, and a grace period of 30 s passes.
    let node_ms = 180_000 + 60_000 + 30_000; // If no executor is heard, one is tried after sixteen timeouts at worst.
    let found_ms =
        18 * spec.heartbeat.timeout_ms + u64::from(recovery.max_checks) * recovery.check_interval_ms;
    let start_ms = 2 * allocation.pending_timeout_ms + 3 * allocation.max_backoff_ms + spec.driver_start_ms;
    // At most 30 executors, created one per delay at worst, and each deleted one after the other.
    let batches_ms = 60 * allocation.batch_delay_ms;
    // Executors that are pending for too long are replaced one after the other.
    let batches_ms = batches_ms + 30 * allocation.max_backoff_ms;
    let roll_ms = spec.roll.as_ref().map_or(0, |roll| roll.timeout_ms + roll.cool_down_ms);
    host_ms + view_ms + node_ms + found_ms + start_ms + batches_ms + roll_ms + recovery.kept_pods_ms
}
