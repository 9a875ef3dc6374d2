//! An executor's pod: the fleet's template, and what Spark needs in it.
//!
//! Spark's own factory is the model (`BasicExecutorFeatureStep`, `KubernetesExecutorBackend`): a stock
//! image starts with the argument `executor` and finds everything in its environment. What the template
//! says itself stays as it is; identity (labels, name, owner, executor id) is never the template's.

use fleet::id::ExecutorId;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use crate::pod::{APP, EXECUTOR_CONTAINER, EXECUTOR_ID, ROLE};

const HOSTNAME: &str = "kubernetes.io/hostname";
const LOCAL_DIR: &str = "spark-local-dir-1";
const LOCAL_PATH: &str = "/var/data/spark-local-dir-1";
/// Spark: `spark.blockManager.port`, named so by `BasicExecutorFeatureStep`.
const BLOCK_MANAGER_PORT: i32 = 7_079;
/// Spark's images have it; it sends SIGPWR and waits for the end of the process.
const DECOMMISSION_SCRIPT: &str = "/opt/decom.sh";

/// What every executor is told about its application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spark {
    /// `spark://CoarseGrainedScheduler@<driver host>:<spark.driver.port>`.
    pub driver_url: String,
    /// Spark: `spark.executor.cores`.
    pub cores: u32,
    /// Spark: `spark.executor.memory`, the size of the heap, for instance `4g`.
    pub memory: String,
    pub user: Option<String>,
    /// Where the image has Spark's configuration.
    pub conf_dir: String,
    pub java_options: Vec<String>,
    pub resource_profile_id: u32,
    /// Spark: `spark.decommission.enabled`. A deletion is then a decommission: the container gets Spark's
    /// preStop hook.
    pub decommission: bool,
}

#[derive(Clone, Debug)]
pub struct Template {
    /// With everything that is the same for all executors.
    pod: k8s::Pod,
    /// Index of the executor's container.
    at: usize,
}

impl Template {
    /// From a `v1.PodTemplateSpec`. The error starts with the path of what is wrong.
    pub fn new(template: &Value, spark: &Spark) -> Result<Template, String> {
        let k8s::PodTemplateSpec { metadata, spec } = serde_json::from_value(template.clone())
            .map_err(|error| format!("spec.template: it is no PodTemplateSpec: {error}"))?;
        let mut spec = spec.ok_or("spec.template.spec: it is missing")?;
        let named = spec.containers.iter().position(|container| container.name == EXECUTOR_CONTAINER);
        if spec.containers.is_empty() {
            return Err("spec.template.spec.containers: a template needs the executor's container".to_owned());
        }
        let at = named.unwrap_or_default();
        if !matches!(spec.restart_policy.as_deref(), None | Some("Never")) {
            return Err("spec.template.spec.restartPolicy: must be Never: a restarted container would come back under an id that is used up".to_owned());
        }
        spec.restart_policy = Some("Never".to_owned());
        let local_dirs = local_dirs(&mut spec, at);
        complete(&mut spec.containers[at], spark, local_dirs);
        let metadata = metadata.unwrap_or_default();
        // Of the template's metadata only what is not identity.
        let metadata = ObjectMeta {
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: None,
            ..ObjectMeta::default()
        };
        Ok(Template { pod: k8s::Pod { metadata, spec: Some(spec), status: None }, at })
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
        let mut pod = self.pod.clone();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.owner_references = Some(vec![owner]);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(APP.to_owned(), application_id.to_owned());
        labels.insert(ROLE.to_owned(), "executor".to_owned());
        labels.insert(EXECUTOR_ID.to_owned(), executor.to_string());
        let Some(spec) = &mut pod.spec else { return pod };
        if let Some(container) = spec.containers.get_mut(self.at) {
            set(container, "SPARK_APPLICATION_ID", application_id);
            set(container, "SPARK_EXECUTOR_ID", &executor.to_string());
        }
        if !avoid_nodes.is_empty() {
            avoid(spec, avoid_nodes);
        }
        pod
    }
}

/// What Spark puts into the container, where the template does not.
fn complete(container: &mut k8s::Container, spark: &Spark, local_dirs: bool) {
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
    if local_dirs {
        default(container, "SPARK_LOCAL_DIRS", LOCAL_PATH);
    }
    for (index, option) in spark.java_options.iter().enumerate() {
        default(container, &format!("SPARK_JAVA_OPT_{index}"), option);
    }
    field(container, "SPARK_EXECUTOR_POD_IP", "status.podIP");
    field(container, "SPARK_EXECUTOR_POD_NAME", "metadata.name");
}

/// A volume for shuffle and spill files, unless the template has its own. Whether it was added.
fn local_dirs(spec: &mut k8s::PodSpec, at: usize) -> bool {
    let theirs = |mount: &k8s::VolumeMount| mount.name.starts_with("spark-local-dir");
    let container = &mut spec.containers[at];
    let env = container.env.iter().flatten().any(|env| env.name == "SPARK_LOCAL_DIRS");
    if env || container.volume_mounts.iter().flatten().any(theirs) {
        return false;
    }
    container.volume_mounts.get_or_insert_default().push(k8s::VolumeMount {
        name: LOCAL_DIR.to_owned(),
        mount_path: LOCAL_PATH.to_owned(),
        ..k8s::VolumeMount::default()
    });
    spec.volumes.get_or_insert_default().push(k8s::Volume {
        name: LOCAL_DIR.to_owned(),
        empty_dir: Some(k8s::EmptyDirVolumeSource::default()),
        ..k8s::Volume::default()
    });
    true
}

/// Sets a variable, whatever the template says.
fn set(container: &mut k8s::Container, name: &str, value: &str) {
    let env = container.env.get_or_insert_default();
    env.retain(|variable| variable.name != name);
    env.push(k8s::EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None });
}

fn default(container: &mut k8s::Container, name: &str, value: &str) {
    if !container.env.iter().flatten().any(|variable| variable.name == name) {
        set(container, name, value);
    }
}

fn field(container: &mut k8s::Container, name: &str, path: &str) {
    let env = container.env.get_or_insert_default();
    env.retain(|variable| variable.name != name);
    let field_ref =
        k8s::ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() };
    env.push(k8s::EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(k8s::EnvVarSource { field_ref: Some(field_ref), ..k8s::EnvVarSource::default() }),
    });
}

/// Not on these nodes: in every term, because terms are alternatives.
fn avoid(spec: &mut k8s::PodSpec, nodes: &[Box<str>]) {
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(k8s::NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_expressions.get_or_insert_default().push(k8s::NodeSelectorRequirement {
            key: HOSTNAME.to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(nodes.iter().map(ToString::to_string).collect()),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn environment(container: &k8s::Container) -> BTreeMap<&str, Option<&str>> {
        let variables = container.env.iter().flatten();
        variables.map(|variable| (&*variable.name, variable.value.as_deref())).collect()
    }

    fn spark() -> Spark {
        Spark {
            driver_url: "spark://CoarseGrainedScheduler@10.0.0.1:7078".to_owned(),
            cores: 2,
            memory: "4g".to_owned(),
            user: Some("ann".to_owned()),
            conf_dir: "/opt/spark/conf".to_owned(),
            java_options: vec!["-Dx=y".to_owned(), "--add-opens=a/b=ALL-UNNAMED".to_owned()],
            resource_profile_id: 0,
            decommission: true,
        }
    }

    fn owner() -> OwnerReference {
        OwnerReference { uid: "driver-uid".to_owned(), controller: Some(true), ..OwnerReference::default() }
    }

    fn made(template: Value, avoid: &[Box<str>]) -> k8s::Pod {
        let template = Template::new(&template, &spark()).unwrap();
        template.pod("spark-1", ExecutorId(7), "f-exec-7", owner(), avoid)
    }

    /// Every item of what an executor's pod needs, in the order of Spark's own factory.
    #[test]
    fn a_pod_has_what_spark_needs() {
        let pod = made(
            json!({"spec": {"containers": [{"name": "spark-kubernetes-executor", "image": "spark:4"}]}}),
            &[],
        );
        let labels = pod.metadata.labels.as_ref().unwrap();
        for (label, value) in [(APP, "spark-1"), (ROLE, "executor"), (EXECUTOR_ID, "7")] {
            assert_eq!(labels[label], value);
        }
        assert_eq!(pod.metadata.name.as_deref(), Some("f-exec-7"));
        assert_eq!(pod.metadata.owner_references, Some(vec![owner()]));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
        let container = &spec.containers[0];
        assert_eq!(container.args, Some(vec!["executor".to_owned()]));
        let hook = container.lifecycle.as_ref().unwrap().pre_stop.as_ref().unwrap().exec.as_ref().unwrap();
        assert_eq!(hook.command, Some(vec!["/opt/decom.sh".to_owned()]));
        assert_eq!(container.ports.as_ref().unwrap()[0].container_port, 7_079);
        let env = environment(container);
        for (name, value) in [
            ("SPARK_DRIVER_URL", "spark://CoarseGrainedScheduler@10.0.0.1:7078"),
            ("SPARK_EXECUTOR_CORES", "2"),
            ("SPARK_EXECUTOR_MEMORY", "4g"),
            ("SPARK_APPLICATION_ID", "spark-1"),
            ("SPARK_CONF_DIR", "/opt/spark/conf"),
            ("SPARK_EXECUTOR_ID", "7"),
            ("SPARK_RESOURCE_PROFILE_ID", "0"),
            ("SPARK_USER", "ann"),
            ("SPARK_JAVA_OPT_0", "-Dx=y"),
            ("SPARK_JAVA_OPT_1", "--add-opens=a/b=ALL-UNNAMED"),
            ("SPARK_LOCAL_DIRS", LOCAL_PATH),
        ] {
            assert_eq!(env.get(name), Some(&Some(value)), "{name}");
        }
        let path = |name: &str| {
            let variable = container.env.iter().flatten().find(|variable| variable.name == name).unwrap();
            variable.value_from.as_ref().unwrap().field_ref.as_ref().unwrap().field_path.clone()
        };
        assert_eq!(path("SPARK_EXECUTOR_POD_IP"), "status.podIP");
        assert_eq!(path("SPARK_EXECUTOR_POD_NAME"), "metadata.name");
        assert_eq!(spec.volumes.as_ref().unwrap()[0].name, container.volume_mounts.as_ref().unwrap()[0].name);
    }

    #[test]
    fn a_template_keeps_its_word_but_not_another_identity() {
        let pod = made(
            json!({
                "metadata": {
                    "name": "mine", "labels": {"team": "a", "spark-exec-id": "99"}, "finalizers": ["x/y"],
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "z", "uid": "z"}]
                },
                "spec": {"containers": [
                    {"name": "proxy"},
                    {"name": "spark-kubernetes-executor", "command": ["/run"],
                     "env": [{"name": "SPARK_EXECUTOR_ID", "value": "99"}, {"name": "SPARK_USER", "value": "bob"},
                             {"name": "SPARK_LOCAL_DIRS", "value": "/scratch"}],
                     "lifecycle": {"preStop": {"exec": {"command": ["/mine"]}}}}
                ]}
            }),
            &[],
        );
        let labels = pod.metadata.labels.as_ref().unwrap();
        assert_eq!((labels["team"].as_str(), labels[EXECUTOR_ID].as_str()), ("a", "7"));
        assert_eq!(
            (pod.metadata.finalizers.as_ref(), pod.metadata.name.as_deref()),
            (None, Some("f-exec-7"))
        );
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(
            (spec.containers[0].env.as_ref(), spec.volumes.as_ref()),
            (None, None),
            "the proxy is theirs"
        );
        let container = &spec.containers[1];
        let env = environment(container);
        assert_eq!((env["SPARK_EXECUTOR_ID"], env["SPARK_USER"]), (Some("7"), Some("bob")));
        assert_eq!((container.args.as_ref(), env["SPARK_LOCAL_DIRS"]), (None, Some("/scratch")));
        let hook = container.lifecycle.as_ref().unwrap().pre_stop.as_ref().unwrap().exec.as_ref().unwrap();
        assert_eq!(hook.command, Some(vec!["/mine".to_owned()]));
    }

    #[test]
    fn avoided_nodes_are_avoided_in_every_alternative() {
        let expression = |key: &str| json!({"matchExpressions": [{"key": key, "operator": "Exists"}]});
        let template = json!({"spec": {
            "containers": [{"name": "x"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [expression("a"), expression("b")]}}}
        }});
        for (template, terms) in [(template, 2), (json!({"spec": {"containers": [{"name": "x"}]}}), 1)] {
            let pod = made(template, &["n1".into(), "n2".into()]);
            let affinity = pod.spec.unwrap().affinity.unwrap().node_affinity.unwrap();
            let all =
                affinity.required_during_scheduling_ignored_during_execution.unwrap().node_selector_terms;
            assert_eq!(all.len(), terms);
            for term in all {
                let last = term.match_expressions.unwrap().pop().unwrap();
                assert_eq!((last.operator.as_str(), last.values.unwrap().len()), ("NotIn", 2));
            }
        }
    }

    #[test]
    fn a_template_that_cannot_work_is_refused_with_its_path() {
        for (template, path) in [
            (json!({}), "spec.template.spec:"),
            (json!({"spec": {"containers": []}}), "spec.template.spec.containers:"),
            (json!({"spec": {"containers": "x"}}), "spec.template:"),
            (
                json!({"spec": {"containers": [{"name": "x"}], "restartPolicy": "Always"}}),
                "spec.template.spec.restartPolicy:",
            ),
        ] {
            let error = Template::new(&template, &spark()).unwrap_err();
            assert!(error.starts_with(path), "{error}");
        }
    }
}
