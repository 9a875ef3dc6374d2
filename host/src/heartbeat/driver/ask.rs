//! One request to a driver: one connection of its own, plain or TLS, one answer.
//!
//! Rejected: a client with a connection pool. It saves a handshake every ten seconds, but its errors do not tell which
//! part failed: the connection, the network, TLS, an authentication filter or Spark.
//!
//! The connection always goes to the address that was checked, even if the certificate is for a name: names are never
//! resolved.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::trouble::PollError;
use crate::heartbeat::directory::DriverEntry;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum bytes of the answer's head, and of one read.
const HEAD_MAX: usize = 16 * 1024;
/// Maximum bytes of a file with a token or with certificates: Mozilla's full bundle is 200 KiB.
const FILE_MAX: u64 = 1024 * 1024;

/// The URL of the driver's API, for the request and for messages.
pub fn url(driver: &DriverEntry, application_id: &str) -> String {
    let scheme = if driver.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{}{}", driver.address, path(application_id))
}

// `Directory::set_fleet` accepts only the characters `A-Z a-z 0-9 . _ -`, and not dots alone.
fn path(application_id: &str) -> String {
    format!("/api/v1/applications/{application_id}/allexecutors")
}

/// What a request needs beside the address, read from files.
#[derive(Default)]
pub struct Credentials {
    tls: Option<(TlsConnector, ServerName<'static>)>,
    authorization: Option<HeaderValue>,
}

impl Credentials {
    /// Reads files, so do not call it on a thread that others wait for. It reads them every time, so that the next
    /// request uses a renewed token or certificate.
    pub fn read(driver: &DriverEntry) -> Result<Credentials, PollError> {
        let tls = match &driver.tls {
            None => None,
            Some(tls) => {
                let name = match &tls.server_name {
                    Some(name) => ServerName::try_from(name.clone())
                        .map_err(|error| PollError::File("restTls.serverName", error.to_string()))?,
                    None => ServerName::from(driver.address.ip()),
                };
                let config = trusting(&tls.ca_file).map_err(|why| PollError::File("restTls.caFile", why))?;
                Some((TlsConnector::from(Arc::new(config)), name))
            }
        };
        let authorization = match &driver.token_file {
            None => None,
            Some(file) => Some(bearer(file).map_err(|why| PollError::File("restTokenFile", why))?),
        };
        Ok(Credentials { tls, authorization })
    }
}

fn trusting(file: &Path) -> Result<ClientConfig, String> {
    let pem = read(file)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("{} is not PEM: {error}", file.display()))?;
        roots.add(certificate).map_err(|error| format!("a certificate in {}: {error}", file.display()))?;
    }
    if roots.is_empty() {
        return Err(format!("there is no certificate in {}", file.display()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn bearer(file: &Path) -> Result<HeaderValue, String> {
    let bytes = read(file)?;
    let token = str::from_utf8(&bytes).unwrap_or_default().trim();
    // No part of it may be displayed.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{} does not hold one token, and nothing else", file.display()));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).expect("it is graphic ASCII");
    value.set_sensitive(true);
    Ok(value)
}

/// Only regular files: reading a pipe could block forever.
fn read(file: &Path) -> Result<Vec<u8>, String> {
    policy::read_regular(file, FILE_MAX).map_err(|error| {
        if error.kind() == std::io::ErrorKind::FileTooLarge {
            format!("{} is longer than {FILE_MAX} bytes", file.display())
        } else {
            format!("{}: {error}", file.display())
        }
    })
}

/// An answer that is being read. Dropping it closes the connection.
pub struct Answer {
    pub response: Response<Incoming>,
    _connection: JoinSet<()>,
}

impl Answer {
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, PollError> {
        while let Some(frame) = self.response.body_mut().frame().await {
            // Trailers are ignored.
            if let Ok(data) = frame.map_err(PollError::Http)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

pub async fn get(
    driver: &DriverEntry,
    application_id: &str,
    credentials: Credentials,
) -> Result<Answer, PollError> {
    let Credentials { tls, authorization } = credentials;
    let request = Request::get(path(application_id))
        .header(HOST, host(driver))
        .header(USER_AGENT, "rollcall")
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close");
    let mut request = request.body(Empty::new()).expect("an address and plain characters are a request");
    request.headers_mut().extend(authorization.map(|value| (AUTHORIZATION, value)));
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(driver.address)).await;
    let stream = connecting.map_err(|_| PollError::Unreachable(CONNECT_TIMEOUT))?;
    let stream = stream.map_err(PollError::Connect)?;
    match tls {
        Some((connector, name)) => {
            let stream = connector.connect(name, stream).await.map_err(PollError::Tls)?;
            send(stream, request).await
        }
        None => send(stream, request).await,
    }
}

/// The name that proxies and Jetty compare with the certificate.
fn host(driver: &DriverEntry) -> String {
    let name = driver.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
    let address: SocketAddr = driver.address;
    name.map_or(address.to_string(), |name| format!("{name}:{}", address.port()))
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Answer, PollError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(PollError::Http)?;
    let mut driving = JoinSet::new();
    driving.spawn(async move {
        // Errors are reported with the answer or its body.
        let _ = connection.await;
    });
    let response = sender.send_request(request).await.map_err(PollError::Http)?;
    Ok(Answer { response, _connection: driving })
}
