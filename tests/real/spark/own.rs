//! Own mode: the driver requests no executors, and gets Rollcall's. Each is lost in another way; each loss is
//! classified correctly and replaced, and no job of the application fails.

use super::*;

const EXECUTORS: usize = 3;

pub(super) fn start(tools: &Path, spark: &Path, executors: usize) -> Application {
    let settings = [
        ("spark.kubernetes.executor.deleteOnTermination", "false"),
        ("spark.executor.maxNumFailures", "1000000"),
        ("spark.dynamicAllocation.executorIdleTimeout", "30d"),
    ];
    Application::start(
        tools,
        spark,
        executors,
        0,
        &settings,
        json!({
            "mode": "Own",
            "allocation": {"pendingTimeout": "180s"},
            "limits": {"maxSurge": 1},
            "recovery": {"maxExecutorFailures": 100},
            "roll": {"policies": ["OUTLIER"], "interval": "1h", "grace": "30s"},
            "spark": {"executorMemory": "512m", "javaOptions": JAVA_OPTIONS},
            "template": {"spec": {
                "terminationGracePeriodSeconds": 15,
                "containers": [{"name": "spark-kubernetes-executor", "image": "spark"}],
            }},
        }),
    )
}

#[test]
fn own_mode_whatever_befalls_the_executors() {
    let (Some(tools), Some(spark)) = (tools(), spark()) else { return };
    let mut application = start(&tools, &spark, EXECUTORS);
    application.begins();
    application.loses_one_to_a_kill();

    let ids = application.at_strength("at strength");
    application.kubelet.signal(&application.pod(ids[0]), "STOP").unwrap();
    application.lost_and_replaced("stopped, alive and silent", ids[0], "heartbeat-lost");
    let silent = silent(&application.history(ids[0]));
    println!("given up after {silent:?}");
    let ours = HEARTBEAT_TIMEOUT..HEARTBEAT_TIMEOUT + Duration::from_secs(60);
    assert!(ours.contains(&silent), "{silent:?}: did the driver declare it lost, and not Rollcall?");

    application.loses_one_to_a_deletion();

    let ids = application.at_strength("at strength");
    fs::write(application.kubelet.folder(DRIVER).join("out-of-memory"), ids[0].to_string()).unwrap();
    application.lost_and_replaced("out of memory", ids[0], "out-of-memory");

    // No other executor is starting: the timeout of pending pods only affects those that do not start.
    let ids = application.at_strength("at strength");
    application.change(|spec| spec["allocation"]["pendingTimeout"] = json!("20s"));
    application.kubelet.hold_next("ErrImagePull");
    application.kubelet.signal(&application.pod(ids[0]), "KILL").unwrap();
    let stuck = ids.last().unwrap() + 1;
    let verdict =
        application.wait("kill -9, and its replacement never starts", || application.verdict(stuck));
    assert_eq!(verdict, "image", "{:?}", application.history(stuck));
    application.change(|spec| spec["allocation"]["pendingTimeout"] = json!("180s"));
    application.lost_and_replaced("kill -9", ids[0], "killed");

    application.rolls_the_longest();

    let ids = application.at_strength("at strength");
    application.change(|spec| spec["roll"]["policies"] = json!(["ID"]));
    let rolled = application.roll("ID");
    assert_eq!(rolled, ids[0], "the smallest");

    let counts = application.ends_well();
    assert_eq!(
        counts["lost"],
        json!({"killed": 2, "heartbeat-lost": 1, "deleted": 1, "out-of-memory": 1, "image": 1})
    );
    assert_eq!(counts["removed"], json!({"roll": 2}));
    application.over("Own mode, in full");
}

/// How long the daemon had received no heartbeat when it declared an executor lost, by its verdict.
fn silent(history: &[String]) -> Duration {
    let text = history.iter().find_map(|text| text.split_once(" timed out after "));
    let (_, text) = text.unwrap_or_else(|| panic!("nothing has timed out: {history:?}"));
    Duration::from_millis(text.split(' ').next().unwrap().parse().unwrap())
}
