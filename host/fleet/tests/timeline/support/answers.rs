//! The answers of the driver and of policies in a timeline.

use fleet::event::{Answer, Counters, DriverRow, DriverView, Event, Fault};
use fleet::id::ExecutorId;
use fleet::question::{LossKind, LossReason, Verdict};

use super::World;

impl World {
    /// The driver's regular answer.
    pub(super) fn report(&mut self) {
        if !self.reports {
            return;
        }
        let row = |(id, counters): (&u64, &Counters)| DriverRow {
            executor: ExecutorId(*id),
            active: true,
            remove_reason: None,
            counters: Some(counters.clone()),
        };
        let there = self.counters.iter().filter(|(id, _)| self.pods.contains_key(id));
        let rows = there.map(row).collect();
        self.step(Event::DriverReported(rows));
    }

    pub(super) fn driver(&mut self, words: &[&str]) {
        match words[0] {
            "gone" => {
                self.driver = DriverView::Gone;
                self.revision += 1;
                self.step(Event::DriverChanged { driver: DriverView::Gone, revision: self.revision });
            }
            "answers" => self.step(Event::DriverReported(Vec::new())),
            // Its REST API stops or resumes answering.
            "mute" => self.reports = false,
            "speaks" => self.reports = true,
            // Its container has ended, and restarts.
            "restarts" => {
                self.driver_ends += 1;
                self.driver = DriverView::Running { uid: "driver-uid".into(), ends: self.driver_ends };
                self.revision += 1;
                self.step(Event::DriverChanged { driver: self.driver.clone(), revision: self.revision });
            }
            // driver counts 1 2 3: now, and only these executors.
            "counts" => {
                let row = |id: &&str| DriverRow {
                    executor: ExecutorId(id.parse().unwrap()),
                    active: true,
                    remove_reason: None,
                    counters: Some(Counters::default()),
                };
                self.step(Event::DriverReported(words[1..].iter().map(row).collect()));
            }
            // driver 1 removed | driver 1 tasks=3
            id => {
                let mut counters = Counters::default();
                for word in &words[1..] {
                    match word.split_once('=') {
                        Some(("tasks", n)) => counters.total_tasks = n.parse().unwrap(),
                        Some(("active", n)) => counters.active_tasks = n.parse().unwrap(),
                        _ => {}
                    }
                }
                let removed = words.contains(&"removed");
                let uncounted = words.contains(&"uncounted");
                self.counters.insert(id.parse().unwrap(), counters.clone());
                let row = DriverRow {
                    executor: ExecutorId(id.parse().unwrap()),
                    active: !removed,
                    remove_reason: removed.then(|| "worker lost".into()),
                    counters: (!uncounted).then_some(counters),
                };
                self.step(Event::DriverReported(vec![row]));
            }
        }
    }

    pub(super) fn verdict(&mut self, id: u64, words: &[&str]) {
        let action = self.calls.remove(&("loss", id)).unwrap_or_else(|| panic!("not asked:\n{}", self.text));
        let known = |kind: LossKind| {
            Verdict::Known(LossReason {
                kind,
                message: "it is so".to_owned(),
                exit_caused_by_app: words.contains(&"app"),
                exit_code: None,
                keep_pod: words.contains(&"keep"),
            })
        };
        let verdict = match words[0] {
            "undetermined" => Verdict::Undetermined,
            "abstain" => Verdict::Abstain,
            "released" => known(LossKind::Released),
            "deleted" => known(LossKind::Deleted),
            "exit-status" => known(LossKind::ExitStatus),
            "heartbeat-lost" => known(LossKind::HeartbeatLost),
            "node-lost" => known(LossKind::NodeLost),
            "start-failed" => known(LossKind::StartFailed),
            "evicted" => known(LossKind::Evicted),
            "preempted" => known(LossKind::Preempted),
            "not-admitted" => known(LossKind::NotAdmitted),
            "killed" => known(LossKind::Killed),
            "driver-connection" => known(LossKind::DriverConnection),
            "out-of-memory" => known(LossKind::OutOfMemory),
            "app-failure" => known(LossKind::AppFailure),
            "trap" => {
                let fault = Err(Fault::Policy("trapped".to_owned()));
                return self.step(Event::Answered { action: action.id, answer: fault });
            }
            other => panic!("no verdict {other}"),
        };
        self.step(Event::Answered { action: action.id, answer: Ok(Answer::Loss(verdict)) });
    }

    pub(super) fn selection(&mut self, answer: Result<Answer, Fault>) {
        let action = self.calls.remove(&("roll", 0)).unwrap_or_else(|| panic!("not asked:\n{}", self.text));
        self.step(Event::Answered { action: action.id, answer });
    }
}
