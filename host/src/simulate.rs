//! `rollcall simulate`: the real core in an in-memory world with all kinds of faults.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fleet::guardrail::Refusal;
use fleet::plant::Plant;
use serde_json::{Value, json};
use sim::campaign::{BAITS, Campaign, RUNS_MIN, core, hunt};
use sim::run::{Options, run as run_seed};

use crate::output::{self, Output};

/// Run the core in a simulated cluster. One seed determines a run, so its number is enough to replay a failure.
#[derive(clap::Args)]
pub struct Args {
    /// Replay one run.
    #[arg(long, conflicts_with_all = ["seeds", "plants"])]
    seed: Option<u64>,
    /// Run a campaign, for instance 0..20000.
    #[arg(long, value_parser = parse_range, conflicts_with = "plants")]
    seeds: Option<Range<u64>>,
    /// With --seed: describe the events of the run in words.
    #[arg(long, requires = "seed")]
    timeline: bool,
    /// Disable one rule of the core (a planted bug), to see whether a checker notices.
    #[arg(long, value_parser = parse_plant, conflicts_with = "plants")]
    plant: Option<Plant>,
    /// Hunt every planted bug: disable one rule after another.
    #[arg(long)]
    plants: bool,
    #[arg(long, default_value = "table")]
    output: Output,
}

pub fn run(args: Args) -> Result<ExitCode> {
    if args.plants {
        return plants(args.output);
    }
    if let Some(seeds) = args.seeds {
        return campaign(seeds, args.plant, args.output);
    }
    one(args.seed.unwrap_or(0), args.plant, args.timeline, args.output)
}

fn parse_range(text: &str) -> Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("write the range as FROM..TO, for instance 0..20000")?;
    let range = from.parse()?..to.parse()?;
    if range.is_empty() {
        bail!("{text} is empty");
    }
    Ok(range)
}

fn parse_plant(name: &str) -> Result<Plant> {
    let known = || Plant::ALL.map(Plant::name).join(", ");
    Plant::ALL
        .into_iter()
        .find(|plant| plant.name() == name)
        .with_context(|| format!("there is no planted bug {name:?}; choose one of {}", known()))
}

fn code(good: bool) -> ExitCode {
    ExitCode::from(u8::from(!good))
}

// ------------------------------------------------------------------------------------------- one run --

fn one(seed: u64, plant: Option<Plant>, timeline: bool, output: Output) -> Result<ExitCode> {
    let report = run_seed(seed, &Options { timeline, ..Options::default() }, &core(plant));
    let good = report.violation.is_none();
    let swarm: Vec<Value> = report
        .swarm
        .iter()
        .map(|(fault, permille)| json!({ "fault": fault.name(), "perMille": permille }))
        .collect();
    match output {
        Output::Json => output::json(&json!({
            "seed": seed,
            "hash": format!("{:016x}", report.hash),
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
            for line in &report.timeline {
                output::line(line)?;
            }
            let on: Vec<&str> = report.swarm.iter().map(|(fault, _)| fault.name()).collect();
            let draft = &report.draft;
            output::line(format_args!("seed      {seed}, hash {:016x}", report.hash))?;
            output::line(format_args!("fleet     {:?} mode, target {}", draft.mode, draft.target))?;
            output::line(format_args!(
                "faults    {}",
                if on.is_empty() { "none".to_owned() } else { on.join(", ") }
            ))?;
            output::line(format_args!("time      {:.0} simulated minutes", report.fleet_hours * 60.0))?;
            match &report.violation {
                None => output::line("violation none")?,
                Some(violation) => output::line(format_args!(
                    "violation {} after {:.3} s: {}",
                    violation.checker,
                    violation.at_ms as f64 / 1_000.0,
                    violation.message
                ))?,
            }
        }
    }
    Ok(code(good))
}

fn fired(counts: impl Iterator<Item = (sim::fault::Fault, u64)>) -> Value {
    counts
        .map(|(fault, count)| (fault.name().to_owned(), Value::from(count)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

// ------------------------------------------------------------------------------------------ campaign --

/// Runs the seeds on all processors. The sum does not depend on which thread runs which seed.
fn run_all(seeds: &Range<u64>, plant: Option<Plant>, started: Instant) -> Campaign {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        let work = |shows: bool| {
            let (next, make) = (&next, core(plant));
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
        output::progress("");
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
    output::progress(&format!(
        "[{bar}] {done}/{all} runs, {violations} violations in this thread, {left_s:.0} s left"
    ));
}

fn campaign(seeds: Range<u64>, plant: Option<Plant>, output: Output) -> Result<ExitCode> {
    let started = Instant::now();
    let sum = run_all(&seeds, plant, started);
    let took_s = started.elapsed().as_secs_f64();
    let enough = sum.runs >= RUNS_MIN;
    let unfired = sum.unfired();
    let silent: Vec<&str> = sum.unrefused().into_iter().map(Refusal::code).collect();
    let good = sum.violations.is_empty() && (unfired.is_empty() && silent.is_empty() || !enough);
    let names: Vec<&str> = unfired.iter().map(|fault| fault.name()).collect();
    match output {
        Output::Json => output::json(&json!({
            "runs": sum.runs,
            "hash": format!("{:016x}", sum.hash()),
            "simulatedHours": sum.fleet_hours,
            "seconds": took_s,
            "fired": fired(sum.fired.iter().map(|(fault, count)| (*fault, *count))),
            "neverFired": names,
            "refusals": sum.refusals.iter().map(|(refusal, count)| (refusal.code().to_owned(), Value::from(*count)))
                .collect::<serde_json::Map<_, _>>(),
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
            output::table(&["FAULT", "NAME", "FIRED"], &rows)?;
            output::line("")?;
            let rows: Vec<Vec<String>> = sum
                .refusals
                .iter()
                .map(|(refusal, count)| vec![refusal.code().to_owned(), count.to_string()])
                .collect();
            output::table(&["GUARD-RAIL", "REFUSED"], &rows)?;
            output::line("")?;
            for (seed, violation) in &sum.violations {
                output::line(format_args!("seed {seed}: {}: {}", violation.checker, violation.message))?;
            }
            output::line(format_args!(
                "{} runs, {:.0} simulated fleet-hours in {took_s:.0} s, hash {:016x}, {} violations",
                sum.runs,
                sum.fleet_hours,
                sum.hash(),
                sum.violations.len()
            ))?;
            if !names.is_empty() {
                output::line(format_args!("never fired: {}", names.join(", ")))?;
            }
            if !silent.is_empty() {
                output::line(format_args!("guard-rails that never refused: {}", silent.join(", ")))?;
            }
            if let Some(seed) = sum.violations.keys().next() {
                let plant = plant.map_or(String::new(), |plant| format!(" --plant {}", plant.name()));
                output::line(format_args!("replay: rollcall simulate --seed {seed}{plant} --timeline"))?;
            }
        }
    }
    Ok(code(good))
}

// -------------------------------------------------------------------------------------------- plants --

fn plants(output: Output) -> Result<ExitCode> {
    let mut rows = Vec::new();
    let mut all = true;
    for bait in &BAITS {
        output::progress(&format!("hunting {}", bait.plant.name()));
        let caught = hunt(bait);
        let found = caught.violation.as_ref();
        all &= found.is_some();
        rows.push((
            bait,
            caught.seeds,
            found.map(|violation| (violation.checker, violation.message.clone())),
        ));
    }
    output::progress("");
    match output {
        Output::Json => output::json(
            &rows
                .iter()
                .map(|(bait, seeds, found)| {
                    json!({
                        "plant": bait.plant.name(),
                        "seeds": seeds,
                        "seedsMax": bait.seeds_max,
                        "checker": found.as_ref().map(|(checker, _)| checker),
                        "message": found.as_ref().map(|(_, message)| message),
                    })
                })
                .collect::<Vec<_>>(),
        )?,
        Output::Table => {
            let rows: Vec<Vec<String>> = rows
                .iter()
                .map(|(bait, seeds, found)| {
                    let (checker, mut message) = found.clone().unwrap_or(("ESCAPED", String::new()));
                    // The beginning of the message is enough here; a replay shows all of it.
                    if let Some((at, _)) = message.char_indices().nth(80) {
                        message.truncate(at);
                        message.push('…');
                    }
                    vec![
                        bait.plant.name().to_owned(),
                        seeds.to_string(),
                        bait.seeds_max.to_string(),
                        checker.to_owned(),
                        message,
                    ]
                })
                .collect();
            output::table(&["PLANTED BUG", "SEEDS", "WITHIN", "CHECKER", "OBJECTION"], &rows)?;
        }
    }
    Ok(code(all))
}
