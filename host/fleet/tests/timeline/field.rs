//! Cases from reports of other projects: sidecars, node loss, driver restarts, admission, counters.

use crate::support::{check, rolling, spec};

#[test]
fn an_executor_that_ends_beside_a_sidecar_is_lost_at_once() {
    let mut spec = spec(2);
    spec.heartbeat.disabled = true;
    check(
        spec,
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s create 1 ok
        1s create 2 ok
        2s pod 1 running
        2s pod 2 running
        5s pod 1 exit=137
            > 5s ask SPARK why 1 was lost: PodFailed, check 0
            > 5s create 3 for 1
        5s lost 1 out-of-memory app keep
        # Its pod runs on: it is not kept, for it would hold its place.
            > 5s delete 1 uid u1
        5s gone 1
        6s pod 2 exit=0
            > 6s ask SPARK why 2 was lost: PodSucceeded, check 0
            > 6s create 4 for 2
        ",
    );
}

#[test]
fn a_decommissioned_executor_has_left_when_it_has_ended() {
    check(
        rolling(1),
        "
        0s lead
            > 0s create 1
        1s start 1
            > 60s ask OUTLIER whom to roll of [1]
        60s picks 1
            > 60s create 2
        61s start 2
            > 61s evict 1 uid u1
        62s evict 1 ok
        62s pod 1 terminating
        # The sidecar takes its time.
        65s pod 1 exit=0
        66s counts
            > 66s created 2 = live 1 + terminating 0 + reason pending 0 + lost [] + removed [Roll 1]
        90s gone 1
        ",
    );
}

#[test]
fn a_pod_that_is_pending_again_is_not_available() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        5s pod 1 pending
        6s explain 1
            > 6s 1 is awaiting-start: not-available
        # Its executor has to be heard again.
        20s pod 1 running
        21s explain 1
            > 21s 1 is awaiting-registration: not-available
        22s beat 1
        22s explain 1
            > 22s 1 is available: no-counters
        # It does not come back a second time.
        30s pod 1 pending
            > 630.001s get 1
        631s get 1 ok
            > 631s ask SPARK why 1 was lost: PendingTimeout, check 0
            > 631s create 2 for 1
        ",
    );
}

#[test]
fn losses_that_the_cluster_is_to_blame_for_do_not_end_a_fleet() {
    let mut spec = spec(1);
    spec.recovery.max_executor_failures = Some(0);
    spec.heartbeat.disabled = true;
    check(
        spec,
        "
        0s show FleetFailed
        0s lead
            > 0s create 1
        0s node n1 leaving
        0s node n2 spot
        0s node n3
        1s create 1 ok node=n1
        2s pod 1 running
        3s pod 1 failed exit=137
            > 3s ask SPARK why 1 was lost: PodFailed, check 0
            > 3s create 2 for 1
        3s lost 1 killed
            > 3s delete 1 uid u1
        4s create 2 ok node=n2
        5s pod 2 running
        6s pod 2 failed exit=143
            > 6s ask SPARK why 2 was lost: PodFailed, check 0
            > 6s create 3 for 2
        6s lost 2 killed
            > 6s delete 2 uid u2
        7s create 3 ok node=n3
        8s pod 3 running
        9s pod 3 failed exit=255
            > 9s ask SPARK why 3 was lost: PodFailed, check 0
            > 9s create 4 for 3
        9s lost 3 node-lost
            > 9s delete 3 uid u3
        10s create 4 ok node=n3
        11s pod 4 running
        12s pod 4 failed exit=1 terminating-target
            > 12s ask SPARK why 4 was lost: PodFailed, check 0
            > 12s create 5 for 4
        12s lost 4 exit-status
            > 12s delete 4 uid u4
        # A kill on a node that is well counts.
        13s create 5 ok node=n3
        14s pod 5 running
        15s pod 5 failed exit=137
            > 15s ask SPARK why 5 was lost: PodFailed, check 0
            > 15s create 6 for 5
        15s lost 5 killed
            > 15s FleetFailed: 1 executors failed; 0 are allowed
            > 15s delete 5 uid u5
        ",
    );
}

#[test]
fn starts_that_the_cluster_ends_open_the_breaker() {
    let mut spec = spec(1);
    spec.recovery.max_executor_failures = Some(0);
    spec.allocation.max_start_failures = 2;
    check(
        spec,
        "
        0s show BreakerOpened FleetFailed
        0s lead
            > 0s create 1
        1s create 1 ok node=n1
        2s pod 1 failed
            > 2s ask SPARK why 1 was lost: PodFailed, check 0
            > 2s create 2 for 1
        2s lost 1 not-admitted
            > 2s delete 1 uid u1
        3s create 2 ok node=n1
        4s pod 2 failed
            > 4s ask SPARK why 2 was lost: PodFailed, check 0
            > 4s create 3 for 2
        4s lost 2 preempted
            > 4s BreakerOpened 2: 2 executors in a row failed as they started
            > 4s delete 2 uid u2
        ",
    );
}

#[test]
fn a_restart_of_the_drivers_container_is_not_the_executors_failure() {
    let mut spec = spec(2);
    spec.recovery.max_executor_failures = Some(0);
    spec.driver_start_ms = 60_000;
    check(
        spec,
        "
        0s show FleetFailed
        0s lead
        0s driver answers
            > 0s create 1
            > 0s create 2
        1s start 1 2
        # One is told before the driver's end is, and ends the fleet; that is taken back.
        10s pod 1 failed exit=1
            > 10s ask SPARK why 1 was lost: PodFailed, check 0
            > 10s create 3 for 1
        10s lost 1 exit-status app
            > 10s FleetFailed: 1 executors failed; 0 are allowed
            > 10s delete 1 uid u1
        11s driver restarts
        11s conditions
            > 11s conditions
        12s pod 2 failed exit=56
            > 12s ask SPARK why 2 was lost: PodFailed, check 0
        12s lost 2 driver-connection
            > 12s delete 2 uid u2
        # New ones wait until it answers again.
        12s conditions
            > 12s conditions NotProgressing
        20s driver answers
            > 20s create 4 for 2
        # Long after it the same counts.
        140s start 3
        150s pod 3 failed exit=1
            > 150s ask SPARK why 3 was lost: PodFailed, check 0
            > 150s create 5 for 3
        150s lost 3 exit-status app
            > 150s FleetFailed: 1 executors failed; 0 are allowed
            > 150s delete 3 uid u3
        ",
    );
}

#[test]
fn a_pod_that_waits_for_admission_is_not_late() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s create 1 ok gated=kueue.x-k8s.io/admission
        2s conditions
            > 2s conditions WaitingForAdmission
        # Hours later its time to start begins.
        9000s pod 1 admitted
        9001s conditions
            > 9001s conditions
            > 9600.001s get 1
        9601s get 1 ok
            > 9601s ask SPARK why 1 was lost: PendingTimeout, check 0
            > 9601s create 2 for 1
        ",
    );
}

#[test]
fn a_watch_that_is_late_does_not_make_a_gated_pod_late() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s create 1 ok
            > 601.001s get 1
        2000s unseen 1 gated=kueue.x-k8s.io/admission
        2000s get 1 ok
        2001s explain 1
            > 2001s 1 is awaiting-start: not-available
        ",
    );
}

#[test]
fn candidates_stand_in_sparks_order() {
    let mut spec = rolling(11);
    spec.allocation.batch_size = 11;
    check(
        spec,
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
            > 0s create 4
            > 0s create 5
            > 0s create 6
            > 0s create 7
            > 0s create 8
            > 0s create 9
            > 0s create 10
            > 0s create 11
        1s start 1 2 3 4 5 6 7 8 9 10 11
            > 60s ask OUTLIER whom to roll of [9, 8, 7, 6, 5, 4, 3, 2, 11, 10, 1]
        60s no-picks nothing
        ",
    );
}

#[test]
fn without_recent_counters_no_executor_is_a_candidate() {
    check(
        rolling(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        0s driver mute
        1s start 1 2
        59s driver counts 1
            > 60s ask OUTLIER whom to roll of [1]
        60s no-picks nothing
        61s explain 1
            > 61s 1 is available: policy-declined
        61s explain 2
            > 61s 2 is available: no-counters
        # Two intervals later what was said is too old, and it is looked at again soon rather than after the interval.
        121s explain 1
            > 121s 1 is available: no-counters
        122s roll
            > 122s reply refused no-counters
        125s driver 2 uncounted
        140s driver counts 1 2
            > 150s ask OUTLIER whom to roll of [2, 1]
        151s wait
        ",
    );
}

#[test]
fn a_replacement_is_told_when_its_pod_exists() {
    check(
        spec(1),
        "
        0s show ExecutorReplaced
        0s lead
            > 0s create 1
        1s start 1
        2s gone 1
            > 2s ask SPARK why 1 was lost: PodDeleted, check 0
            > 2s create 2 for 1
        3s create 2 ok
            > 3s ExecutorReplaced 2: in place of 1
        ",
    );
}

#[test]
fn a_heartbeat_of_long_before_its_pod_runs_says_nothing() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s create 1 ok gated=kueue.x-k8s.io/admission
        # Forged, or of another application on that address.
        5s beat 1
        300s pod 1 admitted
        301s pod 1 running
        302s explain 1
            > 302s 1 is awaiting-registration: not-available
        303s beat 1
        304s explain 1
            > 304s 1 is available: no-counters
        ",
    );
}
