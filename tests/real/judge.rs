//! Invariants of everything that happened, after any failure of the daemon: checked against etcd's history and the API
//! server's audit log, not against what any component reports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use cluster::ledger;
use fleet::id::ExecutorId;
use fleet::ledger::Ledger;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::control_plane::{ACCOUNT, ControlPlane, HOME};
use super::history::{self, Change, ChangeKind};

/// For a moment after its start, the API server denies requests that it will grant.
const STARTING: SignedDuration = SignedDuration::from_secs(10);

/// One answered request of the daemon.
#[derive(Clone, Debug)]
pub struct Request {
    pub verb: String,
    /// With its subresource, for instance `pods/eviction`.
    pub resource: String,
    pub group: String,
    pub namespace: String,
    pub name: String,
    pub code: u64,
    /// It was denied by RBAC.
    pub forbidden: bool,
    /// Identifies the token of the account: each daemon has its own.
    pub token: String,
    pub answered_at: Timestamp,
    /// The body, for creates and deletes of pods, and for evictions.
    pub body: Value,
}

impl Request {
    /// It changed a pod, or may have.
    pub fn changes_pods(&self) -> bool {
        self.resource.starts_with("pods") && matches!(&*self.verb, "create" | "delete")
    }
}

/// The requests of our service accounts, in the order of the answers.
pub fn requests(plane: &ControlPlane) -> Vec<Request> {
    let logs = fs::read_dir(plane.directory())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let older: Vec<String> =
        logs.filter(|name| name.starts_with("audit-") && name.ends_with(".log")).collect();
    assert!(older.is_empty(), "the audit log was rotated, and the requests in {older:?} cannot be judged");
    let log = fs::read_to_string(plane.audit_log()).unwrap();
    let ours = format!("system:serviceaccount:{HOME}:{ACCOUNT}");
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = events.filter(|event| {
        let user = event["user"]["username"].as_str();
        let stage = event["stage"].as_str().unwrap_or_default();
        // A granted watch is answered when it begins, regardless of its end.
        let watches = event["verb"] == "watch" && event["responseStatus"]["code"] == 200;
        let answered = if watches { "ResponseStarted" } else { "ResponseComplete" };
        user.is_some_and(|user| user.starts_with(&ours)) && stage == answered
    });
    ours.map(|event| request(&event)).collect()
}

fn request(event: &Value) -> Request {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let resource = [text(&object["resource"]), text(&object["subresource"])].join("/");
    Request {
        verb: text(&event["verb"]),
        resource: resource.trim_end_matches('/').to_owned(),
        group: text(&object["apiGroup"]),
        namespace: text(&object["namespace"]),
        name: text(&object["name"]),
        code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
        forbidden: event["annotations"]["authorization.k8s.io/decision"] == "forbid",
        token: text(&event["user"]["extra"]["authentication.kubernetes.io/credential-id"][0]),
        answered_at: text(&event["stageTimestamp"]).parse().unwrap(),
        body: event["requestObject"].clone(),
    }
}

/// etcd's history of pods and ledgers.
#[derive(Debug, Default)]
pub struct Record {
    pods: Part,
    maps: Part,
}

#[derive(Debug, Default)]
struct Part {
    changes: Vec<Change>,
    /// Later revisions were not read yet.
    until: u64,
}

/// The executors of one application, and the limits that apply to them.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub name: String,
    pub namespace: String,
    pub application: String,
    /// Maximum pods at once, without those that are being deleted: target and surge.
    pub live_max: usize,
    /// Its driver's pod may be deleted, too.
    pub ends_driver: bool,
    /// Its permissions are revoked on purpose.
    pub rights_go: bool,
}

impl Record {
    /// Reads new revisions.
    pub fn read_on(&mut self, plane: &ControlPlane) {
        for (resource, part) in [("pods", &mut self.pods), ("configmaps", &mut self.maps)] {
            let (changes, until) = history::read(plane, resource, part.until).unwrap();
            part.changes.extend(changes);
            part.until = until;
        }
    }

    /// Reads new revisions, and fails if this fleet has violated an invariant.
    pub fn judge(&mut self, plane: &ControlPlane, fleet: &Fleet) {
        // Other fleets are still active: etcd already has the results of these requests.
        let requests = requests(plane);
        let creates = |request: &Request| request.verb == "create" && request.resource == "pods";
        assert!(
            requests.iter().any(|request| creates(request) && request.namespace == fleet.namespace),
            "nothing was judged: among our {} requests in the audit log none creates a pod",
            requests.len()
        );
        self.read_on(plane);
        let ledgers = self.ledgers(fleet);
        let (created, most) = self.executors(fleet, &ledgers);
        let removals = self.removals(fleet, &requests);
        let writes = ledgers.len();
        let refused = granted(plane, fleet, &requests);
        println!(
            "{}: {created} executors created, never one twice, each reserved before, {most} of at most {} at once; {removals} \
             removals asked for, each with its pod's UID; the ledger written {writes} times, balanced, never back; {refused} of {} requests of all daemons forbidden, while the \
             API server started",
            fleet.name,
            fleet.live_max,
            requests.len(),
        );
        assert!(
            created > 0 && writes > 0,
            "nothing was judged: is {} the fleet's application?",
            fleet.application
        );
    }

    /// No id is used twice or without being reserved, and there are never too many executors. Returns how many there
    /// were in total, and how many at once.
    fn executors(&self, fleet: &Fleet, ledgers: &[(u64, Ledger)]) -> (usize, usize) {
        let (mut created, mut live, mut most) = (BTreeSet::new(), BTreeSet::new(), 0);
        for change in self.pods.changes.iter().filter(|change| is_executor(&change.object, fleet)) {
            let (meta, phase) = (&change.object["metadata"], &change.object["status"]["phase"]);
            let id = meta["labels"]["spark-exec-id"].as_str().unwrap();
            if change.kind == ChangeKind::Created {
                assert!(created.insert(id), "{}: executor {id} was created twice", fleet.name);
                let older = ledgers.partition_point(|(revision, _)| *revision < change.revision);
                let reserved = older.checked_sub(1).map(|newest| ledgers[newest].1.reserved);
                assert!(
                    reserved >= Some(ExecutorId(id.parse().unwrap())),
                    "{}: executor {id} was created at revision {}, when the ledger had reserved {reserved:?}",
                    fleet.name,
                    change.revision
                );
            }
            let over = change.kind == ChangeKind::Deleted
                || !meta["deletionTimestamp"].is_null()
                || phase == "Failed"
                || phase == "Succeeded";
            if over {
                live.remove(id)
            } else {
                live.insert(id)
            };
            most = most.max(live.len());
            let (max, at) = (fleet.live_max, change.revision);
            assert!(live.len() <= max, "{}: more than {max} at revision {at}: {live:?}", fleet.name);
        }
        (created.len(), most)
    }

    /// Every removal names the UID of the pod, which is an executor's. Returns how many were requested.
    fn removals(&self, fleet: &Fleet, requests: &[Request]) -> usize {
        let pods: BTreeMap<&str, &Value> = self
            .pods
            .changes
            .iter()
            .map(|change| (change.object["metadata"]["uid"].as_str().unwrap(), &change.object))
            .collect();
        let mut count = 0;
        for request in requests.iter().filter(|request| request.namespace == fleet.namespace) {
            let options = match (&*request.verb, &*request.resource) {
                // A class deletes fleets; the log has no bodies of those.
                ("delete", "executorfleets") => continue,
                ("delete", _) => &request.body,
                ("create", "pods/eviction") => &request.body["deleteOptions"],
                (_, _) => continue,
            };
            let uid = options["preconditions"]["uid"].as_str();
            let uid = uid.unwrap_or_else(|| panic!("a removal that names no UID: {request:?}"));
            let pod = pods.get(uid).unwrap_or_else(|| panic!("a removal of an unknown pod: {request:?}"));
            let labels = &pod["metadata"]["labels"];
            if labels["spark-app-selector"] == fleet.application.as_str() {
                let ours = is_executor(pod, fleet) || fleet.ends_driver && labels["spark-role"] == "driver";
                assert!(ours, "a removal of a pod that is no executor: {request:?}");
                count += 1;
            }
        }
        count
    }

    /// No ledger ever loses information, and each balances: every created executor exists or has ended. Returns all
    /// written ledgers, each with its revision.
    fn ledgers(&self, fleet: &Fleet) -> Vec<(u64, Ledger)> {
        let mut last: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
        let named = |change: &&Change| {
            let meta = &change.object["metadata"];
            let name = meta["name"].as_str().unwrap_or_default();
            // The fleet's name is followed by a part of the driver's UID.
            name.strip_prefix(&format!("rollcall-{}-", fleet.name)).is_some_and(|uid| !uid.contains('-'))
                && meta["namespace"] == fleet.namespace.as_str()
                && change.kind != ChangeKind::Deleted
        };
        let written = self.maps.changes.iter().filter(named).map(|change| {
            let name = change.object["metadata"]["name"].as_str().unwrap();
            let text = change.object["data"][ledger::KEY].as_str().unwrap();
            let it = ledger::decode(text).unwrap_or_else(|why| panic!("{name}: {why} in {text}"));
            let now = [it.epoch, it.writes, it.reserved.0, it.created];
            if let Some(before) = last.insert(name, now) {
                let newer =
                    (now[0], now[1]) > (before[0], before[1]) && now[2] >= before[2] && now[3] >= before[3];
                assert!(
                    newer,
                    "{name} went back: epoch, writes, reserved, created were {before:?}, are {now:?}"
                );
            }
            let balanced = it.created == it.born.len() + it.ended() && it.settled.len() == it.ended();
            let apart = !it.born.iter().any(|executor| it.settled.contains(executor));
            assert!(balanced && apart, "{name}: the books do not balance: {text}");
            (change.revision, it)
        });
        written.collect()
    }
}

/// No permission is missing. Returns how many requests were denied while an API server started.
fn granted(plane: &ControlPlane, fleet: &Fleet, requests: &[Request]) -> usize {
    let starting = |at: Timestamp| {
        plane.starts().iter().any(|(begun, ready)| (*begun..=*ready + STARTING).contains(&at))
    };
    let of_fleet = |request: &&Request| request.namespace.is_empty() || request.namespace == fleet.namespace;
    let forbidden = requests.iter().filter(of_fleet).filter(|request| request.forbidden && !fleet.rights_go);
    let forbidden = forbidden.inspect(|request| {
        assert!(starting(request.answered_at), "deploy/ does not grant {request:?}");
    });
    forbidden.count()
}

fn is_executor(pod: &Value, fleet: &Fleet) -> bool {
    let meta = &pod["metadata"];
    let labels = &meta["labels"];
    meta["namespace"] == fleet.namespace.as_str()
        && labels["spark-app-selector"] == fleet.application.as_str()
        && labels["spark-role"] == "executor"
}
