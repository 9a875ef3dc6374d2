//! The question which executor to roll, and which executors its answer means.

use std::collections::BTreeSet;

use crate::env::Env;
use crate::event::Counters;
use crate::executor::Executor;
use crate::id::ExecutorId;
use crate::injected_bug::InjectedBug;
use crate::plan::roll::{age_ms, counters};
use crate::question::{Candidate, Candidates, Metric, Node, RollQuestion};
use crate::table::ExecutorTable;
use crate::view::ClusterView;

/// What the question is built from, beside the executors that may be rolled.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub table: &'a ExecutorTable,
    pub view: &'a ClusterView,
    pub metric_names: &'a [Box<str>],
    pub target: u32,
    pub picks_max: u32,
    pub seed: u64,
}

/// The question, and the executors that it offers, in its order.
pub(crate) fn question(
    eligible: &[ExecutorId],
    from: Sources<'_>,
    env: Env<'_>,
) -> (RollQuestion, Vec<ExecutorId>) {
    let mut candidates = Candidates::default();
    let mut offered = Vec::new();
    let node_names: BTreeSet<&str> = from.table.iter().filter_map(|(_, executor)| executor.node()).collect();
    let node_names: Vec<&str> = node_names.into_iter().collect();
    let names = from.metric_names.iter();
    let mut metrics: Vec<Metric> =
        names.map(|name| Metric { name: name.as_ref().to_owned(), values: Vec::new() }).collect();
    for &id in eligible {
        let Some(executor) = from.table.get(id) else { continue };
        let Some(counters) = counters(executor, env) else { continue };
        offered.push(id);
        candidates.push(candidate(id, executor, counters, &node_names, env));
        for (index, metric) in metrics.iter_mut().enumerate() {
            let values = executor.facts.as_ref().map(|facts| &facts.metrics);
            metric.values.push(values.and_then(|values| values.get(index)).copied().unwrap_or(f64::NAN));
        }
    }
    let question = RollQuestion {
        fleet: env.spec.name.clone(),
        application_id: env.spec.application_id.clone(),
        target: from.target,
        available: from.table.tally().available,
        now_ms: env.now.wall_ms,
        seed: from.seed,
        picks_max: from.picks_max,
        candidates,
        nodes: node_names.iter().map(|name| node(name, from.view)).collect(),
        metrics,
    };
    (question, offered)
}

fn node(name: &str, view: &ClusterView) -> Node {
    match view.node(name) {
        Some(node) => Node {
            zone: node.zone,
            spot: node.state.spot,
            ready: node.state.ready == "True",
            cordoned: node.state.cordoned,
            departing: !node.state.departures.is_empty(),
        },
        None => Node { zone: None, spot: false, ready: true, cordoned: false, departing: false },
    }
}

fn candidate(
    id: ExecutorId,
    executor: &Executor,
    counters: &Counters,
    nodes: &[&str],
    env: Env<'_>,
) -> Candidate {
    let heard = executor.timer.last_heard();
    let node = executor.node().and_then(|node| nodes.binary_search(&node).ok());
    Candidate {
        id: id.0,
        age_ms: age_ms(executor, env),
        since_heartbeat_ms: heard.map(|heard| env.now.instant.since_ms(heard)),
        node: node.and_then(|node| u32::try_from(node).ok()),
        ..Candidate::from(counters)
    }
}

/// The executor that a pick means: one that was offered.
pub(crate) fn picked(
    index: usize,
    offered: &[ExecutorId],
    table: &ExecutorTable,
    env: Env<'_>,
) -> Option<ExecutorId> {
    offered.get(index).copied().or_else(|| {
        // Injected bug: any executor.
        let count = table.iter().count().max(1);
        let any = table.iter().nth(index % count).map(|(id, _)| id);
        any.filter(|_| env.has_bug(InjectedBug::PicksUnchecked))
    })
}
