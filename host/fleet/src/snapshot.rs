//! The read model: what HTTP, the command line and the status show.

use std::collections::BTreeMap;

use crate::event::Impairment;
use crate::fleet::{Fleet, FleetState};
use crate::guardrail::Refusal;
use crate::id::ExecutorId;
use crate::log::Entry;
use crate::permits::Situation;
use crate::phase::Phase;
use crate::plan::roll::{RollLimits, may_ask, may_let_go, may_roll};
use crate::question::{DeletionCause, LossKind};
use crate::time::{Instant, Now};

/// A fleet at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The fleet's name, `metadata.name` of its document.
    pub fleet: String,
    /// What the fleet waits for as a whole, for instance `active` or `awaiting-ledger`.
    pub phase: &'static str,
    /// The desired number of executors: the spec's, or the number an operator requested.
    pub target: u32,
    /// How many executors there are, and how many ended.
    pub counts: Counts,
    /// How often each guard-rail refused a change, since this host leads.
    pub refusals: BTreeMap<Refusal, u64>,
    /// Conditions for users, ordered by name.
    pub conditions: Vec<Condition>,
    /// The executors that are still tracked, ordered by id.
    pub executors: Vec<ExecutorRow>,
}

/// Numbers of executors. At any moment `created = live + terminating + reason_pending + sum(lost) + sum(removed)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods created.
    pub created: u64,
    /// The subset that is neither terminating nor lost nor removed.
    pub live: u64,
    /// A deletion was requested, and the pod is not gone yet.
    pub terminating: u64,
    /// Lost, and the reason is still being determined or recorded.
    pub reason_pending: u64,
    /// Settled losses by kind, since the application began.
    pub lost: BTreeMap<LossKind, u64>,
    /// Settled removals by cause, since the application began.
    pub removed: BTreeMap<DeletionCause, u64>,
    /// Running, registered, heartbeats fresh, not lost, not decommissioning.
    pub available: u64,
    /// Requested, and not available yet.
    pub pending: u64,
    /// Being rolled.
    pub rolling: u64,
}

/// A statement that is true of the fleet: a Kubernetes condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// CamelCase, for instance `BreakerOpen`.
    pub name: &'static str,
    /// What is the case, for users.
    pub message: String,
}

/// One executor of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutorRow {
    /// Label `spark-exec-id` of its pod.
    pub executor: ExecutorId,
    /// `metadata.name` of its pod: as seen, or as Rollcall names it.
    pub pod: Box<str>,
    /// `spec.nodeName`. `None`: its pod has no node, or was not seen.
    pub node: Option<Box<str>>,
    /// What it waits for, for instance `available` or `awaiting-reason`.
    pub stage: &'static str,
    /// Time since its last heartbeat. `None`: none is known.
    pub since_heartbeat_ms: Option<u64>,
}

/// Why an executor is in its state: the answer to `explain`.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The executor that was asked about.
    pub executor: ExecutorId,
    /// What it waits for now; `None` if the executor no longer exists.
    pub stage: Option<&'static str>,
    /// Why it is not rolled, or why its roll is held back. `None` if nothing prevents it.
    pub not_rolled: Option<Refusal>,
    /// Decisions about it and observations of it, the oldest first.
    pub history: Vec<Entry>,
}

impl Fleet {
    /// The fleet at this moment: one pass over its executors.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        let Situation { executors, env, .. } = self.state().situation;
        let since = |at: Instant| now.instant.since_ms(at);
        let rows = executors.table.iter().map(|(id, one)| ExecutorRow {
            executor: id,
            pod: executors.table.pod_name(id, env.spec),
            node: one.node().map(Box::from),
            stage: one.stage.name(),
            since_heartbeat_ms: one.timer.last_heard().map(since),
        });
        Snapshot {
            fleet: env.spec.name.clone(),
            phase: self.phase_name(),
            target: self.target(),
            counts: self.counts(),
            refusals: self.refusals().clone(),
            conditions: self.conditions(),
            executors: rows.collect(),
        }
    }

    /// How often each guard-rail refused a change, since this host leads.
    pub fn refusals(&self) -> &BTreeMap<Refusal, u64> {
        self.state().situation.executors.outbox.refusals()
    }

    /// How often the heartbeat path was impaired, by cause, since this host leads. Includes causes that never
    /// occurred.
    pub fn impairments(&self) -> BTreeMap<Impairment, u64> {
        let impairments = self.state().situation.executors.signals.impairments();
        Impairment::ALL.into_iter().map(|why| (why, impairments.count(why))).collect()
    }

    /// Only the numbers.
    pub fn counts(&self) -> Counts {
        let Situation { executors, view, phase, .. } = self.state().situation;
        let ledger = executors.ledger.get();
        let tally = executors.table.tally();
        // Before the first complete list the ledger is all that is known.
        let seen = phase == Phase::Active || !executors.table.is_empty();
        let live = if seen { u64::from(tally.born_live) } else { ledger.born.len() };
        let absent = if seen { view.absent_len() } else { 0 };
        Counts {
            created: ledger.created,
            live,
            terminating: u64::from(tally.born_terminating),
            reason_pending: u64::from(tally.reason_pending) + absent,
            lost: ledger.lost.clone(),
            removed: ledger.removed.clone(),
            available: u64::from(tally.available),
            pending: u64::from(tally.starting),
            rolling: u64::from(tally.rolling),
        }
    }

    /// Why this executor was kept, rolled or lost.
    pub fn explain(&self, executor: ExecutorId) -> Explanation {
        let Situation { executors, env, .. } = self.state().situation;
        let one = executors.table.get(executor);
        let mut history: Vec<Entry> =
            self.history().filter(|entry| entry.executor == Some(executor)).cloned().collect();
        let excuse = one.and_then(|one| executors.signals.excuse(one, env));
        history.extend(excuse.map(|text| Entry { at: env.now, executor: Some(executor), text: text.into() }));
        let stage = one.map(|one| one.stage.name());
        Explanation { executor, stage, not_rolled: not_rolled(self.state(), executor), history }
    }

    /// The latest decisions, the oldest first.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.state().situation.executors.outbox.history()
    }

    /// Are all sums consistent? Visits every executor: for tests and simulations.
    pub fn audit(&self) -> Result<(), String> {
        let executors = self.state().situation.executors;
        if !executors.table.audit() {
            return Err("the sums of the table of executors have drifted".to_owned());
        }
        let ledger = executors.ledger.get();
        if ledger.created != ledger.born.len() + ledger.ended() {
            return Err(format!("the ledger does not balance: {ledger:?}"));
        }
        let counts = self.counts();
        let accounted = counts.live + counts.terminating + counts.reason_pending + ledger.ended();
        if counts.created != accounted {
            return Err(format!("the counts do not add up: {counts:?}"));
        }
        for id in ledger.leaving.keys() {
            if !ledger.born.contains(*id) {
                return Err(format!("executor {id} is leaving and was never born"));
            }
        }
        Ok(())
    }

    /// What the fleet waits for as a whole.
    pub fn phase_name(&self) -> &'static str {
        match self.state().situation.phase {
            Phase::AwaitingLedger | Phase::AwaitingClaim | Phase::AwaitingRelist | Phase::Active
                if self.parked().is_some() =>
            {
                "parked"
            }
            Phase::AwaitingLeadership => "awaiting-leadership",
            Phase::AwaitingLedger => "awaiting-ledger",
            Phase::AwaitingClaim => "awaiting-claim",
            Phase::AwaitingRelist => "awaiting-relist",
            Phase::Active => "active",
            Phase::Deposed => "deposed",
        }
    }

    /// The conditions that are true now, ordered by name. A name may occur several times, for instance once
    /// for each policy in quarantine.
    pub fn conditions(&self) -> Vec<Condition> {
        let parked = self.parked();
        let state = self.state();
        let of = |(name, said): &(&'static str, Said)| {
            let name = *name;
            said(&state, parked.as_deref())
                .into_iter()
                .map(move |message| Condition { name, message })
                .collect::<Vec<_>>()
        };
        CONDITIONS.iter().flat_map(of).collect()
    }
}

/// Why this executor is not rolled, or why its roll is held back.
fn not_rolled(state: FleetState<'_>, id: ExecutorId) -> Option<Refusal> {
    let Situation { executors, env, .. } = state.situation;
    let permits = state.situation.permits();
    let spec = env.roll_spec(&state.rolls.by_hand);
    let Some(executor) = executors.table.get(id) else { return Some(Refusal::UnknownExecutor) };
    if executor.stage.is_rolling() {
        let roll = state.rolls.under_way.iter().find(|roll| roll.executor == id)?;
        let limits = RollLimits {
            permits,
            bounds: executors.bounds(env),
            available: executors.table.tally().available_count(env.bugs),
            timeout_ms: spec.timeout_ms,
        };
        return may_let_go(roll.since, &limits, env).err();
    }
    if executor.stage.removal().is_some_and(|removal| removal.over_budget && !removal.accepted) {
        return Some(Refusal::DisruptionBudget);
    }
    let may = permits
        .disrupt
        .and_then(|()| may_roll(executor, spec, false, env))
        .and_then(|()| may_ask(state.rolls, spec, false, permits.disrupt, env));
    may.err().or(state.rolls.refused).or(Some(Refusal::NotPicked))
}

/// The names of all possible conditions.
pub fn condition_names() -> impl Iterator<Item = &'static str> {
    CONDITIONS.iter().map(|(name, _)| *name)
}

/// The messages of a condition while it is true; none while it is not.
/// The second argument is why the fleet is parked.
type Said = fn(&FleetState<'_>, Option<&str>) -> Vec<String>;

const CONDITIONS: [(&str, Said); 16] = [
    ("BreakerOpen", |fleet, _| {
        let failed = fleet.situation.executors.losses.breaker.failed_in_a_row();
        say(
            fleet.situation.executors.losses.breaker.is_open(),
            &format!("{failed} executors failed in a row"),
        )
    }),
    ("DriverGone", |fleet, _| {
        say(fleet.situation.driver.gone(fleet.situation.env), "the driver's pod has ended")
    }),
    ("DryRun", |fleet, _| say(fleet.situation.env.spec.dry_run, "nothing is changed")),
    ("Failed", |fleet, _| {
        say(
            fleet.situation.executors.ledger.get().failed,
            "too many executors failed; reset the breaker to go on",
        )
    }),
    ("HearingImpaired", |fleet, _| {
        let since = fleet
            .situation
            .executors
            .signals
            .impairments()
            .since()
            .filter(|_| !fleet.situation.env.spec.heartbeat.disabled);
        let message = |since| {
            format!(
                "for {} s heartbeats may have been lost on our side ({}): executors are not given up for silence, only \
                 their pods' status and the driver's word on losses count",
                fleet.situation.env.now.instant.since_ms(since) / 1_000,
                fleet.situation.executors.signals.impairments().words()
            )
        };
        since.map(message).into_iter().collect()
    }),
    ("HeartbeatsMissing", |fleet, _| {
        say(
            fleet.situation.executors.signals.liveness().is_broken(),
            "no executor is heard: is the listener reachable?",
        )
    }),
    ("LedgerRefused", |_, parked| parked.map(str::to_owned).into_iter().collect()),
    ("LedgerUnavailable", |fleet, _| {
        let failures = fleet.situation.executors.ledger.failures();
        say(
            failures > 2 && fleet.situation.executors.ledger.refused().is_none(),
            &format!("{failures} calls in a row failed"),
        )
    }),
    ("MassLoss", |fleet, _| {
        say(
            fleet.situation.executors.losses.mass_loss().is_on(fleet.situation.env.now.instant),
            "many executors were lost at once",
        )
    }),
    ("NotProgressing", |fleet, _| {
        fleet.situation.executors.creation.held().iter().map(|held| held.meaning().to_owned()).collect()
    }),
    ("Paused", |fleet, _| {
        say(
            fleet.situation.env.spec.paused || fleet.situation.executors.ledger.get().paused,
            "nothing is changed until it is resumed",
        )
    }),
    ("PolicyQuarantined", |fleet, _| {
        let quarantined = fleet.asker.quarantined(fleet.situation.env.now.instant);
        quarantined.map(|(policy, fault)| format!("{policy}: {fault}")).collect()
    }),
    ("SpecRefused", |fleet, _| fleet.spec_errors.iter().map(ToString::to_string).collect()),
    ("StuckTerminating", |fleet, _| {
        let stuck = fleet.situation.executors.table.iter().filter(|(_, one)| {
            let refused = one.stage.removal().is_some_and(|removal| removal.backoff.tries() > 2);
            refused
                || one.stage.awaits_end() && fleet.situation.env.now.instant.since_ms(one.since) > STUCK_MS
        });
        let stuck = stuck.count();
        say(stuck > 0, &format!("{stuck} pods do not go away"))
    }),
    ("ViewStale", |fleet, _| say(!fleet.situation.view.fresh, "the watch is broken")),
    ("WaitingForAdmission", |fleet, _| {
        let gated = || fleet.situation.executors.table.iter().filter(|(_, one)| one.is_gated());
        let first = gated().find_map(|(_, one)| one.pod.as_ref()?.status.scheduling_gates.first().cloned());
        let count = gated().count();
        say(count > 0, &format!("{count} pods wait for scheduling gates: {}", first.unwrap_or_default()))
    }),
];

fn say(holds: bool, message: &str) -> Vec<String> {
    if holds { vec![message.to_owned()] } else { Vec::new() }
}

/// A removal that takes longer than this is reported: twice the longest usual grace period.
const STUCK_MS: u64 = 600_000;
