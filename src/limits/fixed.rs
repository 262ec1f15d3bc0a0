//! Windows of a fixed length. At the end of a window all its units are free again at once.
//!
//! Windows that follow the clock are counted in the wall clock's time: see `base::wall`.

use std::sync::Arc;

use super::limit::Start;
use super::zone::DAY;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::time::Nanos;
use crate::base::wall::Wall;

/// The length of windows, and where they begin.
#[derive(Debug, Clone)]
pub(super) struct Fixed {
    per: Nanos,
    start: Start,
    /// The record of the wall clock, if windows follow the wall clock and it may differ from the router's
    /// time.
    wall: Option<Arc<Wall>>,
}

/// The words: when the window ends (0 before the first), the units that were used in it, and the number of
/// its charges.
pub(super) const WORDS: usize = 3;

/// The window that was charged, known by its end.
pub(super) type Window = Nanos;

impl Fixed {
    /// Makes the windows of a limit.
    pub(super) fn new(per: Nanos, start: Start, wall: Option<&Arc<Wall>>) -> Self {
        Self { per, start, wall: wall.filter(|_| start != Start::FirstUse).cloned() }
    }

    /// Returns how far the time of the windows is ahead of the router's time `now`.
    fn ahead(&self, now: Nanos) -> Nanos {
        self.wall.as_ref().map_or(0, |wall| wall.ahead(now))
    }

    /// Returns the end of the window that holds `time`, or that begins with a request at `time`. `time` is in
    /// the windows' own clock.
    pub(super) fn ends(&self, time: Nanos) -> Nanos {
        match self.start {
            Start::Clock => (time - time % self.per).saturating_add(self.per),
            Start::Offset(offset) => {
                let since = time.saturating_add(self.per - offset) % self.per;
                time.saturating_add(self.per - since)
            }
            Start::Midnight(zone) => zone.window_ends(time, self.per / DAY),
            Start::FirstUse => time.saturating_add(self.per),
        }
    }

    /// Returns the used units, and when they are free again.
    pub(super) fn used(&self, words: &[AtomicU64], now: Nanos) -> (u64, Nanos) {
        let [ends, used, ..] = words else { return (0, now) };
        let ahead = self.ahead(now);
        // Acquire: pairs with the release in `charge`, so that a new window is never seen with an old one's
        // use.
        let ends = match ends.load(Ordering::Acquire) {
            0 => 0,
            ends => to_router(ends, ahead),
        };
        if now >= ends { (0, now) } else { (used.load(Ordering::Relaxed), ends) }
    }

    pub(super) fn charge(&self, words: &[AtomicU64], now: Nanos, units: u64) -> Window {
        let [ends, used, count, ..] = words else { return now };
        // When a request is counted, no step of the wall clock may be missed.
        self.wall.iter().for_each(|wall| wall.look(now));
        let time = now.wrapping_add(self.ahead(now));
        // The window never goes back. A thread that read the clock before another thread began a window
        // counts into that window.
        if time >= ends.load(Ordering::Relaxed) {
            used.store(0, Ordering::Relaxed);
            count.store(0, Ordering::Relaxed);
            // Release: a thread that sees the new window sees the zero.
            ends.store(self.ends(time), Ordering::Release);
        }
        used.store(used.load(Ordering::Relaxed).saturating_add(units), Ordering::Relaxed);
        count.store(count.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        ends.load(Ordering::Relaxed)
    }

    /// Lets the window be the one that ends then, if windows begin with their first use.
    pub(super) fn follow(&self, words: &[AtomicU64], window: Window) {
        let [ends, used, count, ..] = words else { return };
        if self.start == Start::FirstUse && ends.load(Ordering::Relaxed) != window {
            used.store(0, Ordering::Relaxed);
            count.store(0, Ordering::Relaxed);
            ends.store(window, Ordering::Release);
        }
    }

    /// Replaces the charged units, if the window that took them is still the last. `None`: the request was
    /// never sent. A first-use window without requests is undone.
    pub(super) fn settle(&self, words: &[AtomicU64], window: Window, charged: u64, actual: Option<u64>) {
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

/// Returns the router's time when another clock, which is `ahead`, shows `time`.
pub(super) fn to_router(time: Nanos, ahead: Nanos) -> Nanos {
    // A clock that is behind is ahead by a number below zero, wrapped.
    if ahead > Nanos::MAX / 2 { time.saturating_add(ahead.wrapping_neg()) } else { time.saturating_sub(ahead) }
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
        let (fixed, words) = (Fixed::new(MINUTE, Start::Clock, None), words());
        assert_eq!(fixed.charge(&words, 3 * MINUTE + 5, 7), 4 * MINUTE);
        assert_eq!(fixed.used(&words, 4 * MINUTE - 1), (7, 4 * MINUTE));
        assert_eq!(fixed.used(&words, 4 * MINUTE), (0, 4 * MINUTE));
        // A window that no request used is skipped.
        assert_eq!(fixed.charge(&words, 9 * MINUTE, 1), 10 * MINUTE);
    }

    #[test]
    fn windows_may_begin_after_multiples_of_their_length() {
        let (fixed, words) = (Fixed::new(MINUTE, Start::Offset(20), None), words());
        assert_eq!(fixed.charge(&words, 5, 1), 20, "the first is cut off by the beginning of time");
        assert_eq!(fixed.charge(&words, 20, 1), MINUTE + 20);
        assert_eq!(fixed.charge(&words, 3 * MINUTE + 19, 1), 3 * MINUTE + 20);
    }

    #[test]
    fn windows_of_the_clock_follow_the_wall_clock() {
        let second = MINUTE / 60;
        // This is the year 2293: the machine's own clock is not ahead of that.
        let epoch = 170_000_000 * MINUTE;
        let now = epoch + 5 * MINUTE + 5 * second;
        let words = words();
        let fixed = |start, ahead| Fixed::new(MINUTE, start, Some(&Arc::new(Wall::ahead_by(ahead * second))));
        assert_eq!(fixed(Start::Clock, 0).charge(&words, now, 7), epoch + 6 * MINUTE);
        let used = [0, 30, 54, 55].map(|ahead| fixed(Start::Clock, ahead).used(&words, now));
        assert_eq!(used, [(7, epoch + 6 * MINUTE), (7, now + 25 * second), (7, now + second), (0, now)]);
        assert_eq!(fixed(Start::Clock, 55).charge(&words, now, 1), epoch + 7 * MINUTE);
        assert_eq!(
            fixed(Start::FirstUse, 3600).used(&words, now),
            (1, epoch + 7 * MINUTE),
            "the window of a first use is no clock's"
        );
    }

    #[test]
    fn windows_of_use_begin_with_it() {
        let (fixed, words) = (Fixed::new(MINUTE, Start::FirstUse, None), words());
        assert_eq!(fixed.charge(&words, 5, 7), MINUTE + 5);
        assert_eq!(fixed.charge(&words, MINUTE + 4, 1), MINUTE + 5);
        assert_eq!(fixed.used(&words, MINUTE + 4), (8, MINUTE + 5));
        assert_eq!(fixed.charge(&words, MINUTE + 5, 2), 2 * MINUTE + 5);
        assert_eq!(fixed.used(&words, MINUTE + 5), (2, 2 * MINUTE + 5));
    }

    #[test]
    fn who_read_the_clock_before_a_window_began_counts_into_it() {
        for start in [Start::Clock, Start::FirstUse] {
            let (fixed, words) = (Fixed::new(MINUTE, start, None), words());
            let window = fixed.charge(&words, 2 * MINUTE, 7);
            assert_eq!(fixed.charge(&words, 2 * MINUTE - 1, 1), window);
            assert_eq!(fixed.used(&words, 2 * MINUTE - 1), (8, window));
        }
    }

    #[test]
    fn a_window_in_which_nothing_was_sent_has_not_begun() {
        for (start, ends) in [(Start::Clock, MINUTE), (Start::FirstUse, MINUTE + 9)] {
            let (fixed, words) = (Fixed::new(MINUTE, start, None), words());
            // A request of unknown size that is still in flight keeps a window going.
            let (one, other) = (fixed.charge(&words, 5, 7), fixed.charge(&words, 6, 0));
            fixed.settle(&words, one, 7, None);
            fixed.settle(&words, other, 0, Some(3));
            assert_eq!(fixed.used(&words, 7), (3, one));
            let words = self::words();
            let (one, other) = (fixed.charge(&words, 5, 7), fixed.charge(&words, 6, 0));
            fixed.settle(&words, one, 7, None);
            fixed.settle(&words, other, 0, None);
            assert_eq!(fixed.charge(&words, 9, 1), ends);
            assert_eq!(fixed.used(&words, 9), (1, ends));
        }
    }

    proptest! {
        /// The used units are the sum of a log's charges in the window, as they were settled.
        #[test]
        fn a_window_is_the_sum_of_its_log(
            per in 1..40_u64, first_use: bool,
            steps in prop::collection::vec((0..50_u64, 0..9_u64, prop::option::of((any::<prop::sample::Index>(), 0..9_u64))), 1..60),
        ) {
            let start = if first_use { Start::FirstUse } else { Start::Clock };
            let (fixed, words) = (Fixed::new(per, start, None), words());
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
                prop_assert_eq!(fixed.used(&words, now).0, used);
            }
        }
    }
}
