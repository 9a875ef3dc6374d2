//! Operators: they write the spec, give commands, and change their minds.
//!
//! Commands go to the leader and are forgotten when it dies, as an HTTP request is; after healing they are
//! repeated until a reply arrives. Rejected: operators who react to `kubectl get`. Their actions are drawn
//! instead, sensible or not.

use std::collections::BTreeSet;

use fleet::action::Reply;
use fleet::event::Command;
use fleet::guardrail::Refusal;
use fleet::id::{CommandId, ExecutorId};
use fleet::observed::DriverPod;
use fleet::spec::{FleetSpec, Mode, ValidatedSpec};
use fleet::supervisor::{Document, Input, Judged};

use crate::api::{DRIVER, NAMESPACE};
use crate::fault::Fault;
use crate::host::HostTask;
use crate::policies;
use crate::world::World;

#[derive(Debug)]
pub struct Operator {
    /// The spec in force, which a host reads when it starts.
    pub spec: FleetSpec,
    pub policies: Vec<String>,
    /// Counts the documents.
    version: u64,
    /// The versions in which the fleet is paused or makes a dry run.
    still: BTreeSet<u64>,
    pub template_invalid: bool,
    /// The faults are over.
    pub healed: bool,
    lifts: Vec<(u64, Lift)>,
    commands: u64,
    /// Commands that have to be delivered, each with the number under which it was last sent.
    orders: Vec<(Command, Option<CommandId>)>,
    asked_ms: u64,
}

/// The end of a temporary change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lift {
    Quota,
    Namespace,
    Budget,
    BudgetsOverlap,
    Template,
    Policies,
    Resume,
    Target(u32),
    Lag(usize),
    /// An operator has noticed that the ledger is refused.
    Ledger,
}

impl Operator {
    pub fn new(spec: FleetSpec) -> Operator {
        Operator {
            still: [1].into_iter().filter(|_| spec.paused || spec.dry_run).collect(),
            spec,
            policies: policies::NAMES.map(str::to_owned).to_vec(),
            version: 1,
            template_invalid: false,
            healed: false,
            lifts: Vec::new(),
            commands: 0,
            orders: Vec::new(),
            asked_ms: 0,
        }
    }

    pub(crate) fn lift_after(&mut self, at_ms: u64, lift: Lift) {
        self.lifts.push((at_ms, lift));
    }

    /// The document in force.
    pub(crate) fn documents(&self) -> Input {
        self.documents_of(self.spec.clone())
    }

    fn documents_of(&self, spec: FleetSpec) -> Input {
        let errors = ValidatedSpec::check(spec.clone(), &self.policies).err().unwrap_or_default();
        let document = Document {
            fleet: spec.name.clone(),
            namespace: NAMESPACE.to_owned(),
            driver_pod: DRIVER.to_owned(),
            application_id: Some(spec.application_id.clone()),
            needs_address: true,
            metrics_namespace: None,
            graphite_prefix: None,
            check_peer: true,
            unusable: None,
            version: self.version,
            spec,
        };
        let problems = errors.iter().map(ToString::to_string).collect();
        Input::Documents(vec![Judged { document, problems, pending: None, policies: self.policies.clone() }])
    }

    /// Does the fleet change nothing, according to this version of its document?
    pub(crate) fn stood_still(&self, version: u64) -> bool {
        self.still.contains(&version)
    }

    pub(crate) fn driver_found(&self, found: Result<Option<DriverPod>, String>) -> Input {
        let (namespace, pod) = (NAMESPACE.to_owned(), DRIVER.to_owned());
        Input::DriverFound { fleet: self.spec.name.clone(), namespace, pod, found }
    }

    pub fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }
}

impl World<'_> {
    pub(crate) fn lift_what_is_over(&mut self) {
        let now_ms = self.sim.now_ms;
        let all = std::mem::take(&mut self.operator.lifts);
        let (over, lasting): (Vec<_>, Vec<_>) = all.into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        self.operator.lifts = lasting;
        for (_, lift) in over {
            match lift {
                Lift::Quota => self.api.quota = None,
                Lift::Namespace => self.api.namespace_terminating = false,
                Lift::Budget => self.api.budget = None,
                Lift::BudgetsOverlap => self.api.budgets_overlap = false,
                Lift::Template => self.operator.template_invalid = false,
                Lift::Policies => {
                    self.operator.policies = policies::NAMES.map(str::to_owned).to_vec();
                    self.publish_spec(100);
                }
                Lift::Resume => {
                    self.order(Command::Resume);
                }
                Lift::Target(target) => self.set_target(target),
                Lift::Lag(at) => self.watch_lags(at, 0),
                Lift::Ledger => {
                    self.order(Command::ResetLedger);
                }
            }
        }
    }

    pub(crate) fn people(&mut self) {
        let now_ms = self.sim.now_ms;
        if self.operator.healed {
            return self.repeat_orders();
        }
        if self.sim.strikes(Fault::TargetChanges) {
            let target = u32::try_from(self.sim.choices.below(13)).expect("small");
            if self.operator.spec.mode == Mode::Own && self.sim.choices.chance(400) {
                self.order(Command::RequestTotalExecutors(target));
            } else {
                self.set_target(target);
            }
        }
        if self.sim.strikes(Fault::TargetToZero) {
            let before = self.operator.spec.target;
            self.set_target(0);
            let ms = self.sim.choices.between(500, 60_000);
            self.operator.lift_after(now_ms + ms, Lift::Target(before));
        }
        if self.sim.strikes(Fault::SpecContradicts) {
            let mut spec = self.operator.spec.clone();
            spec.limits.max_executors = 0;
            spec.heartbeat.timeout_ms = 0;
            self.operator.version += 1;
            for at in 0..self.hosts.len() {
                let documents = self.operator.documents_of(spec.clone());
                self.post(at, 50, HostTask::Input(Box::new(documents)));
            }
        }
        if self.sim.strikes(Fault::PolicyRemoved) {
            self.operator.policies = vec!["OTHER".to_owned()];
            self.publish_spec(50);
            let ms = self.sim.choices.between(1_000, 40_000);
            self.operator.lift_after(now_ms + ms, Lift::Policies);
        }
        if self.sim.strikes(Fault::Paused) {
            self.order(Command::Pause);
            let ms = self.sim.choices.between(1_000, 60_000);
            self.operator.lift_after(now_ms + ms, Lift::Resume);
        }
        if self.sim.strikes(Fault::OperatorKills) {
            self.kill_some();
        }
        if self.sim.strikes(Fault::OperatorRolls) {
            let whom = self.random_ids(1).first().copied();
            let whom = if self.sim.choices.chance(500) { whom } else { None };
            self.order(Command::Roll(whom));
            if self.sim.choices.chance(200) {
                self.order(Command::RequestTotalExecutors(1_000_000));
            }
            if let Some(spared) = self.random_ours().filter(|_| self.sim.choices.chance(200)) {
                self.api.change(spared, |pod| pod.do_not_roll = true);
            }
        }
    }

    fn kill_some(&mut self) {
        let count = self.sim.choices.between(1, 3);
        let mut executors = self.random_ids(count);
        if self.sim.choices.chance(200) {
            // An executor that does not exist.
            executors.push(ExecutorId(self.sim.choices.between(500, 600)));
        }
        let replace = self.operator.spec.mode == Mode::Observe || self.sim.choices.below(2) == 0;
        let force = self.sim.choices.chance(500);
        self.order(Command::Kill { executors, replace, force });
    }

    fn random_ids(&mut self, count: u64) -> Vec<ExecutorId> {
        let ours: Vec<ExecutorId> = self.api.ours().map(|(_, pod)| pod.view.executor).collect();
        (0..count).filter_map(|_| self.sim.choices.pick(&ours).copied()).collect()
    }

    // --------------------------------------------------------------------------------------- spec --

    /// Sets a new target, if the spec stays valid with it.
    pub(crate) fn set_target(&mut self, target: u32) {
        let mut spec = self.operator.spec.clone();
        spec.target = target;
        let all: Vec<String> = policies::NAMES.map(str::to_owned).to_vec();
        if ValidatedSpec::check(spec.clone(), &all).is_ok() {
            self.operator.spec = spec;
            self.checks.target(self.sim.now_ms, target);
            let ms = self.sim.choices.between(10, 2_000);
            self.publish_spec(ms);
        }
    }

    pub(crate) fn publish_spec(&mut self, ms: u64) {
        self.operator.version += 1;
        if self.operator.spec.paused || self.operator.spec.dry_run {
            self.operator.still.insert(self.operator.version);
        }
        for at in 0..self.hosts.len() {
            self.post(at, ms, HostTask::Spec);
        }
    }

    // ------------------------------------------------------------------------------------- orders --

    /// Sends a command to the leader, if there is one.
    pub(crate) fn order(&mut self, verb: Command) -> Option<CommandId> {
        let at = (0..self.hosts.len()).find(|at| self.hosts[*at].leading)?;
        self.operator.commands += 1;
        let command = CommandId(self.operator.commands);
        let fleet = self.operator.spec.name.clone();
        self.post(at, 5, HostTask::Input(Box::new(Input::Command { fleet, command, verb })));
        Some(command)
    }

    pub(crate) fn replied(&mut self, _at: usize, command: CommandId, reply: &Reply) {
        // The state is already the requested one.
        let done = matches!(reply, Reply::Done | Reply::Refused(Refusal::LedgerInOrder));
        self.operator.orders.retain(|(_, given)| !(done && *given == Some(command)));
    }

    fn repeat_orders(&mut self) {
        if self.sim.now_ms < self.operator.asked_ms + 5_000 {
            return;
        }
        self.operator.asked_ms = self.sim.now_ms;
        let failed = self.api.ledger().is_some_and(|stored| stored.ledger.failed);
        let asked = self.operator.orders.iter().any(|(order, _)| *order == Command::ResetBreaker);
        if failed && !asked {
            // Failures from before the faults were over may still trip the breaker.
            self.operator.orders.push((Command::ResetBreaker, None));
        }
        let parked = self.hosts.iter().filter(|host| host.leading).any(|host| {
            let snapshot = host.snapshot(self.sim.now_ms);
            snapshot.is_some_and(|it| it.conditions.iter().any(|one| one.name == "LedgerRefused"))
        });
        let asked = self.operator.orders.iter().any(|(order, _)| *order == Command::ResetLedger);
        if parked && !asked {
            self.operator.orders.push((Command::ResetLedger, None));
        }
        for at in 0..self.operator.orders.len() {
            let verb = self.operator.orders[at].0.clone();
            self.operator.orders[at].1 = self.order(verb);
        }
    }

    /// From now on there are no faults, and this many executors are wanted.
    pub fn heal(&mut self, target: u32) {
        self.sim.say(|| format!("all faults are over; the target is {target}"));
        self.heal_cluster();
        self.operator.healed = true;
        for (at_ms, _) in &mut self.operator.lifts {
            *at_ms = 0;
        }
        self.operator.lifts.retain(|(_, lift)| !matches!(lift, Lift::Target(_)));
        self.lift_what_is_over();
        let mut spec = self.operator.spec.clone();
        spec.target = target;
        spec.paused = false;
        spec.dry_run = false;
        self.operator.spec = spec;
        self.checks.target(self.sim.now_ms, target);
        self.publish_spec(10);
        let own = self.operator.spec.mode == Mode::Own;
        let mut orders = vec![Command::Resume, Command::ResetBreaker];
        if own {
            orders.push(Command::RequestTotalExecutors(target));
        }
        self.operator.orders = orders.into_iter().map(|order| (order, None)).collect();
    }
}
