//! What the stub is told, and what it asks and shows.

use fleet::action::{Action, Cause, Question, Reply, Verb};
use fleet::event::{Command, DriverView, Event};
use fleet::question::{Candidate, Driver, Evidence, Pod, RollQuestion, Trigger};
use fleet::snapshot::{Counts, Snapshot};
use fleet::spec::{Draft, Spec};
use fleet::time::{Instant, Now};

use super::{Flaw, State, Stub};
use crate::world::Core;

impl Stub {
    /// The answers are of no use to it, but asking is part of the boundary.
    pub(super) fn ask(&mut self) {
        let mut question = RollQuestion::default();
        for executor in self.pods.keys() {
            question.candidates.push(Candidate { id: executor.0, ..Candidate::default() });
        }
        let policy = || "OLDEST".into();
        self.want(Cause::Roll, Verb::Ask { policy: policy(), question: Question::Roll(Box::new(question)) });
        let Some((executor, pod)) = self.pods.first_key_value() else { return };
        let executor = *executor;
        let evidence = Evidence {
            fleet: self.draft.name.clone(),
            application_id: self.draft.application_id.clone(),
            executor_id: executor.0,
            pod_name: pod.name.to_string(),
            now_ms: 0,
            trigger: Trigger::PodFailed,
            checks_made: 0,
            checks_max: 1,
            ever_registered: true,
            since_heartbeat_ms: None,
            our_deletion: None,
            driver: Driver::Running,
            driver_remove_reason: None,
            pod: Some(Pod::clone(&pod.status)),
            node: None,
        };
        let question = Question::Loss(Box::new(evidence));
        self.want(Cause::Loss(executor), Verb::Ask { policy: policy(), question });
    }
}

impl Core for Stub {
    fn step(&mut self, event: Event, now: Now) -> Vec<Action> {
        let now = now.instant;
        if self.state == State::Over {
            return Vec::new();
        }
        match event {
            Event::LeadershipGained => self.state = State::Reading(now),
            Event::Heartbeat(beat) => {
                self.beats.insert(beat.executor, now);
            }
            Event::LeadershipLost => self.state = State::Over,
            Event::Relisted(list) => self.relisted(list),
            Event::PodChanged(pod) => self.saw(*pod),
            Event::PodGone(pod) => self.gone(pod.executor),
            Event::DriverChanged(driver) => self.driver_gone |= driver == DriverView::Gone,
            Event::Finished { action, outcome } => self.finished(action, outcome, now),
            Event::SpecChanged { draft, policies }
                if Spec::check(Draft::clone(&draft), &policies).is_ok() =>
            {
                self.draft = *draft;
            }
            Event::Commanded { command, verb } => {
                self.ledger.paused = match verb {
                    Command::Pause => true,
                    Command::Resume => false,
                    _ => self.ledger.paused,
                };
                self.dirty = true;
                self.want(Cause::Command(command), Verb::Reply { command, reply: Reply::Done });
            }
            _ => {}
        }
        if let State::Reading(at) = self.state
            && at <= now
        {
            self.state = State::Reading(now + 15_000);
            self.want(Cause::Start, Verb::ReadLedger);
        }
        if let State::Listing(at) = self.state
            && at <= now
        {
            self.state = State::Listing(now + 15_000);
            self.want(Cause::Start, Verb::Relist);
        }
        self.reconcile(now);
        self.due = now + 500;
        std::mem::take(&mut self.out)
    }

    fn deadline(&self) -> Option<Instant> {
        if self.flaw == Flaw::Spins && self.state == State::Active {
            return Some(Instant::START);
        }
        (self.state != State::Over && self.state != State::Idle).then_some(self.due)
    }

    fn why(&self) -> String {
        "to look again".to_owned()
    }

    fn snapshot(&self, _: Now) -> Snapshot {
        let ledger = &self.ledger;
        let counts = Counts {
            created: ledger.created,
            live: ledger.born.len(),
            lost: ledger.lost.clone(),
            removed: ledger.removed.clone(),
            ..Counts::default()
        };
        Snapshot {
            fleet: self.draft.name.clone(),
            phase: "active",
            target: self.draft.target,
            counts,
            conditions: Vec::new(),
            executors: Vec::new(),
        }
    }
}
