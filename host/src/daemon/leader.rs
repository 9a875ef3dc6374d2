//! Leader election: the core's state machine over the cluster's Lease, or without one a single replica that always
//! leads.

use cluster::lease::LeaseApi;
use cluster::queue::Gate;
use fleet::backoff::Seed;
use fleet::election::{Election, ElectionAction, ElectionEvent, ElectionSettings, Identity, StopCause};
use fleet::time::{Instant, Now};
use tokio::sync::mpsc;

/// The Lease, and how replicas compete for it.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    pub namespace: String,
    pub name: String,
    pub settings: ElectionSettings,
}

/// The consequence of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Lead {
        term: u64,
    },
    /// The Lease was in doubt, was read, and is ours.
    Affirm,
    Stop(StopCause),
}

pub struct Leader {
    election: Option<(Election, LeaseApi)>,
    answers: mpsc::UnboundedSender<ElectionEvent>,
    /// Checked by the executor of calls right before each call.
    gate: Gate,
    alone: bool,
}

impl Leader {
    /// Results of Lease calls arrive through `answers`, and must be passed to [`Leader::step`].
    pub fn new(
        lease: Option<(LeaseConfig, cluster::Client)>,
        instance: &str,
        gate: Gate,
        answers: mpsc::UnboundedSender<ElectionEvent>,
        random: u128,
    ) -> Leader {
        let alone = lease.is_none();
        let election = lease.map(|(config, client)| {
            let identity = Identity::new(instance, random);
            #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
            let seed = Seed::new(random as u64);
            let api = LeaseApi::new(client, &config.namespace, &config.name);
            (Election::new(config.settings, identity, seed), api)
        });
        Leader { election, answers, gate, alone }
    }

    pub fn is_leader(&self, now: Instant) -> bool {
        self.election.as_ref().map_or(!self.alone, |(election, _)| election.is_leader(now))
    }

    /// The current leader, if known.
    pub fn holder(&self) -> Option<&str> {
        self.election.as_ref().and_then(|(election, _)| election.holder())
    }

    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.alone.then_some(Instant::START);
        self.election.as_ref().map_or(waiting, |(election, _)| election.deadline())
    }

    pub fn step(&mut self, event: ElectionEvent, now: Now) -> Option<Turn> {
        let Some((election, api)) = &mut self.election else {
            // Without a Lease no other replica can lead.
            let (releases, doubted) = (event == ElectionEvent::Release, event == ElectionEvent::Doubt);
            if std::mem::take(&mut self.alone) {
                self.gate.open_until_ms(u64::MAX);
                return Some(Turn::Lead { term: 1 });
            }
            if doubted {
                return Some(Turn::Affirm);
            }
            return releases.then_some(Turn::Stop(StopCause::Released));
        };
        let mut turn = None;
        for action in election.step(event, now) {
            let (api, answers) = (api.clone(), self.answers.clone());
            match action {
                ElectionAction::ReadLease { request } => {
                    tokio::spawn(async move {
                        let outcome = api.read().await;
                        let _ = answers.send(ElectionEvent::Finished { request, outcome });
                    });
                }
                ElectionAction::WriteLease { request, lease, over } => {
                    tokio::spawn(async move {
                        let outcome = api.write(&lease, over.as_ref()).await;
                        let _ = answers.send(ElectionEvent::Finished { request, outcome });
                    });
                }
                ElectionAction::Lead { term } => turn = Some(Turn::Lead { term }),
                ElectionAction::Affirm => turn = Some(Turn::Affirm),
                ElectionAction::Stop(cause) => turn = Some(Turn::Stop(cause)),
            }
        }
        self.gate.open_until_ms(election.leads_until().map_or(0, Instant::as_ms));
        turn
    }
}
