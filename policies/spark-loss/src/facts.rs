//! The evidence, digested once: what the rules ask for again and again.

use rollcall_policy::{
    Condition, Container, ContainerRole, ContainerState, DeletionCause, Departure, DepartureKind, Evidence,
    LossKind, Terminated, Trigger,
};

use crate::driver::Told;
use crate::exit::Exit;

pub(crate) struct Facts<'a> {
    pub(crate) e: &'a Evidence,
    /// What the driver says.
    pub(crate) told: Option<Told<'a>>,
    /// How the executor's container ended. As its status tells it, or else the driver.
    pub(crate) exit: Option<Exit<'a>>,
    /// The pod's `status.reason` and `status.message`, or else what the driver says they were.
    pub(crate) reason: Option<&'a str>,
    pub(crate) message: Option<&'a str>,
    /// The condition by which a controller says that it ends the pod.
    pub(crate) mark: Option<&'a Condition>,
    /// A deletion that Rollcall asked for, or is about to.
    pub(crate) request: Option<Request<'a>>,
    /// What says that the node is taken away or emptied: the most urgent sign. A cordon is none.
    pub(crate) departure: Option<&'a Departure>,
    /// The pod is gone from the API server.
    pub(crate) gone: bool,
    /// Its deletion was asked for.
    pub(crate) terminating: bool,
}

/// A deletion that Rollcall asked for, or is about to.
pub(crate) struct Request<'a> {
    pub(crate) why: &'a DeletionCause,
    at_ms: i64,
}

impl<'a> Facts<'a> {
    pub(crate) fn of(e: &'a Evidence) -> Facts<'a> {
        let pod = e.pod.as_ref();
        let told = e.driver_remove_reason.as_deref().filter(|text| !text.trim().is_empty()).map(Told::parse);
        let own_reason = pod.and_then(|pod| given(&pod.reason));
        let own_message = pod.and_then(|pod| given(&pod.message));
        Facts {
            e,
            exit: executors_exit(e, told.as_ref()),
            reason: own_reason.or(told.as_ref().and_then(|told| told.reason)),
            message: own_message.or(told.as_ref().and_then(|told| told.message)),
            mark: pod.and_then(|pod| pod.conditions.iter().find(|condition| is_mark(condition))),
            request: Request::of(e),
            departure: e.node.iter().flat_map(|node| &node.departures).find(|departure| {
                matches!(departure.kind, DepartureKind::Reclaimed | DepartureKind::Drained)
            }),
            gone: matches!(e.trigger, Trigger::PodDeleted | Trigger::PodMissing)
                || pod.is_some_and(|pod| pod.gone),
            terminating: pod.is_some_and(|pod| pod.deletion_at_ms.is_some()),
            told,
        }
    }

    pub(crate) fn containers(&self) -> impl Iterator<Item = &'a Container> {
        self.e.pod.iter().flat_map(|pod| &pod.containers)
    }

    pub(crate) fn phase_is(&self, phase: &str) -> bool {
        self.e.pod.as_ref().is_some_and(|pod| pod.phase == phase)
    }

    pub(crate) fn driver_says(&self, phrases: &[&str]) -> bool {
        self.told.as_ref().is_some_and(|told| told.says(phrases))
    }

    /// Did the driver give it up as silent? The end of its pod is the consequence.
    pub(crate) fn driver_gave_up(&self) -> bool {
        self.driver_says(&["heartbeat timed out"])
    }

    /// Rollcall or the driver clears away what it had given up as silent: the pod's end is the consequence. Other
    /// requests of Rollcall's have been answered before this is asked.
    pub(crate) fn was_given_up(&self) -> bool {
        self.request.is_some() || self.driver_gave_up()
    }

    /// Has the pod ended, or is it about to?
    pub(crate) fn is_ending(&self) -> bool {
        self.gone
            || self.terminating
            || self.exit.is_some()
            || self.phase_is("Failed")
            || self.phase_is("Succeeded")
    }

    /// Does a deletion that is not Rollcall's explain the end? Not where the container is known to have ended before.
    /// A pod that is gone and never had a deletionTimestamp was removed after its end.
    pub(crate) fn is_deleted(&self) -> bool {
        let exit = self.exit.as_ref();
        let ended_first = exit
            .is_some_and(|exit| exit.code == 0 || exit.is_plain_failure() || exit.kind == LossKind::NodeLost);
        match self.terminating {
            true => !exit.is_some_and(|exit| self.ended_before_deletion(exit)),
            false => self.gone && !ended_first,
        }
    }

    /// Did Rollcall's request end this container?
    pub(crate) fn is_ours(&self, exit: &Exit) -> bool {
        self.request.as_ref().is_some_and(|request| request.ended(exit))
    }

    pub(crate) fn failed_sidecars(&self) -> impl Iterator<Item = (&'a Container, &'a Terminated)> {
        self.containers().filter_map(|container| match &container.state {
            ContainerState::Terminated(end)
                if container.role == ContainerRole::Sidecar && end.exit_code != 0 =>
            {
                Some((container, end))
            }
            ContainerState::Terminated(_) | ContainerState::Waiting(_) | ContainerState::Running(_) => None,
        })
    }

    /// Had the container finished in a second before the one in which the deletion was asked for?
    fn ended_before_deletion(&self, exit: &Exit) -> bool {
        let asked_at_ms = self.e.pod.as_ref().and_then(|pod| {
            let grace = pod.deletion_grace_ms?;
            Some(pod.deletion_at_ms?.saturating_sub_unsigned(grace))
        });
        match (exit.finished_at_ms, asked_at_ms) {
            (Some(finished), Some(asked)) => second(finished) < second(asked),
            _ => false,
        }
    }
}

impl Request<'_> {
    fn of(e: &Evidence) -> Option<Request<'_>> {
        if let Some(deletion) = &e.our_deletion {
            return Some(Request { why: &deletion.why, at_ms: deletion.at_ms });
        }
        let why = match e.trigger {
            Trigger::OperatorKill => &DeletionCause::Kill,
            Trigger::PendingTimeout => &DeletionCause::PendingTimeout,
            Trigger::HeartbeatTimeout
            | Trigger::PodFailed
            | Trigger::PodSucceeded
            | Trigger::PodDeleted
            | Trigger::PodMissing
            | Trigger::DriverRemoved
            | Trigger::Other(_) => return None,
        };
        Some(Request { why, at_ms: e.now_ms })
    }

    /// Did the request end it? Only what finished in an earlier second had ended before.
    pub(crate) fn ended(&self, exit: &Exit) -> bool {
        exit.finished_at_ms.is_none_or(|finished| second(finished) >= second(self.at_ms))
    }
}

/// Kubernetes cuts its timestamps to whole seconds: only so are they comparable with ours.
fn second(ms: i64) -> i64 {
    ms.div_euclid(1000)
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.trim().is_empty())
}

/// Kubernetes' own mark, and Kueue's.
fn is_mark(condition: &Condition) -> bool {
    matches!(&*condition.name, "DisruptionTarget" | "TerminationTarget") && condition.status == "True"
}

/// Of a sidecar's or an init container's end, never.
fn executors_exit<'a>(e: &'a Evidence, told: Option<&Told<'a>>) -> Option<Exit<'a>> {
    let words = told.map(|told| told.words);
    if let Some(end) = terminated(e) {
        return Some(Exit::of(end, words, e.ever_registered));
    }
    let containers = || e.pod.iter().flat_map(|pod| &pod.containers);
    let executor = containers().find(|container| container.role == ContainerRole::Executor);
    let others: Vec<&str> = containers()
        .filter(|container| container.role != ContainerRole::Executor)
        .map(|container| &*container.name)
        .collect();
    let (code, reason) = told?.exit(executor.map(|container| &*container.name), &others)?;
    Some(Exit::told(code, reason, words, e.ever_registered))
}

/// The last end of the executor's container, as far as it is this loss that it tells of.
fn terminated(e: &Evidence) -> Option<&Terminated> {
    let pod = e.pod.as_ref()?;
    let executor = pod.containers.iter().find(|container| container.role == ContainerRole::Executor)?;
    match &executor.state {
        ContainerState::Terminated(end) => Some(end),
        ContainerState::Waiting(_) => executor.last_terminated.as_ref(),
        ContainerState::Running(_) => executor.last_terminated.as_ref().filter(|end| outlives(e, end)),
    }
}

/// Is there no sign of life since this run ended? Else the restarted container has been heard, and the end of its
/// previous run is an old story.
fn outlives(e: &Evidence, end: &Terminated) -> bool {
    match (e.since_heartbeat_ms, end.finished_at_ms) {
        (Some(since), Some(finished)) => second(finished) >= second(e.now_ms.saturating_sub_unsigned(since)),
        _ => !e.ever_registered,
    }
}
