//! Slow start: the share of a deployment that has returned or joined grows.
//!
//! A share is a share of time: the while is cut into 100 slices, and in some of them the deployment is a
//! candidate like any other. That works under every strategy, needs no chance, and an index knows when the
//! next slice begins. The share grows from 10 % by 1 % a slice; which slices are open follows as the pixels
//! of a line do (Bresenham), so that at any time as many were as the shares add up to.

use crate::base::time::Nanos;

const SLICES: u64 = 100;

/// The least share, in percent.
const LEAST: u64 = 10;

/// A slice of the while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Whether the deployment is a candidate in it.
    pub(crate) is_open: bool,
    /// The share, in percent.
    pub(crate) percent: u64,
    pub(crate) ends_at: Nanos,
}

/// Returns the slice of a slow start that began at `since` and is `length` long; None if it is over.
pub(crate) fn slice(since: Nanos, length: Nanos, now: Nanos) -> Option<Slice> {
    let elapsed = now.saturating_sub(since);
    let slice_length = (length / SLICES).max(1);
    let nth = elapsed / slice_length;
    (elapsed < length && nth < SLICES).then(|| Slice {
        is_open: opened(nth + 1) > opened(nth),
        percent: nth.max(LEAST),
        ends_at: since.saturating_add((nth + 1) * slice_length),
    })
}

/// Returns how many of the first slices are open.
fn opened(slices: u64) -> u64 {
    let rising = slices.max(LEAST);
    let percents = slices.min(LEAST) * LEAST + (rising * (rising - 1) - LEAST * (LEAST - 1)) / 2;
    percents.div_ceil(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_the_whole() {
        let open = |range: std::ops::Range<u64>| range.filter(|&nth| slice(7, 1000, 7 + nth * 10).unwrap().is_open).count();
        assert!(slice(7, 1000, 7).unwrap().is_open);
        assert_eq!(open(0..20), 3); // ten slices of 10 %, then 10 to 19 %
        assert_eq!(open(40..60), 10);
        assert_eq!(open(80..100), 18);
        assert_eq!(open(0..100), 51);
        assert_eq!(slice(7, 1000, 1007), None);
    }

    #[test]
    fn a_slice_says_when_it_ends() {
        assert_eq!(slice(7, 1000, 16).unwrap().ends_at, 17);
        assert_eq!(slice(7, 1000, 17).unwrap(), Slice { ends_at: 27, is_open: false, percent: 10 });
        assert_eq!(slice(7, 1000, 1006).unwrap().percent, 99);
        // As for a clock that another thread has read later.
        assert!(slice(7, 1000, 3).unwrap().is_open);
    }
}
