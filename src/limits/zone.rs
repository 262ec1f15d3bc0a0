//! Time zones: where days begin.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::base::error::Error;
use crate::base::time::{Nanos, SECOND};

/// The nanoseconds of a day without a change of the clock.
pub(super) const DAY: Nanos = 86_400 * SECOND;

/// A time zone of the IANA database. If the machine has no database, the one that was built in is used.
///
/// ```
/// let zone = turnout::Zone::new("america/los_angeles")?;
/// assert_eq!(zone.name(), "America/Los_Angeles");
/// assert!(turnout::Zone::new("Mars/Olympus_Mons").is_err());
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Zone(&'static TimeZone);

impl Zone {
    /// Returns the zone with a name such as `"Europe/Berlin"`.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(name: &str) -> Result<Self, Error> {
        /// The zones are kept for good, so that limits can be copied. There are not many.
        static ZONES: Mutex<Vec<&'static TimeZone>> = Mutex::new(Vec::new());
        // Folders of zones have names that stand for a zone of the machine. Those mean something else
        // elsewhere.
        let is_machines = ["localtime", "posixrules"].iter().any(|own| name.eq_ignore_ascii_case(own));
        let zone = TimeZone::get(name).ok().filter(|zone| zone.iana_name().is_some() && !is_machines).ok_or_else(|| {
            Error::Configuration(format!(
                "timezone must be the name of a time zone of the IANA database, such as 'America/Los_Angeles', not {name:?}"
            ))
        })?;
        let mut zones = ZONES.lock().unwrap_or_else(PoisonError::into_inner);
        let known = zones.iter().copied().find(|known| known.iana_name() == zone.iana_name());
        Ok(Self(known.unwrap_or_else(|| {
            let kept: &'static TimeZone = Box::leak(Box::new(zone));
            zones.push(kept);
            kept
        })))
    }

    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.iana_name().unwrap_or_default()
    }

    /// Returns when the window ends that holds `wall`. A window is `days` days long. It begins at midnight, a
    /// multiple of `days` days after 1970 began.
    pub(super) fn window_ends(self, wall: Nanos, days: u64) -> Nanos {
        // Beyond the calendar every day is equally long.
        self.window_ends_by_calendar(wall, days).unwrap_or_else(|| wall.saturating_add(days.saturating_mul(DAY)))
    }

    fn window_ends_by_calendar(self, wall: Nanos, days: u64) -> Option<Nanos> {
        const FIRST: Date = date(1970, 1, 1);
        let today = Timestamp::from_nanosecond(wall.into()).ok()?.to_zoned(self.0.clone()).date();
        let since = i64::from(today.since((jiff::Unit::Day, FIRST)).ok()?.get_days());
        let days = i64::try_from(days).ok()?.max(1);
        let next = (since.div_euclid(days) + 1).checked_mul(days)?;
        let next = FIRST.checked_add(Span::new().try_days(next).ok()?).ok()?;
        let midnight = next.to_zoned(self.0.clone()).ok()?.start_of_day().ok()?;
        u64::try_from(midnight.timestamp().as_nanosecond()).ok().filter(|&ends| ends > wall)
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Zone {}

impl Hash for Zone {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({:?})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(zone: &str, at: &str, days: u64) -> String {
        let wall = at.parse::<Timestamp>().unwrap().as_nanosecond();
        let ends = Zone::new(zone).unwrap().window_ends(u64::try_from(wall).unwrap(), days);
        Timestamp::from_nanosecond(ends.into()).unwrap().to_string()
    }

    #[test]
    fn days_begin_at_midnight_and_are_as_long_as_the_zone_says() {
        let pacific = "America/Los_Angeles";
        assert_eq!(ends(pacific, "2026-01-15T07:59:59Z", 1), "2026-01-15T08:00:00Z");
        assert_eq!(ends(pacific, "2026-01-15T08:00:00Z", 1), "2026-01-16T08:00:00Z");
        assert_eq!(ends(pacific, "2026-07-15T07:00:00Z", 1), "2026-07-16T07:00:00Z");
        // 23 and 25 hours.
        assert_eq!(ends(pacific, "2026-03-08T08:00:00Z", 1), "2026-03-09T07:00:00Z");
        assert_eq!(ends(pacific, "2026-11-01T07:00:00Z", 1), "2026-11-02T08:00:00Z");
        // No midnight on the day on which the clocks go forward.
        assert_eq!(ends("America/Santiago", "2026-09-05T12:00:00Z", 1), "2026-09-06T04:00:00Z");
        assert_eq!(ends("UTC", "1970-01-01T00:00:00Z", 7), "1970-01-08T00:00:00Z");
        assert_eq!(ends("UTC", "1970-01-08T00:00:00Z", 7), "1970-01-15T00:00:00Z");
    }

    #[test]
    fn a_window_ends_after_it_began_even_where_the_calendar_ends() {
        for zone in ["UTC", "Pacific/Kiritimati", "Pacific/Niue"] {
            let zone = Zone::new(zone).unwrap();
            for wall in [0, 1, DAY - 1, DAY, u64::MAX / 2, u64::MAX - 1] {
                for days in [1, 7, 36_500, u64::MAX] {
                    assert!(zone.window_ends(wall, days) > wall, "{zone:?} {wall} {days}");
                }
            }
        }
    }
}
