//! Leader election: the core's own election, over a Lease in the API server.
//!
//! The state machine is the one of production, in the supervisor; only its environment is here. Its calls use the same
//! network as any other, so they can be lost, delayed or have an unknown outcome.

use fleet::backoff::Seed;
use fleet::election::{Election, ElectionEvent, ElectionOutcome, ElectionSettings, Identity, Lease};
use fleet::id::{ActionId, Version};
use fleet::supervisor::Input;

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
    pub(crate) fn lead(&mut self, at: usize) {
        let now_ms = self.sim.now_ms;
        self.hosts[at].leading = true;
        if self.sim.swarm.is_on(Fault::Herd) && self.sim.strikes(Fault::Herd) {
            let intervals_ms = self.apps.iter().map(|app| app.operator.spec.heartbeat.interval_ms);
            self.hosts[at].deaf_until_ms = now_ms + intervals_ms.max().unwrap_or_default() * 2;
        }
        for app in self.current() {
            self.post(at, 1_500, HostTask::PollDriver(app));
        }
    }

    pub(crate) fn call_lease(
        &mut self,
        host: usize,
        request: ActionId,
        write: Option<(Lease, Option<Version>)>,
    ) {
        let now_ms = self.sim.now_ms;
        let there_ms = self.sim.choices.between(2, 30);
        let answer_ms = self.sim.choices.between(2, 30);
        let cut_off =
            now_ms < self.hosts[host].partitioned_until_ms.max(self.hosts[host].lease_blind_until_ms);
        if cut_off || self.sim.strikes(Fault::RequestLost) {
            return;
        }
        let answer_ms = if self.sim.strikes(Fault::AnswerLost) {
            None
        } else if self.sim.strikes(Fault::AnswerLate) {
            Some(self.sim.choices.between(100, 20_000))
        } else {
            Some(answer_ms)
        };
        let there_ms =
            if self.sim.strikes(Fault::Reordered) { self.sim.choices.between(100, 5_000) } else { there_ms };
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
        self.post(host, wait_ms, HostTask::Input(Box::new(Input::Election(answer))));
    }
}
