//! What the core costs with 10,000 executors: time of a step by event, memory of an executor, and what a
//! mass loss does to a step. `cargo bench -p fleet`
//!
//! Its goals: an event 1 ms at the 99th percentile, a full pass 20 ms, an executor 1 KiB.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "a benchmark measures time, prints, and may panic"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant as Stopwatch};

use fleet::Fleet;
use fleet::action::{Action, Verb};
use fleet::event::{
    Beat, Counters, Done, DriverRow, DriverView, Event, Outcome, Phase, PodView, Relist, finished,
};
use fleet::id::{ExecutorId, Version};
use fleet::question::{Container, ContainerRole, ContainerState, Pod};
use fleet::spec::{Amount, FleetSpec, Mode, RollSpec};
use fleet::time::{Instant, Now};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything to the system's allocator, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const EXECUTORS: u32 = 10_000;
const HOUR_MS: u64 = 3_600_000;

/// A pod as a fleet of one container each would have it.
fn pod(id: u64, revision: u64, phase: Phase) -> PodView {
    PodView {
        executor: ExecutorId(id),
        name: format!("fleet-exec-{id}").into(),
        uid: format!("{id:08}-1f0a-4c1e-9b7e-0123456789ab").as_str().into(),
        revision,
        owner: Some("0f0e0d0c-1f0a-4c1e-9b7e-0123456789ab".into()),
        selected: true,
        phase,
        node: Some(format!("ip-10-0-{}-{}.internal", id / 16 / 250, id / 16 % 250).into()),
        do_not_roll: false,
        status: Box::new(Pod {
            phase: format!("{phase:?}"),
            reason: None,
            message: None,
            gone: false,
            created_at_ms: Some(0),
            deletion_at_ms: None,
            deletion_grace_ms: None,
            conditions: vec![],
            containers: vec![Container {
                name: "spark-kubernetes-executor".to_owned(),
                role: ContainerRole::Executor,
                state: ContainerState::Running { started_at_ms: Some(0) },
                last_terminated: None,
                restart_count: 0,
            }],
            node_name: None,
            scheduling_gates: vec![],
        }),
    }
}

struct Bench {
    fleet: Fleet,
    now_ms: u64,
    revision: u64,
    todo: VecDeque<Action>,
}

impl Bench {
    fn step(&mut self, event: Event) -> (Duration, usize) {
        let now = Now { instant: Instant::from_ms(self.now_ms), wall_ms: self.now_ms as i64 };
        let start = Stopwatch::now();
        let actions = self.fleet.step(event, now);
        let took = start.elapsed();
        let count = actions.len();
        self.todo.extend(actions);
        (took, count)
    }

    /// Carry out whatever is to be done, at once.
    fn settle(&mut self) {
        while let Some(action) = self.todo.pop_front() {
            self.revision += 1;
            let version = Version(self.revision.to_string().into());
            let outcome = match &action.verb {
                Verb::ReadLedger => Outcome::NotFound,
                Verb::WriteLedger { .. } => Outcome::Ok(Done::Written(version)),
                Verb::CreatePod { executor, .. } => {
                    Outcome::Ok(Done::Pod(Box::new(pod(executor.0, self.revision, Phase::Pending))))
                }
                Verb::Relist { known } => {
                    let driver =
                        DriverView::Running { uid: "0f0e0d0c-1f0a-4c1e-9b7e-0123456789ab".into(), ends: 0 };
                    let pods = (1..=u64::from(EXECUTORS)).map(|id| pod(id, id, Phase::Running)).collect();
                    self.revision = 1_000_000;
                    self.step(Event::Relisted(Relist {
                        known: *known,
                        revision: self.revision,
                        pods,
                        driver,
                    }));
                    continue;
                }
                Verb::DeletePod { .. } | Verb::EvictPod { .. } => Outcome::Ok(Done::Deleted),
                _ => continue,
            };
            self.step(finished(&action, outcome));
        }
    }

    /// Times one event for each of so many executors.
    fn each(&mut self, name: &str, count: u64, event: impl Fn(u64, u64) -> Event) {
        let mut times = Vec::new();
        for id in 1..=count {
            self.revision += 1;
            let event = event(id, self.revision);
            times.push(self.step(event).0);
            self.todo.clear();
        }
        report(name, times);
    }
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1_000];
    println!("{name:<44} p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}", at(500), at(990), at(1_000));
}

fn main() {
    let mut spec = FleetSpec::new(
        "fleet",
        "spark-1",
        Mode::Own,
        "0f0e0d0c-1f0a-4c1e-9b7e-0123456789ab".into(),
        EXECUTORS,
    );
    spec.roll = Some(RollSpec::new("OUTLIER"));
    spec.limits.mass_loss = Amount::Percent(100);
    spec.heartbeat.timeout_ms = 24 * HOUR_MS;
    let before = HELD.load(Ordering::Relaxed);
    let fleet = Fleet::new(spec, &["OUTLIER".to_owned()], 1).unwrap();
    let mut bench = Bench { fleet, now_ms: 0, revision: 0, todo: VecDeque::new() };
    bench.step(Event::LeadershipGained { term: 1 });
    bench.settle();
    let row = |id: u64| DriverRow {
        executor: ExecutorId(id),
        active: true,
        remove_reason: None,
        counters: Some(Counters { total_tasks: id as i32, ..Counters::default() }),
    };
    println!("{EXECUTORS} executors");
    bench.each("a heartbeat with 5 metrics, first", u64::from(EXECUTORS), |id, _| {
        let metrics = (0..5).map(|n| (format!("jvm.metric-{n}").into(), id as f64)).collect();
        Event::Heartbeat(Box::new(Beat { executor: ExecutorId(id), uid: None, metrics }))
    });
    bench.each("a heartbeat with 5 metrics", u64::from(EXECUTORS), |id, _| {
        let metrics = (0..5).map(|n| (format!("jvm.metric-{n}").into(), id as f64)).collect();
        Event::Heartbeat(Box::new(Beat { executor: ExecutorId(id), uid: None, metrics }))
    });
    let rows = (1..=u64::from(EXECUTORS)).map(row).collect();
    println!("{:<44} {:>13.1?}", "the driver's report of all", bench.step(Event::DriverReported(rows)).0);
    bench.each("a pod's change", u64::from(EXECUTORS), |id, revision| {
        Event::PodChanged(Box::new(pod(id, revision, Phase::Running)))
    });
    let held = HELD.load(Ordering::Relaxed) - before;
    println!("{:<44} {:>9} bytes", "memory of an executor, all included", held / EXECUTORS as usize);

    let mut passes = Vec::new();
    for _ in 0..20 {
        bench.revision += 1;
        let pods = (1..=u64::from(EXECUTORS)).map(|id| pod(id, bench.revision, Phase::Running)).collect();
        let driver = DriverView::Running { uid: "0f0e0d0c-1f0a-4c1e-9b7e-0123456789ab".into(), ends: 0 };
        passes
            .push(bench.step(Event::Relisted(Relist { known: 0, revision: bench.revision, pods, driver })).0);
    }
    report("a complete list", passes);
    let mut snapshots = Vec::new();
    for _ in 0..20 {
        let now = Now { instant: Instant::from_ms(bench.now_ms), wall_ms: 0 };
        let start = Stopwatch::now();
        std::hint::black_box(bench.fleet.snapshot(now));
        snapshots.push(start.elapsed());
    }
    report("a snapshot", snapshots);
    bench.todo.clear();
    bench.now_ms = HOUR_MS;
    println!("{:<44} {:>13.1?}", "a roll's question about all", bench.step(Event::Deadline).0);
    bench.todo.clear();

    // 1,000 of 10,000 in one tick.
    let mut times = Vec::new();
    let mut most = 0;
    let mut first = None;
    for id in 1..=1_000 {
        bench.revision += 1;
        let (took, actions) = bench.step(Event::PodGone(Box::new(pod(id, bench.revision, Phase::Failed))));
        most = most.max(actions);
        let created = bench.todo.iter().any(|action| matches!(action.verb, Verb::CreatePod { .. }));
        first = first.or(created.then_some(id));
        times.push(took);
    }
    report("one loss of 1,000 in one tick", times);
    println!("{:<44} step {} of 1,000", "the first replacement is asked for in", first.unwrap());
    println!("{:<44} {most:>9}", "most actions of a step");

    // All silent at once: the step's work is bounded, the rest follows.
    let mut times = Vec::new();
    bench.now_ms += 25 * HOUR_MS;
    let beat = Beat { executor: ExecutorId(5_000), uid: None, metrics: vec![] };
    bench.step(Event::Heartbeat(Box::new(beat)));
    for _ in 0..200 {
        times.push(bench.step(Event::Deadline).0);
    }
    report("a step with a backlog of 9,000", times);
}
