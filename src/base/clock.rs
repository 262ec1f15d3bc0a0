//! The only source of time, so that a test can replace it.
//!
//! A router's time never runs backwards. The wall clock is read once. A monotonic clock then carries that
//! time on; it may stand still while the machine sleeps. Code that follows the wall clock adds the difference
//! that [`Wall`] knows. [`ManualClock`] absorbs steps back, and is a wall clock itself.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::manual_clock::ManualClock;
use super::time::{Nanos, SECOND};
use super::wall::Wall;

/// The coarse clock is behind by less than this, as long as the kernel's timer ticks in time.
#[cfg(target_os = "linux")]
const COARSE_LAG: Nanos = SECOND / 20;

/// The source of a router's time.
///
/// ```
/// use std::sync::Arc;
/// use turnout::{Clock, ManualClock, Router, Settings};
///
/// let clock = Arc::new(ManualClock::new(0));
/// let settings = Settings { clock: Clock::Manual(Arc::clone(&clock)), ..Settings::default() };
/// let router: Router<()> = Router::new(settings)?;
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone)]
pub enum Clock {
    /// The system's monotonic clock, started at the wall clock's time.
    System(SystemClock),
    /// A clock that is moved by hand.
    Manual(Arc<ManualClock>),
}

/// The system's monotonic clock, started at the wall clock's time.
///
/// It is made by [`Clock::system`].
#[derive(Debug, Clone)]
pub struct SystemClock {
    /// The reading it started at.
    origin: Instant,
    /// The wall clock's time at that reading. An offset to another clock is added here and nowhere else: each
    /// time that this clock tells is `epoch` plus the time that has passed since `origin`.
    epoch: Nanos,
    /// Shared with the copies.
    wall: Arc<Wall>,
    /// The coarse clock's reading at the same moment. Only the kernel's timer advances that clock.
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
            wall: Arc::default(),
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

    /// Returns whether the time is well before `at`. It asks the coarse clock, which takes a fifth of the
    /// time to read. The coarse clock is behind by up to a tick of the kernel's timer, 1 to 10 ms. If a tick
    /// is late, this may return true for longer.
    #[cfg(target_os = "linux")]
    #[inline]
    #[allow(clippy::disallowed_methods)] // this is where time comes from
    fn is_well_before(&self, at: Nanos) -> bool {
        let elapsed = coarsetime::Instant::now_without_cache_update().duration_since(self.coarse_origin);
        let coarse = self.epoch.saturating_add(elapsed.as_nanos());
        // After a step of the wall clock a window may change earlier. This look finds such a step.
        if self.wall.is_look_due_by_coarse_clock(coarse) {
            self.wall.look(self.now());
        }
        coarse.saturating_add(COARSE_LAG) < at
    }

    /// Returns false: on other systems the coarse clock may run at another rate.
    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unused_self)] // as on Linux
    fn is_well_before(&self, _: Nanos) -> bool {
        false
    }
}

impl Clock {
    /// Makes the system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::System(SystemClock::start())
    }

    /// Returns the time now.
    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        match self {
            Self::System(clock) => clock.now(),
            Self::Manual(clock) => clock.time(),
        }
    }

    /// Returns the record of the wall clock's steps; None if this clock is a wall clock itself.
    pub(crate) fn wall(&self) -> Option<&Arc<Wall>> {
        match self {
            Self::System(clock) => Some(&clock.wall),
            Self::Manual(_) => None,
        }
    }

    /// Returns the wall clock's time when this clock's is `now`.
    #[inline]
    pub(crate) fn wall_at(&self, now: Nanos) -> Nanos {
        self.wall().map_or(now, |wall| now.wrapping_add(wall.ahead(now)))
    }

    /// Returns the time now, and looks at the wall clock.
    pub(crate) fn look(&self) -> Nanos {
        let now = self.now();
        if let Some(wall) = self.wall() {
            wall.look(now);
        }
        now
    }

    /// Returns true only if the time is well before `at`, and if it costs less to find that out than to read
    /// the time.
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

/// The time of one call. It is read when first asked for and is then the same to the end of the call. It also
/// notes until when the result of the call holds.
pub(crate) struct Now<'a> {
    clock: &'a Clock,
    read: Cell<Option<Nanos>>,
    wall: Cell<Option<Nanos>>,
    holds_until: Cell<Nanos>,
}

impl<'a> Now<'a> {
    pub(crate) fn new(clock: &'a Clock) -> Self {
        Self { clock, read: Cell::new(None), wall: Cell::new(None), holds_until: Cell::new(Nanos::MAX) }
    }

    /// Makes the time of a call from a time that was read before.
    pub(crate) fn at(clock: &'a Clock, now: Nanos) -> Self {
        Self { clock, read: Cell::new(Some(now)), wall: Cell::new(None), holds_until: Cell::new(Nanos::MAX) }
    }

    #[inline]
    pub(crate) fn get(&self) -> Nanos {
        self.read.get().unwrap_or_else(|| self.read())
    }

    // Out of line, as `read_wall` is: `get` and `wall` are inlined in many places, so they must stay small.
    #[inline(never)]
    fn read(&self) -> Nanos {
        let now = self.clock.now();
        self.read.set(Some(now));
        now
    }

    /// Returns the wall clock's time.
    #[inline]
    pub(crate) fn wall(&self) -> Nanos {
        self.wall.get().unwrap_or_else(|| self.read_wall())
    }

    #[inline(never)]
    fn read_wall(&self) -> Nanos {
        let wall = self.clock.wall_at(self.get());
        self.wall.set(Some(wall));
        wall
    }

    /// Returns how far the wall clock was set forward, as of the last look at it.
    #[inline]
    pub(crate) fn known_ahead(&self) -> Nanos {
        self.clock.wall().map_or(0, |wall| wall.known_ahead())
    }

    /// Returns whether a time has come. If `at` is far off, this may cost less than reading the time.
    #[inline]
    pub(crate) fn has_come(&self, at: Nanos) -> bool {
        (self.read.get().is_some() || !self.clock.is_well_before(at)) && at <= self.get()
    }

    /// Notes that the values that were read so far may change at the moment `at`.
    #[inline]
    pub(crate) fn note_change(&self, at: Nanos) {
        self.holds_until.set(self.holds_until.get().min(at));
    }

    /// Returns the earliest change that was noted since this was last called; [`Nanos::MAX`] if none was.
    #[inline]
    pub(crate) fn take_change(&self) -> Nanos {
        self.holds_until.replace(Nanos::MAX)
    }
}

fn saturating_nanos(nanos: u128) -> Nanos {
    Nanos::try_from(nanos).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
