//! Nodes, and where the scheduler puts a pod: required affinity first, then preferred affinity, then the node
//! with the fewest pods.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::server::Server;

use super::dice::Dice;

/// The label that distinguishes `spot` from `on-demand`: Karpenter's.
pub(super) const CAPACITY: &str = "karpenter.sh/capacity-type";

/// A new node; every third is a spot machine, in one of three zones.
pub(super) fn join(server: &Server, serial: u64) {
    let name = format!("node-{serial}");
    let spot = serial.is_multiple_of(3);
    let capacity = if spot { "spot" } else { "on-demand" };
    let time = server.timestamp();
    let resources = json!({ "cpu": "16", "memory": "64Gi", "pods": "110" });
    let node = json!({
        "metadata": { "name": name, "labels": {
            "kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{}", char::from(b"abc"[(serial % 3) as usize])),
            CAPACITY: capacity,
        } },
        "spec": {},
    });
    if server.create("nodes", "", node).is_err() {
        // A node with that name already exists, created by a client: use that one.
        return;
    }
    let status = json!({
        "capacity": resources, "allocatable": resources,
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }, { "type": "Hostname", "address": name }],
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "kubelet is posting ready status", "lastHeartbeatTime": time, "lastTransitionTime": time,
        }],
        "nodeInfo": { "kubeletVersion": "v1.34.0", "containerRuntimeVersion": "embedded://1" },
    });
    server.change("nodes", "", &name, |node| node["status"] = status);
}

pub(super) fn name(node: &Value) -> &str {
    node["metadata"]["name"].as_str().unwrap_or_default()
}

pub(super) fn is_spot(node: &Value) -> bool {
    node["metadata"]["labels"][CAPACITY] == "spot"
}

/// Pods on each node that have not ended.
pub(super) fn load(server: &Server) -> BTreeMap<String, usize> {
    let mut load = BTreeMap::new();
    for pod in server.list("pods") {
        let live = !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|_| live) {
            *load.entry(node.to_owned()).or_default() += 1;
        }
    }
    load
}

/// The node for a pod, by its node affinity. `None`: no node is allowed.
pub(super) fn place(server: &Server, dice: &mut Dice, pod: &Value) -> Option<String> {
    let affinity = &pod["spec"]["affinity"]["nodeAffinity"];
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let nodes = server.list("nodes");
    let usable = nodes.iter().filter(|node| {
        let cordoned = node["spec"]["unschedulable"] == true;
        let terms = required.as_array();
        !cordoned && terms.is_none_or(|terms| terms.iter().any(|term| matches(term, node)))
    });
    let preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"].as_array();
    let liking = |node: &Value| -> i64 {
        let terms = preferred.into_iter().flatten();
        let liked = terms.filter(|term| matches(&term["preference"], node));
        liked.map(|term| term["weight"].as_i64().unwrap_or(0)).sum()
    };
    let load = load(server);
    let ranked: Vec<((i64, usize), &str)> = usable
        .map(|node| ((-liking(node), load.get(name(node)).copied().unwrap_or(0)), name(node)))
        .collect();
    let best = ranked.iter().map(|(rank, _)| *rank).min()?;
    let best: Vec<&str> = ranked.iter().filter(|(rank, _)| *rank == best).map(|(_, name)| *name).collect();
    dice.pick(&best).map(|name| (*name).to_owned())
}

/// A `NodeSelectorTerm`: all of its expressions must match. An empty one matches nothing.
fn matches(term: &Value, node: &Value) -> bool {
    let list = |name: &str| term[name].as_array().map_or(&[][..], Vec::as_slice);
    let (labels, fields) = (list("matchExpressions"), list("matchFields"));
    let holds = |expression: &Value, value: Option<&str>| {
        let values = expression["values"].as_array().into_iter().flatten();
        let contains = value.is_some_and(|value| values.into_iter().any(|one| one == value));
        match expression["operator"].as_str() {
            Some("In") => contains,
            Some("NotIn") => !contains,
            Some("Exists") => value.is_some(),
            Some("DoesNotExist") => value.is_none(),
            _ => false,
        }
    };
    let label = |key: &Value| node["metadata"]["labels"][key.as_str().unwrap_or_default()].as_str();
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|expression| holds(expression, label(&expression["key"])))
        && fields.iter().all(|expression| {
            holds(expression, Some(name(node)).filter(|_| expression["key"] == "metadata.name"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_forbids_and_prefers() {
        let server = Server::new(1);
        (1..=3).for_each(|serial| join(&server, serial));
        let hostname = |operator: &str, values: &[&str]| {
            json!({ "matchExpressions": [{
                "key": "kubernetes.io/hostname", "operator": operator, "values": values,
            }] })
        };
        let pod = |required: Value, preferred: Value| {
            json!({ "spec": { "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [required] },
                "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 100, "preference": preferred }],
            } } } })
        };
        let mut dice = Dice::new(1);
        for _ in 0..20 {
            let avoided = pod(hostname("NotIn", &["node-1"]), hostname("NotIn", &["node-2"]));
            assert_eq!(place(&server, &mut dice, &avoided).as_deref(), Some("node-3"));
            let field = json!({ "matchFields": [
                { "key": "metadata.name", "operator": "NotIn", "values": ["node-1"] },
                { "key": "metadata.name", "operator": "NotIn", "values": ["node-3"] },
            ] });
            let avoided = pod(field, hostname("Exists", &[]));
            assert_eq!(place(&server, &mut dice, &avoided).as_deref(), Some("node-2"));
            let nowhere = pod(hostname("NotIn", &["node-1", "node-2", "node-3"]), hostname("Exists", &[]));
            assert_eq!(place(&server, &mut dice, &nowhere), None);
        }
        server.change("nodes", "", "node-3", |node| node["spec"]["unschedulable"] = true.into());
        let rather = pod(hostname("Exists", &[]), hostname("In", &["node-3"]));
        let placed = place(&server, &mut dice, &rather);
        assert!(placed.as_deref().is_some_and(|node| node != "node-3"), "{placed:?}");
    }
}
