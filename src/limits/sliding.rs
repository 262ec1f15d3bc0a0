//! A window that slides: any stretch of its length uses no more than the limit, at whatever moment it begins.
//!
//! The length is cut into [`SLICES`] slices. A slice is let go when its youngest moment is as old as the
//! window is long. So the window looks back by up to one slice more than it must. It never admits too much.
//! It is at most a sixtieth stricter than a log of every request, which would take unbounded memory.

use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::time::Nanos;

/// Slices of a window.
const SLICES: u64 = 60;

/// The number of slices that a window reaches over. The current slice is only begun.
const RING: u64 = SLICES + 1;

/// The words: the latest slice, what the slices of the ring took together, and each by itself.
#[allow(clippy::cast_possible_truncation)] // 61
pub(super) const WORDS: usize = 2 + RING as usize;

/// The slice that was charged.
pub(super) type Slice = u64;

#[derive(Debug, Clone, Copy)]
pub(super) struct Sliding {
    slice: Nanos,
}

impl Sliding {
    pub(super) fn new(per: Nanos) -> Self {
        Self { slice: per.div_ceil(SLICES) }
    }

    /// Returns what the window has used.
    pub(super) fn used(self, words: &[AtomicU64], now: Nanos) -> u64 {
        let [latest, total, ring @ ..] = words else { return 0 };
        let latest = latest.load(Ordering::Relaxed);
        let gone = now / self.slice;
        let total = total.load(Ordering::Relaxed);
        if gone <= latest || total == 0 {
            return total;
        }
        let left: u64 = alive(latest, gone).map(|slice| at(ring, slice)).fold(0, u64::saturating_add);
        left.min(total)
    }

    /// Returns when `units` fewer units will be used than now.
    pub(super) fn lets_go_at(self, words: &[AtomicU64], now: Nanos, units: u64) -> Nanos {
        let [latest, _, ring @ ..] = words else { return now };
        let latest = latest.load(Ordering::Relaxed);
        let mut gone = 0_u64;
        let mut at = now;
        for slice in alive(latest, (now / self.slice).max(latest)) {
            if gone >= units {
                break;
            }
            gone = gone.saturating_add(self::at(ring, slice));
            at = slice.saturating_add(RING).saturating_mul(self.slice);
        }
        at.max(now)
    }

    pub(super) fn charge(self, words: &[AtomicU64], now: Nanos, units: u64) -> Slice {
        let [latest, total, ring @ ..] = words else { return 0 };
        let slice = self.roll(words, now);
        if let Some(taken) = place(ring, slice) {
            add(taken, units);
        }
        add(total, units);
        latest.load(Ordering::Relaxed)
    }

    /// Replaces what was charged, if the slice that took it is still in the window.
    pub(super) fn settle(words: &[AtomicU64], slice: Slice, charged: u64, actual: u64) {
        let [latest, total, ring @ ..] = words else { return };
        if latest.load(Ordering::Relaxed) >= slice.saturating_add(RING) {
            return;
        }
        for counter in place(ring, slice).into_iter().chain([total]) {
            let others = counter.load(Ordering::Relaxed).saturating_sub(charged);
            counter.store(others.saturating_add(actual), Ordering::Relaxed);
        }
    }

    /// Begins the slice of `now` if it is later than the latest, and returns the latest.
    fn roll(self, words: &[AtomicU64], now: Nanos) -> Slice {
        let [latest, total, ring @ ..] = words else { return 0 };
        let (last, slice) = (latest.load(Ordering::Relaxed), now / self.slice);
        if slice <= last {
            return last;
        }
        for begun in last.saturating_add(1).max(slice.saturating_sub(SLICES))..=slice {
            if let Some(taken) = place(ring, begun) {
                taken.store(0, Ordering::Relaxed);
            }
        }
        // Added up anew: what is above 2^64 cannot be taken off again.
        let taken = ring.iter().map(|taken| taken.load(Ordering::Relaxed));
        total.store(taken.fold(0, u64::saturating_add), Ordering::Relaxed);
        latest.store(slice, Ordering::Relaxed);
        slice
    }
}

/// Returns the slices of the ring that a window which ends in slice `end` still reaches.
fn alive(latest: Slice, end: Slice) -> impl Iterator<Item = Slice> {
    end.saturating_sub(SLICES)..=latest
}

fn place(ring: &[AtomicU64], slice: Slice) -> Option<&AtomicU64> {
    ring.get(usize::try_from(slice % RING).unwrap_or(0))
}

fn at(ring: &[AtomicU64], slice: Slice) -> u64 {
    place(ring, slice).map_or(0, |taken| taken.load(Ordering::Relaxed))
}

fn add(counter: &AtomicU64, units: u64) {
    counter.store(counter.load(Ordering::Relaxed).saturating_add(units), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::time::{MINUTE, SECOND};

    fn words() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_charge_is_let_go_when_its_slice_is_a_window_old() {
        let (sliding, words) = (Sliding::new(MINUTE), words());
        let now = 1_000 * MINUTE + 10 * SECOND + 7;
        sliding.charge(&words, now, 5);
        let goes_at = 1_001 * MINUTE + 11 * SECOND;
        assert_eq!(sliding.used(&words, goes_at - 1), 5);
        assert_eq!(sliding.used(&words, goes_at), 0);
        assert_eq!(sliding.lets_go_at(&words, now, 1), goes_at);
        assert_eq!(sliding.lets_go_at(&words, now, 0), now);
    }

    #[test]
    fn who_read_the_clock_before_a_slice_began_counts_into_it() {
        let (sliding, words) = (Sliding::new(MINUTE), words());
        let slice = sliding.charge(&words, 100 * SECOND, 5);
        assert_eq!(sliding.charge(&words, 99 * SECOND, 1), slice);
        assert_eq!(sliding.used(&words, 99 * SECOND), 6);
        assert_eq!(sliding.used(&words, 161 * SECOND), 0);
    }

    #[test]
    fn what_a_slice_that_has_left_took_is_not_settled() {
        let (sliding, words) = (Sliding::new(MINUTE), words());
        let old = sliding.charge(&words, 100 * SECOND, 5);
        // The same place of the ring.
        let new = sliding.charge(&words, 161 * SECOND, 3);
        Sliding::settle(&words, old, 5, 0);
        assert_eq!(sliding.used(&words, 161 * SECOND), 3);
        Sliding::settle(&words, new, 3, 4);
        assert_eq!(sliding.used(&words, 161 * SECOND), 4);
    }

    #[test]
    fn what_is_more_than_can_be_counted_does_not_count_as_less() {
        let (sliding, words) = (Sliding::new(MINUTE), words());
        for at in [100, 130] {
            sliding.charge(&words, at * SECOND, u64::MAX);
        }
        sliding.charge(&words, 161 * SECOND, 1);
        assert_eq!(sliding.used(&words, 161 * SECOND), u64::MAX);
        sliding.charge(&words, 191 * SECOND, 1);
        assert_eq!(sliding.used(&words, 191 * SECOND), 2);
    }

    proptest! {
        /// What is used is never less than what a log says of the last `per`, and never more than it says of
        /// a slice longer.
        #[test]
        fn what_is_used_lies_between_two_logs(
            per in prop_oneof![1_000_000..2_000_000_u64, Just(MINUTE)],
            steps in prop::collection::vec(
                (prop_oneof![0..20_u64, 0..1_000_u64], 0..9_u64, prop::option::of((any::<prop::sample::Index>(), 0..9_u64))), 1..120,
            ),
        ) {
            let (sliding, words) = (Sliding::new(per), words());
            let slice = per.div_ceil(60);
            let (mut now, mut log) = (5 * per, Vec::new());
            for (wait, units, settled) in steps {
                now += wait * per / 500;
                match settled {
                    Some((index, actual)) if !log.is_empty() => {
                        let nth = index.index(log.len());
                        let (_, mark, charged): &mut (Nanos, Slice, u64) = &mut log[nth];
                        Sliding::settle(&words, *mark, *charged, actual);
                        *charged = actual;
                    }
                    _ => log.push((now, sliding.charge(&words, now, units), units)),
                }
                let since = |length: Nanos| log.iter().filter(|&&(at, ..)| at + length > now).map(|&(.., units)| units).sum::<u64>();
                let used = sliding.used(&words, now);
                prop_assert!((since(per)..=since(61 * slice)).contains(&used), "{used} {} {}", since(per), since(61 * slice));
                // And it says exactly when any part of it goes.
                for units in 1..=used {
                    let at = sliding.lets_go_at(&words, now, units);
                    prop_assert!(sliding.used(&words, at - 1) > used - units && sliding.used(&words, at) <= used - units);
                }
            }
        }
    }
}
