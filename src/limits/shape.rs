//! The shapes of limits, as a shared store knows them.
//!
//! All times here are microseconds of the store's clock.

use super::fixed::Fixed;
use super::limit::{Limit, LimitKind, Start};
use crate::base::time::Nanos;
use crate::shared::{MOST, Micros};

/// The shortest time in which a piece of a sliding window can be used.
pub(super) const SHORTEST: Micros = 100_000;

/// Slices of a sliding window, as in [`sliding`](super::sliding).
const SLICES: u64 = 60;

/// How the windows of a limit follow each other.
#[derive(Debug)]
pub(super) enum Shape {
    Fixed(Fixed),
    FirstUse { per: Micros },
    Sliding { slice: Micros, per: Micros },
    Bucket { refill: u64, unit: u64 },
}

impl Shape {
    /// Returns the shape of a limit, and how many pieces it has at most.
    pub(super) fn of(limit: &Limit) -> (Self, usize) {
        match limit.kind() {
            LimitKind::Fixed(Start::FirstUse) => (Self::FirstUse { per: (limit.per() / 1000).max(1) }, 3),
            LimitKind::Fixed(start) => (Self::Fixed(Fixed::new(limit.per(), start, None)), 3),
            LimitKind::Sliding => {
                let per = limit.per().div_ceil(1000);
                let slice = per.div_ceil(SLICES).max(1);
                // Those of the window, and those that are used now.
                let pieces = SLICES + 3 + SHORTEST.div_ceil(slice).min(200);
                (Self::Sliding { slice, per }, usize::try_from(pieces).unwrap_or(usize::MAX))
            }
            LimitKind::Bucket { burst } => {
                let (refill, unit) = refill(limit.amount(), limit.per(), burst);
                (Self::Bucket { refill, unit }, 1)
            }
        }
    }
}

/// Returns the parts that refill in a microsecond, and the parts of a unit. They are rounded so that the
/// bucket is slower than its limit, if at all, and so that all parts of a bucket are at most [`MOST`].
fn refill(amount: u64, per: Nanos, burst: u64) -> (u64, u64) {
    let (refill, unit) = (u128::from(amount) * 1000, u128::from(per));
    let common = gcd(refill, unit);
    let (refill, unit) = (refill / common, unit / common);
    let most = u128::from(MOST) / u128::from(burst.max(1));
    let (refill, unit) = if unit <= most { (refill, unit) } else { (refill * most.max(1) / unit, most.max(1)) };
    (u64::try_from(refill).unwrap_or(u64::MAX).max(1), u64::try_from(unit).unwrap_or(u64::MAX))
}

fn gcd(one: u128, other: u128) -> u128 {
    if other == 0 { one.max(1) } else { gcd(other, one % other) }
}

/// Returns a number that tells a limit from others: a digest of its unit, time and kind, and `nth`. The
/// amount does not count: a limit that is raised keeps what is granted. All processes must agree on it, so it
/// is FNV-1a, which no build changes.
pub(super) fn meter(limit: &Limit, nth: u64) -> u64 {
    let kind = match limit.kind() {
        LimitKind::Fixed(start) => match start {
            Start::Clock => "clock".to_owned(),
            Start::Offset(offset) => format!("offset {offset}"),
            Start::Midnight(zone) => format!("midnight {}", zone.name()),
            Start::FirstUse => "first use".to_owned(),
        },
        LimitKind::Sliding => "sliding".to_owned(),
        LimitKind::Bucket { .. } => "bucket".to_owned(),
    };
    digest(&format!("{} {} {kind} {nth}", limit.unit(), limit.per()))
}

pub(super) const fn digest(text: &str) -> u64 {
    let (mut digest, mut rest) = (0xcbf2_9ce4_8422_2325_u64, text.as_bytes());
    while let [byte, others @ ..] = rest {
        digest = (digest ^ *byte as u64).wrapping_mul(0x0100_0000_01b3);
        rest = others;
    }
    (digest ^ (digest >> 32)) % (MOST / 2)
}
