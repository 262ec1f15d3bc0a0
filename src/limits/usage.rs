//! The usage of a limit, as strategies compare it.

/// The count of the current window of a limit, and the most that it may be.
///
/// ```
/// use turnout::{Candidate, RoutingContext, Usage};
///
/// let context = RoutingContext { tpm_current: 40, tpm_limit: Some(100), ..RoutingContext::new("azure-eu") };
/// assert_eq!(context.tpm(), Usage { current: 40, limit: Some(100) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The units that are counted so far.
    pub current: u64,
    /// The limit; None for no limit. Strategies take 0 as no limit too.
    pub limit: Option<u64>,
}

impl Usage {
    /// Returns whether a greater share of its limit is used. Without a limit the share is 0.
    pub(crate) fn is_fuller_than(&self, other: &Self) -> bool {
        let share = |usage: &Self| (u128::from(usage.current), usage.limit.filter(|&limit| limit > 0).map(u128::from));
        match (share(self), share(other)) {
            ((_, None), _) => false,
            (_, (_, None)) => true,
            ((current, Some(limit)), (other, Some(other_limit))) => current * other_limit > other * limit,
        }
    }
}
