//! Reads a pod template into Kubernetes' own types and refuses unknown fields.
//!
//! The types ignore an unknown field, and the pod would silently lack it. They list their fields when they
//! request a struct, so the reader compares the list with the input: nothing about Kubernetes is written down
//! twice. Errors are collected; an invalid value is removed and the rest is read again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use k8s_openapi::api::core::v1 as k8s;
use serde::Deserializer;
use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer, Visitor};
use serde_json::Value;

use super::Remark;
use super::quantity::Quantity;

k8s_openapi::k8s_if_1_37! {
    /// The Kubernetes version of the types.
    pub const KUBERNETES: &str = "1.37";
}

/// More than a person reads at once.
const REMARKS_MAX: usize = 30;

/// A value of this type, or all errors in it. `root` is the path of the value.
pub fn read<T: DeserializeOwned>(value: &Value, root: &str) -> Result<T, Vec<Remark>> {
    let mut wrong = Vec::new();
    let mut value = value.clone();
    loop {
        let notes = RefCell::default();
        let reader = Reader { value: &value, at: Rc::new(Step::Root(root)), notes: &notes };
        let outcome = T::deserialize(reader);
        let notes = notes.into_inner();
        let error = match outcome {
            Ok(read) if wrong.is_empty() && notes.unknown.is_empty() => return Ok(read),
            Ok(_) => {
                wrong.extend(notes.unknown);
                return Err(wrong);
            }
            Err(error) => error,
        };
        let (path, steps, help) = notes.wrong.unwrap_or_default();
        let path = if path.is_empty() { root.to_owned() } else { path };
        wrong.push(Remark { help, ..Remark::new(path, error.to_string()) });
        if wrong.len() >= REMARKS_MAX || !remove(&mut value, &steps) {
            wrong.extend(notes.unknown);
            return Err(wrong);
        }
    }
}

/// The fields that Kubernetes gives a type.
pub fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let fields = Cell::new(&[][..]);
    // This always fails, because there is no value.
    let _ = T::deserialize(Asked(&fields));
    fields.get()
}

/// A place in the template.
#[derive(Clone)]
enum Step<'a> {
    Root(&'a str),
    Field(Rc<Step<'a>>, &'a str),
    Item(Rc<Step<'a>>, usize),
}

impl Step<'_> {
    fn path(&self) -> String {
        match self {
            Step::Root(root) => (*root).to_owned(),
            Step::Field(parent, name) => format!("{}.{name}", parent.path()),
            Step::Item(parent, at) => format!("{}[{at}]", parent.path()),
        }
    }

    /// The fields from the root; `None` is an item of a list.
    fn fields(&self) -> Vec<Part> {
        match self {
            Step::Root(_) => Vec::new(),
            Step::Field(parent, name) => [parent.fields(), vec![Part::Field((*name).to_owned())]].concat(),
            Step::Item(parent, at) => [parent.fields(), vec![Part::Item(*at)]].concat(),
        }
    }
}

#[derive(Clone)]
enum Part {
    Field(String),
    Item(usize),
}

/// Removes the innermost field on the path to a place. List items stay, so that the other items keep their
/// indexes.
fn remove(value: &mut Value, steps: &[Part]) -> bool {
    let Some(last) = steps.iter().rposition(|step| matches!(step, Part::Field(_))) else { return false };
    let mut at = value;
    for step in &steps[..last] {
        let next = match step {
            Part::Field(name) => at.get_mut(name),
            Part::Item(index) => at.get_mut(index),
        };
        let Some(next) = next else { return false };
        at = next;
    }
    match (&steps[last], at.as_object_mut()) {
        (Part::Field(name), Some(fields)) => fields.remove(name).is_some(),
        (Part::Field(_) | Part::Item(_), _) => false,
    }
}

#[derive(Default)]
struct Notes {
    unknown: Vec<Remark>,
    /// The first place at which a value was refused, and what would be valid.
    wrong: Option<(String, Vec<Part>, Option<String>)>,
}

struct Reader<'a> {
    value: &'a Value,
    at: Rc<Step<'a>>,
    notes: &'a RefCell<Notes>,
}

impl<'a> Reader<'a> {
    fn child(&self, value: &'a Value, at: Step<'a>) -> Reader<'a> {
        Reader { value, at: Rc::new(at), notes: self.notes }
    }

    fn know(&self, known: &'static [&'static str]) {
        let Some(object) = self.value.as_object() else { return };
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            let unknown = &mut self.notes.borrow_mut().unknown;
            if unknown.len() < REMARKS_MAX {
                let path = format!("{}.{name}", self.at.path());
                let message = format!("unknown field: Kubernetes {KUBERNETES} has none of this name here");
                let help = home(name);
                unknown.push(Remark { help, known, ..Remark::new(path, message) });
            }
        }
    }

    fn note<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &outcome {
            let mut notes = self.notes.borrow_mut();
            let is_scalar = self.value.is_number() || self.value.is_boolean();
            let quoted = || {
                let wants_text = error.to_string().ends_with("expected a string");
                (is_scalar && wants_text).then(|| format!("put it in quotes: \"{}\"", self.value))
            };
            notes.wrong.get_or_insert_with(|| (self.at.path(), self.at.fields(), quoted()));
        }
        outcome
    }
}

impl<'de, 'a: 'de> Deserializer<'de> for Reader<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let outcome = match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => visitor.visit_u64(number),
                (None, Some(number), _) => visitor.visit_i64(number),
                (None, None, Some(number)) => visitor.visit_f64(number),
                (None, None, None) => Err(Error::custom(format_args!("{number} is no number"))),
            },
            Value::Array(items) => {
                let items = (0..).zip(items);
                let items = items.map(|(at, item)| self.child(item, Step::Item(Rc::clone(&self.at), at)));
                visitor.visit_seq(SeqDeserializer::new(items))
            }
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| {
                    (name.as_str(), self.child(value, Step::Field(Rc::clone(&self.at), name)))
                });
                visitor.visit_map(MapDeserializer::new(fields))
            }
        };
        self.note(outcome)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let text = match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        // The type accepts any text, the API server does not.
        if let Some(text) = text.filter(|text| name == "Quantity" && Quantity::parse(text).is_none()) {
            return self.note(Err(Error::custom(format_args!(
                "{text:?} is no quantity: write for instance 500m, 2, 512Mi or 4Gi"
            ))));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.know(fields);
        self.deserialize_any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map enum identifier
    }
}

impl<'de, 'a: 'de> IntoDeserializer<'de, Error> for Reader<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Only collects which fields a struct has.
struct Asked<'a>(&'a Cell<&'static [&'static str]>);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.set(fields);
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The right place of a misplaced field: `capabilities` belongs to a container, not to the pod.
fn home(name: &str) -> Option<String> {
    let homes = [
        ("spec.template.spec", fields_of::<k8s::PodSpec>()),
        ("spec.template.spec.containers[]", fields_of::<k8s::Container>()),
        ("spec.template.spec.containers[].securityContext", fields_of::<k8s::SecurityContext>()),
        ("spec.template.spec.securityContext", fields_of::<k8s::PodSecurityContext>()),
        ("spec.template.spec.containers[].resources", fields_of::<k8s::ResourceRequirements>()),
        ("spec.template.metadata", &["annotations", "labels"]),
    ];
    if ["apiVersion", "kind", "status"].contains(&name) {
        return Some("leave it out: a PodTemplateSpec has metadata and spec".to_owned());
    }
    let (path, field) = homes.into_iter().find_map(|(path, fields)| {
        let field = fields.iter().find(|field| field.eq_ignore_ascii_case(name));
        field.map(|field| (path, field))
    })?;
    Some(format!("it belongs to `{path}.{field}`"))
}
