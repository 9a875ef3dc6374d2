//! What reports of other people's losses showed: departures, the driver's text, reasons that no rule knows.

use super::*;

// ------------------------------------------------------------------------------- departures --

#[test]
fn a_node_that_goes_explains_what_nothing_else_does() {
    use DepartureKind::*;
    let reclaimed = |lost: Lost| lost.departing(Reclaimed, "taint a/spot-itn");
    reclaimed(lost().exit(52)).is(LossKind::OutOfMemory);
    reclaimed(lost().exit_for(137, "OOMKilled")).is(LossKind::MemoryLimit);
    reclaimed(lost().exit(1)).is(LossKind::ExitStatus);
    reclaimed(lost().gone().disrupted("PreemptionByScheduler")).is(LossKind::Preempted);
    reclaimed(lost().ours(DeletionCause::Roll).exit(143)).is(LossKind::Released);
    reclaimed(lost().gone().driver_says("Executor killed by driver.")).is(LossKind::Deleted);
    reclaimed(lost().silent()).settles_as(LossKind::NodeLost);
    reclaimed(lost().exit(143)).says(
        "Pod exec-7 was lost with its node: node-1 was announced to be taken away (taint a/spot-itn). \
         Its container exited with 143 (Error). Node node-1: Ready is True, taint a/spot-itn.",
    );
    // The more urgent sign is listed first.
    lost().exit(137).departing(Drained, "taint b").departing(Cordoned, "cordon").is(LossKind::Evicted);
    // A cordon alone explains nothing, but a drain may follow.
    let cordoned = || lost().exit(137).node(|node| node.cordoned = true).departing(Cordoned, "cordon");
    cordoned().settles_as(LossKind::Killed);
    assert!(cordoned().checks(10).known().message.ends_with("Node node-1: Ready is True, cordoned."));
    cordoned().deleting().is(LossKind::Deleted);
    lost().silent().departing(Cordoned, "cordon").settles_as(LossKind::HeartbeatLost);
}

#[test]
fn a_signal_on_a_spot_node_waits_for_the_nodes_end() {
    let spot = |code| lost().exit(code).node(|node| node.spot = true);
    spot(143).settles_as(LossKind::Killed);
    spot(137).settles_as(LossKind::Killed);
    spot(143).checks(3).node(|node| node.gone = true).is(LossKind::NodeLost);
    spot(143).deleting().is(LossKind::Deleted);
    // It had ended when its driver cleared it away: that deletion explains nothing.
    let cleared = || spot(143).finished(NOW_MS - 4_000).deleting();
    cleared().settles_as(LossKind::Killed);
    cleared().gone().settles_as(LossKind::Killed);
    spot(143).ours(DeletionCause::Roll).is(LossKind::Released);
    spot(1).is(LossKind::ExitStatus);
}

#[test]
fn a_pod_that_vanished_waits_for_its_drivers_word() {
    lost().gone().settles_soon_as(LossKind::Deleted);
    lost().gone().exit(137).settles_soon_as(LossKind::Deleted);
    lost().trigger(Trigger::PodMissing).with(|e| e.pod = None).settles_soon_as(LossKind::Deleted);
    lost().gone().with(|e| e.checks_max = 0).is(LossKind::Deleted);
    lost().gone().with(|e| (e.checks_made, e.checks_max) = (1, 1)).is(LossKind::Deleted);
    // Explained already.
    lost().gone().deleting().is(LossKind::Deleted);
    lost()
        .gone()
        .driver_says("The executor with id 7 was deleted by a user or the framework.")
        .is(LossKind::Deleted);
    let told =
        "The executor with id 7 exited with exit code -1.\nThe API gave the following brief reason: Evicted";
    lost().gone().checks(1).driver_says(told).is(LossKind::Evicted);
}

// ------------------------------------------------------------------------ the driver's text --

#[test]
fn the_drivers_text_counts_for_the_executors_container_only() {
    let told = "exited with exit code 137(SIGKILL, possible container OOM). container name: proxy exit code: 137 \
                termination reason: OOMKilled container name: spark-kubernetes-executor exit code: 143 \
                termination reason: Error";
    let reason = lost().gone().beside(ContainerRole::Sidecar, running()).driver_says(told).known();
    assert_eq!((reason.kind, reason.exit_code), (LossKind::Deleted, Some(143)));
    assert!(!reason.exit_caused_by_app, "a sidecar's OOM");
    // The pod's own status is the better witness, of the reason too.
    lost().failed("Preempting", "").driver_says(told).is(LossKind::Preempted);
    let other = "The API gave the following brief reason: Evicted";
    lost().failed("Preempting", "").driver_says(other).is(LossKind::Preempted);
    // By the name that the pod gives it, wherever it stands.
    let mine = |e: &mut Evidence| e.pod.as_mut().expect("a pod").containers[0].name = "mine".into();
    let told = "exit code 0. container name: mine exit code: 52 container name: log-executor exit code: 0";
    lost().gone().with(mine).driver_says(told).is(LossKind::OutOfMemory);
}

#[test]
fn a_phrase_late_in_one_long_line_is_quoted() {
    let line = format!("{}java.lang.OutOfMemoryError: Metaspace and more", "é ".repeat(400));
    let reason = lost().exit(1).left_message(&line).known();
    assert_eq!(reason.kind, LossKind::OutOfMemory);
    assert!(reason.message.contains("java.lang.OutOfMemoryError: Metaspace and more"), "{reason:?}");
    assert!(reason.message.len() < 800, "only what is near it: {reason:?}");
}

// ------------------------------------------------------------------------------ what is kept --

#[test]
fn no_reason_is_lost_whichever_rule_decides() {
    let reason = lost().exit(137).failed("SomethingNew", "the kubelet says why").known();
    assert_eq!(reason.kind, LossKind::Killed);
    assert!(reason.message.contains("Its pod's status: SomethingNew: the kubelet says why."), "{reason:?}");
    let reason = lost().exit(52).left_message("my last words").gone().known();
    assert!(reason.message.contains("It left a message: my last words."), "{reason:?}");
    let stuck = lost().waiting("SomethingNew").ours(DeletionCause::Roll).known();
    assert!(stuck.message.contains("spark-kubernetes-executor waits: SomethingNew."), "{stuck:?}");
    let tainted = lost().exit(52).node(|node| node.taints = vec!["example.com/new".into()]).known();
    assert!(tainted.message.contains("taint example.com/new"), "{tainted:?}");
    let sidecar = lost().exit(52).beside_exit(ContainerRole::Sidecar, 9).phase("Running").known();
    assert!(
        sidecar.message.contains("Its sidecar container proxy exited with exit status code 9"),
        "{sidecar:?}"
    );
    let restarted = lost().exit(1).pod(|pod| pod.containers[0].last_terminated = Some(end(255, "Unknown")));
    let restarted = restarted.known();
    assert_eq!(restarted.kind, LossKind::ExitStatus);
    assert!(restarted.message.contains("Its run before that exited with 255 (Unknown)."), "{restarted:?}");
    // Unless it has been told.
    let evicted = lost().failed("Evicted", "The node was low").driver_says("Evicted").known();
    assert_eq!(evicted.message, "Pod exec-7 was evicted (Evicted: The node was low).");
}

#[test]
fn before_it_registers_nothing_is_the_applications() {
    for code in [1, 10, 50, 51, 52, 57, 101, 134, 139] {
        let reason = lost().exit(code).unregistered().known();
        assert!(!reason.exit_caused_by_app && reason.keep_pod, "{code}");
    }
    let early = [
        lost().exit_for(137, "OOMKilled"),
        lost().exit(1).left_message("java.lang.ClassNotFoundException: org.example.Plugin"),
        lost().failed("Evicted", "Usage of EmptyDir volume \"x\" exceeds the limit \"1Gi\"."),
    ];
    for early in early {
        let reason = early.unregistered().known();
        assert!(!reason.exit_caused_by_app && reason.keep_pod, "{reason:?}");
        assert!(reason.message.contains("No task can have run"), "{reason:?}");
    }
}

#[test]
fn only_the_driver_out_of_reach_is_the_driver() {
    let peer = "java.io.IOException: Failed to connect to /10.0.0.5:7079";
    lost().exit(1).left_message(peer).is(LossKind::ExitStatus);
    lost().exit(1).left_message(&format!("{peer}\nDriver is fine")).is(LossKind::ExitStatus);
    lost().exit(1).left_message("Failed to connect to etl-driver-svc:7078").is(LossKind::DriverConnection);
    lost().exit(1).left_message(peer).unregistered().is(LossKind::DriverConnection);
}

// ----------------------------------------------------------------------------------- pending --

#[test]
fn a_pending_pod_says_who_waits_for_what_and_where() {
    let pending = || lost().waiting("PodInitializing").pod(|pod| pod.node_name = Some("node-9".into()));
    let hangs = ContainerState::Running(Some(NOW_MS - 540_000));
    pending().beside(ContainerRole::Init, hangs.clone()).says(
        "Pod exec-7 was pending for too long on node node-9: init container fetch-jars has been running for 540 s; \
         executor container spark-kubernetes-executor waits (PodInitializing).",
    );
    // A restartable one runs on when the next has its turn, and hangs nothing.
    let sidecar = pending().beside(ContainerRole::Init, terminated(0, "Completed"));
    sidecar.beside(ContainerRole::Init, hangs).says(
        "Pod exec-7 was pending for too long on node node-9: \
         executor container spark-kubernetes-executor waits (PodInitializing).",
    );
    let image = lost().waiting("ErrImagePull").pod(|pod| pod.node_name = Some("node-9".into()));
    image.says(
        "Pod exec-7's executor container spark-kubernetes-executor cannot get its image (ErrImagePull). \
         It was on node node-9.",
    );
    let gated = lost().waiting("").with(|e| e.node = None).pod(|pod| {
        (pod.scheduling_gates, pod.containers) = (vec!["kueue.x-k8s.io/admission".into()], Vec::new());
    });
    gated.says("Pod exec-7 was pending for too long: scheduling gates hold it: kueue.x-k8s.io/admission.");
}

#[test]
fn an_init_container_may_fail_with_exit_code_0() {
    let init = |reason| lost().waiting("PodInitializing").beside(ContainerRole::Init, terminated(0, reason));
    init("OOMKilled")
        .says("Pod exec-7's init container fetch-jars exited with exit status code 0 (OOMKilled).");
    init("OOMKilled").phase("Failed").trigger(Trigger::PodFailed).is(LossKind::StartFailed);
    init("Completed").is(LossKind::Released);
    init("Unknown").phase("Failed").trigger(Trigger::PodFailed).is(LossKind::NodeLost);
    // One that was passed all the same holds nothing up.
    let passed = lost().waiting("PodInitializing").beside(ContainerRole::Init, running());
    passed.beside(ContainerRole::Init, terminated(0, "OOMKilled")).is(LossKind::Released);
}

#[test]
fn silence_is_measured_when_it_is_found() {
    let asked_later = lost().silent().checks(10).with(|e| e.now_ms = e.lost_at_ms + 10_000);
    let reason = asked_later.with(|e| e.since_heartbeat_ms = Some(130_001)).known();
    assert!(reason.message.starts_with("Executor heartbeat timed out after 120001 ms;"), "{reason:?}");
    let spoke_since = lost().silent().checks(10).with(|e| e.now_ms = e.lost_at_ms + 10_000);
    let reason = spoke_since.with(|e| e.since_heartbeat_ms = Some(292)).known();
    assert!(reason.message.starts_with("Executor heartbeat timed out after 0 ms;"), "{reason:?}");
}
