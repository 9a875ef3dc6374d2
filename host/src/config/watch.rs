//! Detects changes of the configuration by polling every [`POLL_MS`]: a digest of a few files costs less than file
//! system notifications, which do not report changes on network mounts and swapped symlinks.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::load;

/// The useful polling interval.
pub const POLL_MS: u64 = 2_000;

/// Remembers the digest of files and directories.
#[derive(Debug)]
pub struct Watcher {
    paths: Vec<PathBuf>,
    digest: [u8; 32],
}

impl Watcher {
    /// Create it *before* [`load`](super::load()) is called, so that changes in between are detected.
    pub fn new(paths: Vec<PathBuf>) -> Watcher {
        let digest = digest(&paths);
        Watcher { paths, digest }
    }

    /// Has anything changed since the last call? Reads every file, each up to
    /// [`FILE_BYTES_MAX`](super::FILE_BYTES_MAX).
    /// [`FILE_BYTES_MAX`](super::FILE_BYTES_MAX).
    pub fn changed(&mut self) -> bool {
        let digest = digest(&self.paths);
        std::mem::replace(&mut self.digest, digest) != digest
    }
}

/// SHA-256 of the names and bytes of the files that [`load`](super::load()) would read. An unreadable file has a
/// digest, too: becoming readable is a change.
pub fn digest(paths: &[PathBuf]) -> [u8; 32] {
    let mut sha = Sha256::new();
    // With its length, so that different lists of files do not have the same bytes.
    let mut add = |tag: u8, bytes: &[u8]| {
        sha.update([tag]);
        sha.update((bytes.len() as u64).to_le_bytes());
        sha.update(bytes);
    };
    let (files, problems) = load::files(paths);
    for problem in problems {
        add(0, problem.to_string().as_bytes());
    }
    for file in files {
        add(1, file.as_os_str().as_encoded_bytes());
        match load::read(&file) {
            Ok(bytes) => add(2, &bytes),
            Err(why) => add(3, why.as_bytes()),
        }
    }
    sha.finalize().into()
}
