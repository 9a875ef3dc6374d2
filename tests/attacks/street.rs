//! A cluster of tenants in front of one daemon.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Router, serve::IncomingStream};
use embedded::server::Server;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{INTERVAL, TIMEOUT};

const TOKEN: &str = "a fleet's own token";
/// The number of lines in a report of Spark's sink.
const LINES: usize = 127;
/// A kubelet's probe.
const PROBE_EVERY: Duration = Duration::from_millis(500);
const PROBE: Duration = Duration::from_secs(1);

pub struct Tenant {
    name: String,
    number: u32,
    executors: u32,
    http: bool,
    slow: bool,
    application: String,
}

impl Tenant {
    /// Its executors have the addresses 127.NUMBER.0.x, as long as few tenants have any.
    pub fn new(name: &str, number: u32) -> Tenant {
        let application = format!("spark-{name}");
        Tenant { name: name.to_owned(), number, executors: 0, http: false, slow: false, application }
    }

    pub fn executors(mut self, count: u32) -> Tenant {
        self.executors = count;
        self
    }

    /// Its executors post their heartbeats over HTTP.
    pub fn over_http(mut self) -> Tenant {
        self.http = true;
        self
    }

    /// Its driver sends one byte a second.
    pub fn slow(mut self) -> Tenant {
        self.slow = true;
        self
    }

    pub fn calls_itself(mut self, application: &str) -> Tenant {
        application.clone_into(&mut self.application);
        self
    }

    fn driver(&self) -> IpAddr {
        Ipv4Addr::new(
            127,
            250,
            u8::try_from(self.number / 250).expect("few tenants"),
            u8::try_from(self.number % 250 + 1).expect("few"),
        )
        .into()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Reports {
    pub all: u64,
    pub good: u64,
}

#[derive(Default)]
struct Counts {
    all: AtomicU64,
    good: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
    asked: Mutex<BTreeMap<IpAddr, u64>>,
}

/// The addresses of the daemon that was started last.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub http: SocketAddr,
    pub graphite: SocketAddr,
    pub probes: SocketAddr,
}

type Shared = Arc<Mutex<Option<Places>>>;

pub struct Street {
    server: Server,
    dir: PathBuf,
    tenants: Arc<Mutex<BTreeMap<String, Tenant>>>,
    counts: Arc<Counts>,
    places: Shared,
    /// The ports of normal drivers and of slow drivers.
    ports: [u16; 2],
    tasks: Vec<JoinHandle<()>>,
}

impl Street {
    pub async fn start() -> Street {
        static STREETS: AtomicU32 = AtomicU32::new(0);
        let number = STREETS.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("rollcall-attacks-{}-{number}", std::process::id()));
        std::fs::create_dir_all(dir.join("fleets")).expect("a directory");
        let server = Server::new(1);
        server.set_wall_clock(jiff::Timestamp::now().as_millisecond());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let api = listener.local_addr().expect("an address");
        let app = Router::new().fallback(answer).with_state(server.clone());
        let mut tasks =
            vec![tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") })];
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "rollcall"}}],
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{api}")}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(dir.join("kubeconfig"), kubeconfig.to_string()).expect("a file");
        std::fs::write(dir.join("token"), TOKEN).expect("a file");
        let (tenants, counts, places) = (Arc::default(), Arc::new(Counts::default()), Shared::default());
        let rest = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a port");
        let slow = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a port");
        let ports = [&rest, &slow].map(|listener| listener.local_addr().expect("an address").port());
        let app = Router::new().fallback(rows).with_state(Arc::clone(&counts));
        let app = app.into_make_service_with_connect_info::<Asked>();
        tasks.push(tokio::spawn(async move { axum::serve(rest, app).await.expect("it serves") }));
        tasks.push(tokio::spawn(async move {
            while let Ok((stream, _)) = slow.accept().await {
                tokio::spawn(drip(stream));
            }
        }));
        tasks.push(tokio::spawn(kubelet(
            server.clone(),
            Arc::clone(&tenants),
            Arc::clone(&counts),
            Arc::clone(&places),
        )));
        Street { server, dir, tenants, counts, places, ports, tasks }
    }

    pub fn tenant(&mut self, tenant: Tenant) {
        let name = tenant.name.clone();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{name}-driver"), "namespace": name, "labels": {
                "spark-role": "driver", "spark-app-selector": tenant.application,
            }},
            "spec": {"containers": [{"name": "driver", "image": "spark"}]},
            "status": {"phase": "Running", "podIP": tenant.driver().to_string()},
        });
        let _ = self.server.create("namespaces", "", json!({"metadata": {"name": name}}));
        self.server.create("pods", &name, pod).expect("a driver");
        self.server.change("pods", &name, &format!("{name}-driver"), |pod| {
            pod["status"] = json!({"phase": "Running", "podIP": tenant.driver().to_string()});
        });
        let mut heartbeat = json!({
            "timeout": format!("{}s", TIMEOUT.as_secs()), "interval": format!("{}s", INTERVAL.as_secs()),
        });
        if tenant.http {
            heartbeat["tokenFile"] = json!(self.dir.join("token"));
        }
        let mut document = json!({
            "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet",
            "metadata": {"name": name, "namespace": name},
            "spec": {
                "mode": "Own", "executors": tenant.executors, "heartbeat": heartbeat,
                "driver": {
                    "podName": format!("{name}-driver"), "startTimeout": "0s", "restInterval": "1s",
                    "restPort": self.ports[usize::from(tenant.slow)], "allowLoopback": true,
                },
                "recovery": {"maxExecutorFailures": 1_000_000}, "spark": {},
                "template": {"spec": {"containers": [{"name": "spark-kubernetes-executor", "image": "spark"}]}},
            },
        });
        if tenant.executors == 0 {
            document["spec"]["mode"] = "Observe".into();
            for field in ["spark", "template"] {
                document["spec"].as_object_mut().expect("an object").remove(field);
            }
        }
        std::fs::write(self.dir.join("fleets").join(format!("{name}.json")), document.to_string())
            .expect("a file");
        lock(&self.tenants).insert(name, tenant);
    }

    pub async fn daemon(&self, flags: &[&str]) -> Daemon {
        *lock(&self.places) = None;
        let daemon = Daemon::start(&self.dir, flags).await;
        *lock(&self.places) = Some(daemon.places);
        daemon
    }

    pub async fn at_strength(&self, daemon: &Daemon, fleet: &str, executors: u32) {
        let begun = Instant::now();
        loop {
            let found = daemon.fleet(fleet).await;
            if found["counts"]["available"] == executors {
                return;
            }
            assert!(
                begun.elapsed().as_secs() < 90,
                "{fleet} is not at strength: {found:#}\n{}",
                daemon.tail()
            );
            sleep(Duration::from_millis(200)).await;
        }
    }

    pub fn reports(&self) -> Reports {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reports { all: get(&self.counts.all), good: get(&self.counts.good) }
    }

    /// Why other reports failed.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        lock(&self.counts.failures).clone()
    }

    /// How often the driver's REST API was polled.
    pub fn asked(&self, name: &str) -> u64 {
        let driver = lock(&self.tenants)[name].driver();
        lock(&self.counts.asked).get(&driver).copied().unwrap_or(0)
    }

    /// The losses of the healthy tenants, by verdict.
    pub async fn lost(&self, daemon: &Daemon) -> Value {
        let mut lost = json!({});
        for name in ["healthy", "posting"] {
            lost[name] = daemon.fleet(name).await["counts"]["lost"].take();
        }
        lost
    }

    pub async fn conditions(&self, daemon: &Daemon, fleet: &str) -> Value {
        daemon.fleet(fleet).await["conditions"].take()
    }

    /// The daemon's own impairments by fleet and cause, where there were any.
    pub async fn impaired(&self, daemon: &Daemon) -> BTreeMap<String, u64> {
        let text = daemon.metrics().await;
        let series = text.lines().filter_map(|line| line.strip_prefix("rollcall_hearing_impaired_total"));
        let values = series.filter_map(|line| {
            let (labels, value) = line.rsplit_once(' ')?;
            Some((labels.to_owned(), value.parse().ok()?))
        });
        values.filter(|(_, value)| *value > 0).collect()
    }

    fn ledger(&self, tenant: &str) -> Option<String> {
        let maps = self.server.list("configmaps");
        let mut names = maps.iter().filter(|map| map["metadata"]["namespace"] == tenant);
        names.find_map(|map| map["metadata"]["name"].as_str().map(str::to_owned))
    }

    /// A tenant writes these fields of its fleet's ledger, with Rollcall as the field manager.
    pub fn patch_ledger(&self, tenant: &str, patch: &Value) {
        let name = self.ledger(tenant).expect("a ledger");
        self.server.change("configmaps", tenant, &name, |map| {
            let text = map["data"]["ledger"].as_str().unwrap_or("{}");
            let mut record: Value = serde_json::from_str(text).unwrap_or_default();
            for (field, value) in patch.as_object().expect("an object") {
                record[field] = value.clone();
            }
            map["data"]["ledger"] = record.to_string().into();
        });
    }

    fn executors(&self, tenant: &str) -> Vec<String> {
        let pods = self.server.list("pods");
        let executors = pods.iter().filter(|pod| {
            pod["metadata"]["namespace"] == tenant && pod["metadata"]["labels"]["spark-role"] == "executor"
        });
        executors.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect()
    }

    pub fn end_an_executor(&self, tenant: &str) {
        if let Some(name) = self.executors(tenant).first() {
            self.server.delete("pods", tenant, name, Some(0)).expect("it is there");
        }
    }

    /// Deletes an executor, and waits for its replacement.
    pub async fn replaces(&self, daemon: &Daemon, tenant: &str) {
        let before = self.executors(tenant);
        self.end_an_executor(tenant);
        let begun = Instant::now();
        while !self.executors(tenant).iter().any(|name| !before.contains(name)) {
            assert!(begun.elapsed().as_secs() < 10, "not replaced: {}", daemon.tail());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Street {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(server): State<Server>, request: Request) -> Result<impl IntoResponse, StatusCode> {
    server.answer(request).await.map_err(|_| StatusCode::BAD_REQUEST)
}

// ------------------------------------------------------------------------------------------- drivers --

/// The address at which a driver was polled.
#[derive(Clone, Copy)]
struct Asked(IpAddr);

impl axum::extract::connect_info::Connected<IncomingStream<'_, TcpListener>> for Asked {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Asked {
        Asked(stream.io().local_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip()))
    }
}

async fn rows(
    State(counts): State<Arc<Counts>>,
    ConnectInfo(Asked(driver)): ConnectInfo<Asked>,
) -> axum::Json<Value> {
    *lock(&counts.asked).entry(driver).or_default() += 1;
    axum::Json(json!([]))
}

async fn drip(mut stream: TcpStream) {
    for byte in
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[".iter().chain(std::iter::repeat(&b' '))
    {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

// ----------------------------------------------------------------------------------------- executors --

/// Pods run as soon as they are created, and disappear as soon as they are deleted.
async fn kubelet(
    server: Server,
    tenants: Arc<Mutex<BTreeMap<String, Tenant>>>,
    counts: Arc<Counts>,
    places: Shared,
) {
    let begun = Instant::now();
    let mut speakers: BTreeMap<String, (JoinHandle<()>, Arc<AtomicBool>)> = BTreeMap::new();
    loop {
        sleep(Duration::from_millis(100)).await;
        server.advance(u64::try_from(begun.elapsed().as_millis()).expect("a short test"));
        let mut there = std::collections::BTreeSet::new();
        for pod in server.list("pods") {
            let metadata = &pod["metadata"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (name, namespace, uid) =
                (text(&metadata["name"]), text(&metadata["namespace"]), text(&metadata["uid"]));
            if !metadata["deletionTimestamp"].is_null() {
                let _ = server.delete("pods", &namespace, &name, Some(0));
                continue;
            }
            let Some(id) = metadata["labels"]["spark-exec-id"].as_str().and_then(|id| id.parse::<u32>().ok())
            else {
                continue;
            };
            there.insert(uid.clone());
            if speakers.contains_key(&uid) {
                continue;
            }
            let tenants = lock(&tenants);
            let Some(tenant) = tenants.get(&namespace) else { continue };
            let [high, low] = [id / 250, id % 250 + 1].map(|part| u8::try_from(part).expect("few executors"));
            let address = Ipv4Addr::new(127, u8::try_from(tenant.number).expect("few tenants"), high, low);
            let time = server.timestamp();
            server.change("pods", &namespace, &name, |pod| {
                pod["status"] = json!({
                    "phase": "Running", "podIP": address.to_string(), "hostIP": "127.0.0.1", "startTime": time,
                    "containerStatuses": [{
                        "name": "spark-kubernetes-executor", "image": "spark", "imageID": "", "ready": true,
                        "restartCount": 0, "state": {"running": {"startedAt": time}},
                    }],
                });
            });
            let healthy = matches!(&*tenant.name, "healthy" | "posting");
            let speaker = Speaker {
                address: address.into(),
                tenant: tenant.name.clone(),
                application: tenant.application.clone(),
                executor: id,
                http: tenant.http,
                counts: healthy.then(|| Arc::clone(&counts)),
                places: Arc::clone(&places),
            };
            speakers.insert(uid, (tokio::spawn(speaker.speak()), Arc::default()));
        }
        speakers.retain(|uid, (task, _)| {
            let stays = there.contains(uid);
            if !stays {
                task.abort();
            }
            stays
        });
    }
}

struct Speaker {
    address: IpAddr,
    tenant: String,
    application: String,
    executor: u32,
    http: bool,
    counts: Option<Arc<Counts>>,
    places: Shared,
}

impl Speaker {
    /// One connection for each report, as GraphiteSink does.
    async fn speak(self) {
        // Spread over the interval.
        sleep(INTERVAL * (self.executor % 16) / 16).await;
        let mut times = interval(INTERVAL);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            times.tick().await;
            let Some(places) = *lock(&self.places) else { continue };
            let report = timeout(INTERVAL, self.report(places)).await;
            let Some(counts) = &self.counts else { continue };
            counts.all.fetch_add(1, Ordering::Relaxed);
            let failure = match report {
                Ok(Ok(said)) if !self.http || said.starts_with("HTTP/1.1 200") => {
                    counts.good.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Ok(Ok(said)) => said.lines().next().unwrap_or("no answer").to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "timeout".to_owned(),
            };
            *lock(&counts.failures).entry(format!("{}: {failure}", self.tenant)).or_default() += 1;
        }
    }

    async fn report(&self, places: Places) -> std::io::Result<String> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(self.address, 0))?;
        let mut stream = socket.connect(if self.http { places.http } else { places.graphite }).await?;
        let mut text = String::new();
        if self.http {
            let body = json!({"beats": [{"fleet": self.tenant, "executor": self.executor}]}).to_string();
            let _ = write!(
                text,
                "POST /v1/heartbeats HTTP/1.1\r\nhost: rollcall\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
        } else {
            let time_s = jiff::Timestamp::now().as_second();
            for number in 0..LINES {
                let _ = writeln!(
                    text,
                    "{}.{}.a.metric-{number}.count {number} {time_s}",
                    self.application, self.executor
                );
            }
        }
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

// -------------------------------------------------------------------------------------------- daemon --

pub struct Daemon {
    child: Child,
    places: Places,
    log: Arc<Mutex<Vec<String>>>,
    client: reqwest::Client,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Probes {
    pub all: u64,
    pub failed: u64,
    pub in_a_row: u64,
}

/// Polls /livez as a kubelet does.
pub struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Probes>,
}

impl Watch {
    pub async fn stop(self) -> Probes {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("it does not panic")
    }
}

impl Daemon {
    async fn start(dir: &PathBuf, flags: &[&str]) -> Daemon {
        let binary = std::env::var_os("ROLLCALL_BINARY").unwrap_or(env!("CARGO_BIN_EXE_rollcall").into());
        let mut child = Command::new(binary)
            .args(["run", "--log=json", "-f", "fleets", "--kubeconfig", "kubeconfig"])
            .args([
                "--http=127.0.0.1:0",
                "--graphite=127.0.0.1:0",
                "--changes-per-second=500",
                "--changes-burst=500",
                "--graphite-udp",
                "--probes=127.0.0.1:0",
            ])
            .args(flags)
            .current_dir(dir)
            .env_remove("ROLLCALL_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (lines, kept) = (BufReader::new(child.stderr.take().expect("a pipe")), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                lock(&kept).push(line);
            }
        });
        let begun = Instant::now();
        let places = loop {
            let listening = lock(&log).iter().find_map(|line| {
                let fields = serde_json::from_str::<Value>(line).ok()?["fields"].take();
                let address = |name: &str| fields[name].as_str().and_then(|text| text.parse().ok());
                let http = address("http").filter(|_| fields["message"] == "listening")?;
                Some(Places {
                    http,
                    graphite: address("graphite")?,
                    probes: address("probes").unwrap_or(http),
                })
            });
            if let Some(places) = listening {
                break places;
            }
            assert!(begun.elapsed().as_secs() < 60, "it does not listen: {}", lock(&log).join("\n"));
            sleep(Duration::from_millis(50)).await;
        };
        // One connection for each request, as for a kubelet's probes.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        let client = client.timeout(Duration::from_secs(20)).build().expect("a client");
        Daemon { child, places, log, client }
    }

    pub fn places(&self) -> Places {
        self.places
    }

    pub async fn fleet(&self, name: &str) -> Value {
        let begun = Instant::now();
        loop {
            let answer = self.client.get(format!("http://{}/v1/fleets", self.places.http)).send().await;
            if let Ok(answer) = answer
                && let Ok(mut fleets) = answer.json::<Value>().await
                && let Some(fleets) = fleets["fleets"].as_array_mut()
            {
                return fleets
                    .iter_mut()
                    .find(|fleet| fleet["fleet"] == name)
                    .map(Value::take)
                    .unwrap_or_default();
            }
            assert!(begun.elapsed().as_secs() < 60, "it does not answer: {}", self.tail());
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn metrics(&self) -> String {
        let begun = Instant::now();
        loop {
            let answer = self.client.get(format!("http://{}/metrics", self.places.http)).send().await;
            if let Ok(answer) = answer.and_then(reqwest::Response::error_for_status)
                && let Ok(text) = answer.text().await
            {
                return text;
            }
            assert!(begun.elapsed().as_secs() < 60, "it shows no metrics: {}", self.tail());
            sleep(Duration::from_millis(200)).await;
        }
    }

    pub fn watch(&self) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, client) = (Arc::clone(&stop), self.client.clone());
        let url = format!("http://{}/livez", self.places.probes);
        let task = tokio::spawn(async move {
            let (mut probes, mut row) = (Probes::default(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let answer = client.get(&url).timeout(PROBE).send().await;
                let good = answer.is_ok_and(|answer| answer.status() == 200);
                row = if good { 0 } else { row + 1 };
                probes.all += 1;
                probes.failed += u64::from(!good);
                probes.in_a_row = probes.in_a_row.max(row);
                sleep(PROBE_EVERY).await;
            }
            probes
        });
        Watch { stop, task }
    }

    /// The peak memory.
    pub fn peak_mb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1_024
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status();
        assert!(status.expect("kill(1) is there").success());
    }

    pub fn kill(self) {
        drop(self);
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let log = lock(&self.log);
        log[log.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
