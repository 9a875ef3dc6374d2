//! The main loop: one task owns the fleets and processes all events one by one.
//!
//! ```text
//!  watches ─┐                                   ┌─► queue of calls ─► API server ─┐
//!  heartbeats ─► event ─► Fleet::step ─► actions ├─► policies, on threads of their own ─┐
//!  operators ─┘            ▲                    └─► notices, replies              │  │
//!                          └──────────────── outcomes and answers ◄───────────────┴──┘
//! ```
//!
//! The loop itself makes no decision and never blocks: it passes events in and actions out, and checks before each step
//! whether this replica still leads. If not, the process ends: its state is a copy, and the next leader starts from the
//! ledgers. A ledger that names another leader is only a reason to read the Lease: the tenant who may write the ledger
//! must not be able to end the daemon of all other fleets.

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

/// The minimum interval between log messages about missing heartbeats.
const PULSE: Duration = Duration::from_secs(2);
/// Capacity of the event queue; watches wait when it is full.
const NEWS_MAX: usize = 4_096;
/// Heartbeats processed before anything else gets a turn.
const SIGNS_AT_ONCE: usize = 256;
/// How long shutdown waits for calls in flight.
const DRAIN: Duration = Duration::from_secs(10);
/// The dependencies of the loop.
pub struct Parts {
    pub clients: Clients,
    pub fleets: Vec<Judged>,
    pub policies: Arc<Policies>,
    /// `None`: no leader election, this replica always leads.
    pub lease: Option<LeaseConfig>,
    pub rates: Rates,
    /// The name of this replica, for people: its pod's name.
    pub instance: String,
    pub directory: Arc<Directory>,
    pub signs: Signs,
    pub handle: Handle,
    pub requests: mpsc::Receiver<Request>,
    pub metrics: Metrics,
    pub watch_nodes: bool,
    /// New documents, or new verdicts on them.
    pub changes: mpsc::Receiver<Change>,
    /// `true`: stop.
    pub stop: flag::Receiver<bool>,
    /// 128 random bits: the identity of this process.
    pub random: u128,
}

/// What can change while the daemon runs.
pub enum Change {
    /// All documents, each with its problems.
    Fleets(Vec<Judged>),
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop, and has released its lease.
    Stopped,
    /// It lost the leadership: the process must end.
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
        /// Namespace and name of the requested pod.
        sought: (String, String),
        found: Result<Option<DriverSeen>, Outcome>,
    },
    Answered {
        number: u64,
        action: ActionId,
        answer: Result<Answer, Fault>,
    },
    /// Time to look for a driver's pod again, or to retry a list.
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
    /// Watched namespaces, and whether the watch is up.
    watched: BTreeMap<Arc<str>, bool>,
    nodes: BTreeMap<String, NodeSeen>,
    leader: Leader,
    leading: Option<u64>,
    /// When the current event arrived.
    since: Clock,
    /// When the log is next told about missing heartbeats.
    tell_at: Clock,
    /// Detects that the loop was not scheduled in time.
    standstill: Standstill,
    jobs: mpsc::UnboundedSender<Job>,
    news: mpsc::Sender<News>,
    notices: Notices,
    /// A ledger names another leader, or is about to be overwritten: read the Lease first.
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

/// Runs until it is stopped or loses the leadership.
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
    // No more decisions: drop the queue, wait for calls in flight.
    daemon.stand_by();
    gate.open_until_ms(0);
    let ended = daemon.ended.take();
    let (jobs, _) = mpsc::unbounded_channel();
    daemon.jobs = jobs;
    daemon.fleets.clear();
    daemon.deadlines.clear();
    if ended.is_some() {
        // Its calls may hang as the Lease's did: do not wait for them.
        queue.abort();
    } else {
        tracing::info!("stopping");
        if timeout(DRAIN, queue).await.is_err() {
            tracing::warn!("calls were still under way after {} s", DRAIN.as_secs());
        }
    }
    // Also if it ends because it was late: a Lease that it still holds delays the next leader.
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

    /// Logs missing heartbeats at intervals.
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

    /// Maximum loop period; feeds the liveness probe.
    fn pulse(&self) -> Duration {
        Duration::from_millis(self.standstill.pulse_ms())
    }

    /// Runs before any event is given to a fleet: after a standstill of this process, the silence of executors proves
    /// nothing. Heartbeats are unread in sockets and queues, and deadlines have passed meanwhile. Returns whether there
    /// was one.
    fn look_for_standstill(&mut self, now: Instant) -> bool {
        let Some(stood_ms) = self.standstill.look(now).filter(|_| self.leading.is_some()) else {
            return false;
        };
        tracing::warn!(stood_ms, "this host stood still: executors' silence is counted from now");
        for number in self.numbers() {
            if self.ended.is_none() {
                self.step(number, Event::HearingImpaired(Impairment::Paused));
            }
        }
        true
    }

    /// When the loop has to wake up next.
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
                tracing::info!("the lease was read, and this host holds it");
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

    /// Rejects heartbeats on a replica that does not lead.
    fn stand_by(&self) {
        self.directory.close();
        self.handle.pulse().stand_by(self.leader.holder());
    }
}
