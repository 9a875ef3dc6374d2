//! Scheduling gates: no scheduler may bind a pod that has any in `spec.schedulingGates`.
//!
//! Gates are set when a pod is created, or never. A controller, for instance Kueue, removes its own gate when
//! the pod may run; until then it may still narrow the choice of nodes. The rules are those of
//! `ValidatePodCreate` and `ValidatePodUpdate` in kube-apiserver.

use serde_json::{Map, Value, json};

use super::ask::Ask;
use super::names::is_label_key;
use super::status::Status;
use super::view::object_at;

const FIELD: &str = "schedulingGates";
/// The reason of the condition `PodScheduled`.
pub(super) const REASON: &str = "SchedulingGated";
const MESSAGE: &str = "Scheduling is blocked due to non-empty scheduling gates";

pub(crate) fn is_gated(pod: &Value) -> bool {
    !gates(pod).is_empty()
}

fn gates(pod: &Value) -> &[Value] {
    list(&pod["spec"][FIELD])
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Does its status say that it is gated? That is written at the creation, and stays until a scheduler binds the
/// pod.
pub(super) fn is_shown_gated(pod: &Value) -> bool {
    list(&pod["status"]["conditions"])
        .iter()
        .any(|condition| condition["type"] == "PodScheduled" && condition["reason"] == REASON)
}

/// Removes an empty list. `false`: the value is not a list of gates.
pub(super) fn normalize(pod: &mut Value) -> bool {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return true };
    let Some(given) = spec.get(FIELD) else { return true };
    if given.is_null() || given.as_array().is_some_and(Vec::is_empty) {
        spec.remove(FIELD);
        return true;
    }
    let named = |gate: &Value| {
        gate.as_object()
            .is_some_and(|gate| gate.get("name").is_none_or(|name| name.is_string() || name.is_null()))
    };
    given.as_array().is_some_and(|gates| gates.iter().all(named))
}

/// Checks a new pod, and writes the condition if it is gated.
pub(super) fn admit(ask: &Ask, name: &str, pod: &mut Value, time: &str) -> Result<(), Status> {
    check_names(ask, name, pod)?;
    if !is_gated(pod) {
        return Ok(());
    }
    if !pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        let why = "Forbidden: cannot be set until all schedulingGates have been cleared";
        return Err(Status::invalid(ask.kind, name, "spec.nodeName", why));
    }
    object_at(pod, &["status"]).insert(
        "conditions".to_owned(),
        json!([{
            "type": "PodScheduled", "status": "False", "reason": REASON, "message": MESSAGE,
            "lastProbeTime": null, "lastTransitionTime": time,
        }]),
    );
    Ok(())
}

fn check_names(ask: &Ask, name: &str, pod: &Value) -> Result<(), Status> {
    let gates = gates(pod);
    for (at, gate) in gates.iter().enumerate() {
        let refuse = |why: String| Err(Status::invalid(ask.kind, name, &format!("spec.{FIELD}[{at}]"), &why));
        let text = gate["name"].as_str().unwrap_or_default();
        if !is_label_key(text) {
            return refuse(format!("Invalid value: {text:?}: name part must be a qualified name"));
        }
        if gates[..at].iter().any(|other| other["name"] == gate["name"]) {
            return refuse(format!("Duplicate value: {text:?}"));
        }
    }
    Ok(())
}

/// Checks an update: gates are removed and never added, and a gated pod's choice of nodes only gets narrower.
pub(super) fn check_change(ask: &Ask, old: &Value, new: &Value) -> Result<(), Status> {
    check_names(ask, &ask.name, new)?;
    for (at, gate) in gates(new).iter().enumerate() {
        if !gates(old).iter().any(|other| other["name"] == gate["name"]) {
            let name = gate["name"].as_str().unwrap_or_default();
            let why = format!("Forbidden: only deletion is allowed, but found new scheduling gate '{name}'");
            return Err(Status::invalid(ask.kind, &ask.name, &format!("spec.{FIELD}[{at}].name"), &why));
        }
    }
    if !is_gated(old) {
        return Ok(());
    }
    let wider = |field: &str, why: &str| {
        Err(Status::invalid(ask.kind, &ask.name, field, &format!("Invalid value: {why}")))
    };
    let selector = |pod: &Value| pod["spec"]["nodeSelector"].as_object().cloned().unwrap_or_default();
    let now = selector(new);
    if selector(old).iter().any(|(key, value)| now.get(key) != Some(value)) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        return wider("spec.nodeSelector", why);
    }
    const TERMS: &str =
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let field = TERMS[1..].replace('/', ".");
    let (before, now) = (old.pointer(TERMS).map_or(&[][..], list), new.pointer(TERMS).map_or(&[][..], list));
    if !before.is_empty() && before.len() != now.len() {
        return wider(&field, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    match before.iter().zip(now).position(|(before, now)| !adds_only(before, now)) {
        Some(at) => {
            wider(&format!("{field}[{at}]"), "only additions are allowed (no mutations or deletions)")
        }
        None => Ok(()),
    }
}

/// Does a `NodeSelectorTerm` contain all its previous expressions? An empty one matches no node, so any
/// addition would match more.
fn adds_only(before: &Value, now: &Value) -> bool {
    const PARTS: [&str; 2] = ["matchExpressions", "matchFields"];
    let is_empty = |term: &Value| PARTS.iter().all(|part| list(&term[*part]).is_empty());
    (!is_empty(before) || is_empty(now))
        && PARTS.iter().all(|part| list(&now[*part]).starts_with(list(&before[*part])))
}

/// Removes the fields that [`check_change`] has checked from a spec, so that the rest can be compared.
pub(super) fn forget(spec: &mut Map<String, Value>, gated: bool) {
    spec.remove(FIELD);
    if !gated {
        return;
    }
    spec.remove("nodeSelector");
    if let Some(affinity) = spec.get_mut("affinity").and_then(Value::as_object_mut) {
        affinity.remove("nodeAffinity");
        if affinity.is_empty() {
            spec.remove("affinity");
        }
    }
}
