//! `rollcall policy run`: asks a policy about a fleet, or about a loss, from a file or a pipe.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use ::policy::{Limits, LogLine, Question};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::answer::{self, Answer};
use super::input::{Asked, Document};
use super::{evidence, input, modules};
use crate::output::{self, Output};

#[derive(Args)]
pub struct RunArgs {
    /// Name of the policy, for instance OUTLIER; `rollcall policy list` shows them.
    policy: String,
    /// What Spark's REST API answers at /executors or /allexecutors, a fleet object, or (with --classify)
    /// evidence of a loss. Several documents, as in JSON Lines, give several answers. - is standard input.
    #[arg(value_name = "FILE|-")]
    input: PathBuf,
    /// A policy module instead of the built-in ones.
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Settings of the policy.
    #[arg(long, value_name = "JSON")]
    settings: Option<String>,
    /// Leave out executors that have run fewer tasks (Spark: minTasksPerExecutorBeforeRolling).
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_tasks: i32,
    /// Ask why an executor was lost; the input is evidence.
    #[arg(long)]
    classify: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: RunArgs) -> Result<ExitCode> {
    let RunArgs { policy: name, input: path, module, settings, min_tasks, classify, output } = args;
    let sandbox = modules::sandbox(Limits::default())?;
    let sources = modules::load(&sandbox, module.as_deref())?;
    let question = if classify { Question::Loss } else { Question::Roll };
    let (module, _) = modules::find(&sources, &name, question)?;
    let settings = settings
        .map(|text| {
            serde_json::from_str::<Value>(&text).with_context(|| format!("--settings is not JSON: {text}"))
        })
        .transpose()?;
    let settings = modules::settings(module, &name, settings.as_ref())?;

    let (input, place): (Box<dyn Read>, String) = if path.as_os_str() == "-" {
        (Box::new(io::stdin().lock()), "standard input".into())
    } else {
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if file.metadata().is_ok_and(|meta| meta.is_dir()) {
            bail!("cannot read {}: it is a directory", path.display());
        }
        (Box::new(BufReader::with_capacity(1 << 16, file)), path.display().to_string())
    };
    let mut asked = 0;
    let mut faulty = false;
    for document in read(input, classify) {
        asked += 1;
        let place = || if asked == 1 { place.clone() } else { format!("{place}, document {asked}") };
        let document = document.with_context(place)?;
        let now_ms = Timestamp::now().as_millisecond();
        let (answer, log) = match document {
            Input::Loss(document) => {
                let evidence = evidence::evidence(&document, now_ms).with_context(place)?;
                let evaluation = sandbox.classify(module, &name, &settings, &evidence);
                (answer::verdict(&name, &evaluation), evaluation.log)
            }
            Input::Roll(document) => {
                let Asked { question, warning } =
                    input::roll_question(&document, min_tasks, now_ms).with_context(place)?;
                if let Some(warning) = warning {
                    output::tell(format_args!("rollcall: warning: {}: {warning}", place()));
                }
                let evaluation = sandbox.select(module, &name, &settings, &question);
                (answer::selection(&name, &question, &evaluation), evaluation.log)
            }
        };
        tell(&log);
        faulty |= answer.fault.is_some();
        match output {
            Output::Json => output::json(&answer)?,
            Output::Table => table(&answer)?,
        }
    }
    if asked == 0 {
        return Err(anyhow!("the input is empty").context(place));
    }
    Ok(if faulty { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

enum Input {
    Roll(Document),
    Loss(Value),
}

fn read(input: Box<dyn Read>, classify: bool) -> Box<dyn Iterator<Item = Result<Input>>> {
    if classify {
        Box::new(input::documents(input).map(|document| document.map(Input::Loss)))
    } else {
        Box::new(input::documents(input).map(|document| document.map(Input::Roll)))
    }
}

/// Prints the policy's log lines, separately from the answer.
fn tell(log: &[LogLine]) {
    for line in log {
        output::tell(format_args!("policy {:?}: {}", line.level, line.message));
    }
}

fn table(answer: &Answer) -> Result<()> {
    if let Some(picks) = answer.picks.as_ref().filter(|picks| !picks.is_empty()) {
        let row =
            |pick: &answer::Pick| vec![pick.executor_id.clone(), pick.score.to_string(), pick.reason.clone()];
        output::table(&["EXECUTOR", "SCORE", "REASON"], &picks.iter().map(row).collect::<Vec<_>>())?;
    } else if let Some(verdict) = &answer.verdict {
        let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_string();
        let row = vec![
            verdict.kind.clone(),
            yes_no(verdict.exit_caused_by_app),
            verdict.exit_code.map_or("-".into(), |code| code.to_string()),
            yes_no(verdict.keep_pod),
            verdict.message.clone(),
        ];
        output::table(&["KIND", "APP-CAUSED", "EXIT-CODE", "KEEP-POD", "MESSAGE"], &[row])?;
    } else {
        let row = vec![answer.outcome.clone(), answer.reason.clone().unwrap_or_default()];
        output::table(&["OUTCOME", "REASON"], &[row])?;
    }
    for complaint in &answer.complaints {
        output::tell(format_args!("rollcall: warning: {complaint}"));
    }
    Ok(())
}
