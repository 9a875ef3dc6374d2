//! Actions as API calls.
//!
//! One call per action, and one event in return. Creates are POSTs of a pod whose name is derived from fleet
//! and id; deletions and evictions carry the UID of their target; the ledger is written with the
//! `resourceVersion` that was read. So a request that is duplicated, delayed or sent by a former leader affects
//! its intended target, or nothing.

use std::sync::Arc;

use fleet::action::{Action, Verb};
use fleet::event::{Done, DriverView, Event, Outcome, PodView, Relist, finished};
use fleet::id::{ExecutorId, Uid, Version};
use fleet::ledger::Ledger;
use fleet::observed::DriverPod;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Api, Client};

use crate::client::{CALL_TIMEOUT, LIST_TIMEOUT};
use crate::outcome::{self, within};
use crate::pod::{self, Seen};
use crate::template::Template;
use crate::{FIELD_MANAGER, ledger};

/// Pods per page of a list.
const PAGE: u32 = 500;

/// One fleet's objects in the API server.
pub struct Place {
    pub fleet: String,
    pub namespace: String,
    pub application_id: String,
    pub driver: String,
    pub driver_uid: Uid,
    /// The name of the executor's container, if the fleet's document sets it.
    pub executor_container: Option<String>,
    /// The template for executors' pods; without one no pod can be created.
    pub template: Option<Template>,
}

impl Place {
    /// The ledger's ConfigMap: one per application, because ids are unique within one.
    pub fn ledger_name(&self) -> String {
        let uid: String = self.driver_uid.0.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        format!("rollcall-{}-{}", self.fleet, uid.to_lowercase())
    }

    fn selector(&self) -> String {
        format!("{}={},{}=executor", pod::APP, self.application_id, pod::ROLE)
    }

    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: self.driver.clone(),
            uid: self.driver_uid.to_string(),
            controller: Some(true),
            // `true` would need a permission on the driver's finalizers.
            block_owner_deletion: Some(false),
        }
    }
}

/// Carries out the actions of one fleet. Cheap to clone.
#[derive(Clone)]
pub struct Calls {
    place: Arc<Place>,
    pods: Api<k8s::Pod>,
    maps: Api<k8s::ConfigMap>,
}

/// Result of a call: the event for the core, and the pods that were read on the way.
pub struct Answer {
    pub event: Event,
    pub seen: Vec<Seen>,
}

impl Calls {
    pub fn new(client: Client, place: Arc<Place>) -> Calls {
        let pods = Api::namespaced(client.clone(), &place.namespace);
        let maps = Api::namespaced(client, &place.namespace);
        Calls { place, pods, maps }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Carries out an action. `None`: the action is not a call to the API server.
    pub async fn carry_out(&self, action: &Action) -> Option<Answer> {
        let outcome = match &action.verb {
            Verb::Relist { known } => {
                return Some(match self.list(*known).await {
                    Ok((list, seen)) => Answer { event: Event::Relisted(list), seen },
                    Err(outcome) => Answer { event: finished(action, outcome), seen: Vec::new() },
                });
            }
            Verb::ReadLedger => self.read_ledger().await,
            Verb::WriteLedger { ledger, over } => self.write_ledger(ledger, over.as_ref()).await,
            Verb::CreatePod { executor, pod, avoid_nodes } => self.create(*executor, pod, avoid_nodes).await,
            Verb::GetPod { executor, pod } => match within(CALL_TIMEOUT, self.pods.get(pod)).await {
                Ok(pod) => self.seen(&pod, *executor),
                Err(outcome) => outcome,
            },
            Verb::DeletePod { pod, uid, grace_ms, .. } => self.delete(pod, uid, *grace_ms).await,
            Verb::EvictPod { pod, uid, grace_ms, .. } => self.evict(pod, uid, *grace_ms).await,
            Verb::DeleteDriver { uid } => self.delete(&self.place.driver, uid, None).await,
            Verb::Ask { .. } | Verb::CheckLease | Verb::Reply { .. } | Verb::Publish(_) => return None,
        };
        Some(Answer { event: finished(action, outcome), seen: Vec::new() })
    }

    async fn create(&self, executor: ExecutorId, name: &str, avoid_nodes: &[Box<str>]) -> Outcome {
        let place = &self.place;
        let Some(template) = &place.template else {
            return Outcome::Invalid("the fleet has no pod template".to_owned());
        };
        let pod = template.pod(&place.application_id, executor, name, place.owner(), avoid_nodes);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match within(CALL_TIMEOUT, self.pods.create(&params, &pod)).await {
            Ok(pod) => self.seen(&pod, executor),
            Err(outcome) => outcome,
        }
    }

    fn seen(&self, pod: &k8s::Pod, executor: ExecutorId) -> Outcome {
        let view = pod::view(pod, executor, self.place.executor_container.as_deref());
        let unnamed = || Outcome::Unknown("the answer's pod has no name or UID".to_owned());
        view.map_or_else(unnamed, |view| Outcome::Ok(Done::Pod(Box::new(self.ours(view, pod)))))
    }

    /// Only the pods of *this* application are selected.
    fn ours(&self, view: PodView, pod: &k8s::Pod) -> PodView {
        let app = pod.metadata.labels.as_ref().and_then(|labels| labels.get(pod::APP));
        let selected = view.selected && app.is_some_and(|app| *app == self.place.application_id);
        PodView { selected, ..view }
    }

    async fn delete(&self, name: &str, uid: &Uid, grace_ms: Option<u64>) -> Outcome {
        match within(CALL_TIMEOUT, self.pods.delete(name, &delete_params(uid, grace_ms))).await {
            Ok(_) => Outcome::Ok(Done::Deleted),
            Err(outcome) => outcome,
        }
    }

    /// kube's own `evict` names the field `delete_options`, which the API server ignores, and with it the UID
    /// and the grace period.
    async fn evict(&self, name: &str, uid: &Uid, grace_ms: Option<u64>) -> Outcome {
        let eviction = Eviction {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            delete_options: Some(DeleteOptions {
                grace_period_seconds: grace_ms.map(seconds).map(i64::from),
                preconditions: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Preconditions {
                    uid: Some(uid.to_string()),
                    resource_version: None,
                }),
                ..DeleteOptions::default()
            }),
        };
        let params = PostParams::default();
        let call = self.pods.create_subresource::<_, Status>("eviction", name, &params, &eviction);
        match within(CALL_TIMEOUT, call).await {
            Ok(_) => Outcome::Ok(Done::Deleted),
            Err(outcome) => outcome,
        }
    }

    /// Reads from the store, not from a cache: no `resourceVersion` is set. All pages are of one revision; if
    /// the API server compacts it meanwhile, the list fails.
    async fn list(&self, known: u64) -> Result<(Relist, Vec<Seen>), Outcome> {
        let started = tokio::time::Instant::now();
        let mut params = ListParams::default().labels(&self.place.selector()).limit(PAGE);
        let (mut seen, mut revision) = (Vec::new(), 0);
        loop {
            // A page has the same time limit as any other call.
            let left = LIST_TIMEOUT.saturating_sub(started.elapsed()).min(CALL_TIMEOUT);
            let page = within(left, self.pods.list(&params)).await?;
            revision = revision.max(pod::revision(page.metadata.resource_version.as_deref()));
            let named = self.place.executor_container.as_deref();
            seen.extend(page.items.iter().filter_map(|pod| pod::executor(pod, named)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break,
            }
        }
        // Read last: the driver's state is as new as the list, or newer.
        let driver = self.driver().await?;
        let pods = seen.iter().map(|seen| seen.view.clone()).collect();
        Ok((Relist { known, revision, pods, driver }, seen))
    }

    async fn driver(&self) -> Result<DriverView, Outcome> {
        match within(CALL_TIMEOUT, self.pods.get(&self.place.driver)).await {
            Ok(pod) => Ok(pod::driver(&pod).map_or(DriverView::Gone, |driver| driver.view())),
            Err(Outcome::NotFound) => Ok(DriverView::Gone),
            Err(outcome) => Err(outcome),
        }
    }

    async fn read_ledger(&self) -> Outcome {
        match within(CALL_TIMEOUT, self.maps.get(&self.place.ledger_name())).await {
            Ok(map) => ledger::read(&map),
            Err(outcome) => outcome,
        }
    }

    async fn write_ledger(&self, ledger: &Ledger, over: Option<&Version>) -> Outcome {
        let name = self.place.ledger_name();
        let map = k8s::ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some([("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())].into()),
                owner_references: Some(vec![OwnerReference { controller: None, ..self.place.owner() }]),
                resource_version: over.map(|Version(version)| version.to_string()),
                ..ObjectMeta::default()
            },
            data: Some(ledger::data(ledger)),
            ..k8s::ConfigMap::default()
        };
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = if over.is_some() {
            within(CALL_TIMEOUT, self.maps.replace(&name, &params, &map)).await
        } else {
            within(CALL_TIMEOUT, self.maps.create(&params, &map)).await
        };
        match written.map(|map| map.metadata.resource_version) {
            Ok(Some(version)) => Outcome::Ok(Done::Written(Version(version.into()))),
            Ok(None) => Outcome::Unknown("the answer has no resourceVersion".to_owned()),
            Err(outcome) => outcome,
        }
    }
}

/// Kubernetes counts whole seconds; rounding down to 0 would mean no time at all.
fn seconds(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(1_000)).unwrap_or(u32::MAX)
}

fn delete_params(uid: &Uid, grace_ms: Option<u64>) -> DeleteParams {
    DeleteParams {
        grace_period_seconds: grace_ms.map(seconds),
        preconditions: Some(Preconditions { uid: Some(uid.to_string()), resource_version: None }),
        ..DeleteParams::default()
    }
}

/// The driver's pod with this name, if it exists.
pub async fn find_driver(client: Client, namespace: &str, name: &str) -> Result<Option<DriverPod>, Outcome> {
    match within(CALL_TIMEOUT, Api::<k8s::Pod>::namespaced(client, namespace).get(name)).await {
        Ok(pod) => Ok(pod::driver(&pod)),
        Err(Outcome::NotFound) => Ok(None),
        Err(outcome) => Err(outcome),
    }
}

/// Describes a watch's error for log readers.
pub(crate) fn describe(error: &kube::Error) -> String {
    outcome::of(error).to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use fleet::action::Cause;
    use fleet::id::ActionId;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    pub(crate) fn place() -> Place {
        Place {
            fleet: "f".to_owned(),
            namespace: "n".to_owned(),
            application_id: "a".to_owned(),
            driver: "d".to_owned(),
            driver_uid: "u".into(),
            executor_container: None,
            template: None,
        }
    }

    #[tokio::test]
    async fn what_a_list_says_of_the_driver_is_no_older_than_the_list() {
        // The driver ends while the pods are being listed.
        let ended = Arc::new(AtomicBool::new(false));
        let server = tower::service_fn(move |request: Request<Body>| {
            let ended = Arc::clone(&ended);
            async move {
                let driver = request.uri().path().ends_with("/pods/d");
                let (status, body) = if !driver {
                    ended.store(true, Ordering::Relaxed);
                    (200, json!({"metadata": {"resourceVersion": "9"}, "items": []}))
                } else if ended.load(Ordering::Relaxed) {
                    (404, json!({"kind": "Status", "reason": "NotFound", "code": 404}))
                } else {
                    let meta = json!({"name": "d", "uid": "u", "resourceVersion": "7"});
                    (200, json!({"metadata": meta, "status": {"phase": "Running"}}))
                };
                let body = Body::from(body.to_string().into_bytes());
                Response::builder().status(status).body(body)
            }
        });
        let calls = Calls::new(Client::new(server, "n"), Arc::new(place()));
        let action = Action { id: ActionId(1), cause: Cause::Start, verb: Verb::Relist { known: 3 } };
        let answer = calls.carry_out(&action).await.expect("a call");
        let Event::Relisted(list) = answer.event else { panic!("{:?}", answer.event) };
        assert_eq!((list.known, list.revision, list.driver), (3, 9, DriverView::Gone));
    }
}
