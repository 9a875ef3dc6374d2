//! Connections, bounded in number, memory and idle time.
//!
//! One rule closes every useless connection: *nothing was written to it for `Limits::silent`*. Every request is
//! answered well within that, and every event stream sends keep-alives more often. So a silent connection is idle, or
//! sends its request byte by byte, or does not read its answer.
//!
//! No connection waits for a slot and no new one is rejected: when all slots are taken, the least useful connection is
//! evicted (`places`).
//!
//! Memory: hyper reads into at most `BUFFER_BYTES`; a body has at most 64 KiB, and 16 KiB without a valid token. 512
//! connections at 16 + 64 + 8 (task, timers, headers) KiB are 44 MiB at most, of which strangers can cause 20 MiB.
//! Answers have a bound of their own (`answers`).

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::places::{Open, Place, Places, Room};
use crate::hush::Hush;
use crate::listen::Listener;

/// How much hyper may read ahead: a token of 8 KiB and the other headers.
const BUFFER_BYTES: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// How long a shutdown waits for requests in flight. Event streams never end by themselves.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Pause after a connection could not be accepted, for instance for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Limits on number and time of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    room: Room,
    /// Until the first answer is written.
    first: Duration,
    /// After the first answer.
    silent: Duration,
    /// A connection may carry more than one request.
    keep_alive: bool,
}

impl Limits {
    /// For the main listener: first longer than the longest request, and then six times that, which is four times the
    /// keep-alive interval of event streams.
    pub fn new(connections_max: usize) -> Limits {
        Limits {
            room: Room { connections_max, of_one_max: (connections_max / 5).max(1), shared: true },
            first: Duration::from_secs(15),
            silent: Duration::from_secs(60),
            keep_alive: true,
        }
    }

    /// For probes: a kubelet sends its request as soon as it is connected, and only one.
    pub fn probes(connections_max: usize) -> Limits {
        Limits {
            room: Room { connections_max, of_one_max: (connections_max / 8).max(1), shared: false },
            first: Duration::from_secs(3),
            silent: Duration::from_secs(3),
            keep_alive: false,
        }
    }
}

/// Knowledge about the addresses that connections come from.
pub trait Neighbours: Send + Sync {
    /// Is it the address of a known pod?
    fn have(&self, ip: IpAddr) -> bool;
    /// A connection from this address was closed before it could send its request.
    fn turned_away(&self, ip: IpAddr);
    /// Connections from any address may have been lost before they were accepted.
    fn not_accepted(&self);
}

/// No address is known.
pub struct Strangers;

impl Neighbours for Strangers {
    fn have(&self, _: IpAddr) -> bool {
        false
    }

    fn turned_away(&self, _: IpAddr) {}

    fn not_accepted(&self) {}
}

/// The connection of a request, as an extension of the request.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Open>);

impl Peer {
    pub fn ip(&self) -> IpAddr {
        self.0.ip
    }

    /// The connection has shown a valid token, and is no longer a stranger's.
    pub fn prove(&self) {
        self.0.prove();
    }

    /// Closes the connection.
    pub fn dismiss(&self) {
        self.0.dismiss();
    }
}

/// Serves until `stop`, and then until the requests in flight are answered.
pub async fn serve(
    mut listener: Listener,
    router: Router,
    limits: Limits,
    neighbours: Arc<dyn Neighbours>,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let places = Places::new(limits.room);
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let hush = Hush::default();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, from)) => {
                let ip = from.ip().to_canonical();
                let (place, evicted) = places.take(ip, neighbours.have(ip));
                tell(evicted, &*neighbours);
                connections.spawn(connection(stream, router.clone(), place, limits, stopped.clone()));
                if listener.has_lost() {
                    neighbours.not_accepted();
                    if let Some(left_out) = hush.may_say(None) {
                        tracing::warn!(
                            left_out,
                            "HTTP connections came faster than they are accepted, and some were lost"
                        );
                    }
                }
            }
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                // Most likely out of file descriptors. Evict a connection, so that the next one can be accepted.
                tell(places.make_room(), &*neighbours);
                neighbours.not_accepted();
                if let Some(left_out) = hush.may_say(None) {
                    tracing::warn!(%error, left_out, "an HTTP connection could not be accepted");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let drained = timeout(DRAIN_MAX, async { while connections.join_next().await.is_some() {} });
    // Dropping the others ends them.
    let _ = drained.await;
    Ok(())
}

fn tell(evicted: Option<Arc<Open>>, neighbours: &dyn Neighbours) {
    if let Some(evicted) = evicted.filter(|evicted| evicted.is_unanswered()) {
        neighbours.turned_away(evicted.ip);
    }
}

/// The peer disconnected before it was accepted.
fn is_the_peers(error: &io::Error) -> bool {
    let kinds =
        [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionRefused];
    kinds.contains(&error.kind())
}

/// Serves one connection until either side closes it.
pub(super) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    place: Place,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let open = Arc::clone(&place.open);
    let stream = TokioIo::new(Patient {
        stream,
        patience: Box::pin(sleep(limits.first)),
        silent: limits.silent,
        open: Arc::clone(&open),
    });
    let router = TowerToHyperService::new(router);
    let peer = Peer(Arc::clone(&open));
    let answer = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let request: Request = request.map(Body::new);
        let answer: Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>> =
            Box::pin(router.call(request));
        answer
    });
    let mut connection = pin!(
        http1::Builder::new()
            .keep_alive(limits.keep_alive)
            // A peer may close its sending side, and wait for the answer.
            .half_close(true)
            .max_buf_size(BUFFER_BYTES)
            .max_headers(HEADERS_MAX)
            .serve_connection(stream, answer)
    );
    // An error is the peer's fault: it disconnected, or does not speak HTTP.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = open.leave() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = open.leave() => {}
    }
}

struct Patient<S> {
    stream: S,
    patience: Pin<Box<Sleep>>,
    silent: Duration,
    open: Arc<Open>,
}

impl<S: Unpin> Patient<S> {
    /// No progress is possible now: keep waiting, or has the time run out?
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.patience.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_pending() {
            return self.wait(cx);
        }
        self.open.was_written();
        let until = Instant::now() + self.silent;
        self.patience.as_mut().reset(until);
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => self.wait(cx),
            read @ Poll::Ready(_) => {
                self.open.was_read();
                read
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
