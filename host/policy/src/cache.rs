//! Compiled code, kept between runs.
//!
//! Compiling a policy takes from a tenth of a second to seconds; loading compiled code takes milliseconds. But
//! compiled code runs *outside* the sandbox: write access to the cache means control of the process. So the
//! directory must be owner-only (any other is refused), and every entry has a keyed hash, checked over the very
//! bytes that are then loaded. A bad entry is deleted and the module compiled again.
//!
//! The key is in the same directory: the seal detects damage, and entries written without access to the key (by
//! another container with the volume, for example), but not those of a process of the same user.
//!
//! An entry's name contains the digest of the module and the hash of everything that the engine's compiled form
//! depends on (version, settings, CPU), so stale entries are simply never found.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hmac::{Hmac, Mac};
use sha2::Sha256;
use thiserror::Error;

use crate::regular::read_regular;

type Seal = Hmac<Sha256>;
const SEAL_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
/// A longer key is not ours, and is replaced like a truncated one.
const KEY_BYTES_MAX: u64 = 4 << 10;
/// Compiled code is a few times the size of the module. Code that exceeds the limit for all entries is compiled
/// each time.
const ENTRY_BYTES: u64 = BYTES;

/// Modules in use, and a few versions of each; half of the volume that the manifest gives it.
const ENTRIES: usize = 64;
const BYTES: u64 = 256 << 20;

/// A directory of compiled policies.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    key: [u8; KEY_BYTES],
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    corrupt: AtomicU64,
}

/// How often the cache was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheCounts {
    /// Modules whose compiled code was found.
    pub hits: u64,
    /// Modules without a readable entry, which had to be compiled.
    pub misses: u64,
    /// Entries with an invalid seal: damaged, or tampered with.
    pub corrupt: u64,
}

/// Why a directory cannot be used as the cache. Policies work without one; they load slower.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The directory cannot be created or read, is no directory, or its key cannot be read or written.
    #[error("cannot use {path} as the cache of compiled policies: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The directory belongs to another user, who could write code into it.
    #[error(
        "cannot use {path} as the cache of compiled policies: it belongs to user {owner}, not to user {us}; \
         compiled code from there could not be trusted"
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
        /// The effective user id of this process.
        us: u32,
    },
    /// The group or others may read or write the directory.
    #[error(
        "cannot use {path} as the cache of compiled policies: its mode is {mode:o}, others may write or read; \
         chmod 700 it"
    )]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits; 0700 would be right.
        mode: u32,
    },
}

impl Cache {
    /// Opens the directory, created if necessary, with its own random key in it.
    ///
    /// # Errors
    ///
    /// If the directory cannot be used, or could be written or read by another user.
    pub fn open(directory: &Path) -> Result<Cache, CacheError> {
        let io = |source| CacheError::Io { path: directory.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
        let meta = fs::symlink_metadata(directory).map_err(io)?;
        if !meta.is_dir() {
            return Err(io(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        let us = rustix::process::geteuid().as_raw();
        if meta.uid() != us {
            return Err(CacheError::Owner { path: directory.into(), owner: meta.uid(), us });
        }
        if meta.mode() & 0o077 != 0 {
            return Err(CacheError::Mode { path: directory.into(), mode: meta.mode() & 0o777 });
        }
        let key = read_or_make_key(directory).map_err(io)?;
        Ok(Cache { directory: directory.into(), key, counts: Counts::default() })
    }

    /// Where the entries are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How often the cache was used since it was opened.
    pub fn counts(&self) -> CacheCounts {
        CacheCounts {
            hits: self.counts.hits.load(Ordering::Relaxed),
            misses: self.counts.misses.load(Ordering::Relaxed),
            corrupt: self.counts.corrupt.load(Ordering::Relaxed),
        }
    }

    /// The entry with this name, if it exists and is unchanged.
    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.directory.join(name);
        let Ok(mut bytes) = read_regular(&path, ENTRY_BYTES) else {
            self.counts.misses.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let intact = bytes
            .split_last_chunk::<SEAL_BYTES>()
            .is_some_and(|(code, seal)| self.seal(name, code).verify_slice(seal).is_ok());
        if !intact {
            self.counts.corrupt.fetch_add(1, Ordering::Relaxed);
            self.remove(name);
            return None;
        }
        self.counts.hits.fetch_add(1, Ordering::Relaxed);
        bytes.truncate(bytes.len() - SEAL_BYTES);
        Some(bytes)
    }

    /// Stores the entry. Without it the next load is only slower: the caller may ignore the error.
    pub(crate) fn put(&self, name: &str, code: &[u8]) -> io::Result<()> {
        let size_bytes = (code.len() + SEAL_BYTES) as u64;
        if size_bytes > ENTRY_BYTES {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.make_room(size_bytes);
        // Written to another name, then renamed: a reader sees a whole entry or none.
        let aside = self.directory.join(format!("{name}.{}", aside_suffix()?));
        let seal = self.seal(name, code).finalize().into_bytes();
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            file.write_all(code)?;
            file.write_all(&seal)?;
            file.sync_all()?;
            fs::rename(&aside, self.directory.join(name))
        };
        write().inspect_err(|_| {
            // Best effort: a leftover file is removed some day as the oldest entry.
            let _ = fs::remove_file(&aside);
        })
    }

    /// Deletes the oldest entries while there are too many, or too many bytes of them.
    fn make_room(&self, size_bytes: u64) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut entries: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.file_name() != "key")
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, entry.path(), meta.len()))
            })
            .collect();
        entries.sort();
        let (mut count, mut bytes) = (entries.len() + 1, size_bytes);
        bytes += entries.iter().map(|(.., len)| len).sum::<u64>();
        for (_, path, len) in entries {
            if count <= ENTRIES && bytes <= BYTES {
                return;
            }
            // Another process may have been faster.
            let _ = fs::remove_file(path);
            (count, bytes) = (count - 1, bytes - len);
        }
    }

    pub(crate) fn remove(&self, name: &str) {
        // If it stays, the next read finds it broken again.
        let _ = fs::remove_file(self.directory.join(name));
    }

    /// The name is sealed together with the code, so that entries cannot be swapped.
    fn seal(&self, name: &str, code: &[u8]) -> Seal {
        let mut seal = Seal::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        seal.update(name.as_bytes());
        seal.update(&[0]);
        seal.update(code);
        seal
    }
}

/// Differs from that of any other process or container at the same time.
fn aside_suffix() -> io::Result<String> {
    getrandom::u64().map(|number| format!("{number:016x}")).map_err(io::Error::other)
}

fn read_or_make_key(directory: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let path = directory.join("key");
    let mut key = [0; KEY_BYTES];
    match read_regular(&path, KEY_BYTES_MAX) {
        Ok(bytes) => match <[u8; KEY_BYTES]>::try_from(bytes) {
            Ok(key) => return Ok(key),
            // Half written because of a crash: entries sealed with it cannot be verified. Create a new key.
            Err(_) => fs::remove_file(&path)?,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let aside = directory.join(format!("key.{}", aside_suffix()?));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(&key)?;
    file.sync_all()?;
    // Two processes may start at once: the first link wins, and both use that key.
    let linked = fs::hard_link(&aside, &path);
    fs::remove_file(&aside)?;
    match linked {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_or_make_key(directory),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("rollcall-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Opening a pipe waits for its other end; a device never ends.
    #[test]
    fn a_key_and_entries_that_are_no_files_are_not_read() {
        let dir = Scratch::new("cache-fifo");
        let cache = Cache::open(&dir.0).expect("a cache");
        let fifo = |name: &str| {
            let made =
                std::process::Command::new("mkfifo").arg(dir.0.join(name)).status().expect("mkfifo runs");
            assert!(made.success());
        };
        fifo("entry");
        assert_eq!(cache.get("entry"), None);
        fs::remove_file(dir.0.join("key")).expect("a key");
        fifo("key");
        let error = Cache::open(&dir.0).expect_err("a pipe is no key");
        assert!(error.to_string().contains("is not a regular file"), "{error}");
        fs::remove_file(dir.0.join("key")).expect("the pipe");
        std::os::unix::fs::symlink("/dev/zero", dir.0.join("key")).expect("a link");
        let error = Cache::open(&dir.0).expect_err("a device is no key");
        assert!(error.to_string().contains("is not a regular file"), "{error}");
    }

    #[test]
    fn the_oldest_entries_make_room_for_bytes() {
        let dir = Scratch::new("cache-bytes");
        let cache = Cache::open(&dir.0).expect("a cache");
        for name in ["first", "second"] {
            cache.put(name, b"code").expect("it is kept");
            // A sparse file: it takes no room on the disk.
            let file = OpenOptions::new().write(true).open(dir.0.join(name)).expect("an entry");
            file.set_len(BYTES / 2).expect("a hole");
            let age = std::time::SystemTime::now()
                - std::time::Duration::from_secs(if name == "first" { 9 } else { 5 });
            file.set_modified(age).expect("its age");
        }
        cache.put("third", b"code").expect("it is kept");
        assert!(!dir.0.join("first").exists() && dir.0.join("second").exists());
        assert_eq!(cache.get("third").as_deref(), Some(&b"code"[..]));
        assert!(cache.put("huge", &vec![0; BYTES as usize]).is_err());
    }
}
