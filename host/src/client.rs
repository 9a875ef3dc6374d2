//! The command line's client for `/v1`: `status`, `explain`, `events`, and the commands.
//!
//! There are three separate steps: a command line becomes one request (`ask`), the daemon's JSON becomes an `Answer`,
//! and the answer is printed, as tables for users or as the daemon's own JSON for scripts. Only the last step writes
//! output. A refusal is also an answer, with exit code 1. If there is no answer, because the daemon is not reachable or
//! the token is wrong, that is an error, with exit code 2.

mod answer;
mod daemon;
mod events;
#[cfg(test)]
mod tests;
mod tunnel;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use reqwest::Url;

use crate::http::wire::{Kill, Nothing, Roll, Scale};
use crate::output::{self, Output};
use answer::{Answer, Block};
use daemon::{Daemon, Reply};
use events::Heard;
use tunnel::Cluster;

/// The name of the binary as a plugin of kubectl: `kubectl rollcall`.
pub const PLUGIN: &str = "kubectl-rollcall";

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Ask(Question),
    /// Print events as they happen, one line each.
    Events {
        /// Print only the events of this fleet.
        #[arg(long, value_parser = fleet_name)]
        fleet: Option<String>,
        #[command(flatten)]
        to: Connection,
    },
}

/// A request that gets one answer.
#[derive(Debug, Subcommand)]
pub enum Question {
    /// Show all fleets, or one with its executors and conditions.
    Status {
        #[arg(value_parser = fleet_name)]
        fleet: Option<String>,
        #[command(flatten)]
        to: Connection,
    },
    /// Explain an executor's stage, and why it is not rolled.
    Explain {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        executor: u64,
        #[command(flatten)]
        to: Connection,
    },
    /// Decommission an executor and replace it.
    Roll {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        /// Executor id. Default: the executor that the fleet's roll policy picks.
        executor: Option<u64>,
        #[command(flatten)]
        to: Connection,
    },
    /// Kill executors. Without --replace the target decreases by the number of executors killed.
    Kill {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[arg(required = true)]
        executors: Vec<u64>,
        /// Keep the target, and replace the killed executors.
        #[arg(long)]
        replace: bool,
        /// Also kill executors that run tasks.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        to: Connection,
    },
    /// Set the target number of executors, until the spec's own target changes.
    Scale {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[arg(value_name = "N")]
        executors: u32,
        #[command(flatten)]
        to: Connection,
    },
    /// Stop all changes to the fleet in the cluster, until it is resumed.
    Pause {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[command(flatten)]
        to: Connection,
    },
    /// Resume a paused fleet.
    Resume {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[command(flatten)]
        to: Connection,
    },
    /// Close the circuit breaker, and let a failed fleet allocate again.
    ResetBreaker {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[command(flatten)]
        to: Connection,
    },
    /// Replace a refused ledger: with the daemon's current state, or with an empty ledger and ids beyond all seen.
    ResetLedger {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[command(flatten)]
        to: Connection,
    },
}

/// The daemon to connect to, the token, and the output format.
#[derive(Debug, Args)]
pub struct Connection {
    /// URL of the daemon. Default: http://127.0.0.1:8080; for `kubectl rollcall`, a tunnel through the cluster.
    #[arg(long, value_name = "URL", env = "ROLLCALL_SERVER", value_parser = server_url)]
    server: Option<Url>,
    /// File with the token that commands need: the daemon's, or yours (`rollcall run --authorize`). Default: the
    /// environment variable ROLLCALL_TOKEN; for `kubectl rollcall`, then the token of the kubeconfig.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    // It is large, and every command has it.
    cluster: Box<Cluster>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Exit code 0 for an answer, 1 for a refusal or an object that does not exist; an error is 2.
pub fn run(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    runtime.block_on(async {
        match command {
            Command::Ask(question) => print(&ask(&question).await?, question.connection().output),
            Command::Events { fleet, to } => {
                let daemon = Daemon::new(&to, false).await?;
                let fleet = fleet.map(|fleet| to.qualified(&fleet));
                match events::follow(&daemon, fleet.as_deref(), |heard, json| tell(&heard, json, to.output))
                    .await? {}
            }
        }
    })
}

impl Connection {
    /// Whether the daemon is reached by way of the cluster.
    fn tunnels(&self) -> bool {
        self.server.is_none() && (self.cluster.is_named() || is_plugin())
    }

    /// `NAMESPACE/NAME`, if the namespace is given on its own.
    fn qualified(&self, fleet: &str) -> String {
        match &self.cluster.namespace {
            Some(namespace) if !fleet.contains('/') => format!("{namespace}/{fleet}"),
            Some(_) | None => fleet.to_owned(),
        }
    }

    /// Of a list of fleets, those of the namespace.
    fn keep_own(&self, json: &mut serde_json::Value) {
        if let (Some(namespace), Some(fleets)) = (&self.cluster.namespace, json["fleets"].as_array_mut()) {
            fleets.retain(|fleet| fleet["namespace"] == **namespace);
        }
    }
}

/// This process was started as `kubectl rollcall`.
pub fn is_plugin() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.as_ref().and_then(|path| path.file_stem()).is_some_and(|name| name == PLUGIN)
}

impl Question {
    /// It changes something, and needs a token.
    fn is_command(&self) -> bool {
        match self {
            Question::Status { .. } | Question::Explain { .. } => false,
            Question::Roll { .. }
            | Question::Kill { .. }
            | Question::Scale { .. }
            | Question::Pause { .. }
            | Question::Resume { .. }
            | Question::ResetBreaker { .. }
            | Question::ResetLedger { .. } => true,
        }
    }

    fn connection(&self) -> &Connection {
        match self {
            Question::Status { to, .. }
            | Question::Explain { to, .. }
            | Question::Roll { to, .. }
            | Question::Kill { to, .. }
            | Question::Scale { to, .. }
            | Question::Pause { to, .. }
            | Question::Resume { to, .. }
            | Question::ResetBreaker { to, .. }
            | Question::ResetLedger { to, .. } => to,
        }
    }
}

async fn ask(question: &Question) -> Result<Answer> {
    let to = question.connection();
    let daemon = Daemon::new(to, question.is_command()).await?;
    match question {
        Question::Status { fleet: None, .. } => match daemon.get(&["v1", "fleets"]).await? {
            Reply::Ok(mut json) => {
                to.keep_own(&mut json);
                answer::fleets(json)
            }
            Reply::Refused(json) => answer::refused("the daemon", json),
        },
        Question::Status { fleet: Some(fleet), .. } => {
            let fleet = &to.qualified(fleet);
            let executors = ["v1", "fleets", fleet, "executors"];
            let (one, executors) = (daemon.get(&executors[..3]).await?, daemon.get(&executors).await?);
            match (one, executors) {
                (Reply::Ok(one), Reply::Ok(executors)) => answer::fleet(one, executors),
                (Reply::Refused(json), _) | (_, Reply::Refused(json)) => answer::refused(fleet, json),
            }
        }
        Question::Explain { fleet, executor, .. } => {
            let (fleet, executor) = (&to.qualified(fleet), executor.to_string());
            match daemon.get(&["v1", "fleets", fleet, "executors", &executor]).await? {
                Reply::Ok(json) => answer::explained(json),
                Reply::Refused(json) => answer::refused(fleet, json),
            }
        }
        Question::Roll { fleet, executor, .. } => {
            let done =
                executor.map_or("asking the roll policy".to_owned(), |id| format!("rolling executor {id}"));
            order(&daemon, &to.qualified(fleet), "roll", &Roll { executor: *executor }, done).await
        }
        Question::Kill { fleet, executors, replace, force, .. } => {
            let kill = Kill { executors: executors.clone(), replace: *replace, force: *force };
            order(&daemon, &to.qualified(fleet), "kill", &kill, "killing".to_owned()).await
        }
        Question::Scale { fleet, executors, .. } => {
            let done = format!("the target is now {executors} executors");
            order(&daemon, &to.qualified(fleet), "scale", &Scale { executors: *executors }, done).await
        }
        Question::Pause { fleet, .. } => {
            order(&daemon, &to.qualified(fleet), "pause", &Nothing {}, "paused".to_owned()).await
        }
        Question::Resume { fleet, .. } => {
            order(&daemon, &to.qualified(fleet), "resume", &Nothing {}, "resumed".to_owned()).await
        }
        Question::ResetBreaker { fleet, .. } => {
            order(
                &daemon,
                &to.qualified(fleet),
                "reset-breaker",
                &Nothing {},
                "the circuit breaker is reset".to_owned(),
            )
            .await
        }
        Question::ResetLedger { fleet, .. } => {
            order(
                &daemon,
                &to.qualified(fleet),
                "reset-ledger",
                &Nothing {},
                "the ledger is replaced".to_owned(),
            )
            .await
        }
    }
}

async fn order(
    daemon: &Daemon,
    fleet: &str,
    verb: &str,
    body: &impl serde::Serialize,
    done: String,
) -> Result<Answer> {
    match daemon.post(&["v1", "fleets", fleet, verb], body).await? {
        Reply::Ok(json) => answer::accepted(fleet, &done, json),
        Reply::Refused(json) => answer::refused(fleet, json),
    }
}

fn print(answer: &Answer, output: Output) -> Result<ExitCode> {
    match output {
        Output::Json => output::json(&answer.json)?,
        Output::Table => {
            for (number, block) in answer.blocks.iter().enumerate() {
                if number > 0 {
                    output::line("")?;
                }
                match block {
                    Block::Line(text) => output::line(text)?,
                    Block::Table { header, rows } => output::table(header, rows)?,
                }
            }
        }
    }
    for note in &answer.notes {
        output::tell(format_args!("rollcall: {note}"));
    }
    Ok(if answer.refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn tell(heard: &Heard, json: &str, output: Output) -> Result<()> {
    match (output, heard) {
        (Output::Json, _) => output::line(json)?,
        (Output::Table, Heard::Told(told)) => output::line(events::line(told))?,
        (Output::Table, Heard::Lagged(lagged)) => {
            output::tell(format_args!("rollcall: {} events were missed", lagged.missed));
        }
    }
    Ok(())
}

fn server_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "http" && url.has_host());
    url.ok_or_else(|| {
        "write it as http://HOST:PORT; for a daemon behind TLS, use kubectl port-forward".to_owned()
    })
}

/// `NAME` or `NAMESPACE/NAME`. Any other text cannot be meant as a fleet's name.
fn fleet_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    if [namespace, name].iter().all(|part| !part.is_empty() && part.chars().all(fits)) {
        Ok(text.to_owned())
    } else {
        let remedy = "rollcall status lists the fleets";
        Err(format!("a fleet is NAME or NAMESPACE/NAME, each of a-z, 0-9 and -; {remedy}"))
    }
}
