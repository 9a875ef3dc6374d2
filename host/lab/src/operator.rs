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
use fleet::spec::{FleetSpec, Mode, ValidatedSpec};
use fleet::supervisor::{Document, Input, Judged};

use crate::api::NAMESPACES;
use crate::fault::Fault;
use crate::fleets::Hopeless;
use crate::host::HostTask;
use crate::policies;
use crate::world::World;

#[derive(Clone, Debug)]
pub struct Operator {
    /// The spec in force, which a host reads when it starts.
    pub spec: FleetSpec,
    /// The index of the fleet's namespace.
    pub namespace: usize,
    /// The target after the faults are over.
    last_target: u32,
    pub policies: Vec<String>,
    /// The document names the application id; else the driver's pod has it as a label.
    pub documented: bool,
    /// There is no document: a class makes one while the driver lives.
    pub(crate) classed: bool,
    /// What hosts were last told of the driver: of which application, and whether it lives. A driver that was replaced
    /// within a second is news, too: a host may have listed in between.
    pub(crate) told_live: Option<(usize, bool)>,
    /// Counts the documents.
    version: u64,
    /// The versions in which the fleet is paused or makes a dry run.
    still: BTreeSet<u64>,
    pub template_invalid: bool,
    /// There is no document now.
    pub(crate) withdrawn: bool,
    /// A newer document, which is not in force.
    pub(crate) draft: Option<Draft>,
    /// Commands that have to be delivered, each with the number under which it was last sent.
    orders: Vec<(Command, Option<CommandId>)>,
    asked_ms: u64,
}

/// A document that is newer than the one in force, and asks for another target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draft {
    pub target: u32,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Refused,
    /// Not known yet; then it is good, or refused.
    Pending {
        good: bool,
    },
}

/// The end of a temporary change; with the application that it concerns, if it concerns one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lift {
    Quota,
    Namespace,
    Budget,
    BudgetsOverlap,
    Template(usize),
    Policies(usize),
    Resume(usize),
    Target(usize, u32),
    /// Of a host's watch of a namespace.
    Lag(usize, usize),
    /// An operator has noticed that the ledger is refused.
    Ledger(usize),
    /// A fleet's document is there again.
    Document(usize),
    /// What a draft awaits is known, or it is taken back.
    Draft(usize),
    /// Another pod gets the name of a fleet's driver.
    Driver(usize),
}

impl Operator {
    pub fn new(spec: FleetSpec, namespace: usize, last_target: u32) -> Operator {
        Operator {
            still: [1].into_iter().filter(|_| spec.paused || spec.dry_run).collect(),
            spec,
            namespace,
            last_target,
            policies: policies::NAMES.map(str::to_owned).to_vec(),
            documented: true,
            classed: false,
            told_live: None,
            version: 1,
            template_invalid: false,
            withdrawn: false,
            draft: None,
            orders: Vec::new(),
            asked_ms: 0,
        }
    }

    /// The name of the driver's pod.
    pub(crate) fn driver_pod(&self) -> String {
        format!("driver-{}", self.spec.name)
    }

    /// What a host reads, if there is a document.
    pub(crate) fn judged(&self) -> Option<Judged> {
        let read = match self.draft {
            None => self.judged_with(self.spec.clone()),
            Some(Draft { target, verdict }) => {
                let mut judged = self.judged_with(FleetSpec { target, ..self.spec.clone() });
                match verdict {
                    Verdict::Refused => {
                        let why = "podTemplate: it has no container".to_owned();
                        judged.problems.push(why.clone());
                        judged.document.unusable = Some(why);
                    }
                    Verdict::Pending { .. } => judged.pending = Some("a policy is being compiled".to_owned()),
                }
                judged
            }
        };
        Some(read).filter(|_| !self.withdrawn)
    }

    fn judged_with(&self, spec: FleetSpec) -> Judged {
        let errors = ValidatedSpec::check(spec.clone(), &self.policies).err().unwrap_or_default();
        let document = Document {
            fleet: spec.name.clone(),
            namespace: NAMESPACES[self.namespace].to_owned(),
            driver_pod: self.driver_pod(),
            application_id: self.documented.then(|| spec.application_id.clone()),
            needs_address: true,
            metrics_namespace: None,
            graphite_prefix: None,
            check_peer: true,
            unusable: None,
            version: self.version,
            spec,
        };
        let problems = errors.iter().map(ToString::to_string).collect();
        Judged { document, problems, pending: None, policies: self.policies.clone() }
    }

    /// Does the fleet change nothing, according to this version of its document?
    pub(crate) fn stood_still(&self, version: u64) -> bool {
        self.still.contains(&version)
    }

    pub fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }
}

impl World<'_> {
    pub(crate) fn lift_after(&mut self, at_ms: u64, lift: Lift) {
        self.lifts.push((at_ms, lift));
    }

    pub(crate) fn lift_what_is_over(&mut self) {
        let now_ms = self.sim.now_ms;
        let all = std::mem::take(&mut self.lifts);
        let (over, lasting): (Vec<_>, Vec<_>) = all.into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        self.lifts = lasting;
        for (_, lift) in over {
            match lift {
                Lift::Document(app) => self.put_back(self.latest(app)),
                Lift::Draft(app) => self.decide_draft(self.latest(app)),
                Lift::Driver(app) => self.next_driver(self.latest(app)),
                Lift::Quota => self.api.quota = None,
                Lift::Namespace => self.api.namespace_terminating = false,
                Lift::Budget => self.api.budget = None,
                Lift::BudgetsOverlap => self.api.budgets_overlap = false,
                Lift::Template(app) => {
                    let app = self.latest(app);
                    self.apps[app].operator.template_invalid = false;
                }
                Lift::Policies(app) => {
                    let app = self.latest(app);
                    self.apps[app].operator.policies = policies::NAMES.map(str::to_owned).to_vec();
                    self.publish_spec(app, 100);
                }
                Lift::Resume(app) => {
                    self.order(self.latest(app), Command::Resume);
                }
                Lift::Target(app, target) => self.set_target(self.latest(app), target),
                Lift::Lag(at, namespace) => self.watch_lags(at, namespace, 0),
                Lift::Ledger(app) => {
                    let app = self.latest(app);
                    if !self.is_hopeless(app) {
                        self.order(app, Command::ResetLedger);
                    }
                }
            }
        }
    }

    pub(crate) fn people(&mut self) {
        let now_ms = self.sim.now_ms;
        if self.healed {
            for app in self.current().into_iter().filter(|app| !self.is_hopeless(*app)).collect::<Vec<_>>() {
                self.repeat_orders(app);
            }
            return;
        }
        if self.sim.strikes(Fault::TargetChanges) {
            let app = self.random_app();
            let target = u32::try_from(self.sim.choices.below(13)).expect("small");
            if self.apps[app].operator.spec.mode == Mode::Own && self.sim.choices.chance(400) {
                self.order(app, Command::RequestTotalExecutors(target));
            } else {
                self.set_target(app, target);
            }
        }
        if self.sim.strikes(Fault::TargetToZero) {
            let app = self.random_app();
            let before = self.apps[app].operator.spec.target;
            self.set_target(app, 0);
            let ms = self.sim.choices.between(500, 60_000);
            self.lift_after(now_ms + ms, Lift::Target(app, before));
        }
        if self.sim.strikes(Fault::SpecContradicts) {
            let app = self.random_app();
            let mut spec = self.apps[app].operator.spec.clone();
            spec.limits.max_executors = 0;
            spec.heartbeat.timeout_ms = 0;
            self.apps[app].operator.version += 1;
            let judged = self.apps[app].operator.judged_with(spec);
            for at in 0..self.hosts.len() {
                self.post(at, 50, HostTask::Contradiction(Box::new(judged.clone())));
            }
        }
        if self.sim.strikes(Fault::PolicyRemoved) {
            let app = self.random_app();
            self.apps[app].operator.policies = vec!["OTHER".to_owned()];
            self.publish_spec(app, 50);
            let ms = self.sim.choices.between(1_000, 40_000);
            self.lift_after(now_ms + ms, Lift::Policies(app));
        }
        if self.sim.strikes(Fault::Paused) {
            let app = self.random_app();
            self.order(app, Command::Pause);
            let ms = self.sim.choices.between(1_000, 60_000);
            self.lift_after(now_ms + ms, Lift::Resume(app));
        }
        if self.sim.strikes(Fault::OperatorKills) {
            let app = self.random_app();
            self.kill_some(app);
        }
        if self.sim.strikes(Fault::OperatorRolls) {
            let app = self.random_app();
            let whom = self.random_ids(app, 1).first().copied();
            let whom = if self.sim.choices.chance(500) { whom } else { None };
            self.order(app, Command::Roll(whom));
            if self.sim.choices.chance(200) {
                self.order(app, Command::RequestTotalExecutors(1_000_000));
            }
            if let Some(spared) = self.random_ours_of(app).filter(|_| self.sim.choices.chance(200)) {
                self.api.change(spared, |pod| pod.do_not_roll = true);
            }
        }
    }

    fn kill_some(&mut self, app: usize) {
        let count = self.sim.choices.between(1, 3);
        let mut executors = self.random_ids(app, count);
        if self.sim.choices.chance(200) {
            // An executor that does not exist.
            executors.push(ExecutorId(self.sim.choices.between(500, 600)));
        }
        let replace = self.apps[app].operator.spec.mode == Mode::Observe || self.sim.choices.below(2) == 0;
        let force = self.sim.choices.chance(500);
        self.order(app, Command::Kill { executors, replace, force });
    }

    fn random_ids(&mut self, app: usize, count: u64) -> Vec<ExecutorId> {
        let ours: Vec<ExecutorId> = self.api.ours(app).map(|(_, pod)| pod.view.executor).collect();
        (0..count).filter_map(|_| self.sim.choices.pick(&ours).copied()).collect()
    }

    // --------------------------------------------------------------------------------------- spec --

    /// Is the spec valid with this target?
    pub(crate) fn may_ask_for(&self, app: usize, target: u32) -> bool {
        let spec = FleetSpec { target, ..self.apps[app].operator.spec.clone() };
        ValidatedSpec::check(spec, &policies::NAMES.map(str::to_owned)).is_ok()
    }

    /// This many executors are wanted. Cores of the fleet's earlier applications may not know of the next one yet.
    pub(crate) fn want(&mut self, app: usize, target: u32) {
        let name = self.apps[app].operator.spec.name.clone();
        for app in self.apps.iter_mut().filter(|app| app.operator.spec.name == name) {
            app.checks.target(self.sim.now_ms, target);
        }
    }

    /// Sets a new target, if the spec stays valid with it. A draft is replaced by it.
    pub(crate) fn set_target(&mut self, app: usize, target: u32) {
        if self.may_ask_for(app, target) {
            let operator = &mut self.apps[app].operator;
            (operator.spec.target, operator.draft) = (target, None);
            self.want(app, target);
            let ms = self.sim.choices.between(10, 2_000);
            self.publish_spec(app, ms);
        }
    }

    pub(crate) fn publish_spec(&mut self, app: usize, ms: u64) {
        let operator = &mut self.apps[app].operator;
        operator.version += 1;
        if operator.spec.paused || operator.spec.dry_run {
            operator.still.insert(operator.version);
        }
        self.tell_documents(ms);
    }

    /// All hosts read the documents again.
    pub(crate) fn tell_documents(&mut self, ms: u64) {
        for at in 0..self.hosts.len() {
            self.post(at, ms, HostTask::Spec);
        }
    }

    // ------------------------------------------------------------------------------------- orders --

    /// Sends a command to the leader, if there is one.
    pub(crate) fn order(&mut self, app: usize, verb: Command) -> Option<CommandId> {
        let at = (0..self.hosts.len()).find(|at| self.hosts[*at].leading)?;
        self.commands += 1;
        let command = CommandId(self.commands);
        let fleet = self.apps[app].operator.spec.name.clone();
        self.post(at, 5, HostTask::Input(Box::new(Input::Command { fleet, command, verb })));
        Some(command)
    }

    pub(crate) fn replied(&mut self, app: usize, command: CommandId, reply: &Reply) {
        // The state is already the requested one.
        let done = matches!(reply, Reply::Done | Reply::Refused(Refusal::LedgerInOrder));
        self.apps[app].operator.orders.retain(|(_, given)| !(done && *given == Some(command)));
    }

    fn repeat_orders(&mut self, app: usize) {
        if self.sim.now_ms < self.apps[app].operator.asked_ms + 5_000 {
            return;
        }
        self.apps[app].operator.asked_ms = self.sim.now_ms;
        let failed = self.api.ledger(app).is_some_and(|stored| stored.ledger.failed);
        let asked = self.apps[app].operator.orders.iter().any(|(order, _)| *order == Command::ResetBreaker);
        if failed && !asked {
            // Failures from before the faults were over may still trip the breaker.
            self.apps[app].operator.orders.push((Command::ResetBreaker, None));
        }
        let parked = self.hosts.iter().filter(|host| host.leading).any(|host| {
            let snapshot = host.snapshot(app, self.sim.now_ms);
            snapshot.is_some_and(|it| it.conditions.iter().any(|one| one.name == "LedgerRefused"))
        });
        let asked = self.apps[app].operator.orders.iter().any(|(order, _)| *order == Command::ResetLedger);
        if parked && !asked {
            self.apps[app].operator.orders.push((Command::ResetLedger, None));
        }
        for at in 0..self.apps[app].operator.orders.len() {
            let verb = self.apps[app].operator.orders[at].0.clone();
            self.apps[app].operator.orders[at].1 = self.order(app, verb);
        }
    }

    /// From now on there are no faults.
    pub fn heal(&mut self) {
        self.sim.say(|| "all faults are over".to_owned());
        self.heal_cluster();
        self.healed = true;
        for (at_ms, _) in &mut self.lifts {
            *at_ms = 0;
        }
        self.lifts.retain(|(_, lift)| !matches!(lift, Lift::Target(..)));
        self.lift_what_is_over();
        for app in self.current() {
            self.heal_fleet(app);
        }
    }

    fn heal_fleet(&mut self, app: usize) {
        let target = self.apps[app].operator.last_target;
        if !self.fails(app, Hopeless::Document) {
            self.apps[app].operator.draft = None;
        }
        let spec = &mut self.apps[app].operator.spec;
        spec.target = target;
        spec.paused = false;
        spec.dry_run = false;
        self.want(app, target);
        self.publish_spec(app, 10);
        let mut orders = vec![Command::Resume, Command::ResetBreaker];
        if self.apps[app].operator.spec.mode == Mode::Own {
            orders.push(Command::RequestTotalExecutors(target));
        }
        self.apps[app].operator.orders = orders.into_iter().map(|order| (order, None)).collect();
    }
}
