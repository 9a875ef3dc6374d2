//! The daemon in any cluster: kind, k3d, or one with real nodes that run real containers and can pull `busybox`.
//! `ROLLCALL_KUBECONFIG` selects the cluster, `ROLLCALL_NAMESPACE` an existing namespace (`default` otherwise). The
//! kubeconfig's user needs the permissions of the Roles in `deploy/` there, and, to clean up, the
//! permission to delete `configmaps` and `leases`. What could not be deleted is printed. (Events expire by themselves.)
//!
//! ```console
//! $ ROLLCALL_KUBECONFIG=~/.kube/config ROLLCALL_NAMESPACE=mine cargo test -p rollcall --test all real::anywhere -- --nocapture
//! ```
//!
//! On the control plane of the tests, the same test runs with kwok's pods.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::control_plane::{NAMESPACE, Role, client};
use super::stage::{Daemon, LOOK, NODE, Stage, free};
use super::{enabled, tools};

const EXECUTORS: u64 = 3;
/// A node may have to pull the image first.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn the_daemon_in_a_cluster_of_ones_own() {
    let how = "export ROLLCALL_KUBECONFIG and ROLLCALL_NAMESPACE";
    let Some(kubeconfig) = enabled("a cluster of your own", "ROLLCALL_KUBECONFIG", how) else { return };
    let kubeconfig = PathBuf::from(kubeconfig);
    let namespace = std::env::var("ROLLCALL_NAMESPACE").unwrap_or_else(|_| "default".to_owned());
    keep_a_fleet(&kubeconfig, &namespace, None);
}

#[test]
fn the_same_on_the_control_plane_of_the_tests() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let name = keep_a_fleet(&stage.plane.kubeconfig(Role::Admin), NAMESPACE, Some(NODE));
    // There is no garbage collector here.
    let left = stage.admin(&["get", "pods,configmaps,leases", "-n", NAMESPACE, "-o", "name"], "");
    assert!(!left.contains(&name), "left behind:\n{left}");
}

/// Creates a fleet, deletes one executor, rolls one, and kills the daemon. Without a scheduler, pods run on `node`.
/// Returns the fleet's name; nothing is left of the fleet.
fn keep_a_fleet(kubeconfig: &Path, namespace: &str, node: Option<&str>) -> String {
    let mut place = Place::new(kubeconfig, namespace, node);
    place.driver();
    place.daemon();
    place.at_strength("started");

    let name = place.pods().unwrap()[0].name_any();
    let grace = DeleteParams::default().grace_period(1);
    place.runtime.block_on(place.pods.delete(&name, &grace)).unwrap();
    place.until("the loss is classified as a deletion", |status| {
        status["counts"]["lost"] == json!({"deleted": 1})
    });
    place.at_strength("one deleted");

    // By its id: no driver reports counters, and without them a policy has no candidates.
    let executor = place.status()["executors"][0]["executor"].to_string();
    place.running().order(&["roll", &place.name, &executor]);
    place.until("the roll is through", |status| status["counts"]["removed"] == json!({"roll": 1}));
    place.at_strength("one rolled");

    place.daemon();
    place.at_strength("the daemon killed and started again");
    let counts = place.status()["counts"].take();
    assert_eq!(counts["created"], EXECUTORS + 2, "{counts}");
    place.name.clone()
}

struct Place {
    /// The fleet's name, different from the names of other users' pods.
    name: String,
    kubeconfig: PathBuf,
    namespace: String,
    node: Option<String>,
    folder: PathBuf,
    daemon: Option<Daemon>,
    /// The name of the daemon's ledger.
    ledger: Option<String>,
    runtime: tokio::runtime::Runtime,
    client: Client,
    pods: Api<Pod>,
}

impl Place {
    fn new(kubeconfig: &Path, namespace: &str, node: Option<&str>) -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rollcall-test-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let client = runtime.block_on(client(kubeconfig)).unwrap();
        Place {
            pods: Api::namespaced(client.clone(), namespace),
            kubeconfig: kubeconfig.to_path_buf(),
            namespace: namespace.to_owned(),
            node: node.map(str::to_owned),
            daemon: None,
            ledger: None,
            name,
            folder,
            runtime,
            client,
        }
    }

    /// A container that any node can run, and that ends on SIGTERM.
    fn spec(&self, container: &str) -> Value {
        let sleep = "trap 'exit 0' TERM; while :; do sleep 1; done";
        let container = json!({"name": container, "image": "busybox", "command": ["sh", "-c", sleep]});
        json!({"nodeName": self.node, "terminationGracePeriodSeconds": 5, "containers": [container]})
    }

    fn driver(&mut self) {
        let labels = json!({"spark-role": "driver", "spark-app-selector": self.name});
        let pod = json!({"metadata": {"name": format!("{}-driver", self.name), "labels": labels}, "spec": self.spec("driver")});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let pod = self.runtime.block_on(self.pods.create(&PostParams::default(), &pod)).unwrap();
        let uid: String = pod.uid().unwrap().chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        self.ledger = Some(format!("rollcall-{}-{uid}", self.name));
    }

    /// Kills the daemon, if there is one, and starts another.
    fn daemon(&mut self) {
        self.daemon = None;
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
        let flags = ["--lease", &self.name, "--lease-namespace", &self.namespace, "--no-nodes"];
        let daemon = Daemon::start("rollcall", &self.folder, &self.kubeconfig, &[&file], free(), &flags);
        self.daemon = Some(daemon);
    }

    fn running(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    fn status(&self) -> Value {
        self.running().json(&["status", &self.name]).unwrap_or_default()
    }

    /// The executors' pods.
    fn pods(&self) -> kube::Result<Vec<Pod>> {
        let ours =
            ListParams::default().labels(&format!("spark-role=executor,spark-app-selector={}", self.name));
        self.runtime.block_on(self.pods.list(&ours)).map(|list| list.items)
    }

    /// Deletes it at the end, without a grace period, if it exists.
    fn delete<K: Clone + DeserializeOwned + Debug>(&self, api: &Api<K>, name: &str) {
        let now = DeleteParams::default().grace_period(0);
        match self.runtime.block_on(api.delete(name, &now)) {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => println!("left behind, {name}: {error}"),
        }
    }

    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if holds(&status) {
                return println!("{what}: after {:.1} s", begun.elapsed().as_secs_f64());
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}: {status:#}");
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
                && self.pods().unwrap().iter().filter(live).count() as u64 == EXECUTORS
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.daemon = None;
        let pods =
            self.pods().inspect_err(|error| println!("left behind, executors of {}: {error}", self.name));
        for pod in pods.unwrap_or_default() {
            self.delete(&self.pods, &pod.name_any());
        }
        self.delete(&self.pods, &format!("{}-driver", self.name));
        self.delete::<Lease>(&Api::namespaced(self.client.clone(), &self.namespace), &self.name);
        if let Some(ledger) = &self.ledger {
            self.delete::<ConfigMap>(&Api::namespaced(self.client.clone(), &self.namespace), ledger);
        }
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
