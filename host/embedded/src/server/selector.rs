//! Label and field selectors: parsed once, evaluated for every object.

use serde_json::Value;

use super::kinds::Kind;
use super::names::{is_label_key, is_label_value};
use super::status::Status;

/// All requirements have to hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    rule: Rule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    In(Vec<String>),
    /// Matches also without the label.
    NotIn(Vec<String>),
    Exists,
    Absent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    path: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// `labelSelector` and `fieldSelector` of a request.
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Selector, Status> {
        let labels = match labels.trim() {
            "" => Vec::new(),
            labels => split(labels).into_iter().map(requirement).collect::<Result<_, _>>()?,
        };
        let parts = fields.split(',').filter(|part| !part.is_empty());
        let fields = parts.map(|part| field(kind, part)).collect::<Result<_, _>>()?;
        Ok(Selector { labels, fields })
    }

    /// A `LabelSelector` object, as PodDisruptionBudgets have. `None` if it is invalid; `null` selects nothing,
    /// and so is `None`, too.
    pub(super) fn from_object(object: &Value) -> Option<Selector> {
        let object = object.as_object()?;
        let mut labels = Vec::new();
        for (key, value) in object.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            labels.push(Requirement { key: key.clone(), rule: Rule::In(vec![value.as_str()?.to_owned()]) });
        }
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = expression["key"].as_str()?.to_owned();
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            let rule = match expression["operator"].as_str()? {
                "In" => Rule::In(values),
                "NotIn" => Rule::NotIn(values),
                "Exists" => Rule::Exists,
                "DoesNotExist" => Rule::Absent,
                _ => return None,
            };
            labels.push(Requirement { key, rule });
        }
        Some(Selector { labels, fields: Vec::new() })
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|requirement| requirement.holds(labels[&requirement.key].as_str()))
            && self.fields.iter().all(|field| {
                let pointer = format!("/{}", field.path.replace('.', "/"));
                let value = object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default();
                (value == field.value) == field.equal
            })
    }
}

impl Requirement {
    fn holds(&self, label: Option<&str>) -> bool {
        match &self.rule {
            Rule::In(values) => label.is_some_and(|label| values.iter().any(|value| value == label)),
            Rule::NotIn(values) => label.is_none_or(|label| values.iter().all(|value| value != label)),
            Rule::Exists => label.is_some(),
            Rule::Absent => label.is_none(),
        }
    }
}

/// Splits at the commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts.into_iter().map(str::trim).collect()
}

fn requirement(text: &str) -> Result<Requirement, Status> {
    let make = |key: &str, rule| {
        let key = key.trim();
        let values: &[String] = match &rule {
            Rule::In(values) | Rule::NotIn(values) => values,
            Rule::Exists | Rule::Absent => &[],
        };
        if !is_label_key(key) || !values.iter().all(|value| is_label_value(value)) {
            return Err(unparsable(text));
        }
        Ok(Requirement { key: key.to_owned(), rule })
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, value)) = text.split_once("!=") {
        return make(key, Rule::NotIn(one(value)));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return make(key, Rule::In(one(value)));
    }
    if let Some(key) = text.strip_prefix('!') {
        return make(key, Rule::Absent);
    }
    let Some((head, values)) = text.split_once('(') else { return make(text, Rule::Exists) };
    let values = values.strip_suffix(')').ok_or_else(|| unparsable(text))?;
    let values = values.split(',').map(|value| value.trim().to_owned()).collect();
    let mut words = head.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(key), Some("in"), None) => make(key, Rule::In(values)),
        (Some(key), Some("notin"), None) => make(key, Rule::NotIn(values)),
        _ => Err(unparsable(text)),
    }
}

fn unparsable(text: &str) -> Status {
    Status::bad_request(format!(
        "unable to parse requirement: {text:?} in labelSelector: write key=value, key!=value, key, !key, \
         key in (a,b) or key notin (a,b)"
    ))
}

fn field(kind: &Kind, text: &str) -> Result<Field, Status> {
    let (path, value, equal) = match text.split_once("!=") {
        Some((path, value)) => (path, value, false),
        None => match text.split_once("==").or_else(|| text.split_once('=')) {
            Some((path, value)) => (path, value, true),
            None => {
                return Err(Status::bad_request(format!(
                    "invalid field selector: {text:?} in fieldSelector: write path=value or path!=value"
                )));
            }
        },
    };
    let known = ["metadata.name", "metadata.namespace"].contains(&path) || kind.fields.contains(&path);
    // The new group's name for the same field.
    let renamed = path.replacen("regarding.", "involvedObject.", 1);
    let renamed_known = kind.is_renamed_event() && kind.fields.contains(&&*renamed);
    if !known && !renamed_known {
        let message = format!(
            "\"{path}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        let others: String = kind.fields.iter().map(|field| format!(", \"{field}\"")).collect();
        return Err(Status::bad_request(message + &others));
    }
    Ok(Field { path: if known { path.to_owned() } else { renamed }, value: value.to_owned(), equal })
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{EVENTS, PODS};
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_are_selected_in_every_way_there_is() {
        let pod = json!({ "metadata": { "labels": { "app": "a", "spark-role": "executor" } } });
        for (text, selected) in [
            ("", true),
            ("app=a", true),
            ("app==b", false),
            ("app!=b", true),
            ("other!=b", true),
            ("app", true),
            ("other", false),
            ("!other", true),
            ("!app", false),
            ("app in (a, b),spark-role", true),
            ("app in (b,c)", false),
            ("app notin (b,c),other notin (a)", true),
            ("app=a,spark-role=driver", false),
        ] {
            let selector = Selector::parse(&PODS, text, "").unwrap();
            assert_eq!(selector.matches(&pod), selected, "{text}");
        }
        for bad in ["=a", "app in a", "app within (a)", "app in (a", "a b"] {
            let refusal = Selector::parse(&PODS, bad, "").unwrap_err();
            assert!(refusal.code == 400 && refusal.message.contains("labelSelector"), "{bad}");
        }
    }

    #[test]
    fn fields_are_selected_where_they_are_known() {
        let pod = json!({ "metadata": { "name": "x" }, "status": { "phase": "Running" } });
        let matches = |text| Selector::parse(&PODS, "", text).map(|selector| selector.matches(&pod));
        assert_eq!(matches("metadata.name=x,status.phase!=Failed"), Ok(true));
        assert_eq!(matches("spec.nodeName="), Ok(true), "what is not there is empty");
        assert_eq!(matches("status.phase==Pending"), Ok(false));
        assert_eq!(matches("spec.hostname=x").map_err(|refusal| refusal.code), Err(400));
        assert!(Selector::parse(&EVENTS, "", "involvedObject.name=x").is_ok());
    }

    #[test]
    fn a_selector_object_is_the_same_as_its_text() {
        let object = json!({
            "matchLabels": { "a": "1" },
            "matchExpressions": [{ "key": "b", "operator": "NotIn", "values": ["x"] }, { "key": "c", "operator": "Exists" }],
        });
        let selector = Selector::from_object(&object).unwrap();
        assert_eq!(selector, Selector::parse(&PODS, "a=1,b notin (x),c", "").unwrap());
        assert_eq!(Selector::from_object(&json!({})), Some(Selector::default()));
        assert_eq!(Selector::from_object(&Value::Null), None);
    }
}
