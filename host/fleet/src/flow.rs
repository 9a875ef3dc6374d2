//! Flows: each carries one kind of work from its input to the effects.
//!
//! A flow borrows the parts that it works with, asks a planner or reads an answer, and carries out the result. It
//! does not know [`Fleet`](crate::Fleet), which lends the parts.
//!
//! | flow | input |
//! |---|---|
//! | `observe` | pods, lists, heartbeats, the driver's reports |
//! | `pod_call` | outcomes of calls about pods |
//! | `classify` | losses, and the answers of classifiers |
//! | `roll` | the roll interval, and the answers of roll policies |
//! | `allocate` | the difference between target and executors |
//! | `command` | commands of operators |

pub(crate) mod allocate;
pub(crate) mod classify;
pub(crate) mod command;
pub(crate) mod observe;
pub(crate) mod pod_call;
pub(crate) mod roll;
