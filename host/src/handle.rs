//! What the rest of the process may ask of the loop. The loop owns the fleets; everybody else sends it a
//! request and waits for the answer.
//!
//! Nobody waits for long. A queue that is full refuses at once, and an answer that does not come within
//! [`TIMEOUT`] is given up. What happens is told to whoever listens; those who listen too slowly miss
//! some, and hear how many. Signs of life are read without asking: a loop that hangs cannot say so.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet::action::Reply;
use fleet::event::{Command, Impairment};
use fleet::guardrail::Refusal;
use fleet::id::ExecutorId;
use fleet::snapshot::{Condition, Counts, Explanation, Snapshot};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

/// How long an answer is waited for. The slowest, a command, waits for a write of the ledger.
pub const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    told: broadcast::Sender<Arc<Told>>,
    pulse: Arc<Pulse>,
}

/// What the loop is asked. `None` in an answer: there is no such fleet.
#[derive(Debug)]
pub enum Request {
    Overview(oneshot::Sender<Vec<Overview>>),
    Snapshot { fleet: String, reply: oneshot::Sender<Option<Snapshot>> },
    Explain { fleet: String, executor: ExecutorId, reply: oneshot::Sender<Option<Explanation>> },
    Command { fleet: String, verb: Command, reply: oneshot::Sender<Commanded> },
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Commanded {
    NoSuchFleet,
    /// There is no core yet that could obey: why.
    NoDriver(String),
    Replied(Reply),
}

/// The condition of a fleet that has no core yet, and so none of its conditions.
pub const DRIVER_MISSING: &str = "DriverMissing";
/// The condition of a fleet of whose policies one is not loaded yet, or has not looked at its settings yet.
pub const POLICY_PENDING: &str = "PolicyPending";
/// The driver's REST API is of no use. The core does not know that there is one.
pub const DRIVER_REST_UNAVAILABLE: &str = "DriverRestUnavailable";

/// Another fleet claims the same application id, or the same names of metrics: of both, the one that has them and the one
/// that waits.
pub const IDENTITY_CONTESTED: &str = "IdentityContested";

/// One fleet in few numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    pub fleet: String,
    pub namespace: String,
    /// `own` or `observe`.
    pub mode: &'static str,
    /// As [`Snapshot::phase`].
    pub phase: &'static str,
    pub target: u32,
    pub counts: Counts,
    /// How often each guard-rail said no, since this host leads.
    pub refusals: BTreeMap<Refusal, u64>,
    /// How often its hearing was impaired, by cause, since this host leads.
    pub impairments: BTreeMap<Impairment, u64>,
    pub conditions: Vec<Condition>,
}

/// Something that happened, for people: /v1/events and the demo's narration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Since the Unix epoch.
    pub at_ms: i64,
    pub fleet: String,
    /// The reason of a notice, or the verb of an action.
    pub kind: &'static str,
    pub executor: Option<ExecutorId>,
    pub message: String,
}

/// Why the loop gave no answer. A command may have been obeyed all the same after a `Timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// As many requests as the queue holds are waiting.
    Busy,
    /// The loop has ended, or dropped the request.
    Stopped,
    Timeout,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::Busy => f.write_str("the loop is busy; try again"),
            Unavailable::Stopped => f.write_str("the daemon is stopping"),
            Unavailable::Timeout => {
                write!(
                    f,
                    "the loop gave no answer within {} s; a command may still be obeyed",
                    TIMEOUT.as_secs()
                )
            }
        }
    }
}

impl std::error::Error for Unavailable {}

impl Handle {
    /// A handle, and the end that the loop serves. So many requests may wait; a listener may be so many
    /// events behind. Both are at least 1.
    pub fn new(requests: usize, told: usize) -> (Handle, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(requests);
        let (told, _) = broadcast::channel(told);
        (Handle { requests: sender, told, pulse: Arc::new(Pulse::new()) }, receiver)
    }

    /// All fleets, in order of their names.
    pub async fn overview(&self) -> Result<Vec<Overview>, Unavailable> {
        self.ask(Request::Overview).await
    }

    pub async fn snapshot(&self, fleet: &str) -> Result<Option<Snapshot>, Unavailable> {
        let fleet = fleet.to_owned();
        self.ask(|reply| Request::Snapshot { fleet, reply }).await
    }

    pub async fn explain(
        &self,
        fleet: &str,
        executor: ExecutorId,
    ) -> Result<Option<Explanation>, Unavailable> {
        let fleet = fleet.to_owned();
        self.ask(|reply| Request::Explain { fleet, executor, reply }).await
    }

    pub async fn command(&self, fleet: &str, verb: Command) -> Result<Commanded, Unavailable> {
        let fleet = fleet.to_owned();
        self.ask(|reply| Request::Command { fleet, verb, reply }).await
    }

    /// Everything that is told from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Told>> {
        self.told.subscribe()
    }

    pub fn tell(&self, told: Told) {
        // An error says that nobody listens.
        let _ = self.told.send(Arc::new(told));
    }

    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unavailable::Busy,
            mpsc::error::TrySendError::Closed(_) => Unavailable::Stopped,
        })?;
        let answer = tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| Unavailable::Timeout)?;
        answer.map_err(|_| Unavailable::Stopped)
    }
}

/// Signs of life of the loop, readable without asking it.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Since `start`.
    advanced_ms: AtomicU64,
    waiting: AtomicU64,
    leading: AtomicBool,
    /// While another host leads: who it is.
    leader: Mutex<Option<String>>,
    synced: AtomicBool,
}

impl Pulse {
    fn new() -> Pulse {
        Pulse {
            start: Instant::now(),
            advanced_ms: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            leading: AtomicBool::new(false),
            leader: Mutex::new(None),
            synced: AtomicBool::new(false),
        }
    }

    /// The loop has come round. To be said every few seconds even when nothing happens.
    pub fn advance(&self) {
        self.advanced_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// How long ago the loop last came round, or was made.
    pub fn still_ms(&self) -> u64 {
        self.now_ms().saturating_sub(self.advanced_ms.load(Ordering::Relaxed))
    }

    /// How many events and requests wait for the loop.
    pub fn set_waiting(&self, count: u64) {
        self.waiting.store(count, Ordering::Relaxed);
    }

    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// This host leads.
    pub fn lead(&self) {
        self.leading.store(true, Ordering::Relaxed);
    }

    /// This host does not lead, but whoever it is, if that is known.
    pub fn stand_by(&self, leader: Option<&str>) {
        self.leading.store(false, Ordering::Relaxed);
        let mut known = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != leader {
            *known = leader.map(str::to_owned);
        }
    }

    pub fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    /// Who leads while this host stands by, as far as it is known.
    pub fn leader(&self) -> Option<String> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A fleet has seen its cluster once.
    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Relaxed);
    }

    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_loop_that_does_not_answer() {
        let (handle, mut requests) = Handle::new(1, 1);
        let patient = tokio::spawn({
            let handle = handle.clone();
            async move { handle.overview().await }
        });
        tokio::task::yield_now().await;
        assert_eq!(handle.overview().await, Err(Unavailable::Busy), "the queue holds one");
        assert_eq!(patient.await.unwrap(), Err(Unavailable::Timeout));
        drop(requests.recv().await);
        let dropped = tokio::spawn({
            let handle = handle.clone();
            async move { handle.snapshot("etl").await }
        });
        drop(requests.recv().await);
        assert_eq!(dropped.await.unwrap(), Err(Unavailable::Stopped), "it was not answered");
        drop(requests);
        assert_eq!(handle.overview().await, Err(Unavailable::Stopped));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pulse_grows_old_until_the_loop_comes_round() {
        let pulse = Pulse::new();
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(pulse.still_ms(), 11_000);
        pulse.advance();
        assert_eq!(pulse.still_ms(), 0);
    }
}
