//! Settings of a policy: JSON, checked against the schema that the policy declares before the policy
//! itself sees them.

use std::sync::Arc;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;
use thiserror::Error;

use crate::guest_log::printable;

/// Settings that fit the schema and that the policy has accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    json: Arc<str>,
}

/// One error in settings.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{}: {message}", if path.is_empty() { "settings" } else { path })]
pub struct SettingsProblem {
    /// JSON pointer into the settings; empty for the whole.
    pub path: String,
    /// What is wrong, and what would be right. Printable, and bounded in length.
    pub message: String,
}

impl Settings {
    /// The caller checks them.
    pub(crate) fn of(value: &Value) -> Settings {
        Settings { json: value.to_string().into() }
    }

    pub(crate) fn as_json(&self) -> &str {
        &self.json
    }
}

/// A compiled schema.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    text: Value,
    validator: Arc<Validator>,
}

pub(crate) const SCHEMA_BYTES: usize = 64 << 10;
/// Schemas within schemas, and how deeply they are nested.
const SCHEMAS: usize = 1_000;
const DEPTH: usize = 16;
/// Nested alternatives (`anyOf`, `oneOf`): each level may evaluate a value twice, once to know whether it
/// matches and once to say why not.
const CHOICES_DEPTH: usize = 4;
/// Patterns in a schema, and the size of each when compiled: a short one can expand into megabytes.
const PATTERNS: usize = 16;
const PATTERN_BYTES: usize = 32 << 10;
/// Settings as JSON, and each text in them. A pattern costs its size times the text's.
const SETTINGS_BYTES: usize = 64 << 10;
const TEXT_BYTES: usize = 4 << 10;

/// The allowed keywords of a schema, and what each contains. Each keyword evaluates a value once; those that
/// are missing here (`if`, `allOf`, `unevaluatedProperties`, `$ref` and similar ones) evaluate the same value
/// again at each nesting level, which doubles the work with each level.
const KEYWORDS: [(&str, Holds); 34] = [
    ("$comment", Holds::Data),
    ("$schema", Holds::Data),
    ("additionalProperties", Holds::Schema),
    ("anyOf", Holds::Choices),
    ("const", Holds::Data),
    ("default", Holds::Data),
    ("deprecated", Holds::Data),
    ("description", Holds::Data),
    ("enum", Holds::Data),
    ("examples", Holds::Data),
    ("exclusiveMaximum", Holds::Data),
    ("exclusiveMinimum", Holds::Data),
    ("format", Holds::Data),
    ("items", Holds::Schema),
    ("maxItems", Holds::Data),
    ("maxLength", Holds::Data),
    ("maxProperties", Holds::Data),
    ("maximum", Holds::Data),
    ("minItems", Holds::Data),
    ("minLength", Holds::Data),
    ("minProperties", Holds::Data),
    ("minimum", Holds::Data),
    ("multipleOf", Holds::Data),
    ("oneOf", Holds::Choices),
    ("pattern", Holds::Pattern),
    ("prefixItems", Holds::Schemas),
    ("properties", Holds::Properties),
    ("propertyNames", Holds::Schema),
    ("readOnly", Holds::Data),
    ("required", Holds::Data),
    ("title", Holds::Data),
    ("type", Holds::Data),
    ("uniqueItems", Holds::Data),
    ("writeOnly", Holds::Data),
];

#[derive(Clone, Copy)]
enum Holds {
    Data,
    Schema,
    Schemas,
    Choices,
    Properties,
    Pattern,
}

/// The only dialect.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Refuses keywords that are not on the list, and too many of those that are.
#[derive(Default)]
struct Closed {
    schemas: usize,
    patterns: usize,
}

impl Closed {
    fn check(&mut self, schema: &Value, path: &str, depth: usize, choices: usize) -> Result<(), String> {
        let at =
            || if path.is_empty() { "at its top".to_owned() } else { format!("at {}", printable(path, 200)) };
        self.schemas += 1;
        if self.schemas > SCHEMAS {
            return Err(format!(
                "it has more than {SCHEMAS} schemas within it; describe less of the settings"
            ));
        }
        if depth > DEPTH || choices > CHOICES_DEPTH {
            return Err(format!(
                "{} it is deeper than {DEPTH} levels, or {CHOICES_DEPTH} of alternatives; make the settings flatter",
                at()
            ));
        }
        let Value::Object(schema) = schema else {
            return if schema.is_boolean() { Ok(()) } else { Err(format!("{} is no schema", at())) };
        };
        for (keyword, value) in schema {
            let Some((_, holds)) = KEYWORDS.iter().find(|(known, _)| known == keyword) else {
                return Err(format!(
                    "{} it uses {}, which is not among the keywords for settings; known are: {}. What they cannot say, \
                     check-settings can check",
                    at(),
                    printable(keyword, 100),
                    KEYWORDS.map(|(keyword, _)| keyword).join(", ")
                ));
            };
            let within = format!("{path}/{keyword}");
            match (holds, value) {
                (Holds::Data, Value::String(dialect)) if keyword == "$schema" && dialect != DIALECT => {
                    return Err(format!("its dialect is not {DIALECT}"));
                }
                (Holds::Data, _) => {}
                (Holds::Schema, schema) => self.check(schema, &within, depth + 1, choices)?,
                (Holds::Schemas, Value::Array(schemas)) => self.all(schemas, &within, depth, choices)?,
                (Holds::Choices, Value::Array(schemas)) => self.all(schemas, &within, depth, choices + 1)?,
                (Holds::Properties, Value::Object(properties)) => {
                    for (name, schema) in properties {
                        self.check(schema, &format!("{within}/{name}"), depth + 1, choices)?;
                    }
                }
                (Holds::Pattern, _) => self.patterns += 1,
                (Holds::Schemas | Holds::Choices | Holds::Properties, _) => {
                    return Err(format!("{} its {keyword} does not hold schemas", at()));
                }
            }
        }
        if self.patterns > PATTERNS {
            return Err(format!("it has more than {PATTERNS} patterns"));
        }
        Ok(())
    }

    fn all(&mut self, schemas: &[Value], path: &str, depth: usize, choices: usize) -> Result<(), String> {
        schemas.iter().try_for_each(|schema| self.check(schema, path, depth + 1, choices))
    }
}

impl Schema {
    /// Validation costs no more than schema times settings, both of which are bounded: the allowed keywords are
    /// a closed list, and patterns do not backtrack.
    pub(crate) fn compile(text: &str) -> Result<Schema, String> {
        if text.len() > SCHEMA_BYTES {
            return Err(format!("it has {} bytes, the limit is {SCHEMA_BYTES}", text.len()));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        Closed::default().check(&value, "", 0, 0)?;
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
        if let Some(message) = too_large(settings) {
            return Err(vec![SettingsProblem { path: String::new(), message }]);
        }
        let mut problems = self.unknown_keys(settings);
        if problems.is_empty() {
            problems = self.validator.iter_errors(settings).take(PROBLEMS).map(problem).collect();
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// For a typo, a better message than the validator's: it lists the known keys.
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

/// Maximum number of problems in one report.
const PROBLEMS: usize = 20;

/// Settings that would make patterns and policies slow.
fn too_large(settings: &Value) -> Option<String> {
    let longest = longest(settings);
    if longest > TEXT_BYTES {
        return Some(format!("a text in them has {longest} bytes, the limit is {TEXT_BYTES}"));
    }
    let size = settings.to_string().len();
    (size > SETTINGS_BYTES).then(|| format!("they have {size} bytes as JSON, the limit is {SETTINGS_BYTES}"))
}

fn longest(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(longest).max().unwrap_or(0),
        Value::Object(map) => map.iter().map(|(key, value)| key.len().max(longest(value))).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
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
    fn a_schema_is_made_of_a_closed_list_of_keywords() {
        let refused = |schema: Value| Schema::compile(&schema.to_string()).err();
        let said = refused(json!({"properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}}));
        let said = said.expect("it is refused");
        assert!(
            said.starts_with("at /properties/a/anyOf it uses $ref, which is not among the keywords"),
            "{said}"
        );
        assert!(
            said.contains("known are: $comment, ") && said.ends_with("check-settings can check"),
            "{said}"
        );
        for keyword in [
            "$anchor",
            "$defs",
            "$dynamicRef",
            "$id",
            "$vocabulary",
            "allOf",
            "contains",
            "dependentRequired",
            "dependentSchemas",
            "dependencies",
            "definitions",
            "else",
            "if",
            "not",
            "patternProperties",
            "then",
            "unevaluatedItems",
            "unevaluatedProperties",
            "typ",
        ] {
            assert!(
                refused(json!({"items": {keyword: {}}})).is_some_and(|said| said.contains(keyword)),
                "{keyword}"
            );
        }
        // As names of settings, and in data, keywords are ordinary words.
        assert_eq!(
            refused(json!({"properties": {"if": {"const": {"$ref": "#"}}}, "default": {"allOf": 1}})),
            None
        );
        assert!(refused(json!({"$schema": "http://json-schema.org/draft-07/schema#"})).is_some());
        assert!(refused(json!({"properties": [1]})).is_some());
        assert!(refused(json!({"items": [{}]})).is_some());
    }

    #[test]
    fn too_large_schemas_and_settings_are_refused() {
        let refused = |schema: Value| Schema::compile(&schema.to_string()).err();
        assert!(refused(json!({"properties": {"a": {"pattern": "(a+)+(?=b)"}}})).is_some());
        let many: Vec<_> = (0..17).map(|i| json!({"pattern": format!("a{i}")})).collect();
        assert_eq!(refused(json!({"anyOf": many})), Some("it has more than 16 patterns".into()));
        assert!(refused(json!({"pattern": r"\p{L}{2000}"})).is_some());
        assert_eq!(refused(json!({"pattern": "^[a-z][a-z0-9-]{0,62}$"})), None);
        assert!(refused(json!({"type": "obiect"})).is_some());
        assert!(refused(json!({"description": "x".repeat(SCHEMA_BYTES)})).is_some());
        assert!(Schema::compile("{").is_err());
        let nested = |keyword: &str, depth: usize| {
            let wrap = |schema: Value, _| {
                if keyword == "items" { json!({keyword: schema}) } else { json!({keyword: [schema]}) }
            };
            (0..depth).fold(json!({}), wrap)
        };
        assert_eq!(refused(nested("items", DEPTH)), None);
        assert!(
            refused(nested("items", DEPTH + 1))
                .is_some_and(|said| said.contains("make the settings flatter"))
        );
        assert_eq!(refused(nested("oneOf", CHOICES_DEPTH)), None);
        assert!(refused(nested("oneOf", CHOICES_DEPTH + 1)).is_some());
        assert!(
            refused(json!({"anyOf": vec![json!({}); SCHEMAS]}))
                .is_some_and(|said| said.contains("1000 schemas"))
        );
        assert!(problems(json!({}), json!({"a": "x".repeat(TEXT_BYTES + 1)}))[0].contains("4097 bytes"));
        assert!(
            problems(json!({}), json!(vec!["x".repeat(TEXT_BYTES); 17]))[0].contains("the limit is 65536")
        );
    }

    /// What the SDK derives from Rust types: an optional section, a list of choices with their docs, a tagged one.
    #[test]
    fn what_generators_write_fits() {
        let schema = json!({
            "$schema": DIALECT, "title": "Settings", "type": "object", "additionalProperties": false,
            "properties": {
                "limit": {"type": ["integer", "null"], "format": "uint32", "minimum": 0, "default": null},
                "section": {"anyOf": [{"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}, {"type": "null"}]},
                "mode": {"oneOf": [{"const": "fast", "description": "Fast.", "type": "string"}, {"enum": ["slow", "slower"], "type": "string"}]},
                "window": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}], "minItems": 2, "maxItems": 2},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        });
        let good =
            json!({"limit": 3, "section": {"a": 1}, "mode": "slow", "window": [1, 2], "labels": {"x": "y"}});
        assert_eq!(problems(schema.clone(), good), [] as [&str; 0]);
        assert_eq!(problems(schema, json!({"section": {"a": "x"}, "mode": "slowest"})).len(), 2);
    }

    /// The most expensive schemas that the list allows, with the most expensive settings.
    #[test]
    fn validation_is_linear() {
        let choices = |keyword: &str, leaf: Value, wide: usize| {
            (0..CHOICES_DEPTH).fold(leaf, |schema, _| json!({keyword: vec![schema; wide]}))
        };
        let pattern = json!({"pattern": "^([a-z]{1,40}[0-9]?){1,6}!$"});
        let object =
            json!({"type": "object", "additionalProperties": {"type": "number", "multipleOf": 0.01}});
        let text = json!(vec!["abc1".repeat(TEXT_BYTES / 4); 15]);
        let deep = (0..DEPTH).fold(json!(1.005), |value, _| json!({"a": value, "b": [1, 1, 2]}));
        let wide = json!((0..5_000).map(|at| json!([at])).collect::<Vec<_>>());
        let nested = (0..DEPTH - CHOICES_DEPTH - 1).fold(choices("oneOf", object, 4), |schema, _| {
            json!({"type": "object", "properties": {"a": schema}, "additionalProperties": {"uniqueItems": true}})
        });
        let cases = [
            (json!({"items": {"anyOf": vec![pattern; PATTERNS]}}), text),
            (nested, deep),
            (
                json!({"uniqueItems": true, "items": choices("anyOf", json!({"uniqueItems": true, "items": {"enum": [1, 2, 3]}}), 4)}),
                wide,
            ),
        ];
        for (at, (schema, settings)) in cases.into_iter().enumerate() {
            let schema = Schema::compile(&schema.to_string()).expect("a schema");
            let begun = std::time::Instant::now();
            assert!(schema.check(&settings).is_err(), "case {at}");
            let took = begun.elapsed();
            println!("case {at}: {took:?}");
            assert!(took < std::time::Duration::from_secs(20), "case {at}: {took:?}");
        }
    }
}
