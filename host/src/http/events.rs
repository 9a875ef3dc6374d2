//! `/v1/events`: what happens, as it happens, to whoever listens.
//!
//! No reader is waited for. A reader that falls behind loses the oldest and gets an event `lagged` with
//! `{"missed": n}` in their place, so that it knows to look at the fleets again. Of [`STREAMS_MAX`] readers and one
//! more, the address that has most loses the one that came first: a reader that has left without a word keeps its
//! place only until then, or until it is written to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::IpAddr;
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

/// How often a silent stream says that it is there. A connection that is silent for longer is closed
/// by `serve`.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Tell of this fleet alone.
    fleet: Option<String>,
}

/// Who listens.
#[derive(Debug, Default)]
pub struct Streams(Mutex<Readers>);

#[derive(Debug, Default)]
struct Readers {
    next: u64,
    /// In the order in which they came.
    all: BTreeMap<u64, Peer>,
}

impl Streams {
    fn join(self: &Arc<Streams>, peer: Peer) -> Reader {
        let mut readers = self.lock();
        let number = readers.next;
        readers.next += 1;
        readers.all.insert(number, peer);
        if readers.all.len() > STREAMS_MAX {
            let mut of_ip: HashMap<IpAddr, usize> = HashMap::new();
            readers.all.values().for_each(|peer| *of_ip.entry(peer.ip()).or_default() += 1);
            let victim =
                readers.all.iter().min_by_key(|(number, peer)| (Reverse(of_ip[&peer.ip()]), **number));
            let victim = victim.map(|(number, _)| *number);
            if let Some(peer) = victim.and_then(|number| readers.all.remove(&number)) {
                peer.dismiss();
            }
        }
        drop(readers);
        Reader { streams: Arc::clone(self), number }
    }

    // The map is whole after every statement, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Readers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is held until it is dropped.
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
    // The place goes with the stream.
    let events = stream::unfold((listener, fleet, place), |(mut listener, fleet, place)| async move {
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
        Some((Ok::<_, Infallible>(event), (listener, fleet, place)))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([(CACHE_CONTROL, "no-store")], events))
}
