//! This replica among the others: its listener, its key, its way to the leader.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use cluster::lease::Notes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::hello::Key;
use super::receive::{self, Receiver};
use super::{Relay, announcement, link};
use crate::handle::Handle;
use crate::http::serve::Neighbours;
use crate::listen::Listener;

/// Forwarded connections that wait for their listener.
const WAITING_MAX: usize = 64;

pub struct Replica {
    pub relay: Relay,
    /// For the Lease.
    pub notes: Notes,
    /// The actual port, if 0 was requested.
    pub address: SocketAddr,
    listener: Listener,
    key: Key,
    connections_max: usize,
    turned_away: mpsc::Receiver<IpAddr>,
    lease: watch::Receiver<BTreeMap<String, String>>,
}

impl Replica {
    /// `random`: the key while this replica leads.
    pub fn bind(advertise: IpAddr, at: SocketAddr, connections_max: usize, random: u128) -> Result<Replica> {
        let listener = Listener::bind(at).with_context(|| format!("cannot listen on {at} (--relay)"))?;
        let address = SocketAddr::new(advertise, listener.local_addr()?.port());
        let key = Key::new(random);
        let (seen, lease) = watch::channel(BTreeMap::new());
        let notes = Notes { ours: announcement(address, &key), seen };
        let (relay, turned_away) = Relay::new(connections_max);
        Ok(Replica { relay, notes, address, listener, key, connections_max, turned_away, lease })
    }

    /// Starts both ends: takes forwarded connections to these listeners while this replica leads, and keeps the link
    /// while another one does. `complete`: all that this replica receives can be forwarded.
    pub fn start(
        self,
        handle: &Handle,
        complete: bool,
        neighbours: Arc<dyn Neighbours>,
        graphite: Listener,
        http: Listener,
    ) -> (Listener, Listener, [JoinHandle<()>; 2]) {
        let [(lines, graphite_door), (requests, http_door)] = [(); 2].map(|()| {
            let (door, waiting) = mpsc::channel(WAITING_MAX);
            (waiting, door)
        });
        let receiver = Receiver {
            key: self.key.clone(),
            handle: handle.clone(),
            graphite: graphite_door,
            http: http_door,
            neighbours,
        };
        let receiving = tokio::spawn(receive::run(self.listener, self.connections_max, receiver));
        let link =
            link::Link { relay: self.relay, refused: self.turned_away, handle: handle.clone(), complete };
        let linking = tokio::spawn(link.run(self.lease, self.key));
        (graphite.with_relayed(lines), http.with_relayed(requests), [receiving, linking])
    }
}
