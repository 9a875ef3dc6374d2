//! Limits the concurrent calls of many fleets.
//!
//! Every fleet has a queue of its own, and the queues take turns: a fleet that has lost a thousand executors
//! does not delay another fleet's first call. Calls that change pods take a token from a bucket that all fleets
//! share; a 429 closes that bucket for as long as the API server asks. Calls that only read or record (lists,
//! the ledger) go first, because everything else waits for them.
//!
//! A voluntary disruption is right only while the other executors are healthy. If it had to wait for too long,
//! it is returned to the core unsent, as throttled, and decided again. The same happens to every change of the
//! pods of a fleet that has been paused meanwhile: the command that paused it was answered with a promise of no
//! further changes.
//!
//! The queues need no bound of their own: a fleet has at most one pending call for each executor, and one each
//! for its ledger and its list.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fleet::action::{Action, Verb};
use fleet::bucket::{Bucket, Rate};
use fleet::event::{Event, Outcome};
use fleet::id::ActionId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::call::{Answer, Calls};

/// A voluntary disruption that was decided longer ago than this is not sent.
const DECISION_MAX: Duration = Duration::from_secs(1);

/// Rate limits for the API server, for all fleets together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Creates, deletions and evictions. The default is the churn that Kubernetes' own service level
    /// objectives assume.
    pub changes_per_s: f64,
    pub burst: u32,
    /// Concurrent calls.
    pub calls_max: usize,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates { changes_per_s: 20.0, burst: 30, calls_max: 32 }
    }
}

/// Until when this host may act; checked right before every call.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicU64>);

impl Gate {
    /// Open until this many milliseconds after `start`; 0 closes it.
    pub fn open_until_ms(&self, ms: u64) {
        self.0.store(ms, Ordering::Release);
    }

    fn is_open(&self, start: Instant) -> bool {
        u128::from(self.0.load(Ordering::Acquire)) > start.elapsed().as_millis()
    }
}

/// Whether a fleet's pods must not be changed; checked right before every call that changes them.
#[derive(Clone, Debug, Default)]
pub struct Still(Arc<AtomicBool>);

impl Still {
    pub fn set(&self, still: bool) {
        self.0.store(still, Ordering::Release);
    }
}

/// An action to carry out, and the client for it.
pub struct Job {
    pub fleet: u64,
    pub action: Action,
    pub calls: Calls,
    pub still: Still,
    /// When the cause of the action became known.
    pub since: Instant,
}

impl Job {
    /// Could the decision be outdated?
    fn is_outdated(&self) -> bool {
        let late = self.action.cause.is_voluntary() && self.since.elapsed() > DECISION_MAX;
        late || self.action.verb.mutates() && self.still.0.load(Ordering::Acquire)
    }

    /// Returns the action to be decided again.
    fn unsent(self) -> Done {
        let outcome = Outcome::Throttled { after_ms: None };
        Done {
            fleet: self.fleet,
            action: self.action.id,
            verb: verb(&self.action.verb),
            outcome: word(&outcome),
            waited: self.since.elapsed(),
            answer: Answer { event: Event::Finished { action: self.action.id, outcome }, seen: Vec::new() },
        }
    }
}

/// The answer to an action.
pub struct Done {
    pub fleet: u64,
    pub action: ActionId,
    pub verb: &'static str,
    pub outcome: &'static str,
    /// From the cause of the action until it was sent.
    pub waited: Duration,
    pub answer: Answer,
}

/// Carries out jobs until the channel is closed; then waits for the pending calls.
pub async fn run(
    mut jobs: mpsc::UnboundedReceiver<Job>,
    done: mpsc::UnboundedSender<Done>,
    rates: Rates,
    gate: Gate,
    start: Instant,
) {
    let permits = Arc::new(Semaphore::new(rates.calls_max));
    let mut lines = Lines::default();
    let mut pace = Pace::new(rates);
    let mut calls = JoinSet::new();
    let mut open = true;
    loop {
        while let Some(Ok(throttled)) = calls.try_join_next() {
            pace.hold(throttled);
        }
        // First the calls that the core waits for, before those that change pods.
        while let Some(permit) =
            (!lines.is_empty()).then(|| permits.clone().try_acquire_owned().ok()).flatten()
        {
            let Some(job) = lines.next(pace.ready_at() <= Instant::now()) else { break };
            if job.is_outdated() {
                let _ = done.send(job.unsent());
                continue;
            }
            if job.action.verb.mutates() {
                pace.take();
            }
            if !gate.is_open(start) {
                // This host no longer leads: the remaining jobs are left to the next leader.
                continue;
            }
            let done = done.clone();
            calls.spawn(async move {
                let throttled = call(job, &done).await;
                drop(permit);
                throttled
            });
        }
        let wait = lines.has_changes().then(|| pace.ready_at());
        tokio::select! {
            job = jobs.recv(), if open => match job {
                Some(job) => lines.push(job),
                None => open = false,
            },
            Some(result) = calls.join_next(), if !calls.is_empty() => {
                pace.hold(result.unwrap_or_default());
            }
            () = sleep_until(wait.unwrap_or_else(Instant::now)), if wait.is_some_and(|at| at > Instant::now()) => {}
            else => return,
        }
        while let Ok(job) = jobs.try_recv() {
            lines.push(job);
        }
    }
}

/// Carries out a call. Returns how long the API server asks clients to wait.
async fn call(job: Job, done: &mpsc::UnboundedSender<Done>) -> Duration {
    let begun = Instant::now();
    let waited = begun.saturating_duration_since(job.since);
    let Some(answer) = job.calls.carry_out(&job.action).await else { return Duration::ZERO };
    let (outcome, throttled) = if let Event::Finished { outcome, .. } = &answer.event {
        (word(outcome), throttled(outcome))
    } else {
        ("ok", Duration::ZERO)
    };
    let verb = verb(&job.action.verb);
    let _ = done.send(Done { fleet: job.fleet, action: job.action.id, verb, outcome, waited, answer });
    throttled
}

fn throttled(outcome: &Outcome) -> Duration {
    match outcome {
        Outcome::Throttled { after_ms } => Duration::from_millis(after_ms.unwrap_or(1_000).min(60_000)),
        Outcome::Ok(_)
        | Outcome::AlreadyExists
        | Outcome::Conflict
        | Outcome::NotFound
        | Outcome::Budget
        | Outcome::Forbidden(_)
        | Outcome::Invalid(_)
        | Outcome::Unknown(_) => Duration::ZERO,
    }
}

/// The verb, as a label.
pub fn verb(verb: &Verb) -> &'static str {
    match verb {
        Verb::Relist { .. } => "list",
        Verb::ReadLedger => "read-ledger",
        Verb::WriteLedger { .. } => "write-ledger",
        Verb::CreatePod { .. } => "create",
        Verb::GetPod { .. } => "get",
        Verb::DeletePod { .. } => "delete",
        Verb::EvictPod { .. } => "evict",
        Verb::DeleteDriver { .. } => "delete-driver",
        Verb::Ask { .. } => "ask",
        Verb::CheckLease => "check-lease",
        Verb::Reply { .. } => "reply",
        Verb::Publish(_) => "publish",
    }
}

/// The outcome, as a label.
pub fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ok(_) => "ok",
        Outcome::AlreadyExists => "already-exists",
        Outcome::Conflict => "conflict",
        Outcome::NotFound => "not-found",
        Outcome::Throttled { .. } => "throttled",
        Outcome::Budget => "budget",
        Outcome::Forbidden(_) => "forbidden",
        Outcome::Invalid(_) => "invalid",
        Outcome::Unknown(_) => "unknown",
    }
}

#[derive(Default)]
struct Lines {
    first: VecDeque<Job>,
    /// By fleet; no queue is empty.
    changes: BTreeMap<u64, VecDeque<Job>>,
    /// The fleet that was served last.
    last: u64,
}

impl Lines {
    fn push(&mut self, job: Job) {
        if job.action.verb.mutates() {
            self.changes.entry(job.fleet).or_default().push_back(job);
        } else {
            self.first.push_back(job);
        }
    }

    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.changes.is_empty()
    }

    fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    fn next(&mut self, changes: bool) -> Option<Job> {
        if let Some(job) = self.first.pop_front() {
            return Some(job);
        }
        if !changes {
            return None;
        }
        let after = self.changes.range(self.last + 1..).next().map(|(fleet, _)| *fleet);
        self.last = after.or_else(|| self.changes.keys().next().copied())?;
        let line = self.changes.get_mut(&self.last)?;
        let job = line.pop_front();
        if line.is_empty() {
            self.changes.remove(&self.last);
        }
        job
    }
}

/// When changes may be sent.
struct Pace {
    rate: Rate,
    bucket: Bucket<Instant>,
    held_until: Instant,
}

impl Pace {
    fn new(rates: Rates) -> Pace {
        let every = Duration::from_secs_f64(1.0 / rates.changes_per_s.max(0.001));
        let now = Instant::now();
        Pace { rate: Rate { size: rates.burst.max(1), every }, bucket: Bucket::full(now), held_until: now }
    }

    fn ready_at(&self) -> Instant {
        let now = Instant::now();
        self.held_until.max(now + self.bucket.wait(1, self.rate, now))
    }

    fn take(&mut self) {
        self.bucket.spend(1, self.rate, Instant::now());
    }

    fn hold(&mut self, how_long: Duration) {
        self.held_until = self.held_until.max(Instant::now() + how_long);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet::action::Cause;
    use fleet::id::{ActionId, ExecutorId};

    use super::*;
    use crate::call::tests::place;

    fn job(fleet: u64, id: u64) -> Job {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::empty()))
        });
        let calls = Calls::new(kube::Client::new(service, "n"), Arc::new(place()));
        let verb = Verb::CreatePod { executor: ExecutorId(id), pod: "p".into(), avoid_nodes: vec![] };
        Job {
            fleet,
            action: Action { id: ActionId(id), cause: Cause::Start, verb },
            calls,
            still: Still::default(),
            since: Instant::now(),
        }
    }

    #[tokio::test]
    async fn fleets_take_turns_and_the_ledger_goes_first() {
        let mut lines = Lines::default();
        for id in 1..=3 {
            lines.push(job(0, id));
        }
        lines.push(job(7, 10));
        let mut ledger = job(3, 99);
        ledger.action.verb = Verb::ReadLedger;
        lines.push(ledger);
        let order: Vec<u64> = std::iter::from_fn(|| lines.next(true)).map(|job| job.action.id.0).collect();
        assert_eq!(order, [99, 10, 1, 2, 3]);
        assert!(lines.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_voluntary_disruption_that_had_to_wait_is_decided_again() {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (done, mut answers) = mpsc::unbounded_channel();
        let (gate, start) = (Gate::default(), Instant::now());
        gate.open_until_ms(60_000);
        let rates = Rates { changes_per_s: 0.5, burst: 1, calls_max: 4 };
        tokio::spawn(run(inbox, done, rates, gate, start));
        for (id, cause) in [(1, Cause::Excess), (2, Cause::Excess), (3, Cause::Settled(ExecutorId(3)))] {
            let mut job = job(0, id);
            job.action.cause = cause;
            let (executor, pod, uid) = (ExecutorId(id), "p".into(), "u".into());
            job.action.verb = Verb::DeletePod { executor, pod, uid, grace_ms: None };
            jobs.send(job).unwrap_or_else(|_| panic!("it runs"));
        }
        for (id, sent) in [(1, true), (2, false), (3, true)] {
            let done = answers.recv().await.expect("an answer");
            let Event::Finished { action, .. } = done.answer.event else { panic!("{:?}", done.answer.event) };
            assert_eq!((action, done.outcome != "throttled"), (ActionId(id), sent));
        }
        assert!(start.elapsed() < Duration::from_millis(2_500), "what is not sent takes no turn");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_that_is_paused_changes_no_pods_whatever_was_decided_before() {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (done, mut answers) = mpsc::unbounded_channel();
        let (gate, start, still) = (Gate::default(), Instant::now(), Still::default());
        gate.open_until_ms(60_000);
        let rates = Rates { changes_per_s: 1.0, burst: 1, calls_max: 4 };
        tokio::spawn(run(inbox, done, rates, gate, start));
        let send = |fleet, id, verb: Option<Verb>| {
            let mut job = job(fleet, id);
            job.action.verb = verb.unwrap_or(job.action.verb);
            if fleet == 0 {
                job.still = still.clone();
            }
            jobs.send(job).unwrap_or_else(|_| panic!("it runs"));
        };
        let mut next = async || {
            let done = answers.recv().await.expect("an answer");
            let Event::Finished { action, .. } = done.answer.event else { panic!("{:?}", done.answer.event) };
            (action.0, done.outcome != "throttled")
        };
        send(0, 1, None);
        send(0, 2, None);
        assert_eq!(next().await, (1, true));
        still.set(true);
        send(0, 3, Some(Verb::ReadLedger));
        send(1, 4, None);
        assert_eq!([next().await, next().await, next().await], [(3, true), (4, true), (2, false)]);
        still.set(false);
        send(0, 5, None);
        assert_eq!(next().await, (5, true));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_keep_to_the_rate_and_stop_for_a_deposed_leader() {
        let rates = Rates { changes_per_s: 10.0, burst: 5, calls_max: 4 };
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (done, mut answers) = mpsc::unbounded_channel();
        let (gate, start) = (Gate::default(), Instant::now());
        gate.open_until_ms(60_000);
        tokio::spawn(run(inbox, done, rates, gate.clone(), start));
        for id in 0..25 {
            jobs.send(job(0, id)).unwrap_or_else(|_| panic!("it runs"));
        }
        for _ in 0..25 {
            answers.recv().await.expect("an answer");
        }
        let took = start.elapsed();
        assert!((Duration::from_millis(1_900)..Duration::from_millis(2_200)).contains(&took), "{took:?}");
        gate.open_until_ms(0);
        jobs.send(job(0, 99)).unwrap_or_else(|_| panic!("it runs"));
        drop(jobs);
        assert!(answers.recv().await.is_none(), "it was dropped, and the queue has ended");
    }
}
