#![doc = include_str!("verdicts.md")]

mod disruption;
mod driver;
mod ended;
mod exit;
mod facts;
mod notes;
mod phrases;
mod pod;
mod request;
mod start;
#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "a test names what it expects, the rest is a failure")]
mod tests;
mod text;

use rollcall_policy::{Evidence, LossClassifier, LossKind, LossReason, NoSettings, Verdict};

use facts::Facts;

/// The classifier, for the sandbox.
pub struct Spark;

impl LossClassifier for Spark {
    const NAME: &'static str = "SPARK";
    const DOCS: &'static str = include_str!("verdicts.md");
    type Settings = NoSettings;

    fn classify(_: NoSettings, evidence: &Evidence) -> Result<Verdict, String> {
        Ok(classify(evidence))
    }
}

rollcall_policy::export!(loss: Spark);

/// The classifier, as a native function.
pub fn classify(evidence: &Evidence) -> Verdict {
    let facts = Facts::of(evidence);
    let mut cause = match RULES.iter().find_map(|rule| rule(&facts)) {
        Some(cause) if may_be_explained_yet(&facts, &cause) => return Verdict::Undetermined,
        Some(cause) => cause,
        None if evidence.checks_made < evidence.checks_max => return Verdict::Undetermined,
        None => LAST_RULES.iter().find_map(|rule| rule(&facts)).unwrap_or_else(unknown),
    };
    if cause.fault == Fault::App && !evidence.ever_registered {
        cause.fault = Fault::Setup;
        cause.message += " No task can have run: it had not registered.";
    }
    Verdict::Known(LossReason {
        exit_caused_by_app: cause.fault == Fault::App,
        keep_pod: cause.fault != Fault::Outside,
        exit_code: facts.exit.as_ref().map(|exit| exit.code),
        message: text::bounded(&notes::complete(&facts, &cause), MESSAGE_BYTES_MAX),
        kind: cause.kind,
    })
}

/// The order of evidence: the first rule with an answer decides.
const RULES: [fn(&Facts) -> Option<Cause>; 14] = [
    request::released,
    pod::driver_gone,
    disruption::pod_reason,
    ended::telling,
    disruption::disrupted,
    disruption::node_lost,
    start::stuck,
    ended::said,
    disruption::departed,
    pod::deleted,
    ended::otherwise,
    pod::sidecar_failed,
    pod::succeeded,
    disruption::failed_for,
];

/// At the last check: what silence means where nothing came after it.
const LAST_RULES: [fn(&Facts) -> Option<Cause>; 2] = [disruption::departed_silently, pod::silent];

/// Is it worth while to ask again, although there is an answer? Nothing waits for the verdict: the executor is being
/// replaced already.
fn may_be_explained_yet(f: &Facts, cause: &Cause) -> bool {
    let made = f.e.checks_made;
    let killed = cause.kind == LossKind::Killed;
    // The end of a node shows some time after that of its containers.
    let may_go = f.e.node.as_ref().is_some_and(|node| node.spot || !node.departures.is_empty());
    if killed && may_go && made < f.e.checks_max {
        return true;
    }
    // A pod vanished. Its driver may have seen why, and says so a moment later.
    let unexplained = killed || matches!(cause.kind, LossKind::Deleted | LossKind::ExitStatus);
    let vanished = f.gone && !f.terminating && f.told.is_none();
    unexplained && vanished && made < SECOND_LOOKS.min(f.e.checks_max)
}

/// How many checks wait for the driver's word on a pod that vanished.
const SECOND_LOOKS: u32 = 2;

/// The contract's bound on a message.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Why an executor was lost, before it is cut to the contract's measure.
#[derive(Debug)]
struct Cause {
    kind: LossKind,
    fault: Fault,
    message: String,
}

/// Whose fault a loss is, and with that what becomes of the pod.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The application's: it counts against the tasks that ran there, and the pod is kept.
    App,
    /// Somebody has to mend it: it counts against nobody, and the pod is kept to look at.
    Setup,
    /// Neither: it counts against nobody, and the pod goes.
    Outside,
}

fn unknown() -> Cause {
    let message = "Executor lost for unknown reasons.".into();
    Cause { kind: LossKind::Unknown, fault: Fault::Outside, message }
}
