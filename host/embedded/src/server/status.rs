//! The API server's answer when it refuses a request: `v1.Status`.
//!
//! The texts are kube-apiserver's own, because people and clients match them.

use serde_json::{Value, json};

use super::kinds::Kind;

/// A refusal: an HTTP code and its `Status`.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: u16,
    /// CamelCase, for instance `AlreadyExists`; or empty.
    pub reason: &'static str,
    pub message: String,
    /// `null` or an object: name, kind, causes, retryAfterSeconds.
    pub details: Value,
    /// `metadata.continue`, or empty.
    token: String,
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: Value::Null, token: String::new() }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    /// 404 of a path that nothing is served at.
    pub fn no_such_path() -> Status {
        Status::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 404.
    pub(super) fn not_found(kind: &Kind, name: &str) -> Status {
        Status::of(404, "NotFound", kind, name, format!("{} \"{name}\" not found", kind.qualified()))
    }

    /// 409: the name is taken.
    pub(super) fn already_exists(kind: &Kind, name: &str) -> Status {
        let message = format!("{} \"{name}\" already exists", kind.qualified());
        Status::of(409, "AlreadyExists", kind, name, message)
    }

    /// 409: a precondition does not hold.
    pub(super) fn conflict(kind: &Kind, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified());
        Status::of(409, "Conflict", kind, name, message)
    }

    /// 409 of a deletion whose UID does not match. It names the kind, as only this one does.
    pub(super) fn precondition(kind: &Kind, name: &Value, why: &str) -> Status {
        let name = name.as_str().unwrap_or_default();
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.kind);
        let mut status = Status::of(409, "Conflict", kind, name, message);
        status.details["kind"] = kind.kind.into();
        status
    }

    /// 403.
    pub(super) fn forbidden(kind: &Kind, name: &str, why: &str) -> Status {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified());
        Status::of(403, "Forbidden", kind, name, message)
    }

    /// 422: `field` is invalid. `why` begins as the API server's texts do, which determines the cause.
    pub(super) fn invalid(kind: &Kind, name: &str, field: &str, why: &str) -> Status {
        let message = format!("{} \"{name}\" is invalid: {field}: {why}", kind.kind);
        let mut status = Status::of(422, "Invalid", kind, name, message);
        status.details["kind"] = kind.kind.into();
        status.caused_by(cause(why), why, Some(field))
    }

    /// 422 of `ListOptions` and the like.
    pub(super) fn options(kind: &str, fields: &[(&str, &str)]) -> Status {
        let texts: Vec<String> = fields.iter().map(|(field, why)| format!("{field}: {why}")).collect();
        let message = format!("{kind}.meta.k8s.io \"\" is invalid: {}", texts.join(", "));
        let causes =
            fields.iter().map(|(field, why)| json!({ "reason": cause(why), "message": why, "field": field }));
        let mut status = Status::new(422, "Invalid", message);
        status.details =
            json!({ "group": "meta.k8s.io", "kind": kind, "causes": causes.collect::<Vec<_>>() });
        status
    }

    /// 410: the revision is compacted.
    pub fn expired(revision: u64, oldest: u64) -> Status {
        Status::new(410, "Expired", format!("too old resource version: {revision} ({oldest})"))
    }

    /// 410 of a `continue` token, with one that continues with the current state.
    pub fn continue_expired(token: String) -> Status {
        let message = "The provided continue parameter is too old to display a consistent list result. \
                       You can start a new list without the continue parameter, or use the continue token in this \
                       response to retrieve the remainder of the results.";
        Status { token, ..Status::new(410, "Expired", message) }
    }

    pub fn caused_by(mut self, reason: &str, message: &str, field: Option<&str>) -> Status {
        let mut cause = json!({ "reason": reason, "message": message });
        if let Some(field) = field {
            cause["field"] = field.into();
        }
        self.details["causes"] = json!([cause]);
        self
    }

    /// With the header `Retry-After`.
    pub fn retry_after(mut self, seconds: u32) -> Status {
        self.details["retryAfterSeconds"] = seconds.into();
        self
    }

    pub fn retry_after_s(&self) -> Option<u64> {
        self.details["retryAfterSeconds"].as_u64()
    }

    pub fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.token.is_empty() {
            status["metadata"]["continue"] = self.token.clone().into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }

    fn of(code: u16, reason: &'static str, kind: &Kind, name: &str, message: String) -> Status {
        let mut details = json!({ "name": name, "kind": kind.plural });
        if !kind.group.is_empty() {
            details["group"] = kind.group.into();
        }
        Status { details, ..Status::new(code, reason, message) }
    }
}

fn cause(why: &str) -> &'static str {
    const CAUSES: [(&str, &str); 4] = [
        ("Required value", "FieldValueRequired"),
        ("Duplicate value", "FieldValueDuplicate"),
        ("Unsupported value", "FieldValueNotSupported"),
        ("Forbidden", "FieldValueForbidden"),
    ];
    CAUSES.iter().find(|(text, _)| why.starts_with(text)).map_or("FieldValueInvalid", |(_, cause)| cause)
}

/// The `Status` of a successful request that has no object to return.
pub(super) fn success(details: Value) -> Value {
    let mut status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" });
    if !details.is_null() {
        status["details"] = details;
    }
    status
}
