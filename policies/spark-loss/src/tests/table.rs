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
            let reason = case.known();
            let kind = format!("`{}`", kebab(&reason.kind));
            let found = [&kind, yes_or_no(reason.exit_caused_by_app), yes_or_no(reason.keep_pod)];
            assert_eq!(row[1..], found, "{about}{reason:#?}");
        }
    }
}

/// For every row of the table in `verdicts.md`, by its text, evidence that fits.
fn cases() -> Vec<(&'static str, Vec<Lost>)> {
    use ContainerRole::*;
    use DeletionCause::*;
    let exits = |codes: &[i32]| codes.iter().map(|&code| lost().exit(code)).collect::<Vec<_>>();
    let failed =
        |reasons: &[&str]| reasons.iter().map(|reason| lost().failed(reason, "…")).collect::<Vec<_>>();
    let waits = |reasons: &[&str]| reasons.iter().map(|reason| lost().waiting(reason)).collect::<Vec<_>>();
    let told = |texts: &[&str]| texts.iter().map(|text| lost().driver_says(text)).collect::<Vec<_>>();
    let evicted_for = |text| lost().failed("Evicted", text);
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
            "`status.reason` `Evicted`: the pod went over its own storage limit",
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
            "`status.reason` `OutOf…`, `UnexpectedAdmissionError`, `NodeAffinity` and others of admission",
            failed(&["OutOfcpu", "OutOfmemory", "OutOfpods", "UnexpectedAdmissionError", "NodeAffinity"]),
        ),
        (
            "`OOMKilled`, with exit code 137 or one that says no more",
            vec![
                lost().exit_for(137, "OOMKilled"),
                lost().exit_for(1, "OOMKilled"),
                lost().driver_says(
                    "… exited with exit code 137(SIGKILL, possible container OOM). … OOMKilled …",
                ),
                lost().driver_says("OOMKilled"),
            ],
        ),
        (
            "container reason `StartError`, `ContainerCannotRun`; exit code 128",
            vec![
                lost().exit_for(128, "StartError"),
                lost().exit_for(127, "ContainerCannotRun"),
                lost().exit(128),
            ],
        ),
        ("exit code 52", vec![lost().exit(52), lost().driver_says("Command exited with code 52")]),
        ("exit codes 10, 50, 51, 57, 101", exits(&[10, 50, 51, 57, 101])),
        ("exit codes 53, 54, 55", exits(&[53, 54, 55])),
        ("exit codes 56, 124", exits(&[56, 124])),
        ("exit codes 2, 3, 126, 127", exits(&[2, 3, 126, 127])),
        ("exit codes 132, 134, 136, 139", exits(&[132, 134, 136, 139])),
        ("exit code 135", exits(&[135])),
        (
            "disrupted: `PreemptionByScheduler`",
            vec![
                lost().deleting().disrupted("PreemptionByScheduler"),
                lost().exit(143).disrupted("PreemptionByScheduler"),
            ],
        ),
        (
            "disrupted: `EvictionByEvictionAPI`, `TerminationByKubelet` and others",
            vec![
                lost().gone().disrupted("EvictionByEvictionAPI"),
                lost().exit(137).disrupted("TerminationByKubelet"),
                lost().exit(143).disrupted("SomethingNew"),
            ],
        ),
        (
            "disrupted: `DeletionByTaintManager`, and the node is ready",
            vec![lost().deleting().disrupted("DeletionByTaintManager")],
        ),
        (
            "disrupted: `DeletionByTaintManager` otherwise, `DeletionByPodGC`",
            vec![
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
        ("† waiting: `CreateContainerConfigError`", waits(&["CreateContainerConfigError"])),
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
            "the driver's words or the container's last: `OutOfMemoryError`; the driver's `OOM`",
            vec![
                lost().driver_says("java.lang.OutOfMemoryError: Java heap space"),
                lost().driver_says("executor hit OOM"),
                lost().exit(1).left_message("java.lang.OutOfMemoryError: Java heap space"),
            ],
        ),
        (
            "the driver's words or the container's last: an uncaught exception, a missing class",
            vec![
                lost().exit(1).driver_says("Uncaught exception in thread main"),
                lost().exit(1).left_message("java.lang.NoClassDefFoundError: org/example/Udf"),
            ],
        ),
        (
            "the driver's words or the container's last: `No space left on device`",
            told(&["java.io.IOException: No space left on device"]),
        ),
        (
            "the driver's words or the container's last: driver lost, registration failed, executor excluded",
            told(&[
                "Executor registration failed: …",
                "Cannot register with driver: spark://…",
                "Executor is excluded due to failures: 7",
                "Executor self-exiting due to : Driver 10.0.0.1:7078 disassociated! Shutting down.",
            ]),
        ),
        (
            "the driver's words or the container's last: `Unable to create executor`",
            told(&["Unable to create executor due to Address already in use"]),
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
        ("container reason `ContainerStatusUnknown`", vec![lost().exit_for(137, "ContainerStatusUnknown")]),
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
