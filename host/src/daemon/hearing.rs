//! Inputs of the loop: watches, heartbeats, and the results of calls.

use std::sync::Arc;
use std::time::Duration;

use cluster::container::Found;
use cluster::node::NodeSeen;
use cluster::pod::{DriverSeen, Seen};
use cluster::queue::{self, Job};
use cluster::watch::Told as Watched;
use fleet::action::{Action, Cause, Verb};
use fleet::event::{Event, Phase, PodView};
use fleet::id::ActionId;
use tokio::time::Instant as Clock;

use super::managed::Managed;
use super::{Daemon, News};
use crate::heartbeat::{Sign, directory::ExecutorEntry};

/// Delay before a failed list is retried.
const LIST_RETRY: Duration = Duration::from_secs(2);
/// The action number of the loop's own lists. The core counts from 1.
const OWN_LIST: ActionId = ActionId(0);

impl Daemon {
    pub(super) fn hear(&mut self, news: News) {
        self.since = Clock::now();
        match news {
            News::Watched { namespace, told } => self.watched(&namespace, told),
            News::Node(Watched::Node(node)) => {
                if node.gone() {
                    self.nodes.remove(node.name());
                } else {
                    self.nodes.insert(node.name().to_owned(), (*node).clone());
                }
                for number in self.numbers() {
                    self.show_nodes(number, std::slice::from_ref(&*node));
                }
            }
            News::Node(Watched::Broken(why)) => {
                self.metrics.watch_restarted("nodes");
                tracing::debug!(why, "nodes cannot be watched: their state is unknown");
            }
            News::Node(
                Watched::Started
                | Watched::Changed(_)
                | Watched::Gone(_)
                | Watched::Driver(_)
                | Watched::DriverGone(_),
            ) => {}
            News::Driver { fleet, sought, found } => self.found(&fleet, &sought, found),
            News::Answered { number, action, answer } => {
                self.step(number, Event::Answered { action, answer });
            }
            News::Seek(fleet) => self.seek_again(&fleet),
            News::List(number) => self.list(number),
        }
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        self.names.keys().copied().collect()
    }

    fn numbers_in(&self, namespace: &Arc<str>) -> Vec<u64> {
        let within = self.applications.iter().filter(|((of, _), _)| of == namespace);
        within.map(|(_, number)| *number).collect()
    }

    fn watched(&mut self, namespace: &Arc<str>, told: Watched) {
        match told {
            Watched::Started => {
                self.watched.insert(Arc::clone(namespace), true);
                for number in self.numbers_in(namespace) {
                    // The pod of another driver may have been created during the gap.
                    if let Some(name) = self.names.get(&number) {
                        self.look(name);
                    }
                    self.list(number);
                }
            }
            Watched::Broken(why) => {
                tracing::warn!(%namespace, why, "the watch is broken: voluntary disruptions are suspended until it is up");
                self.metrics.watch_restarted("pods");
                self.watched.insert(Arc::clone(namespace), false);
                for number in self.numbers_in(namespace) {
                    self.step(number, Event::ViewStale);
                }
            }
            Watched::Changed(seen) => self.seen(namespace, *seen, Event::PodChanged),
            Watched::Gone(seen) => self.seen(namespace, *seen, Event::PodGone),
            Watched::Driver(driver) => self.driver_seen(namespace, driver),
            Watched::DriverGone(driver) => {
                self.driver_seen(namespace, DriverSeen { live: false, ..driver });
            }
            Watched::Node(_) => {}
        }
    }

    fn driver_seen(&mut self, namespace: &Arc<str>, driver: DriverSeen) {
        let whose = |managed: &&Managed| {
            managed.namespace() == &**namespace && managed.driver_name() == &*driver.name
        };
        let names: Vec<String> =
            self.fleets.values().filter(whose).map(|managed| managed.name().to_owned()).collect();
        for name in names {
            self.driver_is(&name, driver.clone());
            // The pod may get what it lacks, an address for instance, during the gap.
            self.seek(&name);
        }
    }

    fn seen(&mut self, namespace: &Arc<str>, mut seen: Seen, event: fn(Box<PodView>) -> Event) {
        let key = (Arc::clone(namespace), seen.application_id.clone());
        let Some(number) = self.applications.get(&key).copied() else { return };
        if let Some(life) = self.life(number) {
            if let Some(name) = &life.calls.place().executor_container {
                seen.name_executor(name);
            }
            // The status of a new pod lists no containers yet, so the setting could not be checked.
            let shows = !seen.view.status.containers.is_empty();
            if seen.container == Found::Guessed && shows && !std::mem::replace(&mut life.guessed, true) {
                tracing::warn!(
                    pod = &*seen.view.name,
                    "the pod has several containers and none is identified as the executor's: the last one is used; \
                     set spec.executorContainer"
                );
            }
        }
        let event = event(Box::new(seen.view.clone()));
        self.note(number, &seen, matches!(event, Event::PodGone(_)));
        self.step(number, event);
    }

    /// Enters the executor's pod into the directory, but no pod of an earlier driver, which may have the same ids.
    fn note(&self, number: u64, seen: &Seen, gone: bool) {
        let Some(name) = self.names.get(&number) else { return };
        let life = self.fleets.get(name).and_then(|managed| managed.life.as_ref());
        if life.is_none_or(|life| seen.view.owner.as_ref() != Some(&life.driver.uid)) {
            return;
        }
        let executor = seen.view.executor;
        if gone || seen.view.executor_ended() {
            self.directory.remove_executor(name, executor, &seen.view.uid);
        } else {
            let runs = seen.view.phase == Phase::Running;
            let entry = ExecutorEntry { uid: seen.view.uid.clone(), pod_ip: seen.address, runs };
            self.directory.set_executor(name, executor, entry);
        }
    }

    /// Passes nodes to a fleet, with the fleet's own node patterns applied.
    pub(super) fn show_nodes(&mut self, number: u64, nodes: &[NodeSeen]) {
        let Some(life) = self.life(number) else { return };
        let views: Vec<_> = nodes.iter().map(|node| life.signs.view(node)).collect();
        for view in views {
            self.step(number, Event::NodeChanged(Box::new(view)));
        }
    }

    pub(super) fn sign(&mut self, sign: Sign) {
        self.since = Clock::now();
        let (life, event) = match sign {
            Sign::Beat { life, beat } => (life, Event::Heartbeat(Box::new(beat))),
            Sign::Driver { life, rows } => (life, Event::DriverReported(rows)),
            Sign::Impaired { life, why } => (life, Event::HearingImpaired(why)),
        };
        let Some(name) = self.names.get(&life) else { return };
        if let (Event::Heartbeat(_), Some(fleet)) = (&event, self.directory.fleet(name)) {
            fleet.notes.heard(self.since);
        }
        self.step(life, event);
    }

    pub(super) fn done(&mut self, done: queue::Done) {
        // The result of a call unblocks no queued call; what follows from it starts now.
        self.since = Clock::now();
        self.metrics.action(done.verb, done.outcome);
        // A create that was rejected, or was not sent after all, made no pod.
        if done.verb == "create" && done.outcome == "ok" {
            self.metrics.event_to_create_seconds(done.waited.as_secs_f64());
        }
        for seen in &done.answer.seen {
            // The list may be older than the events that the watch has delivered meanwhile.
            let name = self.names.get(&done.fleet);
            let known = name.and_then(|name| self.directory.fleet(name));
            if known.is_some_and(|fleet| fleet.executor(seen.view.executor).is_none()) {
                self.note(done.fleet, seen, false);
            }
        }
        let Some(life) = self.life(done.fleet) else { return };
        if let Event::Finished { action: OWN_LIST, outcome } = &done.answer.event {
            tracing::warn!(%outcome, "a list failed");
            life.listing = false;
            return self.later(LIST_RETRY, News::List(done.fleet));
        }
        // A list of the core is answered too, but does not replace the loop's own.
        let ours = matches!(done.answer.event, Event::Relisted(_)) && std::mem::take(&mut life.listing);
        let again = ours && std::mem::take(&mut life.list_again);
        life.listed |= ours;
        self.step(done.fleet, done.answer.event);
        if again {
            self.list(done.fleet);
        } else if ours {
            // If the watch has broken meanwhile, another list follows when it is up again.
            if self.is_watched(done.fleet) {
                self.step(done.fleet, Event::ViewFresh);
            }
            self.check_synced();
        }
    }

    pub(super) fn is_watched(&self, number: u64) -> bool {
        let fleet = self.names.get(&number).and_then(|name| self.fleets.get(name));
        fleet.is_some_and(|fleet| self.watched.get(fleet.namespace()) == Some(&true))
    }

    /// Ready once one fleet has listed its cluster, or has no driver. Do not wait for all fleets: one without access
    /// must not block the heartbeats of the others. Nor require its watch to be up: heartbeats that are rejected while
    /// it is broken would cost executors.
    pub(super) fn check_synced(&self) {
        let synced = |managed: &Managed| match &managed.life {
            Some(life) => life.listed,
            None => managed.looked,
        };
        if self.fleets.is_empty() || self.fleets.values().any(synced) {
            self.handle.pulse().set_synced();
        }
    }

    /// Lists all pods once the watch that delivers later changes is up. A list that began before that may miss changes
    /// in between.
    pub(super) fn list(&mut self, number: u64) {
        let since = self.since;
        let Some(life) = self.life(number) else { return };
        if std::mem::replace(&mut life.listing, true) {
            life.list_again = true;
            return;
        }
        let action =
            Action { id: OWN_LIST, cause: Cause::Start, verb: Verb::Relist { known: life.fleet.revision() } };
        let (calls, still) = (life.calls.clone(), life.still.clone());
        let job = Job { fleet: number, action, calls, still, since };
        let _ = self.jobs.send(job);
    }
}
