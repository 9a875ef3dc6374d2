//! `rollcall crds`: prints the CustomResourceDefinitions.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::{output, resource};

/// How definitions are printed.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub enum Output {
    /// Documents, separated by `---`.
    #[default]
    Yaml,
    /// A `v1` List.
    Json,
}

pub fn run(output: Output) -> Result<ExitCode> {
    let definitions = resource::definitions();
    match output {
        Output::Yaml => {
            for (number, definition) in definitions.iter().enumerate() {
                if number > 0 {
                    output::line("---")?;
                }
                output::line(serde_saphyr::to_string(definition)?.trim_end())?;
            }
        }
        Output::Json => output::json(&json!({ "apiVersion": "v1", "kind": "List", "items": definitions }))?,
    }
    Ok(ExitCode::SUCCESS)
}
