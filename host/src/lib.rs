//! `rollcall`: the daemon and its tools. This file only dispatches the commands.

pub mod check;
pub mod classes;
pub mod client;
pub mod config;
mod crds;
pub mod daemon;
pub mod demo;
mod doctor;
mod eviction;
pub mod eyes;
pub mod files;
pub mod handle;
pub mod heartbeat;
pub mod http;
mod hush;
pub mod listen;
pub mod metrics;
pub mod output;
pub mod policy;
pub mod relay;
pub mod resource;
pub mod run;
pub mod service;
pub mod spark;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

/// Keeps fleets of Apache Spark executors at their target size.
#[derive(Parser)]
#[command(name = "rollcall", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Demo(demo::Args),
    Run(Box<run::Args>),
    Check(check::Args),
    Doctor(doctor::Args),
    /// Print the CustomResourceDefinitions of `rollcall run --watch-fleets`, for `kubectl apply -f -`.
    Crds {
        #[arg(short, long, value_enum, default_value_t)]
        output: crds::Output,
    },
    #[command(flatten)]
    Client(client::Command),
    /// Create, inspect, test and run policies.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Compile one module from standard input, for the parent process.
    #[command(name = policy::modules::COMPILE, hide = true)]
    PolicyCompile,
}

/// The entry point of the binary.
pub fn main() -> ExitCode {
    let cli = Cli::command();
    let cli = if client::is_plugin() { cli.bin_name("kubectl rollcall") } else { cli };
    let Cli { command } = Cli::from_arg_matches(&cli.get_matches()).unwrap_or_else(|error| error.exit());
    let result = match command {
        Command::Demo(args) => demo::run(args),
        Command::Run(args) => run::run(*args),
        Command::Check(args) => check::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Crds { output } => crds::run(output),
        Command::Client(command) => client::run(command),
        Command::Policy(command) => policy::run(command),
        Command::PolicyCompile => Ok(::policy::compile_child()),
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
