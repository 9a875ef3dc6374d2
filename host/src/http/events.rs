//! `/v1/events`: what happens, as it happens, to whoever listens.
//!
//! Nobody is waited for. A reader that falls behind loses the oldest and gets an event `lagged` with
//! `{"missed": n}` in their place, so that it knows to look at the fleets anew.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::error::{Error, Query};
use super::{App, STREAMS_MAX, wire};

/// How often a silent stream says that it is there. A connection that is silent for longer is closed
/// by `serve`.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Tell of this fleet alone.
    fleet: Option<String>,
}

pub async fn follow(
    State(app): State<App>,
    Query(Filter { fleet }): Query<Filter>,
) -> Result<impl IntoResponse, Error> {
    let Ok(permit) = Arc::clone(&app.streams).try_acquire_owned() else {
        let message = format!("{STREAMS_MAX} are listening already");
        return Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-streams", message));
    };
    let listener = app.handle.subscribe();
    // The permit goes with the stream: it is given back when the reader is gone.
    let events = stream::unfold((listener, fleet, permit), |(mut listener, fleet, permit)| async move {
        let event = loop {
            match listener.recv().await {
                Ok(told) if fleet.as_ref().is_none_or(|fleet| *fleet == told.fleet) => {
                    break Event::default().json_data(wire::Told::from(&*told));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    break Event::default().event("lagged").json_data(wire::Lagged { missed });
                }
                Err(RecvError::Closed) => return None,
            }
        };
        let event = event.expect("a struct of strings and numbers is JSON");
        Some((Ok::<_, Infallible>(event), (listener, fleet, permit)))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([(CACHE_CONTROL, "no-store")], events))
}
