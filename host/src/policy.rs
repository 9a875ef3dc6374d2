//! `rollcall policy`: what a policy's author and user need, with the same sandbox and the same limits
//! as the daemon.

mod build;

use std::process::ExitCode;

use anyhow::Result;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Build a policy crate into a component.
    Build(build::BuildArgs),
}

pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Build(args) => build::run(args),
    }
}
