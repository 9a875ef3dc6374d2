//! Time is an input, never read from a clock.
//!
//! There are two clocks, and they are never compared with each other. Deadlines and timeouts use the *monotonic*
//! clock, so that a wall clock that jumps changes none of them. The *wall* clock is for what people define by it
//! or what has to survive a restart: roll windows, the failures of the last hours in the ledger, the age of a pod
//! from its `creationTimestamp`, questions to policies, and records for users.

use std::fmt;
use std::ops::{Add, Sub};

/// A moment on the host's monotonic clock: milliseconds since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// When the clock began: no moment is earlier.
    pub const START: Instant = Instant(0);
    /// Later than anything that will happen.
    pub const NEVER: Instant = Instant(u64::MAX);

    /// The moment this many milliseconds after [`Instant::START`].
    pub const fn from_ms(ms: u64) -> Instant {
        Instant(ms)
    }

    /// Milliseconds since [`Instant::START`].
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// Milliseconds from `earlier` until this moment; 0 when it is not earlier.
    pub const fn since_ms(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Instant {
    type Output = Instant;

    fn add(self, ms: u64) -> Instant {
        Instant(self.0.saturating_add(ms))
    }
}

impl Sub<u64> for Instant {
    type Output = Instant;

    fn sub(self, ms: u64) -> Instant {
        Instant(self.0.saturating_sub(ms))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1000, self.0 % 1000)
    }
}

/// Both clocks, read together by the owner of the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock: for deadlines, timeouts and rates.
    pub instant: Instant,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: i64,
}
