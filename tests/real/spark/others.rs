//! The same on other versions of Spark, one after the other: executors start, one is killed, one is rolled, all are
//! replaced. The other kinds of loss depend on Kubernetes and not on Spark's version: the complete suites test them.

use super::*;

const EXECUTORS: usize = 2;

/// The installation directories, separated as in PATH.
pub(super) fn others() -> impl Iterator<Item = PathBuf> {
    let how = "export ROLLCALL_SPARK_OTHERS=$(tests/tools/spark.sh 3.5.9):$(tests/tools/spark.sh 4.1.4)";
    let folders = enabled("other versions of Spark", "ROLLCALL_SPARK_OTHERS", how).unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    folders.into_iter().filter(|folder| !folder.as_os_str().is_empty())
}

#[test]
fn own_mode_on_other_versions() {
    let Some(tools) = tools() else { return };
    for spark in others() {
        let application = own::start(&tools, &spark, EXECUTORS);
        loses_and_rolls_one(&application);
        application.over("Own mode, in short");
    }
}

#[test]
fn observe_mode_on_other_versions() {
    let Some(tools) = tools() else { return };
    for spark in others() {
        let application = observe::start(&tools, &spark);
        loses_and_rolls_one(&application);
        observe::the_driver_alone_creates(&application);
        application.over("Observe mode, in short");
    }
}

fn loses_and_rolls_one(application: &Application) {
    application.at_strength("started");
    application.loses_one_to_a_kill();
    // OUTLIER cannot distinguish executors that have not run any task yet.
    application.jobs_go_on();
    application.rolls_the_longest();
    let counts = application.ends_well();
    assert_eq!(counts["lost"], json!({"killed": 1}));
    assert_eq!(counts["removed"], json!({"roll": 1}));
}
