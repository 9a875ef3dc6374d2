//! From the document to what the core decides by.

use std::path::PathBuf;

use cluster::node::Signs;
use cluster::template::{Spark, Template};
use fleet::id::Uid;
use fleet::spec::{self, Draft, SpecError};

use super::document::{Mode, Roll, Window};
use super::{FleetConfig, Problem, schema};

impl FleetConfig {
    /// The draft of this fleet, with what is known only when the driver's pod is: its UID, and the
    /// application id where the document has none.
    pub fn draft(&self, driver: Uid, application_id: &str) -> Draft {
        let spec = &self.fleet.spec;
        let (heartbeat, recovery) = (&spec.heartbeat, &spec.recovery);
        let (allocation, limits) = (&spec.allocation, &spec.limits);
        Draft {
            name: self.fleet.metadata.name.clone(),
            application_id: application_id.to_owned(),
            mode: match spec.mode {
                Mode::Own => spec::Mode::Own,
                Mode::Observe => spec::Mode::Observe,
            },
            driver,
            driver_start_ms: spec.driver.start_timeout.0,
            driver_report_ms: spec.driver.rest_interval.0,
            target: spec.executors,
            paused: spec.paused,
            dry_run: spec.dry_run,
            heartbeat: spec::HeartbeatSpec {
                timeout_ms: heartbeat.timeout.0,
                interval_ms: heartbeat.interval.0,
                disabled: heartbeat.disabled,
            },
            recovery: spec::RecoverySpec {
                policies: recovery.policies.clone(),
                checks_max: recovery.checks_max,
                check_interval_ms: recovery.check_interval.0,
                kept_pods_max: recovery.kept_pods_max,
                kept_pods_ms: recovery.kept_pods_for.0,
                failures_max: recovery.failures_max,
                failures_window_ms: recovery.failures_window.0,
                failed_deletes_driver: recovery.failed_deletes_driver,
            },
            allocation: spec::AllocationSpec {
                batch_size: allocation.batch_size,
                batch_delay_ms: allocation.batch_delay.0,
                pending_timeout_ms: allocation.pending_timeout.0,
                pending_max: allocation.pending_max.unwrap_or(u32::MAX),
                start_failures_max: allocation.start_failures_max,
                backoff_first_ms: allocation.backoff_first.0,
                backoff_last_ms: allocation.backoff_last.0,
                node_losses_max: allocation.node_losses_max,
                node_window_ms: allocation.node_window.0,
                avoided_nodes_max: allocation.avoided_nodes_max.0,
            },
            limits: spec::Limits {
                surge: limits.surge.0,
                unavailable: limits.unavailable.0,
                available_min: limits.available_min.0,
                terminating: limits.terminating.0,
                executors_max: limits.executors_max,
                mass_loss: limits.mass_loss.0,
                mass_loss_window_ms: limits.mass_loss_window.0,
            },
            roll: spec.roll.as_ref().map(roll),
        }
    }

    /// What tells this fleet that a node is spot capacity, or will go.
    pub fn signs(&self) -> Signs {
        Signs::default()
    }

    /// What executors' pods are made from, given where they find their driver. `None`: the driver makes them.
    pub fn template(&self, driver_url: String) -> Result<Option<Template>, String> {
        let Some(template) = &self.fleet.spec.template else { return Ok(None) };
        let spark = self.fleet.spec.spark.clone().unwrap_or_default();
        let spark = Spark {
            driver_url,
            cores: spark.executor_cores.get(),
            memory: spark.executor_memory.as_str().to_owned(),
            user: spark.user,
            conf_dir: spark.conf_dir,
            java_options: spark.java_options,
            resource_profile_id: spark.resource_profile_id,
            decommission: spark.decommission,
        };
        Template::new(template, &spark).map(Some)
    }

    /// What cannot be followed of this document, given the policies that there are: by the core, or because no
    /// pod can be made of its template. The driver's UID and address are stand-ins, as is the application id where
    /// the document has none.
    pub fn check(&self, policies: &[String]) -> Vec<Problem> {
        let application_id = self.fleet.spec.application_id.as_deref().unwrap_or("spark-0");
        let draft = self.draft(Uid::from("stand-in"), application_id);
        let errors = spec::Spec::check(draft, policies).err().unwrap_or_default();
        let mut problems: Vec<Problem> = errors.into_iter().map(|error| self.refused(error)).collect();
        for name in self.fleet.spec.policies.keys().filter(|name| !policies.contains(name)) {
            let mut problem = self.problem(
                &format!("spec.policies.{name}"),
                format!("no policy is called {name:?}; there are {}", policies.join(", ")),
            );
            let near = schema::nearest(name, policies.iter().cloned());
            problem.help = near.map(|near| format!("did you mean `{near}`?"));
            problems.push(problem);
        }
        if let Err(error) = self.template("spark://stand-in".to_owned()) {
            let (path, message) = error.split_once(": ").unwrap_or(("spec.template", &error));
            problems.push(self.problem(path, message));
        }
        problems
    }

    pub(crate) fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        Problem::new(PathBuf::clone(&self.file), message).of_document(self.document).at(path)
    }

    fn refused(&self, error: SpecError) -> Problem {
        self.problem(error.path, error.message)
    }
}

fn roll(roll: &Roll) -> spec::RollSpec {
    spec::RollSpec {
        policies: roll.policies.clone(),
        interval_ms: roll.interval.0,
        picks_max: roll.picks_max,
        per_hour_max: roll.per_hour_max,
        tasks_min: roll.tasks_min,
        age_min_ms: roll.age_min.0,
        cool_down_ms: roll.cool_down.0,
        grace_ms: roll.grace.map(|grace| grace.0),
        timeout_ms: roll.timeout.0,
        windows: roll.windows.iter().map(window).collect(),
    }
}

fn window(window: &Window) -> fleet::window::Window {
    // Monday first, here as there.
    let mut days = [false; 7];
    for day in &window.days {
        days[*day as usize] = true;
    }
    fleet::window::Window {
        days,
        start_minute: window.start.minute,
        // What does not fit is refused by the core.
        length_minutes: u32::try_from(window.duration.0 / 60_000).unwrap_or(u32::MAX),
        zone: window.time_zone.0.clone(),
    }
}
