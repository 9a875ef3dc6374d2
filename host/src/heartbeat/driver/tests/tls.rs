//! Drivers with TLS and token authentication, on loopback.

use std::path::{Path, PathBuf};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::troubles::{ask, trouble};
use super::*;
use crate::heartbeat::directory::DriverTls;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tls").join(name)
}

/// A driver with this certificate that serves its executors to clients with the token. Returns the requests that it
/// received.
async fn secured(
    certificate: &str,
    token: &'static str,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let chain = CertificateDer::pem_file_iter(file(&format!("{certificate}.pem"))).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(file(&format!("{certificate}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (heard, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust the certificate disconnects.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let name = stream.get_ref().1.server_name().unwrap_or("no name").to_owned();
            let mut head = vec![0; 4_096];
            let length = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
            let known = head.contains(&format!("authorization: bearer {token}\r\n"));
            let refused = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let answer = if known { ok(b"[{\"id\": \"1\"}]") } else { refused.to_vec() };
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
            let _ = heard.send(format!("{name} {head}"));
        }
    });
    (at, requests)
}

fn trusting(at: SocketAddr, ca: &str, server_name: Option<&str>) -> DriverEntry {
    let server_name = server_name.map(str::to_owned);
    DriverEntry { tls: Some(DriverTls { ca_file: file(ca), server_name }), ..entry(at) }
}

/// A file that is deleted with the test.
struct Token(PathBuf);

impl Token {
    fn new(test: &str, text: &str) -> Token {
        let path = std::env::temp_dir().join(format!("rollcall-token-{}-{test}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Token(path)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_driver_with_a_certificate_and_a_token_is_asked() {
    let (at, mut requests) = secured("name", "eyj.abc.def").await;
    let token = Token::new("renewed", "eyJ.old.one\n");
    let known = trusting(at, "ca.pem", Some("driver.spark.example"));
    let mut running = ask(DriverEntry { token_file: Some(token.0.clone()), ..known });
    let asked = requests.recv().await.unwrap();
    assert!(
        asked.starts_with("driver.spark.example get /api/v1/applications/app/allexecutors http/1.1"),
        "{asked}"
    );
    assert!(asked.contains(&format!("host: driver.spark.example:{}\r\n", at.port())), "{asked}");
    running.counted(Fate::Failed).await;
    let fleet = running.intake.directory.fleet("etl").unwrap();
    for _ in 0..100 {
        if fleet.notes.driver_trouble().is_some() {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    let trouble = fleet.notes.driver_trouble().expect("the token is old");
    assert_eq!(trouble.code, "Unauthorized");
    assert!(trouble.message.contains(&format!("https://{at}/api")), "{}", trouble.message);
    assert!(
        trouble.message.contains("the token in driver.restTokenFile was not taken"),
        "{}",
        trouble.message
    );
    assert!(!trouble.message.contains("old"), "a secret is shown: {}", trouble.message);
    // The next request uses the renewed token.
    std::fs::write(&token.0, "eyJ.abc.def\n").unwrap();
    assert_eq!(running.report().await.1, 1);
}

#[tokio::test]
async fn a_certificate_for_the_address_needs_no_name() {
    let (at, mut requests) = secured("address", "t").await;
    let token = Token::new("address", "t");
    let known = trusting(at, "address.pem", None);
    let mut running = ask(DriverEntry { token_file: Some(token.0.clone()), ..known });
    assert_eq!(running.report().await.1, 1);
    assert!(requests.recv().await.unwrap().starts_with("no name "), "an address is no name");
}

#[tokio::test]
async fn a_driver_that_proves_nothing_is_not_asked_and_hears_no_token() {
    let token = Token::new("untrusted", "s3cret");
    let (named, mut requests) = secured("name", "s3cret").await;
    let (plain, _) = says(ok(b"[]")).await;
    let (tls, name) = (trusting, Some("driver.spark.example"));
    for (driver, code, parts) in [
        (tls(named, "address.pem", name), "Tls", &["UnknownIssuer", "address.pem vouches for it"][..]),
        (tls(named, "ca.pem", None), "Tls", &["driver.spark.example", "set driver.restTls.serverName"]),
        (tls(named, "ca.pem", Some("another.example")), "Tls", &["set driver.restTls.serverName"]),
        (tls(plain, "ca.pem", name), "Tls", &["the port speaks no TLS"]),
        (tls(named, "README.md", name), "Settings", &["driver.restTls.caFile: there is no certificate in"]),
        (tls(named, "nothing.pem", name), "Settings", &["nothing.pem: No such file"]),
        (entry(named), "NotHttp", &["set driver.restTls"]),
    ] {
        let (said, message) =
            trouble(DriverEntry { token_file: Some(token.0.clone()), ..driver.clone() }).await;
        assert_eq!(said, code, "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
        assert!(!message.contains("s3cret"), "{message}");
    }
    assert!(requests.try_recv().is_err(), "it was polled all the same");
    let (said, message) = trouble(DriverEntry { token_file: Some(file("none")), ..entry(plain) }).await;
    assert!(said == "Settings" && message.contains("driver.restTokenFile: "), "{message}");
    for bad in ["", "two words", "\u{e4}"] {
        std::fs::write(&token.0, bad).unwrap();
        let (_, message) = trouble(DriverEntry { token_file: Some(token.0.clone()), ..entry(plain) }).await;
        assert!(message.contains("does not hold one token, and nothing else"), "{message}");
    }
}
