//! GraphiteSink: whether executors' heartbeats reach Rollcall, and are recognized there.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::doctor::facts::{Checked, Facts, Finding, GRAPHITE_PORT, Known, ips};
use crate::doctor::settings::{Settings, Sink, sink_lines};

const SINK: &str = "Spark: metrics.sink.GraphiteSink";
const NAMESPACE: &str = "spark.metrics.namespace";

pub fn sink(facts: &Facts) -> Checked {
    let heartbeat = &facts.fleet.spec.heartbeat;
    if heartbeat.disabled {
        return Ok(Vec::new());
    }
    let settings = facts.settings()?;
    let sinks = settings.graphite_sinks();
    let (host, port) = facts.graphite();
    let lines = |taken: &[Sink]| sink_lines(taken, &host, port, heartbeat.interval.0.div_ceil(1_000));
    if sinks.is_empty() {
        if let Some(file) = settings.text("spark.metrics.conf")?.filter(|_| settings.submitted) {
            return Err(format!(
                "the metrics properties are in {file} (spark.metrics.conf), which only the driver can read"
            ));
        }
        let what = "executors have no GraphiteSink";
        let why = "no heartbeats reach Rollcall: an executor that hangs is not noticed, and others wait for their first heartbeat";
        return Ok(vec![Finding::error("no-graphite-sink", what, why).set_all(lines(&[])).source(SINK)]);
    }
    let Some((ours, port)) = rollcall_sink(facts)? else {
        let places: Vec<String> = sinks.iter().map(place).collect();
        let what = format!("GraphiteSink sends to {}, and not to Rollcall", places.join(" and "));
        let why = "no heartbeats reach Rollcall: an executor that hangs is not noticed";
        return Ok(vec![
            Finding::error("graphite-sink-elsewhere", what, why).set_all(lines(&sinks)).source(SINK),
        ]);
    };
    let mut findings = properties(facts, &ours, port);
    if ours.from_file {
        let what = format!("{} comes from a file of the driver's", ours.head);
        let why =
            "executors read metrics.properties from their own image or volume, which this command cannot see";
        findings.push(
            Finding::advice("graphite-sink-from-file", what, why)
                .set_all(lines(&[]))
                .source("Spark: metrics.MetricsConfig"),
        );
    }
    Ok(findings)
}

/// The sink that sends to Rollcall, and the port at which Rollcall listens there.
pub fn rollcall_sink(facts: &Facts) -> Known<Option<(Sink, u16)>> {
    for sink in facts.settings()?.graphite_sinks() {
        if let Some(port) = rollcall_port(facts, sink.get("host").unwrap_or(""))? {
            return Ok(Some((sink, port)));
        }
    }
    Ok(None)
}

fn place(sink: &Sink) -> String {
    format!("{}:{}", sink.get("host").unwrap_or("no host"), sink.get("port").unwrap_or("no port"))
}

/// What is wrong with a sink that sends to Rollcall's host.
fn properties(facts: &Facts, sink: &Sink, port: u16) -> Vec<Finding> {
    let heartbeat = &facts.fleet.spec.heartbeat;
    let (timeout_ms, interval_ms) = (heartbeat.timeout.0, heartbeat.interval.0);
    let mut findings = Vec::new();
    match sink.port() {
        Some(found) if found == port => {}
        Some(_) | None => {
            let what = format!("GraphiteSink sends to {}, and Rollcall listens on port {port}", place(sink));
            let finding = Finding::error("graphite-port", what, "no heartbeats reach Rollcall");
            findings.push(finding.set(sink.line("port", &port.to_string())));
        }
    }
    match sink.period_ms() {
        None => {
            let (period, unit) = (sink.get("period").unwrap_or("10"), sink.get("unit").unwrap_or("seconds"));
            let what = format!("GraphiteSink's period {period:?} or unit {unit:?} is not one");
            let finding = Finding::error("graphite-period-invalid", what, "executors do not start");
            findings.push(finding.set(sink.line("period", "10")).set(sink.line("unit", "seconds")));
        }
        Some(period_ms) if period_ms.saturating_mul(2) > timeout_ms => {
            let what = format!(
                "GraphiteSink reports every {} s, and an executor that is silent for {} s is lost",
                seconds(period_ms),
                seconds(timeout_ms)
            );
            let why =
                "healthy executors are lost when one report is late; the timeout needs two periods or more";
            let finding = Finding::error("graphite-period-too-long", what, why);
            let interval = seconds(interval_ms);
            findings.push(finding.set(sink.line("period", &interval)).set(sink.line("unit", "seconds")));
        }
        Some(period_ms) if period_ms != interval_ms => {
            let what = format!(
                "GraphiteSink reports every {} s, and Rollcall expects {}",
                seconds(period_ms),
                heartbeat.interval
            );
            let why = "start-up grace and late heartbeats are judged by the interval that Rollcall expects";
            let finding = Finding::warning("graphite-period-differs", what, why);
            findings
                .push(finding.set(format!("spec.heartbeat.interval: {}", crate::config::Millis(period_ms))));
        }
        Some(_) => {}
    }
    let prefix = sink.get("prefix").unwrap_or("");
    if prefix != heartbeat.graphite_prefix {
        let what = format!(
            "GraphiteSink's prefix is {prefix:?}, and Rollcall expects {:?}",
            heartbeat.graphite_prefix
        );
        let finding = Finding::error(
            "graphite-prefix-differs",
            what,
            "Rollcall does not recognize the executors' names",
        );
        findings.push(finding.set(format!("spec.heartbeat.graphitePrefix: {prefix:?}")));
    }
    if sink.get("protocol").is_some_and(|protocol| protocol.eq_ignore_ascii_case("udp")) && !takes_udp(facts)
    {
        let what = "GraphiteSink sends over UDP, which Rollcall does not receive by default";
        let finding = Finding::error("graphite-over-udp", what, "no heartbeats reach Rollcall");
        findings.push(finding.set(sink.line("protocol", "tcp")));
    }
    if let Some(regex) = sink.get("regex") {
        let what = format!("GraphiteSink sends only the metrics that match {regex:?}");
        let why = "an executor sends heartbeats only if at least one of its metrics matches";
        findings.push(
            Finding::advice("graphite-regex", what, why).set(format!("leave out {}", sink.line("regex", ""))),
        );
    }
    findings.into_iter().map(|finding| finding.source(SINK)).collect()
}

fn seconds(ms: u64) -> String {
    if ms.is_multiple_of(1_000) { (ms / 1_000).to_string() } else { format!("{:.1}", ms as f64 / 1_000.0) }
}

fn takes_udp(facts: &Facts) -> bool {
    let words = |pod: &Pod| {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        containers
            .flat_map(|one| one.command.iter().flatten().chain(one.args.iter().flatten()))
            .any(|word| word == "--graphite-udp")
    };
    facts.daemons.iter().flatten().any(words)
}

/// Rollcall's port for Graphite, if this host is one of Rollcall's Services or pods.
fn rollcall_port(facts: &Facts, host: &str) -> Known<Option<u16>> {
    let host = host.trim_end_matches('.').to_lowercase();
    let service = service_name(&host, &facts.home.name, facts.namespace.name == facts.home.name);
    let services = facts.graphite_services();
    let known = services.iter().flatten().find(|(known, _)| {
        let spec = known.spec.as_ref();
        let ips = spec.and_then(|spec| spec.cluster_ips.as_ref()).into_iter().flatten();
        service.is_some_and(|service| known.name_any() == service)
            || ips.chain(spec.and_then(|spec| spec.cluster_ip.as_ref())).any(|ip| *ip == host)
    });
    if let Some((_, port)) = known {
        return Ok(Some(*port));
    }
    let by_pod = facts.daemons.iter().flatten().any(|pod| ips(pod).iter().any(|ip| ip.to_string() == host));
    if by_pod || service == Some("rollcall") {
        return Ok(Some(GRAPHITE_PORT));
    }
    if !facts.fleet.spec.heartbeat.check_peer {
        return Err(format!(
            "GraphiteSink sends to {host}; with heartbeat.checkPeer off that may be a relay"
        ));
    }
    match services {
        Err(why) if service.is_some() || host.parse::<IpAddr>().is_ok() => {
            Err(format!("GraphiteSink sends to {host}, and whether that is Rollcall is not known: {why}"))
        }
        Ok(_) | Err(_) => Ok(None),
    }
}

/// The name of a Service in this namespace: `NAME.NAMESPACE`, `NAME.NAMESPACE.svc.cluster.local`, or, from within, `NAME`.
fn service_name<'a>(host: &'a str, namespace: &str, within: bool) -> Option<&'a str> {
    let Some((name, rest)) = host.split_once('.') else { return Some(host).filter(|_| within) };
    let rest = rest.strip_prefix(namespace)?;
    (rest.is_empty() || rest == ".svc" || rest.starts_with(".svc.")).then_some(name)
}

/// What executors' metric names begin with, unless it is the application id.
pub fn metrics_namespace(settings: &Settings) -> Known<Option<String>> {
    match settings.text(NAMESPACE)? {
        None | Some("${spark.app.id}") => Ok(None),
        Some(_) => settings.substituted(NAMESPACE),
    }
}

pub fn namespace(facts: &Facts) -> Checked {
    let heartbeat = &facts.fleet.spec.heartbeat;
    if heartbeat.disabled {
        return Ok(Vec::new());
    }
    let settings = facts.settings()?;
    let (set, found) = (settings.text(NAMESPACE)?, metrics_namespace(settings)?);
    if found == heartbeat.metrics_namespace {
        return Ok(Vec::new());
    }
    let is = set.map_or(format!("{NAMESPACE} is not set"), |set| format!("{NAMESPACE} is {set:?}"));
    let line = match &found {
        Some(found) => format!("spec.heartbeat.metricsNamespace: {found:?}"),
        None => "leave out spec.heartbeat.metricsNamespace".to_owned(),
    };
    let expects = heartbeat.metrics_namespace.as_deref().unwrap_or("the application id");
    let what = format!("{is}, and Rollcall expects {expects}");
    let finding =
        Finding::error("metrics-namespace-differs", what, "Rollcall does not recognize the executors' names");
    Ok(vec![finding.set(line).source("Spark: metrics.MetricsSystem")])
}
