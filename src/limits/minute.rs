//! Minute windows: the counts of the current minute of the wall clock. All times here are the wall clock's:
//! see `base::wall`.
//!
//! A window rolls when it is next written to in a later minute. Until then a reader takes an old minute's
//! counts as 0. It never rolls back: a writer that read the clock just before another writer rolled the
//! window counts into the newer minute.
//!
//! Readers take no lock. Writers hold the lock of the block that the window is part of. That makes a check
//! and the reservation after it one step.

use super::unit::Unit;
use crate::base::lock::Held;
use crate::base::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::base::time::{MINUTE, Nanos};

/// A clock minute, counted from the epoch.
pub(crate) type Minute = u32;

/// The counts of a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) tokens: u64,
    /// Failures that count towards a cooldown.
    pub(crate) fails: u32,
    /// Outcomes of requests that an earlier minute counted.
    pub(crate) carried: u32,
}

/// The counters of one minute.
#[derive(Debug, Default)]
#[repr(C)] // its place in a cache line counts: see `State`
pub(crate) struct MinuteWindow {
    requests: AtomicU64,
    tokens: AtomicU64,
    minute: AtomicU32,
    fails: AtomicU32,
    carried: AtomicU32,
    /// Requests of all earlier minutes.
    earlier: AtomicU64,
}

pub(crate) fn minute_of(wall: Nanos) -> Minute {
    // Fits: 64 bits of nanoseconds are 3 * 10^8 minutes.
    Minute::try_from(wall / MINUTE).unwrap_or(Minute::MAX)
}

/// Returns the nanoseconds to the next minute.
pub(crate) fn to_next_minute(wall: Nanos) -> Nanos {
    MINUTE - wall % MINUTE
}

impl MinuteWindow {
    /// The number of bytes that a reservation touches.
    #[cfg(test)]
    pub(crate) const RESERVED: usize = std::mem::offset_of!(Self, carried);

    /// Returns the requests of the minute that was counted last. They are never fewer than those of the
    /// current minute, and no clock is read.
    #[inline]
    pub(crate) fn requests_at_most(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the tokens of the minute that was counted last: see [`MinuteWindow::requests_at_most`].
    #[inline]
    pub(crate) fn tokens_at_most(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Returns the requests of all minutes.
    pub(crate) fn total_requests(&self, _: &Held<'_>) -> u64 {
        // `earlier` wraps below 0 while the minute holds requests that other counters counted: see `raise`.
        self.earlier.load(Ordering::Relaxed).wrapping_add(self.requests_at_most())
    }

    /// Returns the counts of the minute of `wall`.
    #[inline]
    pub(crate) fn counts(&self, wall: Nanos) -> Counts {
        // Acquire: pairs with the release in `roll`, so that a new minute is never seen with an old minute's
        // counts.
        if self.minute.load(Ordering::Acquire) < minute_of(wall) {
            return Counts::default();
        }
        Counts {
            requests: self.requests.load(Ordering::Relaxed),
            tokens: self.tokens.load(Ordering::Relaxed),
            fails: self.fails.load(Ordering::Relaxed),
            carried: self.carried.load(Ordering::Relaxed),
        }
    }

    /// Counts a request and its tokens, and returns the minute that took them.
    pub(crate) fn charge(&self, held: &Held<'_>, wall: Nanos, tokens: u64) -> Minute {
        let minute = self.roll(held, wall);
        self.requests.store(self.requests.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        self.tokens.store(self.tokens.load(Ordering::Relaxed).saturating_add(tokens), Ordering::Relaxed);
        minute
    }

    /// Raises the minute's count of a unit to the count of another counter. Totals stay what they are.
    pub(crate) fn raise(&self, held: &Held<'_>, wall: Nanos, unit: Unit, used: u64) {
        self.roll(held, wall);
        let counter = if unit == Unit::Requests { &self.requests } else { &self.tokens };
        let own = counter.load(Ordering::Relaxed);
        let more = used.saturating_sub(own);
        counter.store(own.saturating_add(more), Ordering::Relaxed);
        if unit == Unit::Requests {
            self.earlier.store(self.earlier.load(Ordering::Relaxed).wrapping_sub(more), Ordering::Relaxed);
        }
    }

    /// Replaces estimated tokens by the actual ones, if the minute that took them is still the window's.
    pub(crate) fn settle(&self, _: &Held<'_>, minute: Minute, estimated: u64, actual: u64) {
        if self.minute.load(Ordering::Relaxed) == minute {
            let others = self.tokens.load(Ordering::Relaxed).saturating_sub(estimated);
            self.tokens.store(others.saturating_add(actual), Ordering::Relaxed);
        }
    }

    /// Takes back a request that was never sent, and its tokens if the minute that took them is still the
    /// window's.
    pub(crate) fn refund(&self, held: &Held<'_>, minute: Minute, tokens: u64) {
        let requests = if self.minute.load(Ordering::Relaxed) == minute { &self.requests } else { &self.earlier };
        requests.store(requests.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        self.settle(held, minute, tokens, 0);
    }

    /// Counts an outcome of a request that `counted_in` counted.
    #[inline]
    pub(crate) fn outcome(&self, held: &Held<'_>, wall: Nanos, counted_in: Minute) {
        let minute = self.roll(held, wall);
        if counted_in != minute {
            self.carried.store(self.carried.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Counts an outcome that is a failure, and returns what its minute has counted.
    pub(crate) fn failure(&self, held: &Held<'_>, wall: Nanos, counted_in: Minute) -> Counts {
        self.outcome(held, wall, counted_in);
        self.fails.store(self.fails.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        self.counts(wall)
    }

    /// Starts the minute of `wall` if it is later than the window's, and returns the window's minute.
    fn roll(&self, _: &Held<'_>, wall: Nanos) -> Minute {
        let minute = minute_of(wall);
        let current = self.minute.load(Ordering::Relaxed);
        if minute <= current {
            return current;
        }
        self.earlier.store(self.earlier.load(Ordering::Relaxed).wrapping_add(self.requests_at_most()), Ordering::Relaxed);
        self.requests.store(0, Ordering::Relaxed);
        self.tokens.store(0, Ordering::Relaxed);
        self.fails.store(0, Ordering::Relaxed);
        self.carried.store(0, Ordering::Relaxed);
        // Release: a thread that sees the new minute sees the zeros.
        self.minute.store(minute, Ordering::Release);
        minute
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        for counter in [&self.requests, &self.tokens, &self.earlier] {
            counter.store(0, Ordering::Relaxed);
        }
        for counter in [&self.minute, &self.fails, &self.carried] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::lock::Lock;

    #[test]
    fn who_read_the_clock_before_the_minute_turned_sees_the_newer_minute() {
        let (lock, window) = (Lock::default(), MinuteWindow::default());
        window.charge(&lock.hold(), 2 * MINUTE, 7);
        assert_eq!(window.counts(2 * MINUTE - 1), Counts { requests: 1, tokens: 7, ..Counts::default() });
        assert_eq!(window.charge(&lock.hold(), MINUTE, 1), 2);
        assert_eq!(window.counts(3 * MINUTE), Counts::default());
    }

    /// Hardware that reorders little would pass this test anyway. Miri gives a reader any value that the
    /// orders allow. Under miri it fails without the acquire or the release.
    #[test]
    fn a_new_minute_is_never_seen_with_the_counts_of_the_last() {
        for _ in 0..50 {
            let (lock, window) = (Lock::default(), MinuteWindow::default());
            window.charge(&lock.hold(), 0, 7);
            std::thread::scope(|scope| {
                scope.spawn(|| window.charge(&lock.hold(), MINUTE, 1));
                for _ in 0..50 {
                    let counts = window.counts(MINUTE);
                    assert!(counts.tokens <= 1, "{counts:?}");
                    std::thread::yield_now();
                }
            });
        }
    }
}
