//! Memory for answers, shared by all that are being read.
//!
//! An answer takes more memory as it arrives. When all of it is in use, the answer that is largest in relation to the
//! expected size for its fleet is aborted, and that may be the one that asks for more. So a driver that sends much, or
//! little and slowly, does not block another, and a fleet of thousands of executors is not mistaken for one that sends
//! too much.
//!
//! Rejected: a fixed number of slots for bodies. A driver that sends a byte a second holds one for as long as it likes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Bytes of a row about an executor: Spark's rows have 2 KB.
const ROW_BYTES: usize = 4 * 1024;
/// Bytes of rows about dead executors: Spark keeps 100, some with a stack trace.
const GONE_BYTES: usize = 1024 * 1024;

/// Memory for all answers that are being read.
#[derive(Debug)]
pub struct Bodies {
    max: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    total: usize,
    shares: BTreeMap<u64, Share>,
}

#[derive(Debug)]
struct Share {
    bytes: usize,
    /// The expected size for its fleet.
    fair: usize,
    lost: Arc<Lost>,
}

#[derive(Debug, Default)]
struct Lost {
    is: AtomicBool,
    news: Notify,
}

/// An answer in memory.
#[derive(Debug)]
pub struct Body {
    bodies: Arc<Bodies>,
    number: u64,
    bytes: Vec<u8>,
    max: usize,
    lost: Arc<Lost>,
}

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The answer is longer than the limit for a fleet of this size.
    Oversized,
    /// Other answers need the memory.
    Crowded,
}

impl Bodies {
    pub fn new(max: usize) -> Arc<Bodies> {
        Arc::new(Bodies { max, held: Mutex::default() })
    }

    /// Begins an answer of at most `max` bytes about a fleet of `pods` pods.
    pub fn begin(self: &Arc<Bodies>, pods: usize, max: usize) -> Body {
        let lost = Arc::<Lost>::default();
        let mut held = self.lock();
        held.next += 1;
        let number = held.next;
        let fair = GONE_BYTES + pods * ROW_BYTES;
        held.shares.insert(number, Share { bytes: 0, fair, lost: Arc::clone(&lost) });
        Body { bodies: Arc::clone(self), number, bytes: Vec::new(), max, lost }
    }

    fn grow(&self, number: u64, more: usize) -> Result<(), Ended> {
        let mut held = self.lock();
        let Some(share) = held.shares.get_mut(&number) else { return Err(Ended::Crowded) };
        share.bytes += more;
        held.total += more;
        while held.total > self.max {
            // The largest ratio to the expected size: compared by cross-multiplication, in 128 bits.
            let most = held.shares.iter().max_by(|(_, one), (_, other)| {
                let relation = |one: &Share, other: &Share| one.bytes as u128 * other.fair as u128;
                relation(one, other).cmp(&relation(other, one))
            });
            let Some((&number_of_most, _)) = most else { break };
            if let Some(share) = held.shares.remove(&number_of_most) {
                held.total -= share.bytes;
                share.lost.is.store(true, Ordering::Release);
                share.lost.news.notify_one();
            }
            if number_of_most == number {
                return Err(Ended::Crowded);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // The data is consistent after every method, and none of them panics.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body {
    pub fn extend(&mut self, piece: &[u8]) -> Result<(), Ended> {
        if self.lost.is.load(Ordering::Acquire) {
            return Err(Ended::Crowded);
        }
        let length = self.bytes.len() + piece.len();
        if length > self.max {
            return Err(Ended::Oversized);
        }
        if length > self.bytes.capacity() {
            // Doubled, so that it is rarely copied.
            let capacity = length.max(2 * self.bytes.capacity()).min(self.max);
            self.bodies.grow(self.number, capacity - self.bytes.capacity())?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Resolves when other answers need the memory.
    pub fn lost(&self) -> impl Future<Output = ()> + use<> {
        let lost = Arc::clone(&self.lost);
        async move { lost.news.notified().await }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let mut held = self.bodies.lock();
        if let Some(share) = held.shares.remove(&self.number) {
            held.total -= share.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[tokio::test]
    async fn the_answer_that_holds_most_for_its_fleet_makes_room() {
        let bodies = Bodies::new(8 * KIB * KIB);
        let max = 32 * KIB * KIB;
        // An answer about 1,000 executors may take 2 MiB.
        let mut large = bodies.begin(1_000, max);
        large.extend(&vec![0; 2 * KIB * KIB]).unwrap();
        let mut greedy: Vec<Body> = (0..3).map(|_| bodies.begin(1, max)).collect();
        greedy[0].extend(&vec![0; 2_000 * KIB]).unwrap();
        greedy[1].extend(&vec![0; 1_900 * KIB]).unwrap();
        greedy[2].extend(&vec![0; 1_800 * KIB]).unwrap();
        let mut small = bodies.begin(60, max);
        small.extend(&vec![0; 120 * KIB]).unwrap();
        assert!(!greedy[0].lost.is.load(Ordering::Relaxed), "there was room");
        small.extend(&vec![0; 400 * KIB]).unwrap();
        greedy[0].lost().await;
        assert_eq!(greedy[0].extend(b"x"), Err(Ended::Crowded));
        let held = bodies.lock();
        assert_eq!(held.total, held.shares.values().map(|share| share.bytes).sum::<usize>());
        drop(held);
        // The answer that asks for more than any other is the one that is aborted.
        assert_eq!(greedy[1].extend(&vec![0; 4_000 * KIB]), Err(Ended::Crowded));
        large.extend(b"x").unwrap();
        small.extend(b"x").unwrap();
        drop((large, greedy, small));
        let held = bodies.lock();
        assert_eq!((held.total, held.shares.len()), (0, 0));
    }

    #[test]
    fn an_answer_has_an_end() {
        let bodies = Bodies::new(KIB * KIB);
        let mut body = bodies.begin(1, 1_000);
        for _ in 0..1_000 {
            body.extend(b"x").unwrap();
        }
        assert_eq!(body.bytes.capacity(), 1_000);
        assert_eq!(body.extend(b"x"), Err(Ended::Oversized));
        assert_eq!(body.bytes().len(), 1_000);
    }
}
