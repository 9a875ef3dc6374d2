//! NetworkPolicies between executors, Rollcall and the driver.

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::doctor::connections::{Access, Direction, End, Port, access};
use crate::doctor::facts::{Checked, Facts, Finding, GRAPHITE_PORT, Labels, Namespace, ROLLCALL_LABEL, ips};

const SOURCE: &str = "Kubernetes: NetworkPolicy";
/// Selected by the NetworkPolicy that comes with Rollcall.
const FLEETS_LABEL: (&str, &str) = ("rollcall.dev/fleets", "true");

/// Of the chart's default release.
const INSTANCE_LABEL: (&str, &str) = ("app.kubernetes.io/instance", "rollcall");

/// The labels of a pod that does not exist yet.
static DAEMON: LazyLock<Labels> =
    LazyLock::new(|| [only(ROLLCALL_LABEL), only(INSTANCE_LABEL)].into_iter().flatten().collect());
static EXECUTOR: LazyLock<Labels> = LazyLock::new(|| only(("spark-role", "executor")));
static DRIVER: LazyLock<Labels> = LazyLock::new(|| only(("spark-role", "driver")));

fn only((key, value): (&str, &str)) -> Labels {
    Labels::from([(key.to_owned(), value.to_owned())])
}

pub fn to_rollcall(facts: &Facts) -> Checked {
    if facts.fleet.spec.heartbeat.disabled {
        return Ok(Vec::new());
    }
    let executor = facts.executors.as_ref().ok().and_then(|pods| pods.first());
    let daemon = daemon(facts);
    let number = daemon.and_then(|pod| container_port(pod, "graphite")).unwrap_or(graphite_target(facts));
    let port = Port { number, name: Some("graphite") };
    judge(
        facts,
        "network-blocks-heartbeats",
        "executors",
        "Rollcall",
        &Connection {
            from: (&facts.namespace, executor, &EXECUTOR),
            to: (&facts.home, daemon, &DAEMON),
            port,
            why: "no heartbeats reach Rollcall",
        },
    )
}

pub fn to_driver(facts: &Facts) -> Checked {
    let driver = facts.driver.as_ref().ok();
    let number = facts.fleet.spec.driver.rest_port.get();
    let name = driver.and_then(|pod| port_name(pod, number));
    judge(
        facts,
        "network-blocks-rest-api",
        "Rollcall",
        "the driver",
        &Connection {
            from: (&facts.home, daemon(facts), &DAEMON),
            to: (&facts.namespace, driver, &DRIVER),
            port: Port { number, name },
            why: "Rollcall gets no counters for roll policies",
        },
    )
}

struct Connection<'a> {
    from: Place<'a>,
    to: Place<'a>,
    port: Port<'a>,
    why: &'static str,
}

/// The namespace, a pod if there is one, and the labels that such a pod will have.
type Place<'a> = (&'a Namespace, Option<&'a Pod>, &'a Labels);

fn end<'a>((namespace, pod, assumed): Place<'a>) -> End<'a> {
    End {
        namespace: &namespace.name,
        namespace_labels: namespace.labels.as_ref().map_err(Clone::clone),
        labels: pod.map_or(assumed, ResourceExt::labels),
        ips: pod.map(ips).unwrap_or_default(),
    }
}

fn judge(facts: &Facts, code: &'static str, from: &str, to: &str, connection: &Connection) -> Checked {
    let on_host = |(_, pod, _): &Place| {
        pod.and_then(|pod| pod.spec.as_ref()).and_then(|spec| spec.host_network) == Some(true)
    };
    if on_host(&connection.from) || on_host(&connection.to) {
        return Err(
            "one of the pods uses its node's network, to which policies about pods do not apply".to_owned()
        );
    }
    let mut findings = Vec::new();
    for (way, subject, peer) in [
        (Direction::Egress, connection.from, connection.to),
        (Direction::Ingress, connection.to, connection.from),
    ] {
        let policies = subject.0.policies.as_ref().map_err(Clone::clone)?;
        let (subject_end, peer_end) = (end(subject), end(peer));
        let closing = match access(policies, way, &subject_end, &peer_end, connection.port) {
            Access::Open => continue,
            Access::Unknown(why) => return Err(why),
            Access::Closed(closing) => closing,
        };
        let names: Vec<String> = closing.iter().map(|name| format!("{}/{name}", subject.0.name)).collect();
        let way_name = if way == Direction::Egress { "egress" } else { "ingress" };
        let port = connection.port.number;
        let what =
            format!("NetworkPolicy {} blocks {from} to {to}, port {port} ({way_name})", names.join(", "));
        let finding = Finding::error(code, what, connection.why).source(SOURCE);
        // With the label that Rollcall's own policy selects, it may be open.
        let mut labelled = peer_end.namespace_labels.clone().cloned().unwrap_or_default();
        labelled.extend(only(FLEETS_LABEL));
        let with_label = End { namespace_labels: Ok(&labelled), ..peer_end };
        let label_is_enough = peer.0.name == facts.namespace.name
            && access(policies, way, &subject_end, &with_label, connection.port) == Access::Open;
        findings.push(if label_is_enough {
            let (key, value) = FLEETS_LABEL;
            finding.set(format!("kubectl label namespace {} {key}={value}", facts.namespace.name))
        } else {
            let rule = if way == Direction::Egress { "to" } else { "from" };
            let selector =
                peer.2.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", ");
            finding.set(format!(
                "in a NetworkPolicy of {}: {way_name}: [{{{rule}: [{{namespaceSelector: {{matchLabels: \
                 {{kubernetes.io/metadata.name: {}}}}}, podSelector: {{matchLabels: {{{selector}}}}}}}], \
                 ports: [{{port: {port}}}]}}]",
                subject.0.name, peer.0.name
            ))
        });
    }
    Ok(findings)
}

fn daemon(facts: &Facts) -> Option<&Pod> {
    facts.daemons.as_ref().ok().and_then(|pods| pods.first())
}

fn ports(pod: &Pod) -> impl Iterator<Item = (Option<&str>, u16)> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .flat_map(|one| one.ports.iter().flatten())
        .filter_map(|port| Some((port.name.as_deref(), u16::try_from(port.container_port).ok()?)))
}

fn container_port(pod: &Pod, name: &str) -> Option<u16> {
    ports(pod).find(|(found, _)| *found == Some(name)).map(|(_, port)| port)
}

fn port_name(pod: &Pod, number: u16) -> Option<&str> {
    ports(pod).find(|(_, port)| *port == number).and_then(|(name, _)| name)
}

/// The pods' port behind the Service's.
fn graphite_target(facts: &Facts) -> u16 {
    let services = facts.graphite_services().unwrap_or_default();
    let target = services.first().and_then(|(service, port)| {
        let ports = service.spec.as_ref()?.ports.as_ref()?;
        match ports.iter().find(|one| one.port == i32::from(*port))?.target_port.as_ref()? {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(_) => None,
        }
    });
    target.unwrap_or(GRAPHITE_PORT)
}
