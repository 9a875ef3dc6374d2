//! The built-in policies as native code: the baseline that `policy bench` compares the sandbox with. They never make
//! decisions here.

use fleet::question::{Columns, Evidence, RollQuestion};
use rollcall_policy::{
    Container, ContainerRole, ContainerState, Driver, Executor, Fleet, Node, Pod, Terminated, Trigger,
};

/// The built-in policy of this name, ready to answer one of these.
pub fn policy(name: &str, question: &RollQuestion, evidence: &Evidence) -> Option<Box<dyn Fn()>> {
    if let Some((_, select)) = spark_roll::POLICIES.iter().find(|(policy, _)| *policy == name) {
        let fleet = fleet(question);
        return Some(Box::new(move || drop(std::hint::black_box(select(&fleet)))));
    }
    if name == "SPARK" {
        let evidence = failed(evidence);
        return Some(Box::new(move || drop(std::hint::black_box(spark_loss::classify(&evidence)))));
    }
    None
}

macro_rules! executor {
    ($($counter:ident: $type:ident = $how:ident($name:literal),)*) => {
        fn executor(columns: Columns<'_>, row: usize) -> Executor {
            Executor {
                index: row as u32,
                id: columns.id[row],
                $($counter: columns.$counter[row],)*
                age_ms: columns.age_ms[row],
                since_heartbeat_ms: Some(columns.since_heartbeat_ms[row]),
                node: Some(columns.node[row]),
            }
        }
    };
}

fleet::with_counters!(executor);

fn fleet(question: &RollQuestion) -> Fleet {
    let columns = question.candidates.columns();
    let rows = (0..columns.id.len()).map(|row| executor(columns, row));
    let nodes = question.nodes.iter().map(|node| Node {
        zone: node.zone,
        spot: node.spot,
        ready: node.ready,
        cordoned: node.cordoned,
        departing: node.departing,
    });
    Fleet { nodes: nodes.collect(), picks_max: question.picks_max, ..Fleet::of(rows) }
}

/// The loss that `bench` asks about: a pod whose executor container failed.
fn failed(evidence: &Evidence) -> rollcall_policy::Evidence {
    let containers = evidence.pod.iter().flat_map(|pod| &pod.containers).filter_map(|container| {
        let fleet::question::ContainerState::Terminated(end) = &container.state else { return None };
        Some(Container {
            name: container.name.clone(),
            role: ContainerRole::Executor,
            state: ContainerState::Terminated(Terminated {
                exit_code: end.exit_code,
                signal: end.signal,
                reason: end.reason.clone(),
                message: end.message.clone(),
                started_at_ms: end.started_at_ms,
                finished_at_ms: end.finished_at_ms,
            }),
            last_terminated: None,
            restart_count: 0,
        })
    });
    rollcall_policy::Evidence {
        fleet: evidence.fleet.clone(),
        application_id: evidence.application_id.clone(),
        executor_id: evidence.executor_id,
        pod_name: evidence.pod_name.clone(),
        now_ms: evidence.now_ms,
        trigger: Trigger::PodFailed,
        lost_at_ms: evidence.lost_at_ms,
        checks_made: evidence.checks_made,
        checks_max: evidence.checks_max,
        ever_registered: evidence.ever_registered,
        since_heartbeat_ms: evidence.since_heartbeat_ms,
        our_deletion: None,
        driver: Driver::Running,
        driver_remove_reason: None,
        pod: Some(Pod {
            phase: "Failed".into(),
            reason: None,
            message: None,
            gone: false,
            created_at_ms: None,
            deletion_at_ms: None,
            deletion_grace_ms: None,
            conditions: Vec::new(),
            containers: containers.collect(),
            node_name: None,
            scheduling_gates: Vec::new(),
        }),
        node: None,
    }
}
