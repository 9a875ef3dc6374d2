//! Which objects are accepted: shapes, names, namespaces, quotas, and which fields of a pod may change.
//!
//! This is not a schema. Mistakes that a client may make in the objects of an executor fleet are refused as the
//! real server refuses them; everything else is stored as sent.

use serde_json::{Map, Value, json};

use super::ask::Ask;
use super::gates;
use super::kinds::{self, NAMESPACES, PODS};
use super::names::{is_label, is_label_key, is_label_value, is_subdomain};
use super::status::Status;
use super::store::{Key, Store};
use super::view::object_at;

/// Checks the types of the fields that this module relies on. Fills in what the path implies: apiVersion and
/// kind.
pub(super) fn check_shape(ask: &Ask, object: &mut Value) -> Result<(), Status> {
    let Some(fields) = object.as_object_mut() else {
        return Err(Status::bad_request("the body of the request has to be an object"));
    };
    for (name, expected) in [("apiVersion", ask.kind.api_version()), ("kind", ask.kind.kind.to_owned())] {
        let given = fields.entry(name).or_insert_with(|| expected.clone().into());
        if *given != expected {
            return Err(Status::bad_request(format!(
                "the {name} in the data ({given}) does not match the expected one ({expected})"
            )));
        }
    }
    for name in ["metadata", "spec", "status", "data"] {
        fields.retain(|key, value| key != name || !value.is_null());
        if fields.get(name).is_some_and(|value| !value.is_object()) {
            return Err(wrong(ask, name, "an object"));
        }
    }
    let meta = object_at(object, &["metadata"]);
    meta.retain(|_, value| !value.is_null());
    for name in ["labels", "annotations"] {
        let strings = |map: &Map<String, Value>| map.values().all(Value::is_string);
        if meta.get(name).is_some_and(|value| !value.as_object().is_some_and(strings)) {
            return Err(wrong(ask, &format!("metadata.{name}"), "a map of strings"));
        }
        // An empty map is removed.
        meta.retain(|key, value| key != name || value.as_object().is_none_or(|map| !map.is_empty()));
    }
    for name in ["finalizers", "ownerReferences"] {
        if meta.get(name).is_some_and(|value| !value.is_array()) {
            return Err(wrong(ask, &format!("metadata.{name}"), "a list"));
        }
        // An empty list is removed.
        meta.retain(|key, value| key != name || value.as_array().is_none_or(|list| !list.is_empty()));
    }
    for name in ["name", "generateName", "namespace", "uid", "resourceVersion"] {
        if meta.get(name).is_some_and(|value| !value.is_string()) {
            return Err(wrong(ask, &format!("metadata.{name}"), "a string"));
        }
    }
    let containers = object.pointer("/spec/containers").filter(|value| !value.is_null());
    let objects = |list: &Vec<Value>| list.iter().all(Value::is_object);
    if *ask.kind == PODS && containers.is_some_and(|value| !value.as_array().is_some_and(objects)) {
        return Err(wrong(ask, "spec.containers", "a list of objects"));
    }
    if *ask.kind == PODS && !gates::normalize(object) {
        return Err(wrong(ask, "spec.schedulingGates", "a list of objects with names"));
    }
    let meta = &object["metadata"];
    let namespace = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !namespace.is_empty() && namespace != ask.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn wrong(ask: &Ask, field: &str, expected: &str) -> Status {
    Status::bad_request(format!("{} cannot be decoded: {field} has to be {expected}", ask.kind.kind))
}

/// Checks a new object, and fills in defaults.
pub(super) fn admit(store: &Store, ask: &Ask, name: &str, object: &mut Value) -> Result<(), Status> {
    if ask.kind.namespaced {
        let namespace = store.get(&Key::new(NAMESPACES.plural, "", &ask.namespace));
        let namespace = namespace.ok_or_else(|| Status::not_found(&NAMESPACES, &ask.namespace))?;
        if namespace["metadata"].get("deletionTimestamp").is_some() {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                ask.namespace
            );
            let refusal = Status::forbidden(ask.kind, name, &why);
            let message = format!("namespace {} is being terminated", ask.namespace);
            return Err(refusal.caused_by("NamespaceTerminating", &message, Some("metadata.namespace")));
        }
    }
    if !is_subdomain(name) {
        let why = format!(
            "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
             characters, '-' or '.', and must start and end with an alphanumeric character, at most 253"
        );
        return Err(Status::invalid(ask.kind, name, "metadata.name", &why));
    }
    check_meta(ask, name, &object["metadata"])?;
    if *ask.kind == PODS {
        admit_pod(store, ask, name, object)?;
    } else if *ask.kind == NAMESPACES {
        object["spec"] = json!({ "finalizers": ["kubernetes"] });
        object["status"] = json!({ "phase": "Active" });
        object_at(object, &["metadata", "labels"])
            .insert("kubernetes.io/metadata.name".to_owned(), name.into());
    } else if *ask.kind == kinds::BUDGETS {
        object["status"] =
            json!({ "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0 });
    } else if *ask.kind == kinds::LEASES {
        for (field, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
            if object["spec"][field].as_i64().is_some_and(|value| value < least) {
                let why = format!("Invalid value: {}: it has to be at least {least}", object["spec"][field]);
                return Err(Status::invalid(ask.kind, name, &format!("spec.{field}"), &why));
            }
        }
    } else if ask.kind.plural == kinds::EVENTS.plural {
        // Both kinds of event are stored as the older one.
        let about = object["involvedObject"]["namespace"].as_str().unwrap_or_default();
        if about != ask.namespace && !(about.is_empty() && ask.namespace == "default") {
            let why = "Invalid value: does not match event.namespace";
            return Err(Status::invalid(&kinds::EVENTS, name, "involvedObject.namespace", why));
        }
        if ask.kind.is_renamed_event() && object["eventTime"].is_null() {
            return Err(Status::invalid(&kinds::EVENTS, name, "eventTime", "Required value"));
        }
    }
    Ok(())
}

fn check_meta(ask: &Ask, name: &str, meta: &Value) -> Result<(), Status> {
    let refuse = |field: &str, value: &str| {
        let why = format!("Invalid value: {value:?}");
        Err(Status::invalid(ask.kind, name, &format!("metadata.{field}"), &why))
    };
    for (key, value) in meta["labels"].as_object().into_iter().flatten() {
        if !is_label_key(key) || !is_label_value(value.as_str().unwrap_or_default()) {
            return refuse("labels", key);
        }
    }
    for (key, _) in meta["annotations"].as_object().into_iter().flatten() {
        if !is_label_key(&key.to_lowercase()) {
            return refuse("annotations", key);
        }
    }
    for finalizer in meta["finalizers"].as_array().into_iter().flatten() {
        if !is_label_key(finalizer.as_str().unwrap_or_default()) {
            return refuse("finalizers", &finalizer.to_string());
        }
    }
    for owner in meta["ownerReferences"].as_array().into_iter().flatten() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                return refuse(&format!("ownerReferences.{field}"), "");
            }
        }
    }
    Ok(())
}

fn check_containers(ask: &Ask, name: &str, pod: &Value) -> Result<(), Status> {
    let refuse = |path: &str, why: &str| Err(Status::invalid(ask.kind, name, path, why));
    let containers = pod["spec"]["containers"].as_array().map_or(&[][..], Vec::as_slice);
    if containers.is_empty() {
        return refuse("spec.containers", "Required value");
    }
    for (at, container) in containers.iter().enumerate() {
        let path = |field: &str| format!("spec.containers[{at}].{field}");
        let text = |field: &str| container[field].as_str().unwrap_or_default();
        if let Some(field) = ["name", "image"].into_iter().find(|field| text(field).is_empty()) {
            return refuse(&path(field), "Required value");
        }
        if !is_label(text("name")) {
            return refuse(&path("name"), &format!("Invalid value: {:?}", text("name")));
        }
        if containers[..at].iter().any(|other| other["name"] == container["name"]) {
            return refuse(&path("name"), &format!("Duplicate value: {:?}", text("name")));
        }
    }
    Ok(())
}

fn admit_pod(store: &Store, ask: &Ask, name: &str, pod: &mut Value) -> Result<(), Status> {
    check_containers(ask, name, pod)?;
    let policy = pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
    if !["Always", "OnFailure", "Never"].contains(&policy) {
        let why = format!("Unsupported value: {policy:?}");
        return Err(Status::invalid(ask.kind, name, "spec.restartPolicy", &why));
    }
    let spec = object_at(pod, &["spec"]);
    if let Some(grace) = spec.get_mut("terminationGracePeriodSeconds")
        && grace.as_i64().is_some_and(|seconds| seconds < 0)
    {
        *grace = 1.into();
    }
    for (field, default) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("serviceAccountName", json!("default")),
    ] {
        spec.entry(field).or_insert(default);
    }
    pod["status"] = json!({ "phase": "Pending", "qosClass": "Burstable" });
    gates::admit(ask, name, pod, &store.timestamp())?;
    for (key, quota) in store.range(kinds::QUOTAS.plural, Some(&ask.namespace)) {
        let hard = &quota["spec"]["hard"]["pods"];
        let Some(limit) = hard.as_u64().or_else(|| hard.as_str()?.parse().ok()) else { continue };
        let live = |pod: &Value| !has_ended(pod);
        let used = store.range(PODS.plural, Some(&ask.namespace)).filter(|(_, pod)| live(pod)).count();
        if used as u64 >= limit {
            let why = format!(
                "exceeded quota: {}, requested: pods=1, used: pods={used}, limited: pods={limit}",
                key.name
            );
            return Err(Status::forbidden(ask.kind, name, &why));
        }
    }
    Ok(())
}

/// Has the last container ended? Such a pod does not count for quotas.
pub(super) fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Checks an update against the stored object.
pub(super) fn check_change(ask: &Ask, old: &Value, new: &Value) -> Result<(), Status> {
    check_meta(ask, &ask.name, &new["metadata"])?;
    if old["metadata"].get("deletionTimestamp").is_some() {
        let finalizers =
            |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let before = finalizers(old);
        if let Some(new) = finalizers(new).into_iter().find(|finalizer| !before.contains(finalizer)) {
            let why = format!(
                "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {new}"
            );
            return Err(Status::invalid(ask.kind, &ask.name, "metadata.finalizers", &why));
        }
    }
    if *ask.kind != PODS || old.get("spec") == new.get("spec") {
        return Ok(());
    }
    gates::check_change(ask, old, new)?;
    let gated = gates::is_gated(old);
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        gates::forget(object_at(&mut spec, &[]), gated);
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
            object_at(&mut spec, &[]).remove(field);
        }
        for containers in ["containers", "initContainers"] {
            for container in spec[containers].as_array_mut().into_iter().flatten() {
                object_at(container, &[]).remove("image");
            }
        }
        spec
    };
    if fixed(old) == fixed(new) {
        return Ok(());
    }
    let why = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, \
               `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions \
               to existing tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
               was previously negative)";
    Err(Status::invalid(ask.kind, &ask.name, "spec", why))
}
