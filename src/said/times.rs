//! Times as providers write them: a number of seconds, a duration as Go writes it (`6m0s`, `120ms`), a Unix
//! time in seconds or milliseconds (its size tells which), or a moment.

use super::dates::Moment;
use super::numbers::{MOST_SECONDS, number, within};
use super::texts::{first, split_digits, strip};

/// From here on a plain number is a Unix time and not seconds from now: first in seconds, then in
/// milliseconds.
const EPOCH_FROM: f64 = 1e9;
const EPOCH_MS_FROM: f64 = 1e11;

/// Go's units, and days.
const UNIT_SECONDS: [f64; 7] = [86_400.0, 3600.0, 60.0, 1.0, 1e-3, 1e-6, 1e-9];

/// A time as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Time {
    /// Seconds from now.
    In(f64),
    /// Seconds since the epoch.
    Unix(f64),
    At(Moment),
}

impl Time {
    /// Reads a time in any of the ways in which it is written.
    pub(crate) fn read(said: &str) -> Option<Self> {
        let said = strip(first(said));
        if let Some(plain) = number(said, EPOCH_MS_FROM * 1000.0) {
            return Some(match plain {
                _ if plain < EPOCH_FROM => Self::In(plain),
                _ if plain < EPOCH_MS_FROM => Self::Unix(plain),
                _ => Self::Unix(plain / 1000.0),
            });
        }
        match duration(said) {
            Some(seconds) => (seconds <= MOST_SECONDS).then_some(Self::In(seconds)),
            None => Moment::read(said).map(Self::At),
        }
    }

    /// Returns the seconds from now, 0 for the past; None if that is too far off. `present` gives the
    /// microseconds since the epoch.
    #[allow(clippy::cast_precision_loss)] // a double is exact to a microsecond for three centuries
    pub(crate) fn seconds(self, present: impl FnOnce() -> i64) -> Option<f64> {
        match self {
            Self::In(seconds) => Some(seconds),
            Self::Unix(epoch) => within((epoch - present() as f64 / 1e6).max(0.0), MOST_SECONDS),
            Self::At(moment) => within(moment.ahead_of(present()).max(0.0), MOST_SECONDS),
        }
    }
}

/// Reads a duration. Its units come in order, each at most once.
fn duration(said: &str) -> Option<f64> {
    if said.is_empty() {
        return None;
    }
    let (mut rest, mut sum, mut from) = (said, 0.0, 0);
    while !rest.is_empty() {
        let (digits, after) = split_digits(rest);
        let after = after.strip_prefix('.').map_or(after, |fraction| split_digits(fraction).1);
        let (amount, _) = rest.split_at(rest.len() - after.len());
        let (unit, after) = unit(after)?;
        if digits.is_empty() || unit < from {
            return None;
        }
        sum += amount.parse::<f64>().ok()? * UNIT_SECONDS.get(unit)?;
        (rest, from) = (after, unit + 1);
    }
    Some(sum)
}

/// Takes a unit, and returns its place in the order. A µ that was sent in UTF-8 and read in Latin-1 has one
/// letter more.
fn unit(said: &str) -> Option<(usize, &str)> {
    let is_s = |letter| matches!(letter, 's' | 'S' | 'ſ');
    let mut letters = said.chars();
    let place = match letters.next()? {
        'd' | 'D' => 0,
        'h' | 'H' => 1,
        'm' | 'M' => match letters.as_str().strip_prefix(is_s) {
            Some(rest) => return Some((4, rest)),
            None => 2,
        },
        letter if is_s(letter) => 3,
        'n' | 'N' => return Some((6, letters.as_str().strip_prefix(is_s)?)),
        letter => {
            let is_micro = |letter| matches!(letter, 'µ' | 'μ' | 'Μ');
            let rest = letters.as_str();
            let rest = match letter {
                'u' | 'U' => rest,
                'Â' | 'â' => rest.strip_prefix(is_micro)?,
                _ if is_micro(letter) => rest,
                _ => return None,
            };
            return Some((5, rest.strip_prefix(is_s)?));
        }
    };
    Some((place, letters.as_str()))
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these are exact
mod tests {
    use super::*;

    const NOON: i64 = 1_790_510_400_000_000;

    fn seconds(said: &str) -> Option<f64> {
        Time::read(said)?.seconds(|| NOON)
    }

    #[test]
    fn times_in_all_forms() {
        for (said, expected) in [
            ("30", 30.0),
            (" 30.5 ", 30.5),
            ("5, 6", 5.0),
            ("999999999", 999_999_999.0),
            ("1000000001", 0.0),
            ("1790510430", 30.0),
            ("1790510430500", 30.5),
            ("6m0s", 360.0),
            ("1h2m3.5s", 3723.5),
            ("1D", 86_400.0),
            ("120ms", 0.12),
            ("1m120ms", 60.12),
            ("2.s", 2.0),
            ("1ſ", 1.0),
            ("8us", 8e-6),
            ("8µs", 8e-6),
            ("8μs", 8e-6),
            ("8Μs", 8e-6),
            ("8âµs", 8e-6),
            ("1ns", 1e-9),
            ("1d1h1m1s", 90_061.0),
            ("Sun, 27 Sep 2026 12:00:30 GMT, Sun, 27 Sep 2026 12:00:40 GMT", 30.0),
            ("2026-09-27T12:00:01.5Z", 1.5),
            ("2026-09-27T13:00:01.5+01:00", 1.5),
            ("2026-09-27T11:00:00Z", 0.0),
            ("1994-11-06T08:49:37Z", 0.0),
        ] {
            assert_eq!(seconds(said), Some(expected), "{said}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for said in [
            "",
            " ",
            ",",
            "soon",
            "-1",
            "s",
            ".5s",
            "1x",
            "1s2m",
            "1s1s",
            "1s ago",
            "1 s",
            "1µ",
            "1µm",
            "1n",
            "1Âs",
            "5s5",
            "999999999h",
            "99999999999",
            "100000000000001",
            "9999-12-31T23:59:59Z",
            "1e3",
            "٣s",
        ] {
            assert_eq!(seconds(said), None, "{said}");
        }
        assert_eq!(seconds(&format!("{}s", "9".repeat(400))), None);
        assert_eq!(seconds(&"9".repeat(400)), None);
    }
}
