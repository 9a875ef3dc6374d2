//! Judges documents before they reach the loop: by the core's rules, by the schemas of the policies that they have
//! settings for, and by these policies themselves.
//!
//! The loop renews the lease and answers probes; a policy may take half a second to check its settings, and there may
//! be a thousand fleets. So no document is judged on the loop: it receives each document together with its problems.
//!
//! A verdict on settings is cached by everything it depends on: the module's digest, the policy, the settings. In one
//! round each module has [`MODULE_TIME`], and all have [`ROUND_TIME`]; a document whose settings were not reached is
//! reported as not judged yet, and is judged in one of the next rounds, which begin where the last one ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::{Blame, Module, SettingsError};
use serde_json::Value;

use super::{Policies, error_chain};
use crate::config::{FleetConfig, Problem};
use crate::heartbeat::directory::Secret;

/// A check of settings may take half a second of CPU: at least one and at most two per module.
const MODULE_TIME: Duration = Duration::from_millis(500);
/// Four modules that use up their time.
const ROUND_TIME: Duration = Duration::from_secs(2);
/// Maximum cached verdicts: some for each of 1,000 documents. Those that no document needs are dropped at once.
const VERDICTS_MAX: usize = 10_000;

/// Maximum policy names in a document's message.
const NAMES_TOLD: usize = 100;

/// A document and its problems.
#[derive(Clone, Debug)]
pub struct Judged {
    pub config: FleetConfig,
    /// Why it is invalid.
    pub problems: Vec<Problem>,
    /// Why it is not known yet whether it is valid.
    pub pending: Option<String>,
    /// The policies that it names and that exist or may still be loaded.
    pub names: Vec<String>,
    /// The token that is valid for its executors' heartbeats.
    pub token: Option<Secret>,
}

/// What a verdict depends on: the module's digest, the policy, its settings.
type Case = (String, String, String);

/// Judges documents, and caches the verdicts.
pub struct Judge {
    policies: Arc<Policies>,
    verdicts: BTreeMap<Case, Result<(), String>>,
    /// The document at which the next round begins.
    turn: usize,
    /// The time of a round; `None`: unlimited.
    round: Option<Duration>,
}

/// The time spent in a round.
struct Round {
    end: Option<Instant>,
    spent: BTreeMap<String, Duration>,
    used: BTreeSet<Case>,
    /// The first document that was not reached.
    missed: Option<usize>,
}

enum Verdict {
    Good,
    Bad(String),
    /// It was not its turn, or the sandbox was busy.
    Later(String),
}

impl Judge {
    pub fn new(policies: Arc<Policies>) -> Judge {
        Judge { policies, verdicts: BTreeMap::new(), turn: 0, round: Some(ROUND_TIME) }
    }

    /// A judge without time limits, for callers without a loop.
    pub fn patient(policies: Arc<Policies>) -> Judge {
        Judge { round: None, ..Judge::new(policies) }
    }

    /// Judges each document, in order. Blocks: never call it on the loop.
    pub fn judge(&mut self, fleets: &[FleetConfig]) -> Vec<Judged> {
        let names = self.policies.names();
        let loading = self.policies.is_loading();
        let end = self.round.map(|round| Instant::now() + round);
        let mut round = Round { end, spent: BTreeMap::new(), used: BTreeSet::new(), missed: None };
        let mut judged: BTreeMap<usize, Judged> = BTreeMap::new();
        let turn = self.turn;
        for at in (0..fleets.len()).map(|at| (at + turn) % fleets.len()) {
            judged.insert(at, self.document(at, &fleets[at], &names, loading, &mut round));
        }
        self.turn = round.missed.unwrap_or(0);
        self.verdicts.retain(|case, _| round.used.contains(case));
        judged.into_values().collect()
    }

    fn document(
        &mut self,
        at: usize,
        config: &FleetConfig,
        known: &[String],
        loading: bool,
        round: &mut Round,
    ) -> Judged {
        let spec = &config.fleet.spec;
        let chains = spec.roll.iter().flat_map(|roll| &roll.policies).chain(&spec.recovery.policies);
        let named: BTreeSet<&String> = chains.chain(spec.policies.keys()).collect();
        let missing = named.iter().find(|name| !known.contains(name)).filter(|_| loading);
        // They may still be loaded. Until then a question to a missing policy goes to the next of the chain.
        let mut pending = missing.map(|name| {
            format!(
                "policy {name} is not loaded yet, files of --policies are being loaded; until then the next of the \
                 chain decides, or the built-in one"
            )
        });
        let expected: Vec<String> = named.iter().map(|name| (*name).clone()).collect();
        let mut problems = config.check(if pending.is_some() { &expected } else { known });
        let names = match (&pending, problems.is_empty()) {
            (Some(_), _) | (None, true) => expected,
            // For the core's own message; a few names are enough.
            (None, false) => {
                let others = known.iter().filter(|name| !named.contains(name)).take(NAMES_TOLD);
                others.chain(named.iter().copied().filter(|name| known.contains(name))).cloned().collect()
            }
        };
        for (name, settings) in &spec.policies {
            match self.settings(name, &settings.clone().into(), round) {
                Verdict::Good => {}
                Verdict::Bad(why) => problems.push(config.problem(&format!("spec.policies.{name}"), why)),
                Verdict::Later(why) => {
                    round.missed.get_or_insert(at);
                    pending.get_or_insert(format!("spec.policies.{name}: {why}"));
                }
            }
        }
        Judged { config: config.clone(), problems, pending, names, token: None }
    }

    fn settings(&mut self, name: &str, settings: &Value, round: &mut Round) -> Verdict {
        // Other code reports a policy that does not exist, or waits for it.
        let Some((module, builtin)) = self.policies.find_any(name) else { return Verdict::Good };
        let case = (module.digest.clone(), name.to_owned(), settings.to_string());
        let verdict = match self.verdicts.get(&case) {
            Some(verdict) => verdict.clone(),
            None => {
                let spent = round.spent.get(&module.digest).copied().unwrap_or_default();
                let over = spent >= MODULE_TIME || round.end.is_some_and(|end| Instant::now() >= end);
                if over && !builtin && round.end.is_some() {
                    return Verdict::Later("the policy has not checked these settings yet".to_owned());
                }
                let begun = Instant::now();
                let asked = ask(&module, name, settings);
                *round.spent.entry(module.digest.clone()).or_default() += begun.elapsed();
                match asked {
                    Ok(verdict) => verdict,
                    Err(why) => return Verdict::Later(why),
                }
            }
        };
        if round.used.len() < VERDICTS_MAX {
            self.verdicts.insert(case.clone(), verdict.clone());
            round.used.insert(case);
        }
        match verdict {
            Ok(()) => Verdict::Good,
            Err(why) => Verdict::Bad(why),
        }
    }
}

/// The verdict; or why there is none through no fault of the policy.
fn ask(module: &Module, name: &str, settings: &Value) -> Result<Result<(), String>, String> {
    match module.settings(name, settings) {
        Ok(_) => Ok(Ok(())),
        Err(SettingsError::Fault(fault)) if fault.blame() == Blame::Host => Err(fault.to_string()),
        Err(error) => Ok(Err(error_chain(&error))),
    }
}
