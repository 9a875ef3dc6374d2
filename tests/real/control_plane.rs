//! A real Kubernetes control plane on loopback: etcd, kube-apiserver and, as all kubelets, kwok.
//!
//! Three processes, no containers, no root. Not included: the scheduler (a pod runs on the node that it is created on
//! or [bound](ControlPlane::bind) to), the controller-manager (no garbage collection by owner; a PodDisruptionBudget
//! has the status that a test writes), and real kubelets. Two admission plugins are off because the controllers that
//! complete their work are missing: `ServiceAccount` requires accounts and tokens, `TaintNodesByCondition` taints every
//! new node until a controller finds it ready. The other default ones are on, and so is RBAC: a [`Role`] has the
//! permissions of `cluster.yaml`, and `rollcall` those of `deploy/`, as the service account that it has in a cluster.
//!
//! After a start the API server is ready before it has loaded all RBAC rules: for a moment it answers 403 to authorized
//! users. Kubernetes behaves like this, and the tested programs have to cope with it.
//!
//! The processes end when the `ControlPlane` is dropped, and also when the tests end without dropping it. Together they
//! take 4 s to start, 400 MB of memory and 130 MB of disk: tests share one where they can.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::evidence::{self, Shown};
use super::process::{Process, guarded};

/// Errors say what went wrong, where to look, and what to do.
pub type Result<T> = std::result::Result<T, String>;

/// The namespace of fleets, in which `rollcall` and `driver` have permissions.
pub const NAMESPACE: &str = "spark";
/// Rollcall's own namespace.
pub const HOME: &str = "rollcall";
/// The service account of `rollcall`.
pub const ACCOUNT: &str = "rollcall";

/// kwok's usual behaviour: nodes are ready, pods run and terminate at once.
pub const STAGES: &str = include_str!("stages.yaml");

/// Namespace, roles and bindings.
const CLUSTER: &str = include_str!("cluster.yaml");
/// The manifests that are shipped, unchanged.
const DEPLOY: &str = include_str!("../../deploy/rollcall.yaml");
const FLEETS: &str = include_str!("../../deploy/fleets.yaml");

/// Every response to every user, except the API server's own requests; and the parts of requests that the judges read.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
    {"level": "None", "users": ["system:apiserver"]},
    {"level": "Request", "verbs": ["create", "delete"], "resources": [{"group": "", "resources": ["pods", "pods/eviction"]}]},
    {"level": "Metadata"}
]}"#;

/// The columns of pods that a person looks at first.
const PODS: &str = "custom-columns=NAMESPACE:.metadata.namespace,NAME:.metadata.name,PHASE:.status.phase,NODE:.spec.nodeName,\
    IP:.status.podIP,DELETED:.metadata.deletionTimestamp,STATE:.status.containerStatuses[0].state";

/// From exec to ready on a machine that is busy with other things; usually 1 s and 3 s.
const READY_MAX: Duration = Duration::from_secs(90);
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// Timeout of one request to etcd; kubectl's are bounded by [`kubectl`](ControlPlane::kubectl).
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// An answer of etcd has a few hundred bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Lines of a log in an error message.
const TAIL_LINES: usize = 20;

/// A user of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Of the group `system:masters`, which RBAC does not restrict.
    Admin,
    /// The daemon under test.
    Rollcall,
    /// Spark's driver.
    Driver,
    /// Every node: writes the status of nodes and pods, and bindings.
    Kubelet,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Admin, Role::Rollcall, Role::Driver, Role::Kubelet];

    /// The user's name, which is also its token: it is only used on loopback. `rollcall` has a service account token,
    /// as in a pod.
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Rollcall => "rollcall",
            Role::Driver => "driver",
            Role::Kubelet => "kubelet",
        }
    }

    fn groups(self) -> &'static str {
        match self {
            Role::Admin => "system:masters",
            Role::Rollcall | Role::Driver | Role::Kubelet => "",
        }
    }
}

pub struct ControlPlane {
    tools: PathBuf,
    /// The directory for all files; removed at the end, unless a test of this process has failed.
    directory: PathBuf,
    _shown: [Shown; 2],
    etcd_port: u16,
    peer_port: u16,
    apiserver_port: u16,
    /// Of all nodes.
    pub kubelet_port: u16,
    starts: Vec<(Timestamp, Timestamp)>,
    // In the order in which they must end, so that none waits for one that is gone.
    kwok: Option<Process>,
    apiserver: Option<Process>,
    etcd: Option<Process>,
}

impl ControlPlane {
    /// Starts etcd and kube-apiserver and waits until they are ready. `tools` is the folder that `tests/tools/build.sh`
    /// prints.
    pub fn start(tools: &Path) -> Result<ControlPlane> {
        for tool in ["etcd", "kube-apiserver", "kubectl", "kwok"] {
            if !tools.join(tool).is_file() {
                return Err(format!("{tool} is not in {}: run tests/tools/build.sh", tools.display()));
            }
        }
        let directory = directory()?;
        let (kubectl, kubeconfig) = (tools.join("kubectl"), directory.join("admin.kubeconfig"));
        let pods = ["--request-timeout=10s", "get", "pods", "-A", "-o", PODS].map(OsStr::new);
        let pods =
            [kubectl.as_os_str(), OsStr::new("--kubeconfig"), kubeconfig.as_os_str()].into_iter().chain(pods);
        let mut control_plane = ControlPlane {
            tools: tools.to_path_buf(),
            _shown: [
                evidence::show_everybody([OsStr::new("ls"), OsStr::new("-m"), directory.as_os_str()]),
                evidence::show_everybody(pods),
            ],
            directory,
            etcd_port: free_port()?,
            peer_port: free_port()?,
            apiserver_port: free_port()?,
            kubelet_port: free_port()?,
            starts: Vec::new(),
            kwok: None,
            apiserver: None,
            etcd: None,
        };
        let tokens: String = Role::ALL
            .iter()
            .filter(|role| **role != Role::Rollcall)
            .map(|role| format!("{0},{0},{0},\"{1}\"\n", role.name(), role.groups()))
            .collect();
        control_plane.write("tokens.csv", &tokens)?;
        control_plane.write("audit-policy.yaml", AUDIT_POLICY)?;
        for role in Role::ALL {
            let name = role.name();
            let user = match role {
                Role::Rollcall => json!({ "tokenFile": control_plane.token_file(name) }),
                Role::Admin | Role::Driver | Role::Kubelet => json!({ "token": name }),
            };
            let namespace = if role == Role::Rollcall { HOME } else { NAMESPACE };
            control_plane.write_kubeconfig(name, namespace, user)?;
        }
        control_plane.start_etcd()?;
        control_plane.start_apiserver()?;
        control_plane.kubectl(Role::Admin, &["create", "-f", "-"], DEPLOY)?;
        let established = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"];
        control_plane.kubectl(Role::Admin, &established, "")?;
        control_plane.kubectl(Role::Admin, &["create", "--validate=false", "-f", "-"], CLUSTER)?;
        control_plane.kubectl(Role::Admin, &["create", "-n", NAMESPACE, "-f", "-"], FLEETS)?;
        control_plane.new_token(Role::Rollcall.name(), ACCOUNT)?;
        Ok(control_plane)
    }

    /// The kubeconfig of a role. Its namespace is [`NAMESPACE`], or [`HOME`] for `rollcall`.
    pub fn kubeconfig(&self, role: Role) -> PathBuf {
        self.path(&format!("{}.kubeconfig", role.name()))
    }

    /// A kubeconfig of this name for a service account of [`HOME`], with its own token that
    /// [`new_token`](Self::new_token) replaces, as in a pod.
    pub fn credentials(&self, name: &str, account: &str) -> Result<PathBuf> {
        self.new_token(name, account)?;
        self.write_kubeconfig(name, HOME, json!({ "tokenFile": self.token_file(name) }))?;
        Ok(self.path(&format!("{name}.kubeconfig")))
    }

    /// Writes a new token for the kubeconfig of this name, as the kubelet renews a pod's. The previous one stays valid
    /// for an hour, or until its account is deleted.
    pub fn new_token(&self, name: &str, account: &str) -> Result<()> {
        let token = self.kubectl(Role::Admin, &["create", "token", account, "-n", HOME], "")?;
        self.write(&format!("{name}.token"), token.trim())
    }

    pub fn token_file(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.token"))
    }

    /// One JSON object of `audit.k8s.io/v1` per line and response; a watch has two. A response is logged before the
    /// client receives it. At 1 GiB another file begins, which the judges cannot handle.
    pub fn audit_log(&self) -> PathBuf {
        self.path("audit.log")
    }

    /// The directory of the logs of all processes, among other files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs kubectl with `arguments`, and `input` on its standard input, and returns its output. It waits 10 s for an
    /// answer.
    pub fn kubectl(&self, role: Role, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new(self.tools.join("kubectl"))
            .arg(format!("--kubeconfig={}", self.kubeconfig(role).display()))
            .arg(format!("--cache-dir={}", self.path("kubectl-cache").display()))
            .arg("--request-timeout=10s")
            .args(arguments)
            // Ignore the preferences of the user who runs the tests.
            .env("KUBERC", "off")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("kubectl: {error}"))?;
        // It may have ended without reading: then its error output says why.
        let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
        let output = child.wait_with_output().map_err(|error| format!("kubectl: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("kubectl {}: {why}", arguments.join(" ")))
        }
    }

    /// Binds a pod of [`NAMESPACE`] to a node, as a scheduler would.
    pub fn bind(&self, pod: &str, node: &str) -> Result<()> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": pod },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let path = format!("--raw=/api/v1/namespaces/{NAMESPACE}/pods/{pod}/binding");
        self.kubectl(Role::Kubelet, &["create", &path, "-f", "-"], &binding.to_string()).map(drop)
    }

    // -------------------------------------------------------------------------------------- faults --

    /// Kills the API server, as a crash would: clients see resets, then refused connections.
    pub fn stop_apiserver(&mut self) {
        self.apiserver = None;
    }

    /// Restarts it on the same port and data, with an empty watch cache. Returns when it is ready.
    pub fn start_apiserver(&mut self) -> Result<()> {
        self.stop_apiserver();
        let certificates = self.path("certificates");
        let key = certificates.join("apiserver.key");
        let arguments = [
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.apiserver_port),
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            // Only `compact_etcd` compacts.
            "--etcd-compaction-interval=0".to_owned(),
            // It creates its own certificate there, and reuses it.
            format!("--cert-dir={}", certificates.display()),
            // The key exists before it is read.
            format!("--service-account-signing-key-file={}", key.display()),
            format!("--service-account-key-file={}", key.display()),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
            // No client needs to find it through the service `kubernetes`.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--token-auth-file={}", self.path("tokens.csv").display()),
            "--authorization-mode=RBAC".to_owned(),
            // The judges read etcd's contents.
            "--storage-media-type=application/json".to_owned(),
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".to_owned(),
            format!("--audit-log-path={}", self.audit_log().display()),
            "--audit-log-maxsize=1024".to_owned(),
            "--audit-log-maxbackup=1".to_owned(),
            format!("--audit-policy-file={}", self.path("audit-policy.yaml").display()),
        ];
        let begun = Timestamp::now();
        self.apiserver = Some(self.spawn("kube-apiserver", &arguments)?);
        let ready = ["get", "--raw=/readyz", "--request-timeout=2s"];
        let deadline = Instant::now() + READY_MAX;
        while let Err(why) = self.kubectl(Role::Admin, &ready, "") {
            patience("kube-apiserver", self.apiserver.as_mut(), deadline, &why)?;
        }
        self.starts.push((begun, Timestamp::now()));
        Ok(())
    }

    /// When the API server was started, and when it was ready.
    pub fn starts(&self) -> &[(Timestamp, Timestamp)] {
        &self.starts
    }

    /// The API server still answers, but no write completes, nor any consistent read.
    pub fn pause_etcd(&self) -> Result<()> {
        self.signal_etcd("STOP")
    }

    pub fn resume_etcd(&self) -> Result<()> {
        self.signal_etcd("CONT")
    }

    /// Compacts all older revisions, and returns the current one. The API server's watch cache keeps them: a watch from
    /// an older resourceVersion is answered with 410 once the API server was restarted as well.
    pub fn compact_etcd(&self) -> Result<u64> {
        let now = self.ask_etcd("/v3/kv/range", &json!({ "key": "AA==", "limit": "1" }))?;
        let revision = now["header"]["revision"].as_str().and_then(|text| text.parse().ok());
        let revision: u64 = revision.ok_or_else(|| format!("etcd answered without a revision: {now}"))?;
        self.ask_etcd("/v3/kv/compaction", &json!({ "revision": revision.to_string(), "physical": true }))?;
        Ok(revision)
    }

    // -------------------------------------------------------------------------------------- nodes --

    /// Starts kwok as the kubelet of all nodes, with these stages; [`STAGES`] is the usual behaviour. The test creates
    /// the nodes, before or after.
    pub fn start_kwok(&mut self, stages: &str) -> Result<()> {
        self.stop_kwok();
        self.write("stages.yaml", stages)?;
        let arguments = [
            format!("--kubeconfig={}", self.kubeconfig(Role::Kubelet).display()),
            format!("--config={}", self.path("stages.yaml").display()),
            "--manage-all-nodes=true".to_owned(),
            // Loopback: no traffic leaves the machine, and a test can send as a pod by binding to its address.
            "--cidr=127.10.0.0/16".to_owned(),
            "--node-ip=127.0.0.1".to_owned(),
            // The kubelets' own API, for `kubectl port-forward` alone. The API server does not check its certificate.
            format!("--node-port={}", self.kubelet_port),
            format!("--server-address=127.0.0.1:{}", self.kubelet_port),
            format!("--tls-cert-file={}", self.path("certificates/apiserver.crt").display()),
            format!("--tls-private-key-file={}", self.path("certificates/apiserver.key").display()),
        ];
        self.kwok = Some(self.spawn("kwok", &arguments)?);
        Ok(())
    }

    /// All kubelets fall silent.
    pub fn stop_kwok(&mut self) {
        self.kwok = None;
    }

    // -------------------------------------------------------------------------------------- within --

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path(name), text).map_err(|error| format!("{}: {error}", self.path(name).display()))
    }

    fn write_kubeconfig(&self, name: &str, namespace: &str, user: Value) -> Result<()> {
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "contexts": [{ "name": "tests", "context": {
                "cluster": "tests", "user": name, "namespace": namespace,
            } }],
            "clusters": [{ "name": "tests", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.apiserver_port),
                // The chain ends with the certificate of the authority, which the API server created with its own.
                "certificate-authority": self.path("certificates/apiserver.crt"),
            } }],
            "users": [{ "name": name, "user": user }],
        });
        self.write(&format!("{name}.kubeconfig"), &kubeconfig.to_string())
    }

    pub(super) fn etcd_port(&self) -> u16 {
        self.etcd_port
    }

    fn start_etcd(&mut self) -> Result<()> {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let arguments = [
            format!("--data-dir={}", self.path("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // Its data need not survive a crash of the machine.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        self.etcd = Some(self.spawn("etcd", &arguments)?);
        let deadline = Instant::now() + READY_MAX;
        while let Err(why) = self.ask_etcd("/v3/maintenance/status", &json!({})) {
            patience("etcd", self.etcd.as_mut(), deadline, &why)?;
        }
        Ok(())
    }

    /// etcd's own API, through its JSON gateway.
    pub(super) fn ask_etcd(&self, path: &str, question: &Value) -> Result<Value> {
        let answer = post(self.etcd_port, path, &question.to_string())
            .map_err(|error| format!("etcd, {path}: {error}"))?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.0 200 ") => {
                serde_json::from_str(body).map_err(|error| format!("etcd, {path}: {error} in {body}"))
            }
            Some(_) | None => Err(format!("etcd, {path}: {answer}")),
        }
    }

    fn signal_etcd(&self, signal: &str) -> Result<()> {
        let etcd = self.etcd.as_ref().ok_or("etcd does not run")?;
        let command = format!("kill -{signal} {}", etcd.child.id());
        let status = Command::new("sh").args(["-c", &command]).status();
        let status = status.map_err(|error| format!("sh: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("{command}: {status}")) }
    }

    fn spawn(&self, name: &str, arguments: &[String]) -> Result<Process> {
        let mut command = guarded(self.tools.join(name));
        command.args(arguments);
        Process::start(command, self.path(&format!("{name}.log"))).map_err(|error| format!("{name}: {error}"))
    }
}

/// A client for the user of this kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", kubeconfig.display());
    let read = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(&error))?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    Client::try_from(config.map_err(|error| failed(&error))?).map_err(|error| failed(&error))
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.kwok = None;
        self.apiserver = None;
        self.etcd = None;
        // It may have been shared with another test.
        if !evidence::anybody_failed() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Waits a moment longer for a process that is not ready because of `why`, unless it has exited or the deadline is
/// over.
fn patience(name: &str, process: Option<&mut Process>, deadline: Instant, why: &str) -> Result<()> {
    let process = process.ok_or_else(|| format!("{name} does not run"))?;
    let ended = process.child.try_wait().map_err(|error| format!("{name}: {error}"))?;
    let verdict = match ended {
        Some(status) => format!("ended with {status}"),
        None if Instant::now() < deadline => {
            sleep(PROBE_INTERVAL);
            return Ok(());
        }
        None => format!("is not ready after {} s", READY_MAX.as_secs()),
    };
    let log = process.log();
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    Err(format!("{name} {verdict}: {why}\nThe end of its log:\n{tail}"))
}

fn directory() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name =
        format!("rollcall-control-plane-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let directory = std::env::temp_dir().join(name);
    // From another process with this id, long ago.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(directory)
}

/// Below the ephemeral ports (from 32768), so that no process takes the API server's port while it is down. Several
/// test processes start at different ports.
pub fn free_port() -> Result<u16> {
    const PORTS: std::ops::Range<u32> = 20_000..30_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = PORTS.end - PORTS.start;
    for _ in PORTS {
        // Processes started one after the other have adjacent ids: 7 ports each.
        let offset =
            std::process::id().wrapping_mul(7).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        let port = (PORTS.start + offset) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(format!("no port of 127.0.0.1 is free in {PORTS:?}"))
}

/// HTTP/1.0: the answer ends when the connection closes. Returns all of it.
fn post(port: u16, path: &str, body: &str) -> std::io::Result<String> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, REQUEST_MAX)?;
    stream.set_read_timeout(Some(REQUEST_MAX))?;
    stream.set_write_timeout(Some(REQUEST_MAX))?;
    write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
