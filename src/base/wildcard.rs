//! Names with `*`, which stands for any characters, or for none.

/// Stands for any characters.
const STAR: char = '*';

/// Returns whether a name is a pattern.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.contains(STAR)
}

/// Returns the parts of a name that the stars of a pattern stand for; None if the name does not fit. If
/// several splits fit, each star but the last stands for as little as it can.
pub(crate) fn captures<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let mut literals = pattern.split(STAR);
    let mut left = name.strip_prefix(literals.next()?)?;
    let last = literals.next_back()?;
    let mut found = Vec::with_capacity(1);
    for literal in literals {
        let (captured, rest) = left.split_once(literal)?;
        found.push(captured);
        left = rest;
    }
    found.push(left.strip_suffix(last)?);
    Some(found)
}

/// Returns a template with its stars replaced by captures, in order. Stars beyond the captures stay.
pub(crate) fn fill(template: &str, captures: &[&str]) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut captures = captures.iter();
    for (nth, literal) in template.split(STAR).enumerate() {
        if nth > 0 {
            filled.push_str(captures.next().copied().unwrap_or("*"));
        }
        filled.push_str(literal);
    }
    filled
}

/// Returns a pattern whose literals are as long as the pattern's own, with the characters that a name has in
/// their places: the first and the last ones. None if the name is too short. It tells how far a name is from
/// a pattern.
pub(crate) fn overlay(pattern: &str, name: &str) -> Option<String> {
    let (first, last) = (pattern.split(STAR).next()?, pattern.rsplit(STAR).next()?);
    let (head, tail) = (first.chars().count(), last.chars().count());
    let length = name.chars().count();
    let middle = pattern.get(first.len()..pattern.len() - last.len())?;
    (head + tail <= length).then(|| name.chars().take(head).chain(middle.chars()).chain(name.chars().skip(length - tail)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        assert_eq!(captures("openai/*", "openai/gpt-4o"), Some(vec!["gpt-4o"]));
        assert_eq!(captures("*", ""), Some(vec![""]));
        assert_eq!(captures("claude-*-latest", "claude-3-opus-latest"), Some(vec!["3-opus"]));
        assert_eq!(captures("claude-*-latest", "claude-latest"), None, "the literals may not overlap");
        assert_eq!(captures("*/gpt-*", "a/b/gpt-4/gpt-5"), Some(vec!["a/b", "4/gpt-5"]));
        assert_eq!(captures("gpt-4o", "gpt-4o"), None, "it is no pattern");
        assert_eq!(captures("openai/*", "openai/*"), Some(vec!["*"]));
    }

    #[test]
    fn captures_fill_a_template_in_order() {
        assert_eq!(fill("*", &["gpt-4o"]), "gpt-4o");
        assert_eq!(fill("eu.*", &["gpt-4o"]), "eu.gpt-4o");
        assert_eq!(fill("*-*-*", &["a", "b"]), "a-b-*");
        assert_eq!(fill("fixed", &["a"]), "fixed");
    }

    #[test]
    fn an_overlay_differs_from_its_pattern_where_the_name_does() {
        assert_eq!(overlay("openai/*", "opnai/gpt").as_deref(), Some("opnai/g*"));
        assert_eq!(overlay("a*bc", "xyz").as_deref(), Some("x*yz"));
        assert_eq!(overlay("openai/*", "gpt"), None);
        assert_eq!(overlay("é*é", "äöü").as_deref(), Some("ä*ü"));
    }

    proptest! {
        #[test]
        fn a_name_that_fits_is_the_pattern_filled(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            match captures(&pattern, &name) {
                Some(found) => prop_assert_eq!(fill(&pattern, &found), name),
                None => prop_assert!(!fits(pattern.as_bytes(), name.as_bytes()) || !is_pattern(&pattern)),
            }
        }
    }

    /// The textbook definition.
    fn fits(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => fits(rest, name) || (!name.is_empty() && fits(pattern, &name[1..])),
            ([one, rest @ ..], [other, names @ ..]) => one == other && fits(rest, names),
            _ => false,
        }
    }
}
