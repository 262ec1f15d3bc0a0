//! Numbers as providers write them. Digits are those of ASCII.

use super::texts::{first, split_digits, strip};

/// The longest time that is believed: 32 years.
pub(crate) const MOST_SECONDS: f64 = 1e9;

const MOST_COUNTED: f64 = 1e15;

/// Returns a number that is one from 0 to `most`.
pub(crate) fn within(number: f64, most: f64) -> Option<f64> {
    (0.0..=most).contains(&number).then_some(number)
}

/// Reads a plain number from 0 to `most`. Thousands may be apart by commas.
pub(crate) fn number(said: &str, most: f64) -> Option<f64> {
    let said = strip(said);
    let (whole, mut rest) = split_digits(said);
    if whole.is_empty() {
        return None;
    }
    let has_groups = whole.len() <= 3 && rest.starts_with(',');
    while has_groups && let Some(group) = rest.strip_prefix(',') {
        let (digits, after) = split_digits(group);
        if digits.len() != 3 {
            return None;
        }
        rest = after;
    }
    let fraction = rest.strip_prefix('.').unwrap_or(rest);
    if (fraction.len() == rest.len() && !rest.is_empty()) || !split_digits(fraction).1.is_empty() {
        return None;
    }
    let number = if has_groups { said.replace(',', "").parse() } else { said.parse() };
    within(number.ok()?, most)
}

/// Reads a number of requests or tokens. In drafts of the IETF, windows may follow the limit: `100,
/// 100;w=60`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the range was just checked
pub(super) fn count(said: &str) -> Option<u64> {
    // Nearly all are plain.
    if said.len() <= 15 && !said.is_empty() && said.bytes().all(|byte| byte.is_ascii_digit()) {
        return said.parse().ok();
    }
    let said = first(said);
    let (said, _) = said.split_once(';').unwrap_or((said, ""));
    number(said, MOST_COUNTED).map(|counted| counted as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp)] // these are exact
    fn plain_numbers() {
        for (said, expected) in [
            ("0", 0.0),
            (" 7 ", 7.0),
            ("7.", 7.0),
            ("007.50", 7.5),
            ("1,000", 1000.0),
            ("1,000,000.5", 1_000_000.5),
            ("1000000000", 1e9),
        ] {
            assert_eq!(number(said, MOST_SECONDS), Some(expected), "{said}");
        }
        for said in [
            "",
            " ",
            ".",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1_0",
            "1 0",
            "1,00",
            "1,0000",
            "1000,000",
            "1,",
            "1,000,",
            "1.5.",
            "1.,",
            "٣",
            "１",
            "nan",
            "inf",
            "1000000000.5",
        ] {
            assert_eq!(number(said, MOST_SECONDS), None, "{said}");
        }
        assert_eq!(number(&"9".repeat(400), f64::MAX), None);
    }

    #[test]
    fn counts() {
        for (said, expected) in [
            ("123456789012345", Some(123_456_789_012_345)),
            ("0000000000000000005", Some(5)),
            ("1000000000000001", None),
            ("50.9", Some(50)),
            ("30,000, 30,000", Some(30_000)),
            ("100;w=60", Some(100)),
            ("100, 100;w=60", Some(100)),
            ("3,00", Some(3)),
            (";5", None),
            ("", None),
        ] {
            assert_eq!(count(said), expected, "{said}");
        }
    }
}
