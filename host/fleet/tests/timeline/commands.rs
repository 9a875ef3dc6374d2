//! The commands of operators.

use super::support::{check, spec};

#[test]
fn a_kill_with_replacement_keeps_the_target() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s kill 1 replace
            > 2s ask SPARK why 1 was lost: OperatorKill, check 0
            > 2s create 3 for 1
            > 2s reply 1 ok
        2s kill 1 replace
            > 2s reply 1 already-leaving
        2s kill 9
            > 2s reply 9 unknown-executor
        3s lost 1 released
            > 3s delete 1 uid u1
        ",
    );
}

#[test]
fn busy_executors_are_spared_unless_forced() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s driver 1 active=3
        3s kill 1 2
            > 3s ask SPARK why 2 was lost: OperatorKill, check 0
            > 3s reply 1 busy, 2 ok
        4s kill 1 force
            > 4s ask SPARK why 1 was lost: OperatorKill, check 0
            > 4s reply 1 ok
        ",
    );
}

#[test]
fn paused_is_nothing_at_all() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s pause
            > 2s reply done
        3s pod 1 failed exit=1
            > 3s ask SPARK why 1 was lost: PodFailed, check 0
        3s lost 1 exit-status
        4s kill 2
            > 4s reply refused paused
        5s total 5
            > 5s reply done
        100s beat 2
        101s restart
        101s lead
            > 101s get 1
        101s get 1 ok
        102s conditions
            > 102s conditions NotProgressing Paused
        103s resume
            > 103s delete 1 uid u1
            > 103s reply done
            > 103s create 21
            > 103s create 22
            > 103s create 23
            > 103s create 24
        ",
    );
}

#[test]
fn a_requested_total_that_is_over_does_not_come_back_with_the_old_spec() {
    check(
        spec(3),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
        1s start 1 2 3
        2s total 2
            > 2s reply done
            > 2s delete 3 uid u3
        2s delete 3 ok
        3s gone 3
        4s spec target=4
            > 4s create 4
            > 4s create 5
        5s start 4 5
        6s restart
        6s lead
        7s beat 1 2 4 5
        8s spec target=3
            > 8s delete 5 uid u5
        9s delete 5 ok
        ",
    );
}

#[test]
fn a_requested_total_outlives_a_restart_but_not_a_new_spec() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s total 2
            > 2s create 2
            > 2s reply done
        3s start 2
        4s restart
        4s lead
        5s counts
            > 5s created 2 = live 2 + terminating 0 + reason pending 0 + lost [] + removed []
        6s spec target=3
            > 6s create 21
        7s total 99999
            > 7s reply refused above-maximum
        ",
    );
}
