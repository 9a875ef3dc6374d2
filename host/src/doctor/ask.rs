//! Questions to the API server, and through it to the driver. Every answer has a time limit and a size limit, because
//! a driver is user code.

use std::net::SocketAddr;
use std::time::Duration;

use cluster::Client;
use http_body_util::{BodyExt, Limited};
use hyper::{Request, StatusCode};
use kube::core::ObjectList;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::facts::Known;

const TIMEOUT: Duration = Duration::from_secs(15);
/// A list of 500 pods has some 5 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Maximum length of a quoted message.
const QUOTED_MAX: usize = 200;

pub struct Api(pub Client);

impl Api {
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Known<T> {
        self.read(Request::get(path).body(Vec::new())).await
    }

    pub async fn list<T: DeserializeOwned + Clone>(&self, path: &str) -> Known<Vec<T>> {
        Ok(self.get::<ObjectList<T>>(path).await?.items)
    }

    pub async fn post(&self, path: &str, body: &Value) -> Known<Value> {
        let request = Request::post(path).header("content-type", "application/json");
        self.read(request.body(body.to_string().into_bytes())).await
    }

    async fn read<T: DeserializeOwned>(&self, request: hyper::http::Result<Request<Vec<u8>>>) -> Known<T> {
        let request = request.map_err(|error| format!("not a request: {error}"))?;
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let asked = async {
            let response = self.0.send(request.map(Into::into)).await.map_err(|error| chain(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok((status, body))
        };
        let answer = timeout(TIMEOUT, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
        let (status, body) = answer.map_err(|why: String| format!("{method} {path}: {why}"))?;
        if !status.is_success() {
            return Err(refusal(&path, status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| format!("{path}: an unexpected answer: {error}"))
    }
}

/// The API server explains itself in a Status.
fn refusal(path: &str, status: StatusCode, body: &[u8]) -> String {
    let told: Option<Value> = serde_json::from_slice(body).ok();
    let message = told.as_ref().and_then(|told| told["message"].as_str()).map(str::to_owned);
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    format!("{path}: {}: {}", status.as_u16(), message.trim().chars().take(QUOTED_MAX).collect::<String>())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// How the driver's REST API is reached: through the API server, which only needs access to it, or directly, which only
/// works where pods' addresses do.
pub enum Route<'a> {
    Proxy { api: &'a Api, namespace: &'a str, pod: &'a str, port: u16, tls: bool },
    Direct { address: SocketAddr },
}

impl Route<'_> {
    pub async fn get(&self, path: &str) -> Known<Value> {
        match self {
            Route::Proxy { api, namespace, pod, port, tls } => {
                let scheme = if *tls { "https:" } else { "" };
                api.get(&format!("/api/v1/namespaces/{namespace}/pods/{scheme}{pod}:{port}/proxy{path}"))
                    .await
            }
            Route::Direct { address } => {
                let url = format!("http://{address}{path}");
                let failed = |error: reqwest::Error| format!("{url}: {}", chain(&error.without_url()));
                let client =
                    reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
                let mut response = client.build().map_err(failed)?.get(&url).send().await.map_err(failed)?;
                let mut body = Vec::new();
                while let Some(chunk) = response.chunk().await.map_err(failed)? {
                    body.extend_from_slice(&chunk);
                    if body.len() > ANSWER_BYTES_MAX {
                        return Err(format!("{url}: the answer is too long"));
                    }
                }
                if !response.status().is_success() {
                    return Err(refusal(&url, response.status(), &body));
                }
                serde_json::from_slice(&body).map_err(|_| format!("{url}: the answer is not JSON"))
            }
        }
    }
}
