//! Static allocation recovery: the seven scenarios of the fork's KubernetesClusterSchedulerBackendSuite
//! and the two that upstream added, in today's terms. `RemoveExecutor` is now the settled loss.

use super::support::{check, spec};

#[test]
fn basic_lifecycle() {
    check(
        spec(0),
        "
        0s lead
        1s depose
        2s beat 1
        100s wait
        ",
    );
}

#[test]
fn static_allocation_requests_executors_on_the_first_pass() {
    let mut spec = spec(2);
    spec.allocation.batch_size = 2;
    check(
        spec,
        "
        0s lead
            > 0s create 1
            > 0s create 2
        60s wait
        ",
    );
}

#[test]
fn killing_an_executor_deletes_its_pod() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        5s kill 2
            > 5s ask SPARK why 2 was lost: OperatorKill, check 0
            > 5s reply 2 ok
        5s lost 2 released
            > 5s delete 2 uid u2
        5s delete 2 ok
        6s pod 2 terminating
        9s gone 2
        60s counts
            > 60s created 2 = live 1 + terminating 0 + reason pending 0 + lost [] + removed [Kill 1]
        ",
    );
}

/// The fork created nothing while a pod was pending, so its second batch waited for a registration. Here only
/// the batch delay is awaited: see `one_stuck_pod_blocks_no_other`.
#[test]
fn executors_are_created_in_batches() {
    let mut spec = spec(2);
    spec.allocation.batch_size = 1;
    spec.allocation.batch_delay_ms = 60_000;
    check(
        spec,
        "
        0s lead
            > 0s create 1
        1s start 1
        30s beat 1
            > 60s create 2
        90s beat 1
        ",
    );
}

#[test]
fn scaled_down_and_then_lost_is_deleted_and_reported_once() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        5s total 0
            > 5s reply done
            > 5s delete 1 uid u1
        5s kill 1 replace
            > 5s reply 1 already-leaving
        5.1s delete 1 ok
        5.2s driver 1 removed
        6s pod 1 terminating
        7s pod 1 succeeded exit=0
        8s gone 1
        30s counts
            > 30s created 1 = live 0 + terminating 0 + reason pending 0 + lost [] + removed [ScaleDown 1]
        ",
    );
}

#[test]
fn an_application_error_keeps_the_pod() {
    check(
        spec(1),
        "
        0s show ExecutorLost
        0s lead
            > 0s create 1
        1s start 1
        5s driver 1 removed
            > 5s ask SPARK why 1 was lost: DriverRemoved, check 0
            > 5s create 2 for 1
        5s pod 1 failed exit=1
        5s lost 1 exit-status app keep
            > 5s ExecutorLost 1: exit-status: it is so
        6s start 2
        60s beat 2
        60s counts
            > 60s created 2 = live 1 + terminating 0 + reason pending 0 + lost [exit-status 1] + removed []
        ",
    );
}

#[test]
fn the_reason_is_given_up_after_ten_checks() {
    check(
        spec(1),
        "
        0s show ExecutorLost
        0s lead
            > 0s create 1
        1s start 1
        5s driver 1 removed
            > 5s ask SPARK why 1 was lost: DriverRemoved, check 0
            > 5s create 2 for 1
        5s lost 1 undetermined
        5.5s start 2
            > 6s ask SPARK why 1 was lost: DriverRemoved, check 1
        6s lost 1 undetermined
            > 7s ask SPARK why 1 was lost: DriverRemoved, check 2
        7s lost 1 undetermined
            > 8s ask SPARK why 1 was lost: DriverRemoved, check 3
        8s lost 1 undetermined
            > 9s ask SPARK why 1 was lost: DriverRemoved, check 4
        9s lost 1 undetermined
            > 10s ask SPARK why 1 was lost: DriverRemoved, check 5
        10s lost 1 undetermined
            > 11s ask SPARK why 1 was lost: DriverRemoved, check 6
        11s lost 1 undetermined
            > 12s ask SPARK why 1 was lost: DriverRemoved, check 7
        12s lost 1 undetermined
            > 13s ask SPARK why 1 was lost: DriverRemoved, check 8
        13s lost 1 undetermined
            > 14s ask SPARK why 1 was lost: DriverRemoved, check 9
        14s lost 1 undetermined
            > 15s ask SPARK why 1 was lost: DriverRemoved, check 10
        15s lost 1 undetermined
            > 15s ExecutorLost 1: unknown: Executor lost for unknown reasons.
            > 15s delete 1 uid u1
        16s counts
            > 16s created 2 = live 1 + terminating 0 + reason pending 0 + lost [unknown 1] + removed []
        ",
    );
}

#[test]
fn a_create_that_throws_is_followed_by_another_under_a_new_id() {
    let mut spec = spec(1);
    spec.allocation.batch_size = 1;
    check(
        spec,
        "
        0s lead
            > 0s create 1
        0s create 1 unknown
            > 0s get 1
        0.1s get 1 notfound
            > 1s create 2
        5s start 2
            > 60.100s get 1
        100s beat 2
        ",
    );
}

#[test]
fn one_that_dies_before_it_registers_is_replaced() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s create 1 ok
        2s pod 1 failed exit=1
            > 2s ask SPARK why 1 was lost: PodFailed, check 0
            > 2s create 2 for 1
        2s lost 1 exit-status
            > 2s delete 1 uid u1
        3s delete 1 ok
        3s gone 1
        4s start 2
        5s counts
            > 5s created 2 = live 1 + terminating 0 + reason pending 0 + lost [exit-status 1] + removed []
        ",
    );
}
