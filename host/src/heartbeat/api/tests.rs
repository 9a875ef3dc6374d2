//! Over HTTP on loopback.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::review::{AUDIENCE, BoxFuture, ReviewError, Reviewed};
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};

use super::*;
use crate::heartbeat::Sign;
use crate::heartbeat::directory::{Claim, FleetEntry};
use crate::heartbeat::intake::Signs;
use crate::heartbeat::tests::intake;
use crate::listen::Listener;

/// Accepts the token `pod.<UID>.sig`.
#[derive(Default)]
struct Kubernetes {
    asked: AtomicUsize,
}

impl TokenReviewer for Kubernetes {
    fn review<'a>(
        &'a self,
        token: &'a str,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Reviewed, ReviewError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            assert_eq!(audience, AUDIENCE);
            let uid = token.strip_prefix("pod.").and_then(|token| token.strip_suffix(".sig"));
            let uid = uid.ok_or_else(|| ReviewError::Rejected("unknown".to_owned()))?;
            if uid == "down" {
                return Err(ReviewError::Unavailable("503".to_owned()));
            }
            let audiences = vec![audience.to_owned()];
            Ok(Reviewed { audiences, pod_uid: Some(uid.to_owned()), pod_name: None })
        })
    }
}

struct Server {
    intake: Intake,
    signs: Signs,
    kubernetes: Arc<Kubernetes>,
    at: String,
}

/// Fleet `etl` (application `spark-1`, token `t1`) with executors 1 and 2, and fleet `ml` (token `t2`).
async fn serve() -> Server {
    let (intake, signs) = intake();
    for (life, fleet, application, token) in [(1, "etl", "spark-1", "t1"), (2, "ml", "spark-2", "t2")] {
        let token = Some(Secret::new(token));
        let application_id = application.to_owned();
        let entry = FleetEntry { life, application_id, token, ..FleetEntry::default() };
        intake.directory.set_fleet(fleet, entry).unwrap();
        for id in 1..=2 {
            let uid = Uid::from(&*format!("{fleet}-{id}"));
            intake.directory.set_executor(
                fleet,
                ExecutorId(id),
                ExecutorEntry { uid, pod_ip: None, runs: true },
            );
        }
    }
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let kubernetes = Arc::new(Kubernetes::default());
    let routes = router(intake.clone(), Some(Arc::clone(&kubernetes) as Arc<dyn TokenReviewer>));
    let (limits, pods) = (crate::http::serve::Limits::new(512), Arc::new(intake.clone()));
    tokio::spawn(crate::http::serve(listener, routes, limits, pods, std::future::pending()));
    Server { intake, signs, kubernetes, at }
}

impl Server {
    async fn raw(&self, token: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("http://{}/v1/heartbeats", self.at)).body(body.into());
        let request = if token.is_empty() { request } else { request.header("authorization", token) };
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), status == 401);
        assert_eq!(response.headers().contains_key(RETRY_AFTER), status == 429 || status == 503);
        let answer: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        // Parsed as the command line parses errors.
        let error = serde_json::from_value::<crate::http::wire::Failure>(answer.clone());
        assert_eq!(error.is_ok(), status != 200, "{status} {answer}");
        (status, answer)
    }

    async fn post(&self, token: &str, beats: Value) -> (u16, Value) {
        self.raw(&format!("Bearer {token}"), json!({ "beats": beats }).to_string()).await
    }

    fn count(&self, fate: Fate) -> u64 {
        self.intake.counters.get(Source::Api, fate)
    }
}

#[tokio::test]
async fn the_fleets_token_speaks_for_all_its_executors() {
    let mut server = serve().await;
    let beats = json!([
        {"fleet": "etl", "executor": 1, "metrics": {"runTime": 1.5, "JVMHeapMemory": 7, "secret": 1}},
        {"applicationId": "spark-1", "executor": 2, "uid": "etl-2"},
        {"fleet": "etl", "executor": 2, "uid": "etl-2-before"},
        {"fleet": "ml", "executor": 1},
        {"fleet": "etl", "executor": 3},
        {"fleet": "unknown", "executor": 1},
        {"executor": 1},
        {"fleet": "etl", "applicationId": "spark-1", "executor": 1},
    ]);
    let (status, answer) = server.post("t1", beats).await;
    let rejected = json!([
        {"index": 2, "reason": "wrong-peer"},
        {"index": 3, "reason": "unauthorized"},
        {"index": 4, "reason": "unknown-executor"},
        {"index": 5, "reason": "unknown-application"},
        {"index": 6, "reason": "malformed"},
        {"index": 7, "reason": "malformed"},
    ]);
    assert_eq!((status, answer), (200, json!({"accepted": 2, "rejected": rejected})));
    let metrics = vec![("JVMHeapMemory".into(), 7.0), ("runTime".into(), 1.5)];
    let first = Beat { executor: ExecutorId(1), uid: None, metrics };
    assert_eq!(server.signs.try_recv(), Ok(Sign::Beat { life: 1, beat: first }));
    let second = Beat { executor: ExecutorId(2), uid: Some(Uid::from("etl-2")), metrics: Vec::new() };
    assert_eq!(server.signs.try_recv(), Ok(Sign::Beat { life: 1, beat: second }));
    assert!(server.signs.try_recv().is_err());
    assert_eq!((server.count(Fate::Accepted), server.count(Fate::Malformed)), (2, 2));
    assert_eq!(server.kubernetes.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_host_that_stands_by_sends_callers_elsewhere() {
    let server = serve().await;
    server.intake.directory.close();
    for token in ["t1", "wrong"] {
        let (status, answer) = server.post(token, json!([{"fleet": "etl", "executor": 1}])).await;
        assert_eq!(
            (status, answer["error"]["message"].as_str().unwrap().contains("stands by")),
            (503, true),
            "{answer}"
        );
    }
    assert_eq!((server.count(Fate::StandingBy), server.count(Fate::Accepted)), (2, 0));
}

#[tokio::test]
async fn a_pods_token_speaks_for_its_own_executor_only() {
    let mut server = serve().await;
    let own = json!([{"fleet": "etl", "executor": 1}]);
    assert_eq!(
        server.post("pod.etl-1.sig", own.clone()).await,
        (200, json!({"accepted": 1, "rejected": []}))
    );
    let Ok(Sign::Beat { beat, .. }) = server.signs.try_recv() else { panic!("no beat") };
    assert_eq!(beat.uid, Some(Uid::from("etl-1")));
    let absent = json!([{"fleet": "etl", "executor": 9}]);
    assert_eq!(server.post("pod.etl-1.sig", absent).await.0, 401, "it is not worth a review");
    for foreign in [json!({"fleet": "etl", "executor": 2}), json!({"fleet": "ml", "executor": 1})] {
        let (status, answer) = server.post("pod.etl-1.sig", json!([foreign])).await;
        assert_eq!((status, &answer["rejected"][0]["reason"]), (403, &json!("wrong-peer")));
        assert_eq!((&answer["error"]["code"], &answer["accepted"]), (&json!("forbidden"), &json!(0)));
    }
    let claims = json!([{"fleet": "etl", "executor": 1, "uid": "etl-2"}]);
    assert_eq!(server.post("pod.etl-1.sig", claims).await.0, 403);
    assert_eq!(server.kubernetes.asked.load(Ordering::Relaxed), 1, "it is remembered");
    // The executor has a new pod: messages of its predecessor are replayed or late.
    let uid = Uid::from("etl-1b");
    server.intake.directory.set_executor(
        "etl",
        ExecutorId(1),
        ExecutorEntry { uid, pod_ip: None, runs: true },
    );
    assert_eq!(server.post("pod.etl-1.sig", own).await.0, 403);
    assert!(server.signs.try_recv().is_err());
}

#[tokio::test]
async fn without_a_good_token_nothing_is_learnt() {
    let mut server = serve().await;
    let known = json!({"beats": [{"fleet": "etl", "executor": 1}]}).to_string();
    let unknown = json!({"beats": [{"fleet": "unknown", "executor": 1}]}).to_string();
    let mut answers = Vec::new();
    let long = format!("Bearer {}", "x".repeat(TOKEN_MAX + 1));
    for token in ["", "Bearer", "Bearer ", "Basic t1", "t1", "Bearer t", "Bearer t10", "Bearer a.b.c", &*long]
    {
        for body in [&known, &unknown] {
            let (status, answer) = server.raw(token, body.as_bytes()).await;
            assert_eq!(status, 401, "{token}");
            answers.push(answer);
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(server.kubernetes.asked.load(Ordering::Relaxed), 1, "only what looks like a token");
    assert!(server.signs.try_recv().is_err());
    assert_eq!(server.post("pod.down.sig", json!([{"fleet": "etl", "executor": 1}])).await.0, 503);
}

#[tokio::test]
async fn what_is_not_understood_is_named() {
    let server = serve().await;
    let many = json!({"beats": vec![json!({"fleet": "etl", "executor": 1}); BEATS_MAX + 1]}).to_string();
    for (body, says) in [
        ("", "EOF while parsing a value at line 1"),
        ("[]", "invalid length 0"),
        (r#"{"beats": []}"#, "beats: there are 0"),
        (&*many, "beats: there are 101; send 1 to 100"),
        (r#"{"beats": [{"fleet": "etl", "executor": 1, "exec": 2}]}"#, "unknown field `exec`"),
        (r#"{"beats": [], "token": "t1"}"#, "unknown field `token`"),
        (r#"{"beats": [{"fleet": "etl", "executor": -1}]}"#, "invalid value: integer `-1`"),
        (r#"{"beats": [{"fleet": "etl", "executor": "1"}]}"#, "invalid type: string"),
        (r#"{"beats": [{"fleet": "etl", "executor": 1, "metrics": {"a": null}}]}"#, "invalid type: null"),
        (r#"{"beats": [{"fleet": "etl", "executor": 1, "metrics": {"a": 1e999}}]}"#, "number out of range"),
        (&*"[".repeat(10_000), "at line 1 column"),
    ] {
        let (status, answer) = server.raw("Bearer t1", body).await;
        let error = answer["error"]["message"].as_str().unwrap();
        assert_eq!(answer["error"]["code"], "malformed", "{answer}");
        assert!(status == 422 && error.contains(says), "{status} {error}");
    }
    let (status, answer) = server.raw("Bearer t1", vec![b' '; BODY_MAX + 1]).await;
    assert_eq!((status, &answer["error"]["code"]), (413, &json!("too-large")), "{answer}");
    let (status, _) = server.post("t1", json!([{"fleet": "etl", "executor": 4_294_967_297_u64}])).await;
    assert_eq!(status, 422, "no executor has this id");
    assert_eq!((server.count(Fate::Oversized), server.count(Fate::Accepted)), (1, 0));
}

#[tokio::test]
async fn a_daemon_that_ends_says_so() {
    let mut server = serve().await;
    server.signs = intake().1;
    let beats = json!([{"fleet": "etl", "executor": 1}, {"fleet": "etl", "executor": 2}]);
    assert_eq!(server.post("t1", beats).await.0, 429);
    assert_eq!(server.count(Fate::Dropped), 2);
}

#[tokio::test]
async fn bodies_that_never_end_keep_no_beat_out() {
    let server = serve().await;
    // With a token that may be valid, and with one that is.
    let stick = async |token: &str| {
        let mut connection = TcpStream::connect(&server.at).await.unwrap();
        let head = format!(
            "POST /v1/heartbeats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 9\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        connection
    };
    let mut stuck = Vec::new();
    for number in 0..300 {
        stuck.push(stick(if number % 3 == 0 { "t2" } else { "a.b.c" }).await);
    }
    for _ in 0..50 {
        assert_eq!(server.post("t1", json!([{"fleet": "etl", "executor": 1}])).await.0, 200);
        assert_eq!(server.post("pod.etl-2.sig", json!([{"fleet": "etl", "executor": 2}])).await.0, 200);
    }
    assert_eq!(server.count(Fate::RateLimited), 0);
    let mut last = stick("a.b.c").await;
    last.write_all(b"{\"beats\":").await.unwrap();
    let mut answer = [0; 12];
    last.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 422", "it was waited for");
}

#[tokio::test]
async fn who_has_no_good_token_sends_little() {
    let server = serve().await;
    let body = vec![b' '; OTHERS_BODY_MAX + 1];
    assert_eq!(server.raw("Bearer a.b.c", &*body).await.0, 413);
    assert_eq!(server.raw("Bearer t1", &*body).await.0, 422, "it is read");
    assert_eq!(server.raw("Bearer bogus", &*body).await.0, 401, "it is not even looked at");
}

#[tokio::test]
async fn fleets_are_told_of_what_may_have_been_theirs() {
    let mut server = serve().await;
    let beats = json!([{"fleet": "etl", "executor": 1}, {"fleet": "etl", "executor": 2}]);
    let mut told = async |beats: &Value| {
        assert_eq!(server.post("pod.down.sig", beats.clone()).await.0, 503);
        std::iter::from_fn(|| server.signs.try_recv().ok()).collect::<Vec<_>>()
    };
    let impaired = |life| Sign::Impaired { life, why: Impairment::Refused };
    assert_eq!(told(&beats).await, [impaired(1)], "any address may send heartbeats for it");
}

#[tokio::test]
async fn a_pod_does_not_excuse_the_silence_of_a_fleet_that_is_not_its_own() {
    let mut server = serve().await;
    let directory = Arc::clone(&server.intake.directory);
    let here = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
    let own = ExecutorEntry { uid: Uid::from("ml-1"), pod_ip: here, runs: true };
    directory.set_executor("ml", ExecutorId(1), own);
    let etl = json!([{"fleet": "etl", "executor": 1}]);
    assert_eq!(server.post("pod.down.sig", etl.clone()).await.0, 503);
    assert!(server.signs.try_recv().is_err(), "it is a pod of ml");
    let both = json!([{"fleet": "etl", "executor": 1}, {"fleet": "ml", "executor": 1}]);
    assert_eq!(server.post("pod.down.sig", both).await.0, 503);
    assert_eq!(server.signs.try_recv(), Ok(Sign::Impaired { life: 2, why: Impairment::Refused }));
    assert!(server.signs.try_recv().is_err());
    server.intake.turned_away(Ipv4Addr::LOCALHOST.into());
    // One a second, and the last one is not lost.
    let told = timeout(Duration::from_secs(5), server.signs.recv()).await;
    assert_eq!(told, Ok(Some(Sign::Impaired { life: 2, why: Impairment::Refused })));
}

/// The driver in another namespace has the same label, and either an executor with the same id or none.
#[tokio::test]
async fn one_application_id_in_two_namespaces_is_told_apart_by_the_token() {
    let mut server = serve().await;
    let directory = Arc::clone(&server.intake.directory);
    let token = Some(Secret::new("t3"));
    let application_id = "spark-1".to_owned();
    let claim = Claim { documented: true, ..Claim::default() };
    let entry = FleetEntry {
        life: 3,
        pods_namespace: "theirs".to_owned(),
        application_id,
        token,
        claim,
        check_peer: true,
        ..FleetEntry::default()
    };
    directory.set_fleet("a-thief", entry).unwrap();
    let beats = json!([{"applicationId": "spark-1", "executor": 1}]);
    for theirs in [false, true] {
        if theirs {
            let pod = ExecutorEntry { uid: Uid::from("thief-1"), pod_ip: None, runs: true };
            directory.set_executor("a-thief", ExecutorId(1), pod);
        }
        for (token, life, status) in [
            ("t1", 1, 200),
            ("pod.etl-1.sig", 1, 200),
            ("pod.thief-1.sig", 3, if theirs { 200 } else { 403 }),
        ] {
            assert_eq!(server.post(token, beats.clone()).await.0, status, "{token} {theirs}");
            let whose = server.signs.try_recv().ok().map(|sign| match sign {
                Sign::Beat { life, .. } | Sign::Driver { life, .. } | Sign::Impaired { life, .. } => life,
            });
            assert_eq!(whose, (status == 200).then_some(life), "{token} {theirs}");
        }
    }
}
