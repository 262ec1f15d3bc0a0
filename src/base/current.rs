//! A value that may be replaced while other threads read it. Readers take no lock.

use std::sync::OnceLock;

use super::sync::atomic::{AtomicUsize, Ordering};
use super::sync::{Mutex, hold};

/// Versions come in chunks, each twice the size of the one before, so that a version never moves.
const CHUNKS: usize = usize::BITS as usize;

/// A value is not kept twice if it is among this many versions that were made last.
const LAST: usize = 256;

/// A value and its earlier versions, which readers may still look at. All versions are kept for good. A value
/// that is set again soon is not kept twice. It is meant for options, which take few values.
#[derive(Debug)]
pub(crate) struct Current<V> {
    chunks: [OnceLock<Box<[OnceLock<V>]>>; CHUNKS],
    latest: AtomicUsize,
    /// The number of versions.
    known: Mutex<usize>,
}

impl<V: Clone + PartialEq> Current<V> {
    pub(crate) fn new(value: V) -> Self {
        let current = Self { chunks: [const { OnceLock::new() }; CHUNKS], latest: AtomicUsize::new(0), known: Mutex::new(0) };
        current.set(value);
        current
    }

    /// Returns the value.
    #[inline]
    #[allow(clippy::expect_used)] // `set` makes a version before it stores its number
    pub(crate) fn get(&self) -> &V {
        // Acquire: pairs with the release in `set`.
        self.version(self.latest.load(Ordering::Acquire)).get().expect("a version that was set")
    }

    /// Replaces the value.
    pub(crate) fn set(&self, value: V) {
        let mut known = hold(&self.known);
        let same = (known.saturating_sub(LAST)..*known).find(|&nth| self.version(nth).get() == Some(&value));
        let nth = same.unwrap_or(*known);
        if same.is_none() {
            self.version(nth).get_or_init(|| value);
            *known += 1;
        }
        // Release: a reader that sees the number sees the version.
        self.latest.store(nth, Ordering::Release);
    }

    #[inline]
    #[allow(clippy::indexing_slicing)] // the chunks have room for every number
    fn version(&self, nth: usize) -> &OnceLock<V> {
        let from_one = nth + 1;
        let chunk = from_one.ilog2() as usize;
        let versions = self.chunks[chunk].get_or_init(|| (0..1_usize << chunk).map(|_| OnceLock::new()).collect());
        &versions[from_one - (1 << chunk)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_that_was_set_last_is_read_and_none_is_kept_twice() {
        let current = Current::new(0);
        let first = current.get();
        for value in 0..100 {
            current.set(value);
            assert_eq!(*current.get(), value);
        }
        current.set(0);
        assert!(std::ptr::eq(first, current.get()));
        assert_eq!(*hold(&current.known), 100);
    }
}
