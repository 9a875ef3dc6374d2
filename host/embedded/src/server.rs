//! A Kubernetes API server in memory, for real clients: `kube::Client`, its watcher, and `kubectl`.
//!
//! HTTP requests go in and JSON comes out, as kube-apiserver would answer. Objects are stored as the JSON that
//! was sent, without a schema; [`Server::advance`] sets the time, and also runs what controllers do in a real
//! cluster: garbage collection and the removal of namespaces. There is no socket and no thread here: [`Server`]
//! is a tower `Service`; to serve a port, put an HTTP server in front of it.
//!
//! The simulator (`host/lab`) has another model of the same thing: typed, and fast enough for millions of steps.
//! This one is for the adapters, which the simulator bypasses. Both are compared with kube-apiserver.
//!
//! What it leaves out: authentication, RBAC, admission webhooks, schemas, protobuf, websockets, logs and
//! exec; a strategic merge patch and an apply are taken as merge patches (`patch.rs`).

#![allow(clippy::disallowed_types, reason = "real clients have threads")]

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::request::Parts;
use http::{Request, Response, header};
use serde_json::{Value, json};

mod admission;
mod ask;
mod body;
pub(crate) mod clock;
pub(crate) mod eviction;
pub(crate) mod gates;
mod kinds;
mod managed;
pub mod names;
mod patch;
mod removal;
mod selector;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod typed;
mod verbs;
pub(crate) mod view;

use ask::{Ask, Verb};
use body::Watch;
use kinds::{Kind, PODS};
use store::{Key, Store};

pub use body::Body;
pub use status::Status;

/// A handle; its clones are the same server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    store: Mutex<Store>,
    interceptor: Mutex<Option<Interceptor>>,
}

/// Asked about every request before it is served. It must not call the server that asks it.
pub type Interceptor = Box<dyn FnMut(&Parts) -> Verdict + Send>;

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Not served; a `Status` with this code instead.
    Respond {
        status: u16,
        /// In seconds.
        retry_after: Option<u32>,
        message: String,
    },
    /// Served, and the connection breaks before the answer.
    ApplyThenLose,
    /// Not served; the connection breaks.
    LoseBefore,
    /// Not served, and never answered.
    Hang,
    /// A watch ends after this many bytes, even in the middle of an event. Other requests pass.
    CutWatchAfter(usize),
}

/// The owner of a bearer token, for `TokenReview`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenInfo {
    pub username: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub audiences: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// A change of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub revision: u64,
    pub at_ms: u64,
    /// `None`: it was created.
    pub before: Option<Arc<Value>>,
    /// `None`: it was deleted.
    pub after: Option<Arc<Value>>,
}

/// A DELETE of a pod, or an eviction, that a client asked for and that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Deletion {
    /// The last change before it.
    pub revision: u64,
    pub at_ms: u64,
    /// The field manager: as a rule the first word of the client's User-Agent.
    pub agent: String,
    pub uid_precondition: Option<String>,
    pub evicted: bool,
    /// As it was before.
    pub pod: Arc<Value>,
}

impl Server {
    /// An empty cluster with the usual namespaces. The seed determines UIDs; the clock starts at 2026-01-01
    /// unless it is set.
    pub fn new(seed: u64) -> Server {
        const START_MS: i64 = 1_767_225_600_000;
        let shared = Shared { store: Mutex::new(Store::new(seed, START_MS)), interceptor: Mutex::new(None) };
        let server = Server { shared: Arc::new(shared) };
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            let namespace = json!({ "metadata": { "name": name } });
            server.create("namespaces", "", namespace).expect("nothing is there yet");
        }
        server
    }

    /// What the wall clock shows at `now_ms` 0, in ms since 1970.
    pub fn set_wall_clock(&self, wall_base_ms: i64) {
        self.with(|store| store.wall_base_ms = wall_base_ms);
    }

    /// Sets the time, in ms since the start. Ends watches whose time is over, sends bookmarks that are due,
    /// collects garbage.
    pub fn advance(&self, now_ms: u64) {
        self.with(|store| {
            store.now_ms = store.now_ms.max(now_ms);
            removal::collect(store);
        });
    }

    /// The same, for a request whose body has not arrived yet.
    pub async fn answer<B>(&self, request: Request<B>) -> io::Result<Response<Body>>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        Ok(self.call(Request::from_parts(parts, collect(body).await?)))
    }

    /// Serves a request whose body is complete. The response to a watch continues in its body.
    pub fn call(&self, request: Request<Bytes>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let verdict = match &mut *self.shared.interceptor.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(interceptor) => interceptor(&parts),
            None => Verdict::Pass,
        };
        let broken = |kind| Response::new(Body(kind));
        match verdict {
            Verdict::Pass => self.serve(&parts, &body),
            Verdict::Respond { status, retry_after, message } => {
                let mut refusal = Status::new(status, reason(status), message);
                if let Some(seconds) = retry_after {
                    refusal = refusal.retry_after(seconds);
                }
                refuse(&refusal)
            }
            Verdict::ApplyThenLose => {
                self.serve(&parts, &body);
                broken(body::Kind::Lost)
            }
            Verdict::LoseBefore => broken(body::Kind::Lost),
            Verdict::Hang => broken(body::Kind::Hung),
            Verdict::CutWatchAfter(bytes) => {
                let mut response = self.serve(&parts, &body);
                if let body::Kind::Watch(watch) = &mut response.body_mut().0 {
                    watch.cut = Some(bytes);
                }
                response
            }
        }
    }

    /// Faults for tests; `None` ends them.
    pub fn set_interceptor(&self, interceptor: Option<Interceptor>) {
        *self.shared.interceptor.lock().unwrap_or_else(PoisonError::into_inner) = interceptor;
    }

    /// From now on, a `TokenReview` of this token is answered with `info`.
    pub fn set_token(&self, token: &str, info: TokenInfo) {
        self.with(|store| store.tokens.insert(token.to_owned(), info));
    }

    /// How many requests were served, successful or not, by verb and resource, for instance `("create",
    /// "pods/eviction")`.
    pub fn requests(&self) -> BTreeMap<(String, String), u64> {
        self.with(|store| store.requests.clone())
    }

    /// Drops the log, so that every watch that is behind, and every paged list, gets a 410.
    pub fn compact(&self) {
        self.with(Store::compact);
    }

    fn serve(&self, parts: &Parts, body: &Bytes) -> Response<Body> {
        let path = ask::segments(parts.uri.path());
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let document = (parts.method == http::Method::GET).then(|| kinds::discovery(&path)).flatten();
        if let Some(document) = document {
            self.count("get", "discovery");
            return respond(200, Body::json(&document));
        }
        let result = Ask::parse(parts).and_then(|ask| {
            self.count(ask.verb.name(), &ask.resource());
            let body = ask.json(body)?;
            self.with(|store| self.run(store, &ask, body))
        });
        match result {
            Ok((code, body)) => respond(code, body),
            Err(refusal) => refuse(&refusal),
        }
    }

    fn run(&self, store: &mut Store, ask: &Ask, body: Value) -> Result<(u16, Body), Status> {
        // Serving a request takes no simulated time.
        let wall_ms = store.wall_ms();
        let shown = |object: &Value| Body::json(&ask.view.object(object, wall_ms));
        let known = match ask.subresource.as_str() {
            "" => true,
            "status" => ask.kind.status && [Verb::Get, Verb::Update, Verb::Patch].contains(&ask.verb),
            "eviction" | "binding" => *ask.kind == PODS && ask.verb == Verb::Create,
            _ => false,
        };
        if !known {
            return Err(Status::no_such_path());
        }
        match ask.verb {
            Verb::Get => Ok((200, shown(&*verbs::get(store, ask)?))),
            Verb::List => {
                let (items, meta) = verbs::list(store, ask)?;
                let list = ask.view.list(meta, items.iter().map(|item| &**item), wall_ms);
                Ok((200, Body::json(&list)))
            }
            Verb::Watch => Ok((200, Body(body::Kind::Watch(Box::new(Watch::new(self, store, ask)?))))),
            Verb::Create if ask.subresource == "eviction" => {
                Ok((201, Body::json(&eviction::evict(store, ask, &body)?)))
            }
            Verb::Create if ask.subresource == "binding" => {
                Ok((201, Body::json(&verbs::bind(store, ask, &body)?)))
            }
            Verb::Create => Ok((201, shown(&*verbs::create(store, ask, body)?))),
            Verb::Update => {
                let (object, created) = verbs::update(store, ask, body)?;
                Ok((if created { 201 } else { 200 }, shown(&object)))
            }
            Verb::Patch => {
                let (object, created) = verbs::patch(store, ask, body)?;
                Ok((if created { 201 } else { 200 }, shown(&object)))
            }
            Verb::Delete => Ok((200, Body::json(&removal::asked(store, ask, &body)?))),
            Verb::DeleteCollection => Ok((200, Body::json(&removal::asked_all(store, ask, &body)?))),
        }
    }

    fn count(&self, verb: &str, resource: &str) {
        self.with(|store| {
            // Known verbs, known resources; the subresource after the slash is free text from the client.
            let resource = match resource.split_once('/') {
                Some((_, "status" | "eviction" | "binding")) | None => resource,
                Some((resource, _)) => resource,
            };
            *store.requests.entry((verb.to_owned(), resource.to_owned())).or_default() += 1;
        });
    }

    /// The store, locked; after it is unlocked, the watches that wait for the changes are woken.
    fn with<R>(&self, work: impl FnOnce(&mut Store) -> R) -> R {
        let (result, ripe) = {
            let mut store = self.shared.store.lock().unwrap_or_else(PoisonError::into_inner);
            let result = work(&mut store);
            (result, store.ripe())
        };
        for waker in ripe {
            waker.wake();
        }
        result
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

impl<B> tower_service::Service<Request<B>> for Server
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let response = server.answer(request).await?;
            match &response.body().0 {
                body::Kind::Lost => Err(body::lost()),
                body::Kind::Hung => std::future::pending().await,
                body::Kind::Whole(_) | body::Kind::Watch(_) => Ok(response),
            }
        })
    }
}

/// A whole body; of one that is too long, enough to detect that.
async fn collect<B>(body: B) -> io::Result<Bytes>
where
    B: http_body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = Box::pin(body);
    let mut whole = Vec::new();
    while whole.len() <= ask::BODY_MAX {
        let frame = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await;
        let Some(frame) = frame.transpose().map_err(io::Error::other)? else { break };
        if let Ok(mut data) = frame.into_data() {
            whole.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
    }
    Ok(whole.into())
}

fn respond(code: u16, body: Body) -> Response<Body> {
    let response = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
    response.body(body).expect("the codes are valid ones")
}

fn refuse(refusal: &Status) -> Response<Body> {
    // An interceptor may name a code that HTTP does not have.
    let code = if (200..=599).contains(&refusal.code) { refusal.code } else { 500 };
    let mut response = respond(code, Body::json(&refusal.to_json()));
    if let Some(seconds) = refusal.retry_after_s() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The reason that goes with a code.
fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    }
}
