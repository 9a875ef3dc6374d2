//! An executor's pod: the fleet's template, completed with what Spark needs.
//!
//! It follows Spark's own code (`BasicExecutorFeatureStep`, `LocalDirsFeatureStep`,
//! `KubernetesExecutorBackend`): a stock image starts with the argument `executor` and finds everything in its
//! environment. Fields that the template sets are kept, except the identity (labels, name, owner, executor id),
//! which the template never sets. `{{APP_ID}}` and `{{EXECUTOR_ID}}` are substituted where Spark substitutes
//! them (JVM options, labels, annotations), and nowhere else.

mod advice;
mod quantity;
mod strict;
#[cfg(test)]
mod tests;

use fleet::id::ExecutorId;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use crate::container;
use crate::container::EXECUTOR_CONTAINER;
use crate::pod::{APP, APP_NAME, EXECUTOR_ID, INACTIVE, PROFILE_ID, ROLE, SPARK_VERSION};
pub use advice::RESERVED;
use quantity::Quantity;
pub use strict::KUBERNETES;

/// The one field of nodes that affinity can match. The label `kubernetes.io/hostname` may differ from it.
const NODE_NAME: &str = "metadata.name";
/// Spark: `LocalDirsFeatureStep` uses the mounts of volumes with this name prefix.
const LOCAL_DIRS: &str = "spark-local-dir-";
const LOCAL_DIR: &str = "spark-local-dir-1";
const LOCAL_PATH: &str = "/var/data/spark-local-dir-1";
/// Spark: `spark.blockManager.port`, the port's name is from `BasicExecutorFeatureStep`.
const BLOCK_MANAGER_PORT: i32 = 7_079;
/// Part of Spark's images; it sends SIGPWR and waits for the process to end.
const DECOMMISSION_SCRIPT: &str = "/opt/decom.sh";
/// Prefix of Spark's environment variables with JVM options.
const JAVA_OPTION: &str = "SPARK_JAVA_OPT_";

/// Settings that every executor gets about its application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spark {
    /// `spark://CoarseGrainedScheduler@<driver host>:<spark.driver.port>`.
    pub driver_url: String,
    /// Spark: `spark.executor.cores`.
    pub cores: u32,
    /// Spark: `spark.executor.memory`, the size of the heap, for instance `4g`.
    pub memory: String,
    pub user: Option<String>,
    /// Directory of Spark's configuration in the image.
    pub conf_dir: String,
    pub java_options: Vec<String>,
    pub resource_profile_id: u32,
    /// Spark: `spark.decommission.enabled`. A deletion then decommissions the executor: the container gets
    /// Spark's preStop hook.
    pub decommission: bool,
    /// Spark: `spark.kubernetes.local.dirs.tmpfs`.
    pub local_dirs_tmpfs: bool,
    /// Labels that Spark sets on the driver's pod; executors get the same.
    pub app_name: Option<String>,
    pub version: Option<String>,
}

/// A remark about a template, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// In the ExecutorFleet document, for instance `spec.template.spec.containers[0].env`.
    pub path: String,
    pub message: String,
    pub help: Option<String>,
    /// For an unknown field: the known fields.
    pub known: &'static [&'static str],
}

impl Remark {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Remark {
        Remark { path: path.into(), message: message.into(), help: None, known: &[] }
    }

    /// The same about a pod that is at this path, and not at `spec.template`.
    fn at(self, path: &str) -> Remark {
        Remark { path: self.path.replacen("spec.template", path, 1), ..self }
    }

    fn help(self, help: impl Into<String>) -> Remark {
        Remark { help: Some(help.into()), ..self }
    }
}

#[derive(Clone, Debug)]
pub struct Template {
    /// With everything that all executors have in common.
    pod: k8s::Pod,
    /// Index of the executor's container.
    at: usize,
    /// The pod as Spark describes it: nothing is added to it, and placeholders are substituted in all of it.
    as_is: Option<Value>,
    /// Parts that are valid, but probably not intended.
    pub advice: Vec<Remark>,
}

impl Template {
    /// Reads a `v1.PodTemplateSpec`, or returns all reasons why no pod can be created from it. `executor` is
    /// the name of the executor's container, if it is configured.
    pub fn new(template: &Value, spark: &Spark, executor: Option<&str>) -> Result<Template, Vec<Remark>> {
        let k8s::PodTemplateSpec { metadata, spec } = strict::read(template, "spec.template")?;
        let missing = || vec![Remark::new("spec.template.spec", "is required")];
        let mut spec = spec.ok_or_else(missing)?;
        let metadata = metadata.unwrap_or_default();
        let chosen = select(&spec.containers, executor).map_err(|remark| vec![remark])?;
        let container = &mut spec.containers[chosen.at];
        if container.name.is_empty() {
            EXECUTOR_CONTAINER.clone_into(&mut container.name);
        }
        let faults = faults(&spec, chosen.at);
        if !faults.is_empty() {
            return Err(faults);
        }
        let advice = advice::of(template, &spec, &chosen, spark);
        spec.restart_policy = Some("Never".to_owned());
        let local_dirs = local_dirs(&mut spec, chosen.at, spark.local_dirs_tmpfs);
        complete(&mut spec.containers[chosen.at], spark, local_dirs);
        let mut labels = metadata.labels.unwrap_or_default();
        // Spark's driver ignores pods with this label.
        labels.remove(INACTIVE);
        labels.insert(PROFILE_ID.to_owned(), spark.resource_profile_id.to_string());
        for (label, value) in [(APP_NAME, &spark.app_name), (SPARK_VERSION, &spark.version)] {
            if let Some(value) = value {
                labels.insert(label.to_owned(), value.clone());
            }
        }
        // From the template's metadata, only the fields that are not identity.
        let metadata = ObjectMeta {
            labels: Some(labels),
            annotations: metadata.annotations,
            finalizers: None,
            ..ObjectMeta::default()
        };
        let pod = k8s::Pod { metadata, spec: Some(spec), status: None };
        Ok(Template { pod, at: chosen.at, as_is: None, advice })
    }

    /// Reads an executor's pod that Spark itself has described: `spec.executorPod`.
    pub fn as_is(pod: &Value, executor: Option<&str>) -> Result<Template, Vec<Remark>> {
        const PATH: &str = "spec.executorPod";
        let k8s::PodTemplateSpec { metadata, spec } = strict::read(pod, PATH)?;
        let mut spec = spec.ok_or_else(|| vec![Remark::new(format!("{PATH}.spec"), "is required")])?;
        let chosen = select(&spec.containers, executor).map_err(|remark| vec![remark.at(PATH)])?;
        let faults = faults(&spec, chosen.at);
        if !faults.is_empty() {
            return Err(faults.into_iter().map(|fault| fault.at(PATH)).collect());
        }
        spec.restart_policy = Some("Never".to_owned());
        let ObjectMeta { labels, annotations, .. } = metadata.unwrap_or_default();
        let mut labels = labels.unwrap_or_default();
        labels.remove(INACTIVE);
        let metadata = ObjectMeta { labels: Some(labels), annotations, ..ObjectMeta::default() };
        let pod = k8s::Pod { metadata, spec: Some(spec), status: None };
        let as_is = serde_json::to_value(&pod).map_err(|error| vec![Remark::new(PATH, error.to_string())])?;
        Ok(Template { pod, at: chosen.at, as_is: Some(as_is), advice: Vec::new() })
    }

    /// The pod of one executor.
    pub fn pod(
        &self,
        application_id: &str,
        executor: ExecutorId,
        name: &str,
        owner: OwnerReference,
        avoid_nodes: &[Box<str>],
    ) -> k8s::Pod {
        let id = executor.to_string();
        let mut pod = self.as_spark_makes_it(&id).unwrap_or_else(|| self.completed(application_id, &id));
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.owner_references = Some(vec![owner]);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(APP.to_owned(), application_id.to_owned());
        labels.insert(ROLE.to_owned(), "executor".to_owned());
        labels.insert(EXECUTOR_ID.to_owned(), id);
        if let Some(spec) = pod.spec.as_mut().filter(|_| !avoid_nodes.is_empty()) {
            avoid(spec, avoid_nodes);
        }
        pod
    }

    fn as_spark_makes_it(&self, id: &str) -> Option<k8s::Pod> {
        let mut value = self.as_is.clone()?;
        substitute_all(&mut value, id);
        // A text that is not a number stays one that is not: the value was read before.
        serde_json::from_value(value).ok()
    }

    /// The template's pod, with placeholders substituted where Spark does that.
    fn completed(&self, application_id: &str, id: &str) -> k8s::Pod {
        let mut pod = self.pod.clone();
        let maps = [&mut pod.metadata.labels, &mut pod.metadata.annotations];
        for text in maps.into_iter().flatten().flat_map(|map| map.values_mut()) {
            substitute(text, application_id, id);
        }
        let container = pod.spec.as_mut().and_then(|spec| spec.containers.get_mut(self.at));
        if let Some(container) = container {
            for variable in container.env.iter_mut().flatten() {
                let Some(text) = &mut variable.value else { continue };
                if variable.name.starts_with(JAVA_OPTION) {
                    substitute(text, application_id, id);
                } else if variable.name == "SPARK_EXECUTOR_DIRS" {
                    // Spark's own placeholders in this one variable.
                    *text =
                        text.replace("SPARK_APPLICATION_ID", application_id).replace("SPARK_EXECUTOR_ID", id);
                }
            }
            set_first(container, variable("SPARK_EXECUTOR_ID", id));
            set_first(container, variable("SPARK_APPLICATION_ID", application_id));
        }
        pod
    }

    /// `terminationGracePeriodSeconds`: the grace period of a deleted pod, unless the deletion sets another.
    pub fn grace_s(&self) -> Option<i64> {
        self.pod.spec.as_ref()?.termination_grace_period_seconds
    }
}

/// The executor's container.
struct Chosen {
    at: usize,
    /// Nothing identifies it as the executor's.
    guessed: bool,
}

/// Selects the executor's container. Spark takes the one that is named in its settings, otherwise the first.
fn select(containers: &[k8s::Container], executor: Option<&str>) -> Result<Chosen, Remark> {
    let names = || containers.iter().map(|container| &*container.name).collect::<Vec<_>>().join(", ");
    if containers.is_empty() {
        let path = "spec.template.spec.containers";
        return Err(Remark::new(path, "a template needs the executor's container"));
    }
    if let Some(name) = executor {
        let at = containers.iter().position(|container| container.name == name);
        return at.map(|at| Chosen { at, guessed: false }).ok_or_else(|| {
            let message = format!("no container of the template is called {name:?}");
            Remark::new("spec.executorContainer", message).help(format!("there are {}", names()))
        });
    }
    let is_told = |container: &k8s::Container| {
        container.env.iter().flatten().any(|env| env.name == "SPARK_EXECUTOR_ID")
    };
    let runs_it = |container: &k8s::Container| container::words(container).any(|word| word == "executor");
    let is_called = |container: &k8s::Container| container.name == EXECUTOR_CONTAINER;
    // The executor id in the environment is the weakest sign: log shippers have it, too.
    let signs: [&dyn Fn(&k8s::Container) -> bool; 3] = [&runs_it, &is_called, &is_told];
    for sign in signs {
        let mut found = (0..).zip(containers).filter(|(_, container)| sign(container));
        if let (Some((at, _)), None) = (found.next(), found.next()) {
            return Ok(Chosen { at, guessed: false });
        }
    }
    Ok(Chosen { at: 0, guessed: containers.len() > 1 })
}

/// Reasons why the API server would refuse each pod, and settings that an executor's pod must not have.
fn faults(spec: &k8s::PodSpec, at: usize) -> Vec<Remark> {
    let mut faults = Vec::new();
    let never = |policy: &Option<String>| matches!(policy.as_deref(), None | Some("Never"));
    let restarts = "must be Never: a restarted container would come back under an id that is used up";
    if !never(&spec.restart_policy) {
        faults.push(Remark::new("spec.template.spec.restartPolicy", restarts));
    }
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        let path = "spec.template.spec.terminationGracePeriodSeconds";
        faults.push(Remark::new(path, "must not be negative"));
    }
    let init = (0..).zip(spec.init_containers.iter().flatten()).map(|(at, one)| ("initContainers", at, one));
    let main = (0..).zip(&spec.containers).map(|(at, one)| ("containers", at, one));
    let mut names = Vec::new();
    for (list, index, container) in init.chain(main) {
        let path = format!("spec.template.spec.{list}[{index}]");
        let is_executor = list == "containers" && index == at;
        if is_executor && (!never(&container.restart_policy) || container.restart_policy_rules.is_some()) {
            faults.push(Remark::new(format!("{path}.restartPolicy"), restarts));
        }
        let name = container.name.as_str();
        if name.is_empty() {
            faults.push(Remark::new(format!("{path}.name"), "is required"));
        } else if names.contains(&name) {
            faults.push(Remark::new(format!("{path}.name"), format!("two containers are called {name:?}")));
        }
        names.push(name);
        let Some(resources) = &container.resources else { continue };
        for (resource, request) in resources.requests.iter().flatten() {
            let Some(limit) = resources.limits.as_ref().and_then(|limits| limits.get(resource)) else {
                continue;
            };
            if Quantity::parse(&request.0) > Quantity::parse(&limit.0) {
                let path = format!("{path}.resources.requests.{resource}");
                faults.push(Remark::new(path, format!("{} is more than the limit, {}", request.0, limit.0)));
            }
        }
    }
    faults
}

/// In all texts, as the placeholder stands for an id that Spark would have put there.
fn substitute_all(value: &mut Value, id: &str) {
    match value {
        Value::String(text) if text.contains("{{") => *text = text.replace("{{EXECUTOR_ID}}", id),
        Value::Array(items) => items.iter_mut().for_each(|item| substitute_all(item, id)),
        Value::Object(fields) => fields.values_mut().for_each(|field| substitute_all(field, id)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn substitute(text: &mut String, application_id: &str, executor: &str) {
    if text.contains("{{") {
        *text = text.replace("{{APP_ID}}", application_id).replace("{{EXECUTOR_ID}}", executor);
    }
}

/// Adds what Spark puts into the container, where the template does not set it.
fn complete(container: &mut k8s::Container, spark: &Spark, local_dirs: Option<String>) {
    if container.command.is_none() && container.args.is_none() {
        container.args = Some(vec!["executor".to_owned()]);
    }
    if spark.decommission {
        let lifecycle = container.lifecycle.get_or_insert_default();
        lifecycle.pre_stop.get_or_insert_with(|| k8s::LifecycleHandler {
            exec: Some(k8s::ExecAction { command: Some(vec![DECOMMISSION_SCRIPT.to_owned()]) }),
            ..k8s::LifecycleHandler::default()
        });
    }
    let ports = container.ports.get_or_insert_default();
    if !ports.iter().any(|port| port.container_port == BLOCK_MANAGER_PORT) {
        ports.push(k8s::ContainerPort {
            name: Some("blockmanager".to_owned()),
            container_port: BLOCK_MANAGER_PORT,
            protocol: Some("TCP".to_owned()),
            ..k8s::ContainerPort::default()
        });
    }
    default(container, "SPARK_DRIVER_URL", &spark.driver_url);
    default(container, "SPARK_EXECUTOR_CORES", &spark.cores.to_string());
    default(container, "SPARK_EXECUTOR_MEMORY", &spark.memory);
    default(container, "SPARK_CONF_DIR", &spark.conf_dir);
    default(container, "SPARK_RESOURCE_PROFILE_ID", &spark.resource_profile_id.to_string());
    if let Some(user) = &spark.user {
        default(container, "SPARK_USER", user);
    }
    if let Some(local_dirs) = local_dirs {
        default(container, "SPARK_LOCAL_DIRS", &local_dirs);
    }
    for (index, option) in spark.java_options.iter().enumerate() {
        default(container, &format!("{JAVA_OPTION}{index}"), option);
    }
    set_first(container, field("SPARK_EXECUTOR_POD_NAME", "metadata.name"));
    set_first(container, field("SPARK_EXECUTOR_POD_IP", "status.podIP"));
}

/// Directories for shuffle and spill files, unless the environment sets them: the mounts that are meant for
/// them, in their order, otherwise a volume that Rollcall adds.
fn local_dirs(spec: &mut k8s::PodSpec, at: usize, tmpfs: bool) -> Option<String> {
    let container = &mut spec.containers[at];
    if container.env.iter().flatten().any(|env| env.name == "SPARK_LOCAL_DIRS") {
        return None;
    }
    let mounts = container.volume_mounts.get_or_insert_default();
    let theirs = mounts.iter().filter(|mount| mount.name.starts_with(LOCAL_DIRS));
    let theirs: Vec<&str> = theirs.map(|mount| mount.mount_path.as_str()).collect();
    if !theirs.is_empty() {
        return Some(theirs.join(","));
    }
    mounts.push(k8s::VolumeMount {
        name: LOCAL_DIR.to_owned(),
        mount_path: LOCAL_PATH.to_owned(),
        ..k8s::VolumeMount::default()
    });
    let volumes = spec.volumes.get_or_insert_default();
    // The volume may exist and only lack its mount.
    if !volumes.iter().any(|volume| volume.name == LOCAL_DIR) {
        let medium = tmpfs.then(|| "Memory".to_owned());
        volumes.push(k8s::Volume {
            name: LOCAL_DIR.to_owned(),
            empty_dir: Some(k8s::EmptyDirVolumeSource { medium, ..k8s::EmptyDirVolumeSource::default() }),
            ..k8s::Volume::default()
        });
    }
    Some(LOCAL_PATH.to_owned())
}

fn variable(name: &str, value: &str) -> k8s::EnvVar {
    k8s::EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn field(name: &str, path: &str) -> k8s::EnvVar {
    let field_ref =
        k8s::ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() };
    k8s::EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(k8s::EnvVarSource { field_ref: Some(field_ref), ..k8s::EnvVarSource::default() }),
    }
}

/// Sets a variable, overriding the template's. Kubernetes expands `$(NAME)` only in variables that come later,
/// so the variables that differ between executors come first.
fn set_first(container: &mut k8s::Container, variable: k8s::EnvVar) {
    let env = container.env.get_or_insert_default();
    env.retain(|known| known.name != variable.name);
    env.insert(0, variable);
}

fn default(container: &mut k8s::Container, name: &str, value: &str) {
    let env = container.env.get_or_insert_default();
    if !env.iter().any(|known| known.name == name) {
        env.push(variable(name, value));
    }
}

/// Excludes these nodes in every term, because terms are alternatives.
fn avoid(spec: &mut k8s::PodSpec, nodes: &[Box<str>]) {
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(k8s::NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        // Kubernetes allows one value for each requirement on a field.
        let others = nodes.iter().map(|node| k8s::NodeSelectorRequirement {
            key: NODE_NAME.to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(vec![node.to_string()]),
        });
        term.match_fields.get_or_insert_default().extend(others);
    }
}
