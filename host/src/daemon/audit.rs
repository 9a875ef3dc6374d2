//! Who commanded what: an event, and a Kubernetes Event on the driver's pod. (The log has every command, with its user.)

use fleet::action::Reply;
use fleet::event::Command;
use tokio::sync::oneshot;

use super::Daemon;
use crate::handle::{Commanded, Told};

/// A command that is not answered yet.
pub struct Order {
    /// The life that it is for.
    pub life: Option<u64>,
    /// The user, and the command in words.
    pub by: Option<(String, String)>,
    pub reply: oneshot::Sender<Commanded>,
}

/// The reason of the Event.
const REASON: &str = "Commanded";

impl Daemon {
    /// Only users whom the cluster vouches for have a name that is worth a record.
    pub(super) fn audit(&self, order: &Order, answer: &Commanded) {
        let (Some((user, asked)), Commanded::Replied(reply)) = (&order.by, answer) else { return };
        let Some(alive) = order.life.and_then(|life| self.alive.get(&life)) else { return };
        let outcome = outcome(reply);
        let message = format!("user {user}: {asked}: {outcome}");
        let metadata = &alive.source.config.fleet.metadata;
        self.handle.tell(Told {
            at_ms: self.now().wall_ms,
            fleet: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            kind: REASON,
            executor: None,
            message: message.clone(),
        });
        self.notices.commanded(alive.calls.place(), user, asked, &message);
    }
}

fn outcome(reply: &Reply) -> String {
    match reply {
        Reply::Done => "accepted".to_owned(),
        Reply::Refused(refusal) => format!("refused ({})", refusal.code()),
        Reply::Executors(each) => match each.iter().find_map(|(_, result)| result.err()) {
            None => "accepted".to_owned(),
            Some(refusal) => {
                let refused = each.iter().filter(|(_, result)| result.is_err()).count();
                format!("refused for {refused} of {} ({})", each.len(), refusal.code())
            }
        },
    }
}

/// As on the command line.
pub fn words(verb: &Command) -> String {
    match verb {
        Command::RequestTotalExecutors(count) => format!("scale {count}"),
        Command::Kill { executors, replace, force } => {
            let ids = executors.iter().map(|id| format!(" {id}"));
            let flags = [(*replace, " --replace"), (*force, " --force")];
            let flags = flags.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag.to_owned());
            std::iter::once("kill".to_owned()).chain(flags).chain(ids).collect()
        }
        Command::Roll(None) => "roll".to_owned(),
        Command::Roll(Some(executor)) => format!("roll {executor}"),
        Command::Pause => "pause".to_owned(),
        Command::Resume => "resume".to_owned(),
        Command::ResetBreaker => "reset-breaker".to_owned(),
        Command::ResetLedger => "reset-ledger".to_owned(),
    }
}
