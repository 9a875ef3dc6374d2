//! Whether this host leads, and whether its loop ran in time.

use super::Supervisor;
use super::message::Output;
use crate::election::{ElectionAction, ElectionEvent, StopCause};
use crate::event::{Event, Impairment};

impl Supervisor {
    /// After a standstill of this process, the silence of executors proves nothing: heartbeats are unread in sockets
    /// and queues, and deadlines have passed meanwhile.
    pub(super) fn excuse_standstill(&mut self) {
        if let Some(stood_ms) = self.standstill.look(self.now.instant)
            && self.leads()
        {
            self.out.push(Output::StoodStill { stood_ms });
            for life in self.lives() {
                self.tell(life, Event::HearingImpaired(Impairment::Paused));
            }
        }
    }

    pub(super) fn elect(&mut self, event: ElectionEvent) {
        let Some(election) = &mut self.election else { return self.always_lead(&event) };
        for action in election.step(event, self.now) {
            match action {
                ElectionAction::ReadLease { .. } | ElectionAction::WriteLease { .. } => {
                    self.out.push(Output::Election(action));
                }
                ElectionAction::Lead { term } => self.lead(term),
                ElectionAction::Affirm => self.affirm(),
                ElectionAction::Stop(cause) => self.stop(cause),
            }
        }
    }

    /// Without a Lease no other host can lead.
    fn always_lead(&mut self, event: &ElectionEvent) {
        match event {
            ElectionEvent::Release => self.stop(StopCause::Released),
            _ if self.term.is_none() && self.stopped.is_none() => self.lead(1),
            ElectionEvent::Doubt => self.affirm(),
            ElectionEvent::Finished { .. } | ElectionEvent::Deadline => {}
        }
    }

    fn lead(&mut self, term: u64) {
        self.term = Some(term);
        self.out.push(Output::Election(ElectionAction::Lead { term }));
        for name in self.fleets.keys().cloned().collect::<Vec<_>>() {
            self.seek(&name);
        }
    }

    /// The Lease was in doubt, was read, and is ours.
    fn affirm(&mut self) {
        self.out.push(Output::Election(ElectionAction::Affirm));
        for life in self.lives() {
            self.tell(life, Event::LeadershipConfirmed);
        }
    }

    fn stop(&mut self, cause: StopCause) {
        self.out.push(Output::Election(ElectionAction::Stop(cause)));
        if self.stopped.is_none() {
            for life in self.lives() {
                self.tell(life, Event::LeadershipLost);
            }
            self.timers.clear();
        }
        self.stopped = Some(cause);
    }
}
