//! The daemon's environment in the demo: the in-memory API server with a port for kubectl, nodes and executors in real
//! time, and the driver's REST API.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use embedded::server::Server;
use embedded::{Chaos, Cluster, Judge, Options, Signal, Truth};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{APPLICATION, DRIVER, NAMESPACE};

const TICK: Duration = Duration::from_millis(50);
/// Spark's default is 10 s; the demo uses a shorter interval.
const HEARTBEAT_MS: u64 = 1_000;

/// An event that the demo prints in addition to the daemon's own events.
#[derive(Debug)]
pub enum Incident {
    Fault { pod: String, what: &'static str },
    Violation(String),
}

pub struct World {
    server: Server,
    cluster: Cluster,
    judge: Judge,
    executors: watch::Sender<Value>,
    truth: watch::Sender<Truth>,
    start: Instant,
    /// Address of the API server, for kubectl.
    pub api: SocketAddr,
    /// Address of the driver's REST API.
    pub rest: SocketAddr,
}

impl World {
    pub async fn start(seed: &u64, chaos: Chaos, executors: u32, api: SocketAddr) -> Result<World> {
        let server = Server::new(*seed);
        server.set_wall_clock(jiff::Timestamp::now().as_millisecond());
        let start = Instant::now();
        let nodes = u64::from(executors).div_ceil(4).clamp(6, 200);
        let options = Options { seed: *seed, nodes, chaos, heartbeat_ms: HEARTBEAT_MS };
        let mut cluster = Cluster::new(server.clone(), options);
        cluster
            .start_driver(NAMESPACE, DRIVER, APPLICATION)
            .map_err(|status| anyhow::anyhow!("the driver's pod: {status:?}"))?;
        // The daemon's own limits: maxSurge of a quarter, as many again terminating, and maxUnavailable of a quarter.
        let target = executors as usize;
        let ceiling = target + target.div_ceil(4);
        let judge = Judge::new(server.clone(), APPLICATION, ceiling * 2, target - target / 4);
        let listener =
            TcpListener::bind(api).await.with_context(|| format!("cannot listen on {api} (--api)"))?;
        let api = listener.local_addr()?;
        let app = Router::new().fallback(serve).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let (executors, shown) = watch::channel(Value::Array(Vec::new()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let rest = listener.local_addr()?;
        let app = Router::new()
            .route("/api/v1/applications/{application}/allexecutors", get(allexecutors))
            .with_state(shown);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let (truth, _) = watch::channel(Truth::default());
        Ok(World { server, cluster, judge, executors, truth, start, api, rest })
    }

    /// The true state of the cluster, independent of the daemon's view.
    pub fn truth(&self) -> watch::Receiver<Truth> {
        self.truth.subscribe()
    }

    /// kube's own client, connected to the in-memory server instead of a socket.
    pub fn client(&self) -> cluster::Client {
        cluster::Client::new(self.server.clone(), NAMESPACE)
    }

    /// Runs until `weather` is dropped; a change of its value ends the chaos. Returns the violations found at the end.
    pub async fn run(
        mut self,
        graphite: SocketAddr,
        incidents: mpsc::Sender<Incident>,
        mut weather: watch::Receiver<bool>,
    ) -> Vec<String> {
        let mut lines: HashMap<String, TcpStream> = HashMap::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = weather.changed() => match changed {
                    Ok(()) => self.cluster.heal(),
                    Err(_) => return self.judge.look(&self.cluster),
                },
            }
            let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
            for signal in self.cluster.advance(now_ms) {
                match signal {
                    Signal::Graphite { pod, lines: text } => report(&mut lines, graphite, pod, &text).await,
                    Signal::Fault { pod, what } => {
                        let _ = incidents.try_send(Incident::Fault { pod, what });
                    }
                }
            }
            for violation in self.judge.look(&self.cluster) {
                let _ = incidents.try_send(Incident::Violation(violation));
            }
            self.truth.send_replace(self.cluster.truth());
            if reported.elapsed() > Duration::from_millis(500) {
                reported = Instant::now();
                self.executors.send_replace(self.cluster.allexecutors(APPLICATION));
            }
        }
    }
}

/// Serves kubectl's requests.
async fn serve(State(server): State<Server>, request: Request) -> Result<impl IntoResponse, StatusCode> {
    server.answer(request).await.map_err(|_| StatusCode::BAD_REQUEST)
}

/// Reports like GraphiteSink: over a persistent connection, which is opened again when it breaks.
async fn report(lines: &mut HashMap<String, TcpStream>, graphite: SocketAddr, pod: String, text: &str) {
    if !lines.contains_key(&pod) {
        // Connections of executors that no longer exist stay open, idle, until there are too many.
        if lines.len() > 256 {
            lines.clear();
        }
        let Ok(stream) = TcpStream::connect(graphite).await else { return };
        lines.insert(pod.clone(), stream);
    }
    if let Some(stream) = lines.get_mut(&pod)
        && stream.write_all(text.as_bytes()).await.is_err()
    {
        lines.remove(&pod);
    }
}

async fn allexecutors(
    State(shown): State<watch::Receiver<Value>>,
    Path(application): Path<String>,
) -> Result<axum::Json<Value>, StatusCode> {
    if application == APPLICATION {
        Ok(axum::Json(shown.borrow().clone()))
    } else {
        Err(StatusCode::NOT_FOUND)
    }
}
