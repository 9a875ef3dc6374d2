//! Heartbeat messages on their way to the daemon's loop: bounded, coalescing, fair.
//!
//! This is not a queue of messages, but the state that the loop has not seen yet. At most one beat waits for each
//! executor, and for each fleet at most one driver's report, and one impairment of each cause. A later message is
//! merged into the waiting one: the newest value under each name wins, as it does in the core, where consecutive beats
//! would leave the same result. The loop takes one message of each fleet in turn, so a fleet that floods delays each
//! message of another fleet by one of its own.
//!
//! Memory: messages are accepted only for executors in the [`Directory`](super::Directory), and the loop, which empties
//! this, is also what adds executors there. So no more beats wait than there are pods in the view: a slot of about 200
//! bytes each, and 8 bytes for each of at most 110 columns; 10,000 executors that all wait are 11 MB. No message is
//! dropped.
//!
//! Rejected: a bounded channel. The busiest sender fills it, and the beats of the others are dropped.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet::event::{Beat, DriverRow, Impairment};
use fleet::id::{ExecutorId, Uid};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Sign;
use super::directory::Columns;

/// The minimum interval between two reports of one fleet and cause. An earlier one is reported when the interval is
/// over.
const IMPAIRMENT_PAUSE: Duration = Duration::from_secs(1);

/// The two ends of one intake.
pub fn channel() -> (Sender, Signs) {
    let shared = Arc::new(Shared::default());
    (Sender(Arc::new(Senders(Arc::clone(&shared)))), Signs(shared))
}

/// The sending end. Never blocks.
#[derive(Clone, Debug)]
pub struct Sender(Arc<Senders>);

/// The receiving end, for the loop.
#[derive(Debug)]
pub struct Signs(Arc<Shared>);

/// The loop has ended and receives no more messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// There is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Empty;

/// Shared by all senders: dropping the last one ends the intake.
#[derive(Debug)]
struct Senders(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// A message waits, and none did before.
    news: Notify,
    /// All senders were dropped.
    ended: AtomicBool,
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.news.notify_one();
    }
}

impl Drop for Signs {
    fn drop(&mut self) {
        *self.0.lock() = Queue { closed: true, ..Queue::default() };
    }
}

impl Sender {
    pub fn send(&self, sign: Sign) -> Result<(), Closed> {
        match sign {
            Sign::Beat { life, beat: Beat { executor, uid, metrics } } => {
                self.beat(life, executor, uid, Facts::Named(metrics))
            }
            Sign::Driver { life, rows } => self.change(|queue| queue.of(life).report(rows)),
            Sign::Impaired { life, why } => {
                let now = Instant::now();
                self.change(|queue| queue.impaired(life, why, now))
            }
        }
    }

    pub(super) fn beat(
        &self,
        life: u64,
        executor: ExecutorId,
        uid: Option<Uid>,
        facts: Facts,
    ) -> Result<(), Closed> {
        self.change(|queue| queue.of(life).beat(executor, Slot { uid, facts }))
    }

    /// `change` returns how many messages were added.
    fn change(&self, change: impl FnOnce(&mut Queue) -> usize) -> Result<(), Closed> {
        let shared = &*self.0.0;
        let mut queue = shared.lock();
        if queue.closed {
            return Err(Closed);
        }
        let before = queue.length;
        let more = change(&mut queue);
        queue.length += more;
        if before == 0 && more > 0 {
            drop(queue);
            shared.news.notify_one();
        }
        Ok(())
    }
}

impl Signs {
    /// Receives the next message. `None`: all senders were dropped. Cancel-safe: no message is lost.
    pub async fn recv(&mut self) -> Option<Sign> {
        loop {
            let shared = &*self.0;
            let news = shared.news.notified();
            let ended = shared.ended.load(Ordering::Acquire);
            let due = match shared.take() {
                Ok(sign) => return Some(sign),
                Err(_) if ended => return None,
                Err(due) => due,
            };
            match due {
                // The next iteration handles what is due.
                Some(due) => drop(timeout_at(due, news).await),
                None => news.await,
            }
        }
    }

    pub fn try_recv(&mut self) -> Result<Sign, Empty> {
        self.0.take().map_err(|_| Empty)
    }

    /// The number of waiting messages.
    pub fn len(&self) -> usize {
        self.0.lock().length
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    /// `Err`: no message waits, but an impairment is due then.
    fn take(&self) -> Result<Sign, Option<Instant>> {
        let mut queue = self.lock();
        queue.end_pauses(Instant::now());
        let Some((life, next)) = queue.next() else {
            return Err(queue.pauses.front().map(|(end, ..)| *end));
        };
        drop(queue);
        Ok(match next {
            Next::Beat(executor, Slot { uid, facts }) => {
                Sign::Beat { life, beat: Beat { executor, uid, metrics: facts.named() } }
            }
            Next::Driver(rows) => Sign::Driver { life, rows },
            Next::Impaired(why) => Sign::Impaired { life, why },
        })
    }

    // The data is consistent after every statement, so a panic elsewhere does not corrupt it.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// By life: only fleets with waiting messages.
    fleets: HashMap<u64, Waiting>,
    /// Each of these fleets once.
    turns: VecDeque<u64>,
    length: usize,
    /// Impairments that were reported within the last interval, and whether there was another since. At most one for
    /// each fleet and cause.
    told: BTreeMap<(u64, Impairment), bool>,
    /// The ends of these intervals, in order.
    pauses: VecDeque<(Instant, u64, Impairment)>,
    closed: bool,
}

/// The waiting messages of one fleet.
#[derive(Debug, Default)]
struct Waiting {
    /// Each cause once.
    impaired: Vec<Impairment>,
    report: Option<Vec<DriverRow>>,
    /// Executors with a beat, each once, the longest waiting first.
    order: VecDeque<ExecutorId>,
    beats: HashMap<ExecutorId, Slot>,
}

enum Next {
    Impaired(Impairment),
    Driver(Vec<DriverRow>),
    Beat(ExecutorId, Slot),
}

impl Queue {
    fn of(&mut self, life: u64) -> &mut Waiting {
        match self.fleets.entry(life) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.turns.push_back(life);
                entry.insert(Waiting::default())
            }
        }
    }

    fn impaired(&mut self, life: u64, why: Impairment, now: Instant) -> usize {
        if let Some(again) = self.told.get_mut(&(life, why)) {
            *again = true;
            return 0;
        }
        self.told.insert((life, why), false);
        self.pauses.push_back((now + IMPAIRMENT_PAUSE, life, why));
        self.of(life).impaired(why)
    }

    fn end_pauses(&mut self, now: Instant) {
        while let Some((_, life, why)) = self.pauses.pop_front_if(|(end, ..)| *end <= now) {
            if self.told.remove(&(life, why)) == Some(true) {
                self.length += self.impaired(life, why, now);
            }
        }
    }

    fn next(&mut self) -> Option<(u64, Next)> {
        let life = self.turns.pop_front()?;
        let Entry::Occupied(mut waiting) = self.fleets.entry(life) else { return None };
        let next = waiting.get_mut().next();
        if waiting.get().is_empty() {
            waiting.remove();
        } else {
            self.turns.push_back(life);
        }
        self.length = self.length.saturating_sub(1);
        Some((life, next?))
    }
}

impl Waiting {
    fn impaired(&mut self, why: Impairment) -> usize {
        if self.impaired.contains(&why) {
            return 0;
        }
        self.impaired.push(why);
        1
    }

    fn report(&mut self, rows: Vec<DriverRow>) -> usize {
        usize::from(self.report.replace(rows).is_none())
    }

    fn beat(&mut self, executor: ExecutorId, slot: Slot) -> usize {
        match self.beats.entry(executor) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().join(slot);
                0
            }
            Entry::Vacant(free) => {
                free.insert(slot);
                self.order.push_back(executor);
                1
            }
        }
    }

    /// An impairment comes first, so that no executor is declared lost meanwhile.
    fn next(&mut self) -> Option<Next> {
        if let Some(why) = self.impaired.pop() {
            return Some(Next::Impaired(why));
        }
        if let Some(rows) = self.report.take() {
            return Some(Next::Driver(rows));
        }
        let executor = self.order.pop_front()?;
        Some(Next::Beat(executor, self.beats.remove(&executor)?))
    }

    fn is_empty(&self) -> bool {
        self.impaired.is_empty() && self.report.is_none() && self.order.is_empty()
    }
}

/// A waiting beat.
#[derive(Debug)]
struct Slot {
    uid: Option<Uid>,
    facts: Facts,
}

impl Slot {
    /// Each beat was sent by the executor's pod at that moment. So a different UID is a later pod, for which the
    /// earlier values do not hold; and a beat without UID is from the same pod as the one before.
    fn join(&mut self, newer: Slot) {
        match (&self.uid, &newer.uid) {
            (Some(one), Some(other)) if one != other => *self = newer,
            (Some(_) | None, Some(_) | None) => {
                if newer.uid.is_some() {
                    self.uid = newer.uid;
                }
                self.facts.join(newer.facts);
            }
        }
    }
}

/// The content of a beat beyond the heartbeat itself.
#[derive(Debug)]
pub(super) enum Facts {
    Named(Vec<(Box<str>, f64)>),
    /// NaN for no value: an eighth of the names' memory, and merged without comparing them.
    Of(Arc<Columns>, Vec<f64>),
}

impl Facts {
    fn join(&mut self, newer: Facts) {
        match (&mut *self, newer) {
            (Facts::Of(columns, values), Facts::Of(others, newer)) if Arc::ptr_eq(columns, &others) => {
                for (value, newer) in values.iter_mut().zip(newer).filter(|(_, newer)| !newer.is_nan()) {
                    *value = newer;
                }
            }
            (older, newer) => {
                let mut named = std::mem::replace(older, Facts::Named(Vec::new())).named();
                for (name, value) in newer.named() {
                    match named.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => *known = value,
                        None => named.push((name, value)),
                    }
                }
                *older = Facts::Named(named);
            }
        }
    }

    fn named(self) -> Vec<(Box<str>, f64)> {
        match self {
            Facts::Named(named) => named,
            Facts::Of(columns, values) => {
                let said = columns.names.iter().zip(values).filter(|(_, value)| !value.is_nan());
                said.map(|(name, value)| (name.clone(), value)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests;
