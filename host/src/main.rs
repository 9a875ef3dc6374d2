//! `rollcall`: the daemon and its tools. This file only says who answers which command.

mod output;
mod policy;
mod simulate;

use std::process::ExitCode;

use clap::Parser;

/// Keeps fleets of Apache Spark executors at strength.
#[derive(Parser)]
#[command(name = "rollcall", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write, look into, test and run policies.
    #[command(subcommand)]
    Policy(policy::Command),
    Simulate(simulate::Args),
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let result = match command {
        Command::Policy(command) => policy::run(command),
        Command::Simulate(args) => simulate::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::tell(format_args!("rollcall: {error:#}"));
            ExitCode::from(2)
        }
    }
}
