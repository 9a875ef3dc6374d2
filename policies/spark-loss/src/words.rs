//! Words: what the driver and the container said, and how evidence is put into a message.

use rollcall_policy::{Container, ContainerRole, Evidence, LossKind, Terminated};

use crate::exit::Exit;
use crate::{Cause, Fault, pod};

/// The driver said why, in a phrase that is known; or the container did, if its code says no more.
pub(crate) fn said(e: &Evidence) -> Option<Cause> {
    let by_driver =
        e.driver_remove_reason.as_deref().and_then(|text| Some((phrase(text).or_else(|| oom(text))?, text)));
    let by_container = || {
        let text = Exit::of(e).filter(Exit::is_plain_failure)?.message?;
        Some((phrase(text)?, text))
    };
    let ((kind, fault), text) = by_driver.or_else(by_container)?;
    let message = format!("Executor {} in pod {} was lost: {}.", e.executor_id, e.pod_name, quote(text));
    Some(Cause { kind, fault, message })
}

/// Did the driver give it up as silent? What became of the pod since is the consequence.
pub(crate) fn driver_gave_up(e: &Evidence) -> bool {
    driver_says(e, &["heartbeat timed out"])
}

/// Did the driver let it go, or find it gone?
pub(crate) fn driver_released(e: &Evidence) -> bool {
    driver_says(
        e,
        &[
            "executor decommission",
            "killed by driver",
            "deleted by a user or the framework",
            "not found in the cluster",
        ],
    )
}

/// The exit code in a text like "Command exited with code 52".
pub(crate) fn quoted_exit(e: &Evidence) -> Option<Exit<'_>> {
    let text = e.driver_remove_reason.as_deref()?;
    let code = ["exit code ", "exited with code ", "exit status code "].into_iter().find_map(|before| {
        let (_, after) = text.split_once(before)?;
        let number = after.find(|c: char| c != '-' && !c.is_ascii_digit()).map_or(after, |end| &after[..end]);
        number.parse().ok()
    })?;
    // Spark's word for "no container has ended".
    if code == -1 {
        return None;
    }
    let reason = text.contains("OOMKilled").then_some("OOMKilled");
    Some(Exit { code, reason, message: None, finished_at_ms: None })
}

/// Kubernetes' reason and message in brackets, as far as there are any.
pub(crate) fn because(reason: &Option<String>, message: &Option<String>) -> String {
    let parts: Vec<String> = [reason, message]
        .into_iter()
        .flatten()
        .map(|part| quote(part))
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(": ")) }
}

/// How the executor's container ended, where that is not the reason.
pub(crate) fn exit_note(e: &Evidence) -> String {
    let Some(exit) = Exit::of(e) else { return String::new() };
    let reason = exit.reason.map(|reason| format!(" ({})", quote(reason))).unwrap_or_default();
    format!(" Its container exited with {}{reason}.", exit.code)
}

/// The message that the container left.
pub(crate) fn last_words(exit: &Exit) -> String {
    exit.message.map(|text| format!(" It left a message: {}.", quote(text))).unwrap_or_default()
}

/// What else may help a person who has to guess.
pub(crate) fn notes(e: &Evidence) -> String {
    let mut notes = String::new();
    if let Some(text) = &e.driver_remove_reason {
        notes += &format!(" The driver says: {}.", quote(text));
    }
    if let Some((container, end)) = pod::failed_sidecar(e) {
        notes += &format!(" Its {}.", failed(container, end));
    }
    if let Some(node) = &e.node {
        let spot = if node.spot { ", on a spot node" } else { "" };
        let cordoned = if node.cordoned { ", cordoned" } else { "" };
        notes += &format!(" Node {}: Ready is {}{spot}{cordoned}.", quote(&node.name), quote(&node.ready));
    }
    notes
}

/// "sidecar container istio-proxy".
pub(crate) fn name(container: &Container) -> String {
    let role = match container.role {
        ContainerRole::Executor => "executor",
        ContainerRole::Sidecar => "sidecar",
        ContainerRole::Init => "init",
    };
    format!("{role} container {}", quote(&container.name))
}

/// "init container fetch-jars exited with exit status code 1 (Error)".
pub(crate) fn failed(container: &Container, end: &Terminated) -> String {
    let because = because(&end.reason, &end.message);
    format!("{} exited with exit status code {}{because}", name(container), end.exit_code)
}

/// Somebody else's text, as part of a sentence.
pub(crate) fn quote(text: &str) -> String {
    bounded(text, 256).trim_end_matches('.').into()
}

/// On one line, without control characters, and in no more than so many bytes.
pub(crate) fn bounded(text: &str, bytes_max: usize) -> String {
    const MORE: &str = "…";
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = words.collect::<Vec<_>>().join(" ");
    if line.len() > bytes_max {
        line.truncate(line.floor_char_boundary(bytes_max - MORE.len()));
        line += MORE;
    }
    line
}

/// Phrases of Spark and the JVM. Those that spare the application come first.
const PHRASES: [(&str, LossKind, Fault); 11] = [
    ("registration failed", LossKind::DriverConnection, Fault::Outside),
    ("cannot register with driver", LossKind::DriverConnection, Fault::Outside),
    // Not "Remote RPC client disassociated", by which the driver says that it does not know.
    ("disassociated! shutting down", LossKind::DriverConnection, Fault::Outside),
    ("executor is excluded", LossKind::DriverConnection, Fault::Outside),
    ("no space left on device", LossKind::Disk, Fault::Outside),
    ("unable to create executor", LossKind::StartFailed, Fault::Setup),
    ("oomkilled", LossKind::MemoryLimit, Fault::App),
    ("outofmemoryerror", LossKind::OutOfMemory, Fault::App),
    ("uncaught exception", LossKind::AppFailure, Fault::App),
    ("classnotfoundexception", LossKind::AppFailure, Fault::App),
    ("noclassdeffounderror", LossKind::AppFailure, Fault::App),
];

fn phrase(text: &str) -> Option<(LossKind, Fault)> {
    let text = text.to_ascii_lowercase();
    PHRASES.iter().find(|(phrase, ..)| text.contains(phrase)).map(|(_, kind, fault)| (kind.clone(), *fault))
}

/// The driver's short word for it; but its "possible container OOM" stands for every SIGKILL.
fn oom(text: &str) -> Option<(LossKind, Fault)> {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let found = words.any(|word| word == "OOM") && !text.contains("possible container OOM");
    found.then_some((LossKind::OutOfMemory, Fault::App))
}

fn driver_says(e: &Evidence, phrases: &[&str]) -> bool {
    e.driver_remove_reason.as_deref().is_some_and(|text| {
        let text = text.to_ascii_lowercase();
        phrases.iter().any(|phrase| text.contains(phrase))
    })
}
