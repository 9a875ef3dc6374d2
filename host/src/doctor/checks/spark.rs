//! Spark's settings about decommissioning, rolling and the number of executors.

use crate::config::document::Mode;
use crate::doctor::facts::{Checked, Facts, Finding, Known};
use crate::doctor::settings::Settings;

pub const DECOMMISSION: &str = "spark.decommission.enabled";
const STORAGE: &str = "spark.storage.decommission.enabled";
const RDD: &str = "spark.storage.decommission.rddBlocks.enabled";
const SHUFFLE: &str = "spark.storage.decommission.shuffleBlocks.enabled";
const FALLBACK: &str = "spark.storage.decommission.fallbackStorage.path";
const FETCH_FAILURES: &str = "spark.stage.ignoreDecommissionFetchFailure";
const ROLL_PLUGIN: &str = "org.apache.spark.scheduler.cluster.k8s.ExecutorRollPlugin";
const ROLL_INTERVAL: &str = "spark.kubernetes.executor.rollInterval";
const INSTANCES: &str = "spark.executor.instances";
const DYNAMIC: &str = "spark.dynamicAllocation.enabled";
const ALLOCATOR: &str = "spark.kubernetes.allocation.pods.allocator";
/// Of `integrations/spark-allocator`: the application writes its fleet, of mode Own, itself.
const ROLLCALL_ALLOCATOR: &str = "dev.rollcall.spark.RollcallPodsAllocator";
/// Spark's allocators, for which the settings below hold.
const ALLOCATORS: [&str; 3] = ["direct", "statefulset", "deployment"];
/// `SchedulerBackendUtils.DEFAULT_NUMBER_EXECUTORS`.
const DEFAULT_INSTANCES: u64 = 2;
/// An image may take this long to be pulled, and a node to be started.
const START_MS: u64 = 600_000;

pub fn decommission(facts: &Facts) -> Checked {
    if facts.settings()?.flag(DECOMMISSION, false)? {
        return Ok(Vec::new());
    }
    let what = format!("{DECOMMISSION} is off, which is Spark's default");
    let why = "an executor that is rolled or evicted ends at once, and its running tasks fail";
    let finding = Finding::error("decommission-disabled", what, why);
    Ok(vec![
        finding.set(format!("{DECOMMISSION}=true")).source("Spark: internal.config.DECOMMISSION_ENABLED"),
    ])
}

pub fn storage_decommission(facts: &Facts) -> Checked {
    const SOURCE: &str = "Spark: internal.config.STORAGE_DECOMMISSION_ENABLED";
    let settings = facts.settings()?;
    if !settings.flag(STORAGE, false)? {
        let what = format!("{STORAGE} is off, which is Spark's default");
        let why = "the cached and shuffle blocks of a rolled executor are lost, and computed again";
        let finding = Finding::warning("storage-decommission-disabled", what, why);
        return Ok(vec![finding.set(format!("{STORAGE}=true")).source(SOURCE)]);
    }
    let mut findings = Vec::new();
    for (code, key, blocks) in
        [("rdd-blocks-not-migrated", RDD, "cached"), ("shuffle-blocks-not-migrated", SHUFFLE, "shuffle")]
    {
        if !settings.flag(key, true)? {
            let why = format!("the {blocks} blocks of a rolled executor are lost, and computed again");
            let finding = Finding::warning(code, format!("{key} is off"), why);
            findings.push(finding.set(format!("{key}=true")).source(SOURCE));
        }
    }
    Ok(findings)
}

pub fn fallback_storage(facts: &Facts) -> Checked {
    let settings = facts.settings()?;
    let migrates = settings.flag(STORAGE, false)? && settings.flag(SHUFFLE, true)?;
    if !migrates || settings.text(FALLBACK)?.is_some() {
        return Ok(Vec::new());
    }
    let what = format!("{FALLBACK} is not set");
    let why = "shuffle blocks for which no other executor has room are lost with the rolled executor";
    let finding = Finding::advice("fallback-storage-unset", what, why);
    Ok(vec![finding.set(format!("{FALLBACK}=s3a://BUCKET/PATH/")).source("Spark: storage.FallbackStorage")])
}

pub fn fetch_failures(facts: &Facts) -> Checked {
    let settings = facts.settings()?;
    // Spark 4.0 changed the default.
    let default = settings.version.map(|version| version >= (4, 0));
    let set = settings.text(FETCH_FAILURES)?.is_some();
    let on = match default {
        _ if set => settings.flag(FETCH_FAILURES, false)?,
        Some(default) => default,
        None => {
            return Err(format!(
                "{FETCH_FAILURES} is not set, and its default depends on Spark's version, which is unknown"
            ));
        }
    };
    if on {
        return Ok(Vec::new());
    }
    let what = format!(
        "{FETCH_FAILURES} is off{}",
        if set { "" } else { ", which is the default before Spark 4.0" }
    );
    let why = "fetches that fail because an executor is decommissioned count against the stage's attempts, and can fail the job";
    let finding = Finding::warning("decommission-fetch-failures-count", what, why);
    Ok(vec![finding.set(format!("{FETCH_FAILURES}=true")).source("Spark: scheduler.DAGScheduler")])
}

pub fn roll_plugin(facts: &Facts) -> Checked {
    let settings = facts.settings()?;
    let plugins = settings.list("spark.plugins")?;
    if !plugins.contains(&ROLL_PLUGIN) {
        return Ok(Vec::new());
    }
    let others: Vec<&str> = plugins.into_iter().filter(|plugin| *plugin != ROLL_PLUGIN).collect();
    let interval_ms = settings.duration_ms(ROLL_INTERVAL, 1_000)?.unwrap_or(0);
    let finding = if interval_ms > 0 {
        let what = format!("Spark's ExecutorRollPlugin rolls an executor every {} s", interval_ms / 1_000);
        let why = "two of them roll: executors go faster than the fleet's limits allow, and Rollcall takes them for losses";
        Finding::warning("executor-roll-plugin-on", what, why)
    } else {
        let what =
            format!("spark.plugins has Spark's ExecutorRollPlugin, which is idle without {ROLL_INTERVAL}");
        Finding::advice("executor-roll-plugin-idle", what, "once its interval is set, two of them roll")
    };
    let line = if others.is_empty() {
        "leave out spark.plugins".to_owned()
    } else {
        format!("spark.plugins={}", others.join(","))
    };
    let finding = finding.set(line);
    Ok(vec![finding.source("Spark: scheduler.cluster.k8s.ExecutorRollPlugin")])
}

/// Who creates executors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creates {
    /// The driver, this many.
    Fixed(u64),
    /// The driver, with dynamic allocation.
    Dynamic,
    /// Rollcall's allocator in the driver hands them to Rollcall.
    RollcallsAllocator,
    /// An allocator that is not known here.
    OtherAllocator,
}

pub fn creates(settings: &Settings) -> Known<Creates> {
    Ok(match settings.text(ALLOCATOR)? {
        Some(ROLLCALL_ALLOCATOR) => Creates::RollcallsAllocator,
        Some(allocator) if !ALLOCATORS.contains(&allocator) => Creates::OtherAllocator,
        Some(_) | None if settings.flag(DYNAMIC, false)? => Creates::Dynamic,
        Some(_) | None => Creates::Fixed(settings.number(INSTANCES)?.unwrap_or(DEFAULT_INSTANCES)),
    })
}

pub fn instances(facts: &Facts) -> Checked {
    const SOURCE: &str = "Spark: internal.config.EXECUTOR_INSTANCES";
    let (settings, spec) = (facts.settings()?, &facts.fleet.spec);
    let differ = |target: u64, driver: &str| {
        let what =
            format!("the fleet's document says {} executors, and the driver: {driver}", spec.executors);
        let why = "limits are shares of the document's number, and rolls wait until so many are available";
        Finding::warning("executors-differ", what, why).set(format!("spec.executors: {target}"))
    };
    let finding = match (spec.mode, creates(settings)?) {
        (Mode::Own, Creates::Fixed(0)) | (_, Creates::RollcallsAllocator | Creates::OtherAllocator) => {
            return Ok(Vec::new());
        }
        (Mode::Own, Creates::Fixed(count)) => {
            let what = format!("with mode Own the driver creates {count} executors of its own");
            let why = "both create executors: there are more than the fleet's target, and ids collide";
            let code = r#".config("spark.executor.instances", "0") where the application builds its session; spark-submit refuses 0"#;
            Finding::error("executor-instances-not-zero", what, why).set(code)
        }
        (Mode::Own, Creates::Dynamic) => {
            let what = "with mode Own the driver has dynamic allocation";
            let why =
                "the driver creates and removes executors by itself, and works against the fleet's target";
            Finding::error("dynamic-allocation-on", what, why).set(format!("{DYNAMIC}=false"))
        }
        (Mode::Observe, Creates::Fixed(0)) => {
            let what = "with mode Observe the driver creates no executors: spark.executor.instances is 0";
            Finding::error("no-executors-created", what, "neither the driver nor Rollcall creates executors")
                .set("spec.mode: Own, with a template (examples/own.yaml), or a larger spark.executor.instances")
        }
        (Mode::Observe, Creates::Fixed(count)) if u64::from(spec.executors) != count => {
            differ(count, &format!("{count} executors"))
        }
        (Mode::Observe, Creates::Dynamic) if spec.executors != 0 => differ(0, "the number is dynamic"),
        (Mode::Observe, Creates::Fixed(_) | Creates::Dynamic) => return Ok(Vec::new()),
    };
    Ok(vec![finding.source(SOURCE)])
}

/// What keeps the driver from removing executors that it did not create.
pub fn own_mode(facts: &Facts) -> Checked {
    const DELETES: &str = "spark.kubernetes.executor.deleteOnTermination";
    const FAILURES: &str = "spark.executor.maxNumFailures";
    const IDLE: &str = "spark.dynamicAllocation.executorIdleTimeout";
    let settings = facts.settings()?;
    if !facts.own() || !matches!(creates(settings)?, Creates::Fixed(_) | Creates::Dynamic) {
        return Ok(Vec::new());
    }
    let mut findings = Vec::new();
    if settings.flag(DELETES, true)? {
        let why = "the driver deletes ended executors before Rollcall has read why they ended";
        let finding = Finding::warning(
            "driver-deletes-executors",
            format!("{DELETES} is on, which is the default"),
            why,
        );
        findings.push(
            finding
                .set(format!("{DELETES}=false"))
                .source("Spark: scheduler.cluster.k8s.ExecutorPodsLifecycleManager"),
        );
    }
    // With 0 instances Spark's default is 3.
    let failures = settings.number(FAILURES)?.unwrap_or(3);
    if failures < 1_000 {
        let what = format!("{FAILURES} is {failures}");
        let why = "with one more failed executor the driver ends itself, with exit code 11; Rollcall counts failures itself";
        let finding = Finding::error("driver-gives-up", what, why).set(format!("{FAILURES}=1000000"));
        findings.push(finding.source("Spark: deploy.ExecutorFailureTracker"));
    }
    let idle_ms = settings.duration_ms(IDLE, 1_000)?.unwrap_or(60_000);
    if idle_ms < START_MS {
        let what = format!("{IDLE} is {} s", idle_ms / 1_000);
        let why = "the driver deletes executors that are Pending for longer, also without dynamic allocation";
        let finding = Finding::warning("driver-deletes-pending", what, why).set(format!("{IDLE}=30d"));
        findings.push(finding.source("Spark: scheduler.cluster.k8s.ExecutorPodsAllocator"));
    }
    Ok(findings)
}
