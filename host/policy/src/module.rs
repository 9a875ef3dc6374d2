//! A loaded module: its contents and its checks.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};
use wasmtime::{Engine, Precompiled};

use crate::bindings::exports::rollcall::policy as exports;
use crate::bindings::rollcall::policy::types as wit;
use crate::fault::Fault;
use crate::guest::Guest;
use crate::guest_log::printable;
use crate::limits::MODULE_BYTES;
use crate::refusal::Refusal;
use crate::settings::{Schema, Settings, SettingsProblem};

/// A module that was validated, compiled and linked, and whose policies are known.
pub struct Module {
    pub(crate) pre: InstancePre<Guest>,
    pub(crate) exports: Exports,
    pub(crate) wasi: bool,
    checker: Checker,
    /// The name from the module's own description; usually its crate's. For people: it need not be unique.
    pub name: String,
    /// The version from the module's own description, for people.
    pub version: String,
    /// SHA-256 of the file, in hex: the module's identity.
    pub digest: String,
    /// Size of the file.
    pub size_bytes: usize,
    /// Names of its imports.
    pub imports: Vec<String>,
    /// What each instance of it takes.
    pub needs: Needs,
    /// Its policies, in the order of its description; at least one. Names are unique.
    pub policies: Vec<Policy>,
    schemas: BTreeMap<String, Schema>,
    verdicts: Mutex<Verdicts>,
}

/// The policy's answers about settings that conform to its schema. The policy is a pure function, so it would give the
/// same answer again: a decision need not ask it, which takes an instance of its own and as much time as the policy
/// likes.
type Verdicts = HashMap<(String, Settings), Result<(), Vec<SettingsProblem>>>;

/// How many answers are remembered; beyond this, all are forgotten. Usually there is one for each policy and class of
/// fleets. Settings have at most 64 KiB, so these are 64 MiB at most.
const VERDICTS_MAX: usize = 1_024;

/// Asks the module itself about settings.
pub(crate) type Checker =
    Box<dyn Fn(&Module, &str, &str) -> Result<Result<(), Vec<SettingsProblem>>, Fault> + Send + Sync>;

/// The functions that a module exports, looked up once.
pub(crate) struct Exports {
    pub(crate) describe: exports::describe::GuestIndices,
    pub(crate) roll: Option<exports::roll::GuestIndices>,
    pub(crate) loss: Option<exports::loss::GuestIndices>,
}

/// A policy as its module describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// By which documents and the command line call it: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// Which question it answers.
    pub question: Question,
    /// Markdown. The first line is a summary.
    pub docs: String,
    /// JSON Schema (draft 2020-12) of its settings.
    pub settings_schema: Value,
}

/// What a policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which executor should be rolled?
    Roll,
    /// Why was this executor lost?
    Loss,
}

impl Question {
    /// The name in JSON and listings, and of the contract's interface.
    pub fn name(self) -> &'static str {
        match self {
            Question::Roll => "roll",
            Question::Loss => "loss",
        }
    }
}

/// The cost of an instance before it has done anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Number of linear memories.
    pub memories: u32,
    /// Initial size of the largest memory.
    pub memory_bytes_initial: u64,
    /// Number of tables.
    pub tables: u32,
    /// Initial size of the largest table.
    pub table_elements_initial: u64,
}

impl Module {
    /// The policy with this name.
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    /// The contract's worlds that it implements.
    pub fn worlds(&self) -> Vec<&'static str> {
        let roll = self.exports.roll.as_ref().map(|_| "roll-policy");
        let loss = self.exports.loss.as_ref().map(|_| "loss-classifier");
        roll.into_iter().chain(loss).collect()
    }

    /// Settings for a policy of this module: checked against its schema, then by the policy.
    ///
    /// # Errors
    ///
    /// If the module has no such policy, the settings are wrong, or the policy fails when it is asked about them.
    pub fn settings(&self, policy: &str, given: &Value) -> Result<Settings, SettingsError> {
        let settings = Settings::of(given);
        let key = (policy.to_owned(), settings.clone());
        // Not locked while the policy is asked, because that takes time.
        let verdicts = || self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = verdicts().get(&key).cloned();
        let verdict = if let Some(known) = known {
            known
        } else {
            let schema = self.schemas.get(policy).ok_or_else(|| SettingsError::NoSuchPolicy {
                policy: policy.into(),
                known: self.policies.iter().map(|policy| policy.name.clone()).collect(),
            })?;
            schema.check(given).map_err(SettingsError::Problems)?;
            let verdict = (self.checker)(self, policy, settings.as_json()).map_err(SettingsError::Fault)?;
            let mut verdicts = verdicts();
            if verdicts.len() >= VERDICTS_MAX {
                verdicts.clear();
            }
            verdicts.insert(key, verdict.clone());
            verdict
        };
        verdict.map(|()| settings).map_err(SettingsError::Problems)
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Module { name, version, digest, policies, .. } = self;
        write!(f, "Module({name} {version} {digest} {policies:?})")
    }
}

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SettingsError {
    /// The name is wrong, or the policy is in another module.
    #[error("this module has no policy {policy}; it has: {}", known.join(", "))]
    NoSuchPolicy {
        /// The name that was asked for.
        policy: String,
        /// The names that the module has.
        known: Vec<String>,
    },
    /// They do not fit the schema, or the policy refused them (`check-settings`). At least one problem.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<SettingsProblem>),
    /// The policy was asked about them and gave no answer.
    #[error("the policy fails when asked about its settings")]
    Fault(#[from] Fault),
}

/// A component that has passed every check that needs no instance.
pub(crate) struct Checked {
    pub(crate) component: Component,
    pub(crate) digest: String,
    pub(crate) size_bytes: usize,
    pub(crate) imports: Vec<String>,
    pub(crate) needs: Needs,
    pub(crate) wasi: bool,
    pub(crate) roll: bool,
    pub(crate) loss: bool,
}

/// Checks that need only the bytes.
pub(crate) fn check_bytes(bytes: &[u8]) -> Result<String, Refusal> {
    if bytes.len() as u64 > MODULE_BYTES {
        return Err(Refusal::TooLarge { size_bytes: bytes.len() as u64, limit_bytes: MODULE_BYTES });
    }
    match bytes {
        [b'\0', b'a', b's', b'm', _, _, 0, 0, ..] => return Err(Refusal::CoreModule),
        [b'\0', b'a', b's', b'm', ..] => {}
        _ => {
            return Err(match Engine::detect_precompiled(bytes) {
                Some(Precompiled::Component | Precompiled::Module) => Refusal::Precompiled,
                None if bytes.is_empty() => Refusal::NotWasm("it is empty".into()),
                None => Refusal::NotWasm("it does not start with \\0asm".into()),
            });
        }
    }
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

const PACKAGE: &str = "rollcall:policy/";
const VERSION: &str = "@1.0.0";
/// Packages of WASI for which [`crate::guest::wasi`] has a deny-all implementation.
const WASI: [&str; 5] = ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/"];

/// Refuses imports that no policy may have.
pub(crate) fn check_import(name: &str) -> Result<(), Refusal> {
    let ours = name.strip_prefix(PACKAGE).is_some_and(|rest| {
        // A later 1.x of the same interface is compatible if the types match; linking checks that.
        rest.starts_with("log@1.") || rest.starts_with("types@1.")
    });
    if ours || WASI.iter().any(|package| name.starts_with(package)) {
        return Ok(());
    }
    let remedy = if name.starts_with("wasi:") {
        "policies have no network and no HTTP; build without it (componentize-py: --stub-wasi)"
    } else {
        "policies may import rollcall:policy/log@1.0.0 and nothing else"
    };
    Err(Refusal::WrongWorld(format!("it imports {}; {remedy}", printable(name, 200))))
}

/// Refuses a component that violates the contract or the limits.
pub(crate) fn check_component(
    component: Component,
    bytes: &[u8],
    digest: String,
) -> Result<Checked, Refusal> {
    let engine = component.engine().clone();
    let ty = component.component_type();
    let mut imports = Vec::new();
    for (name, _) in ty.imports(&engine) {
        check_import(name)?;
        imports.push(printable(name, 200));
    }
    let wasi = imports.iter().any(|name| name.starts_with("wasi:"));

    let exported: Vec<&str> = ty.exports(&engine).map(|(name, _)| name).collect();
    let exports = |interface: &str| {
        let item = ty.get_export(&engine, &format!("{PACKAGE}{interface}{VERSION}"));
        item.is_some_and(|export| matches!(export.ty, ComponentItem::ComponentInstance(_)))
    };
    let (roll, loss) = (exports("roll"), exports("loss"));
    let missing = match (exports("describe"), roll || loss) {
        (true, true) => None,
        (false, _) => Some("describe"),
        (true, false) => Some("roll or loss"),
    };
    if let Some(missing) = missing {
        let exported = match exported.as_slice() {
            [] => "nothing".into(),
            names => printable(&names.join(", "), 500),
        };
        let message = format!(
            "it does not export the interface {missing} of rollcall:policy@1.0.0; it exports {exported}"
        );
        return Err(Refusal::WrongWorld(message));
    }
    let needs = needs(&component)?;
    Ok(Checked { component, digest, size_bytes: bytes.len(), imports, needs, wasi, roll, loss })
}

const WASM_PAGE_BYTES: u64 = 64 << 10;

fn needs(component: &Component) -> Result<Needs, Refusal> {
    let Some(required) = component.resources_required() else {
        let message = "it imports core modules or components, which cannot be bounded".into();
        return Err(Refusal::WrongWorld(message));
    };
    Ok(Needs {
        memories: required.num_memories,
        memory_bytes_initial: required.max_initial_memory_size.unwrap_or(0).saturating_mul(WASM_PAGE_BYTES),
        tables: required.num_tables,
        table_elements_initial: required.max_initial_table_size.unwrap_or(0),
    })
}

const POLICIES: usize = 64;
const NAME_BYTES: usize = 64;
const DOCS_BYTES: usize = 16 << 10;

/// Builds the module from its own description.
pub(crate) fn describe(
    checked: Checked,
    pre: InstancePre<Guest>,
    exports: Exports,
    checker: Checker,
    described: wit::Module,
) -> Result<Module, Refusal> {
    let wrong = |message: String| Refusal::Description(printable(&message, 1000));
    if described.policies.is_empty() {
        return Err(wrong("it lists no policies".into()));
    }
    if described.policies.len() > POLICIES {
        return Err(wrong(format!(
            "it lists {} policies, the limit is {POLICIES}",
            described.policies.len()
        )));
    }
    let mut policies = Vec::new();
    let mut schemas = BTreeMap::new();
    for policy in described.policies {
        let name = policy.name;
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(letters) {
            return Err(wrong(format!("policy name {name:?}: it must be 1 to 64 of A-Z a-z 0-9 . _ -")));
        }
        let (question, exported) = match policy.question {
            wit::Question::Roll => (Question::Roll, checked.roll),
            wit::Question::Loss => (Question::Loss, checked.loss),
        };
        if !exported {
            let interface = question.name();
            return Err(wrong(format!(
                "policy {name} answers {interface}, but that interface is not exported"
            )));
        }
        let schema = Schema::compile(&policy.settings_schema)
            .map_err(|error| wrong(format!("the settings schema of policy {name}: {error}")))?;
        if schemas.insert(name.clone(), schema.clone()).is_some() {
            return Err(wrong(format!("two policies are named {name}")));
        }
        let docs: String =
            policy.docs.lines().map(|line| printable(line, DOCS_BYTES)).collect::<Vec<_>>().join("\n");
        if docs.len() > DOCS_BYTES {
            return Err(wrong(format!("the docs of policy {name} are longer than {DOCS_BYTES} bytes")));
        }
        policies.push(Policy { name, question, docs, settings_schema: schema.text().clone() });
    }
    Ok(Module {
        pre,
        exports,
        wasi: checked.wasi,
        checker,
        name: printable(&described.name, NAME_BYTES),
        version: printable(&described.version, NAME_BYTES),
        digest: checked.digest,
        size_bytes: checked.size_bytes,
        imports: checked.imports,
        needs: checked.needs,
        policies,
        schemas,
        verdicts: Mutex::default(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;

    use super::*;
    use crate::{Builtin, Sandbox, SandboxConfig};

    #[test]
    fn a_policy_is_asked_once_about_the_same_settings() {
        let sandbox = Sandbox::new(SandboxConfig::default()).expect("a sandbox");
        let mut module = sandbox.load(Builtin::SPARK_ROLL.component).expect("a module");
        let asked = Arc::new(AtomicU32::new(0));
        let (count, busy) = (Arc::clone(&asked), Fault::Busy { waited_ms: 1 });
        // The first time the host is busy: that proves nothing about the settings.
        module.checker = Box::new(move |_, _, settings| {
            let first = count.fetch_add(1, Ordering::Relaxed) == 0;
            if first {
                return Err(busy.clone());
            }
            let problem = SettingsProblem { path: String::new(), message: "no".to_owned() };
            Ok(if settings == "null" { Err(vec![problem]) } else { Ok(()) })
        });
        let ask = |policy: &str, settings: Value| {
            let result = module.settings(policy, &settings);
            (result.map(|settings| settings.as_json().to_owned()), asked.load(Ordering::Relaxed))
        };
        assert_eq!(ask("OUTLIER", json!({})).1, 1);
        let accepted = Ok("{}".to_owned());
        for _ in 0..3 {
            assert_eq!(
                ask("OUTLIER", json!({})),
                (accepted.clone(), 2),
                "a fault is not remembered, a verdict is"
            );
        }
        assert_eq!(ask("TOTAL_GC_TIME", json!({})), (accepted.clone(), 3), "another policy's");
        // Refused by the schema: the policy is not asked.
        let (refused, before) = ask("OUTLIER", json!({"nonsense": 1}));
        assert!(refused.is_err() && before == 3, "{refused:?}");
        // Others are forgotten only when there are too many.
        let other = |at: usize| (("X".to_owned(), Settings::of(&json!(at))), Ok(()));
        module.verdicts.lock().expect("no panic").extend((2..VERDICTS_MAX).map(other));
        assert_eq!(ask("OUTLIER", json!({})), (accepted.clone(), 3));
        assert_eq!(ask("MAX_HEAP", json!({})).1, 3, "there is no such policy");
        assert_eq!(ask("ADD_TIME", json!({})), (accepted.clone(), 4));
        assert_eq!(ask("OUTLIER", json!({})), (accepted, 5), "there was no room for all");
    }
}
