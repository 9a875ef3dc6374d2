//! What no policy can widen.

/// Why the host does not do what a policy, a person or it itself would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    Paused,
}
