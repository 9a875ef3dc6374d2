//! Connections, bounded in number and in patience.
//!
//! One rule ends every connection that is of no use: *nothing was written to it for [`SILENT_MAX`]*. Every
//! request is answered well within that, and every event stream says that it is there more often. So
//! what is silent is idle, or sends its request byte by byte, or does not read its answer.
//!
//! Nobody waits for a place: that would be the probes, behind a stranger who holds them all. Each address has
//! a few, and what comes beyond that, or beyond all, is closed at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, Sleep, sleep};

/// Connections at once. At some 20 KB each, 10 MB.
const CONNECTIONS_MAX: usize = 512;
/// Of these, from one address.
const OF_ONE_MAX: usize = 96;
/// The last ones are for addresses that have hardly any: a probe finds a place, however many strangers there are.
const LAST: usize = 128;
const OF_ONE_LAST: usize = 4;
/// Until a first answer is written: longer than the longest request.
const FIRST_MAX: Duration = Duration::from_secs(15);
/// Six times the longest request, four times the keep-alive of event streams.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// What is under way when it is to stop has this long. Event streams never end by themselves.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Serves until `stop`, and then until what is under way is through.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let listener = Bounded { listener, connections, peers: Peers::default() };
    let (stopping, stopped) = oneshot::channel();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        stop.await;
        // An error says that serving has ended already.
        let _ = stopping.send(());
    });
    let drained = async {
        let _ = stopped.await;
        sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        served = serving => served,
        () = drained => Ok(()),
    }
}

struct Bounded {
    listener: TcpListener,
    connections: Arc<Semaphore>,
    peers: Peers,
}

/// How many connections each address has.
type Peers = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One of an address's connections.
struct Place {
    peers: Peers,
    ip: IpAddr,
}

impl Place {
    fn take(peers: &Peers, ip: IpAddr, most: usize) -> Option<Place> {
        let mut counts = peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_default();
        // An entry of 0 was just made, and is not refused.
        (*count < most).then(|| {
            *count += 1;
            Place { peers: Arc::clone(peers), ip }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.ip) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, from) = Listener::accept(&mut self.listener).await;
            let Ok(_permit) = Arc::clone(&self.connections).try_acquire_owned() else { continue };
            let most = if self.connections.available_permits() < LAST { OF_ONE_LAST } else { OF_ONE_MAX };
            let Some(_place) = Place::take(&self.peers, from.ip().to_canonical(), most) else { continue };
            return (Connection { stream, patience: Box::pin(sleep(FIRST_MAX)), _permit, _place }, from);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct Connection {
    stream: TcpStream,
    patience: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

impl Connection {
    /// Nothing can be done now: is it still to be waited for?
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.patience.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_pending() {
            return self.wait(cx);
        }
        self.patience.as_mut().reset(Instant::now() + SILENT_MAX);
        result
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => self.wait(cx),
            read @ Poll::Ready(_) => read,
        }
    }
}

impl AsyncWrite for Connection {
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
