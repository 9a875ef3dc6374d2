//! Losses: how they are detected, and what must not go wrong in the process. The negative requirements come
//! from bugs of SAR and of Spark's allocator.

use super::support::{check, spec};

/// SAR ignored a pod that became Failed: an executor killed for its memory was lost for unknown reasons.
#[test]
fn failed_arrives_as_modified() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        9s pod 1 failed exit=137
            > 9s ask SPARK why 1 was lost: PodFailed, check 0
            > 9s create 2 for 1
        ",
    );
}

#[test]
fn an_executor_that_ends_well_is_lost_too() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        9s pod 1 succeeded exit=0
            > 9s ask SPARK why 1 was lost: PodSucceeded, check 0
            > 9s create 2 for 1
        ",
    );
}

#[test]
fn a_second_report_of_one_loss_changes_nothing() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        9s pod 1 failed exit=1
            > 9s ask SPARK why 1 was lost: PodFailed, check 0
            > 9s create 2 for 1
        9s again 1
        9s driver 1 removed
        10s gone 1
        10s lost 1 exit-status app
        12s counts
            > 12s created 1 = live 0 + terminating 0 + reason pending 0 + lost [exit-status 1] + removed []
        ",
    );
}

/// SAR never reopened a closed watch; events in the meantime were never seen.
#[test]
fn what_a_closed_watch_missed_is_found_in_the_next_list() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s stale
        3s vanish 2
        9s list
            > 9s ask SPARK why 2 was lost: PodMissing, check 0
            > 9s create 3 for 2
        10s beat 1
        ",
    );
}

#[test]
fn a_list_from_the_past_concludes_nothing() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s vanish 1
        3s list revision=5
            > 3.477s relist
        4s list
            > 4s ask SPARK why 1 was lost: PodMissing, check 0
            > 4s create 2 for 1
        ",
    );
}

/// New events arrive all the time, and a list takes a while.
#[test]
fn what_is_told_while_a_list_is_under_way_comes_on_top_of_it() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s restart
        2s lead unlisted
            > 2s relist
        3s pod 1 failed exit=1
        4s list taken
            > 4s ask SPARK why 1 was lost: PodFailed, check 0
            > 4s create 21 for 1
        4s lost 1 exit-status
            > 4s delete 1 uid u1
        5s start 21
        5s unseen 3 running
        5s list revision=5
            > 5.496s relist
        6s gone 3
        6s gone 1
        7s list taken
        8s counts
            > 8s created 3 = live 2 + terminating 0 + reason pending 0 + lost [exit-status 1] + removed []
        ",
    );
}

#[test]
fn silence_from_before_anybody_listened_does_not_count() {
    let mut spec = spec(2);
    spec.heartbeat.disabled = true;
    check(
        spec,
        "
        0s lead
            > 0s create 1
            > 0s create 2
        0s create 1 ok
        0s create 2 ok
        1s pod 1 running
        1s pod 2 running
        900s beating 2
        1000s spec heartbeats=on
            > 1120.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
            > 1120.001s create 3 for 1
        1121s lost 1 exit-status
            > 1121s delete 1 uid u1
        ",
    );
}

#[test]
fn silent_is_strictly_longer_than_the_timeout_and_others_are_heard() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        100s beat 2
        120s beat 2
        121s beat 2
            > 121.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
            > 121.001s create 3 for 1
        121.001s beat 2
        121.5s beat 1
        ",
    );
}

/// The driver's timeout is longer than ours: unchanged rows of its report do not keep 1 alive. 3 sends no
/// heartbeats, but its counters change, which is a sign of life.
#[test]
fn a_driver_that_repeats_itself_is_no_sign_of_life() {
    check(
        spec(3),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2 3
        1s beating 2
        2s driver 1 active=0
        2s driver 3 tasks=1
        60s driver 1 active=0
        60s driver 3 tasks=2
        121s driver 1 active=0
        121s driver 3 tasks=3
            > 122.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
            > 122.001s create 4 for 1
        123s lost 1 heartbeat-lost
            > 123s delete 1 uid u1
        ",
    );
}

/// The driver may know an executor long before a lagging watch shows its pod.
#[test]
fn silence_counts_from_when_the_pod_is_seen() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 2
        1s beating 2
        2s driver 1 active=0
        120s pod 1 running
        130s counts
            > 130s created 2 = live 2 + terminating 0 + reason pending 0 + lost [] + removed []
        ",
    );
}

/// All executors are silent: the listener is as likely to blame as they are. One is given up as a probe.
#[test]
fn when_none_is_heard_one_is_given_up_until_its_replacement_is_heard() {
    check(
        spec(3),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2 3
        240s conditions
            > 240s conditions
            > 241.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
            > 241.001s create 4 for 1
        242s lost 1 heartbeat-lost
            > 242s delete 1 uid u1
        500s create 4 ok
        501s conditions
            > 501s conditions HeartbeatsMissing
        600s pod 4 running
        600s beating 4
            > 600s ask SPARK why 2 was lost: HeartbeatTimeout, check 0
            > 600s ask SPARK why 3 was lost: HeartbeatTimeout, check 0
        602s lost 2 heartbeat-lost
            > 602s delete 2 uid u2
        ",
    );
}

#[test]
fn heartbeats_of_strangers_are_nothing() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        0s beat 1
        0s create 1 ok
        1s beat 7
        2s pod 1 running
        3s beat 1 uid=other
        3s explain 1
            > 3s 1 is awaiting-registration: not-available
        4s beat 1 uid=u1
        4s explain 1
            > 4s 1 is available: no-counters
        ",
    );
}

/// A restart of the host is not a mass loss: no host was running to receive their heartbeats.
#[test]
fn after_a_restart_silence_counts_from_the_start() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        1s beating 1 2
        500s restart
        500s lead
        505s beating 1
        620s wait
            > 620.001s ask SPARK why 2 was lost: HeartbeatTimeout, check 0
            > 620.001s create 21 for 2
            > 626.001s ask SPARK why 2 was lost: HeartbeatTimeout, check 1
            > 632.001s ask SPARK why 2 was lost: HeartbeatTimeout, check 2
            > 638.001s ask SPARK why 2 was lost: HeartbeatTimeout, check 3
        640s wait
        ",
    );
}

#[test]
fn a_pod_that_others_delete_is_replaced_before_it_is_gone() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        9s pod 1 terminating
            > 9s create 2 for 1
        10s start 2
        39s pod 1 failed exit=143
            > 39s ask SPARK why 1 was lost: PodDeleted, check 0
        40s lost 1 deleted
        41s gone 1
        42s counts
            > 42s created 2 = live 1 + terminating 0 + reason pending 0 + lost [deleted 1] + removed []
        ",
    );
}

#[test]
fn an_executor_whose_owner_was_edited_away_is_ours_no_more() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        9s pod 1 orphaned
            > 9s ask SPARK why 1 was lost: PodDeleted, check 0
            > 9s create 2 for 1
        9s lost 1 deleted
        10s create 2 ok
        ",
    );
}

#[test]
fn one_whose_name_a_stranger_has_is_gone() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        9s pod 1 orphaned uid=other
            > 9s ask SPARK why 1 was lost: PodMissing, check 0
            > 9s create 2 for 1
        9s lost 1 deleted
        10s create 2 ok
        ",
    );
}

#[test]
fn many_losses_at_once_are_replaced_at_a_slow_start() {
    check(
        spec(6),
        "
        0s show MassLoss
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
            > 0s create 4
            > 0s create 5
            > 0s create 6
        1s start 1 2 3 4 5 6
        9s gone 1
            > 9s ask SPARK why 1 was lost: PodDeleted, check 0
            > 9s create 7 for 1
        9s gone 2
            > 9s ask SPARK why 2 was lost: PodDeleted, check 0
            > 9s create 8 for 2
        9s gone 3
            > 9s ask SPARK why 3 was lost: PodDeleted, check 0
            > 9s create 9 for 3
        9s gone 4
            > 9s MassLoss: more than 30% of 6 executors at once
            > 9s ask SPARK why 4 was lost: PodDeleted, check 0
        9.5s create 7 ok
        9.6s create 8 ok
            > 9.600s create 10 for 4
        9.7s create 9 ok
        9.8s create 10 ok
        ",
    );
}

/// 1 to 4 are observed to be gone: that says nothing about which executors are silent.
#[test]
fn a_mass_loss_does_not_excuse_the_silent() {
    check(
        spec(6),
        "
        0s show MassLoss
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
            > 0s create 4
            > 0s create 5
            > 0s create 6
        1s start 1 2 3 4 5 6
        1s beating 6
        115s gone 1
            > 115s ask SPARK why 1 was lost: PodDeleted, check 0
            > 115s create 7 for 1
        115s gone 2
            > 115s ask SPARK why 2 was lost: PodDeleted, check 0
            > 115s create 8 for 2
        115s gone 3
            > 115s ask SPARK why 3 was lost: PodDeleted, check 0
            > 115s create 9 for 3
        115s gone 4
            > 115s MassLoss: more than 30% of 6 executors at once
            > 115s ask SPARK why 4 was lost: PodDeleted, check 0
            > 121s ask SPARK why 1 was lost: PodDeleted, check 1
            > 121s ask SPARK why 2 was lost: PodDeleted, check 1
            > 121s ask SPARK why 3 was lost: PodDeleted, check 1
            > 121s ask SPARK why 4 was lost: PodDeleted, check 1
            > 121.001s ask SPARK why 5 was lost: HeartbeatTimeout, check 0
        122s wait
        ",
    );
}

/// Many executors are silent at once, while one is heard: some are given up, and 5 to 7 wait for a while.
#[test]
fn silence_of_many_is_believed_of_few() {
    check(
        spec(8),
        "
        0s show MassLoss
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
            > 0s create 4
            > 0s create 5
            > 0s create 6
            > 0s create 7
            > 0s create 8
        1s start 1 2 3 4 5 6 7 8
        1s beating 8
            > 121.001s MassLoss: more than 30% of 8 executors at once
            > 121.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
            > 121.001s ask SPARK why 2 was lost: HeartbeatTimeout, check 0
            > 121.001s ask SPARK why 3 was lost: HeartbeatTimeout, check 0
            > 121.001s ask SPARK why 4 was lost: HeartbeatTimeout, check 0
            > 121.001s create 9 for 1
        122s wait
        ",
    );
}

/// A classifier that traps or abstains does not block the loss: the built-in one is asked.
#[test]
fn what_one_classifier_cannot_answer_the_next_is_asked() {
    let mut spec = spec(1);
    spec.recovery.policies = vec!["MINE".to_owned()];
    check(
        spec,
        "
        0s show PolicyFault PolicyQuarantined
        0s lead
            > 0s create 1
        1s start 1
        2s pod 1 failed exit=1
            > 2s ask MINE why 1 was lost: PodFailed, check 0
            > 2s create 2 for 1
        2s lost 1 trap
            > 2s PolicyFault: MINE: trapped
            > 2s ask SPARK why 1 was lost: PodFailed, check 0
        2s lost 1 undetermined
            > 3s ask MINE why 1 was lost: PodFailed, check 1
        3s lost 1 abstain
            > 3s ask SPARK why 1 was lost: PodFailed, check 1
        3s lost 1 exit-status
            > 3s delete 1 uid u1
        ",
    );
}

#[test]
fn a_classifier_that_never_answers_costs_time() {
    check(
        spec(1),
        "
        0s show PolicyFault PolicyNotAsked
        0s lead
            > 0s create 1
        1s start 1
        2s pod 1 failed exit=1
            > 2s ask SPARK why 1 was lost: PodFailed, check 0
            > 2s create 2 for 1
            > 7s PolicyNotAsked: SPARK: no answer in time
        7s wait
        ",
    );
}

#[test]
fn kept_pods_are_bounded_in_number_and_age() {
    let mut spec = spec(1);
    spec.recovery.max_kept_pods = 1;
    spec.recovery.kept_pods_ms = 60_000;
    check(
        spec,
        "
        0s lead
            > 0s create 1
        1s start 1
        2s pod 1 failed exit=1
            > 2s ask SPARK why 1 was lost: PodFailed, check 0
            > 2s create 2 for 1
        2s lost 1 app-failure app keep
        3s start 2
        4s pod 2 failed exit=1
            > 4s ask SPARK why 2 was lost: PodFailed, check 0
            > 4s create 3 for 2
        4s lost 2 app-failure app keep
            > 4s delete 1 uid u1
        4s delete 1 ok
        5s start 3
        63s beat 3
            > 64s get 1
            > 64s delete 2 uid u2
        65s beat 3
        ",
    );
}

#[test]
fn disrupted_pods_are_nobodys_failure_whatever_a_policy_says() {
    let mut spec = spec(1);
    spec.recovery.max_executor_failures = Some(0);
    check(
        spec,
        "
        0s show FleetFailed
        0s lead
            > 0s create 1
        1s start 1
        2s pod 1 failed exit=1 disrupted
            > 2s ask SPARK why 1 was lost: PodFailed, check 0
            > 2s create 2 for 1
        2s lost 1 app-failure app
            > 2s delete 1 uid u1
        3s start 2
        4s pod 2 failed exit=1
            > 4s ask SPARK why 2 was lost: PodFailed, check 0
            > 4s create 3 for 2
        4s lost 2 app-failure app
            > 4s FleetFailed: 1 executors failed; 0 are allowed
            > 4s delete 2 uid u2
        4s conditions
            > 4s conditions Failed
        5s reset
            > 5s reply done
        ",
    );
}

#[test]
fn losses_of_a_driver_that_is_gone_are_not_replaced() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s driver gone
        3s gone 1
            > 3s ask SPARK why 1 was lost: PodDeleted, check 0
        3s lost 1 deleted
        4s conditions
            > 4s conditions DriverGone NotProgressing
        ",
    );
}

#[test]
fn a_failed_fleet_ends_its_application_if_it_should() {
    let mut spec = spec(1);
    spec.recovery.max_executor_failures = Some(0);
    spec.recovery.failed_deletes_driver = true;
    check(
        spec,
        "
        0s show FleetFailed
        0s lead
            > 0s create 1
        1s start 1
        2s pod 1 failed exit=1
            > 2s ask SPARK why 1 was lost: PodFailed, check 0
            > 2s create 2 for 1
        2s lost 1 app-failure app
            > 2s FleetFailed: 1 executors failed; 0 are allowed
            > 2s delete the driver
            > 2s delete 1 uid u1
        3s delete 0 unknown
            > 10.595s delete the driver
        12s delete 0 ok
        13s driver gone
        100s wait
        ",
    );
}

/// An executor that never registered cannot have run a task. Without heartbeats a running executor counts as
/// registered.
#[test]
fn who_was_available_had_registered() {
    let mut spec = spec(1);
    spec.heartbeat.disabled = true;
    check(
        spec,
        "
        0s show registrations
        0s lead
            > 0s create 1
        1s create 1 ok
        2s pod 1 failed exit=1
            > 2s ask SPARK why 1 was lost: PodFailed, check 0, never registered
            > 2s create 2 for 1
        2s lost 1 exit-status
            > 2s delete 1 uid u1
        3s create 2 ok
        4s pod 2 running
        5s pod 2 failed exit=1
            > 5s ask SPARK why 2 was lost: PodFailed, check 0
            > 5s create 3 for 2
        ",
    );
}
