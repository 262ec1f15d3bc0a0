//! Windows of a fixed length, at whose end all is let go at once.

use crate::clock::Nanos;
use crate::limits::Start;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How long a window is, and where it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed {
    per: Nanos,
    start: Start,
}

/// The words: when the window ends (0 before the first), and what was used in it.
pub(super) const WORDS: usize = 2;

/// The window that was charged: when it ends.
pub(super) type Window = Nanos;

impl Fixed {
    pub(super) fn new(per: Nanos, start: Start) -> Self {
        Self { per, start }
    }

    /// What is used, and when it is let go.
    pub(super) fn used(words: &[AtomicU64], now: Nanos) -> (u64, Nanos) {
        let [ends, used, ..] = words else { return (0, now) };
        // Acquire: pairs with the release in `charge`, so that a new window is never seen with an old one's use.
        let ends = ends.load(Ordering::Acquire);
        if now >= ends { (0, now) } else { (used.load(Ordering::Relaxed), ends) }
    }

    pub(super) fn charge(self, words: &[AtomicU64], now: Nanos, units: u64) -> Window {
        let [ends, used, ..] = words else { return now };
        // Never back: who read the clock before another one began a window counts into that.
        if now >= ends.load(Ordering::Relaxed) {
            used.store(0, Ordering::Relaxed);
            let began = match self.start {
                Start::Clock => now - now % self.per,
                Start::FirstUse => now,
            };
            // Release: whoever sees the new window sees the zero.
            ends.store(began.saturating_add(self.per), Ordering::Release);
        }
        used.store(used.load(Ordering::Relaxed).saturating_add(units), Ordering::Relaxed);
        ends.load(Ordering::Relaxed)
    }

    /// Replaces what was charged, if the window that took it is still the last.
    pub(super) fn settle(words: &[AtomicU64], window: Window, charged: u64, actual: u64) {
        let [ends, used, ..] = words else { return };
        if ends.load(Ordering::Relaxed) == window {
            let others = used.load(Ordering::Relaxed).saturating_sub(charged);
            used.store(others.saturating_add(actual), Ordering::Relaxed);
        }
    }
}
