//! The view that a strategy has of a candidate.

use std::sync::Arc;

use crate::facts::Price;
use crate::limits::Usage;

/// A candidate as strategies see it. A router answers from its live counters. It reads each counter only when
/// a strategy asks for it.
///
/// [`RoutingContext`] is a candidate too: see its example.
pub trait Candidate {
    /// Returns the relative share.
    fn weight(&self) -> u32;
    /// Returns the rank, lower first.
    fn priority(&self) -> u32;
    /// Returns the requests in flight.
    fn active_requests(&self) -> u32;
    /// Returns the tokens of the current minute.
    fn tpm(&self) -> Usage;
    /// Returns the requests of the current minute.
    fn rpm(&self) -> Usage;
    /// Returns the smoothed latency of whole calls in microseconds; 0 for unknown.
    fn avg_latency_us(&self) -> u64;
    /// Returns the smoothed time to the first token in microseconds; 0 for unknown.
    fn avg_first_token_us(&self) -> u64 {
        0
    }
    /// Returns what its tokens cost; None if that is not known.
    fn price(&self) -> Option<Price> {
        None
    }
}

/// An immutable snapshot of one candidate.
///
/// ```
/// use turnout::{RoutingContext, strategy::lowest_priority};
///
/// let spare = RoutingContext { priority: 1, ..RoutingContext::new("spare") };
/// assert_eq!(lowest_priority(&[spare, RoutingContext::new("first")]), Some(1));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoutingContext {
    /// The candidate's id.
    pub deployment_id: Arc<str>,
    /// Relative share.
    pub weight: u32,
    /// Rank, lower first.
    pub priority: u32,
    /// Requests in flight.
    pub active_requests: u32,
    /// Tokens this minute.
    pub tpm_current: u64,
    /// Most tokens in a minute; None or 0 for no limit.
    pub tpm_limit: Option<u64>,
    /// Requests this minute.
    pub rpm_current: u64,
    /// Most requests in a minute; None or 0 for no limit.
    pub rpm_limit: Option<u64>,
    /// Smoothed latency in microseconds; 0 for unknown.
    pub avg_latency_us: u64,
    /// What its tokens cost; None if that is not known.
    pub price: Option<Price>,
}

impl RoutingContext {
    /// Makes an idle candidate of weight 1, priority 0 and no limits.
    #[must_use]
    pub fn new(deployment_id: &str) -> Self {
        Self {
            deployment_id: deployment_id.into(),
            weight: 1,
            priority: 0,
            active_requests: 0,
            tpm_current: 0,
            tpm_limit: None,
            rpm_current: 0,
            rpm_limit: None,
            avg_latency_us: 0,
            price: None,
        }
    }
}

impl Candidate for RoutingContext {
    fn weight(&self) -> u32 {
        self.weight
    }

    fn priority(&self) -> u32 {
        self.priority
    }

    fn active_requests(&self) -> u32 {
        self.active_requests
    }

    fn tpm(&self) -> Usage {
        Usage { current: self.tpm_current, limit: self.tpm_limit }
    }

    fn rpm(&self) -> Usage {
        Usage { current: self.rpm_current, limit: self.rpm_limit }
    }

    fn avg_latency_us(&self) -> u64 {
        self.avg_latency_us
    }

    fn price(&self) -> Option<Price> {
        self.price
    }
}

impl<C: Candidate> Candidate for &C {
    fn weight(&self) -> u32 {
        (**self).weight()
    }

    fn priority(&self) -> u32 {
        (**self).priority()
    }

    fn active_requests(&self) -> u32 {
        (**self).active_requests()
    }

    fn tpm(&self) -> Usage {
        (**self).tpm()
    }

    fn rpm(&self) -> Usage {
        (**self).rpm()
    }

    fn avg_latency_us(&self) -> u64 {
        (**self).avg_latency_us()
    }

    fn avg_first_token_us(&self) -> u64 {
        (**self).avg_first_token_us()
    }

    fn price(&self) -> Option<Price> {
        (**self).price()
    }
}
