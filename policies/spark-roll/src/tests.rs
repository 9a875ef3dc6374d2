//! Spark's rules, one by one. That the picks agree with an independent implementation on thousands of
//! random fleets is tested through the sandbox, in `tests/`.

use rollcall_policy::{Executor, Fleet, Selection};

use crate::POLICIES;

/// The ids that the policy picks, best first.
#[track_caller]
fn picks(policy: &str, fleet: &Fleet) -> Vec<u64> {
    let (_, select) = POLICIES.iter().find(|(name, _)| *name == policy).expect("one of Spark's policies");
    match select(fleet).expect("Spark's policies do not fail") {
        Selection::Roll(picks) => picks.iter().map(|pick| fleet.executors.id[pick.index as usize]).collect(),
        Selection::Nothing(_) => Vec::new(),
        Selection::Abstain => panic!("Spark's policies do not abstain"),
    }
}

/// Executors in this order, each made from its value; all have run one task.
fn fleet<T>(values: impl IntoIterator<Item = (u64, T)>, set: impl Fn(&mut Executor, T)) -> Fleet {
    Fleet::of(values.into_iter().map(|(id, value)| {
        let mut executor = Executor { id, total_tasks: 1, ..Executor::default() };
        set(&mut executor, value);
        executor
    }))
}

#[test]
fn an_empty_fleet_has_no_picks() {
    for (policy, _) in POLICIES {
        assert_eq!(picks(policy, &Fleet::of([])), [] as [u64; 0], "{policy}");
    }
}

#[test]
fn id_is_the_smallest_number_wherever_it_is_listed() {
    assert_eq!(picks("ID", &fleet([(10, ()), (9, ()), (100, ())], |_, ()| {})), [9]);
}

#[test]
fn the_first_listed_wins_where_the_smallest_is_sought() {
    let by_time = fleet([(3, 7), (2, 5), (1, 5)], |e, time| e.add_time_ms = time);
    assert_eq!(picks("ADD_TIME", &by_time), [2]);
    let by_tasks = fleet([(4, (1, 1)), (3, (0, 9)), (2, (0, 5)), (1, (0, 5))], |e, (tasks, time)| {
        (e.active_tasks, e.add_time_ms) = (tasks, time);
    });
    assert_eq!(picks("ACTIVE_TASKS", &by_tasks), [2]);
}

#[test]
fn the_last_listed_wins_where_the_biggest_is_sought() {
    let check = |policy, set: fn(&mut Executor, i32)| {
        assert_eq!(picks(policy, &fleet([(1, 5), (2, 7), (3, 7), (4, 6)], set)), [3], "{policy}");
        assert_eq!(picks(policy, &fleet([(1, 0), (2, 0)], set)), [2], "{policy}, all zero");
    };
    check("TOTAL_GC_TIME", |e, value| e.total_gc_time_ms = value.into());
    check("TOTAL_DURATION", |e, value| e.total_duration_ms = value.into());
    check("AVERAGE_DURATION", |e, value| e.total_duration_ms = value.into());
    check("FAILED_TASKS", |e, value| e.failed_tasks = value);
    check("PEAK_JVM_ONHEAP_MEMORY", |e, value| e.peak_jvm_onheap_bytes = value.into());
    check("PEAK_JVM_OFFHEAP_MEMORY", |e, value| e.peak_jvm_offheap_bytes = value.into());
    check("TOTAL_SHUFFLE_WRITE", |e, value| e.total_shuffle_write_bytes = value.into());
    check("DISK_USED", |e, value| e.disk_used_bytes = value.into());
    check("OUTLIER", |e, value| e.total_duration_ms = value.into());
}

#[test]
fn longs_are_compared_exactly_but_averages_as_floats() {
    let durations = [(1, (1i64 << 53) + 1), (2, 1i64 << 53)];
    let fleet = fleet(durations, |e, duration| e.total_duration_ms = duration);
    assert_eq!(picks("TOTAL_DURATION", &fleet), [1]);
    // As floats the two are equal, and the last listed wins.
    assert_eq!(picks("AVERAGE_DURATION", &fleet), [2]);
}

#[test]
fn an_average_without_tasks_is_the_duration_itself() {
    let fleet = fleet([(1, (900, 0)), (2, (1_600, 2))], |e, (duration, tasks)| {
        (e.total_duration_ms, e.total_tasks) = (duration, tasks);
    });
    assert_eq!(picks("AVERAGE_DURATION", &fleet), [1]);
}

/// Ten executors of which the last has the value.
fn one_stands_out(set: impl Fn(&mut Executor, i32)) -> Fleet {
    fleet((1..=10).map(|id| (id, if id == 10 { 100 } else { 1 })), set)
}

#[test]
fn an_outlier_lies_strictly_beyond_two_standard_deviations() {
    // Of n values of which one stands out, that one lies sqrt(n - 1) deviations above the mean: with
    // five executors exactly two, which is not enough.
    let five = fleet((1..=5).map(|id| (id, i64::from(id == 3))), |e, value| e.disk_used_bytes = value);
    assert_eq!(picks("OUTLIER_NO_FALLBACK", &five), [] as [u64; 0]);
    let six = fleet((1..=6).map(|id| (id, i64::from(id == 3))), |e, value| e.disk_used_bytes = value);
    assert_eq!(picks("OUTLIER_NO_FALLBACK", &six), [3]);
}

#[test]
fn every_dimension_is_looked_at() {
    for set in [
        (|e, value| (e.total_duration_ms, e.total_tasks) = (i64::from(value) * 7, 7))
            as fn(&mut Executor, i32),
        |e, value| e.total_gc_time_ms = value.into(),
        |e, value| e.failed_tasks = value,
        |e, value| e.peak_jvm_onheap_bytes = value.into(),
        |e, value| e.peak_jvm_offheap_bytes = value.into(),
        |e, value| e.total_shuffle_write_bytes = value.into(),
        |e, value| e.disk_used_bytes = value.into(),
    ] {
        assert_eq!(picks("OUTLIER", &one_stands_out(set)), [10]);
        assert_eq!(picks("OUTLIER_NO_FALLBACK", &one_stands_out(set)), [10]);
    }
}

#[test]
fn the_average_of_the_outlier_dimension_is_a_whole_number_and_needs_tasks() {
    // 9 / 10 tasks: an average of 0.9 ms would stand out among zeros, Spark's integer 0 does not; and
    // the total stands out instead only because all others are 0.
    let mut tenths = one_stands_out(|e, value| e.total_tasks = if value == 100 { 10 } else { 1 });
    tenths.executors.total_duration_ms[9] = 9;
    tenths.executors.total_duration_ms[0] = 8;
    tenths.executors.total_tasks[0] = 9;
    assert_eq!(picks("OUTLIER_NO_FALLBACK", &tenths), [10]);
    // Without tasks there is no average: the total duration decides.
    let idle = one_stands_out(|e, value| (e.total_duration_ms, e.total_tasks) = (value.into(), 0));
    assert_eq!(picks("OUTLIER_NO_FALLBACK", &idle), [10]);
}

#[test]
fn the_first_dimension_with_outliers_decides() {
    let mut both = one_stands_out(|e, value| e.disk_used_bytes = value.into());
    both.executors.total_gc_time_ms[0] = 1_000;
    assert_eq!(picks("OUTLIER", &both), [1]);
}

#[test]
fn without_outliers_the_fallback_is_the_longest_total_duration() {
    let fleet = fleet([(1, 5), (2, 9), (3, 9), (4, 8)], |e, value| e.total_duration_ms = value);
    assert_eq!(picks("OUTLIER", &fleet), [3]);
    assert_eq!(picks("OUTLIER_NO_FALLBACK", &fleet), [] as [u64; 0]);
}

#[test]
fn more_picks_come_in_sparks_order() {
    let mut fleet = fleet([(1, 5), (2, 9), (3, 9), (4, 8)], |e, value| e.total_duration_ms = value);
    fleet.picks_max = 3;
    assert_eq!(picks("TOTAL_DURATION", &fleet), [3, 2, 4]);
    assert_eq!(picks("ID", &fleet), [1, 2, 3]);
}

#[test]
fn squares_that_overflow_leave_no_outlier() {
    // Five of a hundred would lie 4.4 deviations above the mean, but the sum of their squares exceeds
    // Float: the deviation is infinite.
    let of = |count| {
        fleet((1..=100).map(|id| (id, if id <= count { i64::MAX } else { 0 })), |e, value| {
            (e.total_duration_ms, e.total_tasks) = (value, 0);
        })
    };
    assert_eq!(picks("OUTLIER_NO_FALLBACK", &of(5)), [] as [u64; 0]);
    assert_eq!(picks("OUTLIER_NO_FALLBACK", &of(4)), [4]);
}
