//! The driver: it tracks its executors, cleans up after them, and ends them when it ends.
//!
//! When the fleet is observed, the driver also creates the executors. It keeps the requested number and
//! replaces lost ones, as Spark's own allocator does.

use std::collections::BTreeMap;

use fleet::event::{Counters, DriverRow, Event, Phase};
use fleet::id::ExecutorId;

use super::{Maker, PodStep, Process, Taker};
use crate::api::{NewPod, Serial};
use crate::fault::Fault;
use crate::host::HostTask;
use crate::world::{Task, World};

/// How a driver behaves.
#[derive(Debug, Default)]
pub struct Driver {
    /// Heartbeats of its executors prove which pod sent them.
    pub beats_prove: bool,
    /// It deletes executors that have ended, as Spark does.
    pub cleans: bool,
    /// It creates the executors itself: the fleet is observed.
    pub creates: bool,
    pub(crate) ids: u64,
    /// Until then its REST API does not answer, or leaves out rows and counters.
    pub(crate) mute_until_ms: u64,
    pub(crate) partial_until_ms: u64,
}

/// How often a host polls it.
const POLL_MS: u64 = 10_000;

/// How long it tolerates a silent executor.
const SILENCE_MS: u64 = 60_000;

impl World<'_> {
    /// The garbage collector deletes everything that it owned.
    pub(crate) fn driver_gone(&mut self, app: usize) {
        let driver = self.api.app(app).driver_uid().clone();
        let owned: Vec<_> = self
            .api
            .pods()
            .filter(|(_, pod)| pod.view.owner.as_ref() == Some(&driver))
            .map(|(serial, _)| serial)
            .collect();
        for serial in owned {
            let wait_ms = self.sim.choices.between(100, 5_000);
            self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Collect });
        }
    }

    /// Its container ends and starts again, perhaps in a sandbox with another address. Each executor finds that out by
    /// itself, and exits.
    pub(crate) fn driver_restarts(&mut self, app: usize, moves: bool) {
        self.sim.say(|| format!("the driver of application {app} ends and starts again"));
        let before = self.sim.choices.chance(500);
        if !before {
            self.api.restart_driver(app, moves);
        }
        for serial in self.cluster.running_of(app) {
            if let Some(truth) = self.cluster.executors.get_mut(&serial) {
                truth.taken_by = Some(Taker::Driver);
            }
            let wait_ms = self.sim.choices.between(0, 3_000);
            self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Exit(1) });
        }
        if before {
            // The kubelet of the driver's node reports it later than the executors notice it.
            let wait_ms = self.sim.choices.between(0, 10_000);
            self.sim.after(wait_ms, Task::DriverRestarts { app, moves });
        }
    }

    /// Only when the driver owns the executors.
    pub(crate) fn driver_looks(&mut self, app: usize) {
        if !self.apps[app].driver.creates || !self.api.is_driver_running(app) {
            return;
        }
        let target = self.apps[app].operator.spec.target as usize;
        let name = self.apps[app].operator.spec.name.clone();
        let live: Vec<_> = self
            .api
            .ours(app)
            .filter(|(_, pod)| pod.live() && !pod.view.terminating())
            .map(|(serial, _)| serial)
            .collect();
        // Spark's own HeartbeatReceiver removes silent executors.
        let silent = |serial: &Serial| {
            self.cluster.executors.get(serial).is_some_and(|truth| {
                truth.process == Process::Silent
                    && truth.hurt_ms.is_some_and(|ms| ms + SILENCE_MS < self.sim.now_ms)
            })
        };
        let silent: Vec<Serial> = live.iter().copied().filter(silent).collect();
        for serial in live.iter().skip(target).chain(&silent) {
            self.api.delete_serial(*serial, None);
        }
        for _ in live.len()..target {
            self.apps[app].driver.ids += 1;
            let executor = ExecutorId(self.apps[app].driver.ids);
            let owner = self.api.app(app).driver_uid().clone();
            self.cluster.making = Maker::Driver;
            let outcome = self.api.create(NewPod {
                app,
                name: format!("{name}-driver-exec-{executor}").into(),
                executor,
                owner: Some(owner),
                selected: true,
                finalizer: false,
                sidecar: false,
            });
            if !matches!(outcome, fleet::event::Outcome::Ok(_)) {
                return;
            }
        }
    }

    /// `/allexecutors`, as a host polls it.
    pub(crate) fn poll_driver(&mut self, at: usize, app: usize) {
        if !self.hosts[at].leading || self.apps[app].over {
            return;
        }
        // An executor that is heard only by way of the driver would time out between two polls.
        let poll_ms = POLL_MS.min(self.apps[app].operator.spec.heartbeat.timeout_ms / 3);
        self.post(at, poll_ms, HostTask::PollDriver(app));
        let mute = self.sim.now_ms < self.apps[app].driver.mute_until_ms;
        if mute || !self.api.is_driver_running(app) || self.sim.strikes(Fault::RequestLost) {
            return;
        }
        let now_ms = self.sim.now_ms;
        let recent = |down_ms: Option<u64>| down_ms.is_none_or(|down_ms| now_ms - down_ms < 120_000);
        // One row for each id: another executor with the same id is overwritten.
        let mut rows = BTreeMap::new();
        for executor in self.cluster.executors.of(app) {
            // It may have been started before, on a node that was unreachable since.
            let Some(registered_ms) = executor.registered_ms.filter(|_| executor.started_ms.is_some()) else {
                continue;
            };
            if executor.maker == Maker::Operator || !recent(executor.down_ms) {
                continue;
            }
            // The driver's own HeartbeatReceiver.
            let timeout_ms = self.apps[app].operator.spec.heartbeat.timeout_ms;
            let expired = executor.down_ms.is_some_and(|down_ms| now_ms - down_ms > timeout_ms);
            let active = match executor.process {
                Process::Running => true,
                Process::Silent => !expired,
                Process::None | Process::Ended => false,
            };
            let age_ms = now_ms - registered_ms;
            let count = |per_ms: u64| i32::try_from(age_ms / per_ms).unwrap_or(i32::MAX);
            let total_duration_ms = i64::try_from(age_ms).unwrap_or(i64::MAX);
            let row = DriverRow {
                executor: executor.executor,
                active,
                remove_reason: (!active).then(|| "worker lost".into()),
                counters: Some(Counters {
                    add_time_ms: self.api.wall_base_ms.saturating_add_unsigned(registered_ms),
                    active_tasks: i32::from(executor.executor.0 % 3 == 0),
                    completed_tasks: count(500),
                    total_tasks: count(500),
                    total_duration_ms,
                    total_gc_time_ms: total_duration_ms / (2 + i64::from(executor.executor.0 as u8 % 50)),
                    ..Counters::default()
                }),
            };
            rows.insert(executor.executor, row);
        }
        let mut rows: Vec<DriverRow> = rows.into_values().collect();
        if now_ms < self.apps[app].driver.partial_until_ms {
            rows.retain(|_| !self.sim.choices.chance(300));
            for row in &mut rows {
                row.counters = row.counters.take().filter(|_| !self.sim.choices.chance(300));
            }
        }
        let wait_ms = self.sim.choices.between(5, 200);
        self.post(at, wait_ms, HostTask::Tell { app, event: Box::new(Event::DriverReported(rows)) });
    }

    /// How many executors are up and not being deleted.
    pub fn up(&self, app: usize) -> usize {
        self.api.ours(app).filter(|(_, pod)| pod.view.phase == Phase::Running && pod.ready()).count()
    }
}
