//! Why there is no report: a code for machines, and a message with a remedy for people.

use std::error::Error;
use std::io;
use std::time::Duration;

use hyper::StatusCode;
use tokio_rustls::rustls::{self, CertificateError, InvalidMessage};

use crate::heartbeat::Fate;
use crate::heartbeat::directory::DriverEntry;

#[derive(Debug, thiserror::Error)]
pub enum PollError {
    #[error("its address is not polled, because it is {0}")]
    Address(&'static str),
    #[error("driver.{0}: {1}")]
    File(&'static str, String),
    #[error("nothing answered within {0:?} at that address")]
    Unreachable(Duration),
    #[error("cannot connect to it")]
    Connect(#[source] io::Error),
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("its answer is not HTTP, or was cut off")]
    Http(#[source] hyper::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("it answered 404: it does not know the application")]
    NotFound,
    #[error("it answered {0}")]
    Denied(StatusCode),
    #[error("it answered {status}, a redirect to {location}; redirects are not followed")]
    Redirect { status: StatusCode, location: String },
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer is longer than {0} bytes, which is more than so many executors need")]
    Oversized(usize),
    #[error("its answer has more than {0} rows, which is more than so many executors need")]
    TooManyRows(usize),
    #[error("its answer was dropped, because other drivers' answers need the memory")]
    Crowded,
    #[error("it answered no JSON but {kind}, which begins with \"{begins}\"")]
    NotJson { kind: String, begins: String },
    #[error("its answer is JSON, but not what Spark's /allexecutors answers: {0}")]
    Content(String),
    #[error("the request was aborted")]
    Task(#[source] tokio::task::JoinError),
}

impl PollError {
    pub fn fate(&self) -> Fate {
        match self {
            PollError::Address(_) => Fate::ForbiddenAddress,
            PollError::NotFound => Fate::NotFound,
            PollError::Oversized(_) | PollError::TooManyRows(_) => Fate::Oversized,
            PollError::NotJson { .. } | PollError::Content(_) => Fate::Malformed,
            PollError::File(..)
            | PollError::Unreachable(_)
            | PollError::Connect(_)
            | PollError::Tls(_)
            | PollError::Http(_)
            | PollError::Timeout(_)
            | PollError::Denied(_)
            | PollError::Redirect { .. }
            | PollError::Status(_)
            | PollError::Crowded
            | PollError::Task(_) => Fate::Failed,
        }
    }

    /// The reason of the condition.
    pub fn code(&self) -> &'static str {
        match self {
            PollError::Address(_) => "ForbiddenAddress",
            PollError::File(..) => "Settings",
            PollError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => "Refused",
            PollError::Unreachable(_) | PollError::Connect(_) => "Unreachable",
            PollError::Tls(_) => "Tls",
            PollError::Http(_) => "NotHttp",
            PollError::Timeout(_) => "Timeout",
            PollError::NotFound => "NotFound",
            PollError::Denied(StatusCode::UNAUTHORIZED) => "Unauthorized",
            PollError::Denied(_) => "Forbidden",
            PollError::Redirect { .. } => "Redirect",
            PollError::Status(_) => "Status",
            PollError::Oversized(_) | PollError::TooManyRows(_) => "TooLarge",
            PollError::Crowded => "Crowded",
            PollError::NotJson { .. } => "NotJson",
            PollError::Content(_) => "WrongContent",
            PollError::Task(_) => "Internal",
        }
    }

    /// A starting driver also fails in this way: its UI is not up, or does not know its application yet.
    pub fn may_be_starting(&self) -> bool {
        match self {
            PollError::Unreachable(_)
            | PollError::Connect(_)
            | PollError::Http(_)
            | PollError::Timeout(_)
            | PollError::NotFound
            | PollError::Status(_)
            | PollError::NotJson { .. }
            | PollError::Crowded
            | PollError::Task(_) => true,
            PollError::Address(_)
            | PollError::File(..)
            | PollError::Tls(_)
            | PollError::Denied(_)
            | PollError::Redirect { .. }
            | PollError::Oversized(_)
            | PollError::TooManyRows(_)
            | PollError::Content(_) => false,
        }
    }

    /// How to fix it.
    pub fn remedy(&self, driver: &DriverEntry) -> String {
        let tls = driver.tls.is_some();
        let port = driver.address.port();
        match self {
            PollError::Address("loopback") => {
                "a driver is asked at its pod's address; for development there is driver.allowLoopback".to_owned()
            }
            PollError::Address(_) => "a driver is asked at its pod's address: is the pod what it says?".to_owned(),
            PollError::File(..) => "give the daemon a file that it can read, in the right form".to_owned(),
            PollError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => format!(
                "nothing listens on port {port}: is driver.restPort what the driver has as {}, and \
                 spark.ui.enabled not false? Spark takes the next port where one is taken",
                if tls { "spark.ssl.ui.port" } else { "spark.ui.port" },
            ),
            PollError::Unreachable(_) | PollError::Connect(_) => {
                "may this daemon reach the driver's pod (NetworkPolicy, service mesh)? From outside of the cluster it \
                 cannot"
                    .to_owned()
            }
            PollError::Timeout(_) => {
                "is the driver busy, or paused in a garbage collection? Is something between that swallows the \
                 connection?"
                    .to_owned()
            }
            PollError::Tls(error) => tls_remedy(error, driver),
            PollError::Http(_) if tls => "is something else than Spark's UI on that port?".to_owned(),
            PollError::Http(_) => format!(
                "does port {port} speak TLS (spark.ssl.ui.enabled)? Then set driver.restTls; otherwise see \
                 driver.restPort"
            ),
            PollError::NotFound => {
                "is the application's id that of this driver (label spark-app-selector, spec.applicationId), and \
                 is driver.restPort its UI's port and not another driver's?"
                    .to_owned()
            }
            PollError::Denied(_) if driver.token_file.is_some() => {
                "the token in driver.restTokenFile was not taken: is it signed with the filter's key, and not expired?"
                    .to_owned()
            }
            PollError::Denied(_) => {
                "the UI has a filter (spark.ui.filters) or ACLs: set driver.restTokenFile to a file with a bearer \
                 token that it takes"
                    .to_owned()
            }
            PollError::Redirect { location, .. } if location.starts_with("https:") && !tls => {
                "the UI wants TLS (spark.ssl.ui.enabled): set driver.restTls, and driver.restPort to the port there"
                    .to_owned()
            }
            PollError::Redirect { .. } => {
                "a login page or a proxy stands before the UI: point driver.restPort at Spark's own port, or set \
                 driver.restTokenFile"
                    .to_owned()
            }
            PollError::Status(StatusCode::SERVICE_UNAVAILABLE) => {
                "Spark answers so while it starts".to_owned()
            }
            PollError::Status(_) => "see the driver's log".to_owned(),
            PollError::Oversized(_) | PollError::TooManyRows(_) => {
                "lower spark.ui.retainedDeadExecutors, if the driver remembers very many executors".to_owned()
            }
            PollError::NotJson { .. } | PollError::Content(_) => {
                "is driver.restPort the port of Spark's UI (spark.ui.port), and nothing between?".to_owned()
            }
            PollError::Crowded | PollError::Task(_) => "it is polled again".to_owned(),
        }
    }
}

fn tls_remedy(error: &io::Error, driver: &DriverEntry) -> String {
    let ca_file = driver.tls.as_ref().map_or(String::new(), |tls| tls.ca_file.display().to_string());
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(certificate)) => {
            #[allow(clippy::wildcard_enum_match_arm, reason = "the others have no remedy of their own")]
            match certificate {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                    "none of the certificates in {ca_file} vouches for it: put its CA's there, or its own if it is \
                     self-signed"
                ),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "set driver.restTls.serverName to a name that its certificate is for".to_owned()
                }
                CertificateError::Other(_) => {
                    "a self-signed certificate must not say that it is a CA: make it with \
                     basicConstraints=CA:FALSE"
                        .to_owned()
                }
                _ => "give the driver a certificate that is valid for a server".to_owned(),
            }
        }
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "the port speaks no TLS: leave out driver.restTls, or set driver.restPort to spark.ssl.ui.port (by \
             default 400 above spark.ui.port)"
                .to_owned()
        }
        Some(_) | None => {
            "does that port speak TLS 1.2 or 1.3 (spark.ssl.ui.enabled), and without asking for a client's certificate \
             (spark.ssl.ui.needClientAuth)?"
                .to_owned()
        }
    }
}

/// The error with its causes.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
