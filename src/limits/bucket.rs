//! A bucket that refills continuously: the generic cell rate algorithm (GCRA, ITU-T I.371) on one word.
//!
//! The word is the time at which the bucket will be full again, the algorithm's theoretical arrival time. A unit moves it on by the
//! interval that refills one, so that what is left at any time is one subtraction away, nothing has to be done as time passes, and a
//! reader needs one load.
//!
//! Intervals are whole nanoseconds, rounded up: a bucket is never faster than its limit, and slower by less than one part in
//! (interval in nanoseconds), which is 0.1 % at 60 million a minute.

use crate::clock::Nanos;
use crate::context::Usage;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How fast a bucket refills, and how large it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    interval: Nanos,
    burst: u64,
}

/// The words: when it will be full, and when it was last known to be.
pub(super) const WORDS: usize = 2;
const FULL_AT: usize = 0;
const WAS_FULL_AT: usize = 1;

impl Bucket {
    pub(super) fn new(amount: u64, per: Nanos, burst: u64) -> Self {
        Self { interval: per.div_ceil(amount), burst }
    }

    fn cost(self, units: u64) -> Nanos {
        units.saturating_mul(self.interval)
    }

    fn full_at(words: &[AtomicU64], now: Nanos) -> Nanos {
        load(words, FULL_AT).max(now)
    }

    pub(super) fn left(self, words: &[AtomicU64], now: Nanos) -> u64 {
        self.cost(self.burst).saturating_sub(Self::full_at(words, now) - now) / self.interval
    }

    /// What is used; more than the burst where it was charged afterwards.
    pub(super) fn used(self, words: &[AtomicU64], now: Nanos) -> u64 {
        (Self::full_at(words, now) - now).div_ceil(self.interval)
    }

    /// What is used, rounded up to a hundredth so that it holds for a while, and until when it does.
    pub(super) fn usage(self, words: &[AtomicU64], now: Nanos) -> (Usage, Option<Nanos>) {
        let step = self.burst.div_ceil(100);
        let steps = self.used(words, now).div_ceil(step);
        let usage = Usage { current: steps.saturating_mul(step), limit: Some(self.burst) };
        let less_at = Self::full_at(words, now).saturating_sub(self.cost((steps.saturating_sub(1)).saturating_mul(step)));
        (usage, (steps > 0).then_some(less_at))
    }

    /// When so many units will be left.
    pub(super) fn frees_at(self, words: &[AtomicU64], now: Nanos, units: u64) -> Nanos {
        Self::full_at(words, now).saturating_add(self.cost(units)).saturating_sub(self.cost(self.burst)).max(now)
    }

    /// Takes units out, and returns when.
    pub(super) fn charge(self, words: &[AtomicU64], now: Nanos, units: u64) -> Nanos {
        if load(words, FULL_AT) <= now {
            store(words, WAS_FULL_AT, now);
        }
        store(words, FULL_AT, Self::full_at(words, now).saturating_add(self.cost(units)));
        now
    }

    /// Puts units back that were taken out at a time. What has refilled a full bucket since is made good already.
    pub(super) fn refund(self, words: &[AtomicU64], taken_at: Nanos, units: u64) {
        if load(words, WAS_FULL_AT) <= taken_at {
            store(words, FULL_AT, load(words, FULL_AT).saturating_sub(self.cost(units)));
        }
    }
}

fn load(words: &[AtomicU64], word: usize) -> u64 {
    words.get(word).map_or(0, |word| word.load(Ordering::Relaxed))
}

fn store(words: &[AtomicU64], word: usize, value: u64) {
    if let Some(word) = words.get(word) {
        word.store(value, Ordering::Relaxed);
    }
}
