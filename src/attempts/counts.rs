//! The counts of a router's attempts.

use crate::base::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// An attempt began.
    Attempt,
    /// An attempt began after another one had failed, on the same model name.
    Retry,
    /// A call went on with another model name.
    Fallback,
    /// An attempt began beside another one.
    Hedge,
    /// The budget refused a further attempt.
    BudgetRefusal,
}

impl Counted {
    pub(crate) const ALL: [Self; 5] = [Self::Attempt, Self::Retry, Self::Fallback, Self::Hedge, Self::BudgetRefusal];

    /// Returns the name of the count in Python.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Attempt => "attempts",
            Self::Retry => "retries",
            Self::Fallback => "fallbacks",
            Self::Hedge => "hedges",
            Self::BudgetRefusal => "budget_refusals",
        }
    }
}

/// The counts since the router was made.
#[derive(Debug, Default)]
pub(crate) struct AttemptCounts([AtomicU64; Counted::ALL.len()]);

impl AttemptCounts {
    #[inline]
    pub(crate) fn add(&self, what: Counted) {
        if let Some(count) = self.0.get(what as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the counts with their names.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Counted::ALL.into_iter().zip(&self.0).map(|(what, count)| (what.name(), count.load(Ordering::Relaxed)))
    }
}
