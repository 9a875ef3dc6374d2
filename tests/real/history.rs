//! The history of every object, as etcd recorded it: each change once, in the one total order.
//!
//! The API server is configured to store its objects in etcd as JSON, and only
//! [`compact_etcd`](ControlPlane::compact_etcd) drops earlier revisions: to judge them, read them right before that,
//! when all writers have stopped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::control_plane::{ControlPlane, Result};

/// One change of an object.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its `resourceVersion`.
    pub revision: u64,
    pub kind: ChangeKind,
    /// Its state after the change; for a deletion, the state before.
    pub object: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Created,
    Updated,
    Deleted,
}

/// Maximum time between two answers.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// All pods of a suite, changed a few times each, 6 KB each time.
const BYTES_MAX: u64 = 256 << 20;

/// All changes of a resource, for instance `pods`, later than `after`; and the revision up to which they are complete.
pub fn read(plane: &ControlPlane, resource: &str, after: u64) -> Result<(Vec<Change>, u64)> {
    // All keys of the resource are below `/`; the mark at which reading stops follows right after them, with no other
    // keys.
    let (first, mark, end) = (
        format!("/registry/{resource}/"),
        format!("/registry/{resource}0mark"),
        format!("/registry/{resource}1"),
    );
    let put = plane.ask_etcd("/v3/kv/put", &json!({ "key": encode(&mark), "value": "" }))?;
    let now = number(&put["header"]["revision"]);
    let watch = json!({ "create_request": {
        "key": encode(&first), "range_end": encode(&end), "start_revision": (after + 1).to_string(), "prev_kv": true,
    } });
    let failed = |error: std::io::Error| format!("etcd, history of {resource}: {error}");
    let answer = ask(plane.etcd_port(), &watch.to_string()).map_err(failed)?;
    let mut changes = Vec::new();
    for line in answer.lines() {
        let line = line.map_err(failed)?;
        // Lines before the answer are the HTTP head.
        let Ok(answer) = serde_json::from_str::<Value>(&line) else { continue };
        let result = &answer["result"];
        if result["canceled"] == true || result.is_null() {
            return Err(format!("etcd, history of {resource} after {after}: {line}"));
        }
        for event in result["events"].as_array().into_iter().flatten() {
            let kv = &event["kv"];
            let revision = number(&kv["mod_revision"]);
            if decode(&kv["key"]) == mark.as_bytes() {
                if revision >= now {
                    return Ok((changes, now));
                }
                continue;
            }
            let (kind, held) = if event["type"] == "DELETE" {
                (ChangeKind::Deleted, &event["prev_kv"])
            } else if kv["create_revision"] == kv["mod_revision"] {
                (ChangeKind::Created, kv)
            } else {
                (ChangeKind::Updated, kv)
            };
            let object = serde_json::from_slice(&decode(&held["value"]))
                .map_err(|error| format!("etcd, history of {resource}: {error}"))?;
            changes.push(Change { revision, kind, object });
        }
    }
    Err(format!("etcd, history of {resource}: the answer has ended before its end"))
}

/// A watch: an answer in lines that does not end.
fn ask(port: u16, question: &str) -> std::io::Result<BufReader<impl Read + use<>>> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, SILENCE_MAX)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    write!(stream, "POST /v3/watch HTTP/1.0\r\nContent-Length: {}\r\n\r\n{question}", question.len())?;
    Ok(BufReader::new(stream.take(BYTES_MAX)))
}

/// In protobuf's JSON, 64-bit numbers are strings.
fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64, as bytes are encoded in protobuf's JSON.
pub fn encode(text: &str) -> String {
    let digits = text.as_bytes().chunks(3).flat_map(|chunk| {
        let three = [0, 1, 2].map(|at| u32::from(chunk.get(at).copied().unwrap_or(0)));
        let bits = three[0] << 16 | three[1] << 8 | three[2];
        let digit = move |at: usize| char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]);
        (0..4).map(move |at| if at <= chunk.len() { digit(at) } else { '=' })
    });
    digits.collect()
}

/// Base64, also the variant of tokens.
pub fn decode(text: &Value) -> Vec<u8> {
    let digits = text.as_str().unwrap_or_default().bytes().map(|digit| match digit {
        b'-' => b'+',
        b'_' => b'/',
        digit => digit,
    });
    let values = digits.filter_map(|digit| ALPHABET.iter().position(|known| *known == digit));
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for value in values {
        bits = bits << 6 | u32::try_from(value).unwrap_or_default();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
