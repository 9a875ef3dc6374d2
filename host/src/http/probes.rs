//! Endpoints for the kubelet and for Prometheus.
//!
//! Live means only that the loop is running: a daemon whose API server is down is live, because a restart would not
//! help. Ready means that it leads and has listed its cluster, or that it stands by and forwards to the leader: a Service
//! routes heartbeats to ready pods. When the leader is gone, a replica that could forward stays ready for as long as
//! another one may need to take over ([`FAILOVER_MAX`]), because then no other replica would be ready either.
//!
//! They have a listener of their own, served by a separate thread with its own runtime: neither strangers on the other
//! listener nor load elsewhere delays the kubelet's probes. The only limit is the connection's timeout: the answer is
//! read off the loop's pulse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;

use super::App;
use super::error::{self, Error};
use super::serve::{Limits, Strangers, serve};
use crate::handle::{Forwarding, Handle};
use crate::listen;
use crate::metrics;

/// A loop whose last iteration is older than this hangs. Its steps take milliseconds.
pub const STILL_MAX_MS: u64 = 10_000;

/// How long a takeover may take: the Lease's 15 s, a retry period with jitter of 2.4 s, and the new leader's first link.
pub const FAILOVER_MAX: Duration = Duration::from_secs(20);

/// The routes of both listeners.
pub fn routes(handle: Handle) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .with_state(handle)
}

/// Answers probes until it is dropped.
#[derive(Debug)]
pub struct Listener {
    /// With the actual port, if 0 was requested.
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Listener {
    pub fn start(address: SocketAddr, handle: Handle, connections_max: usize) -> Result<Listener> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime of probes")?;
        let within = runtime.enter();
        let listener = listen::Listener::bind(address)
            .with_context(|| format!("cannot listen on {address} (--probes)"))?;
        let address = listener.local_addr()?;
        drop(within);
        let (stop, stopped) = oneshot::channel::<()>();
        let router = routes(handle).fallback(error::no_such_path);
        let serving = async move {
            let stopped = async move {
                // The sender is dropped, and never sends.
                let _ = stopped.await;
            };
            serve(listener, router, Limits::probes(connections_max), Arc::new(Strangers), stopped).await
        };
        let thread = move || {
            if let Err(error) = runtime.block_on(serving) {
                tracing::error!(%error, "probes are not answered any more");
            }
        };
        std::thread::Builder::new()
            .name("probes".to_owned())
            .spawn(thread)
            .context("cannot start the thread of probes")?;
        Ok(Listener { address, _stop: stop })
    }
}

async fn livez(State(handle): State<Handle>) -> Response {
    let still_ms = handle.pulse().still_ms();
    if still_ms <= STILL_MAX_MS {
        return "ok\n".into_response();
    }
    let still = SignedDuration::from_millis(i64::try_from(still_ms).unwrap_or(i64::MAX));
    let since =
        Timestamp::now().checked_sub(still).map_or_else(|_| "ever".to_owned(), |at| format!("{at:.0}"));
    let limit = STILL_MAX_MS / 1_000;
    let body = format!(
        "the loop has stood still since {since}, for {} s; {limit} s is the limit\n",
        still_ms / 1_000
    );
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn readyz(State(handle): State<Handle>) -> Response {
    let pulse = handle.pulse();
    if pulse.is_leading() {
        return if pulse.is_synced() {
            "ok: this host leads\n".into_response()
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "no fleet has seen its cluster yet\n").into_response()
        };
    }
    let leads =
        pulse.leader().map_or_else(|| "the leader is unknown".to_owned(), |leader| format!("{leader} leads"));
    match pulse.forwarding() {
        Forwarding::To(address) => {
            format!("ok: this host stands by and forwards to {address}: {leads}\n").into_response()
        }
        Forwarding::Until(at) if at.elapsed() <= FAILOVER_MAX => {
            let ago = at.elapsed().as_secs();
            format!("ok: this host stands by, and could forward until {ago} s ago: {leads}\n").into_response()
        }
        Forwarding::Until(_) | Forwarding::Never => {
            let why = format!("this host stands by and cannot forward: {leads}\n");
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
    }
}

/// If the loop does not answer, all metrics but those of the fleets are served.
pub(super) async fn metrics(State(app): State<App>) -> Result<Response, Error> {
    let fleets = app.handle.overview().await.unwrap_or_default();
    let text = app.metrics.text(&fleets, app.handle.pulse()).map_err(|error| {
        Error::new(StatusCode::INTERNAL_SERVER_ERROR, "encoding", format!("cannot write metrics: {error}"))
    })?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
