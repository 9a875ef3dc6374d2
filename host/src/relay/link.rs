//! The link of a replica that stands by: whether the leader can be reached, and what it has to be told.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::hello::{self, Key, Kind, message};
use super::{Leader, Relay, announced};
use crate::handle::Handle;

/// Both ends send something this often.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// An end that was silent for longer is gone: three beats, and one second for a busy machine.
pub(super) const SILENT_MAX: Duration = Duration::from_secs(4);
/// Pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(250);

type Annotations = BTreeMap<String, String>;

/// The first bytes of messages.
pub(super) const BEATS: u8 = 0;
pub(super) const REFUSED: u8 = 1;
pub(super) const MISSED: u8 = 2;

/// A replica that stands by.
pub struct Link {
    pub relay: Relay,
    /// Addresses of connections that were turned away.
    pub refused: mpsc::Receiver<IpAddr>,
    pub handle: Handle,
    /// All that this replica receives can be forwarded, so that it is ready. Datagrams cannot: their senders would not
    /// notice that the leader is gone.
    pub complete: bool,
}

impl Link {
    /// Links to the leader that the Lease names, unless that is this replica.
    pub async fn run(mut self, mut lease: watch::Receiver<Annotations>, own: Key) {
        let mut said = None;
        loop {
            let leader = announced(&lease.borrow_and_update()).filter(|(_, key)| *key != own);
            let Some((address, key)) = leader else {
                if lease.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let error = tokio::select! {
                ended = self.link(address, key) => ended.unwrap_or_else(|error| error),
                () = another(&mut lease) => io::Error::other("the Lease has changed"),
            };
            let linked = self.relay.leader().is_some();
            self.relay.set(None);
            self.handle.pulse().forward_to(None);
            // Once for each leader that cannot be reached.
            if linked || said != Some(address) {
                tracing::warn!(%address, %error, "nothing is forwarded to the leader");
                said = Some(address);
            }
            sleep(PAUSE).await;
        }
    }

    /// Returns why it ended.
    async fn link(&mut self, address: SocketAddr, key: Key) -> io::Result<io::Error> {
        let nowhere = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let mut stream = hello::connect(address, &key, Kind::Link, nowhere).await?;
        let (_link, link) = watch::channel(());
        self.relay.set(Some(Arc::new(Leader { address, key, link })));
        if self.complete {
            self.handle.pulse().forward_to(Some(address));
        }
        tracing::info!(%address, "this host stands by, and forwards to the leader");
        let (mut reader, mut writer) = stream.split();
        let speaking = async {
            let mut beat = interval(BEAT);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let message = tokio::select! {
                    Some(ip) = self.refused.recv() => message(REFUSED, ip),
                    _ = beat.tick() => message(if self.relay.take_missed() { MISSED } else { BEATS }, nowhere),
                };
                send(&mut writer, &message).await?;
            }
        };
        tokio::select! {
            error = listen(&mut reader) => Ok(error),
            ended = speaking => ended,
        }
    }
}

/// Until the Lease says something else than before.
async fn another(lease: &mut watch::Receiver<Annotations>) {
    let before = announced(&lease.borrow_and_update());
    while lease.changed().await.is_ok() {
        if announced(&lease.borrow_and_update()) != before {
            return;
        }
    }
}

/// Reads the beats of the leader. Returns why they ended.
async fn listen(reader: &mut ReadHalf<'_>) -> io::Error {
    let mut bytes = [0; 64];
    loop {
        match timeout(SILENT_MAX, reader.read(&mut bytes)).await {
            Ok(Ok(0)) => return io::ErrorKind::ConnectionReset.into(),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error,
            Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "it was silent for too long"),
        }
    }
}

pub(super) async fn send(writer: &mut WriteHalf<'_>, bytes: &[u8]) -> io::Result<()> {
    let sent = timeout(SILENT_MAX, writer.write_all(bytes)).await;
    sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
