//! What an answer of the API server means to the caller.

use std::time::Duration;

use fleet::event::Outcome;
use kube::core::Status;

/// What a 401 means, and what to do.
const UNKNOWN_TO_IT: &str = "the API server does not know us; has our token expired, or was its ServiceAccount deleted? \
    A token in a file is read again within a minute";

/// The outcome of a call that failed.
pub(crate) fn of(error: &kube::Error) -> Outcome {
    #[allow(clippy::wildcard_enum_match_arm, reason = "kube's list grows, and what is new is not known")]
    match error {
        kube::Error::Api(status) => of_status(status),
        // The client itself refused, so the request was not sent.
        kube::Error::Auth(error) => Outcome::Forbidden(error.to_string()),
        kube::Error::BuildRequest(error) => Outcome::Invalid(error.to_string()),
        other => Outcome::Unknown(short(&other.to_string())),
    }
}

fn of_status(status: &Status) -> Outcome {
    let message = || short(&status.message);
    match (status.code, status.reason.as_str()) {
        (404, _) => Outcome::NotFound,
        (409, "AlreadyExists") => Outcome::AlreadyExists,
        (409, _) => Outcome::Conflict,
        (401, _) => Outcome::Forbidden(format!("{}: {UNKNOWN_TO_IT}", message())),
        (403, _) => Outcome::Forbidden(message()),
        (429, _) => {
            let details = status.details.as_ref();
            let budget = |details: &kube::core::response::StatusDetails| {
                details.causes.iter().any(|cause| cause.reason == "DisruptionBudget")
            };
            if details.is_some_and(budget) {
                return Outcome::Budget;
            }
            let after_s = details.map_or(0, |details| details.retry_after_seconds);
            Outcome::Throttled { after_ms: (after_s > 0).then_some(u64::from(after_s) * 1_000) }
        }
        (400 | 405 | 406 | 413 | 415 | 422, _) => Outcome::Invalid(message()),
        (code, _) => Outcome::Unknown(format!("{code}: {}", message())),
    }
}

/// Runs a call with this time limit.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, Outcome> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(of(&error)),
        Err(_) => Err(Outcome::Unknown(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// API servers' messages can be pages long.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
