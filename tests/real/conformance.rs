//! The model API servers against the real one: the same requests, the same answers.
//!
//! `tests/fixtures/conformance/*.txt` are scenarios with the answers of kube-apiserver 1.36 (`script.rs` documents the
//! format). With a control plane, the test compares it with them; with `ROLLCALL_RECORD=1` it rewrites the answers, and
//! fails with the differences. The models, `embedded::server` and the simulator's `lab::api`, are always compared with them.
//!
//! Where a model does not answer as the real server does, [`EXCEPTIONS`] has an entry, and the answers must differ
//! there.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::{Client, Clients};
use embedded::server::Server;
use futures_util::{StreamExt, stream};
use rollcall::metrics::Metrics;
use tokio::time::{Instant, sleep};

use super::control_plane::{ControlPlane, Role};
use super::tools;
use run::{Cluster, Stopped, run};
use script::{Scenario, Script};
use typed::Typed;

mod run;
mod script;
mod typed;
mod words;

const SERVER: &str = "embedded::server";
const TYPED: &str = "lab::api";

/// Where a model differs: the name in the scenarios, the model, and the reason why it may.
const EXCEPTIONS: [(&str, &str, &str); 6] = [
    ("apply", SERVER, "an apply is taken as a merge patch: no object here is applied by two managers"),
    (
        "budget",
        SERVER,
        "budgets are counted when they are asked: there is no controller that is late, and no status",
    ),
    ("budget", TYPED, "the same"),
    ("garbage", SERVER, "foreground and orphans are done at once: the garbage collector is built in"),
    (
        "managers",
        SERVER,
        "a manager that owns no field any more is forgotten; no client needs the map around its fields",
    ),
    ("strategic", SERVER, "a strategic merge patch is taken as a merge patch: it replaces lists"),
];

/// What the simulator's typed model cannot express, and why it need not. A scenario ends there.
const LACKS: [(&str, &str); 8] = [
    ("other objects", "of all that there is the core knows pods, a ledger and a Lease"),
    (
        "other parameters",
        "a fleet is listed as a whole and watched from there; pages, bookmarks and dry runs are the adapter's business",
    ),
    (
        "other pods",
        "what a pod is made of, and whether it is taken, is the template's and the adapter's business",
    ),
    (
        "other patches",
        "the daemon patches no pod; people do, and the labels and the finalizer are all that matters",
    ),
    ("other preconditions", "a deletion names the UID, and nothing else"),
    ("other leases", "the core writes them whole"),
    ("writes that compare nothing", "the ledger and the Lease are compared and swapped, always"),
    ("what makes no sense", "types cannot say it"),
];

/// How many scenarios the typed model completes, and how many steps it makes in total: if it stops earlier than before,
/// that does not count as agreement.
const TYPED_WHOLE: usize = 27;
const TYPED_STEPS: usize = 304;

/// Scenarios at a time: most of them wait.
const AT_ONCE: usize = 8;

/// kube-apiserver.
struct Real {
    plane: Mutex<ControlPlane>,
    client: Mutex<Client>,
}

impl Real {
    async fn start(tools: &Path) -> Real {
        let plane = ControlPlane::start(tools).unwrap();
        let client = connect(&plane.kubeconfig(Role::Admin)).await;
        Real { plane: plane.into(), client: client.into() }
    }
}

async fn connect(kubeconfig: &Path) -> Client {
    Clients::connect(Some(kubeconfig), None, Arc::new(Metrics::new(None))).await.unwrap().call
}

impl Cluster for Real {
    fn client(&self) -> Client {
        self.client.lock().unwrap().clone()
    }

    async fn compact(&self) {
        let restart = |plane: &mut ControlPlane| {
            plane.compact_etcd().unwrap();
            plane.start_apiserver().unwrap();
            plane.kubeconfig(Role::Admin)
        };
        let kubeconfig = restart(&mut self.plane.lock().unwrap());
        // The connections of the old one are broken.
        *self.client.lock().unwrap() = connect(&kubeconfig).await;
    }
}

impl Cluster for Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let answer = move |request: axum::extract::Request| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 8 << 20).await.unwrap();
                server.call(axum::http::Request::from_parts(parts, body)).map(axum::body::Body::new)
            }
        };
        Client::new(axum::Router::new().fallback(answer), "default")
    }

    async fn compact(&self) {
        Server::compact(self);
    }
}

#[tokio::test]
async fn the_real_server_answers_as_it_is_written() {
    let Some(tools) = tools() else { return };
    let real = Real::start(&tools).await;
    let scripts = script::all();
    let scenarios =
        scripts.iter().flat_map(|script| script.scenarios.iter().map(move |scenario| (script, scenario)));
    // While the server restarts, no other scenario can use it.
    let (alone, others): (Vec<_>, Vec<_>) =
        scenarios.enumerate().partition(|(_, (_, scenario))| scenario.compacts());
    let told = async |(at, (script, scenario)): (usize, (&Script, &Scenario))| {
        let (said, ended) = run(&real, scenario, &format!("conformance-{at}")).await;
        let all = ended.is_ok();
        (at, differences(script, scenario, &said, ended, |_| false), said, all)
    };
    let mut all: Vec<_> = stream::iter(others).map(told).buffer_unordered(AT_ONCE).collect().await;
    for scenario in alone {
        all.push(told(scenario).await);
    }
    all.sort();
    if std::env::var_os("ROLLCALL_RECORD").is_some_and(|value| value == "1")
        && all.iter().all(|(.., all)| *all)
    {
        let mut answers = all.iter().flat_map(|(_, _, said, _)| said.clone());
        scripts.iter().for_each(|script| script.record(&mut answers));
    }
    let wrong: String = all.into_iter().map(|(_, wrong, ..)| wrong).collect();
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(start_paused = true)]
async fn the_server_of_the_tests_answers_like_the_real_one() {
    let mut wrong = String::new();
    for script in script::all() {
        for scenario in &script.scenarios {
            let server = Server::new(1);
            let clock = tokio::spawn(tell_time(server.clone()));
            let (said, ended) = run(&server, scenario, "conformance").await;
            clock.abort();
            wrong.push_str(&differences(&script, scenario, &said, ended, |name| is_exempt(SERVER, name)));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

async fn tell_time(server: Server) {
    let begun = Instant::now();
    loop {
        sleep(Duration::from_millis(20)).await;
        server.advance(u64::try_from(begun.elapsed().as_millis()).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn the_simulators_server_answers_like_the_real_one() {
    let (mut wrong, mut lacks, mut whole, mut steps) = (String::new(), BTreeSet::new(), 0, 0);
    for script in script::all() {
        for scenario in &script.scenarios {
            let (said, ended) = run(&Typed::new(), scenario, "conformance").await;
            steps += said.len();
            let ended = match ended {
                Err(stopped) if LACKS.iter().any(|(lack, _)| *lack == stopped.why) => {
                    lacks.insert(stopped.why);
                    Ok(())
                }
                ended => {
                    whole += 1;
                    ended
                }
            };
            wrong.push_str(&differences(&script, scenario, &said, ended, |name| is_exempt(TYPED, name)));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(lacks, LACKS.iter().map(|(lack, _)| (*lack).to_owned()).collect(), "what it lacks");
    assert_eq!(whole, TYPED_WHOLE, "scenarios without a lack");
    assert_eq!(steps, TYPED_STEPS, "steps that were compared");
}

#[test]
fn every_exception_is_made_use_of() {
    let scripts = script::all();
    let steps = scripts.iter().flat_map(|script| &script.scenarios).flat_map(|scenario| &scenario.steps);
    let used: BTreeSet<&str> = steps.filter_map(|step| step.differs.as_deref()).collect();
    assert_eq!(used, EXCEPTIONS.iter().map(|(name, ..)| *name).collect());
}

fn is_exempt(model: &str, name: &str) -> bool {
    EXCEPTIONS.iter().any(|(exception, of, _)| *exception == name && *of == model)
}

/// The unexpected differences, side by side; empty if there are none.
fn differences(
    script: &Script,
    scenario: &Scenario,
    said: &[Vec<String>],
    ended: Result<(), Stopped>,
    exempt: impl Fn(&str) -> bool,
) -> String {
    let mut text = String::new();
    for (step, said) in scenario.steps.iter().zip(said) {
        let exempt = step.differs.as_deref().is_some_and(&exempt);
        if (*said != step.expected) == exempt {
            continue;
        }
        writeln!(text, "\n{}.txt:{}: {}\n  {}", script.name, step.line, scenario.name, step.text()).unwrap();
        if exempt {
            writeln!(text, "  does not differ any more: take away the exception").unwrap();
            continue;
        }
        let width = step.expected.iter().map(String::len).max().unwrap_or(0).max("expected".len());
        writeln!(text, "    {:width$} | got", "expected").unwrap();
        for at in 0..step.expected.len().max(said.len()) {
            let line = |lines: &[String]| lines.get(at).cloned().unwrap_or_default();
            let (expected, got) = (line(&step.expected), line(said));
            let mark = if expected == got { ' ' } else { '!' };
            writeln!(text, "  {mark} {expected:width$} | {got}").unwrap();
        }
    }
    if let Err(Stopped { line, why }) = ended {
        writeln!(text, "\n{}.txt:{line}: {}: {why}", script.name, scenario.name).unwrap();
    }
    text
}
