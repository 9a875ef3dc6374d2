//! The daemon on it, in Own mode: at strength whatever befalls the control plane, with no more rights than the
//! README names, and judged by what the API server wrote into its audit log.
#![allow(clippy::unwrap_used, reason = "a test may panic; what went wrong is in the error")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::control_plane::{ControlPlane, NAMESPACE, Role, STAGES};
use super::tools;

const TARGET: usize = 5;
const FLEET: &str = "real";
const NODE: &str = "node-1";
const EXECUTORS: &str = "spark-role=executor";
/// An old Lease has to run out first, at worst.
const PATIENCE: Duration = Duration::from_secs(90);

/// A control plane with a driver's pod, and what the daemon is started with.
struct Stage {
    plane: ControlPlane,
    http: SocketAddr,
    graphite: SocketAddr,
    document: PathBuf,
}

/// The daemon, killed when it is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    fn start(tools: &std::path::Path) -> Stage {
        let mut plane = ControlPlane::start(tools).unwrap();
        plane.start_kwok(STAGES).unwrap();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        plane.kubectl(Role::Kubelet, &["create", "-f", "-"], &node.to_string()).unwrap();
        let driver = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "driver", "labels": {"spark-role": "driver", "spark-app-selector": "spark-1"}},
            "spec": {"nodeName": NODE, "containers": [{"name": "driver", "image": "spark"}]},
        });
        plane.kubectl(Role::Driver, &["create", "-f", "-"], &driver.to_string()).unwrap();
        let document = plane.directory().join("fleet.json");
        let fleet = json!({
            "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet",
            "metadata": {"name": FLEET, "namespace": NAMESPACE},
            "spec": {
                "mode": "Own", "executors": TARGET, "driver": {"podName": "driver"},
                "heartbeat": {"disabled": true}, "recovery": {"failuresMax": 1000},
                "spark": {},
                "template": {"spec": {"containers": [{"name": "spark-kubernetes-executor", "image": "spark"}]}},
            },
        });
        fs::write(&document, fleet.to_string()).unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Stage { plane, http: free(), graphite: free(), document }
    }

    fn daemon(&self, extra: &[&str]) -> Daemon {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.log()).unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_rollcall"))
            .args(["run", "--http", &self.http.to_string(), "--graphite", &self.graphite.to_string()])
            .args(extra)
            .arg("-f")
            .arg(&self.document)
            .arg("--kubeconfig")
            .arg(self.plane.kubeconfig(Role::Rollcall))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Daemon(daemon.unwrap())
    }

    fn log(&self) -> PathBuf {
        self.plane.directory().join("rollcall.log")
    }

    /// How many executors run. Whoever waits for a node gets one: there is no scheduler.
    fn running(&self) -> Option<usize> {
        let list =
            self.plane.kubectl(Role::Kubelet, &["get", "pods", "-l", EXECUTORS, "-o", "json"], "").ok()?;
        let list: Value = serde_json::from_str(&list).unwrap();
        let pods = list["items"].as_array().unwrap();
        for pod in pods.iter().filter(|pod| pod["spec"]["nodeName"].is_null()) {
            let _ = self.plane.bind(pod["metadata"]["name"].as_str().unwrap(), NODE);
        }
        let runs = |pod: &&Value| {
            pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
        };
        Some(pods.iter().filter(runs).count())
    }

    fn status(&self) -> Option<Value> {
        let mut status = Command::new(env!("CARGO_BIN_EXE_rollcall"));
        let status =
            status.args(["status", FLEET, "-o", "json", "--server", &format!("http://{}", self.http)]);
        serde_json::from_slice(&status.output().unwrap().stdout).ok()
    }

    /// Waits until the daemon believes so and it is so. How long that took.
    fn at_strength(&self, what: &str) -> Duration {
        let begun = Instant::now();
        loop {
            let (running, status) = (self.running(), self.status());
            let available = status.as_ref().and_then(|status| status["counts"]["available"].as_u64());
            if running == Some(TARGET) && available == Some(TARGET as u64) {
                println!("{what}: at strength after {:.1} s", begun.elapsed().as_secs_f64());
                return begun.elapsed();
            }
            let log = || fs::read_to_string(self.log()).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "{what}: {running:?} run; {status:?}\n{}", log());
            sleep(Duration::from_millis(100));
        }
    }

    /// Somebody deletes an executor, and it is noticed.
    fn lose_one(&self) {
        let before = self.ended();
        let names = ["get", "pods", "-l", EXECUTORS, "--field-selector=status.phase=Running", "-o", "name"];
        let names = self.plane.kubectl(Role::Admin, &names, "").unwrap();
        let name = names.lines().next().unwrap();
        self.plane.kubectl(Role::Admin, &["delete", "--wait=false", name], "").unwrap();
        let begun = Instant::now();
        while self.ended() == before && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(50));
        }
    }

    fn ended(&self) -> Option<u64> {
        let lost = self.status()?["counts"]["lost"].as_object()?.clone();
        Some(lost.values().filter_map(Value::as_u64).sum())
    }

    /// What `rollcall` asked the API server: each answered request's verb, resource, name and code.
    fn requests(&self) -> Vec<(String, String, String, u64)> {
        let log = fs::read_to_string(self.plane.audit_log()).unwrap();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours = events.filter(|event| {
            event["user"]["username"] == Role::Rollcall.name() && event["stage"] == "ResponseComplete"
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        ours.map(|event| {
            let object = &event["objectRef"];
            let resource = [text(&object["resource"]), text(&object["subresource"])];
            let resource = resource.join("/").trim_end_matches('/').to_owned();
            let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
            (text(&event["verb"]), resource, text(&object["name"]), code)
        })
        .collect()
    }
}

#[test]
fn the_daemon_keeps_its_fleet_on_a_real_control_plane() {
    let Some(tools) = tools() else { return };
    let mut stage = Stage::start(&tools);
    let mut daemon = stage.daemon(&[]);
    stage.at_strength("started");
    stage.lose_one();
    stage.at_strength("one deleted");

    let names =
        stage.plane.kubectl(Role::Admin, &["get", "pods", "-l", EXECUTORS, "-o", "name"], "").unwrap();
    let killed = json!({"status": {"phase": "Failed", "containerStatuses": [{
        "name": "spark-kubernetes-executor", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }]}});
    let patch = ["patch", names.lines().next().unwrap(), "--subresource=status", "--type=merge", "-p"];
    stage.plane.kubectl(Role::Kubelet, &[&patch[..], &[&killed.to_string()]].concat(), "").unwrap();
    sleep(Duration::from_millis(500));
    stage.at_strength("one killed for its memory");
    let status = stage.status().unwrap();
    assert_eq!(status["counts"]["lost"], json!({"deleted": 1, "memory-limit": 1}), "{status}");

    stage.plane.stop_apiserver();
    sleep(Duration::from_secs(3));
    stage.plane.start_apiserver().unwrap();
    stage.lose_one();
    stage.at_strength("API server down for 3 s, one deleted");

    stage.plane.stop_apiserver();
    stage.plane.compact_etcd().unwrap();
    stage.plane.start_apiserver().unwrap();
    stage.lose_one();
    stage.at_strength("API server restarted over a compacted etcd, one deleted");

    stage.plane.pause_etcd().unwrap();
    sleep(Duration::from_secs(4));
    stage.plane.resume_etcd().unwrap();
    stage.lose_one();
    stage.at_strength("etcd paused for 4 s, one deleted");
    assert!(daemon.0.try_wait().unwrap().is_none(), "it lived through all of that");

    // It cannot renew its Lease for longer than it may lead: it ends, as it must, and is started again.
    stage.plane.pause_etcd().unwrap();
    sleep(Duration::from_secs(15));
    stage.plane.resume_etcd().unwrap();
    assert_eq!(daemon.0.wait().unwrap().code(), Some(1), "it leads no more");
    daemon = stage.daemon(&[]);
    stage.at_strength("etcd paused for 15 s, daemon started again");
    drop(daemon);

    for life in 1..=10_u64 {
        let daemon = stage.daemon(&["--no-leader-election"]);
        sleep(Duration::from_millis(150 * life));
        stage.running();
        drop(daemon);
    }
    let daemon = stage.daemon(&["--no-leader-election"]);
    stage.at_strength("killed ten times");
    let status = stage.status().unwrap();
    let counts = &status["counts"];
    let sum =
        |field: &str| counts[field].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    assert_eq!(counts["created"].as_u64().unwrap(), TARGET as u64 + sum("lost") + sum("removed"), "{status}");
    drop(daemon);
    judge(&stage.requests());
}

/// What must hold of everything that was asked.
fn judge(requests: &[(String, String, String, u64)]) {
    let mut created = BTreeSet::new();
    for (verb, resource, name, code) in requests {
        if verb == "create" && resource == "pods" && *code == 201 {
            assert!(created.insert(name), "{name} was created twice: an id was used again");
        }
    }
    assert!(created.len() >= TARGET + 5, "{created:?}");
    // Least privilege: for what the README grants, and nothing else. A 403 comes only while an API server starts.
    let granted = [
        "create events",
        "create leases",
        "create pods",
        "delete pods",
        "get configmaps",
        "get leases",
        "get pods",
        "list nodes",
        "list pods",
        "update configmaps",
        "update leases",
        "watch nodes",
        "watch pods",
        "create configmaps",
        "create pods/eviction",
        "patch events",
    ];
    let mut refused: BTreeMap<String, u32> = BTreeMap::new();
    for (verb, resource, _, code) in requests {
        let right = format!("{verb} {resource}");
        assert!(granted.contains(&right.as_str()), "{right} is not granted by the README");
        if *code == 403 {
            *refused.entry(right).or_default() += 1;
        }
    }
    println!(
        "{} requests, {} pods created, refused while starting: {refused:?}",
        requests.len(),
        created.len()
    );
    assert!(refused.values().sum::<u32>() < 20, "{refused:?}");
}
