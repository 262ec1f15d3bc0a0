//! The units that limits count.

use std::fmt;
use std::str::FromStr;

use crate::base::error::Error;

/// The unit that a limit counts.
///
/// ```
/// use turnout::Unit;
///
/// assert_eq!("input_tokens".parse::<Unit>()?, Unit::InputTokens);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens of prompts and answers together.
    Tokens,
    /// Tokens of prompts.
    InputTokens,
    /// Tokens of answers.
    OutputTokens,
}

impl Unit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Tokens, Self::InputTokens, Self::OutputTokens];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
        }
    }

    /// Returns whether it counts one part of a request's tokens.
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
