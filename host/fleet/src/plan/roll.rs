//! Which executors may be rolled, when a policy may be asked, and what a roll in progress waits for.
//!
//! ```text
//!  Resting ──interval──► AwaitingPicks ──picks──► a roll each:
//!                                                 picked ─► its replacement is available ─► recorded ─► exit
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

use std::collections::BTreeMap;

use crate::env::Env;
use crate::event::Counters;
use crate::executor::{Executor, Stage};
use crate::guardrail::{Bounds, Permits, Refusal, unless_dry};
use crate::id::ExecutorId;
use crate::injected_bug::InjectedBug;
use crate::question::DeletionCause;
use crate::rolls::{HOUR_MS, Roll, Rolls};
use crate::spec::RollSpec;
use crate::table::ExecutorTable;
use crate::time::Instant;
use crate::window;

/// May the policy be asked now? `forced`: an operator requests it.
pub(crate) fn may_ask(
    rolls: &Rolls,
    spec: &RollSpec,
    forced: bool,
    disrupt: Result<(), Refusal>,
    env: Env<'_>,
) -> Result<(), Refusal> {
    match disrupt {
        // A dry run asks the policy and publishes the result.
        Ok(()) | Err(Refusal::DryRun) => {}
        Err(refusal) => return Err(refusal),
    }
    if rolls.under_way.len() >= spec.max_picks as usize {
        return Err(Refusal::RollUnderWay);
    }
    if forced {
        return Ok(());
    }
    let now = env.now.instant;
    if !window::any_open(&spec.windows, env.now.wall_ms) {
        return Err(Refusal::OutsideWindow);
    }
    if rolls.ended.is_some_and(|ended| now.since_ms(ended) < spec.cool_down_ms) {
        return Err(Refusal::CoolDown);
    }
    let recent = rolls.begun.iter().filter(|begun| now.since_ms(**begun) < HOUR_MS).count();
    if recent >= spec.max_per_hour as usize {
        return Err(Refusal::MaxRolls);
    }
    Ok(())
}

/// May this executor be rolled? Decided from the host's own view, regardless of the policy.
pub(crate) fn may_roll(
    executor: &Executor,
    spec: &RollSpec,
    by_hand: bool,
    env: Env<'_>,
) -> Result<(), Refusal> {
    if env.has_bug(InjectedBug::PicksUnchecked) && matches!(executor.stage, Stage::Available) {
        return Ok(());
    }
    if matches!(executor.stage, Stage::Rolling | Stage::AwaitingAnnouncement { .. } | Stage::Terminating(_)) {
        return Err(Refusal::AlreadyLeaving);
    }
    if !executor.is_available() {
        return Err(Refusal::NotAvailable);
    }
    if executor.pod.as_deref().is_some_and(|pod| pod.do_not_roll) {
        return Err(Refusal::DoNotRoll);
    }
    if by_hand {
        return Ok(());
    }
    if age_ms(executor, env) < spec.min_age_ms {
        return Err(Refusal::TooYoung);
    }
    let counters = counters(executor, env).ok_or(Refusal::NoCounters)?;
    if i64::from(counters.total_tasks) < i64::from(spec.min_tasks) {
        return Err(Refusal::TooFewTasks);
    }
    Ok(())
}

/// The counters that the driver reported for the executor, unless they are too old.
pub(crate) fn counters<'a>(executor: &'a Executor, env: Env<'_>) -> Option<&'a Counters> {
    let facts = executor.facts.as_deref()?;
    let old = env.now.instant.since_ms(facts.counted) > 2 * env.spec.driver_report_ms;
    facts.counters.as_ref().filter(|_| !old || env.has_bug(InjectedBug::OldCountersBelieved))
}

/// The longer of the age that the pod states and the age that this host observed.
pub(crate) fn age_ms(executor: &Executor, env: Env<'_>) -> u64 {
    let seen_ms = env.now.instant.since_ms(executor.created);
    let created_ms = executor.pod.as_deref().and_then(|pod| pod.status.created_at_ms);
    let said_ms = created_ms.map_or(0, |created_ms| env.now.wall_ms.saturating_sub(created_ms));
    seen_ms.max(u64::try_from(said_ms).unwrap_or(0))
}

/// Is there anything to ask a policy about?
pub(crate) fn has_candidates(table: &ExecutorTable, spec: &RollSpec, env: Env<'_>) -> Result<(), Refusal> {
    let mut why = Refusal::NoCandidate;
    for (_, executor) in table.iter() {
        match may_roll(executor, spec, false, env) {
            Ok(()) => return Ok(()),
            Err(Refusal::NoCounters) => why = Refusal::NoCounters,
            Err(_) => {}
        }
    }
    Err(why)
}

/// The executors that may be rolled, and why the others may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Eligible {
    pub executors: Vec<ExecutorId>,
    pub refusals: BTreeMap<Refusal, u64>,
}

impl Eligible {
    /// Why there is none.
    pub(crate) fn why_none(&self) -> Refusal {
        let uncounted = self.refusals.contains_key(&Refusal::NoCounters);
        if uncounted { Refusal::NoCounters } else { Refusal::NoCandidate }
    }
}

/// The executors that a policy may be asked about, in the order of Spark's plugin, on which its ties depend:
/// `AppStatusStore.executorList(true)` sorts ids as strings, descending.
pub(crate) fn eligible(table: &ExecutorTable, spec: &RollSpec, env: Env<'_>) -> Eligible {
    let mut refusals: BTreeMap<Refusal, u64> = BTreeMap::new();
    let mut may = Vec::new();
    for (id, executor) in table.iter() {
        match may_roll(executor, spec, false, env) {
            Ok(()) => may.push((id.to_string(), id)),
            Err(refusal) => *refusals.entry(refusal).or_default() += 1,
        }
    }
    if !env.has_bug(InjectedBug::CandidatesUnsorted) {
        may.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
    }
    Eligible { executors: may.into_iter().map(|(_, id)| id).collect(), refusals }
}

/// May a roll of this executor begin? `executor` is `None` if there is no such executor.
pub(crate) fn may_begin(
    executor: Option<&Executor>,
    rolls: &Rolls,
    spec: &RollSpec,
    by_hand: bool,
    disrupt: Result<(), Refusal>,
    env: Env<'_>,
) -> Result<(), Refusal> {
    unless_dry(disrupt, || {
        may_roll(executor.ok_or(Refusal::UnknownExecutor)?, spec, by_hand, env)?;
        if !by_hand && rolls.begun.len() >= spec.max_per_hour as usize {
            return Err(Refusal::MaxRolls);
        }
        if !by_hand && rolls.under_way.len() >= spec.max_picks as usize {
            return Err(Refusal::RollUnderWay);
        }
        Ok(())
    })
}

/// What a roll in progress needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RollStep {
    /// It is over.
    Ended,
    /// It takes too long: the executor stays. What held it back at last, if anything did.
    Abandon(Option<Refusal>),
    /// The executor may be removed.
    Remove,
    /// It is held back.
    Held(Refusal),
    /// The executor is being removed.
    Leaving,
}

/// What the fleet as a whole says to a roll in progress.
#[derive(Clone, Copy)]
pub(crate) struct RollLimits {
    pub permits: Permits,
    pub bounds: Bounds,
    /// Number of available executors.
    pub available: u32,
    pub timeout_ms: u64,
}

/// The next step of a roll in progress.
pub(crate) fn next_step(
    roll: &Roll,
    executor: Option<&Executor>,
    limits: &RollLimits,
    env: Env<'_>,
) -> RollStep {
    let expired = env.now.instant >= roll.since + limits.timeout_ms;
    let Some(executor) = executor else { return RollStep::Ended };
    if executor.stage.is_rolling() {
        return match may_let_go(roll.since, limits, env) {
            held if expired => RollStep::Abandon(held.err()),
            Ok(()) => RollStep::Remove,
            Err(refusal) => RollStep::Held(refusal),
        };
    }
    // A refused removal is cancelled by the code that requests it; a roll that hangs is dropped at its timeout.
    let recording = matches!(executor.stage, Stage::AwaitingAnnouncement { cause: DeletionCause::Roll, .. });
    let leaving = executor.stage.leaving() == Some(DeletionCause::Roll) && !expired;
    if recording || leaving { RollStep::Leaving } else { RollStep::Ended }
}

/// May one available executor be removed now, if it was picked at `since`? With surge, its replacement is
/// awaited first, for as long as a pod may be pending.
pub(crate) fn may_let_go(since: Instant, limits: &RollLimits, env: Env<'_>) -> Result<(), Refusal> {
    limits.permits.disrupt?;
    let overdue = env.now.instant >= since + env.spec.allocation.pending_timeout_ms;
    let replaced = limits.bounds.surge > 0 && env.owns() && !overdue;
    if replaced && limits.available <= limits.bounds.target {
        Err(Refusal::AwaitingReplacement)
    } else if limits.available <= limits.bounds.floor {
        Err(Refusal::MinAvailable)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{World, at, busy, executor, world};

    fn spec() -> RollSpec {
        RollSpec::new("p")
    }

    fn limits(world: &World, available: u32) -> RollLimits {
        RollLimits {
            permits: Permits { change: Ok(()), shrink: Ok(()), disrupt: Ok(()) },
            bounds: Bounds::new(&world.spec, world.spec.target),
            available,
            timeout_ms: 900_000,
        }
    }

    #[test]
    fn only_executors_that_serve_well_enough_are_rolled() {
        let world = world(4);
        let may = |executor: &Executor, spec: &RollSpec| may_roll(executor, spec, false, world.env());
        assert_eq!(may(&busy(1, 0), &spec()), Ok(()));
        assert_eq!(may(&executor(1, Stage::Available), &spec()), Err(Refusal::NoCounters));
        assert_eq!(may(&executor(1, Stage::Rolling), &spec()), Err(Refusal::AlreadyLeaving));
        assert_eq!(may(&executor(1, Stage::AwaitingStart), &spec()), Err(Refusal::NotAvailable));
        let old = RollSpec { min_age_ms: 1, ..spec() };
        assert_eq!(may(&busy(1, 0), &old), Err(Refusal::TooYoung));
        let many = RollSpec { min_tasks: 11, ..spec() };
        assert_eq!(may(&busy(1, 0), &many), Err(Refusal::TooFewTasks));
        assert_eq!(may_roll(&busy(1, 0), &many, true, world.env()), Ok(()), "by hand");
    }

    #[test]
    fn candidates_stand_in_the_order_of_sparks_plugin() {
        let world = world(4);
        let mut table = ExecutorTable::default();
        for id in [1, 2, 10, 11] {
            table.insert(ExecutorId(id), busy(id, 0));
        }
        table.insert(ExecutorId(3), executor(3, Stage::Available));
        let eligible = eligible(&table, &spec(), world.env());
        assert_eq!(eligible.executors.iter().map(|id| id.0).collect::<Vec<_>>(), [2, 11, 10, 1]);
        assert_eq!(eligible.refusals, BTreeMap::from([(Refusal::NoCounters, 1)]));
    }

    #[test]
    fn a_policy_is_asked_as_often_as_the_spec_permits() {
        let mut world = world(4);
        world.now = at(7_200);
        let mut rolls = Rolls::new();
        let ask = |rolls: &Rolls, spec: &RollSpec| may_ask(rolls, spec, false, Ok(()), world.env());
        assert_eq!(ask(&rolls, &spec()), Ok(()));
        assert_eq!(may_ask(&rolls, &spec(), false, Err(Refusal::DryRun), world.env()), Ok(()));
        assert_eq!(may_ask(&rolls, &spec(), true, Err(Refusal::Paused), world.env()), Err(Refusal::Paused));
        rolls.ended = Some(at(7_199));
        assert_eq!(ask(&rolls, &RollSpec { cool_down_ms: 2_000, ..spec() }), Err(Refusal::CoolDown));
        rolls.begun.push_back(at(7_000));
        assert_eq!(ask(&rolls, &RollSpec { max_per_hour: 1, ..spec() }), Err(Refusal::MaxRolls));
        rolls.under_way.push(Roll { executor: ExecutorId(1), since: at(7_000), held: None });
        assert_eq!(ask(&rolls, &spec()), Err(Refusal::RollUnderWay));
    }

    #[test]
    fn a_roll_waits_for_its_replacement_and_ends_at_its_timeout() {
        let mut world = world(4);
        let roll = Roll { executor: ExecutorId(1), since: at(1), held: None };
        let picked = executor(1, Stage::Rolling);
        let step = |world: &World, available| {
            next_step(&roll, Some(&picked), &limits(world, available), world.env())
        };
        assert_eq!(step(&world, 4), RollStep::Held(Refusal::AwaitingReplacement));
        assert_eq!(step(&world, 5), RollStep::Remove);
        world.now = at(1) + world.spec.allocation.pending_timeout_ms;
        assert_eq!(step(&world, 4), RollStep::Remove, "its replacement is late: the floor decides");
        assert_eq!(step(&world, 3), RollStep::Held(Refusal::MinAvailable));
        world.now = at(901);
        assert_eq!(step(&world, 5), RollStep::Abandon(None));
        assert_eq!(step(&world, 3), RollStep::Abandon(Some(Refusal::MinAvailable)));
    }

    #[test]
    fn a_roll_ends_with_its_executor() {
        let world = world(4);
        let roll = Roll { executor: ExecutorId(1), since: at(1), held: None };
        let step = |executor: Option<&Executor>| next_step(&roll, executor, &limits(&world, 4), world.env());
        assert_eq!(step(None), RollStep::Ended);
        assert_eq!(step(Some(&executor(1, Stage::Available))), RollStep::Ended, "its removal was cancelled");
        let recording = Stage::AwaitingAnnouncement { cause: DeletionCause::Roll, mark: 1 };
        assert_eq!(step(Some(&executor(1, recording))), RollStep::Leaving);
    }
}
