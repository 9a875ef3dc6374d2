//! Observe mode: an ordinary application, whose driver creates its executors' pods. Rollcall classifies losses, and
//! rolls; the driver replaces.

use super::*;
use crate::real::judge;

const EXECUTORS: usize = 2;

pub(super) fn start(tools: &Path, spark: &Path) -> Application {
    let settings = [("spark.kubernetes.container.image", "spark")];
    Application::start(
        tools,
        spark,
        EXECUTORS,
        EXECUTORS,
        &settings,
        json!({
            "mode": "Observe",
            "limits": {"maxUnavailable": 1},
            "roll": {"policies": ["OUTLIER"], "interval": "1h", "grace": "30s"},
        }),
    )
}

#[test]
fn observe_mode_classifies_and_rolls() {
    let (Some(tools), Some(spark)) = (tools(), spark()) else { return };
    let application = start(&tools, &spark);
    application.begins();
    application.loses_one_to_a_kill();
    application.loses_one_to_a_deletion();

    application.rolls_the_longest();

    let counts = application.ends_well();
    assert_eq!(counts["lost"], json!({"killed": 1, "deleted": 1}));
    assert_eq!(counts["removed"], json!({"roll": 1}));

    the_driver_alone_creates(&application);
    application.over("Observe mode, in full");
}

/// According to the API server's audit log.
pub(super) fn the_driver_alone_creates(application: &Application) {
    let requests = judge::requests(&application.plane);
    let of_pods = |verb: &str| {
        let asked = requests.iter().filter(|request| request.resource == "pods" && request.verb == verb);
        asked.count()
    };
    assert!(of_pods("watch") > 0, "the audit log tells of no watch: {requests:?}");
    assert_eq!(of_pods("create"), 0, "only the driver creates pods: {requests:?}");
}
