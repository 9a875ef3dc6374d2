//! Phrases by which Spark, the JVM and the container runtime say what went wrong.

use rollcall_policy::LossKind;

use crate::Fault;

/// A phrase that was found.
pub(crate) struct Said<'a> {
    pub(crate) kind: LossKind,
    pub(crate) fault: Fault,
    /// The line that holds it.
    pub(crate) line: &'a str,
}

/// How much of a line may precede the phrase.
const BEFORE_BYTES_MAX: usize = 120;

/// The first phrase of the table in a text that comes from the executor or the driver.
pub(crate) fn find(text: &str, ever_registered: bool) -> Option<Said<'_>> {
    let lower = text.to_ascii_lowercase();
    PHRASES.iter().find_map(|(phrase, scope, kind, fault)| {
        let mut start = 0;
        lower.split('\n').find_map(|line| {
            let (begin, end) = (start, start + line.len());
            start = end + 1;
            // At the start of a word: `-XX:+ExitOnOutOfMemoryError` is an option, and no error.
            let starts_a_word = |at: &usize| !line[..*at].ends_with(|c: char| c.is_ascii_alphanumeric());
            let at = begin + line.match_indices(phrase).map(|(at, _)| at).find(starts_a_word)?;
            let counts = match scope {
                Scope::Any => true,
                Scope::Driver => !ever_registered || names_the_driver(line),
            };
            // Some texts arrive as one line, of which a message can only have a part.
            let near = text.floor_char_boundary(at.saturating_sub(BEFORE_BYTES_MAX)).max(begin);
            counts.then(|| Said { kind: kind.clone(), fault: *fault, line: &text[near..end] })
        })
    })
}

/// Where a phrase counts.
enum Scope {
    Any,
    /// Executors also connect to each other and to storage. That it is the driver whom one could not reach, the
    /// line has to say; but before it registers it talks to nothing else.
    Driver,
}

/// Spark's driver, and not that of a database.
fn names_the_driver(line: &str) -> bool {
    let is_apart = |c: char| !c.is_alphanumeric() && c != '-';
    let says_driver = |(at, word): (usize, &str)| {
        (line[..at].is_empty() || line[..at].ends_with(is_apart))
            && (line[at + word.len()..].is_empty() || line[at + word.len()..].starts_with(is_apart))
    };
    ["coarsegrainedscheduler", "-driver-svc", ":7078"].iter().any(|name| line.contains(name))
        || line.match_indices("driver").any(says_driver)
}

/// In lower case. Those that spare the application come first.
const PHRASES: &[(&str, Scope, LossKind, Fault)] = {
    use Fault::*;
    use LossKind::*;
    use Scope::*;
    &[
        ("executor registration failed", Any, DriverConnection, Outside),
        ("slave registration failed", Any, DriverConnection, Outside),
        ("cannot register with driver", Any, DriverConnection, Outside),
        ("duplicate executor id", Any, DriverConnection, Outside),
        ("could not find coarsegrainedscheduler", Any, DriverConnection, Outside),
        ("cannot find endpoint: spark://coarsegrainedscheduler", Any, DriverConnection, Outside),
        // Not "Remote RPC client disassociated", by which the driver says that it does not know.
        ("disassociated! shutting down", Any, DriverConnection, Outside),
        ("executor is excluded", Any, DriverConnection, Outside),
        // Drivers on YARN and of standalone clusters.
        ("worker lost", Any, NodeLost, Outside),
        ("released on a *lost* node", Any, NodeLost, Outside),
        ("was preempted", Any, Preempted, Outside),
        ("no space left on device", Any, Disk, Outside),
        ("disk quota exceeded", Any, Disk, Outside),
        ("read-only file system", Any, Disk, Outside),
        ("failed to create a temp directory", Any, Disk, Outside),
        ("failed to create local dir", Any, Disk, Outside),
        ("unable to create executor", Any, StartFailed, Setup),
        // The JVM's launcher and the shell's.
        ("unrecognized option", Any, Config, Setup),
        ("unrecognized vm option", Any, Config, Setup),
        ("improperly specified vm option", Any, Config, Setup),
        ("invalid maximum heap size", Any, Config, Setup),
        ("invalid initial heap size", Any, Config, Setup),
        ("initial heap size set to a larger value", Any, Config, Setup),
        ("conflicting collector combinations", Any, Config, Setup),
        ("could not reserve enough space for object heap", Any, Config, Setup),
        ("error opening zip file or jar manifest missing", Any, Config, Setup),
        ("could not find or load main class", Any, Config, Setup),
        ("could not create the java virtual machine", Any, Config, Setup),
        ("exec format error", Any, Config, Setup),
        ("exec user process caused", Any, Config, Setup),
        ("unknownhostexception", Driver, DriverConnection, Outside),
        ("name or service not known", Driver, DriverConnection, Outside),
        ("temporary failure in name resolution", Driver, DriverConnection, Outside),
        ("failed to connect to", Driver, DriverConnection, Outside),
        ("connection refused", Driver, DriverConnection, Outside),
        ("connection timed out", Driver, DriverConnection, Outside),
        ("no route to host", Driver, DriverConnection, Outside),
        ("network is unreachable", Driver, DriverConnection, Outside),
        ("connection reset", Driver, DriverConnection, Outside),
        ("rpctimeoutexception", Driver, DriverConnection, Outside),
        ("futures timed out", Driver, DriverConnection, Outside),
        ("cannot receive any reply from", Driver, DriverConnection, Outside),
        ("oomkilled", Any, MemoryLimit, App),
        ("exceeding memory limits", Any, MemoryLimit, App),
        ("exceeding physical memory limits", Any, MemoryLimit, App),
        ("outofmemoryerror", Any, OutOfMemory, App),
        ("outofmemory encountered", Any, OutOfMemory, App),
        ("gc overhead limit exceeded", Any, OutOfMemory, App),
        ("unable to create native thread", Any, OutOfMemory, App),
        ("unable to create new native thread", Any, OutOfMemory, App),
        ("insufficient memory for the java runtime environment", Any, OutOfMemory, App),
        // After the memory that may be the reason.
        ("error occurred during initialization of vm", Any, Config, Setup),
        ("unsupportedclassversionerror", Any, Config, Setup),
        ("uncaught exception", Any, AppFailure, App),
        ("classnotfoundexception", Any, AppFailure, App),
        ("noclassdeffounderror", Any, AppFailure, App),
    ]
};

/// Did the JVM run the command of `-XX:OnOutOfMemoryError`, which is `kill` with most people? Its options alone may
/// name that one, too.
pub(crate) fn killed_itself(text: &str) -> bool {
    text.contains("-XX:OnOutOfMemoryError") && text.contains("Executing")
}

/// Does the container runtime say that there is nothing to execute? `no such file` and `permission denied` are also
/// what it says of a volume that cannot be mounted.
pub(crate) fn no_executable(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    has(&["executable file not found", "no command specified", "exec format error"])
        || (has(&["no such file", "permission denied", "is a directory"])
            && (has(&["exec:", "exec \"", "exec user process"]) || !has(&["mount", "cgroup", "rootfs"])))
}
