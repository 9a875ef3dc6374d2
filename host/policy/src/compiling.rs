//! The process that compiles one module: the counterpart of `child`.

use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal};
use serde_json::Value;

use crate::child::{CODE, HEADER_BYTES, Job, REFUSED};
use crate::engine::{Engines, Mode};
use crate::limits::{Limits, MODULE_BYTES};
use crate::refusal::Refusal;
use crate::sandbox::Sandbox;

/// It writes no files, but the initial contents of memories are in a memory-backed file.
const FILE_BYTES: u64 = 64 << 20;
/// Its three streams, and files that the runtime opens.
const FILES: u64 = 32;

/// The child: reads a module from standard input, and writes its machine code, or the reason of a refusal, to
/// standard output. For a hidden subcommand; nothing else may have started threads or opened files.
pub fn compile_child() -> ExitCode {
    match answer(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    input.by_ref().take(HEADER_BYTES).read_until(b'\n', &mut line)?;
    let header: Value = serde_json::from_slice(&line)?;
    let number = |name: &str| header[name].as_u64().ok_or_else(|| io::Error::other(format!("no {name}")));
    confine(number("parent")?, number("cpuS")?, number("memoryBytes")?)?;
    let mut bytes = Vec::new();
    input.take(MODULE_BYTES + 1).read_to_end(&mut bytes)?;
    let job = Job {
        mode: header["fuel"].as_u64().map_or(Mode::Serve, |fuel| Mode::Lab { fuel }),
        engines: if header["narrow"] == true { Engines::Narrow } else { Engines::OnDemand },
        limits: Limits {
            cpu: Duration::from_millis(number("callCpuMs")?),
            memory_bytes: usize::try_from(number("callMemoryBytes")?).unwrap_or(usize::MAX),
            table_elements: usize::try_from(number("callTableElements")?).unwrap_or(usize::MAX),
        },
    };
    match Sandbox::compiling(&job).map_err(io::Error::other)?.machine_code(&bytes) {
        Ok(code) => {
            output.write_all(&[CODE])?;
            output.write_all(&code)?;
        }
        Err(refusal) => {
            output.write_all(&[REFUSED])?;
            output.write_all(told(&refusal).as_bytes())?;
        }
    }
    output.flush()
}

fn told(refusal: &Refusal) -> String {
    let mut text = refusal.to_string();
    let mut cause = std::error::Error::source(refusal);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Drops everything that this process does not need, before it reads untrusted bytes.
fn confine(parent: u64, cpu_s: u64, memory_bytes: u64) -> io::Result<()> {
    let most = |resource, most: u64| {
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    // The soft limit has a signal of its own; a second later comes the one that cannot be caught.
    let cpu = Rlimit { current: Some(cpu_s), maximum: Some(cpu_s + 1) };
    rustix::process::setrlimit(Resource::Cpu, cpu)?;
    most(Resource::Data, memory_bytes)?;
    most(Resource::Core, 0)?;
    most(Resource::Fsize, FILE_BYTES)?;
    most(Resource::Nofile, FILES)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before that.
    let still = rustix::process::getppid().map(|pid| pid.as_raw_pid());
    if still.and_then(|pid| u64::try_from(pid).ok()) != Some(parent) {
        return Err(io::Error::other("the parent is gone"));
    }
    // Best effort: compile even if the machine refuses this.
    let _ = rustix::process::nice(19);
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}
