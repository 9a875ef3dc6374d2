//! Patches: RFC 7396 (merge) and RFC 6902 (operations).
//!
//! A strategic merge patch and an apply are treated as merge patches: lists are replaced and not merged by key,
//! and an apply neither detects conflicts nor removes what an earlier one had set.

use serde_json::{Map, Value};

/// Operations in one patch: the API server's own limit.
const OPERATIONS_MAX: usize = 10_000;

/// RFC 7396.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902. The error says which operation failed and why.
pub(super) fn operations(target: &mut Value, patch: &Value) -> Result<(), String> {
    let operations = patch.as_array().ok_or("a JSON patch is a list of operations")?;
    if operations.len() > OPERATIONS_MAX {
        return Err(format!("{} operations; at most {OPERATIONS_MAX} are allowed", operations.len()));
    }
    for (at, operation) in operations.iter().enumerate() {
        apply(target, operation).map_err(|why| format!("operation {at}: {why}"))?;
    }
    Ok(())
}

fn apply(target: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |field: &str| {
        operation[field].as_str().ok_or_else(|| format!("field \"{field}\" is missing or is not a string"))
    };
    let value = || operation.get("value").cloned().ok_or("field \"value\" is missing");
    let read = |target: &Value, path: &str| {
        target.pointer(path).cloned().ok_or_else(|| format!("path \"{path}\" does not exist"))
    };
    let path = text("path")?;
    match text("op")? {
        "add" => add(target, path, value()?),
        "remove" => remove(target, path).map(drop),
        "replace" => {
            let value = value()?;
            let place = target.pointer_mut(path).ok_or_else(|| format!("path \"{path}\" does not exist"))?;
            *place = value;
            Ok(())
        }
        "copy" => {
            let value = read(target, text("from")?)?;
            add(target, path, value)
        }
        "move" => {
            let value = remove(target, text("from")?)?;
            add(target, path, value)
        }
        "test" if read(target, path)? == value()? => Ok(()),
        "test" => Err(format!("testing value {path} failed")),
        other => Err(format!("op {other:?}: use add, remove, replace, copy, move or test")),
    }
}

/// The container of a pointer's last part, and that part.
fn parent<'a>(target: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), String> {
    let (head, last) =
        path.rsplit_once('/').ok_or_else(|| format!("path \"{path}\" does not start with /"))?;
    let parent = target.pointer_mut(head).ok_or_else(|| format!("path \"{head}\" does not exist"))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = parent(target, path)?;
    if let Some(object) = parent.as_object_mut() {
        object.insert(last, value);
        return Ok(());
    }
    let list =
        parent.as_array_mut().ok_or_else(|| format!("path \"{path}\" is in neither object nor list"))?;
    let at = if last == "-" { Ok(list.len()) } else { last.parse() };
    match at {
        Ok(at) if at <= list.len() => list.insert(at, value),
        _ => return Err(format!("path \"{path}\": there is no index {last}")),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let missing = || format!("path \"{path}\" does not exist");
    let (parent, last) = parent(target, path)?;
    if let Some(object) = parent.as_object_mut() {
        return object.remove(&last).ok_or_else(missing);
    }
    let list = parent.as_array_mut().ok_or_else(missing)?;
    match last.parse() {
        Ok(at) if at < list.len() => Ok(list.remove(at)),
        Ok(_) | Err(_) => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The example of RFC 7396.
    #[test]
    fn a_merge_patch_merges() {
        let mut target = json!({
            "title": "Goodbye!", "author": { "givenName": "John", "familyName": "Doe" },
            "tags": ["example", "sample"], "content": "This will be unchanged",
        });
        let patch = json!({
            "title": "Hello!", "phoneNumber": "+01-123-456-7890", "author": { "familyName": null },
            "tags": ["example"],
        });
        merge(&mut target, &patch);
        let expected = json!({
            "title": "Hello!", "author": { "givenName": "John" }, "tags": ["example"],
            "content": "This will be unchanged", "phoneNumber": "+01-123-456-7890",
        });
        assert_eq!(target, expected);
    }

    #[test]
    fn operations_do_what_they_say_or_say_why_not() {
        let start = json!({ "a": { "b/c": 1 }, "list": [1, 3] });
        let run = |operations: Value| {
            let mut target = start.clone();
            super::operations(&mut target, &operations).map(|()| target)
        };
        let good = json!([
            { "op": "test", "path": "/a/b~1c", "value": 1 },
            { "op": "add", "path": "/list/1", "value": 2 },
            { "op": "add", "path": "/list/-", "value": 4 },
            { "op": "remove", "path": "/list/0" },
            { "op": "replace", "path": "/a", "value": { "x": 1 } },
            { "op": "copy", "from": "/a", "path": "/b" },
            { "op": "move", "from": "/a/x", "path": "/y" },
        ]);
        assert_eq!(run(good), Ok(json!({ "a": {}, "b": { "x": 1 }, "list": [2, 3, 4], "y": 1 })));
        for (bad, why) in [
            (json!({}), "list of operations"),
            (json!([{ "op": "test", "path": "/a", "value": 2 }]), "testing value /a failed"),
            (json!([{ "op": "remove", "path": "/z" }]), "operation 0: path \"/z\" does not exist"),
            (json!([{ "op": "add", "path": "/list/9", "value": 1 }]), "no index 9"),
            (json!([{ "op": "add", "path": "x", "value": 1 }]), "does not start with /"),
            (json!([{ "op": "replace", "path": "/a" }]), "\"value\" is missing"),
            (json!([{ "op": "frob", "path": "/a" }]), "use add"),
        ] {
            let error = run(bad).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
