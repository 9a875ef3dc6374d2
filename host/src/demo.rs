//! `rollcall demo`: the whole daemon on an in-memory cluster.
//!
//! All of Rollcall is real: the daemon, its main loop, its policies in their sandbox, Graphite over TCP, the driver's
//! REST API over HTTP, kube's client and watcher. Only the environment is simulated: an API server that keeps its
//! objects in memory and implements Kubernetes' protocol, so that `kubectl` also works; and nodes, kubelets and
//! executors with many kinds of faults.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use cluster::Clients;
use cluster::queue::Rates;
use embedded::{Chaos, Truth};
use fleet::election::ElectionSettings;
use policy::Compiler;
use serde::Serialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{Documents, ExecutorFleet, FleetConfig, Millis};
use crate::daemon::{LeaseConfig, Policies};
use crate::files::Files;
use crate::handle::{Overview, Told};
use crate::metrics::Metrics;
use crate::output::{self, Output};
use crate::service::{Service, Settings};

mod world;

use world::{Incident, World};

const NAMESPACE: &str = "spark";
const FLEET: &str = "demo";
const APPLICATION: &str = "spark-demo";
const DRIVER: &str = "demo-driver";
const LEASE: &str = "rollcall";
/// Chaos ends this long before the end, or after two thirds of the time, so that the last losses can be replaced.
const CALM: Duration = Duration::from_secs(20);
/// How long the demo waits for the fleet to recover after its time is over. When many executors stop sending heartbeats
/// at once, the daemon waits a minute before it treats them as lost.
const PATIENCE: Duration = Duration::from_secs(90);

/// Demonstrate the daemon on an in-memory cluster. Has no prerequisites.
#[derive(clap::Args)]
pub struct Args {
    /// End after this time, with a summary. Exit code 0: the fleet is at its target size, without any violation.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,
    /// Seed of the faults: the same seed gives the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    executors: u32,
    #[arg(long, value_enum, default_value_t = Weather::Some)]
    chaos: Weather,
    /// Listen address of the in-memory API server, for kubectl.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    api: SocketAddr,
    /// Listen address of the daemon's metrics and API.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// Output format. `json` prints only the summary, as one document.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How often faults occur.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Weather {
    None,
    /// About every 8 s.
    Some,
    /// About every 3 s.
    Heavy,
}

impl Weather {
    fn chaos(self) -> Chaos {
        match self {
            Weather::None => Chaos::None,
            Weather::Some => Chaos::Some,
            Weather::Heavy => Chaos::Heavy,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    Millis::parse(text).map(|ms| Duration::from_millis(ms.0))
}

/// The result of the demo.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    seconds: u64,
    seed: u64,
    /// Executors lost, for any reason except voluntary removal.
    lost: u64,
    /// Executors created in their place.
    replaced: u64,
    /// Losses by verdict.
    verdicts: BTreeMap<String, u64>,
    /// Injected faults.
    faults: BTreeMap<&'static str, u64>,
    rolled: u64,
    available: u64,
    /// The number of available executors in the cluster, independent of the daemon's view.
    really_available: usize,
    target: u32,
    violations: Vec<String>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_stack_size(4 << 20)
        .build()
        .context("cannot start the runtime")?;
    let policies = Arc::new(Policies::load(None, Compiler::Here)?);
    let code = runtime.block_on(play(args, policies));
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn play(args: Args, policies: Arc<Policies>) -> Result<ExitCode> {
    let begun = Instant::now();
    let quiet = args.output == Output::Json;
    let (incidents, mut news) = mpsc::channel(1_024);
    let world = World::start(&args.seed, args.chaos.chaos(), args.executors, args.api).await?;
    let metrics = Metrics::new(Some(LEASE));
    let clients = Clients::over(world.client(), &world.api.to_string(), Arc::new(metrics.clone()));
    let (stop, stopped) = watch::channel(false);
    let mut service = Service::start(Settings {
        clients,
        documents: Documents {
            fleets: vec![document(args.executors, world.rest.port())?],
            classes: Vec::new(),
        },
        paths: Vec::new(),
        watch_fleets: None,
        policies,
        lease: Some(LeaseConfig {
            namespace: NAMESPACE.to_owned(),
            name: LEASE.to_owned(),
            settings: ElectionSettings::default(),
        }),
        rates: Rates::default(),
        instance: "demo".to_owned(),
        metrics,
        http: args.http,
        probes: None,
        http_hosts: Vec::new(),
        files: Files::raise()?,
        graphite: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        graphite_udp: false,
        relay: None,
        authorize: false,
        token: None,
        review_tokens: false,
        watch_nodes: true,
        stop: stopped,
    })
    .await?;
    let mut told = service.handle.subscribe();
    let (calm, weather) = watch::channel(false);
    let (api, truth) = (world.api, world.truth());
    let graphite = service.graphite;
    let world = tokio::spawn(world.run(graphite, incidents, weather));
    if !quiet {
        output::line(format_args!(
            "A fleet of {} executors on an in-memory cluster. Inspect it while it runs:\n  \
             kubectl --server http://{api} -n {NAMESPACE} get pods -w\n  \
             rollcall status {FLEET} --server http://{http}\n  curl http://{http}/metrics\n",
            args.executors,
            http = service.http,
        ))?;
    }
    let end = args.duration.map(|duration| begun + duration);
    let calm_at = args.duration.map(|duration| begun + duration.saturating_sub(CALM).max(duration * 2 / 3));
    let mut story = Story::new(begun, quiet);
    let mut over = None;
    let mut calmed = false;
    loop {
        let last = over.is_some();
        tokio::select! {
            notice = told.recv() => match notice {
                Ok(notice) => story.told(&notice)?,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => bail!("the daemon has ended"),
            },
            Some(incident) = news.recv() => story.incident(&incident)?,
            () = until(calm_at), if !calmed => {
                calmed = true;
                calm.send_replace(true);
                story.line("chaos ends; losses are still replaced")?;
            }
            () = until(end), if !last => over = Some(Instant::now()),
            () = sleep(Duration::from_millis(250)), if last => {
                let overview = service.handle.overview().await?;
                let patient = over.is_some_and(|over| over.elapsed() < PATIENCE);
                let strong = overview.first().is_some_and(|it| at_strength(it, &truth.borrow()));
                if patient && !strong {
                    continue;
                }
                break;
            }
            ended = &mut service.ended => bail!("the daemon has ended: {:?}", ended?),
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    let overview =
        service.handle.overview().await?.into_iter().next().context("the fleet does not exist any more")?;
    stop.send_replace(true);
    let _ = tokio::time::timeout(Duration::from_secs(15), service.ended).await;
    let truth = truth.borrow().clone();
    drop(calm);
    story.violations.extend(world.await?);
    let strong = at_strength(&overview, &truth);
    let summary = story.summary(&args, &overview, truth);
    if quiet {
        output::json(&summary)?;
    } else {
        summary.print()?;
    }
    Ok(if strong && summary.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Whether the fleet is at its target size, both in the daemon's view and in the cluster.
fn at_strength(overview: &Overview, truth: &Truth) -> bool {
    let counts = &overview.counts;
    truth.available == overview.target as usize
        && truth.silent == 0
        && counts.available == u64::from(overview.target)
        && counts.live == counts.available
        && counts.terminating == 0
        && counts.reason_pending == 0
}

/// The fleet's document, with intervals short enough to watch.
fn document(executors: u32, rest_port: u16) -> Result<FleetConfig> {
    let fleet: ExecutorFleet = serde_json::from_value(json!({
        "apiVersion": "rollcall.dev/v1alpha1",
        "kind": "ExecutorFleet",
        "metadata": { "name": FLEET, "namespace": NAMESPACE },
        "spec": {
            "mode": "Own",
            "executors": executors,
            "driver": { "podName": DRIVER, "restPort": rest_port, "restInterval": "1s", "allowLoopback": true },
            "heartbeat": { "timeout": "5s", "interval": "1s" },
            "recovery": { "maxExecutorFailures": 1_000_000, "maxKeptPods": 2, "keptPodsFor": "10s" },
            "allocation": { "pendingTimeout": "8s", "initialBackoff": "1s", "maxBackoff": "4s", "maxStartFailures": 20 },
            "roll": { "policies": ["OUTLIER"], "interval": "12s", "minTasks": 1, "minAge": "5s", "timeout": "30s" },
            "spark": {},
            "template": { "spec": { "containers": [{ "name": "spark-kubernetes-executor", "image": "apache/spark:4.3.0" }] } },
        },
    }))?;
    Ok(FleetConfig { file: "demo".into(), document: 1, fleet, generation: None, old_names: Vec::new() })
}

/// Prints events line by line, and sums them up.
struct Story {
    begun: Instant,
    quiet: bool,
    violations: Vec<String>,
}

impl Story {
    fn new(begun: Instant, quiet: bool) -> Story {
        Story { begun, quiet, violations: Vec::new() }
    }

    fn line(&self, text: &str) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        output::line(format_args!("{:>7.1}s  {text}", self.begun.elapsed().as_secs_f64()))
    }

    fn told(&self, told: &Told) -> Result<()> {
        let executor = told.executor.map(|id| id.0);
        match (told.kind, executor) {
            ("ExecutorLost", Some(id)) => self.line(&format!("executor {id} is lost: {}", told.message)),
            ("ExecutorReplaced", Some(id)) => {
                self.line(&format!("executor {id} is created {}", told.message))
            }
            ("RollStarted", Some(id)) => self.line(&format!("executor {id} is rolled: {}", told.message)),
            (_, Some(id)) => self.line(&format!("executor {id}: {}", told.message)),
            (_, None) => self.line(&format!("{}: {}", told.kind, told.message)),
        }
    }

    fn incident(&mut self, incident: &Incident) -> Result<()> {
        match incident {
            Incident::Fault { pod, what } => self.line(&format!("            (chaos: {pod} {what})")),
            Incident::Violation(text) => {
                self.violations.push(text.clone());
                self.line(&format!("VIOLATION: {text}"))
            }
        }
    }

    fn summary(&self, args: &Args, overview: &Overview, truth: Truth) -> Summary {
        let counts = &overview.counts;
        let removed: u64 = counts.removed.values().sum();
        let verdicts = counts.lost.iter().map(|(kind, count)| (kind.name().to_owned(), *count));
        Summary {
            seconds: self.begun.elapsed().as_secs(),
            seed: args.seed,
            lost: counts.lost.values().sum(),
            // All executors created, except the initial ones and replacements of executors that Rollcall removed.
            replaced: counts.created.saturating_sub(u64::from(overview.target) + removed),
            verdicts: verdicts.collect(),
            faults: truth.faults,
            really_available: truth.available,
            rolled: counts.removed.get(&fleet::question::DeletionCause::Roll).copied().unwrap_or_default(),
            available: counts.available,
            target: overview.target,
            violations: self.violations.clone(),
        }
    }
}

impl Summary {
    fn print(&self) -> Result<()> {
        output::line(format_args!(
            "\n{} s, seed {}: {} lost, {} replaced, {} rolled; {} of {} executors available",
            self.seconds, self.seed, self.lost, self.replaced, self.rolled, self.available, self.target
        ))?;
        let rows: Vec<Vec<String>> =
            self.verdicts.iter().map(|(kind, count)| vec![kind.clone(), count.to_string()]).collect();
        output::table(&["VERDICT", "LOST"], &rows)?;
        for violation in &self.violations {
            output::line(format_args!("VIOLATION: {violation}"))?;
        }
        output::line("\nNext steps: rollcall check --schema, examples/own.yaml, README.md")
    }
}
