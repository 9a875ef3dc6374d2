//! The candidates as rows. They cross the boundary as columns because that is cheap; policies are
//! easier to write over rows. Hot loops may still read a column, as `fleet.executors.failed_tasks`.

use crate::{Executors, Fleet};

/// One candidate. The fields are those of [`Executors`], one value each: Spark's counters come from the
/// driver's `ExecutorSummary` (REST: `/api/v1/applications/<id>/allexecutors`) and have its width and sign.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Executor {
    /// Which row it is: what [`crate::Pick::index`] wants.
    pub index: u32,
    /// Executor id: a number, never reused within an application. Spark: `ExecutorSummary.id`; label
    /// `spark-exec-id`.
    pub id: u64,
    /// When it registered with the driver, milliseconds since the epoch. Spark: `addTime`.
    pub add_time_ms: i64,
    /// Tasks running now. Spark: `activeTasks`.
    pub active_tasks: i32,
    /// Tasks that failed here. Spark: `failedTasks`.
    pub failed_tasks: i32,
    /// Tasks that succeeded here. Spark: `completedTasks`.
    pub completed_tasks: i32,
    /// Active, failed and completed tasks. Spark: `totalTasks`.
    pub total_tasks: i32,
    /// Sum of the durations of ended tasks, milliseconds. Spark: `totalDuration`.
    pub total_duration_ms: i64,
    /// JVM garbage collection during ended tasks, milliseconds. Spark: `totalGCTime`.
    pub total_gc_time_ms: i64,
    /// Bytes read by input tasks. Spark: `totalInputBytes`.
    pub total_input_bytes: i64,
    /// Shuffle bytes read. Spark: `totalShuffleRead`.
    pub total_shuffle_read_bytes: i64,
    /// Shuffle bytes written. Spark: `totalShuffleWrite`.
    pub total_shuffle_write_bytes: i64,
    /// Storage memory in use, bytes. Spark: `memoryUsed`.
    pub memory_used_bytes: i64,
    /// Storage disk in use, bytes. Spark: `diskUsed`.
    pub disk_used_bytes: i64,
    /// The highest use of the heap, bytes; -1 where the driver has none. Spark:
    /// `peakMemoryMetrics.JVMHeapMemory`.
    pub peak_jvm_onheap_bytes: i64,
    /// The highest JVM use off the heap, bytes; 0 where the driver has none. Spark:
    /// `peakMemoryMetrics.JVMOffHeapMemory`.
    pub peak_jvm_offheap_bytes: i64,
    /// Time since its pod was created (`metadata.creationTimestamp`) or, where the pod is not known,
    /// since `add_time_ms`; milliseconds.
    pub age_ms: u64,
    /// Time since its last heartbeat, milliseconds. `None`: no heartbeat has been seen.
    pub since_heartbeat_ms: Option<u64>,
    /// On which node it runs: an index into [`Fleet::nodes`]. `None`: not known. Kubernetes:
    /// `spec.nodeName`.
    pub node: Option<u32>,
}

impl Fleet {
    /// How many candidates there are.
    pub fn len(&self) -> usize {
        self.executors.id.len()
    }

    /// Are there no candidates?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The candidates in the order of Spark's own plugin: ids as text, descending.
    pub fn iter(&self) -> impl Iterator<Item = Executor> {
        let e = &self.executors;
        (0..self.len()).map(move |i| Executor {
            index: i as u32,
            id: e.id[i],
            add_time_ms: e.add_time_ms[i],
            active_tasks: e.active_tasks[i],
            failed_tasks: e.failed_tasks[i],
            completed_tasks: e.completed_tasks[i],
            total_tasks: e.total_tasks[i],
            total_duration_ms: e.total_duration_ms[i],
            total_gc_time_ms: e.total_gc_time_ms[i],
            total_input_bytes: e.total_input_bytes[i],
            total_shuffle_read_bytes: e.total_shuffle_read_bytes[i],
            total_shuffle_write_bytes: e.total_shuffle_write_bytes[i],
            memory_used_bytes: e.memory_used_bytes[i],
            disk_used_bytes: e.disk_used_bytes[i],
            peak_jvm_onheap_bytes: e.peak_jvm_onheap_bytes[i],
            peak_jvm_offheap_bytes: e.peak_jvm_offheap_bytes[i],
            age_ms: e.age_ms[i],
            since_heartbeat_ms: (e.since_heartbeat_ms[i] != u64::MAX).then_some(e.since_heartbeat_ms[i]),
            node: (e.node[i] != u32::MAX).then_some(e.node[i]),
        })
    }

    /// The metric column of this name; NaN where an executor has no value.
    pub fn metric(&self, name: &str) -> Option<&[f64]> {
        self.metrics.iter().find(|m| m.name == name).map(|m| &m.values[..])
    }

    /// A fleet of these candidates, for tests: `available` is their number, `picks_max` 1, and
    /// whatever is not given is empty or zero. `index` is set here.
    pub fn of(executors: impl IntoIterator<Item = Executor>) -> Fleet {
        let mut columns = Executors::empty();
        for row in executors {
            columns.push(row);
        }
        let available = columns.id.len() as u32;
        Fleet {
            name: "test".into(),
            application_id: "spark-test".into(),
            target: available,
            available,
            now_ms: 0,
            seed: 0,
            picks_max: 1,
            executors: columns,
            nodes: Vec::new(),
            metrics: Vec::new(),
        }
    }
}

impl Executors {
    fn empty() -> Executors {
        Executors {
            id: Vec::new(),
            add_time_ms: Vec::new(),
            active_tasks: Vec::new(),
            failed_tasks: Vec::new(),
            completed_tasks: Vec::new(),
            total_tasks: Vec::new(),
            total_duration_ms: Vec::new(),
            total_gc_time_ms: Vec::new(),
            total_input_bytes: Vec::new(),
            total_shuffle_read_bytes: Vec::new(),
            total_shuffle_write_bytes: Vec::new(),
            memory_used_bytes: Vec::new(),
            disk_used_bytes: Vec::new(),
            peak_jvm_onheap_bytes: Vec::new(),
            peak_jvm_offheap_bytes: Vec::new(),
            age_ms: Vec::new(),
            since_heartbeat_ms: Vec::new(),
            node: Vec::new(),
        }
    }

    fn push(&mut self, row: Executor) {
        self.id.push(row.id);
        self.add_time_ms.push(row.add_time_ms);
        self.active_tasks.push(row.active_tasks);
        self.failed_tasks.push(row.failed_tasks);
        self.completed_tasks.push(row.completed_tasks);
        self.total_tasks.push(row.total_tasks);
        self.total_duration_ms.push(row.total_duration_ms);
        self.total_gc_time_ms.push(row.total_gc_time_ms);
        self.total_input_bytes.push(row.total_input_bytes);
        self.total_shuffle_read_bytes.push(row.total_shuffle_read_bytes);
        self.total_shuffle_write_bytes.push(row.total_shuffle_write_bytes);
        self.memory_used_bytes.push(row.memory_used_bytes);
        self.disk_used_bytes.push(row.disk_used_bytes);
        self.peak_jvm_onheap_bytes.push(row.peak_jvm_onheap_bytes);
        self.peak_jvm_offheap_bytes.push(row.peak_jvm_offheap_bytes);
        self.age_ms.push(row.age_ms);
        self.since_heartbeat_ms.push(row.since_heartbeat_ms.unwrap_or(u64::MAX));
        self.node.push(row.node.unwrap_or(u32::MAX));
    }
}
