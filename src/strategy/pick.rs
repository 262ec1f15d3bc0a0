//! A walk over candidates: the pick of a rule where no index knows the candidates.

use super::candidate::Candidate;
use super::chance::Chance;
use super::rule::{Rule, View};
use crate::base::position::Position;
use crate::base::rng::Rng;
use crate::base::sync::atomic::AtomicU64;
use crate::facts::{Request, Size};

/// Candidates in registration order, and their summary. They can be walked over again.
pub(crate) struct Candidates<R: Rule, F> {
    whole: R::Summary,
    again: F,
}

impl<R, F, I, C> Candidates<R, F>
where
    R: Rule,
    F: Fn() -> I,
    I: Iterator<Item = (Position, C)>,
    C: Candidate,
{
    /// Sums up candidates for a request of some size. `again` walks over the same ones once more.
    #[inline]
    pub(crate) fn new(candidates: impl Iterator<Item = (Position, C)>, again: F, size: Size) -> Self {
        let leaves = candidates.map(|(position, candidate)| R::narrow(R::sum_up(position, R::leaf(&candidate)), size));
        let whole = leaves.fold(R::Summary::default(), |summary, leaf| R::join(&summary, &leaf));
        Self { whole, again }
    }
}

impl<R, F, I, C> View<R> for Candidates<R, F>
where
    R: Rule,
    F: Fn() -> I,
    I: Iterator<Item = (Position, C)>,
    C: Candidate,
{
    #[inline]
    fn whole(&self) -> R::Summary {
        self.whole
    }

    /// Walks a second time. If the shares have become smaller meanwhile, `left` may be beyond the last share.
    /// Then the last candidate is picked.
    #[inline]
    fn find(&self, whole: &R::Summary, mut left: u64) -> Option<Position> {
        let mut last = None;
        for (position, candidate) in (self.again)() {
            let share = R::share(whole, &R::sum_up(position, R::leaf(&candidate)));
            if left < share {
                return Some(position);
            }
            left -= share;
            last = Some(position);
        }
        last
    }

    fn leaf(&self, position: Position) -> Option<R::Leaf> {
        (self.again)().find(|&(other, _)| other == position).map(|(_, candidate)| R::leaf(&candidate))
    }
}

/// Picks from a slice of snapshots.
pub(super) fn pick<R: Rule>(contexts: &[impl Candidate], chance: &Chance<'_>) -> Option<usize> {
    let candidates = || (0..).zip(contexts);
    let picked = R::choose(&Candidates::<R, _>::new(candidates(), candidates, chance.size), chance);
    picked.and_then(|position| usize::try_from(position).ok())
}

/// Picks from a slice of snapshots by a rule that takes no turns.
pub(super) fn pick_drawn<R: Rule>(contexts: &[impl Candidate], rng: &Rng) -> Option<usize> {
    pick::<R>(contexts, &Chance { rng, next_turn: &AtomicU64::new(0), peek: false, size: Size::from(&Request::default()) })
}

/// Picks from a slice of snapshots by a rule that neither draws nor takes turns.
pub(super) fn pick_first<R: Rule>(contexts: &[impl Candidate]) -> Option<usize> {
    pick_drawn::<R>(contexts, &Rng::new(Some(0)))
}
