//! The spec of a fleet: parsed once at the edge, checked once here, and valid from then on.
//!
//! A [`FleetSpec`] is the user's input. [`ValidatedSpec::check`] turns it into a [`ValidatedSpec`] or into a list of errors, each
//! with the path of the field in the ExecutorFleet document. A running fleet that is given an invalid spec
//! keeps its last valid spec, and its pods.

use std::ops::Deref;

use crate::id::{IdRange, Uid};
use crate::window::Window;

/// More losses than this on one node carry no further information.
pub(crate) const LOSSES_KEPT: u32 = 16;

/// `driver.restInterval`.
pub const DRIVER_REPORT_MS: u64 = 10_000;

mod check;

pub use check::SpecError;

/// An ExecutorFleet as written, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetSpec {
    /// `metadata.name`: 1 to 46 of `a-z 0-9 -`, so that pod names fit a host name.
    pub name: String,
    /// Spark's application id (label `spark-app-selector`).
    pub application_id: String,
    /// Who creates the executor pods.
    pub mode: Mode,
    /// The ids that its executors may have: another fleet of the application has others.
    pub ids: IdRange,
    /// UID of the driver's pod, which owns every executor pod.
    pub driver: Uid,
    /// How long the first executors of an application, and those after a restart of the driver's container,
    /// wait for the driver to answer: executors cannot register with a driver that is still starting. 0: do not
    /// wait.
    pub driver_start_ms: u64,
    /// How often the driver is polled for its executors' counters. Counters older than two intervals are too
    /// old for a roll decision.
    pub driver_report_ms: u64,
    /// The desired number of executors. In mode Observe: the number requested from the driver.
    pub target: u32,
    /// Who removes running executors when there are more than the target.
    pub scale_down: ScaleDown,
    /// Change no pod. An operator's pause is stored in the ledger instead.
    pub paused: bool,
    /// Decide and publish, but change no pod.
    pub dry_run: bool,
    /// When a silent executor is lost.
    pub heartbeat: HeartbeatSpec,
    /// What happens when executors are lost.
    pub recovery: RecoverySpec,
    /// How executors are created.
    pub allocation: AllocationSpec,
    /// The limits of all changes.
    pub limits: Limits,
    /// When and how executors are rolled. `None`: only those that an operator names, by the defaults.
    pub roll: Option<RollSpec>,
}

/// Who creates the executor pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Rollcall creates the executor pods.
    Own,
    /// Spark's driver creates them. Rollcall classifies losses and rolls executors.
    Observe,
}

/// Who removes running executors when there are more than the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleDown {
    /// Rollcall does, at once.
    Rollcall,
    /// The driver does, when it can do without them: Spark's dynamic allocation lowers its total long before executors
    /// are idle. Rollcall removes those that do not run yet, and those that an operator's command makes superfluous. A
    /// superfluous executor that the driver ends is no loss.
    Driver,
}

/// When a silent executor is lost: `spec.heartbeat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatSpec {
    /// An executor that is silent for *longer* than this is lost. Spark: `spark.network.timeout`, HeartbeatReceiver.
    pub timeout_ms: u64,
    /// How often executors report. Twice this is the grace after a start.
    pub interval_ms: u64,
    /// No heartbeats are expected: a running pod is an available executor.
    pub disabled: bool,
}

/// What happens when executors are lost: `spec.recovery`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverySpec {
    /// Loss classifiers, asked in order. The last resort is always Spark's own, built in.
    pub policies: Vec<String>,
    /// How many checks may end undetermined before the loss is settled as unknown (SAR: 10).
    pub max_checks: u32,
    /// Time between two checks (SAR: the allocator's batch delay).
    pub check_interval_ms: u64,
    /// How many pods are kept for debugging, where the verdict asks for it; the oldest one makes room. 0:
    /// none.
    pub max_kept_pods: u32,
    /// How long they are kept.
    pub kept_pods_ms: u64,
    /// More failures than this within the window, and the fleet is Failed. Spark:
    /// `spark.executor.maxNumFailures`; `None` is Spark's max(3, 2 x target).
    pub max_executor_failures: Option<u32>,
    /// Spark: `spark.executor.failuresValidityInterval`.
    pub failures_validity_interval_ms: u64,
    /// Delete the driver's pod when the fleet has failed, as Spark ends the application (exit 11).
    pub failed_deletes_driver: bool,
}

/// How executors are created: `spec.allocation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationSpec {
    /// How many creates may be sent at once, and likewise how many deletions. Spark:
    /// `spark.kubernetes.allocation.batch.size`.
    pub batch_size: u32,
    /// The time after which a whole batch may be sent again. Spark:
    /// `spark.kubernetes.allocation.batch.delay`.
    pub batch_delay_ms: u64,
    /// Spark: `spark.kubernetes.allocation.executor.timeout`: neither pending nor running without a
    /// heartbeat for longer than this.
    pub pending_timeout_ms: u64,
    /// Spark: `spark.kubernetes.allocation.maxPendingPods`.
    pub max_pending_pods: u32,
    /// After this many consecutive failed starts, only one executor is started at a time.
    pub max_start_failures: u32,
    /// The first delay between such tries; it doubles with each failure.
    pub initial_backoff_ms: u64,
    /// The longest delay between such tries.
    pub max_backoff_ms: u64,
    /// A node that lost this many executors within the window is avoided.
    pub max_node_losses: u32,
    /// How long a loss counts against its node. It weighs less the older it is.
    pub node_window_ms: u64,
    /// How many nodes may be avoided at once: a number, or a share of all nodes. Percentages round down.
    pub max_avoided_nodes: Amount,
}

/// Limits that no policy can widen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Live pods beyond the target. Percentages round up, as for the `maxSurge` of Deployments.
    pub max_surge: Amount,
    /// Executors short of the target that a voluntary disruption may cause. Percentages round down, as for the
    /// `maxUnavailable` of Deployments.
    pub max_unavailable: Amount,
    /// Available executors that a voluntary disruption must leave. Percentages round up.
    pub min_available: Amount,
    /// Pods that are being deleted, beyond the ceiling. Percentages round up.
    pub max_terminating: Amount,
    /// Upper limit of the target, regardless of who sets it.
    pub max_executors: u32,
    /// If the losses within the window exceed this share of the target they are one incident: slow start, no
    /// rolls. At least 3.
    pub mass_loss: Amount,
    /// How close together these losses are. The incident ends this long after the last of them, and at the
    /// earliest after a minute.
    pub mass_loss_window_ms: u64,
}

/// When and how executors are rolled: `spec.roll`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollSpec {
    /// Roll policies, asked in order. If none answers, no executor is rolled.
    pub policies: Vec<String>,
    /// Spark: `spark.kubernetes.executor.rollInterval`.
    pub interval_ms: u64,
    /// How many executors a single decision may roll.
    pub max_picks: u32,
    /// How many may be rolled in any hour.
    pub max_per_hour: u32,
    /// Spark: `spark.kubernetes.executor.minTasksPerExecutorBeforeRolling`.
    pub min_tasks: u32,
    /// Younger executors are not rolled.
    pub min_age_ms: u64,
    /// Time between the end of a roll and the next decision.
    pub cool_down_ms: u64,
    /// Grace period of the removal: how long a decommission may take. Spark:
    /// `spark.kubernetes.executor.terminationGracePeriodSeconds`; `None` is the pod's own.
    pub grace_ms: Option<u64>,
    /// A roll that has not completed after this is cancelled.
    pub timeout_ms: u64,
    /// Rolls start only within these windows. Empty: always.
    pub windows: Vec<Window>,
}

/// A number of executors, or a share of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// This many.
    Count(u32),
    /// A share of the target in percent.
    Percent(u32),
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Amount::Count(count) => count.fmt(f),
            Amount::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Amount {
    /// The number for this target. A share is rounded up.
    pub fn rounded_up(self, target: u32) -> u32 {
        match self {
            Amount::Count(count) => count,
            Amount::Percent(percent) => {
                u32::try_from((u64::from(target) * u64::from(percent)).div_ceil(100)).unwrap_or(u32::MAX)
            }
        }
    }

    /// The number for this target. A share is rounded down.
    pub fn rounded_down(self, target: u32) -> u32 {
        match self {
            Amount::Count(count) => count,
            Amount::Percent(percent) => {
                u32::try_from(u64::from(target) * u64::from(percent) / 100).unwrap_or(u32::MAX)
            }
        }
    }
}

impl FleetSpec {
    /// A fleet with every default, and without rolls.
    pub fn new(name: &str, application_id: &str, mode: Mode, driver: Uid, target: u32) -> FleetSpec {
        FleetSpec {
            name: name.to_owned(),
            application_id: application_id.to_owned(),
            mode,
            ids: IdRange::default(),
            driver,
            driver_start_ms: 0,
            driver_report_ms: DRIVER_REPORT_MS,
            target,
            scale_down: ScaleDown::Rollcall,
            paused: false,
            dry_run: false,
            heartbeat: HeartbeatSpec::default(),
            recovery: RecoverySpec::default(),
            allocation: AllocationSpec::default(),
            limits: Limits::default(),
            roll: None,
        }
    }
}

impl RollSpec {
    /// Every default, asking one policy.
    pub fn new(policy: &str) -> RollSpec {
        RollSpec { policies: vec![policy.to_owned()], ..RollSpec::default() }
    }
}

// The defaults of the ExecutorFleet document.

impl Default for HeartbeatSpec {
    fn default() -> HeartbeatSpec {
        HeartbeatSpec { timeout_ms: 120_000, interval_ms: 10_000, disabled: false }
    }
}

impl Default for RecoverySpec {
    fn default() -> RecoverySpec {
        RecoverySpec {
            policies: Vec::new(),
            max_checks: 10,
            check_interval_ms: 1_000,
            max_kept_pods: 10,
            kept_pods_ms: 3_600_000,
            max_executor_failures: None,
            failures_validity_interval_ms: 3_600_000,
            failed_deletes_driver: false,
        }
    }
}

impl Default for AllocationSpec {
    fn default() -> AllocationSpec {
        AllocationSpec {
            batch_size: 20,
            batch_delay_ms: 1_000,
            pending_timeout_ms: 600_000,
            max_pending_pods: u32::MAX,
            max_start_failures: 5,
            initial_backoff_ms: 10_000,
            max_backoff_ms: 360_000,
            max_node_losses: 3,
            node_window_ms: 1_800_000,
            max_avoided_nodes: Amount::Percent(20),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_surge: Amount::Percent(25),
            max_unavailable: Amount::Percent(25),
            min_available: Amount::Count(0),
            max_terminating: Amount::Percent(100),
            max_executors: 10_000,
            mass_loss: Amount::Percent(30),
            mass_loss_window_ms: 10_000,
        }
    }
}

impl Default for RollSpec {
    fn default() -> RollSpec {
        RollSpec {
            policies: Vec::new(),
            interval_ms: 3_600_000,
            max_picks: 1,
            max_per_hour: 60,
            min_tasks: 0,
            min_age_ms: 0,
            cool_down_ms: 0,
            grace_ms: None,
            timeout_ms: 900_000,
            windows: Vec::new(),
        }
    }
}

/// A spec that passed the check.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedSpec(FleetSpec);

impl Deref for ValidatedSpec {
    type Target = FleetSpec;

    fn deref(&self) -> &FleetSpec {
        &self.0
    }
}

/// The last loss classifier of every chain: Spark's exit codes and Kubernetes' reasons, built in.
pub const LAST_CLASSIFIER: &str = "SPARK";

impl ValidatedSpec {
    /// The spec, or all errors in it.
    pub fn check(spec: FleetSpec, policies: &[String]) -> Result<ValidatedSpec, Vec<SpecError>> {
        let errors = check::errors(&spec, policies);
        if errors.is_empty() { Ok(ValidatedSpec(spec)) } else { Err(errors) }
    }

    /// A running fleet's new spec, or all errors in it. Its application and its mode cannot change.
    pub(crate) fn succeeded_by(
        &self,
        spec: FleetSpec,
        policies: &[String],
    ) -> Result<ValidatedSpec, Vec<SpecError>> {
        let mut errors = Vec::new();
        for (path, differs) in [
            ("metadata.name", spec.name != self.name),
            ("spec.applicationId", spec.application_id != self.application_id),
            ("spec.mode", spec.mode != self.mode),
            ("spec.firstExecutorId", spec.ids != self.ids),
            ("spec.driver", spec.driver != self.driver),
        ] {
            if differs {
                let message = "cannot change: another application is another fleet".to_owned();
                errors.push(SpecError { path, message });
            }
        }
        match ValidatedSpec::check(spec, policies) {
            Ok(spec) if errors.is_empty() => Ok(spec),
            Ok(_) => Err(errors),
            Err(found) => {
                errors.extend(found);
                Err(errors)
            }
        }
    }

    /// The names of all policies that it asks.
    pub(crate) fn policies(&self) -> Vec<&str> {
        let names = self.recovery.policies.iter();
        let names = names.chain(self.roll.iter().flat_map(|roll| &roll.policies));
        names.map(String::as_str).collect()
    }

    /// The name of an executor's pod: a function of fleet and id only, so that two creates of one executor
    /// result in one pod.
    pub fn pod_name(&self, executor: crate::id::ExecutorId) -> Box<str> {
        format!("{}-exec-{executor}", self.name).into()
    }

    /// Is that the executor's pod name? Called for every pod of every list: it allocates nothing.
    pub(crate) fn is_pod_name(&self, name: &str, executor: crate::id::ExecutorId) -> bool {
        let number = name.strip_prefix(self.name.as_str()).and_then(|rest| rest.strip_prefix("-exec-"));
        number.is_some_and(|number| {
            let canonical = number == "0" || !number.starts_with(['0', '+']);
            canonical && number.parse() == Ok(executor.0)
        })
    }

    pub(crate) fn max_executor_failures(&self, target: u32) -> u32 {
        self.recovery.max_executor_failures.unwrap_or_else(|| target.saturating_mul(2).max(3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ExecutorId;

    #[test]
    fn only_the_name_we_would_give_is_ours() {
        let spec = ValidatedSpec(FleetSpec::new("f", "spark-1", Mode::Own, "u".into(), 1));
        assert!(spec.is_pod_name(&spec.pod_name(ExecutorId(7)), ExecutorId(7)));
        assert!(spec.is_pod_name("f-exec-0", ExecutorId(0)));
        for other in ["f-exec-07", "f-exec-+7", "f-exec-8", "f-exec-", "g-exec-7", "f-exec-7x", "ff-exec-7"] {
            assert!(!spec.is_pod_name(other, ExecutorId(7)), "{other}");
        }
    }
}
