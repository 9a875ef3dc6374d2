//! The faults of a call: a closed set, so that every fault has a name in metrics, a responsible party and a
//! next step. The next step is the same for all: the answer is ignored and the next policy of the chain is
//! asked.

use thiserror::Error;

/// Why a call gave no answer. `PartialEq`: tests compare faults, not texts.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Fault {
    /// It returned `policy-error`. With its message: printable, at most 1 KiB.
    #[error("the policy reported an error: {0}")]
    PolicyError(String),
    /// A Rust panic. With the message, which the SDK's panic hook logs before the instance traps.
    #[error("the policy panicked: {0}")]
    Panicked(String),
    /// Any other trap, in wasmtime's words: an access out of bounds, a division by zero, `unreachable` without a
    /// logged error.
    #[error("the policy trapped: {0}")]
    Trapped(String),
    /// Trap `StackOverflow`.
    #[error("the policy overflowed its stack of {limit_bytes} bytes; recursion too deep?")]
    StackOverflow {
        /// Size of the stack of every call.
        limit_bytes: usize,
    },
    /// The calling thread used more CPU time than [`Limits::cpu`](crate::Limits::cpu).
    #[error("the policy used up its CPU budget of {budget_ms} ms")]
    CpuBudget {
        /// The limit, milliseconds.
        budget_ms: u64,
    },
    /// The call took longer than [`Limits::wall`](crate::Limits::wall), although its CPU time was not used up: the
    /// machine is overloaded.
    #[error("the policy did not finish within {limit_ms} ms of wall time")]
    WallTime {
        /// The limit, milliseconds.
        limit_ms: u64,
    },
    /// Only in [`Mode::Lab`](crate::Mode::Lab).
    #[error("the policy used up its fuel of {budget}")]
    Fuel {
        /// The fuel that the call had.
        budget: u64,
    },
    /// Its linear memories together would exceed [`Limits::memory_bytes`](crate::Limits::memory_bytes).
    #[error("the policy asked for more than its {limit_bytes} bytes of memory")]
    Memory {
        /// The limit.
        limit_bytes: usize,
    },
    /// Its tables together would exceed [`Limits::table_elements`](crate::Limits::table_elements).
    #[error("the policy asked for tables of more than {limit} elements")]
    Tables {
        /// The limit, in elements.
        limit: usize,
    },
    /// It called WASI's `exit`. With the exit code.
    #[error("the policy exited with code {0} instead of answering")]
    Exited(i32),
    /// It called a function of `wasi:io/poll`.
    #[error("the policy tried to wait; policies may not wait")]
    Waited,
    /// An answer or a log line is longer than the host copies out of an instance.
    #[error("the policy handed over more than {limit_bytes} bytes at once")]
    TooMuchOutput {
        /// The limit of one call.
        limit_bytes: usize,
    },
    /// It answered, and the answer violates the contract.
    #[error("the policy's answer is invalid: {0}")]
    InvalidAnswer(InvalidAnswer),
    /// [`SandboxConfig::calls_max`](crate::SandboxConfig::calls_max) calls were running all the time. The policy was
    /// not asked.
    #[error("no sandbox became free within {waited_ms} ms")]
    Busy {
        /// How long the call waited, milliseconds.
        waited_ms: u64,
    },
    /// No instance could be created, for a reason that is not the guest's; or a bug of the sandbox. With wasmtime's
    /// message.
    #[error("the sandbox failed: {0}")]
    Host(String),
}

/// What is wrong with an answer that arrived.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum InvalidAnswer {
    /// A pointer outside of its memory, text that is not UTF-8, an unknown tag, too many handles. With wasmtime's
    /// message.
    #[error("it does not follow the contract's binary format: {0}")]
    Malformed(String),
    /// A pick is an index into the candidates of the question.
    #[error("none of its picks is a candidate; the first is index {index} of {candidates} candidates")]
    NoKnownPick {
        /// The index of the first pick.
        index: u32,
        /// How many candidates there were: an index has to be lower.
        candidates: usize,
    },
    /// Scores are compared and shown, which NaN and infinities do not allow.
    #[error("the score of index {index} is {score}, which is not a finite number")]
    ScoreNotFinite {
        /// The candidate's index.
        index: u32,
        /// The score as text: `NaN`, `inf` or `-inf`, so that equal faults compare equal.
        score: String,
    },
    /// The name of a loss kind of the policy's own (`loss-kind.other`). With that name.
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
    /// Who has to act on it. Only the policy's own faults count towards its quarantine.
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
