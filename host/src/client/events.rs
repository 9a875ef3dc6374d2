//! `rollcall events`: server-sent events, read as they come.
//!
//! Of the format (WHATWG HTML, 9.2) only what the daemon sends matters: `event:` and `data:` lines, and
//! an empty line that ends an event. Comments are its signs of life.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::timeout;

use super::answer::{plain, time};
use super::daemon::Daemon;
use crate::http::wire::{Lagged, Told};

/// Three of the daemon's signs of life.
const SILENT_MAX: Duration = Duration::from_secs(45);
/// The longest line, so many times longer than any that is sent.
const LINE_MAX: usize = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Told(Told),
    Lagged(Lagged),
}

/// Tells of each event, and its JSON, until telling fails or the stream does: it never ends well.
pub async fn follow(
    daemon: &Daemon,
    fleet: Option<&str>,
    mut tell: impl FnMut(Heard, &str) -> Result<()>,
) -> Result<Infallible> {
    let query: Vec<_> = fleet.map(|fleet| ("fleet", fleet)).into_iter().collect();
    let mut stream = daemon.stream(&["v1", "events"], &query).await?;
    let mut parser = Parser::default();
    loop {
        let chunk = timeout(SILENT_MAX, stream.chunk()).await.context("the daemon fell silent")?;
        let Some(chunk) = chunk.context("the stream of events broke off")? else {
            bail!("the daemon ended the stream of events");
        };
        for byte in chunk {
            if let Some((heard, json)) = parser.take(byte)? {
                tell(heard, &json)?;
            }
        }
    }
}

/// One line for people.
pub fn line(told: &Told) -> String {
    let executor = told.executor.map_or(String::new(), |executor| format!(" {executor}"));
    let what = format!("{} {}{executor}: {}", told.fleet, told.kind, told.message);
    format!("{} {}", time(told.at_ms), plain(&what))
}

#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    event: String,
    data: String,
}

impl Parser {
    /// An event, when this byte ends one.
    fn take(&mut self, byte: u8) -> Result<Option<(Heard, String)>> {
        if byte != b'\n' {
            ensure!(self.line.len() < LINE_MAX, "an event is longer than {LINE_MAX} bytes");
            self.line.push(byte);
            return Ok(None);
        }
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).context("an event is not UTF-8")?;
        if let Some(event) = line.strip_prefix("event: ") {
            self.event = event.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            self.data = data.to_owned();
        } else if line.is_empty() {
            let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
            let heard = heard(&event, &data);
            let heard = heard.with_context(|| format!("cannot understand the event {data:?}"))?;
            return Ok(heard.map(|heard| (heard, data)));
        }
        Ok(None)
    }
}

fn heard(event: &str, data: &str) -> Result<Option<Heard>> {
    Ok(match event {
        _ if data.is_empty() => None,
        "" => Some(Heard::Told(serde_json::from_str(data)?)),
        "lagged" => Some(Heard::Lagged(serde_json::from_str(data)?)),
        // Of a newer daemon.
        _ => None,
    })
}
