//! When a fleet is parked, in words.
//!
//! A record that is invalid or another leader's parks the fleet: it receives events, and changes nothing. The
//! other fleets of this host continue, and the Lease decides whether the host leads. An invalid record is read
//! again, and when it is valid the fleet resumes. A record with another epoch is never continued automatically,
//! because two leaders that compete for a record would overwrite each other's record endlessly.
//!
//! An operator's reset starts the fleet as the host's start did: claim, list, act. This host keeps what it
//! knows, but ids jump, because the writer of the stored record may have used some.

use crate::ledger::Refused;

/// Why the fleet is parked, and what resolves it. `None` if its ledger is in order. `past`: the known revision, and
/// that of lists that stay older.
pub(crate) fn why(fleet: &str, refused: Option<&Refused>, past: Option<(u64, u64)>) -> Option<String> {
    let reset = format!("`rollcall reset-ledger {fleet}` replaces it");
    match refused {
        Some(Refused::Implausible(why)) => Some(format!(
            "the ledger is refused: {why}. Nothing is changed until it is good again: restore or delete it, or {reset}"
        )),
        Some(Refused::Usurped(why)) => {
            Some(format!("the ledger is refused: {why}. Nothing is changed any more; {reset}"))
        }
        Some(Refused::Doubted(why)) => {
            Some(format!("the ledger is refused: {why}. Nothing is changed until the Lease says who leads; {reset}"))
        }
        None => past.map(|(known, listed)| {
            format!(
                "the ledger knows of revision {known}, and the API server lists revision {listed}: the ledger was \
                 changed, or the API server's store was restored from a backup. Nothing is changed for ten minutes; \
                 {reset} at once"
            )
        }),
    }
}
