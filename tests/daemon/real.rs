//! The world over TCP, for daemons that are separate processes.
//!
//! [`Town`] opens ports to what `support` keeps in memory: the API server, the driver's REST API, and a directory with
//! the files for `rollcall run`. A [`Process`] is the binary; its JSON log says where it listens, and executors report
//! there, with one connection for each report as GraphiteSink does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use embedded::server::Server;
use embedded::{Chaos, Truth};
use rollcall::config::FleetConfig;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::support::{NAMESPACE, document};
use super::world::World;

pub const TOKEN: &str = "an operator's token";
const LOOK: Duration = Duration::from_millis(100);

/// The API server's answers: counts of each status, by method.
pub type Answered = BTreeMap<(String, String), u64>;

pub struct Town {
    pub world: World,
    pub dir: PathBuf,
    /// The address of the API server.
    pub api: SocketAddr,
    front: Front,
    rest_port: u16,
    /// The address for executors' reports.
    graphite: Arc<watch::Sender<Option<SocketAddr>>>,
    client: reqwest::Client,
}

impl Town {
    pub async fn start(seed: u64, chaos: Chaos, executors: u32) -> Town {
        static TOWNS: AtomicU32 = AtomicU32::new(0);
        let number = TOWNS.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("rollcall-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(dir.join("policies")).expect("a directory");
        let world = World::start(seed, chaos, executors);
        let front = Front { server: world.server.clone(), answered: Arc::default(), hang: Arc::default() };
        let api = serve(Router::new().fallback(answer).with_state(front.clone())).await;
        let rest = world.rest();
        let route = "/api/v1/applications/{application}/allexecutors";
        let rest = serve(Router::new().route(route, get(async move || axum::Json(rest())))).await;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{
                "name": "test", "context": { "cluster": "test", "user": "test", "namespace": NAMESPACE },
            }],
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{api}") } }],
            "users": [{ "name": "test", "user": {} }],
        });
        std::fs::write(dir.join("kubeconfig"), kubeconfig.to_string()).expect("a file");
        std::fs::write(dir.join("token"), TOKEN).expect("a file");
        let (graphite, address) = watch::channel(None);
        tokio::spawn(report(world.lines(), address));
        // One connection for each request, as for a kubelet's probes.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        let client = client.timeout(Duration::from_secs(10));
        let client = client.build().expect("a client");
        let town =
            Town { world, dir, api, front, rest_port: rest.port(), graphite: Arc::new(graphite), client };
        town.write(executors, |_| {});
        town
    }

    /// Writes the document for daemons, which notice the change.
    pub fn write(&self, executors: u32, change: impl FnOnce(&mut Value)) {
        let FleetConfig { fleet, .. } = document(executors, |document| {
            let driver = &mut document["spec"]["driver"];
            (driver["restPort"], driver["restInterval"]) = (self.rest_port.into(), "1s".into());
            driver["allowLoopback"] = true.into();
            change(document);
        });
        let fleet = serde_json::to_vec(&fleet).expect("JSON");
        // Atomically: a daemon may read at any time.
        std::fs::write(self.dir.join("new"), fleet).expect("a file");
        std::fs::rename(self.dir.join("new"), self.dir.join("fleet.json")).expect("a file");
    }

    /// The API server's answers so far. A watch is counted when it begins.
    pub fn answered(&self) -> Answered {
        self.front.answered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next create of a pod gets no answer, not even the beginning of one, which `Verdict::Hang` would send.
    pub fn hang_a_create(&self) {
        self.front.hang.store(true, Ordering::Relaxed);
    }

    /// The Graphite address of the daemon that was started last.
    pub fn graphite(&self) -> Option<SocketAddr> {
        *self.graphite.borrow()
    }

    /// Sends a request to the daemon over HTTP.
    pub async fn get(&self, process: &Process, path: &str) -> Option<(u16, String)> {
        let response = self.client.get(format!("http://{}{path}", process.http()?)).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// The fleet in the daemon's view. `None`: no answer.
    pub async fn fleet(&self, process: &Process) -> Option<Value> {
        let (_, text) = self.get(process, "/v1/fleets").await?;
        serde_json::from_str::<Value>(&text).ok()?.get_mut("fleets")?.get_mut(0).map(Value::take)
    }

    /// Waits until this holds for both the daemon and the cluster.
    pub async fn until(
        &self,
        process: &Process,
        seconds: u64,
        what: &str,
        holds: impl Fn(&Value, &Truth) -> bool,
    ) {
        let begun = Instant::now();
        loop {
            let (fleet, truth) = (self.fleet(process).await, self.world.truth());
            if fleet.as_ref().is_some_and(|fleet| holds(fleet, &truth)) {
                return;
            }
            assert!(
                begun.elapsed().as_secs() < seconds,
                "not {what} after {seconds} s\n{fleet:#?}\n{truth:?}\n{:?}\n{}",
                self.world.wrong(),
                process.log().join("\n")
            );
            sleep(LOOK).await;
        }
    }

    /// Waits until exactly this many executors exist, and nothing else.
    pub async fn at_rest(&self, process: &Process, executors: usize, seconds: u64) {
        let what = format!("at rest with {executors} executors");
        self.until(process, seconds, &what, |fleet, truth| {
            let count = |name: &str| fleet["counts"][name].as_u64() == Some(executors as u64);
            let none = |name: &str| fleet["counts"][name] == 0;
            (truth.available, truth.live, truth.silent) == (executors, executors, 0)
                && fleet["target"] == executors
                && (count("available") && count("live"))
                && (none("terminating") && none("reasonPending") && none("rolling"))
                && self.world.pods().len() == executors
        })
        .await;
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// The API server's port.
#[derive(Clone)]
struct Front {
    server: Server,
    answered: Arc<Mutex<Answered>>,
    hang: Arc<AtomicBool>,
}

async fn answer(
    State(Front { server, answered, hang }): State<Front>,
    request: Request,
) -> Result<impl IntoResponse, StatusCode> {
    let method = request.method().to_string();
    let creates = method == "POST" && request.uri().path().ends_with("/pods");
    if creates && hang.swap(false, Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    let response = server.answer(request).await.map_err(|_| StatusCode::BAD_REQUEST)?;
    let key = (method, response.status().as_str().to_owned());
    *answered.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    Ok(response)
}

async fn report(mut reports: tokio::sync::mpsc::Receiver<String>, to: watch::Receiver<Option<SocketAddr>>) {
    while let Some(lines) = reports.recv().await {
        let Some(address) = *to.borrow() else { continue };
        tokio::spawn(timeout(Duration::from_secs(5), async move {
            if let Ok(mut stream) = TcpStream::connect(address).await {
                // A daemon that has just died receives nothing.
                let _ = stream.write_all(lines.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }));
    }
}

// ------------------------------------------------------------------------------------ the process --

pub struct Process {
    child: Child,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    http: Option<SocketAddr>,
    lines: Vec<String>,
}

impl Process {
    /// Starts the only daemon.
    pub fn start(town: &Town) -> Process {
        Process::with(town, &["--no-leader-election"])
    }

    /// Starts one of several daemons.
    pub fn replica(town: &Town) -> Process {
        Process::with(town, &[])
    }

    pub fn with(town: &Town, arguments: &[&str]) -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rollcall"))
            .args(["run", "--log=json", "-f", "fleet.json", "--kubeconfig", "kubeconfig"])
            .args(arguments)
            .args([
                "--http=127.0.0.1:0",
                "--probes=127.0.0.1:0",
                "--graphite=127.0.0.1:0",
                "--graphite-udp",
                "--policies=policies",
                "--token-file=token",
            ])
            .current_dir(&town.dir)
            .env_remove("ROLLCALL_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (log, told) = (BufReader::new(child.stderr.take().expect("a pipe")), Arc::clone(&heard));
        let graphite = Arc::clone(&town.graphite);
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let fields = serde_json::from_str::<Value>(&line).unwrap_or_default()["fields"].take();
                let address = |name: &str| fields[name].as_str().and_then(|text| text.parse().ok());
                let mut heard = told.lock().unwrap_or_else(PoisonError::into_inner);
                if fields["message"] == "listening" {
                    heard.http = address("http");
                    graphite.send_replace(address("graphite"));
                }
                heard.lines.push(line);
            }
        });
        Process { child, heard }
    }

    fn http(&self) -> Option<SocketAddr> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).http
    }

    /// Waits until it listens, and returns the address.
    pub async fn listens(&self) -> SocketAddr {
        let begun = Instant::now();
        loop {
            if let Some(address) = self.http() {
                return address;
            }
            assert!(begun.elapsed().as_secs() < 30, "it does not listen: {}", self.log().join("\n"));
            sleep(LOOK).await;
        }
    }

    pub fn log(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// Waits until it has logged a line with all of these parts, after the first `from` lines.
    pub async fn logs(&self, from: usize, parts: &[&str]) {
        let begun = Instant::now();
        while !self.log().iter().skip(from).any(|line| parts.iter().all(|part| line.contains(part))) {
            assert!(begun.elapsed().as_secs() < 15, "{parts:?} is not logged: {}", self.log().join("\n"));
            sleep(LOOK).await;
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }

    /// `kill -s`, for instance STOP.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status().expect("kill(1) is there");
        assert!(sent.success());
    }

    /// Sends SIGTERM. Returns the exit code and the time to exit.
    pub async fn terminate(mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        self.signal("TERM");
        while begun.elapsed().as_secs() < 30 {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return (status.code(), begun.elapsed());
            }
            sleep(LOOK).await;
        }
        panic!("it does not end: {}", self.log().join("\n"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A failed test leaves no process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command line, in a directory.
pub fn rollcall(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rollcall"))
        .args(args)
        .current_dir(dir)
        .env_remove("ROLLCALL_TOKEN")
        .env_remove("ROLLCALL_SERVER")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}
