//! Conditions from what the heartbeat sources know of a fleet: why no heartbeats arrive, and why its driver cannot be
//! polled.
//!
//! The core knows that no heartbeats arrive. Only the listeners know whether nothing is sent, or whether it is rejected
//! and why; and each cause has another remedy. A message begins with its reason, one word for machines.

use std::time::Duration;

use fleet::observed::DriverPod;
use fleet::snapshot::Condition;
use tokio::time::Instant;

use crate::config::FleetConfig;
use crate::config::document::Heartbeat;
use crate::handle::{DRIVER_REST_UNAVAILABLE, IDENTITY_CONTESTED};
use crate::heartbeat::Directory;
use crate::heartbeat::directory::{Fleet, FleetEntry};
use crate::heartbeat::names::{self, is_name};
use crate::heartbeat::notes::{Head, Trouble, Why};

/// The core uses the same name.
pub const HEARTBEATS_MISSING: &str = "HeartbeatsMissing";
/// How long a driver that has never answered may be starting.
const START: Duration = Duration::from_secs(10);
/// A fleet that waits for another's id retries more than once within this time.
const CONTEST: Duration = Duration::from_secs(15);

/// Adds to the core's conditions.
pub fn complete(
    mut conditions: Vec<Condition>,
    config: &FleetConfig,
    driver: &DriverPod,
    directory: &Directory,
) -> Vec<Condition> {
    let Some(fleet) = directory.fleet(&config.key()) else { return conditions };
    let now = Instant::now();
    if let Some(message) = heartbeats(&config.fleet.spec.heartbeat, &fleet, directory, now) {
        conditions.retain(|condition| condition.name != HEARTBEATS_MISSING);
        conditions.push(Condition { name: HEARTBEATS_MISSING, message });
    }
    if let Some(message) = driver_rest(driver, &fleet, now) {
        conditions.push(Condition { name: DRIVER_REST_UNAVAILABLE, message });
    }
    if let Some(message) = now.checked_sub(CONTEST).and_then(|since| fleet.notes.contested_since(since)) {
        conditions.push(Condition { name: IDENTITY_CONTESTED, message: message.into() });
    }
    conditions.sort_by_key(|condition| condition.name);
    conditions
}

fn driver_rest(driver: &DriverPod, fleet: &Fleet, now: Instant) -> Option<String> {
    if fleet.entry.driver.is_none() {
        return Some(format!("NoAddress: driver pod {} has no address yet", driver.name));
    }
    let trouble = fleet.notes.driver_trouble()?;
    let starts = trouble.may_be_starting && now - trouble.since < START;
    (!starts).then(|| format!("{}: {}", trouble.code, trouble.message))
}

/// Why no heartbeats arrive. `None`: one has arrived, or none is due.
pub fn heartbeats(spec: &Heartbeat, fleet: &Fleet, directory: &Directory, now: Instant) -> Option<String> {
    let running_since = fleet.running_since().filter(|_| !spec.disabled)?;
    let timeout = Duration::from_millis(spec.timeout.0);
    let heard_at = fleet.notes.heard_at();
    if heard_at.is_some_and(|at| now - at <= timeout) {
        return None;
    }
    // Notes before that are obsolete.
    let from = now.checked_sub(timeout).unwrap_or(running_since);
    if let Some(trouble) = fleet.notes.worst_since(from) {
        let settling = now - running_since < 2 * Duration::from_millis(spec.interval.0);
        if !(settling && trouble.why.passes()) {
            return Some(explain(&trouble, &fleet.entry));
        }
    }
    if now - heard_at.map_or(running_since, |at| at.max(running_since)) <= timeout {
        return None;
    }
    let silent = format!("no executor is heard for {}", spec.timeout);
    if let Some((head, peer)) = directory.overheard.unknown_since(from) {
        return Some(format!(
            "UnknownApplication: {silent}. Lines for unknown application {} arrive from {peer}, which is no address of \
             this fleet's pods. If they come by a relay from its executors: {}, and heartbeat.checkPeer: false",
            plain(&head.head),
            remedy(&head, &fleet.entry)
        ));
    }
    if directory.overheard.line_at().is_some_and(|at| at >= from) {
        return Some(format!(
            "NoLines: {silent}. Lines of others arrive on the Graphite port, and none from this fleet's pods: do its \
             executors have spark.metrics.conf.executor.sink.graphite.class, host and port (or a metrics.properties \
             that overrides them), and may they connect (NetworkPolicy)?"
        ));
    }
    Some(format!(
        "NothingArrives: {silent}. No line at all arrives on the Graphite port: do \
         spark.metrics.conf.executor.sink.graphite.host and port lead to this daemon, and may executors connect \
         (Service, NetworkPolicy, --graphite)?"
    ))
}

fn explain(trouble: &Trouble, entry: &FleetEntry) -> String {
    let peer = trouble.peer;
    match &trouble.why {
        Why::UnknownApplication(head) if !head.executor => format!(
            "UnknownApplication: lines without an executor id come from this fleet's pods ({peer}), for instance {}: \
             does GraphiteSink send them?",
            head.name
        ),
        Why::UnknownApplication(head) => format!(
            "UnknownApplication: lines for unknown application {} come from this fleet's pods ({peer}), for instance {}. \
             This fleet's begin with {}: {}",
            plain(&head.head),
            head.name,
            plain(&entry.head()),
            remedy(head, entry)
        ),
        Why::WrongPeer { executor, pod_ip } => format!(
            "WrongPeer: lines of executor {executor} come from {peer} and are refused, because its pod has {pod_ip}. \
             If there is a relay, a proxy or NAT in between, set heartbeat.checkPeer: false; if not, another sender claims to be it"
        ),
        Why::NoAddress { executor } => format!(
            "NoAddress: lines of executor {executor} come from {peer} and are refused, because its pod has no address yet \
             that would identify it. If that persists: does the kubelet report the pod's status?"
        ),
        Why::NoFleetsPod { executor, fleets } => format!(
            "WrongPeer: lines of executor {executor} come from {peer} and are refused: fleets {fleets} have the same \
             names of metrics, and none of them has an executor {executor} with that address. If there is a relay, a proxy \
             or NAT in between, give each application a spark.metrics.namespace of its own"
        ),
        Why::SeveralFleets { executor, fleets } => format!(
            "Ambiguous: lines of executor {executor} come from {peer} and are refused: fleets {fleets} have the same \
             names of metrics, and each of them has an executor {executor} with that address (hostNetwork). Give each \
             application a spark.metrics.namespace of its own"
        ),
        Why::UnknownExecutor { executor } => format!(
            "UnknownExecutor: lines of executor {executor} come from {peer} and are refused, because the fleet has no pod \
             for it: does its pod have the labels spark-app-selector: {} and spark-exec-id: {executor}, and the driver \
             as its owner?",
            entry.application_id
        ),
        Why::Malformed { line, why } => format!(
            "Malformed: lines from this fleet's pods ({peer}) are refused, for instance \"{line}\": {why}. Graphite's \
             plain text is understood, over TCP or UDP"
        ),
        Why::TooManyConnections => format!(
            "TooManyConnections: connections from {peer}, an address of this fleet's pods, are turned away: too many are \
             open from there"
        ),
    }
}

/// The setting with which lines with this head would belong to the fleet.
fn remedy(head: &Head, entry: &FleetEntry) -> String {
    let (head, own) = (&*head.head, names::head(None, entry.namespace()));
    let prefix = entry.graphite_prefix.as_deref();
    if head == own {
        return "leave out heartbeat.graphitePrefix, or give the sink that prefix".to_owned();
    }
    if let Some(front) = head.strip_suffix(&*own).and_then(|front| front.strip_suffix('.')) {
        return format!("set heartbeat.graphitePrefix: {}", plain(front));
    }
    let inner = prefix.and_then(|prefix| head.strip_prefix(prefix)?.strip_prefix('.'));
    let unprefixed =
        if prefix.is_some() && inner.is_none() { " and leave out heartbeat.graphitePrefix" } else { "" };
    let namespace = inner.unwrap_or(head);
    if entry.metrics_namespace.is_some() && namespace == entry.application_id {
        return format!("leave out heartbeat.metricsNamespace{unprefixed}");
    }
    format!("set heartbeat.metricsNamespace: {}{unprefixed}", plain(namespace))
}

/// The name as it may be written in YAML.
fn plain(name: &str) -> String {
    let words = ["true", "false", "null", "yes", "no", "on", "off"];
    let word = name.starts_with(|c: char| c.is_ascii_alphabetic()) && is_name(name);
    if word && !words.contains(&&*name.to_ascii_lowercase()) {
        name.to_owned()
    } else {
        format!("\"{name}\"")
    }
}

/// The reason, for the log, which reports changes of it.
pub fn reason(message: &str) -> &str {
    message.split_once(':').map_or(message, |(reason, _)| reason)
}

#[cfg(test)]
mod tests {
    use fleet::id::{ExecutorId, Uid};

    use super::*;
    use crate::heartbeat::directory::ExecutorEntry;
    use crate::heartbeat::intake::{self, Signs};
    use crate::heartbeat::{Intake, graphite};

    fn entry(prefix: Option<&str>, namespace: Option<&str>) -> FleetEntry {
        FleetEntry {
            application_id: "spark-1".to_owned(),
            graphite_prefix: prefix.map(str::to_owned),
            metrics_namespace: namespace.map(str::to_owned),
            ..FleetEntry::default()
        }
    }

    /// A fleet with a pod at 10.0.0.7 that has been running for two minutes and a second.
    async fn silent() -> (Directory, std::sync::Arc<Fleet>, Instant) {
        let directory = Directory::default();
        let entry = FleetEntry { check_peer: true, ..entry(None, None) };
        directory.set_fleet("etl", entry).unwrap();
        let pod_ip = Some("10.0.0.7".parse().unwrap());
        let pod = ExecutorEntry { uid: Uid::from("u"), pod_ip, runs: true };
        directory.set_executor("etl", ExecutorId(1), pod);
        tokio::time::advance(Duration::from_secs(121)).await;
        let fleet = directory.fleet("etl").unwrap();
        (directory, fleet, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_explained_by_what_arrives_and_what_does_not() {
        let spec = Heartbeat::default();
        let (directory, fleet, now) = silent().await;
        let (intake, _signs) = intake_of(directory);
        let directory = &intake.directory;
        let says = |what: &str| {
            let said = heartbeats(&spec, &fleet, directory, now).unwrap();
            assert!(said.contains(what), "{said}");
            reason(&said).to_owned()
        };
        let earlier = now - Duration::from_secs(2);
        assert_eq!(heartbeats(&spec, &fleet, directory, earlier), None, "it may take so long");
        assert_eq!(says("No line at all arrives"), "NothingArrives");
        let from = |peer: &str, line: &str| {
            graphite::hear_line(&intake, peer.parse().unwrap(), line.as_bytes());
        };
        from("10.9.9.9", "other.1.executor.x 1 1");
        assert_eq!(says("Lines for unknown application other arrive from 10.9.9.9"), "UnknownApplication");
        from("10.0.0.7", "statsd:1|c");
        assert_eq!(
            says("from this fleet's pods (10.0.0.7) are refused, for instance \"statsd:1|c\""),
            "Malformed"
        );
        from("10.0.0.7", "spark-1.5.executor.x 1 1");
        assert_eq!(says("the labels spark-app-selector: spark-1 and spark-exec-id: 5"), "UnknownExecutor");
        from("10.9.9.9", "spark-1.1.executor.x 1 1");
        assert_eq!(
            says("executor 1 come from 10.9.9.9 and are refused, because its pod has 10.0.0.7"),
            "WrongPeer"
        );
        from("10.0.0.7", "my-app.1.executor.x 1 1");
        assert_eq!(
            says("lines for unknown application my-app come from this fleet's pods (10.0.0.7)"),
            "UnknownApplication"
        );
        says("This fleet's begin with spark-1: set heartbeat.metricsNamespace: my-app");
        assert_eq!(heartbeats(&Heartbeat { disabled: true, ..spec.clone() }, &fleet, directory, now), None);
        fleet.notes.heard(now);
        assert_eq!(heartbeats(&spec, &fleet, directory, now), None, "it is heard");
        let much_later = now + Duration::from_secs(600);
        let said = heartbeats(&spec, &fleet, directory, much_later).unwrap();
        assert!(said.starts_with("NothingArrives"), "what was noted is history: {said}");
        directory.remove_executor("etl", ExecutorId(1), &Uid::from("u"));
        assert_eq!(heartbeats(&spec, &fleet, directory, much_later), None, "none runs");
    }

    #[tokio::test(start_paused = true)]
    async fn lines_of_others_are_no_silence_of_the_listener() {
        let (directory, fleet, now) = silent().await;
        let other = FleetEntry { application_id: "spark-2".to_owned(), ..entry(None, None) };
        directory.set_fleet("web", other).unwrap();
        let (intake, _signs) = intake_of(directory);
        graphite::hear_line(&intake, "10.9.9.9".parse().unwrap(), b"spark-2.1.executor.x 1 1");
        let said = heartbeats(&Heartbeat::default(), &fleet, &intake.directory, now).unwrap();
        assert!(said.starts_with("NoLines: no executor is heard for 2m. Lines of others arrive"), "{said}");
    }

    fn intake_of(directory: Directory) -> (Intake, Signs) {
        let (sender, signs) = intake::channel();
        (Intake::new(directory.into(), std::sync::Arc::default(), sender), signs)
    }

    #[test]
    fn the_remedy_is_the_setting_that_would_help() {
        let head = |head: &str| Head { head: head.into(), executor: true, name: "x".into() };
        for (prefix, namespace, heard, said) in [
            (None, None, "my-app", "set heartbeat.metricsNamespace: my-app"),
            (None, None, "true", "set heartbeat.metricsNamespace: \"true\""),
            (None, None, "2026.etl", "set heartbeat.metricsNamespace: \"2026.etl\""),
            (None, None, "team.x.spark-1", "set heartbeat.graphitePrefix: team.x"),
            (
                Some("team"),
                None,
                "spark-1",
                "leave out heartbeat.graphitePrefix, or give the sink that prefix",
            ),
            (Some("team"), None, "team.etl", "set heartbeat.metricsNamespace: etl"),
            (
                Some("team"),
                None,
                "teams.etl",
                "set heartbeat.metricsNamespace: teams.etl and leave out heartbeat.graphitePrefix",
            ),
            (None, Some("etl"), "spark-1", "leave out heartbeat.metricsNamespace"),
            (None, Some("my app"), "p.my-app", "set heartbeat.graphitePrefix: p"),
        ] {
            assert_eq!(
                remedy(&head(heard), &entry(prefix, namespace)),
                said,
                "{prefix:?} {namespace:?} {heard}"
            );
        }
    }
}
