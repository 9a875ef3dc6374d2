//! The JSON Schema of the document, and what can be derived from it: the existing fields, their types, and the field
//! that a wrong name was probably meant to be.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::ExecutorFleet;

/// JSON Schema (2020-12) of one ExecutorFleet document, with descriptions and defaults, and without
/// references.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<ExecutorFleet>().to_value()
}

/// What other tools call our fields.
const WORDS: [(&str, &str); 3] =
    [("replicas", "spec.executors"), ("instances", "spec.executors"), ("target", "spec.executors")];

/// The old and the new names of fields. Both are read.
pub(super) const RENAMED: [(&str, &str); 19] = [
    ("spec.limits.surge", "spec.limits.maxSurge"),
    ("spec.limits.unavailable", "spec.limits.maxUnavailable"),
    ("spec.limits.availableMin", "spec.limits.minAvailable"),
    ("spec.limits.terminating", "spec.limits.maxTerminating"),
    ("spec.limits.executorsMax", "spec.limits.maxExecutors"),
    ("spec.allocation.pendingMax", "spec.allocation.maxPendingPods"),
    ("spec.allocation.startFailuresMax", "spec.allocation.maxStartFailures"),
    ("spec.allocation.backoffFirst", "spec.allocation.initialBackoff"),
    ("spec.allocation.backoffLast", "spec.allocation.maxBackoff"),
    ("spec.allocation.nodeLossesMax", "spec.allocation.maxNodeLosses"),
    ("spec.allocation.avoidedNodesMax", "spec.allocation.maxAvoidedNodes"),
    ("spec.recovery.checksMax", "spec.recovery.maxChecks"),
    ("spec.recovery.keptPodsMax", "spec.recovery.maxKeptPods"),
    ("spec.recovery.failuresMax", "spec.recovery.maxExecutorFailures"),
    ("spec.recovery.failuresWindow", "spec.recovery.failuresValidityInterval"),
    ("spec.roll.picksMax", "spec.roll.maxPicks"),
    ("spec.roll.perHourMax", "spec.roll.maxPerHour"),
    ("spec.roll.tasksMin", "spec.roll.minTasks"),
    ("spec.roll.ageMin", "spec.roll.minAge"),
];

/// Below this, two names have little in common: a third of the letters differs.
const SIMILAR: f64 = 0.65;

/// The field that an unknown one was probably meant to be: a sibling, one whose section became part of the name
/// (`heartbeatTimeout`), or the one with that name in another section.
pub(super) fn suggest(unknown: &str) -> Option<String> {
    let unknown = unindexed(unknown);
    let (section, name) = split(&unknown);
    if let Some((_, meant)) = WORDS.iter().find(|(word, _)| *word == name) {
        return Some((*meant).to_owned());
    }
    let score = |field: &str| {
        let (field_section, field_name) = split(field);
        if field_section == section {
            return similarity(name, field_name);
        }
        let elsewhere = if name == field_name { 0.8 } else { 0.0 };
        similarity(name, &format!("{}{field_name}", split(field_section).1)).max(elsewhere)
    };
    best(fields(), score)
}

/// The candidate that is most similar to the name, if any is similar.
pub(super) fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    best(candidates, |candidate| similarity(name, candidate))
}

/// The type of a field, for people: `a whole number from 1 to 65535`.
pub(super) fn kind(path: &str) -> Option<String> {
    let schema = schema();
    let mut node = &schema;
    let path = unindexed(path);
    let path = RENAMED.iter().find(|(old, _)| *old == path).map_or(&*path, |(_, new)| new);
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, item) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
        node = property(node, name)?;
        if item {
            node = variants(node).find_map(|node| node.get("items"))?;
        }
    }
    variants(node).find_map(|node| {
        // For a nullable type, the first that is not `null`.
        let kind = node["type"].get(0).unwrap_or(&node["type"]);
        let least = node["minimum"].as_u64().unwrap_or(0);
        let most = node["maximum"].as_u64().or((node["format"] == "uint32").then_some(u64::from(u32::MAX)));
        Some(match (kind.as_str()?, most) {
            ("integer", Some(most)) => format!("a whole number from {least} to {most}"),
            ("integer", None) => format!("a whole number, at least {least}"),
            ("boolean", _) => "true or false".to_owned(),
            ("array", _) => "a list".to_owned(),
            ("object", _) => "a mapping of fields".to_owned(),
            ("string", _) if node.get("pattern").is_none() && node.get("enum").is_none() => "text".to_owned(),
            _ => return None,
        })
    })
}

/// Every field, `spec.roll.windows[].start`.
pub(super) fn fields() -> impl Iterator<Item = String> {
    fn walk(node: &Value, path: &str, fields: &mut Vec<String>) {
        for node in variants(node) {
            for (name, field) in node["properties"].as_object().into_iter().flatten() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(field, &path, fields);
                fields.push(path);
            }
            if let Some(item) = node.get("items") {
                walk(item, &format!("{path}[]"), fields);
            }
        }
    }
    let mut fields = Vec::new();
    walk(&schema(), "", &mut fields);
    fields.into_iter()
}

/// A node, or its alternatives.
fn variants(node: &Value) -> impl Iterator<Item = &Value> {
    let any = node.get("anyOf").and_then(Value::as_array);
    std::iter::once(node).chain(any.into_iter().flatten())
}

fn property<'a>(node: &'a Value, name: &str) -> Option<&'a Value> {
    variants(node).find_map(|node| {
        let named = node.get("properties").and_then(|fields| fields.get(name));
        // The values of a map.
        named.or_else(|| node.get("additionalProperties").filter(|any| any.is_object()))
    })
}

/// `a[3].b` is `a[].b`.
fn unindexed(path: &str) -> String {
    let mut inside = false;
    let keep = |c: &char| {
        inside = (inside || *c == '[') && *c != ']';
        !inside || *c == '['
    };
    path.chars().filter(keep).collect()
}

/// The section and the name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

fn similarity(a: &str, b: &str) -> f64 {
    // The distance of two names is at least the difference of their lengths. Computing it takes the product of the
    // lengths, and a key may be as long as its document. A letter has 1 to 4 bytes.
    let (short, long) = (a.len().min(b.len()), a.len().max(b.len()));
    if short * 4 < long {
        return 0.0;
    }
    strsim::normalized_damerau_levenshtein(&a.to_lowercase(), &b.to_lowercase())
}

fn best(candidates: impl Iterator<Item = String>, score: impl Fn(&str) -> f64) -> Option<String> {
    let scored = candidates.map(|candidate| (score(&candidate), candidate));
    let similar = scored.filter(|(score, _)| *score >= SIMILAR);
    similar.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_understood() {
        for (unknown, meant) in [
            ("spec.heartbeat.timout", Some("spec.heartbeat.timeout")),
            ("spec.heartbeat.timeoutMs", Some("spec.heartbeat.timeout")),
            ("spec.heartbeatTimeout", Some("spec.heartbeat.timeout")),
            ("spec.batchSize", Some("spec.allocation.batchSize")),
            ("spec.replicas", Some("spec.executors")),
            ("spec.limits.maxSurg", Some("spec.limits.maxSurge")),
            ("spec.maxUnavailable", Some("spec.limits.maxUnavailable")),
            ("spec.roll.windows[7].timezone", Some("spec.roll.windows[].timeZone")),
            ("specs", Some("spec")),
            ("spec.quux", None),
        ] {
            assert_eq!(suggest(unknown).as_deref(), meant, "{unknown}");
        }
    }

    #[test]
    fn a_key_as_long_as_its_document_is_like_nothing() {
        let long = "k".repeat(900_000);
        let begun = std::time::Instant::now();
        assert_eq!(suggest(&format!("spec.{long}")), None);
        assert_eq!(nearest(&long, ["OUTLIER".to_owned(), "ID".to_owned()].into_iter()), None);
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    #[test]
    fn the_schema_says_what_a_field_takes() {
        for (path, expected) in [
            ("", "a mapping of fields"),
            ("spec.driver.restPort", "a whole number from 1 to 65535"),
            ("spec.executors", "a whole number from 0 to 4294967295"),
            ("spec.paused", "true or false"),
            ("spec.recovery.maxChecks", "a whole number from 0 to 4294967295"),
            ("spec.recovery.checksMax", "a whole number from 0 to 4294967295"),
            ("spec.roll", "a mapping of fields"),
            ("spec.roll.windows", "a list"),
            ("spec.roll.windows[0]", "a mapping of fields"),
            ("metadata.name", "text"),
            ("spec.policies.OUTLIER", "a mapping of fields"),
            ("spec.template", "a mapping of fields"),
        ] {
            assert_eq!(kind(path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(kind("spec.heartbeat.timeout"), None, "it says it itself");
    }
}
