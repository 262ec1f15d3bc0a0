//! The summary of the rules that take the least of something, ties to the first.

use super::{Outcome, Position};

/// The least key and where it is first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FirstLeast<K>(Option<(K, Position)>);

impl<K> Default for FirstLeast<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialOrd + Copy> FirstLeast<K> {
    #[inline]
    pub(crate) fn of(position: Position, key: K) -> Self {
        Self(Some((key, position)))
    }

    #[inline]
    pub(crate) fn join(self, right: Self) -> Self {
        match (self.0, right.0) {
            (Some((left, _)), Some((key, _))) if key < left => right,
            (None, _) => right,
            _ => self,
        }
    }

    pub(crate) fn get(&self) -> Option<(K, Position)> {
        self.0
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.0.map_or(Outcome::Nobody, |(_, position)| Outcome::At(position))
    }
}
