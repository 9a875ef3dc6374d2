//! What a driver answers about its executors: Spark's `/allexecutors`, into rows.
//!
//! Read in one pass that keeps nothing but the rows, so that an answer costs no more than it is worth.
//! The meaning of every field is that of `policy run`, which reads the same document from a file.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use fleet::event::{Counters, DriverRow};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};

use crate::heartbeat::graphite::executor_id;

/// Rows of an answer: ten times the largest application, and dead executors.
pub const ROWS_MAX: usize = 100_000;
/// Bytes of a `removeReason`. Some quote a stack trace.
const REASON_MAX: usize = 1024;

#[derive(Debug, PartialEq)]
pub struct Report {
    pub rows: Vec<DriverRow>,
    /// Rows without a usable id or date, or about an executor that had one. The driver's own is none.
    pub skipped: u64,
}

pub fn parse(body: &[u8]) -> Result<Report, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let report = json.deserialize_seq(Rows)?;
    json.end()?;
    Ok(report)
}

struct Rows;

impl<'de> Visitor<'de> for Rows {
    type Value = Report;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the array that Spark's /allexecutors answers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Report, A::Error> {
        let mut report = Report { rows: Vec::new(), skipped: 0 };
        let mut seen = HashSet::new();
        for _ in 0..ROWS_MAX {
            let Some(summary) = rows.next_element::<ExecutorSummary>()? else { return Ok(report) };
            if summary.id == "driver" {
                continue;
            }
            match summary.row().filter(|row| seen.insert(row.executor)) {
                Some(row) => report.rows.push(row),
                None => report.skipped += 1,
            }
        }
        match rows.next_element::<IgnoredAny>()? {
            Some(_) => Err(A::Error::custom(format_args!("more than {ROWS_MAX} rows"))),
            None => Ok(report),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an executor object")]
struct ExecutorSummary<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(default = "yes")]
    is_active: bool,
    #[serde(borrow)]
    add_time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    remove_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    active_tasks: Number,
    #[serde(default)]
    failed_tasks: Number,
    #[serde(default)]
    completed_tasks: Number,
    #[serde(default)]
    total_tasks: Number,
    #[serde(default)]
    total_duration: Number,
    #[serde(default, rename = "totalGCTime")]
    total_gc_time: Number,
    #[serde(default)]
    total_input_bytes: Number,
    #[serde(default)]
    total_shuffle_read: Number,
    #[serde(default)]
    total_shuffle_write: Number,
    #[serde(default)]
    memory_used: Number,
    #[serde(default)]
    disk_used: Number,
    /// `ExecutorMetrics`, absent until the executor has reported some.
    peak_memory_metrics: Option<PeakMemoryMetrics>,
}

#[derive(Default, Deserialize)]
struct PeakMemoryMetrics {
    #[serde(default, rename = "JVMHeapMemory")]
    jvm_heap_memory: Number,
    #[serde(default, rename = "JVMOffHeapMemory")]
    jvm_off_heap_memory: Number,
}

fn yes() -> bool {
    true
}

impl ExecutorSummary<'_> {
    fn row(self) -> Option<DriverRow> {
        let executor = executor_id(self.id.as_bytes())?;
        let add_time_ms = match &self.add_time {
            Some(time) => spark_time(time)?,
            None => 0,
        };
        let peaks = self.peak_memory_metrics.unwrap_or_default();
        let counters = Counters {
            add_time_ms,
            active_tasks: self.active_tasks.int(),
            failed_tasks: self.failed_tasks.int(),
            completed_tasks: self.completed_tasks.int(),
            total_tasks: self.total_tasks.int(),
            total_duration_ms: self.total_duration.0,
            total_gc_time_ms: self.total_gc_time.0,
            total_input_bytes: self.total_input_bytes.0,
            total_shuffle_read_bytes: self.total_shuffle_read.0,
            total_shuffle_write_bytes: self.total_shuffle_write.0,
            memory_used_bytes: self.memory_used.0,
            disk_used_bytes: self.disk_used.0,
            peak_jvm_onheap_bytes: peaks.jvm_heap_memory.0,
            peak_jvm_offheap_bytes: peaks.jvm_off_heap_memory.0,
        };
        let remove_reason = self.remove_reason.as_deref().map(clean);
        Some(DriverRow { executor, active: self.is_active, remove_reason, counters: Some(counters) })
    }
}

/// A counter. Spark's have been seen to go negative, and stay so; what does not fit becomes the nearest
/// number that does.
#[derive(Clone, Copy, Default)]
struct Number(i64);

impl Number {
    fn int(self) -> i32 {
        self.0.clamp(i32::MIN.into(), i32::MAX.into()) as i32
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
        Ok(Number(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
        Ok(Number(number.try_into().unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
        // Saturates.
        Ok(Number(number as i64))
    }

    fn visit_unit<E>(self) -> Result<Number, E> {
        Ok(Number(0))
    }
}

/// `2026-11-21T09:45:09.856GMT`, as Spark's REST API writes dates.
fn spark_time(text: &str) -> Option<i64> {
    let rfc3339 = text.strip_suffix("GMT").map(|time| format!("{time}Z"));
    let time: Timestamp = rfc3339.as_deref().unwrap_or(text).parse().ok()?;
    Some(time.as_millisecond())
}

/// One line, cut where it gets too long: it ends up in logs and terminals.
fn clean(reason: &str) -> Box<str> {
    let end = reason.floor_char_boundary(REASON_MAX);
    reason[..end].chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use fleet::id::ExecutorId;
    use serde_json::{Value, json};

    use super::*;
    use crate::heartbeat::tests::fixture;

    fn rows(document: Value) -> Vec<DriverRow> {
        parse(document.to_string().as_bytes()).unwrap().rows
    }

    #[test]
    fn every_captured_answer_says_what_its_document_says() {
        for second in (5..=60).step_by(5) {
            let body = fixture(&format!("allexecutors/{second:03}s.json"));
            let Report { rows, skipped } = parse(&body).unwrap();
            assert_eq!(skipped, 0);
            let document: Vec<Value> = serde_json::from_slice(&body).unwrap();
            let document: Vec<_> = document.iter().filter(|row| row["id"] != "driver").collect();
            assert_eq!(rows.len(), document.len(), "{second} s");
            for (row, says) in rows.iter().zip(document) {
                let counters = &row.counters;
                assert_eq!(says["id"], row.executor.to_string());
                assert_eq!(says["isActive"], row.active);
                assert_eq!(says.get("removeReason").and_then(Value::as_str), row.remove_reason.as_deref());
                assert_eq!(says["activeTasks"], counters.active_tasks);
                assert_eq!(says["failedTasks"], counters.failed_tasks);
                assert_eq!(says["completedTasks"], counters.completed_tasks);
                assert_eq!(says["totalTasks"], counters.total_tasks);
                assert_eq!(says["totalDuration"], counters.total_duration_ms);
                assert_eq!(says["totalGCTime"], counters.total_gc_time_ms);
                assert_eq!(says["totalInputBytes"], counters.total_input_bytes);
                assert_eq!(says["totalShuffleRead"], counters.total_shuffle_read_bytes);
                assert_eq!(says["totalShuffleWrite"], counters.total_shuffle_write_bytes);
                assert_eq!(says["memoryUsed"], counters.memory_used_bytes);
                assert_eq!(says["diskUsed"], counters.disk_used_bytes);
                let peak = |name: &str| says["peakMemoryMetrics"][name].as_i64().unwrap_or(0);
                assert_eq!(peak("JVMHeapMemory"), counters.peak_jvm_onheap_bytes);
                assert_eq!(peak("JVMOffHeapMemory"), counters.peak_jvm_offheap_bytes);
            }
        }
        let rows = parse(&fixture("allexecutors/060s.json")).unwrap().rows;
        assert_eq!(
            rows.iter().map(|row| (row.executor.0, row.active)).collect::<Vec<_>>(),
            [(1, false), (2, false), (3, true), (4, true)]
        );
        assert_eq!(rows[0].counters.add_time_ms, 1_795_254_309_856);
    }

    /// The two witnesses measure some of the same things. Of an executor that had ended its last numbers
    /// are the same; of one that works the driver's lie between two reports of its own.
    #[test]
    fn the_driver_and_the_executors_agree() {
        let stream = String::from_utf8(fixture("graphite-arrivals.txt")).unwrap();
        let said = |executor: u64, metric: &str| -> Vec<i64> {
            let name = format!(" spark-0123456789abcdef.{executor}.executor.{metric}.count ");
            let values = stream.lines().filter_map(|line| line.split_once(&*name)?.1.split_once(' '));
            values.map(|(value, _)| value.parse().unwrap()).collect()
        };
        for row in parse(&fixture("allexecutors/060s.json")).unwrap().rows {
            let Counters { completed_tasks, total_gc_time_ms, total_shuffle_write_bytes, .. } = row.counters;
            for (metric, number) in [
                ("succeededTasks", i64::from(completed_tasks)),
                ("jvmGCTime", total_gc_time_ms),
                ("shuffleBytesWritten", total_shuffle_write_bytes),
            ] {
                let values = said(row.executor.0, metric);
                let last = *values.last().unwrap();
                match row.executor {
                    ExecutorId(1) => assert_eq!(number, last, "{metric}"),
                    // Killed: it worked on after its last report, and told the driver.
                    ExecutorId(2) => assert!(number > last && number < 2 * last, "{metric}"),
                    _ => assert!(
                        values.windows(2).any(|pair| (pair[0]..=pair[1]).contains(&number)),
                        "{metric}"
                    ),
                }
            }
        }
    }

    #[test]
    fn numbers_are_clamped_and_negative_ones_kept() {
        let row = &rows(json!([{
            "id": "1", "activeTasks": -3, "totalTasks": 9_000_000_000_i64, "failedTasks": null,
            "totalDuration": 18_446_744_073_709_551_615_u64, "memoryUsed": -1.5e300, "diskUsed": 7.9,
            "peakMemoryMetrics": null, "aNewField": {"a": [1]},
        }]))[0];
        let expected = Counters {
            active_tasks: -3,
            total_tasks: i32::MAX,
            total_duration_ms: i64::MAX,
            memory_used_bytes: i64::MIN,
            disk_used_bytes: 7,
            ..Counters::default()
        };
        assert_eq!((row.active, &row.counters), (true, &expected));
    }

    #[test]
    fn odd_rows_are_skipped_and_counted() {
        let body = json!([
            {"id": "1", "totalTasks": 1},
            {"id": "1", "totalTasks": 2},
            {"id": "01"}, {"id": "-1"}, {"id": "2147483648"}, {"id": ""}, {"id": "exec-1"},
            {"id": "2", "addTime": "yesterday"},
            {"id": "driver", "addTime": "yesterday"},
            {"id": "3", "addTime": "1970-01-01T00:00:01.500GMT"},
        ]);
        let Report { rows, skipped } = parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(skipped, 7);
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (row.executor.0, row.counters.total_tasks, row.counters.add_time_ms))
            .collect();
        assert_eq!(rows, [(1, 1, 0), (3, 0, 1_500)]);
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        let reason = format!("a\u{1b}[31m\n\u{9b}\u{e9}{}", "é".repeat(2_000));
        let row = &rows(json!([{"id": "1", "isActive": false, "removeReason": reason}]))[0];
        let reason = row.remove_reason.as_deref().unwrap();
        assert!(reason.starts_with("a [31m  é"), "{reason}");
        assert!(reason.len() <= REASON_MAX && reason.len() > REASON_MAX - 8, "{}", reason.len());
    }

    #[test]
    fn garbage_is_an_error_with_its_place() {
        for (body, says) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("<html>", "expected value at line 1"),
            (r#"{"id": "1"}"#, "expected the array that Spark's /allexecutors answers"),
            ("[{}]", "missing field `id` at line 1 column 3"),
            ("[7]", "expected an executor object"),
            (r#"[{"id": "1", "totalTasks": "7"}]"#, "invalid type: string \"7\", expected a number"),
            (r#"[{"id": "1"}"#, "EOF while parsing a list"),
            (r#"[{"id": "1"}] x"#, "trailing characters"),
            (r#"[{"id": "1", "totalTasks": 1e999}]"#, "number out of range"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{body}: {error}");
        }
        let deep = format!(r#"[{{"id": "1", "x": {}"#, "[".repeat(1_000_000));
        assert!(parse(deep.as_bytes()).is_err());
        let many = format!("[{}]", vec![r#"{"id":"1"}"#; ROWS_MAX + 1].join(","));
        assert!(parse(many.as_bytes()).unwrap_err().to_string().contains("more than 100000 rows"));
    }
}
