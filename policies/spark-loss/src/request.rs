//! What Rollcall itself asked for.

use rollcall_policy::{DeletionCause, LossKind};

use crate::facts::Facts;
use crate::{Cause, Fault, start, text};

/// Rollcall let it go: a roll, a kill, a scale-down, a pod pending for too long.
pub(crate) fn released(f: &Facts) -> Option<Cause> {
    let request = f.request.as_ref()?;
    let why = match request.why {
        DeletionCause::Lost => return None,
        DeletionCause::PendingTimeout => return start::stuck(f).or_else(|| Some(start::pending(f))),
        DeletionCause::Roll => "a roll",
        DeletionCause::ScaleDown => "a scale-down",
        DeletionCause::Kill => "a kill",
        DeletionCause::FleetRemoved => "the fleet's removal",
        DeletionCause::Other(why) => why,
    };
    if f.exit.as_ref().is_some_and(|exit| exit.tells() && !request.ended(exit)) {
        return None;
    }
    let message = format!(
        "Container in pod {} exited from explicit termination request. Rollcall asked for it: {}.",
        f.e.pod_name,
        text::quote(why),
    );
    Some(Cause { kind: LossKind::Released, fault: Fault::Outside, message })
}
