//! What a core may request: S12 the rate, S13 who acts, S14 no action while paused or dry, S17 causes, S19 gated pods,
//! S20 candidates, S22 parked fleets, S23 voluntary disruptions only by a fresh view, S25 the driver's address; and S2 again, when an id is
//! requested and not only when the creation is applied.

use fleet::action::{Action, Cause, Question, Reason, Reply, Verb};
use fleet::id::{ExecutorId, Uid};
use fleet::spec::Mode;

use super::{CoreId, Life, REACH_MS};
use crate::api::Serial;
use crate::cluster::{Executor, Maker, Taker};
use crate::world::World;

/// A notice is a line or a few, not a pod's log (S16).
const NOTICE_MAX: usize = 2_048;
/// The end of the driver's container excuses its executors' ends for at least this long.
const DRIVER_END_MS: u64 = 120_000;

impl World<'_> {
    pub(crate) fn check_action(&mut self, app: usize, core: CoreId, action: &Action) {
        let (at, now_ms) = (core.host, self.sim.now_ms);
        let Some(life) = self.apps[app].checks.lives.get(&core) else { return };
        let (led, lost) = (life.led_ms.is_some(), life.lost);
        let still = life.paused || life.spec_still;
        let parked = life.parked.is_some();
        let spoken = matches!(action.verb, Verb::Publish(_) | Verb::Reply { .. } | Verb::CheckLease);
        if !spoken && (!led || lost) {
            let when = if lost { "after it was deposed" } else { "before it leads" };
            self.apps[app]
                .checks
                .object("S13", now_ms, || format!("host {at} wants {} {when}", verb_name(&action.verb)));
        }
        if action.verb.mutates() {
            self.apps[app].checks.last_mutation_ms = now_ms;
            self.apps[app].checks.mutations += 1;
            if parked {
                self.apps[app].checks.object("S22", now_ms, || {
                    format!(
                        "host {at} was shown a ledger that is none of its own and wants {}",
                        verb_name(&action.verb)
                    )
                });
            }
            if action.cause.is_voluntary() && !self.hosts[at].shown(app).listed {
                self.apps[app].checks.object("S23", now_ms, || {
                    let cause = action.cause;
                    format!(
                        "host {at} wants {} because of {cause:?}, and its view is not fresh",
                        verb_name(&action.verb)
                    )
                });
            }
            if still {
                self.apps[app].checks.object("S14", now_ms, || {
                    format!("host {at} is paused or dry and wants {}", verb_name(&action.verb))
                });
            }
        }
        match &action.verb {
            Verb::CreatePod { executor, pod, .. } => {
                self.check_create(app, core, *executor, pod, action.cause);
            }
            Verb::DeletePod { executor, pod, uid, .. } | Verb::EvictPod { executor, pod, uid, .. } => {
                self.check_delete(app, core, *executor, pod, uid, action.cause);
            }
            Verb::Publish(notice) => {
                if let (Reason::ExecutorLost, Some(executor)) = (notice.reason, notice.executor) {
                    self.judge(app, core, executor, &notice.message);
                    self.check_settled_silence(app, core, executor);
                }
                if let (Reason::ExecutorHeardAgain, Some(executor), Some(life)) =
                    (notice.reason, notice.executor, self.apps[app].checks.life(core))
                {
                    // To be suspected again, it has to be silent again.
                    life.suspects.remove(&executor.0);
                }
                if notice.message.len() > NOTICE_MAX {
                    let len = notice.message.len();
                    self.apps[app].checks.object("S16", now_ms, || format!("a notice of {len} bytes"));
                }
            }
            Verb::DeleteDriver { .. } => {
                if !self.apps[app].checks.spec.recovery.failed_deletes_driver || action.cause != Cause::Failed
                {
                    self.apps[app].checks.object("S6", now_ms, || {
                        "the driver is deleted, and its fleet has not failed".to_owned()
                    });
                }
            }
            Verb::Reply { command, reply } => {
                let refused = matches!(reply, Reply::Refused(_));
                if let Some(life) = self.apps[app].checks.life(core)
                    && life.pausing.take_if(|pausing| pausing == command).is_some()
                    && refused
                {
                    life.paused = false;
                }
            }
            Verb::Relist { .. }
            | Verb::ReadLedger
            | Verb::WriteLedger { .. }
            | Verb::GetPod { .. }
            | Verb::CheckLease => {}
            Verb::Ask { question: Question::Loss(evidence), .. } => self.check_suspect(app, core, evidence),
            Verb::Ask { question: Question::Roll(question), .. } => {
                self.check_candidates(app, core, question.candidates.ids());
            }
        }
    }

    /// S20: in the order of Spark's plugin, and none whose counters the driver has not reported lately.
    fn check_candidates(&mut self, app: usize, core: CoreId, ids: &[u64]) {
        let at = core.host;
        let now = self.hosts[at].now(self.sim.now_ms).instant;
        let names: Vec<String> = ids.iter().map(u64::to_string).collect();
        let sorted = names.is_sorted_by(|a, b| a > b);
        let recent_ms = 2 * self.apps[app].checks.spec.driver_report_ms;
        let Some(life) = self.apps[app].checks.life(core) else { return };
        let counted =
            |id: &&u64| life.shown_as.counted(**id).is_none_or(|counted| now.since_ms(counted) > recent_ms);
        let uncounted = ids.iter().find(counted).copied();
        if !sorted {
            self.apps[app]
                .checks
                .object("S20", self.sim.now_ms, || format!("candidates out of Spark's order: {names:?}"));
        }
        if let Some(id) = uncounted {
            self.apps[app].checks.object("S20", self.sim.now_ms, || {
                format!(
                    "{id} is a candidate, and its counters are older than {recent_ms} ms or were never told"
                )
            });
        }
    }

    /// The host reports why an executor was lost. May that count as the executor's failure, given all that the
    /// host was told?
    fn judge(&mut self, app: usize, core: CoreId, executor: ExecutorId, message: &str) {
        let now_ms = self.sim.now_ms;
        let kind = message.split_once(": ").map_or(message, |(kind, _)| kind);
        let excused = |life: &Life, truth: &Executor| match truth.taken_by {
            Some(Taker::AnnouncedNode) => {
                let node = truth.node.map(|node| &self.cluster.nodes[node].name);
                kind == "killed" && node.is_some_and(|node| life.shown_as.explains(node))
            }
            Some(Taker::Driver) => {
                let follows = ["exit-status", "app-failure", "driver-connection", "killed", "start-failed"];
                follows.contains(&kind) && life.shown_as.driver_ended_within(now_ms, DRIVER_END_MS)
            }
            None => false,
        };
        let life = self.apps[app].checks.lives.get(&core);
        let mut whose = self.cluster.executors.with_id(app, executor);
        if life.is_some_and(|life| whose.all(|truth| excused(life, truth))) {
            return;
        }
        let ours = self.cluster.executors.with_id(app, executor).any(|truth| {
            let first = truth.removed_ms.is_some_and(|ms| truth.hurt_ms.is_none_or(|hurt_ms| ms < hurt_ms));
            first && truth.removed_by == Some(core)
        });
        if let Some(life) = self.apps[app].checks.life(core)
            && !ours
            && !life.disrupted.contains(&executor.0)
        {
            life.fair.insert(executor.0);
        }
    }

    fn check_create(&mut self, app: usize, core: CoreId, executor: ExecutorId, pod: &str, cause: Cause) {
        let now_ms = self.sim.now_ms;
        let allocation = &self.apps[app].checks.spec.allocation;
        let (batch, delay_ms) = (allocation.batch_size as usize, allocation.batch_delay_ms);
        let expected = format!("{}-exec-{executor}", self.apps[app].checks.spec.name);
        if *pod != *expected {
            self.apps[app]
                .checks
                .object("S2", now_ms, || format!("{pod} is not the name of executor {executor}"));
        }
        // Whether an id is reused is checked when the pod is created; before that only a request in transit
        // counts.
        let (asked, asked_ms) =
            self.apps[app].checks.asked.insert(executor.0, (core, now_ms)).unwrap_or((core, now_ms));
        // A leader from before the ledger was lost may not know yet that its ids were forgotten.
        let on_its_way = now_ms < asked_ms + REACH_MS;
        if asked != core && on_its_way && now_ms > self.apps[app].checks.amnesty_until_ms {
            self.apps[app].checks.object("S2", now_ms, || {
                format!("host {} uses id {executor}, which host {} had used", core.host, asked.host)
            });
        }
        let observes = self.apps[app].checks.spec.mode == Mode::Observe;
        let Some(life) = self.apps[app].checks.lives.get_mut(&core) else { return };
        let (base, reserved, driver_gone) = (life.base, life.reserved, life.driver_gone);
        while life.creates.front().is_some_and(|made_ms| made_ms + delay_ms <= now_ms) {
            life.creates.pop_front();
        }
        life.creates.push_back(now_ms);
        let burst = life.creates.len();
        if !(base < executor.0 && executor.0 <= reserved) {
            self.apps[app].checks.object("S2", now_ms, || {
                format!(
                    "id {executor} is used, and {base}..={reserved} is what host {} has reserved",
                    core.host
                )
            });
        }
        // A batch at the end of one delay and one at the start of the next.
        if burst > 2 * batch {
            self.apps[app].checks.object("S12", now_ms, || format!("{burst} creations within {delay_ms} ms"));
        }
        if driver_gone || observes {
            self.apps[app].checks.object("S17", now_ms, || format!("a pod for {executor} without an owner"));
        }
        let (host, life) = (&self.hosts[core.host], core.life);
        let (used, told) = (host.address_for(life), host.address_told(life));
        if used != told {
            self.apps[app].checks.object("S25", now_ms, || {
                format!(
                    "{pod} is told that its driver is at {used}, and host {} knows that it is at {told}",
                    core.host
                )
            });
        }
        let justified = match cause {
            Cause::Shortfall { .. } | Cause::Rolled(_) | Cause::Command(_) | Cause::Doubt(_) => true,
            Cause::Start
            | Cause::Excess
            | Cause::Record
            | Cause::Loss(_)
            | Cause::Settled(_)
            | Cause::Roll
            | Cause::Failed => false,
        };
        if !justified {
            self.apps[app].checks.object("S17", now_ms, || format!("a creation because of {cause:?}"));
        }
    }

    fn check_delete(
        &mut self,
        app: usize,
        core: CoreId,
        executor: ExecutorId,
        pod: &str,
        uid: &Uid,
        cause: Cause,
    ) {
        let (at, now_ms) = (core.host, self.sim.now_ms);
        let truth = Serial::of(uid).and_then(|serial| self.cluster.executors.get(&serial));
        let Some(truth) = truth else {
            let message = || format!("{pod} never had UID {uid}");
            return self.apps[app].checks.object("S6", now_ms, message);
        };
        let named = self.api.last_view(truth.serial).is_some_and(|view| *view.name == *pod);
        if truth.app != app || truth.maker == Maker::Operator || truth.executor != executor || !named {
            self.apps[app]
                .checks
                .object("S6", now_ms, || format!("{pod} with UID {uid} is not executor {executor} of ours"));
            return;
        }
        let known = self.hosts[at].shown(app).told;
        let stripped = truth.tampered.is_some_and(|revision| revision <= known);
        let unowned = self.api.pod(truth.serial).is_some_and(|pod| pod.view.owner.is_none());
        // That a pod never had an owner is known from the answer to its creation.
        let never_owned = truth.tampered == Some(truth.created_revision);
        if stripped && unowned && !never_owned {
            self.apps[app]
                .checks
                .object("S7", now_ms, || format!("{pod} has lost its owner, and host {at} knows it"));
        }
        let twins = self.cluster.executors.with_id(app, executor).count();
        let waits = self.api.pod(truth.serial).is_some_and(|pod| pod.view.gated());
        let killed = self.apps[app].checks.killed.contains(&executor.0);
        if waits
            && twins == 1
            && truth.hurt_ms.is_none()
            && !truth.late
            && !killed
            && matches!(cause, Cause::Settled(_))
        {
            self.apps[app]
                .checks
                .object("S19", now_ms, || format!("{pod} waits for a gate and is cleared away"));
        }
        self.check_recorded(app, core, executor, cause);
        let per_hour = self.apps[app].checks.spec.roll.as_ref().map_or(0, |roll| roll.max_per_hour);
        let Some(life) = self.apps[app].checks.life(core) else { return };
        match cause {
            Cause::Rolled(rolled) => {
                let allowed = life.may_roll.contains(&rolled.0)
                    || life.ordered_rolls > 0 && life.offered.contains(&rolled.0);
                life.rolled.insert(rolled.0);
                // A run is shorter than an hour.
                let many = life.rolled.len() > per_hour as usize + life.ordered_rolls as usize + life.carried;
                if !allowed || rolled != executor {
                    self.apps[app]
                        .checks
                        .object("S11", now_ms, || format!("{executor} is rolled without a pick"));
                } else if many {
                    self.apps[app]
                        .checks
                        .object("S12", now_ms, || format!("more than {per_hour} rolls in an hour"));
                }
            }
            Cause::Excess
            | Cause::Settled(_)
            | Cause::Loss(_)
            | Cause::Shortfall { .. }
            | Cause::Command(_)
            | Cause::Doubt(_)
            | Cause::Failed => {}
            Cause::Start | Cause::Record | Cause::Roll => {
                self.apps[app]
                    .checks
                    .object("S17", now_ms, || format!("a deletion of {pod} because of {cause:?}"));
            }
        }
    }
}

impl World<'_> {
    /// The executor to be deleted was recorded as leaving or as settled, in the last version that this host
    /// wrote.
    fn check_recorded(&mut self, app: usize, core: CoreId, executor: ExecutorId, cause: Cause) {
        let now_ms = self.sim.now_ms;
        let ours = self.apps[app].checks.writer == Some(core);
        let Some(stored) = self.api.ledger(app).filter(|stored| ours && !stored.tampered) else { return };
        let ledger = &stored.ledger;
        // A delayed old write may have replaced the version that recorded it.
        let said = self.apps[app].checks.ever_settled.contains(&executor.0)
            || self.apps[app].checks.ever_leaving.contains(&executor.0);
        if !said && !ledger.settled.contains(executor) && !ledger.leaving.contains_key(&executor) {
            self.apps[app].checks.object("S8", now_ms, || {
                format!("{executor} is deleted because of {cause:?}, and no ledger says that it will be")
            });
        }
    }
}

fn verb_name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Relist { .. } => "a list",
        Verb::ReadLedger => "to read the ledger",
        Verb::WriteLedger { .. } => "to write the ledger",
        Verb::CreatePod { .. } => "to create a pod",
        Verb::GetPod { .. } => "to read a pod",
        Verb::DeletePod { .. } => "to delete a pod",
        Verb::EvictPod { .. } => "to evict a pod",
        Verb::DeleteDriver { .. } => "to delete the driver",
        Verb::Ask { .. } => "to ask a policy",
        Verb::Reply { .. } => "to reply",
        Verb::CheckLease => "to check the lease",
        Verb::Publish(_) => "to publish",
    }
}
