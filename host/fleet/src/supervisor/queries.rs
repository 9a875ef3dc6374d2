//! What a host may read: when to call, whether it leads, and the fleets.

use super::Supervisor;
use super::managed::Managed;
#[cfg(feature = "injected-bugs")]
use super::message::Told;
use crate::election::Election;
#[cfg(feature = "injected-bugs")]
use crate::event::Event;
use crate::id::{ExecutorId, IdRange};
use crate::injected_bug::{Bugs, InjectedBug};
use crate::time::Instant;

impl Supervisor {
    /// When to call `step` with [`Input::Deadline`](super::Input::Deadline) if no other input comes first. In addition
    /// the loop must run once per [`Supervisor::pulse_ms`], so that a standstill is noticed.
    pub fn deadline(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        self.election_deadline().into_iter().chain(timer).min()
    }

    pub(super) fn election_deadline(&self) -> Option<Instant> {
        match &self.election {
            Some(election) => election.deadline(),
            None => (self.term.is_none() && self.stopped.is_none()).then_some(Instant::START),
        }
    }

    /// Maximum period of the loop.
    pub fn pulse_ms(&self) -> u64 {
        self.standstill.pulse_ms()
    }

    /// Does this host lead now?
    pub fn leads(&self) -> bool {
        let elected = |election: &Election| election.is_leader(self.now.instant);
        self.stopped.is_none() && self.term.is_some() && self.election.as_ref().is_none_or(elected)
    }

    /// Until when its calls may be sent; `None`: not at all.
    pub fn leads_until(&self) -> Option<Instant> {
        match &self.election {
            Some(election) => election.leads_until(),
            None => self.leads().then_some(Instant::NEVER),
        }
    }

    /// The identity of the current leader, if known.
    pub fn holder(&self) -> Option<&str> {
        self.election.as_ref().and_then(Election::holder)
    }

    /// In the order of their names.
    pub fn fleets(&self) -> impl Iterator<Item = &Managed> {
        self.fleets.values()
    }

    /// The fleet whose document has this name.
    pub fn fleet(&self, name: &str) -> Option<&Managed> {
        self.fleets.get(name)
    }

    /// The numbers of all lives.
    pub fn lives(&self) -> Vec<u64> {
        self.lives.keys().copied().collect()
    }

    /// The fleet of which this is the life.
    pub fn fleet_of(&self, life: u64) -> Option<&Managed> {
        self.fleets.get(self.lives.get(&life)?)
    }

    /// The life to which an executor with this application id belongs.
    pub fn life_of(&self, namespace: &str, application_id: &str, executor: ExecutorId) -> Option<u64> {
        if self.has_bug(InjectedBug::NamespacesAlike) {
            let alike = self.applications.iter().find(|((_, id, _), _)| id == application_id);
            return alike.map(|(_, life)| *life);
        }
        // Fewer than a thousand applications, and two short strings to build the key. Ranges do not overlap: the last
        // one that begins at the id or before it is the only one that may contain it.
        let from = IdRange { first: executor, last: ExecutorId::MAX };
        let key = (namespace.to_owned(), application_id.to_owned(), from);
        let ((of, id, ids), life) = self.applications.range(..=key).next_back()?;
        (of == namespace && id == application_id && ids.contains(executor)).then_some(*life)
    }

    /// One fleet has listed its pods, or has no driver. Do not wait for all fleets: one without access must not block
    /// the heartbeats of the others. Nor require its watch to be up: heartbeats that are rejected while it is broken
    /// would cost executors.
    pub fn is_synced(&self) -> bool {
        let synced = |managed: &Managed| match &managed.life {
            Some(life) => life.listed,
            None => managed.looked,
        };
        self.fleets.is_empty() || self.fleets.values().any(synced)
    }

    /// Switches one rule off, to check that the tests detect it.
    #[cfg(feature = "injected-bugs")]
    pub fn inject(&mut self, bug: InjectedBug) {
        self.bug = Some(bug);
    }

    #[cfg(feature = "injected-bugs")]
    pub(super) fn bugs(&self) -> Bugs {
        self.bug.map(Bugs::only).unwrap_or_default()
    }

    #[cfg(not(feature = "injected-bugs"))]
    pub(super) fn bugs(&self) -> Bugs {
        Bugs::default()
    }

    pub(super) fn has_bug(&self, bug: InjectedBug) -> bool {
        self.bugs().has(bug)
    }

    /// What fleets were told in the last step.
    #[cfg(feature = "injected-bugs")]
    pub fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    #[cfg(feature = "injected-bugs")]
    pub(super) fn trace(&mut self, life: u64, event: &Event) {
        if let Some(life) = self.life_mut(life).map(|life| life.number) {
            self.told.push(Told { life, event: event.clone(), before: self.out.len() });
        }
    }

    /// Checks the totals of all fleets.
    pub fn audit(&self) -> Result<(), String> {
        self.fleets.values().filter_map(Managed::life).try_for_each(|life| life.fleet.audit())
    }
}
