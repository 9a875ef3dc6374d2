//! One executor's life: scheduled, started, sending heartbeats, ended; and what its kubelet reports.

use fleet::event::{Beat, Phase, PodView};
use fleet::id::ExecutorId;
use fleet::question::{Condition, ContainerRole, ContainerState, Terminated};

use super::{Executor, Fate, Maker, Process};
use crate::api::{Serial, pods};
use crate::fault::Fault;
use crate::host::HostTask;
use crate::world::{Task, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodStep {
    /// Its scheduling gates are lifted.
    Admit,
    /// The scheduler considers the pod.
    Bind,
    /// Its images are pulled.
    Start,
    Beat,
    /// The process ends by itself, with this code.
    Exit(i32),
    /// Its containers run again, after the pod went back to Pending.
    RunAgain,
    /// The kubelet ends it, because it is being deleted.
    Stop,
    /// The object may be removed.
    Remove,
    /// The garbage collector deletes it: its owner is gone.
    Collect,
}

impl World<'_> {
    pub(crate) fn pod_created(&mut self, serial: Serial) {
        let Some(pod) = self.api.pod(serial) else { return };
        let (app, executor, created_revision) = (pod.app, pod.view.executor, pod.view.revision);
        let owned = pod.view.owner.is_some();
        let maker = self.cluster.making;
        let mut fate = Fate::Fine;
        let mut held = false;
        if maker != Maker::Operator {
            for (fault, its) in [
                (Fault::Unschedulable, Fate::Unschedulable),
                (Fault::ImageError, Fate::ImageError),
                (Fault::CrashAtStart, Fate::CrashAtStart),
                (Fault::Silent, Fate::Silent),
            ] {
                if fate == Fate::Fine && self.sim.strikes(fault) {
                    fate = its;
                }
            }
            held = self.sim.strikes(Fault::TerminatingForever);
        }
        let ours = self.api.is_ours(pod);
        let slow = self.cluster.slow.contains(&serial);
        let truth = Executor {
            serial,
            app,
            executor,
            maker,
            fate,
            node: None,
            process: Process::None,
            held,
            started_ms: None,
            registered_ms: None,
            down_ms: None,
            hurt_ms: (!ours || slow).then_some(self.sim.now_ms),
            removed_ms: None,
            removed_by: None,
            zombie: false,
            exit_code: None,
            taken_by: None,
            created_ms: self.sim.now_ms,
            created_revision,
            tampered: (!ours).then_some(created_revision),
            late: false,
        };
        self.cluster.executors.insert(truth);
        if maker != Maker::Operator && self.sim.strikes(Fault::Gated) {
            self.api.change(serial, |pod| {
                pod.status.scheduling_gates.push("kueue.x-k8s.io/admission".to_owned())
            });
            let wait_ms = self.sim.choices.between(20_000, 200_000);
            self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Admit });
        }
        if held {
            self.api.change_object(serial, |pod| pod.finalizer = true);
        }
        let wait_ms = self.sim.choices.between(20, 500);
        self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Bind });
        if owned && !self.api.is_driver_running(app) {
            let wait_ms = self.sim.choices.between(500, 10_000);
            self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Collect });
        }
        self.check_created(app, serial);
    }

    pub(crate) fn pod_terminating(&mut self, serial: Serial) {
        let now_ms = self.sim.now_ms;
        let Some(truth) = self.cluster.executors.get_mut(&serial) else { return };
        truth.down(now_ms);
        if truth.removed_ms.is_none() {
            truth.hurt(now_ms);
        }
        let Some(ends_ms) = self.api.pod(serial).and_then(|pod| pod.ends_ms) else { return };
        if ends_ms == 0 {
            // Only a finalizer holds it.
            return;
        }
        let grace_ms = ends_ms.saturating_sub(now_ms);
        // A decommission migrates blocks: it takes some time, at most the grace period.
        let wait_ms = self.sim.choices.between(50, grace_ms.clamp(50, 20_000));
        self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Stop });
    }

    pub(crate) fn pod_removed(&mut self, serial: Serial) {
        let now_ms = self.sim.now_ms;
        let Some(truth) = self.cluster.executors.get_mut(&serial) else { return };
        truth.down(now_ms);
        if truth.removed_ms.is_none() {
            truth.hurt(now_ms);
        }
        // Without the object, the kubelet kills the process; a kubelet that is cut off does not learn of it.
        let cut_off = truth.node.is_some_and(|node| !self.cluster.nodes[node].alive);
        if !truth.zombie && !cut_off && truth.process != Process::None {
            truth.process = Process::Ended;
        }
        self.check_removed(serial);
    }

    pub(crate) fn pod_step(&mut self, serial: Serial, step: PodStep) {
        match step {
            PodStep::Admit => self.api.change(serial, |pod| pod.status.scheduling_gates.clear()),
            PodStep::Bind => self.bind(serial),
            PodStep::Start => self.start_containers(serial),
            PodStep::Beat => self.beat(serial),
            PodStep::Exit(code) => self.exit(serial, code),
            PodStep::RunAgain => self.run_again(serial),
            PodStep::Stop => self.stop(serial),
            PodStep::Remove => self.api.finish(serial),
            PodStep::Collect => self.api.delete_serial(serial, None),
        }
    }

    fn kubelet_works(&self, serial: Serial) -> bool {
        let node = self.cluster.executors.get(&serial).and_then(|truth| truth.node);
        node.is_some_and(|node| self.cluster.nodes[node].alive)
    }

    fn bind(&mut self, serial: Serial) {
        let Some(pod) = self.api.pod(serial) else { return };
        if pod.view.terminating() || pod.view.node.is_some() {
            return;
        }
        if pod.view.gated() {
            self.sim.after(2_000, Task::Pod { serial, step: PodStep::Bind });
            return;
        }
        let nodes = self.cluster_fit(serial);
        let Some(node) = self.sim.choices.pick(&nodes).copied() else {
            let pod = pod.clone();
            self.mark_hurt(serial);
            if !pod.view.status.conditions.iter().any(|condition| condition.name == "PodScheduled") {
                self.api.change(serial, unschedulable);
            }
            self.sim.after(5_000, Task::Pod { serial, step: PodStep::Bind });
            return;
        };
        if let Some(truth) = self.cluster.executors.get_mut(&serial) {
            truth.node = Some(node);
        }
        let name = self.cluster.nodes[node].name.clone();
        self.api.change(serial, |pod| {
            pod.node = Some(name);
            pod.status.conditions.retain(|condition| condition.name != "PodScheduled");
        });
        let wait_ms = self.sim.choices.between(100, 3_000);
        self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Start });
    }

    fn cluster_fit(&self, serial: Serial) -> Vec<usize> {
        let stuck =
            self.cluster.executors.get(&serial).is_some_and(|truth| truth.fate == Fate::Unschedulable);
        if stuck { Vec::new() } else { self.cluster.fitting(serial) }
    }

    fn start_containers(&mut self, serial: Serial) {
        let now_ms = self.sim.now_ms;
        if !self.kubelet_works(serial) {
            self.sim.after(2_000, Task::Pod { serial, step: PodStep::Start });
            return;
        }
        let Some(pod) = self.api.pod(serial) else { return };
        if pod.view.terminating() || pod.view.phase != Phase::Pending {
            return;
        }
        let Some(truth) = self.cluster.executors.get_mut(&serial) else { return };
        if truth.fate == Fate::ImageError {
            truth.hurt(now_ms);
            self.sim.after(5_000, Task::Pod { serial, step: PodStep::Start });
            if matches!(pod.view.status.containers[0].state, ContainerState::Waiting { reason: Some(_), .. })
            {
                return;
            }
            self.api.change(serial, |pod| {
                for container in &mut pod.status.containers {
                    container.state = ContainerState::Waiting {
                        reason: Some("ImagePullBackOff".to_owned()),
                        message: Some("Back-off pulling image".to_owned()),
                    };
                }
            });
            return;
        }
        let reaches = self.reaches_driver(serial);
        let Some(truth) = self.cluster.executors.get_mut(&serial) else { return };
        truth.started_ms = Some(now_ms);
        let app = truth.app;
        // It was pending for longer than the timeout.
        if now_ms.saturating_sub(truth.created_ms)
            >= self.apps[app].operator.spec.allocation.pending_timeout_ms
        {
            truth.hurt(now_ms);
        }
        // Its node may have been unreachable while it was pending.
        truth.down_ms = None;
        let silent = truth.fate == Fate::Silent || !reaches;
        truth.process = if silent { Process::Silent } else { Process::Running };
        if silent {
            truth.hurt(now_ms);
        }
        let crashes = !reaches
            || truth.fate == Fate::CrashAtStart
            || truth.node.is_some_and(|node| self.cluster.nodes[node].black_hole);
        let wall_ms = self.api.wall_ms();
        self.api.change(serial, |pod| {
            set_phase(pod, Phase::Running);
            for container in &mut pod.status.containers {
                container.state = ContainerState::Running { started_at_ms: Some(wall_ms) };
            }
        });
        let first_ms = self.sim.choices.between(500, 3_000);
        self.sim.after(first_ms, Task::Pod { serial, step: PodStep::Beat });
        if crashes {
            let wait_ms = self.sim.choices.between(200, 2_000);
            self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Exit(1) });
        }
    }

    /// Was the executor told the address that its driver has?
    fn reaches_driver(&self, serial: Serial) -> bool {
        let Some(truth) = self.cluster.executors.get(&serial) else { return false };
        let told = self.cluster.addresses.get(&serial);
        told.is_none_or(|address| *address == self.api.app(truth.app).address())
    }

    // --------------------------------------------------------------------------------- heartbeats --

    fn beat(&mut self, serial: Serial) {
        let now_ms = self.sim.now_ms;
        let Some(truth) = self.cluster.executors.get_mut(&serial) else { return };
        let app = truth.app;
        let interval_ms = self.apps[app].operator.spec.heartbeat.interval_ms;
        if truth.process != Process::Running || truth.maker == Maker::Operator {
            return;
        }
        truth.registered_ms.get_or_insert(now_ms);
        let executor = truth.executor;
        let uid = self.apps[app].driver.beats_prove.then(|| serial.uid());
        self.sim.after(interval_ms, Task::Pod { serial, step: PodStep::Beat });
        // A node that is cut off usually cuts off its executors too.
        let node = self.cluster.executors[&serial].node;
        if node.is_some_and(|node| !self.cluster.nodes[node].alive) && self.sim.choices.chance(800) {
            return;
        }
        let mut wait_ms = self.sim.choices.between(1, 50);
        if self.sim.strikes(Fault::BeatLost) {
            return self.mark_hurt(serial);
        }
        if self.sim.strikes(Fault::BeatLate) {
            wait_ms = self.sim.choices.between(1_000, 30_000);
            self.mark_hurt(serial);
        }
        let beat = |uid| Beat { executor, uid, metrics: Vec::new() };
        if self.sim.strikes(Fault::BeatDuplicated) {
            let later_ms = self.sim.choices.between(0, 10_000);
            self.send_beat(app, wait_ms + later_ms, beat(uid.clone()));
        }
        if self.sim.strikes(Fault::BeatForged) {
            let never = ExecutorId(self.sim.choices.between(1, 400));
            // It looks running, even if it has not started.
            let same = |truth: &&mut Executor| truth.app == app && truth.executor == never;
            for truth in self.cluster.executors.values_mut().filter(same) {
                truth.registered_ms.get_or_insert(now_ms);
            }
            self.send_beat(app, wait_ms, Beat { executor: never, uid: None, metrics: Vec::new() });
        }
        if self.sim.strikes(Fault::BeatOutdated) {
            self.send_beat(app, wait_ms, beat(Some(Serial(0).uid())));
        }
        self.send_beat(app, wait_ms, beat(uid));
    }

    fn mark_hurt(&mut self, serial: Serial) {
        let now_ms = self.sim.now_ms;
        if let Some(truth) = self.cluster.executors.get_mut(&serial) {
            truth.hurt(now_ms);
        }
    }

    /// Executors send to a Service, which routes to the leader.
    fn send_beat(&mut self, app: usize, wait_ms: u64, beat: Beat) {
        let leaders: Vec<usize> = (0..self.hosts.len()).filter(|at| self.hosts[*at].leading).collect();
        let Some(at) = self.sim.choices.pick(&leaders).copied() else { return };
        if leaders.len() > 1 {
            self.disturb_beats(self.sim.now_ms);
        }
        if self.sim.now_ms < self.hosts[at].deaf_until_ms {
            return;
        }
        self.post(at, wait_ms, HostTask::Beat { app, beat: Box::new(beat) });
    }

    // ------------------------------------------------------------------------------------ the end --

    /// Does the application's driver delete executors that have ended?
    fn is_cleaned(&self, app: usize) -> bool {
        self.apps[app].driver.cleans && self.api.is_driver_running(app)
    }

    /// The process ends by itself.
    fn exit(&mut self, serial: Serial, code: i32) {
        let now_ms = self.sim.now_ms;
        let Some(truth) = self.cluster.executors.get_mut(&serial) else { return };
        if !matches!(truth.process, Process::Running | Process::Silent) {
            return;
        }
        let app = truth.app;
        truth.process = Process::Ended;
        truth.exit_code = Some(code);
        truth.down(now_ms);
        if truth.removed_ms.is_none() {
            truth.hurt(now_ms);
        }
        if !self.kubelet_works(serial) {
            return;
        }
        let terminating = self.api.pod(serial).is_some_and(|pod| pod.view.terminating());
        self.tell_end(serial, code);
        if terminating {
            let wait_ms = self.sim.choices.between(10, 500);
            self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Remove });
        } else if self.is_cleaned(app) {
            let wait_ms = self.sim.choices.between(500, 30_000);
            self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Remove });
        }
    }

    /// The executor's container ends, and a sidecar keeps the pod running.
    pub(crate) fn end_beside_sidecar(&mut self, serial: Serial, code: i32) {
        let now_ms = self.sim.now_ms;
        let wall_ms = self.api.wall_ms();
        let Some(truth) = self.cluster.executors.get_mut(&serial) else { return };
        let app = truth.app;
        truth.process = Process::Ended;
        truth.exit_code = Some(code);
        truth.down(now_ms);
        truth.hurt(now_ms);
        if !self.kubelet_works(serial) {
            return;
        }
        self.api.change(serial, |pod| {
            for container in
                pod.status.containers.iter_mut().filter(|one| one.role == ContainerRole::Executor)
            {
                container.state = ContainerState::Terminated(Terminated {
                    exit_code: code,
                    signal: None,
                    reason: Some(if code == 0 { "Completed" } else { "Error" }.to_owned()),
                    message: None,
                    started_at_ms: None,
                    finished_at_ms: Some(wall_ms),
                });
            }
        });
        if self.is_cleaned(app) {
            let wait_ms = self.sim.choices.between(500, 30_000);
            self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Collect });
        }
    }

    /// Its node restarts the pod's sandbox: it is Pending until its containers run again.
    pub(crate) fn pend_again(&mut self, serial: Serial) {
        let now_ms = self.sim.now_ms;
        let ours = self.api.pod(serial).is_some_and(|pod| {
            pod.view.phase == Phase::Running && !pod.view.executor_ended() && !pod.view.terminating()
        });
        if !ours || !self.kubelet_works(serial) {
            return;
        }
        let Some(truth) = self.cluster.executors.get_mut(&serial) else { return };
        truth.down(now_ms);
        truth.hurt(now_ms);
        self.api.change(serial, |pod| set_phase(pod, Phase::Pending));
        let wait_ms = self.sim.choices.between(2_000, 60_000);
        self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::RunAgain });
    }

    fn run_again(&mut self, serial: Serial) {
        let pends = self.api.pod(serial).is_some_and(|pod| pod.view.phase == Phase::Pending);
        if !pends {
            return;
        }
        if !self.kubelet_works(serial) {
            // The node starts the pod once it is back.
            return self.sim.after(5_000, Task::Pod { serial, step: PodStep::RunAgain });
        }
        let Some(truth) = self.cluster.executors.get_mut(&serial) else { return };
        let ended = truth.process == Process::Ended;
        if truth.process == Process::Running {
            truth.down_ms = None;
        }
        self.api.change(serial, |pod| set_phase(pod, Phase::Running));
        if ended && let Some(truth) = self.cluster.executors.get_mut(&serial) {
            // The machine restarted under it.
            truth.process = Process::Running;
            self.exit(serial, 137);
        }
    }

    fn tell_end(&mut self, serial: Serial, code: i32) {
        let wall_ms = self.api.wall_ms();
        let taken = self.cluster.executors.get(&serial).is_some_and(|truth| truth.taken_by.is_some());
        self.api.change(serial, |pod| {
            set_phase(pod, if code == 0 { Phase::Succeeded } else { Phase::Failed });
            let reason = match code {
                0 => "Completed",
                137 if !taken => "OOMKilled",
                _ => "Error",
            };
            for container in &mut pod.status.containers {
                let executor = container.role == ContainerRole::Executor;
                container.state = ContainerState::Terminated(Terminated {
                    exit_code: if executor { code } else { 0 },
                    signal: None,
                    reason: Some(reason.to_owned()),
                    message: None,
                    started_at_ms: None,
                    finished_at_ms: Some(wall_ms),
                });
            }
        });
    }

    /// The kubelet ends a pod that is being deleted; an unreachable kubelet does not.
    pub(crate) fn stop(&mut self, serial: Serial) {
        if !self.kubelet_works(serial) {
            return;
        }
        let Some(pod) = self.api.pod(serial) else { return };
        let ended = pod.view.ended();
        if let Some(truth) = self.cluster.executors.get_mut(&serial)
            && !truth.zombie
        {
            truth.process = Process::Ended;
        }
        if !ended {
            // Spark's shutdown hook turns the exit code into 0; without time for the hook, it is SIGTERM's 143.
            let code = if self.sim.choices.chance(300) { 143 } else { 0 };
            self.tell_end(serial, code);
        }
        let wait_ms = self.sim.choices.between(10, 500);
        self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Remove });
    }

    /// Kubernetes ends a pod and sets the condition that says so.
    pub(crate) fn disrupt(&mut self, serial: Serial, reason: &str) {
        let now_ms = self.sim.now_ms;
        if let Some(truth) = self.cluster.executors.get_mut(&serial) {
            truth.hurt(now_ms);
            truth.down(now_ms);
        }
        self.api.change(serial, |pod| pods::disrupt(pod, reason));
    }
}

pub(super) fn set_phase(pod: &mut PodView, phase: Phase) {
    pod.phase = phase;
    pod.status.phase = match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
        Phase::Unknown => "Unknown",
    }
    .to_owned();
}

fn unschedulable(pod: &mut PodView) {
    pod.status.conditions.push(Condition {
        name: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some("0/8 nodes are available".to_owned()),
    });
}
