//! The faults of a call: a closed set, so that every fault has a name in metrics, a responsible party and a
//! next step. The next step is the same for all: the answer is ignored and the next policy of the chain is
//! asked.

use thiserror::Error;

/// Why a call gave no answer. `PartialEq`: tests compare faults, not texts.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Fault {
    #[error("the policy reported an error: {0}")]
    PolicyError(String),
    #[error("the policy panicked: {0}")]
    Panicked(String),
    #[error("the policy trapped: {0}")]
    Trapped(String),
    #[error("the policy overflowed its stack of {limit_bytes} bytes; recursion too deep?")]
    StackOverflow { limit_bytes: usize },
    #[error("the policy used up its CPU budget of {budget_ms} ms")]
    CpuBudget { budget_ms: u64 },
    #[error("the policy did not finish within {limit_ms} ms of wall time")]
    WallTime { limit_ms: u64 },
    #[error("the policy used up its fuel of {budget}")]
    Fuel { budget: u64 },
    #[error("the policy asked for more than its {limit_bytes} bytes of memory")]
    Memory { limit_bytes: usize },
    #[error("the policy asked for tables of more than {limit} elements")]
    Tables { limit: usize },
    #[error("the policy exited with code {0} instead of answering")]
    Exited(i32),
    #[error("the policy tried to wait; policies may not wait")]
    Waited,
    #[error("the policy handed over more than {limit_bytes} bytes at once")]
    TooMuchOutput { limit_bytes: usize },
    #[error("the policy's answer is invalid: {0}")]
    InvalidAnswer(InvalidAnswer),
    #[error("no sandbox became free within {waited_ms} ms")]
    Busy { waited_ms: u64 },
    #[error("the sandbox failed: {0}")]
    Host(String),
}

/// What is wrong with an answer that arrived.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum InvalidAnswer {
    #[error("it does not follow the contract's binary format: {0}")]
    Malformed(String),
    #[error("none of its picks is a candidate; the first is index {index} of {candidates} candidates")]
    NoKnownPick { index: u32, candidates: usize },
    #[error("the score of index {index} is {score}, which is not a finite number")]
    ScoreNotFinite { index: u32, score: String },
    #[error("loss kind {0:?} is not kebab-case of at most 64 bytes")]
    LossKind(String),
}

/// The party that has to act on a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The policy's author.
    Policy,
    /// The operator of Rollcall: the machine is overloaded or Rollcall has a bug.
    Host,
}

impl Fault {
    pub fn blame(&self) -> Blame {
        match self {
            // A guest cannot block: if the wall clock runs out before the CPU budget, the process was not
            // scheduled.
            Fault::WallTime { .. } | Fault::Busy { .. } | Fault::Host(_) => Blame::Host,
            Fault::PolicyError(_)
            | Fault::Panicked(_)
            | Fault::Trapped(_)
            | Fault::StackOverflow { .. }
            | Fault::CpuBudget { .. }
            | Fault::Fuel { .. }
            | Fault::Memory { .. }
            | Fault::Tables { .. }
            | Fault::Exited(_)
            | Fault::Waited
            | Fault::TooMuchOutput { .. }
            | Fault::InvalidAnswer(_) => Blame::Policy,
        }
    }

    /// The fault's name in metrics and JSON: stable.
    pub fn label(&self) -> &'static str {
        match self {
            Fault::PolicyError(_) => "policy-error",
            Fault::Panicked(_) => "panicked",
            Fault::Trapped(_) => "trapped",
            Fault::StackOverflow { .. } => "stack-overflow",
            Fault::CpuBudget { .. } => "cpu-budget",
            Fault::WallTime { .. } => "wall-time",
            Fault::Fuel { .. } => "fuel",
            Fault::Memory { .. } => "memory",
            Fault::Tables { .. } => "tables",
            Fault::Exited(_) => "exited",
            Fault::Waited => "waited",
            Fault::TooMuchOutput { .. } => "too-much-output",
            Fault::InvalidAnswer(_) => "invalid-answer",
            Fault::Busy { .. } => "busy",
            Fault::Host(_) => "host",
        }
    }
}
