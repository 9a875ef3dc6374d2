//! An example of a policy of one's own: executors that have outlived their time are rolled, and on
//! spot nodes the time is shorter. A spot node is taken away at a moment of the cloud's choosing,
//! with a notice of a minute or two; a roll at a moment of ours can migrate all its blocks.

use std::collections::BTreeSet;

use rollcall_policy::{Executor, Fleet, Pick, RollPolicy, Selection, SettingsError, pick, settings};

settings! {
    /// How long executors may live.
    pub struct Lifetimes {
        /// Roll an executor once it is older than this many hours.
        pub max_lifetime_hours: f64 = 24.0,
        /// The same for executors on spot nodes.
        pub spot_max_lifetime_hours: f64 = 6.0,
    }
}

pub struct SpotLifetime;

impl RollPolicy for SpotLifetime {
    const NAME: &'static str = "SPOT_LIFETIME";
    const DOCS: &'static str = "The oldest executors beyond their lifetime, those on spot nodes first.

At most one on each node, lest a node's cached blocks all have to move at once.";
    type Settings = Lifetimes;

    fn check(lifetimes: &Lifetimes) -> Vec<SettingsError> {
        [
            ("/maxLifetimeHours", lifetimes.max_lifetime_hours),
            ("/spotMaxLifetimeHours", lifetimes.spot_max_lifetime_hours),
        ]
        .into_iter()
        .filter(|(_, hours)| !(hours.is_finite() && *hours > 0.0))
        .map(|(path, _)| SettingsError {
            path: path.into(),
            message: "must be a number of hours above 0".into(),
        })
        .collect()
    }

    fn select(lifetimes: Lifetimes, fleet: &Fleet) -> Result<Selection, String> {
        let mut overdue: Vec<(Option<u32>, Pick)> = fleet
            .iter()
            .filter_map(|executor| Some((executor.node, overdue(&lifetimes, fleet, &executor)?)))
            .collect();
        // A stable sort: among equals the first listed stays first, so the same facts give the same answer.
        overdue.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));

        // Executors whose node is not known may all be on the same one.
        let mut nodes = BTreeSet::new();
        overdue.retain(|&(node, _)| nodes.insert(node));
        overdue.truncate(fleet.picks_max as usize);

        if overdue.is_empty() {
            return Ok(Selection::Nothing("nobody has outlived its time".into()));
        }
        Ok(Selection::Roll(overdue.into_iter().map(|(_, pick)| pick).collect()))
    }
}

rollcall_policy::export!(roll: SpotLifetime);

/// Spot nodes come first: in hours this is more than a century, and no executor is as old.
const SPOT_FIRST: f64 = 1e6;

/// The pick of an executor that has outlived its time.
fn overdue(lifetimes: &Lifetimes, fleet: &Fleet, executor: &Executor) -> Option<Pick> {
    let node = executor.node.and_then(|node| fleet.nodes.get(node as usize));
    let (lifetime, first, place) = match node {
        Some(node) if node.spot => (lifetimes.spot_max_lifetime_hours, SPOT_FIRST, "a spot node"),
        _ => (lifetimes.max_lifetime_hours, 0.0, "its node"),
    };
    let age = executor.age_ms as f64 / 3_600_000.0;
    (age > lifetime)
        .then(|| pick(executor, age + first, format!("{age:.1} h on {place}, at most {lifetime} h allowed")))
}

#[cfg(test)]
mod tests {
    use rollcall_policy::Node;

    use super::*;

    /// Node 0 is a spot node, 1 and 2 are not.
    fn fleet(picks_max: u32, executors: &[(f64, Option<u32>)]) -> Fleet {
        let executors = executors.iter().map(|&(age_hours, node)| Executor {
            age_ms: (age_hours * 3_600_000.0) as u64,
            node,
            ..Executor::default()
        });
        let node = |spot| Node { zone: None, spot, ready: true, cordoned: false, departing: false };
        Fleet { picks_max, nodes: vec![node(true), node(false), node(false)], ..Fleet::of(executors) }
    }

    #[track_caller]
    fn check(fleet: Fleet, expected: &[u32]) {
        let picked = match SpotLifetime::select(Lifetimes::default(), &fleet) {
            Ok(Selection::Roll(picks)) => picks.iter().map(|pick| pick.index).collect(),
            Ok(Selection::Nothing(_)) => Vec::new(),
            other => panic!("{other:?}"),
        };
        assert_eq!(picked, expected);
    }

    #[test]
    fn nobody_is_rolled_in_time() {
        check(fleet(9, &[]), &[]);
        check(fleet(9, &[(6.0, Some(0)), (24.0, Some(1)), (24.0, None)]), &[]);
    }

    #[test]
    fn spot_nodes_come_first_then_the_oldest() {
        check(fleet(9, &[(30.0, Some(1)), (40.0, Some(2)), (7.0, Some(0))]), &[2, 1, 0]);
        check(fleet(2, &[(30.0, Some(1)), (40.0, Some(2)), (7.0, Some(0))]), &[2, 1]);
    }

    #[test]
    fn never_two_on_one_node() {
        check(fleet(9, &[(7.0, Some(0)), (8.0, Some(0)), (30.0, Some(1)), (30.0, Some(1))]), &[1, 2]);
        check(fleet(9, &[(30.0, None), (31.0, None)]), &[1]);
    }

    #[test]
    fn a_node_that_the_fleet_does_not_know_is_not_a_spot_node() {
        check(fleet(9, &[(7.0, Some(u32::MAX - 1)), (25.0, Some(77))]), &[1]);
    }

    #[test]
    fn lifetimes_must_be_more_than_nothing() {
        let lifetimes = |max, spot| Lifetimes { max_lifetime_hours: max, spot_max_lifetime_hours: spot };
        let paths =
            |lifetimes| SpotLifetime::check(&lifetimes).into_iter().map(|e| e.path).collect::<Vec<_>>();
        assert_eq!(paths(Lifetimes::default()), Vec::<String>::new());
        assert_eq!(paths(lifetimes(0.0, 1.0)), ["/maxLifetimeHours"]);
        assert_eq!(paths(lifetimes(f64::NAN, -1.0)), ["/maxLifetimeHours", "/spotMaxLifetimeHours"]);
        assert_eq!(paths(lifetimes(1.0, f64::INFINITY)), ["/spotMaxLifetimeHours"]);
    }
}
