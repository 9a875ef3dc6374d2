//! Many runs: their totals, and whether those suffice.
//!
//! A campaign in which a fault never fired has not shown that the core withstands it, so a zero is a failure,
//! just as a violation is. The same goes for planted bugs: each has a number of seeds within which the checkers
//! must object, and a bug that escapes shows that the simulator no longer detects it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fleet::Fleet;
use fleet::guardrail::Refusal;
use fleet::plant::Plant;
use fleet::spec::{Draft, SpecError};

use crate::check::Violation;
use crate::fault::Fault;
use crate::run::{Options, Report, run};
use crate::world::Core;

/// A campaign of fewer runs may miss a rare fault by chance.
pub const RUNS_MIN: u64 = 2_000;

/// The real core, with a planted bug where one is named.
pub fn core(
    plant: Option<Plant>,
) -> impl Fn(Draft, &[String], u64) -> Result<Box<dyn Core>, Vec<SpecError>> + Copy {
    move |draft, policies, seed| {
        let mut fleet = Fleet::new(draft, policies, seed)?;
        if let Some(plant) = plant {
            fleet.plant(plant);
        }
        Ok(Box::new(fleet))
    }
}

/// The totals of many runs. The order in which runs are added does not matter.
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    pub runs: u64,
    pub fleet_hours: f64,
    pub fired: BTreeMap<Fault, u64>,
    /// How often each guardrail refused an action.
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

    /// Guardrails that never refused anything.
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

/// A planted bug, and what it takes to find it.
#[derive(Clone, Copy, Debug)]
pub struct Bait {
    pub plant: Plant,
    /// Found within this many seeds, from 0 on.
    pub seeds_max: u64,
    /// By one of these checkers.
    pub checkers: &'static [&'static str],
}

/// Result of hunting one planted bug.
#[derive(Clone, Debug)]
pub struct Catch {
    pub seeds: u64,
    pub violation: Option<Violation>,
}

/// Runs seeds on all processors until a checker of the bait objects. The result is always the lowest such seed.
pub fn hunt(bait: &Bait) -> Catch {
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(bait.seeds_max));
    let work = || {
        let make = core(Some(bait.plant));
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return None;
            }
            let violation = run(seed, &Options::default(), &make).violation;
            if let Some(violation) = violation.filter(|violation| bait.checkers.contains(&violation.checker))
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
        None => Catch { seeds: bait.seeds_max, violation: None },
    }
}

/// Every planted bug, with its seed limit: about ten times the seeds needed when this was written, because a
/// change of the simulator changes what each seed does.
pub const BAITS: [Bait; 31] = [
    Bait { plant: Plant::NoUid, seeds_max: 10, checkers: &["S6"] },
    Bait { plant: Plant::IdsInMemory, seeds_max: 10, checkers: &["S2", "S13"] },
    Bait { plant: Plant::CreateBeforeReserve, seeds_max: 10, checkers: &["S2"] },
    Bait { plant: Plant::NoExpectations, seeds_max: 50, checkers: &["S3"] },
    Bait { plant: Plant::TakenIsOurs, seeds_max: 500, checkers: &["S10", "L1"] },
    Bait { plant: Plant::MissingIsKept, seeds_max: 8_000, checkers: &["L1"] },
    Bait { plant: Plant::FloorOverLeaving, seeds_max: 100, checkers: &["S5"] },
    Bait { plant: Plant::NoGrace, seeds_max: 500, checkers: &["S17"] },
    Bait { plant: Plant::DeposedActs, seeds_max: 200, checkers: &["S13"] },
    Bait { plant: Plant::PicksUnchecked, seeds_max: 500, checkers: &["S11"] },
    Bait { plant: Plant::RemovalsAreFailures, seeds_max: 100, checkers: &["S10"] },
    Bait { plant: Plant::SettledTwice, seeds_max: 50, checkers: &["S8", "S9", "AUDIT"] },
    Bait { plant: Plant::LateCreateForgotten, seeds_max: 2_000, checkers: &["S3"] },
    Bait { plant: Plant::PauseIgnored, seeds_max: 400, checkers: &["S14"] },
    Bait { plant: Plant::NoRateLimit, seeds_max: 50, checkers: &["S12"] },
    Bait { plant: Plant::OldListBelieved, seeds_max: 3_000, checkers: &["L1", "S17", "S3"] },
    Bait { plant: Plant::CreateRepeated, seeds_max: 200, checkers: &["S2"] },
    Bait { plant: Plant::ActBeforeRecord, seeds_max: 100, checkers: &["S8"] },
    Bait { plant: Plant::LeadersAlike, seeds_max: 20_000, checkers: &["S13", "S2"] },
    Bait { plant: Plant::EndedUnseen, seeds_max: 200, checkers: &["S18"] },
    Bait { plant: Plant::PendingAgainUnseen, seeds_max: 200, checkers: &["S18"] },
    Bait { plant: Plant::GatedIsLate, seeds_max: 200, checkers: &["S19"] },
    Bait { plant: Plant::ReclaimsAreFailures, seeds_max: 500, checkers: &["S10"] },
    Bait { plant: Plant::DriverEndsAreFailures, seeds_max: 500, checkers: &["S10"] },
    Bait { plant: Plant::CandidatesUnsorted, seeds_max: 50, checkers: &["S20"] },
    Bait { plant: Plant::OldCountersBelieved, seeds_max: 500, checkers: &["S20"] },
    Bait { plant: Plant::DeafnessIgnored, seeds_max: 1_000, checkers: &["S21"] },
    Bait { plant: Plant::StandstillIgnored, seeds_max: 200, checkers: &["S21"] },
    Bait { plant: Plant::SilenceStands, seeds_max: 700, checkers: &["S21"] },
    Bait { plant: Plant::ParkedActs, seeds_max: 500, checkers: &["S22"] },
    Bait { plant: Plant::LedgerUnchecked, seeds_max: 2_000, checkers: &["S22"] },
];
