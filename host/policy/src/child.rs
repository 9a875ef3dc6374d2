//! Untrusted modules are compiled, and run for the first time, in a separate process.
//!
//! *Intuition.* The author of a module determines what compiling it costs, and a compiler cannot be
//! interrupted. A process can: the kernel counts its CPU time and its memory, and it can be killed. So the
//! program starts itself with a hidden subcommand, passes the module to it, and reads back either machine code
//! or the reason of a refusal. There is one child at a time, at the lowest priority; it ends with its parent.
//!
//! *Rule.* The parent never parses untrusted bytes: it checks their size and first eight bytes, and computes
//! their digest. The child does everything that [`Sandbox::load`](crate::Sandbox::load) does, from the fence to
//! the schemas; only a module that passes all of it is returned.
//!
//! *Trust.* Loading machine code is equivalent to running it, so the parent loads only code from the pipe of a
//! child that it started from its own executable, and code with the seal of its own cache. If a module could
//! exploit a compiler bug to take over the child, the returned code would be the attacker's; when the compiler
//! ran in the parent, such a bug gave the attacker the parent directly. The child bounds the cost of compiling;
//! that the compiler is correct remains an assumption, as it is for every module that runs. The child has no
//! environment, no files, and no output but the pipe; the parent bounds what it reads from there.
//!
//! *Rejected:* a thread (it cannot be killed, and its memory cannot be distinguished from ours), a long-lived
//! compiler process (one module could wait there for the next), `RLIMIT_AS` (an instance reserves 4 GiB of
//! addresses that cost nothing; `RLIMIT_DATA` counts what is writable).

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::engine::{Engines, Mode};
use crate::guest_log::printable;
use crate::limits::Limits;
use crate::refusal::Refusal;

/// Where modules are compiled to machine code.
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// In this process, protected by the fence alone: for trusted modules, and in tests.
    #[default]
    Here,
    /// In a process for each module.
    Child {
        /// The program, which calls [`compile_child`](crate::compile_child) when it is started with `arguments`.
        /// Usually the path of this executable: its output is trusted.
        program: PathBuf,
        /// What tells the program to compile instead of its usual work.
        arguments: Vec<OsString>,
        /// What the process may use.
        limits: ChildLimits,
    },
}

/// Limits for compiling one module. All of them grow with the module: Python components have 38 MB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChildLimits {
    /// CPU time for any module, seconds. The built-in ones, of 0.3 MB, take 0.3 s.
    pub cpu_s: u64,
    /// CPU time in addition, for each full MiB of the module, seconds.
    pub cpu_s_per_mib: u64,
    /// Writable memory for any module (`RLIMIT_DATA`). The built-in ones take 35 MiB. The daemon's container usually has 512 MiB, of which
    /// this is half; an interpreter with its library takes a gigabyte in all and needs a larger container.
    pub memory_bytes: u64,
    /// Writable memory in addition, for each full MiB of the module.
    pub memory_bytes_per_mib: u64,
}

impl Default for ChildLimits {
    fn default() -> Self {
        ChildLimits { cpu_s: 10, cpu_s_per_mib: 2, memory_bytes: 256 << 20, memory_bytes_per_mib: 20 << 20 }
    }
}

/// Wall time for each second of CPU: at the lowest priority on a busy machine, the child has to wait.
const WALL_FACTOR: u32 = 6;
/// Machine code is three to five times the module; a small module has some 100 KiB besides.
const CODE_BYTES: u64 = 16 << 20;
const CODE_FACTOR: u64 = 8;
/// A refusal, and what the child prints when it dies.
const TEXT_BYTES: u64 = 16 << 10;
pub(crate) const HEADER_BYTES: u64 = 4 << 10;
/// The first byte of an answer.
pub(crate) const CODE: u8 = b'C';
pub(crate) const REFUSED: u8 = b'R';

/// How the child has to compile: as the parent's engine would.
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
            // A dead child reads no more; its exit status says why.
            let _ = stdin.write_all(&header).and_then(|()| stdin.write_all(bytes));
        });
        let late = &late;
        scope.spawn(move || {
            if over.recv_timeout(wall) == Err(mpsc::RecvTimeoutError::Timeout) {
                late.store(true, Ordering::Relaxed);
                // The child is not reaped before `done` is gone, so its process id has not been reused.
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
            }
        });
        let read = stdout.take(code_max + 2).read_to_end(&mut answer);
        let read = read.and_then(|_| stderr.take(TEXT_BYTES).read_to_end(&mut said));
        // Anything that it does from now on is useless. If it has ended, it keeps its own exit status.
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

/// Why the child gave no answer.
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
