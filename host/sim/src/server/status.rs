//! What the API server answers when it does not do what it was asked: `v1.Status`.
//!
//! The texts are kube-apiserver's own, because people and clients match them.

use serde_json::{Value, json};

use super::kinds::Kind;

/// A refusal: an HTTP code and its `Status`.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: u16,
    /// CamelCase, for instance `AlreadyExists`.
    pub reason: &'static str,
    pub message: String,
    /// `null` or an object: name, kind, causes, retryAfterSeconds.
    pub details: Value,
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: Value::Null }
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

    /// 403.
    pub(super) fn forbidden(kind: &Kind, name: &str, why: &str) -> Status {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified());
        Status::of(403, "Forbidden", kind, name, message)
    }

    /// 422: `field` is not right.
    pub(super) fn invalid(kind: &Kind, name: &str, field: &str, why: &str) -> Status {
        let message = format!("{} \"{name}\" is invalid: {field}: {why}", kind.kind);
        let mut status = Status::of(422, "Invalid", kind, name, message);
        status.details["kind"] = kind.kind.into();
        status.caused_by("FieldValueInvalid", why, Some(field))
    }

    /// 410: the revision is compacted.
    pub fn expired(revision: u64, oldest: u64) -> Status {
        Status::new(410, "Expired", format!("too old resource version: {revision} ({oldest})"))
    }

    /// 410 of a `continue` token.
    pub fn continue_expired() -> Status {
        let message = "The provided continue parameter is too old to display a consistent list result. \
                       You can start a new list without the continue parameter.";
        Status::new(410, "Expired", message)
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
            "message": self.message, "reason": self.reason, "code": self.code,
        });
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

/// The `Status` of something that was done and has no object to show.
pub(super) fn success(details: Value) -> Value {
    let mut status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" });
    if !details.is_null() {
        status["details"] = details;
    }
    status
}
