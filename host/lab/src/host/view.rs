//! What a host knows: its watch, and text for a timeline.
//!
//! A watch is a position in the API server's log and a lag. It closes, hangs, expires, and starts again, where
//! it was or with a list that may come from a lagging replica. Node and driver events have the same delays,
//! because they use the same kind of connection.

use fleet::action::Verb;
use fleet::event::{DriverView, Event, NodeView, Outcome};
use fleet::observed::DriverPod;

use fleet::supervisor::Input;

use super::{HostTask, World};
use crate::api::{Change, NAMESPACE};
use crate::fault::Fault;

#[derive(Debug, Default)]
pub struct Watch {
    /// Counts the starts, so that events of an earlier start can be recognised.
    pub generation: u32,
    pub state: WatchState,
    /// The revision up to which it has read the log.
    pub at: u64,
    /// The revision up to which the fleet was told everything.
    pub told: u64,
    pub lag_ms: u64,
    scheduled: bool,
    /// The supervisor was told that it is broken.
    broken: bool,
    /// F22: until then no watch is allowed.
    pub refused_until_ms: u64,
    /// Counts how often the supervisor was told that it has started.
    pub(crate) starts: u64,
    /// A list that was asked for after a start has been answered, and the watch has not broken since.
    pub(crate) listed: bool,
    /// The revision at which it started.
    pub(crate) from: u64,
    /// That list was not older than the start, so that nothing is missing between them.
    pub(crate) whole: bool,
    /// When it last delivered something, or started.
    heard_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchState {
    #[default]
    Closed,
    Open,
    /// Nothing arrives, and the host has not noticed.
    Hung,
}

impl Watch {
    /// Was the supervisor told that it is up, and not that it is broken?
    pub(crate) fn is_up(&self) -> bool {
        self.starts > 0 && !self.broken
    }
}

/// A watch that is silent for this long counts as broken: bookmarks come every minute.
const SILENT_MS: u64 = 60_000;
/// `cluster::watch` begins again after this long without an event, and so the pods are listed.
const AUDIT_MS: u64 = 600_000;

impl World<'_> {
    /// The supervisor wants to watch.
    pub(crate) fn watch_opens(&mut self, at: usize) {
        self.watch_restarts(at, 10, true);
    }

    /// A fleet that begins is told of all nodes.
    pub(crate) fn nodes_shown(&mut self, at: usize) {
        for node in 0..self.cluster.nodes.len() {
            let view = self.cluster.nodes[node].view();
            self.post(at, 20, HostTask::Tell(Box::new(Event::NodeChanged(Box::new(view)))));
        }
    }

    fn watch_restarts(&mut self, at: usize, ms: u64, list: bool) {
        let watch = &mut self.hosts[at].watch;
        watch.generation += 1;
        watch.state = WatchState::Closed;
        watch.scheduled = false;
        let generation = watch.generation;
        self.post(at, ms, HostTask::Reconnect { generation, list });
    }

    pub(crate) fn watch_reconnects(&mut self, at: usize, generation: u32, list: bool) {
        if self.hosts[at].watch.generation != generation {
            return;
        }
        if self.sim.strikes(Fault::WatchRefused) {
            self.hosts[at].watch.refused_until_ms = self.sim.now_ms + self.sim.choices.between(1_000, 60_000);
        }
        let host = &self.hosts[at];
        let cut_off_ms = host.partitioned_until_ms.max(host.watch.refused_until_ms);
        let unreachable = self.sim.now_ms < cut_off_ms || self.sim.strikes(Fault::RequestLost);
        if unreachable {
            // kube's backoff; a watch that stays silent for too long is reported as stale.
            let wait_ms = self.sim.choices.between(800, 8_000);
            self.watch_restarts(at, wait_ms, list);
            self.watch_breaks(at);
            return;
        }
        let list = list || self.api.is_compacted(self.hosts[at].watch.at);
        let mut lag_ms = 0;
        if self.sim.strikes(Fault::ListStale) {
            lag_ms = self.sim.choices.between(500, 40_000);
            self.checks.lag(self.sim.now_ms, lag_ms);
        }
        let watch = &mut self.hosts[at].watch;
        watch.state = WatchState::Open;
        watch.lag_ms = lag_ms;
        watch.heard_ms = self.sim.now_ms;
        let broken = std::mem::take(&mut watch.broken);
        if list {
            // The list with which the stream starts is only where it starts.
            let revision = self.api.revision_at(self.sim.now_ms.saturating_sub(lag_ms));
            (watch.at, watch.from) = (revision, revision);
        }
        // A watch that closes in order resumes where it was, and nothing is reported.
        if list || broken {
            let watch = &mut self.hosts[at].watch;
            (watch.starts, watch.whole) = (watch.starts + 1, false);
            self.step(at, Input::WatchStarted { namespace: NAMESPACE.to_owned() });
        }
    }

    /// The watch starts to lag: it delivers only events that are at least this old. With a small lag it catches
    /// up.
    pub(crate) fn watch_lags(&mut self, at: usize, lag_ms: u64) {
        let watch = &mut self.hosts[at].watch;
        watch.lag_ms = lag_ms;
        watch.scheduled = false;
        self.checks.lag(self.sim.now_ms, lag_ms);
    }

    /// Schedules a delivery for each watch that has new events and none scheduled.
    pub(crate) fn wake_watches(&mut self) {
        for at in 0..self.hosts.len() {
            let host = &mut self.hosts[at];
            let watch = &mut host.watch;
            if watch.scheduled || watch.state != WatchState::Open || !host.leading {
                continue;
            }
            let Some(next) = self.api.since(watch.at).first() else { continue };
            watch.scheduled = true;
            let due_ms = next.at_ms + watch.lag_ms.max(5);
            let generation = watch.generation;
            self.post(at, due_ms.saturating_sub(self.sim.now_ms), HostTask::Watch(generation));
        }
    }

    pub(crate) fn watch_delivers(&mut self, at: usize, generation: u32) {
        let watch = &mut self.hosts[at].watch;
        if watch.generation != generation || watch.state != WatchState::Open {
            return;
        }
        watch.scheduled = false;
        if self.sim.strikes(Fault::WatchCloses) {
            let wait_ms = self.sim.choices.between(10, 5_000);
            return self.watch_restarts(at, wait_ms, false);
        }
        if self.sim.strikes(Fault::WatchErrors) {
            return self.watch_fails(at);
        }
        if self.sim.strikes(Fault::WatchExpires) {
            let wait_ms = self.sim.choices.between(10, 30_000);
            self.watch_restarts(at, wait_ms, true);
            return self.watch_breaks(at);
        }
        if self.sim.strikes(Fault::WatchHangs) {
            let watch = &mut self.hosts[at].watch;
            watch.state = WatchState::Hung;
            self.checks.lag(self.sim.now_ms, SILENT_MS);
            return self.post(at, SILENT_MS, HostTask::Stale(generation));
        }
        let visible_ms = self.sim.now_ms - self.hosts[at].watch.lag_ms.min(self.sim.now_ms);
        let coalesce = self.sim.strikes(Fault::EventsCoalesced);
        let cut = self.sim.strikes(Fault::EventCut);
        let due = self.api.since(self.hosts[at].watch.at);
        let mut due = &due[..due.partition_point(|entry| entry.at_ms <= visible_ms)];
        if cut {
            // The last event that has arrived is the one that is cut.
            due = &due[..due.len().saturating_sub(1)];
        }
        let Some(last) = due.last() else {
            if cut {
                self.watch_fails(at);
            }
            return;
        };
        self.hosts[at].watch.at = last.revision;
        self.hosts[at].watch.heard_ms = self.sim.now_ms;
        let mut told: Vec<(u64, Event)> = Vec::with_capacity(due.len());
        for (place, entry) in due.iter().enumerate() {
            let event = match &entry.change {
                Change::Put(pod) => {
                    let again = |later: &crate::api::Entry| matches!(&later.change, Change::Put(other) | Change::Gone(other) if other.uid == pod.uid);
                    if coalesce && due[place + 1..].iter().any(again) {
                        continue;
                    }
                    Event::PodChanged(Box::new(fleet::event::PodView::clone(pod)))
                }
                Change::Gone(pod) => Event::PodGone(Box::new(fleet::event::PodView::clone(pod))),
                Change::Driver(driver) => {
                    Event::DriverChanged { driver: driver.clone(), revision: entry.revision }
                }
            };
            told.push((entry.revision, event));
        }
        for (revision, mut event) in told {
            let watch = &mut self.hosts[at].watch;
            if watch.whole {
                watch.told = revision;
            }
            if let Event::PodGone(pod) = &mut event
                && self.sim.strikes(Fault::DeletionOutdated)
            {
                // As it was when it was last seen running; only the revision is the deletion's.
                pod.phase = fleet::event::Phase::Running;
                pod.status.phase = "Running".to_owned();
                pod.status.deletion_at_ms = None;
                pod.status.deletion_grace_ms = None;
                pod.status.conditions.clear();
            }
            let again = self.sim.strikes(Fault::EventDuplicated).then(|| event.clone());
            if let Some(event) = again {
                let wait_ms = self.sim.choices.between(0, 20_000);
                self.post(at, wait_ms, HostTask::Watched(Box::new(event)));
            }
            self.watched(at, event);
            if !self.hosts[at].is_up() {
                return;
            }
        }
        if cut {
            self.watch_fails(at);
        }
    }

    /// The watch delivers: a driver's pod is the supervisor's business, everything else is the fleet's.
    pub(crate) fn watched(&mut self, at: usize, event: Event) {
        let Event::DriverChanged { driver, revision } = event else { return self.tell(at, event) };
        let pod = self.api.driver_pod();
        let (live, ends) = match driver {
            DriverView::Running { ends, .. } => (true, ends),
            DriverView::Gone => (false, pod.ends),
        };
        let driver = DriverPod { live, ends, revision, ..pod };
        self.step(at, Input::Driver { namespace: NAMESPACE.to_owned(), driver });
    }

    pub(crate) fn watch_is_stale(&mut self, at: usize, generation: u32) {
        if self.hosts[at].watch.generation == generation {
            self.watch_breaks(at);
            if self.hosts[at].is_up() {
                let list = self.sim.choices.chance(300);
                self.watch_restarts(at, 1_000, list);
            }
        }
    }

    /// A stream that was silent for long begins again, in case that its list and its events left a gap.
    pub(crate) fn audit_watches(&mut self) {
        for at in 0..self.hosts.len() {
            let host = &self.hosts[at];
            let silent_ms = self.sim.now_ms - host.watch.heard_ms;
            if host.leading
                && !host.is_frozen()
                && host.watch.state == WatchState::Open
                && silent_ms >= AUDIT_MS
            {
                self.watch_restarts(at, 10, true);
            }
        }
    }

    /// kube's client reports an error, and begins again after a while.
    fn watch_fails(&mut self, at: usize) {
        let wait_ms = self.sim.choices.between(800, 30_000);
        self.watch_restarts(at, wait_ms, true);
        self.watch_breaks(at);
    }

    fn watch_breaks(&mut self, at: usize) {
        let watch = &mut self.hosts[at].watch;
        (watch.listed, watch.whole) = (false, false);
        if !std::mem::replace(&mut self.hosts[at].watch.broken, true) {
            self.step(at, Input::WatchBroken { namespace: NAMESPACE.to_owned() });
        }
    }

    /// Every leading host learns of a node, after some delay.
    pub(crate) fn node_told(&mut self, view: &NodeView) {
        for at in 0..self.hosts.len() {
            if self.hosts[at].leading {
                let wait_ms = 10 + self.hosts[at].watch.lag_ms;
                self.post(at, wait_ms, HostTask::Tell(Box::new(Event::NodeChanged(Box::new(view.clone())))));
            }
        }
    }
}

// -------------------------------------------------------------------------------- hash and words --

pub(super) fn outcome_number(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Ok(_) => 0,
        Outcome::AlreadyExists => 1,
        Outcome::Conflict => 2,
        Outcome::NotFound => 3,
        Outcome::Throttled { .. } => 4,
        Outcome::Budget => 5,
        Outcome::Forbidden(_) => 6,
        Outcome::Invalid(_) => 7,
        Outcome::Unknown(_) => 8,
    }
}

pub(super) fn verb_number(verb: &Verb) -> u64 {
    let (kind, number) = match verb {
        Verb::Relist { .. } => (1, 0),
        Verb::ReadLedger => (2, 0),
        Verb::WriteLedger { ledger, .. } => (3, ledger.epoch << 32 | ledger.writes),
        Verb::CreatePod { executor, .. } => (4, executor.0),
        Verb::GetPod { executor, .. } => (5, executor.0),
        Verb::DeletePod { executor, grace_ms, .. } => (6, executor.0 << 20 | grace_ms.unwrap_or(0)),
        Verb::EvictPod { executor, grace_ms, .. } => (7, executor.0 << 20 | grace_ms.unwrap_or(0)),
        Verb::DeleteDriver { .. } => (8, 0),
        Verb::Ask { .. } => (9, 0),
        Verb::Reply { command, .. } => (10, command.0),
        Verb::CheckLease => (12, 0),
        Verb::Publish(notice) => (11, notice.executor.map_or(0, |executor| executor.0)),
    };
    kind << 56 | number
}

/// An event as one line.
pub(super) fn words(event: &Event) -> String {
    match event {
        Event::Relisted(list) => {
            let pods: Vec<String> =
                list.pods.iter().map(|pod| format!("{}:{:?}", pod.name, pod.phase)).collect();
            format!("Relisted at {} {:?} {}", list.revision, list.driver, pods.join(" "))
        }
        Event::PodChanged(pod) | Event::PodGone(pod) => {
            let what = if matches!(event, Event::PodGone(_)) { "PodGone" } else { "PodChanged" };
            let dying = if pod.terminating() { " terminating" } else { "" };
            format!("{what} {} {:?}{dying} on {:?} at {}", pod.name, pod.phase, pod.node, pod.revision)
        }
        Event::Finished { action, outcome } => match outcome {
            Outcome::Ok(fleet::event::Done::Pod(pod)) => {
                format!("Finished {action} Ok pod {} {:?}", pod.name, pod.phase)
            }
            Outcome::Ok(_)
            | Outcome::AlreadyExists
            | Outcome::Conflict
            | Outcome::NotFound
            | Outcome::Throttled { .. }
            | Outcome::Budget
            | Outcome::Forbidden(_)
            | Outcome::Invalid(_)
            | Outcome::Unknown(_) => format!("Finished {action} {outcome:?}"),
        },
        Event::DriverReported(rows) => format!("DriverReported {} rows", rows.len()),
        Event::SpecChanged { spec, .. } => {
            format!("SpecChanged target {} paused {} dry {}", spec.target, spec.paused, spec.dry_run)
        }
        Event::LeadershipGained { .. }
        | Event::LeadershipLost
        | Event::LeadershipConfirmed
        | Event::NodeChanged(_)
        | Event::DriverChanged { .. }
        | Event::ViewStale
        | Event::ViewFresh
        | Event::Heartbeat(_)
        | Event::HearingImpaired(_)
        | Event::Answered { .. }
        | Event::Commanded { .. }
        | Event::Deadline => format!("{event:?}"),
    }
}

/// An action as one line.
pub(super) fn verb_words(verb: &Verb) -> String {
    match verb {
        Verb::WriteLedger { ledger, over } => format!("WriteLedger {ledger:?} over {over:?}"),
        Verb::Ask { policy, question } => match question {
            fleet::action::Question::Roll(roll) => {
                format!("Ask {policy} whom to roll of {:?}", roll.candidates.ids())
            }
            fleet::action::Question::Loss(loss) => {
                format!(
                    "Ask {policy} about {} {:?} check {}",
                    loss.executor_id, loss.trigger, loss.checks_made
                )
            }
        },
        Verb::Relist { .. }
        | Verb::ReadLedger
        | Verb::CreatePod { .. }
        | Verb::GetPod { .. }
        | Verb::DeletePod { .. }
        | Verb::EvictPod { .. }
        | Verb::DeleteDriver { .. }
        | Verb::Reply { .. }
        | Verb::CheckLease
        | Verb::Publish(_) => format!("{verb:?}"),
    }
}
