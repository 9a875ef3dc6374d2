//! Many runs: their totals, and whether those suffice.
//!
//! A campaign in which a fault never fired has not shown that the core withstands it, so a zero is a failure,
//! just as a violation is. The same goes for injected bugs: each has a number of seeds within which the checkers
//! must object, and a bug that escapes shows that the simulator no longer detects it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fleet::election::Election;
use fleet::guardrail::Refusal;
use fleet::injected_bug::InjectedBug;
use fleet::supervisor::Supervisor;

use crate::check::Violation;
use crate::fault::Fault;
use crate::run::{Options, Report, run};
use crate::world::Core;

/// A campaign of fewer runs may miss a rare fault by chance.
pub const RUNS_MIN: u64 = 2_000;

/// The real core, with an injected bug where one is named.
pub fn core(bug: Option<InjectedBug>) -> impl Fn(Option<Election>, u64) -> Box<dyn Core> + Copy {
    move |election, seed| {
        let mut supervisor = Supervisor::new(election, seed);
        if let Some(bug) = bug {
            supervisor.inject(bug);
        }
        Box::new(supervisor)
    }
}

/// The totals of many runs. The order in which runs are added does not matter.
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    pub runs: u64,
    pub fleet_hours: f64,
    pub fired: BTreeMap<Fault, u64>,
    /// How often each guard-rail refused an action.
    pub refusals: BTreeMap<Refusal, u64>,
    /// By seed.
    pub violations: BTreeMap<u64, Violation>,
    hashes: u64,
}

impl Campaign {
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.fleet_hours += report.fleet_hours;
        self.hashes ^= report.hash.rotate_left((report.seed % 64) as u32);
        for (fault, count) in &report.fired {
            *self.fired.entry(*fault).or_default() += count;
        }
        for (refusal, count) in &report.refusals {
            *self.refusals.entry(*refusal).or_default() += count;
        }
        if let Some(violation) = &report.violation {
            self.violations.insert(report.seed, violation.clone());
        }
    }

    pub fn merge(&mut self, other: Campaign) {
        self.runs += other.runs;
        self.fleet_hours += other.fleet_hours;
        self.hashes ^= other.hashes;
        for (fault, count) in other.fired {
            *self.fired.entry(fault).or_default() += count;
        }
        for (refusal, count) in other.refusals {
            *self.refusals.entry(refusal).or_default() += count;
        }
        self.violations.extend(other.violations);
    }

    /// One number for all runs: the same seeds and the same core give the same number.
    pub fn hash(&self) -> u64 {
        self.hashes
    }

    /// Guard-rails that never refused anything.
    pub fn unrefused(&self) -> Vec<Refusal> {
        // `NotPicked` depends on the policy.
        let rails = Refusal::ALL.into_iter().filter(|refusal| *refusal != Refusal::NotPicked);
        rails.filter(|refusal| !self.refusals.contains_key(refusal)).collect()
    }

    /// Faults that never fired.
    pub fn unfired(&self) -> Vec<Fault> {
        let fired = |fault: &&Fault| self.fired.get(fault).copied().unwrap_or(0) == 0;
        Fault::ALL.iter().filter(fired).copied().collect()
    }
}

/// An injected bug, and what it takes to find it.
#[derive(Clone, Copy, Debug)]
pub struct KnownBug {
    pub bug: InjectedBug,
    /// Found within this many seeds, from 0 on.
    pub seeds_max: u64,
    /// By one of these checkers.
    pub checkers: &'static [&'static str],
}

/// Result of hunting one injected bug.
#[derive(Clone, Debug)]
pub struct Catch {
    pub seeds: u64,
    pub violation: Option<Violation>,
}

/// Runs seeds on all processors until one of its checkers objects. The result is always the lowest such seed.
pub fn hunt(known: &KnownBug) -> Catch {
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(known.seeds_max));
    let work = || {
        let make = core(Some(known.bug));
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return None;
            }
            let violation = run(seed, &Options::default(), &make).violation;
            if let Some(violation) = violation.filter(|violation| known.checkers.contains(&violation.checker))
            {
                // Lower seeds are still running, and higher ones are of no interest.
                end.fetch_min(seed, Ordering::Relaxed);
                return Some((seed, violation));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let found: Vec<(u64, Violation)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().expect("a run does not panic")).collect()
    });
    match found.into_iter().min_by_key(|(seed, _)| *seed) {
        Some((seed, violation)) => Catch { seeds: seed + 1, violation: Some(violation) },
        None => Catch { seeds: known.seeds_max, violation: None },
    }
}

/// Every injected bug, with its seed limit: about ten times the seeds needed when this was written, because a
/// change of the simulator changes what each seed does.
pub const KNOWN_BUGS: [KnownBug; InjectedBug::ALL.len()] = [
    KnownBug { bug: InjectedBug::NoUid, seeds_max: 10, checkers: &["S6"] },
    KnownBug { bug: InjectedBug::IdsInMemory, seeds_max: 10, checkers: &["S2", "S13"] },
    KnownBug { bug: InjectedBug::CreateBeforeReserve, seeds_max: 10, checkers: &["S2"] },
    KnownBug { bug: InjectedBug::NoExpectations, seeds_max: 50, checkers: &["S3"] },
    KnownBug { bug: InjectedBug::TakenIsOurs, seeds_max: 500, checkers: &["S10", "L1"] },
    KnownBug { bug: InjectedBug::MissingIsKept, seeds_max: 8_000, checkers: &["L1"] },
    KnownBug { bug: InjectedBug::FloorOverLeaving, seeds_max: 100, checkers: &["S5"] },
    KnownBug { bug: InjectedBug::NoGrace, seeds_max: 500, checkers: &["S17"] },
    KnownBug { bug: InjectedBug::DeposedActs, seeds_max: 200, checkers: &["S13"] },
    KnownBug { bug: InjectedBug::PicksUnchecked, seeds_max: 500, checkers: &["S11"] },
    KnownBug { bug: InjectedBug::RemovalsAreFailures, seeds_max: 100, checkers: &["S10"] },
    KnownBug { bug: InjectedBug::SettledTwice, seeds_max: 50, checkers: &["S8", "S9", "AUDIT"] },
    KnownBug { bug: InjectedBug::LateCreateForgotten, seeds_max: 2_000, checkers: &["S3"] },
    KnownBug { bug: InjectedBug::PauseIgnored, seeds_max: 400, checkers: &["S14"] },
    KnownBug { bug: InjectedBug::NoRateLimit, seeds_max: 50, checkers: &["S12"] },
    KnownBug {
        bug: InjectedBug::OldListBelieved,
        seeds_max: 3_000,
        checkers: &["L1", "S17", "S3", "S2", "S7"],
    },
    KnownBug { bug: InjectedBug::CreateRepeated, seeds_max: 200, checkers: &["S2"] },
    KnownBug { bug: InjectedBug::ActBeforeRecord, seeds_max: 100, checkers: &["S8"] },
    KnownBug { bug: InjectedBug::LeadersAlike, seeds_max: 20_000, checkers: &["S13", "S2"] },
    KnownBug { bug: InjectedBug::EndedUnseen, seeds_max: 200, checkers: &["S18"] },
    KnownBug { bug: InjectedBug::PendingAgainUnseen, seeds_max: 200, checkers: &["S18"] },
    KnownBug { bug: InjectedBug::GatedIsLate, seeds_max: 200, checkers: &["S19"] },
    KnownBug { bug: InjectedBug::ReclaimsAreFailures, seeds_max: 500, checkers: &["S10"] },
    KnownBug { bug: InjectedBug::DriverEndsAreFailures, seeds_max: 500, checkers: &["S10"] },
    KnownBug { bug: InjectedBug::CandidatesUnsorted, seeds_max: 50, checkers: &["S20"] },
    KnownBug { bug: InjectedBug::OldCountersBelieved, seeds_max: 500, checkers: &["S20"] },
    KnownBug { bug: InjectedBug::DeafnessIgnored, seeds_max: 1_000, checkers: &["S21"] },
    KnownBug { bug: InjectedBug::StandstillIgnored, seeds_max: 200, checkers: &["S21"] },
    KnownBug { bug: InjectedBug::SilenceStands, seeds_max: 700, checkers: &["S21"] },
    KnownBug { bug: InjectedBug::ParkedActs, seeds_max: 500, checkers: &["S22"] },
    KnownBug { bug: InjectedBug::LedgerUnchecked, seeds_max: 2_000, checkers: &["S22"] },
    KnownBug { bug: InjectedBug::BrokenIsFresh, seeds_max: 1_500, checkers: &["S23"] },
    KnownBug { bug: InjectedBug::BeginsFresh, seeds_max: 8_000, checkers: &["S23"] },
    KnownBug { bug: InjectedBug::DriverSoughtOnce, seeds_max: 50, checkers: &["L1"] },
    KnownBug { bug: InjectedBug::StandbyBegins, seeds_max: 50, checkers: &["S13"] },
    KnownBug { bug: InjectedBug::EndedLifeTold, seeds_max: 3_000, checkers: &["S24"] },
    KnownBug { bug: InjectedBug::NamespacesAlike, seeds_max: 50, checkers: &["S24"] },
    KnownBug { bug: InjectedBug::BreakTellsOne, seeds_max: 500, checkers: &["S23"] },
    KnownBug { bug: InjectedBug::MoveUntold, seeds_max: 200, checkers: &["S25"] },
    KnownBug { bug: InjectedBug::DriversAlike, seeds_max: 200, checkers: &["S24"] },
    KnownBug { bug: InjectedBug::OldDriverBelieved, seeds_max: 20_000, checkers: &["S24"] },
    KnownBug { bug: InjectedBug::RefusedInForce, seeds_max: 300, checkers: &["S3", "S5"] },
    KnownBug { bug: InjectedBug::PendingInForce, seeds_max: 500, checkers: &["S3", "S5"] },
];
