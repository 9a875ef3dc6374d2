//! Commands of the cluster's users, with an API server that the test plays. `tests/real/authority.rs` holds the real one
//! against the same expectations.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::review::User;
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};

use super::{TOKEN, client, code, pass, take_apart};
use crate::handle::{Commanded, Handle, Overview, Request};
use crate::heartbeat::api::review::BoxFuture;
use crate::http::Settings;
use crate::http::authority::{Authority, Judge, KEPT};
use crate::http::fake::Daemon;

/// Tokens are names of users.
#[derive(Default)]
struct Server {
    /// User, namespace, fleet.
    rights: Mutex<Vec<[&'static str; 3]>>,
    users: AtomicUsize,
    checks: AtomicUsize,
}

impl Judge for Server {
    fn user<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, String>> {
        Box::pin(async move {
            self.users.fetch_add(1, Ordering::Relaxed);
            match token {
                "expired" => Ok(None),
                "unanswered" => std::future::pending().await,
                "broken" => Err("it is down".to_owned()),
                name => Ok(Some(User { name: name.to_owned(), ..User::default() })),
            }
        })
    }

    fn may<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
        fleet: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(async move {
            self.checks.fetch_add(1, Ordering::Relaxed);
            Ok(self.rights.lock().unwrap().iter().any(|right| *right == [&*user.name, namespace, fleet]))
        })
    }
}

/// A daemon with the fleets jobs/etl and other/etl, and the users of the commands that reached its loop.
async fn daemon(token: Option<&str>) -> (Daemon, Arc<Server>, Arc<Mutex<Vec<Option<String>>>>) {
    let (handle, mut requests) = Handle::new(16, 1);
    let told: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let commands = Arc::clone(&told);
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            match request {
                Request::Overview(reply) => drop(reply.send(["jobs", "other"].map(overview).into())),
                Request::Command { by, reply, .. } => {
                    commands.lock().unwrap().push(by);
                    drop(reply.send(Commanded::Replied(fleet::action::Reply::Done)));
                }
                Request::Snapshot { .. } | Request::Explain { .. } => {}
            }
        }
    });
    let server = Arc::new(Server::default());
    let authority = Some(Authority::new(Arc::clone(&server) as Arc<dyn Judge>));
    let settings = Settings { token: token.map(str::to_owned), authority, ..Settings::default() };
    (Daemon::serve(handle, settings).await, server, told)
}

fn overview(namespace: &str) -> Overview {
    Overview {
        fleet: "etl".to_owned(),
        namespace: namespace.to_owned(),
        mode: "own",
        phase: "active",
        target: 1,
        counts: fleet::snapshot::Counts::default(),
        refusals: std::collections::BTreeMap::new(),
        impairments: std::collections::BTreeMap::new(),
        conditions: Vec::new(),
        application_id: None,
        generation: None,
        problems: Vec::new(),
    }
}

async fn pause(daemon: &Daemon, fleet: &str, token: &str) -> (u16, Value) {
    let url = daemon.url(&format!("/v1/fleets/{}/pause", fleet.replace('/', "%2F")));
    take_apart(client().post(url).bearer_auth(token).json(&json!({})).send().await.unwrap()).await
}

#[tokio::test]
async fn users_command_the_fleets_that_they_may_patch() {
    let (daemon, server, told) = daemon(Some(TOKEN)).await;
    *server.rights.lock().unwrap() = vec![["alice", "jobs", "etl"]];
    assert_eq!(pause(&daemon, "jobs/etl", "alice").await.0, 200);
    assert_eq!(pause(&daemon, "jobs/etl", TOKEN).await.0, 200, "both ways at once");
    assert_eq!(*told.lock().unwrap(), [Some("alice".to_owned()), None]);
    let (status, body) = pause(&daemon, "other/etl", "alice").await;
    assert_eq!((status, code(&body)), (403, "forbidden"), "another namespace");
    assert_eq!(
        body["error"]["message"],
        "user \"alice\" may not patch executorfleets.rollcall.dev \"etl\" in the namespace \"other\". To grant it: kubectl \
         create role rollcall-etl -n other --verb=patch --resource=executorfleets.rollcall.dev --resource-name=etl && \
         kubectl create rolebinding rollcall-etl -n other --role=rollcall-etl --user=alice"
    );
    let (_, body) = pause(&daemon, "jobs/etl", "system:serviceaccount:jobs:bob").await;
    assert!(body["error"]["message"].as_str().unwrap().ends_with("--serviceaccount=jobs:bob"), "{body}");
    let (_, body) = pause(&daemon, "jobs/etl", "o'neill; reboot").await;
    assert!(body["error"]["message"].as_str().unwrap().ends_with(r"--user='o'\''neill; reboot'"), "{body}");
    for (fleet, token, expected) in [
        ("jobs/etl", "expired", (401, "wrong-token")),
        ("etl", "alice", (409, "ambiguous-fleet")),
        ("jobs/web", "alice", (404, "unknown-fleet")),
        ("jobs/web", "expired", (401, "wrong-token")),
    ] {
        let (status, body) = pause(&daemon, fleet, token).await;
        assert_eq!((status, code(&body)), expected, "{fleet} {token}");
    }
    assert_eq!(told.lock().unwrap().len(), 2, "nothing else reached the loop");
}

#[tokio::test]
async fn answers_are_kept_for_a_while_also_refusals() {
    let (daemon, server, _told) = daemon(None).await;
    let asked = || (server.users.load(Ordering::Relaxed), server.checks.load(Ordering::Relaxed));
    for _ in 0..3 {
        assert_eq!(pause(&daemon, "jobs/etl", "alice").await.0, 403);
        assert_eq!(pause(&daemon, "jobs/etl", "expired").await.0, 401);
    }
    assert_eq!(asked(), (2, 1));
    server.rights.lock().unwrap().push(["alice", "jobs", "etl"]);
    assert_eq!(pause(&daemon, "jobs/etl", "alice").await.0, 403, "not yet");
    pass(KEPT + Duration::from_millis(1)).await;
    assert_eq!(pause(&daemon, "jobs/etl", "alice").await.0, 200);
    server.rights.lock().unwrap().clear();
    assert_eq!(pause(&daemon, "jobs/etl", "alice").await.0, 200, "still");
    pass(KEPT + Duration::from_millis(1)).await;
    assert_eq!(pause(&daemon, "jobs/etl", "alice").await.0, 403);
    assert_eq!(asked(), (4, 3));
}

#[tokio::test]
async fn bad_tokens_take_no_slot_of_good_ones_and_no_answer_is_no_permission() {
    let (daemon, server, told) = daemon(None).await;
    *server.rights.lock().unwrap() = vec![["alice", "jobs", "etl"], ["broken", "jobs", "etl"]];
    assert_eq!(pause(&daemon, "jobs/etl", "alice").await.0, 200);
    let url = daemon.url("/v1/fleets/jobs%2Fetl/pause");
    let broken = client().post(url.clone()).bearer_auth("broken").json(&json!({})).send().await.unwrap();
    assert_eq!(broken.headers()[RETRY_AFTER], "1");
    let (status, body) = take_apart(broken).await;
    assert_eq!((status, code(&body)), (503, "authority-unavailable"));
    assert!(body["error"]["message"].as_str().unwrap().ends_with("it is down"), "{body}");
    pass(KEPT + Duration::from_millis(1)).await;
    let hanging =
        (0..4).map(|_| client().post(url.clone()).bearer_auth("unanswered").json(&json!({})).send());
    let hanging: Vec<_> = hanging.map(tokio::spawn).collect();
    while server.users.load(Ordering::Relaxed) < 6 {
        tokio::task::yield_now().await;
    }
    let (status, body) = pause(&daemon, "jobs/etl", "bob").await;
    assert_eq!((status, code(&body)), (503, "busy"), "there is no slot for one that is not known");
    let (status, _) = pause(&daemon, "jobs/etl", "alice").await;
    assert_eq!(status, 200, "a token that was good has slots of its own");
    pass(KEPT).await;
    for hanging in hanging {
        let (status, body) = take_apart(hanging.await.unwrap().unwrap()).await;
        assert_eq!((status, code(&body)), (503, "authority-unavailable"));
    }
    assert_eq!(told.lock().unwrap().len(), 2);
}
