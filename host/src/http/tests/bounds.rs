//! Clients that are too many, too slow or too late.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{client, code, get_from, pass, take_apart};
use crate::handle::{Handle, Request};
use crate::http::fake::Daemon;
use crate::http::{AT_ONCE_MAX, Settings, probes};

#[tokio::test]
async fn a_loop_that_does_not_answer_is_said_so_and_probes_pass() {
    let (handle, requests) = Handle::new(1, 1);
    let daemon = Daemon::serve(handle, Settings::default()).await;
    let (status, body) =
        tokio::join!(async { take_apart(get_from(&daemon, "/v1/fleets").await).await }, async {
            // The first request waits for an answer; the queue has no room for a second.
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
async fn a_peer_that_has_said_all_gets_its_answer() {
    let daemon = Daemon::start().await;
    let mut stream = TcpStream::connect(daemon.address).await.unwrap();
    stream.write_all(b"GET /v1/fleets HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut said)).await.unwrap().unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said:?}");
}

#[tokio::test]
async fn so_many_requests_at_once_and_no_more() {
    let (handle, mut requests) = Handle::new(AT_ONCE_MAX * 2, 1);
    let daemon = Daemon::serve(handle, Settings::default()).await;
    let waiting: Vec<_> =
        (0..AT_ONCE_MAX).map(|_| tokio::spawn(client().get(daemon.url("/v1/fleets/etl")).send())).collect();
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

/// Sends this, and reads until the other side closes, while time advances in steps of a second.
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
                assert!(seconds < 200, "it is never closed");
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
async fn it_stops_with_open_streams_and_answers_pending_requests() {
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

/// A connection from a loopback address.
async fn from(number: u32, to: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number);
    socket.bind((ip, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn probes_are_answered_while_strangers_hold_connections_and_nothing_else_moves() {
    let (handle, _requests) = Handle::new(1, 1);
    let listener = probes::Listener::start("127.0.0.1:0".parse().unwrap(), handle, 32).unwrap();
    let mut strangers = Vec::new();
    for number in 0..200 {
        strangers.push(from(number, listener.address).await);
    }
    for number in 0..50 {
        strangers.push(from(300 + number, listener.address).await);
        // The runtime of this test is blocked meanwhile: probes have a thread of their own.
        let mut kubelet = std::net::TcpStream::connect(listener.address).unwrap();
        kubelet.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        kubelet.write_all(b"GET /livez HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        kubelet.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{number}: {answer}");
    }
    let mut first = strangers.remove(0);
    let read = timeout(Duration::from_secs(5), first.read(&mut [0])).await.unwrap();
    assert!(!matches!(read, Ok(1..)), "it has made room");
    let address = listener.address;
    drop(listener);
    while std::net::TcpStream::connect(address).is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_newest_is_served_however_many_are_connected() {
    let daemon = Daemon::start().await;
    let mut strangers = Vec::new();
    for number in 0..700 {
        strangers.push(from(number, daemon.address).await);
    }
    for path in ["/livez", "/v1/fleets", "/metrics"] {
        assert_eq!(get_from(&daemon, path).await.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn names_of_strangers_are_not_answered() {
    let daemon =
        Daemon::start_with(Settings { hosts: vec!["rollcall.example".into()], ..Settings::default() });
    let daemon = daemon.await;
    for (path, host, expected) in [
        ("/v1/fleets", "evil.example", 421),
        ("/v1/fleets", "rollcall.example", 200),
        ("/v1/fleets", "rollcall.jobs.svc", 200),
        ("/metrics", "evil.example", 421),
        ("/livez", "evil.example", 200),
        ("/readyz", "evil.example", 200),
    ] {
        let response = client().get(daemon.url(path)).header("host", host).send().await.unwrap();
        assert_eq!(response.status(), expected, "{path} {host}");
    }
    let foreign = client().get(daemon.url("/v1/fleets")).header("origin", "http://evil.example");
    let (status, body) = take_apart(foreign.send().await.unwrap()).await;
    assert_eq!((status, code(&body)), (403, "foreign-origin"));
    let foreign = client().get(daemon.url("/v1/fleets")).header("host", "evil.example");
    let (status, body) = take_apart(foreign.send().await.unwrap()).await;
    assert_eq!((status, code(&body)), (421, "foreign-host"));
    assert!(body["error"]["message"].as_str().unwrap().contains("--http-host"), "{body}");
}
