//! What every part of a fleet is given: the settings, the time of the step, and the injected bug.

use crate::injected_bug::{Bugs, InjectedBug};
use crate::observed::PodView;
use crate::spec::{Mode, RollSpec, ValidatedSpec};
use crate::time::{Instant, Now};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Env<'a> {
    pub spec: &'a ValidatedSpec,
    pub now: Now,
    pub bugs: Bugs,
}

impl<'a> Env<'a> {
    pub(crate) fn instant(&self) -> Instant {
        self.now.instant
    }

    /// Does Rollcall create the pods?
    pub(crate) fn owns(&self) -> bool {
        self.spec.mode == Mode::Own
    }

    pub(crate) fn has_bug(&self, bug: InjectedBug) -> bool {
        self.bugs.has(bug)
    }

    /// The roll settings: the spec's, or `by_hand` where an operator rolls executors of a fleet without any.
    pub(crate) fn roll_spec(&self, by_hand: &'a RollSpec) -> &'a RollSpec {
        self.spec.roll.as_ref().unwrap_or(by_hand)
    }

    /// Does the pod belong to this fleet, and does it have the name that Rollcall would have given it?
    pub(crate) fn is_ours(&self, pod: &PodView) -> bool {
        let owned = pod.owner.as_ref() == Some(&self.spec.driver) && self.spec.ids.contains(pod.executor);
        owned && (!self.owns() || self.spec.is_pod_name(&pod.name, pod.executor))
    }
}
