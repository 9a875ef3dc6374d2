//! The fields of `v1.Node` that the core uses.
//!
//! A watch does not report a node that was deleted while the watch was down: that node is only missing from the
//! list with which the watch restarts, so [`Nodes`] remembers the existing ones. A fleet's settings ([`Signs`])
//! define which labels and taints mark a node as spot capacity or as about to terminate: a watched node is
//! mapped for each fleet by that fleet's own settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use fleet::event::NodeView;
use fleet::question::{Departure, DepartureKind, NodeState};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

const ZONE: &str = "topology.kubernetes.io/zone";
/// Further taints of a node are dropped, and so are further labels.
const TAINTS_MAX: usize = 32;
const LABELS_MAX: usize = 128;

/// Labels by which clouds and autoscalers mark a node that may vanish at any time.
const SPOT: [&str; 6] = [
    "karpenter.sh/capacity-type=spot",
    "eks.amazonaws.com/capacityType=SPOT",
    "cloud.google.com/gke-spot=true",
    "cloud.google.com/gke-preemptible=true",
    "cloud.google.com/gke-provisioning=spot",
    "kubernetes.azure.com/scalesetpriority=spot",
];

/// Taints and labels by which they announce a node's termination.
const DEPARTURES: [(Place, &str, DepartureKind); 7] = [
    // AWS's handler: spot-itn, scheduled-maintenance, asg-lifecycle-termination, rebalance-recommendation.
    (Place::Taint, "aws-node-termination-handler/*", DepartureKind::Reclaimed),
    (Place::Taint, "cloud.google.com/impending-node-termination", DepartureKind::Reclaimed),
    (Place::Label, "cloud.google.com/active-node-maintenance=ONGOING", DepartureKind::Reclaimed),
    // Azure's remediator drains for scheduled events.
    (Place::Taint, "remediator.kubernetes.azure.com/unschedulable", DepartureKind::Reclaimed),
    (Place::Taint, "karpenter.sh/disrupted", DepartureKind::Drained),
    // Karpenter before 1.0, only with the value `disrupting`.
    (Place::Taint, "karpenter.sh/disruption", DepartureKind::Drained),
    (Place::Taint, "ToBeDeletedByClusterAutoscaler", DepartureKind::Drained),
];

/// A node as reported by a watch.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSeen {
    /// Its state, without the parts that depend on [`Signs`].
    view: NodeView,
    /// Values of the taints in `view`, in their order.
    taint_values: Vec<Option<String>>,
    labels: BTreeMap<String, String>,
}

impl NodeSeen {
    pub fn name(&self) -> &str {
        &self.view.state.name
    }

    pub fn gone(&self) -> bool {
        self.view.state.gone
    }
}

/// The signs of spot capacity, and of a node that is about to terminate. The default is what clouds,
/// autoscalers and termination handlers are known to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signs {
    pub spot: Vec<Pattern>,
    pub departures: Vec<Sign>,
    /// `spec.unschedulable` is such a sign, too.
    pub cordon: bool,
}

impl Default for Signs {
    fn default() -> Signs {
        let sign =
            |(place, pattern, kind): (Place, &str, _)| Sign { place, pattern: Pattern::of(pattern), kind };
        Signs {
            spot: SPOT.into_iter().map(Pattern::of).collect(),
            departures: DEPARTURES.into_iter().map(sign).collect(),
            cordon: true,
        }
    }
}

/// A sign that a node is about to terminate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    pub place: Place,
    pub pattern: Pattern,
    pub kind: DepartureKind,
}

/// Where a sign is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Taint,
    Label,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::Taint => "taint",
            Place::Label => "label",
        }
    }
}

/// `KEY`, `KEY=VALUE`, or `PREFIX*` for any key with that prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    key: String,
    value: Option<String>,
}

impl Pattern {
    /// A pattern that is known to be valid.
    fn of(text: &str) -> Pattern {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        Pattern { key: key.to_owned(), value }
    }

    fn matches(&self, key: &str, value: Option<&str>) -> bool {
        let is_key = match self.key.strip_suffix('*') {
            Some(prefix) => key.starts_with(prefix),
            None => key == self.key,
        };
        is_key && self.value.as_deref().is_none_or(|wanted| value == Some(wanted))
    }
}

impl FromStr for Pattern {
    type Err = String;

    /// A valid Kubernetes key: an optional DNS prefix and a name, of letters, digits, `.`, `_`, `-` and one
    /// `/`.
    fn from_str(text: &str) -> Result<Pattern, String> {
        let pattern = Pattern::of(text);
        let key = pattern.key.strip_suffix('*').unwrap_or(&pattern.key);
        let letters = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let right = match key.split_once('/') {
            Some((prefix, name)) => !prefix.is_empty() && letters(prefix) && letters(name),
            None => letters(key),
        };
        let empty = key.is_empty() || key.ends_with('/') && !pattern.key.ends_with('*');
        if empty || !right || text.len() > 317 || !pattern.value.iter().all(|value| letters(value)) {
            return Err(format!("{text:?} is no KEY, KEY=VALUE or PREFIX*, such as karpenter.sh/disrupted"));
        }
        Ok(pattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        self.value.iter().try_for_each(|value| write!(f, "={value}"))
    }
}

impl Signs {
    /// A node as a fleet with these signs sees it.
    pub fn view(&self, seen: &NodeSeen) -> NodeView {
        let mut view = seen.view.clone();
        let labels = || seen.labels.iter().map(|(key, value)| (&**key, Some(&**value)));
        let is_spot = |pattern: &Pattern| labels().any(|(key, value)| pattern.matches(key, value));
        view.state.spot = self.spot.iter().any(is_spot);
        let values = seen.taint_values.iter().map(Option::as_deref);
        let taints: Vec<_> = seen.view.state.taints.iter().map(String::as_str).zip(values).collect();
        view.state.departures = self.departures(&taints, &labels().collect::<Vec<_>>(), view.state.cordoned);
        view
    }

    /// The signs among these that announce the node's termination, the most urgent first.
    pub fn departures(
        &self,
        taints: &[(&str, Option<&str>)],
        labels: &[(&str, Option<&str>)],
        cordoned: bool,
    ) -> Vec<Departure> {
        let marks = |sign: &Sign| match sign.place {
            Place::Taint => taints,
            Place::Label => labels,
        };
        let mut found: Vec<Departure> = Vec::new();
        for sign in &self.departures {
            for (key, _) in marks(sign).iter().filter(|(key, value)| sign.pattern.matches(key, *value)) {
                let text = format!("{} {key}", sign.place.name());
                if !found.iter().any(|known| known.sign == text) {
                    found.push(Departure { kind: sign.kind, sign: text });
                }
            }
        }
        if self.cordon && cordoned {
            found.push(Departure { kind: DepartureKind::Cordoned, sign: "cordon".to_owned() });
        }
        found.sort_by_key(|departure| departure.kind);
        found
    }
}

/// The existing nodes, as reported by a watch.
#[derive(Debug, Default)]
pub struct Nodes {
    known: BTreeMap<String, NodeSeen>,
    /// Nodes that the list in progress has not contained yet.
    unlisted: BTreeSet<String>,
    zones: Zones,
}

impl Nodes {
    /// The nodes to report after this event.
    pub fn take(&mut self, event: Event<Node>) -> Vec<NodeSeen> {
        match event {
            Event::Init => {
                self.unlisted = self.known.keys().cloned().collect();
                Vec::new()
            }
            Event::Apply(node) | Event::InitApply(node) => {
                let seen = seen(&node, &mut self.zones, false);
                self.unlisted.remove(seen.name());
                self.known.insert(seen.name().to_owned(), seen.clone());
                vec![seen]
            }
            Event::Delete(node) => {
                let seen = seen(&node, &mut self.zones, true);
                self.known.remove(seen.name());
                vec![seen]
            }
            Event::InitDone => {
                let gone = std::mem::take(&mut self.unlisted).into_iter();
                let gone = gone.filter_map(|name| self.known.remove(&name));
                gone.map(|mut seen| {
                    seen.view.state.gone = true;
                    seen
                })
                .collect()
            }
        }
    }
}

/// Numbers for zones: equal numbers are the same zone.
#[derive(Debug, Default)]
struct Zones(Vec<String>);

impl Zones {
    /// A cluster has a handful; a freely chosen label must not grow this without limit.
    const MAX: usize = 1_000;

    fn number(&mut self, zone: &str) -> Option<u32> {
        let known = self.0.iter().position(|known| known == zone);
        if known.is_none() && self.0.len() < Self::MAX {
            self.0.push(zone.to_owned());
        }
        known.or_else(|| self.0.iter().position(|known| known == zone)).and_then(|at| u32::try_from(at).ok())
    }
}

/// Maps a node; `gone`: it was deleted.
fn seen(node: &Node, zones: &mut Zones, gone: bool) -> NodeSeen {
    let status = node.status.as_ref();
    let ready = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = ready.into_iter().find(|condition| condition.type_ == "Ready");
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten().take(TAINTS_MAX);
    let (taints, taint_values) = taints.map(|taint| (taint.key.clone(), taint.value.clone())).unzip();
    let labels = node.labels().iter().take(LABELS_MAX);
    NodeSeen {
        view: NodeView {
            state: NodeState {
                name: node.name_any(),
                gone,
                ready: ready.map_or_else(|| "Unknown".to_owned(), |ready| ready.status.clone()),
                reason: ready.and_then(|ready| ready.reason.clone()),
                cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
                taints,
                spot: false,
                departures: Vec::new(),
            },
            zone: node.labels().get(ZONE).and_then(|zone| zones.number(zone)),
        },
        taint_values,
        labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
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
            views.map(|seen| (seen.name().to_owned(), seen.gone())).collect()
        };
        let is = |name: &str, gone| vec![(name.to_owned(), gone)];
        assert_eq!(told(Event::Init), []);
        for name in ["a", "b", "c"] {
            assert_eq!(told(Event::InitApply(node(name))), is(name, false));
        }
        assert_eq!(told(Event::InitDone), []);
        assert_eq!(told(Event::Apply(node("d"))), is("d", false));
        assert_eq!(told(Event::Delete(node("c"))), is("c", true));
        // An interrupted list proves nothing about the nodes that it did not reach.
        assert_eq!(told(Event::Init), []);
        assert_eq!(told(Event::Init), []);
        assert_eq!(told(Event::InitApply(node("b"))), is("b", false));
        assert_eq!(told(Event::InitDone), [is("a", true), is("d", true)].concat());
        assert_eq!(told(Event::Init), []);
        assert_eq!(told(Event::InitDone), is("b", true), "once each");
    }

    #[test]
    fn signs_say_what_becomes_of_a_node() {
        let mut zones = Zones::default();
        let mut views = |signs: &Signs, node: serde_json::Value| {
            let node = serde_json::from_value::<Node>(node).expect("a node");
            let state = signs.view(&seen(&node, &mut zones, false)).state;
            let departures = state.departures.into_iter().map(|departure| (departure.kind, departure.sign));
            (state.spot, departures.collect::<Vec<_>>())
        };
        let node = json!({
            "metadata": { "name": "a", "labels": { "karpenter.sh/capacity-type": "spot", "pool": "cheap" } },
            "spec": { "unschedulable": true, "taints": [
                { "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" },
                { "key": "karpenter.sh/unregistered", "effect": "NoExecute" },
                { "key": "ToBeDeletedByClusterAutoscaler", "value": "1900000000", "effect": "NoSchedule" },
                { "key": "aws-node-termination-handler/spot-itn", "effect": "NoSchedule" },
            ] },
        });
        let drained = (DepartureKind::Drained, "taint ToBeDeletedByClusterAutoscaler".to_owned());
        let reclaimed = (DepartureKind::Reclaimed, "taint aws-node-termination-handler/spot-itn".to_owned());
        let cordoned = (DepartureKind::Cordoned, "cordon".to_owned());
        assert_eq!(views(&Signs::default(), node.clone()), (true, vec![reclaimed, drained, cordoned]));
        let pattern = |text: &str| text.parse::<Pattern>().expect("a pattern");
        let sign = |place, text| Sign { place, pattern: pattern(text), kind: DepartureKind::Drained };
        let own = Signs {
            spot: vec![pattern("pool=cheap")],
            departures: vec![sign(Place::Label, "pool=dear"), sign(Place::Label, "karpenter.sh/*")],
            cordon: false,
        };
        let found = vec![(DepartureKind::Drained, "label karpenter.sh/capacity-type".to_owned())];
        assert_eq!(views(&own, node), (true, found));
        assert_eq!(views(&own, json!({ "metadata": { "name": "b" } })), (false, vec![]));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in ["", "*", "/x", "a b", "a/b/c", "a=b=c", "x/", "=y"] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
        }
        let defaults = SPOT.into_iter().chain(DEPARTURES.map(|(_, pattern, _)| pattern));
        for right in defaults.chain(["a", "a/b=", "x.y/z*", "a*=b"]) {
            assert_eq!(right.parse::<Pattern>().map(|pattern| pattern.to_string()), Ok(right.to_owned()));
        }
    }
}
