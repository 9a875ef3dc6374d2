//! Conversion between the core's types and the contract's: borrows the input, checks the output.

use fleet::question as q;

use crate::bindings::rollcall::policy::types as wit;
use crate::fault::{Fault, InvalidAnswer};
use crate::guest_log::printable;

const REASON_BYTES: usize = 1 << 10;
const LOSS_KIND_BYTES: usize = 64;

/// A defect of an answer that is still used, without the defective part.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Complaint {
    /// A pick of no candidate. If none of the picks is one, the answer as a whole is invalid:
    /// [`InvalidAnswer::NoKnownPick`].
    #[error("index {index} is none of the {candidates} candidates; dropped")]
    UnknownIndex {
        /// What the policy answered.
        index: u32,
        /// How many candidates there were: an index has to be lower.
        candidates: usize,
    },
    /// Only the first pick of a candidate counts.
    #[error("index {index} was picked more than once")]
    DuplicateIndex {
        /// The candidate's index.
        index: u32,
    },
    /// The last complaint of an answer with more defects than are listed.
    #[error("more than 10 further complaints")]
    More,
}

const COMPLAINTS: usize = 10;

/// Maps a variant to the one of the same name of another enum.
macro_rules! same_variant {
    ($value:expr, $from_module:ident::$from:ident => $to_module:ident::$to:ident { $($variant:ident),* }
        $(else { $($other:tt)* })?) => {
        match $value {
            $($from_module::$from::$variant => $to_module::$to::$variant,)*
            $($($other)*)?
        }
    };
}

/// The lists of small records that have to be built for a question, because the core stores them in another
/// form. The columns are lent as they are.
pub(crate) struct Lent<'a> {
    nodes: Vec<wit::Node>,
    metrics: Vec<wit::Metric<'a>>,
}

impl<'a> Lent<'a> {
    pub(crate) fn of(question: &'a q::RollQuestion) -> Lent<'a> {
        let nodes = question.nodes.iter().map(|n| wit::Node {
            zone: n.zone,
            spot: n.spot,
            ready: n.ready,
            cordoned: n.cordoned,
            departing: n.departing,
        });
        let metrics = question.metrics.iter().map(|m| wit::Metric { name: &m.name, values: &m.values });
        Lent { nodes: nodes.collect(), metrics: metrics.collect() }
    }
}

macro_rules! executors {
    ($($counter:ident: $type:ident = $how:ident($name:literal),)*) => {
        fn executors(columns: q::Columns<'_>) -> wit::Executors<'_> {
            wit::Executors {
                id: columns.id,
                $($counter: columns.$counter,)*
                age_ms: columns.age_ms,
                since_heartbeat_ms: columns.since_heartbeat_ms,
                node: columns.node,
            }
        }
    };
}

fleet::with_counters!(executors);

pub(crate) fn fleet<'a>(question: &'a q::RollQuestion, lent: &'a Lent<'a>) -> wit::Fleet<'a> {
    wit::Fleet {
        name: &question.fleet,
        application_id: &question.application_id,
        target: question.target,
        available: question.available,
        now_ms: question.now_ms,
        seed: question.seed,
        picks_max: question.picks_max,
        executors: executors(question.candidates.columns()),
        nodes: &lent.nodes,
        metrics: &lent.metrics,
    }
}

/// The selection without picks that are not candidates, repeated picks and those beyond `picks_max`.
pub(crate) fn selection(
    answer: wit::Selection,
    question: &q::RollQuestion,
) -> Result<(q::Selection, Vec<Complaint>), Fault> {
    let picks = match answer {
        wit::Selection::Abstain => return Ok((q::Selection::Abstain, Vec::new())),
        wit::Selection::Nothing(reason) => {
            return Ok((q::Selection::Nothing(printable(&reason, REASON_BYTES)), Vec::new()));
        }
        wit::Selection::Roll(_) if question.picks_max == 0 => {
            return Ok((q::Selection::Nothing("no picks were asked for".into()), Vec::new()));
        }
        wit::Selection::Roll(picks) if picks.is_empty() => {
            return Ok((q::Selection::Nothing("the policy picked no executor".into()), Vec::new()));
        }
        wit::Selection::Roll(picks) => picks,
    };
    let candidates = question.candidates.len();
    let mut complaints = Vec::new();
    let mut seen = vec![false; candidates];
    let mut kept = Vec::new();
    for pick in &picks {
        if !pick.score.is_finite() {
            let score = pick.score.to_string();
            return Err(Fault::InvalidAnswer(InvalidAnswer::ScoreNotFinite { index: pick.index, score }));
        }
        let index = pick.index as usize;
        match seen.get_mut(index) {
            None => complain(&mut complaints, Complaint::UnknownIndex { index: pick.index, candidates }),
            Some(true) => complain(&mut complaints, Complaint::DuplicateIndex { index: pick.index }),
            Some(seen) => {
                *seen = true;
                if kept.len() < question.picks_max as usize {
                    let reason = printable(&pick.reason, REASON_BYTES);
                    kept.push(q::Pick { index, score: pick.score, reason });
                }
            }
        }
    }
    if kept.is_empty() {
        let invalid = InvalidAnswer::NoKnownPick { index: picks[0].index, candidates };
        return Err(Fault::InvalidAnswer(invalid));
    }
    Ok((q::Selection::Roll(kept), complaints))
}

fn complain(complaints: &mut Vec<Complaint>, complaint: Complaint) {
    match complaints.len() {
        0..COMPLAINTS => complaints.push(complaint),
        COMPLAINTS => complaints.push(Complaint::More),
        _ => {}
    }
}

/// The evidence, with the lists that have to be built for it.
pub(crate) fn with_evidence<R>(evidence: &q::Evidence, call: impl FnOnce(wit::Evidence<'_>) -> R) -> R {
    let conditions: Vec<_> = evidence.pod.iter().flat_map(|pod| &pod.conditions).map(condition).collect();
    let containers: Vec<_> = evidence.pod.iter().flat_map(|pod| &pod.containers).map(container).collect();
    let taints: Vec<&str> = evidence.node.iter().flat_map(|node| &node.taints).map(String::as_str).collect();
    let gates: Vec<&str> =
        evidence.pod.iter().flat_map(|pod| &pod.scheduling_gates).map(String::as_str).collect();
    let departures: Vec<_> = evidence.node.iter().flat_map(|node| &node.departures).map(departure).collect();
    call(wit::Evidence {
        fleet: &evidence.fleet,
        application_id: &evidence.application_id,
        executor_id: evidence.executor_id,
        pod_name: &evidence.pod_name,
        now_ms: evidence.now_ms,
        trigger: same_variant!(evidence.trigger, q::Trigger => wit::Trigger {
            HeartbeatTimeout, PodFailed, PodSucceeded, PodDeleted, PodMissing, DriverRemoved,
            PendingTimeout, OperatorKill
        }),
        lost_at_ms: evidence.lost_at_ms,
        checks_made: evidence.checks_made,
        checks_max: evidence.checks_max,
        ever_registered: evidence.ever_registered,
        since_heartbeat_ms: evidence.since_heartbeat_ms,
        our_deletion: evidence.our_deletion.map(|deletion| wit::Deletion {
            why: same_variant!(deletion.why, q::DeletionCause => wit::DeletionCause {
                Roll, ScaleDown, Kill, PendingTimeout, Lost, FleetRemoved
            }),
            at_ms: deletion.at_ms,
        }),
        driver: same_variant!(evidence.driver, q::Driver => wit::Driver { Unknown, Running, Gone }),
        driver_remove_reason: evidence.driver_remove_reason.as_deref(),
        pod: evidence.pod.as_ref().map(|pod| wit::Pod {
            phase: &pod.phase,
            reason: pod.reason.as_deref(),
            message: pod.message.as_deref(),
            gone: pod.gone,
            created_at_ms: pod.created_at_ms,
            deletion_at_ms: pod.deletion_at_ms,
            deletion_grace_ms: pod.deletion_grace_ms,
            conditions: &conditions,
            containers: &containers,
            node_name: pod.node_name.as_deref(),
            scheduling_gates: &gates,
        }),
        node: evidence.node.as_ref().map(|node| wit::NodeState {
            name: &node.name,
            gone: node.gone,
            ready: &node.ready,
            reason: node.reason.as_deref(),
            cordoned: node.cordoned,
            taints: &taints,
            spot: node.spot,
            departures: &departures,
        }),
    })
}

fn departure(departure: &q::Departure) -> wit::Departure<'_> {
    wit::Departure {
        kind: same_variant!(departure.kind, q::DepartureKind => wit::DepartureKind {
            Reclaimed, Drained, Cordoned
        }),
        sign: &departure.sign,
    }
}

fn condition(condition: &q::Condition) -> wit::Condition<'_> {
    wit::Condition {
        name: &condition.name,
        status: &condition.status,
        reason: condition.reason.as_deref(),
        message: condition.message.as_deref(),
    }
}

fn container(container: &q::Container) -> wit::Container<'_> {
    wit::Container {
        name: &container.name,
        role: same_variant!(container.role, q::ContainerRole => wit::ContainerRole {
            Executor, Sidecar, Init
        }),
        state: match &container.state {
            q::ContainerState::Waiting { reason, message } => wit::ContainerState::Waiting(wit::Waiting {
                reason: reason.as_deref(),
                message: message.as_deref(),
            }),
            q::ContainerState::Running { started_at_ms } => wit::ContainerState::Running(*started_at_ms),
            q::ContainerState::Terminated(end) => wit::ContainerState::Terminated(terminated(end)),
        },
        last_terminated: container.last_terminated.as_deref().map(terminated),
        restart_count: container.restart_count,
    }
}

fn terminated(end: &q::Terminated) -> wit::Terminated<'_> {
    wit::Terminated {
        exit_code: end.exit_code,
        signal: end.signal,
        reason: end.reason.as_deref(),
        message: end.message.as_deref(),
        started_at_ms: end.started_at_ms,
        finished_at_ms: end.finished_at_ms,
    }
}

pub(crate) fn verdict(answer: wit::Verdict) -> Result<q::Verdict, Fault> {
    let reason = match answer {
        wit::Verdict::Abstain => return Ok(q::Verdict::Abstain),
        wit::Verdict::Undetermined => return Ok(q::Verdict::Undetermined),
        wit::Verdict::Known(reason) => reason,
    };
    Ok(q::Verdict::Known(q::LossReason {
        kind: loss_kind(reason.kind)?,
        message: printable(&reason.message, REASON_BYTES),
        exit_caused_by_app: reason.exit_caused_by_app,
        exit_code: reason.exit_code,
        keep_pod: reason.keep_pod,
    }))
}

fn loss_kind(kind: wit::LossKind) -> Result<q::LossKind, Fault> {
    Ok(same_variant!(kind, wit::LossKind => q::LossKind {
        Released, Deleted, DriverGone, Completed, MemoryLimit, OutOfMemory, AppFailure, NativeCrash,
        ExitStatus, Killed, Disk, DriverConnection, Evicted, Preempted, NodeLost, NotAdmitted, Image,
        Config, StartFailed, HeartbeatLost, Unknown
    } else {
        wit::LossKind::Other(name) if is_kebab(&name) => q::LossKind::Other(name),
        wit::LossKind::Other(name) => {
            let name = printable(&name, LOSS_KIND_BYTES);
            return Err(Fault::InvalidAnswer(InvalidAnswer::LossKind(name)));
        }
    }))
}

fn is_kebab(name: &str) -> bool {
    let letters =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= LOSS_KIND_BYTES && name.split('-').all(letters)
}
