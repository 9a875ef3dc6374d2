//! A connection to a replica that stands by, passed on to the leader byte by byte.
//!
//! The leader applies its limits as if the sender had connected to it, and reads no faster than it would otherwise. When
//! the leader is gone, the connection is reset, so that the sender's write fails and it connects again. Memory: a buffer
//! of 4 KiB and two sockets; a connection here holds one of the slots of strangers, which are half of all, so that the
//! second socket is a slot that no connection can have ([`places`](super::places)).

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::places::Seat;
use crate::heartbeat::{Fate, Intake, Source};
use crate::relay::Leader;
use crate::relay::hello::Kind;

const BUFFER_BYTES: usize = 4 * 1024;

/// Runs until one side closes the connection, or the leader is gone. `proven_ms`: the leader keeps a useless connection
/// no longer than that.
pub async fn forward(
    mut stream: TcpStream,
    peer: IpAddr,
    mut seat: Seat,
    leader: &Leader,
    intake: &Intake,
    proven_ms: u64,
) {
    let upstream = tokio::select! {
        upstream = leader.connect(Kind::Graphite, peer) => upstream,
        () = leader.is_gone() => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    let Ok(mut upstream) = upstream else { return turn_away(stream, peer, intake) };
    intake.counters.add(Source::Graphite, Fate::Forwarded);
    let (mut reader, _) = stream.split();
    let (mut answers, mut writer) = upstream.split();
    let proving = async {
        sleep(Duration::from_millis(proven_ms)).await;
        seat.useful(false, Instant::now());
        std::future::pending::<()>().await;
    };
    let copying = async {
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            match reader.read(&mut buffer).await? {
                0 => return writer.shutdown().await,
                length => writer.write_all(&buffer[..length]).await?,
            }
        }
    };
    let mut answer = [0];
    let ended = tokio::select! {
        ended = copying => ended,
        // The leader never answers, so this is its end of the connection.
        _ = answers.read(&mut answer) => Err(io::ErrorKind::ConnectionAborted.into()),
        () = leader.is_gone() => Err(io::ErrorKind::ConnectionAborted.into()),
        () = proving => Ok(()),
    };
    if ended.is_err() {
        let _ = stream.set_zero_linger();
    }
}

/// Resets the connection, so that the sender's write fails: an orderly close would let it succeed.
pub fn turn_away(stream: TcpStream, peer: IpAddr, intake: &Intake) {
    intake.counters.add(Source::Graphite, Fate::StandingBy);
    intake.refused(peer);
    // An error means that the peer has disconnected.
    let _ = stream.set_zero_linger();
}
