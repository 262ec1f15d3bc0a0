//! What a rule has beside the candidates: draws, turns, and the size of the request.

use crate::base::position::Position;
use crate::base::rng::Rng;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::facts::Size;

/// The choice that follows from the summary of all candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// There is no candidate.
    Nobody,
    /// The candidate at this place.
    At(Position),
    /// The only candidate that has a share.
    Only,
    /// A candidate at random. The probability of each is its share of the total.
    Draw { total: u64 },
    /// The candidate whose turn it is among `count`.
    Turn { count: u64 },
}

/// What a rule has beside the candidates.
pub(crate) struct Chance<'a> {
    pub(crate) rng: &'a Rng,
    /// The counter of turns.
    pub(crate) next_turn: &'a AtomicU64,
    /// Whether to look at the next draw or turn and leave it.
    pub(crate) peek: bool,
    /// The size of the request.
    pub(crate) size: Size,
}

/// The next step when the summary of all candidates is known.
pub(crate) enum Step {
    /// Nothing: this is the pick.
    Done(Option<Position>),
    /// Find the candidate whose share this number falls into. Shares are counted from the first candidate.
    Find(u64),
}

impl Chance<'_> {
    /// Draws or takes a turn, if the choice asks for it.
    #[inline]
    pub(crate) fn step(&self, choice: Choice) -> Step {
        match choice {
            Choice::Nobody => Step::Done(None),
            Choice::At(position) => Step::Done(Some(position)),
            Choice::Only => Step::Find(0),
            Choice::Draw { total } => Step::Find(self.draw(total)),
            Choice::Turn { count } => Step::Find(self.take_turn(count)),
        }
    }

    /// Draws a number below `total`.
    fn draw(&self, total: u64) -> u64 {
        if self.peek { self.rng.peek_below(total) } else { self.rng.below(total) }
    }

    fn take_turn(&self, count: u64) -> u64 {
        // The counter wraps around after 2^64 picks.
        let turn = if self.peek { self.next_turn.load(Ordering::Relaxed) } else { self.next_turn.fetch_add(1, Ordering::Relaxed) };
        turn.checked_rem(count).unwrap_or(0)
    }
}
