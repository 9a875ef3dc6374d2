//! The application's pods, their Events, and Rollcall's own pods.

use std::collections::BTreeMap;

use cluster::container::{self, Found};
use cluster::pod::{APP, EXECUTOR_ID, ROLE};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;

use super::spark::DECOMMISSION;
use crate::doctor::facts::{Checked, Facts, Finding, ROLLCALL_LABEL, Warning};

/// A generated suffix has so many hexadecimal digits: Spark's `KubernetesUtils.uniqueID`.
const SUFFIX_CHARS: usize = 16;

pub fn driver(facts: &Facts) -> Checked {
    let (pod, spec, name) = (facts.driver()?, &facts.fleet.spec, &facts.driver_name);
    let mut findings = Vec::new();
    if pod.labels().get(ROLE).is_none_or(|role| role != "driver") {
        let what = format!("pod {name} has no label {ROLE}=driver");
        let finding =
            Finding::error("driver-role-label-missing", what, "Rollcall does not see it as a driver");
        findings.push(finding.set(format!("labels: {{{ROLE}: driver}} in the pod's manifest")));
    }
    if !pod.labels().contains_key(APP) && spec.application_id.is_none() {
        let what = format!("pod {name} has no label {APP}");
        let finding = Finding::error(
            "application-id-unknown",
            what,
            "Rollcall does not know which executors are its own",
        );
        findings
            .push(finding.set(format!("labels: {{{APP}: ID}} in the pod's manifest, and spark.app.id=ID")));
    }
    if facts.fleet.document.is_some() && spec.driver.pod_name != *name {
        let what =
            format!("the fleet's document names the driver {}, and this is {name}", spec.driver.pod_name);
        let finding = Finding::error("driver-name-differs", what, "the fleet waits for another pod");
        findings.push(finding.set(format!("spark.kubernetes.driver.pod.name={}", spec.driver.pod_name)));
    } else if is_generated(name) {
        let what = format!("the driver's name {name} looks generated");
        let why = "the next run of the application has another name, and the fleet's document names this one";
        let finding = Finding::warning("driver-name-generated", what, why);
        findings.push(finding.set("spark.kubernetes.driver.pod.name=NAME"));
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("unknown");
    if phase != "Running" {
        let what = format!("the driver's pod is {phase}");
        let why = "an application that does not run has no fleet";
        let finding = Finding::warning("driver-not-running", what, why);
        findings.push(finding.set(format!("kubectl describe pod {name} -n {}", facts.namespace.name)));
    }
    Ok(findings.into_iter().map(|finding| finding.source("Kubernetes: pod metadata of the driver")).collect())
}

/// `<app name>-<suffix>-driver`, as `spark-submit` makes it.
fn is_generated(name: &str) -> bool {
    let suffix = name.strip_suffix("-driver").and_then(|name| name.rsplit('-').next()).unwrap_or("");
    suffix.len() == SUFFIX_CHARS && suffix.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub fn executors(facts: &Facts) -> Checked {
    let executors = facts.executors()?;
    let mut findings = Vec::new();
    let mut group = |pods: Vec<&Pod>, finding: &dyn Fn(String) -> Finding| {
        if let Some(first) = pods.first() {
            let more = if pods.len() > 1 { format!(" and {} more", pods.len() - 1) } else { String::new() };
            findings.push(finding(format!("{}{more}", first.name_any())));
        }
    };
    if let Ok(driver) = facts.driver() {
        let owned = |pod: &&Pod| {
            let owners = pod.metadata.owner_references.iter().flatten();
            owners.into_iter().any(|owner| {
                owner.controller == Some(true) && Some(&owner.uid) == driver.metadata.uid.as_ref()
            })
        };
        group(executors.iter().filter(|pod| !owned(pod)).collect(), &|which| {
            let what = format!("executor {which}: the driver's pod is not its controller");
            let why = "Rollcall leaves executors alone that do not belong to the fleet's driver";
            Finding::error("executor-not-owned", what, why)
                .set(format!("spark.kubernetes.driver.pod.name={}", facts.driver_name))
                .source("Kubernetes: metadata.ownerReferences")
        });
    }
    let numbered = |pod: &&Pod| pod.labels().get(EXECUTOR_ID).is_some_and(|id| id.parse::<u64>().is_ok());
    group(executors.iter().filter(|pod| !numbered(pod)).collect(), &|which| {
        let what = format!("executor {which}: the label {EXECUTOR_ID} is not a number");
        Finding::error("executor-id-unknown", what, "Rollcall cannot tell which executor it is")
            .set("spark.kubernetes.allocation.pods.allocator=direct")
            .source("Spark: deploy.k8s.Constants.SPARK_EXECUTOR_ID_LABEL")
    });
    let named = facts.fleet.spec.executor_container.as_deref();
    let guessed =
        |pod: &&Pod| container::executor(pod, named).is_none_or(|(_, found)| found == Found::Guessed);
    group(executors.iter().filter(guessed).collect(), &|which| {
        let what = format!("executor {which} has several containers, and none is known to be the executor's");
        Finding::warning(
            "executor-container-unknown",
            what,
            "the end of another container may be taken for the executor's",
        )
        .set("spec.executorContainer: NAME")
        .source("Kubernetes: pod spec.containers")
    });
    if facts.settings().and_then(|settings| settings.flag(DECOMMISSION, false)) == Ok(true) {
        let hooked = |pod: &&Pod| {
            executor_container(pod, named).is_none_or(|container| {
                container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.pre_stop.is_some())
            })
        };
        group(executors.iter().filter(|pod| !hooked(pod)).collect(), &|which| {
            let what = format!("executor {which} has no preStop hook, although decommissioning is on");
            Finding::error(
                "no-pre-stop-hook",
                what,
                "a rolled executor is not told to migrate its blocks, and ends at once",
            )
            .set("lifecycle.preStop.exec.command: [/opt/decom.sh] in the executor's container")
            .source("Spark: deploy.k8s.features.BasicExecutorFeatureStep")
        });
    }
    Ok(findings)
}

fn executor_container<'a>(pod: &'a Pod, named: Option<&str>) -> Option<&'a Container> {
    let (name, _) = container::executor(pod, named)?;
    pod.spec.as_ref()?.containers.iter().find(|container| container.name == name)
}

pub fn warnings(facts: &Facts) -> Checked {
    const SOURCE: &str = "Kubernetes: Events of the application's pods";
    let events = facts.warnings.as_ref().map_err(Clone::clone)?;
    let mut by_reason: BTreeMap<&str, (u32, &Warning)> = BTreeMap::new();
    for event in events {
        let (count, last) = by_reason.entry(&event.reason).or_insert((0, event));
        *count += event.count.unwrap_or(1).max(1);
        *last = event;
    }
    let mut findings = Vec::new();
    for (reason, (count, last)) in by_reason {
        let pod = &last.involved_object.name;
        let message: String = last.message.trim().chars().take(200).collect();
        let what = format!("{count} × {reason}, for instance {pod}: {message}");
        findings.push(if reason == "FailedPreStopHook" {
            let why = "executors are not told to migrate their blocks: is the script in their image?";
            Finding::warning("pre-stop-hook-fails", what, why)
                .set("spark.kubernetes.decommission.script=PATH")
                .source(SOURCE)
        } else {
            Finding::advice("warning-events", what, "the cluster warns about this application's pods")
                .set(format!("kubectl describe pod {pod} -n {}", facts.namespace.name))
                .source(SOURCE)
        });
    }
    Ok(findings)
}

/// Whether Rollcall runs at all.
pub fn daemon(facts: &Facts) -> Checked {
    let daemons = facts.daemons.as_ref().map_err(Clone::clone)?;
    if !daemons.is_empty() {
        return Ok(Vec::new());
    }
    let (key, value) = ROLLCALL_LABEL;
    let what = format!("namespace {} has no pod with the label {key}={value}", facts.home.name);
    let finding = Finding::warning("rollcall-not-running", what, "Rollcall does not seem to run there");
    Ok(vec![
        finding
            .set("kubectl apply -f deploy/rollcall.yaml, or --rollcall-namespace NAMESPACE")
            .source("Kubernetes: pods"),
    ])
}
