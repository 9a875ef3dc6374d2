//! Limits that no policy may widen, and some of which do not bind an operator.
//!
//! Every decision that changes the cluster passes a check here or in the state machine that makes it. A check
//! answers with a [`Refusal`]: a code that users see in `explain`, in conditions and in replies. Limits are
//! numbers of executors, derived from the spec and the current target (`Bounds`). Two things are stored:
//! losses, to tell a *mass loss* from single failures, and the nodes where they happened, to tell a bad *node*
//! from a bad image.

use std::collections::{BTreeMap, VecDeque};

use crate::spec::{AllocationSpec, FleetSpec, LOSSES_KEPT, Limits};
use crate::time::Instant;

macro_rules! refusals {
    ($($refusal:ident = $code:literal: $meaning:literal,)*) => {
        /// Why a change is not made, or not yet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Refusal {
            $(#[doc = concat!("`", $code, "`: ", $meaning, ".")] $refusal,)*
        }

        impl Refusal {
            /// All variants, in the order of their declaration.
            pub const ALL: [Refusal; [$($code),*].len()] = [$(Refusal::$refusal),*];

            /// The code, for machines.
            pub fn code(self) -> &'static str {
                match self {
                    $(Refusal::$refusal => $code,)*
                }
            }

            /// The sentence for users.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Refusal::$refusal => $meaning,)*
                }
            }
        }
    };
}

refusals! {
    NotLeading = "not-leading": "this host does not lead, or has not seen the cluster yet",
    LedgerRefused = "ledger-refused": "the ledger is refused: nothing is changed until it is good again, or is reset",
    LedgerInOrder = "ledger-in-order": "the ledger is in order: there is nothing to reset",
    ViewStale = "view-stale": "the watch is broken: what is known may be old",
    Paused = "paused": "the fleet is paused",
    DryRun = "dry-run": "dry run: decided, told, not done",
    DriverGone = "driver-gone": "the driver's pod has ended, and executors end with it",
    DriverStarting = "driver-starting": "the driver has not answered yet: executors could not register",
    FleetFailed = "fleet-failed": "too many executors failed; reset the breaker to go on",
    ObserveMode = "observe-mode": "the driver allocates: Rollcall only observes",
    NoIds = "no-ids": "ids have to be reserved in the ledger first",
    MaxSurge = "max-surge": "there are as many live pods as target and surge allow",
    MaxTerminating = "max-terminating": "too many pods are still being deleted",
    MaxPending = "max-pending": "too many pods are pending",
    RateLimit = "rate-limit": "the batch of this moment is used up",
    SlowStart = "slow-start": "after errors or a mass loss, few are tried at a time",
    BreakerOpen = "breaker-open": "executors fail as they start: one probe at a time",
    OutsideWindow = "outside-window": "no roll window is open",
    MassLoss = "mass-loss": "many executors were lost at once",
    CoolDown = "cool-down": "the last roll ended only now",
    MaxRolls = "max-rolls": "enough executors were rolled in this hour",
    RollUnderWay = "roll-under-way": "as many rolls as allowed are under way",
    MinAvailable = "min-available": "too few executors would be left available",
    AwaitingReplacement = "awaiting-replacement": "its replacement is not available yet",
    DisruptionBudget = "disruption-budget": "a PodDisruptionBudget does not allow its eviction now",
    DoNotRoll = "do-not-roll": "its pod has the annotation do-not-roll",
    TooYoung = "too-young": "it is younger than the minimum age",
    TooFewTasks = "too-few-tasks": "it has run fewer tasks than the minimum",
    NoCounters = "no-counters": "the driver's REST API has not reported its counters lately",
    NotAvailable = "not-available": "it is not available",
    AlreadyLeaving = "already-leaving": "it is already being removed or rolled",
    Busy = "busy": "it has running tasks, and force was not asked for",
    UnknownExecutor = "unknown-executor": "there is no such executor",
    AboveMaximum = "above-maximum": "more than limits.maxExecutors",
    NoCandidate = "no-candidate": "no executor may be rolled now",
    NotPicked = "not-picked": "the policy did not pick it",
    NoRollPolicy = "no-roll-policy": "the fleet has no roll policy: spec.roll.policies",
    PolicyDeclined = "policy-declined": "the policy picked no executor",
    PolicyFailed = "policy-failed": "no policy of the chain answered",
}

/// The dry run is checked last: it proposes only what would really be done.
pub(crate) fn unless_dry(
    may: Result<(), Refusal>,
    others: impl FnOnce() -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    match may {
        Ok(()) | Err(Refusal::DryRun) => others().and(may),
        Err(refusal) => Err(refusal),
    }
}

/// What the state of the fleet as a whole permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permits {
    /// To change pods at all.
    pub change: Result<(), Refusal>,
    /// To remove surplus executors.
    pub shrink: Result<(), Refusal>,
    /// Voluntary disruptions.
    pub disrupt: Result<(), Refusal>,
}

/// The limits as numbers of executors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub target: u32,
    pub surge: u32,
    pub terminating: u32,
    /// The number of available executors that a voluntary disruption must leave.
    pub floor: u32,
}

impl Bounds {
    pub(crate) fn new(spec: &FleetSpec, target: u32) -> Bounds {
        let limits = &spec.limits;
        let surge = limits.max_surge.rounded_up(target);
        let unavailable = limits.max_unavailable.rounded_down(target);
        Bounds {
            target,
            surge,
            terminating: limits.max_terminating.rounded_up(target),
            floor: (target - unavailable.min(target))
                .max(limits.min_available.rounded_up(target))
                .min(target),
        }
    }

    /// Live pods that are not being deleted.
    pub(crate) fn ceiling(&self) -> u32 {
        self.target.saturating_add(self.surge)
    }
}

/// Losses close together are one incident: a zone, spot capacity, the network.
#[derive(Clone, Debug, Default)]
pub(crate) struct MassLoss {
    recent: VecDeque<Instant>,
    until: Option<Instant>,
}

/// An incident is over at the earliest this long after its last loss.
const CALM_MS: u64 = 60_000;

impl MassLoss {
    /// An executor was lost involuntarily. Returns whether an incident begins with it.
    pub(crate) fn lost(&mut self, now: Instant, limits: &Limits, target: u32) -> bool {
        let max = limits.mass_loss.rounded_up(target).max(3) as usize;
        self.recent.push_back(now);
        while self.recent.len() > max + 1 {
            self.recent.pop_front();
        }
        let window_ms = limits.mass_loss_window_ms;
        let mass = self.recent.len() > max
            && self.recent.front().is_some_and(|first| now.since_ms(*first) <= window_ms);
        let was_on = self.is_on(now);
        if mass {
            self.until = Some(now + window_ms.max(CALM_MS));
        }
        mass && !was_on
    }

    /// An executor that was lost at this moment is not lost after all. Its incident ends when it would have
    /// ended anyway.
    pub(crate) fn take_back(&mut self, lost: Instant) {
        if let Some(at) = self.recent.iter().position(|at| *at == lost) {
            self.recent.remove(at);
        }
    }

    pub(crate) fn ends(&self) -> Option<Instant> {
        self.until
    }

    pub(crate) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// Losses per node, to avoid nodes that kill their executors.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeLosses(BTreeMap<Box<str>, VecDeque<Instant>>);

impl NodeLosses {
    pub(crate) fn lost(&mut self, node: &str, now: Instant, spec: &AllocationSpec) {
        self.prune(now, spec);
        let losses = self.0.entry(node.into()).or_default();
        losses.push_back(now);
        if losses.len() > LOSSES_KEPT as usize {
            losses.pop_front();
        }
    }

    fn prune(&mut self, now: Instant, spec: &AllocationSpec) {
        self.0
            .retain(|_, losses| losses.back().is_some_and(|last| now.since_ms(*last) < spec.node_window_ms));
    }

    /// The worst nodes with enough recent losses, limited to the share of `nodes` that may be avoided. A loss
    /// weighs less the older it is, down to nothing at the window's end.
    pub(crate) fn avoided(&self, now: Instant, spec: &AllocationSpec, nodes: usize) -> Vec<Box<str>> {
        let window_ms = spec.node_window_ms;
        let weight = |losses: &VecDeque<Instant>| {
            let left = |at: &Instant| window_ms.saturating_sub(now.since_ms(*at)) * 1_000 / window_ms;
            losses.iter().map(left).sum::<u64>()
        };
        // The weight of the limit's number of losses, with the oldest of them halfway through the window.
        let limit = u64::from(spec.max_node_losses) * 1_000 - 500;
        let mut heavy: Vec<(u64, &Box<str>)> = self
            .0
            .iter()
            .filter(|(_, losses)| losses.len() >= spec.max_node_losses as usize)
            .map(|(node, losses)| (weight(losses), node))
            .filter(|(weight, _)| *weight >= limit)
            .collect();
        heavy.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        heavy.truncate(spec.max_avoided_nodes.rounded_down(nodes) as usize);
        heavy.into_iter().map(|(_, node)| node.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Amount, Mode};

    fn spec() -> FleetSpec {
        FleetSpec::new("f", "app", Mode::Own, "driver".into(), 10)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_ms(seconds * 1_000)
    }

    #[test]
    fn bounds_round_as_deployments_do() {
        let mut spec = spec();
        let bounds = Bounds::new(&spec, 10);
        assert_eq!((bounds.ceiling(), bounds.terminating), (13, 10));
        assert_eq!(bounds.floor, 8, "25% of 10, rounded down, may be short");
        spec.limits.min_available = Amount::Percent(85);
        assert_eq!(Bounds::new(&spec, 10).floor, 9);
        spec.limits.min_available = Amount::Count(50);
        assert_eq!(Bounds::new(&spec, 10).floor, 10, "an operator's target may be below it");
        assert_eq!(Bounds::new(&spec, 0).ceiling(), 0);
    }

    #[test]
    fn many_losses_at_once_are_an_incident_until_it_is_calm() {
        let limits = spec().limits;
        let mut mass = MassLoss::default();
        assert!(!(0..3).any(|_| mass.lost(at(100), &limits, 10)));
        assert!(mass.lost(at(105), &limits, 10), "more than 30% of 10");
        assert!(!mass.lost(at(106), &limits, 10), "it began already");
        assert!(mass.is_on(at(160)) && !mass.is_on(at(166)));
        let mut slow = MassLoss::default();
        assert!(!(0..20).any(|n| slow.lost(at(n * 5), &limits, 10)), "one by one is bad luck");
    }

    #[test]
    fn a_node_is_avoided_for_a_while_and_only_some_are() {
        let spec = spec().allocation;
        let mut losses = NodeLosses::default();
        for second in [0, 10, 20] {
            assert!(losses.avoided(at(second), &spec, 10).is_empty());
            losses.lost("bad", at(second), &spec);
        }
        losses.lost("unlucky", at(20), &spec);
        assert_eq!(losses.avoided(at(20), &spec, 10), ["bad".into()]);
        assert!(losses.avoided(at(1_000), &spec, 10).is_empty(), "forgiven");
        for node in ["a", "b", "c", "d"] {
            (0..4).for_each(|_| losses.lost(node, at(30), &spec));
        }
        assert_eq!(losses.avoided(at(30), &spec, 10), ["a".into(), "b".into()], "20% of 10 at most");
        losses.lost("late", at(10_000), &spec);
        assert_eq!(losses.0.len(), 1, "the old are forgotten");
    }
}
