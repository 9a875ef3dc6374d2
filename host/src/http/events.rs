//! `/v1/events`: a live stream of events.
//!
//! The daemon never waits for a reader. A reader that falls behind loses the oldest events and gets an event `lagged`
//! with `{"missed": n}` in their place, so that it knows to fetch the fleets again. Beyond [`STREAMS_MAX`] readers, the
//! address with most streams loses its oldest: a reader that has vanished without closing its connection keeps its slot
//! only until then, or until the next write to it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::error::{Error, Query};
use super::serve::Peer;
use super::{App, STREAMS_MAX, wire};
use crate::eviction::greediest;

/// The interval of keep-alives on a quiet stream. `serve` closes a connection that is silent for longer.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Only events of this fleet.
    fleet: Option<String>,
}

/// The connected readers.
#[derive(Debug, Default)]
pub struct Streams(Mutex<Readers>);

#[derive(Debug, Default)]
struct Readers {
    next: u64,
    /// In order of arrival.
    all: BTreeMap<u64, Peer>,
}

impl Streams {
    fn join(self: &Arc<Streams>, peer: Peer) -> Reader {
        let mut readers = self.lock();
        let number = readers.next;
        readers.next += 1;
        readers.all.insert(number, peer);
        if readers.all.len() > STREAMS_MAX {
            let victim = greediest(readers.all.iter().map(|(number, peer)| (peer.ip(), 1, *number)), None);
            if let Some(peer) = victim.and_then(|(_, number)| readers.all.remove(&number)) {
                peer.dismiss();
            }
        }
        drop(readers);
        Reader { streams: Arc::clone(self), number }
    }

    // The map is consistent after every statement, so a panic elsewhere does not corrupt it.
    fn lock(&self) -> MutexGuard<'_, Readers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot, until it is dropped.
struct Reader {
    streams: Arc<Streams>,
    number: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.streams.lock().all.remove(&self.number);
    }
}

pub async fn follow(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Query(Filter { fleet }): Query<Filter>,
) -> Result<impl IntoResponse, Error> {
    let place = app.streams.join(peer);
    let listener = app.handle.subscribe();
    // The slot is freed with the stream.
    let events = stream::unfold((listener, fleet, place), |(mut listener, fleet, place)| async move {
        let event = loop {
            match listener.recv().await {
                Ok(told) if fleet.as_ref().is_none_or(|fleet| told.is_called(fleet)) => {
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
        Some((Ok::<_, Infallible>(event), (listener, fleet, place)))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([(CACHE_CONTROL, "no-store")], events))
}
