//! For the kubelet and for Prometheus.
//!
//! Alive means that the loop comes round, and nothing else: a daemon whose API server is away is alive,
//! and restarting it helps nobody. Ready means that it leads and has seen its cluster:
//! a Service sends heartbeats to whoever is ready, and one that stands by has no use for them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};

use super::App;
use super::error::Error;
use crate::metrics;

/// A loop that has not come round for longer than this hangs. Its steps take milliseconds.
pub const STILL_MAX_MS: u64 = 10_000;

pub async fn livez(State(app): State<App>) -> Response {
    let still_ms = app.handle.pulse().still_ms();
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

pub async fn readyz(State(app): State<App>) -> Response {
    let pulse = app.handle.pulse();
    let why = match (pulse.is_leading(), pulse.is_synced(), pulse.leader()) {
        (true, true, _) => return "ok\n".into_response(),
        (true, false, _) => "no fleet has seen its cluster yet\n".to_owned(),
        (false, _, Some(leader)) => format!("this host stands by: {leader} leads\n"),
        (false, _, None) => "this host stands by: it is not known who leads\n".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// A loop that does not answer is no reason to be blind: then there is all but the fleets.
pub async fn metrics(State(app): State<App>) -> Result<Response, Error> {
    let fleets = app.handle.overview().await.unwrap_or_default();
    let text = app.metrics.text(&fleets, app.handle.pulse()).map_err(|error| {
        Error::new(StatusCode::INTERNAL_SERVER_ERROR, "encoding", format!("cannot write metrics: {error}"))
    })?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
