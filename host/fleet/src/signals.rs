//! Signs of life of the whole fleet: whether silence can be trusted, and the names of the metrics that heartbeats
//! carry.

use crate::action::Reason;
use crate::env::Env;
use crate::event::Impairment;
use crate::executor::{Executor, Stage};
use crate::heartbeat::{FleetLiveness, Impairments};
use crate::injected_bug::InjectedBug;
use crate::outbox::Outbox;
use crate::spec::HeartbeatSpec;
use crate::time::Instant;

/// Columns beyond this many are dropped: an executor with all metric sources enabled reports 100, and this is
/// twice that.
const METRICS_MAX: usize = 200;

#[derive(Debug)]
pub(crate) struct Signals {
    liveness: FleetLiveness,
    impairments: Impairments,
    metric_names: Vec<Box<str>>,
}

impl Signals {
    pub(crate) fn new() -> Signals {
        Signals {
            liveness: FleetLiveness::new(Instant::START),
            impairments: Impairments::default(),
            metric_names: Vec::new(),
        }
    }

    /// Silence counts from now.
    pub(crate) fn start(&mut self, env: Env<'_>) {
        let from = if env.has_bug(InjectedBug::NoGrace) { Instant::START } else { env.now.instant };
        self.liveness = FleetLiveness::new(from);
    }

    /// Heartbeats were disabled until now: silence counts from this moment.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.liveness = FleetLiveness::new(now);
        self.liveness.excuse(now);
    }

    pub(crate) fn liveness(&self) -> &FleetLiveness {
        &self.liveness
    }

    pub(crate) fn impairments(&self) -> &Impairments {
        &self.impairments
    }

    /// Some executor was heard. Returns whether no executor had been heard before: silence can be trusted again.
    pub(crate) fn heard(&mut self, now: Instant) -> bool {
        self.liveness.heard(now)
    }

    pub(crate) fn may_give_up(&mut self, env: Env<'_>, probe: bool) -> Result<(), Instant> {
        self.liveness.may_give_up(env.now.instant, &env.spec.heartbeat, probe)
    }

    /// Heartbeats may have been lost on our side: silence of all executors counts from now.
    pub(crate) fn impaired(&mut self, why: Impairment, env: Env<'_>, outbox: &mut Outbox) {
        let ignored = match why {
            Impairment::Paused => InjectedBug::StandstillIgnored,
            Impairment::Refused | Impairment::Dropped | Impairment::Unattributed => {
                InjectedBug::DeafnessIgnored
            }
        };
        if env.spec.heartbeat.disabled || env.has_bug(ignored) {
            return;
        }
        self.liveness.excuse(env.now.instant);
        if self.impairments.told(why, env.now.instant) {
            let timeout_ms = env.spec.heartbeat.timeout_ms;
            let message = format!(
                "heartbeats may have been lost on our side ({}): until {timeout_ms} ms after the last time no executor is \
                 given up for its silence",
                why.name()
            );
            outbox.publish(env.now, Reason::HearingImpaired, message);
        }
    }

    /// Ends the impairment: no heartbeat was lost for as long as silence was excused.
    pub(crate) fn recover(&mut self, env: Env<'_>, outbox: &mut Outbox) {
        if let Some(lasted_ms) = self.impairments.end(env.now.instant, &env.spec.heartbeat) {
            outbox.note(env.now, None, format!("hearing is not impaired any more, after {lasted_ms} ms"));
        }
    }

    pub(crate) fn impairment_ends_at(&self, spec: &HeartbeatSpec) -> Option<Instant> {
        self.impairments.ends_at(spec)
    }

    /// Why the executor is not given up, although it has been silent for longer than the timeout.
    pub(crate) fn excuse(&self, executor: &Executor, env: Env<'_>) -> Option<String> {
        let listened =
            matches!(executor.stage, Stage::Available | Stage::Rolling | Stage::AwaitingRegistration);
        let (heartbeat, now) = (&env.spec.heartbeat, env.now.instant);
        let silent_at = executor.timer.silent_at(heartbeat, Instant::START);
        let until = executor.timer.silent_at(heartbeat, self.liveness.excused());
        let excused = listened && !heartbeat.disabled && silent_at <= now && now < until;
        excused.then(|| {
            format!("its silence is excused: hearing was impaired lately ({})", self.impairments.words())
        })
    }

    pub(crate) fn metric_names(&self) -> &[Box<str>] {
        &self.metric_names
    }

    /// Metrics by the index of their name. Names beyond the limit are dropped.
    pub(crate) fn indexed(&mut self, metrics: Vec<(Box<str>, f64)>) -> Vec<(usize, f64)> {
        let known = |(name, value)| self.metric_index(name).map(|index| (index, value));
        metrics.into_iter().filter_map(known).collect()
    }

    fn metric_index(&mut self, name: Box<str>) -> Option<usize> {
        if let Some(index) = self.metric_names.iter().position(|known| *known == name) {
            return Some(index);
        }
        if self.metric_names.len() == METRICS_MAX {
            return None;
        }
        self.metric_names.push(name);
        Some(self.metric_names.len() - 1)
    }
}
