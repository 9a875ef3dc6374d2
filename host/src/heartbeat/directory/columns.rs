//! Which metrics are stored for an executor, and the names that policies use for them.

use std::collections::HashMap;

/// Which metrics are stored, and the names that policies use for them.
#[derive(Debug)]
pub struct Columns {
    graphite: HashMap<Box<[u8]>, usize>,
    pub names: Vec<Box<str>>,
}

impl Columns {
    pub fn new(extra: &[String]) -> Columns {
        let mut columns = Columns { graphite: HashMap::new(), names: Vec::new() };
        for name in KNOWN {
            columns.add(name, column_name(name));
        }
        for name in extra {
            columns.add(name, name);
        }
        columns
    }

    fn add(&mut self, graphite: &str, column: &str) {
        if !self.graphite.contains_key(graphite.as_bytes()) {
            self.graphite.insert(graphite.as_bytes().into(), self.names.len());
            self.names.push(column.into());
        }
    }

    /// The index of a Graphite metric in `names`.
    pub fn of_graphite(&self, name: &[u8]) -> Option<usize> {
        self.graphite.get(name).copied()
    }

    pub fn contains(&self, column: &str) -> bool {
        self.names.iter().any(|name| **name == *column)
    }
}

/// `ExecutorMetrics.JVMHeapMemory` is `JVMHeapMemory`, `executor.runTime.count` is `runTime`: the names that Spark uses
/// elsewhere.
fn column_name(graphite: &str) -> &str {
    let name = graphite.strip_prefix("ExecutorMetrics.").or_else(|| graphite.strip_prefix("executor."));
    let name = name.unwrap_or(graphite);
    name.strip_suffix(".count").unwrap_or(name)
}

/// The metrics of Spark 4.3 about an executor that could be useful to a policy. `jvm.` needs the JvmSource.
const KNOWN: [&str; 46] = [
    "ExecutorMetrics.ConcurrentGCCount",
    "ExecutorMetrics.ConcurrentGCTime",
    "ExecutorMetrics.DirectPoolMemory",
    "ExecutorMetrics.JVMHeapMemory",
    "ExecutorMetrics.JVMOffHeapMemory",
    "ExecutorMetrics.MajorGCCount",
    "ExecutorMetrics.MajorGCTime",
    "ExecutorMetrics.MappedPoolMemory",
    "ExecutorMetrics.MinorGCCount",
    "ExecutorMetrics.MinorGCTime",
    "ExecutorMetrics.OffHeapExecutionMemory",
    "ExecutorMetrics.OffHeapStorageMemory",
    "ExecutorMetrics.OffHeapUnifiedMemory",
    "ExecutorMetrics.OnHeapExecutionMemory",
    "ExecutorMetrics.OnHeapStorageMemory",
    "ExecutorMetrics.OnHeapUnifiedMemory",
    "ExecutorMetrics.ProcessTreeJVMRSSMemory",
    "ExecutorMetrics.ProcessTreeJVMVMemory",
    "ExecutorMetrics.ProcessTreeOtherRSSMemory",
    "ExecutorMetrics.ProcessTreeOtherVMemory",
    "ExecutorMetrics.ProcessTreePythonRSSMemory",
    "ExecutorMetrics.ProcessTreePythonVMemory",
    "ExecutorMetrics.TotalGCTime",
    "JVMCPU.jvmCpuTime",
    "executor.bytesRead.count",
    "executor.bytesWritten.count",
    "executor.cpuTime.count",
    "executor.deserializeTime.count",
    "executor.diskBytesSpilled.count",
    "executor.jvmGCTime.count",
    "executor.memoryBytesSpilled.count",
    "executor.resultSize.count",
    "executor.runTime.count",
    "executor.shuffleBytesWritten.count",
    "executor.shuffleFetchWaitTime.count",
    "executor.shuffleTotalBytesRead.count",
    "executor.shuffleWriteTime.count",
    "executor.succeededTasks.count",
    "executor.threadpool.activeTasks",
    "executor.threadpool.completeTasks",
    "executor.threadpool.currentPool_size",
    "executor.threadpool.startedTasks",
    "jvm.heap.max",
    "jvm.heap.usage",
    "jvm.heap.used",
    "jvm.non-heap.used",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_columns_have_names_of_their_own() {
        let columns = Columns::new(&["jvm.heap.used".to_owned(), "jvm.x".to_owned()]);
        assert_eq!(columns.names.len(), KNOWN.len() + 1);
        let mut names: Vec<_> = columns.names.iter().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), columns.names.len(), "two metrics share a column");
        let of = |name: &str| columns.of_graphite(name.as_bytes()).map(|place| &*columns.names[place]);
        assert_eq!(of("executor.succeededTasks.count"), Some("succeededTasks"));
        assert_eq!(of("ExecutorMetrics.JVMHeapMemory"), Some("JVMHeapMemory"));
        assert_eq!(of("jvm.x"), Some("jvm.x"));
        assert_eq!(of("succeededTasks"), None);
    }
}
