//! The answer to a request that fails: `{"error": {"code", "message"}}`.
//!
//! The code is for machines and never changes; the message names the remedy.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use fleet::guardrail::Refusal;

use super::wire;
use crate::handle::Unavailable;

#[derive(Debug)]
pub struct Error {
    status: StatusCode,
    body: wire::Failure,
}

impl Error {
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Error {
        let error = wire::Reason { code: code.to_owned(), message: message.into() };
        Error { status, body: wire::Failure { error, executors: Vec::new() } }
    }

    pub fn no_such_fleet(fleet: &str) -> Error {
        let message = format!("there is no fleet {fleet:?}; GET /v1/fleets lists them");
        Error::new(StatusCode::NOT_FOUND, "unknown-fleet", message)
    }

    /// No command works for a fleet before its driver exists.
    pub fn no_driver(why: &str) -> Error {
        let message = format!("the fleet has no driver yet: {why}");
        Error::new(StatusCode::CONFLICT, "no-driver", message)
    }

    /// A guardrail rejected the whole command, or each of these executors.
    pub fn refused(refusal: Refusal, executors: Vec<wire::ExecutorResult>) -> Error {
        Error { status: StatusCode::CONFLICT, body: wire::Failure { error: refusal.into(), executors } }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let challenge = self.status == StatusCode::UNAUTHORIZED;
        let response = (self.status, Json(self.body));
        if challenge {
            ([(WWW_AUTHENTICATE, "Bearer")], response).into_response()
        } else {
            response.into_response()
        }
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
