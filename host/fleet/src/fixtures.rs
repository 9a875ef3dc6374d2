//! Executors, pods and settings for unit tests.

use crate::backoff::Seed;
use crate::env::Env;
use crate::event::Counters;
use crate::executor::{Executor, Facts, Stage};
use crate::id::{ActionId, ExecutorId};
use crate::injected_bug::Bugs;
use crate::lifecycle::{Context, Effect};
use crate::observed::{Phase, PodView};
use crate::question::{DeletionCause, Pod};
use crate::spec::{FleetSpec, Mode, ValidatedSpec};
use crate::time::{Instant, Now};

/// The settings and the clock of a test.
pub(crate) struct World {
    pub spec: ValidatedSpec,
    pub seed: Seed,
    pub now: Instant,
    /// Why Rollcall removes the executor, according to the ledger.
    pub leaving: Option<DeletionCause>,
}

/// A fleet of `target` executors that Rollcall creates, at the first second.
pub(crate) fn world(target: u32) -> World {
    with(FleetSpec::new("f", "app", Mode::Own, "driver".into(), target))
}

pub(crate) fn with(spec: FleetSpec) -> World {
    let spec = match ValidatedSpec::check(spec, &[]) {
        Ok(spec) => spec,
        Err(errors) => panic!("{errors:?}"),
    };
    World { spec, seed: Seed::new(1), now: at(1), leaving: None }
}

pub(crate) fn at(seconds: u64) -> Instant {
    Instant::from_ms(seconds * 1_000)
}

impl World {
    pub(crate) fn env(&self) -> Env<'_> {
        let now = Now { instant: self.now, wall_ms: 0 };
        Env { spec: &self.spec, now, bugs: Bugs::default() }
    }

    /// Runs a transition of executor 1. Returns its stage and the effects.
    pub(crate) fn run(
        &mut self,
        executor: &mut Executor,
        transition: impl FnOnce(&mut Executor, &mut Context<'_>),
    ) -> (&'static str, Vec<Effect>) {
        let now = Now { instant: self.now, wall_ms: 0 };
        let mut cx = Context {
            env: Env { spec: &self.spec, now, bugs: Bugs::default() },
            seed: &mut self.seed,
            id: ExecutorId(1),
            leaving: self.leaving,
            mark: 7,
            superfluous: false,
            target: self.spec.target,
            excused: Instant::START,
            effects: Vec::new(),
        };
        transition(executor, &mut cx);
        (executor.stage.name(), cx.effects)
    }
}

/// The pod of executor `id`, as it is at `revision`.
pub(crate) fn pod(id: u64, revision: u64, phase: Phase) -> PodView {
    PodView {
        executor: ExecutorId(id),
        name: format!("f-exec-{id}").into(),
        uid: format!("uid-{id}").as_str().into(),
        revision,
        owner: Some("driver".into()),
        selected: true,
        phase,
        node: Some("node".into()),
        do_not_roll: false,
        status: Box::new(Pod {
            phase: format!("{phase:?}"),
            reason: None,
            message: None,
            gone: false,
            created_at_ms: None,
            deletion_at_ms: None,
            deletion_grace_ms: None,
            conditions: Vec::new(),
            containers: Vec::new(),
            node_name: None,
            scheduling_gates: Vec::new(),
        }),
    }
}

/// The pod while it is being deleted.
pub(crate) fn terminating(id: u64, revision: u64) -> PodView {
    let mut pod = pod(id, revision, Phase::Running);
    pod.status.deletion_at_ms = Some(0);
    pod
}

/// An executor whose create was sent.
pub(crate) fn requested() -> Executor {
    Executor::new(Stage::AwaitingCreate(ActionId(1)), at(1))
}

/// An executor with a running pod.
pub(crate) fn executor(id: u64, stage: Stage) -> Executor {
    let mut executor = Executor::new(stage, at(1));
    executor.pod = Some(Box::new(pod(id, 1, Phase::Running)));
    executor.registered = true;
    executor.proven = true;
    executor
}

/// An available executor with counters.
pub(crate) fn busy(id: u64, active_tasks: i32) -> Executor {
    let mut executor = executor(id, Stage::Available);
    let counters = Counters { active_tasks, total_tasks: 10, ..Counters::default() };
    let facts = Facts { counters: Some(counters), counted: at(1), metrics: Vec::new() };
    executor.facts = Some(Box::new(facts));
    executor
}
