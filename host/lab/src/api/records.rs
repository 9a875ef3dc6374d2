//! The ledger's object: read, compare-and-swap, and manual changes by operators.
//!
//! Every version ever applied is kept, because operators restore backups.

use std::sync::Arc;

use fleet::event::{Done, Outcome};
use fleet::id::{ExecutorId, IdSet, Version};
use fleet::ledger::{Ledger, Salvage};

use super::Api;

#[derive(Clone, Debug)]
pub struct Stored {
    pub ledger: Arc<Ledger>,
    pub version: u64,
    /// An operator wrote this version, and not a leader.
    pub tampered: bool,
    /// A tenant changed the last record to this. `tampered` is not set for it, because the tenant uses our
    /// field manager.
    pub patched: bool,
    /// And it does not parse as a record.
    pub garbage: bool,
    /// Its writer had written a later version, which an operator deleted before this one arrived.
    pub late: bool,
}

/// How a tenant changes a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    Garbage,
    Epoch,
    EpochMax,
    Born,
    Reserved,
    ReservedAll,
    Created,
    Revision,
    Writes,
}

impl Patch {
    pub const ALL: [Patch; 9] = [
        Patch::Garbage,
        Patch::Epoch,
        Patch::EpochMax,
        Patch::Born,
        Patch::Reserved,
        Patch::ReservedAll,
        Patch::Created,
        Patch::Revision,
        Patch::Writes,
    ];
}

pub(super) fn version(revision: u64) -> Version {
    Version(revision.to_string().into())
}

impl Api {
    pub fn ledger(&self, app: usize) -> Option<&Stored> {
        self.apps[app].ledger.as_ref()
    }

    /// Every version that was ever applied, by any writer.
    pub fn ledgers(&self, app: usize) -> &[Arc<Ledger>] {
        &self.apps[app].ledgers
    }

    pub fn read_ledger(&self, app: usize) -> Outcome {
        match &self.apps[app].ledger {
            Some(stored) if stored.garbage => {
                let why = "`ledger` is no JSON object".to_owned();
                let (version, salvage) = (version(stored.version), Salvage::default());
                Outcome::Ok(Done::LedgerRefused { why, version, salvage })
            }
            Some(stored) => {
                let (ledger, version) = (Box::new(Ledger::clone(&stored.ledger)), version(stored.version));
                Outcome::Ok(Done::Ledger { ledger, version, edited: stored.tampered })
            }
            None => Outcome::NotFound,
        }
    }

    /// A PUT with `metadata.resourceVersion`, or, without a version, a POST.
    pub fn write_ledger(&mut self, app: usize, ledger: Ledger, over: Option<&Version>) -> Outcome {
        match (&self.apps[app].ledger, over) {
            (None, None) => {}
            (None, Some(_)) => return Outcome::NotFound,
            (Some(_), None) => return Outcome::AlreadyExists,
            (Some(stored), Some(over)) if version(stored.version) != *over => return Outcome::Conflict,
            (Some(_), Some(_)) => {}
        }
        let revision = self.put_ledger(app, ledger, false);
        Outcome::Ok(Done::Written(version(revision)))
    }

    fn put_ledger(&mut self, app: usize, ledger: Ledger, tampered: bool) -> u64 {
        let version = self.next_revision();
        let ledger = Arc::new(ledger);
        let it = &mut self.apps[app];
        let late = !tampered
            && it.ledgers.iter().any(|old| old.leader == ledger.leader && old.writes >= ledger.writes);
        it.ledgers.push(Arc::clone(&ledger));
        it.ledger = Some(Stored { ledger, version, tampered, patched: false, garbage: false, late });
        version
    }

    /// A tenant changes the record. Returns its version if no host may continue from it.
    pub fn patch_ledger(&mut self, app: usize, patch: Patch) -> Option<u64> {
        let version = self.next_revision();
        let stored = self.apps[app].ledger.as_mut()?;
        let ledger = Arc::make_mut(&mut stored.ledger);
        (stored.version, stored.patched) = (version, true);
        stored.garbage |= patch == Patch::Garbage;
        match patch {
            Patch::Garbage => {}
            Patch::Epoch => {
                (ledger.epoch, ledger.leader) = (ledger.epoch.saturating_add(99), ledger.leader ^ 7)
            }
            Patch::EpochMax => ledger.epoch = u64::MAX,
            Patch::Born => {
                let free = ledger.settled.last().max(ledger.born.last()).unwrap_or_default().0 + 1;
                let runs = ledger.born.runs().chain([(ExecutorId(free + 1), ExecutorId(free + 150_000))]);
                ledger.born = IdSet::from_runs(runs.collect::<Vec<_>>()).expect("they are in order");
                ledger.created = ledger.born.len() + ledger.settled.len();
            }
            Patch::Reserved => ledger.reserved = ExecutorId(u64::MAX),
            Patch::ReservedAll => ledger.reserved = ExecutorId::MAX,
            Patch::Created => ledger.created = ledger.created.wrapping_add(7),
            Patch::Revision => ledger.revision = ledger.revision.saturating_add(1_000_000),
            Patch::Writes => ledger.writes += 1_000,
        }
        let goes_on =
            matches!(patch, Patch::Epoch | Patch::Revision | Patch::Writes) && stored.ledger.check().is_ok();
        (!goes_on).then_some(version)
    }

    /// An operator restores the version that was the `age`th before the last.
    pub fn restore_ledger(&mut self, app: usize, age: usize) {
        let it = &mut self.apps[app];
        if let Some(at) = it.ledgers.len().checked_sub(1 + age) {
            let old = Ledger::clone(&it.ledgers[at]);
            it.tampers += 1;
            self.put_ledger(app, old, true);
        }
    }

    pub fn delete_ledger(&mut self, app: usize) {
        let it = &mut self.apps[app];
        if it.ledger.take().is_some() {
            it.tampers += 1;
            self.next_revision();
        }
    }

    /// How often the record was restored or deleted by hand.
    pub fn tampers(&self, app: usize) -> u64 {
        self.apps[app].tampers
    }

    /// A newer version of Rollcall ran here, and left a field.
    pub fn edit_ledger(&mut self, app: usize, field: &str, value: &str) {
        let version = self.next_revision();
        if let Some(stored) = self.apps[app].ledger.as_mut().filter(|stored| stored.patched) {
            // Backups never contain a version that no leader wrote.
            let others = &mut Arc::make_mut(&mut stored.ledger).others;
            others.retain(|(name, _)| **name != *field);
            others.push((field.into(), value.into()));
            stored.version = version;
        } else if let Some(stored) = &self.apps[app].ledger {
            let mut ledger = Ledger::clone(&stored.ledger);
            ledger.others.retain(|(name, _)| **name != *field);
            ledger.others.push((field.into(), value.into()));
            let tampered = stored.tampered;
            self.put_ledger(app, ledger, tampered);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Application;
    use fleet::id::Uid;

    #[test]
    fn a_ledger_is_compared_and_swapped() {
        let mut api = Api::new(0);
        api.add(Application::new(0, "app-1", "driver", Uid::from("driver")));
        assert_eq!(api.read_ledger(0), Outcome::NotFound);
        let Outcome::Ok(Done::Written(first)) = api.write_ledger(0, Ledger::default(), None) else {
            panic!()
        };
        assert_eq!(api.write_ledger(0, Ledger::default(), None), Outcome::AlreadyExists);
        let newer = Ledger { epoch: 1, ..Ledger::default() };
        let Outcome::Ok(Done::Written(second)) = api.write_ledger(0, newer, Some(&first)) else { panic!() };
        assert_ne!(first, second);
        assert_eq!(api.write_ledger(0, Ledger::default(), Some(&first)), Outcome::Conflict);
        api.restore_ledger(0, 1);
        let Outcome::Ok(Done::Ledger { ledger: restored, version: third, edited: true }) = api.read_ledger(0)
        else {
            panic!()
        };
        assert!(restored.epoch == 0 && third != second && api.ledger(0).is_some_and(|l| l.tampered));
        api.delete_ledger(0);
        assert_eq!(api.write_ledger(0, Ledger::default(), Some(&third)), Outcome::NotFound);
    }
}
