//! Why a limit does not let a request through, with the numbers.
//!
//! These types are small, since the result of every pick has room for one.

use std::fmt;

use super::share::SharedShortfall;
use super::unit::Unit;
use crate::base::time::{Nanos, seconds};

/// Too little of something is left.
///
/// ```
/// use turnout::{LimitShortfall, Nanos, Shortfall};
///
/// let never = LimitShortfall { nth: 0, used: 0, asked: 5000, frees_in: Nanos::MAX };
/// assert_eq!(Shortfall::Limit(never).to_string(), "5000 asked for, never fits");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortfall {
    /// Too little of a limit is left, by what was counted here.
    Limit(LimitShortfall),
    /// Too little of a limit of the provider's is left, by what the provider said.
    Observed(ObservedShortfall),
    /// This process holds too little of a limit that it shares with others.
    Shared(SharedShortfall),
}

/// Too little of a limit is left.
///
/// See the example of [`Shortfall`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitShortfall {
    /// The number of the limit among those of its owner, from 0.
    pub nth: u32,
    /// The units that are used.
    pub used: u64,
    /// The units that the request asks for.
    pub asked: u64,
    /// Nanoseconds until enough is left; [`Nanos::MAX`] if it never will be.
    pub frees_in: Nanos,
}

/// The provider said that too little is left.
///
/// It comes with [`Refusal::ObservedLimit`](crate::Refusal::ObservedLimit) and in a [`Shortfall`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedShortfall {
    /// The unit that the provider counts.
    pub unit: Unit,
    /// The units that the provider said were left, less those that were reserved since.
    pub left: u64,
    /// The units that the request asks for.
    pub asked: u64,
    /// Nanoseconds until this answer is out of date.
    pub ends_in: Nanos,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(shortfall) => shortfall.fmt(f),
            Self::Observed(shortfall) => shortfall.fmt(f),
            Self::Shared(shortfall) => shortfall.fmt(f),
        }
    }
}

impl fmt::Display for LimitShortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { used, asked, frees_in, .. } = self;
        if *frees_in == Nanos::MAX {
            write!(f, "{asked} asked for, never fits")
        } else {
            write!(f, "{used} used, {asked} asked for, frees in {:.1} s", seconds(*frees_in))
        }
    }
}

impl fmt::Display for ObservedShortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, left, asked, ends_in } = self;
        write!(f, "the provider left {left} {unit}, {asked} asked for, resets in {:.1} s", seconds(*ends_in))
    }
}
