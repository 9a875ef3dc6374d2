//! Every endpoint, through a real socket.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::fake::{Daemon, TOKEN};
use super::{BODY_MAX, Settings, probes};
use crate::handle::Handle;

mod authority;
mod bounds;
mod events;
mod fuzz;

async fn get_from(daemon: &Daemon, path: &str) -> Response {
    client().get(daemon.url(path)).send().await.unwrap()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn read(daemon: &Daemon, path: &str) -> Value {
    let response = get_from(daemon, path).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    response.json().await.unwrap()
}

/// Status and body of a command with the valid token.
async fn command(daemon: &Daemon, path: &str, body: &Value) -> (u16, Value) {
    let request = client().post(daemon.url(path)).bearer_auth(TOKEN).json(body);
    take_apart(request.send().await.unwrap()).await
}

async fn take_apart(response: Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

fn code(body: &Value) -> &str {
    body["error"]["code"].as_str().unwrap()
}

/// Lets time pass without doing anything else.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn fleets_and_executors_are_shown() {
    let daemon = Daemon::start().await;
    let fleet = read(&daemon, "/v1/fleets/etl").await;
    assert_eq!(
        fleet,
        json!({
            "fleet": "etl", "namespace": "jobs", "mode": "own", "phase": "active", "target": 3,
            "counts": {
                "created": 3, "live": 3, "available": 3, "pending": 0, "rolling": 0, "terminating": 0,
                "reasonPending": 0, "lost": {}, "removed": {},
            },
            "refusals": {"no-ids": 1}, "conditions": [], "applicationId": null, "problems": [],
        })
    );
    assert_eq!(read(&daemon, "/v1/fleets").await, json!({"fleets": [fleet]}));
    let executors = read(&daemon, "/v1/fleets/etl/executors").await;
    assert_eq!(executors["fleet"], "etl");
    assert_eq!(executors["executors"].as_array().unwrap().len(), 3);
    let first = &executors["executors"][0];
    assert_eq!((&first["executor"], &first["pod"]), (&json!(1), &json!("etl-exec-1")));
    assert_eq!((&first["node"], &first["stage"]), (&json!("node-1"), &json!("available")));
    assert!(first["sinceHeartbeatMs"].is_u64(), "{first}");
}

#[tokio::test]
async fn an_executor_is_explained_even_when_it_is_gone() {
    let daemon = Daemon::start().await;
    let explained = read(&daemon, "/v1/fleets/etl/executors/2").await;
    assert_eq!((&explained["executor"], &explained["stage"]), (&json!(2), &json!("available")));
    assert_eq!(explained["notRolled"]["code"], "not-picked");
    assert!(explained["notRolled"]["message"].is_string());
    let (status, _) =
        command(&daemon, "/v1/fleets/etl/kill", &json!({"executors": [2], "replace": true})).await;
    assert_eq!(status, 200);
    let explained = read(&daemon, "/v1/fleets/etl/executors/2").await;
    assert_eq!(explained["stage"], Value::Null, "{explained}");
    let entry = &explained["history"][0];
    assert!(entry["atMs"].is_i64() && entry["text"].is_string(), "{explained}");
    let (status, body) = take_apart(get_from(&daemon, "/v1/fleets/etl/executors/99").await).await;
    assert_eq!((status, code(&body)), (404, "unknown-executor"));
    let (status, body) = take_apart(get_from(&daemon, "/v1/fleets/etl/executors/x").await).await;
    assert_eq!((status, code(&body)), (400, "malformed"));
}

#[tokio::test]
async fn what_is_not_there_is_said_in_json() {
    let daemon = Daemon::start().await;
    for path in ["/v1/fleets/web", "/v1/fleets/web/executors", "/v1/fleets/web/executors/1"] {
        let (status, body) = take_apart(get_from(&daemon, path).await).await;
        assert_eq!((status, code(&body)), (404, "unknown-fleet"), "{path}");
    }
    for verb in ["roll", "pause", "resume", "reset-breaker", "reset-ledger"] {
        let (status, body) = command(&daemon, &format!("/v1/fleets/web/{verb}"), &json!({})).await;
        assert_eq!((status, code(&body)), (404, "unknown-fleet"), "{verb}");
    }
    let (status, body) = command(&daemon, "/v1/fleets/early/roll", &json!({})).await;
    assert_eq!((status, code(&body)), (409, "no-driver"));
    let message = "the fleet has no driver yet: there is no pod early-driver in namespace jobs";
    assert_eq!(body["error"]["message"], message);
    let (status, body) = take_apart(get_from(&daemon, "/v2").await).await;
    assert_eq!((status, code(&body)), (404, "unknown-path"));
    let response = get_from(&daemon, "/v1/fleets/etl/pause").await;
    assert_eq!(response.headers()["allow"], "POST");
    let (status, body) = take_apart(response).await;
    assert_eq!((status, code(&body)), (405, "wrong-method"));
}

#[tokio::test]
async fn commands_are_obeyed() {
    let daemon = Daemon::start().await;
    let nothing = json!({"executors": []});
    assert_eq!(
        command(&daemon, "/v1/fleets/etl/scale", &json!({"executors": 4})).await,
        (200, nothing.clone())
    );
    assert_eq!(read(&daemon, "/v1/fleets/etl").await["counts"]["available"], 4);
    let kill = json!({"executors": [1, 77], "replace": true, "force": true});
    let (status, body) = command(&daemon, "/v1/fleets/etl/kill", &kill).await;
    assert_eq!((status, &body["executors"][0]), (200, &json!({"executor": 1, "refused": null})));
    assert_eq!(body["executors"][1]["refused"]["code"], "unknown-executor");
    assert_eq!(read(&daemon, "/v1/fleets/etl").await["counts"]["removed"], json!({"kill": 1}));
    assert_eq!(
        command(&daemon, "/v1/fleets/etl/roll", &json!({"executor": 2})).await,
        (200, nothing.clone())
    );
    assert_eq!(command(&daemon, "/v1/fleets/etl/roll", &json!({})).await, (200, nothing.clone()));
    assert_eq!(command(&daemon, "/v1/fleets/etl/pause", &json!({})).await, (200, nothing.clone()));
    let paused = read(&daemon, "/v1/fleets/etl").await;
    assert_eq!(paused["conditions"][0]["type"], "Paused");
    assert_eq!(command(&daemon, "/v1/fleets/etl/resume", &json!({})).await, (200, nothing.clone()));
    assert_eq!(read(&daemon, "/v1/fleets/etl").await["conditions"], json!([]));
    assert_eq!(command(&daemon, "/v1/fleets/etl/reset-breaker", &json!({})).await, (200, nothing));
}

#[tokio::test]
async fn a_refusal_is_a_conflict_with_its_code_and_words() {
    let daemon = Daemon::start().await;
    let (status, body) = command(&daemon, "/v1/fleets/etl/roll", &json!({"executor": 99})).await;
    assert_eq!(
        (status, body),
        (409, json!({"error": {"code": "unknown-executor", "message": "there is no such executor"}}))
    );
    let (status, body) = command(&daemon, "/v1/fleets/etl/kill", &json!({"executors": [98, 99]})).await;
    assert_eq!((status, code(&body)), (409, "unknown-executor"));
    assert_eq!(body["executors"][1]["executor"], 99, "each of them is listed: {body}");
    let (status, body) = command(&daemon, "/v1/fleets/etl/scale", &json!({"executors": 10_001})).await;
    assert_eq!((status, code(&body)), (409, "above-maximum"));
    let (status, body) = command(&daemon, "/v1/fleets/etl/reset-ledger", &json!({})).await;
    assert_eq!((status, code(&body)), (409, "ledger-in-order"));
    command(&daemon, "/v1/fleets/etl/pause", &json!({})).await;
    let (status, body) = command(&daemon, "/v1/fleets/etl/kill", &json!({"executors": [1]})).await;
    assert_eq!((status, code(&body)), (409, "paused"));
    let refusals = read(&daemon, "/v1/fleets/etl").await["refusals"].clone();
    assert_eq!(refusals["paused"], 1, "{refusals}");
}

#[tokio::test]
async fn commands_need_the_token_and_reading_does_not() {
    let daemon = Daemon::start().await;
    let pause = || client().post(daemon.url("/v1/fleets/etl/pause")).json(&json!({}));
    let response = pause().send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let (status, body) = take_apart(response).await;
    assert_eq!((status, code(&body)), (401, "no-token"));
    for wrong in ["Bearer open", "Bearer open-sesamf", "Bearer open-sesame2", "Bearer open-sesame, x"] {
        let (status, body) = take_apart(pause().header(AUTHORIZATION, wrong).send().await.unwrap()).await;
        assert_eq!((status, code(&body)), (401, "wrong-token"), "{wrong:?}");
    }
    let (status, body) =
        take_apart(pause().header(AUTHORIZATION, "Basic open-sesame").send().await.unwrap()).await;
    assert_eq!((status, code(&body)), (401, "no-token"));
    let (status, _) =
        take_apart(pause().header(AUTHORIZATION, "bearer open-sesame").send().await.unwrap()).await;
    assert_eq!(status, 200, "the scheme's case does not matter");
    for path in [
        "/v1/fleets/etl/roll",
        "/v1/fleets/etl/kill",
        "/v1/fleets/etl/scale",
        "/v1/fleets/etl/resume",
        "/v1/fleets/etl/reset-breaker",
        "/v1/fleets/etl/reset-ledger",
    ] {
        let response = client().post(daemon.url(path)).json(&json!({})).send().await.unwrap();
        assert_eq!(response.status(), 401, "{path}");
    }
}

#[tokio::test]
async fn without_a_token_there_are_no_commands() {
    for token in [None, Some(String::new())] {
        let daemon = Daemon::start_with(Settings { token, ..Settings::default() }).await;
        for given in ["", "x"] {
            let request =
                client().post(daemon.url("/v1/fleets/etl/pause")).bearer_auth(given).json(&json!({}));
            let (status, body) = take_apart(request.send().await.unwrap()).await;
            assert_eq!((status, code(&body)), (403, "commands-disabled"));
            assert!(body["error"]["message"].as_str().unwrap().contains("--token-file"), "{body}");
        }
        assert_eq!(read(&daemon, "/v1/fleets/etl").await["conditions"], json!([]));
    }
}

#[tokio::test]
async fn a_body_is_small_json_with_known_fields() {
    let daemon = Daemon::start().await;
    let post = |path: &str, content_type: Option<&str>, body: String| {
        let request = client().post(daemon.url(path)).bearer_auth(TOKEN).body(body);
        let request =
            content_type.into_iter().fold(request, |request, kind| request.header(CONTENT_TYPE, kind));
        async move { take_apart(request.send().await.unwrap()).await }
    };
    let json = Some("application/json");
    for kind in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/form-data")]
    {
        let (status, body) = post("/v1/fleets/etl/pause", kind, "{}".to_owned()).await;
        assert_eq!((status, code(&body)), (415, "wrong-content-type"), "{kind:?}");
    }
    for (path, text, expected) in [
        ("pause", "", (400, "malformed")),
        ("pause", "{", (400, "malformed")),
        ("pause", r#"{"for": "ever"}"#, (422, "wrong-fields")),
        ("roll", r#"{"executors": [1]}"#, (422, "wrong-fields")),
        ("roll", r#"{"executor": "1"}"#, (422, "wrong-fields")),
        ("kill", r#"{"executors": []}"#, (422, "wrong-fields")),
        ("kill", r#"{"executors": [1], "forse": true}"#, (422, "wrong-fields")),
        ("kill", "{}", (422, "wrong-fields")),
        ("scale", r#"{"executors": -1}"#, (422, "wrong-fields")),
        ("scale", r#"{"executors": 1e99}"#, (422, "wrong-fields")),
    ] {
        let (status, body) = post(&format!("/v1/fleets/etl/{path}"), json, text.to_owned()).await;
        assert_eq!((status, code(&body)), expected, "{path} {text}: {body}");
    }
    let (_, body) =
        post("/v1/fleets/etl/kill", json, r#"{"executors": [1], "forse": true}"#.to_owned()).await;
    assert!(body["error"]["message"].as_str().unwrap().contains("forse"), "it names the place: {body}");
    let spaces = |count| format!("{{{}}}", " ".repeat(count - 2));
    let (status, _) = post("/v1/fleets/etl/pause", json, spaces(BODY_MAX)).await;
    assert_eq!(status, 200, "as large as may be");
    let (status, body) = post("/v1/fleets/etl/pause", json, spaces(BODY_MAX + 1)).await;
    assert_eq!((status, code(&body)), (413, "too-large"));
}

#[tokio::test]
async fn every_answer_is_hardened() {
    let extra = Router::new()
        .route("/page", get(|| async { ([("content-security-policy", "default-src 'self'")], "") }));
    let daemon = Daemon::start_with(Settings { extra, ..Settings::default() }).await;
    for path in ["/livez", "/metrics", "/v1/fleets", "/v1/events", "/nowhere", "/v1/fleets/web", "/page"] {
        let response = get_from(&daemon, path).await;
        let header = |name| response.headers()[name].to_str().unwrap();
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("cache-control"), "no-store", "{path}");
        let policy =
            if path == "/page" { "default-src 'self'" } else { "default-src 'none'; frame-ancestors 'none'" };
        assert_eq!(header("content-security-policy"), policy, "{path}");
    }
    let response = client().post(daemon.url("/v1/fleets/etl/pause")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-content-type-options"]),
        (403, &"nosniff".parse().unwrap())
    );
}

#[tokio::test]
async fn livez_fails_when_the_loop_stands_still() {
    let daemon = Daemon::start().await;
    for path in ["/livez", "/healthz"] {
        assert_eq!(get_from(&daemon, path).await.status(), StatusCode::OK);
    }
    pass(Duration::from_millis(probes::STILL_MAX_MS + 1_000)).await;
    for path in ["/livez", "/healthz"] {
        let response = get_from(&daemon, path).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = response.text().await.unwrap();
        assert!(body.contains("since 20") && body.contains("for 11 s"), "{body}");
    }
    read(&daemon, "/v1/fleets").await;
    assert_eq!(get_from(&daemon, "/livez").await.status(), StatusCode::OK, "it came round again");
}

#[tokio::test]
async fn ready_is_who_leads_and_has_seen_its_cluster() {
    let (handle, _requests) = Handle::new(1, 1);
    let daemon = Daemon::serve(handle, Settings::default()).await;
    let ready = async || {
        let response = get_from(&daemon, "/readyz").await;
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let pulse = daemon.handle.pulse();
    assert_eq!(
        ready().await,
        (503, "this host stands by and cannot forward: the leader is unknown\n".to_owned())
    );
    pulse.stand_by(Some("rollcall-1_0"));
    let alone = (503, "this host stands by and cannot forward: rollcall-1_0 leads\n".to_owned());
    assert_eq!(ready().await, alone);
    pulse.forward_to(None);
    assert_eq!(ready().await, alone, "it never could");
    pulse.forward_to(Some("10.0.0.7:2004".parse().unwrap()));
    let forwards = "ok: this host stands by and forwards to 10.0.0.7:2004: rollcall-1_0 leads\n";
    assert_eq!(ready().await, (200, forwards.to_owned()));
    pulse.forward_to(None);
    let until = "ok: this host stands by, and could forward until 0 s ago: rollcall-1_0 leads\n";
    assert_eq!(ready().await, (200, until.to_owned()), "another host may be about to lead");
    pass(probes::FAILOVER_MAX + Duration::from_millis(1_500)).await;
    pulse.advance();
    assert_eq!(ready().await, alone);
    pulse.lead();
    assert_eq!(ready().await, (503, "no fleet has seen its cluster yet\n".to_owned()));
    pulse.set_synced();
    assert_eq!(ready().await, (200, "ok: this host leads\n".to_owned()));
    pulse.stand_by(None);
    assert_eq!(ready().await.0, 503, "it does not lead any more");
    assert_eq!(get_from(&daemon, "/livez").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn metrics_are_a_scrape() {
    let daemon = Daemon::start().await;
    command(&daemon, "/v1/fleets/etl/kill", &json!({"executors": [1, 99], "replace": true})).await;
    daemon.metrics.step("heartbeat", 0.001);
    let response = get_from(&daemon, "/metrics").await;
    assert!(response.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = response.text().await.unwrap();
    let known = [
        "namespace",
        "fleet",
        "kind",
        "cause",
        "reason",
        "type",
        "event",
        "verb",
        "outcome",
        "policy",
        "result",
        "source",
        "code",
        "method",
        "host",
        "controller",
        "name",
        "le",
    ];
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let keyword = comment.split(' ').next().unwrap();
            assert!(["HELP", "TYPE", "UNIT", "EOF"].contains(&keyword), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
        for label in labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty()) {
            let (label, value) = label.split_once('=').unwrap();
            assert!(known.contains(&label), "{line}");
            assert!(
                !value.contains("exec-") && !value.contains("node-1"),
                "pods and nodes are no labels: {line}"
            );
        }
    }
    for line in [
        "rollcall_fleet_target{namespace=\"jobs\",fleet=\"etl\"} 3",
        "rollcall_fleet_available{namespace=\"jobs\",fleet=\"etl\"} 3",
        "rollcall_fleet_executors_created_total{namespace=\"jobs\",fleet=\"etl\"} 4",
        "rollcall_fleet_executors_removed_total{namespace=\"jobs\",fleet=\"etl\",cause=\"kill\"} 1",
        "rollcall_fleet_refusals_total{namespace=\"jobs\",fleet=\"etl\",reason=\"unknown-executor\"} 1",
        "rollcall_fleet_condition{namespace=\"jobs\",fleet=\"etl\",type=\"Paused\"} 0",
        "leader_election_master_status{name=\"rollcall\"} 1",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn no_answer_holds_the_token() {
    let daemon = Daemon::start().await;
    let (_, refused) = command(&daemon, "/v1/fleets/etl/roll", &json!({"executor": 99})).await;
    let (_, malformed) = command(&daemon, "/v1/fleets/etl/roll", &json!({"executor": "x"})).await;
    let wrong = client().post(daemon.url("/v1/fleets/etl/pause")).bearer_auth("x").send().await.unwrap();
    let mut all = refused.to_string() + &malformed.to_string() + &wrong.text().await.unwrap();
    for path in ["/livez", "/readyz", "/metrics", "/v1/fleets", "/v1/fleets/etl/executors", "/nowhere"] {
        all += &get_from(&daemon, path).await.text().await.unwrap();
    }
    assert!(!all.contains(TOKEN), "{all}");
}
