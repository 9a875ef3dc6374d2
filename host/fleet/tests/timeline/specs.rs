//! Specs: which are refused, at which field, and that pods are left unchanged.

use super::support::{check, policies, rolling, spec};
use fleet::Fleet;
use fleet::spec::{Amount, FleetSpec};

fn errors(spec: FleetSpec) -> Vec<String> {
    match Fleet::new(spec, &policies(), 1) {
        Ok(_) => vec![],
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn defaults_are_fine() {
    assert_eq!(errors(spec(0)), [""; 0]);
    assert_eq!(errors(rolling(1)), [""; 0]);
    assert_eq!(errors(rolling(10_000)), [""; 0]);
}

/// Each of these alone is refused, with its field and its reason.
#[test]
fn each_wrong_field_is_named_with_its_reason() {
    type Case = (&'static str, &'static str, fn(&mut FleetSpec));
    let cases: [Case; 31] = [
        ("metadata.name", "1 to 46", |d| d.name = "Bad_Name".to_owned()),
        ("metadata.name", "1 to 46", |d| d.name = "x".repeat(47)),
        ("spec.applicationId", "label value", |d| d.application_id = "a b".to_owned()),
        ("spec.driver", "no UID", |d| d.driver = "".into()),
        ("spec.executors", "more than limits.maxExecutors, 10000", |d| d.target = 10_001),
        ("spec.limits.maxExecutors", "more than 50000", |d| d.limits.max_executors = u32::MAX),
        ("spec.heartbeat.timeout", "longer than 0", |d| {
            d.heartbeat.timeout_ms = 0;
            d.heartbeat.interval_ms = 500;
        }),
        ("spec.heartbeat.timeout", "shorter than two intervals", |d| d.heartbeat.timeout_ms = 19_999),
        ("spec.heartbeat.interval", "is the unit right", |d| d.heartbeat.interval_ms = 10),
        ("spec.allocation.batchDelay", "is the unit right", |d| d.allocation.batch_delay_ms = 1),
        ("spec.allocation.maxNodeLosses", "more than 16", |d| d.allocation.max_node_losses = 17),
        ("spec.recovery.maxKeptPods", "more than 1000", |d| d.recovery.max_kept_pods = u32::MAX),
        ("spec.limits.maxSurge", "more than limits.maxExecutors", |d| {
            d.limits.max_surge = Amount::Count(u32::MAX)
        }),
        ("spec.roll.interval", "is the unit right", |d| d.roll.as_mut().unwrap().interval_ms = 1),
        ("spec.heartbeat.interval", "longer than 0", |d| d.heartbeat.interval_ms = 0),
        ("spec.recovery.checkInterval", "longer than 0", |d| d.recovery.check_interval_ms = 0),
        ("spec.recovery.maxChecks", "at most 1000", |d| d.recovery.max_checks = 1_001),
        ("spec.recovery.failuresValidityInterval", "is the unit right", |d| {
            d.recovery.failures_validity_interval_ms = u64::MAX
        }),
        ("spec.recovery.policies", "no policy is called \"GONE\"", |d| {
            d.recovery.policies = vec!["GONE".to_owned()];
        }),
        ("spec.allocation.batchSize", "at least 1", |d| d.allocation.batch_size = 0),
        ("spec.allocation.batchDelay", "longer than 0", |d| d.allocation.batch_delay_ms = 0),
        ("spec.allocation.maxPendingPods", "at least 1", |d| d.allocation.max_pending_pods = 0),
        ("spec.allocation.maxBackoff", "not be shorter", |d| d.allocation.max_backoff_ms = 1),
        ("spec.allocation.maxAvoidedNodes", "more than 50%", |d| {
            d.allocation.max_avoided_nodes = Amount::Percent(51);
        }),
        ("spec.limits.maxSurge", "101% is more", |d| d.limits.max_surge = Amount::Percent(101)),
        ("spec.limits.maxSurge", "nothing could ever be rolled", |d| {
            d.limits.max_surge = Amount::Count(0);
            d.limits.max_unavailable = Amount::Count(0);
        }),
        ("spec.limits.minAvailable", "can never be available", |d| {
            d.limits.min_available = Amount::Count(11);
        }),
        ("spec.roll.policies", "names no policy", |d| d.roll.as_mut().unwrap().policies.clear()),
        ("spec.roll.grace", "a forced deletion", |d| d.roll.as_mut().unwrap().grace_ms = Some(0)),
        ("spec.roll.grace", "longer than the roll's timeout", |d| {
            d.roll.as_mut().unwrap().grace_ms = Some(900_000);
        }),
        ("spec.roll.maxPicks", "at least 1", |d| d.roll.as_mut().unwrap().max_picks = 0),
    ];
    for (path, reason, spoil) in cases {
        let mut spec = rolling(10);
        spoil(&mut spec);
        let errors = errors(spec);
        assert!(
            errors.len() == 1 && errors[0].starts_with(&format!("{path}: ")) && errors[0].contains(reason),
            "{path} with {reason:?}: {errors:?}"
        );
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let mut spec = spec(5);
    spec.name = String::new();
    spec.heartbeat.interval_ms = 0;
    spec.allocation.batch_size = 0;
    assert_eq!(errors(spec).len(), 3);
}

#[test]
fn a_running_fleet_keeps_its_last_good_spec_and_its_pods() {
    check(
        spec(1),
        "
        0s show SpecRefused
        0s lead
            > 0s create 1
        1s start 1
        2s spec batch=0 target=0
            > 2s SpecRefused: spec.allocation.batchSize: must be at least 1
        3s spec name=other
            > 3s SpecRefused: metadata.name: cannot change: another application is another fleet
        4s conditions
            > 4s conditions SpecRefused
        5s spec target=2
            > 5s create 2
        6s conditions
            > 6s conditions
        ",
    );
}
