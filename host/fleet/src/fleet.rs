//! One fleet: it receives events, returns actions, and combines the state machines.
//!
//! A fleet can only be as correct as its inputs, so it starts in three steps: it reads the ledger, it claims
//! the ledger (which ends the reservations of every earlier leader), and it requests a complete list. Only then
//! does it act. From then on each step is the same: apply the event, then let every part check whether it has
//! something to do. The core keeps no list of *work to do*; the work follows from the current state. So an
//! event that arrives twice, late or never changes nothing in the end.
//!
//! `Fleet` owns the parts and decides nothing that one of them can decide alone. Transitions of an executor are
//! functions in `lifecycle`, which return effects; `apply` is the only place where effects are carried out.
//! Planners in `plan` return what should be done. Every outcome of a call arrives in `finished`.
//!
//! The work of a step is bounded: a limited number of due executors, of questions and of creates. If work is
//! left over, the deadline is *now*.

use crate::action::{Action, Cause, Question, Reason, Reply, Verb};
use crate::ask::loss;
use crate::ask::{About, Answered, Asker, Open};
use crate::breaker::Breaker;
use crate::command::may_kill;
use crate::driver::DriverState;
use crate::env::Env;
use crate::event::{Answer, Beat, Command, DriverRow, Event, Fault, Relist};
use crate::executor::{Executor, Stage};
use crate::executors::Executors;
use crate::guardrail::{Permits, Refusal};
use crate::id::{ActionId, CommandId, ExecutorId, IdSet};
use crate::injected_bug::{Bugs, InjectedBug};
use crate::ledger::{Progress, Request, Requested};
use crate::lifecycle::removal::{Clearance, remove, remove_finished};
use crate::lifecycle::{Context, create, due, end, pod, start};
use crate::observed::{DriverView, Phase as PodPhase, PodView};
use crate::outbox::PodCallKind;
use crate::outcome::Outcome;
use crate::outcomes::{CreateOutcome, GetOutcome};
use crate::pace::Pace;
use crate::parked;
use crate::permits::Situation;
use crate::phase::Phase;
use crate::plan::{allocate, shrink};
use crate::question::{DeletionCause, LossReason, Trigger, Verdict};
use crate::rolling::Rolling;
use crate::rolls::Rolls;
use crate::spec::{Draft, LAST_CLASSIFIER, Spec, SpecError};
use crate::table::ATTENDED_MAX;
use crate::time::{Instant, Now};
use crate::view::{ClusterView, missing};

pub use crate::phase::Why;

/// The executors of one application, and all decisions about them.
#[derive(Debug)]
pub struct Fleet {
    spec: Spec,
    spec_errors: Vec<SpecError>,
    phase: Phase,
    now: Now,
    bugs: Bugs,
    /// The fleet has been active: pod events apply to known executors, also while a reset ledger is claimed.
    listens: bool,
    /// The ledger is overwritten once the Lease confirms that this host leads.
    resets_ledger: bool,
    executors: Executors,
    view: ClusterView,
    driver: DriverState,
    rolls: Rolls,
    asker: Asker,
}

/// Borrows the fields that every part is given, and no other field.
macro_rules! env {
    ($fleet:ident) => {
        Env { spec: &$fleet.spec, now: $fleet.now, bugs: $fleet.bugs }
    };
}

/// A fleet, to be read.
#[derive(Clone, Copy)]
pub(crate) struct FleetState<'a> {
    pub situation: Situation<'a>,
    pub spec_errors: &'a [SpecError],
    pub rolls: &'a Rolls,
    pub asker: &'a Asker,
}

impl Fleet {
    /// A fleet that waits for its host to lead. The same seed and events produce the same actions; no other
    /// host, and no other process of this host, may use the same seed.
    pub fn new(draft: Draft, policies: &[String], seed: u64) -> Result<Fleet, Vec<SpecError>> {
        let spec = Spec::check(draft, policies)?;
        Ok(Fleet {
            executors: Executors::new(&spec, seed),
            spec,
            spec_errors: Vec::new(),
            phase: Phase::AwaitingLeadership,
            now: Now::default(),
            bugs: Bugs::default(),
            listens: false,
            resets_ledger: false,
            view: ClusterView::new(),
            driver: DriverState::default(),
            rolls: Rolls::new(),
            asker: Asker::default(),
        })
    }

    /// Switch one rule off, to check that the tests detect it.
    #[cfg(feature = "injected-bugs")]
    pub fn inject(&mut self, bug: InjectedBug) {
        self.bugs = Bugs::only(bug);
        self.executors.inject(bug);
    }

    /// Apply an event and return the actions to carry out now. `now` must not go back.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Action> {
        self.now = Now { instant: self.now.instant.max(now.instant), ..now };
        if self.phase != Phase::Deposed {
            self.take(event);
            self.advance();
        }
        self.executors.outbox.take()
    }

    /// When to call `step` with [`Event::Deadline`] if no other event comes first, and why.
    pub fn deadline(&self) -> Option<(Instant, Why)> {
        if matches!(self.phase, Phase::AwaitingLeadership | Phase::Deposed) {
            return None;
        }
        let (now, env) = (self.now.instant, env!(self));
        let at = |at: Option<Instant>, why| at.map(|at| (at, why));
        let mut deadlines = vec![
            at(self.executors.ledger.deadline(), Why::Ledger),
            at(self.view.relist_due(), Why::Relist),
            at(self.asker.deadline(), Why::Answer),
        ];
        if self.phase == Phase::Active {
            let wake = self.executors.table.first_wake();
            let why = if wake.is_some_and(|wake| wake <= now) { Why::Backlog } else { Why::Executor };
            let (held, starts) = (self.executors.creation.held(), self.driver.starts_until(env));
            let limits = self.situation().create_limits();
            let creates = allocate::deadline(held, starts, &limits, env);
            let waits_ms =
                [env.roll_spec(&self.rolls.by_hand).timeout_ms, self.spec.allocation.pending_timeout_ms];
            let rolls = self.rolls.deadline(waits_ms, self.executors.losses.mass_loss().ends(), now);
            let absent = self.view.has_absent(&self.executors.table);
            deadlines.extend([
                at(wake, why),
                at(creates, Why::Allocation),
                at(rolls, Why::Roll),
                at(self.executors.signals.impairment_ends_at(&self.spec.heartbeat), Why::Hearing),
                at(self.ending_deadline(), Why::Allocation),
                at((absent || self.executors.creation.shrinking).then_some(now), Why::Backlog),
            ]);
        }
        deadlines.into_iter().flatten().min()
    }

    /// The newest revision known to the fleet: a list requested now must not be older.
    pub fn revision(&self) -> u64 {
        self.view.revision()
    }

    /// The spec in force.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The desired number of executors: the number an operator requested, until the spec's target changes. If
    /// the driver manages the executors and the spec has no target: the current number.
    pub fn target(&self) -> u32 {
        self.executors.target(env!(self))
    }

    /// Must the pods stay unchanged, regardless of earlier decisions?
    pub fn stands_still(&self) -> bool {
        matches!(
            self.situation().may_change_pods(),
            Err(Refusal::Paused | Refusal::DryRun | Refusal::LedgerRefused)
        )
    }

    pub(crate) fn state(&self) -> FleetState<'_> {
        FleetState {
            situation: self.situation(),
            spec_errors: &self.spec_errors,
            rolls: &self.rolls,
            asker: &self.asker,
        }
    }

    fn situation(&self) -> Situation<'_> {
        Situation {
            phase: self.phase,
            executors: &self.executors,
            view: &self.view,
            driver: &self.driver,
            env: env!(self),
        }
    }

    fn permits(&self) -> Permits {
        self.situation().permits()
    }

    fn rolling(&mut self) -> Rolling<'_> {
        Rolling {
            permits: self.permits(),
            rolls: &mut self.rolls,
            executors: &mut self.executors,
            asker: &mut self.asker,
            view: &self.view,
            env: env!(self),
        }
    }

    fn change(&mut self, id: ExecutorId, transition: impl FnOnce(&mut Executor, &mut Context<'_>)) {
        self.executors.change(id, env!(self), transition);
    }

    fn act(&mut self, cause: Cause, verb: Verb) -> ActionId {
        self.executors.outbox.act(cause, verb)
    }

    fn publish(&mut self, reason: Reason, message: String) {
        self.executors.outbox.publish(self.now, reason, message);
    }

    fn note(&mut self, text: &str) {
        self.executors.outbox.note(self.now, None, text);
    }

    /// Why the fleet is parked, and what resolves it. `None` if its ledger is in order.
    pub(crate) fn parked(&self) -> Option<String> {
        let known = self.view.revision().max(self.executors.ledger.revision());
        let listed = self.view.past_told().filter(|_| self.phase == Phase::AwaitingRelist);
        parked::why(&self.spec.name, self.executors.ledger.refused(), listed.map(|listed| (known, listed)))
    }

    // ------------------------------------------------------------------------------------ events --

    fn take(&mut self, event: Event) {
        match event {
            Event::LeadershipGained { term } => {
                if self.phase == Phase::AwaitingLeadership {
                    self.phase = Phase::AwaitingLedger;
                    self.executors.ledger.open(term);
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
                    self.view.witnessed(self.highest_named(&list.pods));
                    self.view.saw(list.revision);
                    self.driver_is(list.driver, list.revision);
                }
            }
            // Before the first complete list nothing is known; events that are newer than that list are applied
            // after it.
            Event::PodChanged(pod) if !self.listens => self.view.early(*pod, false),
            Event::PodGone(pod) if !self.listens => self.view.early(*pod, true),
            Event::NodeChanged(node) => {
                self.view.node_changed(*node, self.phase == Phase::Active, &self.executors.table);
            }
            Event::ViewStale => self.view.fresh = false,
            Event::ViewFresh => self.view.fresh = true,
            Event::DriverReported(rows) => self.driver_reported(rows),
            _ if !self.listens => {}
            Event::PodChanged(pod) => self.pod_changed(*pod),
            Event::PodGone(pod) => self.pod_gone(&pod),
            Event::Heartbeat(beat) => self.heard(*beat),
            Event::HearingImpaired(why) => {
                self.executors.signals.impaired(why, env!(self), &mut self.executors.outbox)
            }
            Event::Deadline => {}
        }
    }

    /// The outcome of an action: the only place where outcomes arrive. Each is converted to the outcomes of its
    /// kind of call.
    fn finished(&mut self, action: ActionId, outcome: Outcome) {
        let (now, env) = (self.now.instant, env!(self));
        if self.executors.ledger.awaits(action) {
            let was_parked = self.executors.ledger.refused().is_some();
            let progress = if self.executors.ledger.is_reading() {
                self.executors.ledger.read_finished(outcome.into(), now, &mut self.executors.seed)
            } else {
                self.executors.ledger.write_finished(outcome.into(), now, &mut self.executors.seed)
            };
            self.ledger_progressed(progress, was_parked);
        } else if self.view.awaits(action) {
            // A list arrives as an event of its own: this is a failure.
            self.view.relist_again(now, &mut self.executors.seed);
        } else if self.executors.losses.awaits(action) {
            self.executors.losses.ending_finished(
                outcome.into(),
                env,
                &mut self.executors.seed,
                &mut self.executors.outbox,
            );
        } else if let Some(call) = self.executors.outbox.call_finished(action) {
            let id = call.executor;
            match call.kind {
                PodCallKind::Create => self.create_finished(id, action, outcome.into()),
                PodCallKind::Get => self.get_finished(id, action, outcome.into()),
                PodCallKind::Remove => self.change(id, |executor, cx| {
                    if executor.stage.removal().is_some_and(|removal| removal.call == Some(action)) {
                        remove_finished(executor, outcome.into(), cx);
                    }
                }),
            }
        }
    }

    fn create_finished(&mut self, id: ExecutorId, action: ActionId, outcome: CreateOutcome) {
        let Some(executor) = self.executors.table.get(id) else { return };
        if matches!(executor.stage, Stage::AwaitingCreate(call) if call == action) {
            if let CreateOutcome::Created(pod) = &outcome {
                self.view.saw(pod.revision);
            }
            self.change(id, |executor, cx| create::create_finished(executor, outcome, cx));
        } else if let CreateOutcome::Created(pod) = outcome {
            self.seen_before_answer(id, &pod);
        }
    }

    fn get_finished(&mut self, id: ExecutorId, action: ActionId, outcome: GetOutcome) {
        let Some(executor) = self.executors.table.get(id) else { return };
        let confirms =
            matches!(&executor.stage, Stage::AwaitingConfirmation(doubt) if doubt.get == Some(action));
        let (verifies, stage) = (executor.verifying == Some(action), &executor.stage);
        if let GetOutcome::Found(pod) = &outcome {
            let late = matches!(stage, Stage::AwaitingLateCreate);
            let counts =
                if verifies { !late || env!(self).is_ours(pod) } else { confirms && env!(self).is_ours(pod) };
            if counts {
                self.view.saw(pod.revision);
            }
        }
        if verifies {
            self.change(id, |executor, cx| due::pod_verified(executor, outcome, cx));
        } else if confirms {
            self.change(id, |executor, cx| create::confirmed(executor, outcome, cx));
        } else if let GetOutcome::Found(pod) = outcome {
            self.seen_before_answer(id, &pod);
        }
    }

    /// The watch event arrived before the answer to the create.
    fn seen_before_answer(&mut self, id: ExecutorId, pod: &PodView) {
        let doubted = matches!(
            self.executors.table.get(id).map(|executor| &executor.stage),
            Some(Stage::AwaitingConfirmation(_))
        );
        if pod.phase == PodPhase::Pending && !doubted {
            self.executors.creation.pace.succeeded(self.spec.allocation.batch_size);
        }
    }

    fn respec(&mut self, draft: Draft, policies: &[String]) {
        let spec = match self.spec.succeeded_by(draft, policies) {
            Ok(spec) => spec,
            Err(errors) => {
                for error in &errors {
                    self.publish(Reason::SpecRefused, error.to_string());
                }
                self.spec_errors = errors;
                return;
            }
        };
        let now = self.now.instant;
        let rates = spec.allocation != self.spec.allocation;
        let heals = rates || spec.target != self.spec.target;
        let listens = self.spec.heartbeat.disabled && !spec.heartbeat.disabled;
        self.spec = spec;
        self.spec_errors.clear();
        self.forget_requested();
        if listens {
            self.executors.signals.restart(now);
        }
        if heals {
            self.executors.creation.pace = Pace::new(&self.spec.allocation);
        }
        if rates {
            self.executors.losses.breaker = Breaker::new(&self.spec.allocation);
            self.executors.creation.reset_rates();
        }
        self.asker.retain(&self.spec.policies());
        self.rolls.respec(self.spec.roll.as_ref(), now);
        self.executors.table.wake_all(now);
    }

    /// A target that an operator requested ends when the spec's target changes; it must not return with the old
    /// target.
    fn forget_requested(&mut self) {
        if self
            .executors
            .ledger
            .get()
            .requested
            .is_some_and(|requested| requested.spec_target != self.spec.target)
        {
            self.executors.ledger.edit().requested = None;
        }
    }

    /// Another host leads: never act again.
    fn depose(&mut self) {
        if !self.bugs.has(InjectedBug::DeposedActs) {
            self.executors.outbox.discard();
            self.phase = Phase::Deposed;
        }
    }

    // ------------------------------------------------------------------------------------- ledger --

    fn ledger_progressed(&mut self, progress: Progress, was_parked: bool) {
        match progress {
            Progress::Waiting => {}
            Progress::Opened => {
                self.phase = Phase::AwaitingClaim;
                self.executors.ledger.witness(self.view.witness());
                self.forget_requested();
                if self.bugs.has(InjectedBug::IdsInMemory) {
                    self.executors.ledger.edit().reserved = ExecutorId(0);
                }
            }
            Progress::Deposed => {
                self.publish_parked();
                self.act(Cause::Start, Verb::CheckLease);
            }
            Progress::Doubted => {
                let text = "the ledger is another leader's: the Lease is asked";
                self.note(text);
                self.act(Cause::Start, Verb::CheckLease);
            }
            Progress::Refused if was_parked => {}
            Progress::Refused => self.publish_parked(),
            Progress::Reset => self.begin_again(),
            Progress::Failing(why) => {
                if self.executors.ledger.failures() == 3 {
                    self.publish(Reason::LedgerUnavailable, why);
                }
            }
            Progress::Confirmed(number) => self.written(number),
        }
        if was_parked && self.executors.ledger.refused().is_none() {
            self.note("the ledger is in order again");
            self.executors.table.wake_all(self.now.instant);
        }
    }

    fn publish_parked(&mut self) {
        if let Some(why) = self.parked() {
            self.publish(Reason::LedgerRefused, why);
        }
    }

    fn written(&mut self, number: u64) {
        if self.phase == Phase::AwaitingClaim {
            self.phase = Phase::AwaitingRelist;
            self.view.saw(self.executors.ledger.get().revision);
            self.view.relist_now(self.now.instant);
        }
        while let Some(id) = self.executors.outbox.next_recorded(number) {
            self.executors.recorded(id, env!(self));
        }
        self.executors.outbox.send_replies(number);
    }

    fn leadership_confirmed(&mut self) {
        self.executors.ledger.affirmed(self.now.instant);
        self.executors.table.wake_all(self.now.instant);
        if std::mem::take(&mut self.resets_ledger) {
            self.executors.ledger.reset();
        }
    }

    /// The stored record is being overwritten.
    fn begin_again(&mut self) {
        if self.view.sees_past() && self.phase == Phase::AwaitingRelist {
            // Discard what came from the record.
            self.forget_revisions();
        }
        self.phase = Phase::AwaitingClaim;
        self.view.relist_done();
        self.publish(Reason::LedgerReset, "the ledger is replaced".to_owned());
    }

    fn forget_revisions(&mut self) {
        self.executors.table.forget_revisions();
        self.view.forget_revisions();
        self.driver.forget_revision();
    }

    // ---------------------------------------------------------------------------------- the view --

    fn relisted(&mut self, list: Relist) {
        // A driver that is gone stays gone, also if the list is too old to be used for pods.
        self.driver_is(list.driver.clone(), list.revision);
        let first = self.phase == Phase::AwaitingRelist;
        let claimed = first.then(|| self.executors.ledger.revision());
        let belief = self.view.believes(&list, claimed, env!(self));
        if belief.restored {
            self.forget_revisions();
        }
        if !belief.believed {
            return self.relisted_past(list.revision);
        }
        self.view.saw(list.revision);
        self.view.relist_done();
        self.driver_is(list.driver.clone(), list.revision);
        if first {
            self.activate(&list.pods);
        }
        let ours = list.pods.iter().filter(|pod| env!(self).is_ours(pod));
        let mut listed: Vec<ExecutorId> = ours.map(|pod| pod.executor).collect();
        listed.sort_unstable();
        for pod in list.pods {
            if self.executors.table.get(pod.executor).is_some() || !self.view.is_buried(&pod) {
                self.pod_changed(pod);
            }
        }
        if !self.bugs.has(InjectedBug::MissingIsKept) {
            for id in missing(list.revision, &listed, &self.executors.table) {
                self.change(id, |executor, cx| pod::vanished(executor, Trigger::PodMissing, cx));
            }
        }
        if first {
            self.first_listed(&listed, list.revision);
        }
        self.view.prune_nodes(&self.executors.table);
    }

    /// A list is older than the known state. For the first list the reason may be a ledger that is newer than
    /// the cluster.
    fn relisted_past(&mut self, revision: u64) {
        let now = self.now.instant;
        self.view.relist_again(now, &mut self.executors.seed);
        if self.phase == Phase::AwaitingRelist && self.view.first_list_past(revision, now) {
            self.publish_parked();
        }
    }

    /// The first complete list has arrived: the fleet may act.
    fn activate(&mut self, pods: &[PodView]) {
        let now = self.now.instant;
        self.phase = Phase::Active;
        self.listens = true;
        self.executors.signals.start(env!(self));
        // If an executor was ever created, the driver was up.
        if self.executors.ledger.get().created == 0 {
            self.driver.await_answer(now);
        }
        self.rolls.start(self.spec.roll.as_ref(), now);
        self.check_restored(pods);
    }

    /// The first list was applied: what does it lack, and what was reported before it?
    fn first_listed(&mut self, listed: &[ExecutorId], revision: u64) {
        let ledger = self.executors.ledger.get();
        self.view.find_absent(listed, ledger, &self.executors.table);
        let kept: IdSet = listed.iter().copied().filter(|id| ledger.kept.contains(*id)).collect();
        if kept != ledger.kept {
            self.executors.ledger.edit().kept = kept;
        }
        self.take_absent();
        let (early, overflowed) = self.view.take_early(revision);
        if overflowed {
            self.view.relist_again(self.now.instant, &mut self.executors.seed);
        }
        for (pod, gone) in early {
            if gone { self.pod_gone(&pod) } else { self.pod_changed(pod) }
        }
    }

    /// Classifies executors that the first list lacked, some at a time.
    fn take_absent(&mut self) {
        for _ in 0..ATTENDED_MAX {
            let Some(id) = self.view.next_absent(&self.executors.table) else { return };
            let known = self.executors.table.get(id).is_some();
            if !known && self.executors.ledger.get().born.contains(id) {
                self.executors.table.insert(id, Executor::new(Stage::AwaitingStart, self.now.instant));
                self.change(id, |executor, cx| pod::vanished(executor, Trigger::PodMissing, cx));
            }
        }
    }

    fn highest_named(&self, pods: &[PodView]) -> ExecutorId {
        ClusterView::highest_named(pods, self.executors.ledger.get().reserved, env!(self))
    }

    /// Is the ledger older than the cluster? Then ids beyond it may have been used.
    fn check_restored(&mut self, pods: &[PodView]) {
        if !env!(self).owns() {
            return;
        }
        let highest = self.highest_named(pods).max(self.driver.named());
        let ledger = self.executors.ledger.get();
        // Without a ledger and without pods, the fleet is new.
        let distrusts = self.executors.ledger.distrusts();
        let fresh = ledger.reserved == ExecutorId(0) && highest == ExecutorId(0) && !distrusts;
        if fresh && ledger.suspect {
            self.executors.ledger.edit().suspect = false;
        } else if highest > ledger.reserved || ledger.suspect || distrusts {
            self.restored(highest);
        }
    }

    fn restored(&mut self, highest: ExecutorId) {
        self.executors.ledger.jump(highest, self.view.revision());
        let message = "the ledger may be older than the world: ids jump ahead".to_owned();
        self.publish(Reason::LedgerRestored, message);
    }

    fn pod_changed(&mut self, pod: PodView) {
        let id = pod.executor;
        self.view.saw(pod.revision);
        if self.executors.table.get(id).is_some() {
            self.change(id, |executor, cx| pod::pod_changed(executor, pod, cx));
        } else if env!(self).is_ours(&pod) {
            let found = pod::found(id, pod, self.executors.ledger.get(), env!(self));
            let Some(executor) = found else { return };
            self.view.not_absent(id);
            self.executors.table.insert(id, executor);
            self.change(id, pod::adopt);
        }
    }

    fn pod_gone(&mut self, pod: &PodView) {
        self.view.saw(pod.revision);
        self.view.bury(pod);
        self.change(pod.executor, |executor, cx| pod::pod_gone(executor, pod, cx));
    }

    fn driver_is(&mut self, driver: DriverView, revision: u64) {
        if !self.driver.update(driver, revision, env!(self)) {
            return;
        }
        self.note("the driver's container has ended");
        let max = self.spec.failures_max(self.target());
        let Executors { losses, ledger, .. } = &mut self.executors;
        if losses.driver_ended(max, ledger, env!(self)) {
            self.note("its failures were the driver's: the fleet goes on");
        }
    }

    fn driver_reported(&mut self, rows: Vec<DriverRow>) {
        self.driver.reported(&rows, self.executors.ledger.get().reserved);
        if !self.listens {
            return;
        }
        // The driver remembers executors that the ledger may have forgotten.
        let ids = rows.iter().map(|row| row.executor).filter(|id| *id <= ExecutorId::MAX);
        let highest = ids.max().unwrap_or_default();
        if env!(self).owns() && highest > self.executors.ledger.get().reserved {
            self.restored(highest);
        }
        // The driver expires heartbeats itself, but late: `isActive` counts as a sign of life only while no
        // executor is heard directly. Otherwise only counters that changed since its last report do.
        let liveness = self.executors.signals.liveness();
        let believed = !liveness.hears(self.now.instant, &self.spec.heartbeat);
        for row in rows {
            self.change(row.executor, |executor, cx| start::driver_reported(executor, row, believed, cx));
        }
    }

    fn heard(&mut self, beat: Beat) {
        let Some(executor) = self.executors.table.get(beat.executor) else { return };
        let other = |known: &PodView| beat.uid.as_ref().is_some_and(|uid| *uid != known.uid);
        if executor.gone || executor.pod.as_deref().is_none_or(other) {
            // From an earlier pod with this id, from a pod that was deleted with its lost node, or from one
            // that is not known yet.
            return;
        }
        if self.executors.signals.heard(self.now.instant) {
            // Silence can be trusted again.
            self.executors.table.wake_all(self.now.instant);
        }
        let metrics = self.executors.signals.indexed(beat.metrics);
        self.change(beat.executor, |executor, cx| start::heard(executor, metrics, cx));
    }

    // ------------------------------------------------------------------------------------ advance --

    /// Let every part check whether it has something to do.
    fn advance(&mut self) {
        let now = self.now.instant;
        if self.phase == Phase::Deposed {
            return;
        }
        while let Some((action, open)) = self.asker.next_late(now) {
            self.unanswered(action, &open, &Fault::Host("no answer in time".to_owned()));
        }
        if self.view.take_due(now) {
            let action = self.act(Cause::Start, Verb::Relist { known: self.view.revision() });
            self.view.relist_requested(action);
        }
        if self.phase == Phase::Active {
            self.executors.signals.recover(env!(self), &mut self.executors.outbox);
            self.take_absent();
            for _ in 0..ATTENDED_MAX {
                let Some(id) = self.executors.table.next_due(now) else { break };
                self.attend(id);
            }
            while self.asker.has_room() {
                let Some(id) = self.executors.losses.next_to_ask() else { break };
                if loss::awaits(id, None, &self.executors.table) {
                    self.ask_why(id, 0);
                }
            }
            self.rolling().run();
            self.allocate();
            if self.ending_deadline().is_some_and(|due| due <= now) {
                self.executors.losses.end_application(env!(self), &mut self.executors.outbox);
            }
        }
        if let Some(request) = self.executors.ledger.poll(now) {
            let action = match request {
                Request::Read => self.act(Cause::Start, Verb::ReadLedger),
                Request::Write { mut ledger, over } => {
                    ledger.revision = self.view.revision();
                    self.act(Cause::Record, Verb::WriteLedger { ledger, over })
                }
            };
            self.executors.ledger.sent(action);
        }
    }

    /// Process an executor that is due.
    fn attend(&mut self, id: ExecutorId) {
        let Some(executor) = self.executors.table.get(id) else { return };
        if !executor.stage.awaits_end() {
            return self.change(id, due::attend);
        }
        let env = env!(self);
        let clearance = Clearance {
            permits: self.permits(),
            roll: env.roll_spec(&self.rolls.by_hand),
            available: self.executors.table.tally().available_count(self.bugs),
            floor: self.executors.bounds(env).floor,
            rate_permits_at: self.executors.creation.deletes_from(env),
        };
        self.executors.change(id, env, |executor, cx| remove(executor, &clearance, cx));
    }

    /// When the driver's deletion is requested, or requested again.
    fn ending_deadline(&self) -> Option<Instant> {
        let permitted = !self.driver.gone(env!(self)) && self.situation().may_change_pods().is_ok();
        self.executors.ending_due(env!(self)).filter(|_| permitted)
    }

    // ----------------------------------------------------------------------------------- allocate --

    fn allocate(&mut self) {
        if !env!(self).owns() {
            return;
        }
        self.executors.creation.shrinking = false;
        let bounds = self.executors.bounds(env!(self));
        let tally = *self.executors.table.tally();
        let wanted = allocate::wanted(&tally, &bounds, env!(self));
        if tally.serving > wanted && self.permits().shrink.is_ok() {
            let excess = tally.serving - wanted;
            let removals = shrink::shrink(excess, bounds.floor, &self.executors.table, env!(self));
            self.executors.creation.shrinking = removals.more;
            for id in removals.executors {
                self.change(id, |executor, cx| {
                    end::record_removal_intent(executor, DeletionCause::ScaleDown, cx);
                });
            }
        }
        if tally.serving < wanted && tally.recallable > 0 {
            for id in shrink::recall(wanted - tally.serving, &self.executors.table) {
                self.change(id, |executor, cx| pod::cancel_removal(executor, "wanted again", cx));
            }
        }
        let tally = *self.executors.table.tally();
        let missing = wanted.saturating_sub(tally.serving);
        if missing == 0 {
            self.executors.creation.is_complete();
            // At full strength the breaker has nothing to probe.
            if tally.starting == 0 && self.executors.losses.breaker.rested(self.now.instant) {
                self.publish(Reason::BreakerClosed, "the fleet is at strength".to_owned());
            }
        }
        self.reserve_ids(bounds.target, missing);
        let held = self.create(missing);
        if let Some(refusal) = self.executors.creation.hold(held) {
            self.executors.outbox.refused(refusal);
        }
    }

    fn reserve_ids(&mut self, target: u32, missing: u32) {
        if target == 0 && missing == 0 || self.situation().may_change_pods().is_err() {
            return;
        }
        let ledger = &mut self.executors.ledger;
        let count = allocate::ids_to_reserve(missing, ledger.reserved_ahead(), env!(self));
        if count > 0 {
            ledger.reserve(count, ExecutorId(1));
            if self.bugs.has(InjectedBug::CreateBeforeReserve) {
                ledger.use_unwritten();
            }
        }
    }

    /// Create the missing executors, as far as that is permitted. Returns why not all.
    fn create(&mut self, missing: u32) -> Option<Refusal> {
        if missing == 0 {
            return None;
        }
        let creates = allocate::creates(missing, &self.situation().create_limits(), env!(self));
        for _ in 0..creates.count {
            let Some(id) = self.executors.ledger.take_spare() else { return Some(Refusal::NoIds) };
            let avoided = self.executors.losses.avoided_nodes(self.view.nodes_len(), env!(self));
            self.view.not_absent(id);
            self.executors.create(id, avoided, env!(self));
        }
        creates.held
    }

    // ------------------------------------------------------------------------------------ answers --

    /// Ask the first available classifier of the chain, from `place` on.
    fn ask_why(&mut self, id: ExecutorId, place: usize) {
        let Executors { table, ledger, .. } = &self.executors;
        let from = loss::Sources { table, ledger: ledger.get(), view: &self.view, driver: &self.driver };
        let Some(evidence) = loss::question(id, from, env!(self)) else { return };
        let chain = self.spec.recovery.policies.iter().map(String::as_str).chain([LAST_CLASSIFIER]);
        let Some((place, policy)) = self.asker.next(chain, place, self.now.instant) else {
            return self.undetermined(id);
        };
        let question = Question::Loss(Box::new(evidence));
        let action = self.act(Cause::Loss(id), Verb::Ask { policy: policy.clone(), question });
        self.asker.asked(action, About::Loss(id), place, policy, self.now.instant);
        self.executors.table.change(id, |executor| executor.asked(action));
    }

    fn answered(&mut self, action: ActionId, answer: Result<Answer, Fault>) {
        let Some(open) = self.asker.close(action) else { return };
        match open.accept(answer) {
            Ok(answer) => {
                self.asker.answered(&open.policy);
                match answer {
                    Answered::Roll(selection) => self.rolling().selected(action, &open, selection),
                    Answered::Loss(id, _) if !loss::awaits(id, Some(action), &self.executors.table) => {}
                    Answered::Loss(id, Verdict::Known(reason)) => self.verdict(id, &reason),
                    Answered::Loss(id, Verdict::Undetermined) => self.undetermined(id),
                    Answered::Loss(id, Verdict::Abstain) => self.ask_why(id, open.place + 1),
                }
            }
            Err(fault) => self.unanswered(action, &open, &fault),
        }
    }

    /// A policy gave no answer, or none in time: ask the next one of its chain.
    fn unanswered(&mut self, action: ActionId, open: &Open, fault: &Fault) {
        let (Fault::Policy(message) | Fault::Host(message)) = fault;
        let reason = match fault {
            Fault::Policy(_) => Reason::PolicyFault,
            // The policy is not to blame for it.
            Fault::Host(_) => Reason::PolicyNotAsked,
        };
        self.publish(reason, format!("{}: {message}", open.policy));
        if self.asker.failed(&open.policy, fault, self.now.instant) {
            self.publish(Reason::PolicyQuarantined, format!("{} is skipped for a while", open.policy));
        }
        match open.about {
            About::Loss(id) if loss::awaits(id, Some(action), &self.executors.table) => {
                self.ask_why(id, open.place + 1);
            }
            About::Loss(_) => {}
            About::Roll => self.rolling().unanswered(action, open.place + 1),
        }
    }

    /// This check was inconclusive. Check again after the interval, or settle the loss as unknown.
    fn undetermined(&mut self, id: ExecutorId) {
        let mut over = false;
        self.change(id, |executor, cx| over = end::undetermined(executor, cx));
        if over {
            self.verdict(id, &loss::unknown());
        }
    }

    fn verdict(&mut self, id: ExecutorId, reason: &LossReason) {
        let node = self.executors.table.get(id).and_then(|executor| self.view.node_of(executor));
        self.executors.verdict(id, reason, node, env!(self));
    }

    // ----------------------------------------------------------------------------------- commands --

    fn command(&mut self, command: CommandId, verb: Command) {
        if verb == Command::ResetLedger {
            return self.reset_ledger(command);
        }
        let reply = if self.parked().is_some() {
            Reply::Refused(Refusal::LedgerRefused)
        } else if self.phase == Phase::Active {
            self.execute(verb)
        } else {
            Reply::Refused(Refusal::NotLeading)
        };
        let Executors { ledger, outbox, .. } = &mut self.executors;
        match &reply {
            Reply::Done => {}
            Reply::Refused(refusal) => outbox.refused(*refusal),
            Reply::Executors(each) => {
                each.iter()
                    .filter_map(|(_, result)| result.err())
                    .for_each(|refusal| outbox.refused(refusal));
            }
        }
        // A change that was confirmed to an operator must survive this host.
        let mark = ledger.mark();
        if ledger.is_confirmed(mark) || matches!(reply, Reply::Refused(_)) {
            outbox.reply(command, reply);
        } else {
            outbox.reply_after(mark, command, reply);
        }
    }

    fn execute(&mut self, verb: Command) -> Reply {
        let done = |result: Result<(), Refusal>| result.map_or_else(Reply::Refused, |()| Reply::Done);
        match verb {
            Command::RequestTotalExecutors(total) => done(self.request_total(total)),
            Command::Kill { executors, replace, force } => self.kill(&executors, replace, force),
            Command::Roll(executor) => done(self.rolling().by_hand(executor)),
            Command::Pause => {
                self.executors.ledger.edit().paused = true;
                Reply::Done
            }
            Command::Resume => {
                self.executors.ledger.edit().paused = false;
                self.executors.table.wake_all(self.now.instant);
                Reply::Done
            }
            Command::ResetBreaker => {
                let ledger = self.executors.ledger.edit();
                ledger.failed = false;
                ledger.failures.clear();
                self.executors.losses.breaker.reset();
                self.executors.creation.pace = Pace::new(&self.spec.allocation);
                Reply::Done
            }
            Command::ResetLedger => Reply::Refused(Refusal::LedgerInOrder),
        }
    }

    /// The Lease is read first: another leader's record must not be overwritten. If this host holds the Lease,
    /// the ledger is read for its version, and written; then the operator gets the reply.
    fn reset_ledger(&mut self, command: CommandId) {
        let past = self.phase == Phase::AwaitingRelist && self.view.sees_past();
        let refusal = match self.phase {
            Phase::AwaitingLeadership | Phase::Deposed => Some(Refusal::NotLeading),
            Phase::AwaitingLedger | Phase::AwaitingClaim | Phase::AwaitingRelist | Phase::Active => {
                let parked = past || self.executors.ledger.refused().is_some();
                (!parked).then_some(Refusal::LedgerInOrder)
            }
        };
        let Executors { ledger, outbox, .. } = &mut self.executors;
        if let Some(refusal) = refusal {
            outbox.refused(refusal);
            outbox.reply(command, Reply::Refused(refusal));
            return;
        }
        self.resets_ledger = true;
        outbox.reply_after(ledger.next_write(), command, Reply::Done);
        outbox.act(Cause::Command(command), Verb::CheckLease);
    }

    fn request_total(&mut self, total: u32) -> Result<(), Refusal> {
        if !env!(self).owns() {
            return Err(Refusal::ObserveMode);
        }
        if total > self.spec.limits.executors_max {
            return Err(Refusal::AboveMaximum);
        }
        let spec_target = self.spec.target;
        self.executors.ledger.edit().requested = Some(Requested { total, spec_target });
        Ok(())
    }

    fn kill(&mut self, executors: &[ExecutorId], replace: bool, force: bool) -> Reply {
        if let Err(refusal) = self.situation().may_change_pods() {
            return Reply::Refused(refusal);
        }
        let mut results = Vec::new();
        for &id in executors {
            let result = may_kill(self.executors.table.get(id), force);
            if result.is_ok() {
                self.executors.ledger.edit().leaving.insert(id, DeletionCause::Kill);
                self.executors.mark_lost(id, Trigger::OperatorKill, env!(self));
            }
            results.push((id, result));
        }
        let killed = results.iter().filter(|(_, result)| result.is_ok()).count();
        if !replace && killed > 0 && env!(self).owns() {
            let total = self.target().saturating_sub(u32::try_from(killed).unwrap_or(u32::MAX));
            let spec_target = self.spec.target;
            self.executors.ledger.edit().requested = Some(Requested { total, spec_target });
        }
        Reply::Executors(results)
    }
}
