//! What a fleet as a whole waits for, and what its deadline is for.

/// What the fleet as a whole waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The host does not lead.
    AwaitingLeadership,
    /// The ledger is being read.
    AwaitingLedger,
    /// The ledger is being written with our epoch.
    AwaitingClaim,
    /// A complete list was requested.
    AwaitingRelist,
    Active,
    /// Another host leads. Permanent.
    Deposed,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Work was left over from the last step.
    Backlog,
    /// An executor needs attention: a heartbeat is overdue, a check or a retry is due.
    Executor,
    /// The ledger has to be read or written.
    Ledger,
    /// A policy has not answered.
    Answer,
    /// A complete list is needed.
    Relist,
    /// More executors may be created at that time.
    Allocation,
    /// A roll is due.
    Roll,
    /// An impairment of the heartbeat path ends.
    Hearing,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Backlog => "work left over",
            Why::Executor => "an executor",
            Why::Ledger => "the ledger",
            Why::Answer => "a policy's answer",
            Why::Relist => "a complete list",
            Why::Allocation => "creating executors",
            Why::Roll => "rolling an executor",
            Why::Hearing => "hearing that was impaired",
        })
    }
}
