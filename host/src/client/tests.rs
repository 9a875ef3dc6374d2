//! Runs command lines against a daemon behind a real socket.

use std::fs;
use std::time::Duration;

use anyhow::anyhow;
use axum::Router;
use clap::Parser;
use clap::error::ErrorKind;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::handle::{Handle, Told};
use crate::http::fake::{self, TOKEN, TOLD_MAX};
use crate::http::{Settings, wire};

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(std::iter::once("rollcall").chain(line.split_whitespace())).map(|cli| cli.command)
}

/// A token file that exists for the duration of a test.
struct TokenFile(PathBuf);

impl TokenFile {
    fn new(name: &str, text: &str) -> TokenFile {
        let path = std::env::temp_dir().join(format!("rollcall-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        TokenFile(path)
    }

    fn flag(&self) -> String {
        format!("--token-file {}", self.0.display())
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn asked(server: &str, line: &str) -> Result<Answer> {
    let Command::Ask(question) = parse(&format!("{line} --server {server}")).unwrap() else {
        panic!("{line} is not a question");
    };
    ask(&question).await
}

/// The answer's blocks, one line per row.
fn text(answer: &Answer) -> Vec<String> {
    let block = |block: &Block| match block {
        Block::Line(text) => vec![text.clone()],
        Block::Table { header, rows } => {
            std::iter::once(header.join(" ")).chain(rows.iter().map(|row| row.join(" "))).collect()
        }
    };
    answer.blocks.iter().flat_map(block).collect()
}

#[tokio::test]
async fn status_shows_fleets_and_one_with_its_executors() {
    let daemon = fake::Daemon::start().await;
    let server = daemon.url("");
    let all = asked(&server, "status").await.unwrap();
    let (header, row) = (
        "NAMESPACE FLEET MODE PHASE TARGET AVAILABLE PENDING TERMINATING LOST ROLLED",
        "jobs etl own active 3 3 0 0 0 0",
    );
    assert_eq!(text(&all), [header, row]);
    assert_eq!(all.json["fleets"][0]["namespace"], "jobs", "the JSON is passed on unchanged");
    let one = asked(&server, "status etl").await.unwrap();
    let lines = text(&one);
    assert_eq!(lines[..3], [header, row, "EXECUTOR STAGE HEARD NODE POD"]);
    assert!(
        lines[3].starts_with("1 available ") && lines[3].ends_with("s ago node-1 etl-exec-1"),
        "{lines:?}"
    );
    assert_eq!((lines.len(), &one.json["executors"][2]["executor"]), (6, &serde_json::json!(3)));
    let token = TokenFile::new("status", TOKEN);
    asked(&server, &format!("pause etl {}", token.flag())).await.unwrap();
    let lines = text(&asked(&server, "status etl").await.unwrap());
    assert_eq!(lines[6..], ["CONDITION MESSAGE", "Paused nothing is changed until it is resumed"]);
}

#[tokio::test]
async fn explain_says_why() {
    let daemon = fake::Daemon::start().await;
    let explained = asked(&daemon.url(""), "explain etl 2").await.unwrap();
    let lines = text(&explained);
    assert_eq!(
        lines[..3],
        [
            "EXECUTOR STAGE NOT ROLLED BECAUSE",
            "2 available the policy did not pick it (not-picked)",
            "TIME WHAT"
        ]
    );
    assert!(lines[3].starts_with("2026-11-02T"), "{lines:?}");
    assert!(!explained.refused);
}

#[tokio::test]
async fn commands_are_carried_over() {
    let daemon = fake::Daemon::start().await;
    let token = TokenFile::new("commands", &format!("{TOKEN}\n"));
    let order =
        async |line: &str| asked(&daemon.url("/"), &format!("{line} {}", token.flag())).await.unwrap();
    for (line, said) in [
        ("scale etl 4", "etl: the target is now 4 executors"),
        ("roll etl 2", "etl: rolling executor 2"),
        ("roll etl", "etl: asking the roll policy"),
        ("pause etl", "etl: paused"),
        ("resume etl", "etl: resumed"),
        ("reset-breaker etl", "etl: the circuit breaker is reset"),
    ] {
        let answer = order(line).await;
        assert_eq!((text(&answer), answer.refused), (vec![said.to_owned()], false), "{line}");
    }
    let killed = order("kill etl 3 99 --replace --force").await;
    assert_eq!(text(&killed), ["EXECUTOR RESULT", "3 ok", "99 there is no such executor (unknown-executor)"]);
    assert!(killed.refused, "one executor was refused");
    let reset = order("reset-ledger etl").await;
    assert!(reset.refused && reset.notes[0].contains("ledger-in-order"), "{:?}", reset.notes);
    let status = text(&asked(&daemon.url(""), "status").await.unwrap());
    assert_eq!(status[1], "jobs etl own active 4 4 0 0 0 2", "all commands took effect");
}

#[tokio::test]
async fn a_refusal_is_an_answer() {
    let daemon = fake::Daemon::start().await;
    let token = TokenFile::new("refusals", TOKEN);
    for (line, notes) in [
        ("roll etl 99", "etl: there is no such executor (unknown-executor)"),
        ("kill etl 99", "etl: there is no such executor (unknown-executor)"),
        ("scale etl 10001", "etl: more than limits.maxExecutors (above-maximum)"),
        ("pause web", "web: there is no fleet \"web\"; GET /v1/fleets lists them (unknown-fleet)"),
        ("status web", "web: there is no fleet \"web\"; GET /v1/fleets lists them (unknown-fleet)"),
        ("explain etl 99", "etl: fleet \"etl\" has no executor 99, and remembers none (unknown-executor)"),
    ] {
        let answer = asked(&daemon.url(""), &format!("{line} {}", token.flag())).await.unwrap();
        assert_eq!((&answer.notes[..], answer.refused), (&[notes.to_owned()][..], true), "{line}");
        assert!(answer.json["error"]["code"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn errors_name_the_remedy() {
    let error = async |server: &str, line: &str| format!("{:#}", asked(server, line).await.unwrap_err());
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let unreachable = error(&format!("http://{free}"), "status").await;
    assert!(unreachable.contains("is it running?") && unreachable.contains("--server"), "{unreachable}");
    assert!(unreachable.contains("Connection refused"), "it includes the cause: {unreachable}");

    let daemon = fake::Daemon::start().await;
    let wrong = TokenFile::new("wrong", "wrong");
    let turned_away = error(&daemon.url(""), &format!("pause etl {}", wrong.flag())).await;
    assert!(turned_away.contains("does not accept this token"), "{turned_away}");
    let empty = TokenFile::new("empty", " \n");
    let empty = error(&daemon.url(""), &format!("pause etl {}", empty.flag())).await;
    assert!(empty.contains("is empty"), "{empty}");
    let odd = TokenFile::new("odd", "a\u{7f}b");
    let odd = error(&daemon.url(""), &format!("pause etl {}", odd.flag())).await;
    assert!(odd.contains("character"), "{odd}");
    let missing = error(&daemon.url(""), "pause etl --token-file /nowhere/token").await;
    assert!(missing.contains("/nowhere/token"), "{missing}");

    let silent = fake::Daemon::start_with(Settings::default()).await;
    let right = TokenFile::new("right", TOKEN);
    let disabled = error(&silent.url(""), &format!("pause etl {}", right.flag())).await;
    assert!(disabled.contains("403") && disabled.contains("commands-disabled"), "{disabled}");
    let (handle, requests) = Handle::new(1, 1);
    drop(requests);
    let stopping = error(&fake::Daemon::serve(handle, Settings::default()).await.url(""), "status").await;
    assert!(stopping.contains("503") && stopping.contains("stopping"), "{stopping}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new()).await });
    let other = error(&other, "status").await;
    assert!(other.contains("not a Rollcall daemon") && other.contains("404"), "{other}");
}

#[test]
fn a_command_line_that_makes_no_sense_says_so() {
    for (line, kind) in [
        ("kill etl", ErrorKind::MissingRequiredArgument),
        ("kill etl x", ErrorKind::ValueValidation),
        ("explain etl", ErrorKind::MissingRequiredArgument),
        ("scale etl -- -1", ErrorKind::ValueValidation),
        ("status ../x", ErrorKind::ValueValidation),
        ("pause ETL", ErrorKind::ValueValidation),
        ("status --server localhost:8080", ErrorKind::ValueValidation),
        ("status --server https://x", ErrorKind::ValueValidation),
        ("status --output yaml", ErrorKind::InvalidValue),
        ("dance", ErrorKind::InvalidSubcommand),
    ] {
        assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
    }
}

/// Follows the events until `count` of them have arrived.
async fn heard(server: &str, line: &str, count: usize, tell: impl Fn()) -> Vec<Heard> {
    let Command::Events { fleet, to } = parse(&format!("{line} --server {server}")).unwrap() else {
        panic!("{line} does not follow events");
    };
    let daemon = Daemon::new(&to, false).await.unwrap();
    let mut all = Vec::new();
    let hear = |heard, json: &str| {
        assert!(serde_json::from_str::<serde_json::Value>(json).is_ok(), "{json}");
        all.push(heard);
        if all.len() == count { Err(anyhow!("enough")) } else { Ok(()) }
    };
    let following = async { events::follow(&daemon, fleet.as_deref(), hear).await.unwrap_err() };
    let telling = async {
        // There is no signal that the stream has begun.
        tokio::time::sleep(Duration::from_millis(100)).await;
        tell();
        std::future::pending::<()>().await
    };
    let error = timeout(Duration::from_secs(2), async {
        tokio::select! { error = following => error, () = telling => unreachable!("it pends") }
    });
    assert_eq!(error.await.expect("events arrive").to_string(), "enough");
    all
}

fn told(fleet: &str, message: &str) -> Told {
    Told {
        namespace: "jobs".to_owned(),
        at_ms: 1_793_577_600_000,
        fleet: fleet.to_owned(),
        kind: "ExecutorLost",
        executor: Some(fleet::id::ExecutorId(7)),
        message: message.to_owned(),
    }
}

#[tokio::test]
async fn events_are_followed_line_by_line() {
    let daemon = fake::Daemon::start().await;
    let happen = || {
        daemon.handle.tell(told("web", "x"));
        daemon.handle.tell(told("etl", "killed\n\u{1b}[31mred"));
    };
    let heard_of_both = heard(&daemon.url(""), "events", 2, happen).await;
    let Heard::Told(last) = &heard_of_both[1] else { panic!("{heard_of_both:?}") };
    assert_eq!(
        events::line(last),
        "2026-11-02T00:00:00Z etl ExecutorLost 7: killed  [31mred",
        "no line break, no colour"
    );
    let of_one = heard(&daemon.url(""), "events --fleet etl", 1, happen).await;
    assert_eq!(of_one, [Heard::Told(last.clone())]);
    let many = || (0..TOLD_MAX + 2).for_each(|number| daemon.handle.tell(told("etl", &number.to_string())));
    let lagged = heard(&daemon.url(""), "events", 2, many).await;
    assert_eq!(lagged[0], Heard::Lagged(wire::Lagged { missed: 2 }));
}
