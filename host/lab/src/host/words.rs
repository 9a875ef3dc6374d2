//! What a core is told and what it wants, as a number for the hash and as a line for a timeline.

use fleet::action::Verb;
use fleet::event::{Event, Outcome};

/// Distinguishes events, for the hash.
pub(super) fn event_number(event: &Event) -> u64 {
    let (kind, number) = match event {
        Event::LeadershipGained { term } => (1, *term),
        Event::LeadershipLost => (2, 0),
        Event::Relisted(list) => (3, list.revision),
        Event::PodChanged(pod) => (4, pod.revision),
        Event::PodGone(pod) => (5, pod.revision),
        Event::NodeChanged(node) => (6, u64::from(node.state.gone)),
        Event::DriverChanged { revision, .. } => (7, *revision),
        Event::ViewStale => (8, 0),
        Event::ViewFresh => (9, 0),
        Event::Heartbeat(beat) => (10, beat.executor.0),
        Event::DriverReported(rows) => (11, rows.len() as u64),
        Event::Answered { action, answer } => (12, action.0 << 1 | u64::from(answer.is_ok())),
        Event::Finished { action, outcome } => (13, action.0 << 4 | outcome_number(outcome)),
        Event::SpecChanged { spec, .. } => (14, u64::from(spec.target)),
        Event::Commanded { command, .. } => (15, command.0),
        Event::Deadline => (16, 0),
        Event::LeadershipConfirmed => (18, 0),
        Event::HearingImpaired(why) => (17, *why as u64),
    };
    kind << 48 | number
}

pub(super) fn outcome_number(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Ok(_) => 0,
        Outcome::AlreadyExists => 1,
        Outcome::Conflict => 2,
        Outcome::NotFound => 3,
        Outcome::Throttled { .. } => 4,
        Outcome::Budget => 5,
        Outcome::Forbidden(_) => 6,
        Outcome::Invalid(_) => 7,
        Outcome::Unknown(_) => 8,
    }
}

pub(super) fn verb_number(verb: &Verb) -> u64 {
    let (kind, number) = match verb {
        Verb::Relist { .. } => (1, 0),
        Verb::ReadLedger => (2, 0),
        Verb::WriteLedger { ledger, .. } => (3, ledger.epoch << 32 | ledger.writes),
        Verb::CreatePod { executor, .. } => (4, executor.0),
        Verb::GetPod { executor, .. } => (5, executor.0),
        Verb::DeletePod { executor, grace_ms, .. } => (6, executor.0 << 20 | grace_ms.unwrap_or(0)),
        Verb::EvictPod { executor, grace_ms, .. } => (7, executor.0 << 20 | grace_ms.unwrap_or(0)),
        Verb::DeleteDriver { .. } => (8, 0),
        Verb::Ask { .. } => (9, 0),
        Verb::Reply { command, .. } => (10, command.0),
        Verb::CheckLease => (12, 0),
        Verb::Publish(notice) => (11, notice.executor.map_or(0, |executor| executor.0)),
    };
    kind << 56 | number
}

/// An event as one line.
pub(super) fn event(event: &Event) -> String {
    match event {
        Event::Relisted(list) => {
            let pods: Vec<String> =
                list.pods.iter().map(|pod| format!("{}:{:?}", pod.name, pod.phase)).collect();
            format!("Relisted at {} {:?} {}", list.revision, list.driver, pods.join(" "))
        }
        Event::PodChanged(pod) | Event::PodGone(pod) => {
            let what = if matches!(event, Event::PodGone(_)) { "PodGone" } else { "PodChanged" };
            let dying = if pod.terminating() { " terminating" } else { "" };
            format!("{what} {} {:?}{dying} on {:?} at {}", pod.name, pod.phase, pod.node, pod.revision)
        }
        Event::Finished { action, outcome } => match outcome {
            Outcome::Ok(fleet::event::Done::Pod(pod)) => {
                format!("Finished {action} Ok pod {} {:?}", pod.name, pod.phase)
            }
            Outcome::Ok(_)
            | Outcome::AlreadyExists
            | Outcome::Conflict
            | Outcome::NotFound
            | Outcome::Throttled { .. }
            | Outcome::Budget
            | Outcome::Forbidden(_)
            | Outcome::Invalid(_)
            | Outcome::Unknown(_) => format!("Finished {action} {outcome:?}"),
        },
        Event::DriverReported(rows) => format!("DriverReported {} rows", rows.len()),
        Event::SpecChanged { spec, .. } => {
            format!("SpecChanged target {} paused {} dry {}", spec.target, spec.paused, spec.dry_run)
        }
        Event::LeadershipGained { .. }
        | Event::LeadershipLost
        | Event::LeadershipConfirmed
        | Event::NodeChanged(_)
        | Event::DriverChanged { .. }
        | Event::ViewStale
        | Event::ViewFresh
        | Event::Heartbeat(_)
        | Event::HearingImpaired(_)
        | Event::Answered { .. }
        | Event::Commanded { .. }
        | Event::Deadline => format!("{event:?}"),
    }
}

/// An action as one line.
pub(super) fn verb(verb: &Verb) -> String {
    match verb {
        Verb::WriteLedger { ledger, over } => format!("WriteLedger {ledger:?} over {over:?}"),
        Verb::Ask { policy, question } => match question {
            fleet::action::Question::Roll(roll) => {
                format!("Ask {policy} whom to roll of {:?}", roll.candidates.ids())
            }
            fleet::action::Question::Loss(loss) => {
                format!(
                    "Ask {policy} about {} {:?} check {}",
                    loss.executor_id, loss.trigger, loss.checks_made
                )
            }
        },
        Verb::Relist { .. }
        | Verb::ReadLedger
        | Verb::CreatePod { .. }
        | Verb::GetPod { .. }
        | Verb::DeletePod { .. }
        | Verb::EvictPod { .. }
        | Verb::DeleteDriver { .. }
        | Verb::Reply { .. }
        | Verb::CheckLease
        | Verb::Publish(_) => format!("{verb:?}"),
    }
}
