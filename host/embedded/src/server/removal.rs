//! How objects are removed: deletion, the garbage collector, the removal of namespaces.
//!
//! A pod is removed in two phases. A deletion sets `deletionTimestamp`; the kubelet ends the containers and
//! then the object is removed. If the pod is on no node, if its containers have ended, or if the grace period
//! is 0, the object is removed at once. A finalizer keeps an object until the finalizer is removed.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Deletion;
use super::admission::has_ended;
use super::ask::Ask;
use super::clock;
use super::kinds::{KINDS, Kind, NAMESPACES, PODS};
use super::status::Status;
use super::store::{DELETIONS_MAX, Key, Store};
use super::view::object_at;

/// `DeleteOptions`, as far as they matter here.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub grace_s: Option<u64>,
    pub uid: Option<String>,
    pub version: Option<String>,
    /// Dependents lose their owner and stay. Foreground is treated as Background.
    orphan: bool,
    pub dry_run: bool,
}

impl Options {
    /// From the body, or from the query if the body does not say.
    pub fn parse(ask: &Ask, body: &Value) -> Result<Options, Status> {
        if !body.is_object() && !body.is_null() {
            return Err(Status::bad_request("DeleteOptions have to be an object"));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let grace = match (body.get("gracePeriodSeconds"), ask.parameter("gracePeriodSeconds")) {
            (None | Some(Value::Null), "") => None,
            (None | Some(Value::Null), text) => Some(text.parse::<i64>().map_err(|_| bad_grace(text))?),
            (Some(value), _) => Some(value.as_i64().ok_or_else(|| bad_grace(&value.to_string()))?),
        };
        let policy = text(&body["propagationPolicy"]);
        let policy = policy.unwrap_or_else(|| ask.parameter("propagationPolicy").to_owned());
        if !["", "Orphan", "Background", "Foreground"].contains(&&*policy) {
            let why = format!("Unsupported value: {policy:?}");
            return Err(Status::options("DeleteOptions", &[("propagationPolicy", &why)]));
        }
        let dry = body["dryRun"].as_array().is_some_and(|all| all.iter().any(|word| word == "All"));
        Ok(Options {
            // A negative one is treated as one second.
            grace_s: grace.map(|seconds| u64::try_from(seconds).unwrap_or(1)),
            uid: text(&body["preconditions"]["uid"]),
            version: text(&body["preconditions"]["resourceVersion"]),
            orphan: policy == "Orphan",
            dry_run: dry || ask.dry_run(),
        })
    }

    /// Does this object meet the preconditions?
    pub fn check(&self, kind: &Kind, object: &Value) -> Result<(), Status> {
        let meta = &object["metadata"];
        for (name, field, wanted) in
            [("UID", "uid", &self.uid), ("ResourceVersion", "resourceVersion", &self.version)]
        {
            if let Some(wanted) = wanted.as_deref().filter(|wanted| meta[field] != **wanted) {
                let is = meta[field].as_str().unwrap_or_default();
                let why = format!(
                    "the {name} in the precondition ({wanted}) does not match the {name} in record ({is})"
                );
                return Err(Status::precondition(kind, &meta["name"], &why));
            }
        }
        Ok(())
    }

    pub fn grace(grace_s: Option<u64>) -> Options {
        Options { grace_s, ..Options::default() }
    }
}

fn bad_grace(text: &str) -> Status {
    Status::bad_request(format!("gracePeriodSeconds: {text}: a whole number is needed"))
}

/// Deletes, or begins to. Returns the object after that, and whether it is gone.
pub(super) fn delete(
    store: &mut Store,
    kind: &Kind,
    key: &Key,
    options: &Options,
) -> Result<(Arc<Value>, bool), Status> {
    let old = Arc::clone(store.get(key).ok_or_else(|| Status::not_found(kind, &key.name))?);
    options.check(kind, &old)?;
    if options.orphan && !options.dry_run {
        orphan(store, old["metadata"]["uid"].as_str().unwrap_or_default());
    }
    if *kind == NAMESPACES {
        let going = if options.dry_run { old } else { end_namespace(store, key, &old) };
        return Ok((going, false));
    }
    let held = old["metadata"].get("finalizers").is_some();
    let marked = match mark(kind, &old, options.grace_s, store.wall_ms()) {
        Mark::Same => return Ok((old, false)),
        Mark::Over if held => return Ok((old, false)),
        Mark::Over => Arc::clone(&old),
        Mark::Going(new) if options.dry_run => return Ok((Arc::new(new), false)),
        // A watch sees the `deletionTimestamp` also of a pod that is removed at once.
        Mark::Going(new) => store.put(key.clone(), new),
    };
    let over = marked["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0) == 0;
    if held || !over || options.dry_run {
        return Ok((marked, false));
    }
    Ok((store.remove(key).unwrap_or(marked), true))
}

enum Mark {
    /// It is already being deleted, and the request would not change that.
    Same,
    /// Only its finalizers delay the removal.
    Over,
    Going(Value),
}

/// The object with its deletion recorded.
fn mark(kind: &Kind, old: &Value, asked_s: Option<u64>, now_ms: i64) -> Mark {
    let meta = &old["metadata"];
    let (end_ms, grace_s) = match (meta["deletionGracePeriodSeconds"].as_u64(), asked_s) {
        (Some(0), _) => return Mark::Over,
        (Some(before_s), Some(asked_s)) if asked_s < before_s => {
            // A shorter grace period counts from the first deletion; one that has already passed becomes the
            // minimum.
            let end_ms = meta["deletionTimestamp"].as_str().and_then(clock::parse).unwrap_or(now_ms);
            let end_ms = end_ms - seconds_ms(before_s) + seconds_ms(asked_s);
            if end_ms < now_ms { (now_ms, asked_s.min(1)) } else { (end_ms, asked_s) }
        }
        (Some(_), _) => return Mark::Same,
        (None, _) if *kind == PODS => {
            let grace_s = pod_grace_s(old, asked_s);
            (now_ms.saturating_add(seconds_ms(grace_s)), grace_s)
        }
        (None, _) if meta.get("finalizers").is_some() => (now_ms, 0),
        (None, _) => return Mark::Over,
    };
    let mut new = old.clone();
    let meta = object_at(&mut new, &["metadata"]);
    if !meta.contains_key("deletionTimestamp")
        && let Some(generation) = meta.get("generation").and_then(Value::as_u64)
    {
        meta.insert("generation".to_owned(), (generation + 1).into());
    }
    meta.insert("deletionTimestamp".to_owned(), clock::rfc3339(end_ms).into());
    meta.insert("deletionGracePeriodSeconds".to_owned(), grace_s.into());
    Mark::Going(new)
}

fn seconds_ms(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)
}

fn pod_grace_s(pod: &Value, asked_s: Option<u64>) -> u64 {
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    if unscheduled || has_ended(pod) {
        return 0;
    }
    // A year: longer periods overflow calendars, and have no practical use.
    asked_s.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_u64()).unwrap_or(30).min(31_536_000)
}

/// Stores a new state; or removes the object, if it is being deleted, its grace period is over, and no
/// finalizer holds it.
pub(super) fn settle(store: &mut Store, key: &Key, new: Value) -> Arc<Value> {
    let meta = &new["metadata"];
    if meta["deletionGracePeriodSeconds"] == 0 && meta.get("finalizers").is_none() {
        store.remove(key);
        return Arc::new(new);
    }
    store.put(key.clone(), new)
}

fn orphan(store: &mut Store, uid: &str) {
    let dependents: Vec<Key> = store
        .objects()
        .filter(|(_, object)| owners(object).any(|owner| owner == uid))
        .map(|(key, _)| key.clone())
        .collect();
    for key in dependents {
        disown(store, &key, |owner| owner == uid);
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &str> {
    let references = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    references.filter_map(|reference| reference["uid"].as_str())
}

fn disown(store: &mut Store, key: &Key, lost: impl Fn(&str) -> bool) {
    let Some(object) = store.get(key) else { return };
    let mut object = Value::clone(object);
    let meta = object_at(&mut object, &["metadata"]);
    if let Some(references) = meta.get_mut("ownerReferences").and_then(Value::as_array_mut) {
        references.retain(|reference| !reference["uid"].as_str().is_some_and(&lost));
        if references.is_empty() {
            meta.remove("ownerReferences");
        }
    }
    store.put(key.clone(), object);
}

fn end_namespace(store: &mut Store, key: &Key, old: &Arc<Value>) -> Arc<Value> {
    if old["metadata"].get("deletionTimestamp").is_some() {
        return Arc::clone(old);
    }
    let mut new = Value::clone(old);
    new["metadata"]["deletionTimestamp"] = store.timestamp().into();
    object_at(&mut new, &["status"]).insert("phase".to_owned(), "Terminating".into());
    store.garbage = true;
    store.put(key.clone(), new)
}

/// The garbage collector and the namespace controller: deletes objects that have lost all their owners, and
/// everything in a namespace that is being deleted.
pub(super) fn collect(store: &mut Store) {
    // A chain of owners is followed this far at once; the rest waits for the next call.
    for _ in 0..10 {
        if !std::mem::take(&mut store.garbage) {
            return;
        }
        collect_dependents(store);
        collect_namespaces(store);
    }
}

fn collect_dependents(store: &mut Store) {
    let uids: BTreeSet<&str> =
        store.objects().filter_map(|(_, object)| object["metadata"]["uid"].as_str()).collect();
    let mut doomed = Vec::new();
    let mut disowned = Vec::new();
    for (key, object) in store.objects() {
        let (live, lost): (Vec<&str>, Vec<&str>) = owners(object).partition(|uid| uids.contains(uid));
        if lost.is_empty() {
            continue;
        }
        if live.is_empty() {
            doomed.push(key.clone());
        } else {
            disowned.push((key.clone(), lost.into_iter().map(str::to_owned).collect::<BTreeSet<_>>()));
        }
    }
    for key in doomed {
        background(store, &key);
    }
    for (key, lost) in disowned {
        disown(store, &key, |owner| lost.contains(owner));
    }
}

fn collect_namespaces(store: &mut Store) {
    let ending: Vec<String> = store
        .range(NAMESPACES.plural, None)
        .filter(|(_, namespace)| namespace["metadata"].get("deletionTimestamp").is_some())
        .map(|(key, _)| key.name.clone())
        .collect();
    for namespace in ending {
        let inside = |key: &&Key| key.namespace == namespace;
        let keys: Vec<Key> = store.objects().map(|(key, _)| key).filter(inside).cloned().collect();
        for key in &keys {
            background(store, key);
        }
        if !store.objects().any(|(key, _)| inside(&key)) {
            store.remove(&Key::new(NAMESPACES.plural, "", &namespace));
        }
    }
}

/// A background deletion without preconditions.
fn background(store: &mut Store, key: &Key) {
    let Some(kind) = KINDS.into_iter().find(|kind| kind.plural == key.resource) else { return };
    let terminating =
        store.get(key).is_some_and(|object| object["metadata"].get("deletionTimestamp").is_some());
    if !terminating {
        // The only possible refusal: it is already gone.
        let _ = delete(store, kind, key, &Options::default());
    }
}

/// A DELETE. Returns the object, or a `Status` if the object cannot usefully be shown.
pub(super) fn asked(store: &mut Store, ask: &Ask, body: &Value) -> Result<Value, Status> {
    let options = Options::parse(ask, body)?;
    let key = ask.key();
    let note = note(store, ask, &options, false);
    let (object, gone) = delete(store, ask.kind, &key, &options)?;
    keep(store, note);
    if gone && *ask.kind != PODS {
        let uid = &object["metadata"]["uid"];
        let mut details = json!({ "name": key.name, "kind": ask.kind.plural, "uid": uid });
        if !ask.kind.group.is_empty() {
            details["group"] = ask.kind.group.into();
        }
        return Ok(super::status::success(details));
    }
    Ok(ask.view.object(&object, store.wall_ms()))
}

/// A DELETE of a collection: deletes every object in it that can be deleted.
pub(super) fn asked_all(store: &mut Store, ask: &Ask, body: &Value) -> Result<Value, Status> {
    let options = Options::parse(ask, body)?;
    let (items, meta) = super::verbs::list(store, ask)?;
    for item in &items {
        let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
        let one = Ask { namespace: text("namespace"), name: text("name"), ..ask.clone() };
        let note = note(store, &one, &options, false);
        // An object that is already gone is no error, and one that was replaced stays.
        if delete(store, ask.kind, &one.key(), &options).is_ok() {
            keep(store, note);
        }
    }
    Ok(ask.view.list(meta, items.iter().map(|item| &**item), store.wall_ms()))
}

/// Records the request for later judgement. Only requests about pods are recorded.
pub(super) fn note(store: &Store, ask: &Ask, options: &Options, evicted: bool) -> Option<Deletion> {
    let pod = store.get(&ask.key()).filter(|_| *ask.kind == PODS && !options.dry_run)?;
    Some(Deletion {
        revision: store.revision(),
        at_ms: store.now_ms,
        agent: ask.manager.clone(),
        uid_precondition: options.uid.clone(),
        evicted,
        pod: Arc::clone(pod),
    })
}

pub(super) fn keep(store: &mut Store, note: Option<Deletion>) {
    let Some(note) = note else { return };
    store.deletions.push_back(note);
    store.deletions_seen += 1;
    if store.deletions.len() > DELETIONS_MAX {
        store.deletions.pop_front();
    }
}
