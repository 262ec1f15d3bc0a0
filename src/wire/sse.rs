//! Server-sent events, in chunks that are cut anywhere.
//!
//! The lines and fields are those of <https://html.spec.whatwg.org/multipage/server-sent-events.html>. Other
//! than there, an event that the end of the body cuts off counts too.

use memchr::{memchr, memchr2};

/// Most bytes of an event that are kept.
pub(super) const MOST: usize = 1 << 20;
/// Most bytes of an event's name that are kept: no name that means something here is longer.
const LONGEST_NAME: usize = 64;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An event with data.
pub(super) struct Event<'a> {
    pub(super) name: &'a [u8],
    /// None if there are more than [`MOST`] bytes.
    pub(super) data: Option<&'a [u8]>,
}

/// Whether the client gets an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Drop,
}

/// The event that is being read.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Debug, Default)]
struct Current {
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    has_fields: bool,
    is_too_long: bool,
}

/// Splits a body into events, and hands on what is not dropped.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Debug, Default)]
pub(super) struct Body {
    /// Events may be dropped, so each is held back until it is over.
    holds: bool,
    current: Current,
    /// The line that is not complete. Of a long one a little more than [`MOST`] is kept: it shows that it is
    /// too long.
    line: Vec<u8>,
    has_begun: bool,
    /// The last byte was a carriage return. A line feed after it ends no line of its own.
    after_return: bool,
    /// What is held back of the current event.
    held: Vec<u8>,
    /// The length of the current event so far. Comments before its first field are not a part of it.
    length: usize,
    /// The last bytes that were decided upon were dropped.
    dropped: bool,
}

/// The bytes of one chunk that go on to the client.
#[derive(Default)]
struct Output {
    /// None while the client gets the chunk as it is.
    bytes: Option<Vec<u8>>,
    /// The client gets the bytes of the chunk from here on.
    from: usize,
    /// The current event begins here in the chunk.
    begin: usize,
}

impl Output {
    /// Adds the bytes of the chunk up to a place, and goes on at another.
    fn cut(&mut self, chunk: &[u8], to: usize, from: usize) {
        self.bytes.get_or_insert_default().extend_from_slice(chunk.get(self.from..to).unwrap_or_default());
        self.from = from;
    }
}

impl Body {
    /// With `holds`, events may be dropped.
    pub(super) fn new(holds: bool) -> Self {
        Self { holds, ..Self::default() }
    }

    /// Takes the next bytes. Returns what the client gets; None for just these bytes.
    pub(super) fn feed(&mut self, chunk: &[u8], read: &mut impl FnMut(&Event<'_>) -> Fate) -> Option<Vec<u8>> {
        let mut output = Output::default();
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            if std::mem::take(&mut self.after_return) && rest.first() == Some(&b'\n') {
                at += 1;
                self.end_of_pair(chunk, at, &mut output);
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', rest) else {
                self.length += rest.len();
                self.begin_line(rest);
                break;
            };
            self.after_return = rest.get(end) == Some(&b'\r');
            self.length += end + 1;
            at += end + 1;
            let line = rest.get(..end).unwrap_or_default();
            if let Some(fate) = self.end_line(line, read) {
                self.decide(fate, chunk, at, &mut output);
            }
        }
        if !self.holds {
            return None;
        }
        if self.length > 0 && self.length <= MOST {
            output.cut(chunk, output.begin, chunk.len());
            self.held.extend_from_slice(chunk.get(output.begin..).unwrap_or_default());
        } else {
            self.release(&mut output);
            if output.bytes.is_some() {
                output.cut(chunk, chunk.len(), chunk.len());
            }
        }
        output.bytes
    }

    /// Takes the end of the body. Returns what was held back.
    pub(super) fn finish(&mut self, read: &mut impl FnMut(&Event<'_>) -> Fate) -> Vec<u8> {
        if !self.line.is_empty() {
            self.end_line(&[], read);
        }
        let fate = self.current.end(read);
        let held = std::mem::take(&mut self.held);
        *self = Self::new(self.holds);
        if fate == Fate::Drop { Vec::new() } else { held }
    }

    /// How many bytes are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.line.len() + self.held.len() + self.current.data.len() + self.current.name.len()
    }

    /// Takes the line feed of a pair. It shares the fate of the carriage return.
    fn end_of_pair(&mut self, chunk: &[u8], at: usize, output: &mut Output) {
        if self.length > 0 {
            self.length += 1;
            return;
        }
        if self.dropped {
            output.cut(chunk, output.begin, at);
        }
        output.begin = at;
    }

    fn decide(&mut self, fate: Fate, chunk: &[u8], at: usize, output: &mut Output) {
        // More than that was not held back.
        self.dropped = self.holds && fate == Fate::Drop && self.length <= MOST;
        if self.dropped {
            self.held.clear();
            output.cut(chunk, output.begin, at);
        } else {
            self.release(output);
        }
        self.length = 0;
        output.begin = at;
    }

    /// Hands on what was held back before this chunk.
    fn release(&mut self, output: &mut Output) {
        if !self.held.is_empty() {
            output.bytes.get_or_insert_default().append(&mut self.held);
        }
    }

    fn begin_line(&mut self, bytes: &[u8]) {
        let room = (MOST + 8).saturating_sub(self.line.len());
        self.line.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Ends a line. Returns the fate of the bytes up to here, if it is decided.
    fn end_line(&mut self, rest: &[u8], read: &mut impl FnMut(&Event<'_>) -> Fate) -> Option<Fate> {
        if self.line.is_empty() {
            return self.take_line(rest, read);
        }
        self.begin_line(rest);
        let mut line = std::mem::take(&mut self.line);
        let fate = self.take_line(&line, read);
        line.clear();
        self.line = line;
        fate
    }

    fn take_line(&mut self, mut line: &[u8], read: &mut impl FnMut(&Event<'_>) -> Fate) -> Option<Fate> {
        if !std::mem::replace(&mut self.has_begun, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        match line.first() {
            None => Some(self.current.end(read)),
            Some(b':') => (!self.current.has_fields).then_some(Fate::Pass),
            Some(_) => {
                self.current.field(line);
                None
            }
        }
    }
}

impl Current {
    fn field(&mut self, line: &[u8]) {
        self.has_fields = true;
        let colon = if line.get(4) == Some(&b':') { Some(4) } else { memchr(b':', line) };
        let (name, value) = colon.and_then(|colon| line.split_at_checked(colon)).unwrap_or((line, &[]));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => self.add(value, line.len() > MOST),
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value.get(..LONGEST_NAME).unwrap_or(value));
            }
            _ => {}
        }
    }

    fn add(&mut self, value: &[u8], is_too_long: bool) {
        if std::mem::replace(&mut self.has_data, true) && !self.is_too_long {
            self.data.push(b'\n');
        }
        self.is_too_long |= is_too_long || self.data.len() + value.len() > MOST;
        if self.is_too_long {
            self.data.clear();
        } else {
            self.data.extend_from_slice(value);
        }
    }

    /// Ends the event, and begins the next one.
    fn end(&mut self, read: &mut impl FnMut(&Event<'_>) -> Fate) -> Fate {
        let fate = if self.is_too_long || !self.data.is_empty() {
            read(&Event { name: &self.name, data: (!self.is_too_long).then_some(&self.data) })
        } else {
            Fate::Pass
        };
        self.name.clear();
        self.data.clear();
        self.has_data = false;
        self.has_fields = false;
        self.is_too_long = false;
        fate
    }
}
