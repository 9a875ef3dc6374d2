//! Every random choice of a run, in one place.
//!
//! [`Choices`] is a sequence of numbers; every random choice takes the next one. The numbers come from ChaCha8,
//! filled from a seed, or from the caller: a fuzzer, or a recorded sequence that is being shrunk. Drawn numbers
//! are recorded, so any failing run can be shrunk: numbers are lowered or removed for as long as the run still
//! fails. For that to work, **0 is the benign choice everywhere**: no fault, the first of the list, the
//! shortest wait. A sequence that has run out is all zeros: no further faults happen.
//!
//! Rejected: a generator per component. The components of a run would no longer influence each other's draws,
//! which keeps runs stable under edits, but many sequences are much harder to shrink than one.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

#[derive(Debug)]
pub struct Choices {
    source: Source,
    drawn: Vec<u32>,
}

#[derive(Debug)]
enum Source {
    Seed(Box<ChaCha8Rng>),
    /// The remaining numbers, the next one last.
    Given(Vec<u32>),
}

impl Choices {
    pub fn from_seed(seed: u64) -> Choices {
        Choices { source: Source::Seed(Box::new(ChaCha8Rng::seed_from_u64(seed))), drawn: Vec::new() }
    }

    /// Replays what [`Choices::drawn`] once returned, or a changed copy of it.
    pub fn from_drawn(mut numbers: Vec<u32>) -> Choices {
        numbers.reverse();
        Choices { source: Source::Given(numbers), drawn: Vec::new() }
    }

    /// Replays bytes, four per choice; an incomplete last choice is padded with zeros.
    pub fn from_bytes(bytes: &[u8]) -> Choices {
        let number = |chunk: &[u8]| {
            chunk.iter().enumerate().fold(0, |number, (at, byte)| number | u32::from(*byte) << (8 * at))
        };
        Choices::from_drawn(bytes.chunks(4).map(number).collect())
    }

    /// Everything drawn so far.
    pub fn drawn(&self) -> &[u32] {
        &self.drawn
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let number = match &mut self.source {
            Source::Seed(rng) => rng.next_u32(),
            Source::Given(numbers) => numbers.pop().unwrap_or(0),
        };
        self.drawn.push(number);
        // Scaled rather than divided, so that a lower number is never a higher choice.
        let choice = (u128::from(number) * u128::from(end)) >> 32;
        u64::try_from(choice).expect("the choice is below `end`")
    }

    /// A number from `first` to `last`, inclusive.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// True this many times in a thousand. 0 is false.
    pub fn chance(&mut self, permille: u32) -> bool {
        // Nothing to decide: a chance of zero uses no number, so there is nothing to shrink either.
        permille > 0 && self.below(1000) >= u64::from(1000 - permille.min(1000))
    }

    /// One of the elements.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            return None;
        }
        let at = self.below(from.len() as u64);
        from.get(usize::try_from(at).expect("an index"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_run_and_what_was_drawn_plays_again() {
        let mut first = Choices::from_seed(7);
        let mut second = Choices::from_seed(7);
        let numbers: Vec<u64> = (0..100).map(|n| first.below(n)).collect();
        assert!(numbers.iter().zip(0..100).all(|(number, end)| *number < end.max(1)));
        assert_eq!(numbers, (0..100).map(|n| second.below(n)).collect::<Vec<_>>());
        let mut again = Choices::from_drawn(first.drawn().to_vec());
        assert_eq!(numbers, (0..100).map(|n| again.below(n)).collect::<Vec<_>>());
        assert_ne!(numbers, (0..100).map(|n| Choices::from_seed(8).below(n)).collect::<Vec<_>>());
    }

    /// The stream is part of what a seed means.
    #[test]
    fn the_stream_is_chacha8s() {
        let mut choices = Choices::from_seed(1);
        let numbers: Vec<u64> = (0..4).map(|_| choices.below(1_000_000)).collect();
        assert_eq!(numbers, [549_378, 402_485, 984_597, 80_383]);
    }

    #[test]
    fn an_exhausted_tape_is_benign() {
        let mut choices = Choices::from_bytes(&[0xff; 5]);
        assert!(choices.chance(1));
        assert_eq!(choices.between(3, 9), 3);
        assert!(!choices.chance(999));
        assert_eq!(choices.pick(&["first", "second"]), Some(&"first"));
        assert!(choices.chance(1000) && !Choices::from_seed(1).chance(0));
    }
}
