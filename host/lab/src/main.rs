//! `rollcall-lab`: replays runs of the simulator, runs campaigns, and hunts injected bugs.

#![allow(clippy::disallowed_types, reason = "it measures how long a campaign takes; a run has virtual time")]

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use fleet::guardrail::Refusal;
use fleet::injected_bug::InjectedBug;
use lab::campaign::{Campaign, KNOWN_BUGS, RUNS_MIN, core, hunt};
use lab::fault::Fault;
use lab::run::{Options, run as run_seed};
use serde_json::{Map, Value, json};

/// The core of Rollcall in a simulated cluster.
#[derive(Parser)]
#[command(name = "rollcall-lab", version)]
enum Command {
    Simulate(Simulate),
}

/// Run the core in a simulated cluster. One seed determines a run, so its number is enough to replay a failure.
#[derive(clap::Args)]
struct Simulate {
    /// Replay one run.
    #[arg(long, conflicts_with_all = ["seeds", "bugs"])]
    seed: Option<u64>,
    /// Run a campaign, for instance 0..20000.
    #[arg(long, value_parser = parse_range, conflicts_with = "bugs")]
    seeds: Option<Range<u64>>,
    /// With --seed: describe the events of the run in words.
    #[arg(long, requires = "seed")]
    timeline: bool,
    /// Disable one rule of the core (an injected bug), to see whether a checker notices.
    #[arg(long, value_parser = parse_bug, conflicts_with = "bugs")]
    bug: Option<InjectedBug>,
    /// Hunt every injected bug: disable one rule after another.
    #[arg(long)]
    bugs: bool,
    #[arg(long, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let Command::Simulate(args) = Command::parse();
    let result = match (args.bugs, args.seeds) {
        (true, _) => bugs(args.output),
        (false, Some(seeds)) => campaign(seeds, args.bug, args.output),
        (false, None) => one(args.seed.unwrap_or(0), args.bug, args.timeline, args.output),
    };
    match result {
        Ok(good) => ExitCode::from(u8::from(!good)),
        // The reader of our output, for instance `head`, has closed it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "rollcall-lab: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let remedy = || "write the range as FROM..TO, for instance 0..20000".to_owned();
    let (from, to) = text.split_once("..").ok_or_else(remedy)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| remedy());
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err(format!("{text} is empty")) } else { Ok(range) }
}

fn parse_bug(name: &str) -> Result<InjectedBug, String> {
    let known = || InjectedBug::ALL.map(InjectedBug::name).join(", ");
    let bug = InjectedBug::ALL.into_iter().find(|bug| bug.name() == name);
    bug.ok_or_else(|| format!("there is no injected bug {name:?}; choose one of {}", known()))
}

// -------------------------------------------------------------------------------------------- output --

fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Each column is as wide as its widest cell; the last one is not padded.
fn table(header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for row in all() {
        let padded = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        line(padded.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// Shows the progress on one line that the next call overwrites; `""` clears it. Only if standard error is a terminal.
fn progress(text: &str) {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr().lock(), "\r\x1b[K{text}");
    }
}

// ------------------------------------------------------------------------------------------- one run --

fn one(seed: u64, bug: Option<InjectedBug>, timeline: bool, output: Output) -> io::Result<bool> {
    let report = run_seed(seed, &Options { timeline, ..Options::default() }, &core(bug));
    let good = report.violation.is_none();
    let swarm: Vec<Value> = report
        .swarm
        .iter()
        .map(|(fault, permille)| json!({ "fault": fault.name(), "perMille": permille }))
        .collect();
    match output {
        Output::Json => line(json!({
            "seed": seed,
            "hash": format!("{:016x}", report.hash),
            "fleets": report.fleets,
            "simulatedHours": report.fleet_hours,
            "faults": swarm,
            "fired": fired(report.fired.iter().copied()),
            "violation": report.violation.as_ref().map(|violation| json!({
                "checker": violation.checker,
                "message": violation.message,
                "atMs": violation.at_ms,
            })),
            "timeline": report.timeline,
        }))?,
        Output::Table => {
            for event in &report.timeline {
                line(event)?;
            }
            let on: Vec<&str> = report.swarm.iter().map(|(fault, _)| fault.name()).collect();
            let spec = &report.spec;
            line(format_args!("seed      {seed}, hash {:016x}", report.hash))?;
            line(format_args!("fleet     {:?} mode, target {}", spec.mode, spec.target))?;
            if report.fleets > 1 {
                line(format_args!("beside    {} more", report.fleets - 1))?;
            }
            line(format_args!(
                "faults    {}",
                if on.is_empty() { "none".to_owned() } else { on.join(", ") }
            ))?;
            line(format_args!(
                "time      {:.0} simulated minutes",
                report.fleet_hours * 60.0 / report.fleets as f64
            ))?;
            match &report.violation {
                None => line("violation none")?,
                Some(violation) => line(format_args!(
                    "violation {} after {:.3} s: {}",
                    violation.checker,
                    violation.at_ms as f64 / 1_000.0,
                    violation.message
                ))?,
            }
        }
    }
    Ok(good)
}

fn fired(counts: impl Iterator<Item = (Fault, u64)>) -> Value {
    counts.map(|(fault, count)| (fault.name().to_owned(), Value::from(count))).collect::<Map<_, _>>().into()
}

// ------------------------------------------------------------------------------------------ campaign --

/// Runs the seeds on all processors. The sum does not depend on which thread runs which seed.
fn run_all(seeds: &Range<u64>, bug: Option<InjectedBug>, started: Instant) -> Campaign {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        let work = |shows: bool| {
            let (next, make) = (&next, core(bug));
            move || {
                let mut campaign = Campaign::default();
                let mut shown = Instant::now();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return campaign;
                    }
                    campaign.add(&run_seed(seed, &Options::default(), &make));
                    if shows && shown.elapsed() > Duration::from_millis(200) {
                        shown = Instant::now();
                        show_progress(seeds, seed, campaign.violations.len(), started);
                    }
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(work(thread == 0))).collect();
        let mut sum = Campaign::default();
        for worker in workers {
            sum.merge(worker.join().expect("a run does not panic"));
        }
        progress("");
        sum
    })
}

fn show_progress(seeds: &Range<u64>, seed: u64, violations: usize, started: Instant) {
    let done = seed - seeds.start;
    let all = seeds.end - seeds.start;
    let width = 30;
    let filled = usize::try_from(done * width / all).unwrap_or(0);
    let bar = format!("{}{}", "=".repeat(filled), " ".repeat(30 - filled));
    let left_s = started.elapsed().as_secs_f64() / done.max(1) as f64 * (all - done) as f64;
    progress(&format!(
        "[{bar}] {done}/{all} runs, {violations} violations in this thread, {left_s:.0} s left"
    ));
}

fn campaign(seeds: Range<u64>, bug: Option<InjectedBug>, output: Output) -> io::Result<bool> {
    let started = Instant::now();
    let sum = run_all(&seeds, bug, started);
    let took_s = started.elapsed().as_secs_f64();
    let enough = sum.runs >= RUNS_MIN;
    let unfired = sum.unfired();
    let silent: Vec<&str> = sum.unrefused().into_iter().map(Refusal::code).collect();
    let good = sum.violations.is_empty() && (unfired.is_empty() && silent.is_empty() || !enough);
    let names: Vec<&str> = unfired.iter().map(|fault| fault.name()).collect();
    match output {
        Output::Json => line(json!({
            "runs": sum.runs,
            "hash": format!("{:016x}", sum.hash()),
            "simulatedHours": sum.fleet_hours,
            "seconds": took_s,
            "fired": fired(sum.fired.iter().map(|(fault, count)| (*fault, *count))),
            "neverFired": names,
            "refusals": sum.refusals.iter().map(|(refusal, count)| (refusal.code().to_owned(), Value::from(*count)))
                .collect::<Map<_, _>>(),
            "neverRefused": silent,
            "violations": sum.violations.iter().map(|(seed, violation)| json!({
                "seed": seed,
                "checker": violation.checker,
                "message": violation.message,
                "atMs": violation.at_ms,
            })).collect::<Vec<_>>(),
        }))?,
        Output::Table => {
            let rows: Vec<Vec<String>> = sum
                .fired
                .iter()
                .map(|(fault, count)| {
                    vec![fault.number().to_owned(), fault.name().to_owned(), count.to_string()]
                })
                .collect();
            table(&["FAULT", "NAME", "FIRED"], &rows)?;
            line("")?;
            let rows: Vec<Vec<String>> = sum
                .refusals
                .iter()
                .map(|(refusal, count)| vec![refusal.code().to_owned(), count.to_string()])
                .collect();
            table(&["GUARD-RAIL", "REFUSED"], &rows)?;
            line("")?;
            for (seed, violation) in &sum.violations {
                line(format_args!("seed {seed}: {}: {}", violation.checker, violation.message))?;
            }
            line(format_args!(
                "{} runs, {:.0} simulated fleet-hours in {took_s:.0} s, hash {:016x}, {} violations",
                sum.runs,
                sum.fleet_hours,
                sum.hash(),
                sum.violations.len()
            ))?;
            if !names.is_empty() {
                line(format_args!("never fired: {}", names.join(", ")))?;
            }
            if !silent.is_empty() {
                line(format_args!("guard-rails that never refused: {}", silent.join(", ")))?;
            }
            if let Some(seed) = sum.violations.keys().next() {
                let bug = bug.map_or(String::new(), |bug| format!(" --bug {}", bug.name()));
                line(format_args!("replay: rollcall-lab simulate --seed {seed}{bug} --timeline"))?;
            }
        }
    }
    Ok(good)
}

// ---------------------------------------------------------------------------------------------- bugs --

fn bugs(output: Output) -> io::Result<bool> {
    let mut rows = Vec::new();
    let mut all = true;
    for known in &KNOWN_BUGS {
        progress(&format!("hunting {}", known.bug.name()));
        let caught = hunt(known);
        let found = caught.violation.as_ref();
        all &= found.is_some();
        rows.push((
            known,
            caught.seeds,
            found.map(|violation| (violation.checker, violation.message.clone())),
        ));
    }
    progress("");
    match output {
        Output::Json => line(
            rows.iter()
                .map(|(known, seeds, found)| {
                    json!({
                        "bug": known.bug.name(),
                        "seeds": seeds,
                        "seedsMax": known.seeds_max,
                        "checker": found.as_ref().map(|(checker, _)| checker),
                        "message": found.as_ref().map(|(_, message)| message),
                    })
                })
                .collect::<Value>(),
        )?,
        Output::Table => {
            let rows: Vec<Vec<String>> = rows
                .iter()
                .map(|(known, seeds, found)| {
                    let (checker, mut message) = found.clone().unwrap_or(("ESCAPED", String::new()));
                    // The beginning of the message is enough here; a replay shows all of it.
                    if let Some((at, _)) = message.char_indices().nth(80) {
                        message.truncate(at);
                        message.push('…');
                    }
                    vec![
                        known.bug.name().to_owned(),
                        seeds.to_string(),
                        known.seeds_max.to_string(),
                        checker.to_owned(),
                        message,
                    ]
                })
                .collect();
            table(&["INJECTED BUG", "SEEDS", "WITHIN", "CHECKER", "OBJECTION"], &rows)?;
        }
    }
    Ok(all)
}
