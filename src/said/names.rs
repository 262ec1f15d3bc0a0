//! The names of headers: what the value of each one tells.
//!
//! The families of names have ranks, the lower the more telling. A unit is taken whole from the first family
//! that knows its limit or what remains. `python/turnout/providers/headers.py` tells which provider sends
//! which.

use std::borrow::Cow;

use super::texts::fits;
use crate::limits::Unit;

/// `LiteLLM` hands on behind this what the provider sent. Its proxy has limits of its own under the plain
/// names; they bind the caller first.
const HANDED_ON: &str = "llm_provider-";

/// How many families there are, and so the first rank of those that are handed on. The IETF's `RateLimit` has
/// this rank as well.
pub(super) const FAMILIES: u8 = 7;

/// How many ways there are to say how long to wait: three as they are, and three handed on.
pub(super) const WAITS: usize = 6;

/// The time in which a limit counts. Hours, days and months are read only for the time at which a spent limit
/// begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Per {
    /// That of the limits to observe. Most providers do not say how long it is.
    Window,
    Hour,
    Day,
    Month,
}

/// The limit that a name is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) unit: Unit,
    pub(super) per: Per,
    pub(super) rank: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Limit,
    Remaining,
    Reset,
}

/// What the value of a header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    Limit(Key, Field),
    /// How long to wait. The number is the place in the order of the ways to say it, the most exact first.
    Wait(usize),
    /// How long to wait, in milliseconds.
    WaitMillis(usize),
    Date,
    RateLimit,
    Policy,
    /// A part of Anthropic's windows of hours and days, by the rest of its name.
    Window(&'a str),
}

impl<'a> Place<'a> {
    /// Finds the place of a name in small letters.
    pub(super) fn of(name: &'a str) -> Option<Self> {
        let inner = name.strip_prefix(HANDED_ON);
        let (first, wait) = if inner.is_some() { (FAMILIES, WAITS / 2) } else { (0, 0) };
        let name = inner.unwrap_or(name);
        match name {
            "retry-after-ms" => return Some(Self::WaitMillis(wait)),
            "x-ms-retry-after-ms" => return Some(Self::WaitMillis(wait + 1)),
            "retry-after" => return Some(Self::Wait(wait + 2)),
            "date" if inner.is_none() => return Some(Self::Date),
            "ratelimit" if inner.is_none() => return Some(Self::RateLimit),
            "ratelimit-policy" if inner.is_none() => return Some(Self::Policy),
            _ => {}
        }
        if let Some(window) = name.strip_prefix("anthropic-ratelimit-unified-") {
            return Some(Self::Window(window));
        }
        let (unit, per, family, field) = limit(name)?;
        Some(Self::Limit(Key { unit, per, rank: first + family }, field))
    }
}

impl Field {
    /// Takes the word of a field off the beginning of a text.
    fn strip(text: &str) -> Option<(Self, &str)> {
        const WORDS: [(&str, Field); 3] = [("limit", Field::Limit), ("remaining", Field::Remaining), ("reset", Field::Reset)];
        WORDS.into_iter().find_map(|(word, field)| Some((field, text.strip_prefix(word)?)))
    }
}

/// Finds the limit that a name is about: its unit and time, its family and the field.
fn limit(name: &str) -> Option<(Unit, Per, u8, Field)> {
    use Per::{Day, Hour, Month, Window};
    use Unit::{InputTokens, OutputTokens, Requests, Tokens};

    /// What stands before the field.
    const BEFORE: [&str; 11] = [
        "x-ratelimit-",
        "anthropic-ratelimit-requests-",
        "anthropic-ratelimit-tokens-",
        "anthropic-ratelimit-input-tokens-",
        "anthropic-ratelimit-output-tokens-",
        "x-rate-limit-",
        "x-ratelimitbysize-",
        "x-tokenlimit-",
        "ratelimit-",
        "ratelimitbysize-",
        "x-trial-endpoint-call-",
    ];
    let (before, rest) = BEFORE.into_iter().find_map(|before| Some((before, name.strip_prefix(before)?)))?;
    let (field, after) = Field::strip(rest)?;
    let (unit, per, family) = match (before, after) {
        ("x-ratelimit-" | "x-rate-limit-", "-requests") => (Requests, Window, 0),
        ("x-ratelimit-" | "x-rate-limit-", "-tokens") => (Tokens, Window, 0),
        ("anthropic-ratelimit-requests-", "") => (Requests, Window, 1),
        ("anthropic-ratelimit-tokens-", "") => (Tokens, Window, 1),
        ("anthropic-ratelimit-input-tokens-", "") => (InputTokens, Window, 1),
        ("anthropic-ratelimit-output-tokens-", "") => (OutputTokens, Window, 1),
        ("x-ratelimit-", "-req-minute" | "-requests-minute") => (Requests, Window, 2),
        ("x-ratelimit-", "-tokens-minute") | ("x-ratelimitbysize-", "-minute") | ("ratelimitbysize-", "") => (Tokens, Window, 2),
        ("x-ratelimit-", "-tokens-prompt") => (InputTokens, Window, 2),
        ("x-ratelimit-", "-tokens-generated") => (OutputTokens, Window, 2),
        ("x-ratelimit-", "") => (Requests, Window, 3),
        ("x-tokenlimit-", "") => (Tokens, Window, 3),
        ("ratelimit-", "") => (Requests, Window, 4),
        ("x-trial-endpoint-call-", "") => (Requests, Window, 5),
        ("x-ratelimit-", "-requests-hour") => (Requests, Hour, 6),
        ("x-ratelimit-", "-requests-day") => (Requests, Day, 6),
        ("x-ratelimit-", "-requests-month") => (Requests, Month, 6),
        ("x-ratelimit-", "-tokens-hour") => (Tokens, Hour, 6),
        ("x-ratelimit-", "-tokens-day") => (Tokens, Day, 6),
        ("x-ratelimit-", "-tokens-month") => (Tokens, Month, 6),
        _ => return None,
    };
    Some((unit, per, family, field))
}

/// Returns a name in small letters; None if it is too long.
pub(super) fn small(name: &str) -> Option<Cow<'_, str>> {
    if !fits(name) {
        return None;
    }
    // Most clients write names so.
    if !name.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
        return Some(name.into());
    }
    Some(name.to_lowercase()).filter(|small| fits(small)).map(Cow::Owned)
}

/// Returns whether the value of a header is read.
pub(crate) fn is_known(name: &str) -> bool {
    small(name).is_some_and(|name| Place::of(&name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_places() {
        let limit = |unit, per, rank, field| Some(Place::Limit(Key { unit, per, rank }, field));
        for (name, place) in [
            ("x-ratelimit-limit-requests", limit(Unit::Requests, Per::Window, 0, Field::Limit)),
            ("x-rate-limit-reset-tokens", limit(Unit::Tokens, Per::Window, 0, Field::Reset)),
            ("anthropic-ratelimit-input-tokens-remaining", limit(Unit::InputTokens, Per::Window, 1, Field::Remaining)),
            ("llm_provider-x-ratelimit-remaining-tokens", limit(Unit::Tokens, Per::Window, 7, Field::Remaining)),
            ("llm_provider-x-ratelimit-reset-requests-day", limit(Unit::Requests, Per::Day, 13, Field::Reset)),
            ("ratelimit-limit", limit(Unit::Requests, Per::Window, 4, Field::Limit)),
            ("ratelimitbysize-limit", limit(Unit::Tokens, Per::Window, 2, Field::Limit)),
            ("retry-after-ms", Some(Place::WaitMillis(0))),
            ("llm_provider-retry-after", Some(Place::Wait(5))),
            ("date", Some(Place::Date)),
            ("anthropic-ratelimit-unified-5h-status", Some(Place::Window("5h-status"))),
            ("llm_provider-anthropic-ratelimit-unified-", Some(Place::Window(""))),
            ("llm_provider-date", None),
            ("llm_provider-ratelimit", None),
            ("llm_provider-llm_provider-retry-after", None),
            ("x-ratelimit-limit-requests-", None),
            ("x-ratelimit-renewalperiod-requests", None),
            ("x-ratelimit-", None),
            ("x-rate-limit-limit", None),
            ("x-tokenlimit-limit-requests", None),
            ("anthropic-ratelimit-requests-limits", None),
            ("content-type", None),
            ("", None),
        ] {
            assert_eq!(Place::of(name), place, "{name}");
        }
    }

    #[test]
    fn the_case_of_a_name_does_not_matter() {
        assert!(is_known("Retry-After") && is_known("X-RATELIMIT-LIMIT") && is_known("retry-after"));
        // The Kelvin sign has a small letter of ASCII.
        assert!(is_known("x-ratelimit-limit-to\u{212a}ens"));
        assert!(!is_known(&format!("anthropic-ratelimit-unified-{}", "x".repeat(229))));
        assert!(is_known(&format!("anthropic-ratelimit-unified-{}", "x".repeat(228))));
    }
}
