//! A value that may be replaced while others read it, without a lock for them.

use std::sync::OnceLock;

use super::sync::atomic::{AtomicUsize, Ordering};
use super::sync::{Mutex, hold};

/// Versions come in chunks, each twice the size of the one before, so that a version never moves.
const CHUNKS: usize = usize::BITS as usize;

/// A value and the versions before it, which readers may still look at. They are kept for good; a value that
/// was there before is not kept twice. It is meant for options, of which there are few.
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
    #[allow(clippy::expect_used)] // `set` makes a version before it says which one it is
    pub(crate) fn get(&self) -> &V {
        // Acquire: pairs with the release in `set`.
        self.version(self.latest.load(Ordering::Acquire)).get().expect("a version that was set")
    }

    /// Replaces the value.
    pub(crate) fn set(&self, value: V) {
        let mut known = hold(&self.known);
        let same = (0..*known).find(|&nth| self.version(nth).get() == Some(&value));
        let nth = same.unwrap_or(*known);
        if same.is_none() {
            self.version(nth).get_or_init(|| value);
            *known += 1;
        }
        // Release: who sees the number sees the version.
        self.latest.store(nth, Ordering::Release);
    }

    #[inline]
    #[allow(clippy::indexing_slicing)] // a chunk for each bit of a number, as long as the numbers that have it first
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
