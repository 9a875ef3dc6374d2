//! Sends one request to the daemon and interprets the response.
//!
//! The daemon's own refusals are answers. Every other response with a status other than 200 is an error that names a
//! remedy.

use std::env;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use super::Connection;
use super::tunnel::Tunnel;
use crate::http::wire::Failure;

/// An answer with 10,000 executors is 2 MB.
const ANSWER_MAX: usize = 16 << 20;
/// The daemon of this machine.
const DEFAULT: &str = "http://127.0.0.1:8080";
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longer than the daemon's own limit for a request.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// Tokens in practice are much shorter.
const TOKEN_MAX: u64 = 4 << 10;

/// The daemon's response.
#[derive(Debug)]
pub enum Reply {
    Ok(Value),
    /// A [`Failure`]: the object does not exist (404), or a guard-rail refused the command (409).
    Refused(Value),
}

/// Does not implement `Debug`, because it holds a secret.
pub struct Daemon {
    client: Client,
    server: Url,
    token: Option<String>,
    _tunnel: Option<Tunnel>,
}

impl Daemon {
    /// `commands`: a token is needed.
    pub async fn new(to: &Connection, commands: bool) -> Result<Daemon> {
        // Proxies are for external hosts, and a redirect would send the token to another server.
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = client.connect_timeout(CONNECT_MAX).build().context("cannot create an HTTP client")?;
        let token = match &to.token_file {
            Some(path) => Some(token_in(path)?),
            None => env::var("ROLLCALL_TOKEN")
                .ok()
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
        };
        let tunnel = if to.tunnels() { Some(to.cluster.open().await?) } else { None };
        let token = match token {
            None if commands && tunnel.is_some() => Some(to.cluster.token().await?),
            token => token,
        };
        let server = tunnel.as_ref().map(|tunnel| &tunnel.server).or(to.server.as_ref());
        let server = server.cloned().map_or_else(|| Url::parse(DEFAULT), Ok)?;
        Ok(Daemon { client, server, token, _tunnel: tunnel })
    }

    pub async fn get(&self, path: &[&str]) -> Result<Reply> {
        let request = self.request(Method::GET, path)?.timeout(ANSWER_TIME_MAX);
        self.reply(self.send(request).await?).await
    }

    pub async fn post(&self, path: &[&str], body: &impl Serialize) -> Result<Reply> {
        let request = self.request(Method::POST, path)?.timeout(ANSWER_TIME_MAX).json(body);
        let request = self.token.iter().fold(request, RequestBuilder::bearer_auth);
        self.reply(self.send(request).await?).await
    }

    /// Opens a streaming response, which does not end.
    pub async fn stream(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Response> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let answer = timeout(ANSWER_TIME_MAX, self.send(self.client.get(url))).await;
        let response =
            answer.with_context(|| format!("the daemon at {} does not respond", self.server))??;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        match self.reply(response).await? {
            Reply::Ok(json) | Reply::Refused(json) => bail!("the daemon at {} answered {json}", self.server),
        }
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder> {
        Ok(self.client.request(method, self.url(path)?))
    }

    fn url(&self, path: &[&str]) -> Result<Url> {
        let mut url = self.server.clone();
        let mut segments = url.path_segments_mut().map_err(|()| anyhow!("{} has no path", self.server))?;
        segments.pop_if_empty().extend(path);
        drop(segments);
        Ok(url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let server = &self.server;
        request.send().await.map_err(|error| {
            let remedy = if error.is_builder() {
                "cannot build the request; does the token have a character that is invalid in a header?"
                    .to_owned()
            } else if error.is_timeout() {
                format!("the daemon at {server} does not respond; is it overloaded, or is --server wrong?")
            } else {
                format!("cannot reach the daemon at {server}; is it running? Set its URL with --server")
            };
            anyhow!(error.without_url()).context(remedy)
        })
    }

    async fn reply(&self, response: Response) -> Result<Reply> {
        let status = response.status();
        let body =
            read(response).await.with_context(|| format!("the response from {} was cut off", self.server))?;
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status == StatusCode::OK && json.is_object() {
            return Ok(Reply::Ok(json));
        }
        let Ok(Failure { error, .. }) = Failure::deserialize(&json) else {
            bail!(
                "{} is not a Rollcall daemon: it answered {status}; set the daemon's URL with --server",
                self.server
            );
        };
        match status {
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => Ok(Reply::Refused(json)),
            StatusCode::UNAUTHORIZED if self.token.is_none() => {
                bail!("commands need the daemon's token: pass it with --token-file or ROLLCALL_TOKEN")
            }
            StatusCode::UNAUTHORIZED => {
                bail!("the daemon does not accept this token: {}", super::answer::plain(&error.message))
            }
            _ => bail!(
                "the daemon answered {status}: {} ({})",
                super::answer::plain(&error.message),
                error.code
            ),
        }
    }
}

async fn read(mut response: Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        ensure!(body.len() + chunk.len() <= ANSWER_MAX, "it is longer than {ANSWER_MAX} bytes");
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn token_in(path: &Path) -> Result<String> {
    let place = || format!("cannot read the token from {}", path.display());
    let mut text = String::new();
    let file = File::open(path).with_context(place)?;
    file.take(TOKEN_MAX).read_to_string(&mut text).with_context(place)?;
    let token = text.trim();
    ensure!(!token.is_empty(), "{}: the file is empty", place());
    Ok(token.to_owned())
}
