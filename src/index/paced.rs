//! Members in slow start.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::base::position::Position;

/// The places of members in slow start, and the picks of their group that they wait for.
#[derive(Debug, Default)]
pub(super) struct Paced {
    /// The pick that each of them waits for; the largest number if it is a candidate now.
    due: FxHashMap<Position, u64>,
    by_pick: BTreeSet<(u64, Position)>,
}

impl Paced {
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Notes the pick that a member waits for; None if it is in no slow start.
    #[cold]
    pub(super) fn set(&mut self, position: Position, due: Option<u64>) {
        let old = match due {
            Some(due) => self.due.insert(position, due),
            None => self.due.remove(&position),
        };
        if let Some(old) = old {
            self.by_pick.remove(&(old, position));
        }
        self.by_pick.extend(due.map(|due| (due, position)));
    }

    /// Returns the member that waits for the earliest pick, if that is no later than `picks`.
    pub(super) fn first_due(&self, picks: u64) -> Option<Position> {
        self.by_pick.first().filter(|&&(due, _)| due <= picks).map(|&(_, position)| position)
    }

    /// Returns the places of all members in slow start.
    pub(super) fn all(&self) -> Vec<Position> {
        self.due.keys().copied().collect()
    }

    pub(super) fn clear(&mut self) {
        self.by_pick.clear();
        self.due.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_for_the_pick_that_was_noted_last() {
        let mut paced = Paced::default();
        for (position, due) in [(1, Some(30)), (2, Some(10)), (3, Some(20)), (1, Some(11)), (3, None), (4, None)] {
            paced.set(position, due);
        }
        assert_eq!([paced.first_due(9), paced.first_due(10)], [None, Some(2)]);
        paced.set(2, Some(u64::MAX));
        assert_eq!([paced.first_due(10), paced.first_due(11)], [None, Some(1)]);
        paced.set(1, None);
        assert_eq!((paced.first_due(u64::MAX - 1), paced.all()), (None, vec![2]));
        paced.clear();
        assert!(paced.is_empty());
    }
}
