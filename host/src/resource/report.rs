//! Writes the status of the ExecutorFleet objects.
//!
//! A task of its own compares what the loop says about its fleets with what was written last, once a second, and writes
//! what differs: at most [`WRITES_MAX`] objects at a time, each at most once a second. So a thousand objects that change
//! at once are a thousand writes in some twenty seconds, and the loop waits for none of them. A write that failed is
//! tried again with the next round, with the newest status.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cluster::resource::{NotWritten, write_status};
use futures_util::StreamExt;
use futures_util::stream;
use jiff::Timestamp;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::objects::{Known, Objects, Read};
use super::status::{Condition, Loss, Status};
use crate::config::FleetConfig;
use crate::handle::{Handle, Overview, Told};

const ROUND: Duration = Duration::from_secs(1);
/// Objects written in one round, and at the same time.
const WRITES_MAX: usize = 50;
const AT_ONCE: usize = 8;
/// After a round in which a write failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Losses that a status lists.
const LOSSES_MAX: usize = 5;

/// A status that differs in words alone, for instance in the age of a condition, is written after so many rounds.
const WORDS_AFTER: u64 = 60;

/// What was written, by the UID of the object.
#[derive(Default)]
struct Written {
    status: Status,
    /// Its round; 0: before this process wrote any.
    round: u64,
}

impl Written {
    fn is_due(&self, status: &Status, round: u64) -> bool {
        let without_words = |status: &Status| {
            let mut status = status.clone();
            status.conditions.iter_mut().for_each(|condition| condition.message.clear());
            status
        };
        *status != self.status
            && (self.round + WORDS_AFTER <= round || without_words(status) != without_words(&self.status))
    }
}

/// Until it is aborted.
pub async fn report(handle: Handle, client: cluster::Client, objects: Arc<Objects<FleetConfig>>) {
    let mut told = handle.subscribe();
    let mut recent: BTreeMap<String, Recent> = BTreeMap::new();
    let mut written: BTreeMap<String, Written> = BTreeMap::new();
    let mut ticks = interval(ROUND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 1.. {
        ticks.tick().await;
        loop {
            match told.try_recv() {
                Ok(one) => recent.entry(format!("{}/{}", one.namespace, one.fleet)).or_default().take(&one),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Closed) => return,
            }
        }
        if !handle.pulse().is_leading() {
            // The next leader may have written since.
            written.clear();
            continue;
        }
        let Ok(fleets) = handle.overview().await else { continue };
        let fleets: BTreeMap<String, Overview> = fleets.into_iter().map(|one| (one.key(), one)).collect();
        recent.retain(|key, _| fleets.contains_key(key));
        let all = objects.all();
        written.retain(|uid, _| all.iter().any(|known| known.object.uid == *uid));
        let mut due = Vec::new();
        for known in &all {
            let key = known.object.key();
            let before = written.entry(known.object.uid.clone()).or_insert_with(|| Written {
                status: serde_json::from_value(known.object.value["status"].clone()).unwrap_or_default(),
                ..Written::default()
            });
            let now = Timestamp::now();
            let status = status(known, fleets.get(&key), recent.get(&key), &before.status, now);
            if before.is_due(&status, round) {
                due.push((before.round, known.object.clone(), status));
            }
        }
        // Those that have waited longest.
        due.sort_by_key(|(round, ..)| *round);
        due.truncate(WRITES_MAX);
        let writes = due.into_iter().map(|(_, object, status)| {
            let client = client.clone();
            async move {
                let value = serde_json::to_value(&status).expect("a status is JSON");
                let result = write_status(client, FleetConfig::KIND, &object, &value).await;
                (object, status, result)
            }
        });
        let mut failed = None;
        for (object, status, result) in
            stream::iter(writes).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await
        {
            match result {
                Ok(()) => {
                    written.insert(object.uid, Written { status, round });
                }
                // The watch will tell.
                Err(NotWritten::Gone) => {}
                Err(NotWritten::Failed(why)) => failed = Some((object.key(), why)),
            }
        }
        if let Some((fleet, why)) = failed {
            tracing::warn!(fleet, why, "the status of an ExecutorFleet cannot be written; it is tried again");
            sleep(AFTER_FAILURE).await;
        }
    }
}

/// What was told about a fleet.
#[derive(Default)]
struct Recent {
    /// The newest first.
    losses: VecDeque<Loss>,
    roll: Option<Loss>,
}

impl Recent {
    fn take(&mut self, told: &Told) {
        let Some(executor) = told.executor else { return };
        let time = time(Timestamp::from_millisecond(told.at_ms).unwrap_or_default());
        let one = Loss { executor: executor.0, time, message: told.message.clone() };
        match told.kind {
            "ExecutorLost" => {
                self.losses.push_front(one);
                self.losses.truncate(LOSSES_MAX);
            }
            "RollStarted" => self.roll = Some(one),
            _ => {}
        }
    }
}

fn time(at: Timestamp) -> String {
    format!("{at:.0}")
}

fn status(
    known: &Known<FleetConfig>,
    fleet: Option<&Overview>,
    recent: Option<&Recent>,
    before: &Status,
    now: Timestamp,
) -> Status {
    let generation = known.object.generation;
    let mut status = Status { conditions: before.conditions.clone(), ..Status::default() };
    // Conditions are compared with those before: the time stays while the status does.
    let mut set = |kind: &str, holds: bool, reason: &str, message: &str, observed: Option<i64>| {
        let as_text = if holds { "True" } else { "False" };
        let old = before.conditions.iter().find(|old| old.kind == kind);
        let since = old.filter(|old| old.status == as_text).map(|old| old.last_transition_time.clone());
        let condition = Condition {
            kind: kind.to_owned(),
            status: as_text.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: since.unwrap_or_else(|| time(now)),
            observed_generation: observed,
        };
        match status.conditions.iter_mut().find(|old| old.kind == kind) {
            Some(old) => *old = condition,
            None => status.conditions.push(condition),
        }
    };
    let refused = match fleet {
        _ if !known.problems.is_empty() => known.problems.join("; "),
        Some(fleet) => fleet.problems.join("; "),
        None => String::new(),
    };
    let (observed, judged) = match fleet {
        _ if !known.problems.is_empty() => (Some(generation), true),
        Some(fleet) => (fleet.generation.or(before.observed_generation), fleet.generation.is_some()),
        None => (before.observed_generation, false),
    };
    if judged {
        let (reason, message) =
            if refused.is_empty() { ("Valid", "the spec is in force") } else { ("Invalid", &*refused) };
        set("Accepted", refused.is_empty(), reason, message, observed);
    }
    if let Some(fleet) = fleet {
        let counts = &fleet.counts;
        let short = u64::from(fleet.target).saturating_sub(counts.available);
        let strength = format!("{} of {} executors are available", counts.available, fleet.target);
        let reason = if short == 0 { "AtStrength" } else { "ExecutorsMissing" };
        set("Available", short == 0, reason, &strength, observed);
        let moving = counts.pending + counts.terminating + counts.reason_pending + counts.rolling;
        let reason = match (counts.rolling, moving) {
            (1.., _) => "Rolling",
            (_, 1..) => "Replacing",
            _ => "Stable",
        };
        let doing = format!(
            "{} pending, {} terminating, {} lost without a verdict, {} rolling",
            counts.pending, counts.terminating, counts.reason_pending, counts.rolling
        );
        set("Progressing", moving > 0, reason, &doing, observed);
        let trouble = fleet.conditions.iter().find(|one| !INTENDED.contains(&one.name));
        match trouble {
            Some(one) => set("Degraded", true, one.name, &one.message, observed),
            None => set("Degraded", false, "AsExpected", "", observed),
        }
        // Each of these is listed from the first time that it holds.
        let past: Vec<String> = before.conditions.iter().map(|one| one.kind.clone()).collect();
        for kind in past.iter().filter(|kind| !SUMMARIES.contains(&kind.as_str())) {
            if !fleet.conditions.iter().any(|one| one.name == kind) {
                set(kind, false, "Over", "", observed);
            }
        }
        for one in &fleet.conditions {
            set(one.name, true, one.name, &one.message, observed);
        }
    }
    let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let Some(fleet) = fleet else {
        return Status { phase: "not-accepted".to_owned(), observed_generation: observed, ..status };
    };
    let selector = |id: &String| {
        let profile = known.config.as_ref().and_then(|config| config.fleet.spec.resource_profile);
        let profile = profile.map(|profile| format!(",spark-exec-resourceprofile-id={profile}"));
        format!("spark-app-selector={id},spark-role=executor{}", profile.unwrap_or_default())
    };
    Status {
        observed_generation: observed,
        phase: fleet.phase.to_owned(),
        executors: count(fleet.counts.live),
        selector: fleet.application_id.as_ref().map(selector).unwrap_or_default(),
        target: fleet.target,
        available: count(fleet.counts.available),
        pending: count(fleet.counts.pending),
        terminating: count(fleet.counts.terminating),
        lost: fleet.counts.lost.values().sum(),
        rolled: fleet.counts.removed.get(&fleet::question::DeletionCause::Roll).copied().unwrap_or(0),
        application_id: fleet.application_id.clone(),
        last_losses: recent
            .map(|recent| recent.losses.iter().cloned().collect())
            .filter(|losses: &Vec<_>| !losses.is_empty())
            .unwrap_or_else(|| before.last_losses.clone()),
        last_roll: recent.and_then(|recent| recent.roll.clone()).or_else(|| before.last_roll.clone()),
        conditions: status.conditions,
    }
}

/// Conditions that summarize.
const SUMMARIES: [&str; 4] = ["Accepted", "Available", "Progressing", "Degraded"];
/// Conditions that an operator asked for.
const INTENDED: [&str; 2] = ["Paused", "DryRun"];

#[cfg(test)]
mod tests {
    use cluster::resource::Object;
    use fleet::snapshot::Counts;
    use serde_json::json;

    use super::*;

    fn known(problems: &[&str]) -> Known<FleetConfig> {
        let object = Object {
            namespace: "spark".to_owned(),
            name: "etl".to_owned(),
            uid: "u1".to_owned(),
            generation: 7,
            value: json!({}),
        };
        Known { object, config: None, problems: problems.iter().map(ToString::to_string).collect() }
    }

    fn overview(available: u64, conditions: &[(&'static str, &str)]) -> Overview {
        let condition = |(name, message): &(&'static str, &str)| fleet::snapshot::Condition {
            name,
            message: (*message).to_owned(),
        };
        Overview {
            fleet: "etl".to_owned(),
            namespace: "spark".to_owned(),
            mode: "own",
            phase: "active",
            target: 3,
            counts: Counts { live: 3, available, pending: 3 - available, ..Counts::default() },
            refusals: BTreeMap::new(),
            impairments: BTreeMap::new(),
            conditions: conditions.iter().map(condition).collect(),
            application_id: Some("spark-1".to_owned()),
            generation: Some(7),
            problems: Vec::new(),
        }
    }

    /// `TYPE=STATUS REASON since`, in order.
    fn lines(status: &Status) -> Vec<String> {
        let line = |one: &Condition| {
            let since = one.last_transition_time.trim_start_matches("1970-01-01T00:");
            format!("{}={} {} {since}", one.kind, one.status, one.reason)
        };
        status.conditions.iter().map(line).collect()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    #[test]
    fn conditions_are_true_and_false_and_keep_their_time() {
        let first = status(&known(&[]), Some(&overview(3, &[])), None, &Status::default(), at(0));
        let strong = [
            "Accepted=True Valid 00:00Z",
            "Available=True AtStrength 00:00Z",
            "Progressing=False Stable 00:00Z",
            "Degraded=False AsExpected 00:00Z",
        ];
        assert_eq!(lines(&first), strong);
        assert_eq!((first.observed_generation, first.executors, first.target), (Some(7), 3, 3));
        assert_eq!(first.selector, "spark-app-selector=spark-1,spark-role=executor");
        let open = overview(2, &[("BreakerOpen", "3 starts in a row failed"), ("Paused", "by hand")]);
        let second = status(&known(&[]), Some(&open), None, &first, at(60));
        assert_eq!(
            lines(&second),
            [
                "Accepted=True Valid 00:00Z",
                "Available=False ExecutorsMissing 01:00Z",
                "Progressing=True Replacing 01:00Z",
                "Degraded=True BreakerOpen 01:00Z",
                "BreakerOpen=True BreakerOpen 01:00Z",
                "Paused=True Paused 01:00Z",
            ]
        );
        let third = status(&known(&[]), Some(&overview(3, &[])), None, &second, at(120));
        assert_eq!(
            lines(&third),
            [
                "Accepted=True Valid 00:00Z",
                "Available=True AtStrength 02:00Z",
                "Progressing=False Stable 02:00Z",
                "Degraded=False AsExpected 02:00Z",
                "BreakerOpen=False Over 02:00Z",
                "Paused=False Over 02:00Z",
            ]
        );
        assert_eq!(
            status(&known(&[]), Some(&overview(3, &[])), None, &third, at(180)),
            third,
            "nothing to write"
        );
    }

    #[test]
    fn a_spec_that_is_refused_is_told_with_its_reason() {
        let never = status(&known(&["spec.mode: no"]), None, None, &Status::default(), at(0));
        assert_eq!(lines(&never), ["Accepted=False Invalid 00:00Z"]);
        assert_eq!((&*never.conditions[0].message, never.observed_generation), ("spec.mode: no", Some(7)));
        let refused = Overview { problems: vec!["no policy X".to_owned()], ..overview(3, &[]) };
        let refused = status(&known(&[]), Some(&refused), None, &Status::default(), at(0));
        assert_eq!(lines(&refused)[0], "Accepted=False Invalid 00:00Z");
        assert_eq!(refused.available, 3, "the last valid one stays in force");
    }

    #[test]
    fn losses_and_rolls_are_remembered_in_the_object() {
        let mut recent = Recent::default();
        for id in 1..=7 {
            let told = |kind, message: &str| Told {
                at_ms: 1_000 * id,
                fleet: "etl".to_owned(),
                namespace: "spark".to_owned(),
                kind,
                executor: Some(fleet::id::ExecutorId(id.unsigned_abs())),
                message: message.to_owned(),
            };
            recent.take(&told("ExecutorLost", "killed by the node"));
            recent.take(&told("RollStarted", "slow"));
        }
        let first = status(&known(&[]), Some(&overview(3, &[])), Some(&recent), &Status::default(), at(9));
        let losses: Vec<u64> = first.last_losses.iter().map(|loss| loss.executor).collect();
        assert_eq!(losses, [7, 6, 5, 4, 3]);
        assert_eq!(first.last_roll.as_ref().map(|roll| &*roll.time), Some("1970-01-01T00:00:07Z"));
        // Another leader was told of none.
        let second = status(&known(&[]), Some(&overview(3, &[])), None, &first, at(10));
        assert_eq!((&second.last_losses, &second.last_roll), (&first.last_losses, &first.last_roll));
    }
}
