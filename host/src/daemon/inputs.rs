//! Everything that the loop is told, as an input of the supervisor.

use std::sync::Arc;

use cluster::container::Found;
use cluster::node::NodeSeen;
use cluster::pod::Seen;
use cluster::queue;
use cluster::watch::Told as Watched;
use fleet::event::{Event, Phase, PodView};
use fleet::id::CommandId;
use fleet::observed::DriverPod;
use fleet::supervisor::{Input, Life, Managed, OWN_LIST};
use tokio::time::Instant as Clock;

use super::audit::{Order, words};
use super::fleets::Face;
use super::{Change, Daemon, News};
use crate::handle::{Commanded, NoFleet, Request};
use crate::heartbeat::{Sign, directory::ExecutorEntry};

impl Daemon {
    pub(super) fn change(&mut self, change: Change) {
        let Change::Fleets(judged) = change;
        let judged = self.sources.take(judged);
        self.step(Input::Documents(judged));
        self.sources.prune(&self.supervisor);
    }

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
                for life in self.supervisor.lives() {
                    self.show_nodes(life, std::slice::from_ref(&*node));
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
            News::Driver { fleet, sought: (namespace, pod), found } => {
                let found = found.map_err(|outcome| outcome.to_string());
                self.step(Input::DriverFound { fleet, namespace, pod, found });
            }
            News::Answered { life, action, answer } => {
                self.step(Input::Fleet { life, event: Event::Answered { action, answer } });
            }
        }
    }

    fn watched(&mut self, namespace: &Arc<str>, told: Watched) {
        let of = || namespace.to_string();
        match told {
            Watched::Started => self.step(Input::WatchStarted { namespace: of() }),
            Watched::Broken(why) => {
                tracing::warn!(%namespace, why, "the watch is broken: voluntary disruptions are suspended until it is up");
                self.metrics.watch_restarted("pods");
                self.step(Input::WatchBroken { namespace: of() });
            }
            Watched::Changed(seen) => self.seen(namespace, *seen, Event::PodChanged),
            Watched::Gone(seen) => self.seen(namespace, *seen, Event::PodGone),
            Watched::Driver(driver) => self.step(Input::Driver { namespace: of(), driver }),
            Watched::DriverGone(driver) => {
                let driver = DriverPod { live: false, ..driver };
                self.step(Input::Driver { namespace: of(), driver });
            }
            Watched::Node(_) => {}
        }
    }

    fn seen(&mut self, namespace: &Arc<str>, mut seen: Seen, event: fn(Box<PodView>) -> Event) {
        let life = self.supervisor.life_of(namespace, &seen.application_id, seen.view.executor);
        let Some(life) = life else { return };
        if let Some(alive) = self.alive.get_mut(&life) {
            if let Some(name) = &alive.calls.place().executor_container {
                seen.name_executor(name);
            }
            // The status of a new pod lists no containers yet, so the setting could not be checked.
            let shows = !seen.view.status.containers.is_empty();
            if seen.container == Found::Guessed && shows && !std::mem::replace(&mut alive.guessed, true) {
                tracing::warn!(
                    pod = &*seen.view.name,
                    "the pod has several containers and none is identified as the executor's: the last one is used; \
                     set spec.executorContainer"
                );
            }
        }
        let event = event(Box::new(seen.view.clone()));
        self.note(life, &seen, matches!(event, Event::PodGone(_)));
        self.step(Input::Fleet { life, event });
    }

    /// Enters the executor's pod into the directory, but no pod of an earlier driver, which may have the same ids.
    fn note(&self, life: u64, seen: &Seen, gone: bool) {
        let Some(managed) = self.supervisor.fleet_of(life) else { return };
        if !managed.life().is_some_and(|life| life.owns(seen.view.owner.as_ref())) {
            return;
        }
        let (name, executor) = (managed.name(), seen.view.executor);
        if gone || seen.view.executor_ended() {
            self.directory.remove_executor(name, executor, &seen.view.uid);
        } else {
            let runs = seen.view.phase == Phase::Running;
            let entry = ExecutorEntry { uid: seen.view.uid.clone(), pod_ip: seen.address, runs };
            self.directory.set_executor(name, executor, entry);
        }
    }

    /// Passes nodes to a fleet, with the fleet's own node patterns applied.
    pub(super) fn show_nodes(&mut self, life: u64, nodes: &[NodeSeen]) {
        let Some(alive) = self.alive.get(&life) else { return };
        let views: Vec<_> = nodes.iter().map(|node| alive.signs.view(node)).collect();
        for view in views {
            self.step(Input::Fleet { life, event: Event::NodeChanged(Box::new(view)) });
        }
    }

    pub(super) fn sign(&mut self, sign: Sign) {
        self.since = Clock::now();
        let (life, event) = match sign {
            Sign::Beat { life, beat } => (life, Event::Heartbeat(Box::new(beat))),
            Sign::Driver { life, rows } => (life, Event::DriverReported(rows)),
            Sign::Impaired { life, why } => (life, Event::HearingImpaired(why)),
        };
        let Some(alive) = self.alive.get(&life) else { return };
        if let (Event::Heartbeat(_), Some(fleet)) = (&event, self.directory.fleet(&alive.fleet)) {
            fleet.notes.heard(self.since);
        }
        self.step(Input::Fleet { life, event });
    }

    pub(super) fn done(&mut self, done: queue::Done) {
        // The result of a call unblocks no queued call; what follows from it starts now.
        self.since = Clock::now();
        self.metrics.action(done.verb, done.outcome);
        // A create that was rejected, or was not sent after all, made no pod.
        if done.verb == "create" && done.outcome == "ok" {
            self.metrics.event_to_create_seconds(done.waited.as_secs_f64());
        }
        let life = done.fleet;
        for seen in &done.answer.seen {
            // The list may be older than the events that the watch has delivered meanwhile.
            let known = self.alive.get(&life).and_then(|alive| self.directory.fleet(&alive.fleet));
            if known.is_some_and(|fleet| fleet.executor(seen.view.executor).is_none()) {
                self.note(life, seen, false);
            }
        }
        if done.action != OWN_LIST {
            return self.step(Input::Fleet { life, event: done.answer.event });
        }
        if let Event::Finished { outcome, .. } = &done.answer.event {
            tracing::warn!(%outcome, "a list failed");
        }
        let list = if let Event::Relisted(list) = done.answer.event { Some(list) } else { None };
        self.step(Input::Listed { life, list });
    }

    pub(super) fn request(&mut self, request: Request) {
        self.since = Clock::now();
        // The client may have disconnected meanwhile.
        match request {
            Request::Overview(reply) => {
                let fleets =
                    self.supervisor.fleets().filter_map(|managed| Some(self.face(managed)?.overview()));
                let _ = reply.send(fleets.collect());
            }
            Request::Snapshot { fleet, reply } => {
                let found = self.named(&fleet).and_then(|managed| self.face(managed).ok_or(NoFleet::Unknown));
                let _ = reply.send(found.map(|face| face.snapshot(self.now())));
            }
            Request::Explain { fleet, executor, reply } => {
                let found = self.named(&fleet).map(|managed| managed.explain(executor));
                let _ = reply.send(found);
            }
            Request::Command { fleet, verb, by, reply } => {
                let (fleet, life) = match self.named(&fleet) {
                    Ok(managed) => (managed.name().to_owned(), managed.life().map(Life::number)),
                    Err(none) => return drop(reply.send(Commanded::NoFleet(none))),
                };
                self.commands += 1;
                let command = CommandId(self.commands);
                self.replies.retain(|_, order| !order.reply.is_closed());
                let by = by.map(|user| (user, words(&verb)));
                self.replies.insert(command, Order { life, by, reply });
                self.step(Input::Command { fleet, command, verb });
            }
        }
    }

    /// The fleet that people call so: `NAMESPACE/NAME`, or NAME if one fleet alone has that name.
    fn named(&self, called: &str) -> Result<&Managed, NoFleet> {
        if let Some(managed) = self.supervisor.fleet(called) {
            return Ok(managed);
        }
        let is_meant =
            |managed: &&Managed| managed.name().split_once('/').is_some_and(|(_, name)| name == called);
        let mut meant = self.supervisor.fleets().filter(is_meant);
        match (meant.next(), meant.next()) {
            (None, _) => Err(NoFleet::Unknown),
            (Some(managed), None) => Ok(managed),
            (Some(one), Some(two)) => {
                let all = [one, two].into_iter().chain(meant);
                Err(NoFleet::Ambiguous(all.map(|managed| managed.name().to_owned()).collect()))
            }
        }
    }

    fn face<'a>(&'a self, managed: &'a Managed) -> Option<Face<'a>> {
        let alive = managed.life().and_then(|life| self.alive.get(&life.number()));
        let source = self.sources.of(managed)?;
        let refused = managed.refused_version().and_then(|version| self.sources.get(managed.name(), version));
        let newest = refused.unwrap_or(source);
        Some(Face { managed, source, newest, alive, directory: &self.directory })
    }

    pub(super) fn reply(&mut self, command: CommandId, answer: Commanded) {
        if let Some(order) = self.replies.remove(&command) {
            self.audit(&order, &answer);
            let _ = order.reply.send(answer);
        }
    }
}
