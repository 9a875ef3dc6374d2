//! The binary as users run it: killed, stopped, commanded, with changed documents and policies.

use std::process::Output;
use std::time::Duration;

use embedded::Chaos;
use embedded::server::Verdict;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::real::{Process, Town, rollcall};
use super::support::{FLEET, NAMESPACE};
use crate::support::{answer, guest, roll_policy, root};

const TARGET: u32 = 6;
/// The image in the documents of `support`.
const IMAGE: &str = "apache/spark:4.3.0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_times_kill_9_and_nothing_is_lost_or_doubled() {
    let town = Town::start(1, Chaos::Heavy, TARGET).await;
    let mut dice = ChaCha8Rng::seed_from_u64(1);
    let mut listened = 0;
    for life in 1..=50 {
        let mut process = Process::start(&town);
        sleep(Duration::from_millis(dice.random_range(200..2_500))).await;
        assert!(!process.has_ended(), "life {life} ended by itself: {}", process.log().join("\n"));
        listened += u32::from(process.log().iter().any(|line| line.contains("listening")));
        process.kill();
    }
    assert!(listened >= 25, "only {listened} of 50 lived long enough to do something");
    town.world.heal();
    let process = Process::start(&town);
    // Many silent executors are found at once, and are not declared lost before a minute is over (`restarts`).
    town.at_rest(&process, TARGET as usize, 150).await;
    let (fleet, truth) = (town.fleet(&process).await.expect("an answer"), town.world.truth());
    assert_eq!(fleet["counts"]["created"], truth.created, "{fleet} {truth:?}");
    assert!(truth.created > u64::from(TARGET), "there was something to do: {truth:?}");
    assert_eq!(truth.ids_reused, 0);
    assert_eq!(town.world.wrong(), Vec::<String>::new());
    let (code, took) = process.terminate().await;
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// One daemon whose fleet is at strength.
async fn well(seed: u64) -> (Town, Process) {
    let town = Town::start(seed, Chaos::None, TARGET).await;
    let process = Process::start(&town);
    process.listens().await;
    town.at_rest(&process, TARGET as usize, 60).await;
    (town, process)
}

/// Exit code, standard output, standard error.
fn said(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A Service routes heartbeats to ready pods: to the leader alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_cannot_forward_is_not_ready_and_takes_no_heartbeats() {
    let town = Town::start(6, Chaos::None, TARGET).await;
    let first = Process::replica(&town);
    first.listens().await;
    town.at_rest(&first, TARGET as usize, 60).await;
    let ready = async |process: &Process| town.get(process, "/readyz").await.expect("it answers");
    assert_eq!(ready(&first).await, (200, "ok: this host leads\n".to_owned()));
    let second = Process::replica(&town);
    second.listens().await;
    let (begun, mut said) = (Instant::now(), ready(&second).await);
    while !said.1.ends_with(" leads\n") && begun.elapsed().as_secs() < 10 {
        sleep(Duration::from_millis(50)).await;
        said = ready(&second).await;
    }
    assert!(said.0 == 503 && said.1.starts_with("this host stands by and cannot forward: "), "{said:?}");
    assert_eq!(town.get(&second, "/livez").await.map(|(code, _)| code), Some(200));
    let metrics = async |process: &Process| town.get(process, "/metrics").await.expect("it answers").1;
    // Executors report to the daemon that was started last.
    let turned_away = "rollcall_heartbeats_total{source=\"graphite\",result=\"standing-by\"}";
    let begun = Instant::now();
    loop {
        let text = metrics(&second).await;
        let count = text.lines().find_map(|line| line.strip_prefix(turned_away));
        if count.and_then(|count| count.trim().parse::<u64>().ok()) > Some(0) {
            assert_eq!(text.matches("rollcall_heartbeats_total{source=\"graphite\"").count(), 1, "{text}");
            break;
        }
        assert!(begun.elapsed().as_secs() < 10, "no heartbeat was refused: {text}");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(first.terminate().await.0, Some(0));
    town.at_rest(&second, TARGET as usize, 60).await;
    assert_eq!(ready(&second).await, (200, "ok: this host leads\n".to_owned()));
    assert_eq!(town.world.wrong(), Vec::<String>::new());
}

/// A fleet whose namespace may not be read does not block the heartbeats of other fleets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fleet_that_sees_nothing_does_not_make_the_daemon_unready() {
    let town = Town::start(7, Chaos::None, TARGET).await;
    town.world.server.set_interceptor(Some(Box::new(|parts| {
        if !parts.uri.path().contains("/namespaces/forbidden/") {
            return Verdict::Pass;
        }
        Verdict::Respond { status: 403, retry_after: None, message: "no right".to_owned() }
    })));
    let other = std::fs::read_to_string(town.dir.join("fleet.json")).expect("a document");
    let mut other: Value = serde_json::from_str(&other).expect("JSON");
    other["metadata"] = json!({ "name": "blind", "namespace": "forbidden" });
    std::fs::write(town.dir.join("other.json"), other.to_string()).expect("a file");
    let process = Process::with(&town, &["--no-leader-election", "-f", "other.json"]);
    process.listens().await;
    let begun = Instant::now();
    loop {
        let said = town.get(&process, "/readyz").await.expect("it answers");
        if said.0 == 200 {
            break;
        }
        assert!(begun.elapsed().as_secs() < 10, "{said:?}: {}", process.log().join("\n"));
        sleep(Duration::from_millis(100)).await;
    }
    process.logs(0, &["the fleet has to wait", "blind"]).await;
    // A command returns what the fleet waits for.
    let server = format!("--server=http://{}", process.listens().await);
    let (code, _, error) = said(rollcall(&town.dir, &["roll", "blind", "--token-file=token", &server]));
    assert_eq!((code, error.contains("the fleet has no driver yet: driver pod")), (Some(1), true), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_answered_and_obeyed() {
    let (town, process) = well(2).await;
    let server = format!("--server=http://{}", process.listens().await);
    let ask = |args: &[&str]| said(rollcall(&town.dir, &[args, &[&server]].concat()));
    let command = |args: &[&str]| ask(&[args, &["--token-file=token"]].concat());

    let (code, table, _) = ask(&["status"]);
    assert_eq!(code, Some(0));
    assert!(table.starts_with("NAMESPACE") && table.contains(FLEET) && table.contains("active"), "{table}");
    let (code, one, _) = ask(&["status", FLEET]);
    assert_eq!(code, Some(0));
    assert_eq!(one.lines().filter(|line| line.contains("available")).count(), TARGET as usize, "{one}");
    let (code, text, _) = ask(&["status", FLEET, "--output=json"]);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &json["counts"]["available"]), (Some(0), &json!(TARGET)));
    let (code, text, _) = ask(&["explain", FLEET, "1"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("available"), "{text}");

    // No token, a wrong token; no such executor; no such fleet.
    assert_eq!(ask(&["pause", FLEET]).0, Some(2));
    std::fs::write(town.dir.join("wrong"), "wrong").expect("a file");
    let (code, _, error) = ask(&["pause", FLEET, "--token-file=wrong"]);
    assert_eq!((code, error.contains("token")), (Some(2), true), "{error}");
    assert_eq!(said(rollcall(&town.dir, &["status", "--server=http://127.0.0.1:9"])).0, Some(2));
    assert_eq!(ask(&["status", "unknown"]).0, Some(1));
    assert_eq!(command(&["pause", "unknown"]).0, Some(1));

    assert_eq!(command(&["pause", FLEET]), (Some(0), format!("{FLEET}: paused\n"), String::new()));
    let paused = |fleet: &Value| fleet["conditions"].to_string().contains("Paused");
    town.until(&process, 10, "paused", |fleet, _| paused(fleet)).await;
    let (code, _, error) = command(&["roll", FLEET, "1"]);
    assert_eq!((code, error.contains("paused")), (Some(1), true), "{error}");
    assert_eq!(command(&["resume", FLEET]).0, Some(0));
    town.until(&process, 10, "resumed", |fleet, _| !paused(fleet)).await;

    let (code, text, error) = command(&["roll", FLEET, "1"]);
    assert_eq!(code, Some(0), "{text}{error}");
    town.until(&process, 60, "rolled", |fleet, _| fleet["counts"]["removed"]["roll"] == 1).await;
    town.at_rest(&process, TARGET as usize, 30).await;
    let (code, text, _) = ask(&["explain", FLEET, "1"]);
    assert!(code == Some(0) && text.contains("gone"), "{text}");

    let (code, text, error) = command(&["kill", FLEET, "2", "--force", "--replace"]);
    assert_eq!(code, Some(0), "{text}{error}");
    town.until(&process, 30, "killed", |_, truth| truth.created == u64::from(TARGET) + 2).await;
    town.at_rest(&process, TARGET as usize, 30).await;
    let (code, text, _) = command(&["kill", FLEET, "2", "--force"]);
    assert_eq!(code, Some(1), "it is not there any more: {text}");
    assert_eq!(command(&["kill", FLEET, "3", "--force"]).0, Some(0));
    town.at_rest(&process, TARGET as usize - 1, 30).await;
    assert_eq!(command(&["scale", FLEET, "7"]).0, Some(0));
    town.at_rest(&process, 7, 30).await;
    assert_eq!(town.world.wrong(), Vec::<String>::new());
    assert_eq!(process.terminate().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_followed_and_broken_ones_are_not() {
    let (town, process) = well(3).await;
    let fleet = town.dir.join("fleet.json");
    town.write(TARGET + 2, |_| {});
    town.until(&process, 10, "followed", |fleet, truth| fleet["target"] == 8 && truth.live == 8).await;
    town.at_rest(&process, 8, 20).await;
    let good = std::fs::read_to_string(&fleet).expect("a document");
    for (bad, why) in [
        ("{", "the new configuration is refused"),
        ("{\"kind\": \"ExecutorFleet\"}", "the last valid one stays"),
        (&*good.replace("\"executors\":8", "\"executors\":\"eight\""), "spec.executors"),
        // A document that only the core can reject is a condition of the fleet, too.
        (
            &*good.replace("\"executors\":8", "\"executors\":99999999").replace(IMAGE, "another"),
            "SpecRefused",
        ),
    ] {
        let before = process.log().len();
        std::fs::write(&fleet, bad).expect("a file");
        process.logs(before, &[why]).await;
        let now = town.fleet(&process).await.expect("it answers");
        assert_eq!((&now["target"], &now["counts"]["available"]), (&json!(8), &json!(8)));
    }
    // No part of it is in force either.
    let pods = town.world.pods();
    let name = pods[0]["metadata"]["name"].as_str().expect("a name");
    town.world.server.delete("pods", NAMESPACE, name, Some(0)).expect("it is there");
    town.until(&process, 10, "replaced", |_, truth| truth.created == 9).await;
    for pod in town.world.pods() {
        assert_eq!(pod["spec"]["containers"][0]["image"], IMAGE);
    }
    // The same for a missing file.
    std::fs::remove_file(&fleet).expect("a file");
    sleep(Duration::from_millis(2 * rollcall::config::POLL_MS)).await;
    assert_eq!(town.fleet(&process).await.expect("it answers")["target"], 8);
    town.write(TARGET - 1, |_| {});
    town.until(&process, 10, "followed", |fleet, _| fleet["target"] == 5).await;
    town.at_rest(&process, 5, 30).await;
    assert_eq!(town.world.wrong(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_picked_up_and_broken_ones_stop_nothing() {
    let (town, process) = well(4).await;
    let policies = town.dir.join("policies");
    std::fs::write(policies.join("garbage.wasm"), "not a module").expect("a file");
    process.logs(0, &["a policy file was refused", "garbage.wasm"]).await;
    let built = root().join("policies/built/spark-roll.wasm");
    std::fs::copy(built, policies.join("mine.wasm")).expect("a file");
    process.logs(0, &["another module has a policy of this name", "mine.wasm"]).await;
    process.logs(0, &["compiled policies are cached", "rollcall/policies"]).await;
    // A policy that always picks the first executor, and warns: its message is "bad".
    let log = r#"(import "rollcall:policy/log@1.0.0" "log" (func $log (param i32 i32 i32)))"#;
    let warns = "(call $log (i32.const 2) (i32.const 16) (i32.const 3))";
    let module = guest(&roll_policy(log, "", &format!("{warns} {}", answer(&[(0, "1")]))), "");
    std::fs::write(policies.join("bad.wasm"), &module).expect("a file");
    process.logs(0, &["policies loaded", "bad.wasm"]).await;
    let roll = json!({ "policies": ["BAD"], "interval": "1s", "timeout": "30s" });
    town.write(TARGET, |document| document["spec"]["roll"] = roll);
    town.until(&process, 60, "rolled", |fleet, _| fleet["counts"]["removed"]["roll"].as_u64() > Some(0))
        .await;
    let said = [
        "\"level\":\"WARN\"",
        "the policy says: bad",
        "\"policy\":\"BAD\"",
        "\"fleet\":\"spark/etl\"",
        "\"decision\":",
    ];
    process.logs(0, &said).await;
    // The replacement is invalid: the loaded version stays active.
    let before = process.log().len();
    std::fs::write(policies.join("bad.wasm"), &module[..module.len() / 2]).expect("a file");
    process.logs(before, &["a policy file was refused", "bad.wasm"]).await;
    let rolled = |fleet: &Value| fleet["counts"]["removed"]["roll"].as_u64().unwrap_or_default();
    let before = rolled(&town.fleet(&process).await.expect("it answers"));
    town.until(&process, 60, "rolled again", |fleet, _| rolled(fleet) > before + 1).await;
    assert_eq!(town.get(&process, "/livez").await.map(|(code, _)| code), Some(200));
    town.write(TARGET, |_| {});
    town.at_rest(&process, TARGET as usize, 60).await;
    assert_eq!(town.world.wrong(), Vec::<String>::new());
    assert_eq!(process.terminate().await.0, Some(0));
}

/// Compiling it takes far longer than allowed; the static checks accept it.
fn bomb() -> Vec<u8> {
    let loops = format!("{}{}{}", "(loop ".repeat(60), "nop ".repeat(280), ")".repeat(60));
    let functions = format!("(func (local {}) {loops})", "i32 ".repeat(280)).repeat(400);
    wat::parse_str(format!("(component (core module {functions}))")).expect("WebAssembly text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bomb_that_is_compiled_holds_back_nothing() {
    let (town, process) = well(5).await;
    let file = town.dir.join("policies/bomb.wasm");
    std::fs::write(&file, bomb()).expect("a file");
    process.logs(0, &["loading policies", "bomb.wasm"]).await;
    // Changed documents are applied meanwhile.
    town.write(TARGET + 2, |_| {});
    town.until(&process, 8, "followed", |fleet, _| fleet["target"] == TARGET + 2).await;
    // The limit of ten seconds of CPU is not reached yet, and the compiler process ends with the daemon.
    let refused = |line: &String| line.contains("a policy file was refused");
    assert!(!process.log().iter().any(refused), "it is still being compiled");
    let (code, took) = process.terminate().await;
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn documents_are_checked() {
    let (code, _, error) = said(rollcall(&root(), &["check", "-f", "examples/own.yaml"]));
    assert_eq!(code, Some(0), "{error}");
    let dir = std::env::temp_dir().join(format!("rollcall-check-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let good = std::fs::read_to_string(root().join("examples/own.yaml")).expect("the example");
    std::fs::write(dir.join("bad.yaml"), good.replace("executors: 10", "executers: 10")).expect("a file");
    let (code, text, error) = said(rollcall(&dir, &["check", "-f", "bad.yaml"]));
    assert_eq!(code, Some(1), "{error}");
    assert!(format!("{text}{error}").contains("executers"), "{text}{error}");
    std::fs::remove_dir_all(&dir).expect("a directory");
    let (code, text, _) = said(rollcall(&root(), &["check", "--schema"]));
    let schema: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, schema["type"].as_str()), (Some(0), Some("object")), "{schema}");
}

#[test]
fn the_demo_sums_itself_up() {
    let args = ["demo", "--for=6s", "--chaos=none", "--output=json", "--executors=4"];
    let (code, text, error) = said(rollcall(&root(), &args));
    assert_eq!(code, Some(0), "{text}{error}");
    let summary: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&summary["available"], &summary["reallyAvailable"]), (&json!(4), &json!(4)), "{summary}");
    assert_eq!((&summary["target"], &summary["violations"]), (&json!(4), &json!([])), "{summary}");
    for field in ["seconds", "seed", "lost", "replaced", "verdicts", "faults", "rolled"] {
        assert!(summary.get(field).is_some(), "{field} is not in {summary}");
    }
    assert_eq!((&summary["lost"], &summary["replaced"]), (&json!(0), &json!(0)), "{summary}");
}
