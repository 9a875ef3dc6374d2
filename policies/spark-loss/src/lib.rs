#![doc = include_str!("verdicts.md")]

mod disruption;
mod exit;
mod pod;
mod request;
mod start;
#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "a test names what it expects, the rest is a failure")]
mod tests;
mod words;

use rollcall_policy::{Evidence, LossClassifier, LossKind, LossReason, NoSettings, Verdict};

use exit::Exit;

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
    let cause = match RULES.iter().find_map(|rule| rule(evidence)) {
        Some(cause) => cause,
        None if evidence.checks_made < evidence.checks_max => return Verdict::Undetermined,
        None => pod::silent(evidence).unwrap_or_else(unknown),
    };
    Verdict::Known(LossReason {
        exit_caused_by_app: cause.fault == Fault::App,
        keep_pod: cause.fault != Fault::Outside,
        exit_code: Exit::of(evidence).map(|exit| exit.code),
        message: words::bounded(&cause.message, MESSAGE_BYTES_MAX),
        kind: cause.kind,
    })
}

/// The order of evidence: the first rule with an answer decides.
const RULES: [fn(&Evidence) -> Option<Cause>; 12] = [
    request::released,
    pod::driver_gone,
    disruption::pod_reason,
    exit::telling,
    disruption::disrupted,
    disruption::node_lost,
    start::stuck,
    words::said,
    pod::deleted,
    exit::ended,
    pod::sidecar_failed,
    pod::succeeded,
];

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
