//! What an event of a stream, or a whole answer, says: read off its JSON.

use super::json::{Reader, Shape, Step, Token};
use super::usage::{Counts, Usage};

/// The types of events that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ping,
    Error,
    MessageStart,
    MessageDelta,
    /// The last event of an Anthropic stream.
    MessageStop,
    /// A Responses stream is over, and has its usage.
    Completed,
    /// It is over, and failed.
    Failed,
    /// An event beside the content.
    Frame,
    Other,
}

impl Kind {
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b"ping" => Self::Ping,
            b"error" => Self::Error,
            b"message_start" => Self::MessageStart,
            b"message_delta" => Self::MessageDelta,
            b"message_stop" => Self::MessageStop,
            b"response.completed" | b"response.incomplete" => Self::Completed,
            b"response.failed" => Self::Failed,
            b"content_block_start" | b"content_block_stop" | b"response.queued" | b"response.created" | b"response.in_progress" => {
                Self::Frame
            }
            _ => Self::Other,
        }
    }
}

/// What an object says at its top, and in the few places below that matter. The last one of a name wins.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// By its `type`, if that is a string.
    pub(super) kind: Option<Kind>,
    /// There is an `error` that is not null.
    pub(super) has_error: bool,
    /// `choices` is an array without items.
    pub(super) no_choices: bool,
    /// A choice has a `finish_reason` that is not null.
    pub(super) choice_finished: bool,
    /// The `delta` has a `stop_reason` that is not null.
    pub(super) stopped: bool,
    /// The `usage` at the top, if it is an object.
    pub(super) usage: Option<Counts>,
    /// The `usage` in `message` or in `response`.
    pub(super) inner_usage: Option<Counts>,
}

/// The names of members on the way to a value, as far as they matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Type,
    Error,
    Choices,
    Usage,
    Inner,
    Delta,
    StopReason,
    FinishReason,
    Other,
}

impl Name {
    fn of(name: &[u8]) -> Self {
        match name {
            b"type" => Self::Type,
            b"error" => Self::Error,
            b"choices" => Self::Choices,
            b"usage" => Self::Usage,
            b"message" | b"response" => Self::Inner,
            b"delta" => Self::Delta,
            b"stop_reason" => Self::StopReason,
            b"finish_reason" => Self::FinishReason,
            _ => Self::Other,
        }
    }
}

fn counts(value: Token<'_>) -> Option<Counts> {
    (value == Token::Open(Shape::Object)).then(Counts::default)
}

impl Facts {
    /// Reads an object; None if the bytes are no JSON, or another value.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(json);
        if reader.step() != Ok(Some(Step::Open(Shape::Object))) {
            return None;
        }
        let mut facts = Self::default();
        // The names at the levels 1 to 3; in an array there is no name.
        let [mut first, mut second, mut third] = [Name::Other; 3];
        let mut count: std::borrow::Cow<'_, [u8]> = (&[]).into();
        while let Some(step) = reader.step().ok()? {
            let level = reader.level();
            if level > 3 || step == Step::Close {
                continue;
            }
            match (level, reader.token(step)) {
                (1, Token::Key(key)) => first = Name::of(&key.name()),
                (2 | 3, Token::Key(key)) => {
                    let name = key.name();
                    *(if level == 2 { &mut second } else { &mut third }) = Name::of(&name);
                    count = name;
                }
                (1, value) => {
                    second = Name::Other;
                    count = (&[]).into();
                    facts.at_top(first, value);
                }
                (2, value) => {
                    match (first, second) {
                        (Name::Choices, _) => facts.no_choices = false,
                        (Name::Usage, _) => note(&mut facts.usage, &count, value),
                        (Name::Inner, Name::Usage) => facts.inner_usage = counts(value),
                        (Name::Delta, Name::StopReason) => facts.stopped = !value.is(b"null"),
                        _ => {}
                    }
                    third = Name::Other;
                    count = (&[]).into();
                }
                (3, value) => match (first, second, third) {
                    (Name::Choices, _, Name::FinishReason) => facts.choice_finished |= !value.is(b"null"),
                    (Name::Inner, Name::Usage, _) => note(&mut facts.inner_usage, &count, value),
                    _ => {}
                },
                _ => {}
            }
        }
        Some(facts)
    }

    fn at_top(&mut self, name: Name, value: Token<'_>) {
        match name {
            Name::Type => {
                self.kind = if let Token::Text(text) = value { Some(Kind::of(&text.name())) } else { None };
            }
            Name::Error => self.has_error = !(value.is(b"null") || value.is(b"false")),
            Name::Choices => {
                self.no_choices = value == Token::Open(Shape::Array);
                self.choice_finished = false;
            }
            Name::Usage => self.usage = counts(value),
            Name::Inner => self.inner_usage = None,
            Name::Delta => self.stopped = false,
            _ => {}
        }
    }
}

fn note(counts: &mut Option<Counts>, name: &[u8], value: Token<'_>) {
    if let Some(counts) = counts {
        counts.note(name, value);
    }
}

/// What a whole answer says.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) usage: Option<Usage>,
    /// It is an error, whatever its status: it has an `error` that is not null, or is one by its type.
    pub(crate) is_error: bool,
}

/// Reads a whole answer. One that is no JSON object says nothing.
pub(crate) fn read_answer(body: &[u8]) -> Answer {
    let Some(facts) = Facts::read(body) else { return Answer::default() };
    Answer { usage: facts.usage.and_then(|counts| counts.usage()), is_error: facts.has_error || facts.kind == Some(Kind::Error) }
}

#[cfg(test)]
mod tests {
    use super::super::usage::Usage;
    use super::read_answer;

    fn read(body: &str) -> Option<(u64, u64, u64)> {
        read_answer(body.as_bytes()).usage.map(|Usage { input, output, cached }| (input, output, cached))
    }

    #[test]
    fn each_provider_has_its_names() {
        let chat =
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        assert_eq!(read(chat), Some((9, 3, 0)));
        assert_eq!(read(r#"{"usage":{"input_tokens":9,"output_tokens":3,"total_tokens":12}}"#), Some((9, 3, 0)));
        assert_eq!(read(r#"{"usage":{"prompt_tokens":8,"total_tokens":8}}"#), Some((8, 0, 0)));
        assert_eq!(read(r#"{"usage":{"total_tokens":8}}"#), Some((8, 0, 0)));
        assert_eq!(read(r#"{"usage":{"completion_tokens":3,"total_tokens":8}}"#), Some((5, 3, 0)));
        let anthropic =
            r#"{"usage":{"input_tokens":9,"cache_creation_input_tokens":2,"cache_read_input_tokens":5,"output_tokens":3}}"#;
        assert_eq!(read(anthropic), Some((9, 3, 7)));
        assert_eq!(read(r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"cache_read_input_tokens":5}}"#), Some((9, 3, 0)));
    }

    #[test]
    fn an_error_is_one_whatever_its_status() {
        let is_error = |body: &str| read_answer(body.as_bytes()).is_error;
        for error in [r#"{"error":{"code":502}}"#, r#"{"error":"no"}"#, r#"{"type":"error"}"#, r#"{"status":"failed","error":{}}"#]
        {
            assert!(is_error(error), "{error}");
        }
        for answer in [r#"{"error":null,"id":"r"}"#, r#"{"choices":[{"error":{}}]}"#, r#"{"type":"message"}"#, r#"{"error":{}"#, ""]
        {
            assert!(!is_error(answer), "{answer}");
        }
    }

    #[test]
    fn only_whole_numbers_at_the_top_count_and_the_last_one_wins() {
        assert_eq!(read(r#"{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":2,"prompt_tokens":3}}"#), Some((3, 0, 0)));
        assert_eq!(
            read(r#"{"usage":{"prompt_tokens":-1,"completion_tokens":2.0,"input_tokens":"3","output_tokens":4}}"#),
            Some((0, 4, 0))
        );
        for none in [
            r#"{"usage":{"prompt_tokens":1},"usage":null}"#,
            r#"{"x":{"usage":{"prompt_tokens":1}}}"#,
            r#"{"usage":{"x":{"prompt_tokens":1}}}"#,
            r#"{"usage":[{"prompt_tokens":1}]}"#,
            r#"{"usage":{}}"#,
            r#"[{"usage":{"prompt_tokens":1}}]"#,
            r#"{"usage":{"prompt_tokens":1}"#,
            r#"{"prompt_tokens":[{"usage":2}],"usage":[3]}"#,
            "",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
