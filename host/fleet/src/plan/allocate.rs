//! How many executors to create now, each exactly once.
//!
//! Each step compares the serving executors with the target, and creates the difference as far as every limit
//! allows. Creates are not queued; an executor that could not be created now is simply still missing in the
//! next step. So one pod that never starts, one create that fails, or one delete that is refused takes one
//! place and does not block other executors: SAR stopped creating executors while a single one was pending, and
//! permanently after a create that threw an exception.

use crate::breaker::Breaker;
use crate::bucket::Bucket;
use crate::env::Env;
use crate::executor::Tally;
use crate::guardrail::{Bounds, Refusal};
use crate::id::ExecutorId;
use crate::injected_bug::InjectedBug;
use crate::pace::Pace;
use crate::time::Instant;

/// How many executors should serve: a roll in progress wants one more, as far as surge allows.
pub(crate) fn wanted(tally: &Tally, bounds: &Bounds, env: Env<'_>) -> u32 {
    let target = bounds.target.saturating_add(tally.uncounted(env.bugs));
    target.saturating_add(tally.rolling.min(bounds.surge))
}

/// How many ids to reserve: at least half a batch is kept ready, so that a loss is answered in the step that detects
/// it.
pub(crate) fn ids_to_reserve(missing: u32, ahead: u64, env: Env<'_>) -> u64 {
    let batch = u64::from(env.spec.allocation.batch_size);
    if ahead < batch.div_ceil(2).max(u64::from(missing).min(batch)) { batch - ahead } else { 0 }
}

/// Everything that limits creates.
pub(crate) struct Limits<'a> {
    pub tally: Tally,
    pub bounds: Bounds,
    /// The state of the fleet as a whole: paused, failed, without a driver.
    pub fleet: Result<(), Refusal>,
    pub rates: Rates<'a>,
}

/// The limits that end by time.
#[derive(Clone, Copy)]
pub(crate) struct Rates<'a> {
    pub pace: &'a Pace,
    pub breaker: &'a Breaker,
    pub creates: &'a Bucket,
}

/// The creates that are permitted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Creates {
    pub count: u32,
    /// Why there are no more of them, if executors are still missing.
    pub held: Option<Refusal>,
}

/// How many of the missing executors may be created now?
pub(crate) fn creates(missing: u32, limits: &Limits<'_>, env: Env<'_>) -> Creates {
    let allocation = &env.spec.allocation;
    let (mut tally, mut breaker, mut bucket) =
        (limits.tally, limits.rates.breaker.clone(), *limits.rates.creates);
    let mut count = 0;
    while count < missing {
        let may = limits.fleet.and_then(|()| may_create(&tally, limits, &breaker, &bucket, env));
        if let Err(refusal) = may {
            return Creates { count, held: Some(refusal) };
        }
        count += 1;
        tally.creating += 1;
        tally.pending += 1;
        tally.occupying += 1;
        breaker.created(ExecutorId(0), env.now.instant);
        bucket.take(env.now.instant, allocation.batch_size, allocation.batch_delay_ms);
    }
    Creates { count, held: None }
}

/// May one more executor be created?
fn may_create(
    tally: &Tally,
    limits: &Limits<'_>,
    breaker: &Breaker,
    bucket: &Bucket,
    env: Env<'_>,
) -> Result<(), Refusal> {
    let (now, bounds, allocation) = (env.now.instant, &limits.bounds, &env.spec.allocation);
    if tally.occupying - tally.uncounted(env.bugs) >= bounds.ceiling() {
        return Err(Refusal::MaxSurge);
    }
    if tally.occupying + tally.terminating >= bounds.ceiling().saturating_add(bounds.terminating) {
        return Err(Refusal::MaxTerminating);
    }
    if tally.pending >= allocation.max_pending_pods {
        return Err(Refusal::MaxPending);
    }
    if limits.rates.pace.permits(tally.creating, now) == 0 {
        return Err(Refusal::SlowStart);
    }
    if breaker.permits(now) == 0 {
        return Err(Refusal::BreakerOpen);
    }
    if env.has_bug(InjectedBug::NoRateLimit) {
        return Ok(());
    }
    if bucket.level(now, allocation.batch_size, allocation.batch_delay_ms) == 0 {
        return Err(Refusal::RateLimit);
    }
    Ok(())
}

/// When the limit that holds creation back ends, if it ends by time. `driver_starts`: until when executors wait for
/// the driver.
pub(crate) fn deadline(
    held: Option<Refusal>,
    driver_starts: impl FnOnce() -> Option<Instant>,
    rates: Rates<'_>,
    env: Env<'_>,
) -> Option<Instant> {
    let (now, allocation) = (env.now.instant, &env.spec.allocation);
    match held {
        None => rates.breaker.deadline().filter(|at| *at > now),
        Some(Refusal::RateLimit) => {
            Some(rates.creates.next(allocation.batch_size, allocation.batch_delay_ms))
        }
        Some(Refusal::SlowStart) => Some(rates.pace.not_before).filter(|at| *at > now),
        Some(Refusal::BreakerOpen) => rates.breaker.deadline(),
        Some(Refusal::DriverStarting) => driver_starts(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Seed;
    use crate::fixtures::{World, at, world};

    /// A fleet of 100 that has nothing yet, and what limits its creates.
    struct Fixture {
        world: World,
        tally: Tally,
        fleet: Result<(), Refusal>,
        pace: Pace,
        breaker: Breaker,
    }

    impl Fixture {
        fn new() -> Fixture {
            let world = world(100);
            let (pace, breaker) = (Pace::new(&world.spec.allocation), Breaker::new(&world.spec.allocation));
            Fixture { world, tally: Tally::default(), fleet: Ok(()), pace, breaker }
        }

        fn plan(&self, missing: u32) -> (u32, Option<Refusal>) {
            let limits = Limits {
                tally: self.tally,
                bounds: Bounds::new(&self.world.spec, 100),
                fleet: self.fleet,
                rates: Rates { pace: &self.pace, breaker: &self.breaker, creates: &Bucket::new() },
            };
            let Creates { count, held } = creates(missing, &limits, self.world.env());
            (count, held)
        }
    }

    #[test]
    fn creates_are_planned_up_to_the_first_limit() {
        let mut fleet = Fixture::new();
        assert_eq!(fleet.plan(5), (5, None));
        assert_eq!(fleet.plan(100), (20, Some(Refusal::RateLimit)), "one batch");
        fleet.tally.occupying = 122;
        assert_eq!(fleet.plan(5), (3, Some(Refusal::MaxSurge)));
        fleet.tally.terminating = 101;
        assert_eq!(fleet.plan(5), (2, Some(Refusal::MaxTerminating)));
        fleet.fleet = Err(Refusal::Paused);
        assert_eq!(fleet.plan(5), (0, Some(Refusal::Paused)));
    }

    #[test]
    fn an_open_breaker_permits_one_probe() {
        let mut fleet = Fixture::new();
        for id in 0..5 {
            fleet.breaker.failed(ExecutorId(id), at(1), 5, &mut Seed::new(1));
        }
        assert_eq!(fleet.plan(5), (0, Some(Refusal::BreakerOpen)), "its wait is not over");
        fleet.world.now = at(100);
        assert_eq!(fleet.plan(5), (1, Some(Refusal::BreakerOpen)));
        assert_eq!(fleet.plan(5), (1, Some(Refusal::BreakerOpen)), "a plan changes nothing");
    }

    #[test]
    fn after_an_error_creates_start_slowly() {
        let mut fleet = Fixture::new();
        fleet.pace.restart();
        assert_eq!(fleet.plan(5), (1, Some(Refusal::SlowStart)));
    }

    #[test]
    fn a_roll_wants_one_more_as_far_as_surge_allows() {
        let world = world(4);
        let bounds = Bounds::new(&world.spec, 4);
        let rolling = |rolling| wanted(&Tally { rolling, ..Tally::default() }, &bounds, world.env());
        assert_eq!((rolling(0), rolling(1), rolling(3)), (4, 5, 5));
    }

    #[test]
    fn half_a_batch_of_ids_is_kept_ready() {
        let world = world(4);
        assert_eq!(ids_to_reserve(0, 10, world.env()), 0);
        assert_eq!(ids_to_reserve(0, 9, world.env()), 11);
        assert_eq!(ids_to_reserve(12, 10, world.env()), 10, "more than that are missing");
    }
}
