//! TCP listeners that know when they fall behind.
//!
//! The kernel completes connections by itself and queues them until they are accepted. It drops what finds the queue
//! full, and the process never learns of that. What the process does see is a queue that does not become empty: then
//! connections may have been lost, and with them signs of life.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::coop;
use tokio::time::Instant;

/// Connections that wait to be accepted; `net.core.somaxconn` limits it.
const QUEUE: u32 = 4_096;
/// A queue that was not empty for so long may have been full: in this time a flood fills it, and what comes
/// regularly does not.
const BEHIND: Duration = Duration::from_millis(250);
/// It is told so often while it lasts.
const TOLD: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    /// It was found empty when it was last looked at.
    empty: bool,
    /// When it was last found empty.
    empty_at: Instant,
    told_at: Option<Instant>,
}

impl Listener {
    /// Within a runtime.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // So that a daemon that starts again finds its port free.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let inner = socket.listen(QUEUE)?;
        Ok(Listener { inner, empty: true, empty_at: Instant::now(), told_at: None })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The next connection. It may be dropped at any time: nothing is lost.
    pub async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| {
            let accepted = self.inner.poll_accept(cx);
            if accepted.is_pending() {
                // Without a budget a task has to wait, whatever there is to accept.
                self.empty |= coop::has_budget_remaining();
            } else if std::mem::take(&mut self.empty) {
                self.empty_at = Instant::now();
            }
            accepted
        })
        .await
    }

    /// Connections may have been lost. Once in a while, as long as that lasts.
    pub fn falls_behind(&mut self) -> bool {
        let now = Instant::now();
        let behind = !self.empty && now - self.empty_at >= BEHIND;
        let tell = behind && self.told_at.is_none_or(|at| now - at >= TOLD);
        if tell {
            self.told_at = Some(now);
        }
        tell
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test]
    async fn a_queue_that_does_not_become_empty_is_told() {
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        sleep(BEHIND).await;
        let first = TcpStream::connect(address).await.unwrap();
        listener.accept().await.unwrap();
        assert!(!listener.falls_behind(), "it had nothing to do");
        let second = TcpStream::connect(address).await.unwrap();
        let third = TcpStream::connect(address).await.unwrap();
        listener.accept().await.unwrap();
        assert!(!listener.falls_behind(), "not for long");
        sleep(BEHIND).await;
        listener.accept().await.unwrap();
        assert!(listener.falls_behind());
        assert!(!listener.falls_behind(), "it was told just now");
        assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err());
        sleep(TOLD).await;
        assert!(!listener.falls_behind(), "it has caught up");
        let fourth = TcpStream::connect(address).await.unwrap();
        listener.accept().await.unwrap();
        assert!(!listener.falls_behind());
        drop((first, second, third, fourth));
    }
}
