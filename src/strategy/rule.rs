//! How a strategy picks.

use super::candidate::Candidate;
use super::chance::{Chance, Choice, Step};
use crate::base::position::Position;
use crate::facts::Size;

/// How a strategy picks.
///
/// Its summaries are a monoid: `Default` is the summary of no candidate, and `join` is associative. If the
/// join of a sum with a range on its right does not change the sum, then no part of that range would change
/// it. So an index need not look into that range.
pub(crate) trait Rule: Sized {
    /// The data that are kept of a candidate. They are no more than the rule looks at, since there may be
    /// very many candidates.
    type Leaf: std::fmt::Debug + Copy + PartialEq + Send;

    /// The summary that is kept of a range of candidates.
    type Summary: std::fmt::Debug + Copy + Default + PartialEq + Send;

    /// The name of [`Rule::score`], in words.
    const SCORE: &'static str;

    /// Whether the join with a range on the right often leaves a sum as it is. The index then compares the
    /// sum of a range before it descends into it.
    const ABSORBS: bool = false;

    /// Whether candidates have shares of many sizes. This changes only the speed of an index's search for the
    /// candidate that was drawn.
    const SHARES_VARY: bool = false;

    /// Whether the fair shares of candidates follow their weights. Otherwise all fair shares are the same.
    const FOLLOWS_WEIGHTS: bool = false;

    /// Looks at a candidate.
    fn leaf(candidate: &impl Candidate) -> Self::Leaf;

    /// Sums up one candidate.
    fn sum_up(position: Position, leaf: Self::Leaf) -> Self::Summary;

    /// Sums up two ranges. `left` is the earlier one.
    fn join(left: &Self::Summary, right: &Self::Summary) -> Self::Summary;

    /// Returns the summary of a range in which the part `old` has become `new`; None if it does not follow
    /// from these alone.
    fn replaced(_whole: &Self::Summary, _old: &Self::Summary, _new: &Self::Summary) -> Option<Self::Summary> {
        None
    }

    /// Returns the summary for a request of some size. A rule that looks at the request reads
    /// [`Rule::choice`], [`Rule::share`], [`Rule::score`] and [`Rule::probability`] off such a summary of the
    /// whole. What is narrowed for one size is joined only with what is narrowed for the same.
    #[inline]
    fn narrow(summary: Self::Summary, _size: Size) -> Self::Summary {
        summary
    }

    /// Returns the choice that follows from the summary of all candidates.
    fn choice(summary: &Self::Summary) -> Choice;

    /// Picks a candidate; None if there is none. By default it makes the choice of the whole summary, and
    /// finds the candidate if that asks for a draw. A rule that is no monoid does more: it draws candidates,
    /// finds them and compares their leaves.
    #[inline]
    fn choose(view: &impl View<Self>, chance: &Chance<'_>) -> Option<Position> {
        let whole = Self::narrow(view.whole(), chance.size);
        match chance.step(Self::choice(&whole)) {
            Step::Done(picked) => picked,
            Step::Find(left) => view.find(&whole, left),
        }
    }

    /// Returns the share of a range. It depends on the choice:
    ///
    /// | choice of the whole | share of a range |
    /// |---|---|
    /// | [`Choice::Draw`] | its part of the total |
    /// | [`Choice::Turn`] | the number of its candidates |
    /// | [`Choice::Only`] | 1 if it holds the only candidate, 0 if not |
    fn share(_whole: &Self::Summary, _part: &Self::Summary) -> u64 {
        0
    }

    /// Returns the share that each of the `count` candidates of `part` has, if all have the same; None if
    /// they have not, or if that is not known. An index then need not look at each of them.
    fn equal_share(_whole: &Self::Summary, _part: &Self::Summary, _count: usize) -> Option<u64> {
        None
    }

    /// Tells whether the rule looks at a candidate at all.
    fn competes(_whole: &Self::Summary, _candidate: &impl Candidate) -> bool {
        true
    }

    /// Returns what the rule compares, for people to read.
    fn score(whole: &Self::Summary, candidate: &impl Candidate) -> f64;

    /// Returns the probability that the candidate at `position` is picked. A turn is certain: the candidate
    /// that is picked has probability 1.
    #[allow(clippy::cast_precision_loss)] // for people to read
    fn probability(whole: &Self::Summary, picked: Option<Position>, position: Position, candidate: &impl Candidate) -> f64 {
        match Self::choice(whole) {
            Choice::Draw { total } => Self::share(whole, &Self::sum_up(position, Self::leaf(candidate))) as f64 / total as f64,
            Choice::Nobody | Choice::At(_) | Choice::Only | Choice::Turn { .. } => f64::from(u8::from(picked == Some(position))),
        }
    }
}

/// The candidates as a rule sees them when it chooses: an index's tree, or a walk over the members.
pub(crate) trait View<R: Rule> {
    /// Returns the summary of all candidates.
    fn whole(&self) -> R::Summary;

    /// Returns the candidate whose share of `whole` the number `left` falls into. Shares are counted from the
    /// first candidate.
    fn find(&self, whole: &R::Summary, left: u64) -> Option<Position>;

    /// Returns what is kept of the candidate at a position; None if no candidate is there.
    #[cfg_attr(not(test), expect(dead_code, reason = "for rules that compare candidates, which are no monoid"))]
    fn leaf(&self, position: Position) -> Option<R::Leaf>;
}
