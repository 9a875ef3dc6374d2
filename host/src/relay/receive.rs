//! The leader's end: forwarded connections are checked, and handed to the listener that they are meant for.
//!
//! Memory and files: a connection that has not proven anything holds a slot of `Places` for at most
//! [`TIMEOUT`](super::hello::TIMEOUT); then it is bounded by the listener that it goes to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::hello::{self, Key, Kind};
use super::link::{self, BEAT, MISSED, REFUSED, SILENT_MAX};
use crate::handle::Handle;
use crate::http::places::{Places, Room};
use crate::http::serve::Neighbours;
use crate::hush::Hush;
use crate::listen::Listener;

/// Pause after a connection could not be accepted, for instance for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The way to a listener ([`Listener::with_relayed`]).
pub type Door = mpsc::Sender<(TcpStream, SocketAddr)>;

/// What forwarded connections need.
pub struct Receiver {
    pub key: Key,
    pub handle: Handle,
    pub graphite: Door,
    pub http: Door,
    pub neighbours: Arc<dyn Neighbours>,
}

/// Takes connections of other replicas, until it is dropped.
pub async fn run(mut listener: Listener, connections_max: usize, receiver: Receiver) {
    let room = Room { connections_max, of_one_max: (connections_max / 2).max(1), shared: true };
    let places = Places::new(room);
    let receiver = Arc::new(receiver);
    let hush = Arc::new(Hush::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((mut stream, from)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Nothing in this process leads: the other replica has read an old Lease.
        if !receiver.handle.pulse().is_leading() {
            continue;
        }
        let peer = from.ip().to_canonical();
        let (place, _) = places.take(peer, false);
        let (receiver, hush) = (Arc::clone(&receiver), Arc::clone(&hush));
        connections.spawn(async move {
            let greeted = tokio::select! {
                greeted = hello::accept(&mut stream, &receiver.key) => greeted,
                () = place.open.leave() => return,
            };
            match greeted {
                Ok((kind, ip)) => {
                    // Links stay, however many others come.
                    place.open.prove();
                    receiver.take(stream, kind, ip, peer).await;
                }
                Err(error) => {
                    if let Some(left_out) = hush.may_say(peer) {
                        tracing::warn!(%peer, %error, left_out, "a forwarded connection was refused");
                    }
                }
            }
        });
    }
}

impl Receiver {
    async fn take(&self, stream: TcpStream, kind: Kind, ip: IpAddr, peer: IpAddr) {
        let door = match kind {
            Kind::Graphite => &self.graphite,
            Kind::Http => &self.http,
            Kind::Link => return self.link(stream, peer).await,
        };
        // An error means that the daemon ends.
        let _ = door.send((stream, SocketAddr::new(ip, 0))).await;
    }

    async fn link(&self, mut stream: TcpStream, peer: IpAddr) {
        tracing::info!(%peer, "another replica stands by, and forwards");
        let (mut reader, mut writer) = stream.split();
        let beating = async {
            let mut beat = interval(BEAT);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                beat.tick().await;
                // It must find out when this replica leads no more.
                if !self.handle.pulse().is_leading() {
                    return Ok(());
                }
                link::send(&mut writer, &[0]).await?;
            }
        };
        let hearing = async {
            let mut message = [0; 17];
            loop {
                let read = timeout(SILENT_MAX, reader.read_exact(&mut message)).await;
                read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                match message[0] {
                    REFUSED => {
                        self.neighbours.turned_away(hello::ip(message.last_chunk().expect("17 bytes")))
                    }
                    MISSED => self.neighbours.not_accepted(),
                    _ => {}
                }
            }
        };
        let ended: io::Result<()> = tokio::select! {
            ended = beating => ended,
            ended = hearing => ended,
        };
        // A process that has ended has reset its connections. One that hangs, or is cut off, still has some.
        if ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            tracing::warn!(%peer, "a replica that forwards is silent: until then heartbeats may have been lost");
            self.neighbours.not_accepted();
        } else {
            tracing::info!(%peer, "a replica forwards no more");
        }
    }
}
