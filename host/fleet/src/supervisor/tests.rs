//! The races of documents, drivers, watches and lists, one at a time.

use super::*;
use crate::id::{ExecutorId, IdRange};
use crate::observed::DriverView;
use crate::outcome::Outcome;
use crate::spec::{FleetSpec, Mode};

/// A host that always leads, with virtual time.
struct Host {
    supervisor: Supervisor,
    now_ms: u64,
    version: u64,
}

fn document(fleet: &str, driver: &str) -> Document {
    Document {
        fleet: fleet.to_owned(),
        namespace: "n".to_owned(),
        driver_pod: driver.to_owned(),
        application_id: None,
        spec: FleetSpec::new(fleet, "stand-in", Mode::Own, "stand-in".into(), 2),
        needs_address: true,
        metrics_namespace: None,
        graphite_prefix: None,
        check_peer: true,
        unusable: None,
        version: 1,
    }
}

fn good(document: Document) -> Judged {
    let policies = document.spec.recovery.policies.clone();
    Judged { document, problems: Vec::new(), pending: None, policies }
}

fn driver(name: &str, uid: &str, revision: u64) -> DriverPod {
    DriverPod {
        name: name.into(),
        uid: uid.into(),
        application_id: Some("spark-1".into()),
        app_name: None,
        spark_version: None,
        created_at_ms: Some(1_000),
        revision,
        live: true,
        ends: 0,
        address: Some([10, 0, 0, 1].into()),
    }
}

impl Host {
    fn new() -> Host {
        let mut host = Host { supervisor: Supervisor::new(None, 1), now_ms: 0, version: 1 };
        host.step(Input::Deadline);
        host
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let now = Now { instant: Instant::from_ms(self.now_ms), wall_ms: 0 };
        self.supervisor.step(input, now)
    }

    fn after(&mut self, ms: u64) -> Vec<Output> {
        // The loop runs once per pulse.
        let end = self.now_ms + ms;
        let mut out = Vec::new();
        while self.now_ms < end {
            self.now_ms = (self.now_ms + 1_000).min(end);
            out.extend(self.step(Input::Deadline));
        }
        out
    }

    fn documents(&mut self, documents: &[Document]) -> Vec<Output> {
        self.step(Input::Documents(documents.iter().cloned().map(good).collect()))
    }

    fn found(&mut self, fleet: &str, pod: &str, found: Option<DriverPod>) -> Vec<Output> {
        let (fleet, namespace, pod) = (fleet.to_owned(), "n".to_owned(), pod.to_owned());
        self.step(Input::DriverFound { fleet, namespace, pod, found: Ok(found) })
    }

    fn watch(&mut self, up: bool) -> Vec<Output> {
        let namespace = "n".to_owned();
        self.step(if up { Input::WatchStarted { namespace } } else { Input::WatchBroken { namespace } })
    }

    /// A fleet with a life, whose watch is up and whose list is in flight.
    fn begun() -> Host {
        let mut host = Host::new();
        host.documents(&[document("f", "d")]);
        host.watch(true);
        let out = host.found("f", "d", Some(driver("d", "u1", 5)));
        assert_eq!(lists(&out), 1, "{out:?}");
        host
    }

    fn life(&self) -> Option<u64> {
        Some(self.supervisor.fleet("f")?.life()?.number())
    }

    fn another_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn listed(&mut self, life: u64, revision: u64) -> Vec<Output> {
        let driver = DriverView::Running { uid: "u1".into(), ends: 0 };
        let list = Relist { known: 0, revision, pods: Vec::new(), driver };
        self.step(Input::Listed { life, list: Some(list) })
    }
}

fn lists(out: &[Output]) -> usize {
    out.iter().filter(|output| matches!(output, Output::List { .. })).count()
}

fn look_ups(out: &[Output]) -> usize {
    out.iter().filter(|output| matches!(output, Output::FindDriver { .. })).count()
}

fn begins(out: &[Output]) -> usize {
    out.iter().filter(|output| matches!(output, Output::Begin { .. })).count()
}

#[test]
fn a_driver_is_looked_for_every_five_seconds_by_one_look_up() {
    let mut host = Host::new();
    let out = host.documents(&[document("f", "d")]);
    assert_eq!(look_ups(&out), 1);
    assert!(out.contains(&Output::Watch { namespace: "n".to_owned() }));
    assert_eq!(look_ups(&host.after(60_000)), 0, "one is in flight");
    host.found("f", "d", None);
    assert!(host.supervisor.is_synced(), "it was looked for");
    assert_eq!(look_ups(&host.after(4_999)), 0);
    assert_eq!(look_ups(&host.after(1)), 1);
    // An answer that comes twice starts no second series of look-ups.
    host.found("f", "d", None);
    host.found("f", "d", None);
    assert_eq!(look_ups(&host.after(5_000)), 1);
    host.found("f", "d", None);
    assert_eq!(look_ups(&host.after(5_000)), 1);
}

#[test]
fn a_driver_without_an_address_is_looked_for_although_the_watch_would_report_it() {
    let mut host = Host::new();
    host.documents(&[document("f", "d")]);
    let unscheduled = DriverPod { address: None, ..driver("d", "u1", 5) };
    let out = host.step(Input::Driver { namespace: "n".to_owned(), driver: unscheduled.clone() });
    assert_eq!(begins(&out), 0);
    assert_eq!(host.supervisor.fleet("f").expect("a fleet").waits().0, "driver pod d has no address yet");
    host.found("f", "d", Some(unscheduled));
    assert_eq!(look_ups(&host.after(5_000)), 1);
    assert_eq!(begins(&host.found("f", "d", Some(driver("d", "u1", 6)))), 1);
    assert_eq!(look_ups(&host.after(20_000)), 0, "it was found");
}

#[test]
fn an_answer_about_the_driver_of_an_earlier_document_begins_nothing() {
    let mut host = Host::new();
    host.documents(&[document("f", "old")]);
    let version = host.another_version();
    let out = host.documents(&[Document { version, ..document("f", "new") }]);
    assert_eq!(look_ups(&out), 1);
    assert_eq!(begins(&host.found("f", "old", Some(driver("old", "u1", 5)))), 0);
    assert_eq!(begins(&host.found("f", "new", Some(driver("new", "u2", 6)))), 1);
}

#[test]
fn another_driver_pod_is_another_life_and_an_older_one_is_none() {
    let mut host = Host::begun();
    let first = host.life();
    host.found("f", "d", Some(driver("d", "u0", 4)));
    assert_eq!(host.life(), first, "an older answer about an earlier pod");
    host.found("f", "d", Some(DriverPod { live: false, ..driver("d", "u2", 7) }));
    assert_eq!(host.life(), first, "it has ended already");
    let out = host.found("f", "d", Some(driver("d", "u2", 8)));
    assert_eq!(begins(&out), 1);
    assert!(out.contains(&Output::End { life: 1, fleet: "f".to_owned() }), "{out:?}");
    assert_eq!(host.life(), Some(2));
    // What is in flight for the first life is discarded.
    assert_eq!(host.listed(1, 9), []);
    let event = Event::Finished { action: crate::id::ActionId(1), outcome: Outcome::Conflict };
    assert_eq!(host.step(Input::Fleet { life: 1, event }), []);
}

#[test]
fn a_driver_that_gets_another_address_is_placed_again() {
    let mut host = Host::begun();
    let moved = DriverPod { address: Some([10, 0, 0, 2].into()), ..driver("d", "u1", 6) };
    let place = |out: &[Output]| out.iter().any(|output| matches!(output, Output::Place { .. }));
    assert!(place(&host.step(Input::Driver { namespace: "n".to_owned(), driver: moved.clone() })));
    assert!(!place(&host.step(Input::Driver { namespace: "n".to_owned(), driver: moved })), "once");
    assert!(!place(&host.found("f", "d", Some(driver("d", "u1", 5)))), "an older state");
}

#[test]
fn a_list_that_is_overtaken_by_a_restart_of_the_watch_is_followed_by_another() {
    let mut host = Host::begun();
    host.watch(false);
    assert_eq!(lists(&host.watch(true)), 0, "one is in flight");
    assert_eq!(lists(&host.listed(1, 9)), 1, "it may have missed changes");
    assert_eq!(lists(&host.listed(1, 10)), 0);
}

#[test]
fn a_list_that_fails_is_asked_for_again() {
    let mut host = Host::begun();
    assert_eq!(host.step(Input::Listed { life: 1, list: None }), []);
    assert!(!host.supervisor.is_synced());
    assert_eq!(lists(&host.after(1_999)), 0);
    assert_eq!(lists(&host.after(1)), 1);
    host.listed(1, 9);
    assert!(host.supervisor.is_synced());
}

#[test]
fn a_view_is_fresh_when_a_list_is_answered_while_its_watch_is_up() {
    let conditions = |host: &Host| {
        let fleet = host.supervisor.fleet("f").expect("a fleet");
        fleet.life().expect("a life").fleet().conditions()
    };
    let stale = |host: &Host| conditions(host).iter().any(|condition| condition.name == "ViewStale");
    let mut host = Host::new();
    host.documents(&[document("f", "d")]);
    host.found("f", "d", Some(driver("d", "u1", 5)));
    assert!(stale(&host), "it began while its watch was down: {:?}", conditions(&host));
    host.watch(true);
    assert!(stale(&host), "not listed yet");
    host.watch(false);
    host.listed(1, 9);
    assert!(stale(&host), "the list was answered, and the watch is down");
    host.watch(true);
    host.listed(1, 10);
    assert!(!stale(&host));
}

#[test]
fn an_invalid_document_changes_nothing_and_one_that_is_not_judged_yet_waits() {
    let mut host = Host::begun();
    let version = host.another_version();
    let other = Document { version, ..document("f", "elsewhere") };
    let wrong = Judged { problems: vec!["no".to_owned()], ..good(other.clone()) };
    let out = host.step(Input::Documents(vec![wrong.clone()]));
    let refused = News::Refused { problems: vec!["no".to_owned()] };
    assert_eq!(out, [Output::Tell { fleet: "f".to_owned(), news: refused }]);
    assert_eq!(host.step(Input::Documents(vec![wrong])), [], "it was told");
    assert_eq!(host.life(), Some(1));
    let later = Judged { pending: Some("soon".to_owned()), ..good(other.clone()) };
    assert_eq!(host.step(Input::Documents(vec![later])), []);
    assert_eq!(host.life(), Some(1));
    let out = host.documents(&[other]);
    assert!(out.contains(&Output::End { life: 1, fleet: "f".to_owned() }), "{out:?}");
    assert_eq!(look_ups(&out), 1);
}

#[test]
fn the_older_driver_has_the_application_id_in_every_order() {
    for order in [["old", "new"], ["new", "old"]] {
        let mut host = Host::new();
        host.documents(&[document("old", "old"), document("new", "new")]);
        for name in order {
            let created_at_ms = Some(if name == "old" { 1_000 } else { 2_000 });
            host.found(name, name, Some(DriverPod { created_at_ms, ..driver(name, name, 5) }));
        }
        let lives = |name: &str| host.supervisor.fleet(name).expect("a fleet").life().is_some();
        assert!(lives("old") && !lives("new"), "{order:?}");
        assert!(host.supervisor.fleet("new").expect("a fleet").waits().1, "contested");
        // The loser retries, and takes over when the winner is gone.
        assert_eq!(look_ups(&host.after(5_000)), 1);
        host.documents(&[document("new", "new")]);
        host.found("new", "new", Some(DriverPod { created_at_ms: Some(2_000), ..driver("new", "new", 5) }));
        let of_1 = host.supervisor.life_of("n", "spark-1", ExecutorId(1));
        assert_eq!(of_1, host.supervisor.lives().first().copied());
        assert_eq!(host.supervisor.lives().len(), 1, "{order:?}");
    }
}

/// Spark's resource profiles: one fleet each.
#[test]
fn fleets_of_one_application_share_its_executor_ids() {
    let ids = |first, last| IdRange { first: ExecutorId(first), last: ExecutorId(last) };
    let with = |fleet: &str, ids| {
        let document = document(fleet, "d");
        Document { spec: FleetSpec { ids, ..document.spec }, ..document }
    };
    let mut host = Host::new();
    host.documents(&[with("a", ids(1, 10)), with("b", ids(21, 30)), with("c", ids(30, 40))]);
    for fleet in ["a", "b", "c"] {
        host.found(fleet, "d", Some(driver("d", "u1", 5)));
    }
    let of = |host: &Host, id| {
        let life = host.supervisor.life_of("n", "spark-1", ExecutorId(id))?;
        host.supervisor.fleet_of(life).map(|managed| managed.name().to_owned())
    };
    let names = |host: &Host| [1, 10, 11, 21, 30, 31].map(|id| of(host, id).unwrap_or_default());
    assert_eq!(names(&host), ["a", "a", "", "b", "b", ""]);
    assert!(host.supervisor.fleet("c").expect("a fleet").waits().1, "30 is of b");
    host.documents(&[with("a", ids(1, 10)), with("b", ids(21, 29)), with("c", ids(30, 40))]);
    assert_eq!(host.supervisor.lives().len(), 2, "the document with the same version is the same");
}

#[test]
fn a_fleet_that_is_deleted_and_created_again_is_another_life() {
    let mut host = Host::begun();
    let out = host.documents(&[]);
    assert!(out.contains(&Output::End { life: 1, fleet: "f".to_owned() }));
    assert_eq!(host.step(Input::Fleet { life: 1, event: Event::ViewStale }), []);
    let out = host.documents(&[document("f", "d")]);
    assert_eq!(look_ups(&out), 1);
    assert_eq!(begins(&host.found("f", "d", Some(driver("d", "u1", 5)))), 1);
    assert_eq!(host.life(), Some(2));
}

#[test]
fn a_driver_after_a_restored_store_is_believed_with_a_lower_revision() {
    let mut host = Host::begun();
    let life = host.life().expect("a life");
    let id = |out: &[Output]| {
        let call =
            |output: &Output| if let Output::Act { action, .. } = output { Some(action.id) } else { None };
        out.iter().rev().find_map(call).expect("a call")
    };
    let done = |host: &mut Host, action, outcome| {
        host.step(Input::Fleet { life, event: Event::Finished { action, outcome } })
    };
    // The first call reads the ledger; the second claims it.
    let out = done(&mut host, crate::id::ActionId(1), Outcome::NotFound);
    let written = Outcome::Ok(crate::outcome::Done::Written(crate::id::Version("100".into())));
    done(&mut host, id(&out), written);
    host.listed(life, 100);
    host.step(Input::Driver { namespace: "n".to_owned(), driver: driver("d", "u1", 110) });
    let older = |host: &mut Host| {
        let driver_view = DriverView::Running { uid: "u1".into(), ends: 0 };
        let list = Relist { known: 100, revision: 50, pods: Vec::new(), driver: driver_view };
        host.step(Input::Fleet { life, event: Event::Relisted(list) })
    };
    older(&mut host);
    let another = |host: &mut Host| {
        begins(&host.step(Input::Driver { namespace: "n".to_owned(), driver: driver("d", "u2", 60) }))
    };
    assert_eq!(another(&mut host), 0, "an answer that is late");
    host.after(700_000);
    older(&mut host);
    assert_eq!(another(&mut host), 1, "no newer list has come for ten minutes");
}
