//! `rollcall policy`: tools for authors and users of policies, with the same sandbox and the same limits as the daemon.

mod answer;
pub mod bench;
mod build;
mod evidence;
pub mod input;
mod list;
pub mod modules;
mod new;
mod run;
mod test;

use std::process::ExitCode;

use anyhow::Result;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a crate for a policy of your own.
    New(new::NewArgs),
    /// Build policy crates into components.
    Build(build::BuildArgs),
    /// Run test cases in the sandbox.
    Test(test::TestArgs),
    /// Ask a policy about a fleet or about a loss.
    Run(run::RunArgs),
    /// List policies.
    List(list::ListArgs),
    /// Show what is in a module: world, imports, digest, policies, settings, limits.
    Inspect(list::InspectArgs),
    /// Measure what decisions cost.
    Bench(bench::BenchArgs),
}

pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::New(args) => new::run(args),
        Command::Build(args) => build::run(args),
        Command::Test(args) => test::run(args),
        Command::Run(args) => run::run(args),
        Command::List(args) => list::list(args),
        Command::Inspect(args) => list::inspect(args),
        Command::Bench(args) => bench::run(args),
    }
}
