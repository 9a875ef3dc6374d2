//! The command line as a user sees it: the real binary, its output and its exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::root;

fn rollcall(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rollcall"))
        .args(args)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    // The process may have rejected its arguments and exited before it reads.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

#[track_caller]
fn ok(args: &[&str], input: &str) -> String {
    let output = rollcall(args, input);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// The answer to a mistake: exit code 2, nothing on standard output, no panic.
#[track_caller]
fn refused(args: &[&str], input: &str) -> String {
    let output = rollcall(args, input);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
    assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
    stderr
}

#[track_caller]
fn refused_with(args: &[&str], input: &str, parts: &[&str]) {
    let stderr = refused(args, input);
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
    }
}

const RUN: [&str; 5] = ["policy", "run", "OUTLIER", "-", "--output=json"];

#[test]
fn the_captured_fleets_get_an_answer_from_every_policy() {
    let list: Value = serde_json::from_str(&ok(&["policy", "list", "--output=json"], "")).expect("JSON");
    let policies = list.as_array().expect("a list").iter().filter(|policy| policy["question"] == "roll");
    let policies: Vec<&str> = policies.map(|policy| policy["name"].as_str().expect("a name")).collect();
    assert_eq!(policies.len(), 13);
    for seconds in ["005", "030", "060"] {
        let file = format!("tests/fixtures/allexecutors/{seconds}s.json");
        for policy in &policies {
            let answer = ok(&["policy", "run", policy, &file, "--output=json"], "");
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            assert!(
                answer["outcome"] == "roll" || *policy == "OUTLIER_NO_FALLBACK",
                "{policy} on {file}: {answer}"
            );
        }
    }
    let file = "tests/fixtures/allexecutors/040s.json";
    let answer: Value =
        serde_json::from_str(&ok(&["policy", "run", "OUTLIER", file, "--output=json"], "")).expect("JSON");
    assert_eq!(
        answer,
        json!({"policy": "OUTLIER", "outcome": "roll", "picks": [
            {"executorId": "1", "score": 37063.0, "reason": "biggest total duration, 37063 ms"}]})
    );
    assert_eq!(
        ok(&["policy", "run", "OUTLIER", file], ""),
        "EXECUTOR  SCORE  REASON\n1         37063  biggest total duration, 37063 ms\n"
    );
}

/// An executor as Spark writes it, reduced to the fields that are read, with some of them replaced.
fn executor(id: &str, fields: &Value) -> Value {
    let mut executor = json!({"id": id, "hostPort": "10.0.0.7:7079", "isActive": true});
    rollcall::spark::counter_fields().for_each(|counter| executor[counter] = 0.into());
    executor["addTime"] = "2026-03-02T07:00:00.000GMT".into();
    let fields = fields.as_object().expect("fields").clone();
    executor.as_object_mut().expect("an object").extend(fields);
    executor
}

#[test]
fn json_lines_get_one_answer_a_line() {
    let line = |ids: &[u32]| {
        let executor = |id: &u32| executor(&id.to_string(), &json!({"totalTasks": id, "totalDuration": id}));
        json!(ids.iter().map(executor).collect::<Vec<_>>()).to_string()
    };
    let input = [line(&[1, 5, 3]), line(&[]), line(&[2, 1])].join("\n");
    let answers = ok(&["policy", "run", "TOTAL_DURATION", "-", "--output=json", "--min-tasks=2"], &input);
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ids: Vec<&Value> = answers.iter().map(|answer| &answer["picks"][0]["executorId"]).collect();
    assert_eq!(ids, [&json!("5"), &Value::Null, &json!("2")]);
    assert_eq!(
        answers[1],
        json!({"policy": "TOTAL_DURATION", "outcome": "nothing", "picks": [], "reason": "no candidates"})
    );
}

#[test]
fn a_fleet_of_our_own_json_is_read_too() {
    let fleet = r#"{"name": "etl", "picksMax": 2, "executors": [{"id": 7, "failedTasks": 3}, {"id": 8, "failedTasks": 9}]}"#;
    let answer: Value =
        serde_json::from_str(&ok(&["policy", "run", "FAILED_TASKS", "-", "-o", "json"], fleet))
            .expect("JSON");
    let ids: Vec<&Value> =
        answer["picks"].as_array().expect("picks").iter().map(|pick| &pick["executorId"]).collect();
    assert_eq!(ids, ["8", "7"]);
}

#[test]
fn a_loss_is_classified_from_evidence() {
    let evidence = json!({"podName": "etl-exec-3", "trigger": "pod-failed", "pod": {"phase": "Failed", "containers": [
        {"name": "spark-kubernetes-executor", "role": "executor", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}});
    let args = ["policy", "run", "--classify", "SPARK", "-", "-o", "json"];
    let answer: Value = serde_json::from_str(&ok(&args, &evidence.to_string())).expect("JSON");
    assert_eq!(answer["outcome"], "known");
    assert_eq!(answer["verdict"]["kind"], "memory-limit");
    assert_eq!(answer["verdict"]["exitCausedByApp"], true);
    assert_eq!(answer["verdict"]["exitCode"], 137);
    let undetermined: Value =
        serde_json::from_str(&ok(&args, r#"{"trigger": "pod-missing"}"#)).expect("JSON");
    assert!(
        undetermined["outcome"] == "undetermined" || undetermined["outcome"] == "known",
        "{undetermined}"
    );
}

#[test]
fn bad_input_is_refused_with_its_place_and_the_remedy() {
    refused_with(&RUN, r#"[{"id": "1", "#, &["standard input", "ends too early", "line 1 column 13"]);
    refused_with(&RUN, "", &["standard input", "empty"]);
    refused_with(&RUN, "hello", &["not JSON", "line 1 column 1"]);
    refused_with(&RUN, "42", &["a number", "/executors"]);
    refused_with(&RUN, r#"[{"id": "1", "totalTasks": "many"}]"#, &["[0].totalTasks", "\"many\"", "i32"]);
    refused_with(&RUN, r#"[{"id": "1", "totalTasks": 1e99}]"#, &["[0].totalTasks"]);
    refused_with(&RUN, r#"[{"id": "1", "totalDuration": 9223372036854775808}]"#, &["[0].totalDuration"]);
    refused_with(
        &RUN,
        r#"[{"id": "1", "totalTasks": 2147483648}]"#,
        &["[0].totalTasks", "2147483648", "i32"],
    );
    refused_with(&RUN, r#"[{"id": "1", "diskUsed": 1.5}]"#, &["[0].diskUsed", "1.5", "i64"]);
    refused_with(&RUN, r#"[{"id": "1"}, {"id": "1"}]"#, &["[1].id", "earlier row"]);
    refused_with(&RUN, r#"[{"id": 1}]"#, &["[0].id", "integer `1`", "a string"]);
    refused_with(
        &RUN,
        r#"[{"id": "1", "addTime": "noon"}]"#,
        &["[0].addTime", "noon", "2026-11-21T09:45:09.856GMT"],
    );
    refused_with(&RUN, &"[".repeat(100_000), &["ends too early"]);
    refused_with(&RUN, &"{\"a\":".repeat(100_000), &["recursion limit"]);
    refused_with(
        &RUN,
        r#"{"executors": [{"id": 1, "totalTask": 1}]}"#,
        &["executors[0]", "totalTask", "totalTasks"],
    );
    refused_with(&["policy", "run", "OUTLIER", "no/such/file"], "", &["no/such/file", "No such file"]);
    refused_with(&["policy", "run", "OUTLIER", "tests"], "", &["tests", "directory"]);
    refused_with(
        &["policy", "run", "--classify", "SPARK", "-"],
        r#"{"trigger": "bored"}"#,
        &["trigger", "bored", "pod-failed"],
    );
}

#[test]
fn unknown_policies_and_settings_are_refused_with_the_known_ones() {
    refused_with(&["policy", "run", "OUTLIERS", "-"], "[]", &["OUTLIERS", "ADD_TIME"]);
    refused_with(&["policy", "run", "outlier", "-"], "[]", &["did you mean OUTLIER?"]);
    refused_with(&["policy", "run", "SPARK", "-"], "[]", &["add --classify"]);
    refused_with(&["policy", "run", "--classify", "ID", "-"], "{}", &["leave out --classify"]);
    refused_with(&["policy", "run", "ID", "-", "--settings", "{"], "[]", &["--settings is not JSON"]);
    refused_with(&["policy", "run", "ID", "-", "--settings", "[]"], "[]", &["settings of ID", "object"]);
    refused_with(
        &["policy", "run", "ID", "-", "--settings", r#"{"a": 1}"#],
        "[]",
        &["settings of ID", "/a: unknown setting"],
    );
    refused_with(&["policy", "run", "ID", "-", "--min-tasks", "few"], "[]", &["--min-tasks", "few"]);
    refused_with(&["policy", "inspect", "Cargo.toml"], "", &["Cargo.toml", "not WebAssembly"]);
    refused_with(&["policy", "bench", "OUTLIERS"], "", &["OUTLIERS", "ADD_TIME"]);
    refused_with(&["policy", "new", "Not A Name"], "", &["a-z"]);
    refused_with(&["policy", "new", "host"], "", &["exists already"]);
    refused_with(&["policy", "build", "wit"], "", &["no Cargo.toml"]);
    refused_with(&["policy", "bench", "--samples", "0"], "", &["--samples", "1000000"]);
    refused_with(&["policy", "bench", "--executors", "2000000"], "", &["--executors", "1000000"]);
    refused_with(&RUN, r#"{"executors": [], "picksMax": 0}"#, &["picksMax", "at least 1"]);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    for args in [
        &["policy", "list"][..],
        &["policy", "inspect"],
        &["policy", "test", "tests/fixtures/builtin-roll.yaml"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rollcall"))
            .args(args)
            .current_dir(root())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !stderr.contains("panicked"),
            "{args:?}: {:?} {stderr}",
            output.status
        );
    }
}

/// Spark writes all counters; a document without some was made by another tool.
#[test]
fn an_executor_without_counters_is_no_candidate_and_named() {
    let mut rows = vec![executor("7", &json!({"addTime": null})), executor("8", &json!({"diskUsed": null}))];
    let ask = |rows: &[Value]| {
        let output = rollcall(&["policy", "run", "ADD_TIME", "-", "--output=json"], &json!(rows).to_string());
        assert!(output.status.success(), "{output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (answer, String::from_utf8(output.stderr).expect("text"))
    };
    let (answer, warning) = ask(&rows);
    assert_eq!((&answer["outcome"], &answer["reason"]), (&json!("nothing"), &json!("no candidates")));
    assert_eq!(
        warning,
        "rollcall: warning: standard input: executors without all counters are not candidates: executor 7 has no \
         addTime; executor 8 has no diskUsed\n"
    );
    rows.push(executor("9", &json!({})));
    assert_eq!(ask(&rows).0["picks"][0]["executorId"], "9");
    rows.push(executor("exec-1", &json!({})));
    let (answer, warning) = ask(&rows);
    assert_eq!(answer["picks"][0]["executorId"], "9");
    assert!(warning.contains("[3].id: \"exec-1\" is not a number, as executor ids of Spark"), "{warning}");
    // The driver and Spark's fallback storage cause no warning.
    let others = ["driver", "fallback"].map(|id| executor(id, &json!({"addTime": null})));
    assert_eq!(ask(&others).1, "");
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let answer = ok(&RUN, "\u{feff}[]");
    assert!(answer.contains("no candidates"), "{answer}");
}

#[test]
fn inspect_tells_what_is_in_a_module() {
    let text = ok(&["policy", "inspect", "policies/built/spark-roll.wasm", "--output=json"], "");
    let module: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(module["worlds"], json!(["roll-policy"]));
    assert_eq!(module["imports"], json!(["rollcall:policy/log@1.0.0", "rollcall:policy/types@1.0.0"]));
    assert_eq!(module["policies"].as_array().map(Vec::len), Some(13));
    assert_eq!(module["digest"].as_str().map(str::len), Some(64));
    assert_eq!(module["limits"]["cpuMs"], 50);
    assert!(ok(&["policy", "inspect"], "").contains("spark-loss"));
}

/// A file of cases in another directory, deleted with the test.
struct Cases(PathBuf);

impl Cases {
    fn new(name: &str, text: &str) -> Cases {
        let path = std::env::temp_dir().join(format!("rollcall-{name}-{}.yaml", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        Cases(path)
    }

    fn test(&self) -> Output {
        rollcall(&["policy", "test", self.0.to_str().expect("text")], "")
    }
}

impl Drop for Cases {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn cases_pass_or_fail_with_the_difference() {
    for file in ["builtin-roll", "builtin-loss", "spark/cases"] {
        let good = ok(&["policy", "test", &format!("tests/fixtures/{file}.yaml")], "");
        assert!(good.contains(" 0 failed"), "{good}");
    }

    let wrong = "policy: ID\ncases:\n- name: smallest\n  fleet: {executors: [{id: 3}, {id: 2}]}\n  expect: {picks: [3], fuelMax: 10}\n";
    let output = Cases::new("wrong", wrong).test();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("picks: expected 3, found 2") && text.contains("fuel: at most 10"), "{text}");

    let refusal = |name: &str, yaml: &str, part: &str| {
        let output = Cases::new(name, yaml).test();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    };
    refusal("empty", "cases: []\n", "no cases");
    refusal("typo", "cases:\n- {name: a, polcy: ID, fleet: [], expect: {}}\n", "polcy");

    // A case that cannot be run fails; the others still run.
    let mixed = "policy: ID\ncases:\n- {name: hollow, fleet: [], expect: {}}\n- {name: nothing, expect: {outcome: roll}}\n\
                 - {name: more, fleet: [], settings: {a: 1}, expect: {settingsRefused: a, outcome: roll}}\n\
                 - {name: vague, fleet: [], settings: {a: 1}, expect: {settingsRefused: the settings of}}\n\
                 - {name: good, fleet: [], expect: {outcome: nothing}}\n";
    let output = Cases::new("mixed", mixed).test();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        "checks nothing",
        "give one of fleet",
        "stands alone",
        "expected \"the settings of\"",
        "1 passed, 4 failed",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}
