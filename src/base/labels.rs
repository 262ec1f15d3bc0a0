//! What requests may ask of a deployment: its tags, and the language that it speaks.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::error::Error;

/// The language of a provider's HTTP interface.
///
/// ```
/// use turnout::Dialect;
///
/// assert_eq!("openai".parse(), Ok(Dialect::OpenAi));
/// assert!("latin".parse::<Dialect>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// That of `OpenAI`, which most providers speak.
    OpenAi,
    /// That of Anthropic's messages.
    Anthropic,
}

impl Dialect {
    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dialect {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        [Self::OpenAi, Self::Anthropic]
            .into_iter()
            .find(|dialect| dialect.name() == name)
            .ok_or_else(|| Error::Configuration(format!("dialect must be \"openai\" or \"anthropic\", not {name:?}")))
    }
}

/// The labels of a deployment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labels<'a> {
    pub(crate) tags: &'a [Arc<str>],
    /// None if the deployment has no endpoint.
    pub(crate) dialect: Option<Dialect>,
}
