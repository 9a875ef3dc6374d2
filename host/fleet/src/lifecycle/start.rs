//! From a pod that exists to an executor that is available: signs of life.
//!
//! Until its end is recorded, a loss by silence is only a suspicion: an executor that is heard again returns to
//! service, its question is dropped, and a replacement that already exists is surplus like any other executor.

use crate::action::Reason;
use crate::event::DriverRow;
use crate::executor::{Executor, Facts, Stage};
use crate::heartbeat::HeartbeatTimer;
use crate::injected_bug::InjectedBug;
use crate::lifecycle::effect::{Context, Effect};
use crate::lifecycle::end::mark_lost;
use crate::question::Trigger;
use crate::time::Instant;

/// The pod is known to exist.
pub(crate) fn pod_exists(executor: &mut Executor, cx: &mut Context<'_>) {
    cx.add(Effect::RecordCreated);
    if !executor.stage.is_unseen() {
        return;
    }
    let now = cx.now();
    executor.enter(Stage::AwaitingStart, now, now);
    if let Some(lost) = executor.replaces.take() {
        cx.publish(Reason::ExecutorReplaced, format!("in place of {lost}"));
    }
    // The driver may have known the executor for longer, but its heartbeats were ignored until now.
    executor.timer = HeartbeatTimer::new(now);
}

/// The pod runs: wait for the executor's heartbeats.
pub(crate) fn running(executor: &mut Executor, cx: &mut Context<'_>) {
    let now = cx.now();
    let heartbeat = &cx.env.spec.heartbeat;
    executor.enter(Stage::AwaitingRegistration, now, now);
    let from = if cx.env.has_bug(InjectedBug::NoGrace) { Instant::START } else { now };
    // Heartbeats may arrive before the watch event. Heartbeats from long before the pod ran are from another
    // executor.
    let lately = |at| executor.proven || now.since_ms(at) <= heartbeat.interval_ms;
    let heard = executor.timer.last_heard().is_some_and(lately);
    if !heard {
        executor.timer = HeartbeatTimer::new(from);
    }
    if heard || heartbeat.disabled {
        available(executor, cx);
    }
}

pub(crate) fn available(executor: &mut Executor, cx: &mut Context<'_>) {
    executor.enter(Stage::Available, cx.now(), cx.now());
    if !std::mem::replace(&mut executor.proven, true) {
        cx.add(Effect::Started);
    }
}

/// A heartbeat, with metrics by the index of their name.
pub(crate) fn heard(executor: &mut Executor, metrics: Vec<(usize, f64)>, cx: &mut Context<'_>) {
    if !executor.pends_again() {
        executor.timer.heard(cx.now());
    }
    executor.registered = true;
    if !metrics.is_empty() {
        let known = &mut executor.facts.get_or_insert_default().metrics;
        for (index, value) in metrics {
            if known.len() <= index {
                known.resize(index + 1, f64::NAN);
            }
            known[index] = value;
        }
    }
    if matches!(executor.stage, Stage::AwaitingRegistration) {
        available(executor, cx);
    } else if executor.is_silent() {
        heard_again(executor, cx);
    }
}

/// What the driver reports about the executor. `believed`: that it is active counts as a sign of life; otherwise only
/// counters that changed since the last report do.
pub(crate) fn driver_reported(executor: &mut Executor, row: DriverRow, believed: bool, cx: &mut Context<'_>) {
    let now = cx.now();
    let facts = executor.facts.get_or_insert_with(|| Box::new(Facts::default()));
    let mut moved = false;
    if let Some(counters) = row.counters {
        moved = facts.counters.as_ref() != Some(&counters);
        (facts.counters, facts.counted) = (Some(counters), now);
    }
    let mut alive = false;
    if row.active {
        executor.registered = true;
        alive = (believed || moved) && !executor.pends_again();
        if alive {
            executor.timer.heard(now);
        }
    } else {
        executor.driver_said = row.remove_reason.or(executor.driver_said.take());
    }
    if row.active && matches!(executor.stage, Stage::AwaitingRegistration) {
        available(executor, cx);
    } else if alive && executor.is_silent() {
        // A sign of life that would have prevented the loss also reverts it.
        heard_again(executor, cx);
    } else if !row.active && executor.stage.serves() && executor.registered {
        // A driver cannot remove an executor that never registered: then the row is about an earlier executor
        // with this id.
        mark_lost(executor, Trigger::DriverRemoved, cx);
    }
}

/// An executor that was given up for its silence is heard before its loss is settled: it is not lost.
fn heard_again(executor: &mut Executor, cx: &mut Context<'_>) {
    if cx.env.has_bug(InjectedBug::SilenceStands) {
        return;
    }
    let Stage::AwaitingReason(loss) = &executor.stage else { return };
    let silence = loss.heard.map(|heard| format!(" after {} ms", cx.now().since_ms(heard)));
    let message = format!("heard again{}: it is not lost", silence.unwrap_or_default());
    cx.add(Effect::HeardAgain { lost: executor.since });
    available(executor, cx);
    cx.publish(Reason::ExecutorHeardAgain, message);
}
