//! Slow start: the share of a deployment that has returned or joined grows.
//!
//! The while is cut into 100 slices. The share is 10 % at first, and from then on grows by 1 % a slice. It is
//! a part of the deployment's fair share of the requests of its group: see `index::Ramp`.

use crate::base::time::Nanos;

const SLICES: u64 = 100;

/// The least share, in percent.
const LEAST: u64 = 10;

/// A slice of the while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The share, in percent.
    pub(crate) percent: u64,
    pub(crate) ends_at: Nanos,
}

/// Returns the slice of a slow start that began at `since` and is `length` long; None if it is over.
pub(crate) fn slice(since: Nanos, length: Nanos, now: Nanos) -> Option<Slice> {
    let elapsed = now.saturating_sub(since);
    let slice_length = (length / SLICES).max(1);
    let nth = elapsed / slice_length;
    let ends_at = since.saturating_add((nth + 1) * slice_length);
    (elapsed < length && nth < SLICES).then(|| Slice { percent: nth.max(LEAST), ends_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_all() {
        let percent = |now| slice(1000, 200, now).map(|slice| slice.percent);
        assert_eq!([1000, 1019, 1020, 1022, 1100, 1199].map(percent), [10, 10, 10, 11, 50, 99].map(Some));
        assert_eq!([1200, u64::MAX].map(percent), [None, None]);
        assert_eq!(slice(1000, 200, 1099).map(|slice| slice.ends_at), Some(1100));
        assert_eq!(slice(0, 0, 0), None);
        // Shorter than 100 ns: each slice is one.
        assert_eq!(slice(0, 50, 49).map(|slice| slice.percent), Some(49));
    }
}
