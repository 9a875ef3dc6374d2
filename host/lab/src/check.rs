//! The checkers: invariants that must hold in every run.
//!
//! They keep their own account, from what the API server applied and from the cluster's true state. What the
//! core reports is only compared with that account, never used to build it. The first objection ends the run.
//! `docs/invariants.md` says what each number means. They are checked:
//!
//! - S1 S2 S3 S4 when a pod is created: [`bounds`]
//! - S5 S6 S17 when a pod is deleted: [`victims`]
//! - S2 S6 S7 S8 S11 S12 S13 S14 S16 S17 S19 S20 S22 S23 S25 when an action is requested: [`conduct`]
//! - S21 when a loss is asked about and when it is settled: [`silence`]
//! - S8 S10 S13 when a ledger is written, S9 and S18 once a simulated second: [`books`]
//! - S24 when a core is told something, and when one begins: [`addressee`]
//! - L1 L3 L4 L5 once the faults are over, all reported as L1, and L7, if one of several fleets has failed:
//!   [`liveness`]
//! - SPIN: a core that keeps asking to be woken at the same instant
//!
//! Not here: S15 and S16 are about status objects and log lines, which the daemon writes (of S16 only the
//! length of notices is checked); L6 needs the text of conditions; L2 is part of L1, whose bound it sets.
//!
//! A bound is only ever checked against what a core *could have known*: what happened within the reach of a
//! delayed request or a lagging watch is excused, with the arithmetic beside each excuse. Rejected: excusing by
//! fault kind. A bound that is switched off by every interesting fault checks nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fleet::action::Question;
use fleet::event::{Answer, Command, Done, DriverView, Event, Fault as PolicyFault, Outcome, Phase, PodView};
use fleet::id::{ActionId, CommandId, ExecutorId, Uid};
use fleet::question::{DeletionCause, Selection};
use fleet::spec::{FleetSpec, ValidatedSpec};
use fleet::time::Instant;

use crate::api::Serial;
use crate::world::World;

pub mod addressee;
pub mod books;
pub mod bounds;
pub mod conduct;
pub mod liveness;
pub mod silence;
pub mod victims;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub checker: &'static str,
    pub message: String,
    pub at_ms: u64,
}

/// One life of an application's core: on which host, in which of its processes, and its number there. What is in
/// flight for one life is none of another's, on the same host or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoreId {
    pub host: usize,
    /// Counts the host's starts.
    pub process: u32,
    pub life: u64,
}

/// How long after its decision an action may still be applied: 10 s until its host gives it up, 60 s in
/// transit, and 60 s for a host that stood still before it noticed anything; rounded up.
pub const REACH_MS: u64 = 150_000;

#[derive(Debug)]
pub struct Checks {
    violation: Option<Violation>,
    spec: FleetSpec,
    lives: BTreeMap<CoreId, Life>,
    /// The core that each host has for it now.
    current: BTreeMap<usize, CoreId>,
    /// The core that claimed the ledger last.
    newest: Option<CoreId>,
    /// Targets that a host may still act on, each with its expiry.
    targets: Vec<(u64, u32)>,
    /// Ids for which a pod of the fleet was created.
    issued: BTreeSet<u64>,
    /// The claimed record may be older than the world, and the claimant has seen no list yet.
    unsure: bool,
    /// The core that saw that it was older, and has not recorded that yet.
    aware: Option<CoreId>,
    /// Leaders from before the ledger was lost without a trace: the ids that they used are unknown.
    forgotten: BTreeSet<CoreId>,
    /// Ids for which a host requested a pod, and which life it was.
    asked: BTreeMap<u64, (CoreId, u64)>,
    /// End of the period in which ids may be used twice, because the ledger was lost without a trace.
    amnesty_until_ms: u64,
    /// Executors that were leaving in any version of the ledger.
    ever_leaving: BTreeSet<u64>,
    /// Executors that were settled in any version of the ledger.
    ever_settled: BTreeSet<u64>,
    /// Executors that an operator wanted killed.
    killed: BTreeSet<u64>,
    /// Pods that were deleted because their executors were declared lost.
    cleared: BTreeSet<Serial>,
    /// Until then heartbeats reach the core late, through no fault of the executors.
    disturbed_ms: u64,
    /// Until then a view may lag by this much more than usual.
    lags: (u64, u64),
    /// The pod about to be deleted, and the objection if the deletion is applied.
    victim: Option<(Serial, Option<(&'static str, String)>)>,
    epochs: BTreeMap<u64, CoreId>,
    /// Versions of the ledger that no host may continue from.
    absurd: BTreeSet<u64>,
    /// Reads of the ledger that found none.
    missed: BTreeSet<(CoreId, ActionId)>,
    /// The greatest id that any version written by a leader has reserved.
    reserved: u64,
    /// The core that wrote the ledger last.
    writer: Option<CoreId>,
    last_mutation_ms: u64,
    pub mutations: u64,
}

/// What is known of one life of a core.
#[derive(Debug, Default)]
pub(crate) struct Life {
    led_ms: Option<u64>,
    lost: bool,
    epoch: Option<u64>,
    /// Ids up to here were already reserved when it claimed the ledger.
    base: u64,
    /// It has reserved ids up to here: the write was applied.
    reserved: u64,
    claimed_born: bool,
    /// The epoch of its last write.
    wrote: Option<u64>,
    /// It was shown a ledger that is not its own.
    parked: Option<Parked>,
    /// Number of manual changes to the ledger when it claimed it.
    tampers: u64,
    paused: bool,
    /// The command that paused it, until a reply to it arrives.
    pausing: Option<CommandId>,
    spec_still: bool,
    driver_gone: bool,
    offered: BTreeSet<u64>,
    /// Picked from the offered candidates, named by an operator, or in progress when it began.
    may_roll: BTreeSet<u64>,
    /// How many of those were in progress when it began.
    carried: usize,
    ordered_rolls: u32,
    rolled: BTreeSet<u64>,
    creates: VecDeque<u64>,
    /// The target that it recorded as requested by an operator.
    requested: Option<u32>,
    /// Executors whose pods it was shown.
    shown: BTreeSet<u64>,
    /// Executors that it has heard, and since when.
    heard: BTreeMap<u64, u64>,
    read: bool,
    /// Executors for which it was told that Kubernetes itself ends them.
    disrupted: BTreeSet<u64>,
    /// Executors whose loss may be counted as a failure.
    fair: BTreeSet<u64>,
    pub(crate) shown_as: Shown,
    /// When the last heartbeat of each executor reached its door.
    signs: BTreeMap<u64, u64>,
    /// Executors that it suspects for silence and has not settled, and whether it was told a heartbeat of each
    /// since.
    suspects: BTreeMap<u64, bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parked {
    /// Until it is shown a good one.
    Refused,
    /// Until it has written over it.
    Usurped,
}

/// What a host was told that determines which executors are available, at fault, or candidates.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// The pod under an id: its UID, its newest revision, and whether an executor runs in it at that revision.
    pods: BTreeMap<u64, (Uid, u64, bool)>,
    /// A list, which the host may have rejected, showed that none runs.
    doubtful: BTreeSet<u64>,
    /// Nodes that explain why an executor was killed.
    explained: BTreeSet<String>,
    driver_ends: Option<(u32, u32)>,
    driver_ended_ms: Option<u64>,
    /// When the driver last reported an executor's counters, by the host's own clock.
    counted: BTreeMap<u64, Instant>,
}

impl Shown {
    fn runs(pod: &PodView) -> bool {
        pod.phase != Phase::Pending && !pod.executor_ended()
    }

    fn pod(&mut self, pod: &PodView) {
        let runs = Shown::runs(pod);
        let entry = self.pods.entry(pod.executor.0).or_insert((pod.uid.clone(), 0, true));
        if entry.0 != pod.uid || entry.1 < pod.revision {
            *entry = (pod.uid.clone(), pod.revision, runs);
        }
    }

    fn driver(&mut self, driver: &DriverView, now_ms: u64) {
        let DriverView::Running { ends, .. } = driver else { return };
        let (least, most) = *self.driver_ends.get_or_insert((*ends, *ends));
        if *ends < least || *ends > most {
            self.driver_ended_ms = Some(now_ms);
        }
        self.driver_ends = Some((least.min(*ends), most.max(*ends)));
    }

    /// Was the host shown that an executor runs in this pod, and nothing newer?
    pub(crate) fn runs_as(&self, executor: u64, uid: &Uid) -> bool {
        self.pods.get(&executor).is_some_and(|(known, _, runs)| *runs && known == uid)
            && !self.doubtful.contains(&executor)
    }

    /// Does no executor run in the last pod that it was shown under this id?
    pub(crate) fn is_down(&self, executor: u64) -> bool {
        self.pods.get(&executor).is_some_and(|(.., runs)| !runs)
    }

    pub(crate) fn explains(&self, node: &str) -> bool {
        self.explained.contains(node)
    }

    /// Was it told less than `ms` ago that the driver's container ended?
    pub(crate) fn driver_ended_within(&self, now_ms: u64, ms: u64) -> bool {
        self.driver_ended_ms.is_some_and(|ended_ms| now_ms < ended_ms + ms)
    }

    pub(crate) fn counted(&self, executor: u64) -> Option<Instant> {
        self.counted.get(&executor).copied()
    }
}

impl Checks {
    pub fn new(spec: &FleetSpec) -> Checks {
        Checks {
            violation: None,
            spec: spec.clone(),
            lives: BTreeMap::new(),
            current: BTreeMap::new(),
            newest: None,
            targets: vec![(u64::MAX, spec.target)],
            issued: BTreeSet::new(),
            unsure: false,
            aware: None,
            forgotten: BTreeSet::new(),
            asked: BTreeMap::new(),
            amnesty_until_ms: 0,
            ever_leaving: BTreeSet::new(),
            ever_settled: BTreeSet::new(),
            killed: BTreeSet::new(),
            cleared: BTreeSet::new(),
            disturbed_ms: 0,
            lags: (0, 0),
            victim: None,
            epochs: BTreeMap::new(),
            absurd: BTreeSet::new(),
            missed: BTreeSet::new(),
            reserved: 0,
            writer: None,
            last_mutation_ms: 0,
            mutations: 0,
        }
    }

    /// The account of the fleet's next application, with another driver. Documents and delays go on.
    pub(crate) fn succeed(&self, spec: &FleetSpec) -> Checks {
        let targets = self.targets.clone();
        Checks { targets, disturbed_ms: self.disturbed_ms, lags: self.lags, ..Checks::new(spec) }
    }

    pub fn objects(&self) -> bool {
        self.violation.is_some()
    }

    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Only the first objection is kept.
    pub fn object(&mut self, checker: &'static str, at_ms: u64, message: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { checker, message: message(), at_ms });
        }
    }

    // ------------------------------------------------------------------------- what goes into it --

    pub fn host_started(&mut self, at: usize) {
        self.current.remove(&at);
    }

    /// The application has a core now, by a document that makes it stand still or not.
    pub fn core_begins(&mut self, core: CoreId, still: bool) {
        self.current.insert(core.host, core);
        self.lives.insert(core, Life { spec_still: still, ..Life::default() });
    }

    fn life(&mut self, core: CoreId) -> Option<&mut Life> {
        self.lives.get_mut(&core)
    }

    /// The life of the core that a host has now.
    fn life_at(&mut self, at: usize) -> Option<&mut Life> {
        self.lives.get_mut(self.current.get(&at)?)
    }

    /// A spec with another target is in force; hosts may still act on the old one for a while.
    pub fn target(&mut self, now_ms: u64, target: u32) {
        for (until_ms, _) in &mut self.targets {
            *until_ms = (*until_ms).min(now_ms + REACH_MS);
        }
        self.targets.retain(|(until_ms, _)| *until_ms > now_ms);
        self.targets.push((u64::MAX, target));
    }

    /// Another target that hosts may act on, until a document replaces both.
    pub(crate) fn also_target(&mut self, target: u32) {
        self.targets.push((u64::MAX, target));
    }

    /// A target that hosts may act on for a while.
    fn target_for_now(&mut self, now_ms: u64, target: u32) {
        self.targets.push((now_ms + REACH_MS, target));
    }

    pub fn disturb_beats(&mut self, until_ms: u64) {
        let silence_ms = self.spec.heartbeat.timeout_ms;
        self.disturbed_ms = self.disturbed_ms.max(until_ms + silence_ms + REACH_MS);
    }

    pub fn lag(&mut self, now_ms: u64, lag_ms: u64) {
        let until_ms = now_ms + lag_ms + REACH_MS;
        let so_far_ms = if now_ms <= self.lags.0 { self.lags.1 } else { 0 };
        self.lags = (self.lags.0.max(until_ms), so_far_ms.max(lag_ms));
    }

    /// What happened to an executor before this time must be known to the leader.
    fn known_after_ms(&self, now_ms: u64) -> u64 {
        let lag_ms = if now_ms <= self.lags.0 { self.lags.1 } else { 0 };
        self.spec.heartbeat.timeout_ms + REACH_MS + lag_ms
    }

    /// An event that is being delivered to a core. `own`: is the pod this application's, and not an earlier one's with
    /// the same label and perhaps the same id?
    pub fn told(
        &mut self,
        core: CoreId,
        event: &Event,
        own: impl Fn(&PodView) -> bool,
        now_ms: u64,
        instant: Instant,
    ) {
        let target = if let Event::Commanded { verb: Command::RequestTotalExecutors(total), .. } = event {
            Some(*total)
        } else if let Event::Commanded { verb: Command::Kill { executors, replace: false, .. }, .. } = event {
            let killed = u32::try_from(executors.len()).unwrap_or(u32::MAX);
            Some(self.targets_now(now_ms).0.saturating_sub(killed))
        } else {
            None
        };
        if let Some(target) = target {
            self.target_for_now(now_ms, target);
        }
        if let Event::Commanded { verb: Command::Kill { executors, .. }, .. } = event {
            self.killed.extend(executors.iter().map(|executor| executor.0));
        }
        let driver = self.spec.driver.clone();
        let absurd = if let Event::Finished { outcome: Outcome::Ok(Done::Ledger { version, .. }), .. } = event
        {
            version.0.parse().is_ok_and(|version| self.is_absurd(version))
        } else {
            matches!(event, Event::Finished { outcome: Outcome::Ok(Done::LedgerRefused { .. }), .. })
        };
        let missed = if let Event::Finished { outcome: Outcome::NotFound, action } = event {
            self.missed.contains(&(core, *action))
        } else {
            false
        };
        let Some(life) = self.life(core) else { return };
        // A list that is too old is rejected as a whole: it may show that an executor runs, not that it does
        // not.
        let listed = matches!(event, Event::Relisted(_));
        let mut shown = |pod: &PodView| {
            if !own(pod) {
                return;
            }
            life.shown.insert(pod.executor.0);
            if !listed || Shown::runs(pod) {
                life.shown_as.pod(pod);
            } else {
                life.shown_as.doubtful.insert(pod.executor.0);
            }
            if pod.disrupted() && pod.owner.as_ref() == Some(&driver) {
                life.disrupted.insert(pod.executor.0);
            }
        };
        match event {
            Event::PodChanged(pod) | Event::PodGone(pod) => shown(pod),
            Event::Finished { outcome: Outcome::Ok(Done::Pod(pod)), .. } => shown(pod),
            Event::Relisted(list) => {
                list.pods.iter().for_each(shown);
                life.driver_gone |= list.driver == DriverView::Gone;
                life.shown_as.driver(&list.driver, now_ms);
            }
            Event::LeadershipGained { .. } => life.led_ms = Some(now_ms),
            Event::LeadershipLost => life.lost = true,
            Event::Commanded { verb, command } => match verb {
                Command::Pause => {
                    life.pausing = (!life.paused).then_some(*command);
                    life.paused = true;
                }
                Command::Resume => life.paused = false,
                Command::Roll(whom) => {
                    life.ordered_rolls += 1;
                    life.may_roll.extend(whom.map(|ExecutorId(id)| id));
                }
                Command::RequestTotalExecutors(_) | Command::Kill { .. } | Command::ResetBreaker => {}
                Command::ResetLedger => {}
            },
            Event::SpecChanged { spec, policies } => {
                if ValidatedSpec::check(FleetSpec::clone(spec), policies).is_ok() {
                    life.spec_still = spec.paused || spec.dry_run;
                }
            }
            Event::Finished { .. } if absurd => {
                life.parked.get_or_insert(Parked::Refused);
            }
            Event::Finished { .. } if missed => {
                life.parked.take_if(|parked| *parked == Parked::Refused);
            }
            Event::Finished { outcome: Outcome::Ok(Done::Ledger { ledger, edited, .. }), .. } => {
                if life.wrote.is_some_and(|ours| ours < ledger.epoch) {
                    life.parked = Some(Parked::Usurped);
                }
                life.parked.take_if(|parked| *parked == Parked::Refused);
                let first = !std::mem::replace(&mut life.read, true) && life.epoch.is_none();
                if first {
                    // If the ledger is deleted before it is claimed, these are the rolls that were in progress.
                    life.may_roll.extend(rolls_under_way(&ledger.leaving));
                    life.carried = rolls_under_way(&ledger.leaving).count();
                    life.paused = ledger.paused;
                } else if *edited || life.epoch.is_none() {
                    // Which of the two is in force is up to the leader.
                    life.paused &= ledger.paused;
                }
            }
            Event::Heartbeat(beat) => {
                // A heartbeat proves nothing about a pod that the watch has not shown yet.
                if life.shown.contains(&beat.executor.0) {
                    life.heard.entry(beat.executor.0).or_insert(now_ms);
                }
            }
            Event::DriverChanged { driver, .. } => {
                life.driver_gone |= *driver == DriverView::Gone;
                life.shown_as.driver(driver, now_ms);
            }
            Event::NodeChanged(node) if node.explains_a_kill() => {
                life.shown_as.explained.insert(node.state.name.clone());
            }
            Event::NodeChanged(node) => {
                life.shown_as.explained.remove(&node.state.name);
            }
            Event::DriverReported(rows) => {
                let counted = rows.iter().filter(|row| row.counters.is_some());
                life.shown_as.counted.extend(counted.map(|row| (row.executor.0, instant)));
            }
            Event::Finished { .. }
            | Event::LeadershipConfirmed
            | Event::HearingImpaired(_)
            | Event::ViewStale
            | Event::ViewFresh
            | Event::Answered { .. }
            | Event::Deadline => {}
        }
    }

    /// Marks a version of the ledger that no host may continue from.
    pub fn absurd(&mut self, version: u64) {
        self.absurd.insert(version);
    }

    pub fn is_absurd(&self, version: u64) -> bool {
        self.absurd.contains(&version)
    }

    pub fn ledger_missed(&mut self, core: CoreId, action: ActionId) {
        self.missed.insert((core, action));
    }

    /// The candidates that a policy was offered, and its answer.
    pub fn answered(&mut self, core: CoreId, question: &Question, answer: &Result<Answer, PolicyFault>) {
        let Some(life) = self.life(core) else { return };
        let Question::Roll(question) = question else { return };
        let ids = question.candidates.ids();
        life.offered.extend(ids);
        if let Ok(Answer::Roll(Selection::Roll(picks))) = answer {
            life.may_roll.extend(picks.iter().filter_map(|pick| ids.get(pick.index)));
        }
    }

    /// The least and the greatest target that may be acted on.
    fn targets_now(&self, now_ms: u64) -> (u32, u32) {
        let now = self.targets.iter().filter(|(until_ms, _)| *until_ms >= now_ms).map(|(_, target)| *target);
        (now.clone().min().unwrap_or(0), now.max().unwrap_or(0))
    }

    fn is_newest(&self, core: CoreId) -> bool {
        self.newest == Some(core)
    }
}

impl World<'_> {
    /// Heartbeats reach hosts late until then, through no fault of the executors.
    pub(crate) fn disturb_beats(&mut self, until_ms: u64) {
        for app in &mut self.apps {
            app.checks.disturb_beats(until_ms);
        }
    }

    /// What hosts are shown of this namespace may be this old.
    pub(crate) fn lag(&mut self, namespace: usize, lag_ms: u64) {
        let now_ms = self.sim.now_ms;
        for app in self.apps.iter_mut().filter(|app| app.operator.namespace == namespace) {
            app.checks.lag(now_ms, lag_ms);
        }
    }
}

/// Rolls that were in progress when a leader began.
fn rolls_under_way(leaving: &BTreeMap<ExecutorId, DeletionCause>) -> impl Iterator<Item = u64> {
    leaving.iter().filter(|(_, cause)| **cause == DeletionCause::Roll).map(|(executor, _)| executor.0)
}
