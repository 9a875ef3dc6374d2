//! Has the configuration changed? Asked every [`POLL_MS`]: a digest of a few files costs less than a
//! file system's notifications, which say nothing about network mounts and swapped symlinks.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::load;

/// How often it is worth asking.
pub const POLL_MS: u64 = 2_000;

/// Remembers the digest of files and directories.
#[derive(Debug)]
pub struct Watcher {
    paths: Vec<PathBuf>,
    digest: [u8; 32],
}

impl Watcher {
    /// To be made *before* [`load`](super::load()) is called: what changes in between is seen then.
    pub fn new(paths: Vec<PathBuf>) -> Watcher {
        let digest = digest(&paths);
        Watcher { paths, digest }
    }

    /// Is anything different from last time? Reads every file, each up to
    /// [`FILE_BYTES_MAX`](super::FILE_BYTES_MAX).
    pub fn changed(&mut self) -> bool {
        let digest = digest(&self.paths);
        std::mem::replace(&mut self.digest, digest) != digest
    }
}

/// SHA-256 of the names and bytes of the files that [`load`](super::load()) would read. A file that cannot
/// be read has a digest, too: that it can be read again is a change.
pub fn digest(paths: &[PathBuf]) -> [u8; 32] {
    let mut sha = Sha256::new();
    // With its length, so that no two lists of files are one text.
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
