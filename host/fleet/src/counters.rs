//! Spark's counters of an executor.
//!
//! [`with_counters`](crate::with_counters) is the only list of them. All code that has a field or a line for each
//! counter is generated from it: the structs and columns of the core, the parser of Spark's REST API, the input of
//! `rollcall policy run`, and the conversion for the sandbox.

/// Calls a macro with the list of counters.
///
/// A line has the field, which the contract in `wit/` calls the same; its type; how Spark writes the value; and
/// Spark's name: in `ExecutorSummary`, or for a peak in its `peakMemoryMetrics`.
#[macro_export]
macro_rules! with_counters {
    ($callback:ident) => {
        $callback! {
            add_time_ms: i64 = time("addTime"),
            active_tasks: i32 = int("activeTasks"),
            failed_tasks: i32 = int("failedTasks"),
            completed_tasks: i32 = int("completedTasks"),
            total_tasks: i32 = int("totalTasks"),
            total_duration_ms: i64 = long("totalDuration"),
            total_gc_time_ms: i64 = long("totalGCTime"),
            total_input_bytes: i64 = long("totalInputBytes"),
            total_shuffle_read_bytes: i64 = long("totalShuffleRead"),
            total_shuffle_write_bytes: i64 = long("totalShuffleWrite"),
            memory_used_bytes: i64 = long("memoryUsed"),
            disk_used_bytes: i64 = long("diskUsed"),
            peak_jvm_onheap_bytes: i64 = peak("JVMHeapMemory"),
            peak_jvm_offheap_bytes: i64 = peak("JVMOffHeapMemory"),
        }
    };
}

/// Where Spark's REST API has a counter.
macro_rules! source {
    (peak $name:literal) => {
        concat!("Spark: `peakMemoryMetrics.", $name, "`.")
    };
    ($how:ident $name:literal) => {
        concat!("Spark: `", $name, "`.")
    };
}

macro_rules! counters {
    ($($field:ident: $type:ident = $how:ident($name:literal),)*) => {
        /// Spark's counters of an executor (`ExecutorSummary`), as its driver reports them. The contract in
        /// `wit/` explains each. Spark's may be negative, and so may these. Without `peakMemoryMetrics`, the
        /// peak on the heap is -1, and the one off the heap 0, as in Spark's own plugin.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $(#[doc = source!($how $name)] pub $field: $type,)*
        }
    };
}

with_counters!(counters);
