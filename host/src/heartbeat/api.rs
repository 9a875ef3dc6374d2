//! Anything else posts its heartbeats: `POST /v1/heartbeats`.
//!
//! ```text
//! Authorization: Bearer <token>
//! {"beats": [{"fleet": "etl", "executor": 7, "uid": "0b6c…", "metrics": {"JVMHeapMemory": 81722880}}]}
//! 200 {"accepted": 1, "rejected": []}
//! ```
//!
//! An error has the body that all errors over HTTP have, `{"error": {"code", "message"}}`. Where beats were looked at and
//! none was accepted, `accepted` and `rejected` are beside it.
//!
//! A beat names its fleet, or with `applicationId` its application. A token is either the fleet's own,
//! good for all its executors, or one that Kubernetes gave to a pod, good for the executor that is this
//! pod ([`review`]). Whoever has neither learns nothing, not even whether a fleet exists.
//!
//! | status | |
//! |---|---|
//! | 200 | at least one beat was accepted; `rejected` says which were not, and why |
//! | 401 | no token, or one that is good for none of these executors; a pod's own until the pod is known |
//! | 403 | the token is good, but for others |
//! | 408, 413 | the body took more than 10 s, is longer than 64 KiB |
//! | 422 | the body is not understood, has more than 100 beats, or names nobody known |
//! | 429, 503 | come back in a second: too many requests, tokens cannot be reviewed, or this host does not lead |

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use fleet::event::{Beat, Impairment};
use fleet::id::{ExecutorId, Uid};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::review::{Denied, Reviews, TokenReviewer};
use super::directory::{ExecutorEntry, Fleet, Secret};
use super::{Fate, Intake, Source};
use crate::http::error::Error;
use crate::http::serve::Neighbours;
use crate::http::wire::Reason;

pub mod review;

/// Bytes of a body.
pub const BODY_MAX: usize = 64 * 1024;
/// Beats of a request.
pub const BEATS_MAX: usize = 100;
/// Requests under way: with body and what it becomes, at most 0.5 MiB each.
const REQUESTS_MAX: usize = 64;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a token. A pod's is about 1,100.
const TOKEN_MAX: usize = 8 * 1024;

/// The routes, to be merged into a server that limits its connections. Without a reviewer only the
/// fleets' own tokens are good.
pub fn router(intake: Intake, reviewer: Option<Arc<dyn TokenReviewer>>) -> Router {
    let reviews = reviewer.map(Reviews::new);
    let api = Api { intake, reviews, requests: Semaphore::new(REQUESTS_MAX) };
    Router::new()
        .route("/v1/heartbeats", post(answer))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(Arc::new(api))
}

struct Api {
    intake: Intake,
    reviews: Option<Reviews>,
    requests: Semaphore,
}

/// Connections are told apart by whose pods they come from.
impl Neighbours for Intake {
    fn have(&self, ip: IpAddr) -> bool {
        self.directory.has_pod_at(ip)
    }

    fn turned_away(&self, ip: IpAddr) {
        let concerned = self.directory.concerned(ip);
        concerned.iter().for_each(|fleet| self.impaired(fleet, Impairment::Refused));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    beats: Vec<Said>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Said {
    fleet: Option<String>,
    application_id: Option<String>,
    executor: u64,
    uid: Option<String>,
    #[serde(default)]
    metrics: BTreeMap<String, f64>,
}

#[derive(Serialize)]
struct Answer {
    /// Nothing was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Reason>,
    accepted: usize,
    rejected: Vec<Rejected>,
}

#[derive(Serialize)]
struct Rejected {
    /// In `beats`.
    index: usize,
    reason: &'static str,
}

/// Nothing of the request was used.
struct Refusal {
    status: StatusCode,
    fate: Fate,
    error: String,
}

impl Refusal {
    fn new(status: StatusCode, fate: Fate, error: impl Into<String>) -> Refusal {
        Refusal { status, fate, error: error.into() }
    }
}

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (status, body) = match api.answer(request).await {
        Ok((status, answer)) => (status, Json(answer).into_response()),
        Err(Refusal { status, fate, error }) => {
            api.intake.counters.add(Source::Api, fate);
            (status, Error::new(status, code(fate), error).into_response())
        }
    };
    let mut response = (status, body).into_response();
    match status {
        StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(WWW_AUTHENTICATE, "Bearer".parse().expect("it is ASCII"));
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            response.headers_mut().insert(RETRY_AFTER, 1.into());
        }
        _ => {}
    }
    response
}

/// What the other paths call it, where they have it too; else as in metrics.
fn code(fate: Fate) -> &'static str {
    match fate {
        Fate::Oversized => "too-large",
        Fate::IdleClosed => "timeout",
        Fate::Accepted
        | Fate::Dropped
        | Fate::Malformed
        | Fate::UnknownApplication
        | Fate::UnknownExecutor
        | Fate::WrongPeer
        | Fate::Ambiguous
        | Fate::Unauthorized
        | Fate::RateLimited
        | Fate::TooManyConnections
        | Fate::Ignored
        | Fate::StandingBy
        | Fate::NotFound
        | Fate::Failed
        | Fate::ForbiddenAddress => fate.name(),
    }
}

impl Api {
    async fn answer(&self, request: Request) -> Result<(StatusCode, Answer), Refusal> {
        if !self.intake.directory.is_open() {
            let error = "this host stands by: heartbeats are for the one that leads";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Fate::StandingBy, error));
        }
        let _permit = self.requests.try_acquire().map_err(|_| {
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, Fate::RateLimited, "too many requests at once")
        })?;
        let token = bearer(request.headers()).ok_or_else(unauthorized)?;
        let Document { beats } = document(request).await?;
        let secret = Secret::new(&token);
        let mut found: Vec<_> = beats.iter().map(|said| self.find(said, &secret, None)).collect();
        let mut fleets = found.iter().flatten();
        let pod = if fleets.any(|(fleet, _)| fleet.trusts(&secret)) {
            None
        } else if found.iter().flatten().any(|(_, executor)| executor.is_some()) {
            let pod = self.owner(&token, &secret).await?;
            found = beats.iter().map(|said| self.find(said, &secret, Some(&pod))).collect();
            Some(pod)
        } else {
            // The API server is not asked about a token that could do nothing.
            return Err(unauthorized());
        };
        let mut answer = Answer { error: None, accepted: 0, rejected: Vec::new() };
        let mut fates = Vec::new();
        for (index, (said, found)) in beats.into_iter().zip(&found).enumerate() {
            let heard = match found {
                Ok((fleet, executor)) => self.hear(said, fleet, executor.as_ref(), &secret, pod.as_ref()),
                Err(fate) => Err(*fate),
            };
            match heard {
                Ok(()) => answer.accepted += 1,
                Err(fate) => {
                    // A full queue has been counted.
                    if fate != Fate::Dropped {
                        self.intake.counters.add(Source::Api, fate);
                    }
                    answer.rejected.push(Rejected { index, reason: fate.name() });
                    fates.push(fate);
                }
            }
        }
        if answer.accepted > 0 {
            return Ok((StatusCode::OK, answer));
        }
        let (status, code, message) = if fates.contains(&Fate::Dropped) {
            (StatusCode::TOO_MANY_REQUESTS, "dropped", "the queue is full; send the beats again in a second")
        } else if fates.contains(&Fate::WrongPeer) || fates.contains(&Fate::Unauthorized) {
            (
                StatusCode::FORBIDDEN,
                "forbidden",
                "the token is good, but not for these executors; see `rejected`",
            )
        } else {
            let message = "no beat names an executor that is known; see `rejected`";
            (StatusCode::UNPROCESSABLE_ENTITY, "unknown-executor", message)
        };
        answer.error = Some(Reason { code: code.to_owned(), message: message.to_owned() });
        Ok((status, answer))
    }

    /// Of several fleets with the application's id, each in a namespace of its own, the one that the token is good for:
    /// another's label takes nothing from it.
    fn find(
        &self,
        said: &Said,
        secret: &Secret,
        pod: Option<&Uid>,
    ) -> Result<(Arc<Fleet>, Option<ExecutorEntry>), Fate> {
        let directory = &self.intake.directory;
        let of_application = |id: &str| {
            let executor = |fleet: &Fleet| fleet.executor(ExecutorId(said.executor));
            let all = directory.applications(id);
            let is = |fleet: &&Arc<Fleet>| match pod {
                Some(pod) => executor(fleet).is_some_and(|executor| executor.uid == *pod),
                None => fleet.trusts(secret),
            };
            let has = |fleet: &&Arc<Fleet>| executor(fleet).is_some();
            all.iter().find(is).or_else(|| all.iter().find(has)).or(all.first()).cloned()
        };
        let fleet = match (&said.fleet, &said.application_id) {
            (Some(name), None) => directory.fleet(name),
            (None, Some(id)) => of_application(id),
            (Some(_), Some(_)) | (None, None) => return Err(Fate::Malformed),
        };
        let fleet = fleet.ok_or(Fate::UnknownApplication)?;
        let executor = fleet.executor(ExecutorId(said.executor));
        Ok((fleet, executor))
    }

    /// The pod that the token was given to.
    async fn owner(&self, token: &str, secret: &Secret) -> Result<Uid, Refusal> {
        let reviews = self.reviews.as_ref().filter(|_| is_jwt(token)).ok_or_else(unauthorized)?;
        reviews.pod(token, secret).await.map_err(|denied| match denied {
            Denied::Nobody => unauthorized(),
            Denied::Busy => {
                Refusal::new(StatusCode::TOO_MANY_REQUESTS, Fate::RateLimited, "too many tokens to review")
            }
            Denied::Unavailable => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Fate::Failed, "tokens cannot be reviewed now")
            }
        })
    }

    fn hear(
        &self,
        said: Said,
        fleet: &Arc<Fleet>,
        executor: Option<&ExecutorEntry>,
        secret: &Secret,
        pod: Option<&Uid>,
    ) -> Result<(), Fate> {
        if pod.is_none() && !fleet.trusts(secret) {
            return Err(Fate::Unauthorized);
        }
        let executor = executor.ok_or(Fate::UnknownExecutor)?;
        // Of another executor's pod, or of an earlier one of this executor.
        let another = |uid: &str| *uid != *executor.uid.0;
        if pod.is_some_and(|pod| another(&pod.0)) || said.uid.as_deref().is_some_and(another) {
            return Err(Fate::WrongPeer);
        }
        let uid = (pod.is_some() || said.uid.is_some()).then(|| executor.uid.clone());
        let kept = said.metrics.into_iter().filter(|(name, _)| fleet.columns.contains(name));
        let metrics = kept.map(|(name, value)| (name.into(), value)).collect();
        let beat = Beat { executor: ExecutorId(said.executor), uid, metrics };
        self.intake.beat(Source::Api, fleet.entry.life, beat).map_err(|_| Fate::Dropped)
    }
}

async fn document(request: Request) -> Result<Document, Refusal> {
    let body = timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await;
    let body = body.map_err(|_| {
        Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            Fate::IdleClosed,
            format!("no body within {BODY_TIMEOUT:?}"),
        )
    })?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let error = format!("the body is longer than {BODY_MAX} bytes; send fewer beats at once");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Fate::Oversized, error)
        }
        status => Refusal::new(status, Fate::Malformed, rejection.body_text()),
    })?;
    let unprocessable = |error| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, Fate::Malformed, error);
    let document: Document =
        serde_json::from_slice(&body).map_err(|error| unprocessable(format!("the body: {error}")))?;
    match document.beats.len() {
        1..=BEATS_MAX => Ok(document),
        count => Err(unprocessable(format!("beats: there are {count}; send 1 to {BEATS_MAX}"))),
    }
}

fn unauthorized() -> Refusal {
    let error = "send `Authorization: Bearer` with the fleet's token, or with the token of the executor's \
                 pod for the audience rollcall-heartbeat";
    Refusal::new(StatusCode::UNAUTHORIZED, Fate::Unauthorized, error)
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let usable = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= TOKEN_MAX;
    usable.then(|| token.to_owned())
}

/// Three parts of base64url: worth a review.
fn is_jwt(token: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let mut parts = token.split('.');
    parts.clone().count() == 3 && parts.all(|part| !part.is_empty() && part.bytes().all(plain))
}

#[cfg(test)]
mod tests;
