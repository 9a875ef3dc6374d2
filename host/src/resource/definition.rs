//! The CustomResourceDefinitions, from the types of the documents.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::config::class::ClassResource;
use crate::config::document::FleetResource;

/// Fields that name files of the daemon's, or that are for development: only documents from files have them.
const FILES_ONLY: [(&str, &str); 4] = [
    ("driver", "restTls"),
    ("driver", "restTokenFile"),
    ("driver", "allowLoopback"),
    ("heartbeat", "tokenFile"),
];

/// Rules in the Common Expression Language, which the API server checks at each write: what a field needs of another.
/// The daemon checks the same, and more.
const RULES: [(&str, &str); 6] = [
    (
        "self.mode != 'Own' || has(self.template) != has(self.executorPod)",
        "either spec.template or spec.executorPod is required with mode Own",
    ),
    ("self.mode == 'Own' || !has(self.template)", "spec.template is allowed with mode Own alone"),
    ("self.mode == 'Own' || !has(self.executorPod)", "spec.executorPod is allowed with mode Own alone"),
    ("!has(self.executorPod) || !has(self.spark)", "spec.spark is not allowed with spec.executorPod"),
    ("self.mode == 'Own' || !has(self.spark)", "spec.spark is allowed with mode Own alone"),
    (
        "self.driver.podName == oldSelf.driver.podName",
        "spec.driver.podName cannot be changed: create another fleet",
    ),
];

/// All definitions, in the order in which they are applied.
pub fn definitions() -> Vec<Value> {
    let fleets = definition(FleetResource::crd());
    let classes = class_definition(ClassResource::crd(), &fleets);
    let mut all = vec![fleets, classes];
    all.iter_mut().for_each(known_formats);
    all
}

/// Why this field is not for objects, if it is not.
pub(crate) fn files_only(spec: &Value) -> Option<String> {
    let named = |(section, field): &&(&str, &str)| {
        !matches!(spec[*section][*field], Value::Null | Value::Bool(false))
    };
    FILES_ONLY.iter().find(named).map(|(section, field)| format!("spec.{section}.{field}"))
}

/// The spec without these fields.
pub(crate) fn files_removed(spec: &mut Value) {
    for (section, field) in FILES_ONLY {
        spec.get_mut(section).and_then(Value::as_object_mut).map(|section| section.remove(field));
    }
}

/// A list that must not be empty is required, and has no default: the API server would check that against the list's
/// own rule.
fn require_lists(schema: &mut Value) {
    let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let mut required = Vec::new();
    for (name, field) in fields {
        if field.get("minItems").is_some_and(|least| *least != 0) {
            field.as_object_mut().map(|field| field.remove("default"));
            required.push(Value::from(name.as_str()));
        }
        require_lists(field);
    }
    if !required.is_empty() {
        match schema.get_mut("required").and_then(Value::as_array_mut) {
            Some(known) => known.extend(required),
            None => schema["required"] = required.into(),
        }
    }
}

/// Without the formats of unsigned integers, of which the API server warns: their bounds are in the schema.
fn known_formats(node: &mut Value) {
    match node {
        Value::Object(fields) => {
            let unsigned = |format: &Value| format.as_str().is_some_and(|format| format.starts_with("uint"));
            if fields.get("format").is_some_and(unsigned) {
                fields.remove("format");
            }
            fields.values_mut().for_each(known_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(known_formats),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The schema of a class has that of a fleet's spec, without what is each driver's own.
fn class_definition(crd: CustomResourceDefinition, fleets: &Value) -> Value {
    let mut crd = serde_json::to_value(crd).expect("a definition is JSON");
    let at = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let mut fleet = fleets.pointer(at).cloned().unwrap_or_default();
    let described = crd.pointer(&format!("{at}/properties/fleet/description")).cloned().unwrap_or_default();
    fleet["description"] = described;
    let rules = RULES.iter().filter(|(rule, _)| !rule.contains("oldSelf"));
    let rules = rules.map(|(rule, message)| json!({ "rule": rule, "message": message }));
    fleet["x-kubernetes-validations"] = rules.collect();
    let mut lose = |path: &str, names: &[&str]| {
        let Some(node) = fleet.pointer_mut(path) else { return };
        if let Some(required) = node.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|name| !names.iter().any(|lost| name == lost));
        }
    };
    lose("", &["executors", "driver"]);
    lose("/properties/driver", &["podName"]);
    for (path, name) in [("/properties/driver/properties", "podName"), ("/properties", "applicationId")] {
        fleet.pointer_mut(path).and_then(Value::as_object_mut).map(|fields| fields.remove(name));
    }
    if let Some(place) = crd.pointer_mut(&format!("{at}/properties/fleet")) {
        *place = fleet;
    }
    crd
}

fn definition(crd: CustomResourceDefinition) -> Value {
    let mut crd = serde_json::to_value(crd).expect("a definition is JSON");
    for version in crd["spec"]["versions"].as_array_mut().into_iter().flatten() {
        let spec = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        for (section, field) in FILES_ONLY {
            let section = &mut spec["properties"][section];
            for part in ["properties", "default"] {
                // Indexing would add what is missing.
                if let Some(fields) = section.get_mut(part).and_then(Value::as_object_mut) {
                    fields.remove(field);
                }
            }
        }
        require_lists(spec);
        let rules = RULES.map(|(rule, message)| json!({ "rule": rule, "message": message }));
        spec["x-kubernetes-validations"] = rules.into();
    }
    crd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_has_a_scale_and_no_field_that_names_a_file() {
        let [fleet, class] = &definitions()[..] else { panic!("two definitions") };
        let version = &fleet["spec"]["versions"][0];
        assert_eq!(version["subresources"]["scale"]["specReplicasPath"], ".spec.executors");
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        for (section, field) in FILES_ONLY {
            let section = &spec["properties"][section];
            assert!(section["properties"].is_object(), "{section}");
            assert_eq!(section["properties"][field], Value::Null);
            assert_eq!(section["default"][field], Value::Null);
        }
        assert_eq!(spec["properties"]["roll"]["required"], json!(["policies"]));
        assert_eq!(spec.pointer("/properties/roll/properties/policies/default"), None);
        let of_class = &class["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let of_class = &of_class["properties"]["fleet"];
        assert_eq!(of_class["required"], json!(["mode"]));
        assert_eq!(of_class["properties"]["driver"]["properties"]["podName"], Value::Null);
        assert_eq!(of_class["properties"]["limits"], spec["properties"]["limits"]);
        assert!(spec["properties"]["template"]["x-kubernetes-preserve-unknown-fields"] == true, "{spec}");
    }
}
