//! `rollcall-lab simulate` as a user sees it.

use std::process::Command;

use serde_json::Value;

fn simulate(args: &[&str]) -> (String, String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_rollcall-lab"))
        .arg("simulate")
        .args(args)
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn json(args: &[&str]) -> (Value, Option<i32>) {
    let (stdout, stderr, code) = simulate(&[args, &["--output=json"]].concat());
    (serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}")), code)
}

/// D4: a seed reproduces a failure.
#[test]
fn a_seed_is_a_run() {
    let (first, code) = json(&["--seed=11"]);
    assert_eq!((first["violation"].clone(), code), (Value::Null, Some(0)));
    let (again, _) = json(&["--seed=11", "--timeline"]);
    assert_eq!(first["hash"], again["hash"], "words change nothing");
    assert!(again["timeline"].as_array().is_some_and(|lines| lines.len() > 100));
    assert_ne!(first["hash"], json(&["--seed=12"]).0["hash"]);
}

#[test]
fn a_campaign_is_the_same_on_any_number_of_threads() {
    let (all, code) = json(&["--seeds=0..60"]);
    assert_eq!((all["runs"].as_u64(), code), (Some(60), Some(0)), "{all}");
    assert_eq!(all["violations"], Value::Array(vec![]));
    assert_eq!(all["hash"], json(&["--seeds=0..60"]).0["hash"]);
    assert!(all["simulatedHours"].as_f64().is_some_and(|hours| hours > 5.0));
}

#[test]
fn an_injected_bug_is_a_violation_and_exit_code_1() {
    let (run, code) = json(&["--seed=1", "--bug=create-before-reserve"]);
    assert_eq!((run["violation"]["checker"].as_str(), code), (Some("S2"), Some(1)), "{run}");
    let (table, _, code) = simulate(&["--seeds=0..3", "--bug=create-before-reserve"]);
    assert_eq!(code, Some(1));
    assert!(table.contains("replay: rollcall-lab simulate --seed 1 --bug create-before-reserve"), "{table}");
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_remedy() {
    for (args, remedy) in [
        (&["--seeds=5..5"][..], "is empty"),
        (&["--seeds=5"], "0..20000"),
        (&["--bug=nope"], "no-uid"),
        (&["--timeline"], "--seed"),
    ] {
        let (stdout, stderr, code) = simulate(args);
        assert_eq!((stdout.as_str(), code), ("", Some(2)), "{args:?}");
        assert!(stderr.contains(remedy), "{args:?}: {stderr}");
    }
}
