//! TCP listeners that detect connections lost before they were accepted.
//!
//! The kernel completes connections by itself and queues them until the process accepts them. When the queue is full,
//! it drops connections without notifying the process. But the kernel counts them: `ListenDrops` in `/proc/net/netstat`
//! covers all listeners in the network namespace, which in a pod are only Rollcall's own. Where that counter does not
//! exist, a queue that does not become empty is assumed to have been full.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::coop;
use tokio::time::Instant;

/// Maximum number of connections that wait to be accepted; `net.core.somaxconn` limits it further.
const QUEUE: u32 = 4_096;
/// A queue that was not empty for this long may have been full: a flood fills it in this time, regular traffic does
/// not.
const BEHIND: Duration = Duration::from_millis(250);
/// How often the loss of connections is checked, while connections arrive.
const LOOKED_AT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    /// The queue was empty at the last check.
    empty: bool,
    /// When the queue was last empty.
    empty_at: Instant,
    /// The kernel's counter at the last check.
    dropped: Option<u64>,
    looked_at: Instant,
    /// Connections that another replica has accepted, with the addresses of their senders.
    relayed: Option<mpsc::Receiver<(TcpStream, SocketAddr)>>,
}

impl Listener {
    /// Must be called within a runtime.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        Listener::with_queue(address, QUEUE)
    }

    fn with_queue(address: SocketAddr, queue: u32) -> io::Result<Listener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restarted daemon can then bind its port immediately.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let inner = socket.listen(queue)?;
        let now = Instant::now();
        Ok(Listener { inner, empty: true, empty_at: now, dropped: dropped(), looked_at: now, relayed: None })
    }

    /// Also accepts these connections.
    pub fn with_relayed(self, relayed: mpsc::Receiver<(TcpStream, SocketAddr)>) -> Listener {
        Listener { relayed: Some(relayed), ..self }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Accepts the next connection. Cancel-safe: no connection is lost if the future is dropped.
    pub async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| {
            if let Some(relayed) = &mut self.relayed {
                match relayed.poll_recv(cx) {
                    Poll::Ready(Some(relayed)) => return Poll::Ready(Ok(relayed)),
                    Poll::Ready(None) => self.relayed = None,
                    Poll::Pending => {}
                }
            }
            let accepted = self.inner.poll_accept(cx);
            if accepted.is_pending() {
                // A task without budget gets `Pending` even if there are connections to accept.
                self.empty |= coop::has_budget_remaining();
            } else if std::mem::take(&mut self.empty) {
                self.empty_at = Instant::now();
            }
            accepted
        })
        .await
    }

    /// Whether connections have been lost, or may have been, since the last call. Call this after every connection: the
    /// kernel admits further connections before it drops some, so there is always a connection that triggers the check.
    pub fn has_lost(&mut self) -> bool {
        let now = Instant::now();
        if now - self.looked_at < LOOKED_AT {
            return false;
        }
        self.looked_at = now;
        match dropped() {
            Some(dropped) => self.dropped.replace(dropped) != Some(dropped),
            None => !self.empty && now - self.empty_at >= BEHIND,
        }
    }
}

/// The number of connections ever dropped because the queue of a listener was full.
fn dropped() -> Option<u64> {
    drops_in(&std::fs::read_to_string("/proc/net/netstat").ok()?)
}

/// Reads the counter from `netstat`, which has a line of names and a line of numbers for each group.
fn drops_in(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|name| name == "ListenDrops")?;
    numbers.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test]
    async fn connections_that_found_the_queue_full_are_told() {
        let mut listener = Listener::with_queue("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut peers = Vec::new();
        for _ in 0..8 {
            let peer = timeout(Duration::from_millis(100), TcpStream::connect(address));
            peers.push(peer.await);
        }
        assert!(peers.iter().any(Result::is_err), "the queue holds two");
        sleep(LOOKED_AT).await;
        listener.accept().await.unwrap();
        assert!(listener.has_lost());
        assert!(!listener.has_lost(), "the loss was already reported");
    }

    #[test]
    fn the_kernels_count_is_found() {
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPHPHits\nTcpExt: 0 1205 1206 7\nIpExt: InNoRoutes\nIpExt: 0\n";
        assert_eq!(drops_in(netstat), Some(1_206));
        for strange in ["", "TcpExt: A B", "TcpExt: ListenDrops\nTcpExt: x", "TcpExt: A\nTcpExt: 1"] {
            assert_eq!(drops_in(strange), None, "{strange:?}");
        }
        assert!(!cfg!(target_os = "linux") || dropped().is_some());
    }

    #[tokio::test]
    async fn a_queue_that_does_not_become_empty_is_noticed() {
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let _peers = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        listener.accept().await.unwrap();
        let first = listener.empty_at;
        sleep(Duration::from_millis(20)).await;
        listener.accept().await.unwrap();
        assert_eq!((listener.empty, listener.empty_at), (false, first), "one connection was waiting");
        assert!(timeout(Duration::from_millis(20), listener.accept()).await.is_err());
        assert!(listener.empty);
        let _third = TcpStream::connect(address).await.unwrap();
        listener.accept().await.unwrap();
        assert!(listener.empty_at > first);
    }
}
