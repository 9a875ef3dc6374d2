//! Configuration: what people write about their fleets, read once and right from then on.
//!
//! One document is one fleet. Files hold documents, directories hold files; [`load()`] reads them all or
//! says everything that is wrong with them, each [`Problem`] with its place and its remedy. What is
//! loaded has every default filled in. What only the core can judge, [`FleetConfig::check`] asks it; what is right but
//! hardly meant so, [`FleetConfig::warnings`] tells.
//!
//! The types of [`document`] are the only description of the format: the JSON Schema, the suggestions
//! for a slip of the pen and the effective document are derived from them.

mod advice;
pub mod document;
mod draft;
mod load;
mod problem;
mod rules;
mod schema;
mod value;
mod watch;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use document::ExecutorFleet;
pub use load::{DOCUMENTS_MAX, FILE_BYTES_MAX, FILES_MAX, load};
pub use problem::Problem;
pub use schema::schema;
pub use value::{Amount, JvmSize, Millis, NodePattern, TimeOfDay, TimeZone};
pub use watch::{POLL_MS, Watcher, digest};

/// A fleet's document, and where it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetConfig {
    pub file: PathBuf,
    /// Which document of the file it is, counted from 1; empty ones do not count.
    pub document: u32,
    pub fleet: ExecutorFleet,
}

/// The document with all its defaults, as YAML that reads back as the same.
pub fn yaml(fleet: &ExecutorFleet) -> Result<String, serde_saphyr::SerializeError> {
    // Folded text would lose spaces at its end.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(fleet, options)
}
