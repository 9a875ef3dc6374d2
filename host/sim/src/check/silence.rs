//! S21: no executor is lost for a silence that is the host's own.
//!
//! Kept from the world's side: which signs of an executor *reached the door* of a host, whatever the host
//! did with them. Then no executor is given up for its silence within a timeout of such a sign; and one
//! whose sign was read after it was given up, and before its loss was settled, is not lost.
//!
//! What lies unread in a socket counts only where the standstill was longer than a host has to notice
//! (`fleet::standstill`) and its clock went on: of a shorter one the host may find a deadline that passed
//! before the beat arrived.

use fleet::event::Beat;
use fleet::id::ExecutorId;
use fleet::question::{Evidence, Trigger};

use super::conduct::serial_of;
use crate::api::Serial;
use crate::world::World;

impl World<'_> {
    /// The one executor of this id, if there is just one and the beat may be its.
    fn sender(&self, beat: &Beat) -> Option<Serial> {
        let mut whose = self.cluster.executors.values().filter(|truth| truth.executor == beat.executor);
        let only = whose.next().filter(|_| whose.next().is_none())?.serial;
        let other = beat.uid.as_ref().is_some_and(|uid| serial_of(uid) != Some(only));
        (!other).then_some(only)
    }

    /// A beat has reached the door; what becomes of it is the host's doing.
    pub(crate) fn check_sign(&mut self, at: usize, beat: &Beat) {
        let now_ms = self.sim.now_ms;
        let known = self.sender(beat).is_some();
        let Some(life) = self.checks.life(at).filter(|_| known) else { return };
        life.signs.insert(beat.executor.0, now_ms);
    }

    /// It is told to the core. Could that have known that it is alive?
    pub(crate) fn check_heard(&mut self, at: usize, beat: &Beat) {
        let alive = self.sender(beat).filter(|serial| {
            let whole = self.api.ours().any(|(ours, pod)| {
                let view = &pod.view;
                ours == *serial && pod.ready() && !view.terminating() && !view.executor_ended()
            });
            whole && self.cluster.executors.get(serial).is_some_and(|truth| truth.tampered.is_none())
        });
        let Some(serial) = alive else { return };
        let Some(life) = self.checks.life(at) else { return };
        if life.shown_as.runs_as(beat.executor.0, &serial.uid())
            && let Some(spoke) = life.suspects.get_mut(&beat.executor.0)
        {
            *spoke = true;
        }
    }

    /// The host asks why it was lost.
    pub(crate) fn check_suspect(&mut self, at: usize, evidence: &Evidence) {
        let now_ms = self.sim.now_ms;
        let (id, timeout_ms) = (evidence.executor_id, self.checks.draft.heartbeat.timeout_ms);
        let twins = self.cluster.executors.values().filter(|truth| truth.executor.0 == id).count();
        let Some(life) = self.checks.life(at) else { return };
        if evidence.trigger != Trigger::HeartbeatTimeout {
            life.suspects.remove(&id);
            return;
        }
        if evidence.checks_made > 0 {
            return;
        }
        life.suspects.insert(id, false);
        let sign_ms = life.signs.get(&id).copied();
        // It was given up in this very step, rather than asked about once there was room.
        let now = evidence.now_ms == evidence.lost_at_ms;
        if let Some(sign_ms) = sign_ms.filter(|ms| now && twins == 1 && now_ms - ms <= timeout_ms) {
            self.checks.object("S21", now_ms, || {
                format!(
                    "{id} is given up for silence, and {} ms ago a sign of it reached host {at}",
                    now_ms - sign_ms
                )
            });
        }
    }

    /// The host has settled a loss.
    pub(crate) fn check_settled_silence(&mut self, at: usize, executor: ExecutorId) {
        let now_ms = self.sim.now_ms;
        let Some(life) = self.checks.life(at) else { return };
        if life.suspects.remove(&executor.0) == Some(true) {
            self.checks.object("S21", now_ms, || {
                format!("{executor} spoke after it was given up for silence, and is lost all the same")
            });
        }
    }
}
