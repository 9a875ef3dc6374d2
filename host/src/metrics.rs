//! Metrics for Prometheus.
//!
//! There are two kinds. *Events* are counted when they happen, by the code that causes them. The *state* of the fleets
//! is not stored here a second time: each scrape reads it from the fleets, so it cannot drift from what they report.
//! Every label has a bounded set of values: never a pod, a node or an executor id, and no text from a user's policy or
//! pod. In addition to Rollcall's own metrics there are a few that dashboards for controllers expect, with the names,
//! labels and buckets of client-go.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet::question::LossKind;
use fleet::snapshot::condition_names;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::handle::{
    DRIVER_MISSING, DRIVER_REST_UNAVAILABLE, Forwarding, IDENTITY_CONTESTED, Overview, POLICY_PENDING, Pulse,
};

/// `Content-Type` of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The maximum number of policies with a series of their own; any further policies share the series `other`.
const POLICIES_MAX: usize = 64;

/// Cheap to clone: all clones share their counts.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    lease: Option<String>,
    steps: Timed<1>,
    actions: Family<Labels<2>, Counter>,
    requests: Family<Labels<3>, Counter>,
    request_seconds: Timed<2>,
    policy_names: Mutex<BTreeSet<String>>,
    policies: Family<Labels<2>, Counter>,
    policy_seconds: Timed<1>,
    policy_cache: Family<Labels<1>, Counter>,
    heartbeats: Family<Labels<2>, Counter>,
    forwarded: Family<Labels<1>, Counter>,
    watch_restarts: Family<Labels<1>, Counter>,
    event_to_create: Histogram,
}

type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];
type Timed<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

impl Metrics {
    /// `lease` is the name of the Lease for leader election. Without it there is no election and no metric about it.
    pub fn new(lease: Option<&str>) -> Metrics {
        let mut inner = Inner {
            registry: Registry::default(),
            lease: lease.map(str::to_owned),
            steps: timed(),
            actions: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(request_histogram),
            policy_names: Mutex::default(),
            policies: Family::default(),
            policy_seconds: timed(),
            policy_cache: Family::default(),
            heartbeats: Family::default(),
            forwarded: Family::default(),
            watch_restarts: Family::default(),
            event_to_create: histogram(),
        };
        inner.register();
        Metrics(Arc::new(inner))
    }

    /// Records that the core processed an event.
    pub fn step(&self, event: &'static str, seconds: f64) {
        self.0.steps.get_or_create(&labels([("event", event)])).observe(seconds);
    }

    /// Records the outcome of an action: `outcome` is a word for each [`fleet::event::Outcome`].
    pub fn action(&self, verb: &'static str, outcome: &'static str) {
        self.0.actions.get_or_create(&labels([("verb", verb), ("outcome", outcome)])).inc();
    }

    /// Records a call of a policy.
    pub fn policy(&self, policy: &str, result: &'static str, seconds: f64) {
        let policy = ("policy", self.0.bounded_policy(policy));
        self.0.policies.get_or_create(&[policy.clone(), ("result", Cow::Borrowed(result))]).inc();
        self.0.policy_seconds.get_or_create(&[policy]).observe(seconds);
    }

    /// Records lookups of compiled policies in the cache: `hit`, `miss` or `corrupt`.
    pub fn policy_cache(&self, result: &'static str, count: u64) {
        self.0.policy_cache.get_or_create(&labels([("result", result)])).inc_by(count);
    }

    /// Records heartbeats by source and result.
    pub fn heartbeats(&self, source: &'static str, result: &'static str, count: u64) {
        self.0.heartbeats.get_or_create(&labels([("source", source), ("result", result)])).inc_by(count);
    }

    /// Records the outcome of a request that a replica standing by received.
    pub fn forwarded(&self, result: &'static str) {
        self.0.forwarded.get_or_create(&labels([("result", result)])).inc();
    }

    /// Records that a watch of this resource broke and is restarted.
    pub fn watch_restarted(&self, resource: &'static str) {
        self.0.watch_restarts.get_or_create(&labels([("resource", resource)])).inc();
    }

    /// Records the time from the event that led to a pod until the request that created it was sent.
    pub fn event_to_create_seconds(&self, seconds: f64) {
        self.0.event_to_create.observe(seconds);
    }

    /// The exposition in the OpenMetrics text format.
    pub fn text(&self, fleets: &[Overview], pulse: &Pulse) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode_registry(&mut text, &self.0.registry)?;
        text::encode_registry(&mut text, &moment(fleets, pulse, self.0.lease.as_deref()))?;
        text::encode_eof(&mut text)?;
        Ok(text)
    }
}

impl cluster::metrics::Requests for Metrics {
    fn answered(&self, method: &'static str, host: &str, status: Option<u16>) {
        // client-go's word for a request without a response.
        let code = status.map_or(Cow::Borrowed("<error>"), |status| Cow::Owned(status.to_string()));
        let labels = [("code", code), ("method", method.into()), ("host", host.to_owned().into())];
        self.0.requests.get_or_create(&labels).inc();
    }

    fn took(&self, method: &'static str, host: &str, time: Duration) {
        let labels = [("verb", method.into()), ("host", host.to_owned().into())];
        self.0.request_seconds.get_or_create(&labels).observe(time.as_secs_f64());
    }
}

/// The name of the only queue: events and requests that wait for the main loop.
const QUEUE: &str = "fleet";

impl Inner {
    fn bounded_policy(&self, name: &str) -> Cow<'static, str> {
        // The set is still valid if a thread panicked while it added to it.
        let mut names = self.policy_names.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.contains(name) {
            if names.len() == POLICIES_MAX {
                return "other".into();
            }
            names.insert(name.to_owned());
        }
        name.to_owned().into()
    }

    fn register(&mut self) {
        let Inner { registry, .. } = self;
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "rollcall_step",
            "Time the core took to process an event",
            seconds(),
            self.steps.clone(),
        );
        registry.register(
            "rollcall_actions",
            "Actions that fleets requested, by verb and outcome",
            self.actions.clone(),
        );
        registry.register(
            "rest_client_requests",
            "HTTP requests to the API server by status code, method and host; the code is <error> without a response",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "rest_client_request_duration",
            "Time from a request to the API server to the end of the response; for a watch, to its beginning",
            seconds(),
            self.request_seconds.clone(),
        );
        registry.register(
            "rollcall_policy_calls",
            "Policy calls, by policy and result",
            self.policies.clone(),
        );
        registry.register_with_unit(
            "rollcall_policy",
            "Time a policy took to answer",
            seconds(),
            self.policy_seconds.clone(),
        );
        registry.register(
            "rollcall_policy_cache_lookups",
            "Lookups of compiled policies in the cache on disk, by result; none if there is no cache",
            self.policy_cache.clone(),
        );
        registry.register(
            "rollcall_heartbeats",
            "Heartbeats received, by source and result",
            self.heartbeats.clone(),
        );
        registry.register(
            "rollcall_forwarded_requests",
            "HTTP requests that this replica received while it stood by, by what came of forwarding them",
            self.forwarded.clone(),
        );
        registry.register(
            "rollcall_watch_restarts",
            "Watches that broke and were restarted, by resource",
            self.watch_restarts.clone(),
        );
        registry.register_with_unit(
            "rollcall_event_to_create",
            "Time from the event that led to a pod to the request that created it",
            seconds(),
            self.event_to_create.clone(),
        );
    }
}

/// The current state, in a registry that is built for one scrape and then dropped.
fn moment(fleets: &[Overview], pulse: &Pulse, lease: Option<&str>) -> Registry {
    let mut registry = Registry::default();
    if let Some(lease) = lease {
        let leader = Family::<Labels<1>, Gauge>::default();
        leader.get_or_create(&[("name", lease.to_owned().into())]).set(pulse.is_leading().into());
        registry.register("leader_election_master_status", "Whether this replica is the leader", leader);
        let forwarding = Gauge::<i64>::default();
        forwarding.set(matches!(pulse.forwarding(), Forwarding::To(_)).into());
        registry.register("rollcall_forwarding", "Whether this replica forwards to the leader", forwarding);
    }
    // A replica that stands by does not watch the cluster: its zeros would look like a fleet without executors.
    let fleets = if pulse.is_leading() { fleets } else { &[] };
    let depth = Family::<Labels<1>, Gauge>::default();
    depth.get_or_create(&labels([("name", QUEUE)])).set(whole(pulse.waiting()));
    registry.register("workqueue_depth", "Events and requests that wait for the main loop", depth);

    let mut gauge = |name: &str, help: &str, value: fn(&Overview) -> u64| {
        let family = Family::<Labels<2>, Gauge>::default();
        for fleet in fleets {
            family.get_or_create(&named(fleet)).set(whole(value(fleet)));
        }
        registry.register(format!("rollcall_fleet_{name}"), help, family);
    };
    gauge("target", "Target number of executors", |fleet| fleet.target.into());
    gauge("available", "Executors that run, are registered, send heartbeats and are not leaving", |fleet| {
        fleet.counts.available
    });
    gauge("live", "Executors that are neither terminating, lost nor removed", |fleet| fleet.counts.live);
    gauge("terminating", "Executors whose deletion was requested", |fleet| fleet.counts.terminating);
    gauge("pending", "Executors that were requested and are not available yet", |fleet| fleet.counts.pending);
    gauge("reason_pending", "Lost executors whose loss has no verdict yet", |fleet| {
        fleet.counts.reason_pending
    });
    gauge("rolling", "Executors being rolled", |fleet| fleet.counts.rolling);

    let created = Family::<Labels<2>, Counter>::default();
    let lost = Family::<Labels<3>, Counter>::default();
    let removed = Family::<Labels<3>, Counter>::default();
    let refusals = Family::<Labels<3>, Counter>::default();
    let impairments = Family::<Labels<3>, Counter>::default();
    let conditions = Family::<Labels<3>, Gauge>::default();
    for fleet in fleets {
        let with = |label, value| {
            let [namespace, fleet] = named(fleet);
            [namespace, fleet, (label, value)]
        };
        created.get_or_create(&named(fleet)).inc_by(fleet.counts.created);
        for (kind, count) in &fleet.counts.lost {
            lost.get_or_create(&with("kind", bounded(kind))).inc_by(*count);
        }
        for (cause, count) in &fleet.counts.removed {
            removed.get_or_create(&with("cause", cause.name().into())).inc_by(*count);
        }
        for (refusal, count) in &fleet.refusals {
            refusals.get_or_create(&with("reason", refusal.code().into())).inc_by(*count);
        }
        for (why, count) in &fleet.impairments {
            impairments.get_or_create(&with("cause", why.name().into())).inc_by(*count);
        }
        // Always exported, as 0 or 1, so that an alert need not distinguish "does not hold" from "unknown".
        let ours = [DRIVER_MISSING, DRIVER_REST_UNAVAILABLE, IDENTITY_CONTESTED, POLICY_PENDING];
        for kind in condition_names().chain(ours) {
            conditions.get_or_create(&with("type", kind.into())).set(0);
        }
        for condition in &fleet.conditions {
            conditions.get_or_create(&with("type", condition.name.into())).set(1);
        }
    }
    registry.register("rollcall_fleet_executors_created", "Executor pods created", created);
    registry.register("rollcall_fleet_executors_lost", "Executors lost, by kind of loss", lost);
    registry.register("rollcall_fleet_executors_removed", "Executors removed by Rollcall, by cause", removed);
    registry.register("rollcall_fleet_refusals", "Actions refused by guard-rails, by reason", refusals);
    registry.register(
        "rollcall_hearing_impaired",
        "Times that Rollcall may have lost heartbeats, by fleet and cause",
        impairments,
    );
    registry.register("rollcall_fleet_condition", "Whether the condition holds: 1 or 0", conditions);
    registry
}

/// The labels of a fleet.
fn named(fleet: &Overview) -> Labels<2> {
    [("namespace", fleet.namespace.clone().into()), ("fleet", fleet.fleet.clone().into())]
}

/// A user's classifier may define kinds of its own: all of them share one label value.
fn bounded(kind: &LossKind) -> Cow<'static, str> {
    if let LossKind::Other(_) = kind { "other".into() } else { kind.name().to_owned().into() }
}

fn labels<const N: usize>(pairs: [(&'static str, &'static str); N]) -> Labels<N> {
    pairs.map(|(name, value)| (name, Cow::Borrowed(value)))
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn timed<const N: usize>() -> Timed<N> {
    Family::new_with_constructor(histogram)
}

/// Buckets from 10 µs (a step of the core) to 10 s (a pod that had to wait), each four times the previous one.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(1e-5, 4.0, 11))
}

/// client-go's buckets.
fn request_histogram() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0])
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use fleet::event::Impairment;
    use fleet::guardrail::Refusal;
    use fleet::question::DeletionCause;
    use fleet::snapshot::{Condition, Counts};

    use cluster::metrics::Requests;

    use super::*;
    use crate::handle::Handle;

    /// Parses an exposition into a map from series to value.
    fn series(text: &str) -> BTreeMap<&str, f64> {
        assert!(text.ends_with("# EOF\n"), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with("# "));
        let pairs: Vec<_> = lines.map(|line| line.rsplit_once(' ').unwrap()).collect();
        let unique: BTreeSet<_> = pairs.iter().map(|(series, _)| series).collect();
        assert_eq!(unique.len(), pairs.len(), "a series occurs twice");
        pairs.into_iter().map(|(series, value)| (series, value.parse().unwrap())).collect()
    }

    fn overview() -> Overview {
        Overview {
            fleet: "etl".to_owned(),
            namespace: "jobs".to_owned(),
            mode: "own",
            phase: "active",
            target: 5,
            counts: Counts {
                created: 12,
                live: 5,
                available: 4,
                pending: 1,
                lost: BTreeMap::from([
                    (LossKind::MemoryLimit, 2),
                    (LossKind::Other("made-up".to_owned()), 3),
                    (LossKind::Other("made-up-too".to_owned()), 1),
                ]),
                removed: BTreeMap::from([(DeletionCause::ScaleDown, 1)]),
                ..Counts::default()
            },
            refusals: BTreeMap::from([(Refusal::MaxSurge, 7)]),
            impairments: BTreeMap::from([(Impairment::Refused, 3), (Impairment::Paused, 0)]),
            conditions: vec![Condition { name: "Paused", message: "x".to_owned() }],
            application_id: None,
            generation: None,
            problems: Vec::new(),
        }
    }

    #[test]
    fn what_happens_is_counted() {
        let metrics = Metrics::new(Some("rollcall"));
        metrics.step("heartbeat", 0.000_02);
        metrics.step("heartbeat", 3.0);
        metrics.action("create-pod", "ok");
        for (status, ms) in [(Some(201), 10), (Some(409), 300), (None, 15_000)] {
            metrics.answered("POST", "10.0.0.1:443", status);
            metrics.took("POST", "10.0.0.1:443", Duration::from_millis(ms));
        }
        metrics.policy_cache("hit", 2);
        metrics.policy("OUTLIER", "answered", 0.001);
        metrics.heartbeats("graphite", "accepted", 40);
        metrics.watch_restarted("nodes");
        metrics.event_to_create_seconds(0.05);
        let (handle, _requests) = Handle::new(1, 1);
        let text = metrics.text(&[], handle.pulse()).unwrap();
        let series = series(&text);
        for (name, value) in [
            ("rollcall_step_seconds_count{event=\"heartbeat\"}", 2.0),
            ("rollcall_step_seconds_sum{event=\"heartbeat\"}", 3.000_02),
            ("rollcall_step_seconds_bucket{le=\"0.00004\",event=\"heartbeat\"}", 1.0),
            ("rollcall_actions_total{verb=\"create-pod\",outcome=\"ok\"}", 1.0),
            ("rest_client_requests_total{code=\"201\",method=\"POST\",host=\"10.0.0.1:443\"}", 1.0),
            ("rest_client_requests_total{code=\"409\",method=\"POST\",host=\"10.0.0.1:443\"}", 1.0),
            ("rest_client_requests_total{code=\"<error>\",method=\"POST\",host=\"10.0.0.1:443\"}", 1.0),
            ("rest_client_request_duration_seconds_count{verb=\"POST\",host=\"10.0.0.1:443\"}", 3.0),
            (
                "rest_client_request_duration_seconds_bucket{le=\"0.025\",verb=\"POST\",host=\"10.0.0.1:443\"}",
                1.0,
            ),
            (
                "rest_client_request_duration_seconds_bucket{le=\"15.0\",verb=\"POST\",host=\"10.0.0.1:443\"}",
                3.0,
            ),
            ("rollcall_policy_cache_lookups_total{result=\"hit\"}", 2.0),
            ("rollcall_policy_calls_total{policy=\"OUTLIER\",result=\"answered\"}", 1.0),
            ("rollcall_policy_seconds_count{policy=\"OUTLIER\"}", 1.0),
            ("rollcall_heartbeats_total{source=\"graphite\",result=\"accepted\"}", 40.0),
            ("rollcall_watch_restarts_total{resource=\"nodes\"}", 1.0),
            ("rollcall_event_to_create_seconds_count", 1.0),
            ("leader_election_master_status{name=\"rollcall\"}", 0.0),
            ("workqueue_depth{name=\"fleet\"}", 0.0),
        ] {
            assert_eq!(series.get(name), Some(&value), "{name} in\n{text}");
        }
    }

    #[test]
    fn fleets_are_as_they_say() {
        let metrics = Metrics::new(Some("rollcall"));
        let (handle, _requests) = Handle::new(1, 1);
        let standing_by = metrics.text(&[overview()], handle.pulse()).unwrap();
        assert!(!standing_by.contains("etl"), "a standby exports no fleets:\n{standing_by}");
        handle.pulse().lead();
        handle.pulse().set_waiting(9);
        // Called twice, because a scrape must not leave any state behind.
        metrics.text(&[overview()], handle.pulse()).unwrap();
        let text = metrics.text(&[overview()], handle.pulse()).unwrap();
        let series = series(&text);
        for (name, value) in [
            ("rollcall_fleet_target{namespace=\"jobs\",fleet=\"etl\"}", 5.0),
            ("rollcall_fleet_available{namespace=\"jobs\",fleet=\"etl\"}", 4.0),
            ("rollcall_fleet_pending{namespace=\"jobs\",fleet=\"etl\"}", 1.0),
            ("rollcall_fleet_executors_created_total{namespace=\"jobs\",fleet=\"etl\"}", 12.0),
            (
                "rollcall_fleet_executors_lost_total{namespace=\"jobs\",fleet=\"etl\",kind=\"memory-limit\"}",
                2.0,
            ),
            ("rollcall_fleet_executors_lost_total{namespace=\"jobs\",fleet=\"etl\",kind=\"other\"}", 4.0),
            (
                "rollcall_fleet_executors_removed_total{namespace=\"jobs\",fleet=\"etl\",cause=\"scale-down\"}",
                1.0,
            ),
            ("rollcall_fleet_refusals_total{namespace=\"jobs\",fleet=\"etl\",reason=\"max-surge\"}", 7.0),
            ("rollcall_hearing_impaired_total{namespace=\"jobs\",fleet=\"etl\",cause=\"refused\"}", 3.0),
            ("rollcall_hearing_impaired_total{namespace=\"jobs\",fleet=\"etl\",cause=\"paused\"}", 0.0),
            ("rollcall_fleet_condition{namespace=\"jobs\",fleet=\"etl\",type=\"HearingImpaired\"}", 0.0),
            ("rollcall_fleet_condition{namespace=\"jobs\",fleet=\"etl\",type=\"Paused\"}", 1.0),
            ("rollcall_fleet_condition{namespace=\"jobs\",fleet=\"etl\",type=\"MassLoss\"}", 0.0),
            ("rollcall_fleet_condition{namespace=\"jobs\",fleet=\"etl\",type=\"DriverMissing\"}", 0.0),
            ("leader_election_master_status{name=\"rollcall\"}", 1.0),
            ("workqueue_depth{name=\"fleet\"}", 9.0),
        ] {
            assert_eq!(series.get(name), Some(&value), "{name} in\n{text}");
        }
        assert!(!text.contains("made-up"), "a user's text became a label");
        let gone = metrics.text(&[], handle.pulse()).unwrap();
        assert!(!gone.contains("etl"), "a deleted fleet leaves no series");
        let alone = Metrics::new(None).text(&[], handle.pulse()).unwrap();
        assert!(!alone.contains("leader_election"), "there is no election:\n{alone}");
    }

    #[test]
    fn policies_beyond_the_bound_share_a_series() {
        let metrics = Metrics::new(None);
        for number in 0..POLICIES_MAX + 10 {
            metrics.policy(&format!("P{number}"), "answered", 0.001);
        }
        metrics.policy("P0", "answered", 0.001);
        let (handle, _requests) = Handle::new(1, 1);
        let text = metrics.text(&[], handle.pulse()).unwrap();
        let series = series(&text);
        assert_eq!(series["rollcall_policy_calls_total{policy=\"other\",result=\"answered\"}"], 10.0);
        assert_eq!(series["rollcall_policy_calls_total{policy=\"P0\",result=\"answered\"}"], 2.0);
    }
}
