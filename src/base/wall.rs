//! How far the wall clock was set forward since a router's clock was started.
//!
//! A monotonic clock carries a router's time on. It knows nothing of corrections of the wall clock, or of the
//! time that the machine slept. Windows that begin with the clock's minutes follow the wall clock: they add
//! the difference that is kept here. Cooldowns, waits, latencies and all else keep to the monotonic time. A
//! step back is not followed, so that no window is counted twice.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::sync::atomic::{AtomicU64, Ordering};
use super::time::{Nanos, SECOND};

/// A look at the wall clock is due when this much time has passed since the last look. So nearly every use of
/// a window looks at it, unless requests come in a rush.
const LOOK_AFTER: Nanos = SECOND / 20_000;

/// A smaller difference is no step: the two clocks are not read at the same moment.
const LEAST_STEP: Nanos = SECOND / 20;

#[derive(Debug, Default)]
pub(crate) struct Wall {
    ahead: AtomicU64,
    /// The router's time at the last look.
    looked_at: AtomicU64,
    /// The time of the coarse clock when it last asked for a look. It may be ahead of the router's time, or
    /// behind, by one tick of the kernel.
    coarse_looked_at: AtomicU64,
}

impl Wall {
    /// Makes a record that is ahead by this much. It looks again only when it is told to.
    #[cfg(test)]
    pub(crate) fn ahead_by(ahead: Nanos) -> Self {
        Self { ahead: AtomicU64::new(ahead), looked_at: AtomicU64::new(u64::MAX), ..Self::default() }
    }

    /// Follows another clock from now on, and no look at the wall clock any more. That clock is ahead of the
    /// router's time by this much. It may be behind: then this is a small number below zero, wrapped.
    pub(crate) fn follow(&self, ahead: Nanos) {
        self.ahead.store(ahead, Ordering::Relaxed);
        // No look is due at any time.
        self.looked_at.store(u64::MAX, Ordering::Relaxed);
        self.coarse_looked_at.store(u64::MAX, Ordering::Relaxed);
    }

    /// Returns how far the wall clock is ahead of a router's time, as of the last look.
    #[inline]
    pub(crate) fn known_ahead(&self) -> Nanos {
        self.ahead.load(Ordering::Relaxed)
    }

    /// Returns how far the wall clock is ahead of the router's time `now`. If a look at the wall clock is
    /// due, it looks.
    #[inline]
    pub(crate) fn ahead(&self, now: Nanos) -> Nanos {
        if self.is_look_due(now) {
            self.look(now);
        }
        self.known_ahead()
    }

    /// Returns whether the last look is some time ago.
    #[inline]
    pub(crate) fn is_look_due(&self, now: Nanos) -> bool {
        now.saturating_sub(self.looked_at.load(Ordering::Relaxed)) >= LOOK_AFTER
    }

    /// Returns whether the coarse clock has ticked since it last asked for a look.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(crate) fn is_look_due_by_coarse_clock(&self, coarse: Nanos) -> bool {
        let is_due = coarse.saturating_sub(self.coarse_looked_at.load(Ordering::Relaxed)) >= LOOK_AFTER;
        if is_due {
            self.coarse_looked_at.store(coarse, Ordering::Relaxed);
        }
        is_due
    }

    /// Looks at the wall clock.
    #[cold]
    pub(crate) fn look(&self, now: Nanos) {
        if self.looked_at.load(Ordering::Relaxed) == u64::MAX {
            return;
        }
        self.compare(now, Nanos::try_from(read().as_nanos()).unwrap_or(Nanos::MAX));
    }

    /// Compares the router's time with the wall clock's, which was read a moment later.
    fn compare(&self, now: Nanos, wall: Nanos) {
        self.looked_at.store(now, Ordering::Relaxed);
        let ahead = wall.saturating_sub(now);
        if ahead >= self.known_ahead().saturating_add(LEAST_STEP) {
            self.ahead.fetch_max(ahead, Ordering::Relaxed);
        }
    }
}

/// Reads the wall clock: the time since the Unix epoch.
#[allow(clippy::disallowed_methods)] // this is where time comes from
fn read() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the wall clock's time in microseconds, for dates that come from outside.
pub(crate) fn micros() -> i64 {
    i64::try_from(read().as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_forward_is_followed_and_a_step_back_is_not() {
        let wall = Wall::default();
        let mut now = 1000 * SECOND;
        for (step, expected) in [(0, 0), (30, 30), (29, 30), (-3600, 30), (30, 30), (31, 31)] {
            now += SECOND;
            wall.compare(now, now.saturating_add_signed(step * 1_000_000_000));
            assert_eq!(wall.known_ahead(), expected * SECOND, "{step}");
        }
    }

    #[test]
    fn clocks_that_are_read_one_after_the_other_are_no_step() {
        let wall = Wall::default();
        wall.compare(SECOND, SECOND + LEAST_STEP - 1);
        assert_eq!(wall.known_ahead(), 0);
        wall.compare(SECOND, SECOND + LEAST_STEP);
        assert_eq!(wall.known_ahead(), LEAST_STEP);
    }

    #[test]
    fn a_look_is_due_after_a_while() {
        let wall = Wall::default();
        wall.compare(SECOND, SECOND);
        assert!(!wall.is_look_due(SECOND + LOOK_AFTER - 1) && wall.is_look_due(SECOND + LOOK_AFTER));
    }
}
