//! The rules that take the least of some key. Ties go to the first.

use std::marker::PhantomData;

use super::candidate::Candidate;
use super::chance::Choice;
use super::rule::Rule;
use crate::base::position::Position;

/// The value that such a rule compares.
pub(crate) trait Key: std::fmt::Debug {
    /// The data that are kept of a candidate.
    type Leaf: std::fmt::Debug + Copy + PartialEq + Send;

    /// The name of [`Key::score`], in words.
    const SCORE: &'static str;

    /// Looks at a candidate.
    fn leaf(candidate: &impl Candidate) -> Self::Leaf;

    /// Returns the key, below 2^96 - 1. The least one wins.
    fn key(leaf: Self::Leaf) -> u128;

    /// Returns what the rule compares, for people to read.
    fn score(candidate: &impl Candidate) -> f64;
}

/// The rule that takes the least key. Ties go to the first.
#[derive(Debug)]
pub(crate) struct Least<K>(PhantomData<K>);

impl<K: Key> Rule for Least<K> {
    type Leaf = K::Leaf;
    type Summary = FirstLeast;

    const SCORE: &'static str = K::SCORE;
    const ABSORBS: bool = true;

    #[inline]
    fn leaf(candidate: &impl Candidate) -> K::Leaf {
        K::leaf(candidate)
    }

    #[inline]
    fn sum_up(position: Position, leaf: K::Leaf) -> FirstLeast {
        FirstLeast::of(position, K::key(leaf))
    }

    #[inline]
    fn join(left: &FirstLeast, right: &FirstLeast) -> FirstLeast {
        left.join(*right)
    }

    #[inline]
    fn replaced(whole: &FirstLeast, old: &FirstLeast, new: &FirstLeast) -> Option<FirstLeast> {
        whole.replaced(*old, *new)
    }

    #[inline]
    fn choice(summary: &FirstLeast) -> Choice {
        summary.choice()
    }

    fn score(_: &FirstLeast, candidate: &impl Candidate) -> f64 {
        K::score(candidate)
    }
}

/// The least key and the first place that has it, in one number. The high bits are the key, the low bits are
/// the place. So the least number is the first of the least keys, found without a branch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FirstLeast(u128);

impl Default for FirstLeast {
    /// Makes the summary of no candidate.
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
