//! S21: no executor is lost for a silence that the host itself caused.
//!
//! Kept from the world's side: which heartbeats of an executor *reached the door* of a host, no matter what the
//! host then did with them. No executor is suspected for silence within a timeout of such a heartbeat; and an
//! executor whose heartbeat was read after it was suspected, and before its loss was settled, is not lost.
//!
//! A heartbeat that lies unread in a socket counts only if the standstill was longer than a host has to notice
//! (`fleet::standstill`) and the host's clock kept running: after a shorter one the host may find a deadline
//! that passed before the heartbeat arrived.

use fleet::event::Beat;
use fleet::id::ExecutorId;
use fleet::question::{Evidence, Trigger};

use super::CoreId;
use crate::api::Serial;
use crate::world::World;

impl World<'_> {
    /// The only executor with this id, if there is exactly one and the heartbeat may be its own.
    fn sender(&self, app: usize, beat: &Beat) -> Option<Serial> {
        let mut whose = self.cluster.executors.with_id(app, beat.executor);
        let only = whose.next().filter(|_| whose.next().is_none())?.serial;
        let other = beat.uid.as_ref().is_some_and(|uid| Serial::of(uid) != Some(only));
        (!other).then_some(only)
    }

    /// A heartbeat has reached the door; the host decides what to do with it.
    pub(crate) fn check_sign(&mut self, at: usize, app: usize, beat: &Beat) {
        let now_ms = self.sim.now_ms;
        let known = self.sender(app, beat).is_some();
        let Some(life) = self.apps[app].checks.life_at(at).filter(|_| known) else { return };
        life.signs.insert(beat.executor.0, now_ms);
    }

    /// The heartbeat is delivered to the core. Could the core have known that the executor is alive?
    pub(crate) fn check_heard(&mut self, at: usize, app: usize, beat: &Beat) {
        let alive = self.sender(app, beat).filter(|serial| {
            let whole = self.api.ours(app).any(|(ours, pod)| {
                let view = &pod.view;
                ours == *serial && pod.ready() && !view.terminating() && !view.executor_ended()
            });
            whole && self.cluster.executors.get(serial).is_some_and(|truth| truth.tampered.is_none())
        });
        let Some(serial) = alive else { return };
        let Some(life) = self.apps[app].checks.life_at(at) else { return };
        if life.shown_as.runs_as(beat.executor.0, &serial.uid())
            && let Some(spoke) = life.suspects.get_mut(&beat.executor.0)
        {
            *spoke = true;
        }
    }

    /// The host asks the policy why the executor was lost.
    pub(crate) fn check_suspect(&mut self, app: usize, core: CoreId, evidence: &Evidence) {
        let now_ms = self.sim.now_ms;
        let (id, timeout_ms) = (evidence.executor_id, self.apps[app].checks.spec.heartbeat.timeout_ms);
        let twins = self.cluster.executors.with_id(app, ExecutorId(id)).count();
        let Some(life) = self.apps[app].checks.life(core) else { return };
        if evidence.trigger != Trigger::HeartbeatTimeout {
            life.suspects.remove(&id);
            return;
        }
        if evidence.checks_made > 0 {
            return;
        }
        life.suspects.insert(id, false);
        let sign_ms = life.signs.get(&id).copied();
        // It was suspected in this very step, rather than asked about later, when there was room.
        let now = evidence.now_ms == evidence.lost_at_ms;
        if let Some(sign_ms) = sign_ms.filter(|ms| now && twins == 1 && now_ms - ms <= timeout_ms) {
            self.apps[app].checks.object("S21", now_ms, || {
                format!(
                    "{id} is given up for silence, and {} ms ago a sign of it reached host {}",
                    now_ms - sign_ms,
                    core.host
                )
            });
        }
    }

    /// The host has settled a loss.
    pub(crate) fn check_settled_silence(&mut self, app: usize, core: CoreId, executor: ExecutorId) {
        let now_ms = self.sim.now_ms;
        let Some(life) = self.apps[app].checks.life(core) else { return };
        if life.suspects.remove(&executor.0) == Some(true) {
            self.apps[app].checks.object("S21", now_ms, || {
                format!("{executor} spoke after it was given up for silence, and is lost all the same")
            });
        }
    }
}
