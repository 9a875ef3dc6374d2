//! `rollcall check`: validates documents, and shows their effective configuration.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;

use crate::config::document::Mode;
use crate::config::{self, ClassConfig, Documents, FleetConfig, Problem};
use crate::daemon::Policies;
use crate::output::{self, Output};
use crate::policy::modules::compiler;

/// Validate ExecutorFleet documents. Exit code 0 if all are valid, even with warnings, and 1 if any is invalid.
#[derive(clap::Args)]
pub struct Args {
    /// Files, or directories with *.yaml, *.yml and *.json files.
    #[arg(short, long = "file", value_name = "FILE|DIR", num_args = 1.., required_unless_present = "schema")]
    files: Vec<PathBuf>,
    /// Print the JSON Schema of the document, with descriptions and defaults.
    #[arg(long, conflicts_with_all = ["files", "effective"])]
    schema: bool,
    /// Print the documents with all defaults filled in.
    #[arg(long)]
    effective: bool,
    /// Treat warnings as errors: exit code 1.
    #[arg(long)]
    deny_warnings: bool,
    /// Directory with your own policies, as .wasm files.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: Args) -> Result<ExitCode> {
    if args.schema {
        output::line(format_args!("{:#}", config::schema()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (documents, problems) = match config::load(&args.files) {
        Ok(documents) => {
            let policies = Arc::new(Policies::load(args.policies, compiler())?);
            policies.refresh();
            for refused in policies.refused() {
                output::tell(format_args!("warning: {refused}"));
            }
            let problems = policies.problems(&documents);
            (documents, problems)
        }
        Err(problems) => (Documents::default(), problems),
    };
    let Documents { fleets, classes } = &documents;
    let of_classes = classes.iter().flat_map(|class| class.fleet.warnings()).map(ClassConfig::in_class);
    let warnings: Vec<Problem> = fleets.iter().flat_map(FleetConfig::warnings).chain(of_classes).collect();
    let plain_json = args.output == Output::Json && !args.effective;
    if plain_json {
        output::json(&Report::new(&documents, &problems, &warnings))?;
    } else {
        for problem in &problems {
            output::tell(problem);
        }
        for warning in &warnings {
            output::tell(format_args!("warning: {warning}"));
        }
    }
    if !problems.is_empty() || args.deny_warnings && !warnings.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    for config in fleets {
        match (args.effective, args.output) {
            (false, Output::Json) => {}
            (false, Output::Table) => output::line(format_args!("ok {}", Row::new(config).text()))?,
            (true, Output::Json) => output::json(&config.effective())?,
            (true, Output::Table) => {
                output::line(format_args!("---\n{}", config::yaml(&config.effective())?.trim_end()))?
            }
        }
    }
    for class in classes {
        match (args.effective, args.output) {
            (false, Output::Json) => {}
            (false, Output::Table) => output::line(format_args!("ok {}", ClassRow::new(class).text()))?,
            (true, Output::Json) => output::json(&class.effective())?,
            (true, Output::Table) => {
                output::line(format_args!("---\n{}", config::yaml(&class.effective())?.trim_end()))?
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    /// The valid documents.
    fleets: Vec<Row<'a>>,
    classes: Vec<ClassRow<'a>>,
    problems: &'a [Problem],
    /// Warnings about valid and invalid documents.
    warnings: &'a [Problem],
}

impl<'a> Report<'a> {
    fn new(documents: &'a Documents, problems: &'a [Problem], warnings: &'a [Problem]) -> Report<'a> {
        let wrong: BTreeSet<_> = problems.iter().map(|problem| (&problem.file, problem.document)).collect();
        let is_right = |config: &FleetConfig| !wrong.contains(&(&config.file, Some(config.document)));
        let fleets = documents.fleets.iter().filter(|config| is_right(config)).map(Row::new).collect();
        let classes = documents.classes.iter().filter(|class| is_right(&class.fleet));
        let classes = classes.map(ClassRow::new).collect();
        Report { ok: problems.is_empty(), fleets, classes, problems, warnings }
    }
}

#[derive(Serialize)]
struct ClassRow<'a> {
    name: &'a str,
    /// Empty: all.
    namespaces: &'a [String],
    mode: Mode,
    file: String,
    document: u32,
}

impl<'a> ClassRow<'a> {
    fn new(class: &'a ClassConfig) -> ClassRow<'a> {
        ClassRow {
            name: class.name(),
            namespaces: &class.class.namespaces,
            mode: class.fleet.fleet.spec.mode,
            file: class.fleet.file.to_string_lossy().into_owned(),
            document: class.fleet.document,
        }
    }

    fn text(&self) -> String {
        let namespaces =
            if self.namespaces.is_empty() { "all".to_owned() } else { self.namespaces.join(", ") };
        let ClassRow { name, mode, file, document, .. } = self;
        format!("class {name}: {mode:?}, namespaces: {namespaces} ({file}, document {document})")
    }
}

#[derive(Serialize)]
struct Row<'a> {
    namespace: &'a str,
    name: &'a str,
    mode: Mode,
    executors: u32,
    file: String,
    document: u32,
}

impl<'a> Row<'a> {
    fn new(config: &'a FleetConfig) -> Row<'a> {
        let (metadata, spec) = (&config.fleet.metadata, &config.fleet.spec);
        Row {
            namespace: &metadata.namespace,
            name: &metadata.name,
            mode: spec.mode,
            executors: spec.executors,
            file: config.file.to_string_lossy().into_owned(),
            document: config.document,
        }
    }

    fn text(&self) -> String {
        let mode = match self.mode {
            Mode::Own => "Own",
            Mode::Observe => "Observe",
        };
        let Row { namespace, name, executors, file, document, .. } = self;
        format!("{namespace}/{name}: {mode}, {executors} executors ({file}, document {document})")
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches, error::ErrorKind};

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, ErrorKind> {
        let matches = Args::augment_args(Command::new("check")).try_get_matches_from(args);
        matches.and_then(|matches| Args::from_arg_matches(&matches)).map_err(|error| error.kind())
    }

    #[test]
    fn it_needs_files_or_prints_the_schema() {
        let args = parse(&["check", "-f", "a.yaml", "b", "-f", "c", "--effective"]).unwrap();
        assert_eq!(args.files, ["a.yaml", "b", "c"].map(PathBuf::from));
        assert!(args.effective && !args.schema);
        assert!(parse(&["check", "--schema"]).is_ok());
        assert_eq!(parse(&["check"]).err(), Some(ErrorKind::MissingRequiredArgument));
        assert_eq!(parse(&["check", "--schema", "-f", "a"]).err(), Some(ErrorKind::ArgumentConflict));
    }

    #[test]
    fn what_is_wrong_fails_and_the_rest_is_listed() {
        let example = |name: &str| concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/").to_owned() + name;
        let fleets = config::load(&[example("own.yaml").into(), example("observe.yaml").into()]).unwrap();
        // Only the first document names a policy that is not in this list.
        let policies = ["OUTLIER".to_owned()];
        let problems: Vec<Problem> =
            fleets.fleets.iter().flat_map(|config| config.check(&policies)).collect();
        let report = Report::new(&fleets, &problems, &[]);
        assert!(!report.ok && report.problems.len() == 1);
        let right: Vec<String> = report.fleets.iter().map(Row::text).collect();
        let line = format!("spark/etl: Observe, 20 executors ({}, document 1)", example("observe.yaml"));
        assert_eq!(right, [line]);
    }
}
