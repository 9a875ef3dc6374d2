//! Reading and writing: get, list, create, update, patch.
//!
//! An update stores the client's fields and keeps those that the system owns: UID, times, the other half of the
//! status. The subresource `status` changes the status and nothing else, and an update of the object never
//! does.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::admission;
use super::ask::Ask;
use super::eviction::set_condition;
use super::gates;
use super::kinds::{self, Kind};
use super::managed::{self, Manager};
use super::patch;
use super::removal;
use super::selector::Selector;
use super::status::{self, Status};
use super::store::{Key, Store};
use super::view::{Form, View, object_at, stored_event};

impl Ask {
    pub(super) fn key(&self) -> Key {
        Key::new(self.kind.plural, &self.namespace, &self.name)
    }

    /// The namespace to search; `None`: all.
    pub(super) fn scope(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(&*self.namespace)
    }

    pub(super) fn selector(&self) -> Result<Selector, Status> {
        Selector::parse(self.kind, self.parameter("labelSelector"), self.parameter("fieldSelector"))
    }
}

pub(super) fn get(store: &Store, ask: &Ask) -> Result<Arc<Value>, Status> {
    if let Some(revision) = ask.number("resourceVersion")? {
        not_ahead(store, revision)?;
    }
    let object = store.get(&ask.key()).ok_or_else(|| Status::not_found(ask.kind, &ask.name))?;
    Ok(Arc::clone(object))
}

/// The items, and the list's own metadata. All pages are of one revision, and expire when it is compacted.
pub(super) fn list(store: &Store, ask: &Ask) -> Result<(Vec<Arc<Value>>, Value), Status> {
    ask.check_options()?;
    let selector = ask.selector()?;
    let limit = usize::try_from(ask.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let limit = if limit == 0 { usize::MAX } else { limit };
    let version = ask.number("resourceVersion")?;
    // From a cache, which does not page.
    let limit = if version == Some(0) { usize::MAX } else { limit };
    let matching = ask.parameter("resourceVersionMatch");
    let (revision, after) = match ask.parameter("continue") {
        // Pages of "not older than" are of that very revision, unless the request says otherwise.
        "" if matching == "Exact" || (matching.is_empty() && limit < usize::MAX) => {
            (version.unwrap_or(store.revision()), None)
        }
        "" => (store.revision(), None),
        _ if version.is_some_and(|version| version > 0) => {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        token => {
            let (revision, after) = parse_continue(ask.kind, token)?;
            (revision.unwrap_or(store.revision()), Some(after))
        }
    };
    not_ahead(store, revision.max(version.unwrap_or(0)))?;
    let then;
    let objects: Box<dyn Iterator<Item = (&Key, &Arc<Value>)>> = if revision == store.revision() {
        Box::new(store.range(ask.kind.plural, ask.scope()))
    } else {
        then = store.at(ask.kind.plural, revision).ok_or_else(|| match &after {
            Some(after) => Status::continue_expired(format!(":{}/{}", after.namespace, after.name)),
            None => Status::expired(revision, store.compacted()),
        })?;
        Box::new(then.iter().filter(|(key, _)| ask.scope().is_none_or(|scope| key.namespace == scope)))
    };
    let mut rest = objects
        .skip_while(|(key, _)| after.as_ref().is_some_and(|after| *key <= after))
        .filter(|(_, object)| selector.matches(object));
    let mut items = Vec::new();
    let mut last = None;
    for (key, object) in rest.by_ref().take(limit) {
        items.push(Arc::clone(object));
        last = Some(key);
    }
    let mut meta = json!({ "resourceVersion": revision.to_string() });
    let more = rest.count();
    if let (Some(last), true) = (last, more > 0) {
        meta["continue"] = format!("{revision}:{}/{}", last.namespace, last.name).into();
        // The real server counts only lists without a selector.
        if selector.is_everything() {
            meta["remainingItemCount"] = more.into();
        }
    }
    Ok((items, meta))
}

/// The revision of the pages, if they have one, and where the last page ended.
fn parse_continue(kind: &Kind, token: &str) -> Result<(Option<u64>, Key), Status> {
    let parsed = token.split_once(':').and_then(|(revision, place)| {
        let (namespace, name) = place.split_once('/')?;
        let revision = if revision.is_empty() { None } else { Some(revision.parse().ok()?) };
        Some((revision, Key::new(kind.plural, namespace, name)))
    });
    parsed.ok_or_else(|| Status::bad_request("continue key is not valid: use the token of the page before"))
}

fn not_ahead(store: &Store, revision: u64) -> Result<(), Status> {
    if revision <= store.revision() {
        return Ok(());
    }
    let message = format!("Too large resource version: {revision}, current: {}", store.revision());
    let cause = "Too large resource version";
    Err(Status::new(504, "Timeout", message).caused_by("ResourceVersionTooLarge", cause, None).retry_after(1))
}

pub(super) fn create(store: &mut Store, ask: &Ask, mut object: Value) -> Result<Arc<Value>, Status> {
    admission::check_shape(ask, &mut object)?;
    if ask.kind.is_review() {
        return Ok(Arc::new(review(store, object)));
    }
    if ask.kind.is_renamed_event() {
        stored_event(&mut object);
    }
    let meta = object_at(&mut object, &["metadata"]);
    let version = meta.get("resourceVersion").and_then(Value::as_str).unwrap_or_default();
    if !["", "0"].contains(&version) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let given = meta.get("name").and_then(Value::as_str).unwrap_or_default();
    let prefix = meta.get("generateName").and_then(Value::as_str).unwrap_or_default();
    let name = match (given, prefix) {
        ("", "") => {
            let why = "Required value: name or generateName is required";
            return Err(Status::invalid(ask.kind, "", "metadata.name", why));
        }
        ("", prefix) => format!("{prefix}{}", store.new_suffix()),
        (given, _) => given.to_owned(),
    };
    for owned in ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink"] {
        meta.remove(owned);
    }
    meta.insert("name".to_owned(), name.clone().into());
    if ask.kind.namespaced {
        meta.insert("namespace".to_owned(), ask.namespace.clone().into());
    }
    meta.insert("uid".to_owned(), store.new_uid().into());
    meta.insert("creationTimestamp".to_owned(), store.timestamp().into());
    object_at(&mut object, &["metadata"]).remove("generation");
    if ask.kind.counts_generations() && object.get("spec").is_some() {
        object["metadata"]["generation"] = 1.into();
    }
    let key = Key::new(ask.kind.plural, &ask.namespace, &name);
    admission::admit(store, ask, &name, &mut object)?;
    if store.get(&key).is_some() {
        return Err(Status::already_exists(ask.kind, &name));
    }
    let applied = ask.content_type == APPLY;
    let operation = if applied { "Apply" } else { "Update" };
    let manager = Manager { name: &ask.manager, operation, subresource: "" };
    let time = store.timestamp();
    managed::record(&Value::Null, &mut object, manager, &time);
    if ask.dry_run() {
        return Ok(Arc::new(object));
    }
    Ok(store.put(key, object))
}

/// A token review is answered from the table of tokens.
fn review(store: &Store, mut object: Value) -> Value {
    let token = object["spec"]["token"].as_str().unwrap_or_default();
    let asked: Vec<&str> =
        object["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let status = match store.tokens.get(token) {
        None => json!({ "user": {}, "error": "invalid bearer token" }),
        Some(info) => {
            let good = info.audiences.iter().filter(|it| asked.is_empty() || asked.contains(&it.as_str()));
            let good: Vec<&String> = good.collect();
            if good.is_empty() {
                json!({ "user": {}, "error": format!("token audiences {:?} is invalid for the target audiences {asked:?}", info.audiences) })
            } else {
                let extra: BTreeMap<_, _> = info.extra.iter().collect();
                json!({ "authenticated": true, "audiences": good, "user": {
                    "username": info.username, "uid": info.uid, "groups": info.groups, "extra": extra,
                } })
            }
        }
    };
    object["status"] = status;
    object
}

/// A PUT. Returns the object, and whether it is new.
pub(super) fn update(store: &mut Store, ask: &Ask, mut new: Value) -> Result<(Arc<Value>, bool), Status> {
    admission::check_shape(ask, &mut new)?;
    check_name(ask, &new)?;
    if ask.kind.is_renamed_event() {
        stored_event(&mut new);
    }
    if *ask.kind == kinds::LEASES && store.get(&ask.key()).is_none() {
        // A Lease that was deleted is created again, with any version in the request.
        object_at(&mut new, &["metadata"]).remove("resourceVersion");
        return Ok((create(store, ask, new)?, true));
    }
    if [&kinds::LEASES, &kinds::BUDGETS].contains(&ask.kind)
        && new["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty()
    {
        let why = "Invalid value: 0: must be specified for an update";
        let mut refusal = Status::invalid(ask.kind, &ask.name, "metadata.resourceVersion", why);
        refusal.details["kind"] = ask.kind.plural.into();
        return Err(refusal);
    }
    Ok((replace(store, ask, new, "Update")?, false))
}

fn check_name(ask: &Ask, object: &Value) -> Result<(), Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name == ask.name {
        return Ok(());
    }
    let url = &ask.name;
    Err(Status::bad_request(format!(
        "the name of the object ({name}) does not match the name on the URL ({url})"
    )))
}

const APPLY: &str = "application/apply-patch+yaml";

pub(super) fn patch(store: &mut Store, ask: &Ask, body: Value) -> Result<(Arc<Value>, bool), Status> {
    let key = ask.key();
    let Some(old) = store.get(&key) else {
        if ask.content_type == APPLY && ask.subresource.is_empty() {
            let mut body = body;
            object_at(&mut body, &["metadata"]).insert("name".to_owned(), ask.name.clone().into());
            return Ok((create(store, ask, body)?, true));
        }
        return Err(Status::not_found(ask.kind, &ask.name));
    };
    let whole = View { kind: ask.kind, form: Form::Whole };
    let mut new = whole.object(old, store.wall_ms());
    let operation = match ask.content_type.as_str() {
        "application/json-patch+json" => {
            if !body.is_array() {
                return Err(Status::bad_request("a JSON patch is a list of operations"));
            }
            patch::operations(&mut new, &body).map_err(|why| Status::new(422, "Invalid", why))?;
            "Update"
        }
        "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            patch::merge(&mut new, &body);
            "Update"
        }
        APPLY => {
            patch::merge(&mut new, &body);
            "Apply"
        }
        other => {
            let message = format!(
                "the body of the request was in an unknown format {other:?}: accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml"
            );
            return Err(Status::new(415, "UnsupportedMediaType", message));
        }
    };
    admission::check_shape(ask, &mut new)?;
    check_name(ask, &new)?;
    if ask.kind.is_renamed_event() {
        stored_event(&mut new);
    }
    Ok((replace(store, ask, new, operation)?, false))
}

/// The new state, with the fields that the system owns, if its preconditions hold.
fn replace(store: &mut Store, ask: &Ask, mut new: Value, operation: &str) -> Result<Arc<Value>, Status> {
    let key = ask.key();
    let old = store.get(&key).ok_or_else(|| Status::not_found(ask.kind, &ask.name))?;
    let old = Arc::clone(old);
    let meta = object_at(&mut new, &["metadata"]);
    let text = |name: &str| meta.get(name).and_then(Value::as_str).unwrap_or_default();
    let (uid, version) = (text("uid"), text("resourceVersion"));
    if !uid.is_empty() && old["metadata"]["uid"] != uid {
        let is = old["metadata"]["uid"].as_str().unwrap_or_default();
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {is}");
        return Err(Status::conflict(ask.kind, &ask.name, &why));
    }
    if !["", "0"].contains(&version) && old["metadata"]["resourceVersion"] != version {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Status::conflict(ask.kind, &ask.name, why));
    }
    const SYSTEM: [&str; 9] = [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
    ];
    for name in SYSTEM {
        keep(&old["metadata"], meta, name);
    }
    let mut result = new;
    let fields = object_at(&mut result, &[]);
    if ask.subresource == "status" {
        // A status update also changes labels and annotations.
        keep(&old, fields, "spec");
        keep(&old["metadata"], object_at(&mut result, &["metadata"]), "ownerReferences");
    } else if ask.kind.status {
        keep(&old, fields, "status");
    }
    admission::check_change(ask, &old, &result)?;
    if result == *old {
        // Nothing changed: no revision, no event.
        return Ok(old);
    }
    if ask.kind.counts_generations() && result.get("spec") != old.get("spec") {
        let generation = old["metadata"]["generation"].as_u64().unwrap_or(0);
        result["metadata"]["generation"] = (generation + 1).into();
    }
    let manager = Manager { name: &ask.manager, operation, subresource: &ask.subresource };
    let time = store.timestamp();
    managed::record(&old, &mut result, manager, &time);
    if ask.dry_run() {
        return Ok(Arc::new(result));
    }
    Ok(removal::settle(store, &key, result))
}

/// Keeps a field as it was.
fn keep(old: &Value, new: &mut Map<String, Value>, field: &str) {
    match old.get(field) {
        Some(value) => drop(new.insert(field.to_owned(), value.clone())),
        None => drop(new.remove(field)),
    }
}

/// The scheduler's binding: which node a pod runs on.
pub(super) fn bind(store: &mut Store, ask: &Ask, body: &Value) -> Result<Value, Status> {
    if body["metadata"]["name"] != *ask.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let key = ask.key();
    let pod = store.get(&key).ok_or_else(|| Status::not_found(ask.kind, &ask.name))?;
    let Some(node) = body["target"]["name"].as_str().filter(|node| !node.is_empty()) else {
        return Err(Status::invalid(ask.kind, &ask.name, "target.name", "Required value"));
    };
    let conflict = |why: &str| {
        let mut refusal = Status::conflict(ask.kind, &ask.name, why);
        refusal.details["kind"] = "pods/binding".into();
        refusal
    };
    if pod["metadata"].get("deletionTimestamp").is_some() {
        return Err(conflict(&format!("pod {} is being deleted, cannot be assigned to a host", ask.name)));
    }
    if let Some(other) = pod["spec"]["nodeName"].as_str().filter(|other| !other.is_empty()) {
        return Err(conflict(&format!("pod {} is already assigned to node {other:?}", ask.name)));
    }
    if gates::is_gated(pod) {
        return Err(conflict(&format!("pod {} has non-empty .spec.schedulingGates", ask.name)));
    }
    let mut pod = Value::clone(pod);
    pod["spec"]["nodeName"] = node.into();
    set_condition(&mut pod, "PodScheduled", None, &store.timestamp());
    store.put(key, pod);
    Ok(status::success(Value::Null))
}
