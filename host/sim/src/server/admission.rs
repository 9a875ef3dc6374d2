//! What is taken and what is not: shapes, names, namespaces, quotas, and what of a pod may change.
//!
//! Not a schema. What a client may get wrong about an executor fleet's objects is refused as the real
//! server refuses it; anything else is stored as it came.

use serde_json::{Map, Value, json};

use super::ask::Ask;
use super::kinds::{self, NAMESPACES, PODS};
use super::status::Status;
use super::store::{Key, Store};
use super::view::object_at;

/// The parts that everything here relies upon have the types they should have. Fills in what the path
/// implies: apiVersion and kind.
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
    }
    for name in ["finalizers", "ownerReferences"] {
        if meta.get(name).is_some_and(|value| !value.is_array()) {
            return Err(wrong(ask, &format!("metadata.{name}"), "a list"));
        }
        // An empty list is none.
        meta.retain(|key, value| key != name || value.as_array().is_none_or(|list| !list.is_empty()));
    }
    for name in ["name", "generateName", "namespace", "uid", "resourceVersion"] {
        if meta.get(name).is_some_and(|value| !value.is_string()) {
            return Err(wrong(ask, &format!("metadata.{name}"), "a string"));
        }
    }
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

/// A new object: may it be, and what is filled in?
pub(super) fn admit(store: &Store, ask: &Ask, name: &str, object: &mut Value) -> Result<(), Status> {
    if ask.kind.namespaced {
        if ask.namespace.is_empty() {
            return Err(Status::bad_request("an empty namespace may not be set during creation"));
        }
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
    if *ask.kind == PODS {
        admit_pod(store, ask, name, object)?;
    } else if *ask.kind == NAMESPACES {
        object["spec"] = json!({ "finalizers": ["kubernetes"] });
        object["status"] = json!({ "phase": "Active" });
        object_at(object, &["metadata", "labels"])
            .insert("kubernetes.io/metadata.name".to_owned(), name.into());
    } else if *ask.kind == kinds::BUDGETS {
        object.as_object_mut().map(|object| object.remove("status"));
    }
    Ok(())
}

fn is_subdomain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        label.bytes().all(|byte| plain(byte) || byte == b'-')
            && label.bytes().next().is_some_and(plain)
            && label.bytes().last().is_some_and(plain)
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn admit_pod(store: &Store, ask: &Ask, name: &str, pod: &mut Value) -> Result<(), Status> {
    let containers = pod["spec"]["containers"].as_array().map_or(&[][..], Vec::as_slice);
    if containers.is_empty() {
        return Err(Status::invalid(ask.kind, name, "spec.containers", "Required value"));
    }
    for (at, container) in containers.iter().enumerate() {
        for field in ["name", "image"] {
            if container[field].as_str().unwrap_or_default().is_empty() {
                let path = format!("spec.containers[{at}].{field}");
                return Err(Status::invalid(ask.kind, name, &path, "Required value"));
            }
        }
    }
    let spec = object_at(pod, &["spec"]);
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

/// Has its last container ended? Such a pod counts for no quota.
pub(super) fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// An update: may it change that?
pub(super) fn check_change(ask: &Ask, old: &Value, new: &Value) -> Result<(), Status> {
    if *ask.kind != PODS || old.get("spec") == new.get("spec") {
        return Ok(());
    }
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
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
