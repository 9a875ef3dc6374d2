//! What `status` and the log say when no heartbeats arrive or the driver cannot be polled: the real binary, with common
//! misconfigurations.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use embedded::Chaos;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::real::{Process, Town, rollcall};
use super::support::{FLEET, NAMESPACE};
use crate::support::root;

const TARGET: u32 = 3;

/// The fleet's condition with this name. `None`: it is false.
async fn condition(town: &Town, process: &Process, name: &str) -> Option<String> {
    let (_, text) = town.get(process, &format!("/v1/fleets/{FLEET}")).await?;
    let fleet: Value = serde_json::from_str(&text).ok()?;
    let conditions = fleet["conditions"].as_array()?;
    let message = &conditions.iter().find(|condition| condition["type"] == name)?["message"];
    Some(message.as_str()?.to_owned())
}

/// Waits until the condition contains all of these parts; without parts, until it is false.
async fn says(town: &Town, process: &Process, name: &str, parts: &[&str]) {
    let begun = Instant::now();
    loop {
        let said = condition(town, process, name).await;
        let holds = match &said {
            Some(said) => !parts.is_empty() && parts.iter().all(|part| said.contains(part)),
            None => parts.is_empty() && town.fleet(process).await.is_some(),
        };
        if holds {
            return;
        }
        assert!(
            begun.elapsed().as_secs() < 30,
            "{name} is {said:?} and not {parts:?}\n{}",
            process.log().join("\n")
        );
        sleep(Duration::from_millis(100)).await;
    }
}

fn logged(process: &Process, parts: &[&str]) -> usize {
    process.log().iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

/// Sends this to the Graphite port, from another address.
async fn send(from: Ipv4Addr, to: SocketAddr, bytes: &[u8]) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((from, 0))).expect("an address of loopback");
    let mut stream = socket.connect(to).await.expect("it listens");
    stream.write_all(bytes).await.expect("it is read");
    stream.shutdown().await.expect("it is read");
    let _ = stream.read(&mut [0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_heard_is_told_why() {
    let town = Town::start(21, Chaos::None, TARGET).await;
    let named = |document: &mut Value| {
        document["spec"]["heartbeat"]["metricsNamespace"] = "Daily import".into();
    };
    town.write(TARGET, named);
    let process = Process::start(&town);
    let http = process.listens().await;
    let unknown = [
        "UnknownApplication: lines for unknown application spark-0123456789abcdef come from this fleet's pods (127.0.0.1)",
        "This fleet's begin with Daily-import: leave out heartbeat.metricsNamespace",
    ];
    says(&town, &process, "HeartbeatsMissing", &unknown).await;
    process.logs(0, &["no heartbeats of its executors arrive", unknown[0]]).await;
    // The command line shows the same.
    let shown = rollcall(&town.dir, &["status", FLEET, "--server", &format!("http://{http}")]);
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.contains("HeartbeatsMissing") && shown.contains(unknown[0]), "{shown}");

    town.write(TARGET, |_| {});
    says(&town, &process, "HeartbeatsMissing", &[]).await;
    process.logs(0, &["heartbeats of its executors arrive, or none runs"]).await;
    town.at_rest(&process, TARGET as usize, 30).await;
    assert_eq!(logged(&process, &["no heartbeats of its executors arrive"]), 1);

    // A sender is logged only once, and is not shown while heartbeats arrive.
    let graphite = town.graphite().expect("it listens");
    for _ in 0..3 {
        send(Ipv4Addr::LOCALHOST, graphite, b"etl.1.x:5|c\n\x1b[2J 1 1 1\n").await;
        send(Ipv4Addr::new(127, 1, 0, 1), graphite, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        send(Ipv4Addr::new(127, 1, 0, 2), graphite, b"theirs.1.executor.runTime.count 1 1\n").await;
    }
    let refused = "a line on the Graphite port is refused";
    process.logs(0, &[refused, "\"peer\":\"127.0.0.1\"", "etl.1.x:5|c", "it is not `name value time`"]).await;
    process
        .logs(0, &[refused, "\"peer\":\"127.1.0.1\"", "GET /metrics HTTP/1.1", "its value is not a number"])
        .await;
    process.logs(0, &["names no fleet's application", "\"peer\":\"127.1.0.2\"", "theirs.1.executor"]).await;
    assert_eq!(logged(&process, &[refused]), 2);
    assert_eq!(logged(&process, &["names no fleet's application"]), 1);
    assert_eq!(condition(&town, &process, "HeartbeatsMissing").await, None);
    assert_eq!(town.world.wrong(), Vec::<String>::new());
}

/// A port with the same answer to every request.
async fn port_that_says(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4_096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_drivers_answers_is_told() {
    let town = Town::start(22, Chaos::None, TARGET).await;
    let process = Process::start(&town);
    process.listens().await;
    town.at_rest(&process, TARGET as usize, 60).await;
    assert_eq!(condition(&town, &process, "DriverRestUnavailable").await, None);
    for (answer, parts) in [
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            ["Forbidden: http://127.0.0.1:", "set driver.restTokenFile"],
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:4440/api\r\nContent-Length: 0\r\n\r\n",
            ["Redirect: http://127.0.0.1:", "set driver.restTls"],
        ),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            ["NotFound: http://127.0.0.1:", "spark-app-selector"],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
            ["NotJson: http://127.0.0.1:", "it answered no JSON but text/html, which begins with"],
        ),
    ] {
        let port = port_that_says(answer).await;
        town.write(TARGET, |document| document["spec"]["driver"]["restPort"] = port.into());
        says(&town, &process, "DriverRestUnavailable", &parts).await;
        assert!(logged(&process, &["the driver ", parts[1]]) > 0, "{}", process.log().join("\n"));
    }
    let (_, metrics) = town.get(&process, "/metrics").await.expect("an answer");
    let gauge = format!(
        "rollcall_fleet_condition{{namespace=\"{NAMESPACE}\",fleet=\"{FLEET}\",type=\"DriverRestUnavailable\"}} 1"
    );
    assert!(metrics.contains(&gauge), "{metrics}");
    town.write(TARGET, |_| {});
    says(&town, &process, "DriverRestUnavailable", &[]).await;
    assert_eq!(town.world.wrong(), Vec::<String>::new());
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/tls").join(name)
}

/// The driver's REST API behind TLS, for clients with the token.
async fn secured(rest: impl Fn() -> Value + Send + 'static, token: &'static str) -> u16 {
    let chain = vec![CertificateDer::from_pem_file(fixture("name.pem")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(fixture("name.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).expect("they fit")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = vec![0; 4_096];
            let length = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            // As in Spark's JWSFilter.
            let known = head.contains(&format!("Bearer {token}\r\n"));
            let (status, body) =
                if known { ("200 OK", rest().to_string()) } else { ("403 Forbidden", String::new()) };
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_behind_tls_and_a_token_is_asked() {
    let town = Town::start(23, Chaos::None, TARGET).await;
    let port = secured(town.world.rest(), "eyJhbGciOiJIUzI1NiJ9.e30.c2ln").await;
    let token = town.dir.join("jws");
    std::fs::write(&token, "expired\n").expect("a file");
    let secured = |tls: Value| {
        let token = token.to_str().expect("text").to_owned();
        move |document: &mut Value| {
            let driver = &mut document["spec"]["driver"];
            (driver["restPort"], driver["restTokenFile"]) = (port.into(), token.into());
            // No executor before the driver has answered.
            driver["startTimeout"] = "10m".into();
            driver["restTls"] = tls;
        }
    };
    let ca = fixture("ca.pem");
    town.write(TARGET, secured(json!({ "caFile": ca })));
    let process = Process::start(&town);
    process.listens().await;
    let nameless = ["Tls: https://127.0.0.1:", "driver.spark.example", "set driver.restTls.serverName"];
    says(&town, &process, "DriverRestUnavailable", &nameless).await;
    town.write(TARGET, secured(json!({ "caFile": ca, "serverName": "driver.spark.example" })));
    let expired = ["Forbidden: https://127.0.0.1:", "the token in driver.restTokenFile was not taken"];
    says(&town, &process, "DriverRestUnavailable", &expired).await;
    assert_eq!(town.world.truth().created, 0, "the driver has not answered");
    // Kubernetes renews it in place.
    std::fs::write(&token, "eyJhbGciOiJIUzI1NiJ9.e30.c2ln\n").expect("a file");
    says(&town, &process, "DriverRestUnavailable", &[]).await;
    town.at_rest(&process, TARGET as usize, 60).await;
    assert_eq!(logged(&process, &["eyJhbGciOiJIUzI1NiJ9"]), 0, "the log shows a secret");
    assert_eq!(town.world.wrong(), Vec::<String>::new());
}
