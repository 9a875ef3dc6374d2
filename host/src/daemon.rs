//! The loop: one task owns the fleets, and everything that happens comes to it one by one.
//!
//! ```text
//!  watches ─┐                                   ┌─► queue of calls ─► API server ─┐
//!  heartbeats ─► event ─► Fleet::step ─► actions ├─► policies, on threads of their own ─┐
//!  operators ─┘            ▲                    └─► notices, replies              │  │
//!                          └──────────────── outcomes and answers ◄───────────────┴──┘
//! ```
//!
//! The loop itself decides nothing and waits for nothing: it hands events in, hands actions out, and asks
//! before each step whether this host still leads. When it does not, or when an earlier leader's ledger says
//! so, the process ends: what it knows is a copy, and the next leader starts from what is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ::fleet::action::{Action, Cause, Notice, Reply, Verb};
use ::fleet::election::{ElectionEvent, StopCause};
use ::fleet::event::{Answer, DriverView, Event, Fault, NodeView, Outcome};
use ::fleet::id::{ActionId, CommandId, ExecutorId};
use ::fleet::time::{Instant, Now};
use cluster::Clients;
use cluster::call::{Calls, find_driver};
use cluster::notice::{self, Notices};
use cluster::pod::{DriverSeen, Seen};
use cluster::queue::{self, Gate, Job, Rates};
use cluster::watch::{self, Told as Watched};
use tokio::sync::{mpsc, oneshot, watch as flag};
use tokio::time::{Instant as Clock, sleep_until, timeout};

use crate::config::FleetConfig;
use crate::handle::{Handle, Request, Told};
use crate::heartbeat::{Directory, Sign, directory::ExecutorEntry};
use crate::metrics::Metrics;

mod leader;
mod managed;
mod policies;

pub use leader::LeaseConfig;
use leader::{Leader, Turn};
use managed::{Life, Managed};
pub use policies::Policies;

/// How often a driver's pod that is not there is looked for.
const DRIVER_RETRY: Duration = Duration::from_secs(5);
/// A list that failed is asked for again.
const LIST_RETRY: Duration = Duration::from_secs(2);
/// The loop comes round at least so often, so that its pulse is felt.
const PULSE: Duration = Duration::from_secs(2);
/// Events that wait for the loop; watches wait when there are more.
const NEWS_MAX: usize = 4_096;
/// Heartbeats taken in before anything else gets a turn.
const SIGNS_AT_ONCE: usize = 256;
/// What is under way at the end may take so long.
const DRAIN: Duration = Duration::from_secs(10);
/// The action number of lists that the loop itself asks for. The core counts from 1.
const OWN_LIST: ActionId = ActionId(0);

/// What the loop is made of.
pub struct Parts {
    pub clients: Clients,
    pub fleets: Vec<FleetConfig>,
    pub policies: Arc<Policies>,
    /// `None`: this host leads alone.
    pub lease: Option<LeaseConfig>,
    pub rates: Rates,
    /// Who we are, for people: a pod's name.
    pub instance: String,
    pub directory: Arc<Directory>,
    pub signs: mpsc::Receiver<Sign>,
    pub handle: Handle,
    pub requests: mpsc::Receiver<Request>,
    pub metrics: Metrics,
    pub watch_nodes: bool,
    /// New documents, or policies that have changed.
    pub changes: mpsc::Receiver<Change>,
    /// `true`: end.
    pub stop: flag::Receiver<bool>,
    /// 128 bits that are nobody else's.
    pub random: u128,
}

/// What can change while it runs.
pub enum Change {
    Fleets(Vec<FleetConfig>),
    Policies,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to, and has released its lease.
    Stopped,
    /// It led and leads no more: the process must end.
    Deposed,
}

enum News {
    Watched {
        namespace: Arc<str>,
        told: Watched,
    },
    Node(Watched),
    Driver {
        fleet: String,
        found: Result<Option<DriverSeen>, Outcome>,
    },
    Answered {
        number: u64,
        action: ActionId,
        answer: Result<Answer, Fault>,
    },
    /// Time to look for a driver's pod again, or to list again.
    Seek(String),
    List(u64),
}

struct Daemon {
    start: Clock,
    fleets: BTreeMap<String, Managed>,
    /// By life.
    names: BTreeMap<u64, String>,
    /// By namespace and application id.
    applications: BTreeMap<(Arc<str>, Box<str>), u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    armed: BTreeMap<u64, Instant>,
    lives: u64,
    commands: u64,
    replies: BTreeMap<(u64, CommandId), oneshot::Sender<Option<Reply>>>,
    /// Namespaces that are watched, and whether the watch is up.
    watched: BTreeMap<Arc<str>, bool>,
    nodes: BTreeMap<String, NodeView>,
    leader: Leader,
    leading: Option<u64>,
    /// When the event at hand became known.
    since: Clock,
    jobs: mpsc::UnboundedSender<Job>,
    news: mpsc::Sender<News>,
    notices: Notices,
    ended: Option<Ended>,
    clients: Clients,
    policies: Arc<Policies>,
    directory: Arc<Directory>,
    handle: Handle,
    metrics: Metrics,
    watch_nodes: bool,
    random: u128,
}

/// Runs until it is told to end or leads no more.
pub async fn run(parts: Parts) -> Ended {
    let start = Clock::now();
    let gate = Gate::default();
    let (jobs, inbox) = mpsc::unbounded_channel();
    let (done, mut outcomes) = mpsc::unbounded_channel();
    let queue = tokio::spawn(queue::run(inbox, done, parts.rates, gate.clone(), start));
    let (votes, mut elections) = mpsc::unbounded_channel();
    let (news, mut inbox) = mpsc::channel(NEWS_MAX);
    let lease = parts.lease.map(|lease| (lease, parts.clients.call.clone()));
    let Parts { mut signs, mut requests, mut changes, mut stop, .. } = parts;
    let mut daemon = Daemon {
        start,
        fleets: BTreeMap::new(),
        names: BTreeMap::new(),
        applications: BTreeMap::new(),
        deadlines: BTreeSet::new(),
        armed: BTreeMap::new(),
        lives: 0,
        commands: 0,
        replies: BTreeMap::new(),
        watched: BTreeMap::new(),
        nodes: BTreeMap::new(),
        leader: Leader::new(lease, &parts.instance, gate.clone(), votes, parts.random),
        leading: None,
        since: start,
        jobs,
        news,
        notices: Notices::start(parts.clients.call.clone(), &parts.instance),
        ended: None,
        clients: parts.clients,
        policies: parts.policies,
        directory: parts.directory,
        handle: parts.handle,
        metrics: parts.metrics,
        watch_nodes: parts.watch_nodes,
        random: parts.random,
    };
    daemon.configure(parts.fleets);
    daemon.elect(ElectionEvent::Deadline);
    while daemon.ended.is_none() {
        daemon.handle.pulse().advance();
        daemon.handle.pulse().set_waiting((inbox.len() + outcomes.len() + signs.len()) as u64);
        let wake = daemon.deadline().min(Clock::now() + PULSE);
        tokio::select! {
            Some(event) = elections.recv() => daemon.elect(event),
            Some(done) = outcomes.recv() => daemon.done(done),
            Some(news) = inbox.recv() => daemon.hear(news),
            Some(sign) = signs.recv() => {
                daemon.sign(sign);
                for _ in 1..SIGNS_AT_ONCE {
                    let Ok(sign) = signs.try_recv() else { break };
                    daemon.sign(sign);
                }
            }
            Some(request) = requests.recv() => daemon.request(request),
            Some(change) = changes.recv() => daemon.change(change),
            () = sleep_until(wake) => daemon.wake(),
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    // Nothing is decided any more: what waits is dropped, what is under way is waited for.
    daemon.handle.pulse().set_leading(false);
    if let Some(ended) = daemon.ended {
        return ended;
    }
    tracing::info!("stopping");
    gate.open_until_ms(0);
    let (jobs, _) = mpsc::unbounded_channel();
    daemon.jobs = jobs;
    daemon.fleets.clear();
    if timeout(DRAIN, queue).await.is_err() {
        tracing::warn!("calls were still under way after {} s", DRAIN.as_secs());
    }
    daemon.elect(ElectionEvent::Release);
    let release = async {
        while daemon.ended.is_none() {
            tokio::select! {
                Some(event) = elections.recv() => daemon.elect(event),
                () = sleep_until(daemon.deadline().min(Clock::now() + PULSE)) => {
                    daemon.elect(ElectionEvent::Deadline);
                }
            }
        }
    };
    let _ = timeout(DRAIN, release).await;
    Ended::Stopped
}

impl Daemon {
    fn now(&self) -> Now {
        let instant = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { instant: Instant::from_ms(instant), wall_ms: jiff::Timestamp::now().as_millisecond() }
    }

    /// When the loop has to come round.
    fn deadline(&self) -> Clock {
        let first = self.deadlines.first().map(|(at, _)| *at);
        let at = [first, self.leader.deadline()].into_iter().flatten().min().unwrap_or(Instant::NEVER);
        let hour_ms = 3_600_000;
        self.start + Duration::from_millis(at.as_ms().min(self.now().instant.as_ms() + hour_ms))
    }

    fn wake(&mut self) {
        let now = self.now().instant;
        if self.leader.deadline().is_some_and(|at| at <= now) {
            self.elect(ElectionEvent::Deadline);
        }
        self.since = Clock::now();
        let due: Vec<u64> = self.deadlines.range(..=(now, u64::MAX)).map(|(_, number)| *number).collect();
        for number in due {
            self.step(number, Event::Deadline);
        }
    }

    // ------------------------------------------------------------------------------ leadership --

    fn elect(&mut self, event: ElectionEvent) {
        match self.leader.step(event, self.now()) {
            Some(Turn::Lead { term }) => {
                tracing::info!(term, "this host leads");
                self.handle.pulse().set_leading(true);
                self.leading = Some(term);
                let fleets: Vec<String> = self.fleets.keys().cloned().collect();
                for fleet in fleets {
                    self.seek(&fleet);
                }
                if self.watch_nodes {
                    let (client, news) = (self.clients.watch.clone(), self.news.clone());
                    tokio::spawn(async move { watch::nodes(client, news, News::Node).await });
                }
            }
            Some(Turn::Stop(cause)) => {
                self.handle.pulse().set_leading(false);
                match cause {
                    StopCause::Released => tracing::info!("the lease is released"),
                    StopCause::Late => tracing::error!("the lease was not renewed in time"),
                    StopCause::Deposed => tracing::error!("another host leads"),
                }
                self.ended = Some(if cause == StopCause::Released { Ended::Stopped } else { Ended::Deposed });
            }
            None if self.leading.is_none() => self.handle.pulse().set_leading(false),
            None => {}
        }
    }

    // ----------------------------------------------------------------------------- fleets' lives --

    fn change(&mut self, change: Change) {
        match change {
            Change::Fleets(fleets) => self.configure(fleets),
            Change::Policies => {
                let fleets = self.fleets.values().map(|managed| managed.config.clone()).collect();
                self.configure(fleets);
            }
        }
    }

    /// These are the fleets from now on.
    fn configure(&mut self, fleets: Vec<FleetConfig>) {
        let names: BTreeSet<&str> = fleets.iter().map(|config| &*config.fleet.metadata.name).collect();
        let gone: Vec<String> =
            self.fleets.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        for name in gone {
            tracing::info!(fleet = name, "the fleet is no longer configured: its pods are left alone");
            self.end(&name);
            self.fleets.remove(&name);
        }
        for config in fleets {
            let name = config.fleet.metadata.name.clone();
            let Some(managed) = self.fleets.get_mut(&name) else {
                self.fleets.insert(name.clone(), Managed::new(config));
                self.seek(&name);
                continue;
            };
            let before = std::mem::replace(&mut managed.config, config);
            let (old, new) = (&before.fleet, &managed.config.fleet);
            let moved = old.metadata.namespace != new.metadata.namespace
                || old.spec.driver.pod_name != new.spec.driver.pod_name
                || old.spec.application_id != new.spec.application_id
                || old.spec.mode != new.spec.mode;
            if moved {
                self.end(&name);
                self.seek(&name);
            } else {
                self.respec(&name);
            }
        }
    }

    /// The document or the policies have changed.
    fn respec(&mut self, name: &str) {
        let names = self.policies.names();
        let Some(managed) = self.fleets.get(name) else { return };
        let Some(life) = &managed.life else { return self.seek(name) };
        let (number, driver, application_id) =
            (life.number, life.driver.clone(), life.application_id.clone());
        let draft = managed.config.draft(driver.uid.clone(), &application_id);
        match managed.place(&driver, &application_id) {
            Ok(place) => {
                let calls = Calls::new(self.clients.call.clone(), Arc::new(place));
                let settings = settings(&managed.config);
                let entry = managed.entry(&driver, &application_id);
                if let Err(error) = self.directory.set_fleet(name, entry) {
                    tracing::error!(fleet = name, %error, "its heartbeats cannot be told apart");
                }
                if let Some(life) = self.fleets.get_mut(name).and_then(|managed| managed.life.as_mut()) {
                    (life.calls, life.settings) = (calls, settings);
                }
            }
            Err(error) => {
                tracing::error!(fleet = name, %error, "the template was refused; the last good one stays")
            }
        }
        self.step(number, Event::SpecChanged { draft: Box::new(draft), policies: names });
    }

    /// Looks for the driver's pod, and watches the namespace.
    fn seek(&mut self, name: &str) {
        let Some(managed) = self.fleets.get(name) else { return };
        if self.leading.is_none() || managed.life.is_some() {
            return;
        }
        let namespace: Arc<str> = managed.namespace().into();
        let (client, driver) = (self.clients.call.clone(), managed.driver_name().to_owned());
        let (news, fleet) = (self.news.clone(), name.to_owned());
        let within = Arc::clone(&namespace);
        tokio::spawn(async move {
            let found = find_driver(client, &within, &driver).await;
            let _ = news.send(News::Driver { fleet, found }).await;
        });
        if !self.watched.contains_key(&namespace) {
            self.watched.insert(Arc::clone(&namespace), false);
            let (client, news) = (self.clients.watch.clone(), self.news.clone());
            tokio::spawn(async move {
                let within = Arc::clone(&namespace);
                let wrap = move |told| News::Watched { namespace: Arc::clone(&namespace), told };
                watch::pods(client, &within, news, wrap).await;
            });
        }
    }

    fn later(&self, after: Duration, news: News) {
        let sender = self.news.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _ = sender.send(news).await;
        });
    }

    /// The driver's pod as it is: a fleet without a life begins one, and one whose driver is another's ends.
    fn driver_is(&mut self, name: &str, driver: DriverSeen) {
        let Some(managed) = self.fleets.get_mut(name) else { return };
        if let Some(life) = &mut managed.life {
            if life.driver.uid == driver.uid {
                let view =
                    if driver.live { DriverView::Running(driver.uid.clone()) } else { DriverView::Gone };
                let (number, revision) = (life.number, driver.revision);
                let moved = driver.address.is_some() && driver.address != life.driver.address;
                let application_id = life.application_id.clone();
                life.driver = driver.clone();
                if moved
                    && let Err(error) =
                        self.directory.set_fleet(name, managed.entry(&driver, &application_id))
                {
                    tracing::error!(fleet = name, %error, "its driver cannot be asked");
                }
                return self.step(number, Event::DriverChanged { driver: view, revision });
            }
            if !driver.live || driver.revision < life.driver.revision {
                return;
            }
            tracing::info!(fleet = name, "another driver pod: another application begins");
            self.end(name);
        }
        if driver.live {
            self.begin(name, driver);
        } else if let Some(managed) = self.fleets.get_mut(name) {
            managed.waits = format!("driver pod {} has ended or is being deleted", driver.name);
        }
    }

    fn begin(&mut self, name: &str, driver: DriverSeen) {
        let (Some(term), Some(managed)) = (self.leading, self.fleets.get(name)) else { return };
        let begun = self.bring_to_life(managed, driver);
        let Some(managed) = self.fleets.get_mut(name) else { return };
        let life = match begun {
            Ok(life) => life,
            Err(why) => {
                if managed.waits != why {
                    tracing::warn!(fleet = name, why, "the fleet has to wait");
                }
                managed.waits = why;
                return;
            }
        };
        let number = life.number;
        self.lives = number;
        self.names.insert(number, name.to_owned());
        tracing::info!(fleet = name, application = life.application_id, "the fleet begins");
        let key = (managed.namespace().into(), life.application_id.as_str().into());
        managed.life = Some(life);
        self.applications.insert(key, number);
        self.step(number, Event::LeadershipGained { term });
        for node in self.nodes.values().cloned().collect::<Vec<_>>() {
            self.step(number, Event::NodeChanged(Box::new(node)));
        }
        let namespace: Arc<str> = self.fleets[name].namespace().into();
        if self.watched.get(&namespace) == Some(&true) {
            self.list(number);
        }
    }

    fn bring_to_life(&self, managed: &Managed, driver: DriverSeen) -> Result<Life, String> {
        let application_id = managed.application_id(&driver)?;
        let place = managed.place(&driver, &application_id)?;
        let draft = managed.config.draft(driver.uid.clone(), &application_id);
        #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
        let seed = self.random as u64 ^ self.lives;
        let fleet = ::fleet::Fleet::new(draft, &self.policies.names(), seed)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let entry = managed.entry(&driver, &application_id);
        self.directory.set_fleet(managed.name(), entry).map_err(|error| error.to_string())?;
        Ok(Life {
            number: self.lives + 1,
            fleet,
            calls: Calls::new(self.clients.call.clone(), Arc::new(place)),
            driver,
            application_id,
            settings: settings(&managed.config),
            listing: false,
            fresh: false,
        })
    }

    /// A life is over; its pods are its driver's, and end with it.
    fn end(&mut self, name: &str) {
        let Some(life) = self.fleets.get_mut(name).and_then(|managed| managed.life.take()) else { return };
        self.names.remove(&life.number);
        self.applications.retain(|_, number| *number != life.number);
        if let Some(at) = self.armed.remove(&life.number) {
            self.deadlines.remove(&(at, life.number));
        }
        self.replies.retain(|(number, _), _| *number != life.number);
        self.directory.remove_fleet(name);
    }

    fn life(&mut self, number: u64) -> Option<&mut Life> {
        let name = self.names.get(&number)?;
        self.fleets.get_mut(name)?.life.as_mut()
    }

    // ------------------------------------------------------------------------------------ events --

    fn hear(&mut self, news: News) {
        self.since = Clock::now();
        match news {
            News::Watched { namespace, told } => self.watched(&namespace, told),
            News::Node(Watched::Node(node)) => {
                self.nodes.insert(node.state.name.clone(), (*node).clone());
                if node.state.gone {
                    self.nodes.remove(&node.state.name);
                }
                for number in self.numbers() {
                    self.step(number, Event::NodeChanged(node.clone()));
                }
            }
            News::Node(Watched::Broken(why)) => {
                self.metrics.watch_restarted("nodes");
                tracing::debug!(why, "nodes cannot be watched: nothing is known of them");
            }
            News::Node(
                Watched::Started
                | Watched::Changed(_)
                | Watched::Gone(_)
                | Watched::Driver(_)
                | Watched::DriverGone(_),
            ) => {}
            News::Driver { fleet, found } => self.found(&fleet, found),
            News::Answered { number, action, answer } => {
                self.step(number, Event::Answered { action, answer });
            }
            News::Seek(fleet) => self.seek(&fleet),
            News::List(number) => self.list(number),
        }
    }

    fn numbers(&self) -> Vec<u64> {
        self.names.keys().copied().collect()
    }

    fn numbers_in(&self, namespace: &Arc<str>) -> Vec<u64> {
        let within = self.applications.iter().filter(|((of, _), _)| of == namespace);
        within.map(|(_, number)| *number).collect()
    }

    fn watched(&mut self, namespace: &Arc<str>, told: Watched) {
        match told {
            Watched::Started => {
                self.watched.insert(Arc::clone(namespace), true);
                for number in self.numbers_in(namespace) {
                    self.list(number);
                }
            }
            Watched::Broken(why) => {
                tracing::warn!(%namespace, why, "the watch is broken: nothing is done by choice until it is up");
                self.metrics.watch_restarted("error");
                self.watched.insert(Arc::clone(namespace), false);
                for number in self.numbers_in(namespace) {
                    if let Some(life) = self.life(number) {
                        life.fresh = false;
                    }
                    self.step(number, Event::ViewStale);
                }
            }
            Watched::Changed(seen) => self.seen(namespace, *seen, Event::PodChanged),
            Watched::Gone(seen) => self.seen(namespace, *seen, Event::PodGone),
            Watched::Driver(driver) => self.driver_seen(namespace, driver),
            Watched::DriverGone(driver) => {
                self.driver_seen(namespace, DriverSeen { live: false, ..driver });
            }
            Watched::Node(_) => {}
        }
    }

    fn driver_seen(&mut self, namespace: &Arc<str>, driver: DriverSeen) {
        let whose = |managed: &&Managed| {
            managed.namespace() == &**namespace && managed.driver_name() == &*driver.name
        };
        let names: Vec<String> =
            self.fleets.values().filter(whose).map(|managed| managed.name().to_owned()).collect();
        for name in names {
            self.driver_is(&name, driver.clone());
        }
    }

    fn found(&mut self, name: &str, found: Result<Option<DriverSeen>, Outcome>) {
        let Some(managed) = self.fleets.get_mut(name) else { return };
        if managed.life.is_some() {
            return;
        }
        let namespace = managed.namespace();
        match found {
            Ok(Some(driver)) => self.driver_is(name, driver),
            Ok(None) => {
                managed.waits = format!("there is no pod {} in namespace {namespace}", managed.driver_name());
            }
            Err(outcome) => {
                managed.waits = format!("driver pod {}: {outcome}", managed.driver_name());
                tracing::warn!(fleet = name, why = managed.waits, "the driver's pod cannot be read");
            }
        }
        if self.fleets.get(name).is_some_and(|managed| managed.life.is_none()) {
            self.later(DRIVER_RETRY, News::Seek(name.to_owned()));
        }
    }

    fn seen(&mut self, namespace: &Arc<str>, seen: Seen, event: fn(Box<::fleet::event::PodView>) -> Event) {
        let key = (Arc::clone(namespace), seen.application_id.clone());
        let Some(number) = self.applications.get(&key).copied() else { return };
        let event = event(Box::new(seen.view.clone()));
        self.note(number, &seen, matches!(event, Event::PodGone(_)));
        self.step(number, event);
    }

    /// Who may speak for the executor.
    fn note(&self, number: u64, seen: &Seen, gone: bool) {
        let Some(name) = self.names.get(&number) else { return };
        let executor = seen.view.executor;
        if gone || seen.view.ended() {
            self.directory.remove_executor(name, executor, &seen.view.uid);
        } else {
            let entry = ExecutorEntry { uid: seen.view.uid.clone(), pod_ip: seen.address };
            self.directory.set_executor(name, executor, entry);
        }
    }

    fn sign(&mut self, sign: Sign) {
        self.since = Clock::now();
        let (name, event) = match sign {
            Sign::Beat { fleet, beat } => (fleet, Event::Heartbeat(Box::new(beat))),
            Sign::Driver { fleet, rows } => (fleet, Event::DriverReported(rows)),
        };
        let number =
            self.fleets.get(&*name).and_then(|managed| managed.life.as_ref()).map(|life| life.number);
        if let Some(number) = number {
            self.step(number, event);
        }
    }

    fn done(&mut self, done: queue::Done) {
        // A call's outcome frees nothing that was waiting for it; what follows begins now.
        self.since = Clock::now();
        self.metrics.action(done.verb, done.outcome);
        self.metrics.request(done.verb, None, done.seconds);
        if done.verb == "create" {
            self.metrics.event_to_create_seconds(done.waited.as_secs_f64());
        }
        for seen in &done.answer.seen {
            self.note(done.fleet, seen, false);
        }
        let own = match &done.answer.event {
            Event::Finished { action: OWN_LIST, outcome } => {
                tracing::warn!(%outcome, "a list failed");
                Some(false)
            }
            _ => None,
        };
        let Some(life) = self.life(done.fleet) else { return };
        if own == Some(false) {
            life.listing = false;
            return self.later(LIST_RETRY, News::List(done.fleet));
        }
        let listed = matches!(done.answer.event, Event::Relisted(_));
        let freshens = listed && std::mem::take(&mut life.listing) && life.fresh;
        self.step(done.fleet, done.answer.event);
        if freshens {
            self.step(done.fleet, Event::ViewFresh);
            let active = |managed: &Managed| managed.life.as_ref().is_some_and(|life| life.fresh);
            if self.fleets.values().all(active) {
                self.handle.pulse().set_synced();
            }
        }
    }

    /// Everything there is, once the watch is up that tells what comes after.
    fn list(&mut self, number: u64) {
        let since = self.since;
        let Some(life) = self.life(number) else { return };
        life.fresh = true;
        if std::mem::replace(&mut life.listing, true) {
            return;
        }
        let action = Action { id: OWN_LIST, cause: Cause::Start, verb: Verb::Relist };
        let job = Job { fleet: number, action, calls: life.calls.clone(), since };
        let _ = self.jobs.send(job);
    }

    // ------------------------------------------------------------------------------------- steps --

    fn step(&mut self, number: u64, event: Event) {
        let now = self.now();
        if !self.leader.is_leader(now.instant) {
            // It finds out by itself, and ends.
            return self.elect(ElectionEvent::Deadline);
        }
        let kind = kind(&event);
        let begun = std::time::Instant::now();
        let Some(life) = self.life(number) else { return };
        let actions = life.fleet.step(event, now);
        let deadline = life.fleet.deadline();
        self.metrics.step(kind, begun.elapsed().as_secs_f64());
        for action in actions {
            self.act(number, action);
        }
        let at = deadline.map_or(Instant::NEVER, |(at, _)| at);
        if let Some(before) = self.armed.insert(number, at)
            && before != at
        {
            self.deadlines.remove(&(before, number));
        }
        if at < Instant::NEVER {
            self.deadlines.insert((at, number));
        }
    }

    fn act(&mut self, number: u64, action: Action) {
        let since = self.since;
        let Some(life) = self.life(number) else { return };
        match action.verb {
            Verb::Relist
            | Verb::ReadLedger
            | Verb::WriteLedger { .. }
            | Verb::CreatePod { .. }
            | Verb::GetPod { .. }
            | Verb::DeletePod { .. }
            | Verb::EvictPod { .. }
            | Verb::DeleteDriver { .. } => {
                let job = Job { fleet: number, action, calls: life.calls.clone(), since };
                // It takes everything until the loop itself is over.
                let _ = self.jobs.send(job);
            }
            Verb::Ask { policy, question } => {
                let (settings, id) = (Arc::clone(&life.settings), action.id);
                let (policies, news, metrics) =
                    (Arc::clone(&self.policies), self.news.clone(), self.metrics.clone());
                tokio::task::spawn_blocking(move || {
                    let asked = policies.ask(&policy, settings.get(&*policy), &question);
                    metrics.policy(&policy, asked.result, asked.took.as_secs_f64());
                    let answered = News::Answered { number, action: id, answer: asked.answer };
                    let _ = news.blocking_send(answered);
                });
            }
            Verb::Stop => {
                tracing::error!("the ledger says that another host leads");
                self.ended = Some(Ended::Deposed);
            }
            Verb::Reply { command, reply } => {
                if let Some(sender) = self.replies.remove(&(number, command)) {
                    let _ = sender.send(Some(reply));
                }
            }
            Verb::Publish(notice) => self.publish(number, &notice),
        }
    }

    fn publish(&mut self, number: u64, notice: &Notice) {
        let Some(name) = self.names.get(&number).cloned() else { return };
        let kind = notice::name(notice.reason);
        let executor = notice.executor.map(|ExecutorId(id)| id);
        tracing::info!(fleet = name, executor, reason = kind, "{}", notice.message);
        let (at_ms, message) = (self.now().wall_ms, notice.message.clone());
        self.handle.tell(Told { at_ms, fleet: name, kind, executor: notice.executor, message });
        let Some(life) = self
            .fleets
            .values()
            .filter_map(|managed| managed.life.as_ref())
            .find(|life| life.number == number)
        else {
            return;
        };
        self.notices.publish(life.calls.place(), notice);
    }

    // ---------------------------------------------------------------------------------- requests --

    fn request(&mut self, request: Request) {
        self.since = Clock::now();
        let now = self.now();
        // Whoever asked may have gone away meanwhile.
        match request {
            Request::Overview(reply) => {
                let _ = reply.send(self.fleets.values().map(Managed::overview).collect());
            }
            Request::Snapshot { fleet, reply } => {
                let _ = reply.send(self.fleets.get(&fleet).map(|managed| managed.snapshot(now)));
            }
            Request::Explain { fleet, executor, reply } => {
                let life = self.fleets.get(&fleet).and_then(|managed| managed.life.as_ref());
                let _ = reply.send(life.map(|life| life.fleet.explain(executor)));
            }
            Request::Command { fleet, verb, reply } => {
                let life = self.fleets.get(&fleet).map(|managed| managed.life.as_ref());
                match life {
                    None => drop(reply.send(None)),
                    Some(None) => {
                        let refusal = ::fleet::guardrail::Refusal::NotLeading;
                        drop(reply.send(Some(Reply::Refused(refusal))));
                    }
                    Some(Some(life)) => {
                        let number = life.number;
                        self.commands += 1;
                        let command = CommandId(self.commands);
                        self.replies.retain(|_, waiting| !waiting.is_closed());
                        self.replies.insert((number, command), reply);
                        self.step(number, Event::Commanded { command, verb });
                    }
                }
            }
        }
    }
}

fn settings(config: &FleetConfig) -> Arc<BTreeMap<String, serde_json::Value>> {
    let all = &config.fleet.spec.policies;
    Arc::new(all.iter().map(|(name, settings)| (name.clone(), settings.clone().into())).collect())
}

/// The event, as a label.
fn kind(event: &Event) -> &'static str {
    match event {
        Event::LeadershipGained { .. } | Event::LeadershipLost => "leadership",
        Event::Relisted(_) => "relisted",
        Event::PodChanged(_) => "pod-changed",
        Event::PodGone(_) => "pod-gone",
        Event::NodeChanged(_) => "node-changed",
        Event::DriverChanged { .. } => "driver-changed",
        Event::ViewStale | Event::ViewFresh => "view",
        Event::Heartbeat(_) => "heartbeat",
        Event::DriverReported(_) => "driver-reported",
        Event::Answered { .. } => "answered",
        Event::Finished { .. } => "finished",
        Event::SpecChanged { .. } => "spec-changed",
        Event::Commanded { .. } => "commanded",
        Event::Deadline => "deadline",
    }
}
