//! Random numbers from a seed.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

#[derive(Debug)]
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number from `first` to `last`, inclusive.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.0.next_u64() % (last.saturating_sub(first) + 1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(0, 99) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let last = (from.len() as u64).checked_sub(1)?;
        from.get(usize::try_from(self.between(0, last)).ok()?)
    }
}
