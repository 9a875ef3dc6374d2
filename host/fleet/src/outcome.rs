//! The outcomes of actions.

use std::fmt;

use crate::id::Version;
use crate::ledger::record::{Ledger, Salvage};
use crate::observed::PodView;

/// The outcome of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The API server did what the action asked for.
    Ok(Done),
    /// 409: the name is taken.
    AlreadyExists,
    /// 409: the version or the UID differs from the one in the request.
    Conflict,
    /// 404.
    NotFound,
    /// 429: too many requests. With `Retry-After` if the server sent it.
    Throttled {
        /// When to try again, in ms from now (`retryAfterSeconds`). `None`: the answer does not say.
        after_ms: Option<u64>,
    },
    /// 429 to an eviction, with cause `DisruptionBudget`: a PodDisruptionBudget refuses it.
    Budget,
    /// 403 and 401: a missing permission, an exceeded quota, or a namespace that is being deleted.
    Forbidden(String),
    /// 422: the API server or an admission webhook rejects the object.
    Invalid(String),
    /// Time-out, reset, 5xx: *the request may have been applied, or may still be*. Check before repeating it.
    Unknown(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Ok(_) => f.write_str("done"),
            Outcome::AlreadyExists => f.write_str("it exists already"),
            Outcome::Conflict => f.write_str("it has changed meanwhile"),
            Outcome::NotFound => f.write_str("it does not exist"),
            Outcome::Throttled { .. } => f.write_str("too many requests"),
            Outcome::Budget => f.write_str("a PodDisruptionBudget does not allow it"),
            Outcome::Forbidden(why) => write!(f, "forbidden: {why}"),
            Outcome::Invalid(why) => write!(f, "invalid: {why}"),
            Outcome::Unknown(why) => write!(f, "no answer: {why}"),
        }
    }
}

/// What a successful action returned.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// A created pod, or one that was read.
    Pod(Box<PodView>),
    /// A ledger that was read.
    Ledger {
        /// The record as it is stored.
        ledger: Box<Ledger>,
        /// Its version, for the write that follows.
        version: Version,
        /// Another client wrote to it after Rollcall last did (`metadata.managedFields`): it may be a restored
        /// backup.
        edited: bool,
    },
    /// The ledger's object exists, but its content is not a valid ledger.
    LedgerRefused {
        /// Names the field and the problem.
        why: String,
        /// The object's version, for a write that replaces it.
        version: Version,
        /// What a record that replaces it has to continue.
        salvage: Salvage,
    },
    /// The new version of a ledger that was written.
    Written(Version),
    /// The deletion or eviction was accepted.
    Deleted,
}
