//! The rules that a deployment follows.

use super::health_rules::HealthRules;
use super::minute_rules::MinuteRules;
use crate::base::error::Error;

/// The rules by which a deployment cools down and comes back.
///
/// ```
/// use turnout::{HealthRules, Router, Rules, Settings};
///
/// let health = Rules::Health(HealthRules { consecutive_failures: Some(5), ..HealthRules::default() });
/// let router: Router<()> = Router::new(Settings { health, ..Settings::default() })?;
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rules {
    /// The rules of the clock minute.
    Minute(MinuteRules),
    /// The rules of `Health`.
    Health(HealthRules),
}

impl Default for Rules {
    fn default() -> Self {
        Self::Health(HealthRules::default())
    }
}

impl Rules {
    /// Checks that the numbers make sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Minute(rules) => rules.check(),
            Self::Health(rules) => rules.check(),
        }
    }

    /// Returns the rules of `Health`, if these are they.
    #[inline]
    pub(crate) fn health(&self) -> Option<&HealthRules> {
        match self {
            Self::Minute(_) => None,
            Self::Health(rules) => Some(rules),
        }
    }
}
