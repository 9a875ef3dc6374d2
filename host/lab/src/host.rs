//! A host: the process around the core, with everything that can happen to a process.
//!
//! It has a monotonic clock since its start, a wall clock that jumps, a supervisor, one watch, and pending calls. It
//! translates as the daemon does: what arrives is an input, and what the supervisor wants is sent. When it dies all of that is lost. When it stands still, everything that arrives waits, and
//! is handled in order when it resumes: the core then sees past events at a late *now*.

use std::collections::{BTreeMap, BTreeSet};

use fleet::Fleet;
use fleet::event::{Beat, Event, Impairment, Outcome, PodView};
use fleet::guardrail::Refusal;
use fleet::id::{ActionId, Uid};
use fleet::observed::DriverPod;
use fleet::snapshot::Snapshot;
use fleet::supervisor::{Input, Judged, Managed, OWN_LIST, Supervisor, Told};
use fleet::time::{Instant, Now};

use crate::api::NAMESPACES;
use crate::check::CoreId;
use crate::classes::Drivers;
use crate::lease;
use crate::network::Sought;
use crate::world::{Core, Task, WALL_BASE_MS, World};

pub mod door;
mod outputs;
pub mod view;
mod words;

pub use door::Door;
pub use view::{Shown, Watch, Watched};

#[derive(Debug)]
pub enum HostTask {
    /// The core's deadline is due, unless another one was armed since.
    Wake(u64),
    Input(Box<Input>),
    /// For the life that the application has when it arrives.
    Tell {
        app: usize,
        event: Box<Event>,
    },
    /// An event of the watch, once more.
    Watched(Box<Watched>),
    /// A heartbeat reaches the host's door.
    Beat {
        app: usize,
        beat: Box<Beat>,
    },
    /// Heartbeats of this application were turned away since its core was last told.
    Impaired(usize, Impairment),
    /// The loop runs once, even when nothing happens.
    Pulse,
    /// The document has changed; the current one is read.
    Spec,
    /// A document has changed so that it contradicts itself, until the documents are read again.
    Contradiction(Box<Judged>),
    /// A request for a driver's pod reaches the API server.
    ReadDriver(Box<Sought>),
    /// The answer to a call arrives.
    Answer(u64, Box<Event>),
    /// The client gives up on a call.
    TimeOut(u64),
    /// The watch of this namespace has something to deliver.
    Watch {
        namespace: usize,
        generation: u32,
    },
    /// The watch starts again: where it was, or with a list.
    Reconnect {
        namespace: usize,
        generation: u32,
        list: bool,
    },
    /// The watch has been silent for too long.
    Stale {
        namespace: usize,
        generation: u32,
    },
    /// The watch of drivers tells that the driver of this fleet lived, or did not, at that time.
    Driver {
        fleet: String,
        at_ms: u64,
        live: bool,
    },
    /// The driver of this application is polled.
    PollDriver(usize),
    Exit,
}

pub struct Host {
    pub index: usize,
    /// Counts the starts.
    pub life: u32,
    pub core: Option<Box<dyn Core>>,
    started_ms: u64,
    /// How long its monotonic clock did not advance.
    suspended_ms: u64,
    pub skew_ms: i64,
    pub leading: bool,
    /// By namespace.
    pub watches: [Watch; NAMESPACES.len()],
    /// What the core of each application was shown.
    views: BTreeMap<usize, Shown>,
    /// Each life of a core, also those that have ended.
    lives: BTreeMap<u64, Placed>,
    /// The life that each application has now.
    alive: BTreeMap<usize, u64>,
    /// What the watch of drivers has told.
    pub(crate) drivers: Drivers,
    /// Fleets of which this process was given a valid document.
    pub(crate) valid: BTreeSet<String>,
    /// Applications whose cores have ended in this step.
    pub(crate) ended: Vec<usize>,
    pub(crate) calls: BTreeMap<u64, Pending>,
    frozen: bool,
    pub(crate) stands: Stands,
    pub door: Door,
    inbox: Vec<HostTask>,
    armed: Option<Instant>,
    wakes: u64,
    /// How often it was woken in this millisecond.
    spins: (u64, u32),
    pub late_until_ms: u64,
    pub partitioned_until_ms: u64,
    pub deaf_until_ms: u64,
    /// Until then it cannot reach its lease; everything else works.
    pub lease_blind_until_ms: u64,
    /// F25: how many more requests until it dies.
    pub requests_left: Option<u32>,
}

/// How the executors of one life of a core are created.
#[derive(Clone, Debug)]
struct Placed {
    app: usize,
    driver: Uid,
    /// The address of the driver that the supervisor gave last.
    address: u8,
    /// The newest address of it that the host was told, and its revision.
    told: (u64, u8),
}

/// A call that has not been answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub app: usize,
    /// Of the core.
    pub life: u64,
    pub action: ActionId,
    /// How often the watch had started when it was sent.
    pub starts: u64,
}

/// How a host stands still.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stands {
    /// For long enough to be noticed, by a clock that keeps running.
    noticed: bool,
    /// Its sockets have room for this many more heartbeats.
    room: usize,
    /// When it resumes, it handles its deadlines first, and only then what has arrived.
    hasty: bool,
}

/// A core that keeps asking to be woken at once would use a whole CPU.
const SPINS_MAX: u32 = 200;

impl Host {
    pub fn new(index: usize) -> Host {
        Host {
            index,
            life: 0,
            core: None,
            started_ms: 0,
            suspended_ms: 0,
            skew_ms: 0,
            leading: false,
            watches: Default::default(),
            views: BTreeMap::new(),
            lives: BTreeMap::new(),
            alive: BTreeMap::new(),
            drivers: Drivers::default(),
            valid: BTreeSet::new(),
            ended: Vec::new(),
            calls: BTreeMap::new(),
            frozen: false,
            stands: Stands::default(),
            door: Door::default(),
            inbox: Vec::new(),
            armed: None,
            wakes: 0,
            spins: (0, 0),
            late_until_ms: 0,
            partitioned_until_ms: 0,
            deaf_until_ms: 0,
            lease_blind_until_ms: 0,
            requests_left: None,
        }
    }

    pub fn now(&self, now_ms: u64) -> Now {
        let instant = Instant::from_ms(now_ms.saturating_sub(self.started_ms + self.suspended_ms));
        let wall_ms = WALL_BASE_MS.saturating_add_unsigned(now_ms).saturating_add(self.skew_ms);
        Now { instant, wall_ms }
    }

    pub fn supervisor(&self) -> Option<&Supervisor> {
        self.core.as_ref().map(|core| core.view())
    }

    /// The core of an application, while it has one.
    pub fn fleet(&self, app: usize) -> Option<&Fleet> {
        let life = self.supervisor()?.fleet_of(self.life_of(app)?)?.life()?;
        Some(life.fleet())
    }

    /// The life that an application has now.
    pub fn life_of(&self, app: usize) -> Option<u64> {
        self.alive.get(&app).copied()
    }

    /// The application whose core has, or had, this life.
    pub fn app_of(&self, life: u64) -> Option<usize> {
        Some(self.lives.get(&life)?.app)
    }

    /// Where its executors are told to reach the driver.
    pub(crate) fn address_for(&self, life: u64) -> u8 {
        self.lives.get(&life).map_or(0, |placed| placed.address)
    }

    /// Where the driver was, as far as this host was told while this life lasts.
    pub(crate) fn address_told(&self, life: u64) -> u8 {
        self.lives.get(&life).map_or(0, |placed| placed.told.1)
    }

    /// The host is told of a driver's pod.
    fn hears_of_driver(&mut self, driver: &DriverPod) {
        for life in self.alive.values() {
            if let Some(placed) = self.lives.get_mut(life)
                && placed.driver == driver.uid
                && placed.told.0 <= driver.revision
                && driver.address.is_some()
            {
                placed.told = (driver.revision, outputs::address_of(driver));
            }
        }
    }

    pub(crate) fn core_id(&self, life: u64) -> CoreId {
        CoreId { host: self.index, process: self.life, life }
    }

    pub fn snapshot(&self, app: usize, now_ms: u64) -> Option<Snapshot> {
        Some(self.fleet(app)?.snapshot(self.now(now_ms)))
    }

    /// What the core of this application was shown of the cluster.
    pub(crate) fn shown(&self, app: usize) -> Shown {
        self.views.get(&app).copied().unwrap_or_default()
    }

    fn refusals(&self, now_ms: u64) -> Vec<(Refusal, u64)> {
        let now = self.now(now_ms);
        let fleets = self.supervisor().into_iter().flat_map(Supervisor::fleets);
        let lives = fleets.filter_map(|managed| Some(managed.life()?.fleet().snapshot(now).refusals));
        lives.flatten().collect()
    }

    pub fn is_up(&self) -> bool {
        self.core.is_some()
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen
    }
}

impl World<'_> {
    pub(crate) fn post(&mut self, host: usize, ms: u64, task: HostTask) {
        let life = self.hosts[host].life;
        self.sim.after(ms, Task::Host { host, life, task });
    }

    pub(crate) fn start(&mut self, at: usize) {
        if self.hosts[at].is_up() {
            return;
        }
        // A seed of its own, even if all choices are zeros.
        let seed = self.sim.choices.below(1 << 32) << 32 | u64::from(self.hosts[at].life) << 8 | at as u64;
        let old = &self.hosts[at];
        let (life, skew_ms, deaf) = (old.life + 1, old.skew_ms, old.deaf_until_ms);
        let door = old.door.of_next_life();
        let mut host = Host::new(at);
        host.life = life;
        host.skew_ms = skew_ms;
        host.deaf_until_ms = deaf;
        host.door = door;
        host.started_ms = self.sim.now_ms;
        let election = (!self.alone).then(|| lease::election(at, life, seed));
        host.core = Some((self.make)(election, seed));
        for app in &mut self.apps {
            app.checks.host_started(at);
        }
        self.hosts[at] = host;
        self.sim.trace.number(at as u64);
        self.sim.say(|| format!("host {at} starts, life {life}"));
        let documents = self.documents(at);
        self.step(at, documents);
        self.list_drivers(at);
        self.host_task(at, life, HostTask::Pulse);
    }

    /// How often each guard-rail refused an action, in all lives of all cores.
    pub fn refusals(&self) -> BTreeMap<Refusal, u64> {
        let mut sum = self.refused.clone();
        for host in &self.hosts {
            add_refusals(&mut sum, host.refusals(self.sim.now_ms));
        }
        sum
    }

    /// The process is gone, with all its state.
    pub(crate) fn crash(&mut self, at: usize, why: &'static str) {
        let host = &mut self.hosts[at];
        if !host.is_up() {
            return;
        }
        add_refusals(&mut self.refused, host.refusals(self.sim.now_ms));
        host.core = None;
        host.leading = false;
        host.frozen = false;
        host.inbox.clear();
        host.calls.clear();
        self.sim.say(|| format!("host {at} dies: {why}"));
        let wait_ms = self.sim.choices.between(500, 20_000);
        self.sim.after(wait_ms, Task::Start(at));
    }

    pub(crate) fn freeze(&mut self, at: usize, ms: u64, clock_stops: bool) {
        let host = &mut self.hosts[at];
        if !host.is_up() || host.frozen {
            return;
        }
        host.frozen = true;
        // A loop notices a gap of more than two pulses.
        let pulse_ms = host.supervisor().map_or(0, Supervisor::pulse_ms);
        let noticed = !clock_stops && ms > 2 * pulse_ms;
        host.stands = Stands { noticed, room: usize::MAX, hasty: false };
        let life = host.life;
        if clock_stops {
            // Counted when it resumes; until then nothing reads its clock.
            host.suspended_ms += ms;
        }
        self.sim.say(|| format!("host {at} stands still for {ms} ms"));
        self.sim.after(ms, Task::Host { host: at, life, task: HostTask::Wake(u64::MAX) });
    }

    /// F78: its sockets have room for this many heartbeats.
    pub(crate) fn freeze_full(&mut self, at: usize, ms: u64, room: usize, hasty: bool) {
        if !self.hosts[at].frozen {
            self.freeze(at, ms, false);
            let stands = &mut self.hosts[at].stands;
            (stands.room, stands.hasty) = (room, hasty);
        }
    }

    pub(crate) fn host_task(&mut self, at: usize, life: u32, task: HostTask) {
        let host = &mut self.hosts[at];
        if host.life != life || !host.is_up() {
            return;
        }
        if host.frozen {
            if let HostTask::Beat { app, beat } = &task
                && !self.beat_waits(at, *app, beat)
            {
                return;
            }
            let host = &mut self.hosts[at];
            if !matches!(task, HostTask::Wake(u64::MAX)) {
                host.inbox.push(task);
                return;
            }
            host.frozen = false;
            let inbox = std::mem::take(&mut host.inbox);
            if host.stands.hasty {
                self.step(at, Input::Deadline);
            }
            for waiting in inbox {
                self.host_task(at, life, waiting);
            }
            self.arm(at);
            return;
        }
        match task {
            HostTask::Wake(wake) => {
                if wake == host.wakes {
                    host.armed = None;
                    let spins = if host.spins.0 == self.sim.now_ms { host.spins.1 + 1 } else { 0 };
                    host.spins = (self.sim.now_ms, spins);
                    if spins > SPINS_MAX {
                        let fleets = host.supervisor().into_iter().flat_map(Supervisor::fleets);
                        let first = fleets.filter_map(|it| it.life()?.fleet().deadline()).min();
                        let why = first.map(|(_, why)| why.to_string()).unwrap_or_default();
                        return self.object("SPIN", format!("host {at} wakes without end: {why}"));
                    }
                    self.step(at, Input::Deadline);
                }
            }
            HostTask::Input(input) => self.step(at, *input),
            HostTask::Tell { app, event } => self.tell(at, app, *event),
            HostTask::Watched(event) => self.watched(at, *event),
            HostTask::Beat { app, beat } => self.beat_arrives(at, app, *beat),
            HostTask::Impaired(app, why) => self.say_impaired(at, app, why),
            HostTask::Pulse => {
                let pulse_ms = host.supervisor().map_or(1_000, Supervisor::pulse_ms);
                self.post(at, pulse_ms, HostTask::Pulse);
                self.step(at, Input::Deadline);
            }
            HostTask::Contradiction(judged) => {
                let documents = self.documents_but(at, *judged);
                self.step(at, documents);
            }
            HostTask::Spec => {
                let documents = self.documents(at);
                self.step(at, documents);
            }
            HostTask::ReadDriver(sought) => self.driver_read(at, *sought),
            HostTask::Answer(call, event) => self.answered(at, call, *event),
            HostTask::TimeOut(call) => {
                if let Some(Pending { action, .. }) = host.calls.get(&call).copied() {
                    let outcome = Outcome::Unknown("timed out".to_owned());
                    self.answered(at, call, Event::Finished { action, outcome });
                }
            }
            HostTask::Watch { namespace, generation } => self.watch_delivers(at, namespace, generation),
            HostTask::Reconnect { namespace, generation, list } => {
                self.watch_reconnects(at, namespace, generation, list);
            }
            HostTask::Stale { namespace, generation } => self.watch_is_stale(at, namespace, generation),
            HostTask::Driver { fleet, at_ms, live } => self.told_of_driver(at, fleet, at_ms, live),
            HostTask::PollDriver(app) => self.poll_driver(at, app),
            HostTask::Exit => self.crash(at, "it leads no more"),
        }
    }

    /// An event for the life that an application has; without one it is dropped.
    pub(crate) fn tell(&mut self, at: usize, app: usize, event: Event) {
        if let Some(life) = self.hosts[at].life_of(app) {
            self.step(at, Input::Fleet { life, event });
        }
    }

    fn answered(&mut self, at: usize, call: u64, event: Event) {
        let Some(Pending { app, life, action, starts }) = self.hosts[at].calls.remove(&call) else { return };
        let namespace = self.apps[app].operator.namespace;
        let host = &mut self.hosts[at];
        let watch = &host.watches[namespace];
        if let Event::Relisted(list) = &event
            && starts == watch.starts
            && watch.is_up()
            && host.life_of(app) == Some(life)
        {
            let from = watch.from;
            let shown = host.views.entry(app).or_default();
            shown.listed = true;
            if list.revision >= from {
                shown.whole = true;
                shown.told = shown.told.max(list.revision);
            }
        }
        let input = if action == OWN_LIST {
            let list = if let Event::Relisted(list) = event { Some(list) } else { None };
            Input::Listed { life, list }
        } else {
            Input::Fleet { life, event }
        };
        self.step(at, input);
    }

    /// One step of the supervisor, and everything that follows from it.
    pub(crate) fn step(&mut self, at: usize, input: Input) {
        if let Input::Documents(documents) = &input {
            self.allow_pending(at, documents);
        }
        let host = &mut self.hosts[at];
        let (process, now) = (host.life, host.now(self.sim.now_ms));
        host.ended.clear();
        let meant = meant(&input);
        if let Input::Driver { driver, .. } | Input::DriverFound { found: Ok(Some(driver)), .. } = &input {
            host.hears_of_driver(driver);
        }
        let Some(core) = host.core.as_mut() else { return };
        self.sim.trace.number(self.sim.now_ms);
        let outputs = core.step(input, now);
        let told = core.supervisor().take_told();
        let lives: BTreeSet<u64> = told.iter().map(|told| told.life).collect();
        let audit = lives.iter().try_for_each(|life| audit(core.view(), *life));
        if let Err(error) = audit {
            self.object("AUDIT", error);
        }
        let mut told = told.into_iter().peekable();
        for (before, output) in outputs.into_iter().enumerate() {
            while let Some(told) = told.next_if(|told| told.before <= before) {
                self.core_told(at, meant, &told, now.instant);
            }
            self.output(at, output);
            if self.hosts[at].life != process || !self.hosts[at].is_up() {
                return;
            }
        }
        for told in told {
            self.core_told(at, meant, &told, now.instant);
        }
        self.arm(at);
    }

    /// A core was told something. `meant`: the life for which the input was.
    fn core_told(&mut self, at: usize, meant: Option<u64>, told: &Told, instant: Instant) {
        let Told { life, event, .. } = told;
        let Some(app) = self.hosts[at].app_of(*life) else { return };
        if matches!(event, Event::LeadershipGained { .. }) && !self.hosts[at].leading {
            self.object("S13", format!("a fleet begins on host {at}, which does not lead"));
        }
        let core = self.hosts[at].core_id(*life);
        self.check_addressee(app, core, meant, event);
        let (alone, cluster) = (self.apps.len() == 1, &self.cluster);
        let own = |pod: &PodView| alone || cluster.app_of(&pod.uid).is_none_or(|of| of == app);
        self.apps[app].checks.told(core, event, own, self.sim.now_ms, instant);
        self.sim.trace.number(words::event_number(event) | (at as u64) << 56 | (app as u64) << 57);
        self.sim.trace.say(self.sim.now_ms, || format!("host {at} <- {life} {}", words::event(event)));
    }

    /// Schedules the supervisor's wake-up for the time that it asked for.
    fn arm(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let Some(supervisor) = host.supervisor() else { return };
        let deadline = supervisor.deadline().filter(|deadline| *deadline < Instant::NEVER);
        if host.frozen || deadline == host.armed {
            return;
        }
        host.armed = deadline;
        host.wakes += 1;
        let Some(deadline) = deadline else { return };
        let mut wait_ms = deadline.since_ms(host.now(self.sim.now_ms).instant);
        if self.sim.now_ms < host.late_until_ms {
            wait_ms += self.sim.choices.between(0, 3_000);
        }
        let wake = host.wakes;
        self.post(at, wait_ms, HostTask::Wake(wake));
    }
}

/// The life of a core for which an input is.
fn meant(input: &Input) -> Option<u64> {
    match input {
        Input::Fleet { life, .. } | Input::Listed { life, .. } => Some(*life),
        Input::Deadline
        | Input::Election(_)
        | Input::Documents(_)
        | Input::WatchStarted { .. }
        | Input::WatchBroken { .. }
        | Input::Driver { .. }
        | Input::DriverFound { .. }
        | Input::Command { .. } => None,
    }
}

/// Checks the totals of the fleet with this life.
fn audit(supervisor: &Supervisor, life: u64) -> Result<(), String> {
    let life = supervisor.fleet_of(life).and_then(Managed::life);
    life.map_or(Ok(()), |life| life.fleet().audit())
}

fn add_refusals(sum: &mut BTreeMap<Refusal, u64>, refusals: Vec<(Refusal, u64)>) {
    for (refusal, count) in refusals {
        *sum.entry(refusal).or_default() += count;
    }
}
