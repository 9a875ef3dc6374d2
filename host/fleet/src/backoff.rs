//! How long to wait before the next try: doubling from a first to a last wait, with jitter.
//!
//! Jitter subtracts up to a quarter, so that fleets that failed together do not retry together. Like all
//! randomness it is drawn from the fleet's seed.

/// The delays between tries of one operation.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first_ms: u64,
    last_ms: u64,
    tries: u32,
}

impl Backoff {
    pub(crate) const fn new(first_ms: u64, last_ms: u64) -> Backoff {
        Backoff { first_ms, last_ms, tries: 0 }
    }

    /// How many tries failed since the last success.
    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    /// A try failed: how long until the next one.
    pub(crate) fn failed_ms(&mut self, seed: &mut Seed) -> u64 {
        let doubled = self.first_ms.saturating_mul(1 << self.tries.min(30));
        self.tries = self.tries.saturating_add(1);
        let wait_ms = doubled.min(self.last_ms);
        wait_ms - seed.below(wait_ms / 4 + 1)
    }

    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

/// The core's only randomness: SplitMix64. Chosen because it is four lines and its sequence never changes;
/// nothing here has to be unpredictable.
#[derive(Clone, Debug)]
pub struct Seed(u64);

impl Seed {
    /// The same number gives the same sequence.
    pub const fn new(seed: u64) -> Seed {
        Seed(seed)
    }

    /// The next number of the sequence, from the whole range.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.draw() % end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_last_less_at_most_a_quarter() {
        let mut seed = Seed::new(1);
        let mut backoff = Backoff::new(10_000, 360_000);
        for full_ms in [10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 360_000, 360_000] {
            let wait_ms = backoff.failed_ms(&mut seed);
            assert!((full_ms * 3 / 4..=full_ms).contains(&wait_ms), "{wait_ms} for {full_ms}");
        }
        backoff.reset();
        assert!(backoff.failed_ms(&mut seed) <= 10_000);
        let mut endless = Backoff::new(1, u64::MAX);
        (0..100).for_each(|_| assert!(endless.failed_ms(&mut seed) <= 1 << 30));
    }

    /// The sequence is part of what a seed means: it must never change.
    #[test]
    fn the_sequence_is_splitmix64s() {
        let mut seed = Seed::new(1_234_567);
        assert_eq!(seed.draw(), 6_457_827_717_110_365_317);
        assert_eq!(seed.draw(), 3_203_168_211_198_807_973);
    }
}
