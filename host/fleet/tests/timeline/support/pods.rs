//! What a line says about a pod: `pod 1 failed exit=1`.

use fleet::event::{Phase, PodView};
use fleet::id::ExecutorId;
use fleet::question::{Condition, Container, ContainerRole, ContainerState, Pod, Terminated};

use super::{WALL_MS, World};

impl World {
    /// The pod's next state.
    pub(super) fn change(&mut self, id: u64, words: &[&str]) -> PodView {
        self.revision += 1;
        let fresh = PodView {
            executor: ExecutorId(id),
            name: format!("f-exec-{id}").into(),
            uid: format!("u{id}").as_str().into(),
            revision: 0,
            owner: Some("driver-uid".into()),
            selected: true,
            phase: Phase::Pending,
            node: None,
            do_not_roll: false,
            status: Box::new(Pod {
                phase: "Pending".to_owned(),
                reason: None,
                message: None,
                gone: false,
                created_at_ms: Some(WALL_MS + i64::try_from(self.now_ms).unwrap()),
                deletion_at_ms: None,
                deletion_grace_ms: None,
                conditions: vec![],
                containers: vec![],
                node_name: None,
                scheduling_gates: vec![],
            }),
        };
        let pod = self.pods.entry(id).or_insert(fresh);
        pod.revision = self.revision;
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let phase = |phase: Phase| (phase, format!("{phase:?}"));
            match key {
                "pending" => (pod.phase, pod.status.phase) = phase(Phase::Pending),
                "running" => (pod.phase, pod.status.phase) = phase(Phase::Running),
                "succeeded" => (pod.phase, pod.status.phase) = phase(Phase::Succeeded),
                "failed" => (pod.phase, pod.status.phase) = phase(Phase::Failed),
                "terminating" => {
                    let wall_ms = WALL_MS + i64::try_from(self.now_ms).unwrap();
                    pod.status.deletion_at_ms = Some(wall_ms + 30_000);
                    pod.status.deletion_grace_ms = Some(30_000);
                }
                "disrupted" => pod.status.conditions.push(Condition {
                    name: "DisruptionTarget".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("EvictionByEvictionAPI".to_owned()),
                    message: None,
                }),
                "gated" => pod.status.scheduling_gates.push(value.to_owned()),
                "admitted" => pod.status.scheduling_gates.clear(),
                "terminating-target" => pod.status.conditions.push(Condition {
                    name: "TerminationTarget".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("WorkloadEvictedDueToPreempted".to_owned()),
                    message: None,
                }),
                "do-not-roll" => pod.do_not_roll = true,
                "orphaned" => pod.owner = None,
                "unlabelled" => pod.selected = false,
                "node" => pod.node = Some(value.into()),
                "uid" => pod.uid = value.into(),
                "exit" => {
                    let exit_code = value.parse().unwrap();
                    let ended = Terminated {
                        exit_code,
                        signal: None,
                        reason: None,
                        message: None,
                        started_at_ms: None,
                        finished_at_ms: None,
                    };
                    pod.status.containers = vec![Container {
                        name: "spark-kubernetes-executor".to_owned(),
                        role: ContainerRole::Executor,
                        state: ContainerState::Terminated(ended),
                        last_terminated: None,
                        restart_count: 0,
                    }];
                }
                other => panic!("a pod cannot be {other}"),
            }
        }
        pod.clone()
    }
}
