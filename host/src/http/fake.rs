//! A daemon for tests: a real fleet of three, in a cluster that executes every call at once, behind a real socket.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use fleet::Fleet;
use fleet::action::{Action, Question, Reply, Verb};
use fleet::event::{
    Answer, Beat, Command, Counters, Done, DriverRow, DriverView, Event, Outcome, Phase, PodView, Relist,
    finished,
};
use fleet::id::{CommandId, ExecutorId, Version};
use fleet::ledger::Ledger;
use fleet::question::{LossKind, LossReason, Pick, Pod, Selection, Verdict};
use fleet::spec::{FleetSpec, Mode, RollSpec};
use fleet::time::{Instant, Now};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::serve::Strangers;
use super::{Settings, router};
use crate::handle::{Commanded, Handle, NoFleet, Overview, Request, Told};
use crate::listen::Listener;
use crate::metrics::Metrics;

pub const TOKEN: &str = "open-sesame";
/// How many events a listener may lag behind.
pub const TOLD_MAX: usize = 4;

pub struct Daemon {
    pub address: SocketAddr,
    pub handle: Handle,
    pub metrics: Metrics,
    /// Completes after [`Daemon::stop`].
    pub served: JoinHandle<io::Result<()>>,
    stop: Arc<Notify>,
}

impl Daemon {
    /// Commands are enabled by [`TOKEN`].
    pub async fn start() -> Daemon {
        Daemon::start_with(Settings { token: Some(TOKEN.to_owned()), ..Settings::default() }).await
    }

    pub async fn start_with(settings: Settings) -> Daemon {
        Daemon::serve(leader(), settings).await
    }

    /// A daemon whose loop the test plays itself.
    pub async fn serve(handle: Handle, settings: Settings) -> Daemon {
        let metrics = Metrics::new(Some("rollcall"));
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop).notified_owned();
        let router = router(handle.clone(), metrics.clone(), settings);
        let limits = super::serve::Limits::new(512);
        let served = tokio::spawn(super::serve(listener, router, limits, Arc::new(Strangers), stopped));
        Daemon { address, handle, metrics, served, stop }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn stop(&self) {
        self.stop.notify_one();
    }
}

/// The handle of a loop that leads, with a fleet of three.
pub fn leader() -> Handle {
    let (handle, requests) = Handle::new(16, TOLD_MAX);
    tokio::spawn(answer(World::new(handle.clone()), requests));
    handle
}

async fn answer(mut world: World, mut requests: mpsc::Receiver<Request>) {
    while let Some(request) = requests.recv().await {
        world.handle.pulse().advance();
        let is_ours = |fleet: &str| if fleet == "etl" { Ok(()) } else { Err(NoFleet::Unknown) };
        // An error means that the client has disconnected.
        match request {
            Request::Overview(reply) => drop(reply.send(vec![world.overview()])),
            Request::Snapshot { fleet, reply } => {
                drop(reply.send(is_ours(&fleet).map(|()| world.fleet.snapshot(world.now()))));
            }
            Request::Explain { fleet, executor, reply } => {
                drop(reply.send(is_ours(&fleet).map(|()| world.fleet.explain(executor))));
            }
            Request::Command { fleet, verb, reply, .. } => {
                let commanded = match &*fleet {
                    "etl" => Commanded::Replied(world.command(verb)),
                    "early" => {
                        Commanded::NoDriver("there is no pod early-driver in namespace jobs".to_owned())
                    }
                    _ => Commanded::NoFleet(NoFleet::Unknown),
                };
                drop(reply.send(commanded));
            }
        }
    }
}

struct World {
    fleet: Fleet,
    handle: Handle,
    now_ms: u64,
    revision: u64,
    ledger: Option<(Ledger, u64)>,
    pods: BTreeMap<ExecutorId, PodView>,
    actions: VecDeque<Action>,
    reply: Option<Reply>,
}

impl World {
    fn new(handle: Handle) -> World {
        let mut spec = FleetSpec::new("etl", "spark-1", Mode::Own, "driver".into(), 3);
        spec.roll = Some(RollSpec::new("OUTLIER"));
        let fleet = Fleet::new(spec, &["OUTLIER".to_owned()], 1).unwrap();
        let mut world = World {
            fleet,
            handle,
            now_ms: 0,
            revision: 0,
            ledger: None,
            pods: BTreeMap::new(),
            actions: VecDeque::new(),
            reply: None,
        };
        world.step(Event::LeadershipGained { term: 1 });
        world.settle();
        assert_eq!(world.fleet.counts().available, 3, "{:?}", world.fleet.snapshot(world.now()));
        world.handle.pulse().lead();
        world.handle.pulse().set_synced();
        world.handle.pulse().advance();
        world
    }

    fn now(&self) -> Now {
        Now {
            instant: Instant::from_ms(self.now_ms),
            wall_ms: 1_793_577_600_000 + i64::try_from(self.now_ms).unwrap(),
        }
    }

    fn step(&mut self, event: Event) {
        self.actions.extend(self.fleet.step(event, self.now()));
    }

    /// The driver's report about its executors: they have run no tasks yet.
    fn report(&mut self) {
        let row = |executor: &ExecutorId| DriverRow {
            executor: *executor,
            active: true,
            remove_reason: None,
            counters: Some(Counters::default()),
        };
        let rows = self.pods.keys().map(row).collect();
        self.step(Event::DriverReported(rows));
    }

    fn command(&mut self, verb: Command) -> Reply {
        self.report();
        self.step(Event::Commanded { command: CommandId(1), verb });
        self.settle();
        self.reply.take().unwrap()
    }

    fn overview(&self) -> Overview {
        let snapshot = self.fleet.snapshot(self.now());
        Overview {
            fleet: snapshot.fleet,
            namespace: "jobs".to_owned(),
            mode: "own",
            phase: snapshot.phase,
            target: snapshot.target,
            counts: snapshot.counts,
            refusals: snapshot.refusals,
            impairments: self.fleet.impairments(),
            conditions: snapshot.conditions,
            application_id: None,
            generation: None,
            problems: Vec::new(),
        }
    }

    /// Executes what is due now and within the next seconds.
    fn settle(&mut self) {
        let until_ms = self.now_ms + 5_000;
        for _ in 0..1_000 {
            if let Some(action) = self.actions.pop_front() {
                self.carry_out(action);
            } else if let Some((at, _)) = self.fleet.deadline().filter(|(at, _)| at.as_ms() <= until_ms) {
                self.now_ms = self.now_ms.max(at.as_ms());
                self.step(Event::Deadline);
            } else {
                return;
            }
        }
        panic!("it does not settle");
    }

    fn carry_out(&mut self, action: Action) {
        self.revision += 1;
        match action.verb.clone() {
            Verb::Relist { known } => {
                let driver = DriverView::Running { uid: "driver".into(), ends: 0 };
                let pods = self.pods.values().cloned().collect();
                self.step(Event::Relisted(Relist { known, revision: self.revision, pods, driver }));
            }
            Verb::ReadLedger => {
                let outcome = self.ledger.clone().map_or(Outcome::NotFound, |(ledger, version)| {
                    let version = Version(version.to_string().into());
                    Outcome::Ok(Done::Ledger { ledger: Box::new(ledger), version, edited: false })
                });
                self.step(finished(&action, outcome));
            }
            Verb::WriteLedger { ledger, .. } => {
                self.ledger = Some((*ledger, self.revision));
                let version = Version(self.revision.to_string().into());
                self.step(finished(&action, Outcome::Ok(Done::Written(version))));
            }
            Verb::CreatePod { executor, pod, .. } => {
                let mut view = pending(executor, pod, self.revision);
                self.step(finished(&action, Outcome::Ok(Done::Pod(Box::new(view.clone())))));
                self.revision += 1;
                view.revision = self.revision;
                view.phase = Phase::Running;
                view.node = Some("node-1".into());
                self.pods.insert(executor, view.clone());
                self.step(Event::PodChanged(Box::new(view)));
                self.step(Event::Heartbeat(Box::new(Beat { executor, uid: None, metrics: vec![] })));
                self.report();
            }
            Verb::GetPod { executor, .. } => {
                let pod = self.pods.get(&executor).cloned();
                let outcome = pod.map_or(Outcome::NotFound, |pod| Outcome::Ok(Done::Pod(Box::new(pod))));
                self.step(finished(&action, outcome));
            }
            Verb::DeletePod { executor, .. } | Verb::EvictPod { executor, .. } => {
                self.step(finished(&action, Outcome::Ok(Done::Deleted)));
                if let Some(mut pod) = self.pods.remove(&executor) {
                    pod.revision = self.revision;
                    pod.status.gone = true;
                    self.step(Event::PodGone(Box::new(pod)));
                }
            }
            Verb::DeleteDriver { .. } => self.step(finished(&action, Outcome::Ok(Done::Deleted))),
            Verb::Ask { question: Question::Loss(_), .. } => {
                let reason = LossReason {
                    kind: LossKind::Released,
                    message: "we let it go".to_owned(),
                    exit_caused_by_app: false,
                    exit_code: None,
                    keep_pod: false,
                };
                let answer = Ok(Answer::Loss(Verdict::Known(reason)));
                self.step(Event::Answered { action: action.id, answer });
            }
            Verb::Ask { question: Question::Roll(_), .. } => {
                let pick = Pick { index: 0, score: 1.0, reason: "slow".to_owned() };
                let answer = Ok(Answer::Roll(Selection::Roll(vec![pick])));
                self.step(Event::Answered { action: action.id, answer });
            }
            Verb::CheckLease => self.step(Event::LeadershipConfirmed),
            Verb::Reply { reply, .. } => self.reply = Some(reply),
            Verb::Publish(notice) => self.handle.tell(Told {
                at_ms: self.now().wall_ms,
                fleet: "etl".to_owned(),
                namespace: "jobs".to_owned(),
                kind: "Notice",
                executor: notice.executor,
                message: notice.message,
            }),
        }
    }
}

fn pending(executor: ExecutorId, name: Box<str>, revision: u64) -> PodView {
    PodView {
        executor,
        name,
        uid: format!("uid-{executor}").as_str().into(),
        revision,
        owner: Some("driver".into()),
        selected: true,
        phase: Phase::Pending,
        node: None,
        do_not_roll: false,
        status: Box::new(Pod {
            phase: "Pending".to_owned(),
            reason: None,
            message: None,
            gone: false,
            created_at_ms: Some(0),
            deletion_at_ms: None,
            deletion_grace_ms: None,
            conditions: vec![],
            containers: vec![],
            node_name: None,
            scheduling_gates: vec![],
        }),
    }
}
