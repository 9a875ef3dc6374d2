//! Settings of a policy: JSON, checked against the schema that the policy declares before the policy
//! itself sees them.

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;
use thiserror::Error;

use crate::guest_log::printable;

/// Settings that fit the schema and that the policy has accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    json: String,
}

/// One thing wrong with settings.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{}: {message}", if path.is_empty() { "settings" } else { path })]
pub struct SettingsProblem {
    /// JSON pointer into the settings; empty for the whole.
    pub path: String,
    pub message: String,
}

impl Settings {
    /// Settings that were checked.
    pub(crate) fn checked(value: &Value) -> Settings {
        Settings { json: value.to_string() }
    }

    pub(crate) fn as_json(&self) -> &str {
        &self.json
    }
}

/// A compiled schema.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    text: Value,
    validator: std::sync::Arc<Validator>,
}

pub(crate) const SCHEMA_BYTES: usize = 64 << 10;
/// Patterns in a schema, and the size of each when compiled: a short one can unfold into megabytes.
const PATTERNS: usize = 16;
const PATTERN_BYTES: usize = 64 << 10;

impl Schema {
    /// Refuses whatever would make validation cost more than schema times settings: references (which
    /// can double the work with each level) and backtracking patterns.
    pub(crate) fn compile(text: &str) -> Result<Schema, String> {
        if text.len() > SCHEMA_BYTES {
            return Err(format!("it has {} bytes, the limit is {SCHEMA_BYTES}", text.len()));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        if let Some(keyword) = reference(&value) {
            return Err(format!("it uses {keyword}; a settings schema must be complete in itself"));
        }
        let patterns = patterns(&value);
        if patterns > PATTERNS {
            return Err(format!("it has {patterns} patterns, the limit is {PATTERNS}"));
        }
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES))
            .build(&value)
            .map_err(|error| format!("it is not a valid JSON Schema: {error}"))?;
        Ok(Schema { text: value, validator: validator.into() })
    }

    pub(crate) fn text(&self) -> &Value {
        &self.text
    }

    pub(crate) fn check(&self, settings: &Value) -> Result<(), Vec<SettingsProblem>> {
        let problem = |error: jsonschema::ValidationError<'_>| SettingsProblem {
            path: printable(&error.instance_path().to_string(), 200),
            message: printable(&error.to_string(), 500),
        };
        let mut problems = self.unknown_keys(settings);
        if problems.is_empty() {
            problems = self.validator.iter_errors(settings).take(PROBLEMS).map(problem).collect();
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// A typo deserves a better message than a validator has: here are the known keys.
    fn unknown_keys(&self, settings: &Value) -> Vec<SettingsProblem> {
        let (Some(settings), Some(Value::Bool(false))) =
            (settings.as_object(), self.text.get("additionalProperties"))
        else {
            return Vec::new();
        };
        let none = serde_json::Map::new();
        let known = self.text.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let remedy = match names.as_slice() {
            [] => "this policy has no settings".to_string(),
            names => format!("known are: {}", printable(&names.join(", "), 500)),
        };
        let unknown = settings.keys().filter(|key| !known.contains_key(*key)).take(PROBLEMS);
        unknown
            .map(|key| SettingsProblem {
                path: format!("/{}", printable(key, 100)),
                message: format!("unknown setting; {remedy}"),
            })
            .collect()
    }
}

/// So many problems are told at once.
const PROBLEMS: usize = 20;

fn reference(schema: &Value) -> Option<&str> {
    match schema {
        Value::Object(map) => map.iter().find_map(|(key, value)| match key.as_str() {
            "$ref" | "$dynamicRef" | "$recursiveRef" => Some(key.as_str()),
            _ => reference(value),
        }),
        Value::Array(values) => values.iter().find_map(reference),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn patterns(schema: &Value) -> usize {
    match schema {
        Value::Object(map) => {
            let own = map.get("pattern").map_or(0, |_| 1)
                + map.get("patternProperties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
            own + map.values().map(patterns).sum::<usize>()
        }
        Value::Array(values) => values.iter().map(patterns).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problems(schema: Value, settings: Value) -> Vec<String> {
        let schema = Schema::compile(&schema.to_string()).expect("a schema");
        schema.check(&settings).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_key_is_told_with_the_known_ones() {
        let schema = json!({"type": "object", "additionalProperties": false,
            "properties": {"maxHours": {"type": "number"}, "spotFirst": {"type": "boolean"}}});
        assert_eq!(
            problems(schema.clone(), json!({"maxHour": 3})),
            ["/maxHour: unknown setting; known are: maxHours, spotFirst"]
        );
        assert_eq!(
            problems(schema.clone(), json!({"maxHours": "3"})),
            ["/maxHours: \"3\" is not of type \"number\""]
        );
        assert_eq!(problems(schema, json!({"spotFirst": true})), [] as [&str; 0]);
    }

    #[test]
    fn schemas_that_could_make_validation_expensive_are_refused() {
        let refused = |schema: Value| Schema::compile(&schema.to_string()).err();
        assert_eq!(
            refused(json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]})),
            Some("it uses $ref; a settings schema must be complete in itself".into())
        );
        assert!(refused(json!({"properties": {"a": {"pattern": "(a+)+(?=b)"}}})).is_some());
        let many: Vec<_> = (0..17).map(|i| json!({"pattern": format!("a{i}")})).collect();
        assert_eq!(refused(json!({"allOf": many})), Some("it has 17 patterns, the limit is 16".into()));
        assert!(refused(json!({"pattern": r"\p{L}{2000}"})).is_some());
        assert!(refused(json!({"pattern": "^[a-z][a-z0-9-]{0,62}$"})).is_none());
        assert!(refused(json!({"type": "obiect"})).is_some());
        assert!(refused(json!({"description": "x".repeat(SCHEMA_BYTES)})).is_some());
        assert!(Schema::compile("{").is_err());
    }
}
