//! Which of several fleets has the names that all of them claim.

use super::managed::Life;
use crate::identity::{Claim, Contest, Identity};

/// A fleet that has to give way, and why.
pub(super) struct Beaten {
    pub fleet: String,
    pub contest: Contest,
    pub advantage: &'static str,
}

pub(super) enum Contention {
    /// These fleets have to give way: none, or those with a weaker claim.
    Won(Vec<Beaten>),
    Lost {
        to: String,
        contest: Contest,
        advantage: &'static str,
    },
}

/// Compares a claim with those of the fleets that have a core. Also a fleet that runs gives way to a better claim, so
/// the same fleet wins in every order of arrival, and after a restart.
pub(super) fn contend<'a>(
    identity: &Identity,
    claim: &Claim,
    others: impl Iterator<Item = (&'a str, &'a Life)>,
) -> Contention {
    let mut beaten = Vec::new();
    for (fleet, life) in others {
        let Some(contest) = identity.contest(fleet, &life.identity) else { continue };
        let fleet = fleet.to_owned();
        if !claim.outranks(&life.claim) {
            return Contention::Lost { to: fleet, contest, advantage: life.claim.advantage(claim) };
        }
        beaten.push(Beaten { fleet, contest, advantage: claim.advantage(&life.claim) });
    }
    Contention::Won(beaten)
}

/// The message of the fleet that waits.
pub(super) fn lost(contest: &Contest, advantage: &str) -> String {
    format!("{contest}. That one has it, because it {advantage}")
}

/// The message of the fleet that has what another claims.
pub(super) fn held(other: &str, contest: &Contest, advantage: &str) -> String {
    format!("fleet {other} claims {} as well, and waits, because this one {advantage}", contest.what())
}
