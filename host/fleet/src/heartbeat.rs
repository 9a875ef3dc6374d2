//! Heartbeats: which executors have gone silent, sans IO.
//!
//! Intuition: an executor that says nothing for much longer than it should is probably gone. But silence
//! has two ends: the executor may have stopped talking, or we may have stopped hearing.
//!
//! The rule for one executor is Spark's (HeartbeatReceiver): it is silent when the last sign of life is
//! *more than* the timeout ago. Silence counts from when it could first be heard: from its registration,
//! or from the start of this host, which was not there to hear what came before. After a start everybody
//! has at least the grace period, or a host with a short timeout would take its own absence for the
//! death of all.
//!
//! The rule for all of them is ours: silence proves something only while *somebody* is heard. When no
//! executor of the fleet has been heard for twice the timeout, one of them, and only one, is given up. If
//! its replacement is heard, the others are silent indeed. If not, it is the path that is probably broken,
//! and killing executors would not mend it; another is tried after twice the time, and so on up to sixteen
//! timeouts. So a listener that nobody can reach costs a fleet an executor now and then, instead of all.
//!
//! And silence is a verdict only while *we* listen. When a sign of life of this fleet may have been lost on
//! our side (turned away, dropped, not attributed) or this host stood still, all silence of the fleet
//! counts from that moment: an executor that lives will be heard within a timeout of good hearing, and of
//! one that does not, its pod's status and the driver's word may say so at any time. Nothing is forgotten
//! for it: when each was heard last stays what it was, only the verdict waits. The price is time. After one
//! impairment a dead executor that Kubernetes takes for running is found up to a timeout later. An attacker
//! that makes us refuse signs all the time keeps every silent executor of that fleet in service all the
//! time. That is the lesser harm: it costs the fleet the place of an executor that is dead already, where the
//! opposite cost it executors that live. The condition `HearingImpaired` says so for as long as it lasts.
//!
//! Rejected: excusing only the executors whose signs were lost. Of what is turned away at the door it is not
//! known whose it is.
//!
//! Rejected: Spark's poll every 60 s, which finds a silence up to 60 s late; here the owner is told the
//! deadline. Rejected: an adaptive detector (phi accrual). A JVM that collects garbage for 40 s is not
//! dead, and operators must be able to say from the configuration alone when an executor will be given up.

use crate::event::Impairment;
use crate::spec::HeartbeatSpec;
use crate::time::Instant;

/// Listens for one executor. The owner calls `heard` with each sign of life.
#[derive(Clone, Copy, Debug)]
pub struct Detector {
    /// Silence counts from here.
    from: Instant,
    /// The last sign of life was one; otherwise `from` is only when we began to listen.
    heard: bool,
}

impl Detector {
    /// Begin to listen.
    pub fn new(now: Instant) -> Detector {
        Detector { from: now, heard: false }
    }

    /// A sign of life. One that arrives late or twice changes nothing.
    pub fn heard(&mut self, at: Instant) {
        self.from = self.from.max(at);
        self.heard = true;
    }

    pub fn last_heard(&self) -> Option<Instant> {
        self.heard.then_some(self.from)
    }

    /// The first moment at which it is silent, if nothing is heard until then. No silence counts from before
    /// `excused`.
    pub fn silent_at(&self, spec: &HeartbeatSpec, excused: Instant) -> Instant {
        // Strictly more than the timeout.
        self.from.max(excused) + spec.timeout_ms + 1
    }
}

/// Sixteen timeouts between two tries, at most.
const PROBE_DOUBLINGS: u32 = 4;

/// Listens for a fleet: may silence be believed?
#[derive(Clone, Copy, Debug)]
pub struct Hearing {
    started: Instant,
    /// When anybody was heard last.
    last: Option<Instant>,
    /// Nobody is heard, and so many executors were given up to find out why.
    probes: u32,
    /// When the last of them was.
    probed: Instant,
    /// What was not heard before this proves nothing.
    excused: Instant,
}

impl Hearing {
    pub fn new(now: Instant) -> Hearing {
        Hearing { started: now, last: None, probes: 0, probed: now, excused: Instant::START }
    }

    /// All silence begins now. O(1), whatever the number of executors: each of them asks for
    /// [`Hearing::excused`] when its own silence would be over.
    pub fn excuse(&mut self, now: Instant) {
        self.excused = now;
    }

    /// No silence counts from before this.
    pub fn excused(&self) -> Instant {
        self.excused
    }

    /// Some executor gave a sign of life. Whether nobody had been heard before.
    pub fn heard(&mut self, now: Instant) -> bool {
        self.last = Some(now);
        std::mem::take(&mut self.probes) > 0
    }

    /// Was anybody heard within the timeout?
    pub fn hears(&self, now: Instant, spec: &HeartbeatSpec) -> bool {
        self.last.is_some_and(|last| now.since_ms(last) <= spec.timeout_ms)
    }

    /// Nobody is heard, and giving up more executors would not help.
    pub fn is_broken(&self) -> bool {
        self.probes > 0
    }

    /// May a silent executor be given up? `Err`: not before then. While nobody is heard, `Ok` is said
    /// ever more rarely.
    ///
    /// `probe`: may one be given up to find out, where nobody is heard?
    pub fn may_give_up(&mut self, now: Instant, spec: &HeartbeatSpec, probe: bool) -> Result<(), Instant> {
        let grace_ends = self.started + 2 * spec.interval_ms;
        if now < grace_ends {
            return Err(grace_ends);
        }
        if self.hears(now, spec) {
            return Ok(());
        }
        let last = self.last.unwrap_or(self.started);
        // Twice the timeout since anybody was heard, then twice as long since the last try.
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

/// What may have been lost on our side, for people to see: the account of impairments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Impairments {
    /// Of each kind, as in [`Impairment::ALL`]: since this host leads, and since the episode began.
    told: [u64; Impairment::ALL.len()],
    lately: [u64; Impairment::ALL.len()],
    /// The first and the last of an episode.
    episode: Option<(Instant, Instant)>,
}

impl Impairments {
    /// Some sign may have been lost. Whether an episode begins with it.
    pub fn told(&mut self, why: Impairment, now: Instant) -> bool {
        let begins = self.episode.is_none();
        if begins {
            self.lately = Default::default();
        }
        self.told[why as usize] += 1;
        self.lately[why as usize] += 1;
        self.episode = Some((self.episode.map_or(now, |(since, _)| since), now));
        begins
    }

    /// An episode lasts until no silence is excused by it any more: for a timeout after its last impairment.
    pub fn ends_at(&self, spec: &HeartbeatSpec) -> Option<Instant> {
        self.episode.map(|(_, last)| last + spec.timeout_ms + 1)
    }

    /// Ends the episode, if its time has come. How long it was.
    pub fn end(&mut self, now: Instant, spec: &HeartbeatSpec) -> Option<u64> {
        let (since, _) = self.episode.take_if(|(_, last)| *last + spec.timeout_ms < now)?;
        Some(now.since_ms(since))
    }

    /// Since when hearing is impaired, while it is.
    pub fn since(&self) -> Option<Instant> {
        self.episode.map(|(since, _)| since)
    }

    /// How often it was impaired by this since the host leads.
    pub fn count(&self, why: Impairment) -> u64 {
        self.told[why as usize]
    }

    /// The kinds of this episode, and how often each: "refused 3 times, paused once".
    pub fn words(&self) -> String {
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
        let mut detector = Detector::new(at(1_000));
        assert_eq!(detector.silent_at(&SPEC, at(0)), at(1_101));
        assert_eq!(detector.last_heard(), None);
        detector.heard(at(1_050));
        assert_eq!(detector.silent_at(&SPEC, at(0)), at(1_151));
        assert_eq!(detector.last_heard(), Some(at(1_050)));
    }

    #[test]
    fn late_and_repeated_signs_change_nothing() {
        let mut detector = Detector::new(at(0));
        detector.heard(at(80));
        detector.heard(at(80));
        detector.heard(at(30));
        assert_eq!(detector.silent_at(&SPEC, at(0)), at(181));
    }

    #[test]
    fn what_is_excused_does_not_count_and_is_not_forgotten() {
        let mut detector = Detector::new(at(0));
        detector.heard(at(50));
        assert_eq!(detector.silent_at(&SPEC, at(120)), at(221));
        assert_eq!(detector.last_heard(), Some(at(50)));
        detector.heard(at(150));
        assert_eq!(detector.silent_at(&SPEC, at(120)), at(251));
    }

    #[test]
    fn while_hearing_is_impaired_no_executor_is_given_up_to_find_out() {
        let mut hearing = Hearing::new(at(0));
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
        let mut hearing = Hearing::new(at(500));
        hearing.heard(at(505));
        assert_eq!(hearing.may_give_up(at(519), &SPEC, true), Err(at(520)));
        assert_eq!(hearing.may_give_up(at(520), &SPEC, true), Ok(()));
    }

    #[test]
    fn while_somebody_is_heard_the_silent_are_given_up() {
        let mut hearing = Hearing::new(at(0));
        hearing.heard(at(1_000));
        for _ in 0..3 {
            assert_eq!(hearing.may_give_up(at(1_100), &SPEC, true), Ok(()));
        }
        assert!(!hearing.is_broken());
    }

    #[test]
    fn when_nobody_is_heard_one_is_given_up_to_find_out() {
        let mut hearing = Hearing::new(at(0));
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
        let mut hearing = Hearing::new(at(0));
        assert_eq!(hearing.may_give_up(at(150), &SPEC, true), Err(at(201)));
        assert_eq!(hearing.may_give_up(at(201), &SPEC, true), Ok(()));
        assert_eq!(hearing.may_give_up(at(202), &SPEC, true), Err(at(602)));
    }
}
