//! The checkers: what must hold, whatever happens.
//!
//! They keep their own account, from what the API server applied and what the cluster's truth is, and
//! use nothing that the core says except to hold it against that. The first objection ends the run.
//! The numbers are those of the catalogue of invariants:
//!
//! - S1 S2 S3 S4 when a pod is created: [`bounds`]
//! - S5 S6 S7 S11 S17 when a pod is deleted: [`victims`]
//! - S12 S13 S14 S17 S19 S20 S22 when an action is wanted: [`conduct`]
//! - S21 when a loss is asked about and when it is settled: [`silence`]
//! - S8 S10 S13 when a ledger is written: [`books`]; S9 and S18 in every snapshot
//! - L1 L3 L4 L5 once the faults are over: [`rest`]
//! - SPIN: a core that wants to be woken for ever in the same moment
//!
//! S18 and those after it are not in the catalogue. S18: an executor that has ended, or whose pod is Pending, is not
//! available to a host that was told so. S19: a pod that waits for a scheduling gate is not cleared away for being late.
//! S20: candidates stand in the order of Spark's `executorList(true)`, with counters of at most two reports ago. S21: no
//! executor is given up for silence while one of its signs reached this host's door within the last timeout, whatever the
//! host did with it (refused, dropped, left in a socket while it stood still); and none is lost that spoke after it was
//! given up and before its loss was settled. S22: who was shown a ledger that is none of ours, or another leader's, changes
//! nothing until it is shown a good one or has written over it.
//!
//! Not here: S15 and S16 are about status objects and log lines, which the daemon writes (of S16 only
//! the length of notices is checked); L6 needs the words of conditions; L7 needs more than one fleet;
//! L2 is part of L1, whose bound it sets.
//!
//! A bound is only ever held against what a core *could have known*: what happened within the reach of
//! a delayed request or a lagging watch is excused, with the arithmetic beside each excuse. Rejected:
//! excusing by fault kind. A bound that is off whenever something interesting happens checks nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fleet::action::Question;
use fleet::event::{Answer, Command, Done, DriverView, Event, Fault as PolicyFault, Outcome, Phase, PodView};
use fleet::id::{ActionId, CommandId, ExecutorId, Uid};
use fleet::question::{DeletionCause, Selection};
use fleet::spec::{Draft, Spec};
use fleet::time::Instant;

use crate::api::Serial;

pub mod books;
pub mod bounds;
pub mod conduct;
pub mod rest;
pub mod silence;
pub mod victims;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub checker: &'static str,
    pub message: String,
    pub at_ms: u64,
}

/// How long after it was decided something may still be applied: 10 s until its host gives it up, 60 s
/// on its way, and a host that stood still for 60 s before it noticed anything; rounded up.
pub const REACH_MS: u64 = 150_000;

#[derive(Debug)]
pub struct Checks {
    violation: Option<Violation>,
    draft: Draft,
    lives: BTreeMap<(usize, u32), Life>,
    /// The life of each host that runs now.
    current: BTreeMap<usize, u32>,
    /// Who claimed the ledger last.
    newest: Option<(usize, u32)>,
    /// Targets that somebody may act on, each until when.
    targets: Vec<(u64, u32)>,
    /// Ids under which a pod of ours came to be.
    issued: BTreeSet<u64>,
    /// A record was claimed that may be older than the world, and the claimant has seen no list yet.
    unsure: bool,
    /// Who saw that it was older, and has not written it down yet.
    aware: Option<(usize, u32)>,
    /// Leaders of before the ledger was lost without a trace: nobody knows what they used.
    forgotten: BTreeSet<(usize, u32)>,
    /// Ids that a host asked a pod for, and which life it was.
    asked: BTreeMap<u64, ((usize, u32), u64)>,
    /// The ledger was lost without a trace: until then ids may be used twice.
    amnesty_until_ms: u64,
    /// Executors that were leaving in any version of the ledger.
    ever_leaving: BTreeSet<u64>,
    /// Executors whose end was in any version of the ledger.
    ever_settled: BTreeSet<u64>,
    /// Executors that an operator wanted killed.
    killed: BTreeSet<u64>,
    /// Pods that were deleted because their executors were taken for lost.
    cleared: BTreeSet<Serial>,
    /// Until then heartbeats reach the core late, through no fault of the executors'.
    disturbed_ms: u64,
    /// Until then a view may be so much older than usual.
    lags: (u64, u64),
    /// What is about to be deleted, and the objection to it if it is.
    victim: Option<(Serial, Option<(&'static str, String)>)>,
    epochs: BTreeMap<u64, (usize, u32)>,
    /// Versions of the ledger that no host may go on from.
    absurd: BTreeSet<u64>,
    /// Reads of the ledger that found none.
    missed: BTreeSet<((usize, u32), ActionId)>,
    /// The greatest id that any version of ours has reserved.
    reserved: u64,
    /// Who wrote the ledger last.
    writer: Option<(usize, u32)>,
    last_mutation_ms: u64,
    pub mutations: u64,
}

/// What is known of one life of a host.
#[derive(Debug, Default)]
pub(crate) struct Life {
    led_ms: Option<u64>,
    lost: bool,
    epoch: Option<u64>,
    /// Ids up to here had been reserved when it claimed the ledger.
    base: u64,
    /// Ids up to here it has reserved: the write was applied.
    reserved: u64,
    claimed_born: bool,
    /// The epoch of what it wrote last.
    wrote: Option<u64>,
    /// It was shown a ledger that is none of its own.
    parked: Option<Parked>,
    /// How often people had meddled with the ledger when it claimed it.
    tampers: u64,
    paused: bool,
    /// The command that paused it, for as long as nobody replied.
    pausing: Option<CommandId>,
    spec_still: bool,
    driver_gone: bool,
    offered: BTreeSet<u64>,
    /// Picked of what was offered, or named by an operator, or on its way when it began.
    may_roll: BTreeSet<u64>,
    /// How many of those were on their way.
    carried: usize,
    ordered_rolls: u32,
    rolled: BTreeSet<u64>,
    creates: VecDeque<u64>,
    /// The target that it wrote down as an operator's.
    requested: Option<u32>,
    /// Whose pods it was shown.
    shown: BTreeSet<u64>,
    /// Whom it has heard, and since when.
    heard: BTreeMap<u64, u64>,
    read: bool,
    /// Executors of which it was told that Kubernetes itself ends them.
    disrupted: BTreeSet<u64>,
    /// Whose loss may be called a failure.
    fair: BTreeSet<u64>,
    pub(crate) shown_as: Shown,
    /// When a sign of each executor reached its door last.
    signs: BTreeMap<u64, u64>,
    /// Executors that it has given up for silence and not settled, and whether it was told a sign of each since.
    suspects: BTreeMap<u64, bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parked {
    /// Until it is shown a good one.
    Refused,
    /// Until it has written over it.
    Usurped,
}

/// What a host was told that decides who is available, to blame, or a candidate.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// The pod under an id: its UID, its newest revision, and whether an executor runs in it by then.
    pods: BTreeMap<u64, (Uid, u64, bool)>,
    /// A list, which it may or may not have believed, showed that none runs.
    doubtful: BTreeSet<u64>,
    /// Nodes that explain a kill.
    explained: BTreeSet<String>,
    driver_ends: Option<(u32, u32)>,
    driver_ended_ms: Option<u64>,
    /// When the driver told the counters of an executor, by the host's own clock.
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

    /// Was it shown that an executor runs in this pod, and nothing else since?
    pub(crate) fn runs_as(&self, executor: u64, uid: &Uid) -> bool {
        self.pods.get(&executor).is_some_and(|(known, _, runs)| *runs && known == uid)
            && !self.doubtful.contains(&executor)
    }

    /// Does no executor run in the pod that it was shown last under this id?
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
    pub fn new(draft: &Draft) -> Checks {
        Checks {
            violation: None,
            draft: draft.clone(),
            lives: BTreeMap::new(),
            current: BTreeMap::new(),
            newest: None,
            targets: vec![(u64::MAX, draft.target)],
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

    pub fn objects(&self) -> bool {
        self.violation.is_some()
    }

    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// The first objection counts.
    pub fn object(&mut self, checker: &'static str, at_ms: u64, message: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { checker, message: message(), at_ms });
        }
    }

    // ------------------------------------------------------------------------- what goes into it --

    pub fn host_started(&mut self, at: usize, life: u32, draft: &Draft) {
        self.current.insert(at, life);
        let still = draft.paused || draft.dry_run;
        self.lives.insert((at, life), Life { spec_still: still, ..Life::default() });
    }

    fn life(&mut self, at: usize) -> Option<&mut Life> {
        let life = *self.current.get(&at)?;
        self.lives.get_mut(&(at, life))
    }

    /// A spec with another target is in force; the old one may still be acted on for a while.
    pub fn target(&mut self, now_ms: u64, target: u32) {
        for (until_ms, _) in &mut self.targets {
            *until_ms = (*until_ms).min(now_ms + REACH_MS);
        }
        self.targets.retain(|(until_ms, _)| *until_ms > now_ms);
        self.targets.push((u64::MAX, target));
    }

    /// A target that somebody may act on for a while.
    fn target_for_now(&mut self, now_ms: u64, target: u32) {
        self.targets.push((now_ms + REACH_MS, target));
    }

    pub fn disturb_beats(&mut self, until_ms: u64) {
        let silence_ms = self.draft.heartbeat.timeout_ms;
        self.disturbed_ms = self.disturbed_ms.max(until_ms + silence_ms + REACH_MS);
    }

    pub fn lag(&mut self, now_ms: u64, lag_ms: u64) {
        let until_ms = now_ms + lag_ms + REACH_MS;
        let so_far_ms = if now_ms <= self.lags.0 { self.lags.1 } else { 0 };
        self.lags = (self.lags.0.max(until_ms), so_far_ms.max(lag_ms));
    }

    /// What happened to an executor longer ago than this must be known to whoever decides.
    fn known_after_ms(&self, now_ms: u64) -> u64 {
        let lag_ms = if now_ms <= self.lags.0 { self.lags.1 } else { 0 };
        self.draft.heartbeat.timeout_ms + REACH_MS + lag_ms
    }

    /// What a host's core is being told.
    pub fn told(&mut self, at: usize, event: &Event, now_ms: u64, instant: Instant) {
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
        let driver = self.draft.driver.clone();
        let absurd = if let Event::Finished { outcome: Outcome::Ok(Done::Ledger { version, .. }), .. } = event
        {
            version.0.parse().is_ok_and(|version| self.is_absurd(version))
        } else {
            matches!(event, Event::Finished { outcome: Outcome::Ok(Done::LedgerRefused { .. }), .. })
        };
        let me = self.current.get(&at).map(|life| (at, *life));
        let missed = if let (Some(me), Event::Finished { outcome: Outcome::NotFound, action }) = (me, event) {
            self.missed.contains(&(me, *action))
        } else {
            false
        };
        let Some(life) = self.life(at) else { return };
        // A list that is too old is refused as a whole: it may show that an executor runs, not that it does not.
        let listed = matches!(event, Event::Relisted(_));
        let mut shown = |pod: &PodView| {
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
            Event::SpecChanged { draft, policies } => {
                if Spec::check(Draft::clone(draft), policies).is_ok() {
                    life.spec_still = draft.paused || draft.dry_run;
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
                    // Should the ledger be deleted before it is claimed, this is what was under way.
                    life.may_roll.extend(rolls_under_way(&ledger.leaving));
                    life.carried = rolls_under_way(&ledger.leaving).count();
                    life.paused = ledger.paused;
                } else if *edited || life.epoch.is_none() {
                    // Which of the two is in force is the leader's affair.
                    life.paused &= ledger.paused;
                }
            }
            Event::Heartbeat(beat) => {
                // Of a pod that the watch has not shown yet it says nothing.
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

    /// This version of the ledger is one that no host may go on from.
    pub fn absurd(&mut self, version: u64) {
        self.absurd.insert(version);
    }

    pub fn is_absurd(&self, version: u64) -> bool {
        self.absurd.contains(&version)
    }

    pub fn ledger_missed(&mut self, at: usize, life: u32, action: ActionId) {
        self.missed.insert(((at, life), action));
    }

    /// What a policy was offered, and what it said.
    pub fn answered(&mut self, at: usize, question: &Question, answer: &Result<Answer, PolicyFault>) {
        let Some(life) = self.life(at) else { return };
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

    fn is_newest(&self, host: usize, life: u32) -> bool {
        self.newest == Some((host, life))
    }
}

/// Rolls that were on their way when a leader began.
fn rolls_under_way(leaving: &BTreeMap<ExecutorId, DeletionCause>) -> impl Iterator<Item = u64> {
    leaving.iter().filter(|(_, cause)| **cause == DeletionCause::Roll).map(|(executor, _)| executor.0)
}
