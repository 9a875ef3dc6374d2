//! Pods: created, read, changed, deleted, evicted.
//!
//! A pod is removed in two phases. A deletion sets `deletionTimestamp`; the kubelet ends the containers and
//! then the object is removed. If the pod is on no node, if its containers have ended, or if the grace period
//! is 0, the object is removed at once, unless a finalizer holds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::event::{Done, Outcome, Phase, PodView};
use fleet::id::{ExecutorId, Uid};
use fleet::question::{Container, ContainerRole, ContainerState, Pod};

use super::{Api, Change, News, Serial};

/// `terminationGracePeriodSeconds` of pods that do not set it.
pub const GRACE_MS: u64 = 30_000;

/// A pod as it is stored.
#[derive(Clone, Debug)]
pub struct PodObject {
    /// The application that it is for: it has its label, unless that was taken away.
    pub app: usize,
    pub view: Arc<PodView>,
    pub finalizer: bool,
    /// Deadline of a terminating pod, in ms of the world.
    pub ends_ms: Option<u64>,
}

impl PodObject {
    pub fn live(&self) -> bool {
        !self.view.ended()
    }

    pub fn ready(&self) -> bool {
        self.view.phase == Phase::Running && !self.view.terminating()
    }
}

/// What a pod is created from.
#[derive(Clone, Debug)]
pub struct NewPod {
    pub app: usize,
    pub name: Box<str>,
    pub executor: ExecutorId,
    pub owner: Option<Uid>,
    pub selected: bool,
    pub finalizer: bool,
    pub sidecar: bool,
}

impl Api {
    pub fn pods(&self) -> impl Iterator<Item = (Serial, &PodObject)> {
        self.pods.iter().map(|(serial, pod)| (*serial, pod))
    }

    /// An application's pods.
    pub fn ours(&self, app: usize) -> impl Iterator<Item = (Serial, &PodObject)> {
        self.pods().filter(move |(_, pod)| pod.app == app && self.is_ours(pod))
    }

    /// Does it have its application's labels, and its driver as owner?
    pub fn is_ours(&self, pod: &PodObject) -> bool {
        pod.view.selected && pod.view.owner.as_ref() == Some(self.apps[pod.app].driver_uid())
    }

    pub fn pod(&self, serial: Serial) -> Option<&PodObject> {
        self.pods.get(&serial)
    }

    pub fn serial(&self, name: &str) -> Option<Serial> {
        self.names.get(name).copied()
    }

    /// The last known state of a pod, even after it was removed.
    pub fn last_view(&self, serial: Serial) -> Option<&Arc<PodView>> {
        self.pods.get(&serial).map(|pod| &pod.view).or_else(|| self.graves.get(&serial))
    }

    pub fn create(&mut self, new: NewPod) -> Outcome {
        if self.names.contains_key(&new.name) {
            return Outcome::AlreadyExists;
        }
        if self.namespace_terminating {
            return Outcome::Forbidden("namespace is being terminated".to_owned());
        }
        if self.quota.is_some_and(|quota| self.pods.values().filter(|pod| pod.live()).count() >= quota) {
            return Outcome::Forbidden("exceeded quota".to_owned());
        }
        self.serials += 1;
        let serial = Serial(self.serials);
        let container = |name: &str, role| Container {
            name: name.to_owned(),
            role,
            state: ContainerState::Waiting { reason: None, message: None },
            last_terminated: None,
            restart_count: 0,
        };
        let mut containers = vec![container("spark-kubernetes-executor", ContainerRole::Executor)];
        if new.sidecar {
            containers.push(container("proxy", ContainerRole::Sidecar));
        }
        let view = PodView {
            executor: new.executor,
            name: new.name.clone(),
            uid: serial.uid(),
            revision: 0,
            owner: new.owner,
            selected: new.selected,
            phase: Phase::Pending,
            node: None,
            do_not_roll: false,
            status: Box::new(Pod {
                phase: "Pending".to_owned(),
                reason: None,
                message: None,
                gone: false,
                created_at_ms: Some(self.wall_ms()),
                deletion_at_ms: None,
                deletion_grace_ms: None,
                conditions: Vec::new(),
                containers,
                node_name: None,
                scheduling_gates: Vec::new(),
            }),
        };
        self.names.insert(new.name, serial);
        let pod = PodObject { app: new.app, view: Arc::new(view), finalizer: new.finalizer, ends_ms: None };
        self.pods.insert(serial, pod);
        self.news.push(News::Created(serial));
        self.change(serial, |_| {});
        self.get_serial(serial)
    }

    fn get_serial(&self, serial: Serial) -> Outcome {
        let pod = self.pods.get(&serial).map(|pod| PodView::clone(&pod.view));
        pod.map_or(Outcome::NotFound, |pod| Outcome::Ok(Done::Pod(Box::new(pod))))
    }

    pub fn get(&self, name: &str) -> Outcome {
        self.names.get(name).map_or(Outcome::NotFound, |serial| self.get_serial(*serial))
    }

    /// Changes a pod's status, labels or anything else. No effect on a pod that was removed.
    pub fn change(&mut self, serial: Serial, change: impl FnOnce(&mut PodView)) {
        self.change_object(serial, |pod| change(Arc::make_mut(&mut pod.view)));
    }

    pub fn change_object(&mut self, serial: Serial, change: impl FnOnce(&mut PodObject)) {
        let revision = self.revision + 1;
        let Some(pod) = self.pods.get_mut(&serial) else { return };
        let (was_selected, was_over) = (pod.view.selected, pod.ends_ms == Some(0));
        change(pod);
        let (selected, over) = (pod.view.selected, pod.ends_ms == Some(0) && !pod.finalizer);
        if was_over && over {
            // Only its finalizer held it; a watch does not see the finalizer's removal.
            self.remove(serial);
            return;
        }
        Arc::make_mut(&mut pod.view).revision = revision;
        let (app, view) = (pod.app, Arc::clone(&pod.view));
        self.revision = revision;
        if selected {
            self.push(app, Change::Put(view));
        } else if was_selected {
            // A watch with a selector reports an object that no longer matches as deleted.
            self.push(app, Change::Gone(view));
        }
        if over {
            self.remove(serial);
        }
    }

    pub fn delete(&mut self, name: &str, uid: Option<&Uid>, grace_ms: Option<u64>) -> Outcome {
        let Some(serial) = self.serial(name) else { return Outcome::NotFound };
        if uid.is_some_and(|uid| *uid != self.pods[&serial].view.uid) {
            return Outcome::Conflict;
        }
        self.delete_serial(serial, grace_ms);
        Outcome::Ok(Done::Deleted)
    }

    pub fn delete_serial(&mut self, serial: Serial, grace_ms: Option<u64>) {
        let Some(pod) = self.pods.get(&serial) else { return };
        let now_ms = self.now_ms;
        let (ends_ms, grace_ms) = match (pod.ends_ms.zip(pod.view.status.deletion_grace_ms), grace_ms) {
            // A shorter grace period counts from the first deletion; one that has already passed becomes the
            // minimum.
            (Some((ends_ms, before_ms)), Some(grace_ms)) if grace_ms < before_ms => {
                let ends_ms = (ends_ms + grace_ms).saturating_sub(before_ms);
                if ends_ms < now_ms { (now_ms, grace_ms.min(1_000)) } else { (ends_ms, grace_ms) }
            }
            (Some(_), _) => return,
            (None, _) if pod.view.node.is_none() || pod.view.ended() => (now_ms, 0),
            (None, grace_ms) => (now_ms + grace_ms.unwrap_or(GRACE_MS), grace_ms.unwrap_or(GRACE_MS)),
        };
        let at_ms = self.wall_base_ms.saturating_add_unsigned(ends_ms);
        // A watch sees the `deletionTimestamp` also of a pod that is removed at once.
        self.change_object(serial, |pod| {
            pod.ends_ms = Some(if grace_ms == 0 { 0 } else { ends_ms });
            let status = &mut Arc::make_mut(&mut pod.view).status;
            status.deletion_at_ms = Some(at_ms);
            status.deletion_grace_ms = Some(grace_ms);
        });
        if self.pods.contains_key(&serial) {
            self.news.push(News::Terminating(serial));
        }
    }

    /// The containers have ended: the kubelet, or PodGC, removes the object.
    pub fn finish(&mut self, serial: Serial) {
        self.delete_serial(serial, Some(0));
    }

    /// The eviction subresource: a deletion, if the PodDisruptionBudgets allow it.
    pub fn evict(&mut self, name: &str, uid: Option<&Uid>, grace_ms: Option<u64>) -> Outcome {
        let Some(serial) = self.serial(name) else { return Outcome::NotFound };
        let pod = &self.pods[&serial];
        // Budgets cover pods that are up, and are checked before the UID precondition.
        let counts = pod.view.selected && pod.view.phase == Phase::Running && !pod.view.terminating();
        if counts && self.budgets_overlap {
            return Outcome::Unknown("500: more than one PodDisruptionBudget".to_owned());
        }
        let covered = |other: &&PodObject| other.app == pod.app && other.view.selected && other.ready();
        let ready = self.pods.values().filter(covered).count();
        if counts && self.budget.is_some_and(|least| ready <= least) {
            return Outcome::Budget;
        }
        if uid.is_some_and(|uid| *uid != pod.view.uid) {
            return Outcome::Conflict;
        }
        if !pod.view.disrupted() {
            self.change(serial, |pod| disrupt(pod, "EvictionByEvictionAPI"));
        }
        self.delete_serial(serial, grace_ms);
        Outcome::Ok(Done::Deleted)
    }

    fn remove(&mut self, serial: Serial) {
        let Some(mut pod) = self.pods.remove(&serial) else { return };
        self.names.remove(&pod.view.name);
        let revision = self.next_revision();
        let view = Arc::make_mut(&mut pod.view);
        view.revision = revision;
        self.graves.insert(serial, Arc::clone(&pod.view));
        if pod.view.selected {
            self.push(pod.app, Change::Gone(pod.view));
        }
        self.news.push(News::Removed(serial));
    }

    /// By node, how many pods are bound to it and have not ended.
    pub fn pods_by_node(&self) -> BTreeMap<&str, usize> {
        let mut nodes = BTreeMap::new();
        for pod in self.pods.values().filter(|pod| pod.live()) {
            if let Some(node) = &pod.view.node {
                *nodes.entry(&**node).or_default() += 1;
            }
        }
        nodes
    }
}

/// Sets the condition by which Kubernetes reports that it ends a pod itself.
pub fn disrupt(pod: &mut PodView, reason: &str) {
    if !pod.disrupted() {
        pod.status.conditions.push(fleet::question::Condition {
            name: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Application;

    fn api_with(count: u64) -> Api {
        let mut api = Api::new(0);
        api.add(Application::new(0, "app-1", "driver", Uid::from("driver")));
        for executor in 1..=count {
            let outcome = api.create(new(executor));
            assert!(matches!(outcome, Outcome::Ok(Done::Pod(_))), "{outcome:?}");
        }
        api
    }

    fn new(executor: u64) -> NewPod {
        NewPod {
            app: 0,
            name: format!("f-exec-{executor}").into(),
            executor: ExecutorId(executor),
            owner: Some(Uid::from("driver")),
            selected: true,
            finalizer: false,
            sidecar: false,
        }
    }

    fn run(api: &mut Api, executor: u64) -> Serial {
        let serial = api.serial(&format!("f-exec-{executor}")).unwrap();
        api.change(serial, |pod| {
            pod.node = Some("node-1".into());
            pod.phase = Phase::Running;
        });
        serial
    }

    #[test]
    fn a_name_is_taken_once_and_quota_and_namespace_refuse() {
        let mut api = api_with(1);
        assert_eq!(api.create(new(1)), Outcome::AlreadyExists);
        api.quota = Some(1);
        assert!(matches!(api.create(new(2)), Outcome::Forbidden(_)));
        api.quota = None;
        api.namespace_terminating = true;
        assert!(matches!(api.create(new(2)), Outcome::Forbidden(_)));
    }

    #[test]
    fn a_deletion_hits_the_pod_it_names_or_none() {
        let mut api = api_with(2);
        assert_eq!(api.delete("f-exec-1", Some(&Uid::from("another")), None), Outcome::Conflict);
        assert_eq!(api.delete("f-exec-9", None, None), Outcome::NotFound);
        // Not scheduled: removed at once.
        let uid = Serial(1).uid();
        assert_eq!(api.delete("f-exec-1", Some(&uid), None), Outcome::Ok(Done::Deleted));
        assert_eq!(api.get("f-exec-1"), Outcome::NotFound);
        // Running: terminating, until its kubelet has finished.
        let serial = run(&mut api, 2);
        api.delete("f-exec-2", Some(&serial.uid()), None);
        assert!(api.pod(serial).is_some_and(|pod| pod.view.terminating()));
        let news = api.take_news();
        assert!(news.ends_with(&[News::Removed(Serial(1)), News::Terminating(serial)]), "{news:?}");
        api.delete("f-exec-2", Some(&serial.uid()), Some(0));
        assert!(api.pod(serial).is_none());
    }

    #[test]
    fn a_finalizer_holds_what_is_over() {
        let mut api = api_with(1);
        api.change_object(Serial(1), |pod| pod.finalizer = true);
        api.delete("f-exec-1", None, Some(0));
        assert!(api.pod(Serial(1)).is_some_and(|pod| pod.view.terminating()));
        api.change_object(Serial(1), |pod| pod.finalizer = false);
        assert!(api.pod(Serial(1)).is_none());
    }

    #[test]
    fn a_budget_refuses_an_eviction_of_what_is_up() {
        let mut api = api_with(2);
        let serial = run(&mut api, 1);
        api.budget = Some(1);
        assert_eq!(api.evict("f-exec-1", Some(&serial.uid()), None), Outcome::Budget);
        assert_eq!(api.evict("f-exec-2", None, None), Outcome::Ok(Done::Deleted), "pending is not up");
        api.budgets_overlap = true;
        assert!(matches!(api.evict("f-exec-1", None, None), Outcome::Unknown(_)));
        api.budgets_overlap = false;
        api.budget = Some(0);
        assert_eq!(api.evict("f-exec-1", None, None), Outcome::Ok(Done::Deleted));
        assert!(api.pod(serial).is_some_and(|pod| pod.view.terminating() && pod.view.disrupted()));
    }
}
