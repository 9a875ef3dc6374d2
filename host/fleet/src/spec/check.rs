//! The errors that a spec can have, and their fields.

use std::fmt;

use super::{Amount, FleetSpec, LOSSES_KEPT, Mode};

/// One error in a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// The field in the ExecutorFleet document, for instance `spec.roll.interval`.
    pub path: &'static str,
    /// What is wrong, and what would be valid.
    pub message: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// A year: a longer wait is a mistake in the unit.
const LONG_MS: u64 = 366 * 24 * 3_600_000;

/// The ledger has to fit into a ConfigMap of 1 MiB: in the worst order each executor takes about 20 bytes.
const TARGET_MAX: u32 = 50_000;

pub(super) fn errors(spec: &FleetSpec, policies: &[String]) -> Vec<SpecError> {
    let mut check = Check(Vec::new());
    identity(spec, &mut check);
    times(spec, &mut check);
    limits(spec, &mut check);
    chains(spec, policies, &mut check);
    check.0
}

struct Check(Vec<SpecError>);

impl Check {
    fn refuse_if(&mut self, wrong: bool, path: &'static str, message: impl FnOnce() -> String) {
        if wrong {
            self.0.push(SpecError { path, message: message() });
        }
    }

    fn time(&mut self, path: &'static str, ms: u64) {
        self.refuse_if(ms == 0, path, || "must be longer than 0".to_owned());
        self.refuse_if(ms > LONG_MS, path, || format!("{ms} ms is more than a year: is the unit right?"));
    }

    /// A time in seconds, or close to one.
    fn at_least_ms(&mut self, path: &'static str, ms: u64, least_ms: u64) {
        self.refuse_if((1..least_ms).contains(&ms), path, || {
            format!("{ms} ms is less than {least_ms} ms: is the unit right?")
        });
    }

    fn at_least_one(&mut self, path: &'static str, count: u32) {
        self.refuse_if(count == 0, path, || "must be at least 1".to_owned());
    }

    fn percent(&mut self, path: &'static str, amount: Amount, max: u32) {
        if let Amount::Percent(percent) = amount {
            self.refuse_if(percent > max, path, || format!("{percent}% is more than {max}%"));
        }
    }
}

fn identity(spec: &FleetSpec, check: &mut Check) {
    let name = &spec.name;
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let ends = !name.starts_with('-') && !name.ends_with('-');
    check.refuse_if(name.is_empty() || name.len() > 46 || !letters || !ends, "metadata.name", || {
        format!("{name:?} must be 1 to 46 of a-z, 0-9 and -, with a letter or digit at both ends")
    });
    // The application id is the value of a label.
    let id = &spec.application_id;
    let letters = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let ends = ends(id.bytes().next()) && ends(id.bytes().last());
    check.refuse_if(id.len() > 63 || !letters || !ends, "spec.applicationId", || {
        format!("{id:?} must be a label value: 1 to 63 of A-Z, a-z, 0-9, -, _ and .")
    });
    check.refuse_if(spec.driver.0.is_empty(), "spec.driver", || "the driver's pod has no UID".to_owned());
}

fn times(spec: &FleetSpec, check: &mut Check) {
    let heartbeat = &spec.heartbeat;
    check.time("spec.heartbeat.timeout", heartbeat.timeout_ms);
    check.time("spec.heartbeat.interval", heartbeat.interval_ms);
    check.at_least_ms("spec.heartbeat.interval", heartbeat.interval_ms, 500);
    // One heartbeat may be late.
    let shorter = heartbeat.timeout_ms > 0 && heartbeat.timeout_ms < heartbeat.interval_ms.saturating_mul(2);
    check.refuse_if(shorter, "spec.heartbeat.timeout", || {
        format!(
            "{} ms is shorter than two intervals of {} ms: an executor would be lost with one late heartbeat",
            heartbeat.timeout_ms, heartbeat.interval_ms
        )
    });
    let recovery = &spec.recovery;
    check.time("spec.recovery.checkInterval", recovery.check_interval_ms);
    check.time("spec.recovery.failuresValidityInterval", recovery.failures_validity_interval_ms);
    check.refuse_if(recovery.max_checks > 1_000, "spec.recovery.maxChecks", || {
        format!("{} checks would keep a loss open for too long: at most 1000", recovery.max_checks)
    });
    let allocation = &spec.allocation;
    check.time("spec.allocation.batchDelay", allocation.batch_delay_ms);
    check.at_least_ms("spec.allocation.batchDelay", allocation.batch_delay_ms, 100);
    check.time("spec.allocation.pendingTimeout", allocation.pending_timeout_ms);
    check.time("spec.allocation.initialBackoff", allocation.initial_backoff_ms);
    check.time("spec.allocation.nodeWindow", allocation.node_window_ms);
    check.refuse_if(
        allocation.max_backoff_ms < allocation.initial_backoff_ms,
        "spec.allocation.maxBackoff",
        || format!("must not be shorter than initialBackoff, {} ms", allocation.initial_backoff_ms),
    );
    check.time("spec.limits.massLossWindow", spec.limits.mass_loss_window_ms);
    if let Some(roll) = &spec.roll {
        check.time("spec.roll.interval", roll.interval_ms);
        check.at_least_ms("spec.roll.interval", roll.interval_ms, 1_000);
        check.time("spec.roll.timeout", roll.timeout_ms);
        check.refuse_if(roll.grace_ms == Some(0), "spec.roll.grace", || {
            "0 would be a forced deletion, without a decommission; left out, it is the pod's own".to_owned()
        });
        check.refuse_if(
            roll.grace_ms.is_some_and(|grace| grace >= roll.timeout_ms),
            "spec.roll.grace",
            || {
                format!(
                    "a decommission may not take longer than the roll's timeout of {} ms",
                    roll.timeout_ms
                )
            },
        );
    }
}

fn limits(spec: &FleetSpec, check: &mut Check) {
    let limits = &spec.limits;
    let target = spec.target;
    check.refuse_if(limits.max_executors > TARGET_MAX, "spec.limits.maxExecutors", || {
        format!("{} is more than {TARGET_MAX}", limits.max_executors)
    });
    check.refuse_if(target > limits.max_executors, "spec.executors", || {
        format!("{target} is more than limits.maxExecutors, {}", limits.max_executors)
    });
    check.at_least_one("spec.allocation.batchSize", spec.allocation.batch_size);
    check.refuse_if(spec.allocation.batch_size > 1_000, "spec.allocation.batchSize", || {
        format!("{} is more than 1000", spec.allocation.batch_size)
    });
    check.at_least_one("spec.allocation.maxPendingPods", spec.allocation.max_pending_pods);
    check.at_least_one("spec.allocation.maxStartFailures", spec.allocation.max_start_failures);
    check.at_least_one("spec.allocation.maxNodeLosses", spec.allocation.max_node_losses);
    let losses = spec.allocation.max_node_losses;
    check.refuse_if(losses > LOSSES_KEPT, "spec.allocation.maxNodeLosses", || {
        format!("{losses} is more than {LOSSES_KEPT}")
    });
    let kept = spec.recovery.max_kept_pods;
    check.refuse_if(kept > 1_000, "spec.recovery.maxKeptPods", || format!("{kept} is more than 1000"));
    if let Amount::Count(surge) = limits.max_surge {
        let most = limits.max_executors;
        check.refuse_if(surge > most, "spec.limits.maxSurge", || {
            format!("{surge} is more than limits.maxExecutors, {most}")
        });
    }
    check.percent("spec.allocation.maxAvoidedNodes", spec.allocation.max_avoided_nodes, 50);
    check.percent("spec.limits.maxSurge", limits.max_surge, 100);
    check.percent("spec.limits.maxUnavailable", limits.max_unavailable, 100);
    check.percent("spec.limits.minAvailable", limits.min_available, 100);
    check.percent("spec.limits.maxTerminating", limits.max_terminating, 1_000);
    check.percent("spec.limits.massLoss", limits.mass_loss, 100);
    let min_available = limits.min_available.rounded_up(target);
    check.refuse_if(min_available > target, "spec.limits.minAvailable", || {
        format!("{min_available} can never be available of a target of {target}")
    });
    if let Some(roll) = &spec.roll {
        check.at_least_one("spec.roll.maxPicks", roll.max_picks);
        check.at_least_one("spec.roll.maxPerHour", roll.max_per_hour);
        can_roll(spec, check);
    }
}

/// Limits that would never permit a roll.
fn can_roll(spec: &FleetSpec, check: &mut Check) {
    let (limits, target) = (&spec.limits, spec.target);
    if target == 0 {
        return;
    }
    let surge = limits.max_surge.rounded_up(target);
    let unavailable = limits.max_unavailable.rounded_down(target);
    let min_available = limits.min_available.rounded_up(target);
    check.refuse_if(spec.mode == Mode::Own && surge == 0 && unavailable == 0, "spec.limits.maxSurge", || {
        format!(
            "0, and limits.maxUnavailable is 0 of {target} too: nothing could ever be rolled; allow one of them"
        )
    });
    check.refuse_if(
        spec.mode == Mode::Own && surge == 0 && min_available == target,
        "spec.limits.minAvailable",
        || {
            format!(
                "{min_available} of {target} and no surge: nothing could ever be rolled; allow one of them"
            )
        },
    );
    // The driver replaces an executor only after it is gone, so surge cannot help.
    check.refuse_if(spec.mode == Mode::Observe && unavailable == 0, "spec.limits.maxUnavailable", || {
        format!("0 of {target}: when observing, nothing could ever be rolled; allow at least 1")
    });
}

fn chains(spec: &FleetSpec, policies: &[String], check: &mut Check) {
    let mut chain = |path, names: &[String]| {
        for name in names {
            check.refuse_if(!policies.contains(name), path, || {
                format!("no policy is called {name:?}; there are {}", policies.join(", "))
            });
        }
        check.refuse_if(names.len() > 8, path, || format!("{} policies; at most 8", names.len()));
        let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
        check.refuse_if(twice.is_some(), path, || format!("{:?} is there twice", twice.map_or("", |t| t.1)));
    };
    chain("spec.recovery.policies", &spec.recovery.policies);
    if let Some(roll) = &spec.roll {
        chain("spec.roll.policies", &roll.policies);
        check.refuse_if(roll.policies.is_empty(), "spec.roll.policies", || "names no policy".to_owned());
        for window in &roll.windows {
            check.refuse_if(!window.is_sane(), "spec.roll.windows", || {
                "a window needs a day, a start within it, and a length of 1 minute to 24 hours".to_owned()
            });
        }
    }
}
