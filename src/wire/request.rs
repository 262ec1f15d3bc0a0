//! What a router has to know of a request's body, and the body with another model.

use std::ops::Range;

use memchr::memmem;

use super::json::{Malformed, Reader, Shape, Step, Text, Token, quote};

const TRUE: &str = "true";

/// What the body of a request says.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Debug, Default)]
pub(crate) struct RequestScan {
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    /// Most output tokens, by the first name that has a whole number.
    pub(crate) most_output: Option<u64>,
    pub(crate) include_usage: bool,
    /// `stream_options` is there and not null.
    pub(crate) has_stream_options: bool,
    pub(crate) previous_response_id: Option<String>,
    /// Its id, whether it is given as a string or as an object.
    pub(crate) conversation: Option<String>,
    pub(crate) store: bool,
    pub(crate) background: bool,
    /// Strings that hold files, and their bytes in the body.
    pub(crate) inlined_files: usize,
    pub(crate) inlined_bytes: usize,
    places: Places,
}

/// Where the body is changed.
#[derive(Debug, Default)]
struct Places {
    length: usize,
    /// The values of all members `model`: another parser may take another one than the last.
    models: Vec<Range<usize>>,
    /// What makes `stream_options.include_usage` true, in the order of the body.
    usage: Vec<Edit>,
}

/// A part of the body, and what takes its place.
type Edit = (Range<usize>, &'static str);

/// The members at the top that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Model,
    Stream,
    /// Most output tokens, by the place of the name in the order of preference.
    Most(usize),
    StreamOptions,
    PreviousResponse,
    Conversation,
    Store,
    Background,
    Other,
}

impl Member {
    fn of(key: Text<'_>) -> Self {
        match &*key.name() {
            b"model" => Self::Model,
            b"stream" => Self::Stream,
            b"max_completion_tokens" => Self::Most(0),
            b"max_output_tokens" => Self::Most(1),
            b"max_tokens" => Self::Most(2),
            b"stream_options" => Self::StreamOptions,
            b"previous_response_id" => Self::PreviousResponse,
            b"conversation" => Self::Conversation,
            b"store" => Self::Store,
            b"background" => Self::Background,
            _ => Self::Other,
        }
    }
}

/// `stream_options` while it is read.
#[derive(Debug, Default)]
struct Options {
    /// Where its first member would stand.
    inside: usize,
    has_members: bool,
    /// The key before the next value is `include_usage`.
    is_next: bool,
    found: bool,
}

/// What is known between two steps.
struct Scanner {
    scan: RequestScan,
    member: Member,
    most: [Option<u64>; 3],
    options: Option<Options>,
    has_any_options: bool,
    /// The key before the next value names a file's content.
    is_data: bool,
    /// The key before the next value is the `id` of the conversation.
    is_conversation: bool,
}

impl RequestScan {
    /// Reads a body; None if it is no JSON object.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        Scanner::read(body).ok()
    }

    /// The body with other parts in some places, as pieces one after the other. The body is as it was where
    /// nothing is to be changed, and then one piece. None for another body than the one that was read.
    pub(crate) fn rewrite<'a>(&'a self, body: &'a [u8], model: Option<&'a Quoted>, include_usage: bool) -> Option<Vec<&'a [u8]>> {
        if body.len() != self.places.length {
            return None;
        }
        let models = self.places.models.iter().filter_map(|span| Some((span, model?.0.as_str())));
        let usage = self.places.usage.iter().filter(|_| include_usage).map(|(span, text)| (span, *text));
        let mut edits: Vec<_> = models.chain(usage).collect();
        edits.sort_by_key(|(span, _)| span.start);
        let mut pieces = Vec::with_capacity(2 * edits.len() + 1);
        let mut from = 0;
        for (span, text) in edits {
            pieces.push(body.get(from..span.start)?);
            pieces.push(text.as_bytes());
            from = span.end;
        }
        pieces.push(body.get(from..)?);
        Some(pieces)
    }
}

/// A string as JSON.
pub(crate) struct Quoted(String);

impl Quoted {
    pub(crate) fn new(text: &str) -> Self {
        Self(quote(text))
    }
}

impl Scanner {
    fn read(body: &[u8]) -> Result<RequestScan, Malformed> {
        let mut reader = Reader::new(body);
        if reader.step()? != Some(Step::Open(Shape::Object)) {
            return Err(Malformed);
        }
        let inside = reader.span().end;
        let mut scanner = Self {
            scan: RequestScan::default(),
            member: Member::Other,
            most: [None; 3],
            options: None,
            has_any_options: false,
            is_data: false,
            is_conversation: false,
        };
        let mut has_members = false;
        while let Some(step) = reader.step()? {
            if step == Step::Text {
                scanner.inlined(reader.text());
            }
            scanner.is_data = step == Step::Key && is_data(reader.text());
            if reader.level() > 2 {
                continue;
            }
            match (reader.level(), reader.token(step)) {
                (1, Token::Key(key)) => {
                    has_members = true;
                    scanner.member = Member::of(key);
                }
                (1, Token::Close) => scanner.end_value(reader.span().end),
                (1, value) => scanner.value(value, reader.span())?,
                (2, token) if scanner.member == Member::Conversation => scanner.conversation(token)?,
                (2, token) => scanner.option(token, reader.span()),
                _ => {}
            }
        }
        let Self { mut scan, most, has_any_options, .. } = scanner;
        scan.most_output = most.into_iter().flatten().next();
        scan.places.length = body.len();
        if !has_any_options {
            let alone = r#""stream_options":{"include_usage":true}"#;
            let text = if has_members { r#""stream_options":{"include_usage":true},"# } else { alone };
            scan.places.usage.push((inside..inside, text));
        }
        Ok(scan)
    }

    /// Takes in the value of a member at the top. The last one of a name wins.
    #[inline]
    fn value(&mut self, value: Token<'_>, place: Range<usize>) -> Result<(), Malformed> {
        let scan = &mut self.scan;
        match self.member {
            Member::Model => {
                scan.model = text(value)?;
                scan.places.models.push(place);
            }
            Member::PreviousResponse => scan.previous_response_id = text(value)?,
            Member::Conversation => scan.conversation = text(value)?,
            Member::Stream => scan.stream = value.is(b"true"),
            Member::Store => scan.store = value.is(b"true"),
            Member::Background => scan.background = value.is(b"true"),
            Member::Most(rank) => {
                if let Some(most) = self.most.get_mut(rank) {
                    *most = value.whole();
                }
            }
            Member::StreamOptions => {
                self.has_any_options = true;
                let is_null = value.is(b"null");
                scan.has_stream_options = !is_null;
                scan.include_usage = false;
                if is_null {
                    scan.places.usage.push((place, r#"{"include_usage":true}"#));
                } else if value == Token::Open(Shape::Object) {
                    self.options = Some(Options { inside: place.end, ..Options::default() });
                }
            }
            Member::Other => {}
        }
        Ok(())
    }

    /// Takes in a step inside of `stream_options`. A value of a wrong type stays: the provider is to refuse
    /// it.
    #[inline]
    fn option(&mut self, token: Token<'_>, span: Range<usize>) {
        let Some(options) = &mut self.options else { return };
        match token {
            Token::Key(key) => {
                options.has_members = true;
                options.is_next = *key.name() == *b"include_usage";
            }
            value if options.is_next => {
                options.is_next = false;
                options.found = true;
                self.scan.include_usage = value.is(b"true");
                if value.is(b"false") || value.is(b"null") {
                    self.scan.places.usage.push((span, TRUE));
                }
            }
            _ => {}
        }
    }

    /// Takes in a step inside of `conversation`.
    fn conversation(&mut self, token: Token<'_>) -> Result<(), Malformed> {
        let is_next = std::mem::take(&mut self.is_conversation);
        match token {
            Token::Key(key) => self.is_conversation = *key.name() == *b"id",
            value if is_next => self.scan.conversation = text(value)?,
            _ => {}
        }
        Ok(())
    }

    /// Takes in the end of an object or an array at the top.
    fn end_value(&mut self, end: usize) {
        if let (Member::Model, Some(place)) = (self.member, self.scan.places.models.last_mut()) {
            place.end = end;
        }
        let Some(options) = self.options.take() else { return };
        if !options.found {
            let text = if options.has_members { r#""include_usage":true,"# } else { r#""include_usage":true"# };
            self.scan.places.usage.push((options.inside..options.inside, text));
        }
    }

    #[inline]
    fn inlined(&mut self, text: Text<'_>) {
        const LARGE: usize = 1024;
        if (self.is_data && text.raw.len() > LARGE) || is_data_url(text.raw) {
            self.scan.inlined_files += 1;
            self.scan.inlined_bytes += text.raw.len();
        }
    }
}

/// The value of a string; None for another value.
fn text(value: Token<'_>) -> Result<Option<String>, Malformed> {
    if let Token::Text(text) = value { Ok(Some(text.decode()?.into_owned())) } else { Ok(None) }
}

#[inline]
fn is_data(key: Text<'_>) -> bool {
    matches!(&*key.name(), b"data" | b"file_data")
}

/// Whether a string is a file as a URL, such as `data:image/png;base64,…`.
#[inline]
fn is_data_url(raw: &[u8]) -> bool {
    const HEAD: usize = 256;
    raw.starts_with(b"data:") && memmem::find(raw.get(..HEAD).unwrap_or(raw), b";base64,").is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{Quoted, RequestScan};

    fn scan(body: &str) -> RequestScan {
        RequestScan::read(body.as_bytes()).unwrap()
    }

    fn rewritten(body: &str, model: Option<&str>, include_usage: bool) -> String {
        let model = model.map(Quoted::new);
        let pieces = scan(body).rewrite(body.as_bytes(), model.as_ref(), include_usage).unwrap().concat();
        String::from_utf8(pieces).unwrap()
    }

    #[test]
    fn members_at_the_top_are_read_and_the_last_one_wins() {
        let body = r#"{"model":"a","x":{"model":"no","stream":true},"m\u006fdel":"b\u00e9","max_tokens":5,"max_output_tokens":-1,
            "stream":true,"store":1,"background":true,"previous_response_id":"r","stream_options":{"include_usage":true}}"#;
        let found = scan(body);
        assert_eq!(found.model.as_deref(), Some("bé"));
        assert_eq!((found.most_output, found.stream, found.store, found.background), (Some(5), true, false, true));
        assert_eq!((found.include_usage, found.has_stream_options), (true, true));
        assert_eq!(found.previous_response_id.as_deref(), Some("r"));
        assert_eq!(scan(r#"{"model":"a","model":1}"#).model, None);
        for (body, id) in [
            (r#"{"conversation":"c"}"#, Some("c")),
            (r#"{"conversation":{"x":"no","id":"c","y":{"id":"no"}},"id":"no"}"#, Some("c")),
            (r#"{"conversation":null}"#, None),
            (r#"{"conversation":{"id":1}}"#, None),
            (r#"{"conversation":["id","no"]}"#, None),
            (r#"{"conversation":"no","conversation":{}}"#, None),
        ] {
            assert_eq!(scan(body).conversation.as_deref(), id, "{body}");
        }
        assert_eq!(scan(r#"{"max_tokens":3,"max_completion_tokens":7}"#).most_output, Some(7));
        for body in ["[]", "1", "", "{", "{}{}", r#"{"model":}"#, r#"{"x":[}"#] {
            assert!(RequestScan::read(body.as_bytes()).is_none(), "{body}");
        }
        assert!(RequestScan::read(b"{\"model\":\"\xff\"}").is_none());
    }

    #[test]
    fn files_in_strings_are_counted() {
        let long = "A".repeat(1025);
        let body = json!({
            "data": long, "file_data": "short", "other": long, "a": [{"data": [long]}, {"file_data": long}],
            "url": "data:image/png;base64,xyz", "data:;base64,": "data:text/plain,xyz",
            "late": format!("data:{};base64,", "x".repeat(250)),
        });
        let found = scan(&body.to_string());
        assert_eq!((found.inlined_files, found.inlined_bytes), (3, 2 * 1025 + 25));
    }

    #[test]
    fn only_the_places_change() {
        let body = r#"{ "model" : "a" , "model":{"x":1}, "y":[1 ,2]}"#;
        assert_eq!(rewritten(body, Some("q\"\n"), false), r#"{ "model" : "q\"\u000a" , "model":"q\"\u000a", "y":[1 ,2]}"#);
        assert_eq!(rewritten("{ }", Some("b"), true), r#"{"stream_options":{"include_usage":true} }"#);
        assert_eq!(rewritten(r#"{"a":1}"#, None, true), r#"{"stream_options":{"include_usage":true},"a":1}"#);
        assert_eq!(rewritten(r#"{"stream_options":null}"#, None, true), r#"{"stream_options":{"include_usage":true}}"#);
        assert_eq!(rewritten(r#"{"stream_options":{ }}"#, None, true), r#"{"stream_options":{"include_usage":true }}"#);
        assert_eq!(rewritten(r#"{"stream_options":{"a":[]}}"#, None, true), r#"{"stream_options":{"include_usage":true,"a":[]}}"#);
        let both = r#"{"stream_options":{"include_usage":false,"include_usage":null}}"#;
        assert_eq!(rewritten(both, None, true), r#"{"stream_options":{"include_usage":true,"include_usage":true}}"#);
        for same in [
            r#"{"stream_options":{"include_usage":true}}"#,
            r#"{"stream_options":[{}]}"#,
            r#"{"stream_options":{"include_usage":[0]}}"#,
        ] {
            assert_eq!(rewritten(same, None, true), same);
        }
        assert!(scan("{}").rewrite(b"{ }", None, true).is_none());
    }

    proptest! {
        #[test]
        fn garbage_is_no_fault(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = RequestScan::read(&body);
            let _ = RequestScan::read(&[b"{".as_slice(), &body].concat());
        }

        #[test]
        fn a_rewritten_body_says_the_same_but_for_the_model(name in any::<String>(), old in any::<String>(), other in any::<String>()) {
            let body = json!({"a": other, "model": old, "z": [other]}).to_string();
            let value: Value = serde_json::from_str(&rewritten(&body, Some(&name), true)).unwrap();
            prop_assert_eq!(value, json!({"a": other, "model": name, "z": [other], "stream_options": {"include_usage": true}}));
        }
    }
}
