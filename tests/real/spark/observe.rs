//! Observe mode: an ordinary application, whose driver makes its executors' pods. Rollcall finds out why they were
//! lost, and rolls; the driver replaces.

use super::*;

const EXECUTORS: usize = 2;

#[test]
fn observe_mode_classifies_and_rolls() {
    let (Some(tools), Some(spark)) = (tools(), spark()) else { return };
    let settings = [("spark.kubernetes.container.image", "spark")];
    let application = Application::start(
        &tools,
        &spark,
        EXECUTORS,
        EXECUTORS,
        &settings,
        json!({
            "mode": "Observe",
            "limits": {"unavailable": 1},
            "roll": {"policies": ["OUTLIER"], "interval": "1h", "grace": "30s"},
        }),
    );
    let ids = application.at_strength("started");
    application.jobs_go_on();

    application.kubelet.signal(&application.pod(ids[0]), "KILL").unwrap();
    application.lost_and_replaced("kill -9", ids[0], "killed");

    let ids = application.at_strength("at strength");
    application
        .plane
        .kubectl(Role::Admin, &["delete", "pod", "--wait=false", &application.pod(ids[0])], "")
        .unwrap();
    application.lost_and_replaced("its pod deleted", ids[0], "deleted");

    let longest = application.with_most("totalDuration");
    let rolled = application.roll("OUTLIER");
    assert_eq!(rolled, longest);

    application.at_strength("at strength");
    application.jobs_go_on();
    let (well, failed) = application.jobs();
    println!("{well} jobs went well");
    application.heard();
    assert!(failed.is_empty(), "{failed:?}\n{}", application.picture());
    let counts = &application.rollcall(&["status", FLEET])["counts"];
    println!("{counts}");
    assert_eq!(counts["lost"], json!({"killed": 1, "deleted": 1}), "{}", application.picture());
    assert_eq!(counts["removed"], json!({"roll": 1}), "{}", application.picture());
}
