//! The best few of many, without sorting the rest.

use std::cmp::Ordering;

use rollcall_policy::Fleet;

/// Who wins among equals.
#[derive(Clone, Copy)]
pub(crate) enum Tie {
    /// The first listed: the head of a stable ascending sort.
    First,
    /// The last listed: the head of a stable ascending sort, reversed.
    Last,
}

/// The `picks_max` best candidates, best first. `better` orders two rows: `Greater` when the first
/// is the better one.
pub(crate) fn best(
    fleet: &Fleet,
    tie: Tie,
    better: impl Fn(usize, usize) -> Ordering,
) -> impl Iterator<Item = usize> {
    best_of(0..fleet.len(), fleet.picks_max as usize, tie, better).into_iter()
}

/// As [`best`], of some candidates, listed in ascending order.
pub(crate) fn best_of(
    rows: impl Iterator<Item = usize>,
    count: usize,
    tie: Tie,
    better: impl Fn(usize, usize) -> Ordering,
) -> Vec<usize> {
    let beats = |challenger, holder| match better(challenger, holder) {
        Ordering::Greater => true,
        Ordering::Equal => matches!(tie, Tie::Last),
        Ordering::Less => false,
    };
    let mut best: Vec<usize> = Vec::new();
    for row in rows {
        let full = best.len() == count;
        if full && !best.last().is_some_and(|&last| beats(row, last)) {
            continue;
        }
        if full {
            best.pop();
        }
        let place = best.partition_point(|&holder| !beats(row, holder));
        best.insert(place, row);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[i32], tie: Tie, expected: &[usize]) {
        for count in 0..=values.len() + 1 {
            let found = best_of(0..values.len(), count, tie, |a, b| values[a].cmp(&values[b]));
            assert_eq!(found, expected[..count.min(expected.len())], "best {count} of {values:?}");
        }
    }

    #[test]
    fn the_best_come_first_and_ties_go_as_told() {
        check(&[3, 1, 3, 2], Tie::First, &[0, 2, 3, 1]);
        check(&[3, 1, 3, 2], Tie::Last, &[2, 0, 3, 1]);
        check(&[7, 7, 7], Tie::First, &[0, 1, 2]);
        check(&[7, 7, 7], Tie::Last, &[2, 1, 0]);
        check(&[], Tie::Last, &[]);
    }
}
