//! What a host knows: its watches, one for each namespace.
//!
//! A watch is a position in the API server's log and a lag. It closes, hangs, expires, and starts again, where
//! it was or with a list that may come from a lagging replica. Node and driver events have the same delays,
//! because they use the same kind of connection. All fleets of a namespace depend on one watch.

use fleet::event::{Event, NodeView, PodView};
use fleet::observed::DriverPod;
use fleet::supervisor::Input;

use super::{HostTask, World};
use crate::api::{Change, Entry, NAMESPACES};
use crate::fault::Fault;

#[derive(Debug, Default)]
pub struct Watch {
    /// Counts the starts, so that events of an earlier start can be recognised.
    pub generation: u32,
    pub state: WatchState,
    /// The revision up to which it has read the log.
    pub at: u64,
    pub lag_ms: u64,
    scheduled: bool,
    /// The supervisor was told that it is broken.
    broken: bool,
    /// F22: until then no watch is allowed.
    pub refused_until_ms: u64,
    /// Counts how often the supervisor was told that it has started.
    pub(crate) starts: u64,
    /// The revision at which it started.
    pub(crate) from: u64,
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

/// What one core was shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    /// A list that was asked for after a start of the watch has been answered, and the watch has not broken since.
    pub(crate) listed: bool,
    /// That list was not older than the start, so that nothing is missing between them.
    pub(crate) whole: bool,
    /// The revision up to which it was told everything.
    pub(crate) told: u64,
}

/// An event of a watch.
#[derive(Clone, Debug)]
pub enum Watched {
    /// With the application whose label the pod has.
    Changed(usize, Box<PodView>),
    Gone(usize, Box<PodView>),
    Driver(usize, Box<DriverPod>),
}

/// A watch that is silent for this long counts as broken: bookmarks come every minute.
const SILENT_MS: u64 = 60_000;
/// `cluster::watch` begins again after this long without an event, and so the pods are listed.
const AUDIT_MS: u64 = 600_000;

impl World<'_> {
    /// The supervisor wants to watch.
    pub(crate) fn watch_opens(&mut self, at: usize, namespace: usize) {
        self.watch_restarts(at, namespace, 10, true);
    }

    /// A core that begins is told of all nodes.
    pub(crate) fn nodes_shown(&mut self, at: usize, app: usize) {
        for node in 0..self.cluster.nodes.len() {
            let view = self.cluster.nodes[node].view();
            self.post(at, 20, HostTask::Tell { app, event: Box::new(Event::NodeChanged(Box::new(view))) });
        }
    }

    fn watch_restarts(&mut self, at: usize, namespace: usize, ms: u64, list: bool) {
        let watch = &mut self.hosts[at].watches[namespace];
        watch.generation += 1;
        watch.state = WatchState::Closed;
        watch.scheduled = false;
        let generation = watch.generation;
        self.post(at, ms, HostTask::Reconnect { namespace, generation, list });
    }

    pub(crate) fn watch_reconnects(&mut self, at: usize, namespace: usize, generation: u32, list: bool) {
        if self.hosts[at].watches[namespace].generation != generation {
            return;
        }
        if self.sim.strikes(Fault::WatchRefused) {
            self.hosts[at].watches[namespace].refused_until_ms =
                self.sim.now_ms + self.sim.choices.between(1_000, 60_000);
        }
        let host = &self.hosts[at];
        let watch = &host.watches[namespace];
        let cut_off_ms = host.partitioned_until_ms.max(watch.refused_until_ms);
        let list = list || self.api.is_compacted(watch.at);
        let unreachable = self.sim.now_ms < cut_off_ms || self.sim.strikes(Fault::RequestLost);
        if unreachable {
            // kube's backoff; a watch that stays silent for too long is reported as stale.
            let wait_ms = self.sim.choices.between(800, 8_000);
            self.watch_restarts(at, namespace, wait_ms, list);
            self.watch_breaks(at, namespace);
            return;
        }
        let mut lag_ms = 0;
        if self.sim.strikes(Fault::ListStale) {
            lag_ms = self.sim.choices.between(500, 40_000);
            self.lag(namespace, lag_ms);
        }
        let watch = &mut self.hosts[at].watches[namespace];
        watch.state = WatchState::Open;
        watch.lag_ms = lag_ms;
        watch.heard_ms = self.sim.now_ms;
        let broken = std::mem::take(&mut watch.broken);
        if list {
            // The list with which the stream starts is only where it starts.
            let revision = self.api.revision_at(namespace, self.sim.now_ms.saturating_sub(lag_ms));
            (watch.at, watch.from) = (revision, revision);
        }
        // A watch that closes in order resumes where it was, and nothing is reported.
        if list || broken {
            watch.starts += 1;
            self.shown_in(at, namespace, |shown| shown.whole = false);
            self.step(at, Input::WatchStarted { namespace: NAMESPACES[namespace].to_owned() });
        }
    }

    /// Changes what is known of the view of each core in this namespace.
    fn shown_in(&mut self, at: usize, namespace: usize, change: impl Fn(&mut Shown)) {
        let apps = &self.apps;
        let within = |app: &usize| apps[*app].operator.namespace == namespace;
        self.hosts[at].views.iter_mut().filter(|(app, _)| within(app)).for_each(|(_, shown)| change(shown));
    }

    /// The watch starts to lag: it delivers only events that are at least this old. With a small lag it catches
    /// up.
    pub(crate) fn watch_lags(&mut self, at: usize, namespace: usize, lag_ms: u64) {
        let watch = &mut self.hosts[at].watches[namespace];
        watch.lag_ms = lag_ms;
        watch.scheduled = false;
        self.lag(namespace, lag_ms);
    }

    /// Schedules a delivery for each watch that has new events and none scheduled.
    pub(crate) fn wake_watches(&mut self) {
        for at in 0..self.hosts.len() {
            for namespace in 0..NAMESPACES.len() {
                let host = &mut self.hosts[at];
                let watch = &mut host.watches[namespace];
                if watch.scheduled || watch.state != WatchState::Open || !host.leading {
                    continue;
                }
                let Some(next) = self.api.since(namespace, watch.at).first() else { continue };
                watch.scheduled = true;
                let due_ms = next.at_ms + watch.lag_ms.max(5);
                let generation = watch.generation;
                let wait_ms = due_ms.saturating_sub(self.sim.now_ms);
                self.post(at, wait_ms, HostTask::Watch { namespace, generation });
            }
        }
    }

    pub(crate) fn watch_delivers(&mut self, at: usize, namespace: usize, generation: u32) {
        let watch = &mut self.hosts[at].watches[namespace];
        if watch.generation != generation || watch.state != WatchState::Open {
            return;
        }
        watch.scheduled = false;
        if self.sim.strikes(Fault::WatchCloses) {
            let wait_ms = self.sim.choices.between(10, 5_000);
            return self.watch_restarts(at, namespace, wait_ms, false);
        }
        if self.sim.strikes(Fault::WatchErrors) {
            return self.watch_fails(at, namespace);
        }
        if self.sim.strikes(Fault::WatchExpires) {
            let wait_ms = self.sim.choices.between(10, 30_000);
            self.watch_restarts(at, namespace, wait_ms, true);
            return self.watch_breaks(at, namespace);
        }
        if self.sim.strikes(Fault::WatchHangs) {
            self.hosts[at].watches[namespace].state = WatchState::Hung;
            self.lag(namespace, SILENT_MS);
            return self.post(at, SILENT_MS, HostTask::Stale { namespace, generation });
        }
        let watch = &self.hosts[at].watches[namespace];
        let visible_ms = self.sim.now_ms - watch.lag_ms.min(self.sim.now_ms);
        let coalesce = self.sim.strikes(Fault::EventsCoalesced);
        let cut = self.sim.strikes(Fault::EventCut);
        let due = self.api.since(namespace, watch.at);
        let mut due = &due[..due.partition_point(|entry| entry.at_ms <= visible_ms)];
        if cut {
            // The last event that has arrived is the one that is cut.
            due = &due[..due.len().saturating_sub(1)];
        }
        let Some(last) = due.last() else {
            if cut {
                self.watch_fails(at, namespace);
            }
            return;
        };
        let told = seen(due, coalesce);
        let watch = &mut self.hosts[at].watches[namespace];
        watch.at = last.revision;
        watch.heard_ms = self.sim.now_ms;
        for (revision, mut event) in told {
            self.shown_in(at, namespace, |shown| {
                if shown.whole {
                    shown.told = revision;
                }
            });
            if let Watched::Gone(_, pod) = &mut event
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
            self.watch_fails(at, namespace);
        }
    }

    /// The watch delivers. A pod is an event for the life that has its label, as in the daemon; a driver's pod is the
    /// supervisor's business.
    pub(crate) fn watched(&mut self, at: usize, event: Watched) {
        let (app, event) = match event {
            Watched::Changed(app, pod) => (app, Event::PodChanged(pod)),
            Watched::Gone(app, pod) => (app, Event::PodGone(pod)),
            Watched::Driver(app, driver) => {
                let namespace = NAMESPACES[self.api.app(app).namespace].to_owned();
                return self.step(at, Input::Driver { namespace, driver: *driver });
            }
        };
        let labels = self.api.app(app);
        let (Event::PodChanged(pod) | Event::PodGone(pod)) = &event else { return };
        let executor = pod.executor;
        let of = |it: &fleet::supervisor::Supervisor| {
            it.life_of(NAMESPACES[labels.namespace], &labels.id, executor)
        };
        if let Some(life) = self.hosts[at].supervisor().and_then(of) {
            self.step(at, Input::Fleet { life, event });
        }
    }

    pub(crate) fn watch_is_stale(&mut self, at: usize, namespace: usize, generation: u32) {
        if self.hosts[at].watches[namespace].generation == generation {
            self.watch_breaks(at, namespace);
            if self.hosts[at].is_up() {
                let list = self.sim.choices.chance(300);
                self.watch_restarts(at, namespace, 1_000, list);
            }
        }
    }

    /// A stream that was silent for long begins again, in case that its list and its events left a gap.
    pub(crate) fn audit_watches(&mut self) {
        for at in 0..self.hosts.len() {
            for namespace in 0..NAMESPACES.len() {
                let host = &self.hosts[at];
                let watch = &host.watches[namespace];
                let silent_ms = self.sim.now_ms - watch.heard_ms;
                if host.leading
                    && !host.is_frozen()
                    && watch.state == WatchState::Open
                    && silent_ms >= AUDIT_MS
                {
                    self.watch_restarts(at, namespace, 10, true);
                }
            }
        }
    }

    /// kube's client reports an error, and begins again after a while.
    fn watch_fails(&mut self, at: usize, namespace: usize) {
        let wait_ms = self.sim.choices.between(800, 30_000);
        self.watch_restarts(at, namespace, wait_ms, true);
        self.watch_breaks(at, namespace);
    }

    fn watch_breaks(&mut self, at: usize, namespace: usize) {
        self.shown_in(at, namespace, |shown| (shown.listed, shown.whole) = (false, false));
        if !std::mem::replace(&mut self.hosts[at].watches[namespace].broken, true) {
            self.step(at, Input::WatchBroken { namespace: NAMESPACES[namespace].to_owned() });
        }
    }

    /// Every leading host learns of a node, after some delay.
    pub(crate) fn node_told(&mut self, view: &NodeView) {
        for at in 0..self.hosts.len() {
            if !self.hosts[at].leading {
                continue;
            }
            for app in self.current() {
                let namespace = self.apps[app].operator.namespace;
                let wait_ms = 10 + self.hosts[at].watches[namespace].lag_ms;
                let event = Box::new(Event::NodeChanged(Box::new(view.clone())));
                self.post(at, wait_ms, HostTask::Tell { app, event });
            }
        }
    }
}

/// What a watch delivers of these entries, each with its revision. `coalesced`: without intermediate states of pods.
fn seen(due: &[Entry], coalesced: bool) -> Vec<(u64, Watched)> {
    let later = |place: usize, pod: &PodView| {
        due[place + 1..].iter().any(|entry| match &entry.change {
            Change::Put(other) | Change::Gone(other) => other.uid == pod.uid,
            Change::Driver(_) => false,
        })
    };
    let one = |(place, entry): (usize, &Entry)| {
        let event = match &entry.change {
            Change::Put(pod) if coalesced && later(place, pod) => return None,
            Change::Put(pod) => Watched::Changed(entry.app, Box::new(PodView::clone(pod))),
            Change::Gone(pod) => Watched::Gone(entry.app, Box::new(PodView::clone(pod))),
            Change::Driver(driver) => {
                let driver = DriverPod { revision: entry.revision, ..DriverPod::clone(driver) };
                Watched::Driver(entry.app, Box::new(driver))
            }
        };
        Some((entry.revision, event))
    };
    due.iter().enumerate().filter_map(one).collect()
}
