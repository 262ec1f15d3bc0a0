//! The number of recent cooldowns or pauses. The next one grows with it.

use super::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use super::time::Nanos;

/// Cooldowns, or pauses of a quota, that are not forgotten yet. They are written under the lock of their
/// owner.
#[derive(Debug, Default)]
pub(crate) struct Trips {
    count: AtomicU32,
    /// The end of the last of them.
    last: AtomicU64,
}

impl Trips {
    /// Returns how many are not forgotten. For each `forget_after` that has passed since the last one ended,
    /// one is forgotten.
    pub(crate) fn remembered(&self, forget_after: Nanos, now: Nanos) -> u32 {
        let forgotten = now.saturating_sub(self.last_ends()) / forget_after.max(1);
        self.count.load(Ordering::Relaxed).saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// Returns when the last one ends or ended.
    fn last_ends(&self) -> Nanos {
        self.last.load(Ordering::Relaxed)
    }

    /// Counts one that ends at `until`, after `remembered` others.
    pub(crate) fn add(&self, remembered: u32, until: Nanos) {
        self.count.store(remembered.saturating_add(1), Ordering::Relaxed);
        self.last.store(until, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.count.store(0, Ordering::Relaxed);
        self.last.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_forgotten_for_each_while_since_the_last() {
        let trips = Trips::default();
        trips.add(2, 100);
        let remembered = [0, 100, 109, 110, 120, 130, u64::MAX].map(|now| trips.remembered(10, now));
        assert_eq!(remembered, [3, 3, 3, 2, 1, 0, 0]);
        trips.clear();
        assert_eq!((trips.remembered(10, 100), trips.last_ends()), (0, 0));
    }
}
