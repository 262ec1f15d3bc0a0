//! The facts of limits and quotas, validated.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::clock::{Nanos, SECOND, seconds};
use crate::deployment::not_empty;
use crate::error::Error;
use crate::select::Request;

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens, prompt and answer.
    Tokens,
    /// Tokens of prompts.
    InputTokens,
    /// Tokens of answers.
    OutputTokens,
}

impl Unit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Tokens, Self::InputTokens, Self::OutputTokens];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
        }
    }

    /// Whether it counts one part of a request's tokens.
    pub(crate) const fn is_part(self) -> bool {
        matches!(self, Self::InputTokens | Self::OutputTokens)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Unit {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|unit| unit.name() == name).ok_or_else(|| {
            Error::Configuration(format!("unknown unit {name:?}: must be one of {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}

/// What a request takes of each unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) tokens: u64,
    /// None where only their sum is known: each part may then be all of it.
    pub(crate) split: Option<(u64, u64)>,
}

impl Demand {
    /// What is counted.
    pub(crate) fn of(&self, unit: Unit) -> u64 {
        match (unit, self.split) {
            (Unit::Requests, _) => 1,
            (Unit::InputTokens, Some((input, _))) => input,
            (Unit::OutputTokens, Some((_, output))) => output,
            (Unit::Tokens | Unit::InputTokens | Unit::OutputTokens, _) => self.tokens,
        }
    }

    /// What must be left: of a request of unknown size a token.
    pub(crate) fn least(&self, unit: Unit) -> u64 {
        let known = unit.is_part() && self.split.is_some();
        self.of(unit).max(u64::from(!known))
    }

    /// What it really took, where that is known: as estimated otherwise.
    #[inline]
    pub(crate) fn settled(self, tokens: Option<u64>, split: Option<(u64, u64)>) -> Self {
        match (tokens, split) {
            (_, Some((input, output))) => Self { tokens: tokens.unwrap_or(input.saturating_add(output)), split },
            // The prompt is what it was; the answer is the rest.
            (Some(tokens), None) => {
                let split = self.split.map(|(input, _)| (input.min(tokens), tokens.saturating_sub(input)));
                Self { tokens, split }
            }
            (None, None) => self,
        }
    }
}

impl From<&Request> for Demand {
    fn from(request: &Request) -> Self {
        Self { tokens: request.tokens, split: request.split }
    }
}

/// Where fixed windows begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// At multiples of their length, as minutes of the clock do.
    Clock,
    /// With the first request after the window before.
    FirstUse,
}

/// How a limit lets go of what was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// All at once, when the next window begins.
    Fixed(Start),
    /// Each use when it is as old as the window is long.
    Sliding,
    /// Continuously.
    Bucket {
        /// The most that can be used at once.
        burst: u64,
    },
}

impl LimitKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed(_) => "fixed",
            Self::Sliding => "sliding",
            Self::Bucket { .. } => "bucket",
        }
    }
}

/// So much of a unit in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    unit: Unit,
    amount: u64,
    per: Nanos,
    kind: LimitKind,
}

impl Limit {
    /// A limit of `amount` in the time `per`.
    ///
    /// # Errors
    /// If the amount or the burst is 0, the time less than a millisecond, the amount of a bucket more than one a nanosecond, or its burst
    /// more than refills in 10^9 seconds.
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

    /// What it counts.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// How much.
    #[must_use]
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// In how many nanoseconds.
    #[must_use]
    pub fn per(&self) -> Nanos {
        self.per
    }

    /// How it lets go of what was used.
    #[must_use]
    pub fn kind(&self) -> LimitKind {
        self.kind
    }

    /// The most that can be used at once.
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

/// Limits that several deployments share, such as those of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    id: Arc<str>,
    limits: Arc<[Limit]>,
}

impl Quota {
    /// A quota of these limits.
    ///
    /// # Errors
    /// If the id is empty or there is no limit.
    pub fn new(id: &str, limits: &[Limit]) -> Result<Self, Error> {
        if limits.is_empty() {
            return Err(Error::Configuration(format!("the quota {id:?} must have at least one limit")));
        }
        Ok(Self { id: not_empty("quota_id", id)?, limits: limits.into() })
    }

    /// What it is known by: deployments with quotas of the same id share one.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn shared_id(&self) -> &Arc<str> {
        &self.id
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }
}
