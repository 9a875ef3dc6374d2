//! The `check` function of all timelines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::panic::Location;

use fleet::action::{Action, Cause, Question, Reply, Verb};
use fleet::event::{
    Answer, Beat, Command, Counters, Done, DriverView, Event, Fault, Impairment, NodeView, Outcome, PodView,
    Relist, finished,
};
use fleet::guardrail::Refusal;
use fleet::id::{CommandId, ExecutorId, Uid, Version};
use fleet::ledger::{Ledger, Salvage};
use fleet::question::{Departure, DepartureKind, NodeState, Pick, Selection};
use fleet::spec::{FleetSpec, Mode, RollSpec};
use fleet::time::{Instant, Now};
use fleet::{Fleet, Why};

mod answers;
mod bless;
mod pods;
mod specs;

/// Policies that the specs of timelines may name.
pub const POLICIES: [&str; 4] = ["OUTLIER", "OWN", "SPARK", "MINE"];

pub fn policies() -> Vec<String> {
    POLICIES.map(str::to_owned).to_vec()
}

pub fn spec(target: u32) -> FleetSpec {
    FleetSpec::new("f", "spark-1", Mode::Own, "driver-uid".into(), target)
}

/// A fleet that rolls with OUTLIER every minute.
pub fn rolling(target: u32) -> FleetSpec {
    let mut spec = spec(target);
    spec.roll = Some(RollSpec { interval_ms: 60_000, ..RollSpec::new("OUTLIER") });
    spec
}

/// Runs the timeline against a fleet and compares all of its output.
#[track_caller]
pub fn check(spec: FleetSpec, timeline: &str) {
    let text = run(spec, timeline);
    let heard: Vec<&str> = text.lines().map(str::trim).collect();
    let told: Vec<&str> =
        timeline.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    if told == heard {
        return;
    }
    if bless::wanted() {
        return bless::bless(Location::caller(), timeline, &text);
    }
    let at = told.iter().zip(&heard).take_while(|(a, b)| a == b).count();
    panic!(
        "the timeline differs from line {}: expected {:?}, was {:?}. `cargo bless` writes it into the \
         source. All that came out:\n\n{text}",
        at + 1,
        told.get(at),
        heard.get(at),
    );
}

/// The events of the timeline, each with the output that came.
fn run(spec: FleetSpec, timeline: &str) -> String {
    let mut world = World::new(spec);
    for line in timeline.lines().map(str::trim) {
        if !line.is_empty() && !line.starts_with(['>', '#']) {
            world.tell(line);
        }
    }
    world.text
}

/// Heartbeat interval of the executors that are beating.
const BEAT_MS: u64 = 10_000;

/// Wall-clock time at the start: 2026-11-02 00:00 UTC, a Monday.
pub const WALL_MS: i64 = 1_793_577_600_000;

pub struct World {
    pub fleet: Fleet,
    now_ms: u64,
    pub text: String,
    revision: u64,
    pods: BTreeMap<u64, PodView>,
    /// Both as they were when a list was last requested.
    listed: (u64, BTreeMap<u64, PodView>),
    /// Unfinished calls, by kind and executor.
    calls: BTreeMap<(&'static str, u64), Action>,
    ledger: Option<(Ledger, u64)>,
    ledger_fails: Option<Outcome>,
    notices: BTreeSet<String>,
    show_ledger: bool,
    driver: DriverView,
    steps_at: (u64, u32),
    beating: Vec<u64>,
    /// The driver's report, every ten seconds, about the executors that were heard, if the fleet is rolled.
    counters: BTreeMap<u64, Counters>,
    reports: bool,
    driver_ends: u32,
    terms: u64,
    ledger_edited: bool,
    ledger_garbage: bool,
    /// Another leader of the same epoch is faster with the next write.
    ledger_twin: bool,
}

impl World {
    pub fn new(spec: FleetSpec) -> World {
        let reports = spec.roll.is_some();
        let fleet = Fleet::new(spec, &policies(), 1).unwrap_or_else(|errors| panic!("{errors:?}"));
        World {
            fleet,
            now_ms: 0,
            text: String::new(),
            revision: 100,
            pods: BTreeMap::new(),
            listed: Default::default(),
            calls: BTreeMap::new(),
            ledger: None,
            ledger_fails: None,
            notices: BTreeSet::new(),
            show_ledger: false,
            driver: DriverView::Running { uid: "driver-uid".into(), ends: 0 },
            steps_at: (0, 0),
            beating: vec![],
            counters: BTreeMap::new(),
            reports,
            driver_ends: 0,
            terms: 0,
            ledger_edited: false,
            ledger_garbage: false,
            ledger_twin: false,
        }
    }

    fn step(&mut self, event: Event) {
        if self.steps_at.0 == self.now_ms {
            self.steps_at.1 += 1;
            assert!(self.steps_at.1 < 5_000, "it spins at {} ms:\n{}", self.now_ms, self.text);
        } else {
            self.steps_at = (self.now_ms, 0);
        }
        let now = Now {
            instant: Instant::from_ms(self.now_ms),
            wall_ms: WALL_MS + i64::try_from(self.now_ms).unwrap(),
        };
        let actions = self.fleet.step(event, now);
        self.fleet.audit().unwrap_or_else(|error| panic!("{error}\n{}", self.text));
        for action in actions {
            self.carry_out(action);
        }
    }

    fn show(&mut self, line: &str) {
        writeln!(self.text, "    > {}s {line}", seconds(self.now_ms)).unwrap();
    }

    fn carry_out(&mut self, action: Action) {
        match &action.verb {
            Verb::ReadLedger | Verb::WriteLedger { .. } => {
                if self.show_ledger {
                    let verb = if action.verb == Verb::ReadLedger { "read ledger" } else { "write ledger" };
                    self.show(verb);
                }
                let outcome = self.ledger_fails.clone().unwrap_or_else(|| self.keep_ledger(&action.verb));
                self.step(finished(&action, outcome));
            }
            Verb::Relist { .. } => {
                self.show("relist");
                self.listed = (self.revision, self.pods.clone());
                self.calls.insert(("relist", 0), action);
            }
            Verb::CreatePod { executor, avoid_nodes, .. } => {
                let mut line = format!("create {executor}");
                if let Cause::Shortfall { replaces: Some(lost) } = action.cause {
                    write!(line, " for {lost}").unwrap();
                }
                if !avoid_nodes.is_empty() {
                    write!(line, " avoiding {}", avoid_nodes.join(" ")).unwrap();
                }
                self.call("create", *executor, &line, action.clone());
            }
            Verb::GetPod { executor, .. } => {
                self.call("get", *executor, &format!("get {executor}"), action.clone());
            }
            Verb::DeletePod { executor, uid, .. } => {
                let line = format!("delete {executor} uid {uid}");
                self.call("delete", *executor, &line, action.clone());
            }
            Verb::EvictPod { executor, uid, .. } => {
                let line = format!("evict {executor} uid {uid}");
                self.call("evict", *executor, &line, action.clone());
            }
            Verb::DeleteDriver { .. } => {
                self.call("delete", ExecutorId(0), "delete the driver", action.clone())
            }
            Verb::Ask { policy, question: Question::Loss(evidence) } => {
                let (id, trigger, checks) = (evidence.executor_id, evidence.trigger, evidence.checks_made);
                // As a classifier counts it: until the executor was lost, not until the question is asked.
                let later = u64::try_from(evidence.now_ms - evidence.lost_at_ms).unwrap();
                let silence = evidence
                    .since_heartbeat_ms
                    .map_or("none".to_owned(), |ms| format!("{}s", seconds(ms.saturating_sub(later))));
                // Only if a timeline requests it.
                let never = !evidence.ever_registered && self.notices.contains("registrations");
                let never = if never { ", never registered" } else { "" };
                let silence = if self.notices.contains("silences") {
                    format!(", silent for {silence}")
                } else {
                    String::new()
                };
                let line =
                    format!("ask {policy} why {id} was lost: {trigger:?}, check {checks}{never}{silence}");
                self.call("loss", ExecutorId(id), &line, action.clone());
            }
            Verb::Ask { policy, question: Question::Roll(question) } => {
                let line = format!("ask {policy} whom to roll of {:?}", question.candidates.ids());
                self.call("roll", ExecutorId(0), &line, action.clone());
            }
            Verb::CheckLease => self.show("check lease"),
            Verb::Reply { reply, .. } => {
                let refusal = |result: &Result<(), Refusal>| result.map_or_else(Refusal::code, |()| "ok");
                let line = match reply {
                    Reply::Done => "done".to_owned(),
                    Reply::Refused(refusal) => format!("refused {}", refusal.code()),
                    Reply::Executors(each) => {
                        let each: Vec<_> =
                            each.iter().map(|(id, r)| format!("{id} {}", refusal(r))).collect();
                        each.join(", ")
                    }
                };
                self.show(&format!("reply {line}"));
            }
            Verb::Publish(notice) => {
                let reason = format!("{:?}", notice.reason);
                if self.notices.contains(&reason) {
                    let executor = notice.executor.map_or(String::new(), |id| format!(" {id}"));
                    self.show(&format!("{reason}{executor}: {}", notice.message));
                }
            }
        }
    }

    fn call(&mut self, kind: &'static str, id: ExecutorId, line: &str, action: Action) {
        self.show(line);
        let other = self.calls.insert((kind, id.0), action);
        // A question is given up after a while; a call never is.
        let may_repeat = matches!(kind, "loss" | "roll");
        assert!(other.is_none() || may_repeat, "two calls to {kind} {id} at once:\n{}", self.text);
    }

    fn keep_ledger(&mut self, verb: &Verb) -> Outcome {
        let version = |number: u64| Version(number.to_string().into());
        match verb {
            Verb::WriteLedger { ledger, over } => {
                if std::mem::take(&mut self.ledger_twin) {
                    let (leader, reserved) = (ledger.leader ^ 1, ExecutorId(ledger.reserved.0 + 5));
                    self.revision += 1;
                    self.ledger = Some((Ledger { leader, reserved, ..(**ledger).clone() }, self.revision));
                }
                let held = self.ledger.as_ref().map(|(_, number)| version(*number));
                if held != *over {
                    return Outcome::Conflict;
                }
                self.revision += 1;
                self.ledger = Some(((**ledger).clone(), self.revision));
                (self.ledger_edited, self.ledger_garbage) = (false, false);
                Outcome::Ok(Done::Written(version(self.revision)))
            }
            _ => match &self.ledger {
                Some((_, number)) if self.ledger_garbage => {
                    let (why, version) = ("`ledger` is no JSON object".to_owned(), version(*number));
                    Outcome::Ok(Done::LedgerRefused { why, version, salvage: Salvage::default() })
                }
                Some((ledger, number)) => {
                    let (ledger, version) = (Box::new(ledger.clone()), version(*number));
                    Outcome::Ok(Done::Ledger { ledger, version, edited: self.ledger_edited })
                }
                None => Outcome::NotFound,
            },
        }
    }

    /// One line: a time, and what happens then.
    pub fn tell(&mut self, line: &str) {
        let (time, what) =
            line.split_once(' ').unwrap_or_else(|| panic!("{line:?} lacks a time or an event"));
        let to_ms = milliseconds(time);
        assert!(to_ms >= self.now_ms, "{line:?} goes back in time");
        loop {
            let deadline = self.fleet.deadline().map_or(u64::MAX, |(at, _)| at.as_ms().max(self.now_ms));
            let beat = (self.now_ms / BEAT_MS + 1) * BEAT_MS;
            if deadline.min(beat) > to_ms {
                break;
            }
            self.now_ms = deadline.min(beat);
            if deadline <= beat {
                self.step(Event::Deadline);
            } else {
                self.beat(&self.beating.clone(), None);
                self.report();
            }
        }
        self.now_ms = to_ms;
        writeln!(self.text, "{line}").unwrap();
        self.happen(what);
        // Work that was left over belongs to the same moment.
        while let Some((_, Why::Backlog)) = self.fleet.deadline().filter(|(at, _)| at.as_ms() <= to_ms) {
            self.step(Event::Deadline);
        }
    }

    fn happen(&mut self, what: &str) {
        let words: Vec<&str> = what.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap_or_else(|_| panic!("{what:?}: no number"));
        let ids =
            |from: usize| words[from..].iter().map_while(|word| word.parse().ok()).collect::<Vec<u64>>();
        match words[0] {
            "lead" => {
                self.terms += 1;
                self.step(Event::LeadershipGained { term: self.terms });
                if self.calls.contains_key(&("relist", 0)) && !words.contains(&"unlisted") {
                    // The first list of a start without special conditions is not shown.
                    self.text.truncate(self.text.rfind("    >").unwrap());
                    self.happen("list");
                }
            }
            "depose" => self.step(Event::LeadershipLost),
            "affirm" => self.step(Event::LeadershipConfirmed),
            "show" => {
                for word in &words[1..] {
                    if *word == "ledger" {
                        self.show_ledger = true;
                    } else {
                        self.notices.insert((*word).to_owned());
                    }
                }
            }
            "wait" => {}
            "list" => self.relist(&words[1..]),
            "create" | "get" | "delete" | "evict" => self.outcome(words[0], number(1), &words[2..]),
            "pod" => {
                let view = self.change(number(1), &words[2..]);
                self.step(Event::PodChanged(Box::new(view)));
            }
            // The pod changes, and the watch does not report it.
            "unseen" => {
                self.change(number(1), &words[2..]);
            }
            // Repeats the last event.
            "again" => {
                let view = self.pods[&number(1)].clone();
                self.step(Event::PodChanged(Box::new(view)));
            }
            "gone" => {
                let mut view = self.change(number(1), &words[2..]);
                view.status.gone = true;
                self.pods.remove(&number(1));
                self.step(Event::PodGone(Box::new(view)));
            }
            // The pod is gone, and the watch does not report it.
            "vanish" => {
                self.pods.remove(&number(1));
            }
            "start" => {
                for id in ids(1) {
                    self.start(id);
                }
            }
            "beat" => {
                let uid = words.iter().find_map(|word| word.strip_prefix("uid=")).map(Uid::from);
                self.beat(&ids(1), uid);
            }
            // From now on, every ten seconds, only these executors.
            "beating" => {
                self.beating = ids(1);
                self.beat(&ids(1), None);
            }
            "driver" => self.driver(&words[1..]),
            // deaf refused: a heartbeat may have been lost on our side.
            "deaf" => {
                let why = Impairment::ALL.into_iter().find(|why| why.name() == words[1]).unwrap();
                self.step(Event::HearingImpaired(why));
            }
            "node" => {
                let departure = |kind| Departure { kind, sign: "taint".to_owned() };
                let departures = words[2..].iter().filter(|word| **word == "leaving");
                let state = NodeState {
                    name: words[1].to_owned(),
                    gone: false,
                    ready: "True".to_owned(),
                    reason: None,
                    cordoned: false,
                    taints: vec![],
                    departures: departures.map(|_| departure(DepartureKind::Reclaimed)).collect(),
                    spot: words.contains(&"spot"),
                };
                self.step(Event::NodeChanged(Box::new(NodeView { state, zone: None })));
            }
            "stale" => self.step(Event::ViewStale),
            "fresh" => self.step(Event::ViewFresh),
            "lost" => self.verdict(number(1), &words[2..]),
            // By executor id; an executor that was not offered gets an index beyond the candidates.
            "picks" => {
                let offered = match self.calls.get(&("roll", 0)).map(|action| &action.verb) {
                    Some(Verb::Ask { question: Question::Roll(question), .. }) => {
                        question.candidates.ids().to_vec()
                    }
                    _ => vec![],
                };
                let pick = |id: u64| Pick {
                    index: offered.iter().position(|offered| *offered == id).unwrap_or(offered.len() + 7),
                    score: 1.0,
                    reason: "slow".to_owned(),
                };
                let picks = ids(1).into_iter().map(pick).collect();
                self.selection(Ok(Answer::Roll(Selection::Roll(picks))));
            }
            "no-picks" => self.selection(Ok(Answer::Roll(match words[1] {
                "nothing" => Selection::Nothing("all is well".to_owned()),
                "abstain" => Selection::Abstain,
                fault => return self.selection(Err(Fault::Policy(fault.to_owned()))),
            }))),
            "ledger" => {
                self.ledger_fails = match words[1] {
                    "ok" => None,
                    "forbidden" => Some(Outcome::Forbidden("no".to_owned())),
                    "unknown" => Some(Outcome::Unknown("reset".to_owned())),
                    "older" => {
                        let number = self.revision + 1;
                        self.revision = number;
                        self.ledger = Some((Ledger::default(), number));
                        self.ledger_edited = true;
                        None
                    }
                    "deleted" => {
                        self.ledger = None;
                        None
                    }
                    "twin" => {
                        self.ledger_twin = true;
                        None
                    }
                    // A tenant changes the ledger: to garbage, or one number of it.
                    "garbage" | "good" => {
                        self.ledger_garbage = words[1] == "garbage";
                        self.revision += 1;
                        self.ledger.as_mut().expect("a ledger").1 = self.revision;
                        None
                    }
                    "patched" => {
                        let (ledger, number) = self.ledger.as_mut().expect("a ledger");
                        match words[2] {
                            "reserved" => ledger.reserved = ExecutorId(u64::MAX),
                            "created" => ledger.created += 1,
                            "epoch" => ledger.epoch = u64::MAX,
                            "writes" => ledger.writes += 1_000,
                            "revision" => ledger.revision += 1_000_000,
                            other => panic!("ledger patched {other}"),
                        }
                        self.revision += 1;
                        *number = self.revision;
                        None
                    }
                    "usurped" => {
                        let (mut ledger, _) = self.ledger.clone().expect("a ledger");
                        ledger.epoch += 1;
                        self.revision += 1;
                        self.ledger = Some((ledger, self.revision));
                        None
                    }
                    other => panic!("ledger {other}"),
                };
            }
            "restart" => {
                let spec = (**self.fleet.spec()).clone();
                self.fleet = Fleet::new(spec, &policies(), 2).unwrap();
                self.calls.clear();
            }
            "spec" => self.respec(&words[1..]),
            "conditions" => {
                let now = Now { instant: Instant::from_ms(self.now_ms), wall_ms: WALL_MS };
                let conditions = self.fleet.snapshot(now).conditions;
                let names: Vec<_> = conditions.iter().map(|c| c.name).collect();
                self.show(&format!("conditions {}", names.join(" ")));
                for told in conditions.iter().filter(|c| words[1..].contains(&c.name)) {
                    self.show(&told.message);
                }
            }
            "counts" => {
                let counts = self.fleet.counts();
                let lost: Vec<_> =
                    counts.lost.iter().map(|(kind, n)| format!("{} {n}", kind.name())).collect();
                let removed: Vec<_> =
                    counts.removed.iter().map(|(cause, n)| format!("{cause:?} {n}")).collect();
                let line = format!(
                    "created {} = live {} + terminating {} + reason pending {} + lost [{}] + removed [{}]",
                    counts.created,
                    counts.live,
                    counts.terminating,
                    counts.reason_pending,
                    lost.join(", "),
                    removed.join(", ")
                );
                self.show(&line);
            }
            "explain" => {
                let explained = self.fleet.explain(ExecutorId(number(1)));
                let refusal = explained.not_rolled.map_or("nothing in the way", Refusal::code);
                self.show(&format!("{} is {}: {refusal}", number(1), explained.stage.unwrap_or("unknown")));
                if let Some(last) = explained.history.last().filter(|_| words.contains(&"history")) {
                    self.show(&last.text);
                }
            }
            verb => self.command(verb, &words[1..], what),
        }
    }

    fn command(&mut self, verb: &str, words: &[&str], what: &str) {
        let number = |word: &&str| word.parse::<u64>().unwrap_or_else(|_| panic!("{what:?}: no number"));
        let verb = match verb {
            "total" => Command::RequestTotalExecutors(u32::try_from(number(&words[0])).unwrap()),
            "kill" => Command::Kill {
                executors: words.iter().map_while(|word| word.parse().ok()).map(ExecutorId).collect(),
                replace: words.contains(&"replace"),
                force: words.contains(&"force"),
            },
            "roll" => Command::Roll(words.first().map(number).map(ExecutorId)),
            "pause" => Command::Pause,
            "resume" => Command::Resume,
            "reset" => Command::ResetBreaker,
            "reset-ledger" => Command::ResetLedger,
            _ => panic!("{what:?}: no such event"),
        };
        self.step(Event::Commanded { command: CommandId(1), verb });
    }

    /// Created, seen running, and heard.
    fn start(&mut self, id: u64) {
        if self.calls.contains_key(&("create", id)) {
            self.outcome("create", id, &["ok"]);
        }
        let view = self.change(id, &["running"]);
        self.step(Event::PodChanged(Box::new(view)));
        self.beat(&[id], None);
    }

    fn beat(&mut self, ids: &[u64], uid: Option<Uid>) {
        for id in ids {
            self.counters.entry(*id).or_default();
            let beat = Beat { executor: ExecutorId(*id), uid: uid.clone(), metrics: vec![] };
            self.step(Event::Heartbeat(Box::new(beat)));
        }
    }

    fn outcome(&mut self, kind: &str, id: u64, words: &[&str]) {
        let kind = ["create", "get", "delete", "evict"].into_iter().find(|known| *known == kind).unwrap();
        let action =
            self.calls.remove(&(kind, id)).unwrap_or_else(|| panic!("no {kind} {id}:\n{}", self.text));
        let after = words.get(1).filter(|_| words[0] == "throttled").map(|word| milliseconds(word));
        let outcome = match (words[0], kind) {
            ("ok", "create") => {
                let changed = [&["pending"], &words[1..]].concat();
                Outcome::Ok(Done::Pod(Box::new(self.change(id, &changed))))
            }
            ("ok", "get") => Outcome::Ok(Done::Pod(Box::new(self.pods[&id].clone()))),
            ("foreign", "get") => {
                let mut pod = self.change(id, &[]);
                pod.owner = None;
                Outcome::Ok(Done::Pod(Box::new(pod)))
            }
            ("ok", _) => Outcome::Ok(Done::Deleted),
            ("exists", _) => Outcome::AlreadyExists,
            ("conflict", _) => Outcome::Conflict,
            ("notfound", _) => Outcome::NotFound,
            ("throttled", _) => Outcome::Throttled { after_ms: after },
            ("budget", _) => Outcome::Budget,
            ("forbidden", _) => Outcome::Forbidden("quota".to_owned()),
            ("invalid", _) => Outcome::Invalid("template".to_owned()),
            ("unknown", _) => Outcome::Unknown("reset".to_owned()),
            (other, _) => panic!("no outcome {other}"),
        };
        self.step(finished(&action, outcome));
    }

    fn relist(&mut self, words: &[&str]) {
        let known = match self.calls.remove(&("relist", 0)) {
            Some(Action { verb: Verb::Relist { known }, .. }) => known,
            _ => u64::MAX,
        };
        let (mut revision, mut pods) = (self.revision, self.pods.clone());
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "revision" => revision = value.parse().unwrap(),
                "driver" => self.driver = DriverView::Gone,
                // The state when the list was requested.
                "taken" => (revision, pods) = self.listed.clone(),
                other => panic!("list {other}"),
            }
        }
        let pods = pods.into_values().collect();
        self.step(Event::Relisted(Relist { known, revision, pods, driver: self.driver.clone() }));
    }
}

fn milliseconds(text: &str) -> u64 {
    let number = text.strip_suffix('s').unwrap_or_else(|| panic!("{text:?} is no time: 1.5s"));
    (number.parse::<f64>().unwrap() * 1_000.0).round() as u64
}

fn seconds(ms: u64) -> String {
    if ms.is_multiple_of(1_000) {
        format!("{}", ms / 1_000)
    } else {
        format!("{}.{:03}", ms / 1_000, ms % 1_000)
    }
}
