//! Faults that are drawn each second: hosts, watches, the ledger, executors.
//!
//! The end of a temporary fault is scheduled when it starts, in `World::lifts`, so healing means ending all of
//! them now. In a world with several fleets, a fault that concerns one of them draws which.

use fleet::event::Impairment;
use fleet::id::ExecutorId;

use crate::api::{NAMESPACES, Patch, PodObject, Serial};
use crate::cluster::{NodeStep, PodStep, Process};
use crate::fault::Fault;
use crate::lease;
use crate::operator::Lift;
use crate::world::World;

impl World<'_> {
    pub(crate) fn chaos(&mut self) {
        self.lift_what_is_over();
        self.stay_hopeless();
        self.tell_of_drivers();
        if self.healed {
            return;
        }
        self.host_chaos();
        self.ledger_chaos();
        self.node_chaos();
        self.executor_chaos();
        self.policy_of_the_cluster();
        self.fleet_chaos();
    }

    fn random_host(&mut self) -> usize {
        usize::try_from(self.sim.choices.below(self.hosts.len() as u64)).expect("an index")
    }

    fn host_chaos(&mut self) {
        let now_ms = self.sim.now_ms;
        if self.sim.strikes(Fault::CrashLoop) {
            let at = self.random_host();
            self.hosts[at].requests_left =
                Some(u32::try_from(self.sim.choices.between(1, 8)).expect("small"));
        }
        if self.sim.strikes(Fault::Freeze) {
            let leader = lease::holder(&self.api).unwrap_or(0);
            let ms = self.sim.choices.between(3_000, 60_000);
            let clock_stops = self.sim.choices.chance(300);
            self.freeze(leader, ms, clock_stops);
        }
        self.deafness();
        if self.sim.strikes(Fault::TwoLeaders) {
            self.take_early();
        }
        if self.sim.strikes(Fault::LeaseDeleted) {
            self.sim.say(|| "an operator deletes the lease".to_owned());
            self.api.delete_lease();
        }
        if self.sim.strikes(Fault::Partitioned) {
            let at = self.random_host();
            let ms = self.sim.choices.between(1_000, 40_000);
            self.hosts[at].partitioned_until_ms = now_ms + ms;
        }
        if self.sim.strikes(Fault::WallJumps) {
            let at = self.random_host();
            let jump_ms = i64::try_from(self.sim.choices.between(0, 14_400_000)).expect("hours");
            self.hosts[at].skew_ms = jump_ms - 7_200_000;
        }
        if self.sim.strikes(Fault::TicksLate) {
            let at = self.random_host();
            let ms = self.sim.choices.between(1_000, 30_000);
            self.hosts[at].late_until_ms = now_ms + ms;
            self.disturb_beats(now_ms + ms + 10_000);
        }
        if self.sim.strikes(Fault::WatchLags) {
            let at = self.random_host();
            let lag_ms = self.sim.choices.between(1_000, 60_000);
            let app = self.random_app();
            let namespace = self.apps[app].operator.namespace;
            self.watch_lags(at, namespace, lag_ms);
            let ms = self.sim.choices.between(5_000, 90_000);
            self.lift_after(now_ms + ms, Lift::Lag(at, namespace));
        }
    }

    /// Faults in how a host receives heartbeats.
    fn deafness(&mut self) {
        let now_ms = self.sim.now_ms;
        if self.sim.strikes(Fault::DeafListener) {
            let at = self.random_host();
            let ms = self.sim.choices.between(2_000, 90_000);
            self.hosts[at].door.deaf_until_ms = now_ms + ms;
        }
        if self.sim.strikes(Fault::PartlyDeaf) {
            let at = self.random_host();
            let door = &mut self.hosts[at].door;
            door.partial_until_ms = now_ms + self.sim.choices.between(2_000, 90_000);
            door.partial_third = self.sim.choices.below(3);
            let causes = [Impairment::Refused, Impairment::Dropped, Impairment::Unattributed];
            door.partial_why = self.sim.choices.pick(&causes).copied();
        }
        if self.sim.strikes(Fault::FrozenFull) {
            let leader = (0..self.hosts.len()).find(|at| self.hosts[*at].leading).unwrap_or(0);
            let ms = self.sim.choices.between(10_000, 90_000);
            let room = usize::try_from(self.sim.choices.between(0, 60)).expect("small");
            let hasty = self.sim.choices.chance(500);
            self.freeze_full(leader, ms, room, hasty);
        }
    }

    /// The Lease is cleared by hand, and another host takes it. The old leader is cut off from the Lease long
    /// enough for both to believe that they lead.
    fn take_early(&mut self) {
        let Some(old) = lease::holder(&self.api) else { return };
        let other = (0..self.hosts.len()).find(|at| {
            *at != old && self.hosts[*at].is_up() && !self.hosts[*at].leading && !self.hosts[*at].is_frozen()
        });
        if other.is_none() {
            return;
        }
        let ms = self.sim.choices.between(0, 20_000);
        self.hosts[old].lease_blind_until_ms = self.sim.now_ms + ms;
        self.sim.say(|| format!("an operator clears the lease of host {old}"));
        self.api.clear_lease();
    }

    fn ledger_chaos(&mut self) {
        if self.sim.strikes(Fault::LedgerRestored) {
            let app = self.random_app();
            let age = usize::try_from(self.sim.choices.between(1, 20)).expect("small");
            self.sim.say(|| format!("an operator restores the ledger of {age} writes ago"));
            self.api.restore_ledger(app, age);
        }
        if self.sim.strikes(Fault::LedgerDeleted) {
            let app = self.random_app();
            self.sim.say(|| "an operator deletes the ledger".to_owned());
            self.api.delete_ledger(app);
        }
        if self.sim.strikes(Fault::LedgerEdited) {
            let app = self.random_app();
            let absurd =
                self.api.ledger(app).is_some_and(|stored| self.apps[app].checks.is_absurd(stored.version));
            self.api.edit_ledger(app, "color", "blue");
            if let Some(stored) = self.api.ledger(app).filter(|_| absurd) {
                self.apps[app].checks.absurd(stored.version);
            }
        }
        if self.sim.strikes(Fault::LedgerPatched) {
            self.patch_ledger();
        }
    }

    fn patch_ledger(&mut self) {
        let app = self.random_app();
        if self.api.ledger(app).is_some() {
            let patch = *self.sim.choices.pick(&Patch::ALL).expect("some");
            self.sim.say(|| format!("a tenant patches the ledger: {patch:?}"));
            if let Some(version) = self.api.patch_ledger(app, patch) {
                self.apps[app].checks.absurd(version);
            }
            let ms = self.sim.choices.between(5_000, 120_000);
            self.lift_after(self.sim.now_ms + ms, Lift::Ledger(app));
        }
    }

    fn executor_chaos(&mut self) {
        if self.sim.strikes(Fault::OomKilled)
            && let Some(serial) = self.random_running()
        {
            self.pod_step(serial, PodStep::Exit(137));
        }
        if self.sim.strikes(Fault::Exits)
            && let Some(serial) = self.random_running()
        {
            let code = *self.sim.choices.pick(&[1, 50, 52, 56, 134, 0]).expect("six codes");
            self.pod_step(serial, PodStep::Exit(code));
        }
        if self.sim.strikes(Fault::SidecarOutlives)
            && let Some(serial) = self.random_running()
        {
            let code = *self.sim.choices.pick(&[1, 50, 52, 0]).expect("four codes");
            self.end_beside_sidecar(serial, code);
        }
        if self.sim.strikes(Fault::PendingAgain)
            && let Some(serial) = self.random_running()
        {
            self.pend_again(serial);
        }
        if self.sim.strikes(Fault::FallsSilent)
            && let Some(serial) = self.random_running()
        {
            self.falls_silent(serial);
        }
        if self.sim.strikes(Fault::Zombie)
            && let Some(serial) = self.random_running()
        {
            if let Some(truth) = self.cluster.executors.get_mut(&serial) {
                truth.zombie = true;
            }
            self.api.delete_serial(serial, Some(0));
        }
        if self.sim.strikes(Fault::DeletedByHuman)
            && let Some(serial) = self.random_ours()
        {
            let grace_ms = if self.sim.choices.chance(200) { Some(0) } else { None };
            self.hurt_executor(serial);
            self.api.delete_serial(serial, grace_ms);
        }
        if self.sim.strikes(Fault::LabelsEdited)
            && let Some(serial) = self.random_ours()
        {
            self.hurt_executor(serial);
            self.api.change(serial, |pod| pod.selected = false);
            self.tampered(serial);
        }
        if self.sim.strikes(Fault::OwnerEdited)
            && let Some(serial) = self.random_ours()
        {
            self.hurt_executor(serial);
            self.api.change(serial, |pod| pod.owner = None);
            self.tampered(serial);
        }
        if self.sim.strikes(Fault::ForeignLabel) {
            let app = self.random_app();
            let executor = ExecutorId(self.sim.choices.between(1, 60));
            let name = format!("foreign-{}", self.sim.choices.below(1_000));
            self.foreign(app, name.into(), executor, true);
        }
        if self.sim.strikes(Fault::ForeignName) {
            let app = self.random_app();
            let reserved = self.api.ledger(app).map_or(0, |stored| stored.ledger.reserved.0);
            let ahead = self.sim.choices.between(0, 8);
            let executor = ExecutorId(reserved.saturating_add(ahead));
            let name = format!("{}-exec-{executor}", self.apps[app].operator.spec.name);
            let selected = self.sim.choices.chance(500);
            self.foreign(app, name.into(), executor, selected);
        }
        self.driver_chaos();
        if self.sim.strikes(Fault::DriverDies) {
            let app = self.random_app();
            self.sim.say(|| format!("the driver of {} dies", self.apps[app].operator.spec.name));
            self.api.end_driver(app);
        }
    }

    fn driver_chaos(&mut self) {
        let now_ms = self.sim.now_ms;
        if self.sim.strikes(Fault::DriverRestarts) {
            let app = self.random_app();
            if self.api.is_driver_running(app) {
                self.driver_restarts(app, false);
            }
        }
        if self.sim.strikes(Fault::DriverMute) {
            let app = self.random_app();
            self.apps[app].driver.mute_until_ms = now_ms + self.sim.choices.between(10_000, 90_000);
        }
        if self.sim.strikes(Fault::ReportPartial) {
            let app = self.random_app();
            self.apps[app].driver.partial_until_ms = now_ms + self.sim.choices.between(10_000, 90_000);
        }
    }

    fn falls_silent(&mut self, serial: Serial) {
        let now_ms = self.sim.now_ms;
        if let Some(truth) = self.cluster.executors.get_mut(&serial) {
            truth.process = Process::Silent;
            truth.hurt(now_ms);
            truth.down(now_ms);
        }
    }

    pub(crate) fn hurt_executor(&mut self, serial: Serial) {
        let now_ms = self.sim.now_ms;
        if let Some(truth) = self.cluster.executors.get_mut(&serial) {
            truth.hurt(now_ms);
        }
    }

    /// From now on the pod cannot be recognised as the fleet's, and it no longer counts as an executor.
    fn tampered(&mut self, serial: Serial) {
        let now_ms = self.sim.now_ms;
        let revision = self.api.revision();
        if let Some(truth) = self.cluster.executors.get_mut(&serial) {
            truth.tampered.get_or_insert(revision);
            truth.down(now_ms);
        }
    }

    pub(crate) fn random_ours(&mut self) -> Option<Serial> {
        let current = self.current();
        let ours = |(serial, pod): (Serial, &PodObject)| {
            (current.contains(&pod.app) && self.api.is_ours(pod)).then_some(serial)
        };
        let ours: Vec<Serial> = self.api.pods().filter_map(ours).collect();
        self.sim.choices.pick(&ours).copied()
    }

    pub(crate) fn random_ours_of(&mut self, app: usize) -> Option<Serial> {
        let ours: Vec<Serial> = self.api.ours(app).map(|(serial, _)| serial).collect();
        self.sim.choices.pick(&ours).copied()
    }

    fn foreign(&mut self, app: usize, name: Box<str>, executor: ExecutorId, selected: bool) {
        self.sim.say(|| format!("a user creates {name}"));
        self.api.create(crate::api::NewPod {
            app,
            name,
            executor,
            owner: None,
            selected,
            finalizer: false,
            sidecar: false,
        });
    }

    /// Quotas, budgets, webhooks: what operators set up around the fleet, for a limited time.
    fn policy_of_the_cluster(&mut self) {
        let now_ms = self.sim.now_ms;
        let ms = self.sim.now_ms + 20_000;
        if self.sim.strikes(Fault::QuotaExceeded) {
            let app = self.random_app();
            let target = u64::from(self.apps[app].operator.spec.target);
            self.api.quota = usize::try_from(self.sim.choices.below(target + 1)).ok();
            let for_ms = self.sim.choices.between(10_000, 120_000);
            self.lift_after(now_ms + for_ms, Lift::Quota);
        }
        if self.sim.strikes(Fault::NamespaceTerminating) {
            self.api.namespace_terminating = true;
            self.lift_after(ms, Lift::Namespace);
        }
        if self.sim.strikes(Fault::BudgetRefuses) {
            self.api.budget = Some(usize::MAX);
            let for_ms = self.sim.choices.between(10_000, 300_000);
            self.lift_after(now_ms + for_ms, Lift::Budget);
        }
        if self.sim.strikes(Fault::BudgetsOverlap) {
            self.api.budgets_overlap = true;
            self.lift_after(ms, Lift::BudgetsOverlap);
        }
        if self.sim.strikes(Fault::TemplateInvalid) {
            let app = self.random_app();
            self.apps[app].operator.template_invalid = true;
            let for_ms = self.sim.choices.between(5_000, 60_000);
            self.lift_after(now_ms + for_ms, Lift::Template(app));
        }
    }

    /// The world is healthy from now on; temporary faults end.
    pub(crate) fn heal_cluster(&mut self) {
        self.sim.swarm.heal();
        for node in 0..self.cluster.nodes.len() {
            self.cluster.nodes[node].black_hole = false;
            self.node_returns(node);
            self.node_step(node, NodeStep::Withdrawn);
        }
        for app in &mut self.apps {
            (app.driver.mute_until_ms, app.driver.partial_until_ms) = (0, 0);
        }
        let gated: Vec<Serial> =
            self.api.pods().filter(|(_, pod)| pod.view.gated()).map(|(serial, _)| serial).collect();
        for serial in gated {
            self.pod_step(serial, PodStep::Admit);
        }
        let stuck: Vec<Serial> =
            self.cluster.executors.values().filter(|it| it.held).map(|it| it.serial).collect();
        for serial in stuck {
            self.api.change_object(serial, |pod| pod.finalizer = false);
        }
        for executor in self.cluster.executors.values_mut() {
            executor.held = false;
            executor.zombie = false;
            if executor.fate != crate::cluster::Fate::Silent {
                executor.fate = crate::cluster::Fate::Fine;
            }
        }
        for at in 0..self.hosts.len() {
            let host = &mut self.hosts[at];
            host.requests_left = None;
            host.late_until_ms = 0;
            host.partitioned_until_ms = 0;
            host.lease_blind_until_ms = 0;
            host.watches.iter_mut().for_each(|watch| watch.refused_until_ms = 0);
            host.deaf_until_ms = 0;
            (host.door.deaf_until_ms, host.door.partial_until_ms) = (0, 0);
            host.skew_ms = 0;
            for namespace in 0..NAMESPACES.len() {
                self.watch_lags(at, namespace, 0);
            }
        }
    }
}
