//! `rollcall policy list` and `inspect`: the available policies, and the contents of a module.

use std::path::PathBuf;
use std::process::ExitCode;

use ::policy::{Limits, Module, printable};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::modules::{self, Source};
use crate::output::{self, Output};

#[derive(Args)]
pub struct ListArgs {
    /// Module files to list instead of the built-in policies.
    modules: Vec<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Args)]
pub struct InspectArgs {
    /// The module file; without it, the built-in modules.
    module: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub fn list(args: ListArgs) -> Result<ExitCode> {
    let ListArgs { modules: files, output } = args;
    let sandbox = modules::sandbox(Limits::default())?;
    let mut sources = Vec::new();
    for file in &files {
        sources.extend(modules::load(&sandbox, Some(file))?);
    }
    if files.is_empty() {
        sources = modules::load(&sandbox, None)?;
    }
    let policies =
        sources.iter().flat_map(|source| source.module.policies.iter().map(move |policy| (source, policy)));
    match output {
        Output::Json => {
            let policies = policies.map(|(source, policy)| {
                json!({
                    "name": policy.name,
                    "question": policy.question.name(),
                    "module": source.module.name,
                    "version": source.module.version,
                    "digest": source.module.digest,
                    "from": source.from,
                    "docs": policy.docs,
                })
            });
            output::json(&policies.collect::<Vec<_>>())?;
        }
        Output::Table => {
            let rows: Vec<_> = policies
                .map(|(source, policy)| {
                    vec![
                        policy.name.clone(),
                        policy.question.name().into(),
                        source.module.name.clone(),
                        source.from.clone(),
                        summary(&policy.docs),
                    ]
                })
                .collect();
            output::table(&["NAME", "QUESTION", "MODULE", "FROM", "SUMMARY"], &rows)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The first paragraph's first sentence, on one line.
fn summary(docs: &str) -> String {
    let paragraph: Vec<&str> = docs.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    match paragraph.split_once(". ") {
        Some((sentence, _)) => format!("{sentence}."),
        None => paragraph,
    }
}

pub fn inspect(args: InspectArgs) -> Result<ExitCode> {
    let InspectArgs { module, output } = args;
    let limits = Limits::default();
    let sandbox = modules::sandbox(limits)?;
    let sources = modules::load(&sandbox, module.as_deref())?;
    for source in &sources {
        match output {
            Output::Json => output::json(&inspection(source, &limits))?,
            Output::Table => print(source, &limits)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn inspection(source: &Source, limits: &Limits) -> Value {
    let Source { module, from } = source;
    let policies = module.policies.iter().map(|policy| {
        json!({
            "name": policy.name,
            "question": policy.question.name(),
            "docs": policy.docs,
            "settingsSchema": policy.settings_schema,
        })
    });
    json!({
        "name": module.name,
        "version": module.version,
        "from": from,
        "digest": module.digest,
        "sizeBytes": module.size_bytes,
        "contract": "rollcall:policy@1.0.0",
        "worlds": module.worlds(),
        "imports": module.imports,
        "needs": {
            "memories": module.needs.memories,
            "memoryBytesInitial": module.needs.memory_bytes_initial,
            "tables": module.needs.tables,
            "tableElementsInitial": module.needs.table_elements_initial,
        },
        "limits": {
            "cpuMs": limits.cpu.as_millis() as u64,
            "wallMs": limits.wall().as_millis() as u64,
            "memoryBytes": limits.memory_bytes,
            "tableElements": limits.table_elements,
        },
        "policies": policies.collect::<Vec<_>>(),
    })
}

fn print(source: &Source, limits: &Limits) -> Result<()> {
    let Source { module, from } = source;
    let Module { name, version, digest, size_bytes, imports, needs, policies, .. } = module;
    let mut text = format!(
        "{name} {version} ({from})
  digest    sha256:{digest}
  size      {size_bytes} bytes
  contract  rollcall:policy@1.0.0: {}
  imports   {}
  needs     {} of memory and {} table elements to start with
  limits    {} ms CPU, {} ms wall, {} MiB memory, {} table elements for each call
",
        module.worlds().join(", "),
        imports.join(", "),
        format_args!("{} KiB", needs.memory_bytes_initial >> 10),
        needs.table_elements_initial,
        limits.cpu.as_millis(),
        limits.wall().as_millis(),
        limits.memory_bytes >> 20,
        limits.table_elements
    );
    for policy in policies {
        text += &format!("\n  {} ({})\n", policy.name, policy.question.name());
        for line in policy.docs.trim_end().lines() {
            text += &format!("    {line}\n");
        }
        let properties = policy.settings_schema.get("properties").and_then(Value::as_object);
        match properties.filter(|properties| !properties.is_empty()) {
            None => text += "    No settings.\n",
            Some(properties) => {
                text += "    Settings:\n";
                for (key, schema) in properties {
                    text += &format!("      {}\n", printable(&setting(key, schema), 500));
                }
            }
        }
    }
    output::line(text)
}

fn setting(key: &str, schema: &Value) -> String {
    let text = |field| schema.get(field).and_then(Value::as_str).unwrap_or_default();
    let default = schema.get("default").map(|value| format!(", default {value}")).unwrap_or_default();
    format!("{key} ({}{default})  {}", text("type"), text("description"))
}
