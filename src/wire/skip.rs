//! Skips over the insides of strings, many bytes at a time.

use memchr::memchr2;

/// Finds the quote that ends a string. Returns its place, and whether a backslash is before it.
#[inline]
pub(super) fn end_of_text(text: &[u8]) -> Option<(usize, bool)> {
    let found = mark(text)?;
    if text.get(found) == Some(&b'"') { Some((found, false)) } else { Some((after_escape(text, found)?, true)) }
}

/// The same from the first backslash on.
fn after_escape(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match in_blocks(text.get(at..)?) {
            Found::End(end) => return Some(at + end),
            Found::Plain(end) => at += end,
            Found::Nothing => return None,
        }
        at += mark(text.get(at..)?)?;
        if text.get(at) == Some(&b'"') {
            return Some(at);
        }
    }
}

/// Finds the quote or the backslash that comes first.
#[inline]
fn mark(text: &[u8]) -> Option<usize> {
    // Most strings end within a few bytes, where a call costs more than a loop.
    const NEAR: usize = 32;
    let mut at = 0;
    while at < NEAR {
        let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk) else {
            let end = text.get(at..).unwrap_or_default();
            return end.iter().position(|byte| matches!(byte, b'"' | b'\\')).map(|found| at + found);
        };
        let eight = u64::from_le_bytes(*eight);
        let found = same(eight, b'"') | same(eight, b'\\');
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr2(b'"', b'\\', text.get(NEAR..)?).map(|found| found + NEAR)
}

/// How blocks end.
enum Found {
    End(usize),
    /// Some blocks have neither quotes nor backslashes; the place behind them.
    Plain(usize),
    Nothing,
}

/// Looks for the quote that ends a string, in blocks of 64 bytes without a branch for each escape: text with
/// many line breaks and quotes has one every few bytes.
fn in_blocks(text: &[u8]) -> Found {
    const PLAIN: u32 = 4;
    let (blocks, end) = text.as_chunks::<64>();
    let mut is_escaped = 0;
    let mut plain = 0;
    let mut at = 0;
    for block in blocks {
        let (quotes, backslashes) = masks(block);
        let ends = quotes & !escaped(backslashes, &mut is_escaped);
        if ends != 0 {
            return Found::End(at + ends.trailing_zeros() as usize);
        }
        at += block.len();
        plain = if quotes | backslashes | is_escaped == 0 { plain + 1 } else { 0 };
        if plain == PLAIN {
            return Found::Plain(at);
        }
    }
    for byte in end {
        match byte {
            _ if is_escaped == 1 => is_escaped = 0,
            b'\\' => is_escaped = 1,
            b'"' => return Found::End(at),
            _ => {}
        }
        at += 1;
    }
    Found::Nothing
}

/// Which bytes of a block are quotes, and which are backslashes: a bit each, the first byte in the lowest.
#[inline]
fn masks(block: &[u8; 64]) -> (u64, u64) {
    let (words, _) = block.as_chunks::<8>();
    let mut quotes = 0;
    let mut backslashes = 0;
    for word in words.iter().rev() {
        let eight = u64::from_le_bytes(*word);
        quotes = quotes << 8 | gather(same(eight, b'"'));
        backslashes = backslashes << 8 | gather(same(eight, b'\\'));
    }
    (quotes, backslashes)
}

/// Marks the bytes that are the same as another with their highest bit.
#[inline]
fn same(eight: u64, byte: u8) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const LOW: u64 = EACH * 0x7f;
    let zeros = eight ^ (EACH * u64::from(byte));
    !(((zeros & LOW) + LOW) | zeros | LOW)
}

/// Gathers the highest bits of eight bytes into one byte.
#[inline]
fn gather(marks: u64) -> u64 {
    (marks >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Which bytes of a block follow a backslash that is itself not escaped. `is_escaped` says it of the first
/// byte, and then of the first byte of the next block. See `json_escape_scanner` in simdjson.
#[inline]
fn escaped(backslashes: u64, is_escaped: &mut u64) -> u64 {
    const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let starts = backslashes & !*is_escaped;
    let codes = (starts << 1 | ODD).wrapping_sub(starts) ^ ODD;
    let escaped = codes ^ (backslashes | *is_escaped);
    *is_escaped = (codes & backslashes) >> 63;
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::end_of_text;

    /// The same, byte by byte.
    fn slow(text: &[u8]) -> Option<(usize, bool)> {
        let mut at = 0;
        loop {
            match text.get(at)? {
                b'"' => return Some((at, text[..at].contains(&b'\\'))),
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let run = prop_oneof![
            (0..200_usize).prop_map(|length| b"\\".repeat(length)),
            (0..400_usize).prop_map(|length| b"x".repeat(length)),
            (1..90_usize).prop_map(|length| b"a\\\"".repeat(length)),
            proptest::collection::vec(proptest::sample::select(&b"\\\"a\xdc\xa2\x00"[..]), 0..20),
        ];
        proptest::collection::vec(run, 0..8).prop_map(|runs| runs.concat())
    }

    proptest! {
        #[test]
        fn the_end_is_where_it_is_byte_by_byte(text in text(), start in 0_usize..70) {
            let text = text.get(start..).unwrap_or_default();
            prop_assert_eq!(end_of_text(text), slow(text));
        }
    }
}
