//! What happens to one fleet of several: its document is taken away, refused or pending, its driver is replaced or
//! moves, or it fails for good.
//!
//! These faults are about the supervisor, which decides which fleets live and what each is told. A world with one
//! fleet draws none of them, so that its seeds mean what they always meant. One fleet may be *hopeless*: it is not
//! healed, and the others have to come to rest beside it (L7).

use fleet::supervisor::Judged;

use crate::api::Patch;
use crate::cluster::PodStep;
use crate::fault::Fault;
use crate::host::HostTask;
use crate::operator::{Draft, Lift, Verdict};
use crate::world::{Task, World};

/// How a fleet fails for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hopeless {
    /// Every creation is answered with 422.
    Creates,
    /// Its ledger is garbage, and no operator resets it.
    Ledger,
    /// Its newest document stays refused.
    Document,
    /// Its driver has ended.
    Driver,
    /// Its policies trap.
    Policies,
}

const WAYS: [Hopeless; 5] =
    [Hopeless::Creates, Hopeless::Ledger, Hopeless::Document, Hopeless::Driver, Hopeless::Policies];

impl World<'_> {
    pub(crate) fn fleet_chaos(&mut self) {
        let now_ms = self.sim.now_ms;
        if self.sim.strikes(Fault::FleetRecreated) {
            let app = self.random_app();
            self.withdraw(app);
            let ms = self.sim.choices.between(500, 60_000);
            self.lift_after(now_ms + ms, Lift::Document(app));
            if self.sim.choices.chance(500) {
                self.replace_driver(app);
            }
        }
        if self.sim.strikes(Fault::DriverReplaced) {
            let app = self.random_app();
            self.replace_driver(app);
        }
        if self.sim.strikes(Fault::ClassEdited) {
            self.edit_class();
        }
        if self.sim.strikes(Fault::DriverMoves) {
            let app = self.random_app();
            if self.api.is_driver_running(app) {
                self.driver_restarts(app, true);
            }
        }
        if self.sim.strikes(Fault::DocumentRefused) {
            self.draft(Verdict::Refused);
        }
        if self.sim.strikes(Fault::DocumentPending) {
            let good = self.sim.choices.chance(500);
            self.draft(Verdict::Pending { good });
        }
        if self.sim.strikes(Fault::FleetHopeless) && self.hopeless.is_none() && self.current().len() > 1 {
            let app = self.random_app();
            let way = self.sim.choices.pick(&WAYS).copied().unwrap_or(Hopeless::Creates);
            self.sim.say(|| format!("{} is hopeless: {way:?}", self.apps[app].operator.spec.name));
            self.hopeless = Some((app, way));
            if way == Hopeless::Document {
                self.draft_of(app, Verdict::Refused);
            }
        }
    }

    /// The hopeless fleet, and whether it fails in this way.
    pub(crate) fn fails(&self, app: usize, way: Hopeless) -> bool {
        self.hopeless == Some((app, way))
    }

    pub(crate) fn is_hopeless(&self, app: usize) -> bool {
        self.hopeless.is_some_and(|(hopeless, _)| hopeless == app)
    }

    /// What undoes the efforts of its operators, once a second.
    pub(crate) fn stay_hopeless(&mut self) {
        let Some((app, way)) = self.hopeless else { return };
        match way {
            Hopeless::Ledger => {
                let sound = self.api.ledger(app).is_some_and(|stored| !stored.garbage);
                if let Some(version) = sound.then(|| self.api.patch_ledger(app, Patch::Garbage)).flatten() {
                    self.apps[app].checks.absurd(version);
                }
            }
            Hopeless::Driver => self.api.end_driver(app),
            // In force wherever it is asked for.
            Hopeless::Creates | Hopeless::Document | Hopeless::Policies => {}
        }
    }

    /// The application that the fleet is now.
    pub(crate) fn latest(&self, app: usize) -> usize {
        let name = &self.apps[app].operator.spec.name;
        let same = |at: &usize| self.apps[*at].operator.spec.name == *name;
        (0..self.apps.len()).rev().find(same).unwrap_or(app)
    }

    // ------------------------------------------------------------------------------------- document --

    /// Its document is deleted.
    fn withdraw(&mut self, app: usize) {
        self.sim.say(|| format!("the document of {} is deleted", self.apps[app].operator.spec.name));
        self.apps[app].operator.withdrawn = true;
        let ms = self.sim.choices.between(10, 2_000);
        self.publish_spec(app, ms);
    }

    /// It is there again, perhaps with another target.
    pub(crate) fn put_back(&mut self, app: usize) {
        self.sim.say(|| format!("the document of {} is there again", self.apps[app].operator.spec.name));
        self.apps[app].operator.withdrawn = false;
        self.publish_spec(app, 10);
        if !self.healed && self.sim.choices.chance(500) {
            let target = u32::try_from(self.sim.choices.below(6)).expect("small");
            self.set_target(app, target);
        }
    }

    fn draft(&mut self, verdict: Verdict) {
        let app = self.random_app();
        self.draft_of(app, verdict);
    }

    fn draft_of(&mut self, app: usize, verdict: Verdict) {
        let operator = &mut self.apps[app].operator;
        if operator.draft.is_some() {
            return;
        }
        // Another target, so that it shows if the draft is followed.
        let target =
            (operator.spec.target + 1 + u32::try_from(self.sim.choices.below(8)).expect("small")) % 13;
        operator.draft = Some(Draft { target, verdict });
        self.sim.say(|| format!("a document with target {target} is {verdict:?}"));
        let ms = self.sim.choices.between(10, 2_000);
        self.publish_spec(app, ms);
        let ms = self.sim.choices.between(2_000, 60_000);
        self.lift_after(self.sim.now_ms + ms, Lift::Draft(app));
    }

    /// It is known now whether a draft is valid; one that was refused is taken back.
    pub(crate) fn decide_draft(&mut self, app: usize) {
        if self.fails(app, Hopeless::Document) {
            return;
        }
        let Some(Draft { target, verdict }) = self.apps[app].operator.draft else { return };
        match verdict {
            Verdict::Pending { good: false } => {
                self.apps[app].operator.draft = Some(Draft { target, verdict: Verdict::Refused });
                self.tell_documents(10);
                let ms = self.sim.choices.between(2_000, 60_000);
                self.lift_after(self.sim.now_ms + ms, Lift::Draft(app));
            }
            Verdict::Pending { good: true } if self.may_ask_for(app, target) => {
                let operator = &mut self.apps[app].operator;
                (operator.spec.target, operator.draft) = (target, None);
                self.want(app, target);
                // The same version, with another verdict.
                self.tell_documents(10);
            }
            Verdict::Pending { good: true } | Verdict::Refused => {
                self.apps[app].operator.draft = None;
                let target = self.apps[app].operator.spec.target;
                self.want(app, target);
                self.publish_spec(app, 10);
            }
        }
    }

    /// A host is given documents. One that was given no valid document of a fleet before has none that could stay in
    /// force: it follows a pending one.
    pub(crate) fn allow_pending(&mut self, at: usize, documents: &[Judged]) {
        let named = |name: &String| documents.iter().any(|judged| judged.document.fleet == *name);
        self.hosts[at].valid.retain(named);
        for judged in documents.iter().filter(|judged| judged.problems.is_empty()) {
            let name = &judged.document.fleet;
            let first = self.hosts[at].valid.insert(name.clone());
            let follows = first && judged.pending.is_some();
            for app in self.apps.iter_mut().filter(|app| follows && app.operator.spec.name == *name) {
                app.checks.also_target(judged.document.spec.target);
            }
        }
    }

    // --------------------------------------------------------------------------------------- driver --

    /// The driver's pod ends, and soon another one has its name.
    pub(crate) fn replace_driver(&mut self, app: usize) {
        self.api.end_driver(app);
        let ms = self.sim.choices.between(100, 20_000);
        self.lift_after(self.sim.now_ms + ms, Lift::Driver(app));
    }

    /// Another driver's pod: the fleet is another application from now on.
    pub(crate) fn next_driver(&mut self, old: usize) {
        if self.api.is_driver_running(old) || self.fails(old, Hopeless::Driver) {
            return;
        }
        self.sim.say(|| format!("{} gets another driver", self.apps[old].operator.spec.name));
        // Executors notice by themselves that their driver is gone.
        for serial in self.cluster.running_of(old) {
            let wait_ms = self.sim.choices.between(0, 10_000);
            self.sim.after(wait_ms, Task::Pod { serial, step: PodStep::Exit(1) });
        }
        let number = self.apps.len();
        let next = self.apps[old].succeed(number);
        let app = self.add(next);
        if let Some((hopeless, _)) = self.hopeless.as_mut().filter(|(hopeless, _)| *hopeless == old) {
            *hopeless = app;
        }
        for at in 0..self.hosts.len() {
            if self.hosts[at].leading {
                self.post(at, 1_500, HostTask::PollDriver(app));
            }
        }
    }
}
