//! Many runs: what they add up to, and whether that is enough.
//!
//! A campaign that never fired a fault has not shown that the core stands it, so a zero is a failure,
//! just as a violation is. The same goes for planted bugs: each has a number of seeds within which the
//! checkers must object, and one that escapes says that the simulator has gone blind.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
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

/// What many runs add up to. The order in which they are added does not matter.
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    pub runs: u64,
    pub fleet_hours: f64,
    pub fired: BTreeMap<Fault, u64>,
    /// How often each guard-rail said no.
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

    /// One number for all runs: the same seeds and the same core give the same.
    pub fn hash(&self) -> u64 {
        self.hashes
    }

    /// Guard-rails that never said no.
    pub fn unrefused(&self) -> Vec<Refusal> {
        // Not to be picked is the policy's doing.
        let rails = Refusal::ALL.into_iter().filter(|refusal| *refusal != Refusal::NotPicked);
        rails.filter(|refusal| !self.refusals.contains_key(refusal)).collect()
    }

    /// Faults that never struck.
    pub fn unfired(&self) -> Vec<Fault> {
        let fired = |fault: &&Fault| self.fired.get(fault).copied().unwrap_or(0) == 0;
        Fault::ALL.iter().filter(fired).copied().collect()
    }
}

/// A planted bug, and what it takes to find it.
#[derive(Clone, Copy, Debug)]
pub struct Bait {
    pub plant: Plant,
    /// Found within so many seeds, from 0 on.
    pub seeds_max: u64,
    /// By one of these checkers.
    pub checkers: &'static [&'static str],
}

/// What became of a bait.
#[derive(Clone, Debug)]
pub struct Catch {
    pub seeds: u64,
    pub violation: Option<Violation>,
}

/// Runs seeds until a checker of the bait objects, on all processors. It is always the lowest seed that is found.
pub fn hunt(bait: &Bait) -> Catch {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None::<(u64, Violation)>));
    let lock = || found.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        let make = core(Some(bait.plant));
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            // One that is lower than what was found is still of interest.
            if seed >= bait.seeds_max || lock().as_ref().is_some_and(|(lowest, _)| *lowest < seed) {
                return;
            }
            let violation = run(seed, &Options::default(), &make).violation;
            if let Some(violation) = violation.filter(|violation| bait.checkers.contains(&violation.checker))
            {
                let mut found = lock();
                if found.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                    *found = Some((seed, violation));
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    match found.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((seed, violation)) => Catch { seeds: seed + 1, violation: Some(violation) },
        None => Catch { seeds: bait.seeds_max, violation: None },
    }
}

/// Every planted bug, with what it takes to find it: some ten times what it took when this was written,
/// because a change of the simulator deals the seeds anew.
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
