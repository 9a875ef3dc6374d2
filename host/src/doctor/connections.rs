//! NetworkPolicies, judged by their text: whether they let a pod connect to another.
//!
//! A direction of a pod is open unless a policy selects the pod for that direction; then it is open for what the rules
//! of all such policies together allow. Whether the network plugin enforces policies at all, and what its own kinds of
//! policies say, cannot be seen here.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::facts::{Known, Labels};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Ingress,
    Egress,
}

/// A pod at one end of a connection.
#[derive(Clone)]
pub struct End<'a> {
    pub namespace: &'a str,
    pub namespace_labels: Known<&'a Labels>,
    pub labels: &'a Labels,
    /// Empty: unknown.
    pub ips: Vec<IpAddr>,
}

/// Where a TCP connection goes to: the pod's own port.
#[derive(Clone, Copy)]
pub struct Port<'a> {
    pub number: u16,
    /// Its name in the pod's spec, if that is known.
    pub name: Option<&'a str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Open,
    /// By these policies.
    Closed(Vec<String>),
    /// Why it cannot be judged.
    Unknown(String),
}

/// What the policies of `subject`'s namespace say about its connection with `peer`.
pub fn access(policies: &[NetworkPolicy], way: Direction, subject: &End, peer: &End, port: Port) -> Access {
    let (mut closing, mut unknown) = (Vec::new(), None);
    for policy in policies {
        let Some(spec) = policy.spec.as_ref().filter(|spec| applies(spec, way)) else { continue };
        if !spec.pod_selector.as_ref().is_none_or(|selector| selects(selector, subject.labels)) {
            continue;
        }
        for (peers, ports) in rules(spec, way) {
            if !ports.is_empty() && !ports.iter().any(|one| port_matches(one, port)) {
                continue;
            }
            match peers_match(peers, subject.namespace, peer) {
                Ok(true) => return Access::Open,
                Ok(false) => {}
                Err(why) => unknown = Some(why),
            }
        }
        closing.push(policy.name_any());
    }
    match unknown {
        _ if closing.is_empty() => Access::Open,
        Some(why) => Access::Unknown(why),
        None => Access::Closed(closing),
    }
}

/// Without `policyTypes` a policy is about ingress, and about egress if it has such rules.
fn applies(spec: &NetworkPolicySpec, way: Direction) -> bool {
    match (&spec.policy_types, way) {
        (Some(types), Direction::Ingress) => types.iter().any(|one| one == "Ingress"),
        (Some(types), Direction::Egress) => types.iter().any(|one| one == "Egress"),
        (None, Direction::Ingress) => true,
        (None, Direction::Egress) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
    }
}

type Rule<'a> = (&'a [NetworkPolicyPeer], &'a [NetworkPolicyPort]);

fn rules(spec: &NetworkPolicySpec, way: Direction) -> Vec<Rule<'_>> {
    match way {
        Direction::Ingress => {
            let rules = spec.ingress.iter().flatten();
            rules
                .map(|rule| (rule.from.as_deref().unwrap_or(&[]), rule.ports.as_deref().unwrap_or(&[])))
                .collect()
        }
        Direction::Egress => {
            let rules = spec.egress.iter().flatten();
            rules
                .map(|rule| (rule.to.as_deref().unwrap_or(&[]), rule.ports.as_deref().unwrap_or(&[])))
                .collect()
        }
    }
}

fn port_matches(rule: &NetworkPolicyPort, port: Port) -> bool {
    if rule.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
        return false;
    }
    match &rule.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            let last = rule.end_port.unwrap_or(*first);
            (*first..=last).contains(&i32::from(port.number))
        }
        Some(IntOrString::String(name)) => port.name == Some(name),
    }
}

fn peers_match(peers: &[NetworkPolicyPeer], policy_namespace: &str, peer: &End) -> Known<bool> {
    if peers.is_empty() {
        return Ok(true);
    }
    let mut unknown = None;
    for one in peers {
        match peer_matches(one, policy_namespace, peer) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => unknown = Some(why),
        }
    }
    unknown.map_or(Ok(false), Err)
}

fn peer_matches(rule: &NetworkPolicyPeer, policy_namespace: &str, peer: &End) -> Known<bool> {
    if let Some(block) = &rule.ip_block {
        let within = peer.ips.iter().map(|ip| in_block(block, *ip));
        return match within.reduce(|one, other| one || other) {
            Some(within) => Ok(within),
            None => {
                Err(format!("a policy allows {}, and the address of the other pod is not known", block.cidr))
            }
        };
    }
    if !rule.pod_selector.as_ref().is_none_or(|selector| selects(selector, peer.labels)) {
        return Ok(false);
    }
    match &rule.namespace_selector {
        None => Ok(peer.namespace == policy_namespace),
        Some(selector) => Ok(selects(selector, peer.namespace_labels.clone()?)),
    }
}

/// An empty selector selects everything.
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|one| {
            let value = labels.get(&one.key);
            let listed = value.is_some_and(|value| one.values.iter().flatten().any(|one| one == value));
            match &*one.operator {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

fn in_block(block: &IPBlock, ip: IpAddr) -> bool {
    in_cidr(&block.cidr, ip) && !block.except.iter().flatten().any(|except| in_cidr(except, ip))
}

fn in_cidr(cidr: &str, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let parsed = cidr
        .split_once('/')
        .and_then(|(base, length)| Some((base.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?)));
    let Some((base, length)) = parsed.filter(|(base, _)| base.is_ipv4() == ip.is_ipv4()) else {
        return false;
    };
    let ((base, most), (ip, _)) = (bits(base), bits(ip));
    length <= most && (base ^ ip).checked_shr(128 - length).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    /// Of an executor in `spark`, towards Rollcall in `rollcall`, port 2003 called graphite.
    fn judge(way: Direction, policies: Value) -> Access {
        let (executor, daemon) =
            (labels(&[("spark-role", "executor"), ("tier", "batch")]), labels(&[("app", "rollcall")]));
        let (spark, home) = (labels(&[("rollcall.dev/fleets", "true")]), labels(&[("name", "home")]));
        let policies: Vec<Value> = policies.as_array().unwrap().clone();
        let policies: Vec<NetworkPolicy> = (0..)
            .zip(policies)
            .map(|(number, spec)| {
                serde_json::from_value(json!({"metadata": {"name": format!("p{number}")}, "spec": spec}))
                    .unwrap()
            })
            .collect();
        let executor = End {
            namespace: "spark",
            namespace_labels: Ok(&spark),
            labels: &executor,
            ips: vec!["10.1.2.3".parse().unwrap()],
        };
        let daemon =
            End { namespace: "rollcall", namespace_labels: Ok(&home), labels: &daemon, ips: Vec::new() };
        let port = Port { number: 2003, name: Some("graphite") };
        match way {
            Direction::Egress => access(&policies, way, &executor, &daemon, port),
            Direction::Ingress => access(&policies, way, &daemon, &executor, port),
        }
    }

    fn closed(names: &[&str]) -> Access {
        Access::Closed(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_pod_is_open_until_a_policy_selects_it() {
        use Direction::{Egress, Ingress};
        let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
        let others =
            json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"]});
        for way in [Ingress, Egress] {
            assert_eq!(judge(way, json!([])), Access::Open);
            assert_eq!(judge(way, json!([others])), Access::Open, "it selects other pods");
            assert_eq!(judge(way, json!([others, deny])), closed(&["p1"]));
        }
        let ingress = json!([{"podSelector": {}}]);
        assert_eq!(
            (judge(Ingress, ingress.clone()), judge(Egress, ingress)),
            (closed(&["p0"]), Access::Open)
        );
        let egress =
            json!([{"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53}]}]}]);
        assert_eq!((judge(Ingress, egress.clone()), judge(Egress, egress)), (Access::Open, closed(&["p0"])));
        let implied = json!([{"podSelector": {}, "egress": [{"to": [{"podSelector": {}}]}]}]);
        assert_eq!(judge(Egress, implied), closed(&["p0"]), "pods of the policy's own namespace only");
    }

    #[test]
    fn rules_of_all_policies_add_up() {
        let deny = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
        let allow = |from: Value, ports: Value| {
            let rule = json!({"from": from, "ports": ports});
            judge(
                Direction::Ingress,
                json!([deny, {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]}]),
            )
        };
        let fleets = json!({"namespaceSelector": {"matchLabels": {"rollcall.dev/fleets": "true"}}});
        let executors =
            json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"spark-role": "executor"}}});
        let drivers =
            json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"spark-role": "driver"}}});
        let no = closed(&["p0", "p1"]);
        for (from, ports, expected) in [
            (json!([]), json!([]), &Access::Open),
            (json!([fleets]), json!([]), &Access::Open),
            (json!([drivers, executors]), json!([{"port": 2003}]), &Access::Open),
            (json!([drivers]), json!([{"port": 2003}]), &no),
            (json!([{"podSelector": {}}]), json!([]), &no),
            (json!([fleets]), json!([{"port": 8080}]), &no),
            (json!([fleets]), json!([{"port": 2003, "protocol": "UDP"}]), &no),
            (json!([fleets]), json!([{"port": "graphite"}]), &Access::Open),
            (json!([fleets]), json!([{"port": "http"}]), &no),
            (json!([fleets]), json!([{"port": 2000, "endPort": 2010}]), &Access::Open),
            (json!([fleets]), json!([{"protocol": "TCP"}]), &Access::Open),
            (json!([{"ipBlock": {"cidr": "10.1.0.0/16"}}]), json!([]), &Access::Open),
            (json!([{"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"]}}]), json!([]), &no),
            (json!([{"ipBlock": {"cidr": "fd00::/8"}}]), json!([]), &no),
            (json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]), json!([]), &Access::Open),
        ] {
            assert_eq!(&allow(from.clone(), ports.clone()), expected, "{from} {ports}");
        }
    }

    #[test]
    fn expressions_select_as_in_kubernetes() {
        let select = |expression: Value| {
            let selector = json!({"matchExpressions": [expression]});
            let policy = json!([{"podSelector": selector, "policyTypes": ["Egress"]}]);
            judge(Direction::Egress, policy) != Access::Open
        };
        for (key, operator, values, selected) in [
            ("tier", "In", json!(["batch", "web"]), true),
            ("tier", "In", json!(["web"]), false),
            ("tier", "NotIn", json!(["web"]), true),
            ("absent", "NotIn", json!(["web"]), true),
            ("tier", "Exists", json!(null), true),
            ("absent", "Exists", json!(null), false),
            ("absent", "DoesNotExist", json!(null), true),
            ("tier", "DoesNotExist", json!(null), false),
        ] {
            let expression = json!({"key": key, "operator": operator, "values": values});
            assert_eq!(select(expression.clone()), selected, "{expression}");
        }
    }

    #[test]
    fn what_is_not_known_is_neither_open_nor_closed() {
        let block = json!([{"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}]);
        assert!(
            matches!(judge(Direction::Egress, block), Access::Unknown(why) if why.contains("10.0.0.0/8"))
        );
    }

    #[test]
    fn addresses_are_in_their_blocks() {
        for (cidr, ip, within) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/32", "10.1.2.3", true),
            ("10.1.2.3/32", "10.1.2.2", false),
            ("::/0", "fd00::1", true),
            ("fd00::/64", "fd00::1:0:0:0:1", false),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("nonsense", "10.0.0.0", false),
        ] {
            assert_eq!(in_cidr(cidr, ip.parse().unwrap()), within, "{cidr} {ip}");
        }
    }
}
