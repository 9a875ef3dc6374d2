//! `--write`: a document for the application, to begin with: mode Observe, and a dry run.

use anyhow::{Result, bail};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::checks::{self, Creates};
use super::facts::Facts;
use crate::config::Millis;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Write {
    /// An ExecutorFleet for this run of the application.
    Fleet,
    /// An ExecutorFleetClass for all of its runs.
    Class,
}

pub fn document(facts: &Facts, write: Write) -> Result<Value> {
    let mut spec = spec(facts)?;
    let (api_version, name) = ("rollcall.dev/v1alpha1", name(&facts.driver_name));
    Ok(match write {
        Write::Fleet => {
            spec["driver"]["podName"] = json!(facts.driver_name);
            json!({
                "apiVersion": api_version, "kind": "ExecutorFleet",
                "metadata": {"name": name, "namespace": facts.namespace.name}, "spec": spec,
            })
        }
        Write::Class => json!({
            "apiVersion": api_version, "kind": "ExecutorFleetClass", "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": selector(facts)},
                "namespaces": [facts.namespace.name],
                "fleet": spec,
            },
        }),
    })
}

/// Labels that every run of the application has.
fn selector(facts: &Facts) -> Value {
    let mut found = json!({"spark-role": "driver"});
    let name = facts.driver.as_ref().ok().and_then(|driver| driver.labels().get("spark-app-name"));
    if let Some(name) = name {
        found["spark-app-name"] = json!(name);
    }
    found
}

/// An ExecutorFleet's spec without the driver's name.
fn spec(facts: &Facts) -> Result<Value> {
    let settings = match &facts.settings {
        Ok(settings) => settings,
        Err(why) => bail!("no document without the application's settings: {why}"),
    };
    let unusable = |why: String| anyhow::anyhow!("no document for this application: {why}");
    let executors = match checks::creates(settings).map_err(unusable)? {
        Creates::Fixed(0) => {
            bail!(
                "the driver creates no executors: write a document of mode Own, beginning with examples/own.yaml"
            )
        }
        Creates::RollcallsAllocator => bail!("the driver writes the fleet itself, with Rollcall's allocator"),
        Creates::Fixed(count) => count,
        Creates::Dynamic | Creates::OtherAllocator => 0,
    };
    let sink = checks::rollcall_sink(facts).map_err(unusable)?;
    let interval_ms = sink.as_ref().and_then(|(sink, _)| sink.period_ms()).unwrap_or(10_000);
    let (_, timeout_ms) = checks::driver_timeout(settings).map_err(unusable)?;
    let mut heartbeat = json!({
        "interval": Millis(interval_ms).to_string(),
        // A document with a shorter one is refused.
        "timeout": Millis(timeout_ms.max(interval_ms * 2)).to_string(),
    });
    if let Some(namespace) = checks::metrics_namespace(settings).map_err(unusable)? {
        heartbeat["metricsNamespace"] = json!(namespace);
    }
    if let Some(prefix) = sink.as_ref().and_then(|(sink, _)| sink.get("prefix")) {
        heartbeat["graphitePrefix"] = json!(prefix);
    }
    let mut spec = json!({
        "mode": "Observe",
        "dryRun": true,
        "executors": executors,
        "heartbeat": heartbeat,
        "limits": {"maxUnavailable": 1},
        "roll": {"policies": ["OUTLIER"], "interval": "1h", "grace": "5m"},
    });
    let (_, port) = checks::rest_port(settings).map_err(unusable)?;
    if ![0, 4040].contains(&port) {
        spec["driver"] = json!({"restPort": port});
    }
    Ok(spec)
}

/// A fleet's name: what is before `-driver`, in at most 46 characters.
fn name(driver: &str) -> String {
    const CHARS_MAX: usize = 46;
    let name: String = driver.trim_end_matches("-driver").replace('.', "-").chars().take(CHARS_MAX).collect();
    name.trim_matches('-').to_owned()
}
