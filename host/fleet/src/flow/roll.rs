//! Rolling: executors are replaced one after another before they degrade. ExecutorRollPlugin, with its bugs fixed.
//!
//! What may be rolled, and when, is planned in `plan::roll`; the question is built and its answer understood in
//! `ask::roll`. This module carries rolls from one to the next.

use crate::action::{Cause, Question, Reason, Verb};
use crate::ask::{About, Asker, Open, roll as ask};
use crate::env::Env;
use crate::executor::{Executor, Stage};
use crate::executors::Executors;
use crate::guardrail::{Permits, Refusal};
use crate::id::{ActionId, ExecutorId};
use crate::lifecycle::end;
use crate::plan::roll as plan;
use crate::question::{DeletionCause, Pick, Selection};
use crate::rolls::{Rolls, State};
use crate::spec::RollSpec;
use crate::view::ClusterView;

/// What a step of rolling works with.
pub(crate) struct Rolling<'a> {
    pub rolls: &'a mut Rolls,
    pub executors: &'a mut Executors,
    pub asker: &'a mut Asker,
    pub view: &'a ClusterView,
    pub permits: Permits,
    pub env: Env<'a>,
}

impl Rolling<'_> {
    /// Continue the rolls in progress, and decide about the next if that is due.
    pub(crate) fn run(&mut self) {
        self.continue_rolls();
        if self.rolls.is_due(self.env.instant()) {
            self.decide();
        }
    }

    fn decide(&mut self) {
        let Some(spec) = &self.env.spec.roll else { return };
        let forced = self.rolls.forced;
        let may = plan::may_ask(self.rolls, spec, forced, self.permits.disrupt, self.env);
        match may.and_then(|()| self.ask(spec, 0)) {
            Ok(()) => self.rolls.forced = false,
            Err(refusal) => {
                self.executors.outbox.refused(refusal);
                if self.rolls.put_off(refusal, spec, self.env.instant()) {
                    let text = format!("no roll: {}", refusal.meaning());
                    self.executors.outbox.note(self.env.now, None, text);
                }
            }
        }
    }

    /// Ask the first available policy of the chain, from `place` on.
    fn ask(&mut self, spec: &RollSpec, place: usize) -> Result<(), Refusal> {
        let env = self.env;
        let eligible = plan::eligible(&self.executors.table, spec, env);
        let under_way = u32::try_from(self.rolls.under_way.len()).unwrap_or(u32::MAX);
        let from = ask::Sources {
            table: &self.executors.table,
            view: self.view,
            metric_names: self.executors.signals.metric_names(),
            target: self.executors.target(env),
            picks_max: spec.max_picks.saturating_sub(under_way).max(1),
            seed: self.executors.seed.draw(),
        };
        let (question, offered) = ask::question(&eligible.executors, from, env);
        for (refusal, times) in &eligible.refusals {
            self.executors.outbox.refused_times(*refusal, *times);
        }
        if offered.is_empty() {
            return Err(eligible.why_none());
        }
        let chain = spec.policies.iter().map(String::as_str);
        let next = self.asker.next(chain, place, env.instant());
        let (place, policy) = next.ok_or(Refusal::PolicyFailed)?;
        let question = Question::Roll(Box::new(question));
        let verb = Verb::Ask { policy: policy.clone(), question };
        let action = self.executors.outbox.act(Cause::Roll, verb);
        self.asker.asked(action, About::Roll, place, policy, env.instant());
        self.rolls.state = State::AwaitingPicks { action, offered };
        Ok(())
    }

    // ----------------------------------------------------------------------------------- answers --

    /// The policy's answer.
    pub(crate) fn selected(&mut self, question: ActionId, open: &Open, selection: Selection) {
        let Some(offered) = self.rolls.offered_by(question) else { return };
        let offered = offered.to_vec();
        match selection {
            Selection::Abstain => self.unanswered(question, open.place + 1),
            Selection::Nothing(reason) => {
                let text = format!("{} picked no executor: {reason}", open.policy);
                self.executors.outbox.note(self.env.now, None, text);
                self.executors.outbox.refused(Refusal::PolicyDeclined);
                self.rest(Some(Refusal::PolicyDeclined));
            }
            Selection::Roll(picks) => {
                let Some(spec) = &self.env.spec.roll else { return self.rest(None) };
                let refused = self.begin_picked(&picks, &offered, &open.policy, spec);
                self.rest(refused);
            }
        }
    }

    /// The policy's answer is advice: roll only executors that were offered and may be rolled now, and only as many
    /// as the limits allow. Returns why the last of the others was not rolled.
    fn begin_picked(
        &mut self,
        picks: &[Pick],
        offered: &[ExecutorId],
        policy: &str,
        spec: &RollSpec,
    ) -> Option<Refusal> {
        let env = self.env;
        let mut refused = None;
        let mut proposed = 0;
        for pick in picks {
            let Some(id) = ask::picked(pick.index, offered, &self.executors.table, env) else { continue };
            let why = format!("{policy}, score {}: {}", pick.score, pick.reason);
            let Err(refusal) = self.begin(id, spec, false) else {
                self.executors.publish(id, Reason::RollStarted, why, env);
                continue;
            };
            self.executors.outbox.refused(refusal);
            refused = Some(refusal);
            if refusal != Refusal::DryRun {
                let why = format!("picked, not rolled: {} ({why})", refusal.meaning());
                self.executors.outbox.note(env.now, Some(id), why);
                continue;
            }
            self.executors.publish(id, Reason::RollProposed, format!("would be rolled: {why}"), env);
            proposed += 1;
            if proposed == spec.max_picks {
                break;
            }
        }
        refused
    }

    /// A policy gave no answer: ask the next one, from `place` on, or roll no executor.
    pub(crate) fn unanswered(&mut self, question: ActionId, place: usize) {
        if self.rolls.offered_by(question).is_none() {
            return;
        }
        let Some(spec) = &self.env.spec.roll else { return self.rest(None) };
        if let Err(refusal) = self.ask(spec, place) {
            self.executors.outbox.refused(refusal);
            self.rest(Some(refusal));
        }
    }

    fn rest(&mut self, refused: Option<Refusal>) {
        self.rolls.rest(refused, self.env.spec.roll.as_ref(), self.env.instant());
    }

    fn begin(&mut self, id: ExecutorId, spec: &RollSpec, by_hand: bool) -> Result<(), Refusal> {
        let now = self.env.instant();
        self.rolls.forget_old(now);
        let executor = self.executors.table.get(id);
        let may = plan::may_begin(executor, self.rolls, spec, by_hand, self.permits.disrupt, self.env);
        self.rolls.begin(id, may, by_hand, now)?;
        self.executors.table.change(id, |executor| executor.stage = Stage::Rolling);
        Ok(())
    }

    /// An operator rolls one executor, or requests a decision of the policy now.
    pub(crate) fn by_hand(&mut self, executor: Option<ExecutorId>) -> Result<(), Refusal> {
        let Some(id) = executor else {
            let spec = self.env.spec.roll.as_ref().ok_or(Refusal::NoRollPolicy)?;
            plan::may_ask(self.rolls, spec, true, self.permits.disrupt, self.env)?;
            if let State::AwaitingPicks { .. } = self.rolls.state {
                return Err(Refusal::RollUnderWay);
            }
            // The operator is told at once whether the decision can have a result.
            plan::has_candidates(&self.executors.table, spec, self.env)?;
            self.rolls.forced = true;
            return Ok(());
        };
        let spec = self.env.roll_spec(&self.rolls.by_hand).clone();
        self.begin(id, &spec, true)?;
        self.executors.publish(id, Reason::RollStarted, "by hand".to_owned(), self.env);
        Ok(())
    }

    // -------------------------------------------------------------------------------- under way --

    fn continue_rolls(&mut self) {
        if self.rolls.under_way.is_empty() {
            return;
        }
        let env = self.env;
        let timeout_ms = env.roll_spec(&self.rolls.by_hand).timeout_ms;
        for mut roll in std::mem::take(&mut self.rolls.under_way) {
            let id = roll.executor;
            let limits = plan::RollLimits {
                permits: self.permits,
                bounds: self.executors.bounds(env),
                available: self.executors.table.tally().available_count(env.bugs),
                timeout_ms,
            };
            let step = plan::next_step(&roll, self.executors.table.get(id), &limits, env);
            match step {
                plan::RollStep::Ended | plan::RollStep::Abandon(_) => {
                    if let plan::RollStep::Abandon(held) = step {
                        self.executors.table.change(id, Executor::end_roll);
                        let held = held.map_or("it was not removed", Refusal::meaning);
                        let why = format!("stays: its roll timed out: {held}");
                        self.executors.publish(id, Reason::RollAbandoned, why, env);
                    }
                    self.rolls.ended = Some(env.instant());
                    continue;
                }
                plan::RollStep::Remove => self.executors.change(id, env, |executor, cx| {
                    end::record_removal_intent(executor, DeletionCause::Roll, cx);
                }),
                plan::RollStep::Held(refusal) => {
                    if roll.held.replace(refusal) != Some(refusal) {
                        self.executors.outbox.refused(refusal);
                    }
                }
                plan::RollStep::Leaving => {}
            }
            self.rolls.under_way.push(roll);
        }
    }
}
