//! The table in `verdicts.md` is true: what it says is what is expected here.

use super::*;

#[test]
fn every_row_of_the_table_is_true() {
    let rows: Vec<Vec<&str>> = include_str!("../verdicts.md")
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| evidence |"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let cases = cases();
    let of_rows: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let of_cases: Vec<&str> = cases.iter().map(|(row, _)| *row).collect();
    assert_eq!(of_rows, of_cases);

    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" };
    for (row, (evidence, cases)) in rows.iter().zip(cases) {
        assert!(!cases.is_empty(), "{evidence}");
        for case in cases {
            let about = format!("{evidence}: {:#?}", case.0);
            let reason = case.settled();
            let kind = format!("`{}`", kebab(&reason.kind));
            let found = [&kind, yes_or_no(reason.exit_caused_by_app), yes_or_no(reason.keep_pod)];
            assert_eq!(row[1..], found, "{about}{reason:#?}");
        }
    }
}

impl Lost {
    /// Asked again and again, as the host does.
    #[track_caller]
    fn settled(mut self) -> LossReason {
        while classify(&self.0) == Verdict::Undetermined && self.0.checks_made < self.0.checks_max {
            self.0.checks_made += 1;
        }
        self.known()
    }
}

/// For every row of the table in `verdicts.md`, by its text, evidence that fits.
fn cases() -> Vec<(&'static str, Vec<Lost>)> {
    use ContainerRole::*;
    use DeletionCause::*;
    use DepartureKind::{Drained, Reclaimed};
    let exits = |codes: &[i32]| codes.iter().map(|&code| lost().exit(code)).collect::<Vec<_>>();
    let failed =
        |reasons: &[&str]| reasons.iter().map(|reason| lost().failed(reason, "…")).collect::<Vec<_>>();
    let waits = |reasons: &[&str]| reasons.iter().map(|reason| lost().waiting(reason)).collect::<Vec<_>>();
    let told = |texts: &[&str]| texts.iter().map(|text| lost().driver_says(text)).collect::<Vec<_>>();
    let evicted_for = |text| lost().failed("Evicted", text);
    let ended_by_kubelet = |text: &str| {
        lost().exit(137).disrupted("TerminationByKubelet").pod(|pod| {
            for mark in &mut pod.conditions {
                mark.message = Some(text.into());
            }
        })
    };
    let sidecar =
        |name: &str| Container { name: name.into(), ..container(ContainerRole::Sidecar, running()) };
    let crash_looping = |container: &mut Container| {
        container.state = waiting("CrashLoopBackOff");
        container.last_terminated = Some(end(1, "Error"));
    };
    vec![
        (
            "Rollcall asked for a roll, a scale-down, a kill or the fleet's removal",
            vec![
                lost().ours(Roll).exit(143),
                lost().ours(ScaleDown).exit(137),
                lost().ours(Kill).exit(0),
                lost().ours(FleetRemoved).gone(),
                lost().ours(Other("rebalance".into())).exit(1),
                lost().trigger(Trigger::OperatorKill),
            ],
        ),
        (
            "Rollcall deleted it as pending for too long, or is about to, and no row marked † fits",
            vec![
                lost().waiting("ContainerCreating"),
                lost().waiting("PodInitializing").trigger(Trigger::PodDeleted).ours(PendingTimeout),
            ],
        ),
        ("the driver's pod has ended or is gone", vec![lost().exit(1).with(|e| e.driver = Driver::Gone)]),
        (
            "`status.reason` `Evicted`: a sidecar went over its own storage limit",
            vec![
                evicted_for("Container fluentd exceeded its local ephemeral storage limit \"1Gi\". ")
                    .pod(|pod| pod.containers.push(sidecar("fluentd"))),
            ],
        ),
        (
            "`status.reason` `Evicted`: the pod or its executor went over its own storage limit",
            vec![
                evicted_for("Usage of EmptyDir volume \"spark-local-dir-1\" exceeds the limit \"10Gi\". "),
                evicted_for("Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. "),
                evicted_for("Container executor exceeded its local ephemeral storage limit \"10Gi\". "),
            ],
        ),
        (
            "`status.reason` `Evicted` otherwise, `DeadlineExceeded`",
            vec![
                evicted_for("The node was low on resource: memory. Threshold quantity: 100Mi."),
                lost().failed("DeadlineExceeded", "Pod was active on the node longer than …"),
            ],
        ),
        ("`status.reason` `Preempting`, `Preempted`", failed(&["Preempting", "Preempted"])),
        (
            "`status.reason` `Terminated`, `NodeShutdown`, `Shutdown`, `NodeLost`",
            failed(&["Terminated", "NodeShutdown", "Shutdown", "NodeLost"]),
        ),
        (
            "`status.reason` `OutOf…`, `UnexpectedAdmissionError`, `VolumeAttachmentLimitExceeded` and others of admission",
            failed(&["OutOfcpu", "OutOfmemory", "OutOfpods", "UnexpectedAdmissionError", "NodeAffinity"])
                .into_iter()
                .chain(failed(&["VolumeAttachmentLimitExceeded"]))
                .collect(),
        ),
        (
            "any other `status.reason` of a failed pod of which no container ever ran",
            vec![
                lost().failed("SomethingNew", "…").executor(waiting("ContainerCreating")).unregistered(),
                lost().failed("SomethingNew", "…").pod(|pod| pod.containers.clear()),
                lost().with(|e| e.pod = None).driver_says(
                    "The executor with id 7 exited with exit code -1(unexpected).\n\
                     The API gave the following brief reason: SomethingNew\n",
                ),
            ],
        ),
        (
            "`OOMKilled`, with exit code 137 or one that says no more",
            vec![
                lost().exit_for(137, "OOMKilled"),
                lost().exit_for(1, "OOMKilled"),
                lost().driver_says(
                    "… exited with exit code 137(SIGKILL, possible container OOM). … OOMKilled …",
                ),
            ],
        ),
        (
            "container reason `StartError`, `ContainerCannotRun`; exit code 128",
            vec![
                lost().exit_for(128, "StartError"),
                lost().exit_for(128, "ContainerCannotRun"),
                lost().exit(128),
                lost().exit_for(128, "StartError").left_message(
                    "error mounting \"/var/lib/x\" to rootfs at \"/data\": no such file or directory",
                ),
            ],
        ),
        (
            "the same, and the runtime says that there is no such executable",
            [
                "exec: \"java\": executable file not found in $PATH: unknown",
                "exec: \"/opt/entrypoint.sh\": stat /opt/entrypoint.sh: no such file or directory: unknown",
                "exec: \"/opt/entrypoint.sh\": permission denied: unknown",
            ]
            .map(|text| lost().exit_for(128, "StartError").left_message(text))
            .into(),
        ),
        (
            "exit codes 3, 10, 50, 134 with words of an `OutOfMemoryError`",
            vec![
                lost().exit(3).left_message("Terminating due to java.lang.OutOfMemoryError: Metaspace"),
                lost().exit(50).driver_says("java.lang.OutOfMemoryError: GC overhead limit exceeded"),
                lost().exit(134).left_message("Aborting due to java.lang.OutOfMemoryError: Java heap space"),
            ],
        ),
        (
            "exit codes 3, 10, 50, 134 with words of a full disk",
            vec![
                lost().exit(10).driver_says("java.io.IOException: No space left on device"),
                lost()
                    .exit(50)
                    .left_message("Uncaught exception\njava.io.IOException: No space left on device"),
                lost().exit(134).left_message("mmap: No space left on device"),
            ],
        ),
        ("exit code 52", vec![lost().exit(52), lost().driver_says("Command exited with code 52")]),
        (
            "exit code 3, once it had registered; 137 and 143 by `-XX:OnOutOfMemoryError`",
            vec![
                lost().exit(3),
                lost().exit(137).left_message(
                    "# java.lang.OutOfMemoryError: Java heap space\n# -XX:OnOutOfMemoryError=\"kill -9 %p\"\n\
                     #   Executing /bin/sh -c \"kill -9 14\"...",
                ),
            ],
        ),
        ("exit codes 10, 50, 51, 57, 101", exits(&[10, 50, 51, 57, 101])),
        ("exit codes 53, 54, 55", exits(&[53, 54, 55])),
        ("exit codes 56, 124", exits(&[56, 124])),
        (
            "exit codes 2, 126, 127; 3 before it registered",
            exits(&[2, 126, 127])
                .into_iter()
                .chain([lost().exit(3).unregistered(), lost().exit_for(127, "ContainerCannotRun")])
                .collect(),
        ),
        ("exit codes 132, 134, 136, 139", exits(&[132, 134, 136, 139])),
        ("exit code 135", exits(&[135])),
        (
            "marked: `PreemptionByScheduler`; by Kueue, for a preemption",
            vec![
                lost().gone().stopped("WorkloadEvictedDueToPreempted", "Preempted to accommodate a workload"),
                lost().exit(143).stopped("StoppedByKueue", "Preempted to accommodate a workload"),
                ended_by_kubelet("Pod was preempted by Kubelet to accommodate a critical pod."),
                lost().deleting().disrupted("PreemptionByScheduler"),
                lost().exit(143).disrupted("PreemptionByScheduler"),
            ],
        ),
        (
            "marked: `TerminationByKubelet`, for the shutdown of its node",
            vec![ended_by_kubelet("Pod was terminated in response to imminent node shutdown.")],
        ),
        (
            "marked: `TerminationByKubelet`, for its own use of storage",
            vec![ended_by_kubelet(
                "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. ",
            )],
        ),
        (
            "marked: `EvictionByEvictionAPI`, `TerminationByKubelet` and others; by Kueue otherwise",
            vec![
                lost()
                    .gone()
                    .stopped("WorkloadEvictedDueToPodsReadyTimeout", "Exceeded the PodsReady timeout"),
                lost()
                    .gone()
                    .stopped("WorkloadEvictedDueToClusterQueueStopped", "The ClusterQueue is stopped"),
                lost().gone().disrupted("EvictionByEvictionAPI"),
                lost().exit(137).disrupted("TerminationByKubelet"),
                lost().exit(143).disrupted("SomethingNew"),
            ],
        ),
        (
            "marked: `DeletionByTaintManager`, and the node is ready and stays",
            vec![lost().deleting().disrupted("DeletionByTaintManager")],
        ),
        (
            "marked: `DeletionByTaintManager` otherwise, `DeletionByPodGC`; by Kueue for a failed node",
            vec![
                lost().gone().stopped("WorkloadEvictedDueToNodeFailures", "…"),
                lost()
                    .deleting()
                    .disrupted("DeletionByTaintManager")
                    .departing(Reclaimed, "taint a/spot-itn"),
                lost().deleting().disrupted("DeletionByTaintManager").with(|e| e.node = None),
                lost().gone().disrupted("DeletionByTaintManager").node(|node| node.ready = "Unknown".into()),
                lost().gone().disrupted("DeletionByPodGC"),
            ],
        ),
        (
            "the node is gone, not ready, unreachable, or tainted as out of service or shut down",
            [
                lost().node(|node| node.gone = true),
                lost().gone().node(|node| node.ready = "Unknown".into()),
                lost().exit(143).node(|node| node.ready = "False".into()),
            ]
            .into_iter()
            .chain(
                ["node.kubernetes.io/out-of-service", "node.cloudprovider.kubernetes.io/shutdown"]
                    .map(|taint| lost().silent().node(|node| node.taints = vec![taint.into()])),
            )
            .collect(),
        ),
        (
            "† waiting: `ImagePullBackOff`, `ErrImagePull`, `InvalidImageName` and others of images",
            waits(&["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"])
                .into_iter()
                .chain([
                    lost().waiting("PodInitializing").beside(Init, waiting("ImagePullBackOff")),
                    lost().waiting("ErrImagePull").ours(PendingTimeout),
                ])
                .collect(),
        ),
        (
            "† waiting: `CreateContainerConfigError`; for an executable that does not exist",
            waits(&["CreateContainerConfigError"])
                .into_iter()
                .chain([lost().waiting("RunContainerError").pod(|pod| {
                    let message = Some("exec: \"tini\": executable file not found in $PATH".into());
                    let reason = Some("RunContainerError".into());
                    pod.containers[0].state = ContainerState::Waiting(Waiting { reason, message });
                })])
                .collect(),
        ),
        (
            "† waiting: `CreateContainerError`, `RunContainerError` and others of starting",
            waits(&["CreateContainerError", "RunContainerError", "PostStartHookError"]),
        ),
        (
            "† an init container failed, and the pod with it",
            vec![
                lost()
                    .waiting("PodInitializing")
                    .phase("Failed")
                    .trigger(Trigger::PodFailed)
                    .beside(Init, terminated(1, "Error")),
            ],
        ),
        (
            "† an init container fails again and again",
            vec![
                lost()
                    .waiting("PodInitializing")
                    .beside(Init, running())
                    .pod(|pod| crash_looping(&mut pod.containers[0])),
            ],
        ),
        (
            "words: `OutOfMemoryError`, no native thread, no memory for the JVM; the driver's `OOM`",
            vec![
                lost().driver_says("java.lang.OutOfMemoryError: Java heap space"),
                lost().driver_says("executor hit OOM"),
                lost().exit(1).left_message("java.lang.OutOfMemoryError: Java heap space"),
                lost().exit(1).left_message("unable to create native thread: possibly out of memory"),
                lost()
                    .exit(1)
                    .left_message("# There is insufficient memory for the Java Runtime Environment"),
            ],
        ),
        (
            "words: `OOMKilled`, a container beyond the memory limits of YARN",
            told(&[
                "OOMKilled",
                "Container killed by YARN for exceeding physical memory limits. 5.5 GB of 5.5 GB used.",
            ]),
        ),
        (
            "words: an uncaught exception, a missing class",
            vec![
                lost().exit(1).driver_says("Uncaught exception in thread main"),
                lost().exit(1).left_message("java.lang.NoClassDefFoundError: org/example/Udf"),
            ],
        ),
        (
            "words: `No space left on device`, a quota, a file system that is read-only",
            told(&[
                "java.io.IOException: No space left on device",
                "java.io.IOException: Disk quota exceeded",
                "java.nio.file.FileSystemException: /tmp/x: Read-only file system",
            ]),
        ),
        (
            "words: driver lost, unreachable or unknown to the DNS, registration failed, duplicate id, executor excluded",
            told(&[
                "Executor registration failed: …",
                "Cannot register with driver: spark://…",
                "java.lang.IllegalStateException: Duplicate executor ID: 7",
                "java.net.UnknownHostException: etl-driver-svc.data.svc",
                "Connection refused: etl-driver-svc/10.0.0.9:7078",
                "Executor is excluded due to failures: 7",
                "Executor self-exiting due to : Driver 10.0.0.1:7078 disassociated! Shutting down.",
            ])
            .into_iter()
            .chain([lost().exit(1).unregistered().left_message("Failed to connect to /10.0.0.9:33333")])
            .collect(),
        ),
        (
            "words: `Unable to create executor`",
            told(&["Unable to create executor due to Address already in use"]),
        ),
        (
            "words: an option that the JVM refuses, a heap that it cannot have, no main class, a wrong architecture",
            [
                "Unrecognized option: -Xmse",
                "Unrecognized VM option 'UseMagic'",
                "Invalid maximum heap size: -Xmx8gg",
                "Initial heap size set to a larger value than the maximum heap size",
                "Error: Could not find or load main class org.apache.spark.executor.Executor",
                "exec /opt/entrypoint.sh: exec format error",
            ]
            .map(|text| lost().exit(1).unregistered().left_message(text))
            .into(),
        ),
        ("words: `worker lost`", told(&["worker lost"])),
        ("words: `was preempted`", told(&["Container c_1 on host: h was preempted."])),
        (
            "the node was announced to be taken away, and the pod was deleted, or killed by 129 to 159",
            vec![
                lost().exit(143).departing(Reclaimed, "taint a/spot-itn"),
                lost().exit(137).departing(Reclaimed, "taint a/spot-itn"),
                lost().gone().departing(Reclaimed, "taint a/spot-itn"),
                lost().deleting().exit(143).departing(Reclaimed, "taint a/spot-itn"),
                lost()
                    .gone()
                    .departing(Reclaimed, "taint a")
                    .driver_says("deleted by a user or the framework"),
                lost()
                    .waiting("PodInitializing")
                    .phase("Failed")
                    .trigger(Trigger::PodFailed)
                    .beside(Init, terminated(137, "Error"))
                    .departing(Reclaimed, "taint a"),
            ],
        ),
        (
            "the node was announced to be drained, and the pod was deleted, or killed by 129 to 159",
            vec![
                lost().exit(143).departing(Drained, "taint karpenter.sh/disrupted"),
                lost().gone().departing(Drained, "taint ToBeDeletedByClusterAutoscaler"),
            ],
        ),
        (
            "somebody else deleted the pod, or the driver released the executor",
            vec![
                lost().gone(),
                lost().gone().node(|node| node.taints = vec!["node.kubernetes.io/not-ready".into()]),
                lost().gone().node(|node| node.taints = vec!["node.kubernetes.io/unreachable".into()]),
                lost().deleting().exit(143),
                lost().deleting().exit(137),
                lost().deleting().exit(0),
                lost().deleting().exit(1),
                lost().gone().exit(143).trigger(Trigger::PodDeleted),
                lost().trigger(Trigger::PodMissing).with(|e| e.pod = None),
                lost().exit(143).driver_says("Executor decommission: idle for too long"),
                lost().driver_says("Executor killed by driver."),
                lost().driver_says("The executor with id 7 was deleted by a user or the framework."),
            ],
        ),
        (
            "exit code 0, or phase `Succeeded`",
            vec![
                lost().exit_for(0, "Completed"),
                // A Python worker was killed, the JVM lived on.
                lost().exit_for(0, "OOMKilled"),
                lost().trigger(Trigger::PodSucceeded).pod(|pod| pod.containers.clear()),
                lost().exit(0).driver_says("Executor decommission: idle for too long"),
                lost().exit(0).gone(),
            ],
        ),
        (
            "container reason `ContainerStatusUnknown`, `Unknown`",
            vec![
                lost().exit_for(137, "ContainerStatusUnknown"),
                lost().exit_for(255, "Unknown"),
                lost().gone().exit_for(255, "Unknown"),
                lost().driver_says(
                    "exited with exit code 255(exit-1, your guess is as good as mine). \
                     container name: e exit code: 255 termination reason: Unknown",
                ),
            ],
        ),
        (
            "exit codes 129 to 159: other signals, with 137 and 143",
            exits(&[129, 130, 131, 133, 137, 138, 140, 143, 158, 159]),
        ),
        ("exit code 58", exits(&[58])),
        (
            "any other exit code, once it had registered",
            exits(&[1, 4, 11, 49, 59, 125, 160, 255, -1, i32::MIN, i32::MAX]),
        ),
        ("any other exit code, before it registered", vec![lost().exit(1).unregistered()]),
        (
            "a sidecar failed, and the pod with it",
            vec![
                lost()
                    .trigger(Trigger::PodFailed)
                    .phase("Failed")
                    .beside(Sidecar, terminated(1, "Error"))
                    .pod(|pod| pod.containers.retain(|container| container.role != Executor)),
            ],
        ),
        (
            "any other `status.reason` of a failed pod that started and says no more",
            vec![lost().failed("SomethingNew", "…")],
        ),
        (
            "the same, before the executor was started",
            vec![
                lost()
                    .failed("SomethingNew", "…")
                    .executor(waiting("PodInitializing"))
                    .unregistered()
                    .beside(Init, terminated(0, "Completed")),
            ],
        ),
        (
            "last check: nothing at all, and the node was announced to be taken away",
            vec![
                lost().silent().departing(Reclaimed, "taint a/spot-itn").checks(10),
                lost().departing(Reclaimed, "taint a/spot-itn").checks(10),
            ],
        ),
        (
            "last check: nothing at all, and the node was announced to be drained",
            vec![lost().silent().departing(Drained, "taint a").ours(Lost).exit(137).checks(10)],
        ),
        (
            "last check: silent",
            vec![
                lost().silent().checks(10),
                lost().ours(Lost).exit(137).checks(10),
                lost().driver_says("Executor heartbeat timed out after 1 ms").deleting().exit(143).checks(10),
            ],
        ),
        (
            "last check: nothing at all",
            vec![
                lost().checks(10),
                lost().checks(10).driver_says("Remote RPC client disassociated. Likely due to containers …"),
                lost().checks(10).failed("", "").pod(|pod| pod.containers.clear()),
            ],
        ),
    ]
}
