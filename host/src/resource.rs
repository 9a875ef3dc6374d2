//! Custom resources: ExecutorFleets as objects of the API server.
//!
//! One set of types serves files and objects ([`crate::config::document`]). [`definitions()`] prints the
//! CustomResourceDefinitions; [`Objects`] turns objects into documents, which are judged as those from files are;
//! [`report()`] writes their status.
//!
//! The author of an object is a tenant who may write in one namespace, not the operator of the daemon. So an object has
//! no fields that name files of the daemon's: it would be sent, as a bearer token, to a driver of the tenant's choice.
//!
//! *Versions.* `v1alpha1` is the only one, and objects are stored as they were written. With `v1beta1` both will be
//! served from the same schema with `strategy: None`, as long as every field of one is a field of the other; a renamed
//! field gets a conversion webhook or, better, stays.

mod definition;
mod objects;
mod report;
mod status;

pub use definition::definitions;
pub(crate) use definition::{files_only, files_removed};
pub use objects::{Known, Objects, Read, follow, lock};
pub use report::report;
pub use status::{ClassStatus, Condition, Loss, Status};
