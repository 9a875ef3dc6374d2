//! The transitions of one executor: what an input does to its stage, and what has to follow from it.
//!
//! Each function takes an executor, an input and a [`Context`]. It moves the executor to its next stage and
//! adds [`Effect`]s to the context, in the order in which they have to be carried out. It reads nothing else and
//! changes nothing else: what an effect does to the rest of the fleet is decided where effects are applied, in
//! [`Fleet`](crate::Fleet). So a transition can be tested with one executor and no fleet.
//!
//! | module | inputs |
//! |---|---|
//! | `create` | outcomes of a create, and of the GET that resolves an unknown one |
//! | `pod` | a pod as the watch, a list or a GET shows it |
//! | `start` | signs of life |
//! | `due` | the executor's wake time has come; a verified pod |
//! | `removal` | a removal that is due, its outcome, its cancellation |
//! | `end` | a loss, an end, a ledger write |

pub(crate) mod create;
pub(crate) mod due;
mod effect;
pub(crate) mod end;
pub(crate) mod pod;
pub(crate) mod removal;
pub(crate) mod start;

#[cfg(test)]
mod tests;

pub(crate) use effect::{Context, Effect};
