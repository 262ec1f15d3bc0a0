//! The facts of a quota, validated.

use std::sync::Arc;

use super::limit::Limit;
use crate::base::error::Error;
use crate::base::names::not_empty;

/// Limits that several deployments share, such as those of one account.
///
/// ```
/// use turnout::{Deployment, Limit, LimitKind, Quota, Unit};
///
/// let limit = Limit::new(Unit::Tokens, 100_000, 60_000_000_000, LimitKind::Sliding)?;
/// let account = Quota::new("account", &[limit])?;
/// let deployments = [
///     Deployment::new("azure-eu", "gpt-4o")?.with_quotas(&[account.clone()])?,
///     Deployment::new("azure-eu-mini", "gpt-4o-mini")?.with_quotas(&[account])?,
/// ];
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    id: Arc<str>,
    limits: Arc<[Limit]>,
}

impl Quota {
    /// Makes a quota of these limits.
    ///
    /// # Errors
    /// If the id is empty or there is no limit.
    pub fn new(id: &str, limits: &[Limit]) -> Result<Self, Error> {
        if limits.is_empty() {
            return Err(Error::Configuration(format!("the quota {id:?} must have at least one limit")));
        }
        Ok(Self { id: not_empty("quota_id", id)?, limits: limits.into() })
    }

    /// Returns its id. Deployments with quotas of the same id share one.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn shared_id(&self) -> &Arc<str> {
        &self.id
    }

    /// Returns its limits.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }
}
