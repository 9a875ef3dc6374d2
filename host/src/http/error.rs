//! The answer to a request that fails: `{"error": {"code", "message"}}`, for some errors with further fields.
//!
//! The code is for machines and never changes; the message names the remedy. The status decides about the headers:
//! which token is needed, or when to try again.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use fleet::guardrail::Refusal;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::wire;
use crate::handle::{NoFleet, Unavailable};

#[derive(Debug)]
pub struct Error {
    status: StatusCode,
    body: Content,
}

/// What [`wire::Failure`] reads.
#[derive(Debug, Serialize)]
struct Content {
    error: wire::Reason,
    #[serde(flatten)]
    details: Map<String, Value>,
}

impl Error {
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Error {
        let error = wire::Reason { code: code.to_owned(), message: message.into() };
        Error { status, body: Content { error, details: Map::new() } }
    }

    /// With one more field.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Error {
        self.body.details.insert(name.to_owned(), json!(value));
        self
    }

    /// The name means no fleet, or several.
    pub fn no_fleet(called: &str, why: &NoFleet) -> Error {
        match why {
            NoFleet::Unknown => {
                let message = format!("there is no fleet {called:?}; GET /v1/fleets lists them");
                Error::new(StatusCode::NOT_FOUND, "unknown-fleet", message)
            }
            NoFleet::Ambiguous(fleets) => {
                let several = fleets.join(", ");
                let message =
                    format!("{called:?} is the name of several fleets: {several}; add the namespace");
                Error::new(StatusCode::CONFLICT, "ambiguous-fleet", message)
            }
        }
    }

    /// No command works for a fleet before its driver exists.
    pub fn no_driver(why: &str) -> Error {
        let message = format!("the fleet has no driver yet: {why}");
        Error::new(StatusCode::CONFLICT, "no-driver", message)
    }

    /// A guard-rail rejected the whole command, or each of these executors.
    pub fn refused(refusal: Refusal, executors: Vec<wire::ExecutorResult>) -> Error {
        let error = Error::new(StatusCode::CONFLICT, refusal.code(), refusal.meaning());
        if executors.is_empty() { error } else { error.with("executors", executors) }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        let header = match self.status {
            StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => (RETRY_AFTER, 1.into()),
            _ => return response,
        };
        response.headers_mut().extend([header]);
        response
    }
}

impl From<Unavailable> for Error {
    fn from(unavailable: Unavailable) -> Error {
        let code = match unavailable {
            Unavailable::Busy => "busy",
            Unavailable::Stopped => "stopping",
            Unavailable::Timeout => "timeout",
        };
        Error::new(StatusCode::SERVICE_UNAVAILABLE, code, unavailable.to_string())
    }
}

/// The parsed body, or an [`Error`] that says what is wrong with it.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(Error))]
pub struct Body<T>(pub T);

/// The parameters of the path, or an [`Error`].
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Error))]
pub struct Path<T>(pub T);

/// The parameters of the query, or an [`Error`].
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Error))]
pub struct Query<T>(pub T);

impl From<JsonRejection> for Error {
    fn from(rejection: JsonRejection) -> Error {
        unusable(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Error {
    fn from(rejection: PathRejection) -> Error {
        unusable(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Error {
    fn from(rejection: QueryRejection) -> Error {
        unusable(rejection.status(), rejection.body_text())
    }
}

pub async fn no_such_path(uri: Uri) -> Error {
    Error::new(StatusCode::NOT_FOUND, "unknown-path", format!("there is nothing at {}", uri.path()))
}

pub async fn no_such_method(method: Method, uri: Uri) -> Error {
    let message = format!("{} does not take {method}; see the Allow header", uri.path());
    Error::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", message)
}

fn unusable(status: StatusCode, message: String) -> Error {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Error::new(status, "too-large", format!("a body may have {} bytes", super::BODY_MAX))
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Error::new(status, "wrong-content-type", "say Content-Type: application/json")
        }
        StatusCode::UNPROCESSABLE_ENTITY => Error::new(status, "wrong-fields", message),
        _ => Error::new(status, "malformed", message + "; a command without arguments is {}"),
    }
}
