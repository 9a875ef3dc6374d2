//! Deletions as they are applied: S5 the floor, S6 the right victim, S17 no healthy executor is deleted.
//!
//! The floor is checked against the executors that are useful at the moment of the deletion. One that stopped
//! being useful so recently that a core could not know it yet still counts. One that the current leader removed
//! does not, because the leader must know that.

use fleet::action::{Cause, Verb};
use fleet::event::{Done, Outcome};
use fleet::spec::Mode;

use crate::api::Serial;
use crate::cluster::Maker;
use crate::network::Call;
use crate::world::World;

impl World<'_> {
    /// A deletion is about to be applied.
    pub(crate) fn check_victim(&mut self, call: &Call) {
        let app = call.app;
        let (pod, uid) = match &call.action.verb {
            Verb::DeletePod { pod, uid, .. } | Verb::EvictPod { pod, uid, .. } => (pod, uid),
            Verb::Relist { .. }
            | Verb::ReadLedger
            | Verb::WriteLedger { .. }
            | Verb::CreatePod { .. }
            | Verb::GetPod { .. }
            | Verb::DeleteDriver { .. }
            | Verb::Ask { .. }
            | Verb::Reply { .. }
            | Verb::CheckLease
            | Verb::Publish(_) => return,
        };
        self.apps[app].checks.victim = None;
        let Some(serial) = self.api.serial(pod) else { return };
        if Serial::of(uid) != Some(serial) {
            return;
        }
        let objection = self.objection(call, serial);
        self.apps[app].checks.victim = Some((serial, objection));
    }

    fn objection(&self, call: &Call, serial: Serial) -> Option<(&'static str, String)> {
        let (app, now_ms) = (call.app, self.sim.now_ms);
        let truth = self.cluster.executors.get(&serial)?;
        if truth.maker == Maker::Operator {
            return Some(("S6", "a foreign pod is deleted".to_owned()));
        }
        if !self.apps[app].checks.is_newest(call.core) {
            return None;
        }
        match call.action.cause {
            Cause::Rolled(_) | Cause::Excess => self.floor(serial, call),
            Cause::Settled(_) | Cause::Loss(_) | Cause::Shortfall { .. } | Cause::Doubt(_) => {
                let killed = self.apps[app].checks.killed.contains(&truth.executor.0);
                // After the ledger was lost without a trace, what the driver reports of one executor may belong
                // to the other.
                let twins = self.cluster.executors.with_id(app, truth.executor).count();
                let unhurt =
                    twins == 1 && truth.available() && truth.hurt_ms.is_none() && !truth.late && !killed;
                let heard = now_ms > self.apps[app].checks.disturbed_ms
                    && now_ms > self.apps[app].checks.lags.0
                    && self.apps[app].checks.spec.mode == Mode::Own;
                (unhurt && heard && truth.removed_ms.is_none()).then(|| {
                    ("S17", format!("executor {} was well and is cleared away: {truth:?}", truth.executor))
                })
            }
            Cause::Command(_) | Cause::Failed | Cause::Start | Cause::Record | Cause::Roll => None,
        }
    }

    fn floor(&self, victim: Serial, call: &Call) -> Option<(&'static str, String)> {
        let (app, now_ms) = (call.app, self.sim.now_ms);
        let truth = self.cluster.executors.get(&victim)?;
        // Without a driver there is no availability to protect.
        if !truth.available() || !self.api.is_driver_running(app) {
            return None;
        }
        let reach_ms = self.apps[app].checks.known_after_ms(now_ms);
        // A leader that has just begun has heard no executor yet, and missed no heartbeat either.
        let life = self.apps[app].checks.lives.get(&call.core)?;
        // An executor that was never heard was not known to be useful when this was decided.
        if life.heard.get(&truth.executor.0).is_none_or(|heard_ms| *heard_ms > call.sent_ms) {
            return None;
        }
        let led_ms = life.led_ms;
        let began = led_ms.is_none_or(|led_ms| led_ms + reach_ms > now_ms);
        let seems_up = |serial| began && self.api.pod(serial).is_some_and(|pod| pod.ready());
        let of_use = self.cluster.executors.of(app).filter(|other| {
            other.serial != victim
                && other.maker != Maker::Operator
                && (other.removed_ms.is_none_or(|removed_ms| {
                    // An operator's kill ignores the floor.
                    self.apps[app].checks.killed.contains(&other.executor.0) && removed_ms + reach_ms > call.sent_ms
                        // It was lost while this call was in transit.
                        || self.apps[app].checks.cleared.contains(&other.serial) && removed_ms > call.sent_ms
                }) || other.late)
                && (other.registered_ms.is_some()
                    && other.down_ms.is_none_or(|down_ms| down_ms + reach_ms > call.sent_ms)
                    || seems_up(other.serial))
        });
        let left = u32::try_from(of_use.count()).unwrap_or(u32::MAX);
        let limits = &self.apps[app].checks.spec.limits;
        let floor_of = |target: u32| {
            let short = target - limits.max_unavailable.rounded_down(target).min(target);
            short.max(limits.min_available.rounded_up(target)).min(target)
        };
        let (least, greatest) = self.apps[app].checks.targets_now(now_ms);
        let floor = (least..=greatest).map(floor_of).min().unwrap_or(0);
        (left < floor).then(|| {
            let executor = truth.executor;
            ("S5", format!("without {executor} {left} are available, fewer than {floor} of {least}"))
        })
    }

    /// The outcome of a request.
    pub(crate) fn check_applied(&mut self, call: &Call, outcome: &Outcome) {
        let (app, now_ms) = (call.app, self.sim.now_ms);
        self.sim.trace.number(now_ms << 4 | u64::from(matches!(outcome, Outcome::Ok(_))));
        let victim = self.apps[app].checks.victim.take();
        if let (
            Verb::CreatePod { executor, .. },
            Outcome::Forbidden(_) | Outcome::Invalid(_) | Outcome::Throttled { .. },
        ) = (&call.action.verb, outcome)
        {
            // Certainly refused: the id was not used.
            self.apps[app].checks.asked.remove(&executor.0);
        }
        if !matches!(outcome, Outcome::Ok(Done::Deleted)) {
            return;
        }
        let Some((serial, objection)) = victim else { return };
        self.apps[app].checks.last_mutation_ms = now_ms;
        let newest = self.apps[app].checks.is_newest(call.core);
        if matches!(call.action.cause, Cause::Settled(_) | Cause::Loss(_)) {
            self.apps[app].checks.cleared.insert(serial);
        }
        if let Some(truth) = self.cluster.executors.get_mut(&serial) {
            truth.late |= !newest;
            truth.removed_ms.get_or_insert(now_ms);
            truth.removed_by.get_or_insert(call.core);
            truth.down(now_ms);
        }
        if let Some((checker, message)) = objection {
            self.apps[app].checks.object(checker, now_ms, || message);
        }
    }
}
