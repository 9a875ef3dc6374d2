//! Times that have to fit together: of the driver, of the fleet, and of executors' pods.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::config::Millis;
use crate::doctor::facts::{Checked, Facts, Finding, Known};
use crate::doctor::settings::Settings;

const NETWORK: &str = "spark.network.timeout";
const INTERVAL: &str = "spark.executor.heartbeatInterval";
const FORCE_KILL: &str = "spark.executor.decommission.forceKillTimeout";
const KILL_INTERVAL: &str = "spark.executor.decommission.killInterval";
const GRACE: &str = "spark.kubernetes.executor.terminationGracePeriodSeconds";
/// Kubernetes' default, and Spark's.
const DEFAULT_GRACE_S: u64 = 30;
/// What the examples give a decommission.
const PROPOSED_GRACE_S: u64 = 120;

/// The setting that is in force, and its value: after how long without Spark's own heartbeat the driver removes an
/// executor.
pub fn driver_timeout(settings: &Settings) -> Known<(&'static str, u64)> {
    // The latter is the older name of the former.
    for key in ["spark.storage.blockManagerHeartbeatTimeoutMs", "spark.storage.blockManagerSlaveTimeoutMs"] {
        if let Some(ms) = settings.duration_ms(key, 1)? {
            return Ok((key, ms));
        }
    }
    Ok((NETWORK, settings.duration_ms(NETWORK, 1_000)?.unwrap_or(120_000)))
}

pub fn heartbeat(facts: &Facts) -> Checked {
    let heartbeat = &facts.fleet.spec.heartbeat;
    let (key, driver_ms) = driver_timeout(facts.settings()?)?;
    // In mode Own, Rollcall may well be the faster one: it replaces the executor itself.
    if heartbeat.disabled
        || heartbeat.timeout.0 == driver_ms
        || facts.own() && heartbeat.timeout.0 < driver_ms
    {
        return Ok(Vec::new());
    }
    let what = format!(
        "heartbeat.timeout is {}, and the driver's own {key} is {}",
        heartbeat.timeout,
        Millis(driver_ms)
    );
    let why = if heartbeat.timeout.0 < driver_ms {
        "Rollcall gives an executor up while the driver still waits for it, and does not replace it"
    } else {
        "the driver removes a silent executor before Rollcall notices the silence"
    };
    let finding = Finding::warning("heartbeat-timeout-differs", what, why);
    Ok(vec![
        finding
            .set(format!("spec.heartbeat.timeout: {}", Millis(driver_ms)))
            .source("Spark: HeartbeatReceiver"),
    ])
}

/// Spark refuses an interval above the timeout, but nothing in between.
pub fn interval(facts: &Facts) -> Checked {
    let settings = facts.settings()?;
    let (key, timeout_ms) = driver_timeout(settings)?;
    let interval_ms = settings.duration_ms(INTERVAL, 1)?.unwrap_or(10_000);
    if interval_ms.saturating_mul(2) <= timeout_ms {
        return Ok(Vec::new());
    }
    let what = format!("{INTERVAL} is {}, and {key} is {}", Millis(interval_ms), Millis(timeout_ms));
    let why = "the driver removes healthy executors when one of Spark's own heartbeats is late";
    let finding =
        Finding::warning("executor-heartbeat-interval-long", what, why).set(format!("{INTERVAL}=10s"));
    Ok(vec![finding.source("Spark: HeartbeatReceiver, SparkConf.validateSettings")])
}

/// How long an executor's pod has when it is deleted, and where that comes from.
fn pod_grace_s(facts: &Facts) -> Known<(u64, &'static str)> {
    if let Ok(executors) = facts.executors() {
        let grace = |pod: &Pod| pod.spec.as_ref()?.termination_grace_period_seconds;
        let shortest = executors.iter().filter_map(grace).min().and_then(|grace| u64::try_from(grace).ok());
        return Ok((shortest.unwrap_or(DEFAULT_GRACE_S), "executors' terminationGracePeriodSeconds"));
    }
    if facts.own() {
        let template = facts.fleet.spec.template.as_ref();
        let template =
            template.ok_or("there is neither an executor nor a template whose grace period could be seen")?;
        let grace = template.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64);
        return Ok((grace.unwrap_or(DEFAULT_GRACE_S), "the template's terminationGracePeriodSeconds"));
    }
    let settings = facts.settings()?;
    match settings.duration_ms(GRACE, 1_000)? {
        Some(ms) if has_grace(settings) => Ok((ms / 1_000, GRACE)),
        Some(_) | None if settings.text("spark.kubernetes.executor.podTemplateFile")?.is_some() => {
            Err("executors have a pod template, and there is no executor whose grace period could be seen"
                .to_owned())
        }
        Some(_) | None => Ok((DEFAULT_GRACE_S, "executors' terminationGracePeriodSeconds")),
    }
}

/// Spark 4.1 introduced the setting.
fn has_grace(settings: &Settings) -> bool {
    settings.version.is_some_and(|version| version >= (4, 1))
}

fn grace_line(facts: &Facts) -> String {
    let field = format!("spec.template.spec.terminationGracePeriodSeconds: {PROPOSED_GRACE_S}");
    if facts.own() {
        field
    } else if facts.settings.as_ref().is_ok_and(has_grace) {
        format!("{GRACE}={PROPOSED_GRACE_S}s")
    } else {
        format!(
            "in the pod template of spark.kubernetes.executor.podTemplateFile: {}",
            field.trim_start_matches("spec.template.")
        )
    }
}

pub fn grace(facts: &Facts) -> Checked {
    const SOURCE: &str = "Kubernetes: pod spec.terminationGracePeriodSeconds";
    let roll = facts.fleet.spec.roll.as_ref();
    let (grace_s, source) = pod_grace_s(facts)?;
    let mut findings = Vec::new();
    if grace_s <= DEFAULT_GRACE_S {
        let rolls_longer = roll.is_some_and(|roll| roll.grace.is_some());
        let what = format!("{source}: {grace_s} s");
        let finding = if rolls_longer {
            let why =
                "a drain or a spot interruption leaves an executor no longer for its blocks; only rolls do";
            Finding::advice("short-termination-grace", what, why).set(grace_line(facts))
        } else {
            let why = "an executor is killed after this time, while it migrates its blocks";
            Finding::warning("short-termination-grace", what, why)
                .set(grace_line(facts))
                .set(format!("spec.roll.grace: {PROPOSED_GRACE_S}s, for rolls alone"))
        };
        findings.push(finding.source(SOURCE));
    }
    if let Some(roll) = roll
        && roll.grace.is_none()
        && grace_s.saturating_mul(1_000) >= roll.timeout.0
    {
        let what = format!("{source}: {grace_s} s, and roll.timeout is {}", roll.timeout);
        let finding = Finding::warning(
            "grace-exceeds-roll-timeout",
            what,
            "a roll that takes all of its grace is given up",
        );
        findings.push(finding.set(format!("spec.roll.timeout: {}", Millis(grace_s * 2_000))).source(SOURCE));
    }
    Ok(findings)
}

/// Spark's own ends of a decommission, which should not come before that of Kubernetes.
pub fn decommission(facts: &Facts) -> Checked {
    let settings = facts.settings()?;
    let (kill, hint) =
        (settings.duration_ms(FORCE_KILL, 1_000)?, settings.duration_ms(KILL_INTERVAL, 1_000)?);
    if kill.or(hint).is_none() {
        return Ok(Vec::new());
    }
    let grace_ms = match facts.fleet.spec.roll.as_ref().and_then(|roll| roll.grace) {
        Some(grace) => grace.0,
        None => pod_grace_s(facts)?.0 * 1_000,
    };
    // The grace period that `grace` proposes comes with it.
    let fitting_s = if grace_ms <= DEFAULT_GRACE_S * 1_000 { PROPOSED_GRACE_S } else { grace_ms / 1_000 };
    let mut findings = Vec::new();
    if let Some(kill_ms) = kill.filter(|kill_ms| *kill_ms < grace_ms) {
        let what =
            format!("{FORCE_KILL} is {}, and a decommission may take {}", Millis(kill_ms), Millis(grace_ms));
        let why = "the driver kills an executor while it migrates its blocks";
        let finding = Finding::warning("force-kill-before-grace", what, why);
        findings.push(
            finding
                .set(format!("{FORCE_KILL}={fitting_s}s"))
                .source("Spark: scheduler.cluster.CoarseGrainedSchedulerBackend"),
        );
    }
    if let Some(hint_ms) = hint.filter(|hint_ms| *hint_ms > grace_ms) {
        let what = format!(
            "{KILL_INTERVAL} is {}, and a decommission may take {}",
            Millis(hint_ms),
            Millis(grace_ms)
        );
        let why = "speculation counts on tasks that the executor cannot finish any more";
        let finding = Finding::advice("kill-interval-exceeds-grace", what, why);
        findings.push(
            finding.set(format!("{KILL_INTERVAL}={fitting_s}s")).source("Spark: scheduler.TaskSetManager"),
        );
    }
    Ok(findings)
}
