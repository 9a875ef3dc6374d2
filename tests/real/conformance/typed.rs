//! The simulator's typed API server, behind HTTP.
//!
//! Only as far as its types reach: a request that they cannot express is answered with 501 and its name. A fleet's pods
//! are those with the label `app=a`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{Method, Response};
use fleet::election::{ElectionOutcome, Lease};
use fleet::event::{Done, Outcome, Phase, PodView};
use fleet::id::{ExecutorId, Uid, Version};
use fleet::ledger::Ledger;
use fleet::question::Condition;
use futures_util::stream;
use lab::api::{Api, Application, Change, NewPod};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::run::Cluster;

#[derive(Clone)]
pub struct Typed(Arc<Mutex<State>>);

struct State {
    api: Api,
    begun: Instant,
    /// Pods' labels and finalizers, by UID and revision: the model only knows whether they match the selector and block
    /// deletion.
    metas: BTreeMap<(Uid, u64), Value>,
}

/// What the model cannot express.
#[derive(Clone, Copy)]
pub struct Lack(pub &'static str);

type Answer = Result<(u16, Value), Lack>;

const OTHER: Lack = Lack("other objects");
const PARAMETERS: Lack = Lack("other parameters");
const PODS: Lack = Lack("other pods");
const PATCHES: Lack = Lack("other patches");
const BLIND: Lack = Lack("writes that compare nothing");
const NONSENSE: Lack = Lack("what makes no sense");
/// How often a watch polls for changes.
const LOOK: Duration = Duration::from_millis(20);

impl Typed {
    pub fn new() -> Typed {
        let mut api = Api::new(1_767_225_600_000);
        api.add(Application::new(0, "app-1", "driver", Uid::from("driver")));
        Typed(Arc::new(Mutex::new(State { api, begun: Instant::now(), metas: BTreeMap::new() })))
    }

    fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.api.now_ms = u64::try_from(state.begun.elapsed().as_millis()).unwrap();
        work(&mut state)
    }

    async fn answer(self, request: Request) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, 8 << 20).await.unwrap();
        let query = parts.uri.query().unwrap_or_default();
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query: BTreeMap<&str, &str> =
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        let path: Vec<&str> = parts.uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let path = match path.as_slice() {
            ["api", "v1", "namespaces", "conformance", rest @ ..] => rest,
            ["apis", _, _, "namespaces", "conformance", rest @ ..] => rest,
            ["api", "v1", "namespaces"] => &["namespaces"],
            _ => &[],
        };
        let json = serde_json::from_slice(&body);
        let answer = match json {
            Err(_) if !body.is_empty() => Err(NONSENSE),
            _ if query.contains_key("watch") => {
                return self.watch(&query).unwrap_or_else(|lack| respond(&Err(lack)));
            }
            body => self.with(|state| state.answer(&parts.method, path, &query, &body.unwrap_or_default())),
        };
        respond(&answer)
    }

    fn watch(self, query: &BTreeMap<&str, &str>) -> Result<Response<Body>, Lack> {
        let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
        let known = ["watch", "labelSelector", "resourceVersion", "timeoutSeconds"];
        if query.keys().any(|name| !known.contains(name)) || !self.with(|state| state.is_all(query)) {
            return Err(PARAMETERS);
        }
        let since = number("resourceVersion").filter(|since| *since > 0).ok_or(PARAMETERS)?;
        let end = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(60));
        let lines = stream::unfold(Some(since), move |seen| {
            let typed = self.clone();
            async move {
                let mut seen = seen?;
                while Instant::now() < end {
                    if typed.with(|state| state.api.is_compacted(seen)) {
                        let error = json!({ "type": "ERROR", "object": status(410, "Expired", "", "") });
                        return Some((line(&error), None));
                    }
                    if let Some((event, revision)) = typed.with(|state| state.next(seen)) {
                        seen = revision;
                        if let Some(event) = event {
                            return Some((line(&event), Some(seen)));
                        }
                        continue;
                    }
                    sleep(LOOK).await;
                }
                None
            }
        });
        Ok(Response::new(Body::from_stream(lines)))
    }
}

impl Cluster for Typed {
    fn client(&self) -> cluster::Client {
        let typed = self.clone();
        let answer = move |request: Request| typed.clone().answer(request);
        cluster::Client::new(axum::Router::new().fallback(answer), "default")
    }

    async fn compact(&self) {
        self.with(|state| state.api.compact(state.api.revision()));
    }
}

fn line(event: &Value) -> std::io::Result<Bytes> {
    Ok(format!("{event}\n").into())
}

fn respond(answer: &Answer) -> Response<Body> {
    let (code, body) = match answer {
        Ok((code, body)) => (*code, body.clone()),
        Err(Lack(what)) => (501, json!(what)),
    };
    Response::builder().status(code).body(body.to_string().into()).unwrap()
}

impl State {
    fn answer(
        &mut self,
        method: &Method,
        path: &[&str],
        query: &BTreeMap<&str, &str>,
        body: &Value,
    ) -> Answer {
        let mut body = body.clone();
        let mut known = vec!["labelSelector"];
        if let Some(seconds) = query.get("gracePeriodSeconds").and_then(|seconds| seconds.parse::<u64>().ok())
        {
            body = json!({ "gracePeriodSeconds": seconds });
            known.push("gracePeriodSeconds");
        }
        let body = &body;
        let is_list = *method == Method::GET && *path == ["pods"];
        if query.keys().any(|name| !known.contains(name)) || (query.contains_key("labelSelector") && !is_list)
        {
            return Err(PARAMETERS);
        }
        match (method.as_str(), path) {
            ("POST", ["namespaces"]) => {
                Ok((201, json!({ "kind": "Namespace", "metadata": body["metadata"] })))
            }
            ("POST", ["resourcequotas"]) => {
                self.api.quota = body["spec"]["hard"]["pods"].as_str().and_then(|pods| pods.parse().ok());
                self.record(201, "ResourceQuota", "quota")
            }
            ("POST", ["poddisruptionbudgets"]) => {
                let least = body["spec"]["minAvailable"].as_u64().ok_or(Lack("other budgets"))?;
                self.api.budgets_overlap = self.api.budget.is_some();
                self.api.budget = usize::try_from(least).ok();
                self.record(201, "PodDisruptionBudget", body["metadata"]["name"].as_str().unwrap())
            }
            // The model derives by itself what a controller would write there.
            ("PATCH", ["resourcequotas", name, "status"]) => self.record(200, "ResourceQuota", name),
            ("PATCH", ["poddisruptionbudgets", name, "status"]) => {
                self.record(200, "PodDisruptionBudget", name)
            }
            ("GET", ["configmaps"]) => Err(PARAMETERS),
            (method, ["configmaps", name @ ..]) => self.ledger(method, name, body),
            (method, ["leases", name @ ..]) => self.lease(method, name, body),
            ("POST", ["pods"]) => self.create(body),
            ("GET", ["pods"]) => self.list(query),
            (method, ["pods", name, rest @ ..]) => self.pod(method, name, rest, body),
            _ => Err(OTHER),
        }
    }

    /// Does this selector match exactly the pods that the model selects?
    fn is_all(&self, query: &BTreeMap<&str, &str>) -> bool {
        match query.get("labelSelector") {
            Some(selector) => *selector == "app=a",
            None => self.api.pods().all(|(_, pod)| pod.view.selected),
        }
    }

    /// An object that exists only for its effect.
    fn record(&self, code: u16, kind: &str, name: &str) -> Answer {
        Ok((code, json!({ "kind": kind, "metadata": { "name": name } })))
    }

    // -------------------------------------------------------------------------------------- pods --

    fn create(&mut self, body: &Value) -> Answer {
        let (meta, spec) = (&body["metadata"], &body["spec"]);
        let plain = spec["containers"].as_array().is_some_and(|all| all.len() == 1 && all[0]["name"] == "c");
        let finalizer = meta.get("finalizers").is_some();
        let known = ["name", "labels", "finalizers"];
        let known = meta.as_object().is_some_and(|meta| meta.keys().all(|field| known.contains(&&**field)));
        if !plain
            || !known
            || body.get("status").is_some()
            || spec.as_object().is_some_and(|spec| spec.len() > 1)
        {
            return Err(PODS);
        }
        let lower = |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase());
        let Some(name) = meta["name"].as_str().filter(lower) else { return Err(PODS) };
        let new = NewPod {
            app: 0,
            name: name.into(),
            executor: ExecutorId(1),
            owner: None,
            selected: meta["labels"]["app"] == "a",
            finalizer,
            sidecar: false,
        };
        let outcome = self.api.create(new);
        if let Outcome::Ok(Done::Pod(pod)) = &outcome {
            let meta = json!({ "labels": meta["labels"], "finalizers": meta["finalizers"] });
            self.metas.insert((pod.uid.clone(), pod.revision), meta);
        }
        Ok(self.outcome(201, "pods", name, outcome))
    }

    fn list(&self, query: &BTreeMap<&str, &str>) -> Answer {
        if query.keys().any(|name| *name != "labelSelector") || !self.is_all(query) {
            return Err(PARAMETERS);
        }
        let list = self.api.list(0);
        let mut pods: Vec<Value> = list.pods.iter().map(|pod| self.json(pod)).collect();
        pods.sort_by_key(|pod| pod["metadata"]["name"].to_string());
        for pod in &mut pods {
            pod.as_object_mut().unwrap().remove("kind");
        }
        let meta = json!({ "resourceVersion": list.revision.to_string() });
        Ok((200, json!({ "kind": "PodList", "metadata": meta, "items": pods })))
    }

    fn pod(&mut self, method: &str, name: &str, rest: &[&str], body: &Value) -> Answer {
        let serial = self.api.serial(name);
        let options = if rest == ["eviction"] { &body["deleteOptions"] } else { body };
        let known = ["gracePeriodSeconds", "preconditions"];
        let options_known = |options: &Map<String, Value>| {
            options.iter().all(|(key, value)| known.contains(&&**key) || value == "Background")
        };
        if (method == "DELETE" || rest == ["eviction"])
            && (!options.as_object().is_none_or(options_known)
                || options["preconditions"].get("resourceVersion").is_some())
        {
            return Err(Lack("other preconditions"));
        }
        let uid = options["preconditions"]["uid"].as_str().map(Uid::from);
        let grace_ms = options["gracePeriodSeconds"].as_u64().map(|seconds| seconds * 1_000);
        let outcome = match (method, rest) {
            ("GET", []) => self.api.get(name),
            ("DELETE", []) => {
                let outcome = self.api.delete(name, uid.as_ref(), grace_ms);
                if let (Outcome::Ok(_), Some(serial)) = (&outcome, serial) {
                    let pod = Arc::clone(self.api.last_view(serial).unwrap());
                    return Ok((200, self.json(&pod)));
                }
                outcome
            }
            ("POST", ["eviction"]) if body["metadata"]["name"] != *name => return Err(NONSENSE),
            ("POST", ["eviction"]) => self.api.evict(name, uid.as_ref(), grace_ms),
            ("POST", ["binding"]) => {
                let Some(serial) = serial.filter(|serial| self.api.pod(*serial).unwrap().view.node.is_none())
                else {
                    return Err(NONSENSE);
                };
                self.api.change(serial, |pod| {
                    pod.node = Some("node-1".into());
                    condition(pod, "PodScheduled", "True", None);
                });
                return Ok((201, json!({ "kind": "Status", "status": "Success" })));
            }
            ("PATCH", []) if body.as_object().is_some_and(|body| body.len() == 1) => match serial {
                Some(serial) => return self.patch(serial, &body["metadata"]).map(|pod| (200, pod)),
                None => Outcome::NotFound,
            },
            ("PATCH", ["status"]) => {
                let (Some(serial), Some(phase)) = (serial, phase(&body["status"]["phase"])) else {
                    return Err(PATCHES);
                };
                self.api.change(serial, |pod| {
                    pod.phase = phase;
                    for given in body["status"]["conditions"].as_array().into_iter().flatten() {
                        let text = |name: &str| given[name].as_str();
                        // A merge patch replaces the list.
                        pod.status.conditions.clear();
                        condition(pod, text("type").unwrap(), text("status").unwrap(), text("reason"));
                    }
                });
                self.api.get(name)
            }
            _ => return Err(OTHER),
        };
        Ok(self.outcome(200, "pods", name, outcome))
    }

    fn patch(&mut self, serial: lab::api::Serial, patch: &Value) -> Result<Value, Lack> {
        let mut pod = Arc::clone(&self.api.pod(serial).unwrap().view);
        let mut meta = self.meta(&pod, pod.revision).clone();
        match (patch.get("finalizers"), patch["labels"].as_object()) {
            (Some(Value::Null), None) => {
                meta["finalizers"] = Value::Null;
                self.api.change_object(serial, |pod| pod.finalizer = false);
            }
            (None, Some(labels)) => {
                labels.iter().for_each(|(key, value)| meta["labels"][key] = value.clone());
                meta["labels"].as_object_mut().unwrap().retain(|_, value| !value.is_null());
                self.api.change(serial, |pod| pod.selected = meta["labels"]["app"] == "a");
            }
            _ => return Err(PATCHES),
        }
        if let Some(stored) = self.api.pod(serial) {
            pod = Arc::clone(&stored.view);
            self.metas.insert((pod.uid.clone(), pod.revision), meta.clone());
        }
        Ok(json(&pod, &meta))
    }

    /// Its labels and finalizers as of this revision.
    fn meta(&self, pod: &PodView, revision: u64) -> &Value {
        self.metas.range(..=(pod.uid.clone(), revision)).next_back().unwrap().1
    }

    /// The next event after this revision, if it is about a pod, and its revision.
    fn next(&self, seen: u64) -> Option<(Option<Value>, u64)> {
        let before = self.api.list_at(0, seen);
        let entry = self.api.since(0, seen).first()?;
        let known = |pod: &PodView| before.pods.iter().find(|other| other.uid == pod.uid);
        let (kind, object) = match &entry.change {
            Change::Put(pod) => (if known(pod).is_some() { "MODIFIED" } else { "ADDED" }, self.json(pod)),
            Change::Gone(pod) => {
                // The state in which it was last seen.
                let last = known(pod)?;
                let mut object = self.json(last);
                object["metadata"]["resourceVersion"] = entry.revision.to_string().into();
                ("DELETED", object)
            }
            Change::Driver(_) => return Some((None, entry.revision)),
        };
        Some((Some(json!({ "type": kind, "object": object })), entry.revision))
    }

    fn json(&self, pod: &PodView) -> Value {
        json(pod, self.meta(pod, pod.revision))
    }

    fn outcome(&self, code: u16, kind: &str, name: &str, outcome: Outcome) -> (u16, Value) {
        let refuse = |code: u16, reason, kind| (code, status(code, reason, kind, name));
        match outcome {
            Outcome::Ok(Done::Pod(pod)) => (code, self.json(&pod)),
            Outcome::Ok(_) => (201, json!({ "kind": "Status", "status": "Success" })),
            Outcome::AlreadyExists => refuse(409, "AlreadyExists", kind),
            Outcome::Conflict => refuse(409, "Conflict", if kind == "pods" { "Pod" } else { kind }),
            Outcome::NotFound => refuse(404, "NotFound", kind),
            Outcome::Forbidden(_) => refuse(403, "Forbidden", kind),
            Outcome::Invalid(_) => refuse(422, "Invalid", kind),
            Outcome::Throttled { .. } => refuse(429, "TooManyRequests", ""),
            Outcome::Budget => {
                let mut body = status(429, "TooManyRequests", "", "");
                body["details"]["causes"] = json!([{ "reason": "DisruptionBudget" }]);
                (429, body)
            }
            Outcome::Unknown(_) => (500, status(500, "", "", "")),
        }
    }

    // -------------------------------------------------------------------------- ledger and lease --

    fn ledger(&mut self, method: &str, name: &[&str], body: &Value) -> Answer {
        let over = over(body)?;
        let name = name.first().copied().unwrap_or("m");
        let outcome = match method {
            "GET" => self.api.read_ledger(0),
            "POST" | "PUT" if (method == "PUT") == over.is_some() => {
                let others = body["data"].as_object().into_iter().flatten();
                let others = others.map(|(key, value)| (key.as_str().into(), value.as_str().unwrap().into()));
                self.api.write_ledger(
                    0,
                    Ledger { others: others.collect(), ..Ledger::default() },
                    over.as_ref(),
                )
            }
            "DELETE" if body.is_null() => {
                self.api.delete_ledger(0);
                let details = json!({ "kind": "configmaps", "name": name, "uid": "ledger" });
                return Ok((200, json!({ "kind": "Status", "status": "Success", "details": details })));
            }
            _ => return Err(BLIND),
        };
        if let Outcome::Ok(_) = outcome {
            let stored = self.api.ledger(0).unwrap();
            let data: BTreeMap<_, _> = stored.ledger.others.iter().cloned().collect();
            let meta =
                json!({ "name": name, "uid": "ledger", "resourceVersion": stored.version.to_string() });
            let code = if method == "POST" { 201 } else { 200 };
            return Ok((code, json!({ "kind": "ConfigMap", "metadata": meta, "data": data })));
        }
        Ok(self.outcome(200, "configmaps", name, outcome))
    }

    fn lease(&mut self, method: &str, name: &[&str], body: &Value) -> Answer {
        let over = over(body)?;
        let name = name.first().copied().unwrap_or("l");
        let new = self.api.lease().is_none();
        let outcome = match method {
            "GET" => self.api.read_lease(),
            "POST" | "PUT" if (method == "PUT") == over.is_some() => {
                let number =
                    |field: &str| body["spec"][field].as_u64().and_then(|number| u32::try_from(number).ok());
                let (Some(duration_s), Some(transitions)) =
                    (number("leaseDurationSeconds"), number("leaseTransitions"))
                else {
                    return Err(Lack("other leases"));
                };
                let holder = body["spec"]["holderIdentity"].as_str().unwrap_or_default().into();
                let lease = Lease { holder, duration_s, acquired_ms: 0, renewed_ms: 0, transitions };
                self.api.write_lease(lease, over.as_ref())
            }
            _ => return Err(BLIND),
        };
        let refuse = |code: u16, reason| {
            let mut body = status(code, reason, "leases", name);
            body["details"]["group"] = "coordination.k8s.io".into();
            Ok((code, body))
        };
        match outcome {
            ElectionOutcome::Read(..) | ElectionOutcome::Written(_) => {
                let (lease, version) = self.api.lease().unwrap();
                let meta = json!({ "name": name, "uid": "lease", "resourceVersion": version.to_string() });
                let spec = json!({ "holderIdentity": lease.holder, "leaseTransitions": lease.transitions });
                let code = if new { 201 } else { 200 };
                Ok((code, json!({ "kind": "Lease", "metadata": meta, "spec": spec })))
            }
            ElectionOutcome::NotFound => refuse(404, "NotFound"),
            ElectionOutcome::Conflict => refuse(409, "Conflict"),
            ElectionOutcome::AlreadyExists => refuse(409, "AlreadyExists"),
            ElectionOutcome::Forbidden => refuse(403, "Forbidden"),
            ElectionOutcome::Throttled { .. } => refuse(429, "TooManyRequests"),
            ElectionOutcome::Unknown => refuse(500, ""),
        }
    }
}

/// The version that a write replaces.
fn over(body: &Value) -> Result<Option<Version>, Lack> {
    let meta = body["metadata"].as_object().into_iter().flatten();
    if meta.into_iter().any(|(field, _)| !["name", "resourceVersion"].contains(&&**field)) {
        return Err(OTHER);
    }
    Ok(body["metadata"]["resourceVersion"].as_str().map(|version| Version(version.into())))
}

fn status(code: u16, reason: &str, kind: &str, name: &str) -> Value {
    let details = json!({ "kind": kind, "name": name });
    json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason, "details": details })
}

fn condition(pod: &mut PodView, name: &str, status: &str, reason: Option<&str>) {
    let reason = reason.map(str::to_owned);
    let (name, status) = (name.to_owned(), status.to_owned());
    pod.status.conditions.push(Condition { name, status, reason, message: None });
}

fn phase(value: &Value) -> Option<Phase> {
    let phases = [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed, Phase::Unknown];
    phases.into_iter().find(|phase| format!("{phase:?}") == *value)
}

fn json(pod: &PodView, more: &Value) -> Value {
    let mut meta =
        json!({ "name": pod.name, "uid": pod.uid.to_string(), "resourceVersion": pod.revision.to_string() });
    for (field, value) in more.as_object().into_iter().flatten() {
        if !value.is_null() && *value != json!({}) {
            meta[field] = value.clone();
        }
    }
    if let (Some(at_ms), Some(grace_ms)) = (pod.status.deletion_at_ms, pod.status.deletion_grace_ms) {
        let at = jiff::Timestamp::from_second(at_ms.div_euclid(1_000)).unwrap();
        meta["deletionTimestamp"] = at.to_string().into();
        meta["deletionGracePeriodSeconds"] = (grace_ms / 1_000).into();
    }
    let conditions = pod.status.conditions.iter();
    let conditions =
        conditions.map(|it| json!({ "type": it.name, "status": it.status, "reason": it.reason }));
    let status = json!({ "phase": format!("{:?}", pod.phase), "conditions": conditions.collect::<Vec<_>>() });
    let mut object = json!({ "kind": "Pod", "metadata": meta, "status": status });
    if let Some(node) = &pod.node {
        object["spec"] = json!({ "nodeName": node });
    }
    object
}
