//! Runs scenarios against any HTTP server, and collects its answers.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::{Request, Response};
use cluster::Client;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::script::{Scenario, Step};
use super::words::Words;

/// Timeout of an answer, and of the next event of a watch. A machine may be busy.
const ANSWER_MAX: Duration = Duration::from_secs(60);
const BODY_BYTES_MAX: usize = 8 << 20;

/// The cluster that is tested, with operations that HTTP does not offer.
pub trait Cluster {
    fn client(&self) -> Client;
    /// Compacts all revisions before this one.
    async fn compact(&self);
}

/// A step that could not be executed.
pub struct Stopped {
    pub line: usize,
    pub why: String,
}

struct Watch {
    stream: Pin<Box<BodyDataStream>>,
    /// Received bytes that are not a whole line yet.
    bytes: Vec<u8>,
}

struct Run<'a, C> {
    cluster: &'a C,
    client: Client,
    namespace: String,
    words: Words,
    watches: BTreeMap<String, Watch>,
}

/// The answers to a scenario's steps, as far as they could be executed.
pub async fn run(
    cluster: &impl Cluster,
    scenario: &Scenario,
    namespace: &str,
) -> (Vec<Vec<String>>, Result<(), Stopped>) {
    let client = cluster.client();
    let (words, watches) = (Words::default(), BTreeMap::new());
    let mut run = Run { cluster, client, namespace: namespace.to_owned(), words, watches };
    let mut answers = Vec::new();
    let body = format!(r#"{{"metadata": {{"name": "{namespace}"}}}}"#);
    if let Err(why) = run.ask("POST", "/api/v1/namespaces", "application/json", &body).await {
        return (answers, Err(Stopped { line: 0, why }));
    }
    for step in &scenario.steps {
        match run.step(step).await {
            Ok(said) => answers.push(said.into_iter().map(|line| line.replace(namespace, "$ns")).collect()),
            Err(why) => return (answers, Err(Stopped { line: step.line, why })),
        }
    }
    (answers, Ok(()))
}

impl<C: Cluster> Run<'_, C> {
    async fn step(&mut self, step: &Step) -> Result<Vec<String>, String> {
        let target = self.words.fill(&step.target, &self.namespace)?;
        let rest = self.words.fill(&step.rest, &self.namespace)?;
        match step.verb.as_str() {
            "WAIT" => sleep(Duration::from_millis(target.parse().map_err(|error| format!("{error}"))?)).await,
            // A list at the current revision waits for the watch cache.
            "SETTLE" => {
                let list = path(&target, &self.namespace);
                whole(self.ask("GET", &list, "application/json", "").await?).await?;
            }
            "COMPACT" => {
                self.cluster.compact().await;
                self.client = self.cluster.client();
            }
            "READ" => return self.read(&target, rest.trim(), &step.shown).await,
            "WATCH" => return self.watch(&target, rest.trim()).await,
            verb => {
                let (kind, body) = content(verb, rest.trim());
                let response = self.ask(verb, &path(&target, &self.namespace), kind, body).await?;
                let (code, body, wait) = whole(response).await?;
                if code == 501 {
                    return Err(body.as_str().unwrap_or_default().to_owned());
                }
                if !step.setup {
                    return Ok(self.words.answer(code, wait.as_deref(), &body, &step.shown));
                }
                if !(200..300).contains(&code) {
                    return Err(format!("{code} {body}"));
                }
            }
        }
        Ok(Vec::new())
    }

    async fn ask(&self, verb: &str, path: &str, kind: &str, body: &str) -> Result<Response<Body>, String> {
        let request = Request::builder().method(verb).uri(path).header("content-type", kind);
        let request = request.header("accept", "application/json").header("user-agent", "rollcall/0.1");
        let request = request.body(body.as_bytes().to_vec().into()).map_err(|error| error.to_string())?;
        let response = timeout(ANSWER_MAX, self.client.send(request)).await.map_err(|_| "no answer")?;
        Ok(response.map_err(|error| error.to_string())?.map(Body::new))
    }

    async fn watch(&mut self, name: &str, target: &str) -> Result<Vec<String>, String> {
        let target = target.replacen('?', "?watch=true&", 1);
        let response = self.ask("GET", &path(&target, &self.namespace), "application/json", "").await?;
        if response.status() != 200 {
            let (code, body, wait) = whole(response).await?;
            if code == 501 {
                return Err(body.as_str().unwrap_or_default().to_owned());
            }
            return Ok(self.words.answer(code, wait.as_deref(), &body, &[]));
        }
        let stream = Box::pin(response.into_body().into_data_stream());
        self.watches.insert(name.to_owned(), Watch { stream, bytes: Vec::new() });
        Ok(vec!["200 watching".to_owned()])
    }

    /// This many events, or all until the end. Consecutive bookmarks are shown as one: their number is not defined.
    async fn read(&mut self, name: &str, count: &str, shown: &[String]) -> Result<Vec<String>, String> {
        let watch = self.watches.get_mut(name).ok_or("there is no such watch")?;
        let count: Option<usize> = count.parse().ok();
        let mut said: Vec<String> = Vec::new();
        while count.is_none_or(|count| said.len() < count) {
            let Some(event) = watch.next().await? else {
                said.push("the end".to_owned());
                break;
            };
            let event = self.words.event(&event, shown);
            if said.last() != Some(&event) || !event.starts_with("BOOKMARK") {
                said.push(event);
            }
        }
        Ok(said)
    }
}

impl Watch {
    async fn next(&mut self) -> Result<Option<Value>, String> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| error.to_string());
            }
            match timeout(ANSWER_MAX, self.stream.next()).await {
                Ok(Some(Ok(bytes))) => self.bytes.extend_from_slice(&bytes),
                Ok(Some(Err(error))) => return Err(error.to_string()),
                Ok(None) if self.bytes.is_empty() => return Ok(None),
                Ok(None) => {
                    return Err(format!("the stream ends with {:?}", String::from_utf8_lossy(&self.bytes)));
                }
                Err(_) => return Err(format!("no event within {} s", ANSWER_MAX.as_secs())),
            }
        }
    }
}

/// Code, body, and `Retry-After`.
async fn whole(response: Response<Body>) -> Result<(u16, Value, Option<String>), String> {
    let wait = response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let code = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), BODY_BYTES_MAX);
    let bytes = timeout(ANSWER_MAX, bytes).await.map_err(|_| "the answer does not end")?;
    let bytes = bytes.map_err(|error| error.to_string())?;
    // Some errors come before any code that writes JSON.
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| "not JSON".into());
    Ok((code, body, wait))
}

/// A path from the root, or one that begins with a resource of the scenario's namespace.
fn path(target: &str, namespace: &str) -> String {
    let group = match target.split(['/', '?']).next() {
        Some("") => return target.to_owned(),
        Some("leases") => "apis/coordination.k8s.io/v1",
        Some("poddisruptionbudgets") => "apis/policy/v1",
        Some(_) | None => "api/v1",
    };
    format!("/{group}/namespaces/{namespace}/{target}")
}

/// The content type, abbreviated or in full, and the body.
fn content<'a>(verb: &str, rest: &'a str) -> (&'a str, &'a str) {
    let (kind, body) = rest.split_once(' ').unwrap_or((rest, ""));
    match kind {
        "merge" => ("application/merge-patch+json", body),
        "strategic" => ("application/strategic-merge-patch+json", body),
        "json" => ("application/json-patch+json", body),
        "apply" => ("application/apply-patch+yaml", body),
        kind if kind.contains('/') && !kind.starts_with(['{', '[', '"']) => (kind, body),
        _ if verb == "PATCH" => ("", rest),
        _ => ("application/json", rest),
    }
}
