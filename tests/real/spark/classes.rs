//! One class for a whole namespace: unmodified applications, whose drivers have names that were made up, are observed.

use super::*;

const DRIVERS: [&str; 2] = ["etl-98f2c1a6-driver", "report-20261129-0412-77ab-driver"];
const EXECUTORS: usize = 2;

#[test]
fn a_class_observes_all_drivers_of_a_namespace() {
    let (Some(tools), Some(spark)) = (tools(), spark()) else { return };
    let oldest = others::others().find(|spark| spark.display().to_string().contains("3.5."));
    // The newest version is observed by other tests.
    observes_both(&tools, &oldest.unwrap_or(spark));
}

fn observes_both(tools: &Path, spark: &Path) {
    println!("Spark in {}", spark.display());
    let plane = ControlPlane::start(tools).unwrap();
    let admin = |arguments: &[&str], input: &str| plane.kubectl(Role::Admin, arguments, input).unwrap();
    let class = json!({
        "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleetClass", "metadata": {"name": "everything"},
        "spec": {
            "namespaces": [NAMESPACE],
            "fleet": {
                "mode": "Observe", "dryRun": true,
                // Loopback: every connection comes from 127.0.0.1.
                "heartbeat": {"timeout": "40s", "interval": "2s", "checkPeer": false},
            },
        },
    });
    admin(&["apply", "-f", "-"], &class.to_string());
    let graphite = free();
    let folder = plane.directory().join("pods");
    let kubelet = Kubelet::start(&plane.kubeconfig(Role::Kubelet), NAMESPACE, &folder, image(spark)).unwrap();
    let flags = ["--no-leader-election", "--watch-fleets"];
    let kubeconfig = plane.kubeconfig(Role::Rollcall);
    let daemon = Daemon::start("rollcall", plane.directory(), &kubeconfig, &[], graphite, &flags);
    for driver in DRIVERS {
        let application = format!("spark-{driver}");
        let own = [
            ("spark.kubernetes.container.image", "spark"),
            ("spark.kubernetes.driver.pod.name", driver),
            ("spark.app.id", &application),
        ];
        let settings = settings_of(&plane, graphite, free().port(), &own);
        create_driver(&plane, driver, &application, EXECUTORS, &settings);
    }
    let begun = Instant::now();
    let wait = |what: &str, look: &dyn Fn() -> Option<String>| {
        let from = Instant::now();
        loop {
            if let Some(found) = look() {
                println!("{what}: after {:.1} s", from.elapsed().as_secs_f64());
                return found;
            }
            let fleets = || admin(&["get", "executorfleets", "-n", NAMESPACE, "-o", "yaml"], "");
            assert!(from.elapsed() < PATIENCE, "{what}: {}", fleets());
            sleep(LOOK);
        }
    };
    let object = |driver: &str| -> Value {
        let get = ["get", "executorfleet", driver, "-n", NAMESPACE, "-o", "json", "--ignore-not-found"];
        serde_json::from_str(&admin(&get, "")).unwrap_or_default()
    };
    for driver in DRIVERS {
        wait(&format!("{driver} has a fleet"), &|| {
            let owner = object(driver)["metadata"]["ownerReferences"][0]["name"].clone();
            (owner == driver).then(String::new)
        });
        wait(&format!("{driver} has {EXECUTORS} executors"), &|| {
            let status = object(driver)["status"].clone();
            (status["available"] == EXECUTORS && status["executors"] == EXECUTORS).then(String::new)
        });
    }
    let kill = DRIVERS[0];
    let selector = format!("spark-role=executor,spark-app-selector=spark-{kill}");
    let name = ["get", "pods", "-n", NAMESPACE, "-l", &selector, "-o", "jsonpath={.items[0].metadata.name}"];
    kubelet.signal(&admin(&name, ""), "KILL").unwrap();
    let told = wait("the loss is in the object", &|| {
        let status = object(kill)["status"].clone();
        let message = status["lastLosses"][0]["message"].as_str()?.to_owned();
        (status["lost"] == 1 && status["available"] == EXECUTORS).then_some(message)
    });
    assert!(told.starts_with("killed: "), "{told}");
    let wide = admin(&["get", "executorfleets", "-n", NAMESPACE, "-o", "wide"], "");
    println!("$ kubectl get executorfleets -o wide\n{wide}");
    println!("$ kubectl get fleetclasses\n{}", admin(&["get", "fleetclasses"], ""));
    for condition in object(kill)["status"]["conditions"].as_array().unwrap() {
        println!(
            "{}={} {} {}",
            condition["type"], condition["status"], condition["reason"], condition["message"]
        );
    }
    assert_eq!(object(DRIVERS[1])["status"]["lost"], 0);
    let version = spark.file_name().unwrap().to_string_lossy();
    println!("{version}, a class and two drivers: {:.0} s", begun.elapsed().as_secs_f64());
    drop(daemon);
}
