//! The available policies: the built-in ones and those of the drop-in directory.
//!
//! A file that cannot be loaded never removes a policy: the previously loaded version stays active, and the fault is
//! reported. Names are unique; a file cannot override a built-in policy.
//!
//! Only the built-in policies exist from the start. A separate task reads the directory ([`crate::eyes`]), and the
//! policies of each file become available as soon as it is loaded: a file that takes long delays the files after it,
//! but no document and no fleet.

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
use crate::config::{ClassConfig, Documents, FleetConfig, Problem};
use crate::policy::modules;

mod judge;
mod said;

/// Maximum files of the drop-in directory that are loaded: the first by name. The others are reported.
const FILES_MAX: usize = 256;
/// Maximum directory entries that are examined, of any kind.
const ENTRIES_MAX: usize = 100_000;

/// The files of the drop-in directory, with time and size.
#[derive(Clone, Default, PartialEq)]
struct Listing {
    files: BTreeMap<PathBuf, (Option<SystemTime>, u64)>,
    /// The number of files beyond [`FILES_MAX`], and the first of them.
    surplus: Option<(usize, PathBuf)>,
}

/// Evaluates policies. Cheap to share.
pub struct Policies {
    sandbox: Sandbox,
    directory: Option<PathBuf>,
    table: RwLock<Table>,
    /// The directory was read completely at least once.
    complete: AtomicBool,
    /// Counts changes, so that documents can be judged again.
    generation: watch::Sender<u64>,
    said: Said,
}

#[derive(Default)]
struct Table {
    /// By file; the built-in ones have an empty path and so come first.
    modules: BTreeMap<(PathBuf, usize), Arc<Module>>,
    listing: Listing,
    /// Why files were rejected, by file.
    refused: BTreeMap<PathBuf, String>,
}

/// The cost and result of an answer.
pub struct Asked {
    pub answer: Result<Answer, Fault>,
    /// `ok`, or the kind of fault.
    pub result: &'static str,
    pub took: Duration,
}

impl Policies {
    /// Loads the built-in policies. Those of the directory follow with [`Policies::refresh`], compiled by the compiler.
    pub fn load(directory: Option<PathBuf>, compiler: Compiler) -> Result<Policies> {
        let cache = match modules::cache() {
            Ok(cache) => {
                tracing::info!(directory = %cache.directory().display(), "compiled policies are cached");
                Some(cache)
            }
            Err(why) => {
                tracing::warn!(why, "compiled policies are not cached: every start compiles them again");
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

    /// Policies of the directory may be missing because it has not been read completely yet.
    pub fn is_loading(&self) -> bool {
        !self.complete.load(Ordering::Acquire)
    }

    pub fn has_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// Notifies about changes of the policies.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Why files were rejected at the last refresh, and whether there are too many.
    pub fn refused(&self) -> Vec<String> {
        let table = self.table.read().expect("no panic holds it");
        let file = |(file, why): (&PathBuf, &String)| format!("{} was refused: {why}", shown(file));
        let surplus = table.listing.surplus.as_ref().map(surplus);
        table.refused.iter().map(file).chain(surplus).collect()
    }

    /// Reads the directory again, and returns whether the policies changed. Slow: it may compile.
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
                "a policy file was refused; the previously loaded version stays active"
            );
            let mut table = self.table.write().expect("no panic holds it");
            table.refused.insert(path.to_owned(), why);
            false
        };
        // A panic in Rollcall that one file triggers concerns only this file.
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

    /// The problems that the core and the policies find in these documents, without a time limit.
    pub fn problems(self: &Arc<Policies>, documents: &Documents) -> Vec<Problem> {
        let found = |fleets: &[FleetConfig]| {
            let judged = Judge::patient(Arc::clone(self)).judge(fleets);
            judged.into_iter().flat_map(|judged| judged.problems).collect::<Vec<Problem>>()
        };
        let of_classes: Vec<FleetConfig> =
            documents.classes.iter().map(|class| class.fleet.clone()).collect();
        let of_classes = found(&of_classes).into_iter().map(ClassConfig::in_class);
        found(&documents.fleets).into_iter().chain(of_classes).collect()
    }

    /// Hits and misses of the cache of compiled policies. `None`: there is no cache.
    pub fn cache_counts(&self) -> Option<CacheCounts> {
        self.sandbox.cache().map(Cache::counts)
    }

    /// Evaluates a policy, on a thread of the caller's that may block. The policy's log lines go to the daemon's log.
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

/// The `.wasm` files of a directory, ordered by name. The mount of a ConfigMap holds its data under a name that starts
/// with `..`.
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
    // A file that was deleted meanwhile is skipped.
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

/// A path as text without terminal control sequences.
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
            // They are not policies, and do not count.
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
