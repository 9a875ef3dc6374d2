//! Spark's own `ExecutorRollPlugin` as the reference for the built-in policies: the same executors, the same picks.
//!
//! A script makes Spark itself store random executors, list them, write them as its REST API does, and choose. The rows
//! are shuffled, parsed by the reader of `policy run` and the daemon, and given to the policies in the sandbox.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use fleet::question::Selection;
use rollcall::policy::input::{self, Document};
use serde::Deserialize;
use serde_json::json;

use super::{JAVA_TOOL_OPTIONS, spark};
use crate::support::{root, sandbox, spark_roll};

const FLEETS: usize = 2_000;
const SEED: u32 = 37_810;

/// The script's output for one fleet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fleet {
    min_tasks: i32,
    /// Active executors, in the plugin's order.
    order: Vec<String>,
    /// The picks by policy.
    picks: BTreeMap<String, Option<String>>,
    executors: serde_json::Value,
}

#[test]
fn every_pick_is_that_of_sparks_own_plugin() {
    let Some(spark) = spark() else { return };
    let folder = std::env::temp_dir().join(format!("rollcall-choose-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let output = Command::new(spark.join("bin/python"))
        .arg(root().join("tests/real/spark/choose.py"))
        .args([FLEETS.to_string(), SEED.to_string()])
        .env("JAVA_TOOL_OPTIONS", JAVA_TOOL_OPTIONS.replace("$(TMPDIR)", &folder.display().to_string()))
        .env("TMPDIR", &folder)
        .env("SPARK_LOCAL_IP", "127.0.0.1")
        .env_remove("SPARK_HOME")
        .stdin(Stdio::null())
        .output()
        .expect("Python runs");
    let _ = std::fs::remove_dir_all(&folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let fleets: Vec<Fleet> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(fleets.len(), FLEETS);

    let module = spark_roll();
    let policies: Vec<&str> = module.policies.iter().map(|policy| policy.name.as_str()).collect();
    let settings = module.settings("OUTLIER", &json!({})).unwrap();
    let (mut picks, mut none, mut ties) = (0, 0, 0);
    let mut different = Vec::new();
    for (number, fleet) in fleets.iter().enumerate() {
        let others = policies.iter().filter(|policy| !fleet.picks.contains_key(**policy));
        // Spark 4.3.0 does not have it yet.
        assert_eq!(others.collect::<Vec<_>>(), [&"ACTIVE_TASKS"]);
        let document: Document = input::documents(fleet.executors.to_string().as_bytes())
            .next()
            .expect("a document")
            .unwrap_or_else(|error| panic!("fleet {number}: {error:#}"));
        let all = input::roll_question(&document, i32::MIN, 0).unwrap();
        assert_eq!(all.warning, None, "fleet {number}");
        let ids: Vec<String> = all.question.candidates.ids().iter().map(ToString::to_string).collect();
        assert_eq!(ids, fleet.order, "fleet {number}");
        let failed = &all.question.candidates.columns().failed_tasks;
        let most = failed.iter().max();
        ties += usize::from(failed.iter().filter(|&count| Some(count) == most).count() > 1);

        let question = input::roll_question(&document, fleet.min_tasks, 0).unwrap().question;
        for (policy, expected) in &fleet.picks {
            let found = match sandbox().select(module, policy, &settings, &question).answer.unwrap() {
                Selection::Roll(picks) => Some(question.candidates.ids()[picks[0].index].to_string()),
                Selection::Nothing(_) => None,
                Selection::Abstain => panic!("Spark's policies do not abstain"),
            };
            if found != *expected {
                different.push(format!("fleet {number}, {policy}: Spark {expected:?}, here {found:?}"));
            }
            picks += 1;
            none += usize::from(expected.is_none());
        }
    }
    println!(
        "{FLEETS} fleets, {picks} answers of Spark's plugin, {none} of them none, {} differ; in {ties} fleets \
         several executors have the most failed tasks",
        different.len()
    );
    assert!(
        different.is_empty(),
        "{} of {picks} differ: {:#?}",
        different.len(),
        &different[..different.len().min(20)]
    );
    assert!(ties > FLEETS / 4 && none > FLEETS / 10, "the fleets exercise both: {ties} and {none}");
}
