//! Real Spark: an unmodified PySpark application whose driver and executors are pods of the process kubelet.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fleet::question::LossKind;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::control_plane::{ControlPlane, NAMESPACE, Role};
use super::evidence::{self, Shown};
use super::kubelet::{Image, Kubelet};
use super::stage::{Daemon, free, runs};
use super::{enabled, tools};
use crate::support::root;

mod allocator;
mod choose;
mod classes;
mod observe;
mod others;
mod own;

/// What SPARK-54796 writes to the log.
const SPARK_54796: &str =
    r#"the return value of "org.apache.spark.storage.BlockManager.shuffleManager()" is null"#;
const FLEET: &str = "real";
const DRIVER: &str = "driver";
const APPLICATION: &str = "spark-real";
/// JVMs start slowly on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// Each check starts a process of the command line, which takes CPU time from starting JVMs.
const LOOK: Duration = Duration::from_millis(500);
/// Spark's own driver declares an executor lost only after 120 s.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(40);
/// How often the daemon asks the driver.
const REST_INTERVAL: Duration = Duration::from_secs(1);
/// The period of each executor's GraphiteSink.
const GRAPHITE_PERIOD: Duration = Duration::from_secs(2);

/// Java 17 and later need these to run Spark (`org.apache.spark.launcher.JavaModuleOptions`).
const JAVA_OPTIONS: [&str; 16] = [
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--add-modules=jdk.incubator.vector",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.invoke=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.reflect=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.atomic=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.cs=ALL-UNNAMED",
    "--add-opens=java.base/sun.util.calendar=ALL-UNNAMED",
    "-Dio.netty.tryReflectionSetAccessible=true",
];

/// Where PySpark is installed.
pub fn spark() -> Option<PathBuf> {
    enabled("real Spark", "ROLLCALL_SPARK", "export ROLLCALL_SPARK=$(tests/tools/spark.sh)")
        .map(PathBuf::from)
}

/// For every JVM: its own files are in its own directory, and are deleted with it.
pub const JAVA_TOOL_OPTIONS: &str = "-Djava.io.tmpdir=$(TMPDIR) -XX:-UsePerfData";

/// For JVMs that live for a minute: the optimising compiler and the parallel collector would use CPU time that starting
/// JVMs need.
const SHORT_LIVED: &str = "-XX:+IgnoreUnrecognizedVMOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC";

/// A driver that runs its application on a real control plane, and a daemon that manages its executors.
struct Application {
    // In the order in which they must end.
    daemon: Daemon,
    kubelet: Kubelet,
    plane: ControlPlane,
    /// The driver's UI.
    rest: String,
    document: PathBuf,
    fleet: Value,
    executors: usize,
    begun: Instant,
    _shown: Shown,
}

impl Application {
    /// `instances` are the driver's own executors, `settings` are the application's own; `spec` is the fleet's document
    /// without the common part. `None`: the driver writes an object of the API server.
    fn start(
        tools: &Path,
        spark: &Path,
        executors: usize,
        instances: usize,
        settings: &[(&str, &str)],
        spec: impl Into<Option<Value>>,
    ) -> Application {
        println!("Spark in {}", spark.display());
        let start = Instant::now();
        let plane = ControlPlane::start(tools).unwrap();
        let spec = spec.into();
        let (graphite, rest_port) = (free(), free().port());
        let kubelet = Kubelet::start(
            &plane.kubeconfig(Role::Kubelet),
            NAMESPACE,
            &plane.directory().join("pods"),
            image(spark),
        )
        .unwrap();
        let all = settings_of(&plane, graphite, rest_port, settings);
        create_driver(&plane, DRIVER, APPLICATION, instances, &all);
        let shown = evidence::show_tail(kubelet.folder(DRIVER).join("log"));

        let begun = Instant::now();
        let address = loop {
            if let Some(address) = kubelet.address(DRIVER) {
                break address;
            }
            assert!(begun.elapsed() < PATIENCE, "the driver does not run after {PATIENCE:?}");
            sleep(LOOK);
        };
        let rest = format!("{address}:{rest_port}");

        let mut fleet = json!({
            "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet",
            "metadata": {"name": FLEET, "namespace": NAMESPACE},
            "spec": {
                "executors": executors,
                "driver": {"podName": DRIVER, "restPort": rest_port, "restInterval": format!("{}s", REST_INTERVAL.as_secs()), "allowLoopback": true},
                // Loopback: every connection comes from 127.0.0.1.
                "heartbeat": {"timeout": format!("{}s", HEARTBEAT_TIMEOUT.as_secs()), "interval": "2s", "checkPeer": false},
            },
        });
        let document = plane.directory().join("fleet.json");
        let mut flags = vec!["--no-leader-election"];
        let mut documents = Vec::new();
        if let Some(spec) = spec {
            fleet["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            fs::write(&document, fleet.to_string()).unwrap();
            documents.push(document.as_path());
        } else {
            flags.extend(["--watch-fleets", "--fleet-namespace", NAMESPACE]);
        }
        let kubeconfig = plane.kubeconfig(Role::Rollcall);
        let daemon = Daemon::start("rollcall", plane.directory(), &kubeconfig, &documents, graphite, &flags);
        Application { daemon, kubelet, plane, rest, document, fleet, executors, begun: start, _shown: shown }
    }

    /// Runs `rollcall` with these arguments, and returns its JSON.
    fn rollcall(&self, arguments: &[&str]) -> Value {
        self.daemon.json(arguments).unwrap_or_default()
    }

    /// The value of this series in the daemon's metrics. A series without events may be missing.
    fn metric(&self, series: &str) -> Option<f64> {
        let text = get(&format!("http://{}/metrics", self.daemon.http))?;
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Spark's, as the driver reports it.
    fn version(&self) -> String {
        let answer = get(&format!("http://{}/api/v1/version", self.rest)).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["spark"].as_str().unwrap().to_owned()
    }

    /// Prints what has run, according to the driver, and how long it took.
    fn over(&self, suite: &str) {
        let version = self.version();
        println!("Spark {version}, {suite}: {:.0} s", self.begun.elapsed().as_secs_f64());
    }

    /// All executors that the driver ever had, from its REST API, without the driver itself.
    fn all_executors(&self) -> Vec<Value> {
        let url = format!("http://{}/api/v1/applications/{APPLICATION}/allexecutors", self.rest);
        let answer: Option<Vec<Value>> = get(&url).and_then(|text| serde_json::from_str(&text).ok());
        answer.unwrap_or_default().into_iter().filter(|executor| executor["id"] != "driver").collect()
    }

    /// The driver's log so far.
    fn driver_log(&self) -> String {
        log_of(&self.kubelet, DRIVER)
    }

    /// The number of successful jobs, and the failed ones.
    fn jobs(&self) -> (usize, Vec<String>) {
        let log = self.driver_log();
        let jobs = log.lines().filter(|line| line.starts_with("job "));
        let (failed, well): (Vec<_>, Vec<_>) = jobs.partition(|line| line.contains("FAILED"));
        (well.len(), failed.into_iter().map(str::to_owned).collect())
    }

    fn wait<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                println!("{what}: after {:.1} s", begun.elapsed().as_secs_f64());
                return found;
            }
            let in_time = begun.elapsed() < PATIENCE && self.kubelet.runs(DRIVER);
            assert!(
                in_time,
                "{what}: not after {:?}: {:#}",
                begun.elapsed(),
                self.rollcall(&["status", FLEET])
            );
            sleep(LOOK);
        }
    }

    /// Waits until the daemon, the driver and the API server agree that all executors exist. Returns their ids,
    /// ascending.
    fn at_strength(&self, what: &str) -> Vec<u64> {
        self.wait(what, || {
            let status = self.rollcall(&["status", FLEET]);
            let mut ids: Vec<u64> = self
                .all_executors()
                .iter()
                .filter(|executor| executor["isActive"] == true)
                .map(|executor| executor["id"].as_str().unwrap().parse().unwrap())
                .collect();
            ids.sort_unstable();
            let available = status["counts"]["available"].as_u64();
            let all = available == Some(self.executors as u64) && ids.len() == self.executors;
            (all && self.running()? == ids).then_some(ids)
        })
    }

    /// The ids of executors whose pods run, according to the API server, ascending. `None` while it does not answer.
    fn running(&self) -> Option<Vec<u64>> {
        let selector = format!("spark-role=executor,spark-app-selector={APPLICATION}");
        let list =
            self.plane.kubectl(Role::Admin, &["get", "pods", "-l", &selector, "-o", "json"], "").ok()?;
        let list: Value = serde_json::from_str(&list).unwrap();
        let running = list["items"].as_array().unwrap().iter().filter(|pod| runs(pod));
        let id = |pod: &Value| pod["metadata"]["labels"]["spark-exec-id"].as_str().unwrap().parse().unwrap();
        let mut ids: Vec<u64> = running.map(id).collect();
        ids.sort_unstable();
        Some(ids)
    }

    /// Waits until some more jobs have succeeded.
    fn jobs_go_on(&self) {
        let before = self.jobs().0;
        self.wait("three more jobs", || (self.jobs().0 >= before + 3).then_some(()));
    }

    /// Waits until an executor that the test has ended is lost with this kind of loss, and all executors exist again.
    fn lost_and_replaced(&self, what: &str, executor: u64, kind: &str) {
        let verdict = self.wait(what, || self.verdict(executor));
        assert_eq!(verdict, kind, "{what}, executor {executor}: {:?}", self.history(executor));
        let ids = self.at_strength(&format!("{what}: {verdict}; at strength"));
        assert!(!ids.contains(&executor), "{ids:?}");
    }

    fn begins(&self) {
        self.at_strength("started");
        self.jobs_go_on();
    }

    fn loses_one_to_a_kill(&self) {
        let ids = self.at_strength("at strength");
        self.kubelet.signal(&self.pod(ids[0]), "KILL").unwrap();
        self.lost_and_replaced("kill -9", ids[0], "killed");
    }

    fn loses_one_to_a_deletion(&self) {
        let ids = self.at_strength("at strength");
        let delete = ["delete", "pod", "--wait=false", &self.pod(ids[0])];
        self.plane.kubectl(Role::Admin, &delete, "").unwrap();
        self.lost_and_replaced("its pod deleted", ids[0], "deleted");
    }

    /// All executors exist, no job has failed, and Graphite reports have arrived. Returns the daemon's counts.
    fn ends_well(&self) -> Value {
        self.at_strength("at strength");
        self.jobs_go_on();
        let (well, failed) = self.jobs();
        println!("{well} jobs went well");
        self.heard();
        // An executor that gets a decommissioned one's shuffle blocks while it starts fails every fetch from then on.
        let has_the_bug = ["4.0.", "4.1."].iter().any(|affected| self.version().starts_with(affected));
        if has_the_bug && self.driver_log().contains(SPARK_54796) {
            println!("SPARK-54796 failed {failed:?}");
        } else {
            assert!(failed.is_empty(), "{failed:?}");
        }
        let counts = self.rollcall(&["status", FLEET])["counts"].take();
        println!("{counts}");
        counts
    }

    /// The name of an executor's pod.
    fn pod(&self, executor: u64) -> String {
        let label = format!("spark-exec-id={executor}");
        self.plane
            .kubectl(
                Role::Admin,
                &["get", "pods", "-l", &label, "-o", "jsonpath={.items[0].metadata.name}"],
                "",
            )
            .unwrap()
    }

    /// The daemon's history of an executor.
    fn history(&self, executor: u64) -> Vec<String> {
        let explained = self.rollcall(&["explain", FLEET, &executor.to_string()]);
        let history = explained["history"].as_array().map(Vec::as_slice).unwrap_or_default();
        history.iter().filter_map(|entry| entry["text"].as_str().map(str::to_owned)).collect()
    }

    /// Why an executor was lost, according to the daemon.
    fn verdict(&self, executor: u64) -> Option<String> {
        let history = self.history(executor);
        let mut kinds = history.iter().filter_map(|text| Some(text.split_once(": ")?.0));
        kinds.find(|kind| !matches!(LossKind::named(kind), LossKind::Other(_))).map(str::to_owned)
    }

    /// Rolls with this policy, waits until an executor was decommissioned, and returns its id.
    fn roll(&self, policy: &str) -> u64 {
        let before = self.at_strength("at strength");
        self.daemon.order(&["roll", FLEET]);
        let rolled = self.wait(&format!("roll by {policy}"), || {
            let gone: Vec<Value> =
                self.all_executors().into_iter().filter(|it| it["isActive"] == false).collect();
            let gone = gone
                .iter()
                .find(|it| before.iter().any(|id| it["id"].as_str() == Some(id.to_string().as_str())))?;
            assert!(
                gone["removeReason"].as_str().is_some_and(|reason| reason.contains("decommission")),
                "{gone:#}"
            );
            gone["id"].as_str()?.parse().ok()
        });
        let message = format!("Received executor {rolled} decommissioned message");
        assert!(self.driver_log().contains(&message), "the driver's log has no {message:?}");
        let history = self.history(rolled);
        let picked = history.iter().find(|text| text.starts_with(&format!("{policy}, score ")));
        println!("{}", picked.unwrap_or_else(|| panic!("{policy} did not pick {rolled}: {history:?}")));
        rolled
    }

    /// Rolls by OUTLIER, which among so few executors finds no outlier and picks the longest total duration. Jobs go on
    /// meanwhile: the score must be at least what every other executor had a moment before.
    fn rolls_the_longest(&self) {
        let before = self.all_executors();
        // When the daemon picks, its counters are newer than these.
        sleep(2 * REST_INTERVAL);
        let rolled = self.roll("OUTLIER");
        let history = self.history(rolled);
        let mut scores =
            history.iter().filter_map(|text| text.strip_prefix("OUTLIER, score ")?.split_once(':'));
        let score: u64 = scores.next().unwrap().0.parse().unwrap();
        for executor in before.iter().filter(|executor| executor["isActive"] == true) {
            let duration = executor["totalDuration"].as_u64().unwrap();
            assert!(score >= duration, "{rolled} rolled for {score} ms, before: {before:#?}");
        }
    }

    /// Writes another document, and waits until it is in force.
    fn change(&mut self, change: impl FnOnce(&mut Value)) {
        const CHANGES: &str = "rollcall_step_seconds_count{event=\"documents\"}";
        let before = self.metric(CHANGES).unwrap_or_default();
        change(&mut self.fleet["spec"]);
        fs::write(&self.document, self.fleet.to_string()).unwrap();
        self.wait("the document has changed", || (self.metric(CHANGES) > Some(before)).then_some(()));
    }

    /// Heartbeats arrive from the executors themselves, and not only through the driver's REST API: at least every
    /// other report.
    fn heard(&self) {
        const TIMES: u32 = 5;
        let heard = || self.metric("rollcall_heartbeats_total{source=\"graphite\",result=\"accepted\"}");
        let (before, begun) = (heard().unwrap_or_default(), Instant::now());
        let after = before + f64::from(TIMES) * self.executors as f64;
        let now =
            self.wait("heard over Graphite, each five times", || heard().filter(|heard| *heard >= after));
        let took = begun.elapsed();
        println!("{now} heartbeats over Graphite, {} of them in {:.1} s", now - before, took.as_secs_f64());
        assert!(took <= 2 * TIMES * GRAPHITE_PERIOD, "too few reports of {} executors", self.executors);
    }
}

/// Creates the pod of a driver that runs the application.
fn create_driver(plane: &ControlPlane, name: &str, application: &str, instances: usize, settings: &[String]) {
    let mut command = vec!["spark-submit".to_owned()];
    for setting in settings {
        command.extend(["--conf".to_owned(), setting.clone()]);
    }
    command.push(root().join("tests/real/spark/app.py").display().to_string());
    let labels = json!({"spark-role": "driver", "spark-app-selector": application});
    let driver = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"restartPolicy": "Never", "containers": [{
            "name": "spark-kubernetes-driver", "image": "spark", "command": command,
            "env": [
                {"name": "INSTANCES", "value": instances.to_string()},
                {"name": "SPARK_LOCAL_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
        }]},
    });
    plane.kubectl(Role::Driver, &["create", "-f", "-"], &driver.to_string()).unwrap();
}

/// A pod's output so far.
fn log_of(kubelet: &Kubelet, pod: &str) -> String {
    fs::read_to_string(kubelet.folder(pod).join("log")).unwrap_or_default()
}

/// The content at this URL, while the server answers.
fn get(url: &str) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let text = async { reqwest::get(url).await.ok()?.text().await.ok() };
    runtime.block_on(async { timeout(PATIENCE, text).await.ok()? })
}

/// `SPARK_HOME`.
pub fn home(spark: &Path) -> PathBuf {
    let python = fs::read_dir(spark.join("lib")).unwrap().next().unwrap().unwrap().path();
    python.join("site-packages/pyspark")
}

/// Spark's image, made from the local installation.
fn image(spark: &Path) -> Image {
    let inherited = |name: &str| std::env::var(name).unwrap_or_default();
    let home = home(spark);
    let path = format!("{}:{}", spark.join("bin").display(), inherited("PATH"));
    let env = [
        ("PATH", path),
        ("HOME", inherited("HOME")),
        ("JAVA_HOME", inherited("JAVA_HOME")),
        ("SPARK_HOME", home.display().to_string()),
        ("JAVA_TOOL_OPTIONS", format!("{JAVA_TOOL_OPTIONS} {SHORT_LIVED}")),
    ];
    let env = env.into_iter().filter(|(_, value)| !value.is_empty());
    Image {
        folder: root().join("tests/real/spark"),
        env: env.map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

/// The driver's address of the API server, and its credentials.
pub fn authentication(plane: &ControlPlane) -> Vec<(String, String)> {
    let kubeconfig: Value =
        serde_json::from_slice(&fs::read(plane.kubeconfig(Role::Driver)).unwrap()).unwrap();
    let cluster = &kubeconfig["clusters"][0]["cluster"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    vec![
        ("spark.master".to_owned(), format!("k8s://{}", text(&cluster["server"]))),
        ("spark.kubernetes.authenticate.caCertFile".to_owned(), text(&cluster["certificate-authority"])),
        ("spark.kubernetes.authenticate.oauthToken".to_owned(), Role::Driver.name().to_owned()),
    ]
}

/// The settings of every application here, and its own.
fn settings_of(
    plane: &ControlPlane,
    graphite: SocketAddr,
    rest_port: u16,
    own: &[(&str, &str)],
) -> Vec<String> {
    let graphite_key = |key: &str| format!("spark.metrics.conf.executor.sink.graphite.{key}");
    let mut settings = authentication(plane);
    settings.extend([
        (graphite_key("class"), "org.apache.spark.metrics.sink.GraphiteSink".to_owned()),
        (graphite_key("host"), graphite.ip().to_string()),
        (graphite_key("port"), graphite.port().to_string()),
        (graphite_key("period"), GRAPHITE_PERIOD.as_secs().to_string()),
        (graphite_key("unit"), "seconds".to_owned()),
        ("spark.ui.port".to_owned(), rest_port.to_string()),
    ]);
    let fixed = [
        ("spark.kubernetes.namespace", NAMESPACE),
        ("spark.kubernetes.driver.pod.name", DRIVER),
        ("spark.app.id", APPLICATION),
        ("spark.driver.port", "7078"),
        ("spark.driver.blockManager.port", "7079"),
        ("spark.driver.memory", "512m"),
        ("spark.executor.memory", "512m"),
        ("spark.sql.shuffle.partitions", "4"),
        ("spark.ui.showConsoleProgress", "false"),
        ("spark.dynamicAllocation.enabled", "false"),
        ("spark.decommission.enabled", "true"),
        ("spark.storage.decommission.enabled", "true"),
        // The interval at which it checks that all blocks have moved, before the executor exits; 30 s by default.
        ("spark.storage.decommission.replicationReattemptInterval", "1s"),
    ];
    settings.extend(fixed.iter().chain(own).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    settings.iter().map(|(key, value)| format!("{key}={value}")).collect()
}
