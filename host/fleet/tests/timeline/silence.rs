//! Silence, and what excuses it: lost heartbeats on our side, a standstill, and a heartbeat that arrives just
//! in time.

use fleet::spec::{Amount, Mode};

use super::support::{check, spec};

/// After an impairment the silence of all executors counts from that moment.
#[test]
fn what_we_may_have_turned_away_is_no_silence() {
    check(
        spec(2),
        "
        0s show silences HearingImpaired
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        1s beating 2
        100s deaf refused
            > 100s HearingImpaired: heartbeats may have been lost on our side (refused): until 120000 ms after the last time no executor is given up for its silence
        101s deaf refused
        220s conditions HearingImpaired
            > 220s conditions HearingImpaired
            > 220s for 120 s heartbeats may have been lost on our side (refused 2 times): executors are not given up for silence, only their pods' status and the driver's word on losses count
        221s explain 1 history
            > 221s 1 is available: no-counters
            > 221s its silence is excused: hearing was impaired lately (refused 2 times)
            > 221.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0, silent for 220.001s
            > 221.001s create 3 for 1
        222s lost 1 heartbeat-lost
            > 222s delete 1 uid u1
        222s conditions
            > 222s conditions
        223s delete 1 ok
        223s start 3
        223s beating 2 3
        230s deaf dropped
            > 230s HearingImpaired: heartbeats may have been lost on our side (dropped): until 120000 ms after the last time no executor is given up for its silence
        ",
    );
}

/// While the heartbeat path is impaired all the time, silent executors stay. Dead ones that the driver reports
/// are found. After the last impairment it takes one timeout.
#[test]
fn an_impairment_excuses_for_as_long_as_it_lasts_and_a_timeout_longer() {
    check(
        spec(3),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2 3
        1s beating 2
        100s deaf unattributed
        200s deaf unattributed
        300s deaf unattributed
        400s deaf unattributed
        500s deaf unattributed
        600s deaf unattributed
        700s deaf unattributed
        800s deaf unattributed
        900s deaf unattributed
        1000s deaf unattributed
        1000s driver 1 removed
            > 1000s ask SPARK why 1 was lost: DriverRemoved, check 0
            > 1000s create 4 for 1
        1000s lost 1 exit-status
            > 1000s delete 1 uid u1
        1001s delete 1 ok
        1001s gone 1
        1001s start 4
        1001s beating 2 4
            > 1120.001s ask SPARK why 3 was lost: HeartbeatTimeout, check 0
            > 1120.001s create 5 for 3
        1121s lost 3 heartbeat-lost
            > 1121s delete 3 uid u3
        ",
    );
}

/// No executor is heard while the heartbeat path is impaired: none is given up as a probe.
#[test]
fn deafness_to_all_makes_no_probe() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        200s deaf refused
        240s deaf refused
        479s wait
            > 480.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
            > 480.001s create 3 for 1
        481s lost 1 heartbeat-lost
            > 481s delete 1 uid u1
        490s deaf refused
        729s conditions
            > 729s conditions HeartbeatsMissing
        ",
    );
}

/// The first heartbeats of an executor are rejected: it has not failed to register.
#[test]
fn one_that_cannot_register_because_of_us_is_not_late() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 2
        1s beating 2
        1s create 1 ok
        2s pod 1 running
        400s deaf refused
        603s wait
        1000s wait
            > 1000.001s get 1
        1000.5s deaf refused
        1001s get 1 ok
        1600s wait
            > 1600.501s get 1
        1601s get 1 ok
            > 1601s ask SPARK why 1 was lost: PendingTimeout, check 0
            > 1601s create 3 for 1
        1602s lost 1 start-failed
            > 1602s delete 1 uid u1
        ",
    );
}

/// A pod that does not run sends no heartbeats: the impairment excuses nothing.
#[test]
fn one_that_does_not_start_is_late_all_the_same() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 2
        1s beating 2
        1s create 1 ok
        400s deaf refused
        601s wait
            > 601.001s get 1
        602s get 1 ok
            > 602s ask SPARK why 1 was lost: PendingTimeout, check 0
            > 602s create 3 for 1
        602s lost 1 start-failed
            > 602s delete 1 uid u1
        ",
    );
}

/// After a standstill every executor has a whole timeout, whether it was heard since or not.
#[test]
fn after_a_standstill_all_silence_begins() {
    check(
        spec(3),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2 3
        100s beat 1 2
        110s deaf paused
        225s beat 1
            > 230.001s ask SPARK why 2 was lost: HeartbeatTimeout, check 0
            > 230.001s ask SPARK why 3 was lost: HeartbeatTimeout, check 0
            > 230.001s create 4 for 2
        231s wait
        ",
    );
}

/// An executor is heard before its loss is settled. Its replacement already exists and is surplus.
#[test]
fn a_beat_before_the_verdict_takes_the_loss_back() {
    check(
        spec(2),
        "
        0s show silences ExecutorHeardAgain ExecutorLost
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        1s beating 2
            > 121.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0, silent for 120.001s
            > 121.001s create 3 for 1
        122s lost 1 undetermined
        122.5s beat 1
            > 122.500s ExecutorHeardAgain 1: heard again after 121500 ms: it is not lost
        122.5s beating 1 2
        123s create 3 ok
            > 123s delete 3 uid u3
        123s delete 3 ok
        124s gone 3
        400s explain 1
            > 400s 1 is available: no-counters
        400s counts
            > 400s created 3 = live 2 + terminating 0 + reason pending 0 + lost [] + removed [ScaleDown 1]
        ",
    );
}

/// A replacement that is due and not yet created is no longer due.
#[test]
fn no_replacement_is_owed_for_one_that_is_heard_again() {
    let mut spec = spec(2);
    spec.limits.max_surge = Amount::Count(0);
    check(
        spec,
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        1s beating 2
            > 121.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
        122s beat 1
        122s beating 1 2
        123s lost 1 heartbeat-lost
        500s counts
            > 500s created 2 = live 2 + terminating 0 + reason pending 0 + lost [] + removed []
        ",
    );
}

/// The loss is recorded in the ledger: it is final.
#[test]
fn a_beat_after_the_verdict_changes_nothing() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        1s beating 2
            > 121.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
            > 121.001s create 3 for 1
        122s ledger unknown
        122s lost 1 heartbeat-lost
        122.1s beat 1
        122.2s ledger ok
            > 122.477s delete 1 uid u1
        123s wait
        ",
    );
}

/// Only a loss by silence is reverted: not if the executor's end was seen, or if another client deletes its pod.
#[test]
fn a_late_beat_of_one_that_has_ended_takes_nothing_back() {
    check(
        spec(3),
        "
        0s show silences
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2 3
        1s beating 2
            > 121.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0, silent for 120.001s
            > 121.001s ask SPARK why 3 was lost: HeartbeatTimeout, check 0, silent for 120.001s
            > 121.001s create 4 for 1
        121.5s pod 1 failed exit=137
            > 121.500s create 5 for 3
        121.6s beat 1
        121.7s pod 3 terminating
        121.8s beat 3
        122s lost 1 undetermined
            > 123s ask SPARK why 1 was lost: HeartbeatTimeout, check 1, silent for 120.001s
        123s lost 1 exit-status
            > 123s delete 1 uid u1
        ",
    );
}

/// The driver's report counts as it does for silence: changed counters are a sign of life; `isActive` alone is
/// not while other executors are heard.
#[test]
fn the_drivers_word_takes_back_what_it_would_have_kept() {
    check(
        spec(3),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2 3
        1s beating 2
        2s driver 1 tasks=1
        2s driver 3 tasks=1
            > 122.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
            > 122.001s ask SPARK why 3 was lost: HeartbeatTimeout, check 0
            > 122.001s create 4 for 1
        123s driver 1 tasks=1
        123s driver 3 tasks=2
        123s lost 1 heartbeat-lost
            > 123s delete 1 uid u1
        124s explain 3
            > 124s 3 is available: not-picked
        ",
    );
}

/// In mode Observe the driver replaces executors; the loss is reverted all the same.
#[test]
fn when_observing_a_beat_takes_the_loss_back_as_well() {
    let mut spec = spec(2);
    spec.mode = Mode::Observe;
    check(
        spec,
        "
        0s show ExecutorHeardAgain
        0s lead
        1s start 1 2
        1s beating 2
            > 121.001s ask SPARK why 1 was lost: HeartbeatTimeout, check 0
        122s beat 1
            > 122s ExecutorHeardAgain 1: heard again after 121000 ms: it is not lost
        122s beating 1 2
        400s counts
            > 400s created 2 = live 2 + terminating 0 + reason pending 0 + lost [] + removed []
        ",
    );
}

/// The executor was to be removed when its pod became Pending again, and was then kept. Its earlier heartbeats
/// do not count as silence of the restarted executor.
#[test]
fn one_that_is_recalled_while_its_pod_is_pending_again_is_not_lost_for_it() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s ledger unknown
        100s total 0
        101s pod 1 pending
        102s total 1
        103s ledger ok
            > 103.375s reply done
            > 103.375s reply done
        300s pod 1 running
        310s explain 1
            > 310s 1 is awaiting-registration: not-available
        311s beat 1
        400s explain 1
            > 400s 1 is available: no-counters
        ",
    );
}

/// If heartbeats are disabled none can be missed.
#[test]
fn without_heartbeats_hearing_is_not_impaired() {
    let mut spec = spec(1);
    spec.heartbeat.disabled = true;
    check(
        spec,
        "
        0s show HearingImpaired
        0s lead
            > 0s create 1
        0s create 1 ok
        1s pod 1 running
        2s deaf paused
        3s conditions
            > 3s conditions
        ",
    );
}
