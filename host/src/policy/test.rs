//! `rollcall policy test`: cases in YAML, run in the real sandbox.
//!
//! The budget is fuel, so a case has the same result on every machine, and a case may limit the cost of its policy.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::policy::{Question, Sandbox, SettingsError};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::input::{Asked, Document};
use super::modules::{self, Source};
use super::{evidence, input};
use crate::output::{self, Output};
use crate::spark::refusal;

/// Enough for any reasonable policy over 10,000 executors, and used up in about a second.
const FUEL: u64 = 1_000_000_000;

#[derive(Args)]
pub struct TestArgs {
    /// Files of cases.
    #[arg(required = true)]
    cases: Vec<PathBuf>,
    /// The module to test instead of the built-in ones or the one that the file names.
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A file of cases.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CaseFile {
    /// The module, relative to this file; without it, the built-in modules.
    module: Option<PathBuf>,
    /// The policy of all cases that do not name one.
    policy: Option<String>,
    /// The settings of all cases that have none of their own.
    settings: Option<Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    policy: Option<String>,
    settings: Option<Value>,
    /// What to ask about, here or in a JSON file beside this one.
    fleet: Option<Value>,
    fleet_file: Option<PathBuf>,
    evidence: Option<Value>,
    evidence_file: Option<PathBuf>,
    #[serde(default)]
    min_tasks: i32,
    /// The time of the question, milliseconds since the epoch.
    #[serde(default)]
    now_ms: i64,
    expect: Expectation,
}

/// What must hold of the answer; texts must be contained.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expectation {
    /// `roll`, `nothing`, `known`, `undetermined`, `abstain`, or the label of a fault.
    outcome: Option<String>,
    /// Executor ids, in order.
    picks: Option<Vec<ExecutorId>>,
    reason: Option<String>,
    kind: Option<String>,
    exit_caused_by_app: Option<bool>,
    exit_code: Option<i32>,
    keep_pod: Option<bool>,
    message: Option<String>,
    /// The settings are refused, with this in the message.
    settings_refused: Option<String>,
    fuel_max: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ExecutorId {
    Number(u64),
    Text(String),
}

impl Display for ExecutorId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExecutorId::Number(id) => id.fmt(f),
            ExecutorId::Text(id) => id.fmt(f),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    file: String,
    case: String,
    policy: String,
    passed: bool,
    problems: Vec<String>,
    fuel: Option<u64>,
}

pub fn run(args: TestArgs) -> Result<ExitCode> {
    let TestArgs { cases: files, module, output } = args;
    let sandbox = modules::lab(FUEL)?;
    let mut outcomes = Vec::new();
    for path in &files {
        outcomes
            .extend(run_file(&sandbox, path, module.as_deref()).with_context(|| path.display().to_string())?);
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    match output {
        Output::Json => output::json(&outcomes)?,
        Output::Table => {
            let row = |outcome: &Outcome| {
                vec![
                    if outcome.passed { "ok" } else { "FAILED" }.into(),
                    outcome.policy.clone(),
                    outcome.fuel.map_or("-".into(), |fuel| fuel.to_string()),
                    outcome.case.clone(),
                ]
            };
            output::table(
                &["RESULT", "POLICY", "FUEL", "CASE"],
                &outcomes.iter().map(row).collect::<Vec<_>>(),
            )?;
            for outcome in outcomes.iter().filter(|outcome| !outcome.passed) {
                output::line(format_args!("\n{}: {}", outcome.file, outcome.case))?;
                for problem in &outcome.problems {
                    output::line(format_args!("  {problem}"))?;
                }
            }
            output::line(format_args!("\n{} passed, {failed} failed", outcomes.len() - failed))?;
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_file(sandbox: &Sandbox, path: &Path, module: Option<&Path>) -> Result<Vec<Outcome>> {
    let text = fs::read_to_string(path).context("cannot read it")?;
    let file: CaseFile = serde_saphyr::from_str(&text).map_err(|error| anyhow!("{error}"))?;
    if file.cases.is_empty() {
        bail!("it has no cases");
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let own = file.module.as_ref().map(|module| directory.join(module));
    let sources = modules::load(sandbox, module.or(own.as_deref()))?;
    let outcome = |case: &Case| -> Result<Outcome> {
        let policy = case.policy.as_ref().or(file.policy.as_ref());
        let policy = policy.ok_or_else(|| anyhow!("neither the case nor the file names a policy"))?;
        let settings = case.settings.as_ref().or(file.settings.as_ref());
        let ran = run_case(sandbox, &sources, case, policy, settings, directory);
        // A failed case does not hide the results of the others.
        let (problems, fuel) = ran.unwrap_or_else(|error| (vec![format!("{error:#}")], None));
        Ok(Outcome {
            file: path.display().to_string(),
            case: case.name.clone(),
            policy: policy.clone(),
            passed: problems.is_empty(),
            problems,
            fuel,
        })
    };
    let named = |case| outcome(case).with_context(|| format!("case {:?}", case.name));
    file.cases.iter().map(named).collect()
}

fn run_case(
    sandbox: &Sandbox,
    sources: &[Source],
    case: &Case,
    policy: &str,
    settings: Option<&Value>,
    directory: &Path,
) -> Result<(Vec<String>, Option<u64>)> {
    let fleet: Option<Document> = document(&case.fleet, &case.fleet_file, directory)?;
    let loss: Option<Value> = document(&case.evidence, &case.evidence_file, directory)?;
    let question = match (&fleet, &loss) {
        (Some(_), None) => Question::Roll,
        (None, Some(_)) => Question::Loss,
        (None, None) | (Some(_), Some(_)) => bail!("give one of fleet, fleetFile, evidence, evidenceFile"),
    };
    let (module, _) = modules::find(sources, policy, question)?;
    if let Some(text) = &case.expect.settings_refused {
        if !case.expect.is_only_settings_refused() {
            bail!("settingsRefused stands alone: refused settings give no answer to check");
        }
        let settings = settings.cloned().unwrap_or_else(|| json!({}));
        let problems = match module.settings(policy, &settings) {
            Ok(_) => vec!["the settings were accepted, expected a refusal".into()],
            Err(SettingsError::Problems(problems)) => {
                let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
                let problem = (!message.contains(text)).then(|| format!("expected {text:?} in {message:?}"));
                problem.into_iter().collect()
            }
            Err(error) => vec![format!("{error:#}")],
        };
        return Ok((problems, None));
    }
    let settings = modules::settings(module, policy, settings)?;
    let mut left_out = None;
    let (answer, fuel) = match (fleet, loss) {
        (Some(document), _) => {
            let Asked { question, warning } = input::roll_question(&document, case.min_tasks, case.now_ms)?;
            left_out = warning;
            let evaluation = sandbox.select(module, policy, &settings, &question);
            (answer::selection(policy, &question, &evaluation), evaluation.cost.fuel)
        }
        (None, document) => {
            let evidence = evidence::evidence(&document.unwrap_or_default(), case.now_ms)?;
            let evaluation = sandbox.classify(module, policy, &settings, &evidence);
            (answer::verdict(policy, &evaluation), evaluation.cost.fuel)
        }
    };
    let mut problems = case.expect.compare(&answer, fuel)?;
    // A case may be about what is left out; one that fails may fail because of it.
    if !problems.is_empty() {
        problems.extend(left_out);
    }
    Ok((problems, fuel))
}

fn document<T: DeserializeOwned>(
    inline: &Option<Value>,
    file: &Option<PathBuf>,
    directory: &Path,
) -> Result<Option<T>> {
    match (inline, file) {
        (Some(_), Some(_)) => bail!("give the input here or in a file, not both"),
        (Some(document), None) => {
            Ok(Some(T::deserialize(document).map_err(|error| anyhow!(refusal(&error)))?))
        }
        (None, Some(file)) => {
            let path = directory.join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let document = serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(&text));
            let document = document.map_err(|error| anyhow!(refusal(&error)));
            Ok(Some(document.with_context(|| format!("in {}", path.display()))?))
        }
        (None, None) => Ok(None),
    }
}

impl Expectation {
    fn is_only_settings_refused(&self) -> bool {
        let Expectation {
            outcome,
            picks,
            reason,
            kind,
            exit_caused_by_app,
            exit_code,
            keep_pod,
            message,
            settings_refused: _,
            fuel_max,
        } = self;
        let texts = [outcome, reason, kind, message].iter().all(|text| text.is_none());
        let flags = exit_caused_by_app.is_none() && keep_pod.is_none();
        texts && flags && picks.is_none() && exit_code.is_none() && fuel_max.is_none()
    }

    /// The differences between the answer and the expectation.
    fn compare(&self, answer: &Answer, fuel: Option<u64>) -> Result<Vec<String>> {
        let mut problems = Problems::default();
        problems.equal("outcome", &self.outcome, &Some(answer.outcome.clone()));
        let picks = answer.picks.iter().flatten().map(|pick| pick.executor_id.clone()).collect::<Vec<_>>();
        let expected = self.picks.as_ref().map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>());
        problems.equal("picks", &expected.map(|ids| ids.join(", ")), &Some(picks.join(", ")));
        let reasons = answer.picks.iter().flatten().map(|pick| pick.reason.as_str());
        let reasons = reasons.chain(answer.reason.as_deref()).collect::<Vec<_>>().join("\n");
        problems.contains("reason", &self.reason, &reasons);
        let verdict = answer.verdict.as_ref();
        problems.equal("kind", &self.kind, &verdict.map(|v| v.kind.clone()));
        problems.equal("exitCausedByApp", &self.exit_caused_by_app, &verdict.map(|v| v.exit_caused_by_app));
        problems.equal("exitCode", &self.exit_code, &verdict.and_then(|v| v.exit_code));
        problems.equal("keepPod", &self.keep_pod, &verdict.map(|v| v.keep_pod));
        problems.contains("message", &self.message, verdict.map_or("", |v| &v.message));
        if let (Some(max), Some(fuel)) = (self.fuel_max, fuel) {
            problems.checked += 1;
            if fuel > max {
                problems.found.push(format!("fuel: at most {max}, it took {fuel}"));
            }
        }
        if problems.checked == 0 {
            bail!("expect is empty: a case that checks nothing cannot fail");
        }
        if let (false, Some(fault)) = (problems.found.is_empty(), &answer.fault) {
            problems.found.push(format!("the fault was: {fault}"));
        }
        Ok(problems.found)
    }
}

#[derive(Default)]
struct Problems {
    found: Vec<String>,
    checked: usize,
}

impl Problems {
    fn equal<T: PartialEq + Display>(&mut self, what: &str, expected: &Option<T>, found: &Option<T>) {
        let Some(wanted) = expected else { return };
        self.checked += 1;
        if expected != found {
            let found = found.as_ref().map_or("nothing".into(), ToString::to_string);
            self.found.push(format!("{what}: expected {wanted}, found {found}"));
        }
    }

    fn contains(&mut self, what: &str, expected: &Option<String>, found: &str) {
        let Some(wanted) = expected else { return };
        self.checked += 1;
        if !found.contains(wanted) {
            self.found.push(format!("{what}: expected {wanted:?} in {found:?}"));
        }
    }
}
