//! Names that come from outside: that they are not empty, and which known names look like a wrong one.

use std::sync::Arc;

use super::error::Error;

/// A wrong name is compared with at most this many names. It must not cost much more than a pick.
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

/// Returns the known names most like the one asked for, best first.
pub(crate) fn nearest(name: &str, known: impl Iterator<Item = Arc<str>>) -> Vec<String> {
    const LIKE: f64 = 0.8;
    const MOST: usize = 3;
    if name.len() > LONGEST_COMPARED {
        return Vec::new();
    }
    let mut like: Vec<_> = known
        .take(MOST_COMPARED)
        .filter(|known| known.len() <= LONGEST_COMPARED)
        .map(|known| (strsim::jaro_winkler(&name.to_lowercase(), &known.to_lowercase()), known))
        .filter(|&(likeness, _)| likeness >= LIKE)
        .collect();
    like.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.cmp(y)));
    like.into_iter().take(MOST).map(|(_, known)| known.to_string()).collect()
}
