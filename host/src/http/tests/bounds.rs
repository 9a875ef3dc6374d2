//! Too many, too slow, too late.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{client, code, get_from, pass, take_apart};
use crate::handle::{Handle, Request};
use crate::http::fake::Daemon;
use crate::http::{AT_ONCE_MAX, Settings};

#[tokio::test]
async fn a_loop_that_does_not_answer_is_said_so_and_probes_pass() {
    let (handle, requests) = Handle::new(1, 1);
    let daemon = Daemon::serve(handle, Settings::default()).await;
    let (status, body) =
        tokio::join!(async { take_apart(get_from(&daemon, "/v1/fleets").await).await }, async {
            // The first waits for an answer; the queue holds no second.
            while requests.is_empty() {
                tokio::task::yield_now().await;
            }
            let busy = take_apart(get_from(&daemon, "/v1/fleets").await).await;
            assert_eq!(get_from(&daemon, "/livez").await.status(), StatusCode::OK);
            pass(crate::handle::TIMEOUT).await;
            busy
        });
    assert_eq!((status.0, code(&status.1)), (503, "timeout"));
    assert_eq!((body.0, code(&body.1)), (503, "busy"));
    drop(requests);
    let (status, body) = take_apart(get_from(&daemon, "/v1/fleets").await).await;
    assert_eq!((status, code(&body)), (503, "stopping"));
    let metrics = get_from(&daemon, "/metrics").await;
    assert_eq!(metrics.status(), StatusCode::OK, "all but the fleets");
    assert!(!metrics.text().await.unwrap().contains("etl"));
}

#[tokio::test]
async fn so_many_requests_at_once_and_no_more() {
    let (handle, mut requests) = Handle::new(AT_ONCE_MAX * 2, 1);
    let daemon = Daemon::serve(handle, Settings::default()).await;
    let waiting: Vec<_> =
        (0..AT_ONCE_MAX).map(|_| tokio::spawn(client().get(daemon.url("/v1/fleets")).send())).collect();
    while requests.len() < AT_ONCE_MAX {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (status, body) = take_apart(get_from(&daemon, "/v1/fleets").await).await;
    assert_eq!((status, code(&body)), (503, "busy"));
    assert_eq!(get_from(&daemon, "/livez").await.status(), StatusCode::OK);
    requests.close();
    while requests.recv().await.is_some() {}
    for request in waiting {
        assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(get_from(&daemon, "/metrics").await.status(), StatusCode::OK, "the places are free again");
}

/// Sends this, and reads until the other side ends it, while time passes in steps of a second.
async fn patience(daemon: &Daemon, sent: &str) -> (Duration, String) {
    let mut stream = TcpStream::connect(daemon.address).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let started = tokio::time::Instant::now();
    let mut seconds = 0;
    loop {
        let reading = timeout(Duration::from_millis(5), stream.read_buf(&mut answer));
        match reading.await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(_)) => {}
            Err(_) => {
                seconds += 1;
                assert!(seconds < 200, "it is kept for ever");
                pass(Duration::from_secs(1)).await;
            }
        }
    }
    (started.elapsed(), String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn who_sends_nothing_is_not_waited_for() {
    let daemon = Daemon::start().await;
    let minute = Duration::from_secs(58)..Duration::from_secs(63);
    let short = Duration::from_secs(14)..Duration::from_secs(18);
    let (time, answer) = patience(&daemon, "").await;
    assert!(short.contains(&time) && answer.is_empty(), "{time:?} {answer}");
    let (time, answer) = patience(&daemon, "GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
    assert!(short.contains(&time) && answer.is_empty(), "{time:?} {answer}");
    let (time, answer) = patience(&daemon, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(minute.contains(&time) && answer.starts_with("HTTP/1.1 200 "), "{time:?} {answer}");
    let head = "POST /v1/fleets/etl/pause HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer open-sesame\r\n\
                Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    let (time, answer) = patience(&daemon, head).await;
    assert!(time < Duration::from_secs(15) && answer.starts_with("HTTP/1.1 408 "), "{time:?} {answer}");
}

#[tokio::test]
async fn it_stops_although_somebody_listens_and_answers_what_was_asked() {
    let (handle, mut requests) = Handle::new(1, 1);
    let daemon = Daemon::serve(handle, Settings::default()).await;
    let _stream = get_from(&daemon, "/v1/events").await;
    let asked = tokio::spawn(client().get(daemon.url("/v1/fleets")).send());
    let Some(Request::Overview(reply)) = requests.recv().await else { panic!("fleets were asked for") };
    daemon.stop();
    while TcpStream::connect(daemon.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    reply.send(vec![]).unwrap();
    assert_eq!(asked.await.unwrap().unwrap().status(), StatusCode::OK, "it was under way");
    assert!(!daemon.served.is_finished(), "the stream goes on");
    pass(Duration::from_secs(3)).await;
    let served = timeout(Duration::from_secs(1), daemon.served).await;
    served.expect("it is not waited for").unwrap().unwrap();
}
