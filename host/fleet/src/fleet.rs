//! One fleet: it receives events, returns actions, and combines the state machines.
//!
//! A fleet can only be as correct as its inputs, so it starts in three steps: it reads the ledger, it claims
//! the ledger (which ends the reservations of every earlier leader), and it requests a complete list. Only then
//! does it act. From then on each step is the same: apply the event, then let every state machine check whether
//! it has something to do. The core keeps no list of *work to do*; the work follows from the current state. So
//! an event that arrives twice, late or never changes nothing in the end.
//!
//! The work of a step is bounded: a limited number of due executors, of questions and of creates. If work is
//! left over, the deadline is *now*.

use std::collections::{BTreeMap, VecDeque};

use crate::action::{Action, Cause, Notice, Reason, Reply, Verb};
use crate::ask::Asker;
use crate::backoff::{Backoff, Seed};
use crate::breaker::Breaker;
use crate::bucket::Bucket;
use crate::ending::Ending;
use crate::event::Event;
use crate::executor::{Executor, Roster, Stage};
use crate::failures::Failures;
use crate::guardrail::{Bounds, MassLoss, NodeLosses, Refusal};
use crate::heartbeat::{Hearing, Impairments};
use crate::id::{ActionId, CommandId, ExecutorId, IdSet, Uid};
use crate::injected_bug::InjectedBug;
use crate::ledger::{Book, Request};
use crate::log::Log;
use crate::observed::{DriverView, NodeView, PodView};
use crate::outcome::Outcome;
use crate::pace::Pace;
use crate::rolls::Rolls;
use crate::spec::{Draft, Mode, Spec, SpecError};
use crate::time::{Instant, Now};

/// Pods by UID, each with whether it is gone.
pub(crate) type Early = BTreeMap<Uid, (PodView, bool)>;

/// The executors of one application, and all decisions about them.
#[derive(Debug)]
pub struct Fleet {
    pub(crate) spec: Spec,
    pub(crate) spec_errors: Vec<SpecError>,
    pub(crate) phase: Phase,
    pub(crate) now: Now,
    pub(crate) seed: Seed,
    pub(crate) roster: Roster,
    pub(crate) book: Book,
    /// Executors that wait for a ledger write, ordered by the number of that write.
    pub(crate) recording: VecDeque<(u64, ExecutorId)>,
    /// Replies to commands, sent once the changes that the commands made are written to the ledger.
    pub(crate) replies: VecDeque<(u64, CommandId, Reply)>,
    pub(crate) hearing: Hearing,
    pub(crate) impairments: Impairments,
    pub(crate) breaker: Breaker,
    pub(crate) asker: Asker,
    /// Losses to be classified when the asker has room.
    pub(crate) asks: VecDeque<ExecutorId>,
    pub(crate) creates: Bucket,
    pub(crate) deletes: Bucket,
    pub(crate) pace: Pace,
    /// Back-off between executors that are given up as pending for too long.
    pub(crate) pending: Backoff,
    pub(crate) pending_from: Instant,
    pub(crate) mass_loss: MassLoss,
    /// The subset of losses that are known only by silence.
    pub(crate) mass_silence: MassLoss,
    pub(crate) node_losses: NodeLosses,
    pub(crate) nodes: BTreeMap<Box<str>, NodeView>,
    pub(crate) metric_names: Vec<Box<str>>,
    pub(crate) driver: Option<DriverView>,
    /// The revision of `driver`.
    pub(crate) driver_revision: u64,
    /// The lowest and the highest number of ends of the driver's container that were reported.
    driver_ends: Option<(u32, u32)>,
    pub(crate) driver_answered: bool,
    /// Since when executors wait for the driver to answer: those of a new fleet, or those after its container ended.
    pub(crate) driver_awaited_since: Option<Instant>,
    pub(crate) view_fresh: bool,
    /// The newest revision seen.
    pub(crate) revision: u64,
    /// Pods that were reported before the first list.
    pub(crate) early: Early,
    /// The latest deleted pods, with the revisions of their deletion: a list in flight may be older.
    pub(crate) buried: VecDeque<(Uid, u64)>,
    pub(crate) relist: Relisting,
    /// The highest id seen before the ledger was claimed.
    pub(crate) witness: ExecutorId,
    /// The highest id that the driver reported.
    pub(crate) driver_named: ExecutorId,
    /// Born executors that the first list did not contain, and that were not processed yet.
    pub(crate) absent: IdSet,
    /// The fleet has been active: pod events apply to known executors, also while a reset ledger is claimed.
    pub(crate) listens: bool,
    /// The ledger is overwritten once the Lease confirms that this host leads.
    pub(crate) resets_ledger: bool,
    pub(crate) rolls: Rolls,
    /// Executors that no longer serve and have no replacement yet.
    pub(crate) owed: VecDeque<ExecutorId>,
    /// How often each guardrail refused a change.
    pub(crate) refusals: BTreeMap<Refusal, u64>,
    pub(crate) ending: Ending,
    pub(crate) failures: Failures,
    /// Why no executor is created although executors are missing.
    pub(crate) held: Option<Refusal>,
    /// More executors have to be removed than one step may remove.
    pub(crate) shrinking: bool,
    pub(crate) log: Log,
    pub(crate) out: Vec<Action>,
    /// Pod calls in flight.
    pub(crate) calls: BTreeMap<ActionId, ExecutorId>,
    next_action: u64,
    #[cfg(feature = "injected-bugs")]
    bug: Option<InjectedBug>,
}

/// What the fleet as a whole waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The host does not lead.
    AwaitingLeadership,
    /// The ledger is being read.
    AwaitingLedger,
    /// The ledger is being written with our epoch.
    AwaitingClaim,
    /// A complete list was requested.
    AwaitingRelist,
    Active,
    /// Another host leads. Permanent.
    Deposed,
}

#[derive(Debug)]
pub(crate) struct Relisting {
    pub(crate) action: Option<ActionId>,
    pub(crate) due: Option<Instant>,
    backoff: Backoff,
    /// Since when every list has been older than the known state.
    pub(crate) past_since: Option<Instant>,
    /// The revision of the last such list, once it was reported to users.
    pub(crate) past_told: Option<u64>,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Work was left over from the last step.
    Backlog,
    /// An executor needs attention: a heartbeat is overdue, a check or a retry is due.
    Executor,
    /// The ledger has to be read or written.
    Ledger,
    /// A policy has not answered.
    Answer,
    /// A complete list is needed.
    Relist,
    /// More executors may be created at that time.
    Allocation,
    /// A roll is due.
    Roll,
    /// An impairment of the heartbeat path ends.
    Hearing,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Backlog => "work left over",
            Why::Executor => "an executor",
            Why::Ledger => "the ledger",
            Why::Answer => "a policy's answer",
            Why::Relist => "a complete list",
            Why::Allocation => "creating executors",
            Why::Roll => "rolling an executor",
            Why::Hearing => "hearing that was impaired",
        })
    }
}

/// An API server replica does not lag for longer than this: a list that is still older means that the store was
/// restored from a backup.
pub(crate) const RESTORED_MS: u64 = 600_000;
/// Pods and the ledger may be in different stores, whose revisions cannot be compared; that is rare, and a
/// replica that lags for longer than this is rarer.
pub(crate) const OTHER_STORE_MS: u64 = 90_000;

/// Number of executors processed in one step: at a few microseconds each, under a millisecond.
pub(crate) const ATTENDED_MAX: usize = 128;

impl Fleet {
    /// A fleet that waits for its host to lead. The same seed and events produce the same actions; no other
    /// host, and no other process of this host, may use the same seed.
    pub fn new(draft: Draft, policies: &[String], seed: u64) -> Result<Fleet, Vec<SpecError>> {
        let spec = Spec::check(draft, policies)?;
        Ok(Fleet {
            breaker: Breaker::new(&spec.allocation),
            pace: Pace::new(&spec.allocation),
            pending: Backoff::new(spec.allocation.backoff_first_ms, spec.allocation.backoff_last_ms),
            pending_from: Instant::START,
            witness: ExecutorId(0),
            driver_named: ExecutorId(0),
            absent: IdSet::default(),
            listens: false,
            resets_ledger: false,
            rolls: Rolls::new(),
            spec,
            spec_errors: Vec::new(),
            phase: Phase::AwaitingLeadership,
            now: Now::default(),
            seed: Seed::new(seed),
            roster: Roster::default(),
            book: Book::new(seed),
            recording: VecDeque::new(),
            replies: VecDeque::new(),
            hearing: Hearing::new(Instant::START),
            impairments: Impairments::default(),
            asker: Asker::default(),
            asks: VecDeque::new(),
            creates: Bucket::new(),
            deletes: Bucket::new(),
            mass_loss: MassLoss::default(),
            mass_silence: MassLoss::default(),
            node_losses: NodeLosses::default(),
            nodes: BTreeMap::new(),
            metric_names: Vec::new(),
            driver: None,
            driver_revision: 0,
            driver_ends: None,
            driver_answered: false,
            driver_awaited_since: None,
            view_fresh: true,
            revision: 0,
            early: Early::default(),
            buried: VecDeque::new(),
            relist: Relisting {
                action: None,
                due: None,
                backoff: Backoff::new(500, 30_000),
                past_since: None,
                past_told: None,
            },
            owed: VecDeque::new(),
            refusals: BTreeMap::new(),
            ending: Ending::new(),
            failures: Failures::default(),
            shrinking: false,
            held: None,
            log: Log::default(),
            out: Vec::new(),
            calls: BTreeMap::new(),
            next_action: 0,
            #[cfg(feature = "injected-bugs")]
            bug: None,
        })
    }

    /// Switch one rule off, to check that the tests detect it.
    #[cfg(feature = "injected-bugs")]
    pub fn inject(&mut self, bug: InjectedBug) {
        self.bug = Some(bug);
        if bug == InjectedBug::LeadersAlike {
            self.book = Book::new(0);
        }
        if bug == InjectedBug::LedgerUnchecked {
            self.book.believe_all();
        }
    }

    #[cfg(feature = "injected-bugs")]
    pub(crate) fn with(mut self, bug: Option<InjectedBug>) -> Fleet {
        bug.into_iter().for_each(|bug| self.inject(bug));
        self
    }

    #[cfg(feature = "injected-bugs")]
    pub(crate) fn has_bug(&self, bug: InjectedBug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "injected-bugs"))]
    pub(crate) const fn has_bug(&self, _: InjectedBug) -> bool {
        false
    }

    /// Apply an event and return the actions to carry out now. `now` must not go back.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Action> {
        self.now = Now { instant: self.now.instant.max(now.instant), ..now };
        if self.phase != Phase::Deposed {
            self.take(event);
            self.pump();
        }
        std::mem::take(&mut self.out)
    }

    /// When to call `step` with [`Event::Deadline`] if no other event comes first, and why.
    pub fn deadline(&self) -> Option<(Instant, Why)> {
        if matches!(self.phase, Phase::AwaitingLeadership | Phase::Deposed) {
            return None;
        }
        let at = |at: Option<Instant>, why| at.map(|at| (at, why));
        let mut deadlines = vec![
            at(self.book.deadline(), Why::Ledger),
            at(self.relist.due, Why::Relist),
            at(self.asker.deadline(), Why::Answer),
        ];
        if self.phase == Phase::Active {
            let wake = self.roster.first_wake();
            let why =
                if wake.is_some_and(|wake| wake <= self.now.instant) { Why::Backlog } else { Why::Executor };
            deadlines.push(at(wake, why));
            deadlines.push(at(self.allocation_deadline(), Why::Allocation));
            deadlines.push(at(self.roll_deadline(), Why::Roll));
            deadlines.push(at(self.impairments.ends_at(&self.spec.heartbeat), Why::Hearing));
            deadlines.push(at(self.ending_deadline(), Why::Allocation));
            deadlines.push(at(self.has_absent().then_some(self.now.instant), Why::Backlog));
            deadlines.push(at(self.shrinking.then_some(self.now.instant), Why::Backlog));
        }
        deadlines.into_iter().flatten().min()
    }

    /// The newest revision known to the fleet: a list requested now must not be older.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The spec in force.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The desired number of executors: the number an operator requested, until the spec's target changes. If
    /// the driver manages the executors and the spec has no target: the current number.
    pub fn target(&self) -> u32 {
        if !self.owns() && self.spec.target == 0 {
            return self.roster.tally().serving;
        }
        let ledger = self.book.get();
        let requested = ledger.requested.filter(|requested| requested.spec_target == self.spec.target);
        requested.map_or(self.spec.target, |requested| requested.total).min(self.spec.limits.executors_max)
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds::new(&self.spec, self.target())
    }

    /// Must the pods stay unchanged, regardless of earlier decisions?
    pub fn stands_still(&self) -> bool {
        matches!(self.may_change_pods(), Err(Refusal::Paused | Refusal::DryRun | Refusal::LedgerRefused))
    }

    /// May the fleet change pods at all?
    pub(crate) fn may_change_pods(&self) -> Result<(), Refusal> {
        if self.phase != Phase::Active {
            Err(Refusal::NotLeading)
        } else if self.book.refused().is_some() && !self.has_bug(InjectedBug::ParkedActs) {
            Err(Refusal::LedgerRefused)
        } else if self.has_bug(InjectedBug::PauseIgnored) {
            Ok(())
        } else if self.spec.paused || self.book.get().paused {
            Err(Refusal::Paused)
        } else if self.spec.dry_run {
            Err(Refusal::DryRun)
        } else {
            Ok(())
        }
    }

    /// Updates the driver's state. State that is older than the known one does not replace it.
    pub(crate) fn driver_is(&mut self, driver: DriverView, revision: u64) {
        let ended = match &driver {
            // An older state, too, shows that the container has ended since.
            DriverView::Running { uid, ends } if *uid == self.spec.driver => {
                let (least, most) = *self.driver_ends.get_or_insert((*ends, *ends));
                self.driver_ends = Some((least.min(*ends), most.max(*ends)));
                *ends < least || *ends > most
            }
            DriverView::Running { .. } | DriverView::Gone => false,
        };
        if revision >= self.driver_revision {
            (self.driver, self.driver_revision) = (Some(driver), revision);
        }
        if ended {
            self.driver_ended();
        }
    }

    /// The driver's container has ended, and its pod lives on. Its executors end with the container, which is
    /// not their failure, and new executors cannot register until the driver answers.
    fn driver_ended(&mut self) {
        self.log.add(self.now, None, "the driver's container has ended");
        self.driver_answered = false;
        self.driver_awaited_since = Some(self.now.instant);
        if self.has_bug(InjectedBug::DriverEndsAreFailures) || !self.failures.driver_ended(self.now.instant) {
            return;
        }
        let max = self.spec.failures_max(self.target());
        if self.failures.take_back(self.now.instant, self.book.edit(), max) {
            self.log.add(self.now, None, "its failures were the driver's: the fleet goes on");
        }
    }

    pub(crate) fn driver_gone(&self) -> bool {
        match &self.driver {
            Some(DriverView::Running { uid, .. }) => *uid != self.spec.driver,
            Some(DriverView::Gone) => true,
            None => false,
        }
    }

    /// Until when executors wait for the driver to answer.
    pub(crate) fn driver_starts_until(&self) -> Option<Instant> {
        let since = self.driver_awaited_since.filter(|_| !self.driver_answered)?;
        Some(since + self.spec.driver_start_ms).filter(|until| self.now.instant < *until)
    }

    // ------------------------------------------------------------------------------------ events --

    fn take(&mut self, event: Event) {
        match event {
            Event::LeadershipGained { term } => {
                if self.phase == Phase::AwaitingLeadership {
                    self.phase = Phase::AwaitingLedger;
                    self.book.open(term);
                }
            }
            Event::LeadershipLost => self.depose(),
            Event::LeadershipConfirmed => self.leadership_confirmed(),
            Event::Finished { action, outcome } => self.finished(action, outcome),
            Event::SpecChanged { draft, policies } => self.respec(*draft, &policies),
            Event::Commanded { command, verb } => self.command(command, verb),
            Event::Answered { action, answer } => self.answered(action, answer),
            Event::DriverChanged { driver, revision } => self.driver_is(driver, revision),
            Event::Relisted(list) => {
                if matches!(self.phase, Phase::AwaitingRelist | Phase::Active) {
                    self.relisted(list);
                } else {
                    self.witness = self.witness.max(self.highest_named(&list.pods));
                    self.revision = self.revision.max(list.revision);
                    self.driver_is(list.driver, list.revision);
                }
            }
            // Before the first complete list nothing is known; events that are newer than that list are applied
            // after it.
            Event::PodChanged(pod) if !self.listens => self.early(*pod, false),
            Event::PodGone(pod) if !self.listens => self.early(*pod, true),
            Event::DriverReported(rows) if !self.listens => {
                self.driver_names(&rows);
                self.driver_answered = true;
            }
            Event::NodeChanged(node) => self.node_changed(*node),
            Event::ViewStale => self.view_fresh = false,
            Event::ViewFresh => self.view_fresh = true,
            _ if !self.listens => {}
            Event::PodChanged(pod) => self.pod_changed(*pod),
            Event::PodGone(pod) => self.pod_gone(*pod),
            Event::Heartbeat(beat) => self.heard(*beat),
            Event::HearingImpaired(why) => self.hearing_impaired(why),
            Event::DriverReported(rows) => {
                self.driver_names(&rows);
                self.driver_reported(rows);
            }
            Event::Deadline => {}
        }
    }

    fn finished(&mut self, action: ActionId, outcome: Outcome) {
        if self.book.awaits(action) {
            self.booked(outcome);
        } else if self.relist.action == Some(action) {
            self.relist_again();
        } else if self.ending.call == Some(action) {
            self.ending_finished(&outcome);
        } else {
            self.pod_call_finished(action, outcome);
        }
    }

    fn respec(&mut self, draft: Draft, policies: &[String]) {
        let mut errors = Vec::new();
        let old = &self.spec;
        for (path, differs) in [
            ("metadata.name", draft.name != old.name),
            ("spec.applicationId", draft.application_id != old.application_id),
            ("spec.mode", draft.mode != old.mode),
            ("spec.driver", draft.driver != old.driver),
        ] {
            if differs {
                let message = "cannot change: another application is another fleet".to_owned();
                errors.push(SpecError { path, message });
            }
        }
        match Spec::check(draft, policies) {
            Err(found) => errors.extend(found),
            Ok(spec) if errors.is_empty() => {
                let rates = spec.allocation != self.spec.allocation;
                let heals = rates || spec.target != self.spec.target;
                let listens = self.spec.heartbeat.disabled && !spec.heartbeat.disabled;
                self.spec = spec;
                self.forget_requested();
                if listens {
                    // Heartbeats were disabled until now: silence counts from this moment.
                    self.hearing = Hearing::new(self.now.instant);
                    self.hearing.excuse(self.now.instant);
                }
                if heals {
                    self.pace = Pace::new(&self.spec.allocation);
                }
                if rates {
                    // Counts that were taken with the old settings do not apply to the new ones.
                    self.breaker = Breaker::new(&self.spec.allocation);
                    (self.creates, self.deletes) = (Bucket::new(), Bucket::new());
                }
                let names = self.spec.recovery.policies.iter();
                let names = names.chain(self.spec.roll.iter().flat_map(|roll| &roll.policies));
                let names: Vec<&str> = names.map(String::as_str).collect();
                self.asker.retain(&names);
                self.rolls.respec(self.spec.roll.as_ref(), self.now.instant);
                self.wake_all();
            }
            Ok(_) => {}
        }
        for error in &errors {
            self.publish(Reason::SpecRefused, None, error.to_string());
        }
        self.spec_errors = errors;
    }

    /// A target that an operator requested ends when the spec's target changes; it must not return with the old
    /// target.
    pub(crate) fn forget_requested(&mut self) {
        if self.book.get().requested.is_some_and(|requested| requested.spec_target != self.spec.target) {
            self.book.edit().requested = None;
        }
    }

    /// Another host leads: never act again.
    fn depose(&mut self) {
        if self.has_bug(InjectedBug::DeposedActs) {
            return;
        }
        self.out.clear();
        self.phase = Phase::Deposed;
    }

    // ------------------------------------------------------------------------------------ ledger --

    /// The executor's stage continues once everything edited so far is written.
    pub(crate) fn record(&mut self, id: ExecutorId) -> u64 {
        let mark = self.book.mark();
        self.recording.push_back((mark, id));
        mark
    }

    // ------------------------------------------------------------------------------------- relist --

    pub(crate) fn relist_again(&mut self) {
        self.relist.action = None;
        self.relist.due = Some(self.now.instant + self.relist.backoff.failed_ms(&mut self.seed));
    }

    /// May a list that is older than the known state be trusted? Not if a replica merely lags. But if no newer
    /// list arrives for this long, the store was restored from a backup.
    pub(crate) fn believes_past(&mut self, after_ms: u64) -> bool {
        let since = *self.relist.past_since.get_or_insert(self.now.instant);
        self.now.instant.since_ms(since) > after_ms
    }

    pub(crate) fn relist_done(&mut self) {
        (self.relist.past_since, self.relist.past_told) = (None, None);
        self.relist.action = None;
        self.relist.due = None;
        self.relist.backoff.reset();
    }

    // --------------------------------------------------------------------------------------- pump --

    /// Let every state machine check whether it has something to do.
    fn pump(&mut self) {
        if self.phase == Phase::Deposed {
            return;
        }
        while let Some((action, open)) = self.asker.next_late(self.now.instant) {
            self.unanswered(action, open);
        }
        if self.relist.due.is_some_and(|due| due <= self.now.instant) {
            self.relist.due = None;
            self.relist.action = Some(self.act(Cause::Start, Verb::Relist { known: self.revision }));
        }
        if self.phase == Phase::Active {
            self.hear_well_again();
            self.take_absent();
            for _ in 0..ATTENDED_MAX {
                let Some(id) = self.roster.next_due(self.now.instant) else { break };
                self.attend(id);
            }
            while self.asker.has_room() {
                let Some(id) = self.asks.pop_front() else { break };
                self.ask_why(id);
            }
            self.roll();
            self.allocate();
            self.end_application();
        }
        if let Some(request) = self.book.poll(self.now.instant) {
            let id = match request {
                Request::Read => self.act(Cause::Start, Verb::ReadLedger),
                Request::Write { mut ledger, over } => {
                    ledger.revision = self.revision;
                    self.act(Cause::Record, Verb::WriteLedger { ledger, over })
                }
            };
            self.book.sent(id);
        }
    }

    /// Process an executor that is due.
    fn attend(&mut self, id: ExecutorId) {
        let Some(executor) = self.roster.get(id) else { return };
        match &executor.stage {
            Stage::AwaitingCreate(_) | Stage::AwaitingAnnouncement { .. } | Stage::AwaitingRecord { .. } => {}
            Stage::AwaitingConfirmation(_) => self.confirm(id),
            Stage::AwaitingLateCreate => self.wait_for_late_create(id),
            Stage::AwaitingStart | Stage::AwaitingRegistration => self.check_pending(id),
            Stage::Available => self.check_heartbeat(id),
            Stage::AwaitingReason(_) => self.asks.push_back(id),
            Stage::AwaitingExit { .. } | Stage::AwaitingRemoval(_) => self.remove_pod(id),
            Stage::Kept => self.check_kept(id),
        }
    }

    /// A change that was held back may be possible now: check every executor again.
    pub(crate) fn wake_all(&mut self) {
        // A loss keeps its check interval, and an awaited pod end its own timer.
        let sleeper = |(id, executor): (ExecutorId, &Executor)| {
            let rhythm = matches!(executor.stage, Stage::AwaitingReason(_))
                || executor.stage.removal().is_some_and(|removal| removal.accepted);
            (!rhythm).then_some(id)
        };
        let ids: Vec<ExecutorId> = self.roster.iter().filter_map(sleeper).collect();
        for id in ids {
            self.roster.wake_at(id, self.now.instant);
        }
    }

    // ------------------------------------------------------------------------------------ helpers --

    pub(crate) fn act(&mut self, cause: Cause, verb: Verb) -> ActionId {
        self.next_action += 1;
        let id = ActionId(self.next_action);
        if let Some(executor) = verb.pod_call() {
            self.calls.insert(id, executor);
        }
        self.out.push(Action { id, cause, verb });
        id
    }

    /// A guardrail refused a change.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        *self.refusals.entry(refusal).or_default() += 1;
    }

    pub(crate) fn publish(&mut self, reason: Reason, executor: Option<ExecutorId>, message: String) {
        self.log.add(self.now, executor, message.as_str());
        let pod = executor.and_then(|id| {
            let seen = self.roster.get(id).is_some_and(|one| one.pod.is_some());
            (seen || self.owns()).then(|| self.pod_name(id))
        });
        self.act(Cause::Start, Verb::Publish(Notice { reason, executor, pod, message }));
    }

    /// Move the executor to a stage, and process it at `wake`.
    pub(crate) fn enter(&mut self, id: ExecutorId, stage: Stage, wake: Instant) {
        let now = self.now.instant;
        self.roster.change(id, |executor| executor.enter(stage, now));
        self.roster.wake_at(id, wake);
    }

    pub(crate) fn insert(&mut self, id: ExecutorId, stage: Stage, wake: Instant) {
        self.absent.remove(id);
        self.roster.insert(id, Executor::new(stage, self.now.instant));
        self.roster.wake_at(id, wake);
    }

    pub(crate) fn owns(&self) -> bool {
        self.spec.mode == Mode::Own
    }
}
