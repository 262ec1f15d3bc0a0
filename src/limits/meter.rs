//! What counts a limit.

use std::sync::Arc;

use super::bucket::{self, Bucket};
use super::fixed::{self, Fixed};
use super::sliding::{self, Sliding};
use super::{Limit, LimitKind, Unit};
use crate::clock::{Nanos, seconds};
use crate::context::Usage;
use crate::sync::atomic::AtomicU64;

/// A limit and what was used of it. Read without a lock, written under its owner's.
#[derive(Debug)]
pub(crate) struct Meter {
    limit: Limit,
    counter: Counter,
    /// Flat, and shared with the meter that takes its place when its deployment's facts are replaced.
    words: Arc<[AtomicU64]>,
}

/// A limit that leaves too little. Small, since every pick returns room for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Which one of its owner's limits.
    pub nth: u32,
    /// What is used of it.
    pub used: u64,
    /// What was asked for.
    pub asked: u64,
    /// Nanoseconds until enough is left; [`Nanos::MAX`] if that will never be.
    pub frees_in: Nanos,
}

impl std::fmt::Display for Spent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { used, asked, frees_in, .. } = self;
        if *frees_in == Nanos::MAX {
            write!(f, "{asked} asked for, never fits")
        } else {
            write!(f, "{used} used, {asked} asked for, frees in {:.1} s", seconds(*frees_in))
        }
    }
}

/// The mark that a charge leaves, for settling it.
pub(super) type Charge = u64;

impl Meter {
    pub(crate) fn new(limit: Limit) -> Self {
        let (counter, words) = Counter::of(&limit);
        Self { limit, counter, words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// A meter that goes on where one of `before` is, if one counts alike. Under the lock of `before`.
    pub(crate) fn after(limit: Limit, before: &[Self], now: Nanos) -> Self {
        let counts_alike = |old: &&Self| {
            let same_kind = match (old.limit.kind(), limit.kind()) {
                (LimitKind::Bucket { .. }, LimitKind::Bucket { .. }) => true,
                (old, new) => old == new,
            };
            same_kind && old.limit.unit() == limit.unit() && old.limit.per() == limit.per()
        };
        let same = before.iter().find(|old| old.limit == limit);
        let Some(old) = same.or_else(|| before.iter().find(counts_alike)) else { return Self::new(limit) };
        if matches!(limit.kind(), LimitKind::Bucket { .. }) && old.limit.amount() != limit.amount() {
            // Another rate: the words of the old one say something else.
            let new = Self::new(limit);
            new.charge(now, old.used(now));
            return new;
        }
        Self { limit, counter: Counter::of(&limit).0, words: Arc::clone(&old.words) }
    }

    pub(crate) fn limit(&self) -> &Limit {
        &self.limit
    }

    pub(crate) fn unit(&self) -> Unit {
        self.limit.unit()
    }

    pub(crate) fn used(&self, now: Nanos) -> u64 {
        match self.counter {
            Counter::Fixed(_) => Fixed::used(&self.words, now).0,
            Counter::Sliding(sliding) => sliding.used(&self.words, now),
            Counter::Bucket(bucket) => bucket.used(&self.words, now),
        }
    }

    pub(crate) fn left(&self, now: Nanos) -> u64 {
        match self.counter {
            Counter::Bucket(bucket) => bucket.left(&self.words, now),
            Counter::Fixed(_) | Counter::Sliding(_) => self.limit.amount().saturating_sub(self.used(now)),
        }
    }

    /// When so many units will be left, now at the earliest; None if there are never so many.
    pub(crate) fn frees_at(&self, now: Nanos, units: u64) -> Option<Nanos> {
        let spare = self.limit.capacity().checked_sub(units)?;
        Some(match self.counter {
            Counter::Bucket(bucket) => bucket.frees_at(&self.words, now, units),
            Counter::Fixed(_) => match Fixed::used(&self.words, now) {
                (used, _) if used <= spare => now,
                (_, ends) => ends,
            },
            Counter::Sliding(sliding) => sliding.lets_go_at(&self.words, now, sliding.used(&self.words, now).saturating_sub(spare)),
        })
    }

    /// Why so many units are not left; None if they are. It is its owner's `nth`.
    #[inline]
    pub(crate) fn lacks(&self, nth: u32, now: Nanos, units: u64) -> Option<Spent> {
        (self.left(now) < units).then(|| Spent {
            nth,
            used: self.used(now),
            asked: units,
            frees_in: self.frees_at(now, units).map_or(Nanos::MAX, |at| at.saturating_sub(now)),
        })
    }

    /// Whether what was used is let go little by little.
    pub(crate) fn refills_bit_by_bit(&self) -> bool {
        !matches!(self.counter, Counter::Fixed(_))
    }

    /// What a strategy compares, and until when it holds if time changes it.
    pub(crate) fn usage(&self, now: Nanos) -> (Usage, Option<Nanos>) {
        let limit = Some(self.limit.amount());
        match self.counter {
            Counter::Bucket(bucket) => bucket.usage(&self.words, now),
            Counter::Fixed(_) => {
                let (current, ends) = Fixed::used(&self.words, now);
                (Usage { current, limit }, (current > 0).then_some(ends))
            }
            Counter::Sliding(sliding) => {
                let current = sliding.used(&self.words, now);
                (Usage { current, limit }, (current > 0).then(|| sliding.lets_go_at(&self.words, now, 1)))
            }
        }
    }

    pub(super) fn charge(&self, now: Nanos, units: u64) -> Charge {
        match self.counter {
            Counter::Fixed(fixed) => fixed.charge(&self.words, now, units),
            Counter::Sliding(sliding) => sliding.charge(&self.words, now, units),
            Counter::Bucket(bucket) => bucket.charge(&self.words, now, units),
        }
    }

    /// Replaces what was charged. A window takes back or takes more if it was the one that was charged; a bucket has no windows, so it
    /// takes more at any time, and takes back what has not refilled since.
    pub(super) fn settle(&self, now: Nanos, charge: Charge, charged: u64, actual: u64) {
        match self.counter {
            Counter::Fixed(_) => Fixed::settle(&self.words, charge, charged, actual),
            Counter::Sliding(_) => Sliding::settle(&self.words, charge, charged, actual),
            Counter::Bucket(bucket) if actual > charged => {
                bucket.charge(&self.words, now, actual - charged);
            }
            Counter::Bucket(bucket) => bucket.refund(&self.words, charge, charged - actual),
        }
    }
}

/// The arithmetic of a limit.
#[derive(Debug, Clone, Copy)]
enum Counter {
    Fixed(Fixed),
    Sliding(Sliding),
    Bucket(Bucket),
}

impl Counter {
    /// And how many words it needs.
    fn of(limit: &Limit) -> (Self, usize) {
        match limit.kind() {
            LimitKind::Fixed(start) => (Self::Fixed(Fixed::new(limit.per(), start)), fixed::WORDS),
            LimitKind::Sliding => (Self::Sliding(Sliding::new(limit.per())), sliding::WORDS),
            LimitKind::Bucket { burst } => (Self::Bucket(Bucket::new(limit.amount(), limit.per(), burst)), bucket::WORDS),
        }
    }
}
