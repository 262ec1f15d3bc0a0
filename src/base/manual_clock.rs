//! A clock that is moved by hand, for tests and simulations.

use std::sync::Weak;

use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Mutex, hold};
use super::time::{MAX_READING, MINUTE, Nanos};

/// A clock that moves only when told to.
///
/// Its reading can be set back, as a wall clock's can. The time that routers see never runs back:
///
/// - After a step back of up to a minute the time stands still until the reading has caught up. So no minute
///   is counted twice.
/// - After a longer step back the time goes on from where it was. So nothing waits for the old reading to
///   come again.
///
/// ```
/// let clock = turnout::ManualClock::new(0);
/// assert!(clock.advance(2_000_000_000));
/// assert_eq!(clock.reading(), 2_000_000_000);
/// ```
#[derive(Debug)]
pub struct ManualClock {
    dial: Mutex<Dial>,
    time: AtomicU64,
    /// The objects that are told when the clock has moved.
    watches: Mutex<Vec<Weak<dyn Watch>>>,
}

/// Learns when a manual clock has moved. It is called under no lock of the clock.
pub(crate) trait Watch: Send + Sync {
    /// Learns that the time may have moved on.
    fn time_has_moved(&self);
}

#[derive(Debug)]
struct Dial {
    reading: Nanos,
    /// The time moves on when the reading passes this one.
    high: Nanos,
}

impl ManualClock {
    /// Makes a clock that reads `start`, or the largest reading if that is less.
    #[must_use]
    pub fn new(start: Nanos) -> Self {
        let start = start.min(MAX_READING);
        Self { dial: Mutex::new(Dial { reading: start, high: start }), time: AtomicU64::new(start), watches: Mutex::default() }
    }

    /// Returns the reading.
    #[must_use]
    pub fn reading(&self) -> Nanos {
        hold(&self.dial).reading
    }

    /// Sets the reading, forward or back. It is at most the largest reading.
    pub fn set(&self, reading: Nanos) {
        self.set_dial(&mut hold(&self.dial), reading.min(MAX_READING));
        self.announce();
    }

    /// Moves the reading forward, unless it would pass the largest one, 10^10 seconds. Returns whether it has
    /// moved.
    pub fn advance(&self, by: Nanos) -> bool {
        let mut dial = hold(&self.dial);
        let reading = dial.reading.saturating_add(by);
        let fits = reading <= MAX_READING;
        if fits {
            self.set_dial(&mut dial, reading);
        }
        drop(dial);
        self.announce();
        fits
    }

    /// Calls `watch` from now on, for as long as it lives.
    pub(crate) fn watch(&self, watch: Weak<dyn Watch>) {
        let mut watches = hold(&self.watches);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(watch);
    }

    fn announce(&self) {
        let watches = hold(&self.watches).clone();
        watches.iter().filter_map(Weak::upgrade).for_each(|watch| watch.time_has_moved());
    }

    fn set_dial(&self, dial: &mut Dial, reading: Nanos) {
        dial.reading = reading;
        if dial.reading > dial.high {
            let passed = dial.reading - dial.high;
            self.time.store(self.time().saturating_add(passed), Ordering::Relaxed);
            dial.high = dial.reading;
        } else if dial.high - dial.reading > MINUTE {
            dial.high = dial.reading;
        }
    }

    /// Returns the time that routers see.
    pub(crate) fn time(&self) -> Nanos {
        self.time.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::SECOND;

    #[test]
    fn a_short_step_back_holds_the_time() {
        let clock = ManualClock::new(65 * SECOND);
        clock.set(59 * SECOND);
        assert_eq!(clock.time(), 65 * SECOND);
        clock.set(64 * SECOND);
        assert_eq!(clock.time(), 65 * SECOND);
        clock.set(70 * SECOND);
        assert_eq!(clock.time(), 70 * SECOND);
        assert_eq!(clock.reading(), 70 * SECOND);
    }

    #[test]
    fn time_goes_on_after_a_long_step_back() {
        let clock = ManualClock::new(1_000_000 * SECOND);
        clock.set(0);
        assert_eq!(clock.time(), 1_000_000 * SECOND);
        clock.advance(61 * SECOND);
        assert_eq!(clock.time(), 1_000_061 * SECOND);
    }
}
