//! Heartbeats: which executors are silent, without I/O.
//!
//! Intuition: an executor that sends nothing for much longer than it should is probably gone. But silence has
//! two possible causes: the executor may have stopped sending, or we may have stopped receiving.
//!
//! The rule for one executor is Spark's (HeartbeatReceiver): it is silent when its last sign of life is *more
//! than* the timeout ago. Silence counts from the moment it could first be heard: from its registration, or
//! from the start of this host, which could not hear anything earlier. After a start every executor has at
//! least the grace period; otherwise a host with a short timeout would take its own downtime for the death of
//! all executors.
//!
//! The rule for the whole fleet is Rollcall's own: silence proves something only while *at least one* executor
//! is heard. When no executor of the fleet has been heard for twice the timeout, one of them, and only one, is
//! given up. If its replacement is heard, the others are indeed silent. If not, the path is probably broken,
//! and replacing executors does not help; another executor is tried after twice the time, and so on up to
//! sixteen timeouts. So an unreachable listener costs a fleet a single executor from time to time, instead of
//! all of them.
//!
//! Silence is also a verdict only while *this host* receives reliably. When heartbeats of this fleet may have
//! been lost on our side (rejected, dropped, not attributed) or this host was stalled, the silence of all
//! executors of the fleet counts from that moment: a live executor will be heard within one timeout of good
//! reception, and a dead one may be detected from its pod's status or the driver's report at any time. No state
//! is reset: the time of each executor's last heartbeat is kept, only the verdict is delayed. The price is
//! time. After one impairment, a dead executor that Kubernetes still considers running is found up to one
//! timeout later. An attacker that makes us reject heartbeats all the time keeps every silent executor of that
//! fleet in service all the time. That is the lesser harm: it costs the fleet the place of an executor that is
//! already dead, where the opposite rule would cost it live executors. The condition `HearingImpaired` reports
//! this for as long as it lasts.
//!
//! Rejected: excusing only the executors whose heartbeats were lost. The sender of a rejected connection is not
//! known.
//!
//! Rejected: Spark's poll every 60 s, which finds a silence up to 60 s late; here the owner is given the
//! deadline. Rejected: an adaptive timer (phi accrual). A JVM that collects garbage for 40 s is not dead,
//! and operators must be able to predict from the configuration alone when an executor is given up.

use crate::event::Impairment;
use crate::spec::HeartbeatSpec;
use crate::time::Instant;

/// The heartbeat timer of one executor. The owner calls `heard` with each sign of life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeartbeatTimer {
    /// Silence counts from here.
    from: Instant,
    /// `from` is the time of the last sign of life; otherwise it is only when listening began.
    heard: bool,
}

impl HeartbeatTimer {
    /// Begin to listen.
    pub(crate) fn new(now: Instant) -> HeartbeatTimer {
        HeartbeatTimer { from: now, heard: false }
    }

    /// Records a sign of life. One that arrives late or twice changes nothing.
    pub(crate) fn heard(&mut self, at: Instant) {
        self.from = self.from.max(at);
        self.heard = true;
    }

    pub(crate) fn last_heard(&self) -> Option<Instant> {
        self.heard.then_some(self.from)
    }

    /// The first moment at which the executor is silent, if nothing is heard until then. Silence before
    /// `excused` does not count.
    pub(crate) fn silent_at(&self, spec: &HeartbeatSpec, excused: Instant) -> Instant {
        // Strictly more than the timeout.
        self.from.max(excused) + spec.timeout_ms + 1
    }
}

/// At most sixteen timeouts between two tries.
const PROBE_DOUBLINGS: u32 = 4;

/// The heartbeat state of a fleet: can silence be trusted?
#[derive(Clone, Copy, Debug)]
pub(crate) struct FleetLiveness {
    started: Instant,
    /// When any executor was last heard.
    last: Option<Instant>,
    /// Number of executors that were given up as a probe because no executor is heard.
    probes: u32,
    /// Time of the last probe.
    probed: Instant,
    /// Silence before this moment proves nothing.
    excused: Instant,
}

impl FleetLiveness {
    pub(crate) fn new(now: Instant) -> FleetLiveness {
        FleetLiveness { started: now, last: None, probes: 0, probed: now, excused: Instant::START }
    }

    /// The silence of all executors counts from now. O(1) in the number of executors: each of them reads
    /// [`FleetLiveness::excused`] when its own silence would be over the timeout.
    pub(crate) fn excuse(&mut self, now: Instant) {
        self.excused = now;
    }

    /// Silence before this moment does not count.
    pub(crate) fn excused(&self) -> Instant {
        self.excused
    }

    /// Records that some executor was heard. Returns whether no executor had been heard before.
    pub(crate) fn heard(&mut self, now: Instant) -> bool {
        self.last = Some(now);
        std::mem::take(&mut self.probes) > 0
    }

    /// Was any executor heard within the timeout?
    pub(crate) fn hears(&self, now: Instant, spec: &HeartbeatSpec) -> bool {
        self.last.is_some_and(|last| now.since_ms(last) <= spec.timeout_ms)
    }

    /// No executor is heard, and giving up more executors would not help.
    pub(crate) fn is_broken(&self) -> bool {
        self.probes > 0
    }

    /// May a silent executor be given up? `Err`: not before that time. While no executor is heard, `Ok` is
    /// returned with growing intervals.
    ///
    /// `probe`: may an executor be given up as a probe while no executor is heard?
    pub(crate) fn may_give_up(
        &mut self,
        now: Instant,
        spec: &HeartbeatSpec,
        probe: bool,
    ) -> Result<(), Instant> {
        let grace_ends = self.started + 2 * spec.interval_ms;
        if now < grace_ends {
            return Err(grace_ends);
        }
        if self.hears(now, spec) {
            return Ok(());
        }
        let last = self.last.unwrap_or(self.started);
        // Twice the timeout since any executor was heard, then twice as long since the last probe.
        let from = if self.probes == 0 { last } else { self.probed };
        let from = from.max(self.excused);
        let next = from + (spec.timeout_ms << (self.probes + 1).min(PROBE_DOUBLINGS)) + 1;
        if now < next {
            return Err(next);
        }
        if !probe {
            return Err(now + spec.timeout_ms);
        }
        self.probes += 1;
        self.probed = now;
        Ok(())
    }
}

/// The impairments of the heartbeat path, for users.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Impairments {
    /// Per kind, in the order of [`Impairment::ALL`]: since this host leads, and since the episode began.
    told: [u64; Impairment::ALL.len()],
    lately: [u64; Impairment::ALL.len()],
    /// The times of the first and the last impairment of an episode.
    episode: Option<(Instant, Instant)>,
}

impl Impairments {
    /// Records that heartbeats may have been lost. Returns whether an episode begins with it.
    pub(crate) fn told(&mut self, why: Impairment, now: Instant) -> bool {
        let begins = self.episode.is_none();
        if begins {
            self.lately = Default::default();
        }
        self.told[why as usize] += 1;
        self.lately[why as usize] += 1;
        self.episode = Some((self.episode.map_or(now, |(since, _)| since), now));
        begins
    }

    /// An episode lasts as long as it excuses silence: for one timeout after its last impairment.
    pub(crate) fn ends_at(&self, spec: &HeartbeatSpec) -> Option<Instant> {
        self.episode.map(|(_, last)| last + spec.timeout_ms + 1)
    }

    /// Ends the episode, if it is due. Returns its duration.
    pub(crate) fn end(&mut self, now: Instant, spec: &HeartbeatSpec) -> Option<u64> {
        let (since, _) = self.episode.take_if(|(_, last)| *last + spec.timeout_ms < now)?;
        Some(now.since_ms(since))
    }

    /// Since when the heartbeat path is impaired, while it is.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.episode.map(|(since, _)| since)
    }

    /// How often this impairment occurred since this host leads.
    pub(crate) fn count(&self, why: Impairment) -> u64 {
        self.told[why as usize]
    }

    /// The kinds of this episode with their counts: "refused 3 times, paused once".
    pub(crate) fn words(&self) -> String {
        let of = |why: &Impairment| match self.lately[*why as usize] {
            0 => None,
            1 => Some(format!("{} once", why.name())),
            times => Some(format!("{} {times} times", why.name())),
        };
        Impairment::ALL.iter().filter_map(of).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: HeartbeatSpec = HeartbeatSpec { timeout_ms: 100, interval_ms: 10, disabled: false };

    fn at(ms: u64) -> Instant {
        Instant::from_ms(ms)
    }

    #[test]
    fn silent_is_strictly_longer_than_the_timeout() {
        let mut timer = HeartbeatTimer::new(at(1_000));
        assert_eq!(timer.silent_at(&SPEC, at(0)), at(1_101));
        assert_eq!(timer.last_heard(), None);
        timer.heard(at(1_050));
        assert_eq!(timer.silent_at(&SPEC, at(0)), at(1_151));
        assert_eq!(timer.last_heard(), Some(at(1_050)));
    }

    #[test]
    fn late_and_repeated_signs_change_nothing() {
        let mut timer = HeartbeatTimer::new(at(0));
        timer.heard(at(80));
        timer.heard(at(80));
        timer.heard(at(30));
        assert_eq!(timer.silent_at(&SPEC, at(0)), at(181));
    }

    #[test]
    fn what_is_excused_does_not_count_and_is_not_forgotten() {
        let mut timer = HeartbeatTimer::new(at(0));
        timer.heard(at(50));
        assert_eq!(timer.silent_at(&SPEC, at(120)), at(221));
        assert_eq!(timer.last_heard(), Some(at(50)));
        timer.heard(at(150));
        assert_eq!(timer.silent_at(&SPEC, at(120)), at(251));
    }

    #[test]
    fn while_hearing_is_impaired_no_executor_is_given_up_to_find_out() {
        let mut hearing = FleetLiveness::new(at(0));
        hearing.heard(at(1_000));
        hearing.excuse(at(1_150));
        assert_eq!(hearing.may_give_up(at(1_201), &SPEC, true), Err(at(1_351)));
        assert_eq!(hearing.may_give_up(at(1_351), &SPEC, true), Ok(()));
        hearing.excuse(at(1_700));
        assert_eq!(hearing.may_give_up(at(1_752), &SPEC, true), Err(at(2_101)), "also not the next");
    }

    #[test]
    fn impairments_of_one_episode_are_told_once() {
        let mut impairments = Impairments::default();
        assert_eq!(impairments.ends_at(&SPEC), None);
        assert!(impairments.told(Impairment::Refused, at(10)));
        assert!(!impairments.told(Impairment::Refused, at(60)));
        assert!(!impairments.told(Impairment::Paused, at(100)));
        assert_eq!(impairments.words(), "refused 2 times, paused once");
        assert_eq!(impairments.ends_at(&SPEC), Some(at(201)));
        assert_eq!(impairments.end(at(200), &SPEC), None, "silence is excused still");
        assert_eq!(impairments.end(at(201), &SPEC), Some(191));
        assert_eq!(impairments.since(), None);
        assert!(impairments.told(Impairment::Dropped, at(300)), "another episode");
        assert_eq!(impairments.words(), "dropped once");
        assert_eq!(impairments.count(Impairment::Refused), 2, "and what was, was");
    }

    #[test]
    fn everybody_has_the_grace_after_a_start() {
        let mut hearing = FleetLiveness::new(at(500));
        hearing.heard(at(505));
        assert_eq!(hearing.may_give_up(at(519), &SPEC, true), Err(at(520)));
        assert_eq!(hearing.may_give_up(at(520), &SPEC, true), Ok(()));
    }

    #[test]
    fn while_some_are_heard_the_silent_are_given_up() {
        let mut hearing = FleetLiveness::new(at(0));
        hearing.heard(at(1_000));
        for _ in 0..3 {
            assert_eq!(hearing.may_give_up(at(1_100), &SPEC, true), Ok(()));
        }
        assert!(!hearing.is_broken());
    }

    #[test]
    fn when_none_is_heard_one_is_given_up_to_find_out() {
        let mut hearing = FleetLiveness::new(at(0));
        hearing.heard(at(1_000));
        assert_eq!(hearing.may_give_up(at(1_101), &SPEC, true), Err(at(1_201)), "the others may still speak");
        assert_eq!(hearing.may_give_up(at(1_201), &SPEC, true), Ok(()));
        assert_eq!(hearing.may_give_up(at(1_201), &SPEC, true), Err(at(1_602)), "only one for a while");
        assert_eq!(hearing.may_give_up(at(1_602), &SPEC, true), Ok(()));
        let tries = (1_603..20_000).filter(|now| hearing.may_give_up(at(*now), &SPEC, true).is_ok()).count();
        assert_eq!(tries, 11, "after 800 and then every 1,600");
        assert!(hearing.is_broken());
        hearing.heard(at(100_000));
        assert_eq!(hearing.may_give_up(at(100_000), &SPEC, true), Ok(()), "its replacement is heard");
    }

    #[test]
    fn a_path_that_never_worked_is_broken_too() {
        let mut hearing = FleetLiveness::new(at(0));
        assert_eq!(hearing.may_give_up(at(150), &SPEC, true), Err(at(201)));
        assert_eq!(hearing.may_give_up(at(201), &SPEC, true), Ok(()));
        assert_eq!(hearing.may_give_up(at(202), &SPEC, true), Err(at(602)));
    }
}
