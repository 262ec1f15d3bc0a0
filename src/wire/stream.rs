//! What a stream of events has said so far.

use super::facts::{Facts, Kind};
use super::sse::{Body, Event, Fate};
use super::usage::{Counts, Usage};

/// Whose events they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Chat, completions and Responses.
    OpenAi,
    Anthropic,
}

/// What was seen.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// An event with data that is no ping.
    pub(crate) has_event: bool,
    /// The data of the first error.
    pub(crate) error: Option<Vec<u8>>,
    /// The error was the first event that is no ping.
    pub(crate) error_is_first: bool,
    /// The event that is the last one by its kind, or an error.
    pub(crate) ended: bool,
    /// The reason for which the model stopped.
    pub(crate) finished: bool,
    /// Events with content.
    pub(crate) deltas: u64,
    counts: Option<Counts>,
}

impl Seen {
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.counts?.usage()
    }

    fn take(&mut self, dialect: Dialect, event: &Event<'_>) -> Fate {
        let facts = event.data.and_then(Facts::read).unwrap_or_default();
        let kind = facts.kind.unwrap_or_else(|| Kind::of(event.name));
        if kind == Kind::Ping || event.name == b"ping" {
            return Fate::Pass;
        }
        let is_first = !std::mem::replace(&mut self.has_event, true);
        self.finished |= match dialect {
            Dialect::OpenAi => facts.choice_finished,
            Dialect::Anthropic => kind == Kind::MessageDelta && facts.stopped,
        };
        self.count(dialect, kind, &facts);
        if facts.has_error || matches!(kind, Kind::Error | Kind::Failed) {
            self.ended = true;
            if self.error.is_none() {
                self.error = Some(event.data.unwrap_or_default().to_vec());
                self.error_is_first = is_first;
            }
            return Fate::Pass;
        }
        if matches!(kind, Kind::MessageStop | Kind::Completed) || event.data.is_some_and(|data| data.trim_ascii() == b"[DONE]") {
            self.ended = true;
            return Fate::Pass;
        }
        if facts.no_choices && facts.usage.is_some() {
            return if dialect == Dialect::OpenAi { Fate::Drop } else { Fate::Pass };
        }
        if !matches!(kind, Kind::MessageStart | Kind::MessageDelta | Kind::Frame) {
            self.deltas += 1;
        }
        Fate::Pass
    }

    /// Takes in the tokens that an event names.
    fn count(&mut self, dialect: Dialect, kind: Kind, facts: &Facts) {
        match (dialect, kind) {
            (Dialect::OpenAi, Kind::Completed) | (Dialect::Anthropic, Kind::MessageStart) => self.replace(facts.inner_usage),
            (Dialect::OpenAi, _) => self.replace(facts.usage),
            (Dialect::Anthropic, Kind::MessageDelta) => {
                if let Some(later) = &facts.usage {
                    self.counts.get_or_insert_default().raise(later);
                }
            }
            _ => {}
        }
    }

    fn replace(&mut self, counts: Option<Counts>) {
        if let Some(counts) = counts.filter(|counts| counts.usage().is_some()) {
            self.counts = Some(counts);
        }
    }
}

/// The body of an answer that comes in events.
#[derive(Debug)]
pub(crate) struct Stream {
    dialect: Dialect,
    body: Body,
    seen: Seen,
}

impl Stream {
    /// `drop_usage` takes the chunk out that a chat sends for `include_usage`.
    pub(crate) fn new(dialect: Dialect, drop_usage: bool) -> Self {
        let holds = drop_usage && dialect == Dialect::OpenAi;
        Self { dialect, body: Body::new(holds), seen: Seen::default() }
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Takes the next bytes, cut anywhere. Returns what the client gets; None for just these bytes.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Option<Vec<u8>> {
        self.body.feed(chunk, &mut |event| self.seen.take(self.dialect, event))
    }

    /// Takes the end of the body. Returns what was held back.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.body.finish(&mut |event| self.seen.take(self.dialect, event))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sse::MOST;
    use super::{Dialect, Stream};

    const USAGE: &str = r#"{"id":"c","choices": [ ],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#;

    type Found = (Vec<u8>, String);

    /// Hands a body on in chunks: what the client gets, and what was seen.
    fn read<'a>(dialect: Dialect, drop_usage: bool, chunks: impl IntoIterator<Item = &'a [u8]>) -> Found {
        let mut stream = Stream::new(dialect, drop_usage);
        let mut passed = Vec::new();
        for chunk in chunks {
            passed.extend(stream.feed(chunk).unwrap_or_else(|| chunk.to_vec()));
        }
        passed.extend(stream.finish());
        assert!(stream.finish().is_empty());
        (passed, format!("{:?}", stream.seen()))
    }

    fn seen(dialect: Dialect, body: &str) -> Stream {
        let mut stream = Stream::new(dialect, true);
        stream.feed(body.as_bytes());
        stream.finish();
        stream
    }

    fn chat() -> String {
        let data = [
            r#"{"choices":[],"prompt_filter_results":[]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}],"usage":null}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            USAGE,
            "[DONE]",
        ];
        data.map(|data| format!("data: {data}\n\n")).concat()
    }

    #[test]
    fn a_chat_is_handed_on_without_its_usage() {
        let stream = seen(Dialect::OpenAi, &chat());
        let seen = stream.seen();
        assert!(seen.has_event && seen.finished && seen.ended && seen.error.is_none());
        assert_eq!(seen.deltas, 3);
        assert_eq!(seen.usage().map(|usage| (usage.input, usage.output)), Some((9, 2)));
        let (passed, _) = read(Dialect::OpenAi, true, [chat().as_bytes()]);
        assert_eq!(String::from_utf8(passed).unwrap(), chat().replace(&format!("data: {USAGE}\n\n"), ""));
        assert!(Stream::new(Dialect::OpenAi, true).feed(b"data: 1\n\n").is_none());
    }

    #[test]
    fn an_anthropic_stream_counts_both_ends() {
        let data = [
            r#"{"type":"message_start","message":{"usage":{"input_tokens":7,"cache_read_input_tokens":3,"output_tokens":1}}}"#,
            r#"{"type":"ping"}"#,
            r#"{"type":"content_block_start"}"#,
            r#"{"type":"content_block_delta","delta":{"text":"x"}}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":0,"output_tokens":15}}"#,
            r#"{"type":"message_stop"}"#,
        ];
        let stream = seen(Dialect::Anthropic, &data.map(|data| format!("event: x\ndata: {data}\n\n")).concat());
        let seen = stream.seen();
        assert!(seen.finished && seen.ended && seen.error.is_none());
        assert_eq!(seen.deltas, 1);
        assert_eq!(seen.usage().map(|usage| (usage.input, usage.output, usage.cached)), Some((7, 15, 3)));
    }

    #[test]
    fn responses_end_with_their_usage_or_fail() {
        let stream = seen(
            Dialect::OpenAi,
            "data: {\"type\":\"response.created\",\"response\":{\"error\":null,\"usage\":null}}\n\n\
             data: {\"type\":\"response.output_text.delta\"}\n\n\
             data: {\"type\":\"response.completed\",\ndata: \"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\n\n",
        );
        assert!(stream.seen().ended && stream.seen().error.is_none());
        assert_eq!(stream.seen().deltas, 1);
        assert_eq!(stream.seen().usage().map(|usage| (usage.input, usage.output)), Some((1, 2)));
        let failed = seen(Dialect::OpenAi, "data: {\"type\":\"response.failed\"}\n\n");
        assert!(failed.seen().ended && failed.seen().error_is_first);
    }

    #[test]
    fn an_error_is_kept_and_pings_are_no_events() {
        let pings = ": hello\n\nevent: ping\ndata: {}\n\ndata: {\"type\": \"ping\"}\r\n\r\ndata\n\nevent: x\n\n";
        assert!(!seen(Dialect::Anthropic, pings).seen().has_event);
        let stream = seen(Dialect::OpenAi, &format!("{pings}data: {{\"error\":{{}}}}\n\ndata: {{\"error\":1}}\n\n"));
        assert_eq!(stream.seen().error.as_deref(), Some(&b"{\"error\":{}}"[..]));
        assert!(stream.seen().error_is_first && stream.seen().ended);
        let late = seen(Dialect::Anthropic, "data: 1\n\nevent: error\ndata: overloaded");
        assert_eq!(late.seen().error.as_deref(), Some(&b"overloaded"[..]));
        assert!(!late.seen().error_is_first);
    }

    #[test]
    fn comments_go_on_at_once_and_a_usage_at_the_very_end_does_not() {
        let mut stream = Stream::new(Dialect::OpenAi, true);
        assert_eq!(stream.feed(b": a\r\ndata: 1\r\n:b\r\n"), Some(b": a\r\n".to_vec()));
        assert_eq!(stream.feed(b"\r"), Some(b"data: 1\r\n:b\r\n\r".to_vec()));
        assert_eq!(stream.feed(b"\n"), None);
        assert_eq!(stream.feed(format!("data: {USAGE}").as_bytes()), Some(Vec::new()));
        assert!(stream.finish().is_empty());
        assert!(stream.seen().usage().is_some());
    }

    #[test]
    fn what_is_too_long_is_handed_on_unread() {
        let text = "x".repeat(MOST);
        let long = format!("data: {{\"a\":\"{text}\",\"choices\":[],\"usage\":{{\"prompt_tokens\":1}}}}\n\n");
        for (body, size) in [(&long, 7), (&long, 100_000), (&long, long.len())] {
            let mut stream = Stream::new(Dialect::OpenAi, true);
            let mut passed = 0;
            for chunk in body.as_bytes().chunks(size) {
                passed += stream.feed(chunk).map_or(chunk.len(), |bytes| bytes.len());
                assert!(stream.body.kept() <= 3 * MOST + 100);
            }
            assert_eq!(passed, body.len());
            assert_eq!((stream.seen().deltas, stream.seen().usage()), (1, None));
        }
        let comments = format!(":{text}\n:{text}\n");
        let mut stream = Stream::new(Dialect::OpenAi, true);
        stream.feed(comments.as_bytes());
        assert!(!stream.seen().has_event);
        // The event is not longer than that, but its data and what is around it are.
        let name = format!("event: {text}\ndata: {USAGE}\n\n");
        assert_eq!(read(Dialect::OpenAi, true, [name.as_bytes()]).0.len(), name.len());
        assert_eq!(read(Dialect::OpenAi, true, name.as_bytes().chunks(1000)).0.len(), name.len());
    }

    fn lines() -> impl Strategy<Value = String> {
        let data = prop_oneof![
            Just(format!("data: {USAGE}")),
            Just("data:{\"choices\":[],".to_owned()),
            Just("data: \"usage\":{\"total_tokens\":1}}".to_owned()),
            Just(String::new()),
            Just(String::new()),
            Just(": c".to_owned()),
            Just("event: ping".to_owned()),
            Just("data: [DONE]".to_owned()),
            Just("data: {\"error\": 1}".to_owned()),
            Just("\u{feff}data: 1".to_owned()),
            Just("data".to_owned()),
            "[a-z: ]{0,9}",
        ];
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
        proptest::collection::vec((data, end).prop_map(|(line, end)| line + end), 0..14).prop_map(|lines| lines.concat())
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(body in lines(), at in any::<prop::sample::Index>(), size in 1_usize..9, trim in 0_usize..3) {
            let body = &body.as_bytes()[..body.len().saturating_sub(trim)];
            for (dialect, drop_usage) in [(Dialect::OpenAi, true), (Dialect::OpenAi, false), (Dialect::Anthropic, true)] {
                let expected = read(dialect, drop_usage, [body]);
                let (before, after) = body.split_at(at.index(body.len() + 1));
                prop_assert_eq!(&read(dialect, drop_usage, [before, after]), &expected);
                prop_assert_eq!(&read(dialect, drop_usage, body.chunks(size)), &expected);
                if !drop_usage || dialect == Dialect::Anthropic {
                    prop_assert_eq!(&expected.0, body);
                }
            }
        }

        #[test]
        fn garbage_is_no_fault(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..9)) {
            read(Dialect::OpenAi, true, chunks.iter().map(Vec::as_slice));
        }
    }
}
