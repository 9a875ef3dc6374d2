//! Fleets as JSON: Spark's own, or ours.
//!
//! Spark's is the answer of `/api/v1/applications/<id>/executors` or `/allexecutors`, an array. Ours is
//! an object with the fields of the contract's `fleet` record in camelCase. Several documents may
//! follow one another, as in JSON Lines.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use fleet::question::{Candidate, Metric, Node, RollQuestion};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::output;

/// Reads document after document. Each error names the document's place in the input.
pub fn documents(input: impl Read) -> impl Iterator<Item = Result<Value>> {
    let mut input = BufReader::new(input);
    // Windows tools put a byte order mark first. An input that cannot be read says so below.
    if input.fill_buf().is_ok_and(|start| start.starts_with(b"\xef\xbb\xbf")) {
        input.consume(3);
    }
    let documents = serde_json::Deserializer::from_reader(input).into_iter::<Value>();
    documents.map(|document| {
        document.map_err(|error| {
            if error.is_eof() {
                anyhow!("the JSON ends too early, at line {} column {}", error.line(), error.column())
            } else {
                anyhow!(error).context("the input is not JSON")
            }
        })
    })
}

/// A question about this fleet. Candidates are the active executors with enough tasks, in the order of
/// the document.
pub fn roll_question(document: &Value, min_tasks: i32, now_ms: i64) -> Result<RollQuestion> {
    let kind = match document {
        Value::Array(executors) => return from_spark(executors, min_tasks, now_ms),
        Value::Object(_) => return from_fleet(document, min_tasks, now_ms),
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
    };
    Err(anyhow!("the input is {kind}; expected the array that Spark's /executors answers, or a fleet object"))
}

/// Deserializes with the path of what is wrong, below `place`.
pub fn at<'de, T: Deserialize<'de>>(document: &'de Value, place: &str) -> Result<T> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        let path = match (place, path.as_str()) {
            ("", ".") => "the document".into(),
            ("", path) => path.into(),
            (place, ".") => place.into(),
            (place, path) => format!("{place}.{path}"),
        };
        anyhow!("{path}: {}", error.into_inner())
    })
}

/// Spark's `ExecutorSummary`, as far as policies see it. Spark always writes the counters; from a
/// document without them (a test's, say) zero is taken and the user is told.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an executor object")]
struct ExecutorSummary {
    id: String,
    host_port: Option<String>,
    #[serde(default = "yes")]
    is_active: bool,
    add_time: Option<String>,
    active_tasks: Option<i32>,
    failed_tasks: Option<i32>,
    completed_tasks: Option<i32>,
    total_tasks: Option<i32>,
    total_duration: Option<i64>,
    #[serde(rename = "totalGCTime")]
    total_gc_time: Option<i64>,
    total_input_bytes: Option<i64>,
    total_shuffle_read: Option<i64>,
    total_shuffle_write: Option<i64>,
    memory_used: Option<i64>,
    disk_used: Option<i64>,
    /// `ExecutorMetrics`, absent until the executor has reported some.
    #[serde(default)]
    peak_memory_metrics: Option<BTreeMap<String, i64>>,
    /// Not in the contract by name: metric columns.
    rdd_blocks: Option<i64>,
    total_cores: Option<i64>,
    max_tasks: Option<i64>,
    max_memory: Option<i64>,
}

/// A default for serde.
pub fn yes() -> bool {
    true
}

fn from_spark(executors: &[Value], min_tasks: i32, now_ms: i64) -> Result<RollQuestion> {
    let mut question = RollQuestion { now_ms, picks_max: 1, ..RollQuestion::default() };
    let mut hosts: BTreeMap<String, u32> = BTreeMap::new();
    let mut metrics = Columns::default();
    let mut absent = BTreeSet::new();
    for (index, executor) in executors.iter().enumerate() {
        let place = format!("[{index}]");
        // The driver's entry is looked at for its id only.
        if executor.get("id").and_then(Value::as_str) == Some("driver") {
            continue;
        }
        let summary: ExecutorSummary = at(executor, &place)?;
        if !summary.is_active {
            continue;
        }
        question.available += 1;
        let mut counter = |name, value: Option<i64>| {
            value.unwrap_or_else(|| {
                absent.insert(name);
                0
            })
        };
        let total_tasks = counter("totalTasks", summary.total_tasks.map(i64::from)) as i32;
        if total_tasks < min_tasks {
            continue;
        }
        let id = summary.id.parse().map_err(|_| {
            anyhow!("{place}.id: {:?} is not a number; Spark on Kubernetes numbers its executors", summary.id)
        })?;
        let add_time_ms = match &summary.add_time {
            Some(time) => spark_time(time).with_context(|| format!("{place}.addTime"))?,
            None => counter("addTime", None),
        };
        let node = summary.host_port.as_deref().map(|host_port| {
            let host = host_port.rsplit_once(':').map_or(host_port, |(host, _)| host);
            let next = hosts.len() as u32;
            *hosts.entry(host.to_string()).or_insert(next)
        });
        let peaks = summary.peak_memory_metrics.unwrap_or_default();
        let peak = |name| peaks.get(name).copied().unwrap_or(0);
        question.candidates.push(Candidate {
            id,
            add_time_ms,
            active_tasks: counter("activeTasks", summary.active_tasks.map(i64::from)) as i32,
            failed_tasks: counter("failedTasks", summary.failed_tasks.map(i64::from)) as i32,
            completed_tasks: counter("completedTasks", summary.completed_tasks.map(i64::from)) as i32,
            total_tasks,
            total_duration_ms: counter("totalDuration", summary.total_duration),
            total_gc_time_ms: counter("totalGCTime", summary.total_gc_time),
            total_input_bytes: counter("totalInputBytes", summary.total_input_bytes),
            total_shuffle_read_bytes: counter("totalShuffleRead", summary.total_shuffle_read),
            total_shuffle_write_bytes: counter("totalShuffleWrite", summary.total_shuffle_write),
            memory_used_bytes: counter("memoryUsed", summary.memory_used),
            disk_used_bytes: counter("diskUsed", summary.disk_used),
            peak_jvm_onheap_bytes: peak("JVMHeapMemory"),
            peak_jvm_offheap_bytes: peak("JVMOffHeapMemory"),
            age_ms: u64::try_from(now_ms.saturating_sub(add_time_ms)).unwrap_or(0),
            since_heartbeat_ms: None,
            node,
        });
        let others = [
            ("rddBlocks", summary.rdd_blocks),
            ("totalCores", summary.total_cores),
            ("maxTasks", summary.max_tasks),
            ("maxMemory", summary.max_memory),
        ];
        let others = others.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let peaks = peaks.iter().map(|(name, &value)| (name.as_str(), value));
        let row = question.candidates.len() - 1;
        for (name, value) in others.chain(peaks) {
            metrics.set(name, row, value as f64);
        }
    }
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !absent.is_empty() && !WARNED.swap(true, Ordering::Relaxed) {
        let absent: Vec<&str> = absent.into_iter().collect();
        output::tell(format_args!("rollcall: warning: executors without {}: taken as 0", absent.join(", ")));
    }
    question.target = question.available;
    question.metrics = metrics.finish(question.candidates.len());
    question.nodes =
        vec![Node { zone: None, spot: false, ready: true, cordoned: false, departing: false }; hosts.len()];
    Ok(question)
}

/// `2026-11-21T09:45:09.856GMT`, as Spark's REST API writes dates.
fn spark_time(text: &str) -> Result<i64> {
    let rfc3339 = text.strip_suffix("GMT").map(|time| format!("{time}Z"));
    let time: Timestamp = rfc3339
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|error| anyhow!("{text:?} is not a time such as 2026-11-21T09:45:09.856GMT: {error}"))?;
    Ok(time.as_millisecond())
}

/// Metric columns that fill up row by row.
#[derive(Default)]
struct Columns(BTreeMap<String, Vec<f64>>);

impl Columns {
    fn set(&mut self, name: &str, row: usize, value: f64) {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_string(), Vec::new());
        }
        if let Some(column) = self.0.get_mut(name) {
            column.resize(row, f64::NAN);
            column.push(value);
        }
    }

    fn finish(self, rows: usize) -> Vec<Metric> {
        let full = |(name, mut values): (String, Vec<f64>)| {
            values.resize(rows, f64::NAN);
            Metric { name, values }
        };
        self.0.into_iter().map(full).collect()
    }
}

/// The contract's `fleet` record.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fleet {
    #[serde(default)]
    name: String,
    #[serde(default)]
    application_id: String,
    target: Option<u32>,
    available: Option<u32>,
    now_ms: Option<i64>,
    #[serde(default)]
    seed: u64,
    picks_max: Option<u32>,
    executors: Vec<Executor>,
    #[serde(default)]
    nodes: Vec<FleetNode>,
}

/// A row of the contract's `executors` record.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Executor {
    id: u64,
    #[serde(default)]
    add_time_ms: i64,
    #[serde(default)]
    active_tasks: i32,
    #[serde(default)]
    failed_tasks: i32,
    #[serde(default)]
    completed_tasks: i32,
    #[serde(default)]
    total_tasks: i32,
    #[serde(default)]
    total_duration_ms: i64,
    #[serde(default)]
    total_gc_time_ms: i64,
    #[serde(default)]
    total_input_bytes: i64,
    #[serde(default)]
    total_shuffle_read_bytes: i64,
    #[serde(default)]
    total_shuffle_write_bytes: i64,
    #[serde(default)]
    memory_used_bytes: i64,
    #[serde(default)]
    disk_used_bytes: i64,
    #[serde(default)]
    peak_jvm_onheap_bytes: i64,
    #[serde(default)]
    peak_jvm_offheap_bytes: i64,
    #[serde(default)]
    age_ms: u64,
    since_heartbeat_ms: Option<u64>,
    node: Option<u32>,
    #[serde(default)]
    metrics: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FleetNode {
    zone: Option<u32>,
    #[serde(default)]
    spot: bool,
    #[serde(default = "yes")]
    ready: bool,
    #[serde(default)]
    cordoned: bool,
    #[serde(default)]
    departing: bool,
}

fn from_fleet(document: &Value, min_tasks: i32, now_ms: i64) -> Result<RollQuestion> {
    let Fleet {
        name,
        application_id,
        target,
        available,
        now_ms: asked_ms,
        seed,
        picks_max,
        executors,
        nodes,
    } = at(document, "")?;
    if picks_max == Some(0) {
        return Err(anyhow!("picksMax: 0 asks for nobody; it must be at least 1"));
    }
    let available = available.unwrap_or(executors.len() as u32);
    let mut question = RollQuestion {
        fleet: name,
        application_id,
        target: target.unwrap_or(available),
        available,
        now_ms: asked_ms.unwrap_or(now_ms),
        seed,
        picks_max: picks_max.unwrap_or(1),
        ..RollQuestion::default()
    };
    let mut metrics = Columns::default();
    for (index, executor) in executors.into_iter().enumerate() {
        if executor.total_tasks < min_tasks {
            continue;
        }
        if let Some(node) = executor.node.filter(|&node| node as usize >= nodes.len()) {
            return Err(anyhow!("executors[{index}].node: {node}, but there are {} nodes", nodes.len()));
        }
        for (name, value) in &executor.metrics {
            metrics.set(name, question.candidates.len(), *value);
        }
        question.candidates.push(Candidate {
            id: executor.id,
            add_time_ms: executor.add_time_ms,
            active_tasks: executor.active_tasks,
            failed_tasks: executor.failed_tasks,
            completed_tasks: executor.completed_tasks,
            total_tasks: executor.total_tasks,
            total_duration_ms: executor.total_duration_ms,
            total_gc_time_ms: executor.total_gc_time_ms,
            total_input_bytes: executor.total_input_bytes,
            total_shuffle_read_bytes: executor.total_shuffle_read_bytes,
            total_shuffle_write_bytes: executor.total_shuffle_write_bytes,
            memory_used_bytes: executor.memory_used_bytes,
            disk_used_bytes: executor.disk_used_bytes,
            peak_jvm_onheap_bytes: executor.peak_jvm_onheap_bytes,
            peak_jvm_offheap_bytes: executor.peak_jvm_offheap_bytes,
            age_ms: executor.age_ms,
            since_heartbeat_ms: executor.since_heartbeat_ms,
            node: executor.node,
        });
    }
    question.metrics = metrics.finish(question.candidates.len());
    question.nodes = nodes
        .into_iter()
        .map(|FleetNode { zone, spot, ready, cordoned, departing }| Node {
            zone,
            spot,
            ready,
            cordoned,
            departing,
        })
        .collect();
    Ok(question)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error(document: Value) -> String {
        format!("{:#}", roll_question(&document, 0, 0).expect_err("should be refused"))
    }

    #[test]
    fn spark_executors_become_candidates_in_their_order() {
        let document = json!([
            {"id": "driver", "isActive": true, "hostPort": "d:1"},
            {"id": "2", "isActive": true, "hostPort": "b:7080", "totalTasks": 5, "addTime": "1970-01-01T00:00:01.500GMT",
             "peakMemoryMetrics": {"JVMHeapMemory": 7, "MinorGCCount": 3}},
            {"id": "1", "isActive": false, "totalTasks": 9},
            {"id": "4", "isActive": true, "totalTasks": 1},
            {"id": "3", "isActive": true, "hostPort": "b:7081", "totalTasks": 9},
        ]);
        let question = roll_question(&document, 2, 2_000).expect("a question");
        let columns = question.candidates.columns();
        assert_eq!(columns.id, [2, 3]);
        assert_eq!(columns.node, [0, 0]);
        assert_eq!(columns.add_time_ms, [1_500, 0]);
        assert_eq!(columns.age_ms, [500, 2_000]);
        assert_eq!(columns.peak_jvm_onheap_bytes, [7, 0]);
        assert_eq!(question.available, 3);
        let gc = question.metrics.iter().find(|metric| metric.name == "MinorGCCount").expect("a column");
        assert_eq!((gc.values[0], gc.values[1].is_nan()), (3.0, true));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        assert_eq!(
            error(json!([{"id": "1"}, {"id": "2", "totalTasks": "7"}])),
            "[1].totalTasks: invalid type: string \"7\", expected i32"
        );
        assert_eq!(
            error(json!([{"id": "1", "addTime": "yesterday"}])).split(':').next(),
            Some("[0].addTime")
        );
        assert!(error(json!([{"id": "exec-1"}])).starts_with("[0].id: \"exec-1\" is not a number"));
        assert_eq!(error(json!([7])), "[0]: invalid type: integer `7`, expected an executor object");
        assert!(error(json!({"executors": [{"id": 1, "totalTask": 3}]})).starts_with("executors[0]"));
        assert!(error(json!({"executors": [{"id": 1, "node": 0}]})).starts_with("executors[0].node: 0"));
        assert!(error(json!(3)).starts_with("the input is a number"));
        let cut: Vec<_> = documents(&b"[{\"id\": \"1\""[..]).collect();
        assert_eq!(
            cut[0].as_ref().expect_err("cut").to_string(),
            "the JSON ends too early, at line 1 column 11"
        );
    }
}
