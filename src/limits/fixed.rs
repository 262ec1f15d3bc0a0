//! Windows of a fixed length, at whose end all is let go at once.

use super::limit::Start;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::time::Nanos;

/// How long a window is, and where it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed {
    per: Nanos,
    start: Start,
}

/// The words: when the window ends (0 before the first), what was used in it, and how many charges that is.
pub(super) const WORDS: usize = 3;

/// The window that was charged: when it ends.
pub(super) type Window = Nanos;

impl Fixed {
    pub(super) fn new(per: Nanos, start: Start) -> Self {
        Self { per, start }
    }

    /// Returns what is used, and when it is let go.
    pub(super) fn used(words: &[AtomicU64], now: Nanos) -> (u64, Nanos) {
        let [ends, used, ..] = words else { return (0, now) };
        // Acquire: pairs with the release in `charge`, so that a new window is never seen with an old one's
        // use.
        let ends = ends.load(Ordering::Acquire);
        if now >= ends { (0, now) } else { (used.load(Ordering::Relaxed), ends) }
    }

    pub(super) fn charge(self, words: &[AtomicU64], now: Nanos, units: u64) -> Window {
        let [ends, used, count, ..] = words else { return now };
        // Never back: who read the clock before another one began a window counts into that.
        if now >= ends.load(Ordering::Relaxed) {
            used.store(0, Ordering::Relaxed);
            count.store(0, Ordering::Relaxed);
            let began = match self.start {
                Start::Clock => now - now % self.per,
                Start::FirstUse => now,
            };
            // Release: a thread that sees the new window sees the zero.
            ends.store(began.saturating_add(self.per), Ordering::Release);
        }
        used.store(used.load(Ordering::Relaxed).saturating_add(units), Ordering::Relaxed);
        count.store(count.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        ends.load(Ordering::Relaxed)
    }

    /// Replaces what was charged, if the window that took it is still the last. `None`: the request was never
    /// sent. A first-use window without requests is undone.
    pub(super) fn settle(self, words: &[AtomicU64], window: Window, charged: u64, actual: Option<u64>) {
        let [ends, used, count, ..] = words else { return };
        if ends.load(Ordering::Relaxed) != window {
            return;
        }
        let others = used.load(Ordering::Relaxed).saturating_sub(charged);
        used.store(others.saturating_add(actual.unwrap_or(0)), Ordering::Relaxed);
        if actual.is_none() {
            let others = count.load(Ordering::Relaxed).saturating_sub(1);
            count.store(others, Ordering::Relaxed);
            if others == 0 && self.start == Start::FirstUse {
                ends.store(0, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::time::MINUTE;

    fn words() -> [AtomicU64; WORDS] {
        Default::default()
    }

    #[test]
    fn windows_of_the_clock_begin_at_multiples_of_their_length() {
        let (fixed, words) = (Fixed::new(MINUTE, Start::Clock), words());
        assert_eq!(fixed.charge(&words, 3 * MINUTE + 5, 7), 4 * MINUTE);
        assert_eq!(Fixed::used(&words, 4 * MINUTE - 1), (7, 4 * MINUTE));
        assert_eq!(Fixed::used(&words, 4 * MINUTE), (0, 4 * MINUTE));
        // A window that no request used is skipped.
        assert_eq!(fixed.charge(&words, 9 * MINUTE, 1), 10 * MINUTE);
    }

    #[test]
    fn windows_of_use_begin_with_it() {
        let (fixed, words) = (Fixed::new(MINUTE, Start::FirstUse), words());
        assert_eq!(fixed.charge(&words, 5, 7), MINUTE + 5);
        assert_eq!(fixed.charge(&words, MINUTE + 4, 1), MINUTE + 5);
        assert_eq!(Fixed::used(&words, MINUTE + 4), (8, MINUTE + 5));
        assert_eq!(fixed.charge(&words, MINUTE + 5, 2), 2 * MINUTE + 5);
        assert_eq!(Fixed::used(&words, MINUTE + 5), (2, 2 * MINUTE + 5));
    }

    #[test]
    fn who_read_the_clock_before_a_window_began_counts_into_it() {
        for start in [Start::Clock, Start::FirstUse] {
            let (fixed, words) = (Fixed::new(MINUTE, start), words());
            let window = fixed.charge(&words, 2 * MINUTE, 7);
            assert_eq!(fixed.charge(&words, 2 * MINUTE - 1, 1), window);
            assert_eq!(Fixed::used(&words, 2 * MINUTE - 1), (8, window));
        }
    }

    #[test]
    fn a_window_in_which_nothing_was_sent_has_not_begun() {
        for (start, ends) in [(Start::Clock, MINUTE), (Start::FirstUse, MINUTE + 9)] {
            let (fixed, words) = (Fixed::new(MINUTE, start), words());
            // One of unknown size that is still to come keeps a window going.
            let (one, other) = (fixed.charge(&words, 5, 7), fixed.charge(&words, 6, 0));
            fixed.settle(&words, one, 7, None);
            fixed.settle(&words, other, 0, Some(3));
            assert_eq!(Fixed::used(&words, 7), (3, one));
            let words = self::words();
            let (one, other) = (fixed.charge(&words, 5, 7), fixed.charge(&words, 6, 0));
            fixed.settle(&words, one, 7, None);
            fixed.settle(&words, other, 0, None);
            assert_eq!(fixed.charge(&words, 9, 1), ends);
            assert_eq!(Fixed::used(&words, 9), (1, ends));
        }
    }

    proptest! {
        /// What is used is the sum of a log's charges in the window, as they were settled.
        #[test]
        fn a_window_is_the_sum_of_its_log(
            per in 1..40_u64, first_use: bool,
            steps in prop::collection::vec((0..50_u64, 0..9_u64, prop::option::of((any::<prop::sample::Index>(), 0..9_u64))), 1..60),
        ) {
            let start = if first_use { Start::FirstUse } else { Start::Clock };
            let (fixed, words) = (Fixed::new(per, start), words());
            let (mut now, mut ends, mut log) = (100, 0, Vec::new());
            for (wait, units, settled) in steps {
                now += wait;
                match settled {
                    Some((index, actual)) if !log.is_empty() => {
                        let nth = index.index(log.len());
                        let (window, charged): &mut (Window, u64) = &mut log[nth];
                        fixed.settle(&words, *window, *charged, Some(actual));
                        *charged = actual;
                    }
                    _ => {
                        if now >= ends {
                            ends = if first_use { now + per } else { (now / per + 1) * per };
                        }
                        log.push((ends, units));
                        prop_assert_eq!(fixed.charge(&words, now, units), ends);
                    }
                }
                let used: u64 = log.iter().filter(|&&(window, _)| window > now).map(|&(_, units)| units).sum();
                prop_assert_eq!(Fixed::used(&words, now).0, used);
            }
        }
    }
}
