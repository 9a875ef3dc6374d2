//! How the executor's container ended. Spark's codes are those of `SparkExitCode` and
//! `ExecutorExitCode`; 126 to 128 are the shell's and the runtime's; 128 + n is signal n.

use rollcall_policy::{ContainerRole, ContainerState, Evidence, LossKind, Terminated};

use crate::request::{Request, second};
use crate::{Cause, Fault, words};

/// It ended by a code that only the executor itself can have produced.
pub(crate) fn telling(e: &Evidence) -> Option<Cause> {
    let exit = Exit::of(e).filter(Exit::tells)?;
    Some(cause(e, &exit))
}

/// It ended by any other code, and nobody who claims to have ended it has been found.
pub(crate) fn ended(e: &Evidence) -> Option<Cause> {
    let exit = Exit::of(e)?;
    let ours = Request::of(e).is_some_and(|request| request.ended(&exit));
    (!ours && !words::driver_gave_up(e)).then(|| cause(e, &exit))
}

/// The end of the executor's container. Of a sidecar's or an init container's, never.
pub(crate) struct Exit<'a> {
    pub(crate) code: i32,
    pub(crate) reason: Option<&'a str>,
    pub(crate) message: Option<&'a str>,
    pub(crate) finished_at_ms: Option<i64>,
}

impl Exit<'_> {
    /// As the container's status tells it, or else the driver.
    pub(crate) fn of(e: &Evidence) -> Option<Exit<'_>> {
        terminated(e).map(Exit::from).or_else(|| words::quoted_exit(e))
    }

    /// Is the code one that no deletion, no signal from outside and no lost node produces?
    pub(crate) fn tells(&self) -> bool {
        let (kind, ..) = self.meaning();
        // 58: so a decommissioned executor may end whom the driver has let go of already.
        self.code != 58
            && !matches!(
                kind,
                LossKind::Completed | LossKind::Killed | LossKind::NodeLost | LossKind::ExitStatus
            )
    }

    /// Does the code say no more than that it failed?
    pub(crate) fn is_plain_failure(&self) -> bool {
        matches!(self.meaning(), (LossKind::ExitStatus, ..))
    }

    pub(crate) fn meaning(&self) -> (LossKind, Fault, &'static str) {
        use Fault::*;
        match (self.code, self.reason) {
            // The reason alone is not enough: container runtimes give it as soon as any process of the
            // container was killed, a Python worker say, whatever became of the rest.
            (code, Some("OOMKilled")) if code == 137 || plain(code) => (
                LossKind::MemoryLimit,
                App,
                "Killed for exceeding the memory limit: consider boosting spark.executor.memoryOverhead",
            ),
            (_, Some("StartError" | "ContainerCannotRun")) | (128, _) => {
                (LossKind::StartFailed, Outside, "The container could not be started")
            }
            (_, Some("ContainerStatusUnknown")) => {
                (LossKind::NodeLost, Outside, "The kubelet has lost track of it")
            }
            (0, _) => (LossKind::Completed, Outside, "It ended by itself"),
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
            (126, _) => (LossKind::Config, Setup, "The command is not executable"),
            (127, _) => (LossKind::Config, Setup, "The command was not found"),
            (132, _) => (LossKind::NativeCrash, App, "SIGILL"),
            (134, _) => (LossKind::NativeCrash, App, "SIGABRT: a fatal error of the JVM or of native code"),
            // Mapped memory without backing: a full or broken disk, a full tmpfs.
            (135, _) => (LossKind::NativeCrash, Setup, "SIGBUS"),
            (136, _) => (LossKind::NativeCrash, App, "SIGFPE"),
            (137, _) => (LossKind::Killed, Outside, "SIGKILL that nobody claims, not for the memory limit"),
            (139, _) => (LossKind::NativeCrash, App, "SIGSEGV"),
            (143, _) => (LossKind::Killed, Outside, "SIGTERM that nobody claims"),
            (129..=159, _) => (LossKind::Killed, Outside, "A signal that nobody claims"),
            _ => (LossKind::ExitStatus, App, "The code says no more"),
        }
    }
}

impl<'a> From<&'a Terminated> for Exit<'a> {
    fn from(end: &'a Terminated) -> Self {
        Exit {
            code: end.exit_code,
            reason: end.reason.as_deref(),
            message: end.message.as_deref(),
            finished_at_ms: end.finished_at_ms,
        }
    }
}

fn cause(e: &Evidence, exit: &Exit) -> Cause {
    let (kind, mut fault, meaning) = exit.meaning();
    if exit.is_plain_failure() && !e.ever_registered {
        fault = Fault::Setup;
    }
    let reason = exit.reason.filter(|reason| !matches!(*reason, "Error" | "Completed"));
    let reason = reason.map(|reason| format!(" ({})", words::quote(reason))).unwrap_or_default();
    let last_words = words::last_words(exit);
    let notes = if exit.tells() { String::new() } else { words::notes(e) };
    let message = format!(
        "Pod {}'s executor container exited with exit status code {}. {meaning}{reason}.{last_words}{notes}",
        e.pod_name, exit.code,
    );
    Cause { kind, fault, message }
}

/// A code without a meaning of its own.
fn plain(code: i32) -> bool {
    let without_reason = Exit { code, reason: None, message: None, finished_at_ms: None };
    without_reason.is_plain_failure()
}

/// The last end of the executor's container, as far as it is this loss that it tells of.
fn terminated(e: &Evidence) -> Option<&Terminated> {
    let pod = e.pod.as_ref()?;
    let executor = pod.containers.iter().find(|container| container.role == ContainerRole::Executor)?;
    match &executor.state {
        ContainerState::Terminated(end) => Some(end),
        ContainerState::Waiting(_) => executor.last_terminated.as_ref(),
        ContainerState::Running(_) => executor.last_terminated.as_ref().filter(|end| outlives(e, end)),
    }
}

/// Is there no sign of life since this run ended? Else the restarted container has been heard, and
/// the end of its previous run is an old story.
fn outlives(e: &Evidence, end: &Terminated) -> bool {
    match (e.since_heartbeat_ms, end.finished_at_ms) {
        (Some(since), Some(finished)) => second(finished) >= second(e.now_ms.saturating_sub_unsigned(since)),
        _ => !e.ever_registered,
    }
}
