//! Allocation: the desired number of executors, even if some creates or pods fail.

use super::support::{check, spec};
use fleet::spec::Amount;

/// An executor that starts before its driver cannot reach it, exits with 1, and is replaced by another one.
#[test]
fn the_first_executors_wait_for_a_driver_that_answers() {
    let spec = || {
        let mut spec = spec(1);
        spec.driver_start_ms = 60_000;
        spec
    };
    check(
        spec(),
        "
        0s lead
        9s driver answers
            > 9s create 1
        ",
    );
    check(
        spec(),
        "
        0s driver answers
        1s lead
            > 1s create 1
        ",
    );
    check(
        spec(),
        "
        0s lead
            > 60s create 1
        100s driver answers
        ",
    );
}

/// The list is older than a pod that was created since, and is not used for pods. But a driver that is gone
/// stays gone.
#[test]
fn a_driver_that_is_gone_in_an_old_list_gets_no_executors() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s list revision=102 driver=gone
            > 2.477s relist
        3s gone 1
            > 3s ask SPARK why 1 was lost: PodDeleted, check 0
        ",
    );
}

/// Lists that stay old for ten minutes are from a cluster that was restored from a backup: they then apply to
/// the driver, too.
#[test]
fn a_driver_that_went_after_a_restore_is_gone() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        1s beating 1
        2s list revision=50
            > 2.477s relist
        603s list revision=50 driver=gone
        604s gone 1
            > 604s ask SPARK why 1 was lost: PodDeleted, check 0
        ",
    );
}

/// In SAR one pod that never started blocked all others permanently.
#[test]
fn one_stuck_pod_blocks_no_other() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s create 1 ok
        2s start 2
        3s gone 2
            > 3s ask SPARK why 2 was lost: PodDeleted, check 0
            > 3s create 3 for 2
        3s lost 2 deleted
        4s start 3
        4s beating 3
            > 601.001s get 1
        602s get 1 ok
            > 602s ask SPARK why 1 was lost: PendingTimeout, check 0
            > 602s create 4 for 1
        602s lost 1 start-failed
            > 602s delete 1 uid u1
        603s delete 1 ok
        603s gone 1
        604s start 4
        ",
    );
}

#[test]
fn a_pod_that_runs_and_is_never_heard_is_stuck_too() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1
        1s beating 1
        1s create 2 ok
        2s pod 2 running
            > 602.001s get 2
        603s get 2 ok
            > 603s ask SPARK why 2 was lost: PendingTimeout, check 0
            > 603s create 3 for 2
        ",
    );
}

/// The watch was late, not the pod.
#[test]
fn a_pod_that_is_late_is_looked_at_before_it_is_judged() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1
        1s beating 1
        1s create 2 ok
        500s unseen 2 running
            > 601.001s get 2
        602s get 2 unknown
            > 607s get 2
        608s get 2 ok
        609s beat 2
        610s explain 2
            > 610s 2 is available: no-counters
        ",
    );
}

/// In SAR a replacement waited until the delete of the lost pod was accepted.
#[test]
fn a_replacement_does_not_wait_for_a_refused_delete() {
    check(
        spec(4),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
            > 0s create 4
        1s start 1 2 3 4
        2s driver 1 removed
            > 2s ask SPARK why 1 was lost: DriverRemoved, check 0
            > 2s create 5 for 1
        3s start 5
        4s lost 1 heartbeat-lost
            > 4s delete 1 uid u1
        5s delete 1 forbidden
            > 5.895s delete 1 uid u1
        20s delete 1 forbidden
        20s driver 2 removed
            > 20s ask SPARK why 2 was lost: DriverRemoved, check 0
        ",
    );
}

#[test]
fn a_create_in_doubt_that_was_applied_is_found() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        0s create 1 unknown
            > 0s get 1
        0.5s pod 1 running
        1s get 1 ok
        2s beat 1
        3s explain 1
            > 3s 1 is available: no-counters
        ",
    );
}

#[test]
fn a_create_in_doubt_keeps_its_place_under_the_ceiling() {
    let mut spec = spec(1);
    spec.limits.max_surge = Amount::Count(0);
    check(
        spec,
        "
        0s lead
            > 0s create 1
        0s create 1 unknown
            > 0s get 1
        1s get 1 notfound
        30s conditions
            > 30s conditions NotProgressing
            > 61s get 1
        61s get 1 notfound
            > 61s create 2
        ",
    );
}

#[test]
fn one_that_arrives_late_is_one_too_many() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        0s create 1 unknown
            > 0s get 1
        1s get 1 notfound
            > 1s create 2
        5s start 2
        20s pod 1 running
            > 20s delete 1 uid u1
        21s delete 1 ok
        22s pod 1 terminating
        23s gone 1
        24s counts
            > 24s created 2 = live 1 + terminating 0 + reason pending 0 + lost [] + removed [ScaleDown 1]
        ",
    );
}

#[test]
fn a_name_that_is_taken_by_a_stranger_is_skipped() {
    check(
        spec(1),
        "
        0s show FailedCreate
        0s lead
            > 0s create 1
        0s create 1 exists
            > 0s get 1
        1s get 1 foreign
            > 1s FailedCreate 1: its name is taken by another pod
            > 1s create 2
        2s start 2
        ",
    );
}

#[test]
fn a_name_that_is_taken_by_our_own_pod_is_success() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        0s pod 1 pending
        0s create 1 exists
        1s pod 1 running
        1s beat 1
        ",
    );
}

#[test]
fn refused_creates_are_tried_slowly_under_the_same_id() {
    check(
        spec(3),
        "
        0s show FailedCreate
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        0s create 1 forbidden
            > 0s FailedCreate 1: quota
        0s create 2 forbidden
            > 0s FailedCreate 2: quota
        0s create 3 forbidden
            > 0s FailedCreate 3: quota
            > 0.895s create 1
        1s create 1 forbidden
            > 1s FailedCreate 1: quota
            > 2.690s create 1
        3s create 1 ok
            > 3s create 2
            > 3s create 3
        3s create 2 ok
        ",
    );
}

#[test]
fn too_many_requests_are_answered_by_waiting() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        0s create 1 throttled 7s
        6.9s wait
            > 7s create 1
        7s wait
        ",
    );
}

#[test]
fn executors_that_fail_as_they_start_open_the_breaker() {
    let mut spec = spec(1);
    spec.allocation.max_start_failures = 2;
    spec.recovery.max_executor_failures = Some(100);
    check(
        spec,
        "
        0s show BreakerOpened BreakerClosed
        0s lead
            > 0s create 1
        0s create 1 ok
        1s pod 1 failed exit=1
            > 1s ask SPARK why 1 was lost: PodFailed, check 0
            > 1s create 2 for 1
        1s create 2 ok
        1s lost 1 start-failed
            > 1s delete 1 uid u1
        2s pod 2 failed exit=1
            > 2s ask SPARK why 2 was lost: PodFailed, check 0
            > 2s create 3 for 2
        2s create 3 ok
        2s lost 2 start-failed
            > 2s BreakerOpened 2: 2 executors in a row failed as they started
            > 2s delete 2 uid u2
        3s pod 3 failed exit=1
            > 3s ask SPARK why 3 was lost: PodFailed, check 0
        3s lost 3 start-failed
            > 3s delete 3 uid u3
        3s conditions
            > 3s conditions BreakerOpen NotProgressing
            > 9.595s create 4 for 3
        40s create 4 ok
        41s pod 4 failed exit=1
            > 41s ask SPARK why 4 was lost: PodFailed, check 0
        41s lost 4 start-failed
            > 41s delete 4 uid u4
            > 58.278s create 5 for 4
        80s start 5
            > 80s BreakerClosed 5: an executor became available
        81s conditions
            > 81s conditions
        ",
    );
}

#[test]
fn a_node_that_kills_what_it_gets_is_avoided() {
    check(
        spec(1),
        "
        # Nodes are told of as soon as the driver is known.
        0s node bad
        0s node a
        0s node b
        0s node c
        0s node d
        0s lead
            > 0s create 1
        0s create 1 ok
        1s pod 1 running node=bad
        1s beat 1
        2s gone 1
            > 2s ask SPARK why 1 was lost: PodDeleted, check 0
            > 2s create 2 for 1
        2s lost 1 node-lost
        2s create 2 ok
        3s pod 2 running node=bad
        3s beat 2
        4s gone 2
            > 4s ask SPARK why 2 was lost: PodDeleted, check 0
            > 4s create 3 for 2
        4s lost 2 node-lost
        4s create 3 ok
        5s pod 3 running node=bad
        5s beat 3
        6s pod 3 failed
            > 6s ask SPARK why 3 was lost: PodFailed, check 0
            > 6s create 4 for 3
        6s lost 3 node-lost
            > 6s delete 3 uid u3
        7s create 4 ok
        8s gone 4
            > 8s ask SPARK why 4 was lost: PodDeleted, check 0
            > 8s create 5 for 4 avoiding bad
        ",
    );
}

#[test]
fn a_smaller_target_lets_the_least_useful_go() {
    check(
        spec(4),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
            > 0s create 4
        1s start 1 2 3
        1s create 4 ok
        2s driver 3 active=0
        2s driver 2 active=4
        2s driver 1 active=4
        3s total 2
            > 3s reply done
            > 3s delete 3 uid u3
            > 3s delete 4 uid u4
        4s delete 4 ok
        4s gone 4
        5s delete 3 ok
        5s pod 3 terminating
        9s gone 3
        9s counts
            > 9s created 4 = live 2 + terminating 0 + reason pending 0 + lost [] + removed [ScaleDown 2]
        ",
    );
}

#[test]
fn the_target_goes_to_nothing_and_back() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s spec target=0
            > 2s delete 1 uid u1
            > 2s delete 2 uid u2
        3s delete 2 ok
        3s delete 1 ok
        4s pod 1 terminating
        4s pod 2 terminating
        5s spec target=2
            > 5s create 3
            > 5s create 4
        6s gone 1
        6s gone 2
        7s counts
            > 7s created 2 = live 0 + terminating 0 + reason pending 0 + lost [] + removed [ScaleDown 2]
        ",
    );
}

#[test]
fn as_many_may_be_pending_as_allowed() {
    let mut spec = spec(3);
    spec.allocation.max_pending_pods = 2;
    check(
        spec,
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s create 1 ok
        2s pod 1 running
            > 2s create 3
        ",
    );
}

/// If a webhook removes the labels, no list shows the pod.
#[test]
fn a_pod_that_admission_hides_is_cleared_away() {
    check(
        spec(1),
        "
        0s show FailedCreate
        0s lead
            > 0s create 1
        1s create 1 ok unlabelled
            > 1s FailedCreate 1: admission changed its owner, name or labels: it cannot be looked after
            > 1s ask SPARK why 1 was lost: PodMissing, check 0
        1s lost 1 deleted
            > 1s delete 1 uid u1
            > 1.895s create 2 for 1
        2s delete 1 ok
            > 62s get 1
        62s get 1 notfound
        63s counts
            > 63s created 1 = live 0 + terminating 0 + reason pending 0 + lost [deleted 1] + removed []
        ",
    );
}

#[test]
fn a_pod_whose_owner_admission_took_is_cleared_away() {
    check(
        spec(1),
        "
        0s show FailedCreate
        0s lead
            > 0s create 1
        1s create 1 ok orphaned
            > 1s FailedCreate 1: admission changed its owner, name or labels: it cannot be looked after
            > 1s ask SPARK why 1 was lost: PodMissing, check 0
        1s lost 1 deleted
            > 1s delete 1 uid u1
            > 1.895s create 2 for 1
        2s delete 1 ok
        3s gone 1
        ",
    );
}

/// The watch reports the end of a pod; if it does not, the pod is checked.
#[test]
fn an_end_that_the_watch_did_not_tell_is_looked_for() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s spec target=0
            > 2s delete 1 uid u1
        3s delete 1 ok
        4s unseen 1 terminating
            > 63s get 1
        63s get 1 ok
            > 123s get 1
        123s get 1 notfound
        124s counts
            > 124s created 1 = live 0 + terminating 0 + reason pending 0 + lost [] + removed [ScaleDown 1]
        ",
    );
}
