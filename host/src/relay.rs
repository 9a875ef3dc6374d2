//! Replicas that stand by pass on what they receive, so that every replica can be ready.
//!
//! ```text
//!             ┌──────────── a replica that stands by ───────────┐     ┌──────── the leader ────────┐
//!  executor ──┼─► 2003 ─┐                                       │     │           ┌─► as if it had │
//!  operator ──┼─► 8080 ─┴─► one connection for each, whose ─────┼────►┤ 2004 ─────┤   come from the│
//!             │             first bytes name the sender         │     │           └─► sender itself│
//!             └─────────────────────────────────────────────────┘     └────────────────────────────┘
//! ```
//!
//! The leader believes a heartbeat by its sender's address, and limits connections by address. So a forwarded connection
//! has to name its sender, and only a replica may do that. Replicas know each other by a key that the leader draws when it
//! starts and writes, with its address, into its Lease: who may read that Lease is a replica. Both ends prove that they
//! know the key ([`hello`]), because the address of a leader that is gone may belong to another pod by now. Forwarded
//! connections have a port of their own, so that a NetworkPolicy can keep everything but replicas away from it.
//!
//! A replica that stands by keeps one connection to the leader open, the link ([`link`]). Only while both ends hear from
//! each other on it is anything forwarded; when it ends, forwarded connections are reset, and their senders connect again.
//! Over the link the leader also learns of connections that were turned away, because the silence of executors proves
//! nothing then, and when a link falls silent, the leader assumes the same.
//!
//! Nothing can go in circles: a replica forwards only while it does not lead, and takes forwarded connections only while
//! it leads.
//!
//! Rejected: the PROXY protocol from known addresses. The leader would have to know the addresses of its standbys, and a
//! standby that wrote them into the Lease would reset the clocks of the election. A Secret for the key: RBAC cannot
//! restrict the creation of Secrets to a name, and a Secret can be the token of any service account.

pub mod hello;
pub mod link;
pub mod receive;
pub mod replica;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};

use self::hello::{Key, Kind};

/// The annotations of the Lease.
const ADDRESS: &str = "rollcall.dev/relay-address";
const KEY: &str = "rollcall.dev/relay-key";

/// Addresses of connections that were turned away, on their way to the leader. Beyond that it is told that there were
/// others.
const REFUSED_MAX: usize = 256;

/// The handle of the listeners. The default forwards nothing.
#[derive(Clone, Debug, Default)]
pub struct Relay(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    route: watch::Sender<Option<Arc<Leader>>>,
    refused: mpsc::Sender<IpAddr>,
    /// Connections from any address may have been lost.
    missed: AtomicBool,
    requests: Arc<Semaphore>,
}

/// The replica that leads, while it can be reached.
#[derive(Debug)]
pub struct Leader {
    pub address: SocketAddr,
    key: Key,
    /// Closed when the link ends.
    link: watch::Receiver<()>,
}

impl Leader {
    /// A connection to the leader, on behalf of this address.
    pub async fn connect(&self, kind: Kind, from: IpAddr) -> io::Result<TcpStream> {
        hello::connect(self.address, &self.key, kind, from).await
    }

    /// Resolves when nothing may be forwarded to it any more.
    pub async fn is_gone(&self) {
        let mut link = self.link.clone();
        // Nothing is ever sent: this is the error that the sender was dropped.
        let _ = link.changed().await;
    }
}

impl Relay {
    /// For at most this many requests at once. The second part is for [`link::Link`].
    pub fn new(requests_max: usize) -> (Relay, mpsc::Receiver<IpAddr>) {
        let (refused, receiver) = mpsc::channel(REFUSED_MAX);
        let requests = Arc::new(Semaphore::new(requests_max));
        let route = watch::Sender::new(None);
        (Relay(Some(Arc::new(Shared { route, refused, missed: AtomicBool::new(false), requests }))), receiver)
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Where to forward to.
    pub fn leader(&self) -> Option<Arc<Leader>> {
        self.0.as_ref()?.route.borrow().clone()
    }

    /// Bounds the requests that are forwarded at the same time.
    pub fn requests(&self) -> Option<&Arc<Semaphore>> {
        self.0.as_ref().map(|shared| &shared.requests)
    }

    /// A connection from this address was turned away: the leader has to know.
    pub fn turned_away(&self, ip: IpAddr) {
        if let Some(shared) = &self.0
            && shared.refused.try_send(ip).is_err()
        {
            self.not_accepted();
        }
    }

    /// Connections from any address may have been lost.
    pub fn not_accepted(&self) {
        if let Some(shared) = &self.0 {
            shared.missed.store(true, Ordering::Relaxed);
        }
    }

    fn take_missed(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.missed.swap(false, Ordering::Relaxed))
    }

    fn set(&self, leader: Option<Arc<Leader>>) {
        if let Some(shared) = &self.0 {
            shared.route.send_replace(leader);
        }
    }
}

/// What this replica writes into its Lease.
pub fn announcement(address: SocketAddr, key: &Key) -> BTreeMap<String, String> {
    BTreeMap::from([(ADDRESS.to_owned(), address.to_string()), (KEY.to_owned(), key.to_text())])
}

/// What another replica has written into it.
fn announced(annotations: &BTreeMap<String, String>) -> Option<(SocketAddr, Key)> {
    Some((annotations.get(ADDRESS)?.parse().ok()?, Key::from_text(annotations.get(KEY)?)?))
}

#[cfg(test)]
mod tests;
