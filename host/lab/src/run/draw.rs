//! The parameters of a run: the spec, the cluster's behaviour, and how long recovery may take.
//!
//! Timeouts are a tenth of what users would set, so that minutes cover what otherwise takes hours.

use fleet::id::Uid;
use fleet::spec::{Amount, Draft, Mode, RollSpec, Spec};
use fleet::window::{Window, Zone};

use crate::policies;
use crate::tape::Tape;
use crate::world::World;

fn one_of<T: Copy>(tape: &mut Tape, from: &[T]) -> T {
    *tape.pick(from).expect("something to choose from")
}

fn all_policies() -> Vec<String> {
    policies::NAMES.map(str::to_owned).to_vec()
}

/// A valid spec.
pub fn draft(tape: &mut Tape) -> Draft {
    let mode = if tape.chance(150) { Mode::Observe } else { Mode::Own };
    let target = one_of(tape, &[3, 2, 5, 8, 1, 12, 4, 6, 0, 10, 30]);
    let mut draft = Draft::new("f", "app-1", mode, Uid::from("driver-uid-1"), target);
    draft.heartbeat.interval_ms = one_of(tape, &[5_000, 2_000, 10_000]);
    draft.heartbeat.timeout_ms = draft.heartbeat.interval_ms * tape.between(3, 6);
    let recovery = &mut draft.recovery;
    recovery.policies = one_of(tape, &[&[][..], &["CLASSIFIER"], &["CLASSIFIER", "SPARK"]])
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    recovery.checks_max = one_of(tape, &[10, 3, 1, 0]);
    recovery.kept_pods_max = one_of(tape, &[2, 0, 5]);
    recovery.kept_pods_ms = one_of(tape, &[60_000, 20_000, 120_000]);
    recovery.failures_max = one_of(tape, &[None, Some(1_000), Some(5)]);
    recovery.failures_window_ms = one_of(tape, &[60_000, 300_000, 1_800_000]);
    recovery.failed_deletes_driver = tape.chance(50);
    let allocation = &mut draft.allocation;
    allocation.batch_size = one_of(tape, &[5, 20, 1, 2]);
    allocation.batch_delay_ms = one_of(tape, &[1_000, 500, 3_000]);
    allocation.pending_timeout_ms = one_of(tape, &[60_000, 30_000]);
    allocation.pending_max = one_of(tape, &[u32::MAX, 3, 1]);
    allocation.start_failures_max = one_of(tape, &[5, 2]);
    allocation.backoff_first_ms = one_of(tape, &[1_000, 5_000]);
    allocation.backoff_last_ms = one_of(tape, &[10_000, 30_000]);
    allocation.node_losses_max = one_of(tape, &[3, 1]);
    allocation.node_window_ms = one_of(tape, &[60_000, 300_000]);
    draft.driver_start_ms = one_of(tape, &[0, 20_000]);
    let limits = &mut draft.limits;
    limits.surge = one_of(tape, &[Amount::Percent(25), Amount::Count(1), Amount::Count(0), Amount::Count(3)]);
    limits.unavailable =
        one_of(tape, &[Amount::Percent(25), Amount::Count(1), Amount::Count(0), Amount::Percent(50)]);
    limits.available_min = one_of(tape, &[Amount::Count(0), Amount::Percent(50), Amount::Count(1)]);
    limits.terminating = one_of(tape, &[Amount::Percent(100), Amount::Count(2), Amount::Percent(50)]);
    if tape.chance(600) {
        draft.roll = Some(roll(tape));
    }
    draft.paused = tape.chance(20);
    draft.dry_run = tape.chance(20);
    if Spec::check(draft.clone(), &all_policies()).is_err() {
        // Mostly a roll without any room for it.
        draft.limits.surge = Amount::Count(1);
        draft.limits.unavailable = Amount::Count(1);
        draft.limits.available_min = Amount::Count(0);
    }
    draft
}

fn roll(tape: &mut Tape) -> RollSpec {
    let policy = one_of(tape, &["OLDEST", "MOST_GC"]);
    let mut roll = RollSpec::new(policy);
    if tape.chance(300) {
        roll.policies = vec!["OLDEST".to_owned(), "MOST_GC".to_owned()];
    }
    roll.interval_ms = one_of(tape, &[30_000, 10_000, 60_000]);
    roll.picks_max = one_of(tape, &[1, 2, 5]);
    roll.per_hour_max = one_of(tape, &[60, 10, 3]);
    roll.age_min_ms = one_of(tape, &[0, 30_000]);
    roll.tasks_min = one_of(tape, &[0, 0, 0, 20]);
    if tape.chance(100) {
        let start_minute = one_of(tape, &[1, 3, 5]);
        roll.windows = vec![Window { days: [true; 7], start_minute, length_minutes: 4, zone: Zone::utc() }];
    }
    roll.cool_down_ms = one_of(tape, &[0, 5_000]);
    roll.grace_ms = one_of(tape, &[None, Some(5_000), Some(20_000)]);
    roll.timeout_ms = one_of(tape, &[90_000, 45_000]);
    roll
}

/// The target after healing, with which the spec is valid.
pub fn last_target(tape: &mut Tape, draft: &Draft) -> u32 {
    let target = one_of(tape, &[4, 3, 1, 8, 0, 13]);
    let mut last = draft.clone();
    last.target = target;
    if Spec::check(last, &all_policies()).is_ok() { target } else { draft.target }
}

/// The behaviour of the cluster and its driver.
pub fn cluster(world: &mut World<'_>) {
    world.cluster.beats_prove = world.sim.tape.chance(500);
    world.cluster.driver_creates = world.observes();
    world.cluster.driver_cleans = world.observes() || world.sim.tape.chance(400);
    if world.sim.tape.chance(200) {
        world.api.budget = Some(1);
    }
}

/// How long it may take from healing until the fleet has reached its target: everything that can be in progress
/// then, one after the other.
pub fn bound_ms(draft: &Draft) -> u64 {
    let recovery = &draft.recovery;
    let allocation = &draft.allocation;
    // A crashed host restarts (20 s), takes the lease (15 s) and receives its commands (5 s); a client waits
    // 10 s for a last answer, and a request is in transit for 60 s; a frozen host stands still for 60 s.
    let host_ms = 20_000 + 15_000 + 5_000 + 10_000 + 60_000 + 60_000;
    // A hung watch is detected after 60 s, the core's retries back off to 30 s.
    let view_ms = 60_000 + 30_000 + 10_000;
    // A node is removed after 180 s, its pods with it, and a grace period of 30 s passes.
    let node_ms = 180_000 + 60_000 + 30_000; // If no executor is heard, one is tried after sixteen timeouts at worst.
    let found_ms =
        18 * draft.heartbeat.timeout_ms + u64::from(recovery.checks_max) * recovery.check_interval_ms;
    let start_ms = 2 * allocation.pending_timeout_ms + 3 * allocation.backoff_last_ms + draft.driver_start_ms;
    // At most 30 executors, created one per delay at worst, and each deleted one after the other.
    let batches_ms = 60 * allocation.batch_delay_ms;
    // Executors that are pending for too long are replaced one after the other.
    let batches_ms = batches_ms + 30 * allocation.backoff_last_ms;
    let roll_ms = draft.roll.as_ref().map_or(0, |roll| roll.timeout_ms + roll.cool_down_ms);
    host_ms + view_ms + node_ms + found_ms + start_ms + batches_ms + roll_ms + recovery.kept_pods_ms
}
