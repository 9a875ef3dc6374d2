//! Outliers as Spark finds them (`ExecutorRollDriverPlugin.outliers`): candidates that lie more than
//! two standard deviations above the mean of one dimension.
//!
//! Every operation has Spark's width: values, mean and squared deviations are `Float`, summed from
//! left to right from zero; the root, its double and the comparison are `Double`.

use rollcall_policy::{Fleet, Pick};

use crate::rank::{Tie, best_of};
use crate::{
    DISK_USED, FAILED_TASKS, Metric, PEAK_JVM_OFFHEAP, PEAK_JVM_ONHEAP, TOTAL_DURATION, TOTAL_GC_TIME,
    TOTAL_SHUFFLE_WRITE, pick,
};

/// The average in whole milliseconds: Spark divides two integers here, where its AVERAGE_DURATION
/// divides two floats. Only for executors that have run a task.
const AVERAGE_DURATION: Metric = Metric {
    name: "average duration",
    unit: " ms",
    exact: |f, i| f.executors.total_duration_ms[i] / i64::from(f.executors.total_tasks[i]),
};

/// The dimensions after the average, in the order in which Spark looks at them.
const DIMENSIONS: [Metric; 7] = [
    TOTAL_DURATION,
    TOTAL_GC_TIME,
    FAILED_TASKS,
    PEAK_JVM_ONHEAP,
    PEAK_JVM_OFFHEAP,
    TOTAL_SHUFFLE_WRITE,
    DISK_USED,
];

/// The outliers of the first dimension that has any, the biggest first, at most `picks_max`.
pub(crate) fn outliers(fleet: &Fleet) -> Vec<Pick> {
    let worked: Vec<usize> = (0..fleet.len()).filter(|&i| fleet.executors.total_tasks[i] > 0).collect();
    let picks = outliers_in(fleet, &worked, AVERAGE_DURATION);
    if !picks.is_empty() {
        return picks;
    }
    let all: Vec<usize> = (0..fleet.len()).collect();
    DIMENSIONS
        .iter()
        .map(|&dimension| outliers_in(fleet, &all, dimension))
        .find(|picks| !picks.is_empty())
        .unwrap_or_default()
}

fn outliers_in(fleet: &Fleet, rows: &[usize], metric: Metric) -> Vec<Pick> {
    if rows.is_empty() {
        return Vec::new();
    }
    let size = rows.len() as f32;
    let values: Vec<f32> = rows.iter().map(|&row| (metric.exact)(fleet, row) as f32).collect();
    let mean = sum(values.iter().copied()) / size;
    let variance = sum(values.iter().map(|value| (value - mean) * (value - mean))) / size;
    let sd = f64::from(variance).sqrt();
    let outlying = (0..rows.len()).filter(|&at| f64::from(values[at] - mean) > 2.0 * sd);
    best_of(outlying, fleet.picks_max as usize, Tie::Last, |a, b| values[a].total_cmp(&values[b]))
        .into_iter()
        .map(|at| {
            let reason = format!(
                "{} {}{unit} is an outlier: the mean of {} executors is {mean:.0}{unit}, the standard deviation {sd:.0}{unit}",
                metric.name,
                (metric.exact)(fleet, rows[at]),
                rows.len(),
                unit = metric.unit,
            );
            pick(rows[at], values[at].into(), reason)
        })
        .collect()
}

/// Left to right, as Scala's `Seq.sum` folds. Rust's own `sum` starts from -0.0 and promises no order.
fn sum(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |sum, value| sum + value)
}
