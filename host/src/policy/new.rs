//! `rollcall policy new`: creates a crate for a policy, which builds and passes its own tests.
//!
//! Copies of the SDK and the contract in this binary are put beside it: the crate is self-contained, and host and guest
//! always match.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::output::{self, Output};

#[derive(Args)]
pub struct NewArgs {
    /// Where to make the crate; its last part is the crate's name.
    path: PathBuf,
    /// A loss classifier instead of a roll policy.
    #[arg(long)]
    classify: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Copied unchanged; the paths are the repository's, since the SDK finds the contract by them.
macro_rules! vendored {
    ($($path:literal),+ $(,)?) => {
        [$(($path, include_str!(concat!("../../../", $path)))),+]
    };
}

const VENDORED: [(&str, &str); 7] = vendored![
    "wit/1.0.0/policy.wit",
    "policies/sdk/Cargo.toml",
    "policies/sdk/src/bindings.rs",
    "policies/sdk/src/fleet.rs",
    "policies/sdk/src/lib.rs",
    "policies/sdk/src/log.rs",
    "policies/sdk/src/module.rs",
];

const MANIFEST: &str = include_str!("scaffold/manifest.toml");
const ROLL: &str = include_str!("scaffold/roll.rs.txt");
const ROLL_CASES: &str = include_str!("scaffold/roll.yaml");
const LOSS: &str = include_str!("scaffold/loss.rs.txt");
const LOSS_CASES: &str = include_str!("scaffold/loss.yaml");

pub fn run(args: NewArgs) -> Result<ExitCode> {
    let NewArgs { path, classify, output } = args;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.len() > 64 || !name.bytes().all(letters) {
        bail!("{name:?} cannot be a crate's name: use a-z, 0-9 and -, starting with a letter");
    }
    if path.exists() {
        bail!("{} exists already", path.display());
    }
    let (source, cases) = if classify { (LOSS, LOSS_CASES) } else { (ROLL, ROLL_CASES) };
    let policy = name.replace('-', "_").to_uppercase();
    let fill = |text: &str| text.replace("{name}", name).replace("{POLICY}", &policy);
    write(&path, "Cargo.toml", &fill(MANIFEST))?;
    write(&path, ".gitignore", "/target/\n")?;
    write(&path, "src/lib.rs", &fill(source))?;
    write(&path, "cases.yaml", &fill(cases))?;
    for (file, text) in VENDORED {
        write(&path.join("rollcall"), file, text)?;
    }
    let shown = path.display();
    match output {
        Output::Json => output::json(&serde_json::json!({ "path": path, "name": name, "policy": policy }))?,
        Output::Table => output::line(format_args!(
            "Made {shown}. Next:\n  \
             cd {shown}\n  \
             cargo test                        # the logic, natively\n  \
             rollcall policy build             # {name}.wasm\n  \
             rollcall policy test cases.yaml   # in the sandbox"
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write(root: &Path, file: &str, text: &str) -> Result<()> {
    let path = root.join(file);
    let directory = path.parent().unwrap_or(root);
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
