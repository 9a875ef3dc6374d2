//! Who gives way when senders share a limit and it is reached.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;

/// Of the holder that holds most, the oldest: how much that holder has, and the age of the victim, the smallest of
/// its own.
///
/// Each of `held` has a holder, an amount and an age, which is unique and smallest for the oldest. The newcomer's
/// amount counts, although it is not evicted. Scans all: for limits of some hundred.
pub fn greediest<H: Eq + Hash, Age: Copy + Ord>(
    held: impl Iterator<Item = (H, usize, Age)> + Clone,
    newcomer: Option<(H, usize)>,
) -> Option<(usize, Age)> {
    let mut sums: HashMap<H, usize> = newcomer.into_iter().collect();
    held.clone().for_each(|(holder, amount, _)| *sums.entry(holder).or_default() += amount);
    let candidates = held.map(|(holder, _, age)| (sums.get(&holder).copied().unwrap_or(0), age));
    candidates.min_by_key(|(sum, age)| (Reverse(*sum), *age))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_the_holder_with_most_is_chosen() {
        let held = [("a", 1, 1), ("b", 2, 3), ("b", 2, 2), ("c", 3, 4)];
        assert_eq!(greediest(held.into_iter(), None), Some((4, 2)));
        assert_eq!(greediest(held.into_iter(), Some(("c", 2))), Some((5, 4)), "the newcomer is of c");
        assert_eq!(greediest(held.into_iter(), Some(("c", 1))), Some((4, 2)), "of equal ones, the oldest");
        assert_eq!(greediest(held[..0].iter().copied(), Some(("d", 9))), None);
    }
}
