//! Foreign modules are compiled, and tried for the first time, in a process of their own.
//!
//! *Intuition.* What a compiler spends on a module is up to the module's author, and a compiler cannot be
//! interrupted. A process can: the kernel counts its CPU time and its memory, and it can be killed. So the program
//! starts itself with a hidden subcommand, hands it the module, and takes back either machine code or the reason of a
//! refusal. One at a time, at the lowest priority; it ends with its parent.
//!
//! *Rule.* The parent never parses foreign bytes: it looks at their size and first eight bytes, and takes their
//! digest. The child does everything that [`Sandbox::load`] does, from the fence to the schemas; only what passes
//! all of it is handed back.
//!
//! *Trust.* Loading machine code is as good as running it, so the parent loads only what comes out of the pipe of a
//! child that it has started from its own executable, and what carries the seal of its own cache. Could a module
//! take over the compiler in the child by a bug, the code handed back would be the attacker's: in the parent, where
//! the compiler ran before, it would have been so at once. The child bounds what compiling costs; that the compiler
//! is right remains an assumption, as it is of every module that runs. It has no environment, no files, and no way
//! out but the pipe; the parent bounds what it takes from there.
//!
//! *Rejected:* a thread (it cannot be killed, nor its memory be told from ours), a long-lived compiler process (one
//! module could wait there for the next), `RLIMIT_AS` (an instance reserves 4 GiB of addresses that cost nothing;
//! `RLIMIT_DATA` counts what is writable).

use std::ffi::OsString;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde_json::{Value, json};

use crate::guest_log::printable;
use crate::limits::{Limits, MODULE_BYTES};
use crate::module::Refusal;
use crate::sandbox::{Engines, Mode, Sandbox};

/// Who turns a module into machine code.
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// This process, behind the fence alone: for modules that are trusted, and in tests.
    #[default]
    Here,
    /// A process for each module: a program that calls [`compile_child`] when it is started with these arguments.
    Child { program: PathBuf, arguments: Vec<OsString>, limits: ChildLimits },
}

/// What compiling one module may take. All of it grows with the module: components of Python have 38 MB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChildLimits {
    /// CPU time, for a small module and for each MiB. Ours, of 0.3 MB, take 0.3 s.
    pub cpu_s: u64,
    pub cpu_s_per_mib: u64,
    /// Writable memory. Ours take 35 MiB. The daemon's container has 512 MiB as a rule, of which this is half; an
    /// interpreter with its library, a gigabyte in all, needs a larger one.
    pub memory_bytes: u64,
    pub memory_bytes_per_mib: u64,
}

impl Default for ChildLimits {
    fn default() -> Self {
        ChildLimits { cpu_s: 10, cpu_s_per_mib: 2, memory_bytes: 256 << 20, memory_bytes_per_mib: 20 << 20 }
    }
}

/// Wall time for each second of CPU: at the lowest priority on a machine that is busy, it has to wait.
const WALL_FACTOR: u32 = 6;
/// Machine code is three to five times the module; what a small one has beside it is some 100 KiB.
const CODE_BYTES: u64 = 16 << 20;
const CODE_FACTOR: u64 = 8;
/// A refusal, and what the child says when it dies.
const TEXT_BYTES: u64 = 16 << 10;
const HEADER_BYTES: u64 = 4 << 10;
/// It writes none, but what memories begin with is laid out in a file in memory.
const FILE_BYTES: u64 = 64 << 20;
/// Its three streams, and what the runtime opens.
const FILES: u64 = 32;

/// The first byte of an answer.
const CODE: u8 = b'C';
const REFUSED: u8 = b'R';

/// How the child is to compile: as the parent's engine would.
pub(crate) struct Job {
    pub(crate) mode: Mode,
    pub(crate) engines: Engines,
    pub(crate) limits: Limits,
}

/// The module's machine code, from a child.
pub(crate) fn compile(
    (program, arguments, limits): (&PathBuf, &[OsString], &ChildLimits),
    job: &Job,
    bytes: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let size_bytes = bytes.len() as u64;
    let mib = size_bytes >> 20;
    let cpu_s = limits.cpu_s + limits.cpu_s_per_mib * mib;
    let memory_bytes = limits.memory_bytes + limits.memory_bytes_per_mib * mib;
    let code_max = CODE_BYTES + CODE_FACTOR * size_bytes;
    let wall = Duration::from_secs(cpu_s) * WALL_FACTOR;
    let unable = |error: io::Error| Refusal::NoCompiler(printable(&error.to_string(), 200));
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(unable)?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Refusal::NoCompiler("it has no pipes".into()));
    };
    let group = Pid::from_child(&child);
    let late = AtomicBool::new(false);
    let (done, over) = mpsc::channel::<()>();
    let (mut answer, mut said) = (Vec::new(), Vec::new());
    let read = std::thread::scope(|scope| {
        let header = header(job, cpu_s, memory_bytes);
        scope.spawn(move || {
            // A child that has died reads no more; its end says why.
            let _ = stdin.write_all(&header).and_then(|()| stdin.write_all(bytes));
        });
        let late = &late;
        scope.spawn(move || {
            if over.recv_timeout(wall) == Err(mpsc::RecvTimeoutError::Timeout) {
                late.store(true, Ordering::Relaxed);
                // It is not waited for before `done` is gone, so the number is still its own.
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
            }
        });
        let read = stdout.take(code_max + 2).read_to_end(&mut answer);
        let read = read.and_then(|_| stderr.take(TEXT_BYTES).read_to_end(&mut said));
        // Whatever it does now is of no use. It keeps the status of its own, if it has ended.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        drop(done);
        read
    });
    let status = child.wait().map_err(unable)?;
    read.map_err(unable)?;
    if answer.len() as u64 > code_max + 1 {
        return Err(Refusal::TooDear(format!("gave more than {code_max} bytes of machine code")));
    }
    match answer.split_first() {
        Some((&CODE, _)) => {
            answer.remove(0);
            Ok(answer)
        }
        Some((&REFUSED, why)) => Err(Refusal::Found(printable(&String::from_utf8_lossy(why), 1_500))),
        Some(_) | None if late.load(Ordering::Relaxed) => {
            Err(Refusal::TooDear(format!("took more than {} s", wall.as_secs())))
        }
        Some(_) | None => Err(death(status, &String::from_utf8_lossy(&said), cpu_s, memory_bytes)),
    }
}

/// Why it gave no answer.
fn death(status: ExitStatus, said: &str, cpu_s: u64, memory_bytes: u64) -> Refusal {
    let signal = status.signal().unwrap_or(0);
    if signal == Signal::XCPU.as_raw() {
        return Refusal::TooDear(format!("took more than {cpu_s} s of CPU"));
    }
    if said.contains("memory allocation") || said.contains("out of memory") {
        return Refusal::TooDear(format!("took more than {} MiB of memory", memory_bytes >> 20));
    }
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    Refusal::TooDear(format!("ended with {status}: {}", printable(last, 300)))
}

fn header(job: &Job, cpu_s: u64, memory_bytes: u64) -> Vec<u8> {
    let fuel = match job.mode {
        Mode::Serve => None,
        Mode::Lab { fuel } => Some(fuel),
    };
    let header = json!({
        "parent": rustix::process::getpid().as_raw_pid(),
        "cpuS": cpu_s,
        "memoryBytes": memory_bytes,
        "fuel": fuel,
        "narrow": job.engines == Engines::Narrow,
        "callCpuMs": u64::try_from(job.limits.cpu.as_millis()).unwrap_or(u64::MAX),
        "callMemoryBytes": job.limits.memory_bytes,
        "callTableElements": job.limits.table_elements,
    });
    format!("{header}\n").into_bytes()
}

/// The child: reads a module from standard input, and writes its machine code, or why there is none, to standard
/// output. For a hidden subcommand; nothing else may have started threads or opened files.
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

/// Takes everything from this process that it does not need, before it has seen anything foreign.
fn confine(parent: u64, cpu_s: u64, memory_bytes: u64) -> io::Result<()> {
    let most = |resource, most: u64| {
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    // The signal of the soft limit has a name of its own; a second later comes the one that cannot be caught.
    let cpu = Rlimit { current: Some(cpu_s), maximum: Some(cpu_s + 1) };
    rustix::process::setrlimit(Resource::Cpu, cpu)?;
    most(Resource::Data, memory_bytes)?;
    most(Resource::Core, 0)?;
    most(Resource::Fsize, FILE_BYTES)?;
    most(Resource::Nofile, FILES)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that.
    let still = rustix::process::getppid().map(|pid| pid.as_raw_pid());
    if still.and_then(|pid| u64::try_from(pid).ok()) != Some(parent) {
        return Err(io::Error::other("the parent is gone"));
    }
    // Politeness: a machine that refuses is no reason not to compile.
    let _ = rustix::process::nice(19);
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}
