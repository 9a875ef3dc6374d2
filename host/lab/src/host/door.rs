//! A host's door: how a heartbeat that has reached it is handled.
//!
//! It is read and delivered to the core, or turned away. A host that turns heartbeats away knows it and tells
//! its core, at once and then about once a second, as the daemon's listeners do; it may only not know whose
//! heartbeats they were. While a host stands still its sockets hold what arrives, as far as there is room.

use std::collections::{BTreeMap, BTreeSet};

use fleet::event::{Beat, Event, Impairment};

use super::HostTask;
use crate::world::World;

/// The core is told of each cause about this often.
const COALESCED_MS: u64 = 1_000;

#[derive(Clone, Debug, Default)]
pub struct Door {
    /// F76: until then every heartbeat is refused.
    pub deaf_until_ms: u64,
    /// F77: until then the heartbeats of a third of the executors are turned away, and why.
    pub partial_until_ms: u64,
    pub partial_third: u64,
    pub partial_why: Option<Impairment>,
    /// When the core of each application was last told of each cause, and which causes it is still to be told.
    told_ms: BTreeMap<(usize, Impairment), u64>,
    due: BTreeSet<(usize, Impairment)>,
}

impl Door {
    /// The part that outlives the process: faults applied to it, not its own state.
    pub(super) fn of_next_life(&self) -> Door {
        Door { told_ms: BTreeMap::new(), due: BTreeSet::new(), ..self.clone() }
    }

    fn turns_away(&self, beat: &Beat, now_ms: u64) -> Option<Impairment> {
        if now_ms < self.deaf_until_ms {
            Some(Impairment::Refused)
        } else if now_ms < self.partial_until_ms && beat.executor.0 % 3 == self.partial_third {
            self.partial_why
        } else {
            None
        }
    }
}

impl World<'_> {
    pub(super) fn beat_arrives(&mut self, at: usize, app: usize, beat: Beat) {
        let now_ms = self.sim.now_ms;
        self.check_sign(at, app, &beat);
        match self.hosts[at].door.turns_away(&beat, now_ms) {
            Some(why) => self.turned_away(at, app, why),
            None => {
                self.check_heard(at, app, &beat);
                self.tell(at, app, Event::Heartbeat(Box::new(beat)));
            }
        }
    }

    fn turned_away(&mut self, at: usize, app: usize, why: Impairment) {
        let now_ms = self.sim.now_ms;
        let door = &mut self.hosts[at].door;
        match door.told_ms.get(&(app, why)).map(|told_ms| told_ms + COALESCED_MS) {
            Some(again_ms) if now_ms < again_ms => {
                if door.due.insert((app, why)) {
                    self.post(at, again_ms - now_ms, HostTask::Impaired(app, why));
                }
            }
            Some(_) | None => self.say_impaired(at, app, why),
        }
    }

    pub(super) fn say_impaired(&mut self, at: usize, app: usize, why: Impairment) {
        let door = &mut self.hosts[at].door;
        door.due.remove(&(app, why));
        door.told_ms.insert((app, why), self.sim.now_ms);
        self.tell(at, app, Event::HearingImpaired(why));
    }

    /// A heartbeat reaches a host that stands still. Returns whether there is room for it.
    pub(super) fn beat_waits(&mut self, at: usize, app: usize, beat: &Beat) -> bool {
        // A standstill that is too short to be noticed, or during which the host's clock stands still, excuses
        // nothing.
        if self.hosts[at].stands.noticed {
            self.check_sign(at, app, beat);
        }
        let room = &mut self.hosts[at].stands.room;
        let has = *room > 0;
        *room = room.saturating_sub(1);
        has
    }
}
