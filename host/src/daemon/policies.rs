//! The policies that can be asked: the built-in ones, and whatever lies in the drop-in directory.
//!
//! A file that cannot be loaded never takes anything away: the last good module of that file goes on
//! deciding, and the fault is told. Names are unique; a file may not take a built-in policy's.
//!
//! Only the built-in ones are there from the start. The directory is looked into by a task of its own ([`crate::eyes`]),
//! and each file's policies are there as soon as they are loaded: one that takes long holds back the files after it,
//! and neither a document nor a fleet.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use fleet::action::Question;
use fleet::event::{Answer, Fault};
use policy::{
    Blame, Cache, CacheCounts, Compiler, Limits, Module, Sandbox, SandboxConfig, Settings, printable,
};
use serde_json::Value;
use tokio::sync::watch;

pub use self::judge::{Judge, Judged};
pub use self::said::Asker;
use self::said::Said;
use crate::config::{FleetConfig, Problem};
use crate::policy::modules;

mod judge;
mod said;

/// Files in the drop-in directory that are loaded: the first by name. The others are told.
const FILES_MAX: usize = 256;
/// Entries of the directory that are looked at, whatever they are.
const ENTRIES_MAX: usize = 100_000;

/// What is in the drop-in directory: its files, and when and how large each was.
#[derive(Clone, Default, PartialEq)]
struct Listing {
    files: BTreeMap<PathBuf, (Option<SystemTime>, u64)>,
    /// How many there are beyond [`FILES_MAX`], and the first of them.
    surplus: Option<(usize, PathBuf)>,
}

/// Answers questions. Cheap to share.
pub struct Policies {
    sandbox: Sandbox,
    directory: Option<PathBuf>,
    table: RwLock<Table>,
    /// The directory was looked into once, from its beginning to its end.
    complete: AtomicBool,
    /// Counts what changes, so that documents can be judged again.
    generation: watch::Sender<u64>,
    said: Said,
}

#[derive(Default)]
struct Table {
    /// By file; the built-in ones have an empty path and so come first.
    modules: BTreeMap<(PathBuf, usize), Arc<Module>>,
    listing: Listing,
    /// Why files were refused, by file.
    refused: BTreeMap<PathBuf, String>,
}

/// What an answer cost and was.
pub struct Asked {
    pub answer: Result<Answer, Fault>,
    /// `ok`, or the kind of fault.
    pub result: &'static str,
    pub took: Duration,
}

impl Policies {
    /// The built-in policies. Those of the directory come with [`Policies::refresh`], compiled by the compiler.
    pub fn load(directory: Option<PathBuf>, compiler: Compiler) -> Result<Policies> {
        let cache = match modules::cache() {
            Ok(cache) => {
                tracing::info!(directory = %cache.directory().display(), "compiled policies are kept");
                Some(cache)
            }
            Err(why) => {
                tracing::warn!(why, "compiled policies are not kept: every start compiles them again");
                None
            }
        };
        let sandbox = Sandbox::new(SandboxConfig {
            limits: Limits::default(),
            cache,
            compiler,
            ..SandboxConfig::default()
        })?;
        if !sandbox.is_pooled() {
            tracing::warn!(
                "there is too little address space (ulimit -v) to keep instances of policies ready: each call makes its own, and is slower"
            );
        }
        let mut table = Table::default();
        for (at, source) in modules::load(&sandbox, None)?.into_iter().enumerate() {
            table.modules.insert((PathBuf::new(), at), Arc::new(source.module));
        }
        let complete = AtomicBool::new(directory.is_none());
        let (table, generation) = (RwLock::new(table), watch::Sender::new(0));
        Ok(Policies { sandbox, directory, table, complete, generation, said: Said::default() })
    }

    /// Policies of the directory may be missing because it was not looked through yet.
    pub fn is_loading(&self) -> bool {
        !self.complete.load(Ordering::Acquire)
    }

    pub fn has_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// Tells when the policies are others.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Why files were refused when they were looked at last, and that there are too many.
    pub fn refused(&self) -> Vec<String> {
        let table = self.table.read().expect("no panic holds it");
        let file = |(file, why): (&PathBuf, &String)| format!("{} was refused: {why}", shown(file));
        let surplus = table.listing.surplus.as_ref().map(surplus);
        table.refused.iter().map(file).chain(surplus).collect()
    }

    /// Looks into the directory again. Whether the policies are others now. Slow: it may compile.
    pub fn refresh(&self) -> bool {
        let Some(directory) = &self.directory else { return false };
        let changed = self.look_into(directory);
        let first = !self.complete.swap(true, Ordering::AcqRel);
        if changed || first {
            self.generation.send_modify(|generation| *generation += 1);
        }
        changed
    }

    fn look_into(&self, directory: &Path) -> bool {
        let listing = match list(directory) {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(directory = %directory.display(), %error, "the policy directory cannot be read; its policies stay as they were");
                return false;
            }
        };
        let before = self.table.read().expect("no panic holds it").listing.clone();
        if listing == before {
            return false;
        }
        if let Some(surplus) = listing.surplus.as_ref().map(surplus)
            && before.surplus != listing.surplus
        {
            tracing::error!("{surplus}");
        }
        let mut changed = false;
        for (path, stamp) in &listing.files {
            if before.files.get(path) != Some(stamp) && self.reload(path) {
                changed = true;
                self.generation.send_modify(|generation| *generation += 1);
            }
        }
        let mut table = self.table.write().expect("no panic holds it");
        let count = table.modules.len();
        table.modules.retain(|(path, _), _| path.as_os_str().is_empty() || listing.files.contains_key(path));
        table.refused.retain(|path, _| listing.files.contains_key(path));
        table.listing = listing;
        changed || table.modules.len() < count
    }

    fn reload(&self, path: &Path) -> bool {
        let file = shown(path);
        tracing::info!(file, "loading policies");
        let refuse = |why: String| {
            tracing::warn!(
                file,
                error = why,
                "a policy file was refused; what it was before goes on deciding"
            );
            let mut table = self.table.write().expect("no panic holds it");
            table.refused.insert(path.to_owned(), why);
            false
        };
        // A bug of ours that one file strikes concerns this file.
        let module = match catch_unwind(AssertUnwindSafe(|| self.sandbox.load_file(path))) {
            Ok(Ok(module)) => module,
            Ok(Err(refusal)) => return refuse(error_chain(&refusal)),
            Err(_) => return refuse("loading it panicked, which is a bug of Rollcall".to_owned()),
        };
        let taken = {
            let table = self.table.read().expect("no panic holds it");
            let others = table.modules.iter().filter(|((other, _), _)| other != path);
            let mut taken = others.flat_map(|(_, module)| &module.policies);
            taken.find(|taken| module.policy(&taken.name).is_some()).map(|taken| taken.name.clone())
        };
        if let Some(name) = taken {
            return refuse(format!("another module has a policy of this name, {name}"));
        }
        tracing::info!(file, module = %module.name, digest = %module.digest, "policies loaded");
        let mut table = self.table.write().expect("no panic holds it");
        table.refused.remove(path);
        table.modules.insert((path.to_owned(), 0), Arc::new(module));
        true
    }

    /// All policies' names.
    pub fn names(&self) -> Vec<String> {
        let table = self.table.read().expect("no panic holds it");
        table.modules.values().flat_map(|module| &module.policies).map(|policy| policy.name.clone()).collect()
    }

    fn find(&self, name: &str, question: policy::Question) -> Option<Arc<Module>> {
        let table = self.table.read().expect("no panic holds it");
        let mut modules = table.modules.values();
        let answers =
            |module: &&Arc<Module>| module.policy(name).is_some_and(|policy| policy.question == question);
        modules.find(answers).cloned()
    }

    /// The module of a policy, and whether it is built in.
    fn find_any(&self, name: &str) -> Option<(Arc<Module>, bool)> {
        let table = self.table.read().expect("no panic holds it");
        let mut modules = table.modules.iter();
        let (at, module) = modules.find(|(_, module)| module.policy(name).is_some())?;
        Some((Arc::clone(module), at.0.as_os_str().is_empty()))
    }

    /// What the core and the policies have against these documents, however long it takes to find out.
    pub fn problems(self: &Arc<Policies>, fleets: &[FleetConfig]) -> Vec<Problem> {
        let judged = Judge::patient(Arc::clone(self)).judge(fleets);
        judged.into_iter().flat_map(|judged| judged.problems).collect()
    }

    /// How often compiled policies were found in the cache. `None`: there is no cache.
    pub fn cache_counts(&self) -> Option<CacheCounts> {
        self.sandbox.cache().map(Cache::counts)
    }

    /// Asks a policy, on a thread of the caller's that may block. What the policy says meanwhile is logged.
    pub fn ask(&self, name: &str, settings: Option<&Value>, question: &Question, asker: Asker<'_>) -> Asked {
        let begun = Instant::now();
        let (answer, result) = self.evaluate(name, settings, question, asker);
        Asked { answer, result, took: begun.elapsed() }
    }

    fn evaluate(
        &self,
        name: &str,
        settings: Option<&Value>,
        question: &Question,
        asker: Asker<'_>,
    ) -> (Result<Answer, Fault>, &'static str) {
        let kind = match question {
            Question::Roll(_) => policy::Question::Roll,
            Question::Loss(_) => policy::Question::Loss,
        };
        let Some(module) = self.find(name, kind) else {
            let yet = if self.is_loading() { " yet: files of --policies are being loaded" } else { "" };
            let why = format!("no policy {name} answers the question {:?}{yet}", kind.name());
            return (Err(Fault::Policy(why)), "missing");
        };
        let empty = Value::Object(serde_json::Map::new());
        let settings: Settings = match module.settings(name, settings.unwrap_or(&empty)) {
            Ok(settings) => settings,
            Err(error) => return (Err(Fault::Policy(error_chain(&error))), "settings"),
        };
        let (answer, log, dropped) = match question {
            Question::Roll(question) => {
                let asked = self.sandbox.select(&module, name, &settings, question);
                (asked.answer.map(Answer::Roll), asked.log, asked.log_dropped)
            }
            Question::Loss(evidence) => {
                let asked = self.sandbox.classify(&module, name, &settings, evidence);
                (asked.answer.map(Answer::Loss), asked.log, asked.log_dropped)
            }
        };
        self.said.log(name, asker, &log, dropped);
        match answer {
            Ok(answer) => (Ok(answer), "ok"),
            Err(fault) => {
                let why = error_chain(&fault);
                let blamed = match fault.blame() {
                    Blame::Policy => Fault::Policy(why),
                    Blame::Host => Fault::Host(why),
                };
                (Err(blamed), fault.label())
            }
        }
    }
}

/// The `.wasm` files of a directory, in the order of their names. A ConfigMap's mount holds its data under a name that
/// starts with `..`.
fn list(directory: &Path) -> std::io::Result<Listing> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)?.take(ENTRIES_MAX) {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "wasm") {
            paths.push(path);
        }
    }
    paths.sort();
    let surplus = paths.get(FILES_MAX).map(|first| (paths.len() - FILES_MAX, first.clone()));
    paths.truncate(FILES_MAX);
    // A file that went away meanwhile is not there.
    let stamp = |path: PathBuf| {
        let meta = std::fs::metadata(&path).ok()?;
        Some((path, (meta.modified().ok(), meta.len())))
    };
    Ok(Listing { files: paths.into_iter().filter_map(stamp).collect(), surplus })
}

fn surplus((count, first): &(usize, PathBuf)) -> String {
    format!(
        "{count} policy files are not loaded, from {} on: a directory has at most {FILES_MAX}; put several policies into one module",
        shown(first)
    )
}

/// A path as text that cannot drive a terminal.
fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy(), 500)
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_256_policy_files_are_loaded_and_the_others_told() {
        let dir = std::env::temp_dir().join(format!("rollcall-many-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        for at in 0..300 {
            std::fs::write(dir.join(format!("{at:03}.wasm")), "").expect("a file");
            // They are none, and take no place.
            std::fs::write(dir.join(format!("{at:03}.txt")), "").expect("a file");
        }
        let listing = list(&dir).expect("it can be read");
        std::fs::remove_dir_all(&dir).expect("it is there");
        assert_eq!(listing.files.len(), FILES_MAX);
        assert_eq!(listing.files.last_key_value().map(|(path, _)| path.clone()), Some(dir.join("255.wasm")));
        let said = listing.surplus.as_ref().map(surplus).expect("there are more");
        assert!(
            said.starts_with("44 policy files are not loaded, from ") && said.contains("256.wasm on"),
            "{said}"
        );
    }
}
