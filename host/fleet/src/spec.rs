//! What a fleet should be: parsed once at the edge, checked once here, and right from then on.
//!
//! A [`Draft`] is what a person wrote. [`Spec::check`] turns it into a [`Spec`] or into a list of what
//! is wrong with it, each with the path of the field in the ExecutorFleet document. A running fleet
//! that is given a bad draft keeps its last good spec, and its pods.

use std::ops::Deref;

use crate::id::Uid;
use crate::window::Window;

mod check;

pub use check::SpecError;

/// An ExecutorFleet as written, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// `metadata.name`: 1 to 46 of `a-z 0-9 -`, so that pod names fit a host name.
    pub name: String,
    /// Spark's application id (label `spark-app-selector`).
    pub application_id: String,
    pub mode: Mode,
    /// UID of the driver's pod, which owns every executor's.
    pub driver: Uid,
    /// An application's first executors, and those after a restart of the driver's container, wait for so long until the
    /// driver has answered: one that is still starting has nowhere for them to register. 0: not at all.
    pub driver_start_ms: u64,
    /// How often the driver is asked for its executors' counters. What it said more than two intervals ago is too old to
    /// roll by.
    pub driver_report_ms: u64,
    /// How many executors there should be. When observing: how many the driver is asked for.
    pub target: u32,
    pub paused: bool,
    /// Decide and tell, but change no pod.
    pub dry_run: bool,
    pub heartbeat: HeartbeatSpec,
    pub recovery: RecoverySpec,
    pub allocation: AllocationSpec,
    pub limits: Limits,
    pub roll: Option<RollSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Rollcall creates the executors' pods.
    Own,
    /// Spark's driver does. Rollcall classifies losses and rolls.
    Observe,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatSpec {
    /// Silent for *longer* than this is lost. Spark: `spark.network.timeout`, HeartbeatReceiver.
    pub timeout_ms: u64,
    /// How often executors report. Twice this is the grace after a start.
    pub interval_ms: u64,
    /// No heartbeats are expected: a running pod is an available executor.
    pub disabled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverySpec {
    /// Loss classifiers, asked in order. The last resort is always Spark's own, built in.
    pub policies: Vec<String>,
    /// How many checks may end undetermined before the loss is settled as unknown (SAR: 10).
    pub checks_max: u32,
    /// Time between two checks (SAR: the allocator's batch delay).
    pub check_interval_ms: u64,
    /// How many pods of app-caused losses are kept for debugging, and for how long.
    pub kept_pods_max: u32,
    pub kept_pods_ms: u64,
    /// More failures than this within the window, and the fleet is Failed. Spark:
    /// `spark.executor.maxNumFailures`; `None` is Spark's max(3, 2 x target).
    pub failures_max: Option<u32>,
    /// Spark: `spark.executor.failuresValidityInterval`.
    pub failures_window_ms: u64,
    /// Delete the driver's pod when the fleet has failed, as Spark ends the application (exit 11).
    pub failed_deletes_driver: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationSpec {
    /// Spark: `spark.kubernetes.allocation.batch.size` and `.batch.delay`.
    pub batch_size: u32,
    pub batch_delay_ms: u64,
    /// Spark: `spark.kubernetes.allocation.executor.timeout`: neither pending nor running without a
    /// heartbeat for longer than this.
    pub pending_timeout_ms: u64,
    /// Spark: `spark.kubernetes.allocation.maxPendingPods`.
    pub pending_max: u32,
    /// After this many starts in a row that came to nothing only one is tried at a time.
    pub start_failures_max: u32,
    /// How long between such tries, doubling from the first to the last.
    pub backoff_first_ms: u64,
    pub backoff_last_ms: u64,
    /// A node that lost this many executors within the window is avoided; never more than the share.
    pub node_losses_max: u32,
    pub node_window_ms: u64,
    pub avoided_nodes_max: Amount,
}

/// What no policy can widen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Live pods beyond the target. Percentages round up, as Deployments' `maxSurge`.
    pub surge: Amount,
    /// Executors short of the target that a voluntary removal may cause. Percentages round down, as
    /// Deployments' `maxUnavailable`.
    pub unavailable: Amount,
    /// Available executors that a voluntary removal must leave. Percentages round up.
    pub available_min: Amount,
    /// Pods that are being deleted, beyond the ceiling. Percentages round up.
    pub terminating: Amount,
    /// The target may never be above this, whoever asks.
    pub executors_max: u32,
    /// Losses within the window beyond this share of the target are one incident: slow start, no
    /// rolls. At least 3.
    pub mass_loss: Amount,
    pub mass_loss_window_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollSpec {
    /// Roll policies, asked in order. When none answers, nobody is rolled.
    pub policies: Vec<String>,
    /// Spark: `spark.kubernetes.executor.rollInterval`.
    pub interval_ms: u64,
    /// How many executors a single decision may roll.
    pub picks_max: u32,
    /// How many may be rolled in any hour.
    pub per_hour_max: u32,
    /// Spark: `spark.kubernetes.executor.minTasksPerExecutorBeforeRolling`.
    pub tasks_min: u32,
    /// Younger executors are not rolled.
    pub age_min_ms: u64,
    /// Time between the end of a roll and the next decision.
    pub cool_down_ms: u64,
    /// Grace period of the removal: how long a decommission may take. Spark:
    /// `spark.kubernetes.executor.terminationGracePeriodSeconds`; `None` is the pod's own.
    pub grace_ms: Option<u64>,
    /// A roll that is not through after this is given up.
    pub timeout_ms: u64,
    /// Rolls start only inside of these. Empty: always.
    pub windows: Vec<Window>,
}

/// A number of executors, or a share of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Count(u32),
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
    pub fn rounded_up(self, target: u32) -> u32 {
        match self {
            Amount::Count(count) => count,
            Amount::Percent(percent) => {
                u32::try_from((u64::from(target) * u64::from(percent)).div_ceil(100)).unwrap_or(u32::MAX)
            }
        }
    }

    pub fn rounded_down(self, target: u32) -> u32 {
        match self {
            Amount::Count(count) => count,
            Amount::Percent(percent) => {
                u32::try_from(u64::from(target) * u64::from(percent) / 100).unwrap_or(u32::MAX)
            }
        }
    }
}

impl Draft {
    /// A fleet with every default, and nothing rolled.
    pub fn new(name: &str, application_id: &str, mode: Mode, driver: Uid, target: u32) -> Draft {
        Draft {
            name: name.to_owned(),
            application_id: application_id.to_owned(),
            mode,
            driver,
            driver_start_ms: 0,
            driver_report_ms: 10_000,
            target,
            paused: false,
            dry_run: false,
            heartbeat: HeartbeatSpec { timeout_ms: 120_000, interval_ms: 10_000, disabled: false },
            recovery: RecoverySpec {
                policies: Vec::new(),
                checks_max: 10,
                check_interval_ms: 1_000,
                kept_pods_max: 10,
                kept_pods_ms: 3_600_000,
                failures_max: None,
                failures_window_ms: 3_600_000,
                failed_deletes_driver: false,
            },
            allocation: AllocationSpec {
                batch_size: 20,
                batch_delay_ms: 1_000,
                pending_timeout_ms: 600_000,
                pending_max: u32::MAX,
                start_failures_max: 5,
                backoff_first_ms: 10_000,
                backoff_last_ms: 360_000,
                node_losses_max: 3,
                node_window_ms: 1_800_000,
                avoided_nodes_max: Amount::Percent(20),
            },
            limits: Limits {
                surge: Amount::Percent(25),
                unavailable: Amount::Percent(25),
                available_min: Amount::Count(0),
                terminating: Amount::Percent(100),
                executors_max: 10_000,
                mass_loss: Amount::Percent(30),
                mass_loss_window_ms: 10_000,
            },
            roll: None,
        }
    }
}

impl RollSpec {
    /// Every default, asking one policy.
    pub fn new(policy: &str) -> RollSpec {
        RollSpec {
            policies: vec![policy.to_owned()],
            interval_ms: 3_600_000,
            picks_max: 1,
            per_hour_max: 60,
            tasks_min: 0,
            age_min_ms: 0,
            cool_down_ms: 0,
            grace_ms: None,
            timeout_ms: 900_000,
            windows: Vec::new(),
        }
    }
}

/// A draft that was found to be right.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec(Draft);

impl Deref for Spec {
    type Target = Draft;

    fn deref(&self) -> &Draft {
        &self.0
    }
}

/// The loss classifier behind all others: Spark's exit codes and Kubernetes' reasons, built in.
pub const LAST_CLASSIFIER: &str = "SPARK";

impl Spec {
    /// The spec, or everything that is wrong with it.
    pub fn check(draft: Draft, policies: &[String]) -> Result<Spec, Vec<SpecError>> {
        let errors = check::errors(&draft, policies);
        if errors.is_empty() { Ok(Spec(draft)) } else { Err(errors) }
    }

    /// The name of an executor's pod: a function of fleet and id and nothing else, so that one that
    /// was created twice exists once.
    pub fn pod_name(&self, executor: crate::id::ExecutorId) -> Box<str> {
        format!("{}-exec-{executor}", self.name).into()
    }

    /// Is that the name? Asked of every pod of every list: it allocates nothing.
    pub(crate) fn is_pod_name(&self, name: &str, executor: crate::id::ExecutorId) -> bool {
        let number = name.strip_prefix(self.name.as_str()).and_then(|rest| rest.strip_prefix("-exec-"));
        number.is_some_and(|number| {
            let canonical = number == "0" || !number.starts_with(['0', '+']);
            canonical && number.parse() == Ok(executor.0)
        })
    }

    pub fn failures_max(&self, target: u32) -> u32 {
        self.recovery.failures_max.unwrap_or_else(|| target.saturating_mul(2).max(3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ExecutorId;

    #[test]
    fn only_the_name_we_would_give_is_ours() {
        let spec = Spec(Draft::new("f", "spark-1", Mode::Own, "u".into(), 1));
        assert!(spec.is_pod_name(&spec.pod_name(ExecutorId(7)), ExecutorId(7)));
        assert!(spec.is_pod_name("f-exec-0", ExecutorId(0)));
        for other in ["f-exec-07", "f-exec-+7", "f-exec-8", "f-exec-", "g-exec-7", "f-exec-7x", "ff-exec-7"] {
            assert!(!spec.is_pod_name(other, ExecutorId(7)), "{other}");
        }
    }
}
