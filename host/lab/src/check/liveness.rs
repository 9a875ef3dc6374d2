//! Once the faults are over: the fleet reaches its target, and comes to rest.
//!
//! L1 is strict: exactly the target number of executors, all of them useful, nothing left over, and then no pod
//! is changed for five minutes.

use fleet::spec::{FleetSpec, Mode};

use super::Checks;
use crate::cluster::PodStep;
use crate::world::World;

/// How long no pod may change.
pub const REST_MS: u64 = 300_000;

impl Checks {
    /// The ledger asks for another target than the spec.
    pub(super) fn requested_in_force(&mut self, now_ms: u64, total: u32) {
        self.target_for_now(now_ms, total);
    }
}

impl World<'_> {
    pub(crate) fn check_second(&mut self) {
        for app in self.current() {
            self.check_snapshots(app);
            let now_ms = self.sim.now_ms;
            for at in 0..self.hosts.len() {
                let lag_ms = self.hosts[at].watches[self.apps[app].operator.namespace].lag_ms;
                if self.hosts[at].leading && lag_ms > 0 {
                    self.apps[app].checks.lag(now_ms, lag_ms);
                }
            }
            if now_ms % 60_000 < 1_000 {
                // A recorded request stays possible for as long as it is recorded. The leader that wrote it also
                // holds it in memory, even if the record is lost.
                let recorded = self.api.ledger(app).and_then(|stored| stored.ledger.requested);
                let checks = &mut self.apps[app].checks;
                let held = checks.current.values().filter_map(|core| checks.lives.get(core)?.requested);
                let requested: Vec<u32> = held.chain(recorded.map(|requested| requested.total)).collect();
                checks.targets.retain(|(until_ms, _)| *until_ms >= now_ms);
                requested.into_iter().for_each(|total| checks.requested_in_force(now_ms, total));
            }
        }
    }

    /// `None` if the fleet is in the desired state; otherwise what differs.
    pub fn unrest(&self, app: usize) -> Option<String> {
        let gone = !self.api.is_driver_running(app);
        let target = if gone { 0 } else { self.apps[app].operator.spec.target as usize };
        if !gone && self.apps[app].operator.has_orders() {
            return Some("an operator's command is not done".to_owned());
        }
        let leaders = self.hosts.iter().filter(|host| host.leading && !host.is_frozen()).count();
        if leaders != 1 {
            return Some(format!("{leaders} hosts lead"));
        }
        let (mut live, mut of_use, mut terminating, mut left_over) = (0, 0, 0, 0);
        let mut useless = None;
        let ledger = self.api.ledger(app).map(|stored| &stored.ledger);
        for (serial, pod) in self.api.ours(app) {
            let truth = self.cluster.executors.get(&serial);
            if pod.view.terminating() {
                terminating += 1;
            } else if pod.live() {
                live += 1;
                let useful = truth.is_some_and(|truth| truth.available());
                of_use += usize::from(useful);
                useless = if useful { useless } else { truth };
                // In a fleet that is only observed, an executor that was declared lost by mistake is left to
                // the driver.
                let recorded = ledger.is_some_and(|ledger| {
                    let executor = pod.view.executor;
                    ledger.born.contains(executor) || self.observes(app) && ledger.settled.contains(executor)
                });
                if !recorded && !gone {
                    return Some(format!("{} is in no ledger (L3)", pod.view.name));
                }
            } else if !ledger.is_some_and(|ledger| ledger.kept.contains(pod.view.executor)) {
                left_over += 1;
            }
        }
        if live != target || of_use != target || terminating > 0 {
            return Some(format!(
                "{live} live, {of_use} of use, {terminating} terminating, and {target} are wanted; {useless:?}"
            ));
        }
        if left_over > 0 && !gone {
            return Some(format!("{left_over} ended pods are in no ledger (L3)"));
        }
        let ledger = ledger.filter(|_| !gone)?;
        let kept = self.apps[app].operator.spec.recovery.max_kept_pods as usize;
        let born = self.observes(app) || ledger.born.len() as usize == target;
        if ledger.kept.len() as usize > kept || !ledger.leaving.is_empty() || !born {
            return Some(format!("the ledger holds what is over: {ledger:?} (L4)"));
        }
        let leader = self.hosts.iter().find(|host| host.leading)?;
        let snapshot = leader.snapshot(app, self.sim.now_ms)?;
        if !leader.shown(app).listed {
            return Some("the leader's view is not fresh".to_owned());
        }
        let open = snapshot.conditions.iter().any(|condition| condition.name == "BreakerOpen");
        open.then(|| "the breaker is still open (L5)".to_owned())
    }

    /// Runs until every fleet has been at rest for long enough; objects if that takes one of them longer than its
    /// own bound.
    pub fn come_to_rest(&mut self, bound_ms: impl Fn(&FleetSpec) -> u64) {
        let begun_ms = self.sim.now_ms;
        let mut restless: Vec<(usize, Option<u64>)> =
            self.hopeful().into_iter().map(|app| (app, None)).collect();
        while !restless.is_empty() && !self.objects() {
            let now_ms = self.sim.now_ms;
            for (app, rests_since) in &mut restless {
                *rests_since = match self.unrest(*app) {
                    None => Some(rests_since.unwrap_or(now_ms)),
                    Some(_) => None,
                };
            }
            restless.retain(|(app, since_ms)| {
                let last_ms = self.apps[*app].checks.last_mutation_ms;
                since_ms.is_none_or(|since_ms| now_ms - since_ms.max(last_ms) < REST_MS)
            });
            let late = |app: usize| now_ms >= begun_ms + bound_ms(&self.apps[app].operator.spec) + REST_MS;
            if let Some(app) = restless.iter().map(|(app, _)| *app).find(|app| late(*app)) {
                return self.object_to_unrest(app);
            }
            if !restless.is_empty() {
                self.run_until(now_ms + 1_000);
            }
        }
    }

    fn object_to_unrest(&mut self, app: usize) {
        let last_ms = self.apps[app].checks.last_mutation_ms;
        let why = self.unrest(app).unwrap_or_else(|| format!("a pod was touched at {last_ms} ms"));
        let (name, seen) = (&self.apps[app].operator.spec.name, self.leaders_view(app));
        let message = format!("{name}: {why}. {seen}");
        let checker = if self.hopeless.is_some() { "L7" } else { "L1" };
        self.apps[app].checks.object(checker, self.sim.now_ms, || message);
    }

    /// The fleets that have to come to rest.
    fn hopeful(&self) -> Vec<usize> {
        self.current().into_iter().filter(|app| !self.is_hopeless(*app)).collect()
    }

    /// Beside a fleet that has failed, each of the others loses an executor, which has to be replaced within the
    /// fleet's own bound.
    pub fn replace_losses(&mut self, bound_ms: impl Fn(&FleetSpec) -> u64) {
        let mut waiting = if self.hopeless.is_some() { self.hopeful() } else { Vec::new() };
        let begun_ms = self.sim.now_ms;
        for app in &waiting {
            if let Some(serial) = self.cluster.running_of(*app).first() {
                self.pod_step(*serial, PodStep::Exit(137));
            }
        }
        while !waiting.is_empty() && !self.objects() {
            let now_ms = self.sim.now_ms + 1_000;
            self.run_until(now_ms);
            waiting.retain(|app| self.unrest(*app).is_some());
            let late = |app: &&usize| now_ms >= begun_ms + bound_ms(&self.apps[**app].operator.spec);
            if let Some(app) = waiting.iter().find(late).copied() {
                self.object_to_unrest(app);
            }
        }
    }

    /// The leader's view, for debugging.
    fn leaders_view(&self, app: usize) -> String {
        let leader = self.hosts.iter().find(|host| host.leading);
        let seen = leader.and_then(|host| Some((host, host.snapshot(app, self.sim.now_ms)?)));
        let Some((host, snapshot)) = seen else { return "No host leads the fleet".to_owned() };
        let stages = snapshot.executors.iter().map(|row| format!("{} {}", row.executor, row.stage));
        let stages: Vec<String> = stages.collect();
        let conditions = snapshot.conditions.iter().map(|c| format!("{}: {}", c.name, c.message));
        let conditions: Vec<String> = conditions.collect();
        format!(
            "Host {} sees {} of {}: {}; {}",
            host.index,
            snapshot.phase,
            snapshot.target,
            stages.join(", "),
            conditions.join(", ")
        )
    }

    /// Whether an observed fleet reaches its target is up to the driver.
    pub fn observes(&self, app: usize) -> bool {
        self.apps[app].operator.spec.mode == Mode::Observe
    }
}
