//! Evidence by a throw of the dice: no panic, and what holds for every verdict.

use std::collections::BTreeSet;

use super::*;

#[test]
fn any_evidence_gets_a_proper_answer() {
    let mut kinds = BTreeSet::new();
    for seed in 0..20_000 {
        let evidence = Random(seed).evidence();
        let reason = match classify(&evidence) {
            Verdict::Known(reason) => reason,
            verdict => {
                assert_eq!(verdict, Verdict::Undetermined, "seed {seed}");
                assert!(evidence.checks_made < evidence.checks_max, "seed {seed}: {evidence:#?}");
                assert!(evidence.driver != Driver::Gone, "seed {seed}: {evidence:#?}");
                continue;
            }
        };
        let about = || format!("seed {seed}: {reason:#?} of {evidence:#?}");
        assert!(!reason.message.is_empty() && reason.message.len() <= 1024, "{}", about());
        assert!(!reason.message.contains(char::is_control), "{}", about());
        assert!(reason.keep_pod || !reason.exit_caused_by_app, "{}", about());
        let unregistered = "No task can have run: it had not registered.";
        assert!(!evidence.ever_registered || !reason.message.contains(unregistered), "{}", about());
        for words in words(&evidence) {
            let kept = reason.message.contains(words) || reason.message.len() > 900;
            assert!(kept, "{words:?} is missing: {}", about());
        }
        if reason.exit_caused_by_app {
            assert!(may_blame_the_application(&evidence), "{}", about());
        }
        if matches!(reason.kind, LossKind::Released) {
            assert!(evidence.our_deletion.is_some() || is_ours(&evidence.trigger), "{}", about());
        }
        kinds.insert(kebab(&reason.kind));
    }
    // Every kind but those of a policy's own: else the evidence is not weird enough.
    assert_eq!(kinds.len(), 21, "{kinds:?}");
}

/// What only the evidence says: it is deleted with the pod.
fn words(evidence: &Evidence) -> Vec<&str> {
    let pod = evidence.pod.iter();
    let pod = pod.flat_map(|pod| [&pod.reason, &pod.message]);
    let node = evidence.node.iter().flat_map(|node| &node.departures).map(|departure| &departure.sign);
    let said = pod.chain([&evidence.driver_remove_reason]).flatten().chain(node);
    // Only what is quoted as it is: on one line, short, without control characters.
    let plain = |text: &&str| text.len() < 100 && text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    said.map(|text| text.trim_end_matches('.').trim()).filter(plain).collect()
}

/// Never the driver's end, nor before it registered; and of our requests only what clears away, or came after the end.
fn may_blame_the_application(evidence: &Evidence) -> bool {
    if !evidence.ever_registered {
        return false;
    }
    let Some(deletion) = &evidence.our_deletion else { return evidence.driver != Driver::Gone };
    let ended_first = |container: &Container| {
        let ends = match &container.state {
            ContainerState::Terminated(end) => Some(end),
            _ => container.last_terminated.as_ref(),
        };
        container.role == ContainerRole::Executor
            && ends.and_then(|end| end.finished_at_ms).is_some_and(|finished| finished < deletion.at_ms)
    };
    evidence.driver != Driver::Gone
        && (deletion.why == DeletionCause::Lost
            || evidence.pod.iter().flat_map(|pod| &pod.containers).any(ended_first))
}

fn is_ours(trigger: &Trigger) -> bool {
    matches!(trigger, Trigger::OperatorKill | Trigger::PendingTimeout)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[(self.next() % choices.len() as u64) as usize].clone()
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (!self.one_in(3)).then(|| value(self))
    }

    fn text(&mut self) -> String {
        let text = self.of(&[
            "",
            ".",
            "Error",
            "OOMKilled",
            "StartError",
            "ContainerStatusUnknown",
            "Completed",
            "Evicted",
            "Preempting",
            "Terminated",
            "OutOfcpu",
            "Running",
            "Pending",
            "Failed",
            "Succeeded",
            "Unknown",
            "True",
            "False",
            "ImagePullBackOff",
            "CreateContainerConfigError",
            "CrashLoopBackOff",
            "PreemptionByScheduler",
            "DeletionByTaintManager",
            "Executor heartbeat timed out after 130004 ms",
            "Command exited with code 52",
            "exit code ",
            "exit code 9é",
            "java.lang.OutOfMemoryError",
            "OOM",
            "Executor decommission: x",
            "SomeNewReason",
            "Preempted to accommodate a higher priority Workload",
            "No space left on device",
            "Terminating due to java.lang.OutOfMemoryError: Java heap space",
            "-XX:OnOutOfMemoryError=\"kill -9 %p\" Executing kill",
            "exec: \"java\": executable file not found in $PATH",
            "The executor with id 7 exited with exit code -1. The API gave the following brief reason: Evicted",
            "exit code 0. container name: a exit code: 52 termination reason: OOMKilled container name: ",
            "container name: spark-kubernetes-executor exit code: 255 termination reason: Unknown",
            "Pod ephemeral local storage usage exceeds",
            "node.kubernetes.io/unreachable",
            "\u{0}\u{1b}\u{9f}",
            "日本語🦀",
        ]);
        if self.one_in(100) { text.repeat(1_000) } else { text.into() }
    }

    fn time_ms(&mut self) -> i64 {
        match self.next() % 4 {
            0 => self.of(&[i64::MIN, -1, 0, 1, i64::MAX]),
            _ => NOW_MS - 20_000 + (self.next() % 30_000) as i64,
        }
    }

    fn end(&mut self) -> Terminated {
        let any = self.next() as i32;
        Terminated {
            exit_code: self
                .of(&[0, 1, 2, 3, 50, 52, 53, 56, 127, 128, 134, 135, 137, 143, 158, 255, -1, any]),
            signal: self.maybe(|r| r.next() as i32),
            reason: self.maybe(Self::text),
            message: self.maybe(Self::text),
            started_at_ms: self.maybe(Self::time_ms),
            finished_at_ms: self.maybe(Self::time_ms),
        }
    }

    fn container(&mut self) -> Container {
        let state = match self.next() % 3 {
            0 => ContainerState::Running(self.maybe(Self::time_ms)),
            1 => ContainerState::Waiting(Waiting {
                reason: self.maybe(Self::text),
                message: self.maybe(Self::text),
            }),
            _ => ContainerState::Terminated(self.end()),
        };
        Container {
            name: self.text(),
            role: self.of(&[ContainerRole::Executor, ContainerRole::Sidecar, ContainerRole::Init]),
            state,
            last_terminated: self.maybe(Self::end),
            restart_count: self.next() as u32,
        }
    }

    fn pod(&mut self) -> Pod {
        Pod {
            phase: self.text(),
            reason: if self.one_in(4) { Some(self.text()) } else { None },
            message: self.maybe(Self::text),
            gone: self.one_in(3),
            created_at_ms: self.maybe(Self::time_ms),
            deletion_at_ms: if self.one_in(3) { Some(self.time_ms()) } else { None },
            deletion_grace_ms: if self.one_in(3) { Some(self.time_ms().unsigned_abs()) } else { None },
            conditions: (0..self.next() % 3)
                .map(|_| Condition {
                    name: self.of(&["DisruptionTarget", "TerminationTarget", "PodScheduled"]).into(),
                    status: self.text(),
                    reason: self.maybe(Self::text),
                    message: self.maybe(Self::text),
                })
                .collect(),
            containers: (0..self.next() % 4).map(|_| self.container()).collect(),
            node_name: self.maybe(Self::text),
            scheduling_gates: if self.one_in(9) { vec![self.text()] } else { Vec::new() },
        }
    }

    fn departure(&mut self) -> Departure {
        let kind = self.of(&[DepartureKind::Reclaimed, DepartureKind::Drained, DepartureKind::Cordoned]);
        Departure { kind, sign: self.text() }
    }

    fn evidence(&mut self) -> Evidence {
        let trigger = self.text();
        let cause = self.text();
        Evidence {
            fleet: self.text(),
            application_id: self.text(),
            executor_id: self.next(),
            pod_name: self.text(),
            now_ms: self.time_ms(),
            trigger: self.of(&[
                Trigger::HeartbeatTimeout,
                Trigger::PodFailed,
                Trigger::PodSucceeded,
                Trigger::PodDeleted,
                Trigger::PodMissing,
                Trigger::DriverRemoved,
                Trigger::PendingTimeout,
                Trigger::OperatorKill,
                Trigger::Other(trigger),
            ]),
            lost_at_ms: self.time_ms(),
            checks_made: (self.next() % 5) as u32,
            checks_max: (self.next() % 5) as u32,
            ever_registered: self.one_in(2),
            since_heartbeat_ms: self.maybe(|r| if r.one_in(5) { u64::MAX } else { r.next() % 200_000 }),
            our_deletion: self.one_in(3).then(|| Deletion {
                why: self.of(&[
                    DeletionCause::Roll,
                    DeletionCause::ScaleDown,
                    DeletionCause::Kill,
                    DeletionCause::PendingTimeout,
                    DeletionCause::Lost,
                    DeletionCause::FleetRemoved,
                    DeletionCause::Other(cause),
                ]),
                at_ms: self.time_ms(),
            }),
            driver: self.of(&[Driver::Running, Driver::Running, Driver::Unknown, Driver::Gone]),
            driver_remove_reason: if self.one_in(3) { Some(self.text()) } else { None },
            pod: self.maybe(Self::pod),
            node: if self.one_in(2) {
                Some(NodeState {
                    name: self.text(),
                    gone: self.one_in(9),
                    ready: self.of(&["True", "True", "True", "False", "Unknown", ""]).into(),
                    reason: self.maybe(Self::text),
                    cordoned: self.one_in(2),
                    taints: if self.one_in(9) { vec![self.text()] } else { Vec::new() },
                    spot: self.one_in(2),
                    departures: if self.one_in(3) { vec![self.departure()] } else { Vec::new() },
                })
            } else {
                None
            },
        }
    }
}
