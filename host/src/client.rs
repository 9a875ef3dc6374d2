//! The command line's side of `/v1`: `status`, `explain`, `events`, and the commands.
//!
//! Three steps, apart from each other: a command line becomes one request (`ask`), the daemon's JSON
//! becomes an `Answer`, and the answer is printed, as tables for people or as the daemon's own JSON for
//! scripts. Only the last one writes anything. A refusal is an answer too, with exit code 1; what keeps
//! us from an answer, a daemon that is not there or a token that is wrong, is an error, with 2.

mod answer;
mod daemon;
mod events;
#[cfg(test)]
mod tests;

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

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Ask(Question),
    /// Follow what happens, one line for each event.
    Events {
        /// Of this fleet alone.
        #[arg(long, value_parser = fleet_name)]
        fleet: Option<String>,
        #[command(flatten)]
        to: Connection,
    },
}

/// What gets one answer.
#[derive(Debug, Subcommand)]
pub enum Question {
    /// Show all fleets, or one with its executors and conditions.
    Status {
        #[arg(value_parser = fleet_name)]
        fleet: Option<String>,
        #[command(flatten)]
        to: Connection,
    },
    /// Say why an executor is where it is, and why it is not rolled.
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
        /// Without one: whichever the fleet's roll policy picks.
        executor: Option<u64>,
        #[command(flatten)]
        to: Connection,
    },
    /// Kill executors. Without --replace the target goes down by as many.
    Kill {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[arg(required = true)]
        executors: Vec<u64>,
        /// Keep the target, and replace them.
        #[arg(long)]
        replace: bool,
        /// Kill those with running tasks, too.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        to: Connection,
    },
    /// Say how many executors there should be, until the spec's own target changes.
    Scale {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[arg(value_name = "N")]
        executors: u32,
        #[command(flatten)]
        to: Connection,
    },
    /// Change nothing in the cluster until it is resumed.
    Pause {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[command(flatten)]
        to: Connection,
    },
    /// Go on after a pause.
    Resume {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[command(flatten)]
        to: Connection,
    },
    /// Close the breaker, and let a failed fleet allocate again.
    ResetBreaker {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[command(flatten)]
        to: Connection,
    },
    /// Replace a ledger that is refused: by what the daemon knows, or by an empty one with ids beyond all that were seen.
    ResetLedger {
        #[arg(value_parser = fleet_name)]
        fleet: String,
        #[command(flatten)]
        to: Connection,
    },
}

/// Which daemon, by what right, and how its answer is shown.
#[derive(Debug, Args)]
pub struct Connection {
    /// Where the daemon is.
    #[arg(
        long,
        value_name = "URL",
        env = "ROLLCALL_SERVER",
        default_value = "http://127.0.0.1:8080",
        value_parser = server_url
    )]
    server: Url,
    /// File with the daemon's token, which commands need. Without it: the variable ROLLCALL_TOKEN.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Exit code 0 for an answer, 1 for a refusal or something that is not there; an error is 2.
pub fn run(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    runtime.block_on(async {
        match command {
            Command::Ask(question) => print(&ask(&question).await?, question.connection().output),
            Command::Events { fleet, to } => {
                let daemon = Daemon::new(&to)?;
                match events::follow(&daemon, fleet.as_deref(), |heard, json| tell(&heard, json, to.output))
                    .await? {}
            }
        }
    })
}

impl Question {
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
    let daemon = Daemon::new(question.connection())?;
    match question {
        Question::Status { fleet: None, .. } => match daemon.get(&["v1", "fleets"]).await? {
            Reply::Ok(json) => answer::fleets(json),
            Reply::Refused(json) => answer::refused("the daemon", json),
        },
        Question::Status { fleet: Some(fleet), .. } => {
            let executors = ["v1", "fleets", fleet, "executors"];
            let (one, executors) = (daemon.get(&executors[..3]).await?, daemon.get(&executors).await?);
            match (one, executors) {
                (Reply::Ok(one), Reply::Ok(executors)) => answer::fleet(one, executors),
                (Reply::Refused(json), _) | (_, Reply::Refused(json)) => answer::refused(fleet, json),
            }
        }
        Question::Explain { fleet, executor, .. } => {
            let executor = executor.to_string();
            match daemon.get(&["v1", "fleets", fleet, "executors", &executor]).await? {
                Reply::Ok(json) => answer::explained(json),
                Reply::Refused(json) => answer::refused(fleet, json),
            }
        }
        Question::Roll { fleet, executor, .. } => {
            let done =
                executor.map_or("the roll policy is asked".to_owned(), |id| format!("rolling executor {id}"));
            order(&daemon, fleet, "roll", &Roll { executor: *executor }, done).await
        }
        Question::Kill { fleet, executors, replace, force, .. } => {
            let kill = Kill { executors: executors.clone(), replace: *replace, force: *force };
            order(&daemon, fleet, "kill", &kill, "killing".to_owned()).await
        }
        Question::Scale { fleet, executors, .. } => {
            let done = format!("{executors} executors from now on");
            order(&daemon, fleet, "scale", &Scale { executors: *executors }, done).await
        }
        Question::Pause { fleet, .. } => {
            order(&daemon, fleet, "pause", &Nothing {}, "paused".to_owned()).await
        }
        Question::Resume { fleet, .. } => {
            order(&daemon, fleet, "resume", &Nothing {}, "resumed".to_owned()).await
        }
        Question::ResetBreaker { fleet, .. } => {
            order(&daemon, fleet, "reset-breaker", &Nothing {}, "the breaker is reset".to_owned()).await
        }
        Question::ResetLedger { fleet, .. } => {
            order(&daemon, fleet, "reset-ledger", &Nothing {}, "the ledger is replaced".to_owned()).await
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

/// As `metadata.name` of a fleet may be: whatever else it was, it was not meant as one.
fn fleet_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("a fleet's name is made of a-z, 0-9 and -; rollcall status lists them".to_owned())
    }
}
