//! The ExecutorFleetClass document: which drivers, and the fleet that each of them gets.
//!
//! `spec.fleet` is an ExecutorFleet's spec without the driver's pod. It is read by the reader of ExecutorFleets, with a
//! driver that stands in for all, so both documents know the same fields and give the same errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fleet::classes::{self, Is};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::document::{ApiVersion, Mode};
use super::value::Millis;
use super::{FleetConfig, Problem};
use crate::resource::ClassStatus;

/// Annotations of a driver's pod that override its class: `rollcall.dev/mode` and so on. Spark sets them with
/// `spark.kubernetes.driver.annotation.rollcall.dev/mode=Observe`.
pub const ANNOTATIONS: &str = "rollcall.dev/";

/// Which drivers have a fleet although no ExecutorFleet names them, and what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecutorFleetClass {
    pub api_version: ApiVersion,
    pub kind: Kind,
    pub metadata: Metadata,
    pub spec: ClassSpec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    ExecutorFleetClass,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The name of the class.
    pub name: String,
    /// For other tools.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// For other tools.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "rollcall.dev",
    version = "v1alpha1",
    kind = "ExecutorFleetClass",
    root = "ClassResource",
    status = "ClassStatus",
    doc = "Which drivers have a fleet although no ExecutorFleet names them, and what it is.",
    shortname = "fleetclasses",
    shortname = "fleetclass",
    shortname = "efc",
    category = "rollcall",
    printcolumn(name = "Namespaces", type_ = "string", json_path = ".spec.namespaces"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.fleet.mode"),
    printcolumn(name = "Fleets", type_ = "integer", json_path = ".status.fleets"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[allow(clippy::duplicated_attributes, reason = "each column has a type and a path")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClassSpec {
    /// What the labels of a driver's pod must be. Without it: any. Spark sets labels with
    /// spark.kubernetes.driver.label.NAME.
    #[serde(default)]
    pub selector: Selector,
    /// The namespaces of drivers. Without it: all, and Rollcall needs a ClusterRole to watch pods.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Which settings an annotation of a driver's pod may override: rollcall.dev/mode, rollcall.dev/roll-policies,
    /// rollcall.dev/roll-interval, rollcall.dev/paused, rollcall.dev/dry-run. Without it: all of these.
    #[serde(default = "every_override")]
    pub overrides: Vec<Override>,
    /// The spec of each driver's fleet: that of an ExecutorFleet, without driver.podName and applicationId. Without
    /// executors: 0, which with mode Observe means as many as there are.
    #[schemars(schema_with = "anything")]
    pub fleet: Map<String, Value>,
}

/// The definition of the custom resource has the whole schema.
fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// A label selector of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels and their values.
    pub match_labels: BTreeMap<String, String>,
    pub match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expression {
    /// The label.
    pub key: String,
    pub operator: Operator,
    /// With In and NotIn.
    #[serde(default)]
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// A setting that an annotation may override.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Override {
    /// `rollcall.dev/mode`: spec.mode.
    Mode,
    /// `rollcall.dev/roll-policies`: spec.roll.policies, separated by commas.
    RollPolicies,
    /// `rollcall.dev/roll-interval`: spec.roll.interval.
    RollInterval,
    /// `rollcall.dev/paused`: spec.paused.
    Paused,
    /// `rollcall.dev/dry-run`: spec.dryRun.
    DryRun,
}

impl Override {
    const ALL: [Override; 5] =
        [Override::Mode, Override::RollPolicies, Override::RollInterval, Override::Paused, Override::DryRun];

    /// The annotation without [`ANNOTATIONS`].
    fn annotation(self) -> &'static str {
        match self {
            Override::Mode => "mode",
            Override::RollPolicies => "roll-policies",
            Override::RollInterval => "roll-interval",
            Override::Paused => "paused",
            Override::DryRun => "dry-run",
        }
    }
}

fn every_override() -> Vec<Override> {
    Override::ALL.to_vec()
}

/// A class and its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassConfig {
    pub document: ExecutorFleetClass,
    /// What the core needs of it.
    pub class: classes::Class,
    /// The fleet of a driver that stands in for all.
    pub fleet: FleetConfig,
}

/// The name of the driver that stands in.
const STAND_IN: &str = "driver";

impl ClassConfig {
    /// Reads a class. `fleet` reads an ExecutorFleet that is written as JSON.
    pub(super) fn new(
        file: &Path,
        document: ExecutorFleetClass,
        fleet: impl FnOnce(Value) -> Result<FleetConfig, Vec<Problem>>,
    ) -> Result<ClassConfig, Vec<Problem>> {
        let mut problems = problems(file, &document);
        let mut spec = document.spec.fleet.clone();
        spec.entry("executors").or_insert(json!(0));
        let driver = spec.entry("driver").or_insert_with(|| json!({}));
        let named = driver.get("podName").is_some();
        for (field, there) in
            [("driver.podName", named), ("applicationId", spec.contains_key("applicationId"))]
        {
            if there {
                let problem = Problem::new(file.to_owned(), "is each driver's own: a class has none");
                let problem = problem.at(&format!("spec.fleet.{field}"));
                problems.push(problem.help("leave it out, or write an ExecutorFleet for this one driver"));
            }
        }
        let driver = spec.entry("driver").or_insert_with(|| json!({}));
        if let Some(driver) = driver.as_object_mut() {
            driver.insert("podName".to_owned(), STAND_IN.into());
        }
        let whole = json!({
            "apiVersion": document.api_version, "kind": "ExecutorFleet",
            "metadata": { "name": STAND_IN, "namespace": STAND_IN }, "spec": spec,
        });
        match fleet(whole) {
            Ok(fleet) if problems.is_empty() => {
                let class = document.class();
                Ok(ClassConfig { document, class, fleet })
            }
            Ok(_) => Err(problems),
            Err(found) => {
                Err(problems.into_iter().chain(found.into_iter().map(ClassConfig::in_class)).collect())
            }
        }
    }

    /// A problem of the fleet, at its place in the class.
    pub fn in_class(mut problem: Problem) -> Problem {
        problem.path = problem.path.replacen("spec", "spec.fleet", 1);
        problem.help = problem.help.map(|help| help.replace("`spec.", "`spec.fleet."));
        problem
    }

    pub(super) fn of_document(mut self, document: u32) -> ClassConfig {
        self.fleet.document = document;
        self
    }

    pub fn name(&self) -> &str {
        &self.class.name
    }

    /// The document with all its defaults.
    pub fn effective(&self) -> ExecutorFleetClass {
        let mut document = self.document.clone();
        if let Ok(Value::Object(mut fleet)) = serde_json::to_value(&self.fleet.effective().spec) {
            fleet.get_mut("driver").and_then(Value::as_object_mut).map(|driver| driver.remove("podName"));
            fleet.remove("applicationId");
            document.spec.fleet = fleet;
        }
        document
    }

    /// The fleet of a driver: the class's, with what annotations of its pod override. Also why an annotation has no effect.
    pub fn fleet_of(
        &self,
        namespace: &str,
        pod: &str,
        annotations: &BTreeMap<String, String>,
    ) -> (FleetConfig, Vec<String>) {
        let mut config = self.fleet.clone();
        config.file = PathBuf::from(format!("ExecutorFleetClass {}", self.name()));
        let metadata = &mut config.fleet.metadata;
        metadata.name = classes::fleet_name(pod);
        namespace.clone_into(&mut metadata.namespace);
        metadata.labels.insert(CLASS_LABEL.to_owned(), self.name().to_owned());
        pod.clone_into(&mut config.fleet.spec.driver.pod_name);
        let mut ignored = Vec::new();
        for one in Override::ALL {
            let name = format!("{ANNOTATIONS}{}", one.annotation());
            let Some(value) = annotations.get(&name) else { continue };
            let allowed = self.document.spec.overrides.contains(&one);
            let applied = if allowed {
                apply(one, value, &mut config)
            } else {
                Err("the class does not allow it".to_owned())
            };
            if let Err(why) = applied {
                ignored.push(format!("annotation {name}={value:?} has no effect: {why}"));
            }
        }
        (config, ignored)
    }
}

/// The label of a fleet that its class made.
pub const CLASS_LABEL: &str = "rollcall.dev/class";

fn apply(one: Override, value: &str, config: &mut FleetConfig) -> Result<(), String> {
    let spec = &mut config.fleet.spec;
    let flag = || match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("it must be true or false".to_owned()),
    };
    let no_roll = || "the class has no roll settings".to_owned();
    match one {
        Override::Mode => match value {
            "Observe" if spec.mode == Mode::Own => {
                (spec.mode, spec.template, spec.executor_pod, spec.spark) = (Mode::Observe, None, None, None);
                (spec.resource_profile, spec.scale_down) = (None, super::document::ScaleDown::default());
            }
            "Observe" => {}
            "Own" if spec.mode == Mode::Own => {}
            "Own" => return Err("the class has no template to make executors from".to_owned()),
            _ => return Err("it must be Own or Observe".to_owned()),
        },
        Override::RollPolicies => {
            let roll = spec.roll.as_mut().ok_or_else(no_roll)?;
            roll.policies = value.split(',').map(|name| name.trim().to_owned()).collect();
        }
        Override::RollInterval => {
            let interval: Millis = serde_json::from_value(value.into()).map_err(|error| error.to_string())?;
            spec.roll.as_mut().ok_or_else(no_roll)?.interval = interval;
        }
        Override::Paused => spec.paused = flag()?,
        Override::DryRun => spec.dry_run = flag()?,
    }
    Ok(())
}

impl ExecutorFleetClass {
    /// What the core needs of it.
    fn class(&self) -> classes::Class {
        let Selector { match_labels, match_expressions } = &self.spec.selector;
        let labels = match_labels.iter().map(|(key, value)| (key.clone(), Is::In(vec![value.clone()])));
        let expressions = match_expressions.iter().map(|one| {
            let is = match one.operator {
                Operator::In => Is::In(one.values.clone()),
                Operator::NotIn => Is::NotIn(one.values.clone()),
                Operator::Exists => Is::Exists,
                Operator::DoesNotExist => Is::DoesNotExist,
            };
            (one.key.clone(), is)
        });
        let requirements = labels.chain(expressions).map(|(key, is)| classes::Requirement { key, is });
        classes::Class {
            name: self.metadata.name.clone(),
            namespaces: self.spec.namespaces.clone(),
            requirements: requirements.collect(),
        }
    }
}

fn problems(file: &Path, document: &ExecutorFleetClass) -> Vec<Problem> {
    use embedded::server::names::{is_label, is_subdomain};
    let mut problems = Vec::new();
    let mut refuse_if = |wrong: bool, path: &str, message: String, help: &str| {
        if wrong {
            problems.push(Problem::new(file.to_owned(), message).at(path).help(help));
        }
    };
    let name = &document.metadata.name;
    let help = "1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends";
    refuse_if(!is_label(name), "metadata.name", format!("{name:?} is not the name of a class"), help);
    for (at, namespace) in document.spec.namespaces.iter().enumerate() {
        let path = format!("spec.namespaces[{at}]");
        refuse_if(!is_label(namespace), &path, format!("{namespace:?} is not a namespace"), help);
    }
    for (at, one) in document.spec.selector.match_expressions.iter().enumerate() {
        let path = format!("spec.selector.matchExpressions[{at}]");
        let lists = matches!(one.operator, Operator::In | Operator::NotIn);
        let wrong = lists == one.values.is_empty();
        let message = if lists { "needs values" } else { "takes no values" };
        refuse_if(wrong, &format!("{path}.values"), message.to_owned(), "as in a Deployment's selector");
    }
    let expressions = document.spec.selector.match_expressions.iter().map(|one| &one.key);
    for key in document.spec.selector.match_labels.keys().chain(expressions) {
        let name = key.rsplit('/').next().unwrap_or_default();
        let prefix = key.strip_suffix(name).and_then(|prefix| prefix.strip_suffix('/'));
        let valid = !name.is_empty()
            && name.len() <= 63
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && prefix.is_none_or(is_subdomain);
        refuse_if(
            !valid,
            "spec.selector",
            format!("{key:?} is not the key of a label"),
            "write it as on the driver's pod",
        );
    }
    problems
}
