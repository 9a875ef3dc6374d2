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
//! before each step whether this host still leads. When it does not, the process ends: what it knows is a copy, and
//! the next leader starts from what is written down. A fleet's ledger that says that another leads is a reason to read
//! the Lease, and no more: the tenant that may write it must not end the other fleets' daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ::fleet::election::{ElectionEvent, StopCause};
use ::fleet::event::{Answer, Event, Fault, Impairment, Outcome};
use ::fleet::id::{ActionId, CommandId};
use ::fleet::standstill::Standstill;
use ::fleet::time::{Instant, Now};
use cluster::Clients;
use cluster::node::NodeSeen;
use cluster::notice::Notices;
use cluster::pod::DriverSeen;
use cluster::queue::{self, Gate, Job, Rates};
use cluster::watch::{self, Told as Watched};
use tokio::sync::{mpsc, oneshot, watch as flag};
use tokio::time::{Instant as Clock, sleep_until, timeout};

use crate::handle::{Commanded, Handle, Request};
use crate::heartbeat::Directory;
use crate::heartbeat::intake::Signs;
use crate::metrics::Metrics;

mod hearing;
mod hearsay;
mod leader;
mod lives;
mod managed;
mod policies;
mod steps;

pub use leader::LeaseConfig;
use leader::{Leader, Turn};
use managed::Managed;
pub use policies::{Judge, Judged, Policies};

/// The log is told so often who is not heard.
const PULSE: Duration = Duration::from_secs(2);
/// Events that wait for the loop; watches wait when there are more.
const NEWS_MAX: usize = 4_096;
/// Heartbeats taken in before anything else gets a turn.
const SIGNS_AT_ONCE: usize = 256;
/// What is under way at the end may take so long.
const DRAIN: Duration = Duration::from_secs(10);
/// What the loop is made of.
pub struct Parts {
    pub clients: Clients,
    pub fleets: Vec<Judged>,
    pub policies: Arc<Policies>,
    /// `None`: this host leads alone.
    pub lease: Option<LeaseConfig>,
    pub rates: Rates,
    /// Who we are, for people: a pod's name.
    pub instance: String,
    pub directory: Arc<Directory>,
    pub signs: Signs,
    pub handle: Handle,
    pub requests: mpsc::Receiver<Request>,
    pub metrics: Metrics,
    pub watch_nodes: bool,
    /// New documents, or other verdicts on them.
    pub changes: mpsc::Receiver<Change>,
    /// `true`: end.
    pub stop: flag::Receiver<bool>,
    /// 128 bits that are nobody else's.
    pub random: u128,
}

/// What can change while it runs.
pub enum Change {
    /// All documents, each with what is wrong with it.
    Fleets(Vec<Judged>),
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
        /// Namespace and name of the pod that was looked for.
        sought: (String, String),
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
    lives: u64,
    commands: u64,
    replies: BTreeMap<(u64, CommandId), oneshot::Sender<Commanded>>,
    /// Namespaces that are watched, and whether the watch is up.
    watched: BTreeMap<Arc<str>, bool>,
    nodes: BTreeMap<String, NodeSeen>,
    leader: Leader,
    leading: Option<u64>,
    /// When the event at hand became known.
    since: Clock,
    /// When the log is to be told next who is not heard.
    tell_at: Clock,
    /// Whether the loop comes round in time.
    standstill: Standstill,
    jobs: mpsc::UnboundedSender<Job>,
    news: mpsc::Sender<News>,
    notices: Notices,
    /// A ledger says that another host leads, or is to be written over: the Lease has to be read.
    doubted: bool,
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
        lives: 0,
        commands: 0,
        replies: BTreeMap::new(),
        watched: BTreeMap::new(),
        nodes: BTreeMap::new(),
        leader: Leader::new(lease, &parts.instance, gate.clone(), votes, parts.random),
        leading: None,
        since: start,
        tell_at: start,
        standstill: Standstill::new(Instant::START),
        jobs,
        news,
        notices: Notices::start(parts.clients.call.clone(), &parts.instance),
        doubted: false,
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
        let waiting = inbox.len() + outcomes.len() + signs.len() + requests.len();
        daemon.handle.pulse().set_waiting(waiting as u64);
        daemon.look_for_standstill(daemon.now().instant);
        daemon.tell_hearing();
        if std::mem::take(&mut daemon.doubted) {
            daemon.elect(ElectionEvent::Doubt);
        }
        let wake = daemon.deadline().min(Clock::now() + daemon.pulse());
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
    daemon.stand_by();
    gate.open_until_ms(0);
    let ended = daemon.ended.take();
    let (jobs, _) = mpsc::unbounded_channel();
    daemon.jobs = jobs;
    daemon.fleets.clear();
    daemon.deadlines.clear();
    if ended.is_some() {
        // Its calls may hang as the Lease's did: nothing is waited for.
        queue.abort();
    } else {
        tracing::info!("stopping");
        if timeout(DRAIN, queue).await.is_err() {
            tracing::warn!("calls were still under way after {} s", DRAIN.as_secs());
        }
    }
    // Also where it ends because it was late: what is still ours keeps the next one waiting.
    daemon.elect(ElectionEvent::Release);
    let release = async {
        while daemon.ended.is_none() && daemon.leader.deadline().is_some() {
            tokio::select! {
                Some(event) = elections.recv() => daemon.elect(event),
                () = sleep_until(daemon.deadline().min(Clock::now() + PULSE)) => {
                    daemon.elect(ElectionEvent::Deadline);
                }
            }
        }
    };
    let _ = timeout(DRAIN, release).await;
    ended.unwrap_or(Ended::Stopped)
}

impl Daemon {
    fn now(&self) -> Now {
        let instant = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { instant: Instant::from_ms(instant), wall_ms: jiff::Timestamp::now().as_millisecond() }
    }

    /// Every now and then, for the log.
    fn tell_hearing(&mut self) {
        if Clock::now() < self.tell_at {
            return;
        }
        self.tell_at = Clock::now() + PULSE;
        self.standstill.follow(self.fleets.values().filter_map(Managed::timeout_ms).min());
        for managed in self.fleets.values_mut() {
            managed.tell_hearing(&self.directory);
        }
    }

    /// The loop comes round at least so often, so that its pulse is felt.
    fn pulse(&self) -> Duration {
        Duration::from_millis(self.standstill.pulse_ms())
    }

    /// Before anything is told to any fleet: after a standstill their silence is ours. Heartbeats lie unread in sockets
    /// and queues, and deadlines have passed meanwhile. Whether there was one.
    fn look_for_standstill(&mut self, now: Instant) -> bool {
        let Some(stood_ms) = self.standstill.look(now).filter(|_| self.leading.is_some()) else {
            return false;
        };
        tracing::warn!(stood_ms, "this host stood still: silence of executors counts from now");
        for number in self.numbers() {
            if self.ended.is_none() {
                self.step(number, Event::HearingImpaired(Impairment::Paused));
            }
        }
        true
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
        let later = self.deadlines.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut self.deadlines, later);
        for (_, number) in due {
            self.step(number, Event::Deadline);
        }
    }

    // ------------------------------------------------------------------------------ leadership --

    fn elect(&mut self, event: ElectionEvent) {
        match self.leader.step(event, self.now()) {
            Some(Turn::Lead { term }) => {
                tracing::info!(term, "this host leads");
                self.handle.pulse().lead();
                self.directory.open();
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
            Some(Turn::Affirm) => {
                tracing::info!("the lease was read, and is this host's");
                let lives: Vec<u64> = self.names.keys().copied().collect();
                for number in lives {
                    self.step(number, Event::LeadershipConfirmed);
                }
            }
            Some(Turn::Stop(cause)) => {
                self.stand_by();
                match cause {
                    StopCause::Released => tracing::info!("the lease is released"),
                    StopCause::Late => tracing::error!("the lease was not renewed in time"),
                    StopCause::Deposed => tracing::error!("another host leads"),
                }
                self.ended = Some(if cause == StopCause::Released { Ended::Stopped } else { Ended::Deposed });
            }
            None if self.leading.is_none() => self.stand_by(),
            None => {}
        }
    }

    /// Nobody is heard here: signs of life are the leader's.
    fn stand_by(&self) {
        self.directory.close();
        self.handle.pulse().stand_by(self.leader.holder());
    }
}
