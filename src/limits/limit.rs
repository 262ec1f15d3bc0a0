//! The facts of a limit, validated.

use std::fmt;

use super::unit::Unit;
use super::zone::{DAY, Zone};
use crate::base::error::Error;
use crate::base::time::{Nanos, SECOND, seconds};

/// The times at which fixed windows begin.
///
/// ```
/// use turnout::{Limit, LimitKind, Start, Unit};
///
/// const DAY: u64 = 86_400_000_000_000;
/// let a_day = Limit::new(Unit::Requests, 1000, DAY, LimitKind::Fixed(Start::FirstUse))?;
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// At multiples of their length since 1970, as minutes of the clock do.
    Clock,
    /// This long after multiples of their length.
    Offset(Nanos),
    /// At midnight in a time zone. Their length is whole days, and a day is as long as the zone says.
    Midnight(Zone),
    /// With the first request after the window before.
    FirstUse,
}

/// How the used units of a limit become free again.
///
/// ```
/// assert_eq!(turnout::LimitKind::Bucket { burst: 10 }.name(), "bucket");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// All at once, when the next window begins.
    Fixed(Start),
    /// Each use by itself, when it is as old as the window is long.
    Sliding,
    /// Continuously.
    Bucket {
        /// The most that can be used at once.
        burst: u64,
    },
}

impl LimitKind {
    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed(_) => "fixed",
            Self::Sliding => "sliding",
            Self::Bucket { .. } => "bucket",
        }
    }
}

/// An amount of a unit in a length of time.
///
/// ```
/// use turnout::{Deployment, Limit, LimitKind, Unit};
///
/// let limit = Limit::new(Unit::InputTokens, 50_000, 60_000_000_000, LimitKind::Sliding)?;
/// assert_eq!(limit.to_string(), "50000 input_tokens per 60 s (sliding)");
/// let deployment = Deployment::new("azure-eu", "gpt-4o")?.with_limits(&[limit]);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    unit: Unit,
    amount: u64,
    per: Nanos,
    kind: LimitKind,
}

impl Limit {
    /// Makes a limit of `amount` in the time `per`.
    ///
    /// # Errors
    /// If a number makes no sense:
    ///
    /// - the amount or the burst is 0;
    /// - the time is less than a millisecond;
    /// - the amount of a bucket is more than one a nanosecond;
    /// - the burst is more than refills in 10^9 seconds;
    /// - the offset is as long as the time, or longer;
    /// - windows begin at midnight, and the time is not whole days.
    pub fn new(unit: Unit, amount: u64, per: Nanos, kind: LimitKind) -> Result<Self, Error> {
        const SHORTEST: Nanos = 1_000_000;
        const LONGEST: Nanos = 1_000_000_000 * SECOND;
        let refused = |what: String| Err(Error::Configuration(what));
        if amount == 0 {
            return refused(format!("{unit} of a Limit must be at least 1, not 0"));
        }
        if per < SHORTEST {
            return refused(format!("per must be at least 0.001 seconds, not {}", seconds(per)));
        }
        match kind {
            LimitKind::Fixed(Start::Offset(offset)) if offset >= per => {
                return refused(format!("offset must be less than per, {}, not {}", seconds(per), seconds(offset)));
            }
            LimitKind::Fixed(Start::Midnight(_)) if !per.is_multiple_of(DAY) => {
                return refused(format!("per must be whole days of 86400 seconds where timezone is given, not {}", seconds(per)));
            }
            _ => {}
        }
        if let LimitKind::Bucket { burst } = kind {
            if burst == 0 {
                return refused("burst must be at least 1, or None for the whole limit, not 0".to_owned());
            }
            if u128::from(burst) * u128::from(per) > u128::from(LONGEST) * u128::from(amount) {
                return refused(format!(
                    "burst must be at most what refills in 1e9 seconds, not {burst} at {amount} in {} s",
                    seconds(per)
                ));
            }
            if amount > per {
                return refused(format!("{unit} of a bucket must be at most one a nanosecond, not {amount} in {} s", seconds(per)));
            }
        }
        Ok(Self { unit, amount, per, kind })
    }

    /// Returns the unit that it counts.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Returns how many units it admits.
    #[must_use]
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Returns its time in nanoseconds.
    #[must_use]
    pub fn per(&self) -> Nanos {
        self.per
    }

    /// Returns how used units become free again.
    #[must_use]
    pub fn kind(&self) -> LimitKind {
        self.kind
    }

    /// Returns the most that can be used at once.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        match self.kind {
            LimitKind::Bucket { burst } => burst,
            LimitKind::Fixed(_) | LimitKind::Sliding => self.amount,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} per {} s ({})", self.amount, self.unit, seconds(self.per), self.kind.name())
    }
}
