//! TCP listeners that know when connections were lost before they were accepted.
//!
//! The kernel completes connections by itself and queues them until they are accepted. It drops what finds the queue
//! full, and the process is not told. But the kernel counts: `ListenDrops` in `/proc/net/netstat`, of all listeners in
//! the network namespace, so in a pod of ours alone. Where it does not count, a queue that does not become empty is
//! taken for one that was full.

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
/// It is looked at so often, while connections come.
const LOOKED_AT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    /// It was found empty when it was last looked at.
    empty: bool,
    /// When it was last found empty.
    empty_at: Instant,
    /// What the kernel has counted.
    dropped: Option<u64>,
    looked_at: Instant,
}

impl Listener {
    /// Within a runtime.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        Listener::with_queue(address, QUEUE)
    }

    fn with_queue(address: SocketAddr, queue: u32) -> io::Result<Listener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // So that a daemon that starts again finds its port free.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let inner = socket.listen(queue)?;
        let now = Instant::now();
        Ok(Listener { inner, empty: true, empty_at: now, dropped: dropped(), looked_at: now })
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

    /// Have connections been lost, or may they have been, since this was last asked? To be asked after every
    /// connection: the kernel lets further ones in before it drops some, so there is always one that tells.
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

/// Connections that found the queue of a listener full, ever.
fn dropped() -> Option<u64> {
    drops_in(&std::fs::read_to_string("/proc/net/netstat").ok()?)
}

/// A line of names and a line of numbers for each group.
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
        assert!(peers.iter().any(Result::is_err), "the queue takes two");
        sleep(LOOKED_AT).await;
        listener.accept().await.unwrap();
        assert!(listener.has_lost());
        assert!(!listener.has_lost(), "it was told just now");
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
        assert_eq!((listener.empty, listener.empty_at), (false, first), "one was waiting");
        assert!(timeout(Duration::from_millis(20), listener.accept()).await.is_err());
        assert!(listener.empty);
        let _third = TcpStream::connect(address).await.unwrap();
        listener.accept().await.unwrap();
        assert!(listener.empty_at > first);
    }
}
