//! A reader of JSON: one pass over the bytes, no tree, no recursion.
//!
//! It takes what Python's `json` takes, `NaN` and `Infinity` included. Inside of strings it takes more: it
//! looks at UTF-8 and at escapes only where a string is decoded, and never at raw control characters.

use std::borrow::Cow;

use super::skip::end_of_text;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The bytes are no JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A string as it stands in the body, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text<'a> {
    pub(super) raw: &'a [u8],
    escaped: bool,
}

/// The kinds of steps of a document. They are apart from what stands there, so that a step fits into a
/// register: most steps are only skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Key,
    Text,
    Word,
    Open(Shape),
    Close,
}

/// One step of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Key(Text<'a>),
    Text(Text<'a>),
    /// A number, or a word such as `true`.
    Word(&'a [u8]),
    Open(Shape),
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Object,
    Array,
}

impl Token<'_> {
    pub(super) fn is(self, word: &[u8]) -> bool {
        matches!(self, Self::Word(found) if found == word)
    }

    /// A whole number that is not negative, the largest one in place of those that are larger.
    pub(super) fn whole(self) -> Option<u64> {
        let Self::Word(word) = self else { return None };
        if word == b"-0" {
            return Some(0); // Python's json makes it the integer 0
        }
        word.iter().try_fold(0_u64, |number, &digit| {
            digit.is_ascii_digit().then(|| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
        })
    }
}

impl<'a> Text<'a> {
    /// The string's value. A surrogate without its other half becomes U+FFFD: no name that we know has one.
    pub(super) fn decode(self) -> Result<Cow<'a, str>, Malformed> {
        let raw = std::str::from_utf8(self.raw).map_err(|_| Malformed)?;
        Ok(if self.escaped { Cow::Owned(unescape(raw).ok_or(Malformed)?) } else { Cow::Borrowed(raw) })
    }

    /// The bytes to compare with a known name. A long string with escapes is not decoded: it is none.
    pub(super) fn name(self) -> Cow<'a, [u8]> {
        const LONGEST: usize = 256;
        if self.escaped
            && self.raw.len() <= LONGEST
            && let Ok(decoded) = self.decode()
        {
            return Cow::Owned(decoded.into_owned().into_bytes());
        }
        Cow::Borrowed(self.raw)
    }
}

/// Resolves escapes; None if one of them is none.
fn unescape(raw: &str) -> Option<String> {
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('\\') {
        decoded.push_str(before);
        let mut letters = after.chars();
        let letter = letters.next()?;
        rest = letters.as_str();
        decoded.push(match letter {
            '"' | '\\' | '/' => letter,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (character, after) = unit(rest)?;
                rest = after;
                character
            }
            _ => return None,
        });
    }
    decoded.push_str(rest);
    Some(decoded)
}

/// Reads what follows `\u`, with the second half of a pair if there is one.
fn unit(rest: &str) -> Option<(char, &str)> {
    let (first, after) = four(rest)?;
    if (0xd800..0xdc00).contains(&first)
        && let Some((second @ 0xdc00..0xe000, after)) = after.strip_prefix("\\u").and_then(four)
    {
        let both = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return Some((char::from_u32(both)?, after));
    }
    Some((char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), after))
}

/// Reads four hexadecimal digits. `from_str_radix` alone would take a sign.
fn four(rest: &str) -> Option<(u32, &str)> {
    let (digits, after) = rest.split_at_checked(4)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    Some((u32::from_str_radix(digits, 16).ok().filter(|_| is_hex)?, after))
}

/// Writes a string as JSON.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\0'..' ' => {
                let code = u32::from(letter);
                quoted.push_str("\\u00");
                quoted.extend([code >> 4, code & 15].into_iter().filter_map(|digit| char::from_digit(digit, 16)));
            }
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// Which containers are open: a bit each, so that a body of brackets needs less memory than it has itself.
#[derive(Default)]
struct Nest {
    depth: usize,
    /// The innermost containers, the last one in the lowest bit; 1 for an object.
    inner: u64,
    outer: Vec<u64>,
}

impl Nest {
    fn push(&mut self, shape: Shape) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.inner);
        }
        self.inner = self.inner << 1 | u64::from(shape == Shape::Object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.inner >>= 1;
        self.depth = self.depth.saturating_sub(1);
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.inner = self.outer.pop().unwrap_or_default();
        }
    }

    fn is_object(&self) -> bool {
        self.inner & 1 == 1
    }
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    /// A container was opened: its first member, or its end.
    First,
    /// A value has ended: a comma, or the end of its container.
    Comma,
    End,
}

/// Reads a document step by step.
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    start: usize,
    /// The last string ends here, before its quote.
    end: usize,
    escaped: bool,
    level: usize,
    nest: Nest,
    next: Next,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        let at = if body.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        Self { body, at, start: at, end: at, escaped: false, level: 0, nest: Nest::default(), next: Next::Value }
    }

    /// How many containers are around the last step. Opening and closing count as outside.
    pub(super) fn level(&self) -> usize {
        self.level
    }

    /// Where the last step begins and ends in the body.
    pub(super) fn span(&self) -> std::ops::Range<usize> {
        self.start..self.at
    }

    /// The key or the string that the last step is.
    #[inline]
    pub(super) fn text(&self) -> Text<'a> {
        Text { raw: self.body.get(self.start + 1..self.end).unwrap_or_default(), escaped: self.escaped }
    }

    /// What the last step is.
    #[inline]
    pub(super) fn token(&self, step: Step) -> Token<'a> {
        match step {
            Step::Key => Token::Key(self.text()),
            Step::Text => Token::Text(self.text()),
            Step::Word => Token::Word(self.body.get(self.span()).unwrap_or_default()),
            Step::Open(shape) => Token::Open(shape),
            Step::Close => Token::Close,
        }
    }

    /// Takes the next step; None at the end of a whole document.
    #[inline]
    pub(super) fn step(&mut self) -> Result<Option<Step>, Malformed> {
        let byte = self.peek();
        let step = match (self.next, byte) {
            (Next::Value, _) => self.value(byte),
            (Next::First | Next::Comma, Some(b'}' | b']')) => self.close(byte),
            (Next::First, _) => self.member(byte),
            (Next::Comma, Some(b',')) => {
                self.at += 1;
                let byte = self.peek();
                self.member(byte)
            }
            (Next::End, None) => return Ok(None),
            _ => Err(Malformed),
        };
        step.map(Some)
    }

    /// The next byte that is no white space.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.body.get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn member(&mut self, byte: Option<u8>) -> Result<Step, Malformed> {
        if !self.nest.is_object() {
            return self.value(byte);
        }
        if byte != Some(b'"') {
            return Err(Malformed);
        }
        self.begin();
        self.skip_text()?;
        if self.peek() != Some(b':') {
            return Err(Malformed);
        }
        self.at += 1;
        self.next = Next::Value;
        Ok(Step::Key)
    }

    fn value(&mut self, byte: Option<u8>) -> Result<Step, Malformed> {
        self.begin();
        let step = match byte.ok_or(Malformed)? {
            b'"' => {
                self.skip_text()?;
                Step::Text
            }
            b'{' => return Ok(self.open(Shape::Object)),
            b'[' => return Ok(self.open(Shape::Array)),
            first => {
                self.skip_word(first)?;
                Step::Word
            }
        };
        self.end_value();
        Ok(step)
    }

    fn begin(&mut self) {
        self.start = self.at;
        self.level = self.nest.depth;
    }

    fn end_value(&mut self) {
        self.next = if self.nest.depth == 0 { Next::End } else { Next::Comma };
    }

    fn open(&mut self, shape: Shape) -> Step {
        self.at += 1;
        self.nest.push(shape);
        self.next = Next::First;
        Step::Open(shape)
    }

    fn close(&mut self, byte: Option<u8>) -> Result<Step, Malformed> {
        if (byte == Some(b'}')) != self.nest.is_object() {
            return Err(Malformed);
        }
        self.start = self.at;
        self.at += 1;
        self.nest.pop();
        self.level = self.nest.depth;
        self.end_value();
        Ok(Step::Close)
    }

    /// Reads a string from its opening quote on.
    #[inline]
    fn skip_text(&mut self) -> Result<(), Malformed> {
        let text = self.body.get(self.at + 1..).unwrap_or_default();
        let (length, escaped) = end_of_text(text).ok_or(Malformed)?;
        self.end = self.at + 1 + length;
        self.at = self.end + 1;
        self.escaped = escaped;
        Ok(())
    }

    fn skip_word(&mut self, first: u8) -> Result<(), Malformed> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let length = match first {
            b't' => literal(rest, b"true"),
            b'f' => literal(rest, b"false"),
            b'n' => literal(rest, b"null"),
            b'N' => literal(rest, b"NaN"),
            b'I' => literal(rest, b"Infinity"),
            b'-' => literal(rest, b"-Infinity").or_else(|| number(rest)),
            _ => number(rest),
        };
        self.at += length.ok_or(Malformed)?;
        Ok(())
    }
}

fn literal(rest: &[u8], word: &[u8]) -> Option<usize> {
    rest.starts_with(word).then_some(word.len())
}

/// The length of the number that the bytes begin with.
fn number(rest: &[u8]) -> Option<usize> {
    let at = |index: usize| rest.get(index).copied();
    let digits = |from: usize| {
        let count = rest.get(from..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count();
        (count > 0).then_some(from + count)
    };
    let first = usize::from(at(0) == Some(b'-'));
    let mut end = if at(first) == Some(b'0') { first + 1 } else { digits(first)? };
    if at(end) == Some(b'.') {
        end = digits(end + 1)?;
    }
    if matches!(at(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(at(end + 1), Some(b'+' | b'-')));
        end = digits(end + 1 + sign)?;
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Malformed, Reader, Shape, Step, Text, Token, quote};

    fn whole(json: &[u8]) -> Result<usize, Malformed> {
        let mut reader = Reader::new(json);
        let mut steps = 0;
        while reader.step()?.is_some() {
            steps += 1;
        }
        Ok(steps)
    }

    fn only_text(json: &[u8]) -> Text<'_> {
        let mut reader = Reader::new(json);
        assert_eq!(reader.step(), Ok(Some(Step::Text)));
        reader.text()
    }

    #[test]
    fn takes_what_json_allows_and_nothing_else() {
        let good = [
            "0",
            "-0",
            "1.5e+3",
            "[]",
            " { } ",
            "[1,2]",
            "NaN",
            "-Infinity",
            r#"{"a":{"b":[true,false,null]}}"#,
            "\"\\u00e9\\n\"",
            "\u{feff}1",
        ];
        for json in good {
            assert!(whole(json.as_bytes()).is_ok(), "{json}");
        }
        let bad = [
            "",
            "01",
            "1.",
            "-",
            ".5",
            "1e",
            "[1,]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{1:2}",
            "[1 2]",
            "[}",
            "{]",
            "]",
            "\"",
            "\"\\\"",
            "\"\\u12",
            "\"\\",
            "tru",
            "nulll",
            "1 2",
            "{}x",
            "[",
            "{\"a\":1",
        ];
        for json in bad {
            assert_eq!(whole(json.as_bytes()), Err(Malformed), "{json}");
        }
    }

    #[test]
    fn levels_and_spans_are_those_of_the_body() {
        let json = br#" {"a" : [ "x" ], "b":12}"#;
        let mut reader = Reader::new(json);
        let mut seen = Vec::new();
        while let Some(step) = reader.step().unwrap() {
            seen.push((reader.level(), std::str::from_utf8(&json[reader.span()]).unwrap(), step == Step::Key));
        }
        let values: Vec<_> = seen.iter().filter(|step| !step.2).map(|step| (step.0, step.1)).collect();
        assert_eq!(values, [(0, "{"), (1, "["), (2, "\"x\""), (1, "]"), (1, "12"), (0, "}")]);
    }

    #[test]
    fn a_million_brackets_need_no_stack() {
        let deep = [b"[".repeat(1_000_000), b"]".repeat(1_000_000)].concat();
        assert_eq!(whole(&deep), Ok(2_000_000));
        assert_eq!(whole(&deep[..1_999_999]), Err(Malformed));
        let mixed = [b"{\"a\":[".repeat(100), b"]}".repeat(100)].concat();
        assert_eq!(whole(&mixed), Ok(500));
        assert_eq!(whole(&[b"{\"a\":[".repeat(100), b"}]".repeat(100)].concat()), Err(Malformed));
    }

    #[test]
    fn surrogates_are_paired_or_replaced() {
        assert_eq!(only_text(br#""\ud83d\ude00""#).decode().unwrap(), "😀");
        assert_eq!(only_text(br#""\ud83d\u0041""#).decode().unwrap(), "\u{fffd}A");
        assert_eq!(only_text(br#""\ude00\ud83dx""#).decode().unwrap(), "\u{fffd}\u{fffd}x");
    }

    #[test]
    fn a_string_is_checked_when_it_is_decoded() {
        for json in [&b"\"\xff\""[..], br#""\x""#, br#""\u12g4""#, br#""\u+123""#, br#""\u12""#, br#""\ud83d\u""#] {
            assert_eq!(only_text(json).decode(), Err(Malformed));
        }
    }

    #[test]
    fn whole_numbers_are_bounded() {
        let word = |word: &'static str| Token::Word(word.as_bytes()).whole();
        assert_eq!([word("0"), word("-0"), word("007"), word("18446744073709551616")], [Some(0), Some(0), Some(7), Some(u64::MAX)]);
        assert_eq!([word("-1"), word("1.0"), word("1e3"), word("true")], [None; 4]);
        assert_eq!(Token::Open(Shape::Array).whole(), None);
    }

    proptest! {
        #[test]
        fn a_string_comes_back_as_it_was(text in any::<String>()) {
            let quoted = quote(&text);
            let decoded = only_text(quoted.as_bytes()).decode().unwrap().into_owned();
            prop_assert_eq!(&decoded, &text);
            let by_serde = serde_json::to_string(&text).unwrap();
            let decoded = only_text(by_serde.as_bytes()).decode().unwrap().into_owned();
            prop_assert_eq!(&decoded, &text);
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }

        #[test]
        fn garbage_is_no_fault(json in proptest::collection::vec(proptest::sample::select(&b"{}[]\",:\\u0a1-.eEtrunl \n"[..]), 0..40)) {
            // Numbers too large for a float and lone surrogates, which serde_json refuses, pass here.
            if serde_json::from_slice::<serde_json::Value>(&json).is_ok() {
                prop_assert!(whole(&json).is_ok());
            }
        }
    }
}
