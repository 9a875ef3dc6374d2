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
    if rolls.under_way.len() >= spec.picks_max as usize {
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
    if recent >= spec.per_hour_max as usize {
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
    if matches!(executor.stage, Stage::Rolling | Stage::AwaitingAnnouncement { .. } | Stage::AwaitingExit(_))
    {
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
    if age_ms(executor, env) < spec.age_min_ms {
        return Err(Refusal::TooYoung);
    }
    let counters = counters(executor, env).ok_or(Refusal::NoCounters)?;
    if i64::from(counters.total_tasks) < i64::from(spec.tasks_min) {
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
        if !by_hand && rolls.begun.len() >= spec.per_hour_max as usize {
            return Err(Refusal::MaxRolls);
        }
        if !by_hand && rolls.under_way.len() >= spec.picks_max as usize {
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
    /// It takes too long: the executor stays.
    Abandon,
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
            _ if expired => RollStep::Abandon,
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
