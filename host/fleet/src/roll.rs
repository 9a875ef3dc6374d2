//! Rolling: executors are replaced one after another before they degrade. ExecutorRollPlugin, with its bugs fixed.
//!
//! ```text
//!  Resting ──interval──► AwaitingPicks ──picks──► a roll each:
//!                                                 picked ─► its replacement is available ─► announced ─► exit
//! ```
//!
//! Where surge allows it, the replacement comes first: a picked executor still serves, and the fleet wants one
//! executor more than the target. The executor is removed only if the fleet stays at its minimum without it,
//! judged at that moment and not at the time of the pick. The request is an eviction with a grace period: a
//! decommission for Spark, and a disruption that PodDisruptionBudgets may refuse for Kubernetes. A roll that
//! hangs ends at its timeout.
//!
//! Spark's plugin decommissions first and relies on the allocator to notice, rolls while executors are missing,
//! and checks no limits. Rejected: rolling several executors at once by default. One at a time is slower, and
//! never the reason why a streaming job lags.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::{Cause, Question, Reason, Verb};
use crate::ask::{About, Open};
use crate::event::Counters;
use crate::executor::{Executor, Stage};
use crate::fleet::Fleet;
use crate::guardrail::{Refusal, unless_dry};
use crate::id::{ActionId, ExecutorId};
use crate::injected_bug::InjectedBug;
use crate::observed::PodView;
use crate::question::{Candidate, Candidates, DeletionCause, Metric, Node, RollQuestion, Selection};
use crate::rolls::{Roll, State};
use crate::spec::RollSpec;
use crate::time::Instant;
use crate::window;

const HOUR_MS: u64 = 3_600_000;
/// A decision that a guardrail postponed is repeated after this.
const PUT_OFF_MS: u64 = 30_000;

impl Fleet {
    /// The roll settings: the spec's, or the defaults if an operator rolls executors by hand.
    pub(crate) fn roll_spec(&self) -> &RollSpec {
        self.spec.roll.as_ref().unwrap_or(&self.rolls.by_hand)
    }

    pub(crate) fn roll(&mut self) {
        self.go_on_with_rolls();
        let State::Resting(due) = self.rolls.state else { return };
        if self.now.instant >= due || self.rolls.forced {
            self.decide();
        }
    }

    pub(crate) fn roll_deadline(&self) -> Option<Instant> {
        let due = match self.rolls.state {
            State::Resting(due) => Some(due),
            State::Off | State::AwaitingPicks { .. } => None,
        };
        let waits_ms = [self.roll_spec().timeout_ms, self.spec.allocation.pending_timeout_ms];
        let now = self.now.instant;
        let expiry =
            self.rolls.under_way.iter().flat_map(|roll| waits_ms.map(|wait_ms| roll.since + wait_ms));
        let expiry = expiry.filter(|at| *at > now).min();
        let calm = self.mass_loss.ends().filter(|at| *at > now && !self.rolls.under_way.is_empty());
        due.into_iter().chain(expiry).chain(calm).min()
    }

    /// Are voluntary disruptions allowed at all?
    pub(crate) fn may_disrupt(&self) -> Result<(), Refusal> {
        unless_dry(self.may_shrink(), || {
            if self.book.get().failed {
                Err(Refusal::FleetFailed)
            } else if self.breaker.is_open() {
                Err(Refusal::BreakerOpen)
            } else if self.mass_loss.is_on(self.now.instant) {
                Err(Refusal::MassLoss)
            } else {
                Ok(())
            }
        })
    }

    // ----------------------------------------------------------------------------------- decide --

    fn decide(&mut self) {
        let Some(spec) = self.spec.roll.clone() else { return };
        let now = self.now.instant;
        let forced = self.rolls.forced;
        let asked = self.may_ask(&spec, forced).and_then(|()| self.ask_whom(&spec, 0));
        match asked {
            Ok(()) => self.rolls.forced = false,
            Err(refusal) => {
                self.refused(refusal);
                let was = self.rolls.refused.replace(refusal);
                // Conditions that only time can change are checked again soon; an operator's request ends here.
                let wait_ms = if refusal == Refusal::NoCandidate {
                    spec.interval_ms
                } else {
                    PUT_OFF_MS.min(spec.interval_ms)
                };
                self.rolls.forced = false;
                self.rolls.state = State::Resting(now + wait_ms);
                if was != Some(refusal) {
                    self.log.add(self.now, None, format!("no roll: {}", refusal.meaning()));
                }
            }
        }
    }

    fn may_ask(&self, spec: &RollSpec, forced: bool) -> Result<(), Refusal> {
        match self.may_disrupt() {
            // A dry run asks the policy and publishes the result.
            Ok(()) | Err(Refusal::DryRun) => {}
            Err(refusal) => return Err(refusal),
        }
        if self.rolls.under_way.len() >= spec.picks_max as usize {
            return Err(Refusal::RollUnderWay);
        }
        if forced {
            return Ok(());
        }
        let now = self.now.instant;
        if !window::any_open(&spec.windows, self.now.wall_ms) {
            return Err(Refusal::OutsideWindow);
        }
        if self.rolls.ended.is_some_and(|ended| now.since_ms(ended) < spec.cool_down_ms) {
            return Err(Refusal::CoolDown);
        }
        let recent = self.rolls.begun.iter().filter(|begun| now.since_ms(**begun) < HOUR_MS).count();
        if recent >= spec.per_hour_max as usize {
            return Err(Refusal::MaxRolls);
        }
        Ok(())
    }

    /// May this executor be rolled? Decided from the host's own view, regardless of the policy.
    pub(crate) fn may_roll(
        &self,
        executor: &Executor,
        spec: &RollSpec,
        by_hand: bool,
    ) -> Result<(), Refusal> {
        if self.has_bug(InjectedBug::PicksUnchecked) && executor.is_available() && !executor.rolling {
            return Ok(());
        }
        if executor.rolling
            || matches!(executor.stage, Stage::AwaitingAnnouncement { .. } | Stage::AwaitingExit { .. })
        {
            return Err(Refusal::AlreadyLeaving);
        }
        if !executor.is_available() {
            return Err(Refusal::NotAvailable);
        }
        if executor.pod.as_deref().is_some_and(|pod: &PodView| pod.do_not_roll) {
            return Err(Refusal::DoNotRoll);
        }
        if by_hand {
            return Ok(());
        }
        if self.age_ms(executor) < spec.age_min_ms {
            return Err(Refusal::TooYoung);
        }
        let counters = self.counters(executor).ok_or(Refusal::NoCounters)?;
        if i64::from(counters.total_tasks) < i64::from(spec.tasks_min) {
            return Err(Refusal::TooFewTasks);
        }
        Ok(())
    }

    /// Is there anything to ask a policy about?
    fn has_candidates(&self, spec: &RollSpec) -> Result<(), Refusal> {
        let mut why = Refusal::NoCandidate;
        for (_, executor) in self.roster.iter() {
            match self.may_roll(executor, spec, false) {
                Ok(()) => return Ok(()),
                Err(Refusal::NoCounters) => why = Refusal::NoCounters,
                Err(_) => {}
            }
        }
        Err(why)
    }

    /// The counters that the driver reported for the executor, unless they are too old.
    fn counters<'a>(&self, executor: &'a Executor) -> Option<&'a Counters> {
        let facts = executor.facts.as_deref()?;
        let old = self.now.instant.since_ms(facts.counted) > 2 * self.spec.driver_report_ms;
        facts.counters.as_ref().filter(|_| !old || self.has_bug(InjectedBug::OldCountersBelieved))
    }

    /// The longer of the age that the pod states and the age that this host observed.
    fn age_ms(&self, executor: &Executor) -> u64 {
        let seen_ms = self.now.instant.since_ms(executor.created);
        let created_ms = executor.pod.as_deref().and_then(|pod| pod.status.created_at_ms);
        let said_ms = created_ms.map_or(0, |created_ms| self.now.wall_ms.saturating_sub(created_ms));
        seen_ms.max(u64::try_from(said_ms).unwrap_or(0))
    }

    fn ask_whom(&mut self, spec: &RollSpec, place: usize) -> Result<(), Refusal> {
        let (question, offered, uncounted) = self.roll_question(spec);
        if offered.is_empty() {
            return Err(if uncounted { Refusal::NoCounters } else { Refusal::NoCandidate });
        }
        let chain = spec.policies.iter().map(String::as_str);
        let Some((place, policy)) = self.asker.next(chain, place, self.now.instant) else {
            return Err(Refusal::PolicyFailed);
        };
        let question = Question::Roll(Box::new(question));
        let action = self.act(Cause::Roll, Verb::Ask { policy: policy.clone(), question });
        self.asker.asked(action, About::Roll, place, policy, self.now.instant);
        self.rolls.state = State::AwaitingPicks { action, offered };
        Ok(())
    }

    /// The question, the executors that it offers, and whether any executor is missing because the driver has
    /// not reported its counters.
    fn roll_question(&mut self, spec: &RollSpec) -> (RollQuestion, Vec<ExecutorId>, bool) {
        let mut candidates = Candidates::default();
        let mut offered = Vec::new();
        let mut refusals: BTreeMap<Refusal, u64> = BTreeMap::new();
        let mut node_names: Vec<&str> = Vec::new();
        let names: BTreeSet<&str> = self.roster.iter().filter_map(|(_, executor)| executor.node()).collect();
        node_names.extend(names);
        let mut metrics: Vec<Metric> = self
            .metric_names
            .iter()
            .map(|name| Metric { name: name.as_ref().to_owned(), values: Vec::new() })
            .collect();
        let mut may = Vec::new();
        for (id, executor) in self.roster.iter() {
            match self.may_roll(executor, spec, false) {
                Ok(()) => may.push((id.to_string(), id, executor)),
                Err(refusal) => *refusals.entry(refusal).or_default() += 1,
            }
        }
        // The order of Spark's plugin, on which its ties depend: `AppStatusStore.executorList(true)` sorts ids
        // as strings, descending.
        if !self.has_bug(InjectedBug::CandidatesUnsorted) {
            may.sort_unstable_by(|(a, ..), (b, ..)| b.cmp(a));
        }
        for (_, id, executor) in may {
            let Some(counters) = self.counters(executor) else { continue };
            offered.push(id);
            candidates.push(self.candidate(id, executor, counters, &node_names));
            for (index, metric) in metrics.iter_mut().enumerate() {
                let values = executor.facts.as_ref().map(|facts| &facts.metrics);
                metric.values.push(values.and_then(|values| values.get(index)).copied().unwrap_or(f64::NAN));
            }
        }
        let nodes = node_names
            .iter()
            .map(|name| match self.nodes.get(*name) {
                Some(node) => Node {
                    zone: node.zone,
                    spot: node.state.spot,
                    ready: node.state.ready == "True",
                    cordoned: node.state.cordoned,
                    departing: !node.state.departures.is_empty(),
                },
                None => Node { zone: None, spot: false, ready: true, cordoned: false, departing: false },
            })
            .collect();
        let under_way = u32::try_from(self.rolls.under_way.len()).unwrap_or(u32::MAX);
        let question = RollQuestion {
            fleet: self.spec.name.clone(),
            application_id: self.spec.application_id.clone(),
            target: self.target(),
            available: self.roster.tally().available,
            now_ms: self.now.wall_ms,
            seed: 0,
            picks_max: spec.picks_max.saturating_sub(under_way).max(1),
            candidates,
            nodes,
            metrics,
        };
        let question = RollQuestion { seed: self.seed.draw(), ..question };
        let uncounted = refusals.contains_key(&Refusal::NoCounters);
        for (refusal, count) in refusals {
            *self.refusals.entry(refusal).or_default() += count;
        }
        (question, offered, uncounted)
    }

    fn candidate(
        &self,
        id: ExecutorId,
        executor: &Executor,
        counters: &Counters,
        nodes: &[&str],
    ) -> Candidate {
        let heard = executor.detector.last_heard();
        let node = executor.node().and_then(|node| nodes.binary_search(&node).ok());
        Candidate {
            id: id.0,
            add_time_ms: counters.add_time_ms,
            active_tasks: counters.active_tasks,
            failed_tasks: counters.failed_tasks,
            completed_tasks: counters.completed_tasks,
            total_tasks: counters.total_tasks,
            total_duration_ms: counters.total_duration_ms,
            total_gc_time_ms: counters.total_gc_time_ms,
            total_input_bytes: counters.total_input_bytes,
            total_shuffle_read_bytes: counters.total_shuffle_read_bytes,
            total_shuffle_write_bytes: counters.total_shuffle_write_bytes,
            memory_used_bytes: counters.memory_used_bytes,
            disk_used_bytes: counters.disk_used_bytes,
            peak_jvm_onheap_bytes: counters.peak_jvm_onheap_bytes,
            peak_jvm_offheap_bytes: counters.peak_jvm_offheap_bytes,
            age_ms: self.age_ms(executor),
            since_heartbeat_ms: heard.map(|heard| self.now.instant.since_ms(heard)),
            node: node.and_then(|node| u32::try_from(node).ok()),
        }
    }

    // ----------------------------------------------------------------------------------- answers --

    pub(crate) fn selected(&mut self, action: ActionId, open: &Open, selection: Selection) {
        let State::AwaitingPicks { action: asked, offered } = &self.rolls.state else { return };
        if *asked != action {
            return;
        }
        let offered = offered.clone();
        match selection {
            Selection::Abstain => self.roll_unanswered(action, open.place + 1),
            Selection::Nothing(reason) => {
                self.log.add(self.now, None, format!("{} picked no executor: {reason}", open.policy));
                self.refused(Refusal::PolicyDeclined);
                self.rest(Some(Refusal::PolicyDeclined));
            }
            Selection::Roll(picks) => {
                let Some(spec) = self.spec.roll.clone() else { return self.rest(None) };
                let mut refused = None;
                let mut proposed = 0;
                for pick in picks {
                    // The policy's answer is advice: roll only executors that were offered and may be rolled
                    // now, and only as many as the limits allow.
                    let Some(&id) = offered.get(pick.index).or(self.anybody(pick.index).as_ref()) else {
                        continue;
                    };
                    let why = format!("{}, score {}: {}", open.policy, pick.score, pick.reason);
                    let Err(refusal) = self.begin_roll(id, &spec, false) else {
                        self.publish(Reason::RollStarted, Some(id), why);
                        continue;
                    };
                    self.refused(refusal);
                    refused = Some(refusal);
                    if refusal != Refusal::DryRun {
                        let why = format!("picked, not rolled: {} ({why})", refusal.meaning());
                        self.log.add(self.now, Some(id), why);
                        continue;
                    }
                    self.publish(Reason::RollProposed, Some(id), format!("would be rolled: {why}"));
                    proposed += 1;
                    if proposed == spec.picks_max {
                        break;
                    }
                }
                self.rest(refused);
            }
        }
    }

    /// Injected bug: a pick that was not offered.
    fn anybody(&self, index: usize) -> Option<ExecutorId> {
        if !self.has_bug(InjectedBug::PicksUnchecked) {
            return None;
        }
        let count = self.roster.iter().count().max(1);
        self.roster.iter().nth(index % count).map(|(id, _)| id)
    }

    /// This policy gave no answer: ask the next one, or roll no executor.
    pub(crate) fn roll_unanswered(&mut self, action: ActionId, place: usize) {
        let State::AwaitingPicks { action: asked, .. } = &self.rolls.state else { return };
        if *asked != action {
            return;
        }
        let Some(spec) = self.spec.roll.clone() else { return self.rest(None) };
        if let Err(refusal) = self.ask_whom(&spec, place) {
            self.refused(refusal);
            self.rest(Some(refusal));
        }
    }

    fn rest(&mut self, refused: Option<Refusal>) {
        self.rolls.refused = refused;
        let interval_ms = self.spec.roll.as_ref().map(|spec| spec.interval_ms);
        self.rolls.state = interval_ms.map_or(State::Off, |ms| State::Resting(self.now.instant + ms));
    }

    fn begin_roll(&mut self, id: ExecutorId, spec: &RollSpec, by_hand: bool) -> Result<(), Refusal> {
        let now = self.now.instant;
        self.rolls.begun.retain(|begun| now.since_ms(*begun) < HOUR_MS);
        let may = unless_dry(self.may_disrupt(), || {
            let executor = self.roster.get(id).ok_or(Refusal::UnknownExecutor)?;
            self.may_roll(executor, spec, by_hand)?;
            if !by_hand && self.rolls.begun.len() >= spec.per_hour_max as usize {
                return Err(Refusal::MaxRolls);
            }
            if !by_hand && self.rolls.under_way.len() >= spec.picks_max as usize {
                return Err(Refusal::RollUnderWay);
            }
            Ok(())
        });
        // A dry run proposes no more rolls than would be started.
        if may.is_ok() || may == Err(Refusal::DryRun) && !by_hand {
            self.rolls.begun.push_back(now);
        }
        may?;
        self.rolls.under_way.push(Roll { executor: id, since: now, held: None });
        self.roster.change(id, |executor| executor.rolling = true);
        Ok(())
    }

    /// An operator rolls one executor, or requests a decision of the policy now.
    pub(crate) fn roll_by_hand(&mut self, executor: Option<ExecutorId>) -> Result<(), Refusal> {
        let spec = self.roll_spec().clone();
        let Some(id) = executor else {
            if self.spec.roll.is_none() {
                return Err(Refusal::NoRollPolicy);
            }
            self.may_ask(&spec, true)?;
            if let State::AwaitingPicks { .. } = self.rolls.state {
                return Err(Refusal::RollUnderWay);
            }
            // The operator is told at once whether the decision can have a result.
            self.has_candidates(&spec)?;
            self.rolls.forced = true;
            return Ok(());
        };
        self.begin_roll(id, &spec, true)?;
        self.publish(Reason::RollStarted, Some(id), "by hand".to_owned());
        Ok(())
    }

    // -------------------------------------------------------------------------------- under way --

    fn go_on_with_rolls(&mut self) {
        if self.rolls.under_way.is_empty() {
            return;
        }
        let spec = self.roll_spec().clone();
        let rolls = std::mem::take(&mut self.rolls.under_way);
        for mut roll in rolls {
            if self.go_on_with(&mut roll, &spec) {
                self.rolls.under_way.push(roll);
            } else {
                self.rolls.ended = Some(self.now.instant);
            }
        }
    }

    /// Returns whether the roll is still in progress afterwards.
    fn go_on_with(&mut self, roll: &mut Roll, spec: &RollSpec) -> bool {
        let id = roll.executor;
        let expired = self.now.instant >= roll.since + spec.timeout_ms;
        let Some(executor) = self.roster.get(id) else { return false };
        if executor.rolling {
            if expired {
                self.roster.change(id, |executor| executor.rolling = false);
                let why = "stays: its replacement did not come in time".to_owned();
                self.publish(Reason::RollAbandoned, Some(id), why);
                return false;
            }
            match self.may_let_go(roll.since) {
                Ok(()) => self.announce(id, DeletionCause::Roll),
                Err(refusal) if roll.held != Some(refusal) => {
                    roll.held = Some(refusal);
                    self.refused(refusal);
                }
                Err(_) => {}
            }
            return true;
        }
        // A refused removal is cancelled by the code that requests it; a roll that hangs is dropped at its timeout.
        matches!(executor.stage, Stage::AwaitingAnnouncement { cause: DeletionCause::Roll, .. })
            || executor.stage.leaving() == Some(DeletionCause::Roll) && !expired
    }

    /// Number of available executors, for voluntary disruptions.
    pub(crate) fn available_count(&self) -> u32 {
        let tally = self.roster.tally();
        let leaving =
            if self.has_bug(InjectedBug::FloorOverLeaving) { tally.occupying + tally.terminating } else { 0 };
        tally.available.max(leaving)
    }

    /// May one available executor be removed now, if it was picked at `since`? With surge, its replacement is
    /// awaited first, for as long as a pod may be pending.
    fn may_let_go(&self, since: Instant) -> Result<(), Refusal> {
        self.may_disrupt()?;
        let bounds = self.bounds();
        let overdue = self.now.instant >= since + self.spec.allocation.pending_timeout_ms;
        let replaced = bounds.surge > 0 && self.owns() && !overdue;
        if replaced && self.available_count() <= bounds.target {
            Err(Refusal::AwaitingReplacement)
        } else if self.available_count() <= bounds.floor {
            Err(Refusal::MinAvailable)
        } else {
            Ok(())
        }
    }

    /// Why the roll of this executor is held back.
    pub(crate) fn held_roll(&self, id: ExecutorId) -> Option<Refusal> {
        let roll = self.rolls.under_way.iter().find(|roll| roll.executor == id)?;
        self.may_let_go(roll.since).err()
    }
}
