//! A half of a cell: a record with a number and a checksum.
//!
//! A cell has two halves, and the one with the greater number counts. A writer writes the other half. If it
//! is killed amid that, its half does not match the checksum, and the older one still counts.

/// The bytes of a half before its record: the number, the length of the record, and the checksum.
pub(super) const HEAD: usize = 24;

/// Returns the bytes of a half. Numbers begin at 1.
pub(super) fn written(number: u64, record: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + record.len());
    for word in [number, record.len() as u64, checksum(number, record)] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(record);
    bytes
}

/// Returns which half counts, 0 or 1, its number and its record. None if neither is whole.
pub(super) fn counting(cell: &[u8]) -> Option<(usize, u64, &[u8])> {
    let (one, other) = cell.split_at_checked(cell.len() / 2)?;
    let halves = [one, other].into_iter().enumerate();
    halves
        .filter_map(|(half, bytes)| read(bytes).map(|(number, record)| (half, number, record)))
        .max_by_key(|&(_, number, _)| number)
}

fn read(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, bytes) = word(bytes)?;
    let (length, bytes) = word(bytes)?;
    let (sum, bytes) = word(bytes)?;
    let record = bytes.get(..usize::try_from(length).ok()?)?;
    (number > 0 && sum == checksum(number, record)).then_some((number, record))
}

/// Takes a number off the beginning of bytes.
pub(super) fn word(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*word), rest))
}

/// A checksum that tells whether all was written. Whoever wants to can make a record that matches it.
pub(super) fn checksum(number: u64, record: &[u8]) -> u64 {
    // Each step is one to one in the sum and in the word, and carries every bit to all others.
    let step = |sum: u64, word: u64| {
        let sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^ (sum >> 32)
    };
    let (words, rest) = record.as_chunks();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, &from)| *to = from);
    let sum = step(step(0x7475_726e_6f75_7431, number), record.len() as u64);
    let sum = words.iter().fold(sum, |sum, &word| step(sum, u64::from_le_bytes(word)));
    step(step(sum, u64::from_le_bytes(last)), 0)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn cell(halves: [&[u8]; 2], capacity: usize) -> Vec<u8> {
        let mut bytes = vec![0; 2 * capacity];
        bytes[..halves[0].len()].copy_from_slice(halves[0]);
        bytes[capacity..][..halves[1].len()].copy_from_slice(halves[1]);
        bytes
    }

    #[test]
    fn the_half_with_the_greater_number_counts() {
        let (one, other) = (written(7, b"one"), written(8, b"other"));
        assert_eq!(counting(&cell([&one, &other], 64)), Some((1, 8, &b"other"[..])));
        assert_eq!(counting(&cell([&other, &one], 64)), Some((0, 8, &b"other"[..])));
        assert_eq!(counting(&cell([&one, &[]], 64)), Some((0, 7, &b"one"[..])));
        assert_eq!(counting(&cell([&[], &[]], 64)), None, "nothing is written there");
        assert_eq!(counting(b"short"), None);
    }

    proptest! {
        #[test]
        fn a_half_that_is_not_written_to_its_end_does_not_count(
            records in (vec(any::<u8>(), 0..60), vec(any::<u8>(), 0..60), vec(any::<u8>(), 0..60)),
            end in any::<prop::sample::Index>(),
        ) {
            let (older, old, new) = (written(1, &records.0), written(2, &records.1), written(3, &records.2));
            let mut torn = older;
            torn.resize(torn.len().max(new.len()), 0);
            let end = end.index(new.len());
            torn[..end].copy_from_slice(&new[..end]);
            let cell = cell([&torn, &old], 96);
            let whole = torn.starts_with(&new);
            let (half, number, record) = counting(&cell).unwrap();
            prop_assert_eq!((half, number, record), if whole { (0, 3, &records.2[..]) } else { (1, 2, &records.1[..]) });
        }

        #[test]
        fn a_changed_byte_is_found(record in vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), change in 1..=u8::MAX) {
            let mut half = written(3, &record);
            let at = at.index(half.len());
            half[at] ^= change;
            prop_assert_eq!(read(&half), None);
        }

        #[test]
        fn bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            counting(&bytes);
        }
    }
}
