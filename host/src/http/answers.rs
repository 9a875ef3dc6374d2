//! Limits the bytes of answers that clients have not read yet.
//!
//! A request is one line, a list of 10,000 executors is 2 MB, and nothing makes the client read it: 512 connections
//! that do not read would hold 1 GB. So long answers are sent in pieces, and count until the last piece is passed to
//! the connection. When they exceed the limit, the address that holds most bytes loses one answer, with its connection:
//! the one of which nothing was read for longest. So a client that reads gets its answer, however many do not.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};

use super::error::Error;
use super::serve::Peer;
use crate::eviction::greediest;

/// Eight lists of 10,000 executors. A single longer answer is held alone.
const HELD_MAX_BYTES: usize = 16 << 20;
/// A connection buffers up to two pieces, that is 16 MiB for 512 connections. An answer no longer than a piece does not
/// count.
const PIECE_BYTES: usize = 16 << 10;

#[derive(Debug, Default)]
pub struct Answers(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The next number of a hold or a read: both are increasing.
    next: u64,
    bytes: usize,
    held: HashMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    ip: IpAddr,
    bytes: usize,
    /// The number of its last read: the smallest has waited longest.
    read: u64,
    peer: Option<Peer>,
}

impl Answers {
    /// Returns the same answer, in pieces that count. Event streams have no length and are exempt: they have a bound of
    /// their own.
    pub async fn hold(self: &Arc<Answers>, peer: Option<Peer>, answer: Response) -> Response {
        if answer.body().size_hint().exact().is_none_or(|bytes| bytes <= PIECE_BYTES as u64) {
            return answer;
        }
        let (head, body) = answer.into_parts();
        let Ok(rest) = to_bytes(body, usize::MAX).await else {
            let message = "the answer broke off while it was made: a bug in Rollcall, please report it";
            return Error::new(StatusCode::INTERNAL_SERVER_ERROR, "encoding", message).into_response();
        };
        let ip = peer.as_ref().map_or(IpAddr::from([0, 0, 0, 0]), Peer::ip);
        let hold = self.take(ip, rest.len(), peer);
        Response::from_parts(head, Body::new(Pieces { rest, hold }))
    }

    fn take(self: &Arc<Answers>, ip: IpAddr, bytes: usize, peer: Option<Peer>) -> Hold {
        let mut inner = self.lock();
        // Each iteration removes one held answer.
        while inner.bytes + bytes > HELD_MAX_BYTES
            && let Some(victim) = inner.greediest(ip, bytes)
        {
            if let Some(peer) = inner.remove(victim).and_then(|held| held.peer) {
                peer.dismiss();
            }
        }
        let number = inner.count();
        inner.bytes += bytes;
        inner.held.insert(number, Held { ip, bytes, read: number, peer });
        drop(inner);
        Hold { answers: Arc::clone(self), number }
    }

    // The map is consistent after every statement, so a panic elsewhere does not corrupt it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn count(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn remove(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        self.bytes -= held.bytes;
        Some(held)
    }

    /// Scans all of them: at most 1,024, of more than a piece each.
    fn greediest(&self, newcomer: IpAddr, bytes: usize) -> Option<u64> {
        let held = self.held.iter().map(|(number, held)| (held.ip, held.bytes, (held.read, *number)));
        greediest(held, Some((newcomer, bytes))).map(|(_, (_, number))| number)
    }
}

/// Counts until it is dropped.
#[derive(Debug)]
struct Hold {
    answers: Arc<Answers>,
    number: u64,
}

impl Hold {
    fn was_read(&self) {
        let mut inner = self.answers.lock();
        let now = inner.count();
        if let Some(held) = inner.held.get_mut(&self.number) {
            held.read = now;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.answers.lock().remove(self.number);
    }
}

struct Pieces {
    rest: Bytes,
    hold: Hold,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.hold.was_read();
        let length = self.rest.len().min(PIECE_BYTES);
        // A copy: a slice in the connection's buffer would keep the whole answer.
        let piece = Bytes::copy_from_slice(&self.rest.split_to(length));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: usize = 2 << 20;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn holds(answers: &Answers, hold: &Hold) -> bool {
        answers.lock().held.contains_key(&hold.number)
    }

    #[test]
    fn the_greediest_gives_up_what_was_not_read_for_longest() {
        let answers = Arc::new(Answers::default());
        let reader = answers.take(ip(1), LIST, None);
        let greedy: Vec<Hold> = (0..7).map(|_| answers.take(ip(2), LIST, None)).collect();
        greedy[0].was_read();
        let third = answers.take(ip(3), LIST, None);
        assert!(holds(&answers, &reader) && holds(&answers, &third) && holds(&answers, &greedy[0]));
        assert!(!holds(&answers, &greedy[1]));
        let many: Vec<Hold> = (0..200).map(|number| answers.take(ip(10 + number % 10), LIST, None)).collect();
        assert!(answers.lock().bytes <= HELD_MAX_BYTES);
        let last = answers.take(ip(1), 2 * HELD_MAX_BYTES, None);
        assert_eq!(answers.lock().held.len(), 1, "one that is longer than all is held alone");
        drop((reader, greedy, third, many, last));
        let inner = answers.lock();
        assert_eq!((inner.bytes, inner.held.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_long_answer_is_the_same_in_pieces_and_a_short_one_does_not_count() {
        let answers = Arc::new(Answers::default());
        let text: Vec<u8> = (0..100_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let short = answers.hold(None, Response::new(Body::from("short"))).await;
        assert_eq!(answers.lock().bytes, 0);
        let long = answers.hold(None, Response::new(Body::from(text.clone()))).await;
        assert_eq!((answers.lock().bytes, long.body().size_hint().exact()), (100_000, Some(100_000)));
        assert_eq!(to_bytes(long.into_body(), usize::MAX).await.unwrap(), text);
        assert_eq!(to_bytes(short.into_body(), usize::MAX).await.unwrap(), "short");
        assert_eq!(answers.lock().bytes, 0, "it is read");
    }
}
