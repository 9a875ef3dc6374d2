//! The read model: what HTTP, the command line and the status show.

use std::collections::BTreeMap;

use crate::event::Impairment;
use crate::executor::{Executor, Stage};
use crate::fleet::{Fleet, Phase};
use crate::guardrail::Refusal;
use crate::id::ExecutorId;
use crate::log::Entry;
use crate::question::{DeletionCause, LossKind};
use crate::time::{Instant, Now};

/// A fleet at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub fleet: String,
    /// What the fleet waits for as a whole, for instance `active` or `awaiting-ledger`.
    pub phase: &'static str,
    /// The desired number of executors: the spec's, or the number an operator requested.
    pub target: u32,
    pub counts: Counts,
    /// How often each guardrail refused a change, since this host leads.
    pub refusals: BTreeMap<Refusal, u64>,
    /// Conditions for users, ordered by name.
    pub conditions: Vec<Condition>,
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
    pub lost: BTreeMap<LossKind, u64>,
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
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExecutorRow {
    pub executor: ExecutorId,
    pub pod: Box<str>,
    pub node: Option<Box<str>>,
    /// What it waits for, for instance `available` or `awaiting-reason`.
    pub stage: &'static str,
    pub since_heartbeat_ms: Option<u64>,
}

/// Why an executor is in its state: the answer to `explain`.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
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
        let since = |at: Instant| now.instant.since_ms(at);
        let rows = self.roster.iter().map(|(executor, one)| ExecutorRow {
            executor,
            pod: self.pod_name(executor),
            node: one.node().map(Box::from),
            stage: one.stage_name(),
            since_heartbeat_ms: one.detector.last_heard().map(since),
        });
        Snapshot {
            fleet: self.spec.name.clone(),
            phase: self.phase_name(),
            target: self.target(),
            counts: self.counts(),
            refusals: self.refusals.clone(),
            conditions: self.conditions(),
            executors: rows.collect(),
        }
    }

    /// How often each guardrail refused a change, since this host leads.
    pub fn refusals(&self) -> &BTreeMap<Refusal, u64> {
        &self.refusals
    }

    /// How often the heartbeat path was impaired, by cause, since this host leads. Includes causes that never
    /// occurred.
    pub fn impairments(&self) -> BTreeMap<Impairment, u64> {
        Impairment::ALL.into_iter().map(|why| (why, self.impairments.count(why))).collect()
    }

    /// Only the numbers.
    pub fn counts(&self) -> Counts {
        let ledger = self.book.get();
        let tally = self.roster.tally();
        // Before the first complete list the ledger is all that is known.
        let seen = self.is_active() || !self.roster.is_empty();
        let live = if seen { u64::from(tally.born_live) } else { ledger.born.len() };
        let absent = if seen { self.absent.len() } else { 0 };
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
        let spec = self.roll_spec();
        let one = self.roster.get(executor);
        let not_rolled = match one {
            None => Some(Refusal::UnknownExecutor),
            Some(one) if one.rolling => self.held_roll(executor),
            Some(one)
                if one.stage.removal().is_some_and(|removal| removal.over_budget && !removal.accepted) =>
            {
                Some(Refusal::DisruptionBudget)
            }
            Some(one) => self
                .may_disrupt()
                .and_then(|()| self.may_roll(one, spec, false))
                .err()
                .or(self.rolls.refused)
                .or(Some(Refusal::NotPicked)),
        };
        let mut history: Vec<Entry> =
            self.log.iter().filter(|entry| entry.executor == Some(executor)).cloned().collect();
        let excuse = one.and_then(|one| self.excuse(one));
        history.extend(excuse.map(|text| Entry {
            at: self.now,
            executor: Some(executor),
            text: text.into(),
        }));
        Explanation { executor, stage: one.map(Executor::stage_name), not_rolled, history }
    }

    /// Why it is not given up, although it has been silent for longer than the timeout.
    fn excuse(&self, executor: &Executor) -> Option<String> {
        let listened = matches!(executor.stage, Stage::Available | Stage::AwaitingRegistration);
        let (heartbeat, now) = (&self.spec.heartbeat, self.now.instant);
        let silent_at = executor.detector.silent_at(heartbeat, Instant::START);
        let until = executor.detector.silent_at(heartbeat, self.hearing.excused());
        let excused = listened && !heartbeat.disabled && silent_at <= now && now < until;
        excused.then(|| {
            format!("its silence is excused: hearing was impaired lately ({})", self.impairments.words())
        })
    }

    /// The latest decisions, the oldest first.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.log.iter()
    }

    pub(crate) fn is_active(&self) -> bool {
        self.phase == Phase::Active
    }

    /// Are all sums consistent? Visits every executor: for tests and simulations.
    pub fn audit(&self) -> Result<(), String> {
        if !self.roster.audit() {
            return Err("the roster's sums have drifted".to_owned());
        }
        let ledger = self.book.get();
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
        match self.phase {
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

    pub fn conditions(&self) -> Vec<Condition> {
        let of = |(name, said): &(&'static str, Said)| {
            let name = *name;
            said(self).into_iter().map(move |message| Condition { name, message }).collect::<Vec<_>>()
        };
        CONDITIONS.iter().flat_map(of).collect()
    }
}

/// The names of all possible conditions.
pub fn condition_names() -> impl Iterator<Item = &'static str> {
    CONDITIONS.iter().map(|(name, _)| *name)
}

/// The messages of a condition while it is true; none while it is not.
type Said = fn(&Fleet) -> Vec<String>;

const CONDITIONS: [(&str, Said); 16] = [
    ("BreakerOpen", |fleet| {
        let failed = fleet.breaker.failed_in_a_row();
        say(fleet.breaker.is_open(), &format!("{failed} executors failed in a row"))
    }),
    ("DriverGone", |fleet| say(fleet.driver_gone(), "the driver's pod has ended")),
    ("DryRun", |fleet| say(fleet.spec.dry_run, "nothing is changed")),
    ("Failed", |fleet| say(fleet.book.get().failed, "too many executors failed; reset the breaker to go on")),
    ("HearingImpaired", |fleet| {
        let since = fleet.impairments.since().filter(|_| !fleet.spec.heartbeat.disabled);
        let message = |since| {
            format!(
                "for {} s signs of life may have been lost on our side ({}): executors are not given up for silence, only \
                 their pods' status and the driver's word on losses count",
                fleet.now.instant.since_ms(since) / 1_000,
                fleet.impairments.words()
            )
        };
        since.map(message).into_iter().collect()
    }),
    ("HeartbeatsMissing", |fleet| {
        say(fleet.hearing.is_broken(), "no executor is heard: is the listener reachable?")
    }),
    ("LedgerRefused", |fleet| fleet.parked().into_iter().collect()),
    ("LedgerUnavailable", |fleet| {
        let failures = fleet.book.failures();
        say(failures > 2 && fleet.book.refused().is_none(), &format!("{failures} calls in a row failed"))
    }),
    ("MassLoss", |fleet| say(fleet.mass_loss.is_on(fleet.now.instant), "many executors were lost at once")),
    ("NotProgressing", |fleet| fleet.held.iter().map(|held| held.meaning().to_owned()).collect()),
    ("Paused", |fleet| {
        say(fleet.spec.paused || fleet.book.get().paused, "nothing is changed until it is resumed")
    }),
    ("PolicyQuarantined", |fleet| {
        let quarantined = fleet.asker.quarantined(fleet.now.instant);
        quarantined.map(|(policy, fault)| format!("{policy}: {fault}")).collect()
    }),
    ("SpecRefused", |fleet| fleet.spec_errors.iter().map(ToString::to_string).collect()),
    ("StuckTerminating", |fleet| {
        let stuck = fleet.roster.iter().filter(|(_, one)| {
            let refused = one.stage.removal().is_some_and(|removal| removal.backoff.tries() > 2);
            refused || one.stage.awaits_end() && fleet.now.instant.since_ms(one.since) > STUCK_MS
        });
        let stuck = stuck.count();
        say(stuck > 0, &format!("{stuck} pods do not go away"))
    }),
    ("ViewStale", |fleet| say(!fleet.view_fresh, "the watch is broken")),
    ("WaitingForAdmission", |fleet| {
        let gated = || fleet.roster.iter().filter(|(_, one)| one.is_gated());
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
