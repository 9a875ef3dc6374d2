//! The report: what was found, and what could not be checked.

use anyhow::Result;
use serde::Serialize;

use super::checks;
use super::facts::{Facts, Finding, Severity};
use crate::config::document::Mode;
use crate::output::{self, Output};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// No error was found. What was not checked may still be wrong.
    ok: bool,
    application: Application,
    /// The worst first.
    pub findings: Vec<Finding>,
    checks: Vec<Ran>,
    /// What no check of this command sees.
    limits: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Application {
    namespace: String,
    driver: String,
    spark_version: Option<String>,
    mode: Mode,
    /// Where the fleet's document is. Without one, Rollcall's defaults were assumed.
    document: Option<String>,
}

#[derive(Serialize)]
struct Ran {
    check: &'static str,
    result: Outcome,
    /// Why it could not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Ok,
    Found,
    NotChecked,
}

impl Report {
    pub fn new(facts: &Facts) -> Report {
        let (mut findings, mut ran) = (Vec::new(), Vec::new());
        for (check, run) in checks::ALL {
            let (result, why) = match run(facts) {
                Ok(found) if found.is_empty() => (Outcome::Ok, None),
                Ok(found) => {
                    findings.extend(found);
                    (Outcome::Found, None)
                }
                Err(why) => (Outcome::NotChecked, Some(why)),
            };
            ran.push(Ran { check, result, why });
        }
        findings.sort_by_key(|finding| finding.severity);
        let settings = facts.settings.as_ref().ok();
        let mut limits =
            vec!["policies of the network plugin's own kinds (Cilium, Calico) and of service meshes"];
        if settings.is_some_and(|settings| settings.submitted) {
            limits.push("settings that the application's code makes: only those of its submission were read");
        }
        if facts.executors().is_err() && facts.namespace.policies.is_ok() {
            limits.push("labels of executors: none was seen, and only spark-role=executor was assumed for NetworkPolicies");
        }
        let version = settings.and_then(|settings| settings.version);
        Report {
            ok: findings.iter().all(|finding| finding.severity != Severity::Error),
            application: Application {
                namespace: facts.namespace.name.clone(),
                driver: facts.driver_name.clone(),
                spark_version: version.map(|(major, minor)| format!("{major}.{minor}")),
                mode: facts.fleet.spec.mode,
                document: facts.fleet.document.clone(),
            },
            findings,
            checks: ran,
            limits,
        }
    }

    pub fn is_ok(&self) -> bool {
        self.ok
    }

    pub fn print(&self, output: Output) -> Result<()> {
        match output {
            Output::Json => output::json(self),
            Output::Table => self.lines().into_iter().try_for_each(output::line),
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for Finding { code, severity, what, why, set, source } in &self.findings {
            lines.push(format!("{severity}[{code}]: {what}"));
            lines.push(format!("  why: {why}"));
            lines.extend(set.iter().map(|line| format!("  {}: {line}", place(line))));
            lines.push(format!("  from: {source}"));
            lines.push(String::new());
        }
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for ran in &self.checks {
            let Some(why) = ran.why.as_deref() else { continue };
            match reasons.iter_mut().find(|(reason, _)| *reason == why) {
                Some((_, checks)) => checks.push(ran.check),
                None => reasons.push((why, vec![ran.check])),
            }
        }
        lines
            .extend(reasons.iter().map(|(why, checks)| format!("not checked[{}]: {why}", checks.join(", "))));
        lines.extend(self.limits.iter().map(|limit| format!("not seen: {limit}")));
        lines.push(String::new());
        lines.push(self.summary());
        lines
    }

    /// `spark/etl-driver (Spark 4.3, mode Observe): 2 errors, ...`
    pub fn summary(&self) -> String {
        let Application { namespace, driver, spark_version, mode, document } = &self.application;
        let version = spark_version.as_ref().map_or(String::new(), |version| format!("Spark {version}, "));
        let mode = match mode {
            Mode::Own => "Own",
            Mode::Observe => "Observe",
        };
        let from = document.as_deref().unwrap_or("no document: Rollcall's defaults");
        let found = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let ran = |result| self.checks.iter().filter(|ran| ran.result == result).count();
        format!(
            "{namespace}/{driver} ({version}mode {mode}, {from}): {}, {}, {} of advice; {} checks are ok, {} could not run",
            counted(found(Severity::Error), "error"),
            counted(found(Severity::Warning), "warning"),
            counted(found(Severity::Advice), "piece"),
            ran(Outcome::Ok),
            ran(Outcome::NotChecked),
        )
    }
}

/// Where a line belongs.
fn place(line: &str) -> &'static str {
    if line.starts_with("kubectl ") {
        "run"
    } else if line.starts_with("spec.") {
        "in the fleet's document"
    } else {
        "set"
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
