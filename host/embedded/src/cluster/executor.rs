//! The JVM in an executor's pod: it works, counts, and reports in Spark's formats.
//!
//! Its reports have the names and shapes that were captured from a Spark 4.3.0 application: GraphiteSink's
//! lines, and a row of REST's `/allexecutors`. Left out of the lines are the file system, HiveExternalCatalog
//! and CodeGenerator, which carry no information about health. All counters are computed from the time that it
//! has worked, so they never decrease.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::server::clock::spark_time;

use super::dice::Dice;

const CORES: u64 = 4;
const MIB: u64 = 1 << 20;
/// Of the JVM's heap.
const HEAP: u64 = 1024 * MIB;

#[derive(Clone, Debug)]
pub(super) struct Executor {
    pub app: String,
    pub id: String,
    added_wall_ms: i64,
    /// It has worked until this time.
    worked_ms: u64,
    /// Busy time of all cores together.
    busy_ms: u64,
    task_ms: u64,
    /// Share of the time that is lost to garbage collection.
    gc_permille: u64,
    /// Failing tasks, in a thousand.
    failing_permille: u64,
    pub next_beat_ms: u64,
    /// It was stopped, as with SIGSTOP: it works and sends nothing.
    pub silent: bool,
    /// When and why the driver removed it.
    pub removed: Option<(i64, String)>,
}

impl Executor {
    /// Most are alike; one in eight is slow, and one in eight spends most of its time in garbage collection.
    pub fn start(
        dice: &mut Dice,
        app: &str,
        id: &str,
        now_ms: u64,
        wall_ms: i64,
        heartbeat_ms: u64,
    ) -> Executor {
        let (slow, bloated) = match dice.between(0, 7) {
            0 => (4, false),
            1 => (2, true),
            _ => (1, false),
        };
        Executor {
            app: app.to_owned(),
            id: id.to_owned(),
            added_wall_ms: wall_ms,
            worked_ms: now_ms,
            busy_ms: 0,
            task_ms: dice.between(350, 450) * slow,
            gc_permille: if bloated { dice.between(350, 500) } else { dice.between(10, 40) },
            failing_permille: if dice.chance(10) { 60 } else { 4 },
            // Not all at the same time, and the first report soon.
            next_beat_ms: now_ms + dice.between(100, 1000.min(heartbeat_ms)),
            silent: false,
            removed: None,
        }
    }

    /// Works until now.
    pub fn work(&mut self, now_ms: u64) {
        if !self.silent && self.removed.is_none() {
            self.busy_ms += now_ms.saturating_sub(self.worked_ms) * CORES;
        }
        self.worked_ms = now_ms;
    }

    fn total_tasks(&self) -> u64 {
        self.busy_ms / self.task_ms
    }

    fn failed_tasks(&self) -> u64 {
        self.total_tasks() * self.failing_permille / 1000
    }

    fn active_tasks(&self) -> u64 {
        if self.removed.is_none() { CORES } else { 0 }
    }

    fn gc_ms(&self) -> u64 {
        self.busy_ms / CORES * self.gc_permille / 1000
    }

    /// The heap fills up and is collected: a sawtooth of 9 s above a constant part.
    fn heap(&self) -> u64 {
        let kept = HEAP / 8 + HEAP * self.gc_permille / 1000;
        (kept + self.busy_ms / CORES % 9000 * HEAP / 3 / 9000).min(HEAP)
    }

    fn peak_heap(&self) -> u64 {
        let cycle = (self.busy_ms / CORES).min(9000);
        (HEAP / 8 + HEAP * self.gc_permille / 1000 + cycle * HEAP / 3 / 9000).min(HEAP)
    }

    /// `ExecutorMetrics`, under Spark's names.
    fn executor_metrics(&self, heap: u64) -> [(&'static str, u64); 23] {
        let storage = HEAP / 50;
        let gc_count = self.gc_ms() / 40;
        [
            ("ConcurrentGCCount", 0),
            ("ConcurrentGCTime", 0),
            ("DirectPoolMemory", 12 * MIB),
            ("JVMHeapMemory", heap),
            ("JVMOffHeapMemory", 92 * MIB),
            ("MajorGCCount", gc_count / 50),
            ("MajorGCTime", self.gc_ms() / 10),
            ("MappedPoolMemory", 0),
            ("MinorGCCount", gc_count),
            ("MinorGCTime", self.gc_ms() - self.gc_ms() / 10),
            ("OffHeapExecutionMemory", 0),
            ("OffHeapStorageMemory", 0),
            ("OffHeapUnifiedMemory", 0),
            ("OnHeapExecutionMemory", heap / 10),
            ("OnHeapStorageMemory", storage),
            ("OnHeapUnifiedMemory", heap / 10 + storage),
            ("ProcessTreeJVMRSSMemory", 0),
            ("ProcessTreeJVMVMemory", 0),
            ("ProcessTreeOtherRSSMemory", 0),
            ("ProcessTreeOtherVMemory", 0),
            ("ProcessTreePythonRSSMemory", 0),
            ("ProcessTreePythonVMemory", 0),
            ("TotalGCTime", self.gc_ms()),
        ]
    }

    /// One report of GraphiteSink: `<app id>.<executor id>.<metric> <value> <epoch s>` in each line.
    pub fn graphite(&self, wall_ms: i64) -> String {
        let (tasks, good) = (self.total_tasks(), self.total_tasks() - self.failed_tasks());
        let shuffled = tasks * 48 * 1024;
        let others = [
            ("JVMCPU.jvmCpuTime", self.busy_ms * 900_000),
            ("NettyBlockTransfer.shuffle-client.usedDirectMemory", 8 * MIB),
            ("NettyBlockTransfer.shuffle-client.usedHeapMemory", 0),
            ("NettyBlockTransfer.shuffle-server.usedDirectMemory", 4 * MIB),
            ("NettyBlockTransfer.shuffle-server.usedHeapMemory", 0),
            ("executor.threadpool.activeTasks", self.active_tasks()),
            ("executor.threadpool.completeTasks", tasks),
            ("executor.threadpool.currentPool_size", CORES),
            ("executor.threadpool.maxPool_size", 2_147_483_647),
            ("executor.threadpool.startedTasks", tasks + self.active_tasks()),
            ("executor.bytesRead.count", tasks * MIB),
            ("executor.bytesWritten.count", 0),
            ("executor.cpuTime.count", self.busy_ms * 850_000),
            ("executor.deserializeCpuTime.count", tasks * 900_000),
            ("executor.deserializeTime.count", tasks),
            ("executor.diskBytesSpilled.count", 0),
            ("executor.jvmGCTime.count", self.gc_ms()),
            ("executor.memoryBytesSpilled.count", 0),
            ("executor.recordsRead.count", tasks * 1000),
            ("executor.recordsWritten.count", 0),
            ("executor.resultSerializationTime.count", tasks / 50),
            ("executor.resultSize.count", tasks * 1800),
            ("executor.runTime.count", self.busy_ms),
            ("executor.shuffleBytesWritten.count", shuffled),
            ("executor.shuffleFetchWaitTime.count", tasks / 10),
            ("executor.shuffleRecordsWritten.count", tasks * 16),
            ("executor.shuffleTotalBytesRead.count", shuffled),
            ("executor.shuffleWriteTime.count", tasks * 20_000_000),
            ("executor.succeededTasks.count", good),
        ];
        let mut lines = String::new();
        let mut line = |group: &str, (name, value): (&str, u64)| {
            let seconds = wall_ms.div_euclid(1000);
            writeln!(lines, "{}.{}.{group}{name} {value} {seconds}", self.app, self.id)
                .expect("a String takes what is written to it");
        };
        self.executor_metrics(self.heap()).into_iter().for_each(|metric| line("ExecutorMetrics.", metric));
        others.into_iter().for_each(|metric| line("", metric));
        lines
    }

    /// A row of `/allexecutors`.
    pub fn row(&self, port: u64) -> Value {
        let (total, failed) = (self.total_tasks(), self.failed_tasks());
        let peaks: serde_json::Map<String, Value> = self
            .executor_metrics(self.peak_heap())
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let mut row = driver_row(self.added_wall_ms);
        let counters = json!({
            "id": self.id, "hostPort": format!("127.0.0.1:{port}"), "isActive": self.removed.is_none(),
            "rddBlocks": 8, "memoryUsed": HEAP / 50, "totalCores": CORES, "maxTasks": CORES,
            "activeTasks": self.active_tasks(), "failedTasks": failed, "completedTasks": total - failed,
            "totalTasks": total + self.active_tasks(), "totalDuration": self.busy_ms, "totalGCTime": self.gc_ms(),
            "totalInputBytes": total * MIB, "totalShuffleRead": total * 48 * 1024,
            "totalShuffleWrite": total * 48 * 1024, "peakMemoryMetrics": peaks,
        });
        if let (Some(row), Value::Object(counters)) = (row.as_object_mut(), counters) {
            row.extend(counters);
            if let Some((at, why)) = &self.removed {
                row.insert("removeTime".to_owned(), spark_time(*at).into());
                row.insert("removeReason".to_owned(), why.clone().into());
            }
        }
        row
    }
}

/// The driver's own row.
pub(super) fn driver_row(added_wall_ms: i64) -> Value {
    let mut row = json!({
        "id": "driver", "hostPort": "127.0.0.1:7079", "isActive": true, "rddBlocks": 0, "totalCores": 0,
        "maxTasks": 0, "isBlacklisted": false, "maxMemory": HEAP * 6 / 10,
        "addTime": spark_time(added_wall_ms), "executorLogs": {},
        "memoryMetrics": {
            "usedOnHeapStorageMemory": 0, "usedOffHeapStorageMemory": 0,
            "totalOnHeapStorageMemory": HEAP * 6 / 10, "totalOffHeapStorageMemory": 0,
        },
        "blacklistedInStages": [], "attributes": {}, "resources": {}, "resourceProfileId": 0,
        "isExcluded": false, "excludedInStages": [],
    });
    macro_rules! zeroes {
        ($($field:ident: $type:ident = $how:ident($name:literal),)*) => {
            for (how, name) in [$((stringify!($how), $name)),*] {
                if matches!(how, "int" | "long") {
                    row[name] = 0.into();
                }
            }
        };
    }
    fleet::with_counters!(zeroes);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_grow_and_lines_are_graphites() {
        let mut dice = Dice::new(3);
        let mut executor = Executor::start(&mut dice, "spark-1", "7", 0, 1_795_254_314_600, 5000);
        executor.work(10_000);
        let first = executor.row(7080);
        executor.work(20_000);
        let second = executor.row(7080);
        for counter in ["totalTasks", "totalDuration", "totalGCTime", "totalShuffleRead"] {
            assert!(second[counter].as_u64() > first[counter].as_u64(), "{counter}");
        }
        let lines = executor.graphite(1_795_254_314_600);
        assert!(lines.contains("spark-1.7.executor.runTime.count 80000 1795254314\n"), "{lines}");
        assert!(lines.lines().all(|line| line.split(' ').count() == 3 && line.starts_with("spark-1.7.")));
        executor.silent = true;
        executor.work(60_000);
        assert_eq!(executor.row(7080)["totalTasks"], second["totalTasks"], "what is stopped does nothing");
        executor.removed = Some((1_795_254_366_679, "because".to_owned()));
        let row = executor.row(7080);
        assert_eq!(
            (&row["isActive"], &row["removeTime"]),
            (&json!(false), &json!("2026-11-21T09:46:06.679GMT"))
        );
    }
}
