//! The daemon in any cluster: kind, k3d, or one where real nodes run real containers. `ROLLCALL_KUBECONFIG` says which,
//! `ROLLCALL_NAMESPACE` where in it (`default` otherwise); whoever that kubeconfig is needs what `deploy/rollcall.yaml`
//! grants, and may create a pod. Nothing is left behind.
//!
//! ```console
//! $ ROLLCALL_KUBECONFIG=~/.kube/config ROLLCALL_NAMESPACE=mine cargo test -p rollcall --test all real::anywhere
//! ```
//!
//! On the control plane of the tests the same runs with kwok's pods.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};

use super::control_plane::{NAMESPACE, Role};
use super::stage::{LOOK, NODE, Stage, binary};
use super::tools;

const EXECUTORS: u64 = 3;
/// A node may have to pull the image first.
const PATIENCE: Duration = Duration::from_secs(180);
const TOKEN: &str = "of the tests";

#[test]
fn the_daemon_in_a_cluster_of_ones_own() {
    let Some(kubeconfig) = std::env::var_os("ROLLCALL_KUBECONFIG").map(PathBuf::from) else {
        println!(
            "skipped: ROLLCALL_KUBECONFIG and ROLLCALL_NAMESPACE say in which cluster of yours to run it"
        );
        return;
    };
    let namespace = std::env::var("ROLLCALL_NAMESPACE").unwrap_or_else(|_| "default".to_owned());
    keep_a_fleet(&kubeconfig, &namespace, None);
}

#[test]
fn the_same_on_the_control_plane_of_the_tests() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    keep_a_fleet(&stage.plane.kubeconfig(Role::Admin), NAMESPACE, Some(NODE));
}

/// Created, one deleted, one rolled, and the daemon killed. Without a scheduler, `node` is where pods run.
fn keep_a_fleet(kubeconfig: &Path, namespace: &str, node: Option<&str>) {
    let mut place = Place::new(kubeconfig, namespace, node);
    place.driver();
    place.daemon();
    place.at_strength("started");

    let name = place.pods()[0].name_any();
    let grace = DeleteParams::default().grace_period(1);
    place.runtime.block_on(place.pods.delete(&name, &grace)).unwrap();
    place.until("the deletion is called what it was", |status| {
        status["counts"]["lost"] == json!({"deleted": 1})
    });
    place.at_strength("one deleted");

    let rolled = place.rollcall(&["roll", &place.name.clone()]);
    place.until("the roll is through", |status| status["counts"]["removed"] == json!({"roll": 1}));
    place.at_strength("one rolled");
    assert!(rolled.is_object(), "{rolled}");

    place.daemon();
    place.at_strength("the daemon killed and started again");
    let counts = place.rollcall(&["status", &place.name])["counts"].take();
    assert_eq!(counts["created"], EXECUTORS + 2, "{counts}");
}

struct Place {
    /// Of the fleet; other people's pods have other ones.
    name: String,
    kubeconfig: PathBuf,
    namespace: String,
    node: Option<String>,
    folder: PathBuf,
    http: String,
    daemon: Option<Child>,
    runtime: tokio::runtime::Runtime,
    client: Client,
    pods: Api<Pod>,
}

impl Place {
    fn new(kubeconfig: &Path, namespace: &str, node: Option<&str>) -> Place {
        let name = format!("rollcall-test-{}", std::process::id());
        let folder = std::env::temp_dir().join(format!("{name}-anywhere"));
        fs::create_dir_all(&folder).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let read = Kubeconfig::read_from(kubeconfig).unwrap();
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            Client::try_from(config.unwrap()).unwrap()
        });
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        Place {
            pods: Api::namespaced(client.clone(), namespace),
            kubeconfig: kubeconfig.to_path_buf(),
            namespace: namespace.to_owned(),
            node: node.map(str::to_owned),
            daemon: None,
            name,
            folder,
            http,
            runtime,
            client,
        }
    }

    /// What any node can run, and what ends when it is asked to.
    fn spec(&self, container: &str) -> Value {
        let sleep = "trap 'exit 0' TERM; while :; do sleep 1; done";
        let container = json!({"name": container, "image": "busybox", "command": ["sh", "-c", sleep]});
        json!({"nodeName": self.node, "terminationGracePeriodSeconds": 5, "containers": [container]})
    }

    fn driver(&self) {
        let labels = json!({"spark-role": "driver", "spark-app-selector": self.name});
        let pod = json!({"metadata": {"name": format!("{}-driver", self.name), "labels": labels}, "spec": self.spec("driver")});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.runtime.block_on(self.pods.create(&PostParams::default(), &pod)).unwrap();
    }

    /// Kills the daemon, if there is one, and starts another.
    fn daemon(&mut self) {
        self.stop();
        let document = json!({
            "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "mode": "Own", "executors": EXECUTORS,
                "driver": {"podName": format!("{}-driver", self.name), "startTimeout": "0s"},
                "heartbeat": {"disabled": true},
                "roll": {"policies": ["ID"], "interval": "1h", "grace": "5s"},
                "spark": {"decommission": false},
                "template": {"spec": self.spec("spark-kubernetes-executor")},
            },
        });
        let file = self.folder.join("fleet.json");
        fs::write(&file, document.to_string()).unwrap();
        let token = self.folder.join("token");
        fs::write(&token, TOKEN).unwrap();
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = Command::new(binary());
        command.args(["run", "--http", &self.http, "--graphite", "127.0.0.1:0", "--lease", &self.name]);
        command.args(["--lease-namespace", &self.namespace, "--no-nodes"]);
        command
            .arg("-f")
            .arg(&file)
            .arg("--token-file")
            .arg(&token)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig);
        self.daemon = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    fn rollcall(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(binary());
        command.args(arguments).args(["-o", "json", "--server", &format!("http://{}", self.http)]);
        let output = command.env("ROLLCALL_TOKEN", TOKEN).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The executors' pods.
    fn pods(&self) -> Vec<Pod> {
        let ours =
            ListParams::default().labels(&format!("spark-role=executor,spark-app-selector={}", self.name));
        self.runtime.block_on(self.pods.list(&ours)).unwrap().items
    }

    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let begun = Instant::now();
        loop {
            let status = self.rollcall(&["status", &self.name]);
            if holds(&status) {
                return println!("{what}: after {:.1} s", begun.elapsed().as_secs_f64());
            }
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}: {status:#}\n{}", log());
            sleep(LOOK);
        }
    }

    fn at_strength(&self, what: &str) {
        self.until(what, |status| {
            let live = |pod: &&Pod| {
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
            };
            status["counts"]["available"] == EXECUTORS
                && self.pods().iter().filter(live).count() as u64 == EXECUTORS
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop();
        let now = DeleteParams::default().grace_period(0);
        for pod in self.pods() {
            let _ = self.runtime.block_on(self.pods.delete(&pod.name_any(), &now));
        }
        let _ = self.runtime.block_on(self.pods.delete(&format!("{}-driver", self.name), &now));
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let _ = self.runtime.block_on(leases.delete(&self.name, &DeleteParams::default()));
        let records: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        for record in self
            .runtime
            .block_on(records.list(&ListParams::default()))
            .map(|list| list.items)
            .unwrap_or_default()
        {
            if record.name_any().contains(&self.name) {
                let _ = self.runtime.block_on(records.delete(&record.name_any(), &DeleteParams::default()));
            }
        }
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
