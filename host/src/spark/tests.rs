//! The daemon and the command line must interpret the same document in the same way.

use fleet::question::Columns;
use serde_json::{Value, json};

use super::*;
use crate::heartbeat::driver::report;
use crate::policy::input::{self, Document};

/// An executor as Spark writes it, with some fields replaced.
fn executor(id: &str, fields: Value) -> Value {
    let mut executor = json!({
        "id": id, "hostPort": "10.0.0.7:7079", "isActive": true, "rddBlocks": 0, "memoryUsed": 1, "diskUsed": 2,
        "totalCores": 1, "maxTasks": 1, "activeTasks": 3, "failedTasks": 4, "completedTasks": 5,
        "totalTasks": 12, "totalDuration": 6, "totalGCTime": 7, "totalInputBytes": 8, "totalShuffleRead": 9,
        "totalShuffleWrite": 10, "isBlacklisted": false, "maxMemory": 97832140,
        "addTime": "1970-01-01T00:00:00.011GMT", "executorLogs": {}, "blacklistedInStages": [],
        "peakMemoryMetrics": {"JVMHeapMemory": 13, "JVMOffHeapMemory": 14, "MinorGCCount": 1},
        "attributes": {}, "resources": {}, "resourceProfileId": 0, "isExcluded": false, "excludedInStages": [],
    });
    let fields = fields.as_object().expect("fields").clone();
    executor.as_object_mut().expect("an object").extend(fields);
    executor
}

/// The counters of [`executor`].
fn counters() -> Counters {
    Counters {
        add_time_ms: 11,
        active_tasks: 3,
        failed_tasks: 4,
        completed_tasks: 5,
        total_tasks: 12,
        total_duration_ms: 6,
        total_gc_time_ms: 7,
        total_input_bytes: 8,
        total_shuffle_read_bytes: 9,
        total_shuffle_write_bytes: 10,
        memory_used_bytes: 1,
        disk_used_bytes: 2,
        peak_jvm_onheap_bytes: 13,
        peak_jvm_offheap_bytes: 14,
    }
}

/// The document `[executor]` with this text as the value of one field.
fn with(field: &str, text: &str) -> Vec<u8> {
    let mut row = executor("1", json!({}));
    row[field] = "\u{1}".into();
    json!([row]).to_string().replacen("\"\\u0001\"", text, 1).into_bytes()
}

/// The active executors with counters, by id, or the reason why the document is refused.
type Answer = Result<BTreeMap<u64, Counters>, String>;

fn daemon(body: &[u8]) -> Answer {
    let report = report::parse(body, 100)?;
    let rows = report.rows.into_iter().filter(|row| row.active);
    Ok(rows.filter_map(|row| Some((row.executor.0, row.counters?))).collect())
}

fn command_line(body: &[u8]) -> Answer {
    let mut asked = BTreeMap::new();
    let mut documents = 0;
    for document in input::documents::<Document>(body) {
        documents += 1;
        let document = document.map_err(|error| format!("{error:#}"))?;
        let question = input::roll_question(&document, i32::MIN, 0);
        let columns = question.map_err(|error| format!("{error:#}"))?.question.candidates;
        let columns = columns.columns();
        for (row, id) in columns.id.iter().enumerate() {
            let counters = counters_at(columns, row);
            assert_eq!(asked.insert(*id, counters), None, "an executor is asked about once");
        }
    }
    if documents == 1 { Ok(asked) } else { Err(format!("{documents} documents")) }
}

macro_rules! columns {
    ($($field:ident: $type:ident = $how:ident($name:literal),)*) => {
        fn counters_at(columns: Columns<'_>, row: usize) -> Counters {
            Counters { $($field: columns.$field[row],)* }
        }
    };
}

fleet::with_counters!(columns);

#[track_caller]
fn both_take(body: &[u8], expected: &[(u64, Counters)]) {
    let shown = String::from_utf8_lossy(body);
    let expected: Answer = Ok(expected.iter().cloned().collect());
    assert_eq!(daemon(body), expected, "the daemon: {shown}");
    assert_eq!(command_line(body), expected, "the command line: {shown}");
}

#[track_caller]
fn both_refuse(body: &[u8], error: &str) {
    let shown = String::from_utf8_lossy(body);
    assert_eq!(daemon(body), Err(error.to_owned()), "the daemon: {shown}");
    assert_eq!(command_line(body), Err(error.to_owned()), "the command line: {shown}");
}

#[test]
fn what_both_take() {
    let one = [(1, counters())];
    let bytes = |document: Value| document.to_string().into_bytes();
    both_take(b" [ ] \n", &[]);
    both_take(&[BYTE_ORDER_MARK, &bytes(json!([executor("1", json!({}))]))].concat(), &one);
    // All fields of Spark's other block managers except the id are ignored, wherever the id stands.
    for id in ["driver", "<driver>", "fallback"] {
        let row = json!({"aField": 1, "addTime": "noon", "id": id, "isActive": 7, "totalTasks": {"a": []}});
        both_take(&bytes(json!([row, executor("1", json!({})), row])), &one);
    }
    // So are those of rows that cannot be executors in Spark on Kubernetes.
    for id in ["x", "exec-1", "01", "-1", "1.0", "2147483648", "18446744073709551617", "", " 1"] {
        both_take(
            &bytes(json!([executor(id, json!({"totalTasks": "many"})), executor("1", json!({}))])),
            &one,
        );
    }
    both_take(
        &bytes(json!([executor("0", json!({})), executor("2147483647", json!({}))])),
        &[(0, counters()), (2_147_483_647, counters())],
    );
    // Fields that a later version of Spark may add.
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    both_take(&with("executorLogs", &deep), &one);
    both_take(&with("executorLogs", r#"{"stdout": {"totalTasks": "x", "id": 7}}"#), &one);
    // A missing field is null; a row is active unless it says otherwise.
    both_take(&with("isActive", "null"), &one);
    both_take(&with("isActive", "false"), &[]);
    both_take(&with("hostPort", "null"), &one);
    both_take(&with("removeReason", "null"), &one);
    both_take(&with("maxMemory", "null"), &one);
    both_take(&with("addTime", "\"1970-01-01T00:00:00.011Z\""), &one);
}

#[test]
fn integers_are_taken_however_they_are_written() {
    for (text, number) in [
        ("1e3", 1_000),
        ("1000.0", 1_000),
        ("0.0", 0),
        ("-0.0", 0),
        ("-0", 0),
        ("-7", -7),
        ("2147483647.0", i32::MAX),
        ("-2.147483648E9", i32::MIN),
    ] {
        both_take(&with("totalTasks", text), &[(1, Counters { total_tasks: number, ..counters() })]);
    }
    for (text, number) in [
        ("9.783214E7", 97_832_140),
        ("1E18", 1_000_000_000_000_000_000),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        ("-9.223372036854775808E18", i64::MIN),
    ] {
        both_take(&with("diskUsed", text), &[(1, Counters { disk_used_bytes: number, ..counters() })]);
    }
    both_take(&with("maxMemory", "9.783214E7"), &[(1, counters())]);
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    for (text, shown) in [
        ("2147483648", "integer `2147483648`"),
        ("-2147483649", "integer `-2147483649`"),
        ("2147483648.0", "floating point `2147483648.0`"),
        ("1e10", "floating point `10000000000.0`"),
        ("18446744073709551615", "integer `18446744073709551615`"),
        ("1.5", "floating point `1.5`"),
        ("1e-3", "floating point `0.001`"),
    ] {
        both_refuse(
            &with("failedTasks", text),
            &format!("[0].failedTasks: invalid value: {shown}, expected i32"),
        );
    }
    for (text, shown) in [
        ("9223372036854775808", "integer `9223372036854775808`"),
        ("9.223372036854775808E18", "floating point `9223372036854776000.0`"),
        ("18446744073709551616", "floating point `18446744073709552000.0`"),
        ("0.5", "floating point `0.5`"),
    ] {
        for field in ["totalDuration", "maxMemory"] {
            both_refuse(&with(field, text), &format!("[0].{field}: invalid value: {shown}, expected i64"));
        }
    }
    for (text, shown) in
        [("\"7\"", "string \"7\""), ("true", "boolean `true`"), ("[7]", "sequence"), ("{\"a\": 7}", "map")]
    {
        both_refuse(
            &with("totalTasks", text),
            &format!("[0].totalTasks: invalid type: {shown}, expected i32"),
        );
        both_refuse(&with("rddBlocks", text), &format!("[0].rddBlocks: invalid type: {shown}, expected i64"));
    }
    both_refuse(
        &with("isActive", "\"true\""),
        "[0].isActive: invalid type: string \"true\", expected a boolean",
    );
    both_refuse(&with("isActive", "1"), "[0].isActive: invalid type: integer `1`, expected a boolean");
    both_refuse(&with("hostPort", "7"), "[0].hostPort: invalid type: integer `7`, expected a string");
    both_refuse(&with("removeReason", "[]"), "[0].removeReason: invalid type: sequence, expected a string");
    for time in ["yesterday", "2026-01-01", "2026-13-01T00:00:00.000GMT", ""] {
        let error = format!("[0].addTime: {time:?} is not a time such as 2026-11-21T09:45:09.856GMT");
        both_refuse(&with("addTime", &format!("{time:?}")), &error);
    }
    both_refuse(
        &with("addTime", "1767225600000"),
        "[0].addTime: invalid type: integer `1767225600000`, expected a string",
    );
}

#[test]
fn rows_that_say_nothing_or_too_much_are_refused_with_their_place() {
    let full = executor("1", json!({}));
    for (row, shown) in [
        (json!(null), "null"),
        (json!(7), "integer `7`"),
        (json!([]), "sequence"),
        (json!("1"), "string \"1\""),
    ] {
        let body = json!([full, row]).to_string();
        both_refuse(body.as_bytes(), &format!("[1]: invalid type: {shown}, expected an executor object"));
    }
    both_refuse(br#"[{"totalTasks": 1}]"#, "[0].id: missing");
    both_refuse(&with("id", "null"), "[0].id: missing");
    both_refuse(&with("id", "1"), "[0].id: invalid type: integer `1`, expected a string");
    let twice = json!([full, executor("2", json!({})), full]).to_string();
    both_refuse(twice.as_bytes(), "[2].id: an earlier row also has \"1\"");
    both_refuse(br#"[{"id": "1", "totalTasks": 1, "totalTasks": 2}]"#, "[0].totalTasks: duplicate key");
    let peaks = |text: &str| with("peakMemoryMetrics", text);
    both_refuse(&peaks("[]"), "[0].peakMemoryMetrics: invalid type: sequence, expected an object");
    both_refuse(&peaks("0"), "[0].peakMemoryMetrics: invalid type: integer `0`, expected an object");
    both_refuse(
        &peaks(r#"{"MinorGCCount": 0.5}"#),
        "[0].peakMemoryMetrics.MinorGCCount: invalid value: floating point `0.5`, expected i64",
    );
    both_refuse(
        &peaks(r#"{"JVMHeapMemory": {"max": 7}}"#),
        "[0].peakMemoryMetrics.JVMHeapMemory: invalid type: map, expected i64",
    );
    both_refuse(&peaks(r#"{"a": 1, "a": 1}"#), "[0].peakMemoryMetrics.a: duplicate key");
    let many: serde_json::Map<String, Value> = (0..=PEAKS_MAX).map(|n| (n.to_string(), n.into())).collect();
    both_refuse(&peaks(&Value::Object(many).to_string()), "[0].peakMemoryMetrics: more than 200 entries");
    let many = vec![r#"{"id":"driver"}"#; ROWS_MAX + 1].join(",");
    both_refuse(format!("[{many}]").as_bytes(), "more than 100000 rows");
    let long = with("totalTasks", &format!("\"{}\"", "é".repeat(1_000_000)));
    assert!(daemon(&long).is_err_and(|error| error.len() < 2 * QUOTED_MAX), "the error is logged");
}

#[test]
fn what_is_not_json_is_refused_by_both() {
    let whole = json!([executor("1", json!({}))]).to_string();
    let cut = &whole[..whole.len() - 2];
    for body in [
        "",
        "<html>",
        "[",
        cut,
        "[{}, ]",
        "[{'id': '1'}]",
        "[NaN]",
        "{\"id\": \"1\"}",
        "7",
        "null",
        "\"1\"",
        "[{\"id\": \"1\", \"totalTasks\": 1e999}]",
        "[{\"id\": \"1\", \"totalTasks\": 01}]",
        "[] x",
        "[] []",
    ] {
        let answers = (daemon(body.as_bytes()), command_line(body.as_bytes()));
        assert!(answers.0.is_err() && answers.1.is_err(), "{body}: {answers:?}");
    }
    for body in [&b"[{\"id\": \"\xff\"}]"[..], b"\xff\xfe[\0]\0", b"[{\"\xff\": 1, \"id\": \"1\"}]"] {
        assert!(daemon(body).is_err() && command_line(body).is_err(), "{body:?}");
    }
    assert_eq!(daemon(b"[}"), Err("expected value at line 1 column 2".to_owned()));
    let deep = format!(r#"[{{"id": {}"#, "[".repeat(1_000_000));
    assert!(daemon(deep.as_bytes()).is_err() && command_line(deep.as_bytes()).is_err());
    let deep = format!(r#"[{{"peakMemoryMetrics": {}"#, "{\"a\":".repeat(1_000_000));
    assert!(daemon(deep.as_bytes()).is_err() && command_line(deep.as_bytes()).is_err());
}

/// Spark uses `new ExecutorMetrics(Array.emptyLongArray)` and `new ExecutorMetrics(map)`.
#[test]
fn missing_peaks_are_sparks_own_values() {
    for (text, heap, off_heap) in [
        ("null", -1, 0),
        ("{}", 0, 0),
        (r#"{"JVMOffHeapMemory": 5}"#, 0, 5),
        (r#"{"JVMHeapMemory": 5, "JVMOffHeapMemory": null}"#, 5, 0),
        (r#"{"JVMHeapMemory": 5.0, "TotalGCTime": -1}"#, 5, 0),
    ] {
        let expected =
            Counters { peak_jvm_onheap_bytes: heap, peak_jvm_offheap_bytes: off_heap, ..counters() };
        both_take(&with("peakMemoryMetrics", text), &[(1, expected)]);
    }
    let mut row = executor("1", json!({}));
    row.as_object_mut().expect("an object").remove("peakMemoryMetrics");
    let expected = Counters { peak_jvm_onheap_bytes: -1, peak_jvm_offheap_bytes: 0, ..counters() };
    both_take(json!([row]).to_string().as_bytes(), &[(1, expected)]);
}

#[test]
fn a_row_that_lacks_one_counter_has_none_and_is_named() {
    assert_eq!(counter_fields().count(), 12);
    for field in counter_fields() {
        let mut row = executor("7", json!({}));
        row.as_object_mut().expect("an object").remove(field);
        let body = json!([row, executor("1", json!({}))]).to_string();
        both_take(body.as_bytes(), &[(1, counters())]);
        both_take(&with(field, "null"), &[]);
        let notes = report::parse(body.as_bytes(), 100).expect("it is accepted").notes.to_string();
        assert_eq!(
            notes,
            format!("executors without all counters are not candidates: executor 7 has no {field}")
        );
    }
    // An inactive executor is never a candidate.
    both_take(br#"[{"id": "1", "isActive": false}]"#, &[]);
    let notes = |body: Value| report::parse(body.to_string().as_bytes(), 100).expect("it is accepted").notes;
    assert!(notes(json!([{"id": "1", "isActive": false}])).is_empty());

    let rows: Vec<Value> = (1..=7).map(|id| executor(&id.to_string(), json!({"diskUsed": null}))).collect();
    let text = notes(rows.into()).to_string();
    assert!(text.ends_with("executor 5 has no diskUsed; and 2 more executors"), "{text}");
    let notes = notes(json!([{"id": "a\n"}, {"id": "b"}, {"id": "driver"}, {"id": "fallback"}]));
    assert_eq!(notes.strangers, 2);
    assert_eq!(
        notes.to_string(),
        "[0].id: \"a\\n\" is not a number, as executor ids of Spark on Kubernetes are: skipped, and 1 more"
    );
}

/// The expected order was observed with Spark's own class.
#[test]
fn sparks_order_is_that_of_text_and_descends() {
    let mut ids = [1, 2, 3, 9, 10, 11, 12, 100];
    in_sparks_order(&mut ids, |id| *id);
    assert_eq!(ids, [9, 3, 2, 12, 11, 100, 10, 1]);
}
