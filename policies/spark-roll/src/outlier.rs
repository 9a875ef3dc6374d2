//! Outliers as Spark finds them (`ExecutorRollDriverPlugin.outliers`): candidates that lie more than
//! two standard deviations above the mean of one dimension.
//!
//! Every operation has Spark's width: values, mean and squared deviations are `Float`, summed from
//! left to right from zero; the root, its double and the comparison are `Double`.

use rollcall_policy::{Fleet, Pick};

use crate::rank::{Tie, best_of};
use crate::{
    Column, DISK_USED, FAILED_TASKS, Metric, PEAK_JVM_OFFHEAP, PEAK_JVM_ONHEAP, TOTAL_DURATION,
    TOTAL_GC_TIME, TOTAL_SHUFFLE_WRITE, pick,
};

/// The dimensions after the average duration, in the order in which Spark looks at them.
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
    let picks = by_average_duration(fleet);
    if !picks.is_empty() {
        return picks;
    }
    DIMENSIONS.iter().map(|&metric| by(fleet, metric)).find(|picks| !picks.is_empty()).unwrap_or_default()
}

/// Spark divides two integers here, where its AVERAGE_DURATION divides two floats, and looks only at
/// executors that have run a task.
fn by_average_duration(fleet: &Fleet) -> Vec<Pick> {
    let e = &fleet.executors;
    let worked: Vec<usize> = (0..fleet.len()).filter(|&i| e.total_tasks[i] > 0).collect();
    let average = |i: usize| e.total_duration_ms[i] / i64::from(e.total_tasks[i]);
    let values: Vec<f32> = worked.iter().map(|&i| average(i) as f32).collect();
    outlying(&values, fleet.picks_max)
        .map(|(at, outlier)| {
            let i = worked[at];
            pick(i, outlier.value.into(), outlier.reason("average duration", average(i), " ms"))
        })
        .collect()
}

fn by(fleet: &Fleet, metric: Metric) -> Vec<Pick> {
    let column = (metric.column)(fleet);
    let values: Vec<f32> = match column {
        Column::I32(column) => column.iter().map(|&value| value as f32).collect(),
        Column::I64(column) => column.iter().map(|&value| value as f32).collect(),
    };
    outlying(&values, fleet.picks_max)
        .map(|(at, outlier)| {
            let exact = match column {
                Column::I32(column) => column[at].into(),
                Column::I64(column) => column[at],
            };
            pick(at, outlier.value.into(), outlier.reason(metric.name, exact, metric.unit))
        })
        .collect()
}

/// An outlier and what it stands out from.
struct Outlier {
    value: f32,
    mean: f32,
    sd: f64,
    size: usize,
}

/// The outliers among the values, with their places.
fn outlying(values: &[f32], count: u32) -> impl Iterator<Item = (usize, Outlier)> {
    let size = values.len() as f32;
    let mean = sum(values.iter().copied()) / size;
    let variance = sum(values.iter().map(|value| (value - mean) * (value - mean))) / size;
    let sd = f64::from(variance).sqrt();
    let outlying = (0..values.len()).filter(|&at| f64::from(values[at] - mean) > 2.0 * sd);
    best_of(outlying, count as usize, Tie::Last, |a, b| values[a].total_cmp(&values[b]))
        .into_iter()
        .map(move |at| (at, Outlier { value: values[at], mean, sd, size: values.len() }))
}

/// Left to right, as Scala's `Seq.sum` folds. Rust's own `sum` starts from -0.0 and promises no order.
fn sum(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |sum, value| sum + value)
}

impl Outlier {
    fn reason(&self, name: &str, exact: i64, unit: &str) -> String {
        let Outlier { mean, sd, size, .. } = self;
        format!(
            "{name} {exact}{unit} is an outlier: of {size} executors the mean is {mean:.0}{unit}, \
             the standard deviation {sd:.0}{unit}"
        )
    }
}
