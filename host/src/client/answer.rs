//! Turns the daemon's JSON into readable output.
//!
//! Text in the JSON may come from a pod, which is untrusted: control characters that a terminal would interpret are
//! removed. JSON output is passed on unchanged, including fields that this version does not know.

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::http::wire::{Accepted, ExecutorResult, Executors, Explained, Failure, Fleet, Fleets};

#[derive(Debug)]
pub struct Answer {
    pub json: Value,
    /// Printed with an empty line between them.
    pub blocks: Vec<Block>,
    /// Printed to standard error.
    pub notes: Vec<String>,
    /// Something was refused, or does not exist.
    pub refused: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Block {
    Line(String),
    Table { header: &'static [&'static str], rows: Vec<Vec<String>> },
}

pub fn fleets(json: Value) -> Result<Answer> {
    let Fleets { fleets } = read(&json)?;
    let block = if fleets.is_empty() {
        Block::Line("no fleets: check the files and directories that the daemon was started with".to_owned())
    } else {
        table(FLEET, fleets.iter().map(fleet_row))
    };
    Ok(answer(json, vec![block]))
}

pub fn fleet(mut json: Value, executors: Value) -> Result<Answer> {
    let fleet: Fleet = read(&json)?;
    let Executors { executors: rows, .. } = read(&executors)?;
    let mut blocks = vec![table(FLEET, [fleet_row(&fleet)])];
    if !rows.is_empty() {
        let rows = rows.iter().map(|one| {
            let heard = one.since_heartbeat_ms.map_or("never".to_owned(), |ms| duration(ms) + " ago");
            let node = one.node.as_deref().map_or("-".to_owned(), plain);
            vec![one.executor.to_string(), plain(&one.stage), heard, node, plain(&one.pod)]
        });
        blocks.push(table(&["EXECUTOR", "STAGE", "HEARD", "NODE", "POD"], rows));
    }
    if !fleet.conditions.is_empty() {
        let rows = fleet.conditions.iter().map(|one| vec![plain(&one.name), plain(&one.message)]);
        blocks.push(table(&["CONDITION", "MESSAGE"], rows));
    }
    json["executors"] = executors["executors"].clone();
    Ok(answer(json, blocks))
}

pub fn explained(json: Value) -> Result<Answer> {
    let Explained { executor, stage, not_rolled, history } = read(&json)?;
    let stage = stage.map_or("gone".to_owned(), |stage| plain(&stage));
    let why = not_rolled.map_or("-".to_owned(), |why| plain(&format!("{} ({})", why.message, why.code)));
    let mut blocks =
        vec![table(&["EXECUTOR", "STAGE", "NOT ROLLED BECAUSE"], [vec![executor.to_string(), stage, why]])];
    if !history.is_empty() {
        let rows = history.iter().map(|entry| vec![time(entry.at_ms), plain(&entry.text)]);
        blocks.push(table(&["TIME", "WHAT"], rows));
    }
    Ok(answer(json, blocks))
}

/// The daemon accepted a command, although perhaps not for every executor that it named.
pub fn accepted(fleet: &str, done: &str, json: Value) -> Result<Answer> {
    let Accepted { executors } = read(&json)?;
    let block =
        if executors.is_empty() { Block::Line(format!("{fleet}: {done}")) } else { results(&executors) };
    let refused = executors.iter().any(|one| one.refused.is_some());
    Ok(Answer { refused, ..answer(json, vec![block]) })
}

/// `about` names the object of the request: a fleet, or the daemon.
pub fn refused(about: &str, json: Value) -> Result<Answer> {
    let Failure { error, executors } = read(&json)?;
    let blocks = if executors.is_empty() { vec![] } else { vec![results(&executors)] };
    let note = format!("{about}: {} ({})", plain(&error.message), plain(&error.code));
    Ok(Answer { json, blocks, notes: vec![note], refused: true })
}

/// Replaces control characters, which a terminal would interpret.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Formats a time with a precision of seconds.
pub fn time(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |at| format!("{at:.0}"))
}

const FLEET: &[&str] = &[
    "NAMESPACE",
    "FLEET",
    "MODE",
    "PHASE",
    "TARGET",
    "AVAILABLE",
    "PENDING",
    "TERMINATING",
    "LOST",
    "ROLLED",
];

fn fleet_row(fleet: &Fleet) -> Vec<String> {
    let counts = &fleet.counts;
    let numbers = [
        u64::from(fleet.target),
        counts.available,
        counts.pending,
        counts.terminating,
        counts.lost.values().sum(),
        counts.removed.get("roll").copied().unwrap_or(0),
    ];
    let words = [&fleet.namespace, &fleet.fleet, &fleet.mode, &fleet.phase].map(|word| plain(word));
    words.into_iter().chain(numbers.map(|number| number.to_string())).collect()
}

fn results(executors: &[ExecutorResult]) -> Block {
    let rows = executors.iter().map(|one| {
        let result = one.refused.as_ref();
        let result = result.map_or("ok".to_owned(), |why| plain(&format!("{} ({})", why.message, why.code)));
        vec![one.executor.to_string(), result]
    });
    table(&["EXECUTOR", "RESULT"], rows)
}

fn duration(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    format!("{:#}", SignedDuration::from_secs(seconds))
}

fn table(header: &'static [&'static str], rows: impl IntoIterator<Item = Vec<String>>) -> Block {
    Block::Table { header, rows: rows.into_iter().collect() }
}

fn answer(json: Value, blocks: Vec<Block>) -> Answer {
    Answer { json, blocks, notes: Vec::new(), refused: false }
}

fn read<T: DeserializeOwned>(json: &Value) -> Result<T> {
    T::deserialize(json).context("cannot parse the daemon's answer; does the daemon have another version?")
}
