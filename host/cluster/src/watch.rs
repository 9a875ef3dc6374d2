//! The watch of a namespace, shared by all its fleets.
//!
//! kube's watcher keeps the stream open and restarts it when necessary. The list with which it restarts is
//! *not* used as a complete list: its revision is unknown, and only a complete list at a known revision allows
//! the conclusion that a missing pod is gone. So a restarted stream is reported as restarted, and the receiver
//! lists the pods of its fleets itself.
//!
//! A stream can be silent because it is broken. The API server ends each watch after `WATCH_S`, and kube closes
//! a connection that is silent for longer than that. In addition a watchdog relies on neither: after `AUDIT`
//! without an event the stream is dropped and restarted, which lists everything.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet::observed::DriverPod;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceBuilder;

use crate::call::describe;
use crate::node::{NodeSeen, Nodes};
use crate::pod::{self, Role, Seen};

/// How long the API server keeps one watch open.
const WATCH_S: u32 = 90;
/// A quiet fleet is silent too: how often it is listed as a whole.
const AUDIT: Duration = Duration::from_secs(600);
/// kube restarts a watch as soon as it has ended, even one that ended at once, and does not report it: this
/// limits the requests within that time, including the pages of a list of 500.
const REQUESTS: u64 = 50;
const REQUESTS_IN: Duration = Duration::from_secs(10);
/// kube does not limit either how long an answer may take to begin.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Between attempts after an error.
const BACKOFF_FIRST: Duration = Duration::from_millis(800);
const BACKOFF_LAST: Duration = Duration::from_secs(30);
/// A stream that worked for this long resets the backoff.
const BACKOFF_RESET: Duration = Duration::from_secs(20);

/// A message of a watch.
#[derive(Debug)]
pub enum Told {
    /// The stream is open and reports everything from now on; earlier state has to be listed.
    Started,
    Changed(Box<Seen>),
    /// With its last state and the revision of its deletion.
    Gone(Box<Seen>),
    Driver(DriverPod),
    DriverGone(DriverPod),
    Node(Box<NodeSeen>),
    /// The watch failed and is being retried.
    Broken(String),
}

/// Watches the executors' and drivers' pods of a namespace, until the receiver is dropped.
pub async fn pods<T: Send>(
    client: Client,
    namespace: &str,
    told: mpsc::Sender<T>,
    wrap: impl Fn(Told) -> T + Send + Sync,
) {
    let api: Api<Pod> = Api::namespaced(paced(client), namespace);
    let config = config().labels(pod::SELECTOR);
    let map = |event| match event {
        Event::Apply(pod) => match pod::role(&pod) {
            Role::Executor(seen) => Some(Told::Changed(seen)),
            Role::Driver(driver) => Some(Told::Driver(driver)),
            Role::Other => None,
        },
        Event::Delete(pod) => match pod::role(&pod) {
            Role::Executor(seen) => Some(Told::Gone(seen)),
            Role::Driver(driver) => Some(Told::DriverGone(driver)),
            Role::Other => None,
        },
        Event::Init | Event::InitApply(_) => None,
        Event::InitDone => Some(Told::Started),
    };
    let broken = |why| wrap(Told::Broken(why));
    watch(api, config, &mut |event| map(event).map(&wrap).into_iter(), &broken, &told).await;
}

/// A driver's pod, as classes of fleets need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Driver {
    pub driver: fleet::classes::Driver,
    /// `metadata.uid`.
    pub uid: String,
    /// The annotations that begin with `rollcall.dev/`.
    pub annotations: BTreeMap<String, String>,
}

/// A message of the watch of drivers.
#[derive(Debug)]
pub enum Drivers {
    /// All drivers that there are. What was told before and is not among them is gone.
    All(Vec<Driver>),
    Changed(Box<Driver>),
    Gone(Box<Driver>),
    Broken(String),
}

/// Watches the drivers' pods of a namespace, or of all, until the receiver is dropped.
pub async fn drivers(client: Client, namespace: Option<&str>, told: mpsc::Sender<Drivers>) {
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(paced(client), namespace),
        None => Api::all(paced(client)),
    };
    let config = config().labels(pod::DRIVERS);
    let mut listed = Vec::new();
    let mut map = |event| {
        let message = match event {
            Event::Init => {
                listed.clear();
                None
            }
            Event::InitApply(pod) => {
                listed.extend(driver(pod));
                None
            }
            Event::InitDone => Some(Drivers::All(std::mem::take(&mut listed))),
            Event::Apply(pod) => driver(pod).map(|driver| Drivers::Changed(Box::new(driver))),
            Event::Delete(pod) => driver(pod).map(|driver| Drivers::Gone(Box::new(driver))),
        };
        message.into_iter()
    };
    watch(api, config, &mut map, &Drivers::Broken, &told).await;
}

fn driver(pod: Pod) -> Option<Driver> {
    let seen = pod::driver(&pod)?;
    let mut annotations = pod.metadata.annotations.unwrap_or_default();
    annotations.retain(|name, _| name.starts_with("rollcall.dev/"));
    let driver = fleet::classes::Driver {
        namespace: pod.metadata.namespace?,
        pod: seen.name.into(),
        labels: pod.metadata.labels.unwrap_or_default(),
        live: seen.live,
    };
    Some(Driver { driver, uid: seen.uid.0.into(), annotations })
}

/// Watches the nodes, until the receiver is dropped. Needs a ClusterRole; without it there are no node events.
pub async fn nodes<T: Send>(client: Client, told: mpsc::Sender<T>, wrap: impl Fn(Told) -> T + Send + Sync) {
    let api: Api<Node> = Api::all(paced(client));
    let mut nodes = Nodes::default();
    let map = &mut |event| nodes.take(event).into_iter().map(|node| wrap(Told::Node(Box::new(node))));
    watch(api, config(), map, &|why| wrap(Told::Broken(why)), &told).await;
}

/// The configuration of every watch.
pub(crate) fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_S)
}

/// A client with a rate limit and a limit on the time until an answer begins.
pub(crate) fn paced(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let send = move |request| {
        let client = client.clone();
        async move { client.send(request).await }
    };
    // The time limit is inside the rate limit: a request that waits for its turn has not been sent.
    let service =
        ServiceBuilder::new().rate_limit(REQUESTS, REQUESTS_IN).timeout(ANSWER_MAX).service_fn(send);
    Client::new(service, namespace)
}

/// Passes on what `map` makes of each event, until the receiver is dropped. A stream that breaks is told as `broken`, and
/// opened again with growing delays.
pub(crate) async fn watch<K, T: Send, I: Iterator<Item = T> + Send>(
    api: Api<K>,
    config: watcher::Config,
    map: &mut (impl FnMut(Event<K>) -> I + Send),
    broken: &(impl Fn(String) -> T + Send + Sync),
    told: &mpsc::Sender<T>,
) where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut backoff = BACKOFF_FIRST;
    loop {
        let begun = Instant::now();
        let mut stream = Box::pin(watcher(api.clone(), config.clone()));
        let error = loop {
            let event = tokio::select! {
                event = timeout(AUDIT, stream.next()) => event,
                () = told.closed() => return,
            };
            match event {
                Ok(Some(Ok(event))) => {
                    for news in map(event) {
                        if told.send(news).await.is_err() {
                            return;
                        }
                    }
                }
                // The stream would continue by itself, but not report when; a new stream does.
                Ok(Some(Err(error))) => break Some(words(&error)),
                Ok(None) => break Some("the stream has ended".to_owned()),
                Err(_) => break None,
            }
        };
        let Some(error) = error else { continue };
        if told.send(broken(error)).await.is_err() {
            return;
        }
        if begun.elapsed() > BACKOFF_RESET {
            backoff = BACKOFF_FIRST;
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

fn words(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) => format!("the list failed: {}", describe(error)),
        watcher::Error::WatchStartFailed(error) => format!("the watch did not start: {}", describe(error)),
        watcher::Error::WatchError(status) => format!("the watch ended: {} {}", status.code, status.message),
        watcher::Error::WatchFailed(error) => format!("the watch broke: {}", describe(error)),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}
