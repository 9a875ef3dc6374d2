//! The ledger: the order of writes, and how a new leader continues a record.

use super::support::{check, rolling, spec};

#[test]
fn nothing_is_created_before_its_id_is_reserved() {
    check(
        spec(1),
        "
        0s show ledger
        0s lead
            > 0s read ledger
            > 0s write ledger
            > 0s write ledger
            > 0s create 1
        1s start 1
            > 1s write ledger
        100s beat 1
        ",
    );
}

#[test]
fn while_the_ledger_cannot_be_written_nothing_new_is_begun() {
    check(
        spec(1),
        "
        0s show LedgerUnavailable ExecutorLost
        0s lead
            > 0s create 1
        1s start 1
        2s ledger forbidden
        3s pod 1 failed exit=1
            > 3s ask SPARK why 1 was lost: PodFailed, check 0
            > 3s create 2 for 1
        3s lost 1 exit-status
            > 3s ExecutorLost 1: exit-status: it is so
        4s create 2 ok
            > 4.387s LedgerUnavailable: forbidden: no
        20s conditions
            > 20s conditions LedgerUnavailable
        20s ledger ok
            > 30.493s delete 1 uid u1
        60s wait
        ",
    );
}

#[test]
fn a_new_leader_uses_no_id_again() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1
        2s restart
        2s lead
            > 2s create 21
        3s start 21
        ",
    );
}

#[test]
fn what_ended_while_no_host_led_is_counted_once() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        10s vanish 1
        11s restart
        11s lead
            > 11s ask SPARK why 1 was lost: PodMissing, check 0
            > 11s create 21 for 1
        11s lost 1 deleted
        12s counts
            > 12s created 2 = live 1 + terminating 0 + reason pending 0 + lost [deleted 1] + removed []
        13s restart
        13s lead
            > 13s create 41
        14s counts
            > 14s created 2 = live 1 + terminating 0 + reason pending 0 + lost [deleted 1] + removed []
        ",
    );
}

#[test]
fn to_shrink_a_new_leader_waits_until_it_has_heard_enough() {
    check(
        spec(4),
        "
        0s lead
            > 0s create 1
            > 0s create 2
            > 0s create 3
            > 0s create 4
        1s start 1 2 3 4
        2s total 2
            > 2s reply done
            > 2s delete 3 uid u3
            > 2s delete 4 uid u4
        3s restart
        3s show RollAbandoned
        # They stay, and that a scale-down is given up is no warning.
        3s lead
        3s explain 3
            > 3s 3 is awaiting-registration: not-available
        10s beat 1
        20s beat 2 3 4
            > 20s delete 3 uid u3
            > 20s delete 4 uid u4
        ",
    );
}

#[test]
fn a_removal_of_ours_is_ours_after_a_restart_too() {
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
        61s start 3
            > 61s evict 1 uid u1
        62s restart
        62s pod 1 terminating
        63s lead
        64s gone 1
        65s counts
            > 65s created 3 = live 2 + terminating 0 + reason pending 0 + lost [] + removed [Roll 1]
        ",
    );
}

#[test]
fn another_epoch_in_the_ledger_parks_the_fleet_until_it_is_reset() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s ledger usurped
        3s pod 1 failed exit=1
            > 3s ask SPARK why 1 was lost: PodFailed, check 0
            > 3s create 2 for 1
        3s lost 1 exit-status
            > 3.477s check lease
        # The Lease is this host's, and still it does not act by itself.
        4s affirm
        5s start 2
        10s gone 1
        20s gone 2
            > 20s ask SPARK why 2 was lost: PodDeleted, check 0
        20s lost 2 deleted
        60s kill 1
            > 60s reply refused ledger-refused
        60s conditions
            > 60s conditions LedgerRefused NotProgressing
        70s reset-ledger
            > 70s check lease
        # Before it is known who leads nothing is read, let alone written.
        80s affirm
            > 80s reply done
            > 80s relist
        80s list
            > 80s create 2241 for 2
        80s counts
            > 80s created 2 = live 0 + terminating 0 + reason pending 0 + lost [deleted 1, exit-status 1] + removed []
        ",
    );
}

#[test]
fn a_ledger_in_order_is_not_reset() {
    check(
        spec(1),
        "
        0s reset-ledger
            > 0s reply refused not-leading
        0s lead
            > 0s create 1
        1s start 1
        2s reset-ledger
            > 2s reply refused ledger-in-order
        ",
    );
}

/// Born, settled and kept executors are remembered; the reserved ids are not trusted.
#[test]
fn what_was_known_is_written_over_a_record_that_is_none() {
    check(
        spec(2),
        "
        0s show LedgerRefused LedgerReset
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s ledger garbage
        3s pod 1 failed exit=1
            > 3s ask SPARK why 1 was lost: PodFailed, check 0
            > 3s create 3 for 1
        3s lost 1 exit-status
            > 3.477s LedgerRefused: the ledger is refused: `ledger` is no JSON object. Nothing is changed until it is good again: restore or delete it, or `rollcall reset-ledger f` replaces it
        4s gone 1
        20s reset-ledger
            > 20s check lease
        21s affirm
            > 21s LedgerReset: the ledger is replaced
            > 21s reply done
            > 21s relist
        22s counts
            > 22s created 2 = live 1 + terminating 0 + reason pending 0 + lost [exit-status 1] + removed []
        ",
    );
}

#[test]
fn a_record_that_is_good_again_is_gone_on_from() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s ledger patched created
        3s pod 1 failed exit=1
            > 3s ask SPARK why 1 was lost: PodFailed, check 0
            > 3s create 2 for 1
        3s lost 1 exit-status
        10s conditions
            > 10s conditions LedgerRefused
        11s ledger deleted
            > 16.209s delete 1 uid u1
        60s counts
            > 60s created 1 = live 0 + terminating 0 + reason pending 0 + lost [exit-status 1] + removed []
        ",
    );
}

#[test]
fn a_leader_that_finds_no_record_of_ours_begins_none_by_itself() {
    check(
        spec(1),
        "
        0s show LedgerRefused
        0s lead
            > 0s create 1
        1s start 1
        2s ledger patched reserved
        3s restart
        3s lead unlisted
            > 3s LedgerRefused: the ledger is refused: `reserved` is 18446744073709551615, and at most 2146483647 is plausible. Nothing is changed until it is good again: restore or delete it, or `rollcall reset-ledger f` replaces it
        3s gone 1
        60s conditions
            > 60s conditions LedgerRefused
        60s kill 1
            > 60s reply refused ledger-refused
        61s reset-ledger
            > 61s check lease
        62s affirm
            > 62s reply done
            > 62s relist
        # No pod is left that says which ids were used.
        62s list
            > 62s create 2161
        ",
    );
}

#[test]
fn nothing_counts_as_written_that_was_not() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s ledger patched writes
        3s pod 1 failed exit=1
            > 3s ask SPARK why 1 was lost: PodFailed, check 0
            > 3s create 2 for 1
        # That it was settled is not written: its pod stays.
        3s lost 1 exit-status
        4s conditions
            > 4s conditions LedgerRefused
        ",
    );
}

#[test]
fn a_record_of_the_future_is_told_of_and_can_be_reset() {
    check(
        spec(1),
        "
        0s show LedgerRefused
        0s lead
            > 0s create 1
        1s start 1
        2s ledger patched revision
        3s restart
        3s lead
            > 3.496s relist
        30s list
            > 30s LedgerRefused: the ledger knows of revision 1000103, and the API server lists revision 107: the ledger was changed, or the API server's store was restored from a backup. Nothing is changed for ten minutes; `rollcall reset-ledger f` replaces it at once
            > 30.826s relist
        31s conditions
            > 31s conditions LedgerRefused
        32s reset-ledger
            > 32s check lease
        33s affirm
            > 33s reply done
            > 33s relist
        34s list
        40s conditions
            > 40s conditions
        ",
    );
}

/// Terms restart because the Lease was deleted, and then both leaders continue from the same record.
#[test]
fn two_leaders_of_one_epoch_are_told_apart() {
    check(
        spec(1),
        "
        0s ledger twin
        0s lead
            > 0.477s relist
        1s list
            > 1s create 2041
        ",
    );
}

#[test]
fn an_older_ledger_is_overwritten_from_memory() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s ledger older
        3s pod 1 failed exit=1
            > 3s ask SPARK why 1 was lost: PodFailed, check 0
            > 3s create 2 for 1
        3s lost 1 exit-status
            > 3.477s delete 1 uid u1
        4s delete 1 ok
        4s gone 1
        5s start 2
        6s restart
        6s lead
        7s counts
            > 7s created 2 = live 1 + terminating 0 + reason pending 0 + lost [exit-status 1] + removed []
        ",
    );
}

#[test]
fn ids_jump_when_the_ledger_is_older_than_the_world() {
    check(
        spec(2),
        "
        0s lead
            > 0s create 1
            > 0s create 2
        1s start 1 2
        2s ledger older
        3s restart
        3s lead
        4s gone 2
            > 4s ask SPARK why 2 was lost: PodDeleted, check 0
            > 4s create 2201 for 2
        ",
    );
}

#[test]
fn writes_in_doubt_are_looked_up() {
    check(
        spec(1),
        "
        0s lead
            > 0s create 1
        1s start 1
        2s ledger unknown
        3s pod 1 failed exit=1
            > 3s ask SPARK why 1 was lost: PodFailed, check 0
            > 3s create 2 for 1
        3s lost 1 exit-status
        4s ledger ok
            > 4.387s delete 1 uid u1
        8s wait
        ",
    );
}
