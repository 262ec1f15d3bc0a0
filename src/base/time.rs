//! Lengths and moments of time.
//!
//! A moment is a number of nanoseconds since the Unix epoch. So minute windows are the minutes of the clock.

/// A moment or a length of time in nanoseconds.
pub type Nanos = u64;

/// Nanoseconds in a second.
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// Nanoseconds in a clock minute.
pub(crate) const MINUTE: Nanos = 60 * SECOND;

/// The longest time that is accepted from outside: 31 years. It is far below the largest time in 64 bits.
const MAX_SECONDS: f64 = 1e9;

/// The largest reading of a manual clock: the year 2286. No sum with a length of time overflows.
pub(crate) const MAX_READING: Nanos = 10_000_000_000 * SECOND;

/// Converts a reading in seconds to nanoseconds, rounded. None if a clock cannot show it.
///
/// ```
/// assert_eq!(turnout::reading(1.5), Some(1_500_000_000));
/// assert_eq!(turnout::reading(-1.0), None);
/// ```
#[must_use]
pub fn reading(seconds: f64) -> Option<Nanos> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the range was just checked
    (0.0..=self::seconds(MAX_READING)).contains(&seconds).then(|| (seconds * 1e9).round() as Nanos)
}

/// Converts a length of time in seconds to nanoseconds, rounded. None if it is negative, not finite, or
/// longer than 10^9 seconds.
///
/// ```
/// assert_eq!(turnout::nanos(0.05), Some(50_000_000));
/// assert_eq!(turnout::nanos(f64::NAN), None);
/// ```
#[must_use]
pub fn nanos(seconds: f64) -> Option<Nanos> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the range was just checked
    (0.0..=MAX_SECONDS).contains(&seconds).then(|| (seconds * 1e9).round() as Nanos)
}

/// Converts nanoseconds to seconds.
#[must_use]
#[allow(clippy::cast_precision_loss)] // a double is exact to a microsecond for a century of nanoseconds
pub(crate) fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_out_of_range_are_refused() {
        for bad in [-0.001, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            assert_eq!(nanos(bad), None, "{bad}");
        }
        assert_eq!(nanos(0.05), Some(50_000_000));
    }
}
