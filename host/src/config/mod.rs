//! Configuration: the documents that users write about their fleets, read and validated once.
//!
//! One document is one fleet, or a class of fleets. Files hold documents, directories hold files; [`load()`] returns all of them or all
//! errors, each [`Problem`] with its place and its remedy. A loaded document has every default filled in.
//! [`FleetConfig::check`] applies the rules of the core; [`FleetConfig::warnings`] reports what is valid but probably a
//! mistake.
//!
//! The types of [`document`] are the only description of the format: the JSON Schema, the suggestions for misspelt
//! fields and the effective document are derived from them.

mod advice;
pub mod class;
pub mod document;
mod fleet_spec;
mod load;
mod problem;
mod rules;
mod schema;
mod value;
mod watch;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::Serialize;

pub use class::ClassConfig;
pub use document::ExecutorFleet;
pub use load::{DOCUMENTS_MAX, Documents, FILE_BYTES_MAX, FILES_MAX, class_from_object, from_object, load};
pub use problem::Problem;
pub use schema::schema;
pub use value::{Amount, JvmSize, Millis, NodePattern, TimeOfDay, TimeZone};
pub use watch::{POLL_MS, Watcher, digest};

/// A fleet's document and its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetConfig {
    pub file: PathBuf,
    /// Which document of the file it is, counted from 1; empty ones do not count.
    pub document: u32,
    pub fleet: ExecutorFleet,
    /// `metadata.generation`, if it was read from an object.
    pub generation: Option<i64>,
    /// Fields that are written with their old names: [`FleetConfig::warnings`] reports them.
    pub old_names: Vec<Renamed>,
}

impl FleetConfig {
    /// `NAMESPACE/NAME`, which no other fleet has.
    pub fn key(&self) -> String {
        let metadata = &self.fleet.metadata;
        format!("{}/{}", metadata.namespace, metadata.name)
    }
}

/// The old path of a field, and the new one.
pub type Renamed = (&'static str, &'static str);

/// The document with all its defaults, as YAML that parses to the same document.
pub fn yaml(document: &impl Serialize) -> Result<String, serde_saphyr::SerializeError> {
    // Folded scalars would lose trailing spaces.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(document, options)
}
