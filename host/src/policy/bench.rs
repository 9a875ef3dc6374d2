//! `rollcall policy bench`: what a decision costs. (`cargo bench --bench policy` shows how much of it is the sandbox.)

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ::policy::{Limits, Module, Policy, Question, Sandbox, Settings};
use anyhow::{Context, Result, anyhow};
use clap::Args;
use fleet::question::{
    Candidate, Container, ContainerRole, ContainerState, Driver, Evidence, Node, Pod, RollQuestion,
    Terminated, Trigger,
};
use serde::Serialize;

use super::modules;
use crate::output::{self, Output};

#[derive(Args)]
pub struct BenchArgs {
    /// Policies to measure instead of all.
    policies: Vec<String>,
    /// A policy module instead of the built-in ones.
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Settings of the policies.
    #[arg(long, value_name = "JSON")]
    settings: Option<String>,
    /// Sizes of the fleets.
    #[arg(long, value_delimiter = ',', value_name = "N,...", default_values_t = [100, 1_000, 10_000],
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    executors: Vec<u32>,
    /// Measured calls for each policy and size.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,
    /// Evaluate the first policy this many times over the smallest fleet, and watch the memory.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    soak: Option<u64>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Microseconds.
#[derive(Clone, Copy, Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    policy: String,
    executors: u32,
    /// Making the store and the instance.
    instantiate_us: Percentiles,
    /// A whole decision in a fresh sandbox, the instance included.
    call_us: Percentiles,
}

pub fn run(args: BenchArgs) -> Result<ExitCode> {
    let BenchArgs { policies: wanted, module, settings, executors, samples, soak, output } = args;
    let sandbox = modules::sandbox(Limits::default())?;
    let sources = modules::load(&sandbox, module.as_deref())?;
    let settings =
        settings.map(|text| serde_json::from_str(&text).context("--settings is not JSON")).transpose()?;
    let all = || {
        sources.iter().flat_map(|source| source.module.policies.iter().map(|policy| (&source.module, policy)))
    };
    if let Some(unknown) = wanted.iter().find(|name| !all().any(|(_, policy)| policy.name == **name)) {
        let names: Vec<&str> = all().map(|(_, policy)| policy.name.as_str()).collect();
        return Err(anyhow!("no policy is named {unknown}; there are: {}", names.join(", ")));
    }
    let chosen: Vec<_> =
        all().filter(|(_, policy)| wanted.is_empty() || wanted.contains(&policy.name)).collect();
    let samples = samples as usize;

    if let Some(evaluations) = soak {
        let (module, policy) = chosen[0];
        let settings = modules::settings(module, &policy.name, settings.as_ref())?;
        let size = executors.iter().min().copied().unwrap_or(100);
        return watch_memory(&sandbox, module, policy, &settings, size, evaluations, output);
    }

    let mut rows = Vec::new();
    for (module, policy) in chosen {
        let settings = modules::settings(module, &policy.name, settings.as_ref())?;
        let sizes = match policy.question {
            Question::Roll => executors.clone(),
            Question::Loss => vec![1],
        };
        for size in sizes {
            output::progress(&format!("{} over {size} executors", policy.name));
            let row = measure(&sandbox, module, policy, &settings, size, samples);
            rows.push(row.with_context(|| format!("{} over {size} executors", policy.name))?);
        }
    }
    output::progress("");
    match output {
        Output::Json => output::json(&rows)?,
        Output::Table => print(&rows, &sandbox)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(
    sandbox: &Sandbox,
    module: &Module,
    policy: &Policy,
    settings: &Settings,
    size: u32,
    samples: usize,
) -> Result<Row> {
    let ask = asker(sandbox, module, policy, settings, size);
    let mut instantiate = Vec::with_capacity(samples);
    let mut call = Vec::with_capacity(samples);
    // A tenth of the samples first, to warm caches and the pool.
    for round in 0..samples + samples / 10 {
        let warm = round >= samples / 10;
        let instance = sandbox.instantiate(module);
        instance.answer?;
        let start = Instant::now();
        ask()?;
        let took = start.elapsed();
        if warm {
            instantiate.push(instance.cost.wall);
            call.push(took);
        }
    }
    Ok(Row {
        policy: policy.name.clone(),
        executors: size,
        instantiate_us: percentiles(&mut instantiate),
        call_us: percentiles(&mut call),
    })
}

/// Evaluates the policy once; only whether the answer is a fault matters here.
fn asker<'a>(
    sandbox: &'a Sandbox,
    module: &'a Module,
    policy: &'a Policy,
    settings: &'a Settings,
    size: u32,
) -> Box<dyn Fn() -> Result<()> + 'a> {
    match policy.question {
        Question::Roll => {
            let question = question(size);
            Box::new(move || {
                Ok(sandbox.select(module, &policy.name, settings, &question).answer.map(drop)?)
            })
        }
        Question::Loss => {
            let evidence = evidence();
            Box::new(move || {
                Ok(sandbox.classify(module, &policy.name, settings, &evidence).answer.map(drop)?)
            })
        }
    }
}

fn percentiles(samples: &mut [Duration]) -> Percentiles {
    samples.sort_unstable();
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    Percentiles { p50: at(0.5), p99: at(0.99) }
}

fn print(rows: &[Row], sandbox: &Sandbox) -> Result<()> {
    let us = |value: f64| if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") };
    let cells = rows.iter().map(|row| {
        vec![
            row.policy.clone(),
            row.executors.to_string(),
            us(row.instantiate_us.p50),
            us(row.instantiate_us.p99),
            us(row.call_us.p50),
            us(row.call_us.p99),
        ]
    });
    let header = ["POLICY", "EXECUTORS", "INSTANCE-P50", "P99", "CALL-P50", "P99"];
    output::table(&header, &cells.collect::<Vec<_>>())?;
    let pooled = if sandbox.is_pooled() { "pooled" } else { "made on demand" };
    output::line(format_args!(
        "\nMicroseconds. A call is a whole decision, its fresh instance included; instances are {pooled}."
    ))
}

fn watch_memory(
    sandbox: &Sandbox,
    module: &Module,
    policy: &Policy,
    settings: &Settings,
    size: u32,
    evaluations: u64,
    output: Output,
) -> Result<ExitCode> {
    let ask = asker(sandbox, module, policy, settings, size);
    let step = (evaluations / 10).max(1);
    let mut rows = Vec::new();
    let start = Instant::now();
    for done in 1..=evaluations {
        ask()?;
        if done == 1 || done % step == 0 {
            rows.push((done, resident_bytes()?, start.elapsed()));
            output::progress(&format!("{done} of {evaluations} evaluations"));
        }
    }
    output::progress("");
    match output {
        Output::Json => {
            let rows = rows.iter().map(|(done, bytes, after)| {
                serde_json::json!({"evaluations": done, "residentBytes": bytes, "afterMs": after.as_millis() as u64})
            });
            output::json(&rows.collect::<Vec<_>>())?;
        }
        Output::Table => {
            let cells = rows.iter().map(|(done, bytes, after)| {
                vec![
                    done.to_string(),
                    format!("{:.1}", *bytes as f64 / (1 << 20) as f64),
                    format!("{:.1}", after.as_secs_f64()),
                ]
            });
            output::line(format_args!("{} over {size} executors", policy.name))?;
            output::table(&["EVALUATIONS", "RSS-MIB", "AFTER-S"], &cells.collect::<Vec<_>>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn resident_bytes() -> Result<u64> {
    let status =
        fs::read_to_string("/proc/self/status").context("the memory in use can only be read on Linux")?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    let kib: u64 = kib.ok_or_else(|| anyhow!("/proc/self/status has no VmRSS"))?;
    Ok(kib << 10)
}

/// A fleet as in the middle of a batch job: no executor is an outlier, so OUTLIER has to check every dimension before
/// it falls back.
pub fn question(size: u32) -> RollQuestion {
    let mut question = RollQuestion {
        fleet: "bench".into(),
        application_id: "spark-bench".into(),
        target: size,
        available: size,
        now_ms: 1_800_000_000_000,
        picks_max: 1,
        ..RollQuestion::default()
    };
    // Distributed evenly: the largest value lies 1.7 standard deviations above the mean.
    let spread = |i: u64, salt: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> salt) % 1_000;
    for i in 0..u64::from(size) {
        question.candidates.push(Candidate {
            id: i + 1,
            add_time_ms: 1_799_990_000_000 + (spread(i, 20) * 1_000) as i64,
            active_tasks: spread(i, 21) as i32 % 5,
            failed_tasks: spread(i, 22) as i32,
            total_tasks: 1_000,
            total_duration_ms: 4_000_000 + (spread(i, 24) * 1_000) as i64,
            total_gc_time_ms: 10_000 + spread(i, 25) as i64,
            total_shuffle_write_bytes: (spread(i, 28) << 20) as i64,
            disk_used_bytes: (spread(i, 30) << 20) as i64,
            peak_jvm_onheap_bytes: (spread(i, 31) << 20) as i64,
            peak_jvm_offheap_bytes: (spread(i, 32) << 16) as i64,
            age_ms: spread(i, 33) * 1_000,
            since_heartbeat_ms: Some(spread(i, 34) * 10),
            node: Some((i / 20) as u32),
            // Counters that no built-in policy reads.
            ..Candidate::default()
        });
    }
    question.nodes = vec![
        Node { zone: Some(0), spot: false, ready: true, cordoned: false, departing: false };
        size.div_ceil(20) as usize
    ];
    question
}

/// A pod whose executor was killed for exceeding its memory limit.
pub fn evidence() -> Evidence {
    Evidence {
        fleet: "bench".into(),
        application_id: "spark-bench".into(),
        executor_id: 7,
        pod_name: "bench-exec-7".into(),
        now_ms: 1_800_000_000_000,
        trigger: Trigger::PodFailed,
        lost_at_ms: 1_800_000_000_000,
        checks_made: 0,
        checks_max: 10,
        ever_registered: true,
        since_heartbeat_ms: Some(3_000),
        our_deletion: None,
        driver: Driver::Running,
        driver_remove_reason: None,
        pod: Some(Pod {
            phase: "Failed".into(),
            reason: None,
            message: None,
            gone: false,
            created_at_ms: Some(1_799_990_000_000),
            deletion_at_ms: None,
            deletion_grace_ms: None,
            conditions: Vec::new(),
            containers: vec![Container {
                name: "spark-kubernetes-executor".into(),
                role: ContainerRole::Executor,
                state: ContainerState::Terminated(Terminated {
                    exit_code: 137,
                    signal: None,
                    reason: Some("OOMKilled".into()),
                    message: None,
                    started_at_ms: Some(1_799_990_000_000),
                    finished_at_ms: Some(1_799_999_999_000),
                }),
                last_terminated: None,
                restart_count: 0,
            }],
            node_name: None,
            scheduling_gates: Vec::new(),
        }),
        node: None,
    }
}
