//! The policies that can be asked: the built-in ones, and whatever lies in the drop-in directory.
//!
//! A file that cannot be loaded never takes anything away: the last good module of that file goes on
//! deciding, and the fault is told. Names are unique; a file may not take a built-in policy's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use fleet::action::Question;
use fleet::event::{Answer, Fault};
use policy::{Blame, Cache, CacheCounts, Limits, Module, Sandbox, SandboxConfig, Settings};
use serde_json::Value;

pub use self::said::Asker;
use self::said::Said;
use crate::config::{FleetConfig, Problem};
use crate::policy::modules;

mod said;

/// Files in the drop-in directory beyond this many are not looked at.
const FILES_MAX: usize = 256;

/// What is in the drop-in directory: its files, and when and how large each was.
type Listing = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// Answers questions. Cheap to share.
pub struct Policies {
    sandbox: Sandbox,
    directory: Option<PathBuf>,
    table: RwLock<Table>,
    said: Said,
}

#[derive(Default)]
struct Table {
    /// By file; the built-in ones have an empty path and so come first.
    modules: BTreeMap<(PathBuf, usize), Arc<Module>>,
    listing: Listing,
}

/// What an answer cost and was.
pub struct Asked {
    pub answer: Result<Answer, Fault>,
    /// `ok`, or the kind of fault.
    pub result: &'static str,
    pub took: Duration,
}

impl Policies {
    /// The built-in policies, and those of the directory.
    pub fn load(directory: Option<PathBuf>) -> Result<Policies> {
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
        let sandbox =
            Sandbox::new(SandboxConfig { limits: Limits::default(), cache, ..SandboxConfig::default() })?;
        let mut table = Table::default();
        for (at, source) in modules::load(&sandbox, None)?.into_iter().enumerate() {
            table.modules.insert((PathBuf::new(), at), Arc::new(source.module));
        }
        let policies = Policies { sandbox, directory, table: RwLock::new(table), said: Said::default() };
        policies.refresh();
        Ok(policies)
    }

    /// Looks into the directory again. Whether the policies are others now. Slow: it may compile.
    pub fn refresh(&self) -> bool {
        let Some(directory) = &self.directory else { return false };
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
        let mut changed = false;
        for (path, stamp) in &listing {
            if before.get(path) != Some(stamp) {
                changed |= self.reload(path);
            }
        }
        let mut table = self.table.write().expect("no panic holds it");
        let count = table.modules.len();
        table.modules.retain(|(path, _), _| path.as_os_str().is_empty() || listing.contains_key(path));
        table.listing = listing;
        changed || table.modules.len() < count
    }

    fn reload(&self, path: &Path) -> bool {
        let module = match self.sandbox.load_file(path) {
            Ok(module) => module,
            Err(refusal) => {
                let error = error_chain(&refusal);
                tracing::warn!(file = %path.display(), %error, "a policy file was refused; what it was before goes on deciding");
                return false;
            }
        };
        let mut table = self.table.write().expect("no panic holds it");
        let others = table.modules.iter().filter(|((other, _), _)| other != path);
        let mut taken = others.flat_map(|(_, module)| &module.policies);
        if let Some(taken) = taken.find(|taken| module.policy(&taken.name).is_some()) {
            tracing::warn!(file = %path.display(), policy = %taken.name, "a policy file was refused: another module has a policy of this name");
            return false;
        }
        tracing::info!(file = %path.display(), module = %module.name, digest = %module.digest, "policies loaded");
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

    /// What the core and the policies have against these documents.
    pub fn problems(&self, fleets: &[FleetConfig]) -> Vec<Problem> {
        let names = self.names();
        let mut problems: Vec<Problem> = fleets.iter().flat_map(|fleet| fleet.check(&names)).collect();
        for config in fleets {
            let known = config.fleet.spec.policies.iter().filter(|(name, _)| names.contains(name));
            for (name, settings) in known {
                if let Err(error) = self.check_settings(name, &settings.clone().into()) {
                    problems.push(config.problem(&format!("spec.policies.{name}"), error));
                }
            }
        }
        problems
    }

    fn check_settings(&self, name: &str, settings: &Value) -> Result<(), String> {
        let questions = [policy::Question::Roll, policy::Question::Loss];
        let module = questions.into_iter().find_map(|question| self.find(name, question));
        let module = module.ok_or_else(|| format!("no policy is named {name}"))?;
        module.settings(name, settings).map(drop).map_err(|error| error_chain(&error))
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
            let why = format!("no policy {name} answers the question {:?}", kind.name());
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

/// The `.wasm` files of a directory. A ConfigMap's mount holds its data under a name that starts with `..`.
fn list(directory: &Path) -> std::io::Result<Listing> {
    let mut listing = Listing::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
        if hidden
            || path.extension().is_none_or(|extension| extension != "wasm")
            || listing.len() == FILES_MAX
        {
            continue;
        }
        // A file that went away meanwhile is not there.
        if let Ok(meta) = std::fs::metadata(&path) {
            listing.insert(path, (meta.modified().ok(), meta.len()));
        }
    }
    Ok(listing)
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
