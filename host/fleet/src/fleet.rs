//! One fleet: it receives events, returns actions, and combines the state machines.
//!
//! A fleet can only be as correct as its inputs, so it starts in three steps: it reads the ledger, it claims
//! the ledger (which ends the reservations of every earlier leader), and it requests a complete list. Only then
//! does it act. From then on each step is the same: apply the event, then let every part check whether it has
//! something to do. The core keeps no list of *work to do*; the work follows from the current state. So an
//! event that arrives twice, late or never changes nothing in the end.
//!
//! `Fleet` owns the parts, keeps the phase, and decides nothing that one of the parts can decide alone. It lends
//! them to the flows in `flow`. Transitions of an executor are functions in `lifecycle`, which return effects;
//! `Executors` is the only place where effects are carried out. Planners in `plan` return what should be done.
//! Every outcome of a call arrives in `finished`.
//!
//! The work of a step is bounded: a limited number of due executors, of questions and of creates. If work is
//! left over, the deadline is *now*.

use crate::action::{Action, Cause, Reason, Reply, Verb};
use crate::ask::{About, Answered, Asker, Open};
use crate::breaker::Breaker;
use crate::driver::DriverState;
use crate::env::Env;
use crate::event::{Answer, Command, Event, Fault, Relist};
use crate::executors::Executors;
use crate::flow::allocate::Allocating;
use crate::flow::classify::Classifying;
use crate::flow::command;
use crate::flow::observe::Observing;
use crate::flow::pod_call::PodCalls;
use crate::flow::roll::Rolling;
use crate::guardrail::{Permits, Refusal};
use crate::id::{ActionId, CommandId, ExecutorId};
use crate::injected_bug::{Bugs, InjectedBug};
use crate::ledger::{Progress, Request};
use crate::lifecycle::due;
use crate::lifecycle::removal::{Clearance, remove};
use crate::observed::PodView;
use crate::outcome::Outcome;
use crate::pace::Pace;
use crate::parked;
use crate::permits::Situation;
use crate::phase::{Phase, Why};
use crate::plan::allocate;
use crate::rolls::Rolls;
use crate::spec::{FleetSpec, SpecError, ValidatedSpec};
use crate::table::ATTENDED_MAX;
use crate::time::{Instant, Now};
use crate::view::ClusterView;

/// The executors of one application, and all decisions about them.
#[derive(Debug)]
pub struct Fleet {
    spec: ValidatedSpec,
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
    pub fn new(spec: FleetSpec, policies: &[String], seed: u64) -> Result<Fleet, Vec<SpecError>> {
        let spec = ValidatedSpec::check(spec, policies)?;
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

    #[cfg(feature = "injected-bugs")]
    pub(crate) fn with(mut self, bug: Option<InjectedBug>) -> Fleet {
        bug.into_iter().for_each(|bug| self.inject(bug));
        self
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
            let (held, rates) = (self.executors.creation.held(), self.executors.rates());
            let creates = allocate::deadline(held, || self.driver.starts_until(env), rates, env);
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
    pub fn spec(&self) -> &ValidatedSpec {
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

    fn observing(&mut self) -> Observing<'_> {
        Observing {
            executors: &mut self.executors,
            view: &mut self.view,
            driver: &mut self.driver,
            env: env!(self),
        }
    }

    fn classifying(&mut self) -> Classifying<'_> {
        Classifying {
            executors: &mut self.executors,
            asker: &mut self.asker,
            view: &self.view,
            driver: &self.driver,
            env: env!(self),
        }
    }

    fn allocating(&mut self) -> Allocating<'_> {
        Allocating {
            executors: &mut self.executors,
            view: &mut self.view,
            driver: &self.driver,
            phase: self.phase,
            env: env!(self),
        }
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
            Event::SpecChanged { spec, policies } => self.respec(*spec, &policies),
            Event::Commanded { command, verb } => self.command(command, verb),
            Event::Answered { action, answer } => self.answered(action, answer),
            Event::DriverChanged { driver, revision } => self.observing().driver_is(driver, revision),
            Event::Relisted(list) => {
                if matches!(self.phase, Phase::AwaitingRelist | Phase::Active) {
                    self.relisted(list);
                } else {
                    let highest = self.observing().highest_named(&list.pods);
                    self.view.witnessed(highest);
                    self.view.saw(list.revision);
                    self.observing().driver_is(list.driver, list.revision);
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
            Event::DriverReported(mut rows) => {
                // The driver reports all executors of the application.
                rows.retain(|row| self.spec.ids.contains(row.executor));
                self.driver.reported(&rows, self.executors.ledger.get().reserved);
                if self.listens {
                    self.observing().driver_reported(rows);
                }
            }
            _ if !self.listens => {}
            Event::PodChanged(pod) => self.observing().pod_changed(*pod),
            Event::PodGone(pod) => self.observing().pod_gone(&pod),
            Event::Heartbeat(beat) => self.observing().heard(*beat),
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
            let (executors, view) = (&mut self.executors, &mut self.view);
            PodCalls { executors, view, env }.finished(call, action, outcome);
        }
    }

    fn respec(&mut self, spec: FleetSpec, policies: &[String]) {
        let spec = match self.spec.succeeded_by(spec, policies) {
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
        let requested = self.executors.ledger.get().requested;
        if requested.is_some_and(|requested| requested.spec_target != self.spec.target) {
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
                if self.executors.ledger.tell_outage() {
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
        self.observing().driver_is(list.driver.clone(), list.revision);
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
        self.observing().driver_is(list.driver.clone(), list.revision);
        if first {
            self.activate(&list.pods);
        }
        self.observing().listed(list.pods, list.revision, first);
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
        self.observing().check_restored(pods);
    }

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
            self.observing().take_absent();
            for _ in 0..ATTENDED_MAX {
                let Some(id) = self.executors.table.next_due(now) else { break };
                self.attend(id);
            }
            self.classifying().run();
            if self.rolls.has_work(now) {
                self.rolling().run();
            }
            self.allocating().run();
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
        let env = env!(self);
        let Some(executor) = self.executors.table.get(id) else { return };
        if !executor.stage.awaits_end() {
            return self.executors.change(id, env, due::attend);
        }
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

    fn answered(&mut self, action: ActionId, answer: Result<Answer, Fault>) {
        let Some(open) = self.asker.close(action) else { return };
        match open.accept(answer) {
            Ok(answer) => {
                self.asker.answered(&open.policy);
                match answer {
                    Answered::Roll(selection) => self.rolling().selected(action, &open, selection),
                    Answered::Loss(id, verdict) => {
                        self.classifying().answered(id, action, &open, verdict);
                    }
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
            About::Loss(id) => self.classifying().unanswered(id, action, open),
            About::Roll => self.rolling().unanswered(action, open.place + 1),
        }
    }

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
        command::answer(command, reply, &mut self.executors);
    }

    fn execute(&mut self, verb: Command) -> Reply {
        let done = |result: Result<(), Refusal>| result.map_or_else(Reply::Refused, |()| Reply::Done);
        match verb {
            Command::RequestTotalExecutors(total) => {
                done(command::request_total(total, &mut self.executors, env!(self)))
            }
            Command::Kill { executors, replace, force } => {
                let may = self.situation().may_change_pods();
                let options = command::Kill { replace, force };
                command::kill(&executors, options, may, &mut self.executors, env!(self))
            }
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
}
