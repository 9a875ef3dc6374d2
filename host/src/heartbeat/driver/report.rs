//! A driver's answer about its executors, `/allexecutors`, as rows for the core. [`spark`] parses it, as `policy run`
//! parses the same document from a file.

use fleet::event::DriverRow;
use serde::de::Deserializer;

use crate::spark::{self, Notes, Summaries, Summary};

/// Maximum bytes of a `removeReason`. Some quote a stack trace.
const REASON_MAX: usize = 1024;

#[derive(Debug, PartialEq)]
pub struct Report {
    pub rows: Vec<DriverRow>,
    /// The number of rows beyond the maximum.
    pub beyond: usize,
    pub notes: Notes,
}

/// The error says what is wrong, and where.
pub fn parse(body: &[u8], rows_max: usize) -> Result<Report, String> {
    let body = body.strip_prefix(spark::BYTE_ORDER_MARK).unwrap_or(body);
    let mut json = serde_json::Deserializer::from_slice(body);
    let (mut rows, mut beyond) = (Vec::new(), 0);
    let notes = json.deserialize_seq(Summaries(|summary| {
        if rows.len() < rows_max {
            rows.push(row(summary));
        } else {
            beyond += 1;
        }
    }));
    let notes = notes.and_then(|notes| json.end().map(|()| notes));
    match notes {
        Ok(notes) => Ok(Report { rows, beyond, notes }),
        Err(error) => Err(spark::refusal(&error)),
    }
}

fn row(summary: Summary<'_>) -> DriverRow {
    let Summary { id, active, remove_reason, counters, host_port: _, others: _, peaks: _ } = summary;
    DriverRow { executor: id, active, remove_reason: remove_reason.as_deref().map(clean), counters }
}

/// One line, truncated: it ends up in logs and terminals.
fn clean(reason: &str) -> Box<str> {
    let end = reason.floor_char_boundary(REASON_MAX);
    reason[..end].chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use fleet::event::Counters;
    use fleet::id::ExecutorId;
    use serde_json::{Value, json};

    use super::*;
    use crate::heartbeat::tests::fixture;

    fn rows(document: Value) -> Vec<DriverRow> {
        parse(document.to_string().as_bytes(), 100).unwrap().rows
    }

    #[test]
    fn every_captured_answer_says_what_its_document_says() {
        for second in (5..=60).step_by(5) {
            let body = fixture(&format!("allexecutors/{second:03}s.json"));
            let Report { rows, beyond, notes } = parse(&body, 4).unwrap();
            assert_eq!(beyond, 0);
            assert_eq!(notes, Notes::default());
            let document: Vec<Value> = serde_json::from_slice(&body).unwrap();
            let document: Vec<_> = document.iter().filter(|row| row["id"] != "driver").collect();
            assert_eq!(rows.len(), document.len(), "{second} s");
            for (row, says) in rows.iter().zip(document) {
                let counters = row.counters.as_ref().unwrap();
                assert_eq!(says["id"], row.executor.to_string());
                assert_eq!(says["isActive"], row.active);
                assert_eq!(says.get("removeReason").and_then(Value::as_str), row.remove_reason.as_deref());
                let written = |how: &str, name: &str| match how {
                    "time" => {
                        let time = says[name].as_str().unwrap().replace("GMT", "Z");
                        time.parse::<jiff::Timestamp>().unwrap().as_millisecond()
                    }
                    "peak" => {
                        let missing = if name == "JVMHeapMemory" { -1 } else { 0 };
                        says["peakMemoryMetrics"][name].as_i64().unwrap_or(missing)
                    }
                    _ => says[name].as_i64().unwrap(),
                };
                macro_rules! compare {
                    ($($field:ident: $type:ident = $how:ident($name:literal),)*) => {
                        $(assert_eq!(i64::from(counters.$field), written(stringify!($how), $name), $name);)*
                    };
                }
                fleet::with_counters!(compare);
            }
        }
        let rows = parse(&fixture("allexecutors/060s.json"), 100).unwrap().rows;
        assert_eq!(
            rows.iter().map(|row| (row.executor.0, row.active)).collect::<Vec<_>>(),
            [(1, false), (2, false), (3, true), (4, true)]
        );
        assert_eq!(rows[0].counters.as_ref().unwrap().add_time_ms, 1_795_254_309_856);
    }

    /// Both sources measure some of the same things. For an executor that had ended, the last numbers are the same; for
    /// a working one, the driver's number lies between two of the executor's own reports.
    #[test]
    fn the_driver_and_the_executors_agree() {
        let stream = String::from_utf8(fixture("graphite-arrivals.txt")).unwrap();
        let said = |executor: u64, metric: &str| -> Vec<i64> {
            let name = format!(" spark-0123456789abcdef.{executor}.executor.{metric}.count ");
            let values = stream.lines().filter_map(|line| line.split_once(&*name)?.1.split_once(' '));
            values.map(|(value, _)| value.parse().unwrap()).collect()
        };
        for row in parse(&fixture("allexecutors/060s.json"), 100).unwrap().rows {
            let Counters { completed_tasks, total_gc_time_ms, total_shuffle_write_bytes, .. } =
                row.counters.unwrap();
            for (metric, number) in [
                ("succeededTasks", i64::from(completed_tasks)),
                ("jvmGCTime", total_gc_time_ms),
                ("shuffleBytesWritten", total_shuffle_write_bytes),
            ] {
                let values = said(row.executor.0, metric);
                let last = *values.last().unwrap();
                match row.executor {
                    ExecutorId(1) => assert_eq!(number, last, "{metric}"),
                    // Killed: it went on working after its last report, and the driver knows.
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
    fn a_reason_is_one_line_of_bounded_length() {
        let reason = format!("a\u{1b}[31m\n\u{9b}\u{e9}{}", "é".repeat(2_000));
        let row = &rows(json!([{"id": "1", "isActive": false, "removeReason": reason}]))[0];
        let reason = row.remove_reason.as_deref().unwrap();
        assert!(reason.starts_with("a [31m  é"), "{reason}");
        assert!(reason.len() <= REASON_MAX && reason.len() > REASON_MAX - 8, "{}", reason.len());
    }

    #[test]
    fn rows_beyond_the_limit_are_counted_and_not_kept() {
        let body = fixture("allexecutors/060s.json");
        let Report { rows, beyond, .. } = parse(&body, 3).unwrap();
        assert_eq!((rows.len(), beyond), (3, 1));
    }

    #[test]
    fn a_row_that_lacks_counters_has_none() {
        let row = &rows(json!([{"id": "1", "isActive": false, "totalTasks": 7, "removeReason": "gone"}]))[0];
        assert_eq!((row.active, row.remove_reason.as_deref(), &row.counters), (false, Some("gone"), &None));
    }
}
