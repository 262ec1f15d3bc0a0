//! Outcomes of the recent past, in intervals of time.
//!
//! A ring has ten intervals. The newest is still filling, so the counts cover nine tenths to the whole of the
//! window. Counts are exact, and nothing is averaged. Intervals roll lazily, when the ring is next written
//! to. Until then a reader leaves out the intervals whose time is over.
//!
//! One thread at a time writes, under the lock of the structure that the ring is part of. Any thread may
//! read.

use std::array;

use crate::base::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::base::time::Nanos;

pub(crate) const INTERVALS: u64 = 10;

const PLACES: usize = 10;

/// Outcomes that were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) successes: u64,
    pub(crate) failures: u64,
}

impl Tally {
    /// Returns these outcomes and others together.
    pub(crate) fn with(self, others: Self) -> Self {
        Self { successes: self.successes.saturating_add(others.successes), failures: self.failures.saturating_add(others.failures) }
    }

    pub(crate) fn total(self) -> u64 {
        self.successes + self.failures
    }

    /// Returns the share of failures; 0 without any.
    #[allow(clippy::cast_precision_loss)] // counts of some minutes
    pub(crate) fn rate(self) -> f64 {
        if self.failures == 0 { 0.0 } else { self.failures as f64 / self.total() as f64 }
    }

    pub(crate) fn without(self, part: Self) -> Self {
        Self { successes: self.successes.saturating_sub(part.successes), failures: self.failures.saturating_sub(part.failures) }
    }
}

#[derive(Debug, Default)]
struct Interval {
    successes: AtomicU32,
    failures: AtomicU32,
}

impl Interval {
    fn tally(&self) -> Tally {
        Tally { successes: self.successes.load(Ordering::Relaxed).into(), failures: self.failures.load(Ordering::Relaxed).into() }
    }

    fn set(&self, successes: u32, failures: u32) {
        self.successes.store(successes, Ordering::Relaxed);
        self.failures.store(failures, Ordering::Relaxed);
    }
}

/// A ring of intervals.
#[derive(Debug)]
pub(crate) struct Ring {
    /// How long an interval is; 0 before the first outcome.
    length: AtomicU64,
    /// The number of the newest interval, counted from the epoch. The interval with the number n lies at n
    /// modulo ten.
    newest: AtomicU64,
    intervals: [Interval; PLACES],
}

impl Default for Ring {
    fn default() -> Self {
        Self { length: AtomicU64::new(0), newest: AtomicU64::new(0), intervals: array::from_fn(|_| Interval::default()) }
    }
}

impl Ring {
    /// Counts an outcome, in intervals of this length.
    pub(crate) fn add(&self, length: Nanos, now: Nanos, failed: bool) {
        self.follow(length, now);
        if let Some(interval) = self.interval(self.roll(self.number_at(now))) {
            let count = if failed { &interval.failures } else { &interval.successes };
            count.store(count.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Returns the outcomes of the window that ends now.
    pub(crate) fn tally(&self, now: Nanos) -> Tally {
        self.current(now).fold(Tally::default(), |sum, (_, interval)| {
            let part = interval.tally();
            Tally { successes: sum.successes + part.successes, failures: sum.failures + part.failures }
        })
    }

    /// Returns when the first of the failures that count now will count no longer; None if there is none.
    pub(crate) fn fades_at(&self, now: Nanos) -> Option<Nanos> {
        let oldest = self.current(now).find(|(_, interval)| interval.tally().failures > 0);
        oldest.map(|(number, _)| number.saturating_add(INTERVALS).saturating_mul(self.length()))
    }

    /// Adds the counts of another ring. An empty ring takes the length of the other's intervals; otherwise a
    /// ring of another length is left out.
    pub(crate) fn take_in(&self, other: &Self) {
        if self.length.load(Ordering::Relaxed) == 0 {
            self.length.store(other.length.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.combine(other, u32::saturating_add);
    }

    /// Subtracts the counts of another ring. A ring of another length is left out.
    pub(crate) fn take_out(&self, other: &Self) {
        self.combine(other, u32::saturating_sub);
    }

    fn combine(&self, other: &Self, with: impl Fn(u32, u32) -> u32) {
        if self.length() != other.length() {
            return;
        }
        let others_newest = other.newest.load(Ordering::Relaxed);
        let newest = self.roll(others_newest);
        for number in newest.saturating_sub(INTERVALS - 1)..=others_newest {
            if let (Some(interval), Some(part)) = (self.interval(number), other.interval(number)) {
                let both = |own: &AtomicU32, other: &AtomicU32| with(own.load(Ordering::Relaxed), other.load(Ordering::Relaxed));
                interval.set(both(&interval.successes, &part.successes), both(&interval.failures, &part.failures));
            }
        }
    }

    /// Goes on with intervals of this length. If they had another length before, the outcomes that count now
    /// are counted as of now.
    pub(crate) fn follow(&self, length: Nanos, now: Nanos) {
        if self.length.load(Ordering::Relaxed) == length {
            return;
        }
        let tally = self.tally(now);
        self.clear();
        self.length.store(length, Ordering::Relaxed);
        let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(interval) = self.interval(self.roll(self.number_at(now))) {
            interval.set(count(tally.successes), count(tally.failures));
        }
    }

    /// Begins an interval, if it is newer than the newest. Also begins the intervals between the two. Returns
    /// the newest.
    fn roll(&self, number: u64) -> u64 {
        let newest = self.newest.load(Ordering::Relaxed);
        let number = number.max(newest);
        for passed in newest.max(number.saturating_sub(INTERVALS))..number {
            self.interval(passed + 1).inspect(|interval| interval.set(0, 0));
        }
        self.newest.store(number, Ordering::Relaxed);
        number
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.length.store(0, Ordering::Relaxed);
        self.newest.store(0, Ordering::Relaxed);
        self.intervals.iter().for_each(|interval| interval.set(0, 0));
    }

    /// Returns the intervals that count now, oldest first, with their numbers.
    fn current(&self, now: Nanos) -> impl Iterator<Item = (u64, &Interval)> {
        let newest = self.newest.load(Ordering::Relaxed);
        let number = self.number_at(now).max(newest);
        (number.saturating_sub(INTERVALS - 1)..=newest).filter_map(|number| Some((number, self.interval(number)?)))
    }

    fn length(&self) -> Nanos {
        self.length.load(Ordering::Relaxed).max(1)
    }

    /// Returns the number of the interval that holds a time.
    fn number_at(&self, time: Nanos) -> u64 {
        time / self.length()
    }

    fn interval(&self, number: u64) -> Option<&Interval> {
        self.intervals.get(usize::try_from(number % INTERVALS).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_window_is_nine_tenths_to_the_whole() {
        let ring = Ring::default();
        ring.add(10, 9, true);
        ring.add(10, 10, false);
        assert_eq!(ring.tally(99), Tally { successes: 1, failures: 1 });
        assert_eq!(ring.fades_at(99), Some(100));
        assert_eq!(ring.tally(100), Tally { successes: 1, failures: 0 });
        assert_eq!(ring.fades_at(100), None);
        assert_eq!(ring.tally(110), Tally::default());
    }

    #[test]
    fn other_lengths_count_on_as_of_now() {
        let ring = Ring::default();
        ring.add(10, 1_000, true);
        for (length, now) in [(100, 1_010), (1, 1_020), (100, 1_021)] {
            ring.add(length, now, false);
        }
        assert_eq!(ring.tally(1_021), Tally { successes: 3, failures: 1 });
        assert_eq!(ring.tally(1_999), Tally { successes: 3, failures: 1 });
        assert_eq!(ring.tally(2_000), Tally::default());
        let other = Ring::default();
        other.add(10, 1_021, true);
        ring.take_in(&other);
        assert_eq!(ring.tally(1_021).failures, 1, "intervals of another length");
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_last_ten_intervals(steps in prop::collection::vec((0..250_u64, any::<bool>()), 1..80)) {
            let (ring, pool) = (Ring::default(), Ring::default());
            let (mut now, mut seen) = (0, Vec::new());
            for (i, (passed, failed)) in steps.into_iter().enumerate() {
                now += passed;
                pool.add(10, now, failed);
                if i % 2 == 0 {
                    ring.add(10, now, failed);
                    seen.push((now / 10, failed));
                }
                let count = |failed| {
                    seen.iter().filter(|&&(number, which)| which == failed && number + INTERVALS > now / 10).count() as u64
                };
                prop_assert_eq!(ring.tally(now), Tally { successes: count(false), failures: count(true) });
            }
            let whole = pool.tally(now);
            pool.take_out(&ring);
            prop_assert_eq!(pool.tally(now), whole.without(ring.tally(now)));
            pool.take_in(&ring);
            prop_assert_eq!(pool.tally(now), whole);
            let other = Ring::default();
            other.add(10, 0, true);
            other.take_in(&ring);
            let first = Tally { successes: 0, failures: u64::from(now < 100) };
            prop_assert_eq!(other.tally(now).without(first), ring.tally(now));
        }
    }
}
