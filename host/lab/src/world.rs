//! The world: all parts, and the order in which events happen.
//!
//! A queue of tasks by (time, order of insertion); each task changes its part of the world and adds further
//! tasks to the queue. Nothing changes between two tasks, so the queue fixes the order of a run completely. The
//! parts are in files of their own as further `impl World` blocks: the network in front of the API server, the
//! hosts, the cluster, chaos and operators.
//!
//! Rejected: parts as actors with mailboxes. Nearly every rule of the cluster involves two parts at once (a
//! node dies and its pods are evicted), and would need a protocol.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use std::collections::BTreeMap;

use fleet::election::Election;
use fleet::guardrail::Refusal;
use fleet::supervisor::{Input, Output, Supervisor};
use fleet::time::Now;

use crate::api::{Api, News, Serial};
use crate::app::App;
use crate::check::Violation;
use crate::choices::Choices;
use crate::cluster::{Cluster, NodeStep, PodStep};
use crate::fault::Swarm;
use crate::fleets::Hopeless;
use crate::host::{Host, HostTask};
use crate::lease::LeaseCall;
use crate::network::Call;
use crate::operator::Lift;
use crate::trace::Trace;

/// The system under test: a supervisor, or one with something around it.
pub trait Core {
    fn step(&mut self, input: Input, now: Now) -> Vec<Output>;
    fn supervisor(&mut self) -> &mut Supervisor;
    fn view(&self) -> &Supervisor;
}

/// Creates a core, as a host does when it starts: with its election, if there is one, and a seed.
pub type Make<'a> = dyn Fn(Option<Election>, u64) -> Box<dyn Core> + 'a;

#[derive(Debug)]
pub enum Task {
    /// Once a second: chaos, operators, and checks that need not run at every step.
    Second,
    /// A host's process starts.
    Start(usize),
    Host {
        host: usize,
        life: u32,
        task: HostTask,
    },
    /// A request reaches the API server.
    Apply(Box<Call>),
    Lease(Box<LeaseCall>),
    Pod {
        serial: Serial,
        step: PodStep,
    },
    Node {
        node: usize,
        step: NodeStep,
    },
    /// An application's driver checks its executors.
    Driver(usize),
    /// The kubelet reports that the driver's container has ended and started again.
    DriverRestarts {
        app: usize,
        moves: bool,
    },
}

/// Time, randomness and the task queue: what every part needs to schedule tasks.
#[derive(Debug)]
pub struct Sim {
    pub now_ms: u64,
    pub choices: Choices,
    pub swarm: Swarm,
    pub trace: Trace,
    queue: BinaryHeap<Queued>,
    queued: u64,
}

#[derive(Debug)]
struct Queued {
    at_ms: u64,
    number: u64,
    task: Task,
}

impl Sim {
    pub fn after(&mut self, ms: u64, task: Task) {
        self.queued += 1;
        self.queue.push(Queued { at_ms: self.now_ms + ms, number: self.queued, task });
    }

    pub fn strikes(&mut self, fault: crate::fault::Fault) -> bool {
        self.swarm.strikes(fault, &mut self.choices)
    }

    pub fn say(&mut self, words: impl FnOnce() -> String) {
        self.trace.say(self.now_ms, words);
    }
}

pub struct World<'a> {
    pub sim: Sim,
    pub api: Api,
    pub cluster: Cluster,
    pub hosts: Vec<Host>,
    /// There is one host, and it leads without an election: it is not ended after a standstill.
    pub alone: bool,
    pub apps: Vec<App>,
    /// The faults are over.
    pub healed: bool,
    /// A fleet that fails in this way, also when the faults are over.
    pub(crate) hopeless: Option<(usize, Hopeless)>,
    pub(crate) lifts: Vec<(u64, Lift)>,
    /// Counts the operators' commands.
    pub(crate) commands: u64,
    /// An objection that concerns no single application.
    violation: Option<Violation>,
    pub(crate) make: &'a Make<'a>,
    /// How often each guard-rail refused an action, in lives that have ended.
    pub(crate) refused: BTreeMap<Refusal, u64>,
    pub(crate) calls: u64,
    /// The `n`th request of any host to the API server, counted from 1, and what happens at it.
    pub(crate) crash_at: Option<(u64, CrashPoint)>,
}

/// Where a host dies, for runs that try every place in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// Before the request is sent.
    Before,
    /// After it was applied, before the answer arrives.
    Applied,
    /// No host dies: the request never arrives.
    RequestLost,
    /// No host dies: the request is applied, and its answer is lost.
    AnswerLost,
}

impl CrashPoint {
    pub const ALL: [CrashPoint; 4] =
        [CrashPoint::Before, CrashPoint::Applied, CrashPoint::RequestLost, CrashPoint::AnswerLost];
}

/// 2026-11-02 00:00 UTC, a Monday.
pub const WALL_BASE_MS: i64 = 1_793_577_600_000;

impl<'a> World<'a> {
    pub fn new(
        choices: Choices,
        swarm: Swarm,
        trace: Trace,
        apps: Vec<App>,
        hosts: usize,
        make: &'a Make<'a>,
    ) -> World<'a> {
        let sim = Sim { now_ms: 0, choices, swarm, trace, queue: BinaryHeap::new(), queued: 0 };
        let mut world = World {
            sim,
            api: Api::new(WALL_BASE_MS),
            cluster: Cluster::new(),
            hosts: (0..hosts).map(Host::new).collect(),
            alone: false,
            apps: Vec::new(),
            healed: false,
            hopeless: None,
            lifts: Vec::new(),
            commands: 0,
            violation: None,
            make,
            refused: BTreeMap::new(),
            calls: 0,
            crash_at: None,
        };
        for host in 0..hosts {
            world.sim.after(host as u64 * 100, Task::Start(host));
        }
        world.sim.after(1000, Task::Second);
        for app in apps {
            world.add(app);
        }
        world
    }

    /// An application begins: its driver's pod exists from now on.
    pub(crate) fn add(&mut self, app: App) -> usize {
        let at = self.api.add(app.application());
        self.apps.push(app);
        self.sim.after(500, Task::Driver(at));
        at
    }

    /// The applications that are not over.
    pub(crate) fn current(&self) -> Vec<usize> {
        (0..self.apps.len()).filter(|app| !self.apps[*app].over).collect()
    }

    /// One of them, for a fault. A world with one fleet draws nothing.
    pub(crate) fn random_app(&mut self) -> usize {
        let current = self.current();
        if let [only] = current[..] {
            only
        } else {
            self.sim.choices.pick(&current).copied().unwrap_or_default()
        }
    }

    /// The first objection.
    pub fn violation(&self) -> Option<&Violation> {
        let of_apps = self.apps.iter().filter_map(|app| app.checks.violation());
        self.violation.iter().chain(of_apps).min_by_key(|violation| violation.at_ms)
    }

    pub fn objects(&self) -> bool {
        self.violation.is_some() || self.apps.iter().any(|app| app.checks.objects())
    }

    pub(crate) fn object(&mut self, checker: &'static str, message: String) {
        let at_ms = self.sim.now_ms;
        self.violation.get_or_insert(Violation { checker, message, at_ms });
    }

    /// Runs up to this time, or until a checker objects.
    pub fn run_until(&mut self, until_ms: u64) {
        while !self.objects() {
            let next = self.sim.queue.peek();
            if next.is_none_or(|next| next.at_ms > until_ms) {
                self.sim.now_ms = self.sim.now_ms.max(until_ms);
                self.api.now_ms = self.sim.now_ms;
                return;
            }
            let Some(next) = self.sim.queue.pop() else { return };
            self.sim.now_ms = next.at_ms;
            self.api.now_ms = next.at_ms;
            self.carry_out(next.task);
            self.settle();
        }
    }

    fn carry_out(&mut self, task: Task) {
        self.cluster.making = crate::cluster::Maker::Operator;
        match task {
            Task::Second => {
                self.sim.after(1000, Task::Second);
                self.chaos();
                self.people();
                self.audit_watches();
                self.check_second();
            }
            Task::Start(host) => self.start(host),
            Task::Host { host, life, task } => self.host_task(host, life, task),
            Task::Apply(call) => self.apply(*call),
            Task::Lease(call) => self.apply_lease(*call),
            Task::Pod { serial, step } => self.pod_step(serial, step),
            Task::Node { node, step } => self.node_step(node, step),
            Task::DriverRestarts { app, moves } => self.api.restart_driver(app, moves),
            Task::Driver(app) => {
                self.sim.after(1000, Task::Driver(app));
                self.driver_looks(app);
            }
        }
    }

    /// Passes changes of the store on to the parts that react to them.
    fn settle(&mut self) {
        loop {
            let news = self.api.take_news();
            if news.is_empty() {
                break;
            }
            for item in news {
                match item {
                    News::Created(serial) => self.pod_created(serial),
                    News::Terminating(serial) => self.pod_terminating(serial),
                    News::Removed(serial) => self.pod_removed(serial),
                    News::DriverGone(app) => self.driver_gone(app),
                }
            }
        }
        self.wake_watches();
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        self.number == other.number
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    /// The earliest task is the greatest, because the heap returns its greatest first.
    fn cmp(&self, other: &Queued) -> Ordering {
        (other.at_ms, other.number).cmp(&(self.at_ms, self.number))
    }
}

impl Core for Supervisor {
    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        Supervisor::step(self, input, now)
    }

    fn supervisor(&mut self) -> &mut Supervisor {
        self
    }

    fn view(&self) -> &Supervisor {
        self
    }
}
