//! The model API servers against the real one: the same requests, the same answers.
//!
//! `tests/fixtures/conformance/*.txt` are scenarios with the answers of kube-apiserver 1.36 (`script.rs` says how to
//! read them). Whoever has a control plane holds it against them, and with `ROLLCALL_RECORD=1` writes them anew; the
//! models, `sim::server` and the simulator's `sim::api`, are held against them always.
//!
//! Where a model does not answer as the real server does, it is in [`EXCEPTIONS`], and has to differ there.
#![allow(clippy::unwrap_used, reason = "a test may panic; what went wrong is in the error")]

use std::fmt::Write;

use cluster::{Client, Clients};
use sim::server::Server;
use tokio::time::{Instant, sleep};

use super::control_plane::{ControlPlane, Role};
use super::tools;
use run::{Cluster, run};
use script::{Scenario, Script};

mod run;
mod script;
mod words;

/// Exceptions by name, in which model, and why it may be so.
const EXCEPTIONS: [(&str, &str, &str); 0] = [];

/// kube-apiserver, with a clock that nobody else has.
struct Real {
    plane: ControlPlane,
    client: Client,
}

impl Real {
    async fn connect(plane: ControlPlane) -> Real {
        let clients = Clients::connect(Some(&plane.kubeconfig(Role::Admin)), None).await.unwrap();
        Real { plane, client: clients.call }
    }
}

impl Cluster for Real {
    fn client(&self) -> Client {
        self.client.clone()
    }

    async fn compact(&mut self) {
        self.plane.compact_etcd().unwrap();
        self.plane.start_apiserver().unwrap();
        self.client = Clients::connect(Some(&self.plane.kubeconfig(Role::Admin)), None).await.unwrap().call;
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

    async fn compact(&mut self) {
        Server::compact(self);
    }
}

#[tokio::test]
async fn the_real_server_answers_as_it_is_written() {
    let Some(tools) = tools() else { return };
    let mut real = Real::connect(ControlPlane::start(&tools).unwrap()).await;
    let mut wrong = String::new();
    for script in script::all() {
        let mut answers = Vec::new();
        for (at, scenario) in script.scenarios.iter().enumerate() {
            let namespace = format!("{}-{at}", script.name);
            let begun = Instant::now();
            let said = run(&mut real, scenario, &namespace).await;
            println!("{}: {}: {:.1} s", script.name, scenario.name, begun.elapsed().as_secs_f64());
            match said {
                Ok(said) => {
                    wrong.push_str(&differences(&script, scenario, &said, |_| false));
                    answers.extend(said);
                }
                Err(why) => writeln!(wrong, "\n{}: {}: {why}", script.name, scenario.name).unwrap(),
            }
        }
        if std::env::var_os("ROLLCALL_RECORD").is_some() {
            script.record(&answers);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(start_paused = true)]
async fn the_server_of_the_tests_answers_like_the_real_one() {
    let mut wrong = String::new();
    for script in script::all() {
        for scenario in &script.scenarios {
            let mut server = Server::new(1);
            let clock = {
                let (server, begun) = (server.clone(), Instant::now());
                tokio::spawn(async move {
                    loop {
                        sleep(std::time::Duration::from_millis(50)).await;
                        server.advance(begun.elapsed().as_millis() as u64);
                    }
                })
            };
            match run(&mut server, scenario, "here").await {
                Ok(said) => wrong.push_str(&differences(&script, scenario, &said, |name| is_exempt("server", name))),
                Err(why) => writeln!(wrong, "\n{}: {}: {why}", script.name, scenario.name).unwrap(),
            }
            clock.abort();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn is_exempt(model: &str, name: &str) -> bool {
    EXCEPTIONS.iter().any(|(exception, of, _)| *exception == name && *of == model)
}

/// What is not as expected, side by side; empty if all is.
fn differences(script: &Script, scenario: &Scenario, said: &[Vec<String>], exempt: impl Fn(&str) -> bool) -> String {
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
    text
}
