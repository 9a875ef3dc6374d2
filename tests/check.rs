//! `rollcall check` on documents with one kind of mistake each: the expected output is beside them.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::root;

const DOCUMENTS: &str = "tests/fixtures/documents";

fn check(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.arg("check").args(args).current_dir(root()).output().expect("the binary runs")
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).expect("text")
}

/// `NAME.yaml` is checked, `NAME.txt` is the expected output. For a new document, the failure shows the output.
#[test]
fn documents_get_the_answers_beside_them() {
    let mut names: Vec<String> = fs::read_dir(root().join(DOCUMENTS))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 14, "{names:?}");
    let mut wrong = Vec::new();
    for name in names {
        let output = check(&["-f", &format!("{DOCUMENTS}/{name}.yaml")]);
        let stderr = str::from_utf8(&output.stderr).expect("text");
        let answer = format!("exit code {}\n{}{stderr}", output.status.code().unwrap_or(-1), stdout(&output));
        let answer = answer.replace(&format!("{DOCUMENTS}/"), "");
        let expected =
            fs::read_to_string(root().join(DOCUMENTS).join(format!("{name}.txt"))).unwrap_or_default();
        if answer != expected {
            wrong.push(format!("--- {name}: expected\n{expected}--- answered\n{answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn warnings_are_told_and_fail_only_when_they_are_to() {
    let file = format!("{DOCUMENTS}/small-memory.yaml");
    let output = check(&["-f", &file, "--output=json"]);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    let report: Value = serde_json::from_str(stdout(&output)).expect("JSON");
    assert_eq!((&report["ok"], &report["problems"]), (&json!(true), &json!([])));
    assert_eq!(report["fleets"][0]["name"], "small-memory");
    let paths: Vec<&str> = report["warnings"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|warning| warning["path"].as_str().expect("a path"))
        .collect();
    let resources = "spec.template.spec.containers[0].resources";
    assert_eq!(paths, [format!("{resources}.limits.memory"), format!("{resources}.requests.memory")]);
    assert_eq!(check(&["-f", &file, "--deny-warnings"]).status.code(), Some(1));
    let clean = format!("{DOCUMENTS}/ephemeral-claim.yaml");
    assert_eq!(check(&["-f", &clean, "--deny-warnings"]).status.code(), Some(0));
    assert_eq!(
        check(&["-f", "examples/own.yaml", "-f", "examples/observe.yaml", "--deny-warnings"]).status.code(),
        Some(0)
    );
    let class = check(&["-f", "examples/class.yaml", "--deny-warnings"]);
    let text = String::from_utf8_lossy(&class.stdout);
    assert!(text.starts_with("ok class everything: Observe, namespaces: spark ("), "{class:?}");
}

#[test]
fn the_effective_document_leaves_out_what_no_pod_will_have() {
    let output = check(&["-f", &format!("{DOCUMENTS}/without-effect.yaml"), "--effective"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    let (_, template) = text.split_once("template:").expect("a template");
    assert!(
        template.contains("team: data") && template.contains("terminationGracePeriodSeconds: 60"),
        "{text}"
    );
    for gone in ["my-executor", "elsewhere", "spark-exec-id"] {
        assert!(!template.contains(gone), "{gone} is in {text}");
    }
    // Nothing of a rejected document is shown either.
    let output = check(&["-f", &format!("{DOCUMENTS}/unknown-fields.yaml"), "--effective"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""));
}
