//! Pieces of text.

/// No field that is read is longer. A longer one would only cost time.
pub(crate) const MOST_CHARACTERS: usize = 256;

/// Whether a text is short enough to be read.
pub(super) fn fits(text: &str) -> bool {
    // A character has at most four bytes. So most texts need not be counted.
    text.len() <= MOST_CHARACTERS || (text.len() <= 4 * MOST_CHARACTERS && text.chars().count() <= MOST_CHARACTERS)
}

/// White space as Python knows it: it counts the separators of ASCII, which Unicode does not.
pub(super) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// A letter of English. The long s, the Kelvin sign and the two special letters i of Turkish are in if case
/// is ignored, and a regular expression of Python ignores it so.
pub(super) fn is_letter(letter: char) -> bool {
    letter.is_ascii_alphabetic() || matches!(letter, 'ſ' | '\u{212a}' | 'İ' | 'ı')
}

/// Splits a text where the first of its characters is not of a kind.
pub(super) fn split_while(text: &str, is_of_kind: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|letter| !is_of_kind(letter)).unwrap_or(text.len()))
}

/// Splits a text after its digits.
pub(super) fn split_digits(text: &str) -> (&str, &str) {
    split_while(text, |letter| letter.is_ascii_digit())
}

/// Takes the first of several values that were joined: if a header came twice, clients join its values with a
/// comma. A date has a comma of its own, after the name of a day.
pub(super) fn first(said: &str) -> &str {
    let Some(end) = joint(said, 0) else { return said };
    let (head, _) = said.split_at(end);
    let day = strip(head);
    if day.is_empty() || !day.chars().all(is_letter) {
        return head;
    }
    joint(said, end + 1).map_or(said, |end| said.split_at(end).0)
}

/// Finds a comma between values, not between thousands. Three digits and a semicolon are the window of a
/// policy: `100,100;w=60`.
fn joint(said: &str, from: usize) -> Option<usize> {
    let bytes = said.as_bytes();
    let is_joint = |&at: &usize| {
        let thousand = bytes.get(at + 1..at + 4).is_some_and(|group| group.iter().all(u8::is_ascii_digit));
        bytes.get(at) == Some(&b',') && !(thousand && bytes.get(at + 4).is_none_or(|next| !next.is_ascii_digit() && *next != b';'))
    };
    (from..bytes.len()).find(is_joint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_joined_values() {
        for (said, expected) in [
            ("5", "5"),
            ("5, 6", "5"),
            ("5,6", "5"),
            ("1,000", "1,000"),
            ("1,000,2", "1,000"),
            ("1,0000", "1"),
            ("100,100;w=60", "100"),
            (",5", ""),
            ("Sun, 27 Sep, Mon, 28 Sep", "Sun, 27 Sep"),
            ("Sun, 27 Sep", "Sun, 27 Sep"),
            (" Sun ,1,2", " Sun ,1"),
            ("Sun1,1,2", "Sun1"),
        ] {
            assert_eq!(first(said), expected, "{said}");
        }
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        assert!(fits(&"ä".repeat(256)) && fits(&"x".repeat(256)));
        assert!(!fits(&"ä".repeat(257)) && !fits(&"x".repeat(257)) && !fits(&"x".repeat(5000)));
    }

    #[test]
    fn space_is_that_of_python() {
        assert_eq!(strip("\u{1c}\u{a0}\u{3000}5\u{1f}\u{85}\n"), "5");
        assert_eq!(strip("\u{200b}5"), "\u{200b}5");
    }
}
