//! Losses from public reports, through the sandbox: the evidence, and the correct verdict.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::root;

/// A line of `expected.tsv`.
struct Case<'a> {
    name: &'a str,
    /// `known` answers by their kind, others by their outcome.
    kinds: &'a str,
    app_caused: &'a str,
    keep_pod: &'a str,
    message: &'a str,
}

fn case(line: &str) -> Case<'_> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, kinds, app_caused, keep_pod, message] = fields[..] else {
        panic!("five fields, not {line:?}")
    };
    for flag in [app_caused, keep_pod] {
        assert!(matches!(flag, "y" | "n" | "-"), "{line:?}");
    }
    Case { name, kinds, app_caused, keep_pod, message }
}

impl Case<'_> {
    /// The differences between the answer and the expectation.
    fn wrong(&self, answer: &Value) -> Vec<String> {
        let verdict = &answer["verdict"];
        let flag = |field: &str| match verdict[field].as_bool() {
            Some(true) => "y",
            Some(false) => "n",
            None => "?",
        };
        let found = verdict["kind"].as_str().or(answer["outcome"].as_str()).unwrap_or_default();
        let said = verdict["message"].as_str().unwrap_or_default();
        let one_of =
            |wanted: &str, found: &dyn Fn(&str) -> bool| wanted == "-" || wanted.split('|').any(found);
        [
            ("kind", self.kinds, one_of(self.kinds, &|kind| kind == found)),
            (
                "app-caused",
                self.app_caused,
                one_of(self.app_caused, &|wanted| wanted == flag("exitCausedByApp")),
            ),
            ("keep", self.keep_pod, one_of(self.keep_pod, &|wanted| wanted == flag("keepPod"))),
            ("message", self.message, one_of(self.message, &|part| said.contains(part))),
        ]
        .into_iter()
        .filter(|(.., right)| !right)
        .map(|(what, wanted, _)| format!("{}: {what} should be {wanted}: {answer}", self.name))
        .collect()
    }
}

#[test]
fn every_reported_loss_gets_the_right_verdict() {
    let directory = root().join("tests/fixtures/loss");
    let expected = fs::read_to_string(directory.join("expected.tsv")).expect("what is right");
    let lines = expected.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let cases: Vec<Case> = lines.map(case).collect();
    let documents = fs::read_dir(&directory).expect("the cases").filter(|entry| {
        entry
            .as_ref()
            .is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
    });
    assert_eq!(documents.count(), cases.len(), "each case has one document and one line");

    let evidence: Vec<String> = cases
        .iter()
        .map(|case| fs::read_to_string(directory.join(case.name).with_extension("json")).expect(case.name))
        .collect();
    let answers = answers(&evidence.concat());
    assert_eq!(answers.len(), cases.len());
    let wrong: Vec<String> =
        cases.iter().zip(&answers).flat_map(|(case, answer)| case.wrong(answer)).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The answers of `rollcall policy run`: one for each document.
fn answers(documents: &str) -> Vec<Value> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rollcall"))
        .args(["policy", "run", "--classify", "SPARK", "-", "--output=json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    // They exceed a pipe's buffer: the process answers while it still reads.
    let documents = documents.to_owned();
    let told = std::thread::spawn(move || stdin.write_all(documents.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    told.join().expect("no panic").expect("it reads all");
    assert!(output.status.success(), "{output:?}");
    let stream = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    stream.map(|answer| answer.expect("JSON")).collect()
}
