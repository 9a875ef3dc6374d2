//! Evidence made by hand, rule by rule; every row of the table; and any evidence at all.

mod any;
mod reports;
mod table;

use rollcall_policy::*;

use crate::{classify, text};

const NOW_MS: i64 = 1_700_000_000_000;

/// Evidence in the making: a registered executor in a running pod on a healthy node, of which the
/// driver only knows that it is lost.
struct Lost(Evidence);

fn lost() -> Lost {
    Lost(Evidence {
        fleet: "fleet".into(),
        application_id: "spark-app".into(),
        executor_id: 7,
        pod_name: "exec-7".into(),
        now_ms: NOW_MS,
        trigger: Trigger::DriverRemoved,
        lost_at_ms: NOW_MS,
        checks_made: 0,
        checks_max: 10,
        ever_registered: true,
        since_heartbeat_ms: Some(5_000),
        our_deletion: None,
        driver: Driver::Running,
        driver_remove_reason: None,
        pod: Some(Pod {
            phase: "Running".into(),
            reason: None,
            message: None,
            gone: false,
            created_at_ms: Some(NOW_MS - 3_600_000),
            deletion_at_ms: None,
            deletion_grace_ms: None,
            conditions: Vec::new(),
            containers: vec![container(ContainerRole::Executor, running())],
            node_name: None,
            scheduling_gates: Vec::new(),
        }),
        node: Some(NodeState {
            name: "node-1".into(),
            gone: false,
            ready: "True".into(),
            reason: None,
            cordoned: false,
            taints: Vec::new(),
            spot: false,
            departures: Vec::new(),
        }),
    })
}

impl Lost {
    fn with(mut self, change: impl FnOnce(&mut Evidence)) -> Lost {
        change(&mut self.0);
        self
    }

    fn trigger(self, trigger: Trigger) -> Lost {
        self.with(|e| e.trigger = trigger)
    }

    fn checks(self, made: u32) -> Lost {
        self.with(|e| e.checks_made = made)
    }

    /// The heartbeats stopped.
    fn silent(self) -> Lost {
        self.trigger(Trigger::HeartbeatTimeout).with(|e| e.since_heartbeat_ms = Some(120_001))
    }

    /// Rollcall asked ten seconds ago.
    fn ours(self, why: DeletionCause) -> Lost {
        self.with(|e| e.our_deletion = Some(Deletion { why, at_ms: NOW_MS - 10_000 }))
    }

    fn driver_says(self, text: &str) -> Lost {
        self.with(|e| e.driver_remove_reason = Some(text.into()))
    }

    fn unregistered(self) -> Lost {
        self.with(|e| (e.ever_registered, e.since_heartbeat_ms) = (false, None))
    }

    fn pod(self, change: impl FnOnce(&mut Pod)) -> Lost {
        self.with(|e| change(e.pod.as_mut().expect("a pod")))
    }

    fn phase(self, phase: &str) -> Lost {
        self.pod(|pod| pod.phase = phase.into())
    }

    fn failed(self, reason: &str, message: &str) -> Lost {
        self.trigger(Trigger::PodFailed).phase("Failed").pod(|pod| {
            (pod.reason, pod.message) = (Some(reason.into()), Some(message.into()));
        })
    }

    /// Its grace period ends in half a minute, as always when the deletion is seen at once.
    fn deleting(self) -> Lost {
        self.pod(|pod| {
            (pod.deletion_at_ms, pod.deletion_grace_ms) = (Some(NOW_MS + 28_000), Some(30_000));
        })
    }

    fn gone(self) -> Lost {
        self.trigger(Trigger::PodDeleted).pod(|pod| pod.gone = true)
    }

    fn disrupted(self, reason: &str) -> Lost {
        self.pod(|pod| {
            pod.conditions.push(Condition {
                name: "DisruptionTarget".into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: None,
            });
        })
    }

    fn executor(self, state: ContainerState) -> Lost {
        self.pod(|pod| pod.containers[0].state = state)
    }

    /// The executor's container has ended, and the pod with it.
    fn exit(self, code: i32) -> Lost {
        self.exit_for(code, "Error")
    }

    fn exit_for(self, code: i32, reason: &str) -> Lost {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.trigger(Trigger::PodFailed).phase(phase).executor(terminated(code, reason))
    }

    fn finished(self, at_ms: i64) -> Lost {
        self.pod(|pod| match &mut pod.containers[0].state {
            ContainerState::Terminated(end) => end.finished_at_ms = Some(at_ms),
            state => panic!("{state:?} has not finished"),
        })
    }

    fn left_message(self, text: &str) -> Lost {
        self.pod(|pod| match &mut pod.containers[0].state {
            ContainerState::Terminated(end) => end.message = Some(text.into()),
            state => panic!("{state:?} has not finished"),
        })
    }

    /// One more container, listed first.
    fn beside(self, role: ContainerRole, state: ContainerState) -> Lost {
        self.pod(|pod| pod.containers.insert(0, container(role, state)))
    }

    fn beside_exit(self, role: ContainerRole, code: i32) -> Lost {
        self.beside(role, terminated(code, "Error"))
    }

    fn waiting(self, reason: &str) -> Lost {
        self.trigger(Trigger::PendingTimeout).unregistered().phase("Pending").executor(waiting(reason))
    }

    fn node(self, change: impl FnOnce(&mut NodeState)) -> Lost {
        self.with(|e| change(e.node.as_mut().expect("a node")))
    }

    fn departing(self, kind: DepartureKind, sign: &str) -> Lost {
        self.node(|node| node.departures.push(Departure { kind, sign: sign.into() }))
    }

    /// Kueue's mark.
    fn stopped(self, reason: &str, message: &str) -> Lost {
        self.disrupted(reason).pod(|pod| {
            let mark = pod.conditions.last_mut().expect("the mark");
            (mark.name, mark.message) = ("TerminationTarget".into(), Some(message.into()));
        })
    }

    #[track_caller]
    fn known(self) -> LossReason {
        match classify(&self.0) {
            Verdict::Known(reason) => reason,
            other => panic!("{other:?} of {:#?}", self.0),
        }
    }

    #[track_caller]
    fn is(self, kind: LossKind) {
        assert_eq!(self.known().kind, kind);
    }

    #[track_caller]
    fn says(self, message: &str) {
        assert_eq!(self.known().message, message);
    }

    /// Undetermined until the last check, and then this.
    #[track_caller]
    fn settles_as(self, kind: LossKind) {
        let before_the_last = Lost(self.0.clone()).checks(9);
        assert_eq!(classify(&self.0), Verdict::Undetermined);
        assert_eq!(classify(&before_the_last.0), Verdict::Undetermined);
        self.checks(10).is(kind);
    }

    /// Undetermined for two checks, for the driver may say why, and then this.
    #[track_caller]
    fn settles_soon_as(self, kind: LossKind) {
        for made in 0..2 {
            assert_eq!(classify(&Lost(self.0.clone()).checks(made).0), Verdict::Undetermined, "{made}");
        }
        self.checks(2).is(kind);
    }
}

fn container(role: ContainerRole, state: ContainerState) -> Container {
    let name = match role {
        ContainerRole::Executor => "spark-kubernetes-executor",
        ContainerRole::Sidecar => "proxy",
        ContainerRole::Init => "fetch-jars",
    };
    Container { name: name.into(), role, state, last_terminated: None, restart_count: 0 }
}

fn running() -> ContainerState {
    ContainerState::Running(Some(NOW_MS - 3_000_000))
}

fn waiting(reason: &str) -> ContainerState {
    ContainerState::Waiting(Waiting { reason: Some(reason.into()), message: None })
}

fn end(code: i32, reason: &str) -> Terminated {
    Terminated {
        exit_code: code,
        signal: None,
        reason: Some(reason.into()),
        message: None,
        started_at_ms: None,
        finished_at_ms: Some(NOW_MS - 2_000),
    }
}

fn terminated(code: i32, reason: &str) -> ContainerState {
    ContainerState::Terminated(end(code, reason))
}

/// The kind by its name in the contract.
fn kebab(kind: &LossKind) -> String {
    let name = format!("{kind:?}");
    let name = name.trim_start_matches("LossKind::");
    let mut kebab = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(c.to_ascii_lowercase());
    }
    kebab
}

// --------------------------------------------------------------------- SAR's own scenarios --

#[test]
fn sar_an_executor_that_was_scaled_down_is_released() {
    let reason = lost().ours(DeletionCause::ScaleDown).gone().executor(terminated(0, "Completed")).known();
    assert_eq!(reason.exit_code, Some(0));
    assert!(!reason.exit_caused_by_app);
    assert_eq!(
        reason.message,
        "Container in pod exec-7 exited from explicit termination request. \
         Rollcall asked for it: a scale-down. Its container exited with 0 (Completed)."
    );
}

#[test]
fn sar_an_application_error_is_the_applications() {
    let reason = lost().exit(1).known();
    assert_eq!(reason.exit_code, Some(1));
    assert!(reason.exit_caused_by_app && reason.keep_pod);
    assert_eq!(
        reason.message,
        "Pod exec-7's executor container exited with exit status code 1. The code says no more. \
         Node node-1: Ready is True."
    );
}

#[test]
fn sar_gives_up_after_the_last_check() {
    for made in 0..10 {
        assert_eq!(classify(&lost().checks(made).0), Verdict::Undetermined);
    }
    let reason = lost().checks(10).known();
    assert_eq!(reason.message, "Executor lost for unknown reasons.");
    assert_eq!((reason.kind, reason.exit_caused_by_app, reason.keep_pod), (LossKind::Unknown, false, false));
    lost().checks(u32::MAX).is(LossKind::Unknown);
    lost().with(|e| e.checks_max = 0).is(LossKind::Unknown);
}

#[test]
fn sar_a_deletion_is_nobodys_fault() {
    let gone = || lost().gone().checks(2);
    gone().says("Pod exec-7 deleted or lost. Node node-1: Ready is True.");
}

#[test]
fn what_ended_before_somebody_elses_deletion_keeps_its_exit_code() {
    let asked_at = NOW_MS - 2_000;
    let deleted = |code, finished| lost().exit(code).deleting().finished(finished);
    deleted(1, asked_at - 1_000).is(LossKind::ExitStatus);
    deleted(0, asked_at - 1_000).is(LossKind::Completed);
    deleted(1, asked_at).is(LossKind::Deleted);
    // Without the grace period the order in time is not known.
    deleted(1, asked_at - 1_000).pod(|pod| pod.deletion_grace_ms = None).is(LossKind::Deleted);
}

// -------------------------------------------------------------------------- our own requests --

#[test]
fn what_ended_before_our_request_is_not_released() {
    let at = NOW_MS - 10_000;
    for why in [DeletionCause::Roll, DeletionCause::Kill] {
        let asked =
            |code, reason, finished| lost().ours(why.clone()).exit_for(code, reason).finished(finished);
        asked(137, "OOMKilled", at - 1_000).is(LossKind::MemoryLimit);
        asked(52, "Error", at - 1_000).is(LossKind::OutOfMemory);
        // Timestamps are whole seconds: this one may have ended after the request.
        asked(137, "OOMKilled", at).is(LossKind::Released);
        asked(52, "Error", at + 1_000).is(LossKind::Released);
        // And these codes are what the request leads to, whatever a node's clock says.
        asked(143, "Error", at - 1_000).is(LossKind::Released);
        asked(137, "Error", at - 1_000).is(LossKind::Released);
        asked(1, "Error", at - 1_000).is(LossKind::Released);
    }
    let unknown_time = lost().ours(DeletionCause::Roll).exit(52).pod(|pod| {
        let ContainerState::Terminated(end) = &mut pod.containers[0].state else { unreachable!() };
        end.finished_at_ms = None;
    });
    unknown_time.is(LossKind::Released);
}

#[test]
fn the_second_of_our_request_is_its_whole_second() {
    let asked = |at_ms, finished_ms| {
        lost()
            .exit(52)
            .finished(finished_ms)
            .with(|e| e.our_deletion = Some(Deletion { why: DeletionCause::Roll, at_ms }))
    };
    // Asked at .900, ended at .950, reported as .000.
    asked(NOW_MS + 900, NOW_MS).is(LossKind::Released);
    asked(NOW_MS + 1_000, NOW_MS).is(LossKind::OutOfMemory);
    asked(-1, -1_000).is(LossKind::Released);
}

#[test]
fn an_operators_kill_does_not_hide_what_had_ended_before() {
    lost().exit(52).trigger(Trigger::OperatorKill).is(LossKind::OutOfMemory);
    lost().exit(143).trigger(Trigger::OperatorKill).is(LossKind::Released);
}

#[test]
fn our_request_outranks_driver_node_and_disruption() {
    let rolled = || lost().ours(DeletionCause::Roll);
    rolled().with(|e| e.driver = Driver::Gone).is(LossKind::Released);
    rolled().node(|node| node.gone = true).is(LossKind::Released);
    rolled().deleting().disrupted("EvictionByEvictionAPI").is(LossKind::Released);
    rolled().failed("Evicted", "").is(LossKind::Released);
    rolled().silent().is(LossKind::Released);
}

#[test]
fn clearing_away_a_silent_executor_does_not_explain_its_silence() {
    let cleared = || lost().ours(DeletionCause::Lost);
    // Our own deletion's consequences.
    cleared().deleting().settles_as(LossKind::HeartbeatLost);
    cleared().gone().exit(137).settles_as(LossKind::HeartbeatLost);
    cleared().exit(143).settles_as(LossKind::HeartbeatLost);
    cleared().exit(0).settles_as(LossKind::HeartbeatLost);
    cleared().exit(1).settles_as(LossKind::HeartbeatLost);
    let only_the_sidecar = cleared().phase("Failed").beside_exit(ContainerRole::Sidecar, 143);
    only_the_sidecar.pod(|pod| pod.containers.truncate(1)).settles_as(LossKind::HeartbeatLost);
    cleared().phase("Succeeded").pod(|pod| pod.containers.clear()).settles_as(LossKind::HeartbeatLost);
    // What is none of them.
    cleared().exit_for(137, "OOMKilled").is(LossKind::MemoryLimit);
    cleared().exit(52).is(LossKind::OutOfMemory);
    cleared().exit(1).finished(NOW_MS - 11_000).is(LossKind::ExitStatus);
    cleared().exit(143).finished(NOW_MS - 11_000).is(LossKind::Killed);
    cleared().gone().exit(143).finished(NOW_MS - 11_000).settles_soon_as(LossKind::Killed);
    cleared().node(|node| node.ready = "Unknown".into()).is(LossKind::NodeLost);
    cleared().with(|e| e.driver = Driver::Gone).is(LossKind::DriverGone);
    cleared().failed("Evicted", "").is(LossKind::Evicted);
}

#[test]
fn what_keeps_a_pod_pending_outranks_its_deletion() {
    let unscheduled = Condition {
        name: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some("0/3 nodes are available: 3 Insufficient memory.".into()),
    };
    let pending = lost().waiting("").with(|e| e.node = None);
    pending.pod(|pod| (pod.conditions, pod.containers) = (vec![unscheduled], Vec::new())).says(
        "Pod exec-7 was pending for too long \
         (Unschedulable: 0/3 nodes are available: 3 Insufficient memory).",
    );
    lost().waiting("ImagePullBackOff").says(
        "Pod exec-7's executor container spark-kubernetes-executor cannot get its image (ImagePullBackOff).",
    );
    lost().ours(DeletionCause::ScaleDown).waiting("ImagePullBackOff").is(LossKind::Released);
}

// --------------------------------------------------------------------- the order of evidence --

#[test]
fn a_disruption_target_that_lives_on_was_not_disrupted() {
    let mark = || lost().disrupted("PreemptionByScheduler");
    mark().silent().settles_as(LossKind::HeartbeatLost);
    mark().settles_as(LossKind::Unknown);
    mark().exit(52).is(LossKind::OutOfMemory);
    mark().exit_for(137, "OOMKilled").deleting().is(LossKind::MemoryLimit);
    mark().gone().is(LossKind::Preempted);
    mark().executor(terminated(143, "Error")).is(LossKind::Preempted);
    mark().phase("Failed").is(LossKind::Preempted);
    let given_up = lost()
        .deleting()
        .disrupted("PreemptionByScheduler")
        .pod(|pod| pod.conditions[0].status = "False".into());
    given_up.is(LossKind::Deleted);
}

#[test]
fn the_kubelets_word_outranks_the_container_and_the_mark() {
    lost().exit_for(137, "OOMKilled").failed("Evicted", "").is(LossKind::Evicted);
    lost().disrupted("TerminationByKubelet").failed("Terminated", "").is(LossKind::NodeLost);
    lost().disrupted("TerminationByKubelet").failed("Preempting", "").is(LossKind::Preempted);
    lost().exit(52).failed("SomethingNew", "").is(LossKind::OutOfMemory);
    lost().failed("Evicted", "").with(|e| e.driver = Driver::Gone).is(LossKind::DriverGone);
}

#[test]
fn a_telling_exit_outranks_node_and_deletion_but_not_the_drivers_end() {
    lost().exit(52).node(|node| node.ready = "False".into()).is(LossKind::OutOfMemory);
    lost().exit(52).deleting().is(LossKind::OutOfMemory);
    lost().exit(52).gone().is(LossKind::OutOfMemory);
    lost().exit(50).driver_says("Executor killed by driver.").is(LossKind::AppFailure);
    lost().exit(52).with(|e| e.driver = Driver::Gone).is(LossKind::DriverGone);
}

/// Seen: its pod was deleted, the driver let go of it, and its block manager asked to be registered once more.
#[test]
fn a_decommission_that_ends_with_58_is_a_deletion() {
    lost().exit(58).deleting().is(LossKind::Deleted);
    lost().exit(58).deleting().disrupted("EvictionByEvictionAPI").is(LossKind::Evicted);
    lost().exit(56).deleting().is(LossKind::DriverConnection);
}

#[test]
fn kubernetes_outranks_the_driver_and_the_mark_outranks_the_node() {
    let not_ready = || lost().node(|node| node.ready = "False".into());
    not_ready().deleting().disrupted("EvictionByEvictionAPI").is(LossKind::Evicted);
    not_ready().driver_says("Executor registration failed").is(LossKind::NodeLost);
    let no_image = || lost().waiting("ErrImagePull").trigger(Trigger::DriverRemoved);
    no_image().driver_says("Executor registration failed").is(LossKind::Image);
    no_image().node(|node| node.gone = true).is(LossKind::NodeLost);
    lost().deleting().driver_says("java.lang.OutOfMemoryError").is(LossKind::OutOfMemory);
    let nothing_known = lost().node(|node| node.ready = "".into());
    nothing_known.deleting().disrupted("DeletionByTaintManager").is(LossKind::NodeLost);
}

#[test]
fn a_pod_that_was_removed_after_its_end_keeps_its_exit_code() {
    lost().exit(1).gone().settles_soon_as(LossKind::ExitStatus);
    lost().exit(0).gone().is(LossKind::Completed);
    lost().exit(1).gone().deleting().is(LossKind::Deleted);
    lost().exit_for(137, "ContainerStatusUnknown").deleting().is(LossKind::Deleted);
    lost().silent().pod(|pod| pod.gone = true).settles_soon_as(LossKind::Deleted);
}

#[test]
fn a_deletion_ends_init_containers_too() {
    let init =
        |code| lost().waiting("PodInitializing").beside(ContainerRole::Init, terminated(code, "Error"));
    init(143).deleting().trigger(Trigger::PodDeleted).is(LossKind::Deleted);
    init(7).deleting().trigger(Trigger::PodDeleted).is(LossKind::StartFailed);
    init(143).phase("Failed").trigger(Trigger::PodFailed).is(LossKind::StartFailed);
    init(143).ours(DeletionCause::PendingTimeout).is(LossKind::Released);
    init(7).ours(DeletionCause::PendingTimeout).is(LossKind::StartFailed);
}

#[test]
fn a_sidecar_holds_up_only_what_has_not_started() {
    let pulls = || lost().phase("Pending").beside(ContainerRole::Sidecar, waiting("ErrImagePull"));
    pulls().unregistered().trigger(Trigger::PendingTimeout).is(LossKind::Image);
    pulls().silent().settles_as(LossKind::HeartbeatLost);
}

#[test]
fn a_cordoned_or_spot_node_is_told_but_decides_nothing() {
    let noted = || lost().exit(143).node(|node| (node.cordoned, node.spot) = (true, true));
    noted().settles_as(LossKind::Killed);
    noted().checks(10).says(
        "Pod exec-7's executor container exited with exit status code 143. SIGTERM that nothing explains. \
         Node node-1: Ready is True, on a spot node, cordoned.",
    );
}

#[test]
fn a_node_that_is_gone_is_not_said_to_be_ready() {
    let node = |ready: &str, gone| {
        lost().gone().node(|node| {
            (node.ready, node.reason, node.gone) = (ready.into(), Some("KubeletReady".into()), gone);
        })
    };
    node("True", true).says("Pod exec-7 was lost with its node: node-1 is gone.");
    node("False", false).says("Pod exec-7 was lost with its node: node-1 is not ready (KubeletReady).");
}

// ------------------------------------------------------------------------------- containers --

#[test]
fn the_executors_container_outranks_those_listed_before_it() {
    use ContainerRole::*;
    let both = |code| lost().exit(code).beside_exit(Init, 0).beside_exit(Sidecar, 1);
    let reason = both(52).known();
    assert_eq!((reason.kind, reason.exit_code), (LossKind::OutOfMemory, Some(52)));
    // The pod is Failed because of the sidecar, and the message says so.
    let reason = both(0).phase("Failed").known();
    assert_eq!((reason.kind, reason.exit_code), (LossKind::Completed, Some(0)));
    assert!(reason.message.contains("Its sidecar container proxy exited with exit status code 1 (Error)."));
    // A sidecar that fails beside a live executor explains nothing.
    lost().beside_exit(Sidecar, 137).settles_as(LossKind::Unknown);
    lost().beside_exit(Init, 137).settles_as(LossKind::Unknown);
    // And one that ended well explains nothing, ever.
    let without_executor = || lost().phase("Failed").pod(|pod| pod.containers.clear());
    without_executor().beside_exit(Sidecar, 0).settles_as(LossKind::Unknown);
    without_executor().beside(Init, terminated(0, "Completed")).settles_as(LossKind::Unknown);
}

#[test]
fn failed_sidecars_and_init_containers_are_called_by_name() {
    let sidecar =
        lost().phase("Failed").pod(|pod| pod.containers.clear()).beside_exit(ContainerRole::Sidecar, 9);
    let reason = sidecar.known();
    assert_eq!(
        reason.message,
        "Pod exec-7's sidecar container proxy exited with exit status code 9 (Error). \
         Node node-1: Ready is True."
    );
    assert_eq!(reason.exit_code, None);
    let init = lost().waiting("PodInitializing").beside(ContainerRole::Init, terminated(137, "OOMKilled"));
    let reason = init.known();
    assert_eq!(
        reason.message,
        "Pod exec-7's init container fetch-jars exited with exit status code 137 (OOMKilled)."
    );
    assert_eq!(reason.exit_code, None);
}

#[test]
fn the_last_run_tells_when_the_state_has_moved_on() {
    let moved_on = |state| {
        lost().executor(state).pod(|pod| pod.containers[0].last_terminated = Some(end(137, "OOMKilled")))
    };
    moved_on(waiting("CrashLoopBackOff")).is(LossKind::MemoryLimit);
    // Restarted, and not heard of since, though perhaps in the second in which it ended.
    moved_on(running()).is(LossKind::MemoryLimit);
    moved_on(running()).with(|e| e.since_heartbeat_ms = Some(1_001)).is(LossKind::MemoryLimit);
    moved_on(running()).unregistered().is(LossKind::MemoryLimit);
    // Restarted, and heard of: an old story.
    moved_on(running()).with(|e| e.since_heartbeat_ms = Some(1_000)).settles_as(LossKind::Unknown);
    moved_on(running()).with(|e| e.since_heartbeat_ms = None).settles_as(LossKind::Unknown);
    // A later end outranks it.
    moved_on(terminated(52, "Error")).is(LossKind::OutOfMemory);
}

#[test]
fn a_reason_of_oomkilled_needs_a_death() {
    lost().exit_for(143, "OOMKilled").is(LossKind::Killed);
    lost().exit_for(143, "OOMKilled").deleting().is(LossKind::Deleted);
    lost().exit_for(52, "OOMKilled").is(LossKind::OutOfMemory);
}

// -------------------------------------------------------------------------- silence and words --

#[test]
fn silence_waits_for_better_evidence_until_the_last_check() {
    lost().silent().settles_as(LossKind::HeartbeatLost);
    lost().silent().checks(9).exit_for(137, "OOMKilled").is(LossKind::MemoryLimit);
    lost().silent().checks(9).node(|node| node.ready = "Unknown".into()).is(LossKind::NodeLost);
    lost().silent().checks(9).deleting().is(LossKind::Deleted);
    lost().silent().checks(10).says(
        "Executor heartbeat timed out after 120001 ms; pod exec-7 is Running as far as Kubernetes knows. \
         Node node-1: Ready is True.",
    );
    lost()
        .silent()
        .checks(10)
        .with(|e| (e.pod, e.node) = (None, None))
        .says("Executor heartbeat timed out after 120001 ms; pod exec-7 has never been seen.");
}

#[test]
fn the_driver_gave_it_up_before_it_deleted_it() {
    let given_up = || lost().driver_says("Executor heartbeat timed out after 130004 ms");
    given_up().deleting().exit(143).settles_as(LossKind::HeartbeatLost);
    given_up().gone().settles_as(LossKind::HeartbeatLost);
    given_up().exit(52).is(LossKind::OutOfMemory);
}

#[test]
fn the_driver_may_quote_the_exit_code() {
    let reason = lost().driver_says("Command exited with code 52").known();
    assert_eq!((reason.kind, reason.exit_code), (LossKind::OutOfMemory, Some(52)));
    // As Spark 4.3 writes of a SIGKILL, whoever sent it.
    let possible = "The executor with id 7 exited with exit code 137(SIGKILL, possible container OOM).";
    lost().driver_says(possible).is(LossKind::Killed);
    lost().driver_says(possible).deleting().is(LossKind::Deleted);
    // The container's own status is the better witness.
    lost().exit(52).driver_says(possible).is(LossKind::OutOfMemory);
    for nonsense in
        ["exited with exit code -1.", "exit code", "exit code ", "exit code 99999999999", "exit code --5"]
    {
        lost().driver_says(nonsense).settles_as(LossKind::Unknown);
    }
}

#[test]
fn last_words_only_count_where_the_code_says_no_more() {
    let text = "ERROR CoarseGrainedExecutorBackend: Driver 10.0.0.1:7078 disassociated! Shutting down.";
    lost().exit(1).left_message(text).is(LossKind::DriverConnection);
    lost().exit(1).left_message("see -XX:OnOOM").is(LossKind::ExitStatus);
    lost().exit(0).left_message("java.lang.OutOfMemoryError").is(LossKind::Completed);
    lost().exit(143).left_message("java.lang.OutOfMemoryError").is(LossKind::Killed);
    lost().exit(57).left_message(text).is(LossKind::AppFailure);
}

#[test]
fn messages_are_one_short_clean_line() {
    assert_eq!(text::bounded("a\n\tb\u{1b}[31m\u{0}c ", 99), "a b [31m c");
    assert_eq!(text::bounded("ééééé", 10), "ééééé");
    assert_eq!(text::bounded("éééééé", 10), "ééé…");
    assert_eq!(text::bounded("", 10), "");
    let long = "é\u{7}".repeat(100_000);
    let reason = lost().failed("Evicted", &long).with(|e| e.pod_name = long.clone()).known();
    assert!(reason.message.len() <= 1024 && reason.message.ends_with('…'));
}
