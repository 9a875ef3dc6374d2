//! `v1.Node`, as far as the core cares.
//!
//! No watch tells of a node that was deleted while it was down: the list it begins anew with lacks that node, and so
//! [`Nodes`] remembers those that there are.

use std::collections::{BTreeMap, BTreeSet};

use fleet::event::NodeView;
use fleet::question::NodeState;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

const ZONE: &str = "topology.kubernetes.io/zone";
/// Taints of one node beyond this many are dropped.
const TAINTS_MAX: usize = 32;

/// Labels by which clouds and autoscalers say that a node may vanish at any time.
const SPOT: [(&str, &str); 5] = [
    ("karpenter.sh/capacity-type", "spot"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("cloud.google.com/gke-spot", "true"),
    ("cloud.google.com/gke-preemptible", "true"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
];

/// The nodes that there are, as a watch tells of them.
#[derive(Debug, Default)]
pub struct Nodes {
    known: BTreeMap<String, NodeView>,
    /// Those that the list under way did not tell of yet.
    unlisted: BTreeSet<String>,
    zones: Zones,
}

impl Nodes {
    /// What there is to tell of.
    pub fn take(&mut self, event: Event<Node>) -> Vec<NodeView> {
        match event {
            Event::Init => {
                self.unlisted = self.known.keys().cloned().collect();
                Vec::new()
            }
            Event::Apply(node) | Event::InitApply(node) => {
                let view = view(&node, &mut self.zones, false);
                self.unlisted.remove(&view.state.name);
                self.known.insert(view.state.name.clone(), view.clone());
                vec![view]
            }
            Event::Delete(node) => {
                let view = view(&node, &mut self.zones, true);
                self.known.remove(&view.state.name);
                vec![view]
            }
            Event::InitDone => {
                let gone = std::mem::take(&mut self.unlisted).into_iter();
                let gone = gone.filter_map(|name| self.known.remove(&name));
                gone.map(|view| NodeView { state: NodeState { gone: true, ..view.state }, ..view }).collect()
            }
        }
    }
}

/// Numbers for zones: equal numbers are the same zone.
#[derive(Debug, Default)]
struct Zones(Vec<String>);

impl Zones {
    /// A cluster has a handful; a label that anybody may set must not grow this without end.
    const MAX: usize = 1_000;

    fn number(&mut self, zone: &str) -> Option<u32> {
        let known = self.0.iter().position(|known| known == zone);
        if known.is_none() && self.0.len() < Self::MAX {
            self.0.push(zone.to_owned());
        }
        known.or_else(|| self.0.iter().position(|known| known == zone)).and_then(|at| u32::try_from(at).ok())
    }
}

/// Maps a node; `gone` says that it was deleted.
fn view(node: &Node, zones: &mut Zones, gone: bool) -> NodeView {
    let status = node.status.as_ref();
    let ready = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = ready.into_iter().find(|condition| condition.type_ == "Ready");
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    NodeView {
        state: NodeState {
            name: node.name_any(),
            gone,
            ready: ready.map_or_else(|| "Unknown".to_owned(), |ready| ready.status.clone()),
            reason: ready.and_then(|ready| ready.reason.clone()),
            cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
            taints: taints.take(TAINTS_MAX).map(|taint| taint.key.clone()).collect(),
            spot: SPOT.iter().any(|(label, value)| node.labels().get(*label).is_some_and(|is| is == value)),
        },
        zone: node.labels().get(ZONE).and_then(|zone| zones.number(zone)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_that_is_missing_from_the_next_list_is_gone() {
        let node = |name: &str| {
            let ready = json!({ "type": "Ready", "status": "True" });
            serde_json::from_value::<Node>(json!({
                "metadata": { "name": name, "labels": { ZONE: name } }, "status": { "conditions": [ready] },
            }))
            .expect("a node")
        };
        let mut nodes = Nodes::default();
        let mut told = |event| -> Vec<(String, bool)> {
            let views = nodes.take(event).into_iter();
            views.map(|view| (view.state.name, view.state.gone)).collect()
        };
        let is = |name: &str, gone| vec![(name.to_owned(), gone)];
        assert_eq!(told(Event::Init), []);
        for name in ["a", "b", "c"] {
            assert_eq!(told(Event::InitApply(node(name))), is(name, false));
        }
        assert_eq!(told(Event::InitDone), []);
        assert_eq!(told(Event::Apply(node("d"))), is("d", false));
        assert_eq!(told(Event::Delete(node("c"))), is("c", true));
        // A list that breaks off says nothing of those that it did not come to.
        assert_eq!(told(Event::Init), []);
        assert_eq!(told(Event::Init), []);
        assert_eq!(told(Event::InitApply(node("b"))), is("b", false));
        assert_eq!(told(Event::InitDone), [is("a", true), is("d", true)].concat());
        assert_eq!(told(Event::Init), []);
        assert_eq!(told(Event::InitDone), is("b", true), "once each");
    }
}
