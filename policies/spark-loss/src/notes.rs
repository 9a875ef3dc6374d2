//! What is known and not yet said. A pod is deleted soon after its verdict: a reason that the message leaves out,
//! because no rule knows it, is lost.

use rollcall_policy::{ContainerRole, ContainerState, LossKind, NodeState};

use crate::facts::Facts;
use crate::{Cause, text};

/// The cause's message, and all other evidence that has words or may help a person who has to guess.
pub(crate) fn complete(f: &Facts, cause: &Cause) -> String {
    let mut notes = Notes(cause.message.clone());
    exit(f, &mut notes);
    notes.about("Its pod's status", f.reason, f.message);
    if let Some(mark) = f.mark {
        let before = format!("It was marked {}", text::quote(&mark.name));
        notes.about(&before, mark.reason.as_deref(), mark.message.as_deref());
    }
    conditions(f, &mut notes);
    containers(f, &mut notes);
    for (container, end) in f.failed_sidecars() {
        let sentence = format!("{}.", text::failed(container, end));
        if !notes.0.contains(&sentence) {
            notes.add(&format!("Its {sentence}"));
        }
    }
    let left = f.exit.as_ref().and_then(|exit| exit.message);
    notes.about("It left a message", None, left);
    let guess = matches!(
        cause.kind,
        LossKind::Completed
            | LossKind::Deleted
            | LossKind::ExitStatus
            | LossKind::HeartbeatLost
            | LossKind::Killed
    );
    if let Some(node) = &f.e.node {
        let state = node_state(node);
        let is_unwell = cause.kind == LossKind::Released && (node.ready != "True" || node.gone);
        if guess || is_unwell || !state.is_empty() {
            notes.add(&format!(
                "Node {}: Ready is {}{state}.",
                text::quote(&node.name),
                text::quote(&node.ready)
            ));
        }
    }
    if let Some(name) = f.e.pod.as_ref().and_then(|pod| pod.node_name.as_deref())
        && !notes.0.contains(&*text::quote(name))
    {
        notes.add(&format!("It was on node {}.", text::quote(name)));
    }
    if let Some(told) = &f.told
        && !notes.0.contains(&*text::quote(told.text))
    {
        // It comes last, and may take what room there is.
        notes.add(&format!("The driver says: {}.", text::bounded(told.text, 512).trim_end_matches('.')));
    }
    notes.0
}

struct Notes(String);

impl Notes {
    fn add(&mut self, sentence: &str) {
        self.0.push(' ');
        self.0 += sentence;
    }

    /// A reason and a message, unless both have been told already.
    fn about(&mut self, before: &str, reason: Option<&str>, message: Option<&str>) {
        let parts = [reason, message].into_iter().flatten().map(text::quote);
        let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
        if parts.iter().any(|part| !self.0.contains(&**part)) {
            self.add(&format!("{before}: {}.", parts.join(": ")));
        }
    }
}

/// How the executor's container ended, and how its run before that did.
fn exit(f: &Facts, notes: &mut Notes) {
    let Some(exit) = &f.exit else { return };
    if !notes.0.contains("'s executor container exited with exit status code") {
        let reason = exit.reason.map(|reason| format!(" ({})", text::quote(reason))).unwrap_or_default();
        notes.add(&format!("Its container exited with {}{reason}.", exit.code));
    }
    let executor = f.containers().find(|container| container.role == ContainerRole::Executor);
    let Some(container) = executor else { return };
    if let (ContainerState::Terminated(_), Some(end)) = (&container.state, &container.last_terminated) {
        let because = text::because(end.reason.as_deref(), end.message.as_deref());
        notes.add(&format!("Its run before that exited with {}{because}.", end.exit_code));
    }
}

/// What conditions say that no rule knows.
fn conditions(f: &Facts, notes: &mut Notes) {
    let known = [
        "PodScheduled",
        "Ready",
        "ContainersReady",
        "Initialized",
        "PodReadyToStartContainers",
        "DisruptionTarget",
        "TerminationTarget",
    ];
    let all = f.e.pod.iter().flat_map(|pod| &pod.conditions);
    for condition in all.filter(|condition| !known.contains(&&*condition.name)) {
        let before =
            format!("Its condition {} is {}", text::quote(&condition.name), text::quote(&condition.status));
        notes.about(&before, condition.reason.as_deref(), condition.message.as_deref());
    }
}

/// What containers wait for. That others are created first is no news.
fn containers(f: &Facts, notes: &mut Notes) {
    for container in f.containers() {
        let ContainerState::Waiting(waiting) = &container.state else { continue };
        let reason = waiting.reason.as_deref();
        let reason = reason.filter(|reason| !matches!(*reason, "ContainerCreating" | "PodInitializing"));
        let before = format!("Its {} waits", text::name(container));
        notes.about(&before, reason, waiting.message.as_deref());
    }
}

/// What a healthy node in ordinary use does not have.
fn node_state(node: &NodeState) -> String {
    let mut state = String::new();
    if node.spot {
        state += ", on a spot node";
    }
    if node.cordoned {
        state += ", cordoned";
    }
    for departure in &node.departures {
        if !(node.cordoned && departure.sign == "cordon") {
            state += &format!(", {}", text::quote(&departure.sign));
        }
    }
    for taint in &node.taints {
        let follows = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].contains(&&**taint)
            || (node.cordoned && taint == "node.kubernetes.io/unschedulable");
        if !follows && !node.departures.iter().any(|departure| departure.sign.ends_with(&**taint)) {
            state += &format!(", taint {}", text::quote(taint));
        }
    }
    state
}
