//! The rules of litellm-rs, which count in clock minutes.

use super::failure::FailureKind;
use crate::base::error::Error;
use crate::base::time::{Nanos, SECOND};
use crate::limits::Counts;

/// When a deployment cools down and comes back, by what one clock minute counts.
///
/// ```
/// use turnout::{MinuteRules, Router, Rules, Settings};
///
/// let rules = MinuteRules { allowed_fails: 5, ..MinuteRules::default() };
/// let router: Router<()> = Router::new(Settings { health: Rules::Minute(rules), ..Settings::default() })?;
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinuteRules {
    /// The number of failures in a minute that start a cooldown, once `min_requests` were made in it.
    pub allowed_fails: u64,
    /// The number of requests in a minute from which `allowed_fails` counts.
    pub min_requests: u64,
    /// Whether a majority of failures starts a cooldown too: more than half of at least ten requests.
    pub majority: bool,
    /// How long a cooldown lasts unless the failure says otherwise.
    pub cooldown_time: Nanos,
    /// Consecutive successes that end the probation, at least 1.
    pub success_threshold: u32,
}

impl Default for MinuteRules {
    fn default() -> Self {
        Self { allowed_fails: 3, min_requests: 10, majority: true, cooldown_time: 5 * SECOND, success_threshold: 3 }
    }
}

/// Only among at least this many requests can failures be the majority, so that the first failure of a minute
/// is not.
const MAJORITY_OF: u64 = 10;

impl MinuteRules {
    /// Checks that the numbers make sense.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.success_threshold == 0 {
            return Err(Error::Configuration("success_threshold must be at least 1, not 0".to_owned()));
        }
        Ok(())
    }

    /// Returns whether a failure of this kind starts a cooldown, after the minute has counted it.
    pub(super) fn trips(&self, kind: FailureKind, minute: Counts) -> bool {
        let requests = minute.requests.saturating_add(u64::from(minute.carried));
        let fails = u64::from(minute.fails);
        kind.trips_at_once()
            || (fails >= self.allowed_fails && requests >= self.min_requests)
            || (self.majority && requests >= MAJORITY_OF && fails.saturating_mul(2) > requests)
    }
}
