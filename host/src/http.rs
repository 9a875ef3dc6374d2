//! The daemon's HTTP server: probes, metrics, `/v1`.
//!
//! It holds no state and makes no decision: a request becomes a question to the loop, and the answer becomes JSON.
//! Reading needs no authentication; commands need the daemon's token, or that of a user who may patch the fleet
//! ([`authority`]), and a body with the content type JSON, which a form
//! on a foreign web page cannot send. Everything is bounded: bodies by [`BODY_MAX`], the time of a request by
//! [`REQUEST_MAX`], concurrent requests by [`AT_ONCE_MAX`], event streams by [`STREAMS_MAX`], connections by
//! [`serve()`]. Probes are exempt from the bound on requests, so that load does not cause a restart. They also have a
//! listener of their own ([`probes`]).
//!
//! | path | |
//! |---|---|
//! | `/livez`, `/healthz` | the loop is running |
//! | `/readyz` | this replica leads, and has listed its cluster |
//! | `/metrics` | OpenMetrics |
//! | `/v1/fleets`, `/v1/fleets/{fleet}` | [`Fleets`](wire::Fleets), [`Fleet`](wire::Fleet) |
//! | `/v1/fleets/{fleet}/executors` | [`Executors`](wire::Executors) |
//! | `/v1/fleets/{fleet}/executors/{id}` | [`Explained`](wire::Explained) |
//! | `/v1/events?fleet=` | server-sent events: [`Told`](wire::Told), and `lagged` |
//! | POST `/v1/fleets/{fleet}/{verb}` | [`Accepted`](wire::Accepted): see `commands` |
//!
//! Errors are `{"error": {"code", "message"}}`, with codes for machines and messages for people; also those of `extra`.
//! Only probes answer in plain text: their readers are kubelets, and people who read a kubelet's messages.

mod answers;
pub mod authority;
mod commands;
pub(crate) mod error;
mod events;
#[cfg(test)]
pub mod fake;
mod fleets;
mod forward;
mod guards;
mod hosts;
pub(crate) mod places;
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
use crate::hush::Hush;
use crate::metrics::Metrics;
use crate::relay::Relay;

use self::answers::Answers;
use self::authority::Authority;
use self::events::Streams;
use self::hosts::Hosts;
pub(crate) use guards::bearer;
pub use serve::serve;

/// Maximum bytes of a body. A kill of 5,000 executors has 50 KB.
pub const BODY_MAX: usize = 64 << 10;
/// Maximum time of a request, its body included: twice as long as a handler waits for the loop.
pub const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Maximum concurrent requests, except probes. Further requests are told to retry.
pub const AT_ONCE_MAX: usize = 64;
/// Of these, how many build a list at once; the others wait for their turn: a snapshot of 10,000 executors and its JSON
/// are 4 MB, so these are 16 MB at most. Lists that wait to be read are bounded by [`answers`].
const LISTS_AT_ONCE_MAX: usize = 4;
/// Maximum concurrent event streams.
pub const STREAMS_MAX: usize = 64;

/// Not `Debug`: it holds a secret.
#[derive(Default)]
pub struct Settings {
    /// The token that allows every command. If it is empty, there is none.
    pub token: Option<String>,
    /// Who else may command.
    pub authority: Option<Authority>,
    /// Accepted values of `Host`, beside the addresses and the names that only exist inside the cluster.
    pub hosts: Vec<String>,
    /// Further routes, for instance of heartbeats, with the same bounds except [`AT_ONCE_MAX`]. Their own security
    /// headers and body limits take precedence over these; a fallback does not.
    pub extra: Router,
    /// The way to the leader, for a replica that stands by.
    pub relay: Relay,
}

/// All routes with their middleware.
///
/// # Panics
/// If a path of `extra` is one of the server's own.
pub fn router(handle: Handle, metrics: Metrics, settings: Settings) -> Router {
    let Settings { token, authority, hosts, extra, relay } = settings;
    let away = forward::Away { relay, handle: handle.clone(), metrics: metrics.clone() };
    let probes = probes::routes(handle.clone());
    let app = App {
        handle,
        metrics,
        token: token.filter(|token| !token.is_empty()).map(|token| token.into_bytes().into()),
        authority: authority.map(Arc::new),
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
        .layer(from_fn_with_state(away, forward::to_the_leader))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn(guards::in_time))
        .layer(map_response(guards::harden))
}

/// Shared by the handlers.
#[derive(Clone)]
struct App {
    handle: Handle,
    metrics: Metrics,
    token: Option<Arc<[u8]>>,
    authority: Option<Arc<Authority>>,
    requests: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    answers: Arc<Answers>,
    streams: Arc<Streams>,
    /// Limits the log lines about wrong tokens of commands.
    wrong_tokens: Arc<Hush>,
}
