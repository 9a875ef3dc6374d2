//! The main loop: one task owns the supervisor, and processes all inputs one by one.
//!
//! ```text
//!  watches ─┐                                       ┌─► queue of calls ─► API server ─┐
//!  heartbeats ─► input ─► Supervisor::step ─► outputs ├─► policies, on threads of their own ─┐
//!  operators ─┘             ▲                        └─► notices, replies               │  │
//!                           └─────────────── outcomes and answers ◄────────────────────┴──┘
//! ```
//!
//! The loop itself makes no decision and never blocks: `inputs` translates what it is told, `outputs` carries out what
//! the supervisor wants. If this replica leads no more, the process ends: its state is a copy, and the next leader
//! starts from the ledgers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::Clients;
use cluster::lease::{LeaseApi, Notes};
use cluster::node::NodeSeen;
use cluster::notice::Notices;
use cluster::queue::{self, Gate, Job, Rates};
use cluster::watch::Told as Watched;
use fleet::backoff::Seed;
use fleet::election::{Election, ElectionEvent, ElectionSettings, Identity};
use fleet::event::{Answer, Fault, Outcome};
use fleet::id::{ActionId, CommandId};
use fleet::observed::DriverPod;
use fleet::supervisor::{Input, Supervisor};
use fleet::time::{Instant, Now};
use tokio::sync::{mpsc, watch as flag};
use tokio::time::{Instant as Clock, sleep_until, timeout};

use crate::handle::{Handle, Request};
use crate::heartbeat::Directory;
use crate::heartbeat::intake::Signs;
use crate::metrics::Metrics;

mod audit;
mod fleets;
mod hearsay;
mod inputs;
mod outputs;
mod policies;

use audit::Order;
use fleets::{Alive, Sources};
pub use policies::{Judge, Judged, Policies};

/// The minimum interval between log messages about missing heartbeats.
const PULSE: Duration = Duration::from_secs(2);
/// Capacity of the event queue; watches wait when it is full.
const NEWS_MAX: usize = 4_096;
/// Heartbeats processed before anything else gets a turn.
const SIGNS_AT_ONCE: usize = 256;
/// How long shutdown waits for calls in flight.
const DRAIN: Duration = Duration::from_secs(10);
/// The Lease, and how replicas compete for it.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    pub namespace: String,
    pub name: String,
    pub settings: ElectionSettings,
}

/// The dependencies of the loop.
pub struct Parts {
    pub clients: Clients,
    pub fleets: Vec<Judged>,
    pub policies: Arc<Policies>,
    /// `None`: no leader election, this replica always leads.
    pub lease: Option<LeaseConfig>,
    /// What replicas tell each other with the Lease.
    pub notes: Option<Notes>,
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
        found: Result<Option<DriverPod>, Outcome>,
    },
    Answered {
        life: u64,
        action: ActionId,
        answer: Result<Answer, Fault>,
    },
}

struct Daemon {
    start: Clock,
    supervisor: Supervisor,
    sources: Sources,
    /// By the number of the fleet's life.
    alive: BTreeMap<u64, Alive>,
    commands: u64,
    replies: BTreeMap<CommandId, Order>,
    nodes: BTreeMap<String, NodeSeen>,
    /// When the current input arrived.
    since: Clock,
    /// When the supervisor was last called. Requests to read do not call it.
    stepped: Clock,
    /// When the log is next told about missing heartbeats.
    tell_at: Clock,
    /// Checked by the executor of calls right before each call.
    gate: Gate,
    jobs: mpsc::UnboundedSender<Job>,
    news: mpsc::Sender<News>,
    lease: Option<LeaseApi>,
    votes: mpsc::UnboundedSender<ElectionEvent>,
    notices: Notices,
    ended: Option<Ended>,
    clients: Clients,
    policies: Arc<Policies>,
    directory: Arc<Directory>,
    handle: Handle,
    metrics: Metrics,
    watch_nodes: bool,
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
    #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
    let seed = parts.random as u64;
    let election = parts.lease.as_ref().map(|lease| {
        let identity = Identity::new(&parts.instance, parts.random);
        Election::new(lease.settings, identity, Seed::new(seed))
    });
    let lease = parts.lease.map(|lease| {
        let api = LeaseApi::new(parts.clients.call.clone(), &lease.namespace, &lease.name);
        parts.notes.into_iter().fold(api, LeaseApi::with_notes)
    });
    let Parts { mut signs, mut requests, mut changes, mut stop, .. } = parts;
    let mut daemon = Daemon {
        start,
        supervisor: Supervisor::new(election, seed),
        sources: Sources::default(),
        alive: BTreeMap::new(),
        commands: 0,
        replies: BTreeMap::new(),
        nodes: BTreeMap::new(),
        since: start,
        stepped: start,
        tell_at: start,
        gate: gate.clone(),
        jobs,
        news,
        lease,
        votes,
        notices: Notices::start(parts.clients.call.clone(), &parts.instance),
        ended: None,
        clients: parts.clients,
        policies: parts.policies,
        directory: parts.directory,
        handle: parts.handle,
        metrics: parts.metrics,
        watch_nodes: parts.watch_nodes,
    };
    daemon.change(Change::Fleets(parts.fleets));
    daemon.step(Input::Deadline);
    while daemon.ended.is_none() {
        daemon.handle.pulse().advance();
        let waiting = inbox.len() + outcomes.len() + signs.len() + requests.len();
        daemon.handle.pulse().set_waiting(waiting as u64);
        daemon.tell_hearing();
        let pulse = Duration::from_millis(daemon.supervisor.pulse_ms());
        let wake = daemon.deadline().min(daemon.stepped + pulse);
        tokio::select! {
            Some(event) = elections.recv() => daemon.step(Input::Election(event)),
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
            () = sleep_until(wake) => {
                daemon.since = Clock::now();
                daemon.step(Input::Deadline);
            }
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    // No more decisions: drop the queue, wait for calls in flight.
    daemon.stand_by();
    gate.open_until_ms(0);
    let ended = daemon.ended.take();
    let (jobs, _) = mpsc::unbounded_channel();
    daemon.jobs = jobs;
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
    daemon.step(Input::Election(ElectionEvent::Release));
    let release = async {
        while daemon.ended.is_none() && daemon.supervisor.deadline().is_some() {
            tokio::select! {
                Some(event) = elections.recv() => daemon.step(Input::Election(event)),
                () = sleep_until(daemon.deadline().min(Clock::now() + PULSE)) => daemon.step(Input::Deadline),
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
        for alive in self.alive.values_mut() {
            alive.tell_hearing(&self.directory);
        }
    }

    /// When the loop has to wake up next.
    fn deadline(&self) -> Clock {
        let at = self.supervisor.deadline().unwrap_or(Instant::NEVER);
        let hour_ms = 3_600_000;
        self.start + Duration::from_millis(at.as_ms().min(self.now().instant.as_ms() + hour_ms))
    }
}
