//! Documents are judged before they reach the loop: by the core's rules, by the schemas of the policies that they have
//! settings for, and by these policies themselves.
//!
//! The loop renews the lease and answers probes; a policy may take half a second to look at its settings, and there may
//! be a thousand fleets. So none of it happens there. What comes to the loop is a document with what is wrong with it.
//!
//! A verdict on settings is remembered by what it depends on: the module's digest, the policy, the settings. In one
//! round each module has [`MODULE_TIME`], and all have [`ROUND_TIME`]; a document whose settings were not reached is
//! told as not judged yet, and its turn comes in one of the next rounds, which begin where the last one ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::{Blame, Module, SettingsError};
use serde_json::Value;

use super::{Policies, error_chain};
use crate::config::{FleetConfig, Problem};
use crate::heartbeat::directory::Secret;

/// A question about settings may take half a second of CPU: at least one, and at most two of them.
const MODULE_TIME: Duration = Duration::from_millis(500);
/// Four modules that take all they may.
const ROUND_TIME: Duration = Duration::from_secs(2);
/// Verdicts that are remembered: some for each of 1,000 documents. Those that no document needs are forgotten at once.
const VERDICTS_MAX: usize = 10_000;

/// Policies that a document may be told of.
const NAMES_TOLD: usize = 100;

/// A document, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Judged {
    pub config: FleetConfig,
    /// Why it cannot be followed.
    pub problems: Vec<Problem>,
    /// Why it is not known yet whether it can be followed in all.
    pub pending: Option<String>,
    /// The policies that it names and may name: those that there are, or that may come.
    pub names: Vec<String>,
    /// The token that its executors' heartbeats may carry.
    pub token: Option<Secret>,
}

/// What a verdict depends on: the module's digest, the policy, its settings.
type Case = (String, String, String);

/// Judges documents, and remembers.
pub struct Judge {
    policies: Arc<Policies>,
    verdicts: BTreeMap<Case, Result<(), String>>,
    /// Where the next round begins.
    turn: usize,
    /// `None`: a round takes as long as it takes.
    round: Option<Duration>,
}

/// What is being spent in a round.
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

    /// One who has no loop to feed.
    pub fn patient(policies: Arc<Policies>) -> Judge {
        Judge { round: None, ..Judge::new(policies) }
    }

    /// Each document, in order. Blocks: never on the loop.
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
        // They may come. Until then who asks them is told that they are missing, and asks the next.
        let mut pending = missing.map(|name| {
            format!(
                "policy {name} is not loaded yet, files of --policies are; until then the next of the chain decides, \
                 or the built-in one"
            )
        });
        let expected: Vec<String> = named.iter().map(|name| (*name).clone()).collect();
        let mut problems = config.check(if pending.is_some() { &expected } else { known });
        let names = match (&pending, problems.is_empty()) {
            (Some(_), _) | (None, true) => expected,
            // For the core's own message, in which a few are enough.
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
        // That there is no such policy is told, or waited for, by others.
        let Some((module, builtin)) = self.policies.find_any(name) else { return Verdict::Good };
        let case = (module.digest.clone(), name.to_owned(), settings.to_string());
        let verdict = match self.verdicts.get(&case) {
            Some(verdict) => verdict.clone(),
            None => {
                let spent = round.spent.get(&module.digest).copied().unwrap_or_default();
                let over = spent >= MODULE_TIME || round.end.is_some_and(|end| Instant::now() >= end);
                if over && !builtin && round.end.is_some() {
                    return Verdict::Later("the policy has not looked at these settings yet".to_owned());
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

/// The verdict; or why there is none, which is not the policy's fault.
fn ask(module: &Module, name: &str, settings: &Value) -> Result<Result<(), String>, String> {
    match module.settings(name, settings) {
        Ok(_) => Ok(Ok(())),
        Err(SettingsError::Fault(fault)) if fault.blame() == Blame::Host => Err(fault.to_string()),
        Err(error) => Ok(Err(error_chain(&error))),
    }
}
