//! The roll policies of Spark's `ExecutorRollPlugin` (`org.apache.spark.scheduler.cluster.k8s`,
//! `ExecutorRollDriverPlugin.choose`): the same pick as Spark, always.
//!
//! Spark sorts all candidates and takes the head. Two rules follow that are easy to miss. The sort
//! is stable, so among equals the *first listed* wins where the smallest is sought, and the *last
//! listed* for the "biggest", a sort reversed; the host lists ids as Spark does, as text, descending.
//! And Spark's averages and outliers are computed in `Float`: widths and the order of additions here
//! are Spark's own, since one rounding more or less is another executor.
//!
//! Here nothing is sorted: one pass keeps the best `picks_max`.

mod outlier;
mod rank;
#[cfg(test)]
mod tests;

use std::fmt::Display;

use rollcall_policy::{Fleet, NoSettings, Pick, RollPolicy, Selection};

use rank::{Tie, best};

/// A value that one of Spark's policies looks at.
#[derive(Clone, Copy)]
struct Metric {
    name: &'static str,
    unit: &'static str,
    column: fn(&Fleet) -> Column<'_>,
}

#[derive(Clone, Copy)]
enum Column<'a> {
    I32(&'a [i32]),
    I64(&'a [i64]),
}

const TOTAL_DURATION: Metric =
    Metric { name: "total duration", unit: " ms", column: |f| Column::I64(&f.executors.total_duration_ms) };
const TOTAL_GC_TIME: Metric =
    Metric { name: "total GC time", unit: " ms", column: |f| Column::I64(&f.executors.total_gc_time_ms) };
const FAILED_TASKS: Metric =
    Metric { name: "failed tasks", unit: "", column: |f| Column::I32(&f.executors.failed_tasks) };
const PEAK_JVM_ONHEAP: Metric = Metric {
    name: "peak JVM on-heap memory",
    unit: " bytes",
    column: |f| Column::I64(&f.executors.peak_jvm_onheap_bytes),
};
const PEAK_JVM_OFFHEAP: Metric = Metric {
    name: "peak JVM off-heap memory",
    unit: " bytes",
    column: |f| Column::I64(&f.executors.peak_jvm_offheap_bytes),
};
const TOTAL_SHUFFLE_WRITE: Metric = Metric {
    name: "total shuffle write",
    unit: " bytes",
    column: |f| Column::I64(&f.executors.total_shuffle_write_bytes),
};
const DISK_USED: Metric =
    Metric { name: "disk used", unit: " bytes", column: |f| Column::I64(&f.executors.disk_used_bytes) };

/// The smallest id. Ids are given out in ascending order: the longest-lived executor.
fn by_id(fleet: &Fleet) -> Vec<Pick> {
    let id = |i: usize| fleet.executors.id[i];
    best(fleet, Tie::First, |a, b| id(b).cmp(&id(a)))
        .map(|i| pick(i, 0.0 - (id(i) as f64), format!("smallest id, {}", id(i))))
        .collect()
}

/// The earliest to register.
fn by_add_time(fleet: &Fleet) -> Vec<Pick> {
    let time = |i: usize| fleet.executors.add_time_ms[i];
    best(fleet, Tie::First, |a, b| time(b).cmp(&time(a)))
        .map(|i| {
            pick(
                i,
                0.0 - (time(i) as f64),
                format!("earliest to register, at {} ms since the epoch", time(i)),
            )
        })
        .collect()
}

/// The fewest running tasks, then the earliest to register.
fn by_active_tasks(fleet: &Fleet) -> Vec<Pick> {
    let e = &fleet.executors;
    best(fleet, Tie::First, |a, b| {
        (e.active_tasks[b], e.add_time_ms[b]).cmp(&(e.active_tasks[a], e.add_time_ms[a]))
    })
    .map(|i| {
        pick(i, 0.0 - f64::from(e.active_tasks[i]), format!("fewest active tasks, {}", e.active_tasks[i]))
    })
    .collect()
}

/// The biggest total duration per task.
fn by_average_duration(fleet: &Fleet) -> Vec<Pick> {
    let e = &fleet.executors;
    let average = |i: usize| e.total_duration_ms[i] as f32 / e.total_tasks[i].max(1) as f32;
    best(fleet, Tie::Last, |a, b| average(a).total_cmp(&average(b)))
        .map(|i| pick(i, average(i).into(), format!("biggest average duration, {} ms", average(i))))
        .collect()
}

/// The biggest value, exactly.
fn by_biggest(fleet: &Fleet, metric: Metric) -> Vec<Pick> {
    match (metric.column)(fleet) {
        Column::I32(values) => by_biggest_of(fleet, metric, values),
        Column::I64(values) => by_biggest_of(fleet, metric, values),
    }
}

fn by_biggest_of<T: Copy + Ord + Display + Into<i64>>(
    fleet: &Fleet,
    metric: Metric,
    values: &[T],
) -> Vec<Pick> {
    best(fleet, Tie::Last, |a, b| values[a].cmp(&values[b]))
        .map(|i| {
            let value: i64 = values[i].into();
            pick(i, value as f64, format!("biggest {}, {value}{}", metric.name, metric.unit))
        })
        .collect()
}

fn pick(index: usize, score: f64, reason: String) -> Pick {
    Pick { index: index as u32, score, reason }
}

/// An answer with these picks, or the reason why there are none.
fn selection(picks: Vec<Pick>, none: &str) -> Selection {
    if picks.is_empty() { Selection::Nothing(none.into()) } else { Selection::Roll(picks) }
}

/// One type for each of Spark's policies, and the name table of them all.
macro_rules! policies {
    ($($(#[doc = $docs:literal])+ $type:ident $name:literal => $select:expr;)+) => {
        $(
            $(#[doc = $docs])+
            pub struct $type;

            impl RollPolicy for $type {
                const NAME: &'static str = $name;
                const DOCS: &'static str = concat!($($docs, "\n"),+);
                type Settings = NoSettings;

                fn select(_: NoSettings, fleet: &Fleet) -> Result<Selection, String> {
                    let select: fn(&Fleet) -> Selection = $select;
                    Ok(select(fleet))
                }
            }
        )+

        /// Every policy of this module with its name, as a native function.
        pub const POLICIES: &[(&str, fn(&Fleet) -> Result<Selection, String>)] =
            &[$(($name, |fleet| $type::select(NoSettings {}, fleet))),+];

        rollcall_policy::export!(roll: $($type),+);
    };
}

const NO_CANDIDATES: &str = "no candidates";
const NO_OUTLIERS: &str = "no executor is an outlier in any dimension";

policies! {
    /// The executor with the smallest id.
    Id "ID" => |fleet| selection(by_id(fleet), NO_CANDIDATES);
    /// The executor that registered first.
    AddTime "ADD_TIME" => |fleet| selection(by_add_time(fleet), NO_CANDIDATES);
    /// The executor with the most time spent in garbage collection.
    TotalGcTime "TOTAL_GC_TIME" => |fleet| selection(by_biggest(fleet, TOTAL_GC_TIME), NO_CANDIDATES);
    /// The executor with the most task time.
    TotalDuration "TOTAL_DURATION" => |fleet| selection(by_biggest(fleet, TOTAL_DURATION), NO_CANDIDATES);
    /// The executor with the most task time per task.
    AverageDuration "AVERAGE_DURATION" => |fleet| selection(by_average_duration(fleet), NO_CANDIDATES);
    /// The executor with the most failed tasks.
    FailedTasks "FAILED_TASKS" => |fleet| selection(by_biggest(fleet, FAILED_TASKS), NO_CANDIDATES);
    /// The executor with the highest peak of JVM heap memory.
    PeakJvmOnheapMemory "PEAK_JVM_ONHEAP_MEMORY" => |fleet| selection(by_biggest(fleet, PEAK_JVM_ONHEAP), NO_CANDIDATES);
    /// The executor with the highest peak of JVM memory off the heap.
    PeakJvmOffheapMemory "PEAK_JVM_OFFHEAP_MEMORY" => |fleet| selection(by_biggest(fleet, PEAK_JVM_OFFHEAP), NO_CANDIDATES);
    /// The executor that has written the most shuffle bytes.
    TotalShuffleWrite "TOTAL_SHUFFLE_WRITE" => |fleet| selection(by_biggest(fleet, TOTAL_SHUFFLE_WRITE), NO_CANDIDATES);
    /// The executor that uses the most disk for storage.
    DiskUsed "DISK_USED" => |fleet| selection(by_biggest(fleet, DISK_USED), NO_CANDIDATES);
    /// The executor with the fewest active tasks, the earliest to register among equals.
    ActiveTasks "ACTIVE_TASKS" => |fleet| selection(by_active_tasks(fleet), NO_CANDIDATES);
    /// The biggest outlier; TOTAL_DURATION's choice when there is none.
    ///
    /// Dimensions are tried in turn, and the first that has outliers (more than two standard
    /// deviations above the mean) decides: average duration, total duration, total GC time, failed
    /// tasks, peak JVM on-heap memory, peak JVM off-heap memory, total shuffle write, disk used.
    Outlier "OUTLIER" => |fleet| {
        let outliers = outlier::outliers(fleet);
        let picks = if outliers.is_empty() { by_biggest(fleet, TOTAL_DURATION) } else { outliers };
        selection(picks, NO_CANDIDATES)
    };
    /// The biggest outlier, as OUTLIER; nobody when there is none.
    OutlierNoFallback "OUTLIER_NO_FALLBACK" => |fleet| selection(outlier::outliers(fleet), NO_OUTLIERS);
}
