//! Converts the document into the core's configuration.

use std::path::PathBuf;

use cluster::node::{Place, Sign, Signs};
use cluster::template::{Remark, Spark, Template};
use fleet::id::{ExecutorId, IdRange, Uid};
use fleet::observed::DriverPod;
use fleet::spec::{self, FleetSpec, SpecError};
use fleet::supervisor::Document;

use super::document::{Departure, DepartureKind, EXECUTOR_IDS, Mode, Roll, ScaleDown, Spec, Window};
use super::{FleetConfig, Problem, schema};

impl FleetConfig {
    /// The document as the supervisor needs it. The same version, the same document.
    pub fn document(&self, version: u64) -> Document {
        let spec = &self.fleet.spec;
        let told = |remarks: Vec<Remark>| {
            let told = remarks.iter().map(|remark| format!("{}: {}", remark.path, remark.message));
            told.collect::<Vec<_>>().join("; ")
        };
        Document {
            fleet: self.key(),
            namespace: self.fleet.metadata.namespace.clone(),
            driver_pod: spec.driver.pod_name.clone(),
            application_id: spec.application_id.clone(),
            spec: self.fleet_spec(Uid::from("stand-in"), "spark-0"),
            needs_address: self.needs_address(),
            metrics_namespace: spec.heartbeat.metrics_namespace.clone(),
            graphite_prefix: self.graphite_prefix(),
            check_peer: spec.heartbeat.check_peer,
            unusable: match spec.mode {
                Mode::Own => self.stand_in().err().map(told),
                Mode::Observe => None,
            },
            version,
        }
    }

    /// Is the driver's address only known from its pod? A pod that Spark describes has it.
    fn needs_address(&self) -> bool {
        let Spec { spark, executor_pod, .. } = &self.fleet.spec;
        executor_pod.is_none() && spark.as_ref().is_none_or(|spark| spark.driver_url.is_none())
    }

    /// `spark.metrics.conf.executor.sink.graphite.prefix`, if there is one.
    pub fn graphite_prefix(&self) -> Option<String> {
        Some(self.fleet.spec.heartbeat.graphite_prefix.clone()).filter(|prefix| !prefix.is_empty())
    }

    /// The spec of this fleet for the core, with what is known only from the driver's pod: its UID, and the application id if the
    /// document has none.
    pub fn fleet_spec(&self, driver: Uid, application_id: &str) -> FleetSpec {
        let spec = &self.fleet.spec;
        let (heartbeat, recovery) = (&spec.heartbeat, &spec.recovery);
        let (allocation, limits) = (&spec.allocation, &spec.limits);
        FleetSpec {
            name: self.fleet.metadata.name.clone(),
            application_id: application_id.to_owned(),
            mode: match spec.mode {
                Mode::Own => spec::Mode::Own,
                Mode::Observe => spec::Mode::Observe,
            },
            ids: self.ids(),
            driver,
            driver_start_ms: spec.driver.start_timeout.0,
            driver_report_ms: spec.driver.rest_interval.0,
            target: spec.executors,
            scale_down: match spec.scale_down {
                ScaleDown::Rollcall => spec::ScaleDown::Rollcall,
                ScaleDown::Driver => spec::ScaleDown::Driver,
            },
            paused: spec.paused,
            dry_run: spec.dry_run,
            heartbeat: spec::HeartbeatSpec {
                timeout_ms: heartbeat.timeout.0,
                interval_ms: heartbeat.interval.0,
                disabled: heartbeat.disabled,
            },
            recovery: spec::RecoverySpec {
                policies: recovery.policies.clone(),
                max_checks: recovery.max_checks,
                check_interval_ms: recovery.check_interval.0,
                max_kept_pods: recovery.max_kept_pods,
                kept_pods_ms: recovery.kept_pods_for.0,
                max_executor_failures: recovery.max_executor_failures,
                failures_validity_interval_ms: recovery.failures_validity_interval.0,
                failed_deletes_driver: recovery.failed_deletes_driver,
            },
            allocation: spec::AllocationSpec {
                batch_size: allocation.batch_size,
                batch_delay_ms: allocation.batch_delay.0,
                pending_timeout_ms: allocation.pending_timeout.0,
                max_pending_pods: allocation.max_pending_pods.unwrap_or(u32::MAX),
                max_start_failures: allocation.max_start_failures,
                initial_backoff_ms: allocation.initial_backoff.0,
                max_backoff_ms: allocation.max_backoff.0,
                max_node_losses: allocation.max_node_losses,
                node_window_ms: allocation.node_window.0,
                max_avoided_nodes: allocation.max_avoided_nodes.0,
            },
            limits: spec::Limits {
                max_surge: limits.max_surge.0,
                max_unavailable: limits.max_unavailable.0,
                min_available: limits.min_available.0,
                max_terminating: limits.max_terminating.0,
                max_executors: limits.max_executors,
                mass_loss: limits.mass_loss.0,
                mass_loss_window_ms: limits.mass_loss_window.0,
            },
            roll: spec.roll.as_ref().map(roll),
        }
    }

    /// The ids that its executors may have.
    pub fn ids(&self) -> IdRange {
        let range = |first: u64| IdRange {
            first: ExecutorId(first),
            last: ExecutorId(first.saturating_add(EXECUTOR_IDS - 1)),
        };
        self.fleet.spec.first_executor_id.map_or_else(IdRange::default, range)
    }

    /// The patterns by which this fleet recognizes spot nodes, and nodes that will be removed.
    pub fn signs(&self) -> Signs {
        let nodes = &self.fleet.spec.nodes;
        Signs {
            spot: nodes.spot_labels.iter().map(|pattern| pattern.0.clone()).collect(),
            departures: nodes.departures.iter().filter_map(sign).collect(),
            cordon: nodes.cordon,
        }
    }

    /// The name of the executor's container, if the document has it.
    pub fn executor_container(&self) -> Option<&str> {
        self.fleet.spec.executor_container.as_deref()
    }

    /// The template of executors' pods, given the driver's address, and its pod if known. `None`: the driver creates
    /// them.
    pub fn template(
        &self,
        driver_url: String,
        driver: Option<&DriverPod>,
    ) -> Result<Option<Template>, Vec<Remark>> {
        if let Some(pod) = &self.fleet.spec.executor_pod {
            return Template::as_is(pod, self.executor_container()).map(Some);
        }
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
            local_dirs_tmpfs: spark.local_dirs_tmpfs,
            app_name: driver.and_then(|driver| driver.app_name.as_deref()).map(str::to_owned),
            version: driver.and_then(|driver| driver.spark_version.as_deref()).map(str::to_owned),
        };
        Template::new(template, &spark, self.executor_container()).map(Some)
    }

    /// What is invalid in this document, given the available policies: for the core, or because no pod can be made from
    /// its template. The driver's UID and address are placeholders, as is the application id if the document has none.
    pub fn check(&self, policies: &[String]) -> Vec<Problem> {
        let application_id = self.fleet.spec.application_id.as_deref().unwrap_or("spark-0");
        let checked = self.fleet_spec(Uid::from("stand-in"), application_id);
        let errors = spec::ValidatedSpec::check(checked, policies).err().unwrap_or_default();
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
        match self.stand_in() {
            Ok(template) => problems.extend(template.as_ref().and_then(|template| self.forced(template))),
            Err(remarks) => problems.extend(remarks.into_iter().map(|remark| self.remarked(remark))),
        }
        problems
    }

    /// The template, as far as it can be made without a driver.
    pub(super) fn stand_in(&self) -> Result<Option<Template>, Vec<Remark>> {
        self.template("spark://stand-in".to_owned(), None)
    }

    /// A roll with a grace period of 0 is not a decommission: the core rejects it for the roll, this for the pod.
    fn forced(&self, template: &Template) -> Option<Problem> {
        let roll = self.fleet.spec.roll.as_ref()?;
        let forced = template.grace_s() == Some(0) && roll.grace.is_none();
        forced.then(|| {
            let message = "0 would make each roll a forced deletion, without a decommission";
            let problem = self.problem("spec.template.spec.terminationGracePeriodSeconds", message);
            problem.help("leave it out for Kubernetes' 30, write more, or set spec.roll.grace")
        })
    }

    pub(super) fn remarked(&self, remark: Remark) -> Problem {
        let mut problem = self.problem(&remark.path, remark.message);
        let name = remark.path.rsplit('.').next().unwrap_or_default();
        let near = schema::nearest(name, remark.known.iter().map(ToString::to_string));
        let meant = near.map(|near| format!("did you mean `{near}`?"));
        let known = || format!("known here: {}", remark.known.join(", "));
        let help = meant.or(remark.help).or_else(|| (!remark.known.is_empty()).then(known));
        problem = match help {
            Some(help) => problem.help(help),
            None => problem,
        };
        problem
    }

    pub(crate) fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        let problem = Problem::new(PathBuf::clone(&self.file), message).at(path);
        // An object is its only document.
        if self.generation.is_some() { problem } else { problem.of_document(self.document) }
    }

    fn refused(&self, error: SpecError) -> Problem {
        self.problem(error.path, error.message)
    }
}

fn roll(roll: &Roll) -> spec::RollSpec {
    spec::RollSpec {
        policies: roll.policies.clone(),
        interval_ms: roll.interval.0,
        max_picks: roll.max_picks,
        max_per_hour: roll.max_per_hour,
        min_tasks: roll.min_tasks,
        min_age_ms: roll.min_age.0,
        cool_down_ms: roll.cool_down.0,
        grace_ms: roll.grace.map(|grace| grace.0),
        timeout_ms: roll.timeout.0,
        windows: roll.windows.iter().map(window).collect(),
    }
}

/// `None`: it has no pattern, which the rules reject.
fn sign(departure: &Departure) -> Option<Sign> {
    let (place, pattern) = match (&departure.taint, &departure.label) {
        (Some(pattern), _) => (Place::Taint, pattern),
        (None, Some(pattern)) => (Place::Label, pattern),
        (None, None) => return None,
    };
    let kind = match departure.kind {
        DepartureKind::Reclaimed => fleet::question::DepartureKind::Reclaimed,
        DepartureKind::Drained => fleet::question::DepartureKind::Drained,
    };
    Some(Sign { place, pattern: pattern.0.clone(), kind })
}

fn window(window: &Window) -> fleet::window::Window {
    // Both sides begin with Monday.
    let mut days = [false; 7];
    for day in &window.days {
        days[*day as usize] = true;
    }
    fleet::window::Window {
        days,
        start_minute: window.start.minute,
        // The core rejects a value that does not fit.
        length_minutes: u32::try_from(window.duration.0 / 60_000).unwrap_or(u32::MAX),
        zone: window.time_zone.0.clone(),
    }
}
