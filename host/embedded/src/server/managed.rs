//! `metadata.managedFields`: which manager wrote which fields, and when last.
//!
//! A field belongs to the manager that last changed it; a manager that owns no field is removed. Simpler than
//! the real server in one way: a list is one field, even if only one of its items changes.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

type Path = Vec<String>;

/// A writer of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manager<'a> {
    pub name: &'a str,
    /// `Update` or `Apply`.
    pub operation: &'a str,
    /// `status`, or empty.
    pub subresource: &'a str,
}

impl Manager<'_> {
    fn is(&self, entry: &Value) -> bool {
        entry["manager"] == self.name
            && entry["operation"] == self.operation
            && entry["subresource"].as_str().unwrap_or_default() == self.subresource
    }
}

/// Assigns the fields that differ between the two states to the manager, in `after`.
pub(super) fn record(before: &Value, after: &mut Value, manager: Manager<'_>, time: &str) {
    let (old, new) = (leaves(before), leaves(after));
    let value =
        |object: &Value, path: &Path| path.iter().try_fold(object.clone(), |at, name| at.get(name).cloned());
    let unchanged = |path: &Path| old.contains(path) && value(before, path) == value(after, path);
    let changed: BTreeSet<Path> = new.iter().filter(|path| !unchanged(path)).cloned().collect();
    let entries = before["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let mut mine = changed.clone();
    let mut kept = Vec::new();
    for mut entry in entries {
        let mut owned = BTreeSet::new();
        read(&entry["fieldsV1"], &mut Vec::new(), &mut owned);
        if manager.is(&entry) {
            mine.extend(owned.into_iter().filter(|path| new.contains(path)));
            continue;
        }
        owned.retain(|path| new.contains(path) && !changed.contains(path));
        if !owned.is_empty() {
            entry["fieldsV1"] = write(&owned);
            kept.push(entry);
        }
    }
    if !mine.is_empty() {
        let mut entry = json!({
            "manager": manager.name, "operation": manager.operation, "time": time,
            "apiVersion": after["apiVersion"], "fieldsType": "FieldsV1", "fieldsV1": write(&mine),
        });
        if !manager.subresource.is_empty() {
            entry["subresource"] = manager.subresource.into();
        }
        kept.push(entry);
    }
    if let Some(metadata) = after["metadata"].as_object_mut() {
        metadata.insert("managedFields".to_owned(), kept.into());
    }
}

/// Fields that a manager may own: not the system's own metadata.
fn leaves(object: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        match name.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for name in ["labels", "annotations", "finalizers", "ownerReferences"] {
                    if let Some(value) = value.get(name) {
                        walk(value, &mut vec!["metadata".to_owned(), name.to_owned()], &mut found);
                    }
                }
            }
            _ => walk(value, &mut vec![name.clone()], &mut found),
        }
    }
    found
}

fn walk(value: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    let Some(fields) = value.as_object().filter(|fields| !fields.is_empty()) else {
        found.insert(path.clone());
        return;
    };
    for (name, value) in fields {
        path.push(name.clone());
        walk(value, path, found);
        path.pop();
    }
}

/// `{"f:data": {"f:key": {}}}` as paths.
fn read(fields: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    let Some(fields) = fields.as_object().filter(|fields| !fields.is_empty()) else {
        if !path.is_empty() {
            found.insert(path.clone());
        }
        return;
    };
    for (name, value) in fields {
        path.push(name.strip_prefix("f:").unwrap_or(name).to_owned());
        read(value, path, found);
        path.pop();
    }
}

fn write(paths: &BTreeSet<Path>) -> Value {
    let mut fields = Value::Object(Map::new());
    for path in paths {
        path.iter().fold(&mut fields, |at, name| {
            if at[format!("f:{name}")].is_null() {
                at[format!("f:{name}")] = json!({});
            }
            &mut at[format!("f:{name}")]
        });
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by<'a>(name: &'a str, operation: &'a str) -> Manager<'a> {
        Manager { name, operation, subresource: "" }
    }

    fn managers(object: &Value) -> Vec<(&str, &str, String)> {
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        let row = |entry: &Value| {
            let fields = entry["fieldsV1"].to_string();
            (entry["manager"].clone(), entry["time"].clone(), fields)
        };
        let text =
            |value: Value| -> &'static str { Box::leak(value.as_str().unwrap().to_owned().into_boxed_str()) };
        entries.iter().map(row).map(|(manager, time, fields)| (text(manager), text(time), fields)).collect()
    }

    #[test]
    fn a_field_belongs_to_its_last_manager() {
        let mut first = json!({ "apiVersion": "v1", "metadata": {}, "data": { "a": "1", "b": "1" } });
        record(&Value::Null, &mut first, by("rollcall", "Update"), "t1");
        assert_eq!(managers(&first), [("rollcall", "t1", r#"{"f:data":{"f:a":{},"f:b":{}}}"#.to_owned())]);
        let mut second = first.clone();
        second["data"]["b"] = "2".into();
        record(&first, &mut second, by("kubectl-edit", "Update"), "t2");
        assert_eq!(
            managers(&second),
            [
                ("rollcall", "t1", r#"{"f:data":{"f:a":{}}}"#.to_owned()),
                ("kubectl-edit", "t2", r#"{"f:data":{"f:b":{}}}"#.to_owned()),
            ]
        );
        let mut third = second.clone();
        third["data"] = json!({ "b": "3" });
        record(&second, &mut third, by("rollcall", "Update"), "t3");
        assert_eq!(managers(&third), [("rollcall", "t3", r#"{"f:data":{"f:b":{}}}"#.to_owned())]);
    }
}
