//! Every way in which a pod ends, as Kubernetes reports it: each loss gets its verdict once, counts as a failure or
//! not, and is replaced.
//!
//! The test writes what a kubelet or a controller would write, or kwok does where noted; evictions and deletions are
//! the API server's own.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::control_plane::NAMESPACE;
use super::stage::{Daemon, Fleet, NODE, Stage, node, runs};
use super::tools;

/// What happens to an executor's pod.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Its container ends with this exit code and reason, and the pod with it.
    Exits(i32, &'static str),
    /// Its process exits with this code, and its kubelet, which is kwok, writes the status.
    ExitsOnItsNode(i32),
    /// The kubelet fails the pod, with this `status.reason`.
    Fails(&'static str),
    /// It is evicted through the eviction API.
    IsEvicted,
    /// A controller sets the condition `DisruptionTarget` with this reason, and deletes it.
    IsDisrupted(&'static str),
    /// The kubelet sets that condition and terminates it.
    IsTerminated,
    IsDeleted,
    /// Its node is deleted, and the pod is garbage-collected.
    LosesItsNode,
    /// Its node stops reporting, and the pod is deleted.
    IsOnASilentNode,
    /// Its node has only just become ready and is still tainted, and the pod is deleted.
    IsOnATaintedNode,
    /// It runs out of memory and is garbage-collected in the same moment.
    DiesAndVanishes,
}

/// Fate, verdict, whether it is a failure, whether the pod is kept.
const FATES: [(Fate, &str, bool, bool); 16] = [
    // Fates for which the daemon must see the node's change before the pod's come first here, and end last.
    (Fate::LosesItsNode, "node-lost", false, false),
    (Fate::IsOnASilentNode, "node-lost", false, false),
    (Fate::IsOnATaintedNode, "deleted", false, false),
    (Fate::Exits(137, "OOMKilled"), "memory-limit", true, true),
    (Fate::Exits(52, "Error"), "out-of-memory", true, true),
    (Fate::ExitsOnItsNode(1), "exit-status", true, true),
    (Fate::Exits(0, "Completed"), "completed", false, false),
    (Fate::Fails("Evicted"), "evicted", false, false),
    (Fate::Fails("NodeLost"), "node-lost", false, false),
    (Fate::IsEvicted, "evicted", false, false),
    (Fate::IsDisrupted("PreemptionByScheduler"), "preempted", false, false),
    (Fate::IsDisrupted("DeletionByTaintManager"), "evicted", false, false),
    (Fate::IsDisrupted("DeletionByPodGC"), "node-lost", false, false),
    (Fate::IsTerminated, "evicted", false, false),
    (Fate::IsDeleted, "deleted", false, false),
    (Fate::DiesAndVanishes, "memory-limit", true, false),
];

impl Fate {
    /// What happens to the node.
    fn begin(self, stage: &Stage, node: &str) {
        match self {
            Fate::LosesItsNode => drop(stage.admin(&["delete", "node", node], "")),
            Fate::IsOnASilentNode => {
                stage.admin(&["annotate", "node", node, "rollcall.test/not-ready=true"], "");
                let ready = json!([{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]);
                stage.patch_status(&format!("node/{node}"), &json!({ "conditions": ready }));
            }
            Fate::IsOnATaintedNode => {
                stage.admin(&["taint", "node", node, "node.kubernetes.io/not-ready=:NoExecute"], "");
            }
            Fate::Exits(..)
            | Fate::ExitsOnItsNode(_)
            | Fate::Fails(_)
            | Fate::IsEvicted
            | Fate::IsDisrupted(_)
            | Fate::IsTerminated
            | Fate::IsDeleted
            | Fate::DiesAndVanishes => {}
        }
    }

    /// What happens to the pod.
    fn end(self, stage: &Stage, pod: &str) {
        let patch = |status: &Value| stage.patch_status(&format!("pod/{pod}"), status);
        let disrupted =
            |reason: &str| json!([{"type": "DisruptionTarget", "status": "True", "reason": reason}]);
        let delete = |flags: &[&str]| {
            stage.admin(&[&["delete", "pod", pod, "--wait=false"], flags].concat(), "");
        };
        match self {
            Fate::Exits(code, reason) => patch(&exited(code, reason)),
            Fate::ExitsOnItsNode(code) => {
                stage.admin(&["annotate", "pod", pod, &format!("rollcall.test/exit-code={code}")], "");
            }
            Fate::Fails(reason) => {
                let message = "The node was low on resource: memory.";
                patch(&json!({"phase": "Failed", "reason": reason, "message": message}));
            }
            Fate::IsEvicted => {
                let eviction =
                    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
                let path = format!("--raw=/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction");
                stage.admin(&["create", &path, "-f", "-"], &eviction.to_string());
            }
            Fate::IsDisrupted(reason) => {
                patch(&json!({ "conditions": disrupted(reason) }));
                delete(&[]);
            }
            Fate::IsTerminated => {
                let mut status = exited(143, "Error");
                status["conditions"] = disrupted("TerminationByKubelet");
                patch(&status);
            }
            Fate::DiesAndVanishes => {
                patch(&exited(137, "OOMKilled"));
                delete(&["--grace-period=0", "--force"]);
            }
            Fate::IsDeleted | Fate::IsOnATaintedNode => delete(&[]),
            // No kubelet can confirm that it has ended.
            Fate::LosesItsNode | Fate::IsOnASilentNode => delete(&["--grace-period=0", "--force"]),
        }
    }
}

fn exited(code: i32, reason: &str) -> Value {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    json!({"phase": phase, "containerStatuses": [{
        "name": "spark-kubernetes-executor", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code, "reason": reason}},
    }]})
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap()
}

/// Waits until this many losses are classified, each kind as often as expected.
fn settled(stage: &Stage, daemon: &Daemon, fleet: &Fleet, expected: &BTreeMap<String, u64>) -> Value {
    let mut status = Value::Null;
    stage.until("classified", || {
        status = daemon.status(fleet).unwrap_or_default();
        if status["counts"]["lost"] == json!(expected) {
            Ok(())
        } else {
            Err(format!("{expected:?} in {status}"))
        }
    });
    status
}

fn failures(stage: &Stage, fleet: &Fleet) -> u64 {
    let maps = stage.admin(&["get", "configmaps", "-o", "json"], "");
    let maps: Value = serde_json::from_str(&maps).unwrap();
    let prefix = format!("rollcall-{}-", fleet.name);
    let map = maps["items"].as_array().unwrap().iter().find(|map| name(map).starts_with(&prefix)).unwrap();
    let ledger: Value = serde_json::from_str(map["data"]["ledger"].as_str().unwrap()).unwrap();
    ledger["failures"].as_array().unwrap().iter().map(|at| at[1].as_u64().unwrap()).sum()
}

#[test]
fn each_loss_gets_its_verdict_once() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let fleet = stage.fleet("losses", FATES.len(), |document| {
        document["spec"]["template"]["spec"]["nodeName"].take();
    });
    let nodes: Vec<Value> = (1..=FATES.len()).map(|id| node(&format!("losses-{id}"))).collect();
    stage.create(&json!({"apiVersion": "v1", "kind": "List", "items": nodes}));
    let daemon = stage.daemon(&[&fleet], &["--lease", "losses"]);
    // The n-th executor runs on the n-th node, and replacements on one node for all.
    stage.until("on their nodes", || {
        let pods = stage.pods(&fleet).unwrap();
        for (id, pod) in pods.iter().filter(|(_, pod)| pod["spec"]["nodeName"].is_null()) {
            stage.plane.bind(name(pod), &format!("losses-{id}")).unwrap();
        }
        let running = pods.values().filter(|pod| runs(pod)).count();
        if running == FATES.len() { Ok(()) } else { Err(running) }
    });
    stage.at_strength(&daemon, &fleet, "started");

    let pods = stage.pods(&fleet).unwrap();
    let fates = || FATES.iter().zip(&pods).map(|((fate, ..), (_, pod))| (fate, pod));
    fates().for_each(|(fate, pod)| fate.begin(&stage, pod["spec"]["nodeName"].as_str().unwrap()));
    fates().rev().for_each(|(fate, pod)| fate.end(&stage, name(pod)));

    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    FATES.iter().for_each(|(_, kind, ..)| *expected.entry((*kind).to_owned()).or_default() += 1);
    stage.until("replaced", || replaced(&stage, &fleet));
    settled(&stage, &daemon, &fleet, &expected);
    stage.at_strength(&daemon, &fleet, "sixteen lost in sixteen ways");
    stage.until("only the right pods kept", || {
        let left = stage.pods(&fleet).unwrap();
        let mut fates = FATES.iter().zip(&pods);
        match fates.find(|((.., kept), (id, _))| left.contains_key(id) != *kept) {
            Some(((fate, .., kept), (_, pod))) => {
                Err(format!("{fate:?}, {}: kept must be {kept}", name(pod)))
            }
            None => Ok(()),
        }
    });
    for ((fate, kind, ..), (id, pod)) in FATES.iter().zip(&pods) {
        let history = daemon.explain(&fleet, *id).unwrap()["history"].clone();
        let texts: Vec<&str> =
            history.as_array().unwrap().iter().map(|entry| entry["text"].as_str().unwrap()).collect();
        let verdicts = texts.iter().filter(|text| text.starts_with(&format!("{kind}: "))).count();
        assert_eq!(verdicts, 1, "{} {fate:?}: {kind} is not its verdict: {texts:?}", name(pod));
        println!("{fate:?}: {}", texts.iter().find(|text| text.starts_with(kind)).unwrap());
    }
    let failed = FATES.iter().filter(|(_, _, failed, _)| *failed).count();
    assert_eq!(failures(&stage, &fleet), failed as u64, "what is a failure");
    stage.judge(&fleet);
}

/// Replacements run, too.
fn replaced(stage: &Stage, fleet: &Fleet) -> Result<(), String> {
    let pods = stage.pods(fleet).unwrap();
    let later = pods.range(fleet.target as u64 + 1..).map(|(_, pod)| pod);
    for pod in later.filter(|pod| pod["spec"]["nodeName"].is_null()) {
        stage.plane.bind(name(pod), NODE)?;
    }
    let running = pods.values().filter(|pod| runs(pod)).count();
    if running == fleet.target { Ok(()) } else { Err(format!("{running} run")) }
}

/// What keeps a pod Pending until it is abandoned: verdict, and whether it is a failure.
const STUCK: [(&str, Option<&str>, &str, bool); 3] = [
    ("Unschedulable", None, "released", false),
    ("ErrImagePull", Some("ErrImagePull"), "image", true),
    ("CreateContainerConfigError", Some("CreateContainerConfigError"), "config", true),
];

#[test]
fn what_never_starts_is_given_up_for_its_reason() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let fleet = stage.fleet("stuck", STUCK.len(), |document| {
        let spec = &mut document["spec"];
        spec["allocation"] = json!({"pendingTimeout": "5s", "initialBackoff": "1s", "maxBackoff": "1s"});
        spec["template"]["spec"]["nodeName"].take();
        spec["template"]["metadata"] = json!({"annotations": {"rollcall.test/pending": "true"}});
    });
    let daemon = stage.daemon(&[&fleet], &["--lease", "stuck"]);
    stage.until("created", || {
        let pods = stage.pods(&fleet).unwrap();
        if pods.len() == STUCK.len() { Ok(()) } else { Err(pods.len()) }
    });
    for ((reason, waiting, ..), (_, pod)) in STUCK.iter().zip(stage.pods(&fleet).unwrap()) {
        let object = format!("pod/{}", name(&pod));
        if let Some(waiting) = waiting {
            stage.plane.bind(name(&pod), NODE).unwrap();
            stage.patch_status(&object, &json!({"containerStatuses": [{
                "name": "spark-kubernetes-executor", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": waiting, "message": "as a test wants it"}},
            }]}));
        } else {
            let scheduled = json!([{"type": "PodScheduled", "status": "False", "reason": reason}]);
            stage.patch_status(&object, &json!({ "conditions": scheduled }));
        }
    }
    // Their replacements start.
    stage.until("replaced", || {
        for (_, pod) in stage.pods(&fleet).unwrap().into_iter().filter(|(id, _)| *id > STUCK.len() as u64) {
            if !pod["metadata"]["annotations"]["rollcall.test/pending"].is_null() {
                stage.admin(&["annotate", "pod", name(&pod), "rollcall.test/pending-"], "");
            }
        }
        replaced(&stage, &fleet)
    });
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    STUCK.iter().for_each(|(_, _, kind, _)| *expected.entry((*kind).to_owned()).or_default() += 1);
    settled(&stage, &daemon, &fleet, &expected);
    stage.at_strength(&daemon, &fleet, "three that did not start");
    let failed = STUCK.iter().filter(|(.., failed)| *failed).count();
    assert_eq!(failures(&stage, &fleet), failed as u64, "what is a failure");
    stage.judge(&fleet);
}
