//! A host: the process around the core, with everything that can happen to a process.
//!
//! It has a monotonic clock since its start, a wall clock that jumps, a supervisor, one watch, and pending calls. It
//! translates as the daemon does: what arrives is an input, and what the supervisor wants is sent. When it dies all of that is lost. When it stands still, everything that arrives waits, and
//! is handled in order when it resumes: the core then sees past events at a late *now*.

use std::collections::BTreeMap;

use fleet::Fleet;
use fleet::action::{Action, Cause, Verb};
use fleet::election::ElectionAction;
use fleet::event::{Beat, Event, Impairment, Outcome};
use fleet::guardrail::Refusal;
use fleet::id::ActionId;
use fleet::snapshot::Snapshot;
use fleet::supervisor::{Input, OWN_LIST, Output, Supervisor};
use fleet::time::{Instant, Now};

use crate::lease;
use crate::world::{Core, Task, WALL_BASE_MS, World};

pub mod door;
pub mod view;

pub use door::Door;
pub use view::Watch;

#[derive(Debug)]
pub enum HostTask {
    /// The core's deadline is due, unless another one was armed since.
    Wake(u64),
    Input(Box<Input>),
    /// For the life that the host has when it arrives.
    Tell(Box<Event>),
    /// An event of the watch, once more.
    Watched(Box<Event>),
    /// A heartbeat reaches the host's door.
    Beat(Box<Beat>),
    /// Heartbeats were turned away since the core was last told.
    Impaired(Impairment),
    /// The loop runs once, even when nothing happens.
    Pulse,
    /// The document has changed; the current one is read.
    Spec,
    /// A request for the driver's pod reaches the API server.
    ReadDriver,
    /// The answer to a call arrives.
    Answer(u64, Box<Event>),
    /// The client gives up on a call.
    TimeOut(u64),
    /// The watch has something to deliver.
    Watch(u32),
    /// The watch starts again: where it was, or with a list.
    Reconnect {
        generation: u32,
        list: bool,
    },
    /// The watch has been silent for too long.
    Stale(u32),
    PollDriver,
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
    pub watch: Watch,
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

/// A call that has not been answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// Of the fleet.
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
            watch: Watch::default(),
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

    /// The fleet's core, while it has one.
    pub fn fleet(&self) -> Option<&Fleet> {
        Some(self.supervisor()?.fleets().next()?.life()?.fleet())
    }

    pub fn fleet_life(&self) -> Option<u64> {
        self.supervisor()?.lives().first().copied()
    }

    pub fn snapshot(&self, now_ms: u64) -> Option<Snapshot> {
        Some(self.fleet()?.snapshot(self.now(now_ms)))
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
        self.checks.host_started(at, life);
        self.hosts[at] = host;
        self.sim.trace.number(at as u64);
        self.sim.say(|| format!("host {at} starts, life {life}"));
        let documents = self.operator.documents();
        self.step(at, documents);
        self.host_task(at, life, HostTask::Pulse);
    }

    /// How often each guardrail refused an action, in all lives of all hosts.
    pub fn refusals(&self) -> BTreeMap<Refusal, u64> {
        let mut sum = self.refused.clone();
        for host in &self.hosts {
            let Some(snapshot) = host.snapshot(self.sim.now_ms) else { continue };
            for (refusal, count) in snapshot.refusals {
                *sum.entry(refusal).or_default() += count;
            }
        }
        sum
    }

    /// The process is gone, with all its state.
    pub(crate) fn crash(&mut self, at: usize, why: &'static str) {
        let host = &mut self.hosts[at];
        if !host.is_up() {
            return;
        }
        if let Some(snapshot) = host.snapshot(self.sim.now_ms) {
            for (refusal, count) in snapshot.refusals {
                *self.refused.entry(refusal).or_default() += count;
            }
        }
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
            if let HostTask::Beat(beat) = &task
                && !self.beat_waits(at, beat)
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
                        let why = host.fleet().and_then(Fleet::deadline).map(|(_, why)| why.to_string());
                        let why = why.unwrap_or_default();
                        self.checks.object("SPIN", self.sim.now_ms, || {
                            format!("host {at} wakes without end: {why}")
                        });
                        return;
                    }
                    self.step(at, Input::Deadline);
                }
            }
            HostTask::Input(input) => self.step(at, *input),
            HostTask::Tell(event) => self.tell(at, *event),
            HostTask::Watched(event) => self.watched(at, *event),
            HostTask::Beat(beat) => self.beat_arrives(at, *beat),
            HostTask::Impaired(why) => self.say_impaired(at, why),
            HostTask::Pulse => {
                let pulse_ms = host.supervisor().map_or(1_000, Supervisor::pulse_ms);
                self.post(at, pulse_ms, HostTask::Pulse);
                self.step(at, Input::Deadline);
            }
            HostTask::Spec => {
                let documents = self.operator.documents();
                self.step(at, documents);
            }
            HostTask::ReadDriver => self.driver_read(at),
            HostTask::Answer(call, event) => self.answered(at, call, *event),
            HostTask::TimeOut(call) => {
                if let Some(Pending { action, .. }) = host.calls.get(&call).copied() {
                    let outcome = Outcome::Unknown("timed out".to_owned());
                    self.answered(at, call, Event::Finished { action, outcome });
                }
            }
            HostTask::Watch(generation) => self.watch_delivers(at, generation),
            HostTask::Reconnect { generation, list } => self.watch_reconnects(at, generation, list),
            HostTask::Stale(generation) => self.watch_is_stale(at, generation),
            HostTask::PollDriver => self.poll_driver(at),
            HostTask::Exit => self.crash(at, "it leads no more"),
        }
    }

    /// An event for the life that the fleet has; without one it is dropped.
    pub(crate) fn tell(&mut self, at: usize, event: Event) {
        if let Some(life) = self.hosts[at].fleet_life() {
            self.step(at, Input::Fleet { life, event });
        }
    }

    fn answered(&mut self, at: usize, call: u64, event: Event) {
        let Some(Pending { life, action, starts }) = self.hosts[at].calls.remove(&call) else { return };
        let watch = &mut self.hosts[at].watch;
        if let Event::Relisted(list) = &event
            && starts == watch.starts
            && watch.is_up()
        {
            watch.listed = true;
            if list.revision >= watch.from {
                watch.whole = true;
                watch.told = watch.told.max(list.revision);
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
        let host = &mut self.hosts[at];
        let (life, now) = (host.life, host.now(self.sim.now_ms));
        let Some(core) = host.core.as_mut() else { return };
        self.sim.trace.number(self.sim.now_ms);
        let outputs = core.step(input, now);
        let told = core.supervisor().take_told();
        let audit = core.view().audit();
        if let Err(error) = audit {
            self.checks.object("AUDIT", self.sim.now_ms, || error);
        }
        let mut told = told.into_iter().peekable();
        for (before, output) in outputs.into_iter().enumerate() {
            while let Some(told) = told.next_if(|told| told.before <= before) {
                self.fleet_told(at, &told.event, now.instant);
            }
            self.output(at, output);
            if self.hosts[at].life != life || !self.hosts[at].is_up() {
                return;
            }
        }
        for told in told {
            self.fleet_told(at, &told.event, now.instant);
        }
        self.arm(at);
    }

    fn fleet_told(&mut self, at: usize, event: &Event, instant: Instant) {
        if matches!(event, Event::LeadershipGained { .. }) && !self.hosts[at].leading {
            let message = || format!("a fleet begins on host {at}, which does not lead");
            self.checks.object("S13", self.sim.now_ms, message);
        }
        self.checks.told(at, event, self.sim.now_ms, instant);
        self.sim.trace.number(event_number(event) | (at as u64) << 56);
        self.sim.trace.say(self.sim.now_ms, || format!("host {at} <- {}", view::words(event)));
    }

    fn output(&mut self, at: usize, output: Output) {
        match output {
            Output::Act { life, action } => {
                self.sim.trace.number(action.id.0);
                self.sim.trace.number(view::verb_number(&action.verb));
                self.sim.trace.say(self.sim.now_ms, || {
                    format!(
                        "host {at} -> {} {:?}: {}",
                        action.id,
                        action.cause,
                        view::verb_words(&action.verb)
                    )
                });
                self.check_action(at, &action);
                self.act(at, life, action);
            }
            Output::List { life, known } => {
                let action = Action { id: OWN_LIST, cause: Cause::Start, verb: Verb::Relist { known } };
                self.act(at, life, action);
            }
            Output::FindDriver { .. } => self.find_driver(at),
            Output::Watch { .. } => self.watch_opens(at),
            Output::Begin { version, .. } => {
                let still = self.operator.stood_still(version);
                self.checks.fleet_begins(at, still);
                let watch = &mut self.hosts[at].watch;
                (watch.listed, watch.whole) = (false, false);
                self.nodes_shown(at);
            }
            Output::Election(action) => self.elected(at, action),
            Output::NotCommanded { .. } => {}
            Output::Place { .. }
            | Output::End { .. }
            | Output::Still { .. }
            | Output::StoodStill { .. }
            | Output::Tell { .. } => {
                self.sim.trace.say(self.sim.now_ms, || format!("host {at} -- {output:?}"));
            }
        }
    }

    fn elected(&mut self, at: usize, action: ElectionAction) {
        match action {
            ElectionAction::ReadLease { request } => self.call_lease(at, request, None),
            ElectionAction::WriteLease { request, lease, over } => {
                self.call_lease(at, request, Some((lease, over)));
            }
            ElectionAction::Lead { .. } => self.lead(at),
            ElectionAction::Affirm => {}
            ElectionAction::Stop(_) => {
                self.hosts[at].leading = false;
                self.post(at, 300, HostTask::Exit);
            }
        }
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

/// Distinguishes events, for the hash.
fn event_number(event: &Event) -> u64 {
    let (kind, number) = match event {
        Event::LeadershipGained { term } => (1, *term),
        Event::LeadershipLost => (2, 0),
        Event::Relisted(list) => (3, list.revision),
        Event::PodChanged(pod) => (4, pod.revision),
        Event::PodGone(pod) => (5, pod.revision),
        Event::NodeChanged(node) => (6, u64::from(node.state.gone)),
        Event::DriverChanged { revision, .. } => (7, *revision),
        Event::ViewStale => (8, 0),
        Event::ViewFresh => (9, 0),
        Event::Heartbeat(beat) => (10, beat.executor.0),
        Event::DriverReported(rows) => (11, rows.len() as u64),
        Event::Answered { action, answer } => (12, action.0 << 1 | u64::from(answer.is_ok())),
        Event::Finished { action, outcome } => (13, action.0 << 4 | view::outcome_number(outcome)),
        Event::SpecChanged { spec, .. } => (14, u64::from(spec.target)),
        Event::Commanded { command, .. } => (15, command.0),
        Event::Deadline => (16, 0),
        Event::LeadershipConfirmed => (18, 0),
        Event::HearingImpaired(why) => (17, *why as u64),
    };
    kind << 48 | number
}
