//! Selection of sandbox, module and policy, shared by all subcommands.

use std::path::{Path, PathBuf};

use ::policy::{
    Builtin, Cache, ChildLimits, Compiler, Limits, Mode, Module, Policy, Question, Sandbox, SandboxConfig,
    Settings,
};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::output;

/// A module and its origin.
pub struct Source {
    pub module: Module,
    /// `built-in`, or the file.
    pub from: String,
}

/// The subcommand by which the binary starts itself to compile a module.
pub const COMPILE: &str = "policy-compile";

/// Every module, regardless of its author, is compiled in a separate process. It runs the executable that this process
/// was started from, even if the file at its path has been replaced.
pub fn compiler() -> Compiler {
    Compiler::Child {
        program: "/proc/self/exe".into(),
        arguments: vec![COMPILE.into()],
        limits: ChildLimits::default(),
    }
}

/// A sandbox as in the daemon, with the user's cache of compiled policies.
pub fn sandbox(limits: Limits) -> Result<Sandbox> {
    let (cache, compiler) = (cache_or_warning(), compiler());
    Ok(Sandbox::new(SandboxConfig { limits, cache, compiler, ..SandboxConfig::default() })?)
}

/// A sandbox for tests: its budget is counted in instructions, so it is the same on every machine.
pub fn lab(fuel: u64) -> Result<Sandbox> {
    // The time limit only ends tests of a policy that burns a lot of fuel.
    let limits = Limits { cpu: std::time::Duration::from_secs(10), ..Limits::default() };
    let mode = Mode::Lab { fuel };
    let (cache, compiler) = (cache_or_warning(), compiler());
    Ok(Sandbox::new(SandboxConfig { mode, limits, cache, compiler, ..SandboxConfig::default() })?)
}

/// `$XDG_CACHE_HOME/rollcall/policies`, or why it cannot be used. Without a cache, policies are compiled each time.
pub fn cache() -> Result<Cache, String> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let base = base.ok_or("neither XDG_CACHE_HOME nor HOME says where; set the first")?;
    let remedy = |error| format!("{error}. Set XDG_CACHE_HOME to a directory that this user can write");
    Cache::open(&base.join("rollcall/policies")).map_err(remedy)
}

fn cache_or_warning() -> Option<Cache> {
    cache()
        .inspect_err(|why| output::tell(format_args!("rollcall: warning: no cache of policies: {why}")))
        .ok()
}

/// The module in this file, or all built-in ones.
pub fn load(sandbox: &Sandbox, file: Option<&Path>) -> Result<Vec<Source>> {
    let Some(file) = file else {
        let builtin = |builtin: Builtin| {
            let module =
                sandbox.load_builtin(builtin).with_context(|| format!("built-in {}", builtin.name))?;
            Ok(Source { module, from: "built-in".into() })
        };
        return Builtin::ALL.into_iter().map(builtin).collect();
    };
    let module = sandbox
        .load_file(file)
        .with_context(|| format!("{} is not a usable policy module", file.display()))?;
    Ok(vec![Source { module, from: file.display().to_string() }])
}

/// The policy of this name for this question.
pub fn find<'a>(sources: &'a [Source], name: &str, question: Question) -> Result<(&'a Module, &'a Policy)> {
    let all = || {
        sources.iter().flat_map(|source| source.module.policies.iter().map(|policy| (&source.module, policy)))
    };
    if let Some(found) = all().find(|(_, policy)| policy.name == name && policy.question == question) {
        return Ok(found);
    }
    if let Some((_, other)) = all().find(|(_, policy)| policy.name == name) {
        let remedy = match other.question {
            Question::Roll => "leave out --classify",
            Question::Loss => "add --classify",
        };
        bail!("policy {name} answers the question {:?}; {remedy}", other.question.name());
    }
    let fitting = all().filter(|(_, policy)| policy.question == question);
    let names: Vec<&str> = fitting.map(|(_, policy)| policy.name.as_str()).collect();
    Err(match names.iter().find(|known| known.eq_ignore_ascii_case(name)) {
        Some(known) => anyhow!("no policy is named {name}; did you mean {known}?"),
        None if names.is_empty() => {
            anyhow!("the module has no policies for the question {:?}", question.name())
        }
        None => anyhow!("no policy is named {name}; there are: {}", names.join(", ")),
    })
}

/// Settings from the command line or a test case, checked against the schema and by the policy.
pub fn settings(module: &Module, policy: &str, settings: Option<&Value>) -> Result<Settings> {
    module
        .settings(policy, settings.unwrap_or(&json!({})))
        .with_context(|| format!("the settings of {policy} are not usable"))
}
