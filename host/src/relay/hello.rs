//! How a replica shows that it is one, and for whom it connects.
//!
//! ```text
//! leader  → nonce (32)
//! standby → nonce (32), kind (1), address (16), HMAC over "standby", both nonces, kind and address (32)
//! leader  → HMAC over "leader", both nonces (32)
//! ```
//!
//! Two round trips for each connection. The nonces make every proof good for one connection: a reader of the network
//! cannot use it again. What is sent afterwards is as plain as what it forwards.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ring::hmac;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a greeting may take, the connection included. Replicas are in one network.
pub const TIMEOUT: Duration = Duration::from_secs(2);

const NONCE: usize = 32;
const PROOF: usize = 32;

/// The secret of the replicas.
#[derive(Clone)]
pub struct Key {
    bits: u128,
    mac: hmac::Key,
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.bits == other.bits
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// From random bits.
    pub fn new(bits: u128) -> Key {
        Key { bits, mac: hmac::Key::new(hmac::HMAC_SHA256, &bits.to_be_bytes()) }
    }

    pub(super) fn to_text(&self) -> String {
        format!("{:032x}", self.bits)
    }

    pub(super) fn from_text(text: &str) -> Option<Key> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(Key::new)).flatten()
    }

    fn proof(&self, parts: &[&[u8]]) -> hmac::Tag {
        hmac::sign(&self.mac, &parts.concat())
    }

    fn proves(&self, parts: &[&[u8]], proof: &[u8]) -> bool {
        hmac::verify(&self.mac, &parts.concat(), proof).is_ok()
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Graphite = 1,
    Http = 2,
    Link = 3,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [Kind::Graphite, Kind::Http, Kind::Link].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Greets the leader on behalf of this address.
pub async fn connect(leader: SocketAddr, key: &Key, kind: Kind, from: IpAddr) -> io::Result<TcpStream> {
    let greeting = async {
        let mut stream = TcpStream::connect(leader).await?;
        stream.set_nodelay(true)?;
        let mut theirs = [0; NONCE];
        stream.read_exact(&mut theirs).await?;
        let ours = nonce()?;
        let about = about(kind, from);
        let proof = key.proof(&[b"standby", &theirs, &ours, &about]);
        stream.write_all(&[&ours[..], &about, proof.as_ref()].concat()).await?;
        let mut answer = [0; PROOF];
        stream.read_exact(&mut answer).await?;
        if !key.proves(&[b"leader", &theirs, &ours], &answer) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it does not know the leader's key"));
        }
        Ok(stream)
    };
    timeout(TIMEOUT, greeting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The kind of a connection, and for whom it is made.
pub async fn accept(stream: &mut TcpStream, key: &Key) -> io::Result<(Kind, IpAddr)> {
    let greeting = async {
        stream.set_nodelay(true)?;
        let ours = nonce()?;
        stream.write_all(&ours).await?;
        let (mut theirs, mut about, mut proof) = ([0; NONCE], [0; ABOUT], [0; PROOF]);
        stream.read_exact(&mut theirs).await?;
        stream.read_exact(&mut about).await?;
        stream.read_exact(&mut proof).await?;
        let known = Kind::of(about[0]).filter(|_| key.proves(&[b"standby", &ours, &theirs, &about], &proof));
        let Some(kind) = known else {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it does not know the key"));
        };
        let answer = key.proof(&[b"leader", &ours, &theirs]);
        stream.write_all(answer.as_ref()).await?;
        Ok((kind, ip(about.last_chunk().expect("17 bytes"))))
    };
    timeout(TIMEOUT, greeting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

const ABOUT: usize = 17;

/// One byte and an address. The messages of a link have this form, too.
pub(super) fn message(byte: u8, ip: IpAddr) -> [u8; ABOUT] {
    let v6 = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; ABOUT];
    bytes[0] = byte;
    bytes[1..].copy_from_slice(&v6.octets());
    bytes
}

pub(super) fn ip(bytes: &[u8; 16]) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(*bytes)).to_canonical()
}

fn about(kind: Kind, from: IpAddr) -> [u8; ABOUT] {
    message(kind as u8, from)
}

fn nonce() -> io::Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}
