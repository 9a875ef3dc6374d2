//! The policies, as the core sees them: answers, some of them wrong.
//!
//! The loss classifier draws the obvious conclusion from the evidence, and answers *undetermined* until there
//! is some; the roll policy picks the oldest executor, or the one with the most garbage collection. The sandbox
//! is not here: to the core a trap and an exceeded budget are the same fault.

use fleet::action::Question;
use fleet::event::{Answer, Fault as PolicyFault};
use fleet::question::{
    Container, ContainerRole, ContainerState, Evidence, LossKind, LossReason, Pick, RollQuestion, Selection,
    Trigger, Verdict,
};

use crate::fault::Fault;
use crate::world::Sim;

/// The existing policy names.
pub const NAMES: [&str; 4] = ["SPARK", "OLDEST", "MOST_GC", "CLASSIFIER"];

pub(crate) fn answer(sim: &mut Sim, question: &Question, healed: bool) -> Result<Answer, PolicyFault> {
    if sim.strikes(Fault::PolicyTraps) {
        return Err(PolicyFault::Policy("wasm trap: unreachable".to_owned()));
    }
    if sim.strikes(Fault::PolicyHostFault) {
        return Err(PolicyFault::Host("no sandbox is free".to_owned()));
    }
    match question {
        Question::Roll(question) => roll(sim, question, healed).map(Answer::Roll),
        Question::Loss(evidence) => Ok(Answer::Loss(loss(sim, evidence))),
    }
}

fn pick(index: usize) -> Pick {
    Pick { index, score: 1.0, reason: "its turn".to_owned() }
}

fn roll(sim: &mut Sim, question: &RollQuestion, healed: bool) -> Result<Selection, PolicyFault> {
    let columns = question.candidates.columns();
    let count = columns.id.len();
    // A fleet that has to come to rest is not rolled.
    if healed || count == 0 {
        return Ok(Selection::Nothing("all is well".to_owned()));
    }
    if sim.strikes(Fault::PolicyAbstains) {
        return Ok(Selection::Abstain);
    }
    if sim.strikes(Fault::PolicyForeign) {
        let first = pick(usize::try_from(sim.choices.below(count as u64 + 3)).expect("an index"));
        return Ok(Selection::Roll(vec![first.clone(), pick(count + 7), first]));
    }
    if sim.strikes(Fault::PolicyRollsAll) {
        return Ok(Selection::Roll((0..count).map(pick).collect()));
    }
    let by_age = sim.choices.below(2) == 0;
    let key = |index: &usize| {
        if by_age { columns.age_ms[*index] } else { columns.total_gc_time_ms[*index].unsigned_abs() }
    };
    let worst = (0..count).max_by_key(key);
    Ok(worst.map_or(Selection::Abstain, |worst| Selection::Roll(vec![pick(worst)])))
}

fn known(kind: LossKind, app: bool, exit_code: Option<i32>) -> Verdict {
    let message = format!("Executor lost: {}.", kind.name());
    Verdict::Known(LossReason { kind, message, exit_caused_by_app: app, exit_code, keep_pod: app })
}

fn loss(sim: &mut Sim, evidence: &Evidence) -> Verdict {
    if sim.strikes(Fault::PolicyAbstains) {
        return if sim.choices.chance(500) { Verdict::Undetermined } else { Verdict::Abstain };
    }
    if sim.strikes(Fault::PolicyFlipFlops) {
        let kind = match sim.choices.below(4) {
            0 => LossKind::Unknown,
            1 => LossKind::AppFailure,
            2 => LossKind::Other("gremlins".to_owned()),
            _ => LossKind::MemoryLimit,
        };
        return known(kind, true, Some(1));
    }
    sensible(evidence)
}

fn sensible(evidence: &Evidence) -> Verdict {
    if evidence.our_deletion.is_some() {
        return known(LossKind::Released, false, None);
    }
    let pod = evidence.pod.as_ref();
    let condition = pod.and_then(|pod| {
        pod.conditions
            .iter()
            .find(|condition| condition.name == "DisruptionTarget" && condition.status == "True")
    });
    if let Some(condition) = condition {
        return match condition.reason.as_deref() {
            Some("PreemptionByScheduler") => known(LossKind::Preempted, false, None),
            Some("DeletionByTaintManager" | "DeletionByPodGC") => known(LossKind::NodeLost, false, None),
            Some(_) | None => known(LossKind::Evicted, false, None),
        };
    }
    if pod.is_some_and(|pod| pod.deletion_at_ms.is_some()) {
        return known(LossKind::Deleted, false, None);
    }
    if let Some(code) = pod.and_then(exit_code) {
        let limit = pod.is_some_and(|pod| pod.containers.iter().any(over_limit));
        return match code {
            137 if !limit => known(LossKind::Killed, false, Some(137)),
            0 => known(LossKind::Completed, false, Some(0)),
            137 => known(LossKind::MemoryLimit, true, Some(137)),
            52 => known(LossKind::OutOfMemory, true, Some(52)),
            50 | 1 => known(LossKind::AppFailure, true, Some(code)),
            53..=55 => known(LossKind::Disk, false, Some(code)),
            56 => known(LossKind::DriverConnection, false, Some(56)),
            134 | 139 => known(LossKind::NativeCrash, true, Some(code)),
            _ => known(LossKind::ExitStatus, true, Some(code)),
        };
    }
    if evidence.checks_made < evidence.checks_max {
        return Verdict::Undetermined;
    }
    match evidence.trigger {
        Trigger::HeartbeatTimeout => known(LossKind::HeartbeatLost, false, None),
        Trigger::PodDeleted | Trigger::PodMissing => known(LossKind::Deleted, false, None),
        Trigger::PendingTimeout => known(LossKind::StartFailed, false, None),
        Trigger::PodFailed | Trigger::PodSucceeded | Trigger::DriverRemoved | Trigger::OperatorKill => {
            known(LossKind::Unknown, false, None)
        }
    }
}

fn over_limit(container: &Container) -> bool {
    match &container.state {
        ContainerState::Terminated(end) => end.reason.as_deref() == Some("OOMKilled"),
        ContainerState::Waiting { .. } | ContainerState::Running { .. } => false,
    }
}

fn exit_code(pod: &fleet::question::Pod) -> Option<i32> {
    pod.containers.iter().filter(|container| container.role == ContainerRole::Executor).find_map(
        |container| match &container.state {
            ContainerState::Terminated(end) => Some(end.exit_code),
            ContainerState::Waiting { .. } | ContainerState::Running { .. } => None,
        },
    )
}
