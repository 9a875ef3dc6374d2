//! The daemon with its listeners, probes, and the watchers of its files. `run` and `demo` differ in the cluster and in
//! the source of the documents; everything else is here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::Clients;
use cluster::queue::Rates;
use cluster::review::User;
use policy::CacheCounts;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::classes::{self, Classes};
use crate::config::Documents;
use crate::daemon::{self, Ended, LeaseConfig, Parts, Policies};
use crate::eyes::{self, Eyes};
use crate::files::Files;
use crate::handle::Handle;
use crate::heartbeat::api::review::{BoxFuture, ReviewError, Reviewed, TokenReviewer};
use crate::heartbeat::{Counters, Directory, Intake, api, driver, graphite, intake};
use crate::http;
use crate::http::authority::{AUDIENCE, Authority, Judge};
use crate::listen::Listener;
use crate::metrics::Metrics;
use crate::relay::replica::Replica;
use crate::resource::{self, Objects};

/// Capacities of the queues for requests and for events.
const REQUESTS_MAX: usize = 256;
const TOLD_MAX: usize = 4_096;

pub struct Settings {
    pub clients: Clients,
    /// From files.
    pub documents: Documents,
    /// The paths of the documents, to detect changes.
    pub paths: Vec<PathBuf>,
    /// Also take documents from ExecutorFleet objects of these namespaces; of all, if the list is empty.
    pub watch_fleets: Option<Vec<String>>,
    pub policies: Arc<Policies>,
    pub lease: Option<LeaseConfig>,
    pub rates: Rates,
    pub instance: String,
    /// The metrics that also count the requests of `clients`.
    pub metrics: Metrics,
    /// Listen address of the HTTP server: probes, metrics, API and heartbeats.
    pub http: SocketAddr,
    /// Listen address for probes only.
    pub probes: Option<SocketAddr>,
    /// Host names to accept in HTTP requests.
    pub http_hosts: Vec<String>,
    /// Connection limits of the listeners.
    pub files: Files,
    /// Listen address for Graphite, over TCP.
    pub graphite: SocketAddr,
    /// Also listen for Graphite over UDP, at the same address.
    pub graphite_udp: bool,
    /// The address to advertise to other replicas, and the listen address for them.
    pub relay: Option<(IpAddr, SocketAddr)>,
    /// The bearer token for operators' commands.
    pub token: Option<String>,
    /// Accept commands of users who may patch the fleet, by the API server's word.
    pub authorize: bool,
    /// Accept heartbeats over HTTP with tokens that the API server reviews.
    pub review_tokens: bool,
    pub watch_nodes: bool,
    pub stop: watch::Receiver<bool>,
}

/// A running daemon.
pub struct Service {
    pub handle: Handle,
    pub metrics: Metrics,
    /// The listen addresses, with the actual ports where port 0 was requested.
    pub http: SocketAddr,
    pub probes: Option<SocketAddr>,
    pub graphite: SocketAddr,
    /// Where other replicas reach this one.
    pub relay: Option<SocketAddr>,
    pub ended: JoinHandle<Ended>,
}

impl Service {
    /// Binds all listeners first, and then starts. An address in use is therefore an error here and not later.
    pub async fn start(settings: Settings) -> Result<Service> {
        let web = Listener::bind(settings.http)
            .with_context(|| format!("cannot listen on {} (--http)", settings.http))?;
        let lines = Listener::bind(settings.graphite)
            .with_context(|| format!("cannot listen on {} (--graphite)", settings.graphite))?;
        let graphite_address = lines.local_addr()?;
        let datagrams =
            if settings.graphite_udp {
                let bound = UdpSocket::bind(graphite_address).await;
                Some(bound.with_context(|| {
                    format!("cannot listen on {graphite_address} with UDP (--graphite-udp)")
                })?)
            } else {
                None
            };
        let http_address = web.local_addr()?;
        let (handle, requests) = Handle::new(REQUESTS_MAX, TOLD_MAX);
        let probes = settings.probes;
        let probes = probes
            .map(|at| http::probes::Listener::start(at, handle.clone(), settings.files.probes))
            .transpose()?;
        let metrics = settings.metrics;
        let (directory, counters) = (Arc::new(Directory::default()), Arc::new(Counters::default()));
        let (sender, signs) = intake::channel();
        let replica = settings.relay.filter(|_| settings.lease.is_some());
        let replica =
            replica.map(|(advertise, at)| Replica::bind(advertise, at, settings.files.relay, random()?));
        let replica = replica.transpose()?;
        let relay = replica.as_ref().map(|replica| replica.relay.clone()).unwrap_or_default();
        let relay_address = replica.as_ref().map(|replica| replica.address);
        let notes = replica.as_ref().map(|replica| replica.notes.clone());
        let intake =
            Intake::new(Arc::clone(&directory), Arc::clone(&counters), sender).with_relay(relay.clone());
        let policies = settings.policies;
        let (change, changes) = mpsc::channel(4);
        // Subscribes before the documents are validated, so that no change in the meantime is missed.
        let policies_change = policies.changes();
        let objects = settings.watch_fleets.as_ref().map(|_| Arc::new(Objects::default()));
        let class_objects = objects.as_ref().map(|_| Arc::new(Objects::default()));
        let classes = Arc::new(Classes::new(settings.documents, class_objects.clone()));
        let eyes = Eyes::new(settings.paths, objects.clone(), Arc::clone(&classes), Arc::clone(&policies));
        let poller = driver::Poller::new(intake.clone(), driver::TIMEOUT);
        let limits =
            graphite::Limits { connections_max: settings.files.graphite, ..graphite::Limits::default() };
        let mut side = Vec::new();
        let (lines, web) = match replica {
            None => (lines, web),
            Some(replica) => {
                let (lines, web, both) =
                    replica.start(&handle, datagrams.is_none(), Arc::new(intake.clone()), lines, web);
                side.extend(both);
                (lines, web)
            }
        };
        side.extend([
            tokio::spawn(graphite::run(lines, intake.clone(), limits.clone())),
            tokio::spawn(poller.run()),
        ]);
        if let Some(datagrams) = datagrams {
            side.push(tokio::spawn(graphite::run_udp(datagrams, intake.clone(), limits)));
        }
        let (watch, call) = (settings.clients.watch.clone(), settings.clients.call.clone());
        let within = settings.watch_fleets.clone().unwrap_or_default();
        side.push(tokio::spawn(classes::follow(watch.clone(), within.clone(), Arc::clone(&classes))));
        if let (Some(objects), Some(of_classes)) = (objects, class_objects) {
            side.push(tokio::spawn(resource::follow(watch.clone(), within.clone(), Arc::clone(&objects))));
            side.push(tokio::spawn(resource::follow(watch, Vec::new(), of_classes)));
            side.push(tokio::spawn(resource::report(handle.clone(), call.clone(), Arc::clone(&objects))));
            side.push(tokio::spawn(classes::apply(call, handle.clone(), within, classes, objects)));
        }
        let reviewer = settings.review_tokens.then(|| settings.clients.call.clone());
        let reviewer = reviewer.map(|client| Arc::new(Reviewer(client)) as Arc<dyn TokenReviewer>);
        let extra = api::router(intake.clone(), reviewer);
        let authority =
            settings.authorize.then(|| Authority::new(Arc::new(Reviewer(settings.clients.call.clone()))));
        let web_settings =
            http::Settings { token: settings.token, authority, hosts: settings.http_hosts, extra, relay };
        let router = http::router(handle.clone(), metrics.clone(), web_settings);
        let limits = http::serve::Limits::new(settings.files.http);
        let mut stop = settings.stop.clone();
        let serving = tokio::spawn(async move {
            let stopped = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            if let Err(error) = http::serve(web, router, limits, Arc::new(intake), stopped).await {
                tracing::error!(%error, "the HTTP server has stopped");
            }
        });
        side.push(tokio::spawn(count(counters, Arc::clone(&policies), metrics.clone())));
        // Validates with the built-in policies only. The directory's policies are loaded later, and that stops nothing
        // that is already running.
        let judged = tokio::task::spawn_blocking(move || {
            let mut eyes = eyes;
            (eyes.judge(), eyes)
        });
        let (fleets, eyes) = judged.await.context("the documents cannot be validated")?;
        side.push(tokio::spawn(eyes::documents(eyes, policies_change, change)));
        side.push(tokio::spawn(eyes::policies(Arc::clone(&policies))));
        let daemon = daemon::run(Parts {
            clients: settings.clients,
            fleets,
            policies,
            lease: settings.lease,
            notes,
            rates: settings.rates,
            instance: settings.instance,
            directory,
            signs,
            handle: handle.clone(),
            requests,
            metrics: metrics.clone(),
            watch_nodes: settings.watch_nodes,
            changes,
            stop: settings.stop,
            random: random()?,
        });
        let probes_address = probes.as_ref().map(|probes| probes.address);
        let ended = tokio::spawn(async move {
            let ended = daemon.await;
            drop(probes);
            serving.abort();
            side.iter().for_each(JoinHandle::abort);
            ended
        });
        let (http, probes, graphite) = (http_address, probes_address, graphite_address);
        Ok(Service { handle, metrics, http, probes, graphite, relay: relay_address, ended })
    }
}

fn random() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("cannot get random numbers: {error}"))?;
    Ok(u128::from_le_bytes(bytes))
}

/// Copies the counts of the listeners and of the policy cache into the metrics.
async fn count(counters: Arc<Counters>, policies: Arc<Policies>, metrics: Metrics) {
    let mut before = counters.snapshot();
    let mut looked_up = [0; 3];
    loop {
        if let Some(CacheCounts { hits, misses, corrupt }) = policies.cache_counts() {
            let now = [hits, misses, corrupt];
            for (at, result) in ["hit", "miss", "corrupt"].into_iter().enumerate() {
                metrics.policy_cache(result, now[at] - looked_up[at]);
            }
            looked_up = now;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = counters.snapshot();
        for ((source, result, count), (.., old)) in now.iter().zip(&before) {
            if count > old {
                metrics.heartbeats(source, result, count - old);
            }
        }
        before = now;
    }
}

/// Asks the API server who owns a token, and what the owner may do.
struct Reviewer(cluster::Client);

impl TokenReviewer for Reviewer {
    fn review<'a>(
        &'a self,
        token: &'a str,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Reviewed, ReviewError>> {
        Box::pin(async move {
            match cluster::review::review(self.0.clone(), token, audience).await {
                Ok(Some(it)) => {
                    let (audiences, pod_uid, pod_name) = (it.audiences, it.pod_uid, it.pod_name);
                    Ok(Reviewed { audiences, pod_uid, pod_name })
                }
                Ok(None) => Err(ReviewError::Rejected("it is not valid".to_owned())),
                Err(why) => Err(ReviewError::Unavailable(why)),
            }
        })
    }
}

impl Judge for Reviewer {
    fn user<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, String>> {
        Box::pin(async move {
            match cluster::review::user(self.0.clone(), token, &[AUDIENCE]).await? {
                Some(user) => Ok(Some(user)),
                None => cluster::review::user(self.0.clone(), token, &[]).await,
            }
        })
    }

    fn may<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
        fleet: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(cluster::review::may_patch(self.0.clone(), user, namespace, fleet))
    }
}
