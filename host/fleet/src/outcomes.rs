//! The outcomes of each kind of call: an [`Outcome`] is converted once, where it is dispatched, so that no handler
//! has to list answers that its call cannot have.

use crate::id::Version;
use crate::ledger::record::{Ledger, Salvage};
use crate::observed::PodView;
use crate::outcome::{Done, Outcome};

/// The outcome of a create.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CreateOutcome {
    Created(Box<PodView>),
    /// A pod with the name exists. It is only certain that this create was not applied.
    NameTaken,
    /// Definitely not applied. `why` is `None` where the API server only asks to slow down.
    Refused {
        after_ms: Option<u64>,
        why: Option<String>,
    },
    /// It may have been applied, or may still be.
    Unknown(String),
}

/// The outcome of a GET of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GetOutcome {
    Found(Box<PodView>),
    NotFound,
    /// No answer: nothing was learned.
    Failed,
}

/// The outcome of a deletion or an eviction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RemoveOutcome {
    Accepted,
    /// The pod does not exist any more.
    Gone,
    /// A PodDisruptionBudget refuses the eviction.
    OverBudget,
    /// It was not applied. `why` is `None` where users need not know.
    Refused {
        after_ms: Option<u64>,
        why: Option<String>,
    },
    /// It may have been applied, or may still be.
    Unknown(String),
}

/// The outcome of a deletion of the driver's pod: its end is reported by the watch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DriverDeleteOutcome {
    Requested,
    Refused(String),
}

/// The outcome of a read of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LedgerReadOutcome {
    Found {
        ledger: Box<Ledger>,
        version: Version,
        edited: bool,
    },
    /// It exists, and its content is not a valid ledger.
    Invalid {
        why: String,
        version: Version,
        salvage: Salvage,
    },
    NotFound,
    Failed {
        why: String,
        after_ms: u64,
    },
}

/// The outcome of a write of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LedgerWriteOutcome {
    Written(Version),
    /// The stored ledger changed or is gone, or the outcome is unknown: only a read tells.
    Doubtful,
    Failed {
        why: String,
        after_ms: u64,
    },
}

impl From<Outcome> for CreateOutcome {
    fn from(outcome: Outcome) -> CreateOutcome {
        let refused = |why: &str| CreateOutcome::Refused { after_ms: None, why: Some(why.to_owned()) };
        match outcome {
            Outcome::Ok(Done::Pod(pod)) => CreateOutcome::Created(pod),
            Outcome::AlreadyExists => CreateOutcome::NameTaken,
            Outcome::Unknown(why) => CreateOutcome::Unknown(why),
            Outcome::Throttled { after_ms } => CreateOutcome::Refused { after_ms, why: None },
            Outcome::Forbidden(why) | Outcome::Invalid(why) => refused(&why),
            Outcome::Conflict => {
                refused("another change at the same moment, of a ResourceQuota for instance")
            }
            Outcome::NotFound => refused("its namespace does not exist"),
            Outcome::Budget
            | Outcome::Ok(
                Done::Ledger { .. } | Done::LedgerRefused { .. } | Done::Written(_) | Done::Deleted,
            ) => refused("an answer that no create has"),
        }
    }
}

impl From<Outcome> for GetOutcome {
    fn from(outcome: Outcome) -> GetOutcome {
        match outcome {
            Outcome::Ok(Done::Pod(pod)) => GetOutcome::Found(pod),
            Outcome::NotFound => GetOutcome::NotFound,
            Outcome::Ok(
                Done::Ledger { .. } | Done::LedgerRefused { .. } | Done::Written(_) | Done::Deleted,
            )
            | Outcome::AlreadyExists
            | Outcome::Conflict
            | Outcome::Throttled { .. }
            | Outcome::Budget
            | Outcome::Forbidden(_)
            | Outcome::Invalid(_)
            | Outcome::Unknown(_) => GetOutcome::Failed,
        }
    }
}

impl From<Outcome> for RemoveOutcome {
    fn from(outcome: Outcome) -> RemoveOutcome {
        match outcome {
            Outcome::Ok(Done::Deleted) => RemoveOutcome::Accepted,
            Outcome::NotFound => RemoveOutcome::Gone,
            Outcome::Budget => RemoveOutcome::OverBudget,
            Outcome::Throttled { after_ms } => {
                RemoveOutcome::Refused { after_ms: after_ms.filter(|ms| *ms > 0), why: None }
            }
            Outcome::Unknown(why) => RemoveOutcome::Unknown(why),
            Outcome::Forbidden(why) | Outcome::Invalid(why) => {
                RemoveOutcome::Refused { after_ms: None, why: Some(why) }
            }
            // The name belongs to another pod by now, or two changes collided: the view will show whether ours
            // is gone.
            Outcome::Conflict
            | Outcome::AlreadyExists
            | Outcome::Ok(
                Done::Pod(_) | Done::Ledger { .. } | Done::LedgerRefused { .. } | Done::Written(_),
            ) => RemoveOutcome::Refused { after_ms: None, why: None },
        }
    }
}

impl From<Outcome> for DriverDeleteOutcome {
    fn from(outcome: Outcome) -> DriverDeleteOutcome {
        match outcome {
            Outcome::Forbidden(why) | Outcome::Invalid(why) => DriverDeleteOutcome::Refused(why),
            Outcome::Ok(_)
            | Outcome::AlreadyExists
            | Outcome::Conflict
            | Outcome::NotFound
            | Outcome::Throttled { .. }
            | Outcome::Budget
            | Outcome::Unknown(_) => DriverDeleteOutcome::Requested,
        }
    }
}

impl From<Outcome> for LedgerReadOutcome {
    fn from(outcome: Outcome) -> LedgerReadOutcome {
        match outcome {
            Outcome::Ok(Done::Ledger { ledger, version, edited }) => {
                LedgerReadOutcome::Found { ledger, version, edited }
            }
            Outcome::Ok(Done::LedgerRefused { why, version, salvage }) => {
                LedgerReadOutcome::Invalid { why, version, salvage }
            }
            Outcome::NotFound => LedgerReadOutcome::NotFound,
            failed @ (Outcome::Ok(Done::Pod(_) | Done::Written(_) | Done::Deleted)
            | Outcome::AlreadyExists
            | Outcome::Conflict
            | Outcome::Throttled { .. }
            | Outcome::Budget
            | Outcome::Forbidden(_)
            | Outcome::Invalid(_)
            | Outcome::Unknown(_)) => {
                let (why, after_ms) = failure(&failed);
                LedgerReadOutcome::Failed { why, after_ms }
            }
        }
    }
}

impl From<Outcome> for LedgerWriteOutcome {
    fn from(outcome: Outcome) -> LedgerWriteOutcome {
        match outcome {
            Outcome::Ok(Done::Written(version)) => LedgerWriteOutcome::Written(version),
            Outcome::Conflict | Outcome::AlreadyExists | Outcome::NotFound | Outcome::Unknown(_) => {
                LedgerWriteOutcome::Doubtful
            }
            failed @ (Outcome::Ok(
                Done::Pod(_) | Done::Ledger { .. } | Done::LedgerRefused { .. } | Done::Deleted,
            )
            | Outcome::Throttled { .. }
            | Outcome::Budget
            | Outcome::Forbidden(_)
            | Outcome::Invalid(_)) => {
                let (why, after_ms) = failure(&failed);
                LedgerWriteOutcome::Failed { why, after_ms }
            }
        }
    }
}

/// The failure in words, and the delay that the server asks for.
fn failure(outcome: &Outcome) -> (String, u64) {
    let after_ms = if let Outcome::Throttled { after_ms: Some(ms) } = outcome { *ms } else { 0 };
    (outcome.to_string(), after_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_of_zero_is_no_delay() {
        let throttled = |after_ms| RemoveOutcome::from(Outcome::Throttled { after_ms });
        assert_eq!(throttled(Some(0)), RemoveOutcome::Refused { after_ms: None, why: None });
        assert_eq!(throttled(Some(7)), RemoveOutcome::Refused { after_ms: Some(7), why: None });
    }

    #[test]
    fn only_a_read_tells_after_a_write_in_doubt() {
        for outcome in [Outcome::Conflict, Outcome::NotFound, Outcome::Unknown("reset".to_owned())] {
            assert_eq!(LedgerWriteOutcome::from(outcome), LedgerWriteOutcome::Doubtful);
        }
        let slow = LedgerWriteOutcome::from(Outcome::Throttled { after_ms: Some(5) });
        assert_eq!(slow, LedgerWriteOutcome::Failed { why: "too many requests".to_owned(), after_ms: 5 });
    }
}
