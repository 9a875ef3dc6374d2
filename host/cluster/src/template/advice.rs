//! Parts of a template that are valid, but probably not intended: reported by `rollcall check`, and logged.

use k8s_openapi::api::core::v1 as k8s;
use serde_json::Value;

use super::quantity::Quantity;
use super::{Chosen, JAVA_OPTION, LOCAL_DIRS, Remark, Spark};
use crate::pod::{APP, EXECUTOR_ID, INACTIVE, PROFILE_ID, ROLE};

/// Labels that belong to Rollcall or to Spark's driver.
pub const RESERVED: [&str; 5] = [APP, ROLE, EXECUTOR_ID, PROFILE_ID, INACTIVE];
/// Spark: `spark.executor.memoryOverheadFactor`, in percent, and for PySpark;
/// `spark.executor.minMemoryOverhead`.
const OVERHEAD_PERCENT: u64 = 10;
const OVERHEAD_PERCENT_PYTHON: u64 = 40;
const OVERHEAD_MIN_MIB: u64 = 384;
/// Further placeholders in a template are not reported.
const PLACEHOLDERS_MAX: usize = 10;

pub(super) fn of(template: &Value, spec: &k8s::PodSpec, chosen: &Chosen, spark: &Spark) -> Vec<Remark> {
    let mut advice = Vec::new();
    if chosen.guessed {
        advice.push(guess(&spec.containers, chosen.at));
    }
    let container = &spec.containers[chosen.at];
    let path = format!("spec.template.spec.containers[{}]", chosen.at);
    if container.image.as_deref().unwrap_or_default().is_empty() {
        advice.push(Remark::new(format!("{path}.image"), "the executor has no image"));
    }
    advice.extend(memory(spec, container, &path, spark));
    advice.extend(mounts(spec, container, &path));
    advice.extend(claims(spec));
    advice.extend(metadata(template));
    let mut found = Vec::new();
    placeholders(template, "spec.template", &mut found);
    advice.append(&mut found);
    advice
}

fn guess(containers: &[k8s::Container], at: usize) -> Remark {
    let names: Vec<&str> = containers.iter().map(|container| &*container.name).collect();
    let message = format!("which of {} is the executor? Taken for it: {}", names.join(", "), names[at]);
    Remark::new("spec.template.spec.containers", message)
        .help("set spec.executorContainer (Spark: spark.kubernetes.executor.podTemplateContainerName)")
}

/// Spark's own rule for the memory of a pod.
fn memory(spec: &k8s::PodSpec, container: &k8s::Container, path: &str, spark: &Spark) -> Vec<Remark> {
    // Since Kubernetes 1.34 resources may be set for the whole pod.
    let found = |pick: fn(&k8s::ResourceRequirements) -> Option<&String>| {
        let own = container.resources.as_ref().and_then(pick).map(|text| (text, path));
        own.or_else(|| spec.resources.as_ref().and_then(pick).map(|text| (text, "spec.template.spec")))
    };
    let limit = found(|all| Some(&all.limits.as_ref()?.get("memory")?.0));
    let request = found(|all| Some(&all.requests.as_ref()?.get("memory")?.0));
    if limit.is_none() && request.is_none() {
        let message = "no memory is requested: the scheduler takes any node, and its executors are the first to be \
                       evicted";
        return vec![Remark::new(format!("{path}.resources.requests.memory"), message).help(
            match needs_mib(container, spark) {
                Some((_, mib, python_mib)) => {
                    format!("Spark would request {mib}Mi, for PySpark {python_mib}Mi")
                }
                None => "request what the heap and its overhead need".to_owned(),
            },
        )];
    }
    let Some((heap, mib, python_mib)) = needs_mib(container, spark) else { return Vec::new() };
    let needs = Quantity::mebibytes(mib);
    let mut advice = Vec::new();
    for (what, field, consequence) in [
        (limit, "limits", "its processes are killed when they use what they may"),
        (request, "requests", "the node may not have it"),
    ] {
        let Some((text, path)) = what else { continue };
        if Quantity::parse(text).is_some_and(|given| given < needs) {
            let path = format!("{path}.resources.{field}.memory");
            let message = format!("{text} is less than heap ({heap}) and overhead, {mib}Mi: {consequence}");
            advice.push(Remark::new(path, message).help(format!(
                "write {mib}Mi or more, for PySpark {python_mib}Mi: Spark adds {OVERHEAD_PERCENT}% to the heap, \
                 {OVERHEAD_PERCENT_PYTHON}% for PySpark, at least {OVERHEAD_MIN_MIB}Mi"
            )));
        }
    }
    advice
}

/// The heap size as configured, and the memory that Spark would request for it, for Java or Python. The
/// container's own setting takes precedence.
fn needs_mib(container: &k8s::Container, spark: &Spark) -> Option<(String, u64, u64)> {
    let own = container.env.iter().flatten().find(|variable| variable.name == "SPARK_EXECUTOR_MEMORY");
    let heap = match own {
        Some(variable) => variable.value.as_ref()?,
        None => &spark.memory,
    };
    let (number, unit) = heap.split_at(heap.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    let mib = match unit {
        "k" | "K" => number >> 10,
        "m" | "M" => number,
        "g" | "G" => number.checked_mul(1 << 10)?,
        "t" | "T" => number.checked_mul(1 << 20)?,
        _ => return None,
    };
    let with = |percent: u64| {
        let overhead = (mib.saturating_mul(percent) / 100).max(OVERHEAD_MIN_MIB);
        mib.saturating_add(overhead)
    };
    Some((heap.clone(), with(OVERHEAD_PERCENT), with(OVERHEAD_PERCENT_PYTHON)))
}

fn mounts(spec: &k8s::PodSpec, container: &k8s::Container, path: &str) -> Vec<Remark> {
    let mut advice = Vec::new();
    let local_dirs = container.env.iter().flatten().any(|variable| variable.name == "SPARK_LOCAL_DIRS");
    for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let name = mount.name.as_str();
        let path = format!("{path}.volumeMounts[{at}].name");
        if !spec.volumes.iter().flatten().any(|volume| volume.name == name) {
            let message = format!("no volume is called {name:?}");
            advice.push(Remark::new(&path, message).help("add it to spec.template.spec.volumes"));
        }
        let looks = name.starts_with(LOCAL_DIRS.trim_end_matches('-')) && !name.starts_with(LOCAL_DIRS);
        if looks && !local_dirs {
            let message = format!("Spark writes no shuffle files to {name:?}");
            advice.push(
                Remark::new(path, message).help(format!("call it {LOCAL_DIRS}1, or set SPARK_LOCAL_DIRS")),
            );
        }
    }
    advice
}

/// Spark creates claims from a few of its settings. Here claims are plain Kubernetes: one claim for one pod.
fn claims(spec: &k8s::PodSpec) -> Vec<Remark> {
    let mut advice = Vec::new();
    for (at, volume) in spec.volumes.iter().flatten().enumerate() {
        let Some(claim) = &volume.persistent_volume_claim else { continue };
        let name = claim.claim_name.as_str();
        if !["OnDemand", "SPARK_EXECUTOR_ID", "{{EXECUTOR_ID}}", "{{APP_ID}}"]
            .iter()
            .any(|one| name.contains(one))
        {
            continue;
        }
        let path = format!("spec.template.spec.volumes[{at}].persistentVolumeClaim.claimName");
        let message = format!(
            "{name:?} is Spark's way to write a claim for each executor, and here a name like any other: the pod waits for it in vain"
        );
        advice.push(Remark::new(path, message).help(format!(
            "for a claim that comes and goes with each executor write: {{name: {}, ephemeral: {{volumeClaimTemplate: \
             {{spec: {{accessModes: [ReadWriteOncePod], storageClassName: CLASS, resources: {{requests: {{storage: \
             100Gi}}}}}}}}}}}}",
            volume.name
        )));
    }
    advice
}

fn metadata(template: &Value) -> Vec<Remark> {
    let metadata = template.get("metadata").and_then(Value::as_object);
    let used = |field: &str| ["labels", "annotations"].contains(&field);
    let mut advice: Vec<Remark> = Vec::new();
    for field in metadata.into_iter().flatten().map(|(field, _)| field).filter(|field| !used(field)) {
        let message = "has no effect: of a template's metadata only labels and annotations are an executor's";
        advice.push(Remark::new(format!("spec.template.metadata.{field}"), message));
    }
    let labels = metadata.and_then(|metadata| metadata.get("labels")).and_then(Value::as_object);
    for label in RESERVED.into_iter().filter(|label| labels.is_some_and(|labels| labels.contains_key(*label)))
    {
        let message = "has no effect: Rollcall and Spark's driver set this label";
        advice.push(Remark::new(format!("spec.template.metadata.labels.{label}"), message));
    }
    advice
}

/// Spark's placeholders in places where they are not substituted. Claims have their own remark.
fn placeholders(value: &Value, path: &str, found: &mut Vec<Remark>) {
    match value {
        Value::String(text) if text.contains("{{APP_ID}}") || text.contains("{{EXECUTOR_ID}}") => {
            if found.len() < PLACEHOLDERS_MAX && !path.ends_with(".claimName") {
                let message = format!(
                    "{text:?} is taken literally: placeholders are substituted in javaOptions, labels and annotations"
                );
                found.push(Remark::new(path, message).help(
                    "Kubernetes expands $(SPARK_EXECUTOR_ID) and $(SPARK_APPLICATION_ID) in env, command, args and subPathExpr \
                     of the executor's container",
                ));
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                placeholders(item, &format!("{path}[{at}]"), found);
            }
        }
        // JVM options that the template sets itself.
        Value::Object(fields)
            if fields
                .get("name")
                .and_then(Value::as_str)
                .is_some_and(|name| name.starts_with(JAVA_OPTION)) => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                let substituted = ["spec.template.metadata.labels", "spec.template.metadata.annotations"];
                if !substituted.contains(&path.as_str()) {
                    placeholders(value, &path, found);
                }
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
