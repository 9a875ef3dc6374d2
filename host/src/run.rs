//! `rollcall run`: the daemon.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use cluster::Clients;
use cluster::queue::Rates;
use fleet::election::ElectionSettings;
use policy::read_regular;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config;
use crate::daemon::{Ended, LeaseConfig, Policies};
use crate::eyes::TOKEN_BYTES_MAX;
use crate::files::Files;
use crate::metrics::Metrics;
use crate::output;
use crate::policy::modules;
use crate::service::{Service, Settings};

/// How long the runtime waits for blocking threads at shutdown.
const LINGER: Duration = Duration::from_millis(500);

/// Run the daemon: keep the fleets of these documents at their target size.
#[derive(clap::Args)]
pub struct Args {
    /// ExecutorFleet documents: files, or directories of files. Reloaded when they change.
    #[arg(short = 'f', long = "file", required_unless_present = "watch_fleets", value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// Also take ExecutorFleet objects of the API server (`rollcall crds` prints their definition), and write their
    /// status.
    #[arg(long)]
    watch_fleets: bool,
    /// Only objects of this namespace. May be given several times. Default: all namespaces.
    #[arg(long = "fleet-namespace", value_name = "NAME", requires = "watch_fleets")]
    fleet_namespaces: Vec<String>,
    /// Kubeconfig file. Default: $KUBECONFIG, ~/.kube/config, or the pod's own service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long)]
    context: Option<String>,
    /// Directory with your own policies, as .wasm files. Reloaded when it changes.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Listen address of the HTTP server: probes, metrics, API, and heartbeats over HTTP.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    http: SocketAddr,
    /// Listen address for probes only: /livez and /readyz, unaffected by other clients' connections.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8081")]
    probes: SocketAddr,
    /// A host name to accept in HTTP requests, in addition to addresses and names that exist only in a cluster
    /// (`rollcall`, `*.svc`). May be given several times. Requests with other names are rejected, because a web page
    /// may have made them up (DNS rebinding).
    #[arg(long = "http-host", value_name = "NAME")]
    http_hosts: Vec<String>,
    /// Listen address for Spark's GraphiteSink, over TCP.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:2003")]
    graphite: SocketAddr,
    /// Accept Graphite lines over UDP as well, at the same address. Only for trusted networks: UDP source addresses can
    /// be forged, so any sender can impersonate a pod, and one that floods the port blocks the others.
    #[arg(long)]
    graphite_udp: bool,
    /// The address by which other replicas reach this one, for instance its pod's. A replica that stands by is ready if it
    /// can forward heartbeats and requests to the leader, and for that the leader has to advertise an address.
    #[arg(long, value_name = "IP", env = "POD_IP")]
    advertise: Option<IpAddr>,
    /// Listen address for the other replicas. Not used without --advertise.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:2004")]
    relay: SocketAddr,
    /// File with the bearer token for operators' commands. Without it and --authorize commands are disabled.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Accept commands of every user of the cluster who may patch the fleet's object (`executorfleets.rollcall.dev`),
    /// whether there is such an object or not. The API server reviews the token that comes with the command
    /// (TokenReview), and what its user may do (SubjectAccessReview).
    #[arg(long)]
    authorize: bool,
    /// Lead without a Lease. Only for a single replica that never runs twice at the same time.
    #[arg(long)]
    no_leader_election: bool,
    /// Name of the Lease for leader election.
    #[arg(long, value_name = "NAME", default_value = "rollcall")]
    lease: String,
    /// Namespace of the Lease. Default: the daemon's own namespace.
    #[arg(long, value_name = "NAME")]
    lease_namespace: Option<String>,
    /// Maximum rate of creations, deletions and evictions, for all fleets together, per second.
    #[arg(long, value_name = "N", default_value_t = 20.0)]
    changes_per_second: f64,
    /// Maximum burst of creations, deletions and evictions.
    #[arg(long, value_name = "N", default_value_t = 30)]
    changes_burst: u32,
    /// Do not watch nodes. No ClusterRole is needed then, but Rollcall knows nothing about nodes and their loss.
    #[arg(long)]
    no_nodes: bool,
    /// Accept heartbeats over HTTP with service account tokens, which the API server reviews (TokenReview).
    #[arg(long)]
    review_tokens: bool,
    #[arg(long, value_enum, default_value_t)]
    log: LogFormat,
    /// Log filter: `info`, or for instance `rollcall=debug,warn`.
    #[arg(long, value_name = "FILTER", env = "ROLLCALL_LOG", default_value = "info")]
    log_level: String,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    /// Lines of text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

pub fn run(args: Args) -> Result<ExitCode> {
    log(args.log, &args.log_level)?;
    if !(args.changes_per_second > 0.0 && args.changes_per_second.is_finite()) {
        bail!("--changes-per-second must be a number above 0");
    }
    let files = Files::raise()?;
    // Loads the built-in policies. The directory's policies are loaded after everything else has started.
    let policies = Arc::new(Policies::load(args.policies.clone(), modules::compiler())?);
    let documents = match config::load(&args.files) {
        Ok(documents) => documents,
        Err(problems) => bail!(listed(&problems)),
    };
    let problems = policies.problems(&documents);
    if !problems.is_empty() {
        bail!(listed(&problems));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Policies run on these threads: each needs its own 1 MiB of stack on top of the daemon's.
        .thread_stack_size(4 << 20)
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(serve(args, files, documents, policies));
    // A policy may still be compiling or running; shutdown waits for neither. The compiling child process ends with
    // this process.
    runtime.shutdown_timeout(LINGER);
    ended
}

async fn serve(
    args: Args,
    files: Files,
    documents: config::Documents,
    policies: Arc<Policies>,
) -> Result<ExitCode> {
    let metrics = Metrics::new((!args.no_leader_election).then_some(&*args.lease));
    let requests = Arc::new(metrics.clone());
    let clients = Clients::connect(args.kubeconfig.as_deref(), args.context.as_deref(), requests).await?;
    let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "rollcall".to_owned());
    let namespace = args.lease_namespace.unwrap_or_else(|| clients.namespace.clone());
    let lease = LeaseConfig { namespace, name: args.lease, settings: ElectionSettings::default() };
    let token = match &args.token_file {
        Some(file) => {
            let place = || format!("cannot read {}", file.display());
            let bytes = read_regular(file, TOKEN_BYTES_MAX).with_context(place)?;
            let token = String::from_utf8(bytes).with_context(place)?;
            Some(token.trim().to_owned()).filter(|token| !token.is_empty())
        }
        None => None,
    };
    let (stop, stopped) = watch::channel(false);
    let service = Service::start(Settings {
        clients,
        documents,
        paths: args.files,
        watch_fleets: args.watch_fleets.then_some(args.fleet_namespaces),
        policies,
        lease: (!args.no_leader_election).then_some(lease),
        rates: Rates {
            changes_per_s: args.changes_per_second,
            burst: args.changes_burst,
            ..Rates::default()
        },
        instance,
        metrics,
        http: args.http,
        probes: Some(args.probes),
        http_hosts: args.http_hosts,
        files,
        graphite: args.graphite,
        graphite_udp: args.graphite_udp,
        relay: args.advertise.map(|advertise| (advertise, args.relay)),
        token,
        authorize: args.authorize,
        review_tokens: args.review_tokens,
        watch_nodes: !args.no_nodes,
        stop: stopped,
    })
    .await?;
    let probes = service.probes.unwrap_or(args.probes);
    let relay = service.relay.map(tracing::field::display);
    tracing::info!(http = %service.http, %probes, graphite = %service.graphite, relay, "listening");
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut ended = service.ended;
    let ended = tokio::select! {
        ended = &mut ended => ended?,
        _ = terminate.recv() => { stop.send_replace(true); ended.await? }
        _ = interrupt.recv() => { stop.send_replace(true); ended.await? }
    };
    Ok(match ended {
        Ended::Stopped => ExitCode::SUCCESS,
        Ended::Deposed => ExitCode::FAILURE,
    })
}

fn listed(problems: &[config::Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    format!("the configuration is invalid\n{}", lines.join("\n"))
}

fn log(format: LogFormat, filter: &str) -> Result<()> {
    // kube logs each failed request as an error; Rollcall logs failures itself, with their meaning.
    let filter = tracing_subscriber::EnvFilter::try_new(format!("kube_client=off,kube_runtime=off,{filter}"))
        .with_context(|| {
            format!("--log-level {filter:?} is not a filter such as `info` or `rollcall=debug,warn`")
        })?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.with_writer(|| output::Log).init(),
        LogFormat::Json => builder.with_writer(std::io::stderr).json().init(),
    }
    Ok(())
}
