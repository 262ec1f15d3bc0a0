//! A bucket that refills continuously: the generic cell rate algorithm (GCRA, ITU-T I.371) on one word.
//!
//! The word is the time at which the bucket will be full again, the algorithm's theoretical arrival time.
//! Each unit that is taken moves it on by the interval that refills one unit. So one subtraction tells what
//! is left at any time, nothing has to be done as time passes, and a reader needs one load.
//!
//! Intervals are whole nanoseconds, rounded up. So a bucket is never faster than its limit. It is slower by
//! less than one part in (interval in nanoseconds), which is 0.1 % at 60 million a minute.
//!
//! Units that are put back count as if they had never been taken. Without them, the bucket might have been
//! full for a while, and refilled units would have been lost. The [lows](Lows) remember how near to full it
//! was. A charge is kept as a low if less was missing before it than before any later charge (a monotone
//! stack). At most 32 are kept; then the two nearest merge.

use super::usage::Usage;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::time::Nanos;

/// The rate at which a bucket refills, and its size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    interval: Nanos,
    burst: u64,
}

/// The words: when it will be full, the interval that refills a unit, the number of the last charge, and the
/// lows.
pub(super) const WORDS: usize = LOWS + 2 * Lows::MOST;
const FULL_AT: usize = 0;
const INTERVAL: usize = 1;
const CHARGES: usize = 2;
const LOWS: usize = 3;

/// The number of a charge, from 1.
pub(super) type Nth = u64;

impl Bucket {
    pub(super) fn new(amount: u64, per: Nanos, burst: u64) -> Self {
        Self { interval: per.div_ceil(amount), burst }
    }

    /// Makes the words refill at its rate from now on. They may be the words of a bucket with another rate:
    /// used units stay used.
    pub(super) fn set_rate(self, words: &[AtomicU64], now: Nanos) {
        let old = load(words, INTERVAL);
        if old == self.interval {
            return;
        }
        let scaled = |missing: Nanos| {
            let units = u128::from(missing).div_ceil(u128::from(old.max(1)));
            Nanos::try_from(units * u128::from(self.interval)).unwrap_or(Nanos::MAX)
        };
        let full_at = load(words, FULL_AT);
        if full_at > now {
            store(words, FULL_AT, now.saturating_add(scaled(full_at - now)));
        }
        Lows::of(words).each(|low| low.missing = scaled(low.missing));
        store(words, INTERVAL, self.interval);
    }

    /// Returns the interval of the words. If another bucket took this one's place, it is the other's.
    fn interval(words: &[AtomicU64]) -> Nanos {
        load(words, INTERVAL).max(1)
    }

    fn cost(words: &[AtomicU64], units: u64) -> Nanos {
        units.saturating_mul(Self::interval(words))
    }

    fn full_at(words: &[AtomicU64], now: Nanos) -> Nanos {
        load(words, FULL_AT).max(now)
    }

    pub(super) fn left(self, words: &[AtomicU64], now: Nanos) -> u64 {
        Self::cost(words, self.burst).saturating_sub(Self::full_at(words, now) - now) / Self::interval(words)
    }

    /// Returns the used units. They may be more than the burst, if a settlement charged more.
    pub(super) fn used(words: &[AtomicU64], now: Nanos) -> u64 {
        (Self::full_at(words, now) - now).div_ceil(Self::interval(words))
    }

    /// Returns the used units, and until when this answer holds. The units are rounded up to a hundredth of
    /// the bucket, so that the answer holds for a while.
    pub(super) fn usage(self, words: &[AtomicU64], now: Nanos) -> (Usage, Option<Nanos>) {
        let step = self.burst.div_ceil(100);
        let steps = Self::used(words, now).div_ceil(step);
        let usage = Usage { current: steps.saturating_mul(step), limit: Some(self.burst) };
        let less_at = Self::full_at(words, now).saturating_sub(Self::cost(words, steps.saturating_sub(1).saturating_mul(step)));
        (usage, (steps > 0).then_some(less_at))
    }

    /// Returns when `units` units will be left.
    pub(super) fn frees_at(self, words: &[AtomicU64], now: Nanos, units: u64) -> Nanos {
        let spare = Self::cost(words, self.burst.saturating_sub(units));
        Self::full_at(words, now).saturating_sub(spare).max(now)
    }

    /// Takes units out. Returns the number of that charge.
    pub(super) fn charge(words: &[AtomicU64], now: Nanos, units: u64) -> Nth {
        let nth = load(words, CHARGES).saturating_add(1);
        let full_at = Self::full_at(words, now);
        Lows::of(words).note(Low { nth, missing: full_at - now });
        store(words, FULL_AT, full_at.saturating_add(Self::cost(words, units)));
        store(words, CHARGES, nth);
        nth
    }

    /// Puts units back that a charge took out. The part that would have spilled without that charge is not
    /// put back.
    pub(super) fn refund(words: &[AtomicU64], nth: Nth, units: u64) {
        let lows = Lows::of(words);
        let back = Self::cost(words, units).min(lows.least_after(nth));
        lows.each(|low| low.missing = low.missing.saturating_sub(if low.nth > nth { back } else { 0 }));
        store(words, FULL_AT, load(words, FULL_AT).saturating_sub(back));
    }
}

/// The time to a full bucket just before a charge.
#[derive(Clone, Copy)]
struct Low {
    nth: Nth,
    missing: Nanos,
}

/// The lows, oldest first: the charges before which less was missing than before each later one. They tell
/// the least that was missing since any charge. When there are too many, the two nearest merge and the lesser
/// value is kept. So earlier charges may get back too little, and never too much.
struct Lows<'a>(&'a [AtomicU64]);

impl<'a> Lows<'a> {
    /// The number of lows that are kept.
    const MOST: usize = 32;

    fn of(words: &'a [AtomicU64]) -> Self {
        Self(words.get(LOWS..).unwrap_or_default())
    }

    fn places(&self) -> impl Iterator<Item = (&'a AtomicU64, &'a AtomicU64)> + use<'a> {
        self.0.chunks_exact(2).filter_map(|place| Some((place.first()?, place.last()?)))
    }

    /// Returns the lows, oldest first.
    fn iter(&self) -> impl Iterator<Item = Low> + use<'a> {
        let lows =
            self.places().map(|(nth, missing)| Low { nth: nth.load(Ordering::Relaxed), missing: missing.load(Ordering::Relaxed) });
        lows.take_while(|low| low.nth > 0)
    }

    fn each(&self, change: impl Fn(&mut Low)) {
        for (mut low, place) in self.iter().zip(self.places()) {
            change(&mut low);
            put(place, low);
        }
    }

    fn least_after(&self, nth: Nth) -> Nanos {
        self.iter().filter(|low| low.nth > nth).map(|low| low.missing).min().unwrap_or(Nanos::MAX)
    }

    /// Adds the latest low.
    fn note(&self, latest: Low) {
        // Lows that are not less than the latest one are dropped: they decide nothing any more.
        let mut places = self.places();
        for low in self.iter().filter(|low| low.missing < latest.missing) {
            places.next().into_iter().for_each(|place| put(place, low));
        }
        if let Some(place) = places.next() {
            put(place, latest);
            places.for_each(|place| put(place, Low { nth: 0, missing: 0 }));
            return;
        }
        let next = || self.iter().skip(1).chain([latest]);
        let pairs = self.iter().zip(next()).enumerate();
        let Some((nth, (lesser, _))) = pairs.min_by_key(|(_, (low, next))| low.missing.abs_diff(next.missing)) else { return };
        for (place, next) in self.places().zip(next()).skip(nth) {
            put(place, next);
        }
        for (place, low) in self.places().zip(self.iter()).skip(nth).take(1) {
            put(place, Low { missing: lesser.missing, ..low });
        }
    }
}

fn put((nth, missing): (&AtomicU64, &AtomicU64), low: Low) {
    nth.store(low.nth, Ordering::Relaxed);
    missing.store(low.missing, Ordering::Relaxed);
}

fn load(words: &[AtomicU64], word: usize) -> u64 {
    words.get(word).map_or(0, |word| word.load(Ordering::Relaxed))
}

fn store(words: &[AtomicU64], word: usize, value: u64) {
    if let Some(word) = words.get(word) {
        word.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn words(bucket: Bucket) -> Vec<AtomicU64> {
        let words: Vec<_> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        bucket.set_rate(&words, 0);
        words
    }

    /// Returns when a bucket is full after these charges, by its definition: each charge adds its cost to the
    /// time at which it was full, but not to a time in the past.
    fn full_at(log: &[(Nanos, Nanos)]) -> Nanos {
        log.iter().fold(0, |full_at, &(at, cost)| full_at.max(at) + cost)
    }

    #[test]
    fn a_bucket_is_full_in_the_beginning_and_refills_a_unit_an_interval() {
        let bucket = Bucket::new(60, 60 * SECOND, 5);
        let words = words(bucket);
        let now = 1_000 * SECOND;
        assert_eq!((bucket.left(&words, now), Bucket::used(&words, now)), (5, 0));
        Bucket::charge(&words, now, 5);
        assert_eq!((bucket.left(&words, now), Bucket::used(&words, now)), (0, 5));
        assert_eq!((bucket.left(&words, now + SECOND - 1), bucket.left(&words, now + SECOND)), (0, 1));
        assert_eq!(bucket.frees_at(&words, now, 1), now + SECOND);
        assert_eq!(bucket.frees_at(&words, now, 5), now + 5 * SECOND);
        assert_eq!(bucket.left(&words, now + 100 * SECOND), 5);
    }

    #[test]
    fn an_interval_is_rounded_up() {
        // 7 in 1 s: 142,857,143 ns each, 7 of them a nanosecond more than a second.
        let bucket = Bucket::new(7, SECOND, 7);
        let words = words(bucket);
        Bucket::charge(&words, 0, 7);
        assert_eq!((bucket.left(&words, SECOND), bucket.left(&words, SECOND + 1)), (6, 7));
    }

    #[test]
    fn what_would_have_spilled_is_not_put_back() {
        // The bucket refills one unit a second. Without the first ten, it would have been full at 5 s. The
        // units that refilled until then would have been lost.
        let bucket = Bucket::new(60, 60 * SECOND, 20);
        let words = words(bucket);
        let first = Bucket::charge(&words, 0, 10);
        Bucket::charge(&words, 5 * SECOND, 10);
        Bucket::refund(&words, first, 10);
        assert_eq!(bucket.frees_at(&words, 8 * SECOND, 20), 15 * SECOND);
    }

    #[test]
    fn a_bucket_that_was_full_since_takes_nothing_back() {
        let bucket = Bucket::new(60, 60 * SECOND, 20);
        let words = words(bucket);
        let first = Bucket::charge(&words, 0, 10);
        Bucket::charge(&words, 10 * SECOND, 10);
        Bucket::refund(&words, first, 10);
        assert_eq!(Bucket::used(&words, 10 * SECOND), 10);
    }

    #[test]
    fn another_rate_keeps_what_was_used() {
        let words = words(Bucket::new(60, 60 * SECOND, 20));
        let first = Bucket::charge(&words, SECOND, 10);
        let faster = Bucket::new(120, 60 * SECOND, 40);
        faster.set_rate(&words, SECOND);
        assert_eq!((Bucket::used(&words, SECOND), faster.left(&words, SECOND)), (10, 30));
        // The units that were charged at the old rate are put back as the same number of units.
        Bucket::refund(&words, first, 10);
        assert_eq!(Bucket::used(&words, SECOND), 0);
    }

    #[test]
    fn many_charges_at_once_are_given_back() {
        let bucket = Bucket::new(60, 60 * SECOND, 1_000);
        let words = words(bucket);
        let charges: Vec<_> = (0..200).map(|_| Bucket::charge(&words, SECOND, 4)).collect();
        for &nth in charges.iter().chain(&charges) {
            Bucket::refund(&words, nth, 1);
        }
        // Half of 800 units stay used. The merged lows cost a few percent.
        let used = Bucket::used(&words, SECOND);
        assert!((400..440).contains(&used), "{used}");
    }

    proptest! {
        /// After any charges and refunds, the bucket is as full as one that never saw the refunded units.
        /// When lows were merged, it is never fuller.
        #[test]
        fn what_is_put_back_was_never_taken(
            steps in prop::collection::vec((0..6_u64, 1..6_u64, any::<prop::sample::Index>(), prop::option::of(0..=6_u64)), 1..40),
        ) {
            let words = words(Bucket::new(60, 60 * SECOND, 1_000));
            let (mut now, mut log, mut exact) = (0, Vec::<(Nanos, Nanos)>::new(), true);
            for (wait, units, index, back) in steps {
                now += wait * SECOND / 2;
                match back {
                    Some(back) if !log.is_empty() => {
                        let nth = index.index(log.len());
                        let back = back.min(log[nth].1 / SECOND);
                        log[nth].1 -= back * SECOND;
                        Bucket::refund(&words, nth as u64 + 1, back);
                    }
                    _ => {
                        exact &= Lows::of(&words).iter().count() < Lows::MOST;
                        log.push((now, units * SECOND));
                        Bucket::charge(&words, now, units);
                    }
                }
                let (ours, theirs) = (Bucket::full_at(&words, now), full_at(&log).max(now));
                prop_assert!(ours >= theirs && (ours == theirs || !exact), "{ours} {theirs}");
            }
        }

        /// No stretch of time admits more than the burst and the units that refill in it.
        #[test]
        fn no_stretch_admits_more_than_the_burst_and_the_rate(
            amount in 1..50_u64, per in 1..90_u64, burst in 1..40_u64,
            asks in prop::collection::vec((0..3_000_000_000_u64, 1..20_u64), 1..80),
        ) {
            let per = per * SECOND / 7;
            let bucket = Bucket::new(amount, per, burst);
            let words = words(bucket);
            let (mut now, mut log) = (12_345, Vec::new());
            for (wait, units) in asks {
                now += wait;
                if bucket.left(&words, now) >= units {
                    Bucket::charge(&words, now, units);
                    log.push((now, units));
                } else if units <= burst {
                    let at = bucket.frees_at(&words, now, units);
                    prop_assert!(at > now && bucket.left(&words, at - 1) < units && bucket.left(&words, at) >= units);
                }
            }
            for (first, &(from, _)) in log.iter().enumerate() {
                let mut taken = 0;
                for &(to, units) in &log[first..] {
                    taken += units;
                    let refilled = u128::from(to - from) * u128::from(amount);
                    prop_assert!(u128::from(taken) * u128::from(per) <= u128::from(burst) * u128::from(per) + refilled);
                }
            }
        }
    }
}
