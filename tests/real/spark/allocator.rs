//! The pods allocator in Spark's driver: Spark describes an executor and says how many it wants, and Rollcall creates
//! them.

use std::process::Command;

use super::*;

/// Compiles the allocator with the jars of this Spark, as its Maven project does.
fn classes(spark: &Path) -> PathBuf {
    let name = spark.file_name().unwrap().to_string_lossy();
    let classes = std::env::temp_dir().join(format!("rollcall-allocator-{}-{name}", std::process::id()));
    let sources = root().join("integrations/spark-allocator/src/main/java/dev/rollcall/spark");
    let sources = fs::read_dir(sources).unwrap().map(|source| source.unwrap().path());
    let compiled = Command::new("javac")
        .args(["-nowarn", "-proc:none", "-cp"])
        .arg(home(spark).join("jars/*"))
        .arg("-d")
        .arg(&classes)
        .args(sources)
        .output()
        .expect("javac runs: install openjdk-17-jdk-headless");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    classes
}

struct Allocated {
    application: Application,
    classes: PathBuf,
}

impl Drop for Allocated {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.classes);
    }
}

impl Allocated {
    /// The application's code and settings are those of any other, but for the class of the allocator.
    fn start(tools: &Path, spark: &Path, executors: usize, settings: &[(&str, &str)]) -> Allocated {
        let classes = classes(spark);
        let mut all = vec![
            ("spark.kubernetes.allocation.pods.allocator", "dev.rollcall.spark.RollcallPodsAllocator"),
            ("spark.driver.extraClassPath", classes.to_str().unwrap()),
            ("spark.kubernetes.container.image", "spark"),
            ("spark.kubernetes.executor.podNamePrefix", FLEET),
            ("spark.rollcall.fleet.heartbeat.timeout", "40s"),
            // Loopback: every connection comes from 127.0.0.1, and an object cannot allow a driver there.
            ("spark.rollcall.fleet.heartbeat.checkPeer", "false"),
            ("spark.rollcall.fleet.driver.startTimeout", "0s"),
            ("spark.rollcall.fleet.recovery.maxExecutorFailures", "100"),
        ];
        all.extend(settings);
        let application = Application::start(tools, spark, executors, executors, &all, None);
        Allocated { application, classes }
    }

    fn tell(&self, file: &str, text: &str) {
        fs::write(self.application.kubelet.folder(DRIVER).join(file), text).unwrap();
    }

    fn admin(&self, arguments: &[&str]) -> String {
        self.application.plane.kubectl(Role::Admin, arguments, "").unwrap()
    }

    fn counts(&self) -> Value {
        self.application.rollcall(&["status", FLEET])["counts"].take()
    }

    /// Waits until as many executors run, according to the API server.
    fn run(&self, what: &str, executors: usize) {
        self.application.wait(&format!("{what}: {executors} run"), || {
            (self.application.running()?.len() == executors).then_some(())
        });
    }
}

#[test]
fn the_driver_scales_and_rollcall_keeps() {
    let (Some(tools), Some(spark)) = (tools(), spark()) else { return };
    let oldest = others::others().find(|spark| spark.display().to_string().contains("3.5."));
    for spark in [Some(spark), oldest].into_iter().flatten() {
        up_and_down(&tools, &spark);
    }
}

fn up_and_down(tools: &Path, spark: &Path) {
    let settings = [
        ("spark.dynamicAllocation.enabled", "true"),
        ("spark.dynamicAllocation.minExecutors", "1"),
        ("spark.dynamicAllocation.maxExecutors", "4"),
        ("spark.dynamicAllocation.executorIdleTimeout", "3s"),
        ("spark.dynamicAllocation.shuffleTracking.enabled", "true"),
        ("spark.dynamicAllocation.shuffleTracking.timeout", "3s"),
    ];
    let allocated = Allocated::start(tools, spark, 1, &settings);
    allocated.run("started", 1);
    allocated.tell("load", "busy");
    allocated.run("busy", 4);
    allocated.tell("load", "idle");
    allocated.run("idle", 1);
    allocated.tell("load", "busy");
    allocated.application.jobs_go_on();
    let (well, failed) = allocated.application.jobs();
    assert!(failed.is_empty(), "{failed:?}");
    let counts = allocated.counts();
    println!("{well} jobs went well; {counts}");
    assert_eq!(counts["lost"], json!({}), "a scale-down is no loss");
    let removed = &counts["removed"];
    assert!(removed["scale-down"].as_u64() >= Some(3) && removed.as_object().unwrap().len() == 1, "{counts}");
    allocated.application.over("dynamic allocation");
}

#[test]
fn a_static_application_is_scaled_by_kubectl_and_kills_its_own() {
    let (Some(tools), Some(spark)) = (tools(), spark()) else { return };
    let mut allocated = Allocated::start(&tools, &spark, 2, &[]);
    allocated.application.begins();
    let fleets = allocated.admin(&["get", "fleets", "-n", NAMESPACE, "-o", "wide"]);
    println!("$ kubectl get fleets -o wide\n{fleets}");
    allocated.application.loses_one_to_a_kill();

    let scale = |allocated: &mut Allocated, replicas: usize| {
        let (fleet, replicas_flag) = (format!("executorfleet/{FLEET}"), format!("--replicas={replicas}"));
        allocated.admin(&["scale", &fleet, &replicas_flag, "-n", NAMESPACE]);
        allocated.application.executors = replicas;
    };
    let leave_to = |allocated: &Allocated, who: &str| {
        let patch = json!({"spec": {"scaleDown": who}}).to_string();
        allocated.admin(&["patch", "executorfleet", FLEET, "-n", NAMESPACE, "--type=merge", "-p", &patch]);
    };
    scale(&mut allocated, 3);
    allocated.application.at_strength("scaled to 3 by kubectl");
    // Rollcall leaves running executors to the driver, unless the fleet says otherwise.
    leave_to(&allocated, "Rollcall");
    scale(&mut allocated, 2);
    let ids = allocated.application.at_strength("scaled to 2 by kubectl");
    leave_to(&allocated, "Driver");

    // The first `killExecutor` of a static application sets Spark's total to 0, and the others go on.
    allocated.tell("kill", &ids[0].to_string());
    allocated.run("killed by its driver", 1);
    allocated.application.jobs_go_on();
    let counts = allocated.counts();
    println!("{counts}");
    assert_eq!(counts["lost"], json!({"killed": 1}));
    assert_eq!(counts["removed"], json!({"scale-down": 2}));
    scale(&mut allocated, 2);
    allocated.application.at_strength("scaled to 2 by kubectl");
    let (_, failed) = allocated.application.jobs();
    assert!(failed.is_empty(), "{failed:?}");
    allocated.application.over("the allocator");
}
