//! `v1.Node`, as far as the core cares.

use fleet::event::NodeView;
use fleet::question::NodeState;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

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

/// Numbers for zones: equal numbers are the same zone.
#[derive(Debug, Default)]
pub struct Zones(Vec<String>);

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
pub fn view(node: &Node, zones: &mut Zones, gone: bool) -> NodeView {
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
