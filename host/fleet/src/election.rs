//! Leader election among several hosts.
//!
//! *Intuition.* A Lease is a note on a door: "mine, back within 15 s". It states when it was written, but by
//! its author's clock, and another host trusts only its own clock: *I* have seen this note unchanged for 15 s,
//! so its author is gone. The author leaves 10 s after it sent the last note that was accepted. It sent the
//! note before any other host saw it, so its 10 s end before the 15 s of any other host.
//!
//! *Rule.* Every write compares and swaps, and counts from when it was *sent*: its answer only confirms that it
//! counts, and a late answer may confirm a period that is over. Another host's record is expired once it was
//! seen unchanged for its own duration, on the local clock. Our record is one that this process wrote, field
//! for field, and every write has its own renew time; our identity on any other record belongs to an earlier
//! process or a twin. Leadership ends by itself: [`Election::is_leader`] takes `now`, so a process that was
//! frozen finds out before it acts. A leader that is late, or reads anything but its own record (another's, a
//! released one, none), stops permanently. All this assumes clocks that run equally fast, with a tolerance of
//! lease / renew deadline: a half.
//!
//! *Rejected.* Comparing `renewTime` with the wall clock: if two clocks ever disagree, there are two leaders.
//! Wall clocks are written here, for users, and never read. Using the Lease as a fence: a call that was sent in
//! time may arrive under the next leader, and no lock can call it back. The ledger refuses it; the Lease only
//! keeps hosts from competing.

use crate::backoff::Seed;
use crate::id::{ActionId, Version};
use crate::time::{Instant, Now};

/// The `spec` of a `coordination.k8s.io/v1` Lease. Absent fields are empty or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// `holderIdentity`. Empty: no holder.
    pub holder: Box<str>,
    /// `leaseDurationSeconds`.
    pub duration_s: u32,
    /// `acquireTime`, in ms since the Unix epoch.
    pub acquired_ms: i64,
    /// `renewTime`, in ms since the Unix epoch. No two writes of this process have the same.
    pub renewed_ms: i64,
    /// `leaseTransitions`: how often the holder changed.
    pub transitions: u32,
}

/// Our identity: unique for every *process*, because a process does not know which calls an earlier one of the
/// same name still has in flight. A pod's name or UID alone is not enough: a container restarts under both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(Box<str>);

impl Identity {
    /// A readable name, and a suffix that the caller draws at random when the process starts.
    pub fn new(name: &str, suffix: u128) -> Identity {
        Identity(format!("{name}_{suffix:032x}").into())
    }
}

/// The durations of the election; checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElectionSettings {
    lease_s: u32,
    renew_deadline_ms: u64,
    retry_ms: u64,
}

impl ElectionSettings {
    /// Other hosts wait for the lease duration; a leader gives up after the renew deadline, and renews every
    /// retry period. The error starts with the name of the field, which is client-go's.
    pub fn check(lease_s: u32, renew_deadline_ms: u64, retry_ms: u64) -> Result<Self, &'static str> {
        // Jitter adds up to a fifth.
        let retry_ms_max = retry_ms.saturating_add(retry_ms / 5);
        let checks = [
            (i32::try_from(lease_s).is_err(), "leaseDuration must be less than 2^31 s"),
            (ms(lease_s) <= renew_deadline_ms, "leaseDuration must be longer than renewDeadline"),
            (renew_deadline_ms <= retry_ms_max, "renewDeadline must be longer than 1.2 x retryPeriod"),
            (retry_ms == 0, "retryPeriod must be longer than 0"),
        ];
        match checks.into_iter().find(|(wrong, _)| *wrong) {
            Some((_, error)) => Err(error),
            None => Ok(ElectionSettings { lease_s, renew_deadline_ms, retry_ms }),
        }
    }
}

/// The defaults of client-go.
impl Default for ElectionSettings {
    fn default() -> ElectionSettings {
        ElectionSettings { lease_s: 15, renew_deadline_ms: 10_000, retry_ms: 2_000 }
    }
}

/// What an election is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionEvent {
    /// The outcome of a request: in any order, late, or never.
    Finished {
        /// The number of the request, from [`ElectionAction`].
        request: ActionId,
        /// What the API server answered, or that its answer is not known.
        outcome: ElectionOutcome,
    },
    /// Another host may lead: check the Lease now. `Affirm` follows if this host holds it, and `Stop` if not.
    Doubt,
    /// Shut down: this host does not lead from this moment on. `Stop` follows, after at most a retry period. If
    /// a leader stopped because it was late, it may still hold the Lease: then the Lease is released, and
    /// `Stop` follows once more.
    Release,
    /// The deadline of [`Election::deadline`] has come.
    Deadline,
}

/// The outcome of a request about the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionOutcome {
    /// The Lease as it is stored, with its version.
    Read(Lease, Version),
    /// The write was applied, and the Lease has this version now.
    Written(Version),
    /// 404: there is no Lease.
    NotFound,
    /// 409: the Lease has another version than the request expects.
    Conflict,
    /// 409: the Lease was created in the meantime.
    AlreadyExists,
    /// 403 and 401: a permission is missing, or the API server does not know this client.
    Forbidden,
    /// 429: too many requests.
    Throttled {
        /// When to try again, in ms from now. `None`: the answer does not say.
        after_ms: Option<u64>,
    },
    /// Time-out, reset, 5xx: *the request may have been applied, or may still be*.
    Unknown,
}

/// What an election wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionAction {
    /// Read the Lease from the API server's store, not from a cache.
    ReadLease {
        /// The number under which the outcome is reported.
        request: ActionId,
    },
    /// Write the Lease, as a compare-and-swap.
    WriteLease {
        /// The number under which the outcome is reported.
        request: ActionId,
        /// The `spec` that replaces the stored one.
        lease: Lease,
        /// Write only if the Lease has this version; `None`: only if no Lease exists yet.
        over: Option<Version>,
    },
    /// This host leads, for as long as [`Election::is_leader`] returns true.
    Lead {
        /// The number of this leadership: the Lease's `leaseTransitions`, plus one. Every later leader has a
        /// higher one.
        term: u64,
    },
    /// This host holds the Lease: it was renewed, or read, after that was doubted.
    Affirm,
    /// Issue nothing more, drop all calls in flight, exit. The last action, except for the release by a late leader.
    Stop(StopCause),
}

/// Why an election stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// The lease was not renewed by the renew deadline.
    Late,
    /// This host does not hold the lease any more.
    Deposed,
    /// A release was requested.
    Released,
}

/// The election as one host sees it: which record is stored, and until when this host leads.
#[derive(Debug)]
pub struct Election {
    settings: ElectionSettings,
    identity: Identity,
    seed: Seed,
    state: State,
    /// The last request, and when it was sent.
    request: ActionId,
    sent_at: Instant,
    /// Writes are at least a retry period apart, regardless of their outcome.
    write_from: Instant,
    /// The stored record as far as we know it, and since when it has been unchanged.
    record: Option<(Lease, Version)>,
    observed_at: Instant,
    /// Our writes that are or may become the stored record, in order, while they count.
    written: Vec<Written>,
    /// This host leads until then.
    held_until: Option<Instant>,
    /// A release was requested; stop at this time at the latest.
    release_by: Option<Instant>,
    /// Leadership is doubted: the first request whose answer can confirm or refute it.
    doubted: Option<ActionId>,
    /// This host stopped, and may still hold the Lease.
    late: bool,
    actions: Vec<ElectionAction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    ReadDue(Instant),
    AwaitingRead,
    /// The record is ours to renew or release, or free to take.
    WriteDue(Instant),
    AwaitingWrite,
    AwaitingRelease,
    Stopped,
}

#[derive(Debug)]
struct Written {
    request: ActionId,
    lease: Lease,
    over: Option<Version>,
    /// The renew deadline, counted from when it was sent.
    counts_until: Instant,
}

impl Election {
    /// An election whose first step reads the Lease. Jitter is drawn from the seed.
    pub fn new(settings: ElectionSettings, identity: Identity, seed: Seed) -> Election {
        Election {
            settings,
            identity,
            seed,
            state: State::ReadDue(Instant::START),
            request: ActionId(0),
            sent_at: Instant::START,
            write_from: Instant::START,
            record: None,
            observed_at: Instant::START,
            written: Vec::new(),
            held_until: None,
            release_by: None,
            doubted: None,
            late: false,
            actions: Vec::new(),
        }
    }

    /// Until when this host leads, if nothing happens.
    pub fn leads_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// The other host that holds the lease, as far as we know: its lease may be over.
    pub fn holder(&self) -> Option<&str> {
        let holder = self.record.as_ref().map(|(lease, _)| &*lease.holder);
        holder.filter(|holder| !holder.is_empty() && **holder != *self.identity.0)
    }

    /// May this host act at this moment? To be called before every action.
    pub fn is_leader(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// When `step` has to be called at the latest. `None`: never again.
    pub fn deadline(&self) -> Option<Instant> {
        let next = match self.state {
            State::ReadDue(at) | State::WriteDue(at) => at,
            State::AwaitingRead | State::AwaitingWrite => self.give_up_at(),
            State::AwaitingRelease => Instant::NEVER,
            State::Stopped => return None,
        };
        [self.held_until, self.release_by].into_iter().flatten().chain([next]).min()
    }

    /// Applies an event and returns the actions to carry out now. A step that comes too late first ends a
    /// leadership that is over.
    pub fn step(&mut self, event: ElectionEvent, now: Now) -> Vec<ElectionAction> {
        let at = now.instant;
        if self.held_until.is_some_and(|until| until <= at) {
            self.stop(StopCause::Late);
        }
        self.written.retain(|write| at < write.counts_until);
        match event {
            ElectionEvent::Finished { request, outcome } => self.finished(request, outcome, at),
            ElectionEvent::Release => self.release(at),
            ElectionEvent::Doubt => self.doubt(at),
            ElectionEvent::Deadline => {}
        }
        self.poll(now);
        std::mem::take(&mut self.actions)
    }

    fn finished(&mut self, request: ActionId, outcome: ElectionOutcome, now: Instant) {
        use ElectionOutcome as Outcome;
        let awaited = request == self.request;
        let reading = awaited && self.state == State::AwaitingRead;
        let writing = awaited && self.state == State::AwaitingWrite;
        if awaited && self.state == State::AwaitingRelease {
            return self.stop(StopCause::Released);
        }
        let leading = self.held_until.is_some();
        let read_at = match outcome {
            // A write counts even if its answer is late. The result of a late read is outdated.
            Outcome::Written(version) => return self.applied(request, version, now),
            Outcome::Read(lease, version) if reading => return self.observed(Some((lease, version)), now),
            Outcome::NotFound if reading => return self.observed(None, now),
            Outcome::Unknown if writing => now,
            // A leader has to know at once. Of the other hosts one has won, and the rest can wait.
            Outcome::Conflict | Outcome::AlreadyExists | Outcome::NotFound if leading => now,
            Outcome::Throttled { after_ms } => self.retry_at(now).max(now + after_ms.unwrap_or(0)),
            Outcome::Conflict | Outcome::AlreadyExists | Outcome::NotFound => self.retry_at(now),
            Outcome::Read(..) | Outcome::Forbidden | Outcome::Unknown => self.retry_at(now),
        };
        if reading || writing {
            self.state = State::ReadDue(read_at);
        }
    }

    /// The write with this number was applied.
    fn applied(&mut self, request: ActionId, version: Version, now: Instant) {
        // For an older write only a read can tell whether it is still the stored record.
        if let Some(write) = self.written.pop_if(|write| write.request == request) {
            let until = write.counts_until;
            (self.record, self.observed_at) = (Some((write.lease.clone(), version)), now);
            self.written = vec![write];
            self.affirm(request);
            self.ours(until, now);
        }
    }

    /// This is the stored record.
    fn observed(&mut self, record: Option<(Lease, Version)>, now: Instant) {
        if self.record != record {
            (self.record, self.observed_at) = (record, now);
        }
        let (lease, version) = self.record.as_ref().map(|(lease, version)| (lease, version)).unzip();
        // A write that is neither stored nor can still replace the stored record has been overtaken.
        self.written.retain(|write| lease == Some(&write.lease) || version == write.over.as_ref());
        let free = lease.is_none_or(|lease| {
            let duration_s = if lease.duration_s == 0 { self.settings.lease_s } else { lease.duration_s };
            lease.holder.is_empty() || self.observed_at + ms(duration_s) <= now
        });
        // For a late leader only the name is still known, which no other process has.
        let left = self.late && lease.is_some_and(|lease| *lease.holder == *self.identity.0);
        match self.written.iter().find(|write| lease == Some(&write.lease)).map(|write| write.counts_until) {
            Some(until) => {
                self.affirm(self.request);
                self.ours(until, now);
            }
            None if left => self.state = State::WriteDue(now),
            None if self.release_by.is_some() => self.stop(StopCause::Released),
            None if self.held_until.is_some() => self.stop(StopCause::Deposed),
            None if free => self.state = State::WriteDue(self.write_from.max(now)),
            None => self.state = State::ReadDue(self.retry_at(now)),
        }
    }

    /// The record is ours, and counts until then.
    fn ours(&mut self, until: Instant, now: Instant) {
        if self.release_by.is_some() {
            self.state = State::WriteDue(now);
            return;
        }
        if self.held_until.is_none() {
            let transitions = self.written.last().map_or(0, |write| write.lease.transitions);
            self.actions.push(ElectionAction::Lead { term: u64::from(transitions) + 1 });
        }
        self.held_until = self.held_until.max(Some(until));
        self.state = State::WriteDue(self.write_from.max(now));
    }

    /// The answer to this request confirms that the record is ours.
    fn affirm(&mut self, request: ActionId) {
        if self.held_until.is_some() && self.doubted.take_if(|first| *first <= request).is_some() {
            self.actions.push(ElectionAction::Affirm);
        }
    }

    /// A renewal proves as much as a read: it compares and swaps. And it still counts if answers are slow, so
    /// that many doubts do not end a leader.
    fn doubt(&mut self, now: Instant) {
        if self.held_until.is_none() || self.release_by.is_some() {
            return;
        }
        // Requests that were sent earlier may have been answered earlier.
        self.doubted = Some(ActionId(self.request.0 + 1));
        match self.state {
            State::WriteDue(_) => self.state = State::WriteDue(now),
            State::ReadDue(_) => self.state = State::ReadDue(now),
            State::AwaitingRead | State::AwaitingWrite | State::AwaitingRelease | State::Stopped => {}
        }
    }

    fn release(&mut self, now: Instant) {
        if self.release_by.is_some() {
            return;
        }
        if self.state == State::Stopped && !self.late {
            return;
        }
        self.release_by = Some(now + self.settings.retry_ms);
        if self.state == State::Stopped {
            self.state = State::ReadDue(now);
            return;
        }
        let led = self.held_until.take().is_some();
        if self.written.is_empty() {
            // No stored record can be ours.
            return self.stop(StopCause::Released);
        }
        match self.state {
            State::WriteDue(_) if led => self.state = State::WriteDue(now),
            State::ReadDue(_) | State::WriteDue(_) => self.state = State::ReadDue(now),
            State::AwaitingRead | State::AwaitingWrite | State::AwaitingRelease | State::Stopped => {}
        }
    }

    /// Send the request that is due.
    fn poll(&mut self, now: Now) {
        let at = now.instant;
        if self.release_by.is_some_and(|by| by <= at) {
            self.stop(StopCause::Released);
        }
        if matches!(self.state, State::AwaitingRead | State::AwaitingWrite) && self.give_up_at() <= at {
            self.state = State::ReadDue(at);
        }
        match self.state {
            State::ReadDue(due) if due <= at => {
                let request = self.send(State::AwaitingRead, at);
                self.actions.push(ElectionAction::ReadLease { request });
            }
            State::WriteDue(due) if due <= at => {
                let mut lease = self.next_lease(now.wall_ms);
                let mut state = State::AwaitingWrite;
                if self.release_by.is_some() {
                    (lease.holder, state) = ("".into(), State::AwaitingRelease);
                }
                let request = self.send(state, at);
                self.write_from = self.retry_at(at);
                let over = self.record.as_ref().map(|(_, version)| version.clone());
                let counts_until = at + self.settings.renew_deadline_ms;
                self.written.push(Written {
                    request,
                    lease: lease.clone(),
                    over: over.clone(),
                    counts_until,
                });
                self.actions.push(ElectionAction::WriteLease { request, lease, over });
            }
            State::ReadDue(_) | State::WriteDue(_) | State::Stopped => {}
            State::AwaitingRead | State::AwaitingWrite | State::AwaitingRelease => {}
        }
    }

    /// The record to write: renewed if it is ours, otherwise taken over.
    fn next_lease(&self, wall_ms: i64) -> Lease {
        let there = self.record.as_ref().map(|(lease, _)| lease);
        // Clocks stand still and jump back, but every write has to differ from every other.
        let mut renewed_ms = wall_ms;
        while self.written.iter().map(|write| &write.lease).chain(there).any(|l| l.renewed_ms == renewed_ms) {
            renewed_ms += 1;
        }
        if let Some(ours) =
            there.filter(|there| self.late || self.written.iter().any(|write| write.lease == **there))
        {
            return Lease { renewed_ms, ..ours.clone() };
        }
        Lease {
            holder: self.identity.0.clone(),
            duration_s: self.settings.lease_s,
            acquired_ms: wall_ms,
            renewed_ms,
            transitions: there.map_or(0, |theirs| theirs.transitions.saturating_add(1)),
        }
    }

    /// Number a request.
    fn send(&mut self, state: State, now: Instant) -> ActionId {
        (self.state, self.sent_at, self.request) = (state, now, ActionId(self.request.0 + 1));
        self.request
    }

    /// A third of the renew deadline: two consecutive requests may hang between a renewal and the deadline,
    /// with the defaults 2.4 s + 2 x 3.3 s < 10 s.
    fn give_up_at(&self) -> Instant {
        self.sent_at + (self.settings.renew_deadline_ms / 3 + 1)
    }

    /// A retry period after the last request, plus up to a fifth, so that hosts do not run in lockstep.
    fn retry_at(&mut self, now: Instant) -> Instant {
        let jitter_ms = self.seed.below(self.settings.retry_ms / 5 + 1);
        now.max(self.sent_at + (self.settings.retry_ms + jitter_ms))
    }

    fn stop(&mut self, cause: StopCause) {
        if self.state != State::Stopped {
            (self.state, self.held_until) = (State::Stopped, None);
            self.late = cause == StopCause::Late;
            self.written.clear();
            self.actions.push(ElectionAction::Stop(cause));
        }
    }
}

fn ms(seconds: u32) -> u64 {
    u64::from(seconds) * 1000
}

#[cfg(test)]
mod tests;
