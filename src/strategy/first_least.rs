//! The summary of the rules that take the least of something, ties to the first.

use super::Outcome;

/// The least key so far and where it was first seen.
#[derive(Debug)]
pub(crate) struct FirstLeast<K>(Option<(K, usize)>);

impl<K> Default for FirstLeast<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialOrd + Copy> FirstLeast<K> {
    #[inline]
    pub(crate) fn absorb(&mut self, position: usize, key: K) {
        if self.0.is_none_or(|(least, _)| key < least) {
            self.0 = Some((key, position));
        }
    }

    pub(crate) fn get(&self) -> Option<(K, usize)> {
        self.0
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.0.map_or(Outcome::Nobody, |(_, position)| Outcome::At(position))
    }
}
