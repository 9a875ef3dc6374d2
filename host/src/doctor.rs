//! `rollcall doctor`: compares a live application with what Rollcall needs.
//!
//! There are three steps: facts are gathered from the API server, the driver and files (`gather`), every check is a
//! pure function of them (`checks`), and the findings are printed (`report`). A fact that could not be had is not an
//! error of the command: the checks that need it are listed as not run, and never count as passed.
//!
//! Rejected: to ask the daemon. An application that is to adopt Rollcall has no daemon yet, and a daemon's own conditions
//! already say what it sees.

mod ask;
mod checks;
mod connections;
mod driver;
mod facts;
mod gather;
mod report;
mod settings;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use embedded::server::names::{is_label, is_subdomain};

use crate::output::{self, Output};
use report::Report;
use write::Write;

/// Compare a live application with what Rollcall needs, and print what to set. Exit code 0 without errors, 1 with
/// errors; 2 if the application cannot be examined.
#[derive(clap::Args)]
pub struct Args {
    /// The driver's pod. Default: that of the document, or the only driver of the namespace.
    #[arg(value_name = "DRIVER-POD", value_parser = object_name)]
    driver: Option<String>,
    /// Namespace of the driver's pod. Default: that of the document, or of the kubeconfig.
    #[arg(short, long, value_parser = namespace_name)]
    namespace: Option<String>,
    /// File with the fleet's ExecutorFleet document. Without one, Rollcall's defaults are assumed.
    #[arg(short, long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// The fleet's ExecutorFleet object, instead of a file.
    #[arg(long, value_name = "NAME", conflicts_with = "file", value_parser = object_name)]
    fleet: Option<String>,
    /// Rollcall's own namespace.
    #[arg(long, value_name = "NAMESPACE", default_value = "rollcall", value_parser = namespace_name)]
    rollcall_namespace: String,
    /// Rollcall's service account there.
    #[arg(long, value_name = "NAME", default_value = "rollcall", value_parser = object_name)]
    service_account: String,
    /// Kubeconfig file. Default: $KUBECONFIG, ~/.kube/config, or the pod's own service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long)]
    context: Option<String>,
    /// A saved answer of the driver's /api/v1/applications/ID/environment, instead of asking the driver.
    #[arg(long, value_name = "FILE")]
    environment: Option<PathBuf>,
    /// The driver's pod as JSON (kubectl get pod NAME -o json), instead of asking the API server.
    #[arg(long, value_name = "FILE")]
    pod: Option<PathBuf>,
    /// Ask neither the API server nor the driver: check only what the files say.
    #[arg(long)]
    offline: bool,
    /// Print a document for the application (mode Observe, a dry run) instead of the findings.
    #[arg(long, value_enum)]
    write: Option<Write>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let facts = runtime.context("cannot start the async runtime")?.block_on(gather::facts(&args))?;
    let report = Report::new(&facts);
    if let Some(write) = args.write {
        let document = write::document(&facts, write)?;
        match args.output {
            Output::Json => output::json(&document)?,
            Output::Table => output::line(serde_saphyr::to_string(&document)?.trim_end())?,
        }
        output::tell(report.summary());
        return Ok(ExitCode::SUCCESS);
    }
    report.print(args.output)?;
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn object_name(text: &str) -> Result<String, String> {
    let right = is_subdomain(text);
    right.then(|| text.to_owned()).ok_or_else(|| "a name has only a-z, 0-9, - and .".to_owned())
}

fn namespace_name(text: &str) -> Result<String, String> {
    is_label(text).then(|| text.to_owned()).ok_or_else(|| "a namespace has only a-z, 0-9 and -".to_owned())
}
