//! Why a deployment cools down.

use std::fmt;

use super::failure::FailureKind;

/// Why a deployment cools down.
///
/// ```
/// use turnout::{Cause, FailureKind};
///
/// assert_eq!(Cause::Failure(FailureKind::RateLimit).to_string(), "rate_limit");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The application asked for it.
    Asked,
    /// There were too many failures in a row.
    Consecutive,
    /// The share of failures was too large.
    Rate,
    /// The share of failures was too many times that of its peers.
    Outlier,
    /// It failed on probation.
    Probation,
    /// Its failure domain could not be reached.
    Domain,
    /// One failure of this kind is enough.
    Failure(FailureKind),
}

impl Cause {
    const PLAIN: [Self; 6] = [Self::Asked, Self::Consecutive, Self::Rate, Self::Outlier, Self::Probation, Self::Domain];

    /// Returns its number, from 1 on.
    pub(crate) fn code(self) -> u8 {
        let all = Self::PLAIN.into_iter().chain(FailureKind::ALL.map(Self::Failure));
        (1..).zip(all).find(|&(_, cause)| cause == self).map_or(0, |(code, _)| code)
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        let mut all = Self::PLAIN.into_iter().chain(FailureKind::ALL.map(Self::Failure));
        all.nth(usize::from(code).checked_sub(1)?)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "asked for",
            Self::Consecutive => "failures in a row",
            Self::Rate => "failure rate",
            Self::Outlier => "failure rate beside its peers'",
            Self::Probation => "failed on probation",
            Self::Domain => "its domain could not be reached",
            Self::Failure(kind) => kind.name(),
        })
    }
}
