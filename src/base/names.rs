//! Checks of names that come from outside. A name must not be empty. For a wrong name, the known names that
//! look like it are found.

use std::sync::Arc;

use super::error::Error;
use super::wildcard::{is_pattern, overlay};

/// A wrong name is compared with at most this many names. The comparison must not cost much more than a pick.
const MOST_COMPARED: usize = 1000;

/// Longer names are not compared, for the same reason: names come from requests.
const LONGEST_COMPARED: usize = 100;

/// Returns a name, if it has a character. `what` says what the name is for.
pub(crate) fn not_empty(what: &str, name: &str) -> Result<Arc<str>, Error> {
    if name.is_empty() {
        return Err(Error::Configuration(format!("{what} must be a string with at least one character, not {name:?}")));
    }
    Ok(name.into())
}

/// Returns the known names that are most like the one asked for, best first. A name is like it if at most a
/// third of its characters are slips. A slip is a wrong, missing or needless character, or two characters
/// that have changed places. Of a known name with `*` only the other characters count.
pub(crate) fn nearest(name: &str, known: impl Iterator<Item = Arc<str>>) -> Vec<String> {
    const MOST: usize = 3;
    if name.len() > LONGEST_COMPARED {
        return Vec::new();
    }
    let name = name.to_lowercase();
    let mut like: Vec<_> = known
        .take(MOST_COMPARED)
        .filter_map(|known| {
            if known.len() > LONGEST_COMPARED {
                return None;
            }
            let is_like = known.to_lowercase();
            let name = if is_pattern(&known) { overlay(&is_like, &name)? } else { name.clone() };
            let longer = name.len().max(known.len());
            // A name without a character in common is not like it, even if both are short.
            let allowed = (longer.max(3) / 3).min(longer.saturating_sub(1));
            let is_near = known.len().abs_diff(name.len()) <= allowed;
            let slips = if is_near { strsim::osa_distance(&name, &is_like) } else { usize::MAX };
            (slips <= allowed).then_some((slips, known))
        })
        .collect();
    like.sort();
    like.into_iter().take(MOST).map(|(_, known)| known.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(name: &str, known: &[&str]) -> Vec<String> {
        nearest(name, known.iter().map(|&known| known.into()))
    }

    #[test]
    fn two_characters_that_changed_places_are_one_slip() {
        assert_eq!(near("gtp", &["gpt", "llama", "abc"]), ["gpt"]);
        assert_eq!(near("gtp-4o", &["gpt-4o", "gpt-4o-mini", "gpt-35"]), ["gpt-4o"]);
    }

    #[test]
    fn the_nearest_come_first_whatever_the_case() {
        assert_eq!(near("GPT-4", &["gpt-35", "gpt-4o", "gpt-4", "claude"]), ["gpt-4", "gpt-4o", "gpt-35"]);
        assert!(near("m", &["x", "gpt"]).is_empty());
        assert_eq!(near("cooler", &["cool", "hot"]), ["cool"]);
        assert!(near(&"a".repeat(200), &["a"]).is_empty());
        assert_eq!(near("opneai/gpt-4o", &["openai/*", "azure/*", "gpt-4o"]), ["openai/*"]);
    }

    #[test]
    fn no_more_than_a_thousand_are_looked_at() {
        let seen = std::cell::Cell::new(0);
        let known = (0..5_000).map(|i| {
            seen.set(seen.get() + 1);
            format!("deployment-{i}").into()
        });
        assert!(!nearest("deployment-x", known).is_empty());
        assert_eq!(seen.get(), MOST_COMPARED);
    }
}
