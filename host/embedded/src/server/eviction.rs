//! The eviction subresource: a deletion, if the PodDisruptionBudgets allow it.
//!
//! Budgets are computed when they are needed, and not by a controller that lags. Percentages refer to the
//! number of matching pods; the real server cannot do that for pods without a controller that has a scale.

use std::sync::Arc;

use serde_json::{Value, json};

use super::admission::has_ended;
use super::ask::Ask;
use super::kinds::{BUDGETS, PODS};
use super::removal::{self, Options};
use super::selector::Selector;
use super::status::{self, Status};
use super::store::{Key, Store};
use super::view::object_at;

pub(super) fn evict(store: &mut Store, ask: &Ask, body: &Value) -> Result<Value, Status> {
    if !matches!(body["kind"].as_str(), None | Some("Eviction")) {
        return Err(Status::bad_request("the kind in the data does not match the expected one (Eviction)"));
    }
    if body["metadata"]["name"] != *ask.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = Options::parse(ask, &body["deleteOptions"])?;
    options.dry_run |=
        ask.dry_run() || body["dryRun"].as_array().is_some_and(|all| all.iter().any(|it| it == "All"));
    let key = ask.key();
    let pod = Arc::clone(store.get(&key).ok_or_else(|| Status::not_found(&PODS, &ask.name))?);
    check_budgets(store, &key, &pod)?;
    options.check(&PODS, &pod)?;
    let note = removal::note(store, ask, &options, true);
    if !options.dry_run {
        // The pod met any precondition on its version before the change below.
        options.version = None;
        let mut marked = Value::clone(&pod);
        disrupt(&mut marked, "EvictionByEvictionAPI", "Eviction API: evicting", &store.timestamp());
        if marked != *pod {
            store.put(key.clone(), marked);
        }
    }
    removal::delete(store, &PODS, &key, &options)?;
    removal::keep(store, note);
    Ok(status::success(Value::Null))
}

/// Sets the condition by which Kubernetes reports that it ends a pod itself.
pub(crate) fn disrupt(pod: &mut Value, reason: &str, message: &str, time: &str) {
    set_condition(pod, "DisruptionTarget", Some((reason, message)), time);
}

/// Sets a condition to true, if it is not true yet.
pub(super) fn set_condition(pod: &mut Value, name: &str, why: Option<(&str, &str)>, time: &str) {
    let status = object_at(pod, &["status"]);
    let conditions = status.entry("conditions").or_insert(Value::Null);
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    let place = conditions.iter().position(|condition| condition["type"] == name);
    let before = place.map(|at| &conditions[at]).filter(|condition| condition["status"] == "True");
    let since = before.map_or_else(|| time.into(), |condition| condition["lastTransitionTime"].clone());
    let mut condition = json!({ "type": name, "status": "True", "lastTransitionTime": since });
    if let Some((reason, message)) = why {
        condition["reason"] = reason.into();
        condition["message"] = message.into();
    }
    match place {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    pod["metadata"].get("deletionTimestamp").is_none() && conditions.into_iter().any(ready)
}

fn check_budgets(store: &Store, key: &Key, pod: &Value) -> Result<(), Status> {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if pod["metadata"].get("deletionTimestamp").is_some() || phase != "Running" {
        // A pod that is not up is covered by no budget.
        return Ok(());
    }
    let budgets = store.range(BUDGETS.plural, Some(&key.namespace));
    let matching: Vec<_> = budgets
        .filter_map(|(key, budget)| Some((key, budget, Selector::from_object(&budget["spec"]["selector"])?)))
        .filter(|(_, _, selector)| selector.matches(pod))
        .collect();
    let (name, budget, selector) = match matching.as_slice() {
        [] => return Ok(()),
        [(key, budget, selector)] => (&key.name, &budget["spec"], selector),
        _ => {
            let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does \
                           not support.";
            return Err(Status::new(500, "", message));
        }
    };
    let pods = store.range(PODS.plural, Some(&key.namespace)).map(|(_, pod)| pod);
    let pods: Vec<_> = pods.filter(|pod| selector.matches(pod) && !has_ended(pod)).collect();
    let (expected, healthy) = (pods.len() as u64, pods.iter().filter(|pod| is_ready(pod)).count() as u64);
    let desired = match (budget.get("minAvailable"), budget.get("maxUnavailable")) {
        (Some(least), _) => amount(least, expected),
        (None, Some(most)) => expected.saturating_sub(amount(most, expected)),
        (None, None) => expected.saturating_sub(1),
    };
    let always = budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    let allowed = if is_ready(pod) { healthy > desired } else { always || healthy >= desired.max(1) };
    if allowed {
        return Ok(());
    }
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let cause =
        format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
    // The answer has no `Retry-After`.
    Err(Status::new(429, "TooManyRequests", message).caused_by("DisruptionBudget", &cause, None))
}

/// `3` or `"25%"`, which is rounded up.
fn amount(value: &Value, of: u64) -> u64 {
    let percent = || value.as_str()?.strip_suffix('%')?.parse::<u64>().ok();
    value.as_u64().or_else(|| Some(of.saturating_mul(percent()?).div_ceil(100))).unwrap_or(of)
}
