//! The only source of time, so that a test can replace it.
//!
//! Time is nanoseconds since the Unix epoch, so that minute windows are the clock's minutes. A router's time never runs backwards:
//! the system clock is read once and then carried on by a monotonic one (which may stand still while the machine sleeps), and
//! [`ManualClock`] absorbs steps back.

use std::cell::Cell;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A moment or a length of time in nanoseconds.
pub type Nanos = u64;

/// Nanoseconds in a second.
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// Nanoseconds in a clock minute.
pub(crate) const MINUTE: Nanos = 60 * SECOND;

/// The coarse clock is behind by less than this, as long as the kernel's timer ticks in time.
#[cfg(target_os = "linux")]
const COARSE_LAG: Nanos = SECOND / 20;

/// The longest time that is taken from outside: 31 years, and far from where nanoseconds in 64 bits end.
const MAX_SECONDS: f64 = 1e9;

/// The largest reading of a manual clock: the year 2286, and no sum with a length of time overflows.
const MAX_READING: Nanos = 10_000_000_000 * SECOND;

/// Where a router takes the time from.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The system's monotonic clock, started at the wall clock's time.
    System(SystemClock),
    /// A clock that is moved by hand.
    Manual(Arc<ManualClock>),
}

/// The system's monotonic clock, started at the wall clock's time.
#[derive(Debug, Clone)]
pub struct SystemClock {
    /// The reading it started at.
    origin: Instant,
    /// The wall clock's time at that reading.
    epoch: Nanos,
    /// The same reading of the clock that is advanced by the kernel's timer alone.
    #[cfg(target_os = "linux")]
    coarse_origin: coarsetime::Instant,
}

impl SystemClock {
    #[allow(clippy::disallowed_methods)] // this is where time comes from
    fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            origin: Instant::now(),
            epoch: saturating_nanos(since_epoch.as_nanos()),
            #[cfg(target_os = "linux")]
            coarse_origin: coarsetime::Instant::now_without_cache_update(),
        }
    }

    #[inline]
    #[allow(clippy::disallowed_methods)] // this is where time comes from
    fn now(&self) -> Nanos {
        let elapsed = Instant::now().saturating_duration_since(self.origin);
        self.epoch.wrapping_add(elapsed.as_secs().wrapping_mul(SECOND).wrapping_add(u64::from(elapsed.subsec_nanos())))
    }

    /// Whether it is well before a time, by a clock that takes a fifth of the time to read. That one is behind by a tick of the kernel's
    /// timer, 1 to 10 ms; where a tick is late, so may be the end of this.
    #[cfg(target_os = "linux")]
    #[inline]
    #[allow(clippy::disallowed_methods)] // this is where time comes from
    fn is_well_before(&self, at: Nanos) -> bool {
        let elapsed = coarsetime::Instant::now_without_cache_update().duration_since(self.coarse_origin);
        self.epoch.saturating_add(elapsed.as_nanos()).saturating_add(COARSE_LAG) < at
    }

    /// Elsewhere the coarse clock may run at another rate.
    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unused_self)] // as on Linux
    fn is_well_before(&self, _: Nanos) -> bool {
        false
    }
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::System(SystemClock::start())
    }

    /// The time now.
    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        match self {
            Self::System(clock) => clock.now(),
            Self::Manual(clock) => clock.time(),
        }
    }

    /// Whether it is well before a time, as far as that can be told for less than reading the time takes.
    #[inline]
    fn is_well_before(&self, at: Nanos) -> bool {
        match self {
            Self::System(clock) => clock.is_well_before(at),
            Self::Manual(_) => false,
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

    /// Whether a time has come. Where it is far off, this may cost less than reading the time.
    #[inline]
    pub(crate) fn has_come(&self, at: Nanos) -> bool {
        (self.read.get().is_some() || !self.clock.is_well_before(at)) && at <= self.get()
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
    /// Who wants to know when it has moved.
    watches: Mutex<Vec<Weak<dyn Watch>>>,
}

/// Is told when a manual clock has moved, under no lock of the clock.
pub(crate) trait Watch: Send + Sync {
    /// It may have moved on.
    fn time_has_moved(&self);
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
        Self { dial: Mutex::new(Dial { reading: start, high: start }), time: AtomicU64::new(start), watches: Mutex::default() }
    }

    /// The reading.
    #[must_use]
    pub fn reading(&self) -> Nanos {
        self.dial.lock().unwrap_or_else(PoisonError::into_inner).reading
    }

    /// Sets the reading, forward or back; to the largest reading if that is less.
    pub fn set(&self, reading: Nanos) {
        self.turn(&mut self.dial.lock().unwrap_or_else(PoisonError::into_inner), reading.min(MAX_READING));
        self.tell();
    }

    /// Moves the reading forward, unless it would pass the largest one, 10^10 seconds. Returns whether it has.
    pub fn advance(&self, by: Nanos) -> bool {
        let mut dial = self.dial.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = dial.reading.saturating_add(by);
        let fits = reading <= MAX_READING;
        if fits {
            self.turn(&mut dial, reading);
        }
        drop(dial);
        self.tell();
        fits
    }

    pub(crate) fn watch(&self, watch: Weak<dyn Watch>) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(watch);
    }

    fn tell(&self) {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner).clone();
        watches.iter().filter_map(Weak::upgrade).for_each(|watch| watch.time_has_moved());
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
    fn a_time_comes_when_the_clock_says_so() {
        let clock = Clock::system();
        for ahead in [SECOND / 1000, SECOND / 10] {
            let at = clock.now() + ahead;
            while !Now::new(&clock).has_come(at) {}
            assert!(clock.now() >= at);
        }
        assert!(!Now::new(&clock).has_come(clock.now() + 60 * SECOND));
    }

    #[test]
    fn seconds_out_of_range_are_refused() {
        for bad in [-0.001, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            assert_eq!(nanos(bad), None, "{bad}");
        }
        assert_eq!(nanos(0.05), Some(50_000_000));
    }
}
