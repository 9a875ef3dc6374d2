//! Passes requests to the leader, while this replica stands by.
//!
//! The leader checks a request as if it had come from the client itself: `Host`, tokens, sizes, limits of its address.
//! Bodies and event streams pass through without being collected. Every request has a connection of its own to the
//! leader, because a connection stands for one client. Nothing is sent twice: a command may have been executed although
//! its answer was lost.
//!
//! Probes and metrics are about this replica, and are answered here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, EXPECT, TE, TRANSFER_ENCODING, UPGRADE};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::error::Error;
use super::serve::Peer;
use crate::handle::Handle;
use crate::metrics::Metrics;
use crate::relay::hello::Kind;
use crate::relay::{Leader, Relay};

/// Maximum bytes of the head of the leader's answer.
const HEAD_MAX: usize = 16 << 10;
const OWN: [&str; 4] = ["/livez", "/readyz", "/healthz", "/metrics"];
/// Headers about one connection, and not about the request. HTTP has more; no client of this API sends them.
const HOP: [HeaderName; 5] = [CONNECTION, EXPECT, TE, TRANSFER_ENCODING, UPGRADE];

/// The way to the leader.
#[derive(Clone)]
pub struct Away {
    pub relay: Relay,
    pub handle: Handle,
    pub metrics: Metrics,
}

pub async fn to_the_leader(State(away): State<Away>, request: Request, next: Next) -> Response {
    if away.handle.pulse().is_leading() || !away.relay.is_on() || OWN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let (result, response) = match away.forward(request).await {
        Ok(response) => ("answered", response),
        Err((result, message)) => {
            let error = Error::new(StatusCode::SERVICE_UNAVAILABLE, result, message);
            (result, error.into_response())
        }
    };
    away.metrics.forwarded(result);
    response
}

impl Away {
    /// The error: its code, and its message.
    async fn forward(&self, request: Request) -> Result<Response, (&'static str, String)> {
        let Some((leader, requests)) = self.relay.leader().zip(self.relay.requests()) else {
            let message = match self.handle.pulse().leader() {
                Some(leader) => {
                    format!("this host stands by, and cannot reach the leader, {leader}; try again")
                }
                None => "this host stands by, and no host leads yet; try again".to_owned(),
            };
            return Err(("no-leader", message));
        };
        let Ok(permit) = Arc::clone(requests).try_acquire_owned() else {
            return Err(("busy", "this host forwards as many requests as it can; try again".to_owned()));
        };
        let peer = request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), Peer::ip);
        let unreachable = |error: &dyn std::fmt::Display| {
            ("leader-unreachable", format!("the leader cannot be reached: {error}"))
        };
        let stream = leader.connect(Kind::Http, peer).await.map_err(|error| unreachable(&error))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_MAX);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| unreachable(&error))?;
        // It ends with the answer, when the client is gone, or with the leader.
        tokio::spawn(async move {
            let _permit = permit;
            drive(connection, &leader).await;
        });
        let response = sender.send_request(plain(request)).await.map_err(|error| {
            let message = format!("the leader gave no answer ({error}); a command may still be executed");
            ("leader-lost", message)
        })?;
        let mut response = response.map(Body::new);
        HOP.iter().for_each(|name| drop(response.headers_mut().remove(name)));
        Ok(response)
    }
}

async fn drive(connection: impl Future, leader: &Leader) {
    tokio::select! {
        _ = connection => {}
        () = leader.is_gone() => {}
    }
}

/// The request without what concerns only the connection it came by.
fn plain(mut request: Request) -> Request {
    HOP.iter().for_each(|name| drop(request.headers_mut().remove(name)));
    request.headers_mut().insert(CONNECTION, axum::http::HeaderValue::from_static("close"));
    *request.version_mut() = axum::http::Version::HTTP_11;
    request
}
