//! The interface of the main loop for the rest of the process. The loop owns the fleets; other tasks send it a request
//! and wait for the answer.
//!
//! All waits are bounded. A full queue refuses a request immediately, and a request without an answer within
//! [`TIMEOUT`] fails. Events are broadcast to all subscribers; a subscriber that is too slow misses some, and learns
//! how many. The liveness of the loop is read without a request, because a loop that hangs cannot answer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
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

/// How long a caller waits for an answer. The slowest request, a command, waits for a write of the ledger.
pub const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    told: broadcast::Sender<Arc<Told>>,
    pulse: Arc<Pulse>,
}

/// A request to the loop. `fleet` is `NAMESPACE/NAME`, or NAME if one fleet alone has that name.
#[derive(Debug)]
pub enum Request {
    Overview(oneshot::Sender<Vec<Overview>>),
    Snapshot {
        fleet: String,
        reply: oneshot::Sender<Result<Snapshot, NoFleet>>,
    },
    Explain {
        fleet: String,
        executor: ExecutorId,
        reply: oneshot::Sender<Result<Explanation, NoFleet>>,
    },
    /// `by`: the user, if the cluster vouches for one.
    Command {
        fleet: String,
        verb: Command,
        by: Option<String>,
        reply: oneshot::Sender<Commanded>,
    },
}

/// Why a name means no fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoFleet {
    Unknown,
    /// It is the name of several: these.
    Ambiguous(Vec<String>),
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Commanded {
    NoFleet(NoFleet),
    /// The fleet has no core yet that could execute the command; the text is the reason.
    NoDriver(String),
    Replied(Reply),
}

/// The condition of a fleet that has no core yet, and therefore none of the core's conditions.
pub const DRIVER_MISSING: &str = "DriverMissing";
/// The condition of a fleet with a policy that is not loaded yet, or that has not checked the fleet's settings yet.
pub const POLICY_PENDING: &str = "PolicyPending";
/// The driver's REST API cannot be used. The core does not know of the REST API.
pub const DRIVER_REST_UNAVAILABLE: &str = "DriverRestUnavailable";

/// Another fleet claims the same application id, or the same metric names. Both fleets have this condition: the one
/// that holds them and the one that waits.
pub const IDENTITY_CONTESTED: &str = "IdentityContested";

/// A summary of one fleet.
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
    /// How often each guard-rail refused an action, since this replica became the leader.
    pub refusals: BTreeMap<Refusal, u64>,
    /// How often heartbeats may have been lost, by cause, since this replica became the leader.
    pub impairments: BTreeMap<Impairment, u64>,
    pub conditions: Vec<Condition>,
    /// Spark's application id, once the driver is known.
    pub application_id: Option<String>,
    /// `metadata.generation` of its newest document, if that is an object.
    pub generation: Option<i64>,
    /// Why its newest document is refused, if it is.
    pub problems: Vec<String>,
}

/// An event for users: in /v1/events and in the demo's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Since the Unix epoch.
    pub at_ms: i64,
    pub fleet: String,
    pub namespace: String,
    /// The reason of a notice, or the verb of an action.
    pub kind: &'static str,
    pub executor: Option<ExecutorId>,
    pub message: String,
}

/// Why the loop gave no answer. After a `Timeout` a command may still have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The request queue is full.
    Busy,
    /// The loop has stopped, or dropped the request.
    Stopped,
    Timeout,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::Busy => f.write_str("the daemon's main loop is busy; try again"),
            Unavailable::Stopped => f.write_str("the daemon is stopping"),
            Unavailable::Timeout => {
                write!(
                    f,
                    "the daemon's main loop gave no answer within {} s; a command may still be executed",
                    TIMEOUT.as_secs()
                )
            }
        }
    }
}

impl std::error::Error for Unavailable {}

/// Is this the name of the fleet: `NAMESPACE/NAME`, or NAME?
fn is_called(called: &str, namespace: &str, name: &str) -> bool {
    match called.split_once('/') {
        Some((within, called)) => (within, called) == (namespace, name),
        None => called == name,
    }
}

impl Overview {
    pub fn is_called(&self, called: &str) -> bool {
        is_called(called, &self.namespace, &self.fleet)
    }

    /// `NAMESPACE/NAME`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.fleet)
    }
}

impl Told {
    pub fn is_called(&self, called: &str) -> bool {
        is_called(called, &self.namespace, &self.fleet)
    }
}

impl Handle {
    /// Returns a handle, and the receiver that the loop serves. At most `requests` requests may wait, and a subscriber
    /// may be at most `told` events behind. Both are at least 1.
    pub fn new(requests: usize, told: usize) -> (Handle, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(requests);
        let (told, _) = broadcast::channel(told);
        (Handle { requests: sender, told, pulse: Arc::new(Pulse::new()) }, receiver)
    }

    /// All fleets, ordered by name.
    pub async fn overview(&self) -> Result<Vec<Overview>, Unavailable> {
        self.ask(Request::Overview).await
    }

    pub async fn snapshot(&self, fleet: &str) -> Result<Result<Snapshot, NoFleet>, Unavailable> {
        let fleet = fleet.to_owned();
        self.ask(|reply| Request::Snapshot { fleet, reply }).await
    }

    pub async fn explain(
        &self,
        fleet: &str,
        executor: ExecutorId,
    ) -> Result<Result<Explanation, NoFleet>, Unavailable> {
        let fleet = fleet.to_owned();
        self.ask(|reply| Request::Explain { fleet, executor, reply }).await
    }

    pub async fn command(
        &self,
        fleet: &str,
        verb: Command,
        by: Option<String>,
    ) -> Result<Commanded, Unavailable> {
        let fleet = fleet.to_owned();
        self.ask(|reply| Request::Command { fleet, verb, by, reply }).await
    }

    /// Subscribes to all events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Told>> {
        self.told.subscribe()
    }

    pub fn tell(&self, told: Told) {
        // An error means that there is no subscriber.
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

/// The liveness of the loop, readable without a request to it.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Since `start`.
    advanced_ms: AtomicU64,
    waiting: AtomicU64,
    leading: AtomicBool,
    /// The leader, while another replica leads.
    leader: Mutex<Option<String>>,
    synced: AtomicBool,
    forwarding: Mutex<Forwarding>,
}

/// Whether a replica that stands by can forward to the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// It never could.
    #[default]
    Never,
    To(SocketAddr),
    /// It could until then.
    Until(Instant),
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
            forwarding: Mutex::default(),
        }
    }

    /// Records that the loop made progress. The loop must call this every few seconds, even when it is idle.
    pub fn advance(&self) {
        self.advanced_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// The time since the loop last made progress, or was created.
    pub fn still_ms(&self) -> u64 {
        self.now_ms().saturating_sub(self.advanced_ms.load(Ordering::Relaxed))
    }

    /// Sets the number of events and requests that wait for the loop.
    pub fn set_waiting(&self, count: u64) {
        self.waiting.store(count, Ordering::Relaxed);
    }

    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Records that this replica leads.
    pub fn lead(&self) {
        self.leading.store(true, Ordering::Relaxed);
    }

    /// Records that this replica does not lead, and the leader if it is known.
    pub fn stand_by(&self, leader: Option<&str>) {
        self.leading.store(false, Ordering::Relaxed);
        let mut known = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != leader {
            *known = leader.map(str::to_owned);
        }
    }

    /// Records whether this replica can forward to the leader, and where that is.
    pub fn forward_to(&self, leader: Option<SocketAddr>) {
        let mut forwarding = self.forwarding.lock().unwrap_or_else(PoisonError::into_inner);
        *forwarding = match (leader, *forwarding) {
            (Some(leader), _) => Forwarding::To(leader),
            (None, Forwarding::To(_)) => Forwarding::Until(Instant::now()),
            (None, never_or_until) => never_or_until,
        };
    }

    pub fn forwarding(&self) -> Forwarding {
        *self.forwarding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    /// The leader while this replica stands by, if it is known.
    pub fn leader(&self) -> Option<String> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that a fleet has synced its view of the cluster once.
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

    #[test]
    fn a_fleet_is_called_by_its_name_with_or_without_its_namespace() {
        for (called, is) in
            [("etl", true), ("spark/etl", true), ("jobs/etl", false), ("spark/", false), ("x", false)]
        {
            assert_eq!(is_called(called, "spark", "etl"), is, "{called}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_answer_is_not_waited_for() {
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
        assert_eq!(dropped.await.unwrap(), Err(Unavailable::Stopped), "the request was dropped");
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
