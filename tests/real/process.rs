//! A program that ends with this process, regardless of how it ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The shell becomes the program. A guard beside it reads an input that is never written to, and kills the program when
/// the input ends: it was closed, or this process is gone.
const GUARDED: &str =
    r#"exec 3<&0; (cat <&3 >/dev/null; kill -9 $$ 2>/dev/null) & exec "$@" 3<&- </dev/null"#;

/// This program, guarded by its standard input: it runs as long as that is open. Its process id is the child's.
pub fn guarded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", GUARDED, "guard"]).arg(program).stdin(Stdio::piped());
    command
}

/// A guarded program that is running; it is killed when this is dropped.
pub struct Process {
    pub child: Child,
    log: PathBuf,
}

impl Process {
    /// Its output is appended to the log.
    pub fn start(mut command: Command, log: PathBuf) -> std::io::Result<Process> {
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Process { child, log })
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // This also ends stopped ones.
        let _ = self.child.kill();
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
