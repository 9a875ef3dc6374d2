//! Everything that the supervisor wants done.

use std::sync::Arc;

use cluster::call::{Calls, find_driver};
use cluster::notice;
use cluster::queue::Job;
use cluster::watch;
use fleet::action::{Action, Cause, Notice, Reason, Reply, Verb};
use fleet::election::{ElectionAction, ElectionEvent, StopCause};
use fleet::event::Event;
use fleet::guardrail::Refusal;
use fleet::id::ExecutorId;
use fleet::identity::Claim;
use fleet::observed::DriverPod;
use fleet::supervisor::{self, Input, NotCommanded, OWN_LIST, Output};
use fleet::time::Instant;
use tokio::time::Instant as Clock;

use super::fleets::{Alive, Source};
use super::policies::Asker;
use super::{Daemon, Ended, News};
use crate::handle::{Commanded, NoFleet, Told};

impl Daemon {
    /// One step of the supervisor, and everything that follows from it.
    pub(super) fn step(&mut self, input: Input) {
        let kind = kind(&input);
        let begun = std::time::Instant::now();
        self.stepped = Clock::now();
        let outputs = self.supervisor.step(input, self.now());
        self.metrics.step(kind, begun.elapsed().as_secs_f64());
        self.gate.open_until_ms(self.supervisor.leads_until().map_or(0, Instant::as_ms));
        let mut unseen = Vec::new();
        for output in outputs {
            self.carry_out(output, &mut unseen);
        }
        if !self.supervisor.leads() {
            self.stand_by();
        } else if self.supervisor.is_synced() {
            self.handle.pulse().set_synced();
        }
        // These have not been told of any node yet, or by other patterns.
        let nodes: Vec<_> =
            if unseen.is_empty() { Vec::new() } else { self.nodes.values().cloned().collect() };
        for life in unseen {
            self.show_nodes(life, &nodes);
        }
    }

    fn carry_out(&mut self, output: Output, unseen: &mut Vec<u64>) {
        match output {
            Output::Election(action) => self.election(action),
            Output::FindDriver { fleet, namespace, pod } => {
                let (client, news) = (self.clients.call.clone(), self.news.clone());
                tokio::spawn(async move {
                    let found = find_driver(client, &namespace, &pod).await;
                    let _ = news.send(News::Driver { fleet, sought: (namespace, pod), found }).await;
                });
            }
            Output::Watch { namespace } => {
                let (client, news) = (self.clients.watch.clone(), self.news.clone());
                let namespace: Arc<str> = namespace.into();
                tokio::spawn(async move {
                    let within = Arc::clone(&namespace);
                    let wrap = move |told| News::Watched { namespace: Arc::clone(&namespace), told };
                    watch::pods(client, &within, news, wrap).await;
                });
            }
            Output::List { life, known } => {
                let verb = Verb::Relist { known };
                self.send(life, Action { id: OWN_LIST, cause: Cause::Start, verb });
            }
            Output::Begin { life, fleet, version, application_id, driver, claim } => {
                let Some(source) = self.sources.get(&fleet, version).cloned() else { return };
                self.enter(&source, life, &driver, &application_id, claim);
                let place = source.place(&driver, &application_id).unwrap_or_else(|why| {
                    tracing::error!(fleet, why, "no executor can be created");
                    source.place_with(None, &driver, &application_id)
                });
                let calls = Calls::new(self.clients.call.clone(), Arc::new(place));
                self.alive.insert(life, Alive::new(fleet, source, calls));
                unseen.push(life);
            }
            Output::Place { life, fleet, version, driver, claim } => {
                let Some(source) = self.sources.get(&fleet, version).cloned() else { return };
                let Some(alive) = self.alive.get_mut(&life) else { return };
                let application_id = alive.calls.place().application_id.clone();
                // If there is an error, the supervisor has told it: executors are created as before.
                if let Ok(place) = source.place(&driver, &application_id) {
                    alive.calls = Calls::new(self.clients.call.clone(), Arc::new(place));
                }
                if alive.follow(Arc::clone(&source)) {
                    unseen.push(life);
                }
                self.enter(&source, life, &driver, &application_id, claim);
            }
            Output::End { life, fleet } => {
                if let Some(alive) = self.alive.remove(&life) {
                    // Invalidates in-flight requests of this life.
                    alive.still.set(true);
                }
                self.replies.retain(|_, order| order.life != Some(life));
                self.directory.remove_fleet(&fleet);
            }
            Output::Still { life, still } => {
                if let Some(alive) = self.alive.get(&life) {
                    alive.still.set(still);
                }
            }
            Output::Act { life, action } => self.act(life, action),
            Output::NotCommanded { command, why } => {
                let answer = match why {
                    NotCommanded::NoSuchFleet => Commanded::NoFleet(NoFleet::Unknown),
                    NotCommanded::NotLeading => Commanded::Replied(Reply::Refused(Refusal::NotLeading)),
                    NotCommanded::NoDriver(why) => Commanded::NoDriver(why),
                };
                self.reply(command, answer);
            }
            Output::StoodStill { stood_ms } => {
                tracing::warn!(stood_ms, "this host stood still: executors' silence is counted from now");
            }
            Output::Tell { fleet, news } => self.tell(&fleet, news),
        }
    }

    /// Heartbeats of this life are accepted from now on, or as another document says.
    fn enter(&self, source: &Source, life: u64, driver: &DriverPod, application_id: &str, claim: Claim) {
        let fleet = &source.config.key();
        let entry = source.entry(life, driver, application_id, claim);
        if let Err(error) = self.directory.set_fleet(fleet, entry) {
            tracing::error!(fleet, %error, "its heartbeats cannot be attributed");
        }
    }

    fn election(&mut self, action: ElectionAction) {
        match action {
            ElectionAction::ReadLease { request } => {
                let Some(api) = self.lease.clone() else { return };
                let votes = self.votes.clone();
                tokio::spawn(async move {
                    let outcome = api.read().await;
                    let _ = votes.send(ElectionEvent::Finished { request, outcome });
                });
            }
            ElectionAction::WriteLease { request, lease, over } => {
                let Some(api) = self.lease.clone() else { return };
                let votes = self.votes.clone();
                tokio::spawn(async move {
                    let outcome = api.write(&lease, over.as_ref()).await;
                    let _ = votes.send(ElectionEvent::Finished { request, outcome });
                });
            }
            ElectionAction::Lead { term } => {
                tracing::info!(term, "this host leads");
                self.handle.pulse().lead();
                self.directory.open();
                if self.watch_nodes {
                    let (client, news) = (self.clients.watch.clone(), self.news.clone());
                    tokio::spawn(async move { watch::nodes(client, news, News::Node).await });
                }
            }
            ElectionAction::Affirm => tracing::info!("the lease was read, and this host holds it"),
            ElectionAction::Stop(cause) => {
                match cause {
                    StopCause::Released => tracing::info!("the lease is released"),
                    StopCause::Late => tracing::error!("the lease was not renewed in time"),
                    StopCause::Deposed => tracing::error!("another host leads"),
                }
                self.ended = Some(if cause == StopCause::Released { Ended::Stopped } else { Ended::Deposed });
            }
        }
    }

    /// Rejects heartbeats on a replica that does not lead.
    pub(super) fn stand_by(&self) {
        self.directory.close();
        self.handle.pulse().stand_by(self.supervisor.holder());
    }

    fn send(&mut self, life: u64, action: Action) {
        let Some(alive) = self.alive.get(&life) else { return };
        let (calls, still) = (alive.calls.clone(), alive.still.clone());
        // The receiver lives until the loop ends.
        let _ = self.jobs.send(Job { fleet: life, action, calls, still, since: self.since });
    }

    fn act(&mut self, life: u64, action: Action) {
        match action.verb {
            Verb::Relist { .. }
            | Verb::ReadLedger
            | Verb::WriteLedger { .. }
            | Verb::CreatePod { .. }
            | Verb::GetPod { .. }
            | Verb::DeletePod { .. }
            | Verb::EvictPod { .. }
            | Verb::DeleteDriver { .. } => self.send(life, action),
            Verb::Ask { policy, question } => {
                let Some(alive) = self.alive.get(&life) else { return };
                let (settings, fleet, id) = (Arc::clone(&alive.settings), alive.fleet.clone(), action.id);
                let (policies, news, metrics) =
                    (Arc::clone(&self.policies), self.news.clone(), self.metrics.clone());
                tokio::task::spawn_blocking(move || {
                    let asker = Asker { fleet: &fleet, decision: id };
                    let asked = policies.ask(&policy, settings.get(&*policy), &question, asker);
                    metrics.policy(&policy, asked.result, asked.took.as_secs_f64());
                    let _ = news.blocking_send(News::Answered { life, action: id, answer: asked.answer });
                });
            }
            Verb::Reply { command, reply } => self.reply(command, Commanded::Replied(reply)),
            Verb::Publish(notice) => self.publish(life, &notice),
            // The supervisor's own.
            Verb::CheckLease => {}
        }
    }

    fn publish(&mut self, life: u64, notice: &Notice) {
        let Some(alive) = self.alive.get(&life) else { return };
        let kind = notice::name(notice.reason);
        let notice = &placed(alive, notice);
        let executor = notice.executor.map(|ExecutorId(id)| id);
        tracing::info!(fleet = alive.fleet, executor, reason = kind, "{}", notice.message);
        let (at_ms, message) = (self.now().wall_ms, notice.message.clone());
        let metadata = &alive.source.config.fleet.metadata;
        let (fleet, namespace) = (metadata.name.clone(), metadata.namespace.clone());
        self.handle.tell(Told { at_ms, fleet, namespace, kind, executor: notice.executor, message });
        self.notices.publish(alive.calls.place(), notice);
    }

    fn tell(&self, fleet: &str, news: supervisor::News) {
        use supervisor::News;
        match news {
            News::Removed => {
                tracing::info!(fleet, "the fleet is no longer configured: its pods are left alone");
            }
            News::InForce { version } => {
                let source = self.sources.get(fleet, version);
                for warning in source.iter().flat_map(|source| source.config.warnings()) {
                    tracing::warn!(fleet, %warning, "the document may not do what it says");
                }
            }
            News::Refused { problems } => {
                for problem in problems {
                    tracing::error!(fleet, problem, "the document is refused; the last good one stays");
                }
            }
            News::AnotherDriver => tracing::info!(fleet, "another driver pod: another application begins"),
            News::Began { application_id } => {
                tracing::info!(fleet, application = application_id, "the fleet begins");
            }
            News::Waits(why) => tracing::warn!(fleet, why, "the fleet has to wait for its driver"),
            News::GivesWay(why) => tracing::warn!(fleet, why, "the fleet gives way to another"),
            News::Contested(message) => {
                if let Some(fleet) = self.directory.fleet(fleet) {
                    fleet.notes.contested(message, Clock::now());
                }
            }
            News::CreatesAsBefore(why) => tracing::warn!(fleet, why, "executors are created as before"),
            News::Ambiguous(why) => tracing::error!(fleet, why, "its heartbeats cannot be attributed"),
        }
    }
}

/// Adds the name of the ConfigMap, which the core does not know and people look for.
fn placed(alive: &Alive, notice: &Notice) -> Notice {
    let mut notice = notice.clone();
    if notice.reason == Reason::LedgerRefused {
        notice.message = alive.name_ledger(&notice.message);
    }
    notice
}

/// The kind of input, as a label.
fn kind(input: &Input) -> &'static str {
    let event = match input {
        Input::Deadline => return "deadline",
        Input::Election(_) => return "leadership",
        Input::Documents(_) => return "documents",
        Input::WatchStarted { .. } | Input::WatchBroken { .. } => return "view",
        Input::Driver { .. } => return "driver-changed",
        Input::DriverFound { .. } => return "driver-found",
        Input::Listed { .. } => return "relisted",
        Input::Command { .. } => return "commanded",
        Input::Fleet { event, .. } => event,
    };
    match event {
        Event::LeadershipGained { .. } | Event::LeadershipLost | Event::LeadershipConfirmed => "leadership",
        Event::Relisted(_) => "relisted",
        Event::PodChanged(_) => "pod-changed",
        Event::PodGone(_) => "pod-gone",
        Event::NodeChanged(_) => "node-changed",
        Event::DriverChanged { .. } => "driver-changed",
        Event::ViewStale | Event::ViewFresh => "view",
        Event::Heartbeat(_) => "heartbeat",
        Event::HearingImpaired(_) => "hearing-impaired",
        Event::DriverReported(_) => "driver-reported",
        Event::Answered { .. } => "answered",
        Event::Finished { .. } => "finished",
        Event::SpecChanged { .. } => "documents",
        Event::Commanded { .. } => "commanded",
        Event::Deadline => "deadline",
    }
}
