//! How a container ended. Spark's codes are those of `SparkExitCode` and `ExecutorExitCode`; 126 to 128 are the
//! shell's and the runtime's; 128 + n is signal n.

use rollcall_policy::{LossKind, Terminated};

use crate::{Fault, phrases};

/// The end of a container, and what it means. It is the executor's, unless a rule says otherwise.
pub(crate) struct Exit<'a> {
    pub(crate) code: i32,
    pub(crate) reason: Option<&'a str>,
    pub(crate) message: Option<&'a str>,
    pub(crate) finished_at_ms: Option<i64>,
    pub(crate) kind: LossKind,
    pub(crate) fault: Fault,
    pub(crate) meaning: &'static str,
    /// The line that explains the code, and decides in its stead.
    pub(crate) words: Option<&'a str>,
}

impl<'a> Exit<'a> {
    /// `told` is what the driver says of it, to be read where the container left no message that explains it.
    pub(crate) fn of(end: &'a Terminated, told: Option<&'a str>, ever_registered: bool) -> Exit<'a> {
        let (code, reason, message) = (end.exit_code, end.reason.as_deref(), end.message.as_deref());
        let (kind, fault, meaning) = meaning(code, reason, message, ever_registered);
        let exit = Exit {
            code,
            reason,
            message,
            finished_at_ms: end.finished_at_ms,
            kind,
            fault,
            meaning,
            words: None,
        };
        exit.explained_by([message, told], ever_registered)
    }

    /// As the driver tells it.
    pub(crate) fn told(
        code: i32,
        reason: Option<&'a str>,
        told: Option<&'a str>,
        ever_registered: bool,
    ) -> Exit<'a> {
        let (kind, fault, meaning) = meaning(code, reason, told, ever_registered);
        let exit =
            Exit { code, reason, message: None, finished_at_ms: None, kind, fault, meaning, words: None };
        exit.explained_by([told, None], ever_registered)
    }

    /// The words decide before codes that stand for several things: an uncaught exception may be a full disk, and
    /// SIGABRT the JVM's own answer to an OutOfMemoryError.
    fn explained_by(mut self, texts: [Option<&'a str>; 2], ever_registered: bool) -> Exit<'a> {
        if !matches!(self.code, 3 | 10 | 50 | 134) || self.kind == LossKind::MemoryLimit {
            return self;
        }
        let found = texts.into_iter().flatten().find_map(|text| phrases::find(text, ever_registered));
        if let Some(said) = found {
            (self.kind, self.fault, self.words) = (said.kind, said.fault, Some(said.line));
        }
        self
    }

    /// Is the code one that no deletion, no signal from outside and no lost node produces?
    pub(crate) fn tells(&self) -> bool {
        // 58: so a decommissioned executor may end whom the driver has let go of already.
        self.code != 58
            && !matches!(
                self.kind,
                LossKind::Completed | LossKind::Killed | LossKind::NodeLost | LossKind::ExitStatus
            )
    }

    /// Does the code say no more than that it failed?
    pub(crate) fn is_plain_failure(&self) -> bool {
        self.kind == LossKind::ExitStatus
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.kind == LossKind::Killed
    }
}

fn meaning(
    code: i32,
    reason: Option<&str>,
    message: Option<&str>,
    ever_registered: bool,
) -> (LossKind, Fault, &'static str) {
    use Fault::*;
    let says = |found: fn(&str) -> bool| message.is_some_and(found);
    match (code, reason) {
        // The reason alone is not enough: container runtimes give it as soon as any process of the
        // container was killed, a Python worker say, and the rest may have lived on.
        (code, Some("OOMKilled")) if code == 137 || is_plain(code) => (
            LossKind::MemoryLimit,
            App,
            "Killed for exceeding the memory limit: consider boosting spark.executor.memoryOverhead",
        ),
        (126 | 127, _) => (LossKind::Config, Setup, "The command was not found, or is not executable"),
        (_, Some("StartError" | "ContainerCannotRun")) | (128, _) if says(phrases::no_executable) => {
            (LossKind::Config, Setup, "There is no such executable")
        }
        (_, Some("StartError" | "ContainerCannotRun")) | (128, _) => {
            (LossKind::StartFailed, Outside, "The container could not be started")
        }
        (_, Some("ContainerStatusUnknown")) => {
            (LossKind::NodeLost, Outside, "The kubelet has lost track of it")
        }
        (_, Some("Unknown")) => {
            (LossKind::NodeLost, Outside, "The container runtime lost it, as when the node boots again")
        }
        (0, _) => (LossKind::Completed, Outside, "It ended by itself"),
        (3, _) if ever_registered => {
            (LossKind::OutOfMemory, App, "The JVM ended itself as -XX:+ExitOnOutOfMemoryError asks")
        }
        (2 | 3, _) => (LossKind::Config, Setup, "Wrong arguments, or a path that does not exist"),
        (10 | 50, _) => (LossKind::AppFailure, App, "Uncaught exception"),
        (51, _) => (LossKind::AppFailure, App, "Uncaught exception that could not even be logged"),
        (52, _) => (LossKind::OutOfMemory, App, "The JVM ran out of memory"),
        (53, _) => (LossKind::Disk, Outside, "No local directory could be created"),
        (54 | 55, _) => (LossKind::Disk, Outside, "The external block store failed"),
        (56, _) => (LossKind::DriverConnection, Outside, "It could not send heartbeats to the driver"),
        (57, _) => (LossKind::AppFailure, App, "A task ignored its cancellation and was reaped"),
        (58, _) => (LossKind::DriverConnection, Outside, "Its block manager could not register again"),
        (101, _) => (LossKind::AppFailure, App, "Class not found"),
        (124, _) => (LossKind::DriverConnection, Outside, "The driver timed out"),
        (132, _) => (LossKind::NativeCrash, App, "SIGILL"),
        (134, _) => (LossKind::NativeCrash, App, "SIGABRT: a fatal error of the JVM or of native code"),
        // Mapped memory without backing: a full or broken disk, a full tmpfs.
        (135, _) => (LossKind::NativeCrash, Setup, "SIGBUS"),
        (136, _) => (LossKind::NativeCrash, App, "SIGFPE"),
        (139, _) => (LossKind::NativeCrash, App, "SIGSEGV"),
        (137 | 143, _) if says(phrases::killed_itself) => {
            (LossKind::OutOfMemory, App, "The JVM had itself killed as -XX:OnOutOfMemoryError asks")
        }
        (137, _) => (LossKind::Killed, Outside, "SIGKILL that nothing explains, not for the memory limit"),
        (143, _) => (LossKind::Killed, Outside, "SIGTERM that nothing explains"),
        (129..=159, _) => (LossKind::Killed, Outside, "A signal that nothing explains"),
        _ => (LossKind::ExitStatus, App, "The code says no more"),
    }
}

/// A code without a meaning of its own.
fn is_plain(code: i32) -> bool {
    matches!(meaning(code, None, None, true), (LossKind::ExitStatus, ..))
}
