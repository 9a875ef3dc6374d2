//! `rollcall events`: reads server-sent events as they arrive.
//!
//! It parses only the part of the format (WHATWG HTML, 9.2) that the daemon uses: `event:` and `data:` lines, and an
//! empty line that ends an event. The daemon sends comments as keep-alives.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::timeout;

use super::answer::{plain, time};
use super::daemon::Daemon;
use crate::http::wire::{Lagged, Told};

/// Three keep-alive intervals of the daemon.
const SILENT_MAX: Duration = Duration::from_secs(45);
/// The longest line that is accepted, far longer than any that the daemon sends.
const LINE_MAX: usize = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Told(Told),
    Lagged(Lagged),
}

/// Calls `tell` with each event and its JSON, until `tell` or the stream fails. It returns only errors.
pub async fn follow(
    daemon: &Daemon,
    fleet: Option<&str>,
    mut tell: impl FnMut(Heard, &str) -> Result<()>,
) -> Result<Infallible> {
    let query: Vec<_> = fleet.map(|fleet| ("fleet", fleet)).into_iter().collect();
    let mut stream = daemon.stream(&["v1", "events"], &query).await?;
    let mut parser = Parser::default();
    loop {
        let chunk = timeout(SILENT_MAX, stream.chunk()).await.context("the daemon stopped sending")?;
        let Some(chunk) = chunk.context("the event stream was cut off")? else {
            bail!("the daemon ended the event stream");
        };
        for byte in chunk {
            if let Some((heard, json)) = parser.take(byte)? {
                tell(heard, &json)?;
            }
        }
    }
}

/// Formats an event as one line of text.
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
    /// Returns an event if this byte completes one.
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
            let heard = heard.with_context(|| format!("cannot parse the event {data:?}"))?;
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
        // An event type of a newer daemon.
        _ => None,
    })
}
