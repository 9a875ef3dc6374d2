//! Representations of objects: whole, metadata only, or as rows of a table.
//!
//! Events are stored as `v1`; `events.k8s.io/v1` is the same with other field names.

use serde_json::{Map, Value, json};

use super::clock;
use super::gates;
use super::kinds::{Kind, PODS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    /// `Table`, whose rows carry metadata, the whole object, or nothing.
    Table(Carried),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    Nothing,
    Metadata,
    Object,
}

impl Form {
    /// The first alternative in the `Accept` header that is supported.
    pub fn negotiate(accept: &str, include_object: &str) -> Form {
        for alternative in accept.split(',') {
            let mut parameters = alternative.split(';').map(str::trim);
            if !matches!(parameters.next(), Some("application/json" | "*/*" | "application/*")) {
                continue;
            }
            return match parameters.find_map(|parameter| parameter.strip_prefix("as=")) {
                Some("Table") => Form::Table(match include_object {
                    "None" => Carried::Nothing,
                    "Object" => Carried::Object,
                    _ => Carried::Metadata,
                }),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Form::Metadata,
                Some(_) => continue,
                None => Form::Whole,
            };
        }
        Form::Whole
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub kind: &'static Kind,
    pub form: Form,
}

impl View {
    pub fn object(&self, stored: &Value, wall_ms: i64) -> Value {
        match self.form {
            Form::Whole => self.served(stored),
            Form::Metadata => metadata(stored),
            Form::Table(carried) => {
                let version = json!({ "resourceVersion": stored["metadata"]["resourceVersion"] });
                self.table(version, vec![self.row(stored, carried, wall_ms)])
            }
        }
    }

    pub fn list<'a>(&self, list: Value, items: impl Iterator<Item = &'a Value>, wall_ms: i64) -> Value {
        match self.form {
            Form::Table(carried) => {
                self.table(list, items.map(|item| self.row(item, carried, wall_ms)).collect())
            }
            Form::Metadata => {
                let items: Vec<Value> = items.map(metadata).collect();
                json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list,
                    "items": items,
                })
            }
            Form::Whole => {
                // The kind of a typed list's items is the list's; they do not repeat it.
                let bare = |item| {
                    let mut item = self.served(item);
                    if let Some(fields) = item.as_object_mut() {
                        fields.remove("kind");
                        fields.remove("apiVersion");
                    }
                    item
                };
                let items: Vec<Value> = items.map(bare).collect();
                json!({
                    "kind": format!("{}List", self.kind.kind), "apiVersion": self.kind.api_version(),
                    "metadata": list, "items": items,
                })
            }
        }
    }

    /// An object that carries only a watch's revision.
    pub fn bookmark(&self, revision: u64, initial_end: bool) -> Value {
        let mut meta = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if initial_end {
            meta["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        match self.form {
            Form::Table(_) => self.table(meta, Vec::new()),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
            }),
            Form::Whole => json!({
                "kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": meta,
            }),
        }
    }

    fn served(&self, stored: &Value) -> Value {
        let mut object = stored.clone();
        if self.kind.is_renamed_event() {
            rename(&mut object, |(old, new)| (old, new));
            object["apiVersion"] = self.kind.api_version().into();
        }
        object
    }

    fn table(&self, list: Value, rows: Vec<Value>) -> Value {
        let column = |name: &str, priority: u32| {
            let format = if name == "Name" { "name" } else { "" };
            json!({ "name": name, "type": "string", "format": format, "description": name, "priority": priority })
        };
        let columns: Vec<Value> = if *self.kind == PODS {
            let mut columns =
                ["Name", "Ready", "Status", "Restarts", "Age"].map(|name| column(name, 0)).to_vec();
            columns.extend(["IP", "Node"].map(|name| column(name, 1)));
            columns
        } else {
            ["Name", "Age"].map(|name| column(name, 0)).to_vec()
        };
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list, "columnDefinitions": columns,
            "rows": rows,
        })
    }

    fn row(&self, stored: &Value, carried: Carried, wall_ms: i64) -> Value {
        let meta = &stored["metadata"];
        let name = meta["name"].as_str().unwrap_or_default();
        let age = meta["creationTimestamp"].as_str().and_then(clock::parse);
        let age = age.map_or("<unknown>".to_owned(), |made| duration((wall_ms - made) / 1000));
        let cells = if *self.kind == PODS { pod_cells(stored, name, &age) } else { json!([name, age]) };
        match carried {
            Carried::Nothing => json!({ "cells": cells }),
            Carried::Metadata => json!({ "cells": cells, "object": metadata(stored) }),
            Carried::Object => json!({ "cells": cells, "object": self.served(stored) }),
        }
    }
}

/// Converts an event of `events.k8s.io` to the stored form.
pub(super) fn stored_event(object: &mut Value) {
    rename(object, |(old, new)| (new, old));
    object["apiVersion"] = "v1".into();
}

fn rename(
    object: &mut Value,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    const NAMES: [(&str, &str); 7] = [
        ("involvedObject", "regarding"),
        ("message", "note"),
        ("source", "deprecatedSource"),
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
        ("reportingComponent", "reportingController"),
    ];
    let Some(object) = object.as_object_mut() else { return };
    for (from, to) in NAMES.map(direction) {
        if let Some(value) = object.remove(from) {
            object.insert(to.to_owned(), value);
        }
    }
}

fn metadata(stored: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": stored["metadata"],
    })
}

/// The columns of `kubectl get pods`.
fn pod_cells(pod: &Value, name: &str, age: &str) -> Value {
    let empty = Vec::new();
    let statuses = pod["status"]["containerStatuses"].as_array().unwrap_or(&empty);
    let total = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    let ready = statuses.iter().filter(|status| status["ready"] == true).count();
    let restarts: u64 = statuses.iter().filter_map(|status| status["restartCount"].as_u64()).sum();
    let word = |value: &Value| value.as_str().filter(|word| !word.is_empty()).map(str::to_owned);
    let reason = |status: &Value| {
        let state = &status["state"];
        word(&state["waiting"]["reason"]).or_else(|| {
            let ended = state.get("terminated")?;
            word(&ended["reason"]).or_else(|| Some(format!("ExitCode:{}", ended["exitCode"])))
        })
    };
    let phase = || word(&pod["status"]["phase"]).unwrap_or_else(|| "Unknown".to_owned());
    let own = match gates::is_shown_gated(pod) {
        true => Some(gates::REASON.to_owned()),
        false => word(&pod["status"]["reason"]),
    };
    let mut shown = statuses.iter().find_map(reason).or(own).unwrap_or_else(phase);
    if pod["metadata"].get("deletionTimestamp").is_some() {
        shown = "Terminating".to_owned();
    }
    let or_none = |value: &Value| word(value).unwrap_or_else(|| "<none>".to_owned());
    json!([
        name,
        format!("{ready}/{total}"),
        shown,
        restarts.to_string(),
        age,
        or_none(&pod["status"]["podIP"]),
        or_none(&pod["spec"]["nodeName"]),
    ])
}

/// As kubectl writes ages: `45s`, `5m10s`, `37m`, `5h2m`, `2d4h`.
fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

/// The object below a path of names, created if it does not exist.
pub(crate) fn object_at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let object = value.as_object_mut().expect("it has just been made one");
    match path {
        [] => object,
        [name, rest @ ..] => object_at(object.entry(*name).or_insert(Value::Null), rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_there_is_is_taken() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(Form::negotiate(table, ""), Form::Table(Carried::Metadata));
        assert_eq!(Form::negotiate(table, "Object"), Form::Table(Carried::Object));
        let metadata = "application/vnd.kubernetes.protobuf,application/json;as=PartialObjectMetadata;v=v1";
        assert_eq!(Form::negotiate(metadata, ""), Form::Metadata);
        let discovery = "application/json;as=APIGroupDiscoveryList;v=v2,application/json";
        assert_eq!(Form::negotiate(discovery, ""), Form::Whole);
    }

    #[test]
    fn a_pod_is_a_row() {
        let pod = json!({
            "metadata": { "name": "x", "creationTimestamp": "1970-01-01T00:00:10Z" },
            "spec": { "containers": [{}, {}], "nodeName": "node-1" },
            "status": { "phase": "Running", "containerStatuses": [
                { "ready": true, "restartCount": 1, "state": { "running": {} } },
                { "ready": false, "restartCount": 1, "state": { "terminated": { "reason": "OOMKilled" } } },
            ] },
        });
        let view = View { kind: &PODS, form: Form::Table(Carried::Nothing) };
        let table = view.object(&pod, 310_000);
        assert_eq!(
            table["rows"][0]["cells"],
            json!(["x", "1/2", "OOMKilled", "2", "5m", "<none>", "node-1"])
        );
        assert_eq!(table["columnDefinitions"].as_array().unwrap().len(), 7);
    }

    #[test]
    fn an_event_has_two_faces() {
        let mut event = json!({ "regarding": { "name": "x" }, "note": "hello", "reason": "R" });
        stored_event(&mut event);
        assert_eq!(
            event,
            json!({ "apiVersion": "v1", "involvedObject": { "name": "x" }, "message": "hello", "reason": "R" })
        );
        let renamed = super::super::kinds::find("events.k8s.io", "v1", "events").unwrap();
        let view = View { kind: renamed, form: Form::Whole };
        let served = view.object(&event, 0);
        assert_eq!((&served["note"], &served["apiVersion"]), (&json!("hello"), &json!("events.k8s.io/v1")));
    }
}
