//! The heartbeat endpoint for everything that is not Spark's GraphiteSink: `POST /v1/heartbeats`.
//!
//! ```text
//! Authorization: Bearer <token>
//! {"beats": [{"fleet": "etl", "executor": 7, "uid": "0b6c…", "metrics": {"JVMHeapMemory": 81722880}}]}
//! 200 {"accepted": 1, "rejected": []}
//! ```
//!
//! Errors have the body of every HTTP error, `{"error": {"code", "message"}}`. If beats were examined and all of them
//! were rejected, the body also has `accepted` and `rejected`.
//!
//! A beat names its fleet, or its application with `applicationId`. A token is either the fleet's own token, which is
//! valid for all of its executors, or a projected service account token, which is valid for the executor of the pod
//! that it is bound to ([`review`]). A client without a valid token learns nothing, not even whether a fleet exists.
//!
//! While the server waits for a body, the request holds only its connection, and that one is evicted when there are too
//! many. A token that is known to be valid needs no review; an unknown one takes a slot in the review queue, which has
//! its own shares. When a token is refused a review although it could be genuine, the fleets that it may concern are
//! told, and their silence proves nothing for that time. These are the fleets that the request names, if the sender has
//! the address of one of their pods; or, if a fleet's pods cannot be identified by address (`heartbeat.checkPeer:
//! false`), if the sender is not a pod of another fleet. So a pod cannot excuse the silence of a foreign fleet, unless
//! that fleet accepts heartbeats from any address anyway.
//!
//! | status | |
//! |---|---|
//! | 200 | at least one beat was accepted; `rejected` says which were not, and why |
//! | 401 | no token, or one that is valid for none of these executors; also a pod's token until the pod is known |
//! | 403 | the token is valid, but for other executors |
//! | 408, 413 | the body took more than 5 s, is longer than 64 KiB, or longer than 16 KiB with a token that is not a fleet's own |
//! | 422 | the body cannot be parsed, has more than 100 beats, or names no known executor |
//! | 429, 503 | retry in a second: too many tokens to review, the review failed, or this replica does not lead |

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use fleet::event::{Beat, Impairment};
use fleet::id::{ExecutorId, Uid};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use self::review::{Asker, Denied, Known, Reviews, TokenReviewer};
use super::directory::{ExecutorEntry, Fleet, Secret};
use super::{Fate, Intake, Source};
use crate::http::bearer;
use crate::http::error::Error;
use crate::http::serve::{Neighbours, Peer};

pub mod review;

/// Maximum bytes of a body that is sent with a fleet's own token.
pub const BODY_MAX: usize = 64 * 1024;
/// Maximum bytes with any other token. A pod's token is valid for one executor: a beat with all known metrics has 3 KB.
pub const OTHERS_BODY_MAX: usize = 16 * 1024;
/// Maximum beats of a request.
pub const BEATS_MAX: usize = 100;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes of a token. A service account token has about 1,100.
const TOKEN_MAX: usize = 8 * 1024;

/// The routes, to be merged into a server that limits its connections. Without a reviewer only the fleets' own tokens
/// are accepted.
pub fn router(intake: Intake, reviewer: Option<Arc<dyn TokenReviewer>>) -> Router {
    let reviews = reviewer.map(Reviews::new);
    let api = Api { intake, reviews };
    Router::new().route("/v1/heartbeats", post(answer)).with_state(Arc::new(api))
}

struct Api {
    intake: Intake,
    reviews: Option<Reviews>,
}

/// Connections are grouped by the fleet whose pods they come from.
impl Neighbours for Intake {
    fn have(&self, ip: IpAddr) -> bool {
        self.directory.has_pod_at(ip)
    }

    fn turned_away(&self, ip: IpAddr) {
        self.refused(ip);
    }

    fn not_accepted(&self) {
        self.impaired_all(Impairment::Refused);
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
    accepted: usize,
    rejected: Vec<Rejected>,
}

#[derive(Serialize)]
struct Rejected {
    /// Index into `beats`.
    index: usize,
    reason: &'static str,
}

/// The fleet and executor that a beat names, and the executor's pod if it has one.
type Found = Result<(Arc<Fleet>, Option<ExecutorEntry>), Fate>;

/// The request had no effect.
struct Refusal {
    /// `None`: the fates of its beats have been counted.
    fate: Option<Fate>,
    error: Error,
}

impl Refusal {
    fn new(status: StatusCode, fate: Fate, error: impl Into<String>) -> Refusal {
        Refusal { fate: Some(fate), error: Error::new(status, code(fate), error) }
    }
}

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Result<Json<Answer>, Error> {
    api.answer(request).await.map(Json).map_err(|Refusal { fate, error }| {
        if let Some(fate) = fate {
            api.intake.counters.add(Source::Api, fate);
        }
        error
    })
}

/// The name that the other endpoints use, if they have this outcome too; otherwise the name in metrics.
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
        | Fate::Forwarded
        | Fate::NotFound
        | Fate::Failed
        | Fate::ForbiddenAddress => fate.name(),
    }
}

impl Api {
    async fn answer(&self, request: Request) -> Result<Answer, Refusal> {
        if !self.intake.directory.is_open() {
            let error = "this host stands by: send heartbeats to the leader";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Fate::StandingBy, error));
        }
        let peer = request.extensions().get::<Peer>().cloned();
        let ip = peer.as_ref().map_or(IpAddr::from([0, 0, 0, 0]), Peer::ip);
        let token = token(request.headers()).ok_or_else(unauthorized)?;
        let secret = Secret::new(&token);
        let fleets_own = self.intake.directory.trusts(&secret);
        let reviews = self.reviews.as_ref().filter(|_| is_jwt(&token));
        let known = reviews.map(|reviews| reviews.known(&secret));
        let is_good = fleets_own || matches!(known, Some(Known::Good(_)));
        if !is_good && !matches!(known, Some(Known::Unknown)) {
            // The body could have no effect, so it is not read.
            return Err(unauthorized());
        }
        if let Some(peer) = peer.filter(|_| is_good) {
            peer.prove();
        }
        let Document { beats } =
            document(request, if fleets_own { BODY_MAX } else { OTHERS_BODY_MAX }).await?;
        let mut found: Vec<_> = beats.iter().map(|said| self.find(said, &secret, None)).collect();
        let mut fleets = found.iter().flatten();
        let pod = if fleets.any(|(fleet, _)| fleet.trusts(&secret)) {
            None
        } else if found.iter().flatten().any(|(_, executor)| executor.is_some()) {
            let pod = self.owner(&token, &secret, ip, &found).await?;
            found = beats.iter().map(|said| self.find(said, &secret, Some(&pod))).collect();
            Some(pod)
        } else {
            // A token that could have no effect is not sent to the API server.
            return Err(unauthorized());
        };
        let mut answer = Answer { accepted: 0, rejected: Vec::new() };
        let mut fates = Vec::new();
        for (index, (said, found)) in beats.into_iter().zip(&found).enumerate() {
            let heard = match found {
                Ok((fleet, executor)) => self.hear(said, fleet, executor.as_ref(), &secret, pod.as_ref()),
                Err(fate) => Err(*fate),
            };
            match heard {
                Ok(()) => answer.accepted += 1,
                Err(fate) => {
                    // If the queue was full, that has been counted.
                    if fate != Fate::Dropped {
                        self.intake.counters.add(Source::Api, fate);
                    }
                    answer.rejected.push(Rejected { index, reason: fate.name() });
                    fates.push(fate);
                }
            }
        }
        if answer.accepted > 0 {
            return Ok(answer);
        }
        let (status, code, message) = if fates.contains(&Fate::Dropped) {
            (StatusCode::TOO_MANY_REQUESTS, "dropped", "the queue is full; send the beats again in a second")
        } else if fates.contains(&Fate::WrongPeer) || fates.contains(&Fate::Unauthorized) {
            (
                StatusCode::FORBIDDEN,
                "forbidden",
                "the token is valid, but not for these executors; see `rejected`",
            )
        } else {
            let message = "no beat names a known executor; see `rejected`";
            (StatusCode::UNPROCESSABLE_ENTITY, "unknown-executor", message)
        };
        let error = Error::new(status, code, message).with("accepted", 0).with("rejected", answer.rejected);
        Err(Refusal { fate: None, error })
    }

    /// Application ids and names of fleets are unique only within a namespace. Of several fleets that the beat may mean,
    /// this is the one that the token is valid for; a label in another namespace cannot take a heartbeat away from it.
    fn find(&self, said: &Said, secret: &Secret, pod: Option<&Uid>) -> Found {
        let all = match (&said.fleet, &said.application_id) {
            (Some(name), None) => self.intake.directory.called(name),
            (None, Some(id)) => self.intake.directory.applications(id),
            (Some(_), Some(_)) | (None, None) => return Err(Fate::Malformed),
        };
        let named = ExecutorId(said.executor);
        let executor = |fleet: &Fleet| fleet.executor(named);
        let is = |fleet: &&Arc<Fleet>| match pod {
            Some(pod) => executor(fleet).is_some_and(|executor| executor.uid == *pod),
            None => fleet.entry.ids.contains(named) && fleet.trusts(secret),
        };
        let has = |fleet: &&Arc<Fleet>| executor(fleet).is_some();
        let fleet = all.iter().find(is).or_else(|| all.iter().find(has)).or(all.first());
        let fleet = Arc::clone(fleet.ok_or(Fate::UnknownApplication)?);
        let executor = executor(&fleet);
        Ok((fleet, executor))
    }

    /// The pod that the token is bound to.
    async fn owner(&self, token: &str, secret: &Secret, ip: IpAddr, found: &[Found]) -> Result<Uid, Refusal> {
        let reviews = self.reviews.as_ref().filter(|_| is_jwt(token)).ok_or_else(unauthorized)?;
        let named = || found.iter().flatten().map(|(fleet, _)| fleet);
        let here = self.intake.directory.at(ip);
        let is_here = |fleet: &Arc<Fleet>| here.iter().any(|other| other.name == fleet.name);
        let own = named().find(|fleet| is_here(fleet)).or(here.first());
        let asker = Asker { ip, fleet: own.map(|fleet| Arc::clone(&fleet.name)) };
        let denied = match reviews.pod(token, secret, &asker).await {
            Ok(pod) => return Ok(pod),
            Err(Denied::Invalid) => return Err(unauthorized()),
            Err(Denied::Busy) => {
                Refusal::new(StatusCode::TOO_MANY_REQUESTS, Fate::RateLimited, "too many tokens to review")
            }
            Err(Denied::Unavailable) => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Fate::Failed, "tokens cannot be reviewed now")
            }
        };
        // At most 100, the maximum number of beats; duplicates add no information.
        let mut told: Vec<u64> = Vec::new();
        for fleet in named() {
            let may_be = is_here(fleet) || (!fleet.entry.check_peer && asker.fleet.is_none());
            if may_be && !told.contains(&fleet.entry.life) {
                told.push(fleet.entry.life);
                self.intake.impaired(fleet, Impairment::Refused);
            }
        }
        Err(denied)
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
        // The beat comes from the pod of another executor, or from an earlier pod of this executor.
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

async fn document(request: Request, body_max: usize) -> Result<Document, Refusal> {
    let oversized = || {
        let error = format!("the body is longer than {body_max} bytes; send fewer beats at once");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Fate::Oversized, error)
    };
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > body_max as u64) {
        return Err(oversized());
    }
    let body: Limited<Body> = Limited::new(request.into_body(), body_max);
    let body = timeout(BODY_TIMEOUT, body.collect()).await.map_err(|_| {
        Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            Fate::IdleClosed,
            format!("no body within {BODY_TIMEOUT:?}"),
        )
    })?;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            oversized()
        } else {
            let error = "the body could not be read to its end";
            Refusal::new(StatusCode::BAD_REQUEST, Fate::Malformed, error)
        }
    })?;
    let body = body.to_bytes();
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

fn token(headers: &HeaderMap) -> Option<String> {
    let token = str::from_utf8(bearer(headers)?).ok()?.trim();
    (1..=TOKEN_MAX).contains(&token.len()).then(|| token.to_owned())
}

/// Three base64url parts: a JWT, and so worth a review.
fn is_jwt(token: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let mut parts = token.split('.');
    parts.clone().count() == 3 && parts.all(|part| !part.is_empty() && part.bytes().all(plain))
}

#[cfg(test)]
mod tests;
