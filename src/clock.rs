//! The only source of time, so that a test can replace it.
//!
//! Time is nanoseconds since the Unix epoch, so that minute windows are the clock's minutes. A router's time never runs backwards:
//! the system clock is read once and then carried on by a monotonic one (which may
//! stand still while the machine sleeps), and [`ManualClock`] absorbs steps back.

use std::cell::Cell;
use std::sync::{Arc, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A moment or a length of time in nanoseconds.
pub type Nanos = u64;

/// Nanoseconds in a second.
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// Nanoseconds in a clock minute.
pub(crate) const MINUTE: Nanos = 60 * SECOND;

/// The longest time that is taken from outside: 31 years, and far from where nanoseconds in 64 bits end.
const MAX_SECONDS: f64 = 1e9;

/// The largest reading of a manual clock: the year 2286, and no sum with a length of time overflows.
const MAX_READING: Nanos = 10_000_000_000 * SECOND;

/// Where a router takes the time from.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The system's monotonic clock, started at the wall clock's time.
    System {
        /// The reading it started at.
        origin: Instant,
        /// The wall clock's time at that reading.
        epoch: Nanos,
    },
    /// A clock that is moved by hand.
    Manual(Arc<ManualClock>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // this is where time comes from
    pub fn system() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::System { origin: Instant::now(), epoch: saturating_nanos(since_epoch.as_nanos()) }
    }

    /// The time now.
    #[inline]
    #[allow(clippy::disallowed_methods)] // this is where time comes from
    pub(crate) fn now(&self) -> Nanos {
        match self {
            Self::System { origin, epoch } => {
                let elapsed = Instant::now().saturating_duration_since(*origin);
                epoch.wrapping_add(elapsed.as_secs().wrapping_mul(SECOND).wrapping_add(u64::from(elapsed.subsec_nanos())))
            }
            Self::Manual(clock) => clock.time(),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// The time of one call: read when first asked for, and then the same to the end of the call. It also notes until when what was
/// made of it holds.
pub(crate) struct Now<'a> {
    clock: &'a Clock,
    read: Cell<Option<Nanos>>,
    holds_until: Cell<Nanos>,
}

impl<'a> Now<'a> {
    pub(crate) fn new(clock: &'a Clock) -> Self {
        Self { clock, read: Cell::new(None), holds_until: Cell::new(Nanos::MAX) }
    }

    /// A time that was read before.
    pub(crate) fn at(clock: &'a Clock, now: Nanos) -> Self {
        Self { clock, read: Cell::new(Some(now)), holds_until: Cell::new(Nanos::MAX) }
    }

    #[inline]
    pub(crate) fn get(&self) -> Nanos {
        self.read.get().unwrap_or_else(|| {
            let now = self.clock.now();
            self.read.set(Some(now));
            now
        })
    }

    /// Notes that what was read so far may be different from `at` on.
    #[inline]
    pub(crate) fn note_change(&self, at: Nanos) {
        self.holds_until.set(self.holds_until.get().min(at));
    }

    /// The earliest change noted since this was last asked, if any.
    #[inline]
    pub(crate) fn take_change(&self) -> Option<Nanos> {
        Some(self.holds_until.replace(Nanos::MAX)).filter(|&at| at != Nanos::MAX)
    }
}

/// A clock that moves only when told to.
///
/// Its reading can be set back, as a wall clock's can. The time that routers see cannot: a step back of up to a minute holds it until
/// the reading has caught up (so that no minute is counted twice), and after a longer one it goes on from where it was (so that
/// nothing waits for the old reading to come again).
#[derive(Debug)]
pub struct ManualClock {
    dial: Mutex<Dial>,
    time: AtomicU64,
}

#[derive(Debug)]
struct Dial {
    reading: Nanos,
    /// The reading at which time moves on.
    high: Nanos,
}

impl ManualClock {
    /// A clock that reads `start`, or the largest reading if that is less.
    #[must_use]
    pub fn new(start: Nanos) -> Self {
        let start = start.min(MAX_READING);
        Self { dial: Mutex::new(Dial { reading: start, high: start }), time: AtomicU64::new(start) }
    }

    /// The reading.
    #[must_use]
    pub fn reading(&self) -> Nanos {
        self.dial.lock().unwrap_or_else(PoisonError::into_inner).reading
    }

    /// Sets the reading, forward or back; to the largest reading if that is less.
    pub fn set(&self, reading: Nanos) {
        self.turn(&mut self.dial.lock().unwrap_or_else(PoisonError::into_inner), reading.min(MAX_READING));
    }

    /// Moves the reading forward, unless it would pass the largest one, 10^10 seconds. Returns whether it has.
    pub fn advance(&self, by: Nanos) -> bool {
        let mut dial = self.dial.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = dial.reading.saturating_add(by);
        let fits = reading <= MAX_READING;
        if fits {
            self.turn(&mut dial, reading);
        }
        fits
    }

    fn turn(&self, dial: &mut Dial, reading: Nanos) {
        dial.reading = reading;
        if dial.reading > dial.high {
            let passed = dial.reading - dial.high;
            self.time.store(self.time().saturating_add(passed), Ordering::Relaxed);
            dial.high = dial.reading;
        } else if dial.high - dial.reading > MINUTE {
            dial.high = dial.reading;
        }
    }

    fn time(&self) -> Nanos {
        self.time.load(Ordering::Relaxed)
    }
}

/// A reading in seconds as nanoseconds, rounded; None if a clock cannot show it.
#[must_use]
pub fn reading(seconds: f64) -> Option<Nanos> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the range was just checked
    (0.0..=self::seconds(MAX_READING)).contains(&seconds).then(|| (seconds * 1e9).round() as Nanos)
}

/// A length of time in seconds as nanoseconds, rounded; None if negative, not finite, or beyond what a clock can reach.
#[must_use]
pub fn nanos(seconds: f64) -> Option<Nanos> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the range was just checked
    (0.0..=MAX_SECONDS).contains(&seconds).then(|| (seconds * 1e9).round() as Nanos)
}

/// Nanoseconds as seconds.
#[must_use]
#[allow(clippy::cast_precision_loss)] // a double is exact to a microsecond for a century of nanoseconds
pub(crate) fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

fn saturating_nanos(nanos: u128) -> Nanos {
    Nanos::try_from(nanos).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_system_clock_starts_at_the_wall_clock_and_never_runs_back() {
        let clock = Clock::system();
        let mut last = clock.now();
        assert!(last > 1_700_000_000 * SECOND);
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn seconds_out_of_range_are_refused() {
        for bad in [-0.001, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            assert_eq!(nanos(bad), None, "{bad}");
        }
        assert_eq!(nanos(0.05), Some(50_000_000));
    }
}
