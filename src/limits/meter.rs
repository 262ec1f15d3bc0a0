//! The counter of a limit.

use std::sync::Arc;

use super::bucket::{self, Bucket};
use super::demand::Demand;
use super::fixed::{self, Fixed};
use super::limit::{Limit, LimitKind};
use super::shortfall::LimitShortfall;
use super::sliding::{self, Sliding};
use super::unit::Unit;
use super::usage::Usage;
use crate::base::clock::Clock;
use crate::base::sync::atomic::AtomicU64;
use crate::base::time::{MINUTE, Nanos};
use crate::base::wall::Wall;

/// A limit and the units that were used of it. Any thread reads it without a lock. It is written under its
/// owner's lock.
#[derive(Debug)]
pub(crate) struct Meter {
    limit: Limit,
    counter: Counter,
    /// One flat list of words. It is shared with the meter that takes this one's place when the facts of its
    /// deployment are replaced.
    words: Arc<[AtomicU64]>,
}

/// Earlier counts of limits that are replaced by others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Past<'a> {
    pub(crate) meters: &'a [Meter],
    /// The units that were used in this minute, of each unit that had a limit a minute and has none any more.
    pub(crate) minute: &'a [(Unit, u64)],
}

/// A mark of a charge. It is needed to settle the charge.
pub(super) type Charge = u64;

impl Meter {
    /// Makes meters of these limits. The same limit as an old one, or else one that counts alike, goes on
    /// with the old counters. Each old limit serves at most one new limit. The caller holds the lock of the
    /// earlier meters.
    pub(crate) fn all(limits: &[Limit], earlier: &[Self], clock: &Clock) -> Box<[Self]> {
        let (now, wall) = (clock.now(), clock.wall());
        let mut before: Vec<_> = earlier.iter().map(Some).collect();
        let mut take = |is_it: &dyn Fn(&Self) -> bool| before.iter_mut().find(|old| old.is_some_and(is_it)).and_then(Option::take);
        // Limits that stay as they are come first.
        let same: Vec<_> = limits.iter().map(|limit| take(&|old| old.limit == *limit)).collect();
        let alike = limits.iter().zip(same).map(|(limit, same)| same.or_else(|| take(&|old| old.counts_alike(limit))));
        let alike: Vec<_> = alike.collect();
        limits.iter().zip(alike).map(|(&limit, alike)| Self::new(limit, alike, wall, now)).collect()
    }

    /// Charges the meters that have counters of their own what is used now of the earlier limits that go on
    /// in none: each what is used of the limit of the same unit with the nearest time. The caller holds the
    /// lock of all these meters.
    pub(crate) fn take_over(meters: &[Self], past: Past<'_>, now: Nanos) {
        let gone = past.meters.iter().filter(|old| !old.goes_on_in(meters));
        let gone = gone.map(|old| (old.unit(), old.limit.per(), old.used(now)));
        let gone: Vec<_> = gone.chain(past.minute.iter().map(|&(unit, used)| (unit, MINUTE, used))).collect();
        for meter in meters.iter().filter(|meter| !meter.goes_on_in(past.meters)) {
            let fits = gone.iter().filter(|(unit, ..)| *unit == meter.unit());
            let nearest = fits.min_by_key(|(_, per, _)| per.abs_diff(meter.limit.per()));
            // A window of first use does not begin with nothing.
            if let Some(&(.., used)) = nearest.filter(|(.., used)| *used > 0) {
                // The use of a long window is no debt of a bucket, which would have to be paid bit by bit.
                let most = if matches!(meter.counter, Counter::Bucket(_)) { meter.limit.capacity() } else { u64::MAX };
                meter.charge(now, used.min(most));
            }
        }
    }

    /// Returns whether one of these meters has the same counters.
    pub(super) fn goes_on_in(&self, meters: &[Self]) -> bool {
        meters.iter().any(|other| Arc::ptr_eq(&self.words, &other.words))
    }

    fn new(limit: Limit, before: Option<&Self>, wall: Option<&Arc<Wall>>, now: Nanos) -> Self {
        let (counter, words) = Counter::of(&limit, wall);
        let words = before.map_or_else(|| (0..words).map(|_| AtomicU64::new(0)).collect(), |before| Arc::clone(&before.words));
        if let Counter::Bucket(bucket) = counter {
            bucket.set_rate(&words, now);
        }
        Self { limit, counter, words }
    }

    /// Returns whether its words mean the same to a meter of another limit.
    fn counts_alike(&self, limit: &Limit) -> bool {
        let same_kind = match (self.limit.kind(), limit.kind()) {
            (LimitKind::Bucket { .. }, LimitKind::Bucket { .. }) => true,
            (old, new) => old == new,
        };
        same_kind && self.unit() == limit.unit() && self.limit.per() == limit.per()
    }

    pub(crate) fn limit(&self) -> &Limit {
        &self.limit
    }

    pub(crate) fn unit(&self) -> Unit {
        self.limit.unit()
    }

    pub(crate) fn used(&self, now: Nanos) -> u64 {
        match &self.counter {
            Counter::Fixed(fixed) => fixed.used(&self.words, now).0,
            Counter::Sliding(sliding) => sliding.used(&self.words, now),
            Counter::Bucket(_) => Bucket::used(&self.words, now),
        }
    }

    pub(crate) fn left(&self, now: Nanos) -> u64 {
        match &self.counter {
            Counter::Bucket(bucket) => bucket.left(&self.words, now),
            Counter::Fixed(_) | Counter::Sliding(_) => self.limit.amount().saturating_sub(self.used(now)),
        }
    }

    /// Returns when `units` units will be left, now at the earliest; None if there are never as many.
    pub(crate) fn frees_at(&self, now: Nanos, units: u64) -> Option<Nanos> {
        let spare = self.limit.capacity().checked_sub(units)?;
        // A settlement may have used more than there is. Then nothing is left, and a request for nothing
        // still passes.
        if self.left(now) >= units {
            return Some(now);
        }
        Some(match &self.counter {
            Counter::Bucket(bucket) => bucket.frees_at(&self.words, now, units),
            Counter::Fixed(fixed) => fixed.used(&self.words, now).1,
            Counter::Sliding(sliding) => sliding.lets_go_at(&self.words, now, sliding.used(&self.words, now).saturating_sub(spare)),
        })
    }

    /// Returns why `units` units are not left; None if they are. `nth` is the number of this meter among its
    /// owner's.
    #[inline]
    pub(crate) fn shortfall(&self, nth: u32, now: Nanos, units: u64) -> Option<LimitShortfall> {
        (self.left(now) < units).then(|| LimitShortfall {
            nth,
            used: self.used(now),
            asked: units,
            frees_in: self.frees_at(now, units).map_or(Nanos::MAX, |at| at.saturating_sub(now)),
        })
    }

    /// Returns why a request is stopped, by the first of these meters that leaves too little; None if no
    /// meter stops it.
    pub(super) fn shortfall_of(meters: &[Self], demand: Demand, now: Nanos) -> Option<LimitShortfall> {
        (0..).zip(meters).find_map(|(nth, meter)| meter.shortfall(nth, now, demand.least(meter.unit())))
    }

    /// Returns when all of these meters may let a request through, now at the earliest; None if one never
    /// will.
    pub(super) fn all_free_at(meters: &[Self], demand: Demand, now: Nanos) -> Option<Nanos> {
        meters.iter().try_fold(now, |at, meter| Some(at.max(meter.frees_at(now, demand.least(meter.unit()))?)))
    }

    /// Returns whether used units come back little by little.
    pub(crate) fn refills_bit_by_bit(&self) -> bool {
        !matches!(self.counter, Counter::Fixed(_))
    }

    /// Returns the usage that a strategy compares. If time changes it, also returns until when it holds.
    pub(crate) fn usage(&self, now: Nanos) -> (Usage, Option<Nanos>) {
        let limit = Some(self.limit.amount());
        match &self.counter {
            Counter::Bucket(bucket) => bucket.usage(&self.words, now),
            Counter::Fixed(fixed) => {
                let (current, ends) = fixed.used(&self.words, now);
                (Usage { current, limit }, (current > 0).then_some(ends))
            }
            Counter::Sliding(sliding) => {
                let current = sliding.used(&self.words, now);
                (Usage { current, limit }, (current > 0).then(|| sliding.lets_go_at(&self.words, now, 1)))
            }
        }
    }

    /// Lets a window of first use be the one that ends then, if processes share it. 0 is no such time.
    pub(super) fn follow(&self, ends: Nanos) {
        if let (Counter::Fixed(fixed), 1..) = (&self.counter, ends) {
            fixed.follow(&self.words, ends);
        }
    }

    /// Counts a request in these meters, but for those that have the counters of one of `counted`.
    pub(super) fn charge_others(meters: &[Self], counted: &[Self], demand: Demand, now: Nanos) {
        for meter in meters.iter().filter(|meter| !meter.goes_on_in(counted)) {
            meter.charge(now, demand.of(meter.unit()));
        }
    }

    pub(super) fn charge(&self, now: Nanos, units: u64) -> Charge {
        match &self.counter {
            Counter::Fixed(fixed) => fixed.charge(&self.words, now, units),
            Counter::Sliding(sliding) => sliding.charge(&self.words, now, units),
            Counter::Bucket(_) => Bucket::charge(&self.words, now, units),
        }
    }

    /// Replaces the charged units. None: the request was never sent.
    ///
    /// A window changes only if it is still the one that was charged. A bucket has no windows: it can be
    /// charged more at any time. Units that it gets back count as if they had never been taken.
    pub(super) fn settle(&self, now: Nanos, charge: Charge, charged: u64, settled: Option<u64>) {
        let actual = settled.unwrap_or(0);
        match &self.counter {
            Counter::Fixed(fixed) => fixed.settle(&self.words, charge, charged, settled),
            Counter::Sliding(_) => Sliding::settle(&self.words, charge, charged, actual),
            Counter::Bucket(_) if actual > charged => {
                Bucket::charge(&self.words, now, actual - charged);
            }
            Counter::Bucket(_) => Bucket::refund(&self.words, charge, charged - actual),
        }
    }
}

/// The arithmetic of a limit.
#[derive(Debug)]
enum Counter {
    Fixed(Fixed),
    Sliding(Sliding),
    Bucket(Bucket),
}

impl Counter {
    /// Returns the arithmetic of a limit, and how many words it needs.
    fn of(limit: &Limit, wall: Option<&Arc<Wall>>) -> (Self, usize) {
        match limit.kind() {
            LimitKind::Fixed(start) => (Self::Fixed(Fixed::new(limit.per(), start, wall)), fixed::WORDS),
            LimitKind::Sliding => (Self::Sliding(Sliding::new(limit.per())), sliding::WORDS),
            LimitKind::Bucket { burst } => (Self::Bucket(Bucket::new(limit.amount(), limit.per(), burst)), bucket::WORDS),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::manual_clock::ManualClock;
    use crate::base::time::SECOND;
    use crate::limits::limit::Start;

    fn limit(amount: u64, kind: LimitKind) -> Limit {
        Limit::new(Unit::Tokens, amount, MINUTE, kind).unwrap()
    }

    fn meter(limit: Limit) -> Meter {
        Meter::new(limit, None, None, 0)
    }

    fn replaced(limits: &[Limit], before: &[Meter], now: Nanos) -> Box<[Meter]> {
        let meters = Meter::all(limits, before, &at(now));
        Meter::take_over(&meters, Past { meters: before, minute: &[] }, now);
        meters
    }

    fn at(now: Nanos) -> Clock {
        Clock::Manual(Arc::new(ManualClock::new(now)))
    }

    const KINDS: [LimitKind; 5] = [
        LimitKind::Fixed(Start::Clock),
        LimitKind::Fixed(Start::Offset(SECOND / 4)),
        LimitKind::Fixed(Start::FirstUse),
        LimitKind::Sliding,
        LimitKind::Bucket { burst: 100 },
    ];

    #[test]
    fn every_kind_fills_exactly_to_its_limit() {
        for kind in KINDS {
            let (meter, now) = (meter(limit(100, kind)), 5 * MINUTE + 7 * SECOND);
            meter.charge(now, 99);
            assert_eq!(
                (meter.shortfall(0, now, 1), meter.shortfall(0, now, 2).map(|short| (short.used, short.asked))),
                (None, Some((99, 2)))
            );
            meter.charge(now, 1);
            assert_eq!((meter.left(now), meter.used(now)), (0, 100));
            assert_eq!((meter.frees_at(now, 101), meter.shortfall(0, now, 101).unwrap().frees_in), (None, Nanos::MAX));
        }
    }

    #[test]
    fn what_was_used_above_the_limit_counts_too() {
        for kind in KINDS {
            let (meter, now) = (meter(limit(100, kind)), 5 * MINUTE);
            let charge = meter.charge(now, 60);
            meter.settle(now, charge, 60, Some(250));
            assert_eq!((meter.left(now), meter.used(now)), (0, 250));
            assert_eq!((meter.shortfall(0, now, 0), meter.frees_at(now, 0)), (None, Some(now)));
            let at = meter.frees_at(now, 100).unwrap();
            assert!(meter.left(at - 1) < 100 && meter.left(at) == 100, "{kind:?}");
        }
    }

    #[test]
    fn a_later_window_is_not_given_what_an_earlier_one_took() {
        for kind in KINDS {
            let (meter, now) = (meter(limit(100, kind)), 5 * MINUTE);
            let charge = meter.charge(now, 60);
            let later = now + 2 * MINUTE;
            meter.charge(later, 30);
            meter.settle(later, charge, 60, Some(0));
            assert_eq!(meter.used(later), 30, "{kind:?}");
        }
    }

    #[test]
    fn other_facts_keep_what_is_used_where_it_counts_alike() {
        let now = 5 * MINUTE;
        for kind in KINDS {
            let before = [meter(limit(100, kind))];
            let charge = before[0].charge(now, 60);
            let wider = if matches!(kind, LimitKind::Bucket { .. }) { LimitKind::Bucket { burst: 150 } } else { kind };
            let after = replaced(&[limit(200, wider)], &before, now);
            assert_eq!(after[0].used(now), 60, "{kind:?}");
            // A lease under the old facts settles what it was charged.
            before[0].settle(now, charge, 60, Some(20));
            assert_eq!(after[0].used(now), 20, "{kind:?}");
            before[0].charge(now, 5);
            assert_eq!(after[0].used(now), 25, "{kind:?}");
            // A limit with another time or of another kind is charged what is used.
            let others = [Limit::new(Unit::Requests, 200, MINUTE, wider), Limit::new(Unit::Tokens, 200, SECOND, wider)];
            let others = replaced(&others.map(Result::unwrap), &before, now);
            assert_eq!(others.iter().map(|other| other.used(now)).collect::<Vec<_>>(), [0, 25], "{kind:?}");
            for other in KINDS {
                assert_eq!(replaced(&[limit(90, other)], &before, now)[0].used(now), 25, "{kind:?} {other:?}");
            }
        }
    }

    #[test]
    fn no_two_limits_go_on_where_the_same_one_is() {
        let now = 5 * MINUTE;
        for kind in KINDS {
            let limits = [limit(100, kind), limit(100, kind)];
            let before = Meter::all(&limits, &[], &at(now));
            before.iter().for_each(|meter| _ = meter.charge(now, 10));
            for limits in [limits, [limit(50, kind), limit(200, kind)], [limit(50, kind), limit(100, kind)]] {
                let after = replaced(&limits, &before, now);
                let used = after[0].used(now);
                after.iter().for_each(|meter| _ = meter.charge(now, 1));
                assert!(after.iter().all(|meter| meter.used(now) == used + 1), "{kind:?}");
            }
        }
    }

    #[test]
    fn each_limit_takes_over_what_is_nearest() {
        let now = 1_000 * MINUTE;
        let of = |amount, per, kind| Limit::new(Unit::Tokens, amount, per, kind).unwrap();
        let (fixed, bucket) = (LimitKind::Fixed(Start::Clock), LimitKind::Bucket { burst: 100 });
        let before = Meter::all(&[of(100, 100 * SECOND, fixed), of(1_000, 1_000 * SECOND, fixed)], &[], &at(now));
        before.iter().zip([90, 180]).for_each(|(meter, used)| _ = meter.charge(now, used));
        for (limits, used) in [
            (vec![of(500, 600 * SECOND, fixed), of(1_000, 1_000 * SECOND, LimitKind::Sliding)], [180, 180]),
            (vec![of(1_000, SECOND, fixed), of(100, 101 * SECOND, fixed)], [90, 90]),
            (vec![of(1_000, SECOND, fixed), of(100, 1_000 * SECOND, fixed)], [90, 180]),
            (vec![of(100, 900 * SECOND, bucket), of(100, 100 * SECOND, fixed)], [100, 90]),
        ] {
            let after = replaced(&limits, &before, now);
            assert_eq!(after.iter().map(|meter| meter.used(now)).collect::<Vec<_>>(), used, "{limits:?}");
        }
    }

    #[test]
    fn usage_holds_until_it_says() {
        for kind in KINDS {
            let meter = meter(limit(1_000, kind));
            let mut now = 5 * MINUTE;
            assert_eq!(meter.usage(now).1, None);
            for units in [1, 7, 90, 2] {
                meter.charge(now, units);
                now += 3 * SECOND;
            }
            while let (usage, Some(until)) = meter.usage(now) {
                assert_eq!(meter.usage(until - 1).0, usage, "{kind:?}");
                assert!(meter.usage(until).0.current < usage.current);
                now = until;
            }
            assert_eq!(meter.used(now), 0);
        }
    }

    proptest! {
        /// This holds for limits of any kind. If units become free at a time, they are missing just before
        /// and left then, if nothing else is used. If units are admitted and then settled for less, a log of
        /// the units that were really used never shows more than the limit in a window.
        #[test]
        fn no_window_of_a_log_has_more_than_the_limit(
            kind in 0..KINDS.len(), amount in 1..40_u64,
            steps in prop::collection::vec((0..25_u64, 0..12_u64, prop::option::of((any::<prop::sample::Index>(), 0..12_u64))), 1..100),
        ) {
            let kind = match KINDS[kind] {
                LimitKind::Bucket { .. } => LimitKind::Bucket { burst: amount },
                kind => kind,
            };
            let meter = meter(limit(amount, kind));
            let (mut now, mut log) = (100 * MINUTE + 3 * SECOND, Vec::new());
            for (wait, units, settled) in steps {
                now += wait * SECOND;
                match settled {
                    Some((index, actual)) if !log.is_empty() => {
                        let nth = index.index(log.len());
                        let (_, charge, charged): &mut (Nanos, Charge, u64) = &mut log[nth];
                        let actual = actual.min(*charged);
                        meter.settle(now, *charge, *charged, Some(actual));
                        *charged = actual;
                    }
                    _ if meter.shortfall(0, now, units).is_none() => log.push((now, meter.charge(now, units), units)),
                    _ => match meter.frees_at(now, units) {
                        None => prop_assert!(units > amount),
                        Some(at) => prop_assert!(at > now && meter.shortfall(0, at - 1, units).is_some() && meter.shortfall(0, at, units).is_none()),
                    },
                }
            }
            let mut window_began = 0;
            for (first, &(from, ..)) in log.iter().enumerate() {
                let began = match kind {
                    LimitKind::Fixed(Start::Clock | Start::Midnight(_)) => from - from % MINUTE,
                    LimitKind::Fixed(Start::Offset(offset)) => from.saturating_sub((from + MINUTE - offset) % MINUTE),
                    LimitKind::Fixed(Start::FirstUse) => {
                        if from >= window_began + MINUTE {
                            window_began = from;
                        }
                        window_began
                    }
                    LimitKind::Sliding | LimitKind::Bucket { .. } => from,
                };
                let in_window = log[first..].iter().filter(|&&(at, ..)| at < began + MINUTE);
                let used: u64 = in_window.clone().map(|&(.., units)| units).sum();
                // A bucket's window admits the burst and what refills in it.
                let last = in_window.map(|&(at, ..)| at).max().unwrap_or(from);
                let refilled = if matches!(kind, LimitKind::Bucket { .. }) { (last - from) * amount / MINUTE } else { 0 };
                prop_assert!(used <= amount + refilled, "{kind:?}: {used}");
            }
        }
    }
}
