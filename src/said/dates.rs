//! Moments as providers write them: RFC 3339 timestamps, and HTTP dates in any of their three forms (RFC
//! 9110, section 5.6.7).

use jiff::civil::{DateTime, date};

use super::texts::{is_letter, split_digits, split_while, strip};

const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);
const MICROS: i64 = 1_000_000;
/// The years from 1 to 9999, in microseconds since the epoch.
const CALENDAR: std::ops::Range<i64> = -62_135_596_800 * MICROS..253_402_300_800 * MICROS;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// The present, from which moments are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Present {
    /// Microseconds since the epoch.
    At(i64),
    /// That of the clock: a date was given that is none.
    Clock,
}

impl Present {
    /// Reads an answer's `Date`; None if it is empty.
    pub(crate) fn of_date(said: &str) -> Option<Self> {
        let moment = || Moment::read(strip(said))?.micros();
        (!said.is_empty()).then(|| moment().map_or(Self::Clock, Self::At))
    }
}

/// A moment as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moment {
    /// Whole seconds since the epoch, as if it were written in UTC.
    written: i64,
    /// The seconds to add for the true moment: the fraction, less the offset.
    rest: f64,
}

impl Moment {
    pub(super) fn read(said: &str) -> Option<Self> {
        timestamp(said).or_else(|| http_date(said)).or_else(|| asctime(said))
    }

    /// Returns the seconds from the present to this moment.
    #[allow(clippy::cast_precision_loss)] // a double is exact to a microsecond for three centuries
    pub(super) fn ahead_of(self, present: i64) -> f64 {
        (self.written * MICROS).saturating_sub(present) as f64 / 1e6 + self.rest
    }

    /// Returns the microseconds since the epoch; None if the calendar does not have the moment.
    #[allow(clippy::cast_possible_truncation)] // a fraction, or less than five days
    fn micros(self) -> Option<i64> {
        let (whole, part) = (self.rest.trunc() as i64, (self.rest.fract() * 1e6).round_ties_even() as i64);
        Some((self.written + whole) * MICROS + part).filter(|micros| CALENDAR.contains(micros))
    }
}

/// The text that is left to read.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn take(&mut self, is_allowed: impl Fn(char) -> bool) -> Option<()> {
        self.0 = self.0.strip_prefix(is_allowed)?;
        Some(())
    }

    /// Takes digits, at least and at most so many.
    fn digits(&mut self, least: usize, most: usize) -> Option<&'a str> {
        let (digits, _) = split_digits(self.0);
        let (digits, rest) = self.0.split_at(digits.len().min(most));
        self.0 = rest;
        (digits.len() >= least).then_some(digits)
    }

    fn number<N: std::str::FromStr>(&mut self, least: usize, most: usize) -> Option<N> {
        self.digits(least, most)?.parse().ok()
    }

    fn letters(&mut self) -> &'a str {
        let (letters, rest) = split_while(self.0, is_letter);
        self.0 = rest;
        letters
    }

    fn month(&mut self) -> Option<i8> {
        let name = self.letters();
        let nth = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(name))?;
        i8::try_from(nth + 1).ok()
    }

    /// Hours, minutes, seconds.
    fn time(&mut self) -> Option<[i8; 3]> {
        let hour = self.number(2, 2)?;
        self.take(|letter| letter == ':')?;
        let minute = self.number(2, 2)?;
        self.take(|letter| letter == ':')?;
        Some([hour, minute, self.number(2, 2)?])
    }

    /// Takes all that is left as a zone, and returns its offset in seconds. Without a zone it is UTC.
    fn offset(mut self) -> Option<i32> {
        if ["", "GMT", "UTC", "UT", "Z"].iter().any(|zone| zone.eq_ignore_ascii_case(self.0)) {
            return Some(0);
        }
        let is_ahead = self.0.starts_with('+');
        self.take(|letter| matches!(letter, '+' | '-'))?;
        let hours: i32 = self.number(2, 2)?;
        let _ = self.take(|letter| letter == ':');
        let offset = (hours * 60 + self.number::<i32>(2, 2)?) * 60;
        self.0.is_empty().then_some(if is_ahead { offset } else { -offset })
    }
}

fn is_space_or_dash(letter: char) -> bool {
    matches!(letter, ' ' | '-')
}

fn is_blank(letter: char) -> bool {
    letter == ' '
}

/// `2026-09-27T12:00:01.5Z`.
fn timestamp(said: &str) -> Option<Moment> {
    let mut cursor = Cursor(said);
    let year = cursor.number(4, 4)?;
    cursor.take(|letter| letter == '-')?;
    let month = cursor.number(2, 2)?;
    cursor.take(|letter| letter == '-')?;
    let day = cursor.number(2, 2)?;
    cursor.take(|letter| matches!(letter, 'T' | 't' | ' '))?;
    let time = cursor.time()?;
    let before = cursor.0;
    let fraction = if cursor.take(|letter| letter == '.').is_some() {
        let digits = cursor.digits(1, usize::MAX)?;
        before.split_at(digits.len() + 1).0.parse().ok()?
    } else {
        0.0
    };
    moment(year, month, day, time, fraction, cursor.offset()?)
}

/// `Sun, 27 Sep 2026 12:00:30 GMT`, `Sunday, 27-Sep-26 12:00:30 GMT`.
fn http_date(said: &str) -> Option<Moment> {
    let mut cursor = Cursor(said);
    if !cursor.letters().is_empty() {
        cursor.take(|letter| letter == ',')?;
        let _ = cursor.take(is_blank);
    }
    let day = cursor.number(1, 2)?;
    cursor.take(is_space_or_dash)?;
    let month = cursor.month()?;
    cursor.take(is_space_or_dash)?;
    let digits = cursor.digits(2, 4)?;
    let year = match (digits.len(), digits.parse::<i16>().ok()?) {
        (2, year) => year + if year > 68 { 1900 } else { 2000 },
        (4, year) => year,
        _ => return None,
    };
    cursor.take(is_blank)?;
    let time = cursor.time()?;
    let _ = cursor.take(is_blank);
    moment(year, month, day, time, 0.0, cursor.offset()?)
}

/// `Sun Sep 27 12:00:30 2026`.
fn asctime(said: &str) -> Option<Moment> {
    let mut cursor = Cursor(said);
    if cursor.letters().chars().count() != 3 {
        return None;
    }
    cursor.take(is_blank)?;
    let month = cursor.month()?;
    cursor.take(is_blank)?;
    let _ = cursor.take(is_blank);
    let day = cursor.number(1, 2)?;
    cursor.take(is_blank)?;
    let time = cursor.time()?;
    cursor.take(is_blank)?;
    let year = cursor.number(4, 4)?;
    cursor.0.is_empty().then_some(())?;
    moment(year, month, day, time, 0.0, 0)
}

fn moment(year: i16, month: i8, day: i8, [hour, minute, second]: [i8; 3], fraction: f64, offset: i32) -> Option<Moment> {
    let written = DateTime::new(year, month, day, hour, minute, second, 0).ok().filter(|_| year > 0)?;
    Some(Moment { written: written.duration_since(EPOCH).as_secs(), rest: fraction - f64::from(offset) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(said: &str) -> Option<i64> {
        Moment::read(said)?.micros()
    }

    #[test]
    fn moments_in_all_forms() {
        let noon = Some(1_790_510_430 * MICROS);
        for said in [
            "2026-09-27T12:00:30Z",
            "2026-09-27t12:00:30",
            "2026-09-27 12:00:30utc",
            "2026-09-27T08:00:30-0400",
            "2026-09-27T21:29:30+09:29",
            "Sun, 27 Sep 2026 12:00:30 GMT",
            "sun,27 SEP 2026 12:00:30",
            "\u{17f}un, 27 Sep 2026 12:00:30",
            "27 Sep 2026 12:00:30UT",
            "Sunday, 27-Sep-26 12:00:30 gmt",
            "Sunday, 27-Sep 26 12:00:30 +00:00",
            "Sun Sep 27 12:00:30 2026",
            "Xyz Sep  27 12:00:30 2026",
        ] {
            assert_eq!(micros(said), noon, "{said}");
        }
        assert_eq!(micros("2026-09-27T12:00:30.1234565Z"), noon.map(|noon| noon + 123_456));
        assert_eq!(micros("01 Jan 69 00:00:00"), Some(-31_536_000 * MICROS));
        assert_eq!(micros("9999-12-31T23:59:59Z"), Some(253_402_300_799 * MICROS));
    }

    #[test]
    fn what_is_no_moment() {
        for said in [
            "",
            "today",
            "2026-02-31T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "2026-09-27T24:00:00Z",
            "2026-09-27T12:00:60Z",
            "2026-09-27T12:00:30.Z",
            "2026-09-27T12:00:30 Z",
            "2026-09-27T12:00:30+1:00",
            "2026-09-27T12:00:30+01:000",
            "2026-9-27T12:00:30Z",
            "Sun 27 Sep 2026 12:00:30 GMT",
            "Sun,  27 Sep 2026 12:00:30 GMT",
            "Sun, 27 Sept 2026 12:00:30 GMT",
            "Sun, 27 Foo 2026 12:00:30 GMT",
            "Sun, 27 Sep 226 12:00:30 GMT",
            "Sun, 27 Sep 20260 12:00:30 GMT",
            "Sun, 27 Sep 2026 12:00:30  GMT",
            "Sun, 27 Sep 2026 12:00:30 EST",
            "Sunday Sep 27 12:00:30 2026",
            "Sun Sep   27 12:00:30 2026",
            "Sun Sep 27 12:00:30 2026 ",
            "Sun Sep 27 12:00:30 20260",
        ] {
            assert_eq!(micros(said), None, "{said}");
        }
        // These are moments beyond the calendar.
        for said in ["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"] {
            assert!(Moment::read(said).is_some() && micros(said).is_none(), "{said}");
        }
    }

    #[test]
    fn a_date_is_the_present() {
        assert_eq!(Present::of_date(""), None);
        assert_eq!(Present::of_date("today"), Some(Present::Clock));
        assert_eq!(Present::of_date(" Thu, 01 Jan 1970 00:00:01 GMT "), Some(Present::At(MICROS)));
    }
}
