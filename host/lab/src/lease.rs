//! Leader election: the core's own election, over a Lease in the API server.
//!
//! The state machine is the one of production; only its environment is here. Its calls use the same network as
//! any other, so they can be lost, delayed or have an unknown outcome. Before every step a host asks it whether
//! it still leads, as a daemon has to: a process that stood still finds out before it acts.

use fleet::backoff::Seed;
use fleet::election::{
    Election, ElectionAction, ElectionEvent, ElectionOutcome, ElectionSettings, Identity, Lease,
};
use fleet::event::Event;
use fleet::id::{ActionId, Version};
use fleet::time::Instant;

use crate::api::Api;
use crate::fault::Fault;
use crate::host::HostTask;
use crate::world::{Task, World};

/// A request about the Lease, in transit.
#[derive(Debug)]
pub struct LeaseCall {
    host: usize,
    life: u32,
    request: ActionId,
    write: Option<(Lease, Option<Version>)>,
    /// None: the answer is lost.
    answer_ms: Option<u64>,
}

/// The election of one life of a host.
pub fn election(host: usize, life: u32, seed: u64) -> Election {
    let identity = Identity::new(&format!("host-{host}"), u128::from(life));
    Election::new(ElectionSettings::default(), identity, Seed::new(seed))
}

/// The host that the Lease names as its holder.
pub fn holder(api: &Api) -> Option<usize> {
    let (lease, _) = api.lease()?;
    lease.holder.strip_prefix("host-")?.split('_').next()?.parse().ok()
}

impl World<'_> {
    pub(crate) fn elect(&mut self, at: usize, event: ElectionEvent) {
        if self.alone && event == ElectionEvent::Doubt {
            // No other host can lead.
            return self.tell(at, Event::LeadershipConfirmed);
        }
        let now = self.hosts[at].now(self.sim.now_ms);
        let Some(election) = &mut self.hosts[at].election else { return };
        for action in election.step(event, now) {
            match action {
                ElectionAction::ReadLease { request } => self.call_lease(at, request, None),
                ElectionAction::WriteLease { request, lease, over } => {
                    self.call_lease(at, request, Some((lease, over)));
                }
                ElectionAction::Lead { term } => self.lead(at, term),
                ElectionAction::Affirm => self.tell(at, Event::LeadershipConfirmed),
                ElectionAction::Stop(_) => {
                    self.depose(at);
                    self.post(at, 300, HostTask::Exit);
                }
            }
        }
        let host = &self.hosts[at];
        let deadline = host.election.as_ref().and_then(Election::deadline);
        if let Some(deadline) = deadline {
            let wait_ms = deadline.since_ms(host.now(self.sim.now_ms).instant);
            self.post(at, wait_ms, HostTask::ElectionDue(deadline));
        }
    }

    /// The election's deadline, unless another one was set since.
    pub(crate) fn election_due(&mut self, at: usize, due: Instant) {
        if self.hosts[at].election.as_ref().and_then(Election::deadline) == Some(due) {
            self.elect(at, ElectionEvent::Deadline);
        }
    }

    /// Does the host still lead? One that does not finds out before it acts.
    pub(crate) fn leads_still(&mut self, at: usize) -> bool {
        if self.alone {
            return self.hosts[at].leading;
        }
        let host = &self.hosts[at];
        let now = host.now(self.sim.now_ms).instant;
        let leads = host.election.as_ref().is_some_and(|election| election.is_leader(now));
        if host.leading && !leads {
            self.elect(at, ElectionEvent::Deadline);
            self.depose(at);
        }
        leads
    }

    pub(crate) fn lead(&mut self, at: usize, term: u64) {
        let now_ms = self.sim.now_ms;
        self.hosts[at].leading = true;
        if self.sim.swarm.is_on(Fault::Herd) && self.sim.strikes(Fault::Herd) {
            self.hosts[at].deaf_until_ms = now_ms + self.human.draft.heartbeat.interval_ms * 2;
        }
        self.tell(at, Event::LeadershipGained { term });
        if self.hosts[at].is_up() {
            self.watch_opens(at);
            self.post(at, 1_500, HostTask::PollDriver);
        }
    }

    /// It was the leader and must stop: the core is told, and the process exits.
    pub(crate) fn depose(&mut self, at: usize) {
        if !self.hosts[at].leading {
            return;
        }
        self.hosts[at].leading = false;
        self.tell(at, Event::LeadershipLost);
        self.post(at, 300, HostTask::Exit);
    }

    fn call_lease(&mut self, host: usize, request: ActionId, write: Option<(Lease, Option<Version>)>) {
        let now_ms = self.sim.now_ms;
        let there_ms = self.sim.tape.between(2, 30);
        let answer_ms = self.sim.tape.between(2, 30);
        let cut_off =
            now_ms < self.hosts[host].partitioned_until_ms.max(self.hosts[host].lease_blind_until_ms);
        if cut_off || self.sim.strikes(Fault::RequestLost) {
            return;
        }
        let answer_ms = if self.sim.strikes(Fault::AnswerLost) {
            None
        } else if self.sim.strikes(Fault::AnswerLate) {
            Some(self.sim.tape.between(100, 20_000))
        } else {
            Some(answer_ms)
        };
        let there_ms =
            if self.sim.strikes(Fault::Reordered) { self.sim.tape.between(100, 5_000) } else { there_ms };
        let life = self.hosts[host].life;
        let call = LeaseCall { host, life, request, write, answer_ms };
        self.sim.after(there_ms, Task::Lease(Box::new(call)));
    }

    /// A request about the Lease arrives at the API server.
    pub(crate) fn apply_lease(&mut self, call: LeaseCall) {
        let LeaseCall { host, life, request, write, answer_ms } = call;
        let outcome = if self.sim.strikes(Fault::Throttled) {
            ElectionOutcome::Throttled { after_ms: None }
        } else if self.sim.strikes(Fault::ServerError) {
            ElectionOutcome::Unknown
        } else {
            match write {
                None => self.api.read_lease(),
                Some((lease, over)) => self.api.write_lease(lease, over.as_ref()),
            }
        };
        let Some(wait_ms) = answer_ms.filter(|_| self.hosts[host].life == life) else { return };
        let answer = ElectionEvent::Finished { request, outcome };
        self.post(host, wait_ms, HostTask::Election(Box::new(answer)));
    }
}
