//! The environment of the daemon: a control plane with a node, drivers and fleets, and the daemon as a separate
//! process.
//!
//! ```text
//! let stage = Stage::shared(&tools);                           // or Stage::start, to break the control plane
//! let fleet = stage.fleet("etl", 5, |document| …);             // a driver's pod, and a document
//! let daemon = stage.daemon(&[&fleet], &[]);                   // a process with a service account's token
//! stage.at_strength(&daemon, &fleet, "started");
//! stage.judge(&fleet);                                         // everything since the beginning
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::control_plane::{ACCOUNT, ControlPlane, NAMESPACE, Role, STAGES, free_port};
use super::evidence::{self, Shown};
use super::history;
use super::judge::{self, Record};
use super::process::{Process, guarded};

pub const NODE: &str = "node-1";
/// Longer than the lifetime of an old Lease, and than the timeout of a create that died with the API server: a minute.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const LOOK: Duration = Duration::from_millis(200);

pub struct Stage {
    pub plane: ControlPlane,
    record: Mutex<Record>,
    daemons: AtomicU32,
}

/// One application: its driver's pod, and the document of its executors.
pub struct Fleet {
    pub name: String,
    pub target: usize,
    pub document: PathBuf,
    pub judged: judge::Fleet,
}

/// A daemon's process, killed when it is dropped.
pub struct Daemon {
    process: Process,
    pub http: SocketAddr,
    pub graphite: SocketAddr,
    /// The token for commands.
    token: PathBuf,
    /// The pod name, which becomes part of the Lease holder's name.
    pub name: String,
    _shown: [Shown; 2],
}

impl Stage {
    /// A control plane with a node, for one test alone.
    pub fn start(tools: &Path) -> Stage {
        let mut plane = ControlPlane::start(tools).unwrap();
        plane.start_kwok(STAGES).unwrap();
        let stage = Stage { plane, record: Mutex::default(), daemons: AtomicU32::new(0) };
        stage.create(&node(NODE));
        stage
    }

    /// One control plane shared by all tests that run concurrently: with their own fleets, they do not affect each
    /// other.
    pub fn shared(tools: &Path) -> Arc<Stage> {
        static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let stage = Arc::new(Stage::start(tools));
            *shared = Arc::downgrade(&stage);
            stage
        })
    }

    // ------------------------------------------------------------------------------------- fleets --

    /// A fleet in mode Own without heartbeats, whose pods need no scheduler, unless `change` changes its document; and
    /// its driver's pod.
    pub fn fleet(&self, name: &str, target: usize, change: impl FnOnce(&mut Value)) -> Fleet {
        self.fleet_in(NAMESPACE, name, target, change)
    }

    pub fn fleet_in(
        &self,
        namespace: &str,
        name: &str,
        target: usize,
        change: impl FnOnce(&mut Value),
    ) -> Fleet {
        self.driver(namespace, name, &format!("spark-{name}"));
        let mut document = json!({
            "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "mode": "Own", "executors": target, "driver": {"podName": format!("{name}-driver"), "startTimeout": "0s"},
                "heartbeat": {"disabled": true}, "recovery": {"maxExecutorFailures": 1000},
                "limits": {"maxSurge": 1},
                "spark": {},
                "template": {"spec": {
                    "nodeName": NODE,
                    "containers": [{"name": "spark-kubernetes-executor", "image": "spark"}],
                }},
            },
        });
        change(&mut document);
        let spec = &document["spec"];
        let surge = usize::try_from(spec["limits"]["maxSurge"].as_u64().unwrap()).unwrap();
        let judged = judge::Fleet {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            application: format!("spark-{name}"),
            live_max: target + surge,
            ends_driver: spec["recovery"]["failedDeletesDriver"] == true,
            rights_go: false,
        };
        let path = self.plane.directory().join(format!("{name}.json"));
        fs::write(&path, document.to_string()).unwrap();
        Fleet { name: name.to_owned(), target, document: path, judged }
    }

    /// Creates the driver's pod of a fleet: an application begins.
    pub fn driver(&self, namespace: &str, fleet: &str, application: &str) {
        let labels = json!({"spark-role": "driver", "spark-app-selector": application});
        self.create(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{fleet}-driver"), "namespace": namespace, "labels": labels},
            "spec": {"nodeName": NODE, "containers": [{"name": "driver", "image": "spark"}]},
        }));
    }

    // ------------------------------------------------------------------------------------ objects --

    pub fn create(&self, object: &Value) {
        self.admin(&["create", "-f", "-"], &object.to_string());
    }

    /// Runs kubectl as an administrator, and returns its output.
    pub fn admin(&self, arguments: &[&str], input: &str) -> String {
        self.plane.kubectl(Role::Admin, arguments, input).unwrap()
    }

    /// Merges this into the status of an object.
    pub fn patch_status(&self, object: &str, status: &Value) {
        let patch = json!({ "status": status }).to_string();
        self.admin(
            &["patch", object, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", &patch],
            "",
        );
    }

    /// The executors' pods of a fleet, by id. `None` while the API server does not answer.
    pub fn pods(&self, fleet: &Fleet) -> Option<BTreeMap<u64, Value>> {
        let judge::Fleet { namespace, application, .. } = &fleet.judged;
        let selector = format!("spark-role=executor,spark-app-selector={application}");
        let get = ["get", "pods", "-n", namespace, "-l", &selector, "-o", "json"];
        let list: Value = serde_json::from_str(&self.plane.kubectl(Role::Admin, &get, "").ok()?).unwrap();
        let pods = list["items"].as_array().unwrap().iter();
        let id = |pod: &Value| pod["metadata"]["labels"]["spark-exec-id"].as_str().unwrap().parse().unwrap();
        Some(pods.map(|pod| (id(pod), pod.clone())).collect())
    }

    /// The id of these credentials' token in the audit log.
    pub fn token_id(&self, name: &str) -> String {
        let token = fs::read_to_string(self.plane.token_file(name)).unwrap();
        let claims = history::decode(&token.split('.').nth(1).unwrap().into());
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        format!("JTI={}", claims["jti"].as_str().unwrap())
    }

    // ------------------------------------------------------------------------------------ daemons --

    /// Starts a daemon for these fleets, with its own token.
    pub fn daemon(&self, fleets: &[&Fleet], flags: &[&str]) -> Daemon {
        let name = format!("daemon-{}", self.daemons.fetch_add(1, Ordering::Relaxed));
        self.plane.credentials(&name, ACCOUNT).unwrap();
        self.daemon_as(&name, fleets, flags)
    }

    /// Starts a daemon with existing credentials.
    pub fn daemon_as(&self, name: &str, fleets: &[&Fleet], flags: &[&str]) -> Daemon {
        let directory = self.plane.directory();
        let documents: Vec<&Path> = fleets.iter().map(|fleet| &*fleet.document).collect();
        let kubeconfig = directory.join(format!("{name}.kubeconfig"));
        Daemon::start(name, directory, &kubeconfig, &documents, free(), flags)
    }

    // ------------------------------------------------------------------------------------- judging --

    /// Waits until the fleet is at strength, in the daemon's view and in fact: the target number of executors runs.
    /// Returns how long it took.
    pub fn at_strength(&self, daemon: &Daemon, fleet: &Fleet, what: &str) -> Duration {
        let took = self.until(&format!("{}, {what}: at strength", fleet.name), || {
            let running = self.pods(fleet).map(|pods| pods.values().filter(|pod| runs(pod)).count());
            let status = daemon.status(fleet);
            let available = status.as_ref().and_then(|status| status["counts"]["available"].as_u64());
            if running == Some(fleet.target) && available == Some(fleet.target as u64) {
                return Ok(());
            }
            Err(format!("{running:?} run; {status:?}"))
        });
        println!("{}, {what}: at strength after {:.1} s", fleet.name, took.as_secs_f64());
        took
    }

    /// Waits until it is true, or not an error.
    pub fn until<E: std::fmt::Display>(&self, what: &str, holds: impl FnMut() -> Result<(), E>) -> Duration {
        self.until_within(PATIENCE, what, holds)
    }

    pub fn until_within<E: std::fmt::Display>(
        &self,
        patience: Duration,
        what: &str,
        mut holds: impl FnMut() -> Result<(), E>,
    ) -> Duration {
        let begun = Instant::now();
        loop {
            let Err(why) = holds() else { return begun.elapsed() };
            if begun.elapsed() > patience {
                panic!("not {what} after {patience:?}: {why}");
            }
            sleep(LOOK);
        }
    }

    /// The judge reads new revisions: call it right before etcd is compacted.
    pub fn record(&self) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).read_on(&self.plane);
    }

    /// Fails if this fleet has violated an invariant since the beginning.
    pub fn judge(&self, fleet: &Fleet) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).judge(&self.plane, &fleet.judged);
    }

    /// All requests of daemons so far.
    pub fn requests(&self) -> Vec<judge::Request> {
        judge::requests(&self.plane)
    }
}

impl Daemon {
    /// Starts a daemon that listens there for heartbeats. Its log and its token for commands are in `directory`.
    pub fn start(
        name: &str,
        directory: &Path,
        kubeconfig: &Path,
        documents: &[&Path],
        graphite: SocketAddr,
        flags: &[&str],
    ) -> Daemon {
        let token = directory.join(format!("{name}.operators"));
        fs::write(&token, "operators").unwrap();
        let http = free();
        let mut command = guarded(binary());
        command.args(["run", "--http", &http.to_string(), "--graphite", &graphite.to_string()]);
        command.arg("--probes=127.0.0.1:0");
        command.arg("--kubeconfig").arg(kubeconfig).arg("--token-file").arg(&token);
        for document in documents {
            command.arg("-f").arg(document);
        }
        command.args(flags).env("HOSTNAME", name);
        let log = directory.join(format!("{name}.log"));
        let server = format!("--server=http://{http}");
        let status = [binary().as_os_str(), OsStr::new("status"), OsStr::new(&server)].map(OsStr::to_owned);
        let shown = [evidence::show(status), evidence::show_tail(&log)];
        let process = Process::start(command, log).unwrap();
        Daemon { process, http, graphite, token, name: name.to_owned(), _shown: shown }
    }

    /// Runs `rollcall` with these arguments against this daemon.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).args(["-o", "json", "--server", &format!("http://{}", self.http)]);
        command.arg("--token-file").arg(&self.token).output().unwrap()
    }

    /// `rollcall status`; `None` while there is no answer.
    pub fn status(&self, fleet: &Fleet) -> Option<Value> {
        self.json(&["status", &fleet.name])
    }

    /// `rollcall explain`.
    pub fn explain(&self, fleet: &Fleet, executor: u64) -> Option<Value> {
        self.json(&["explain", &fleet.name, &executor.to_string()])
    }

    /// The answer, if there is one.
    pub fn json(&self, arguments: &[&str]) -> Option<Value> {
        serde_json::from_slice(&self.ask(arguments).stdout).ok()
    }

    /// Runs a command that must be accepted.
    pub fn order(&self, arguments: &[&str]) {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// The complete HTTP answer. The request ends its head with `Connection: close`.
    pub fn http(&self, request: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.http)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
    }

    /// Waits until it has ended by itself, and returns its exit status.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(begun.elapsed() < patience, "it still runs after {patience:?}");
            sleep(LOOK);
        }
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.child.try_wait().unwrap()
    }
}

/// `ROLLCALL_BINARY`, else the binary built with the tests: measurements use the release build.
pub fn binary() -> PathBuf {
    std::env::var_os("ROLLCALL_BINARY").map_or(env!("CARGO_BIN_EXE_rollcall").into(), PathBuf::from)
}

/// It runs, and is not being deleted.
pub fn runs(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
}

pub fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

/// The total of a count of several kinds.
pub fn sum(counts: &Value) -> u64 {
    counts.as_object().unwrap().values().filter_map(Value::as_u64).sum()
}

/// A local address without a listener.
pub fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()))
}
