//! The only source of chance, so that a seed can replace it.
//!
//! `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014): the state is a counter that grows by a constant. So
//! threads share a seeded generator by one atomic addition, and a look at the next draw is one load.

use std::cell::Cell;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};

use rand::rngs::SysRng;
use rand::{RngExt, TryRng};

use super::fork::forks;
use super::sync::atomic::{AtomicU64, Ordering};

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

thread_local! {
    /// The state of this thread's generator, and the number of forks when it was seeded. A child inherits its
    /// parent's generators. Workers that draw alike would all pick the same deployments.
    static THREAD: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// A source of random draws, for any number of threads.
///
/// ```
/// use turnout::{Rng, RoutingContext, strategy::weighted_random};
///
/// let contexts = [RoutingContext::new("a"), RoutingContext::new("b")];
/// let picks = |seed| weighted_random(&contexts, &Rng::new(Some(seed)));
/// assert_eq!(picks(7), picks(7));
/// ```
#[derive(Debug)]
pub struct Rng(Source);

#[derive(Debug)]
enum Source {
    Seeded(AtomicU64),
    /// One generator a thread, seeded by the system. Threads share nothing, so they do not slow each other
    /// down.
    Thread,
}

impl Rng {
    /// Makes a source that a seed makes repeatable. Without a seed, the system seeds it.
    #[must_use]
    pub fn new(seed: Option<u64>) -> Self {
        Self(seed.map_or(Source::Thread, |seed| Source::Seeded(AtomicU64::new(seed))))
    }

    /// Draws from `0..n`. `n` must not be 0; if it is, the answer is 0.
    #[inline]
    pub(crate) fn below(&self, n: u64) -> u64 {
        match &self.0 {
            Source::Seeded(state) => uniform(n, || mix(state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA))),
            Source::Thread => with_thread_state(|state| uniform(n, || step(state))),
        }
    }

    /// Returns what [`Rng::below`] will draw next, if no other thread draws in between.
    pub(crate) fn peek_below(&self, n: u64) -> u64 {
        let mut state = match &self.0 {
            Source::Seeded(state) => state.load(Ordering::Relaxed),
            Source::Thread => with_thread_state(|state| *state),
        };
        uniform(n, || step(&mut state))
    }
}

impl Default for Rng {
    fn default() -> Self {
        Self::new(None)
    }
}

fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_add(GAMMA);
    mix(*state)
}

fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn uniform(n: u64, next: impl FnMut() -> u64) -> u64 {
    if n == 0 { 0 } else { Words(next).random_range(0..n) }
}

/// Calls `with` with the state of this thread's generator.
#[inline]
fn with_thread_state<R>(with: impl FnOnce(&mut u64) -> R) -> R {
    let forks = forks();
    THREAD.with(|cell| {
        let mut state = match cell.get() {
            Some((state, seeded_at)) if seeded_at == forks => state,
            _ => system_seed(),
        };
        let result = with(&mut state);
        cell.set(Some((state, forks)));
        result
    })
}

#[cold]
fn system_seed() -> u64 {
    // Without entropy from the system the hasher's keys are the next best thing.
    SysRng.try_next_u64().unwrap_or_else(|_| RandomState::new().hash_one(GAMMA))
}

/// Lets rand's distributions draw from a function.
struct Words<F>(F);

impl<F: FnMut() -> u64> TryRng for Words<F> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        #[allow(clippy::cast_possible_truncation)] // the high half
        Ok(((self.0)() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok((self.0)())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = (self.0)().to_le_bytes();
            chunk.iter_mut().zip(word).for_each(|(byte, drawn)| *byte = drawn);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::PoisonError;

    use super::*;
    use crate::base::fork::note_fork;
    use crate::base::fork::tests::FORKING;

    #[test]
    fn a_peek_shows_the_next_draw_and_leaves_it() {
        for rng in [Rng::new(Some(7)), Rng::new(None)] {
            for n in [1, 2, 3, 1000, u64::MAX] {
                let peeked = rng.peek_below(n);
                assert_eq!(rng.peek_below(n), peeked);
                assert_eq!(rng.below(n), peeked);
            }
        }
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let draws = |seed| {
            let rng = Rng::new(Some(seed));
            (0..50).map(|_| rng.below(1 << 40)).collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn a_fork_seeds_the_thread_anew() {
        let _forking = FORKING.write().unwrap_or_else(PoisonError::into_inner);
        let rng = Rng::new(None);
        rng.below(10);
        let next = rng.peek_below(u64::MAX);
        note_fork();
        assert_ne!(rng.below(u64::MAX), next);
    }

    #[test]
    fn draws_are_uniform() {
        let rng = Rng::new(Some(42));
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[usize::try_from(rng.below(10)).unwrap()] += 1;
        }
        // Five standard deviations of a binomial with n = 100,000 and p = 0.1.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 475), "{counts:?}");
    }
}
