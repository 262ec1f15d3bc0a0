//! The summary of the rules that take the least of something, ties to the first.

use super::chance::Choice;
use crate::base::position::Position;

/// The least key and where it is first, in one number: the high bits are the key, the low bits are the place.
/// So the least number is the first least, found without a branch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FirstLeast(u128);

impl Default for FirstLeast {
    /// Makes the summary of nobody.
    fn default() -> Self {
        Self(u128::MAX)
    }
}

impl FirstLeast {
    /// Makes the summary of one candidate. The key must be below 2^96 - 1.
    #[inline]
    pub(crate) fn of(position: Position, key: u128) -> Self {
        Self(key << Position::BITS | u128::from(position))
    }

    #[inline]
    pub(crate) fn join(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// Does what [`Rule::replaced`](super::Rule::replaced) says.
    #[inline]
    pub(crate) fn replaced(self, old: Self, new: Self) -> Option<Self> {
        if new.0 <= self.0 {
            Some(new)
        } else if old == self {
            None
        } else {
            Some(self)
        }
    }

    pub(crate) fn get(self) -> Option<(u128, Position)> {
        // The low bits are the place.
        #[allow(clippy::cast_possible_truncation)]
        (self.0 != u128::MAX).then_some((self.0 >> Position::BITS, self.0 as Position))
    }

    pub(crate) fn choice(self) -> Choice {
        self.get().map_or(Choice::Nobody, |(_, position)| Choice::At(position))
    }
}
