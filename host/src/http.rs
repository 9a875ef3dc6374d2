//! The daemon's HTTP face: probes, metrics, `/v1`.
//!
//! It owns nothing and decides nothing: a request becomes a question to the loop, and the answer JSON.
//! Reading is open to whoever can connect; commands need the bearer token, and a body that is declared as
//! JSON, which no form on a stranger's web page can send. Everything is bounded: bodies by [`BODY_MAX`],
//! the time of a request by [`REQUEST_MAX`], requests at once by [`AT_ONCE_MAX`], event streams by
//! [`STREAMS_MAX`], connections by [`serve()`]. Probes pass outside of the bound on requests: a daemon
//! that is much asked is not a daemon to restart. They also have a listener of their own ([`probes`]).
//!
//! | path | |
//! |---|---|
//! | `/livez`, `/healthz` | the loop comes round |
//! | `/readyz` | it leads, and has seen its cluster |
//! | `/metrics` | OpenMetrics |
//! | `/v1/fleets`, `/v1/fleets/{fleet}` | [`Fleets`](wire::Fleets), [`Fleet`](wire::Fleet) |
//! | `/v1/fleets/{fleet}/executors` | [`Executors`](wire::Executors) |
//! | `/v1/fleets/{fleet}/executors/{id}` | [`Explained`](wire::Explained) |
//! | `/v1/events?fleet=` | server-sent events: [`Told`](wire::Told), and `lagged` |
//! | POST `/v1/fleets/{fleet}/{verb}` | [`Accepted`](wire::Accepted): see `commands` |
//!
//! Errors are `{"error": {"code", "message"}}`, the codes for machines and the messages for people; those of `extra` too.
//! Only probes speak plain text: their readers are kubelets, and people who read what a kubelet shows.

mod answers;
mod commands;
pub(crate) mod error;
mod events;
#[cfg(test)]
pub mod fake;
mod fleets;
mod guards;
mod hosts;
pub(crate) mod hush;
mod places;
pub mod probes;
pub mod serve;
#[cfg(test)]
mod tests;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use crate::handle::Handle;
use crate::metrics::Metrics;

use self::answers::Answers;
use self::events::Streams;
use self::hosts::Hosts;
use self::hush::Hush;
pub use serve::serve;

/// The longest body that is read. A kill of 5,000 executors is 50 KB.
pub const BODY_MAX: usize = 64 << 10;
/// How long a request may take, its body included: twice as long as the loop is waited for.
pub const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Requests at once, to all but probes. More are told to come back.
pub const AT_ONCE_MAX: usize = 64;
/// Of these, so many make a list at once, and the others wait for their turn: a snapshot of 10,000 executors and its
/// JSON are 4 MB, so these are 16 MB at the most. Lists that wait to be read are bounded by [`answers`].
const LISTS_AT_ONCE_MAX: usize = 4;
/// Event streams at once.
pub const STREAMS_MAX: usize = 64;

/// Not `Debug`: it holds a secret.
#[derive(Default)]
pub struct Settings {
    /// The token that commands must bear. Without one, or with an empty one, there are no commands.
    pub token: Option<String>,
    /// Names under which it is asked, beside its addresses and names that only exist in the cluster.
    pub hosts: Vec<String>,
    /// Further routes, for instance of heartbeats, under the same bounds but for [`AT_ONCE_MAX`]. Their
    /// own security headers and body limits win over these; a fallback does not.
    pub extra: Router,
}

/// Every route, with everything that guards it.
///
/// # Panics
/// When a path of `extra` is one of ours.
pub fn router(handle: Handle, metrics: Metrics, settings: Settings) -> Router {
    let Settings { token, hosts, extra } = settings;
    let probes = probes::routes(handle.clone());
    let app = App {
        handle,
        metrics,
        token: token.filter(|token| !token.is_empty()).map(|token| token.into_bytes().into()),
        requests: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        lists: Arc::new(Semaphore::new(LISTS_AT_ONCE_MAX)),
        answers: Arc::default(),
        streams: Arc::default(),
        wrong_tokens: Arc::default(),
    };
    let commands = Router::new()
        .route("/v1/fleets/{fleet}/roll", post(commands::roll))
        .route("/v1/fleets/{fleet}/kill", post(commands::kill))
        .route("/v1/fleets/{fleet}/scale", post(commands::scale))
        .route("/v1/fleets/{fleet}/pause", post(commands::pause))
        .route("/v1/fleets/{fleet}/resume", post(commands::resume))
        .route("/v1/fleets/{fleet}/reset-breaker", post(commands::reset_breaker))
        .route("/v1/fleets/{fleet}/reset-ledger", post(commands::reset_ledger))
        .route_layer(from_fn_with_state(app.clone(), guards::authorize));
    let lists = Router::new()
        .route("/metrics", get(probes::metrics))
        .route("/v1/fleets", get(fleets::list))
        .route("/v1/fleets/{fleet}/executors", get(fleets::executors))
        .route_layer(from_fn_with_state(app.clone(), guards::few_lists));
    let asked = Router::new()
        .route("/v1/fleets/{fleet}", get(fleets::one))
        .route("/v1/fleets/{fleet}/executors/{executor}", get(fleets::explain))
        .route("/v1/events", get(events::follow))
        .merge(lists)
        .merge(commands)
        .route_layer(from_fn_with_state(app.clone(), guards::few_at_once))
        .route_layer(from_fn_with_state(Hosts::new(&hosts), hosts::guard));
    asked
        .with_state(app)
        .merge(probes)
        .merge(extra)
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn(guards::in_time))
        .layer(map_response(guards::harden))
}

/// What handlers share.
#[derive(Clone)]
struct App {
    handle: Handle,
    metrics: Metrics,
    token: Option<Arc<[u8]>>,
    requests: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    answers: Arc<Answers>,
    streams: Arc<Streams>,
    /// Of commands, in the log.
    wrong_tokens: Arc<Hush>,
}
