//! Fleets whose driver scales them, and ids that begin elsewhere: a pods allocator in Spark's driver hands its executors
//! to Rollcall.

use super::support::{check, spec};
use fleet::id::{ExecutorId, IdRange};
use fleet::spec::{FleetSpec, ScaleDown};

fn scaled_by_its_driver(target: u32) -> FleetSpec {
    FleetSpec { scale_down: ScaleDown::Driver, ..spec(target) }
}

/// Spark's dynamic allocation lowers its total first, and ends executors when they are idle.
#[test]
fn superfluous_executors_run_until_the_driver_ends_them() {
    check(
        scaled_by_its_driver(4),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
            > 0s create 4
        1s start 1 2 3
        1s beating 1 2 3
        1s create 4 ok
        5s spec target=1
            > 5s delete 4 uid u4
        # Executor 2 exits, 3 is deleted, 1 fails: the failure alone is a loss.
        8s show ExecutorLost ExecutorRemoved
        9s pod 2 succeeded
            > 9s ExecutorRemoved 2: removed: scale-down
            > 9s delete 2 uid u2
        12s pod 3 terminating
        13s gone 3
            > 13s ExecutorRemoved 3: removed: scale-down
        14s pod 1 failed exit=1
            > 14s ask SPARK why 1 was lost: PodFailed, check 0
            > 14s create 5 for 1
        15s counts
            > 15s created 4 = live 1 + terminating 0 + reason pending 1 + lost [] + removed [ScaleDown 2]
        ",
    );
}

/// The driver wants more executors again while one that it had released ends: that one is no loss, either. One that is
/// deleted, or ends before it has registered, was not released.
#[test]
fn an_executor_that_is_not_superfluous_is_replaced() {
    check(
        scaled_by_its_driver(3),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2
        1s beating 1 2
        1s create 3 ok
        9s pod 2 succeeded
            > 9s create 4
            > 9s delete 2 uid u2
        10s pod 3 succeeded
            > 10s ask SPARK why 3 was lost: PodSucceeded, check 0
            > 10s create 5 for 3
        11s gone 1
            > 11s ask SPARK why 1 was lost: PodDeleted, check 0
            > 11s create 6 for 1
        12s counts
            > 12s created 3 = live 0 + terminating 0 + reason pending 2 + lost [] + removed [ScaleDown 1]
        ",
    );
}

/// Kubernetes, not the driver.
#[test]
fn a_superfluous_executor_that_is_evicted_is_lost() {
    check(
        scaled_by_its_driver(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        1s beating 1 2
        5s spec target=1
        9s pod 2 terminating disrupted
        10s gone 2
            > 10s ask SPARK why 2 was lost: PodDeleted, check 0
        ",
    );
}

/// The next host finds in the ledger that its end was a scale-down.
#[test]
fn a_scale_down_by_the_driver_survives_a_restart() {
    check(
        scaled_by_its_driver(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        1s beating 1 2
        5s spec target=1
        9s pod 2 terminating
        10s restart
        10s lead
        11s beating 1
        12s gone 2
        13s counts
            > 13s created 2 = live 1 + terminating 0 + reason pending 0 + lost [] + removed [ScaleDown 1]
        ",
    );
}

#[test]
fn an_operators_command_removes_executors_that_run() {
    check(
        scaled_by_its_driver(3),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2 3
        1s beating 1 2 3
        5s total 1
            > 5s reply done
            > 5s delete 2 uid u2
            > 5s delete 3 uid u3
        ",
    );
}

#[test]
fn the_first_executor_has_the_first_id_of_the_range() {
    let ids = IdRange { first: ExecutorId(1_000_001), last: ExecutorId(1_000_002) };
    check(
        FleetSpec { ids, ..spec(3) },
        "
        0s lead
            > 0s create 1000001
            > 0s create 1000002
        1s conditions
            > 1s conditions NotProgressing
        ",
    );
}
