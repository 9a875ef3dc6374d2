//! The path from a host to the API server and back, and everything that gets lost on it.
//!
//! A request has a fate, drawn when it is sent: refused before the store, lost, applied late, or applied with
//! an answer that is lost or late. The client waits ten seconds; after that the outcome is `Unknown`, even if
//! the request is still applied. Requests of a host that dies stay in transit.

use fleet::action::{Action, Verb};
use fleet::event::{Answer, Event, Fault as PolicyFault, Outcome, Phase, Relist, finished};
use fleet::observed::DriverPod;
use fleet::supervisor::Input;

use crate::api::NewPod;
use crate::check::CoreId;
use crate::cluster::Maker;
use crate::fault::Fault;
use crate::fleets::Hopeless;
use crate::host::{HostTask, Pending};
use crate::policies;
use crate::world::{CrashPoint, Task, World};

/// A request in transit.
#[derive(Debug)]
pub struct Call {
    /// Of the host's process.
    pub life: u32,
    pub app: usize,
    pub core: CoreId,
    id: u64,
    pub action: Action,
    pub(crate) sent_ms: u64,
    /// A refusal by a component in front of the store.
    refusal: Option<Outcome>,
    /// What the client receives in place of the store's outcome: a 5xx although the request was applied.
    disguise: Option<Outcome>,
    /// How long the answer takes; `None`: it is lost.
    answer_ms: Option<u64>,
    /// Its host dies when it is applied.
    kills: bool,
    changed: Admission,
    /// Where its executor is told to reach the driver.
    address: u8,
}

/// A driver's pod that a host looks for.
#[derive(Clone, Debug)]
pub struct Sought {
    pub fleet: String,
    pub namespace: String,
    pub pod: String,
}

impl Sought {
    fn found(self, found: Result<Option<DriverPod>, String>) -> Input {
        let Sought { fleet, namespace, pod } = self;
        Input::DriverFound { fleet, namespace, pod, found }
    }
}

/// What a webhook does to a new pod.
#[derive(Clone, Copy, Debug, Default)]
struct Admission {
    labels_stripped: bool,
    owner_stripped: bool,
    sidecar: bool,
}

/// How long a client waits for an answer.
const TIMEOUT_MS: u64 = 10_000;

/// A creation that takes longer than this uses up part of the time that a pod has to start.
const SLOW_MS: u64 = 2_000;

impl World<'_> {
    pub(crate) fn act(&mut self, at: usize, of: u64, action: Action) {
        match &action.verb {
            Verb::Ask { .. } => self.ask(at, of, action),
            Verb::Reply { command, reply } => {
                let (command, reply) = (*command, reply.clone());
                if let Some(app) = self.hosts[at].app_of(of) {
                    self.replied(app, command, &reply);
                }
            }
            // The supervisor answers the first itself.
            Verb::CheckLease | Verb::Publish(_) => {}
            Verb::Relist { .. }
            | Verb::ReadLedger
            | Verb::WriteLedger { .. }
            | Verb::CreatePod { .. }
            | Verb::GetPod { .. }
            | Verb::DeletePod { .. }
            | Verb::EvictPod { .. }
            | Verb::DeleteDriver { .. } => self.send(at, of, action),
        }
    }

    fn send(&mut self, at: usize, of: u64, action: Action) {
        let Some(app) = self.hosts[at].app_of(of) else { return };
        self.calls += 1;
        let point = self.crash_at.filter(|(call, _)| *call == self.calls).map(|(_, point)| point);
        let worn = match &mut self.hosts[at].requests_left {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if worn || point == Some(CrashPoint::Before) || self.sim.strikes(Fault::CrashBetween) {
            return self.crash(at, "between two requests");
        }
        let kills = point == Some(CrashPoint::Applied);
        let awaiting = self.sim.strikes(Fault::CrashAwaiting);
        let id = self.calls;
        let namespace = self.apps[app].operator.namespace;
        let host = &mut self.hosts[at];
        let starts = host.watches[namespace].starts;
        host.calls.insert(id, Pending { app, life: of, action: action.id, starts });
        let (life, core, address) = (host.life, host.core_id(of), host.address_for(of));
        self.post(at, TIMEOUT_MS, HostTask::TimeOut(id));
        let partitioned = self.sim.now_ms < self.hosts[at].partitioned_until_ms;
        let mut refusal = self.refusal(app, &action.verb);
        let mut disguise = None;
        if refusal.is_none() && self.sim.strikes(Fault::ServerError) {
            let outcome = Some(Outcome::Unknown("504: gateway timeout".to_owned()));
            if self.sim.choices.chance(500) { disguise = outcome } else { refusal = outcome }
        }
        let changed = self.admission(&action.verb);
        let mut there_ms = self.sim.choices.between(2, 30);
        let mut answer_ms = Some(self.sim.choices.between(2, 30));
        if partitioned || point == Some(CrashPoint::RequestLost) || self.sim.strikes(Fault::RequestLost) {
            self.reset(at, id);
            return self.maybe_crash(at, awaiting);
        }
        if self.sim.strikes(Fault::AppliedLate) {
            there_ms = self.sim.choices.between(100, 60_000);
        } else if self.sim.strikes(Fault::Reordered) {
            there_ms = self.sim.choices.between(100, 5_000);
        }
        if point == Some(CrashPoint::AnswerLost) || self.sim.strikes(Fault::AnswerLost) {
            answer_ms = None;
            self.reset(at, id);
        } else if self.sim.strikes(Fault::AnswerLate) {
            answer_ms = Some(self.sim.choices.between(100, 20_000));
        }
        let sent_ms = self.sim.now_ms;
        let call = Call {
            life,
            app,
            core,
            id,
            action,
            sent_ms,
            refusal,
            disguise,
            answer_ms,
            kills,
            changed,
            address,
        };
        self.sim.after(there_ms, Task::Apply(Box::new(call)));
        self.maybe_crash(at, awaiting);
    }

    fn maybe_crash(&mut self, at: usize, crashes: bool) {
        if crashes {
            self.crash(at, "awaiting an answer");
        }
    }

    /// The connection breaks, or is silent until the client's time is up.
    fn reset(&mut self, at: usize, id: u64) {
        if self.sim.choices.chance(500) {
            return;
        }
        let Some(Pending { action, .. }) = self.hosts[at].calls.get(&id).copied() else { return };
        let outcome = Outcome::Unknown("connection reset".to_owned());
        let wait_ms = self.sim.choices.between(50, 2_000);
        self.post(at, wait_ms, HostTask::Answer(id, Box::new(Event::Finished { action, outcome })));
    }

    /// The refusal by a component in front of the store, so that the request never reaches it.
    fn refusal(&mut self, app: usize, verb: &Verb) -> Option<Outcome> {
        if matches!(verb, Verb::Relist { .. }) && self.sim.strikes(Fault::ListExpires) {
            return Some(Outcome::Unknown("410: the continue token has expired".to_owned()));
        }
        let creates = matches!(verb, Verb::CreatePod { .. });
        let evicts = matches!(verb, Verb::EvictPod { .. });
        let writes = matches!(verb, Verb::WriteLedger { .. });
        let invalid = self.apps[app].operator.template_invalid || self.fails(app, Hopeless::Creates);
        if creates && invalid {
            return Some(Outcome::Invalid("spec.containers: Required value".to_owned()));
        }
        if self.sim.strikes(Fault::Throttled) {
            let after_ms = self.sim.choices.chance(500).then_some(1_000);
            return Some(Outcome::Throttled { after_ms });
        }
        if self.sim.strikes(Fault::PermissionCut) {
            return Some(Outcome::Forbidden("not allowed".to_owned()));
        }
        if creates && self.sim.strikes(Fault::WebhookRefuses) {
            return Some(Outcome::Invalid("denied by a webhook".to_owned()));
        }
        if evicts && self.sim.strikes(Fault::SpuriousConflict)
            || writes && self.sim.strikes(Fault::LedgerConflict)
        {
            return Some(Outcome::Conflict);
        }
        None
    }

    fn admission(&mut self, verb: &Verb) -> Admission {
        if !matches!(verb, Verb::CreatePod { .. }) {
            return Admission::default();
        }
        Admission {
            labels_stripped: self.sim.strikes(Fault::LabelsStripped),
            owner_stripped: self.sim.strikes(Fault::OwnerStripped),
            sidecar: self.sim.strikes(Fault::SidecarInjected),
        }
    }

    /// A request arrives at the API server.
    pub(crate) fn apply(&mut self, call: Call) {
        let (app, at) = (call.app, call.core.host);
        let mut event = match call.refusal.clone() {
            Some(outcome) => finished(&call.action, outcome),
            None => self.applied(&call),
        };
        if let Event::Finished { outcome, .. } = &mut event {
            self.check_applied(&call, outcome);
            if call.action.verb == Verb::ReadLedger && *outcome == Outcome::NotFound {
                self.apps[app].checks.ledger_missed(call.core, call.action.id);
            }
        }
        self.sim.trace.number(call.id);
        if call.kills && self.hosts[at].life == call.life {
            self.crash(at, "after a request was applied");
        }
        if let Some(outcome) = call.disguise {
            event = finished(&call.action, outcome);
        }
        if let Some(answer_ms) = call.answer_ms {
            let task = HostTask::Answer(call.id, Box::new(event));
            self.sim.after(answer_ms, Task::Host { host: at, life: call.life, task });
        }
    }

    fn applied(&mut self, call: &Call) -> Event {
        let app = call.app;
        let driver = self.api.app(app).driver_uid().clone();
        let outcome = match &call.action.verb {
            Verb::Relist { known } => return self.relisted(call, *known),
            Verb::ReadLedger => self.api.read_ledger(app),
            Verb::WriteLedger { ledger, over } => {
                let before = self.api.ledger(app).cloned();
                let outcome = self.api.write_ledger(app, fleet::ledger::Ledger::clone(ledger), over.as_ref());
                if matches!(outcome, Outcome::Ok(_)) {
                    self.check_ledger(app, call.core, before.as_ref());
                }
                outcome
            }
            Verb::CreatePod { executor, pod, avoid_nodes } => {
                self.cluster.making = Maker::Core(call.core);
                let outcome = self.api.create(NewPod {
                    app,
                    name: pod.clone(),
                    executor: *executor,
                    owner: (!call.changed.owner_stripped).then_some(driver),
                    selected: !call.changed.labels_stripped,
                    finalizer: false,
                    sidecar: call.changed.sidecar,
                });
                if let Some(serial) = self.api.serial(pod)
                    && matches!(outcome, Outcome::Ok(_))
                {
                    self.cluster.avoid(serial, avoid_nodes);
                    self.cluster.addresses.insert(serial, call.address);
                    // The client has waited for the pod for longer than the pod exists.
                    if call.sent_ms + SLOW_MS < self.sim.now_ms {
                        self.cluster.slow.insert(serial);
                    }
                }
                outcome
            }
            Verb::GetPod { pod, .. } => self.api.get(pod),
            Verb::DeletePod { pod, uid, grace_ms, .. } => {
                self.check_victim(call);
                let grace_ms = self.grace(pod, *grace_ms);
                self.api.delete(pod, Some(uid), grace_ms)
            }
            Verb::EvictPod { pod, uid, grace_ms, .. } => {
                self.check_victim(call);
                let grace_ms = self.grace(pod, *grace_ms);
                self.api.evict(pod, Some(uid), grace_ms)
            }
            Verb::DeleteDriver { uid } => self.api.delete_driver(app, uid),
            Verb::Ask { .. } | Verb::Reply { .. } | Verb::CheckLease | Verb::Publish(_) => {
                unreachable!("these do not go to the API server")
            }
        };
        finished(&call.action, outcome)
    }

    /// The remaining grace period when the request reaches a pod.
    fn grace(&mut self, pod: &str, grace_ms: Option<u64>) -> Option<u64> {
        let view = self.api.serial(pod).and_then(|serial| self.api.pod(serial)).map(|pod| &pod.view);
        let starts = view.is_some_and(|view| view.phase == Phase::Pending && view.node.is_some());
        if starts && self.sim.strikes(Fault::GraceLost) { Some(0) } else { grace_ms }
    }

    fn relisted(&mut self, call: &Call, known: u64) -> Event {
        let (app, namespace) = (call.app, self.apps[call.app].operator.namespace);
        let mut list = self.api.list(app);
        if self.sim.strikes(Fault::RelistBack) {
            let back_ms = self.sim.choices.between(500, 60_000);
            let revision = self.api.revision_at(namespace, self.sim.now_ms.saturating_sub(back_ms));
            list = self.api.list_at(app, revision);
        }
        if self.hosts[call.core.host].life == call.life {
            self.check_listed(app, call.core, list.revision);
        }
        Event::Relisted(Relist { known, ..list })
    }

    // ------------------------------------------------------------------------------------- driver --

    /// A host reads a driver's pod.
    pub(crate) fn find_driver(&mut self, at: usize, sought: Sought) {
        let there_ms = self.sim.choices.between(2, 30);
        let partitioned = self.sim.now_ms < self.hosts[at].partitioned_until_ms;
        if partitioned || self.sim.strikes(Fault::RequestLost) {
            let found = sought.found(Err("timed out".to_owned()));
            return self.post(at, TIMEOUT_MS, HostTask::Input(Box::new(found)));
        }
        self.post(at, there_ms, HostTask::ReadDriver(Box::new(sought)));
    }

    /// That request reaches the API server.
    pub(crate) fn driver_read(&mut self, at: usize, sought: Sought) {
        let answer_ms = self.sim.choices.between(2, 30);
        let answer_ms = if self.sim.strikes(Fault::AnswerLate) {
            self.sim.choices.between(100, TIMEOUT_MS)
        } else {
            answer_ms
        };
        let found = if self.sim.strikes(Fault::PermissionCut) {
            Err("not allowed".to_owned())
        } else {
            Ok(self.api.driver_named(&sought.namespace, &sought.pod))
        };
        self.post(at, answer_ms, HostTask::Input(Box::new(sought.found(found))));
    }

    // ----------------------------------------------------------------------------------- policies --

    fn ask(&mut self, at: usize, life: u64, action: Action) {
        let Verb::Ask { question, .. } = &action.verb else { return };
        let Some(app) = self.hosts[at].app_of(life) else { return };
        let mut wait_ms = self.sim.choices.between(1, 50);
        let answer: Result<Answer, _> = if self.fails(app, Hopeless::Policies) {
            Err(PolicyFault::Policy("wasm trap: unreachable".to_owned()))
        } else {
            policies::answer(&mut self.sim, question, self.healed)
        };
        if self.sim.strikes(Fault::PolicyLate) {
            wait_ms = self.sim.choices.between(2_000, 40_000);
        }
        let core = self.hosts[at].core_id(life);
        self.apps[app].checks.answered(core, question, &answer);
        let event = Event::Answered { action: action.id, answer };
        self.post(at, wait_ms, HostTask::Input(Box::new(Input::Fleet { life, event })));
    }
}
