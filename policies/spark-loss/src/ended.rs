//! The executor ended by itself, or by a signal that nothing explains.

use rollcall_policy::LossKind;

use crate::exit::Exit;
use crate::facts::Facts;
use crate::{Cause, Fault, phrases, text};

/// It ended by a code that only the executor itself can have produced.
pub(crate) fn telling(f: &Facts) -> Option<Cause> {
    f.exit.as_ref().filter(|exit| exit.tells()).map(|exit| cause(f, exit))
}

/// It ended by any other code, and nothing else explains its end.
pub(crate) fn otherwise(f: &Facts) -> Option<Cause> {
    let exit = f.exit.as_ref()?;
    (!f.is_ours(exit) && !f.driver_gave_up()).then(|| cause(f, exit))
}

/// The driver said why, in a phrase that is known; or the container did, if its code says no more.
pub(crate) fn said(f: &Facts) -> Option<Cause> {
    let registered = f.e.ever_registered;
    let by_driver = || {
        let told = f.told.as_ref()?;
        let oom = || told.calls_it_oom().then_some((LossKind::OutOfMemory, Fault::App, told.words));
        phrases::find(told.words, registered).map(|said| (said.kind, said.fault, said.line)).or_else(oom)
    };
    let by_container = || {
        let said =
            phrases::find(f.exit.as_ref().filter(|exit| exit.is_plain_failure())?.message?, registered)?;
        Some((said.kind, said.fault, said.line))
    };
    let (kind, fault, line) = by_driver().or_else(by_container)?;
    let message =
        format!("Executor {} in pod {} was lost: {}.", f.e.executor_id, f.e.pod_name, text::quote(line));
    Some(Cause { kind, fault, message })
}

fn cause(f: &Facts, exit: &Exit) -> Cause {
    let reason = exit.reason.filter(|reason| !matches!(*reason, "Error" | "Completed"));
    let reason = reason.map(|reason| format!(" ({})", text::quote(reason))).unwrap_or_default();
    let meaning = exit.words.map(text::quote).unwrap_or_else(|| exit.meaning.into());
    let message = format!(
        "Pod {}'s executor container exited with exit status code {}. {meaning}{reason}.",
        f.e.pod_name, exit.code,
    );
    Cause { kind: exit.kind.clone(), fault: exit.fault, message }
}
