//! Events go in, actions come out; and requests from people and programs in between.

use std::sync::Arc;

use cluster::notice;
use cluster::queue::Job;
use fleet::action::{Action, Notice, Reason, Reply, Verb};
use fleet::election::ElectionEvent;
use fleet::event::Event;
use fleet::guardrail::Refusal;
use fleet::id::{CommandId, ExecutorId};
use fleet::snapshot::Explanation;
use fleet::time::Instant;

use tokio::time::Instant as Clock;

use super::policies::Asker;
use super::{Daemon, News};
use crate::handle::{Commanded, Request, Told};

impl Daemon {
    pub(super) fn step(&mut self, number: u64, event: Event) {
        let mut now = self.now();
        if self.look_for_standstill(now.instant) {
            now = self.now();
        }
        if !self.leader.is_leader(now.instant) {
            // The election notices it by itself, and ends.
            return self.elect(ElectionEvent::Deadline);
        }
        let kind = kind(&event);
        let begun = std::time::Instant::now();
        let Some(life) = self.life(number) else { return };
        let actions = life.fleet.step(event, now);
        life.still.set(life.fleet.stands_still());
        let at = life.fleet.deadline().map_or(Instant::NEVER, |(at, _)| at);
        let before = std::mem::replace(&mut life.armed, at);
        self.metrics.step(kind, begun.elapsed().as_secs_f64());
        for action in actions {
            self.act(number, action);
        }
        self.deadlines.remove(&(before, number));
        if at < Instant::NEVER {
            self.deadlines.insert((at, number));
        }
    }

    fn act(&mut self, number: u64, action: Action) {
        let since = self.since;
        let Some(life) = self.life(number) else { return };
        match action.verb {
            Verb::Relist { .. }
            | Verb::ReadLedger
            | Verb::WriteLedger { .. }
            | Verb::CreatePod { .. }
            | Verb::GetPod { .. }
            | Verb::DeletePod { .. }
            | Verb::EvictPod { .. }
            | Verb::DeleteDriver { .. } => {
                let (calls, still) = (life.calls.clone(), life.still.clone());
                let job = Job { fleet: number, action, calls, still, since };
                // The receiver lives until the loop ends.
                let _ = self.jobs.send(job);
            }
            Verb::Ask { policy, question } => {
                let (settings, id) = (Arc::clone(&life.settings), action.id);
                let (policies, news, metrics) =
                    (Arc::clone(&self.policies), self.news.clone(), self.metrics.clone());
                let fleet = self.names.get(&number).cloned().unwrap_or_default();
                tokio::task::spawn_blocking(move || {
                    let asker = Asker { fleet: &fleet, decision: id };
                    let asked = policies.ask(&policy, settings.get(&*policy), &question, asker);
                    metrics.policy(&policy, asked.result, asked.took.as_secs_f64());
                    let answered = News::Answered { number, action: id, answer: asked.answer };
                    let _ = news.blocking_send(answered);
                });
            }
            // After this step. Only the Lease ends the process: the ledger belongs to one fleet and its tenant.
            Verb::CheckLease => self.doubted = true,
            Verb::Reply { command, reply } => {
                if let Some(sender) = self.replies.remove(&(number, command)) {
                    let _ = sender.send(Commanded::Replied(reply));
                }
            }
            Verb::Publish(notice) => self.publish(number, &notice),
        }
    }

    fn publish(&mut self, number: u64, notice: &Notice) {
        let Some(name) = self.names.get(&number).cloned() else { return };
        let kind = notice::name(notice.reason);
        let notice = &self.placed(&name, notice);
        let executor = notice.executor.map(|ExecutorId(id)| id);
        tracing::info!(fleet = name, executor, reason = kind, "{}", notice.message);
        let (at_ms, message) = (self.now().wall_ms, notice.message.clone());
        self.handle.tell(Told { at_ms, fleet: name, kind, executor: notice.executor, message });
        let managed = self.names.get(&number).and_then(|name| self.fleets.get(name));
        let Some(life) = managed.and_then(|managed| managed.life.as_ref()) else { return };
        self.notices.publish(life.calls.place(), notice);
    }

    /// Adds the name of the ConfigMap, which the core does not know and people look for.
    fn placed(&self, fleet: &str, notice: &Notice) -> Notice {
        let life = self.fleets.get(fleet).and_then(|managed| managed.life.as_ref());
        let message = match (notice.reason, life) {
            (Reason::LedgerRefused, Some(life)) => life.name_ledger(&notice.message),
            _ => notice.message.clone(),
        };
        Notice { message, ..notice.clone() }
    }

    pub(super) fn request(&mut self, request: Request) {
        self.since = Clock::now();
        let now = self.now();
        // The client may have disconnected meanwhile.
        match request {
            Request::Overview(reply) => {
                let _ = reply
                    .send(self.fleets.values().map(|managed| managed.overview(&self.directory)).collect());
            }
            Request::Snapshot { fleet, reply } => {
                let _ =
                    reply.send(self.fleets.get(&fleet).map(|managed| managed.snapshot(now, &self.directory)));
            }
            Request::Explain { fleet, executor, reply } => {
                let explained = self.fleets.get(&fleet).map(|managed| match &managed.life {
                    Some(life) => life.fleet.explain(executor),
                    None => unknown(executor),
                });
                let _ = reply.send(explained);
            }
            Request::Command { fleet, verb, reply } => {
                let Some(managed) = self.fleets.get(&fleet) else {
                    return drop(reply.send(Commanded::NoSuchFleet));
                };
                match managed.life.as_ref().map(|life| life.number) {
                    None if self.leading.is_none() => {
                        drop(reply.send(Commanded::Replied(Reply::Refused(Refusal::NotLeading))));
                    }
                    None => drop(reply.send(Commanded::NoDriver(managed.waits.clone()))),
                    Some(number) => {
                        self.commands += 1;
                        let command = CommandId(self.commands);
                        self.replies.retain(|_, waiting| !waiting.is_closed());
                        self.replies.insert((number, command), reply);
                        self.step(number, Event::Commanded { command, verb });
                    }
                }
            }
        }
    }
}

/// Without a core, no executor of the fleet is known.
fn unknown(executor: ExecutorId) -> Explanation {
    Explanation { executor, stage: None, not_rolled: Some(Refusal::UnknownExecutor), history: Vec::new() }
}

/// The kind of event, as a label.
fn kind(event: &Event) -> &'static str {
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
        Event::SpecChanged { .. } => "spec-changed",
        Event::Commanded { .. } => "commanded",
        Event::Deadline => "deadline",
    }
}
