//! What went wrong with a request.

use std::fmt;
use std::str::FromStr;

use crate::base::error::Error;
use crate::base::time::Nanos;

/// What went wrong with a request.
///
/// ```
/// use turnout::FailureKind;
///
/// assert_eq!("rate_limit".parse::<FailureKind>()?, FailureKind::RateLimit);
/// assert!(FailureKind::BadRequest.is_neutral());
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The deployment failed. Failures without a kind of their own are of this kind.
    Error,
    /// The deployment could not be reached.
    Connection,
    /// The deployment refused because of its rate limit.
    RateLimit,
    /// The deployment refused the credentials or the account.
    Auth,
    /// The deployment does not have the model.
    NotFound,
    /// The deployment did not answer in time.
    Timeout,
    /// The application says so.
    Manual,
    /// The request was wrong.
    BadRequest,
    /// The content was refused.
    ContentPolicy,
    /// The prompt was too long for the model.
    ContextWindow,
    /// The caller gave up.
    Cancelled,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Error,
        Self::Connection,
        Self::RateLimit,
        Self::Auth,
        Self::NotFound,
        Self::Timeout,
        Self::Manual,
        Self::BadRequest,
        Self::ContentPolicy,
        Self::ContextWindow,
        Self::Cancelled,
    ];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Connection => "connection",
            Self::RateLimit => "rate_limit",
            Self::Auth => "auth",
            Self::NotFound => "not_found",
            Self::Timeout => "timeout",
            Self::Manual => "manual",
            Self::BadRequest => "bad_request",
            Self::ContentPolicy => "content_policy",
            Self::ContextWindow => "context_window",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns whether the caller caused it, so that it says nothing about the deployment.
    #[must_use]
    pub const fn is_neutral(self) -> bool {
        matches!(self, Self::BadRequest | Self::ContentPolicy | Self::ContextWindow | Self::Cancelled)
    }

    /// Returns whether the deployment, or the application for it, says that it will not serve for now.
    const fn is_refusal(self) -> bool {
        matches!(self, Self::RateLimit | Self::Auth | Self::NotFound | Self::Manual)
    }

    /// Returns whether one such failure is enough for a cooldown, by the rules of the minute.
    pub(super) const fn trips_at_once(self) -> bool {
        self.is_refusal() || matches!(self, Self::Timeout)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FailureKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            Error::Configuration(format!("unknown failure kind {name:?}: must be one of {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}

/// The thing that a refusal is about.
///
/// ```
/// assert_eq!("account".parse::<turnout::Scope>()?, turnout::Scope::Account);
/// # Ok::<(), turnout::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The deployment that refused, and no other.
    Deployment,
    /// The account, and so all deployments under the quota that stands for it.
    Account,
}

impl Scope {
    const ALL: [Self; 2] = [Self::Deployment, Self::Account];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::Account => "account",
        }
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|scope| scope.name() == name).ok_or_else(|| {
            Error::Configuration(format!("unknown scope {name:?}: must be one of {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}

/// A failure as it was reported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// How long the provider wants no requests, as far as the options accept it; never 0.
    pub(crate) wait: Option<Nanos>,
    /// Which of the deployment's quotas it is about, in the order of their locks; None if it is about none.
    pub(crate) quota: Option<usize>,
    /// When the request was sent.
    pub(crate) sent_at: Nanos,
    /// Whether the request had a lease of this router.
    pub(crate) has_lease: bool,
}

impl Failure {
    /// Returns whether the deployment says that it will not serve for now: by the kind of failure, or by a
    /// time to wait.
    pub(crate) fn is_refusal(&self) -> bool {
        self.kind.is_refusal() || self.wait.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for kind in FailureKind::ALL {
            assert_eq!(kind.name().parse::<FailureKind>().unwrap(), kind);
        }
        assert!("5xx".parse::<FailureKind>().unwrap_err().to_string().contains("rate_limit"));
    }
}
