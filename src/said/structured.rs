//! The fields `RateLimit` and `RateLimit-Policy` of the IETF's drafts from 07 on
//! (draft-ietf-httpapi-ratelimit-headers), as far as the drafts use structured fields (RFC 9651).
//!
//! Draft 07 writes `limit=100, remaining=0, reset=30`. Drafts from 08 on write `"name";r=0;t=30`, and the
//! limit of that name in the policy: `"name";q=100`.

use super::numbers::{MOST_SECONDS, count, number};
use super::texts::{is_space, split_while};
use crate::limits::Unit;

/// What the fields say of a unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Policed {
    pub(super) unit: Unit,
    pub(super) limit: Option<u64>,
    pub(super) remaining: u64,
    pub(super) reset: Option<f64>,
}

/// Reads both fields. The strictest policy of a unit comes before its others.
pub(super) fn read(rate_limit: &str, policy: &str) -> Vec<Policed> {
    let one = |unit, limit: Option<&str>, remaining: Option<&str>, reset: Option<&str>| {
        let reset = reset.and_then(|reset| number(reset, MOST_SECONDS));
        Some(Policed { unit, limit: limit.and_then(count), remaining: remaining.and_then(count)?, reset })
    };
    if rate_limit.contains("remaining=") {
        let named = |name| parameter(rate_limit, name);
        return one(Unit::Requests, named("limit"), named("remaining"), named("reset")).into_iter().collect();
    }
    let policies: Vec<_> = Items(policy).collect();
    let mut found: Vec<_> = Items(rate_limit)
        .filter_map(|(name, said)| {
            let policy = policies.iter().rev().find(|policy| policy.0 == name).map_or("", |policy| policy.1);
            // Other units, such as bytes, are not turnout's.
            let unit = match parameter(policy, "qu") {
                None | Some("requests") => Unit::Requests,
                Some("tokens") => Unit::Tokens,
                Some(_) => return None,
            };
            one(unit, parameter(policy, "q"), parameter(said, "r"), parameter(said, "t"))
        })
        .collect();
    found.sort_by(|one, other| {
        let reset = |one: &Policed| one.reset.unwrap_or(0.0);
        one.remaining.cmp(&other.remaining).then(reset(other).total_cmp(&reset(one)))
    });
    found
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '.' | '-')
}

fn split_key(text: &str) -> (&str, &str) {
    split_while(text, |letter| letter.is_ascii_lowercase())
}

/// The items of a list, each with its parameters: a name in quotes or a word, and all from the first
/// semicolon.
struct Items<'a>(&'a str);

impl<'a> Iterator for Items<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let first = self.0.chars().next()?;
            let (_, after) = self.0.split_at(first.len_utf8());
            let name = match first {
                '"' => after.find('"').map(|end| end + 2),
                _ if first.is_ascii_alphabetic() => Some(self.0.len() - split_while(after, is_of_word).1.len()),
                _ => None,
            };
            let Some(name) = name else {
                self.0 = after;
                continue;
            };
            let (name, rest) = self.0.split_at(name);
            let mut after = rest;
            while let Some(next) = after_parameter(after) {
                after = next;
            }
            self.0 = after;
            return Some((name, rest.split_at(rest.len() - after.len()).0));
        }
    }
}

/// Returns what follows the parameter at the beginning of a text; None if there is no parameter.
fn after_parameter(text: &str) -> Option<&str> {
    let (key, rest) = split_key(text.strip_prefix(';')?.trim_start_matches(is_space));
    let value = rest.strip_prefix('=').filter(|_| !key.is_empty())?;
    Some(split_while(value, |letter| !matches!(letter, ';' | ',')).1)
}

/// Finds a parameter's value; of several with this name, that of the last.
fn parameter<'a>(mut text: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    while let Some(start) = text.find(|letter: char| letter.is_ascii_lowercase()) {
        let (key, rest) = split_key(text.split_at(start).1);
        text = rest;
        let Some(value) = rest.strip_prefix('=') else { continue };
        let (value, rest) = split_while(value.strip_prefix('"').unwrap_or(value), is_of_word);
        if !value.is_empty() {
            text = rest;
            if key == name {
                found = Some(value);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policed(unit: Unit, limit: Option<u64>, remaining: u64, reset: Option<f64>) -> Policed {
        Policed { unit, limit, remaining, reset }
    }

    #[test]
    fn drafts_from_08_on() {
        assert_eq!(
            read(
                r#""a;b,c";r=5;t=9;pk=:cHNvLWRldg==:, "hour";r=0;t=1800, "day";r=0;t=60, "x";r=1"#,
                r#""a;b,c";q=10;w=10, "hour"; q=1000;w=3600;qu="requests", "day";q=7;qu=tokens, "x";qu="content-bytes""#
            ),
            [
                policed(Unit::Requests, Some(1000), 0, Some(1800.0)),
                policed(Unit::Tokens, Some(7), 0, Some(60.0)),
                policed(Unit::Requests, Some(10), 5, Some(9.0)),
            ]
        );
        assert_eq!(read("a;r=1;r=2", ""), [policed(Unit::Requests, None, 2, None)]);
        assert_eq!(read(r#""a;r=1"#, ""), [policed(Unit::Requests, None, 1, None)]);
        assert_eq!(read("", "a;q=1"), []);
    }

    #[test]
    fn draft_07() {
        assert_eq!(read("limit=100, remaining=50, reset=5", ""), [policed(Unit::Requests, Some(100), 50, Some(5.0))]);
        for said in ["remaining=", "remaining=x", "xremaining=5", "remaining=,limit=5"] {
            assert_eq!(read(said, ""), [], "{said}");
        }
    }
}
