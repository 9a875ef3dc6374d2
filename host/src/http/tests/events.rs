//! Server-sent events.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use tokio::time::timeout;

use super::{code, get_from, pass, take_apart};
use crate::handle::Told;
use crate::http::fake::{Daemon, TOLD_MAX};
use crate::http::{STREAMS_MAX, events};

fn told(fleet: &str, message: &str) -> Told {
    Told {
        namespace: "jobs".to_owned(),
        at_ms: 5,
        fleet: fleet.to_owned(),
        kind: "ExecutorLost",
        executor: None,
        message: message.to_owned(),
    }
}

/// The lines of the next event.
async fn next(stream: &mut Response) -> String {
    let chunk = timeout(Duration::from_secs(2), stream.chunk()).await.expect("an event").unwrap();
    String::from_utf8(chunk.expect("the stream goes on").to_vec()).unwrap()
}

#[tokio::test]
async fn events_are_told_as_they_happen() {
    let daemon = Daemon::start().await;
    let mut all = get_from(&daemon, "/v1/events").await;
    assert_eq!(all.headers()[CONTENT_TYPE], "text/event-stream");
    let mut web = get_from(&daemon, "/v1/events?fleet=web").await;
    daemon.handle.tell(told("etl", "a\nb"));
    daemon.handle.tell(told("web", "c"));
    let line = r#"data: {"atMs":5,"fleet":"etl","namespace":"jobs","kind":"ExecutorLost","executor":null,"message":"a\nb"}"#;
    assert_eq!(next(&mut all).await, format!("{line}\n\n"));
    assert!(next(&mut all).await.contains(r#""fleet":"web""#));
    assert!(next(&mut web).await.contains(r#""fleet":"web""#), "it hears of its own fleet alone");
    for _ in 0..10 {
        pass(events::KEEP_ALIVE).await;
        assert_eq!(next(&mut web).await, ":\n\n", "it is still there, however long nothing happens");
    }
    let (status, body) = take_apart(get_from(&daemon, "/v1/events?flet=web").await).await;
    assert_eq!((status, code(&body)), (400, "malformed"));
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_told_so() {
    let daemon = Daemon::start().await;
    let mut stream = get_from(&daemon, "/v1/events").await;
    // Nothing is read meanwhile: there is only one thread, and this does not yield.
    for number in 0..TOLD_MAX + 6 {
        daemon.handle.tell(told("etl", &number.to_string()));
    }
    assert_eq!(next(&mut stream).await, "event: lagged\ndata: {\"missed\":6}\n\n");
    for number in 6..TOLD_MAX + 6 {
        assert!(next(&mut stream).await.contains(&format!(r#""message":"{number}""#)), "the latest are kept");
    }
}

#[tokio::test]
async fn for_one_stream_too_many_the_address_that_has_most_loses_its_oldest() {
    let daemon = Daemon::start().await;
    let elsewhere = reqwest::Client::builder().no_proxy().local_address(IpAddr::from([127, 0, 0, 2]));
    let mut others = elsewhere.build().unwrap().get(daemon.url("/v1/events")).send().await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        streams.push(get_from(&daemon, "/v1/events").await);
    }
    let ends = timeout(Duration::from_secs(2), streams[0].chunk()).await.expect("it is closed");
    assert!(!matches!(ends, Ok(Some(_))), "{ends:?}");
    daemon.handle.tell(told("etl", "news"));
    for stream in streams.iter_mut().skip(1).chain([&mut others]) {
        assert!(next(stream).await.contains("news"));
    }
}
