//! Rolls: which executors are rolled, and that none is removed before the fleet can do without it.

use super::support::{check, rolling, spec};
use fleet::spec::{Amount, Mode};
use fleet::window::{Window, Zone};

#[test]
fn the_replacement_comes_first() {
    check(
        rolling(2),
        "
        0s show RollStarted
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
            > 60s ask OUTLIER whom to roll of [2, 1]
        60s picks 1
            > 60s RollStarted 1: OUTLIER, score 1: slow
            > 60s create 3
        61s create 3 ok
        62s pod 3 running
        63s explain 1
            > 63s 1 is rolling: awaiting-replacement
        65s beat 3
            > 65s evict 1 uid u1
        66s evict 1 ok
        66s pod 1 terminating
        70s gone 1
        80s beat 2 3
        80s counts
            > 80s created 3 = live 2 + terminating 0 + reason pending 0 + lost [] + removed [Roll 1]
        ",
    );
}

#[test]
fn without_surge_one_goes_first_if_one_may_be_missing() {
    let mut spec = rolling(4);
    spec.limits.max_surge = Amount::Count(0);
    spec.limits.max_unavailable = Amount::Count(1);
    check(
        spec,
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
            > 0s create 4
        1s start 1 2 3 4
            > 60s ask OUTLIER whom to roll of [4, 3, 2, 1]
        60s picks 3
            > 60s evict 3 uid u3
        61s evict 3 ok
        61s pod 3 terminating
            > 61s create 5
        65s gone 3
        ",
    );
}

#[test]
fn a_policy_cannot_widen_what_is_allowed() {
    check(
        rolling(3),
        "
        0s show RollStarted
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2 3
        2s pod 1 do-not-roll
            > 60s ask OUTLIER whom to roll of [3, 2]
        60s picks 3 2 2 99
            > 60s RollStarted 3: OUTLIER, score 1: slow
            > 60s create 4
        61s counts
            > 61s created 3 = live 3 + terminating 0 + reason pending 0 + lost [] + removed []
        ",
    );
}

#[test]
fn everything_at_once_is_one_at_a_time() {
    let mut spec = rolling(3);
    spec.roll.as_mut().unwrap().max_picks = 3;
    check(
        spec,
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2 3
            > 60s ask OUTLIER whom to roll of [3, 2, 1]
        60s picks 1 2 3
            > 60s create 4
        61s start 4
            > 61s evict 1 uid u1
        62s evict 1 ok
        62s pod 1 terminating
            > 62s create 5
        63s gone 1
        64s start 5
            > 64s evict 2 uid u2
        ",
    );
}

#[test]
fn an_executor_that_dies_while_it_waits_to_be_rolled_is_lost() {
    check(
        rolling(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
            > 60s ask OUTLIER whom to roll of [2, 1]
        60s picks 1
            > 60s create 3
        61s pod 1 failed exit=52
            > 61s ask SPARK why 1 was lost: PodFailed, check 0
        61s lost 1 app-failure app
            > 61s delete 1 uid u1
        62s start 3
        62s counts
            > 62s created 3 = live 2 + terminating 0 + reason pending 0 + lost [app-failure 1] + removed []
        ",
    );
}

#[test]
fn a_budget_that_never_allows_it_ends_the_roll() {
    let mut spec = rolling(2);
    spec.roll.as_mut().unwrap().timeout_ms = 25_000;
    spec.roll.as_mut().unwrap().interval_ms = 600_000;
    check(
        spec,
        "
        0s show RollAbandoned
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s roll 1
            > 2s reply done
            > 2s create 3
        3s start 3
            > 3s evict 1 uid u1
        4s evict 1 budget
        5s explain 1
            > 5s 1 is terminating: disruption-budget
            > 14s evict 1 uid u1
        14s evict 1 budget
            > 24s evict 1 uid u1
        24s evict 1 budget
            > 34s RollAbandoned 1: stays: refused for too long
            > 34s delete 3 uid u3
        60s beat 1 2 3
        60s counts
            > 60s created 3 = live 3 + terminating 0 + reason pending 0 + lost [] + removed []
        ",
    );
}

/// The silence of an executor that is being removed is ignored. If its removal is cancelled, its silence counts.
#[test]
fn one_that_fell_silent_while_its_roll_was_refused_does_not_stay() {
    let mut spec = rolling(2);
    spec.heartbeat.timeout_ms = 20_000;
    spec.roll.as_mut().unwrap().timeout_ms = 25_000;
    spec.roll.as_mut().unwrap().interval_ms = 600_000;
    check(
        spec,
        "
        0s show RollAbandoned
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s roll 1
            > 2s reply done
            > 2s create 3
        3s start 3
            > 3s evict 1 uid u1
        4s beating 2 3
        4s evict 1 budget
            > 14s evict 1 uid u1
        14s evict 1 budget
            > 24s evict 1 uid u1
        24s evict 1 budget
        30s roll 2
            > 30s reply done
            > 34s RollAbandoned 1: stays: refused for too long
            > 34s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
        35s counts
            > 35s created 3 = live 2 + terminating 0 + reason pending 1 + lost [] + removed []
        ",
    );
}

#[test]
fn a_replacement_that_does_not_come_ends_the_roll() {
    let mut spec = rolling(2);
    spec.roll.as_mut().unwrap().timeout_ms = 25_000;
    spec.roll.as_mut().unwrap().interval_ms = 600_000;
    check(
        spec,
        "
        0s show RollAbandoned
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s roll 1
            > 2s reply done
            > 2s create 3
        3s create 3 ok
            > 27s RollAbandoned 1: stays: its roll timed out: its replacement is not available yet
            > 27s delete 3 uid u3
        30s delete 3 ok
        30s gone 3
        40s counts
            > 40s created 3 = live 2 + terminating 0 + reason pending 0 + lost [] + removed [ScaleDown 1]
        ",
    );
}

#[test]
fn no_executor_is_rolled_while_many_are_being_lost() {
    check(
        rolling(6),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
            > 0s create 4
            > 0s create 5
            > 0s create 6
        1s start 1 2 3 4 5 6
        58s gone 1
            > 58s ask SPARK why 1 was lost: PodDeleted, check 0
            > 58s create 7 for 1
        58s gone 2
            > 58s ask SPARK why 2 was lost: PodDeleted, check 0
            > 58s create 8 for 2
        58s gone 3
            > 58s ask SPARK why 3 was lost: PodDeleted, check 0
            > 58s create 9 for 3
        58s gone 4
            > 58s ask SPARK why 4 was lost: PodDeleted, check 0
        60s explain 5
            > 60s 5 is available: mass-loss
        ",
    );
}

#[test]
fn rolls_start_only_in_their_windows() {
    let mut spec = rolling(1);
    let zone = Zone::utc();
    // Timelines begin on a Monday at 00:00.
    let window = Window {
        days: [true, false, false, false, false, false, false],
        start_minute: 2,
        length_minutes: 1,
        zone,
    };
    spec.roll.as_mut().unwrap().windows = vec![window];
    check(
        spec,
        "
        0s lead
            > 0s create 1
        1s start 1
        60s beat 1
        119s beat 1
            > 120s ask OUTLIER whom to roll of [1]
        120s beat 1
        ",
    );
}

#[test]
fn nothing_voluntary_happens_on_a_stale_view() {
    check(
        rolling(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        50s stale
        60s beat 1
        70s explain 1
            > 70s 1 is available: view-stale
        80s fresh
            > 90s ask OUTLIER whom to roll of [1]
        90s beat 1
        ",
    );
}

#[test]
fn when_no_policy_answers_no_executor_is_rolled() {
    let mut spec = rolling(1);
    spec.roll.as_mut().unwrap().policies = vec!["MINE".to_owned(), "OWN".to_owned()];
    check(
        spec,
        "
        0s lead
            > 0s create 1
        1s start 1
            > 60s ask MINE whom to roll of [1]
        60s no-picks trapped
            > 60s ask OWN whom to roll of [1]
        60s no-picks abstain
        61s explain 1
            > 61s 1 is available: policy-failed
        100s beat 1
            > 120s ask MINE whom to roll of [1]
        120s no-picks nothing
        121s explain 1
            > 121s 1 is available: policy-declined
        ",
    );
}

#[test]
fn the_young_and_the_idle_are_no_candidates() {
    let mut spec = rolling(3);
    spec.roll.as_mut().unwrap().min_tasks = 10;
    spec.roll.as_mut().unwrap().min_age_ms = 30_000;
    check(
        spec,
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2
        2s driver 1 tasks=10
        2s driver 2 tasks=9
        40s start 3
        41s driver 3 tasks=100
            > 60s ask OUTLIER whom to roll of [3, 1]
        60s explain 2
            > 60s 2 is available: too-few-tasks
        60s explain 3
            > 60s 3 is available: not-picked
        ",
    );
}

#[test]
fn when_observing_the_driver_replaces() {
    let mut spec = rolling(2);
    spec.mode = Mode::Observe;
    spec.limits.max_unavailable = Amount::Count(1);
    check(
        spec,
        "
        0s lead
        1s pod 1 running
        1s pod 2 running
        2s beat 1 2
            > 60s ask OUTLIER whom to roll of [2, 1]
        60s picks 1
            > 60s evict 1 uid u1
        61s evict 1 ok
        61s pod 1 terminating
        65s gone 1
        66s pod 3 running
        67s beat 3
        70s pod 3 failed exit=1
            > 70s ask SPARK why 3 was lost: PodFailed, check 0
        70s lost 3 exit-status app
        80s counts
            > 80s created 3 = live 1 + terminating 0 + reason pending 0 + lost [exit-status 1] + removed [Roll 1]
        ",
    );
}

/// An executor that the driver releases is not lost, and the driver decides how many executors there are.
#[test]
fn with_dynamic_allocation_limits_count_what_there_is() {
    let mut spec = rolling(0);
    spec.mode = Mode::Observe;
    spec.limits.max_unavailable = Amount::Percent(25);
    check(
        spec,
        "
        0s show MassLoss
        0s lead
        1s pod 1 running
        1s pod 2 running
        1s pod 3 running
        1s pod 4 running
        1s pod 5 running
        1s pod 6 running
        1s pod 7 running
        1s pod 8 running
        2s beating 1 2 3 4 5 6 7 8
        50s pod 5 succeeded
            > 50s ask SPARK why 5 was lost: PodSucceeded, check 0
        50s lost 5 released
        50s pod 6 succeeded
            > 50s ask SPARK why 6 was lost: PodSucceeded, check 0
        50s lost 6 released
        51s gone 7
            > 51s ask SPARK why 7 was lost: PodDeleted, check 0
        51s lost 7 deleted
        51s gone 8
            > 51s ask SPARK why 8 was lost: PodDeleted, check 0
        51s lost 8 deleted
            > 60s ask OUTLIER whom to roll of [4, 3, 2, 1]
        61s beating 1 2 3 4
        61s picks 1
            > 61s evict 1 uid u1
        62s evict 1 ok
        ",
    );
}

#[test]
fn dry_runs_say_whom_they_would_roll_and_change_nothing() {
    let mut spec = rolling(2);
    spec.dry_run = true;
    check(
        spec,
        "
        0s show RollProposed
        0s lead
        1s pod 1 running
        1s pod 2 running
        1s beat 1 2
            > 60s ask OUTLIER whom to roll of [2, 1]
        60s picks 2 1
            > 60s RollProposed 2: would be rolled: OUTLIER, score 1: slow
        61s explain 2
            > 61s 2 is available: dry-run
        70s pod 1 failed exit=1
            > 70s ask SPARK why 1 was lost: PodFailed, check 0
        70s lost 1 exit-status
        80s conditions
            > 80s conditions DryRun NotProgressing
        ",
    );
}

#[test]
fn an_operators_roll_needs_no_policy() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s roll 1
            > 2s reply done
            > 2s create 3
        2s roll 1
            > 2s reply refused already-leaving
        2s roll 9
            > 2s reply refused unknown-executor
        2s roll
            > 2s reply refused no-roll-policy
        3s start 3
            > 3s evict 1 uid u1
        4s evict 1 ok
        ",
    );
}
